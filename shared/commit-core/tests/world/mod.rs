//! One coordinator, some participants, and a world between them that does only what it is told.
//!
//! Messages stay in a pool until somebody delivers, drops or repeats them; time stands still; logs
//! forget what was not synced. Everything that happens is narrated, one line each.
//!
//! A link is what the driver makes of one: messages of a session arrive in order or not at all, and
//! a new session ends the one before. Calls have no order.

pub mod coordinator_host;
pub mod log;
pub mod narrate;
pub mod participant_host;
pub mod resource;
pub mod witness_host;

use std::collections::{BTreeMap, VecDeque};

use handfast_commit_core::id::{
    Epoch, Incarnation, ParticipantName, Protocol, Slot, TransactionId,
};
use handfast_commit_core::message::{FromParticipant, FromSite, Inquired, ToParticipant, ToSite};
use handfast_commit_core::step::{Now, Time};
use handfast_commit_core::three_phase::{SiteName, Witness};
use handfast_commit_core::two_phase::{coordinator, participant};

use coordinator_host::CoordinatorHost;
use participant_host::ParticipantHost;
use witness_host::WitnessHost;

/// Whom a message comes from or goes to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Coordinator,
    Participant(ParticipantName),
    Witness(ParticipantName),
}

impl Who {
    /// As the voting sites know each other.
    pub fn site(&self) -> SiteName {
        match self {
            Who::Coordinator => SiteName::Coordinator,
            Who::Participant(name) => SiteName::Participant(name.clone()),
            Who::Witness(name) => SiteName::Witness(name.clone()),
        }
    }

    pub fn of(site: SiteName) -> Self {
        match site {
            SiteName::Coordinator => Who::Coordinator,
            SiteName::Participant(name) => Who::Participant(name),
            SiteName::Witness(name) => Who::Witness(name),
        }
    }
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Who::Coordinator => f.write_str("C"),
            Who::Participant(name) | Who::Witness(name) => name.fmt(f),
        }
    }
}

/// A message on its way.
#[derive(Debug, Clone)]
pub struct Envelope {
    pub from: Who,
    pub to: Who,
    /// The session it travels in; `None`: a call of its own, or its answer.
    pub session: Option<u64>,
    /// Who speaks for the coordinator, when it does.
    pub origin: Option<participant::Origin>,
    pub body: Body,
}

#[derive(Debug, Clone)]
pub enum Body {
    Hello,
    /// The one-phase commits that have not been forgotten.
    Welcome(Vec<coordinator::OnePhaseReport>),
    Command(ToParticipant),
    /// The library has enlisted the branch: work may begin.
    Joined {
        id: TransactionId,
        until: Time,
    },
    Answer(FromParticipant),
    Inquiry {
        id: TransactionId,
        incarnation: Incarnation,
    },
    InquiryAnswered {
        id: TransactionId,
        outcome: Inquired,
    },
    PeerInquiry {
        id: TransactionId,
    },
    PeerAnswered {
        id: TransactionId,
        outcome: Inquired,
    },
    /// Of whoever leads a three-phase transaction.
    Order(ToSite),
    /// The answer to that.
    Report(FromSite),
}

/// The link between the coordinator and one participant.
#[derive(Debug, Default)]
pub struct Link {
    pub session: u64,
    pub up: bool,
    /// The coordinator believes that it is connected.
    pub known: bool,
    /// Sends fail: the queue is full.
    pub full: bool,
}

/// Who waits for the answer to a call.
#[derive(Debug, Clone)]
pub enum Caller {
    Inquirer(ParticipantName, TransactionId),
    Peer {
        asker: ParticipantName,
        asked: ParticipantName,
        id: TransactionId,
    },
    /// The coordinator, which calls a participant that has no link.
    Coordinator(ParticipantName, Epoch),
    /// A participant's library joins a transaction for it.
    Enlister(ParticipantName, TransactionId),
    /// Who leads a three-phase transaction, the epoch when that is the coordinator, and who is led.
    Leader(Who, Option<Epoch>, Who),
}

/// What a client was told about a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub label: String,
    pub outcome: coordinator::Outcome,
}

#[derive(Debug)]
pub enum Pending {
    Coordinator(coordinator::Input<String>),
    Participant(ParticipantName, participant::Input<String>),
    Witness(ParticipantName, coordinator::Input<String>),
}

pub struct World {
    pub now_us: u64,
    pub coordinator: CoordinatorHost,
    pub participants: BTreeMap<ParticipantName, ParticipantHost>,
    pub witnesses: BTreeMap<ParticipantName, WitnessHost>,
    /// Who is apart from whom: messages between two groups are lost. One that is in no group hears all.
    pub groups: BTreeMap<Who, usize>,
    pub links: BTreeMap<ParticipantName, Link>,
    pub pool: VecDeque<Envelope>,
    callers: BTreeMap<String, Caller>,
    calls: u64,
    inbox: VecDeque<Pending>,
    pub names: BTreeMap<TransactionId, String>,
    pub lines: Vec<String>,
    pub told: Vec<Told>,
    pub alarms: Vec<String>,
    /// What the actions of the moment have waited for.
    pub waited_for: usize,
}

impl World {
    pub const SLOT: Slot = Slot(7);
    pub const LOG: Incarnation = Incarnation(100);

    pub fn new(coordinator: coordinator::Config) -> Self {
        Self {
            now_us: 0,
            coordinator: CoordinatorHost::new(Self::SLOT, Self::LOG, coordinator),
            participants: BTreeMap::new(),
            witnesses: BTreeMap::new(),
            groups: BTreeMap::new(),
            links: BTreeMap::new(),
            pool: VecDeque::new(),
            callers: BTreeMap::new(),
            calls: 0,
            inbox: VecDeque::new(),
            names: BTreeMap::new(),
            lines: Vec::new(),
            told: Vec::new(),
            alarms: Vec::new(),
            waited_for: 0,
        }
    }

    pub fn add_participant(&mut self, name: ParticipantName, host: ParticipantHost) {
        self.links.insert(name.clone(), Link::default());
        self.participants.insert(name, host);
    }

    /// Whoever begins a transaction from now on names this witness.
    pub fn add_witness(&mut self, name: ParticipantName) {
        self.witnesses.insert(name, WitnessHost::new());
        self.name_witnesses();
    }

    pub fn name_witnesses(&mut self) {
        let witness =
            |name: &ParticipantName| Witness { name: name.clone(), endpoint: name.to_string() };
        let witnesses = self.witnesses.keys().map(witness).collect();
        if let Some(core) = self.coordinator.core.as_mut() {
            core.set_witnesses(witnesses);
        }
    }

    /// The network falls into these parts; links across them are cut, and noticed.
    pub fn split(&mut self, groups: BTreeMap<Who, usize>) {
        self.groups = groups;
        let names: Vec<_> = self.links.keys().cloned().collect();
        for name in names {
            if !self.reaches(&Who::Coordinator, &Who::Participant(name.clone())) {
                self.cut(&name);
                self.notice(&name);
            }
        }
        let groups = &self.groups;
        let apart = |one: &Who, other: &Who| match (groups.get(one), groups.get(other)) {
            (Some(one), Some(other)) => one != other,
            _ => false,
        };
        self.pool.retain(|envelope| !apart(&envelope.from, &envelope.to));
    }

    /// Whether a message from one to the other arrives.
    pub fn reaches(&self, one: &Who, other: &Who) -> bool {
        match (self.groups.get(one), self.groups.get(other)) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        }
    }

    /// Whether the process is there.
    pub fn is_up(&self, who: &Who) -> bool {
        match who {
            Who::Coordinator => self.coordinator.core.is_some(),
            Who::Participant(name) => {
                self.participants.get(name).is_some_and(|host| host.core.is_some())
            }
            Who::Witness(name) => self.witnesses.get(name).is_some_and(|host| host.core.is_some()),
        }
    }

    pub fn now(&self) -> Now {
        Now { at: Time(self.now_us), wall_ms: self.now_us / 1000 }
    }

    pub fn say(&mut self, line: String) {
        self.lines.push(line.trim_end().to_owned());
    }

    /// Which record the action of the moment has waited for.
    pub fn after(&self) -> String {
        match self.waited_for {
            0 => String::new(),
            number => format!(" [after #{number}]"),
        }
    }

    /// A new transaction's id, and its name in what is narrated.
    pub fn draw(&mut self, name: &str, protocol: Protocol) -> TransactionId {
        let id = self.coordinator.draw(protocol);
        self.names.insert(id, name.to_owned());
        id
    }

    // ---- links ----------------------------------------------------------------------------------

    /// A new session begins with a greeting; the one before is over, whoever has noticed.
    pub fn open(&mut self, name: &ParticipantName) {
        let reachable = self.reaches(&Who::Coordinator, &Who::Participant(name.clone()));
        if self.coordinator.core.is_none() || self.participants[name].core.is_none() || !reachable {
            return;
        }
        self.cut(name);
        let unary = self.participants[name].unary;
        let link = self.links.get_mut(name).expect("every participant has a link");
        if unary {
            link.known = true;
            let (participant, one_phase_commits) = (name.clone(), Vec::new());
            let incarnation = Incarnation(0); // a call tells it with the vote only
            let input =
                coordinator::Input::Connected { participant, incarnation, one_phase_commits };
            return self.input(input);
        }
        link.session += 1;
        link.up = true;
        self.send_link(Who::Coordinator, Who::Participant(name.clone()), Body::Hello);
    }

    /// What travels in the session is lost. The coordinator notices when it is told.
    pub fn cut(&mut self, name: &ParticipantName) {
        let link = self.links.get_mut(name).expect("every participant has a link");
        if !link.up {
            return;
        }
        link.up = false;
        let session = Some(link.session);
        let peer = Who::Participant(name.clone());
        let (lost, kept) = std::mem::take(&mut self.pool).into_iter().partition(|envelope| {
            envelope.session == session && (envelope.from == peer || envelope.to == peer)
        });
        self.pool = kept;
        let lost: VecDeque<Envelope> = lost;
        for envelope in lost {
            let line = format!("lost: {}", self.envelope(&envelope));
            self.say(line);
        }
    }

    /// The coordinator notices that a session is over.
    pub fn notice(&mut self, name: &ParticipantName) {
        let link = self.links.get_mut(name).expect("every participant has a link");
        if link.up || !link.known {
            return;
        }
        link.known = false;
        self.input(coordinator::Input::Disconnected { participant: name.clone() });
    }

    fn send_link(&mut self, from: Who, to: Who, body: Body) {
        let name = match (&from, &to) {
            (Who::Participant(name), _) | (_, Who::Participant(name)) => name.clone(),
            _ => unreachable!("a link has a participant at one end"),
        };
        let link = &self.links[&name];
        let session = Some(link.session);
        let up = link.up;
        self.post(Envelope { from, to, session, origin: None, body }, up);
    }

    /// Puts a message into the pool; `false`: it is lost at once.
    pub fn post(&mut self, mut envelope: Envelope, possible: bool) {
        if envelope.from == Who::Coordinator {
            envelope.origin = self.coordinator.origin();
        }
        if possible && self.reaches(&envelope.from, &envelope.to) {
            let line = format!("{}{}", self.envelope(&envelope), self.after());
            self.say(line);
            self.pool.push_back(envelope);
        } else {
            let line = format!("not sent: {}{}", self.envelope(&envelope), self.after());
            self.say(line);
        }
    }

    pub fn deliver(&mut self, index: usize) {
        let Some(envelope) = self.pool.remove(index) else {
            return;
        };
        let line = format!("> {}", self.envelope(&envelope));
        self.say(line);
        match envelope.to.clone() {
            Who::Coordinator => self.deliver_to_coordinator(envelope),
            Who::Participant(name) => self.deliver_to_participant(&name, envelope),
            Who::Witness(name) => self.deliver_to_witness(&name, envelope),
        }
        self.settle();
    }

    fn deliver_to_witness(&mut self, name: &ParticipantName, envelope: Envelope) {
        let Body::Order(message) = envelope.body else { unreachable!("a witness is only led") };
        if self.witnesses[name].core.is_none() {
            return self.say(format!("{name} is not there"));
        }
        let (from, me) = (envelope.from.site(), Who::Witness(name.clone()));
        let epoch = (envelope.from == Who::Coordinator).then(|| self.coordinator.epoch());
        let via = participant::Via::Call(self.call(Caller::Leader(envelope.from, epoch, me)));
        let input = coordinator::Input::Led { from, message, stored: None, via };
        self.inbox.push_back(Pending::Witness(name.clone(), input));
    }

    fn deliver_to_coordinator(&mut self, envelope: Envelope) {
        if let Body::Report(message) = envelope.body {
            let from = envelope.from.site();
            let input = coordinator::Input::Reported { from, message };
            return self.inbox.push_back(Pending::Coordinator(input));
        }
        let Who::Participant(from) = envelope.from else {
            unreachable!("the coordinator does not talk to itself")
        };
        let input = match envelope.body {
            Body::Welcome(reports) => {
                self.notice_lost_session(&from);
                if let Some(link) = self.links.get_mut(&from) {
                    link.known = true;
                }
                let one_phase_commits = reports
                    .into_iter()
                    .map(|report| {
                        let stored = self.coordinator.stored(report.id);
                        (report, stored)
                    })
                    .collect();
                let incarnation = self.participants[&from].incarnation;
                coordinator::Input::Connected { participant: from, incarnation, one_phase_commits }
            }
            Body::Answer(message) => {
                let stored = self.coordinator.stored(message.id());
                coordinator::Input::Received { from, message, stored }
            }
            Body::Inquiry { id, incarnation } => {
                let stored = self.coordinator.stored(id);
                let participant = from.clone();
                let inquiry = coordinator::Inquiry { id, incarnation, participant };
                match envelope.session {
                    Some(_) => coordinator::Input::InquireOverLink { inquiry, stored },
                    None => {
                        let waiter = self.call(Caller::Inquirer(from, id));
                        coordinator::Input::Inquire { inquiry, stored, waiter }
                    }
                }
            }
            Body::Order(message) => {
                let stored = self.coordinator.stored(message.id);
                let via = match envelope.session {
                    Some(_) => participant::Via::Link,
                    None => {
                        let (asker, asked) = (Who::Participant(from.clone()), Who::Coordinator);
                        participant::Via::Call(self.call(Caller::Leader(asker, None, asked)))
                    }
                };
                let from = SiteName::Participant(from);
                coordinator::Input::Led { from, message, stored, via }
            }
            body => unreachable!("no participant says {body:?} to its coordinator"),
        };
        self.inbox.push_back(Pending::Coordinator(input));
    }

    /// A session that begins ends the one before for the coordinator as well.
    fn notice_lost_session(&mut self, name: &ParticipantName) {
        let link = self.links.get_mut(name).expect("every participant has a link");
        if std::mem::take(&mut link.known) {
            let participant = name.clone();
            let input = coordinator::Input::Disconnected { participant };
            self.inbox.push_back(Pending::Coordinator(input));
        }
    }

    fn deliver_to_participant(&mut self, name: &ParticipantName, envelope: Envelope) {
        if self.participants[name].core.is_none() {
            let line = format!("{name} is not there");
            return self.say(line);
        }
        let origin = envelope.origin.clone();
        let via_call = envelope.session.is_none();
        let input = match (envelope.body, origin) {
            (Body::Hello, Some(origin)) => {
                self.inbox.push_back(Pending::Participant(
                    name.clone(),
                    participant::Input::Heard { origin, opened: true },
                ));
                let reports = self.participants[name].one_phase_commits();
                return self.send_link(
                    Who::Participant(name.clone()),
                    Who::Coordinator,
                    Body::Welcome(reports),
                );
            }
            (Body::Command(command), Some(origin)) => {
                let via = if via_call {
                    participant::Via::Call(
                        self.call(Caller::Coordinator(name.clone(), origin.epoch)),
                    )
                } else {
                    participant::Via::Link
                };
                participant_host::command(command, origin, via)
            }
            (Body::Joined { id, until }, Some(origin)) => {
                participant::Input::Joined { id, origin, until }
            }
            (Body::InquiryAnswered { id, outcome }, _) => {
                participant::Input::Answer { id, outcome }
            }
            (Body::Order(message), _) => {
                let via = match envelope.session {
                    Some(_) => participant::Via::Link,
                    None => {
                        let asked = Who::Participant(name.clone());
                        let caller = Caller::Leader(envelope.from.clone(), None, asked);
                        participant::Via::Call(self.call(caller))
                    }
                };
                participant::Input::Led { from: envelope.from.site(), message, via }
            }
            (Body::Report(message), _) => {
                participant::Input::Reported { from: envelope.from.site(), message }
            }
            (Body::PeerInquiry { id }, _) => {
                let Who::Participant(asker) = envelope.from else {
                    unreachable!("peers are participants")
                };
                let waiter = self.call(Caller::Peer { asker, asked: name.clone(), id });
                participant::Input::PeerAsks { id, waiter }
            }
            (Body::PeerAnswered { id, outcome }, _) => {
                let Who::Participant(peer) = envelope.from else {
                    unreachable!("peers are participants")
                };
                participant::Input::PeerAnswer { id, peer, outcome }
            }
            (body, _) => unreachable!("nobody says {body:?} to a participant"),
        };
        self.inbox.push_back(Pending::Participant(name.clone(), input));
    }

    fn call(&mut self, caller: Caller) -> String {
        self.calls += 1;
        let label = format!("call {}", self.calls);
        self.callers.insert(label.clone(), caller);
        label
    }

    // ---- inputs ---------------------------------------------------------------------------------

    /// Hands the coordinator an input, and everybody what follows at once from it.
    pub fn input(&mut self, input: coordinator::Input<String>) {
        self.inbox.push_back(Pending::Coordinator(input));
        self.settle();
    }

    /// Hands a participant an input, and everybody what follows at once from it.
    pub fn participant_input(&mut self, name: &ParticipantName, input: participant::Input<String>) {
        self.inbox.push_back(Pending::Participant(name.clone(), input));
        self.settle();
    }

    pub fn push(&mut self, pending: Pending) {
        self.inbox.push_back(pending);
    }

    pub fn settle(&mut self) {
        while let Some(pending) = self.inbox.pop_front() {
            match pending {
                Pending::Coordinator(input) => self.step_coordinator(input),
                Pending::Participant(name, input) => self.step_participant(&name, input),
                Pending::Witness(name, input) => self.step_witness(&name, input),
            }
        }
    }

    /// Joins a transaction for a participant, as its library does before any work.
    pub fn enlist(&mut self, id: TransactionId, participant: ParticipantName, enlistment: u64) {
        let Some(host) = self.participants.get(&participant) else {
            return;
        };
        let incarnation = host.incarnation;
        let waiter = self.call(Caller::Enlister(participant.clone(), id));
        self.input(coordinator::Input::Enlist { id, participant, incarnation, enlistment, waiter });
    }

    /// Answers whoever has made a call; false when the label is a client's.
    pub fn answer_call(&mut self, label: &str, answer: CallAnswer) -> bool {
        let Some(caller) = self.callers.remove(label) else {
            return false;
        };
        let (from, to, body) = match (caller, answer) {
            (Caller::Inquirer(name, id), CallAnswer::Inquired(outcome)) => {
                let body = Body::InquiryAnswered { id, outcome };
                (Who::Coordinator, Who::Participant(name), body)
            }
            (Caller::Peer { asker, asked, id }, CallAnswer::Inquired(outcome)) => {
                let body = Body::PeerAnswered { id, outcome };
                (Who::Participant(asked), Who::Participant(asker), body)
            }
            (Caller::Coordinator(name, epoch), CallAnswer::Participant(message)) => {
                if self.coordinator.core.is_none() || epoch != self.coordinator.epoch() {
                    self.say(format!("{name} answers a process that has gone"));
                    return true;
                }
                (Who::Participant(name), Who::Coordinator, Body::Answer(message))
            }
            (Caller::Leader(asker, epoch, asked), CallAnswer::Report(message)) => {
                let gone = epoch.is_some_and(|epoch| epoch != self.coordinator.epoch());
                if gone || asker == Who::Coordinator && self.coordinator.core.is_none() {
                    self.say(format!("{asked} answers a process that has gone"));
                    return true;
                }
                (asked, asker, Body::Report(message))
            }
            (Caller::Enlister(name, id), CallAnswer::Enlisted(time_left_us)) => {
                let until = self.now().at.plus(time_left_us);
                (Who::Coordinator, Who::Participant(name), Body::Joined { id, until })
            }
            (Caller::Enlister(name, _), CallAnswer::Refused(reason)) => {
                let line = format!("C: {name} may not join: {reason}");
                self.say(line);
                return true;
            }
            (caller, answer) => unreachable!("{caller:?} was answered {answer:?}"),
        };
        self.post(Envelope { from, to, session: None, origin: None, body }, true);
        true
    }
}

/// The answer to a call that is not a client's.
#[derive(Debug)]
pub enum CallAnswer {
    Inquired(Inquired),
    Participant(FromParticipant),
    Enlisted(u64),
    Refused(String),
    Report(FromSite),
}
