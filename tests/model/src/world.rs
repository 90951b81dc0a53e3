//! What happens in one step of the model: an action, and all that follows from it at once.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use handfast_commit_core::id::{
    Epoch, Incarnation, ParticipantName, Sequence, Slot, TransactionId,
};
use handfast_commit_core::message::{FromParticipant, FromSite, Inquired, Report, Vote};
use handfast_commit_core::step::{Now, Time, TimerKey};
use handfast_commit_core::three_phase::Witness;
use handfast_commit_core::two_phase::{Coordinator, coordinator, participant};

use crate::action::{Action, Moment};
use crate::bounds::{Bounds, Network};
use crate::graph::Graph;
use crate::lies::Lie;
use crate::marks::{Mark, Reached};
use crate::network::{Body, Envelope, Who, hash_of};
use crate::saturate::Tried;
use crate::state::{Caller, Fact, State};

/// The slot of the only coordinator.
pub const SLOT: Slot = Slot(1);
/// Of the coordinator's log.
pub const COORDINATOR_LOG: Incarnation = Incarnation(100);

/// What does not change.
#[derive(Debug)]
pub struct World {
    /// What may happen.
    pub bounds: Bounds,
    /// A deliberate fault.
    pub lie: Option<Lie>,
    /// What has happened in some run.
    pub reached: Reached,
    /// The participants' names.
    pub names: Vec<ParticipantName>,
    /// The witnesses.
    pub witnesses: Vec<Witness>,
    pub(crate) tried: Tried,
    pub(crate) graph: Graph,
}

impl World {
    /// With these bounds.
    ///
    /// # Panics
    /// When there are more than 9 participants.
    pub fn new(bounds: Bounds) -> Self {
        assert!(bounds.parties.len() < 10, "names have one digit");
        let names = (1..=bounds.parties.len())
            .filter_map(|number| format!("p{number}").parse().ok())
            .collect();
        let witness = |number| {
            let name = format!("w{number}").parse().ok()?;
            Some(Witness { name, endpoint: String::new() })
        };
        let witnesses = (1..=bounds.witnesses).filter_map(witness).collect();
        Self {
            bounds,
            witnesses,
            lie: None,
            reached: Reached::default(),
            names,
            tried: Tried::default(),
            graph: Graph::default(),
        }
    }

    /// The same, with a fault.
    #[must_use]
    pub fn lying(self, lie: Lie) -> Self {
        Self { lie: Some(lie), ..self }
    }

    /// Of a participant's log.
    pub fn incarnation(number: usize) -> Incarnation {
        Incarnation(10 + number as u64)
    }

    /// A participant's number.
    pub fn number(&self, name: &ParticipantName) -> usize {
        self.names.iter().position(|known| known == name).unwrap_or(usize::MAX)
    }

    pub(crate) fn coordinator_config() -> coordinator::Config {
        coordinator::Config {
            resend_after_us: 1,
            resend_after_us_max: 1,
            ..coordinator::Config::default()
        }
    }

    pub(crate) fn participant_config(&self, number: usize) -> participant::Config {
        participant::Config {
            one_phase: self.bounds.parties[number].one_phase,
            inquire_after_us: 1,
            inquire_after_us_max: 1,
            retry_after_us: 1,
            jitter_seed: 0,
        }
    }

    /// Messages can be delivered for ever.
    pub fn ever(&self) -> bool {
        self.bounds.network == Network::Ever
    }

    /// What becomes of a state by an action; `None` when nothing changes. `lines` gets the story.
    pub fn apply(
        &self,
        state: &State,
        action: &Action,
        lines: Option<&mut Vec<String>>,
    ) -> Option<State> {
        let mut run = Run::new(self, state.clone(), lines.is_some());
        // The core's own assertions are properties as well.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.act(action)));
        if let Err(payload) = result {
            let text = payload
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default();
            run.broken(format!("an assertion failed: {text}"));
        }
        if run.forbidden {
            return None;
        }
        run.finish();
        if self.ever() && run.state.broken.is_none() {
            run.saturate(state);
        }
        run.state.rehash();
        if let Some(lines) = lines {
            lines.append(&mut run.lines);
        }
        (run.state.hash != state.hash).then_some(run.state)
    }
}

/// What follows at once.
#[derive(Debug)]
pub(crate) enum Next {
    Coordinator(coordinator::Input<Caller>),
    Participant(usize, participant::Input<Caller>),
}

/// One step of the model.
pub(crate) struct Run<'a> {
    pub(crate) world: &'a World,
    pub(crate) state: State,
    pub(crate) next: VecDeque<Next>,
    /// The calls and answers of this step.
    pub(crate) posted: Vec<(u64, Arc<Envelope>)>,
    /// What was said of transactions in this step.
    pub(crate) claimed: Vec<(TransactionId, Fact)>,
    /// The client was told something in this step.
    pub(crate) told: bool,
    tells: bool,
    pub(crate) lines: Vec<String>,
    /// An election that the budget does not allow: this step is none of the model's.
    pub(crate) forbidden: bool,
}

impl<'a> Run<'a> {
    pub(crate) fn new(world: &'a World, state: State, tells: bool) -> Self {
        Self {
            world,
            state,
            next: VecDeque::new(),
            posted: Vec::new(),
            claimed: Vec::new(),
            told: false,
            tells,
            lines: Vec::new(),
            forbidden: false,
        }
    }

    pub(crate) fn say(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.tells {
            let line = line(self);
            self.lines.push(line);
        }
    }

    pub(crate) fn mark(&self, mark: Mark) {
        self.world.reached.set(mark);
    }

    pub(crate) fn lies(&self, lie: Lie) -> bool {
        self.world.lie == Some(lie)
    }

    pub(crate) fn broken(&mut self, text: String) {
        self.say(|_| format!("!! {text}"));
        self.state.broken.get_or_insert_with(|| text.into());
    }

    pub(crate) fn now(at: Time) -> Now {
        Now { at, wall_ms: 0 }
    }

    /// One form for what differs in nothing that matters, and its hash.
    pub(crate) fn finish(&mut self) {
        let once = self.world.ever();
        if self.state.coordinator.is_changed() {
            let host = self.state.coordinator.change();
            let durable = host.log.rebase();
            if let Some(core) = host.core.as_mut() {
                core.canonical(durable, once);
            }
            self.state.coordinator.rehash();
        }
        for host in &mut self.state.witnesses {
            if host.is_changed() {
                let changed = host.change();
                let durable = changed.log.rebase();
                changed.core.canonical(durable, once);
                host.rehash();
            }
        }
        for host in &mut self.state.participants {
            if host.is_changed() {
                let changed = host.change();
                let durable = changed.log.rebase();
                if let Some(core) = changed.core.as_mut() {
                    core.canonical(durable, once);
                }
                host.rehash();
            }
        }
    }

    pub(crate) fn settle(&mut self) {
        while let Some(next) = self.next.pop_front() {
            match next {
                Next::Coordinator(input) => self.step_coordinator(Time(0), input),
                Next::Participant(number, input) => self.step_participant(number, Time(0), input),
            }
        }
    }

    pub(crate) fn post(&mut self, from: Who, to: Who, body: Body) {
        let body = without_reasons(body);
        let envelope = Envelope { from, to, body };
        let ever = self.world.ever();
        let no_news = |outcome: &Inquired| !matches!(outcome, Inquired::Commit | Inquired::Abort);
        if let Body::InquiryAnswered(_, outcome) | Body::PeerAnswered(_, outcome) = &envelope.body
            && ever
            && no_news(outcome)
        {
            return; // it changes nothing but how soon the question is asked again
        }
        if ever {
            self.posted.push((hash_of(&envelope), Arc::new(envelope.clone())));
        }
        if ever && self.is_answered(&envelope) {
            return;
        }
        if !(ever && self.state.bag.get(hash_of(&envelope)).is_some()) {
            self.say(|run| format!("   sends {}", run.world.envelope(&run.state, &envelope)));
        }
        self.state.bag.add(envelope, ever);
    }

    /// The same answer to the same question is on its way already, from somebody else: who says it makes
    /// no difference. Kept is the one of the first of them, the coordinator before the peers.
    fn is_answered(&mut self, envelope: &Envelope) -> bool {
        if let Body::Report(FromSite { report: Report::Known { .. }, .. }) = envelope.body {
            let same = |other: &Envelope| other.to == envelope.to && other.body == envelope.body;
            let before = |other: &Envelope| other.from <= envelope.from;
            let known = self.state.bag.any(|other| same(other) && before(other));
            if !known {
                self.state.bag.retain(|other| !same(other));
            }
            return known;
        }
        let (Body::InquiryAnswered(id, outcome) | Body::PeerAnswered(id, outcome)) = envelope.body
        else {
            return false;
        };
        let same = |other: &Envelope| {
            let answer = match other.body {
                Body::InquiryAnswered(id, outcome) | Body::PeerAnswered(id, outcome) => {
                    Some((id, outcome))
                }
                _ => None,
            };
            other.to == envelope.to && answer == Some((id, outcome))
        };
        let before = |other: &Envelope| other.from <= envelope.from;
        if self.state.bag.any(|other| same(other) && before(other)) {
            return true;
        }
        self.state.bag.retain(|other| !same(other));
        false
    }

    /// Into the link between the coordinator and a participant.
    pub(crate) fn post_link(&mut self, number: usize, to_coordinator: bool, body: Body) {
        let (from, to) = match to_coordinator {
            true => (Who::P(number), Who::C),
            false => (Who::C, Who::P(number)),
        };
        if self.world.bounds.network != Network::Links {
            return self.post(from, to, body);
        }
        let envelope = Envelope { from, to, body: without_reasons(body) };
        let link = &self.state.links[number];
        if !link.up {
            return self.say(|run| {
                format!("   cannot send {}", run.world.envelope(&run.state, &envelope))
            });
        }
        self.say(|run| format!("   sends {}", run.world.envelope(&run.state, &envelope)));
        let link = &mut self.state.links[number];
        let queue = if to_coordinator { &mut link.up_queue } else { &mut link.down_queue };
        queue.push(Arc::new(envelope));
    }

    pub(crate) fn act(&mut self, action: &Action) {
        self.say(|run| run.world.action(&run.state, action));
        match action {
            Action::Deliver(key) => {
                let envelope = if self.world.ever() {
                    self.state.bag.get(*key).cloned()
                } else {
                    self.state.bag.take(*key)
                };
                if let Some(envelope) = envelope {
                    self.deliver(&envelope, false);
                }
            }
            Action::Lose(key) => {
                self.state.budget.losses -= 1;
                self.state.bag.take(*key);
            }
            Action::Repeat(key) => {
                self.state.budget.repeats -= 1;
                self.state.bag.repeat(*key);
            }
            Action::DeliverDown(number) => {
                let envelope = self.state.links[*number].down_queue.remove(0);
                self.deliver(&envelope, true);
            }
            Action::DeliverUp(number) => {
                let envelope = self.state.links[*number].up_queue.remove(0);
                self.deliver(&envelope, true);
            }
            Action::Open(number) => self.open(*number),
            Action::Cut(number) => {
                self.state.budget.cuts -= 1;
                self.state.links[*number].cut();
            }
            Action::Notice(number) => self.notice(*number),
            Action::Connect(number) => {
                self.state.links[*number].known = true;
                let participant = self.world.names[*number].clone();
                let incarnation = World::incarnation(*number);
                let one_phase_commits = Vec::new();
                let input =
                    coordinator::Input::Connected { participant, incarnation, one_phase_commits };
                self.step_coordinator(Time(0), input);
            }
            Action::SyncCoordinator => {
                self.sync_coordinator();
                let prompt = self.world.bounds.disk.is_prompt(Who::C);
                while prompt && !self.state.coordinator.get().log.pending.is_empty() {
                    self.sync_coordinator();
                }
            }
            Action::Sync(number) => {
                self.sync_participant(*number);
                let log = |run: &Self| run.state.participants[*number].get().log.pending.is_empty();
                let prompt = self.world.bounds.disk.is_prompt(Who::P(*number));
                while prompt && !log(self) {
                    self.sync_participant(*number);
                }
            }
            Action::Resource(number, verdict) => self.resource_works(*number, *verdict),
            Action::CoordinatorTimer(key, moment) => {
                self.state.coordinator.change().timers.remove(key);
                let at = match moment {
                    Moment::Repeat => Coordinator::<Caller>::REPEAT_AT,
                    Moment::Late => Coordinator::<Caller>::LATE_AT,
                };
                let repeats = matches!(key, TimerKey::Participant(_));
                let links = self.state.links.clone();
                self.step_coordinator(at, coordinator::Input::Timer(key.clone()));
                if repeats && (links != self.state.links || !self.state.bag.is_empty()) {
                    self.mark(Mark::Redelivered);
                }
            }
            Action::Timer(number, id) => self.participant_timer(*number, *id),
            Action::CrashCoordinator => self.crash_coordinator(),
            Action::RestartCoordinator => self.restart_coordinator(),
            Action::Crash(number) => self.crash_participant(*number),
            Action::Restart(number) => self.restart_participant(*number),
            Action::Retry => {
                self.state.budget.retries -= 1;
                self.execute();
            }
            Action::Abort => {
                self.state.budget.aborts -= 1;
                let id = self.state.client.attempts[0];
                let message = "changed its mind".to_owned();
                let waiter = Caller::Stopper;
                self.step_coordinator(Time(0), coordinator::Input::Abort { id, message, waiter });
            }
            Action::Expire => {
                self.state.budget.expiries -= 1;
                self.state.budget.retries = 0;
                self.expire();
            }
            Action::Renew(number) => {
                self.state.links[*number].cut();
                self.open(*number);
            }
            Action::Early(action) => {
                self.state.budget.early -= 1;
                self.act(action);
            }
        }
        self.settle();
    }

    /// A session with a participant begins.
    fn open(&mut self, number: usize) {
        self.state.links[number].cut();
        self.state.links[number].up = true;
        if let Some(origin) = self.origin() {
            self.post_link(number, false, Body::Hello(origin));
        }
    }

    /// The coordinator notices that a session is over.
    pub(crate) fn notice(&mut self, number: usize) {
        if std::mem::take(&mut self.state.links[number].known) {
            let participant = self.world.names[number].clone();
            self.step_coordinator(Time(0), coordinator::Input::Disconnected { participant });
        }
    }

    pub(crate) fn try_to_deliver(&mut self, envelope: &Envelope) {
        self.deliver(envelope, false);
        self.settle();
    }

    fn deliver(&mut self, envelope: &Envelope, over_link: bool) {
        match (envelope.from, envelope.to) {
            (Who::P(from), Who::C) => self.deliver_to_coordinator(from, &envelope.body, over_link),
            (from, Who::P(to)) => self.deliver_to_participant(from, to, &envelope.body, over_link),
            (from, Who::W(to)) => self.deliver_to_witness(from, to, &envelope.body),
            (Who::W(from), Who::C) => self.witness_reports(from, &envelope.body),
            (Who::C, Who::C) => {}
        }
    }

    /// The state that everything begins with: everybody is there, and the client has sent its request.
    pub(crate) fn begin(&mut self) {
        let links = self.world.bounds.network == Network::Links;
        for number in 0..self.world.names.len() {
            if links {
                self.open(number);
                self.act(&Action::DeliverDown(number));
                self.act(&Action::DeliverUp(number));
            } else {
                self.act(&Action::Connect(number));
                // It has taken part in others before.
                if let Some(origin) = self.origin() {
                    let input = participant::Input::Heard { origin, opened: false };
                    self.step_participant(number, Time(0), input);
                }
            }
            while !self.state.participants[number].get().log.pending.is_empty() {
                self.sync_participant(number);
            }
        }
        if self.world.bounds.interactive {
            self.begin_sessions();
        } else {
            self.execute();
        }
        self.settle();
        if self.world.bounds.voted {
            self.collect_votes();
        }
        if self.world.bounds.gone {
            self.state.budget.crashes += 1;
            self.crash_coordinator();
        }
    }

    /// The client begins, has all participants do some work, and commits.
    fn begin_sessions(&mut self) {
        let id = self.draw();
        let (terms, waiter) = (Self::terms(), Caller::Stopper);
        self.step_coordinator(Time(0), coordinator::Input::Begin { id, terms, waiter });
        for number in 0..self.world.names.len() {
            let participant = self.world.names[number].clone();
            let incarnation = World::incarnation(number);
            let (enlistment, waiter) = (1, Caller::Stopper);
            let input =
                coordinator::Input::Enlist { id, participant, incarnation, enlistment, waiter };
            self.step_coordinator(Time(0), input);
            if let Some(origin) = self.origin() {
                let until = Coordinator::<Caller>::LATE_AT;
                let input = participant::Input::Joined { id, origin, until };
                self.step_participant(number, Time(0), input);
            }
        }
        let waiter = Self::waiter(0);
        self.step_coordinator(Time(0), coordinator::Input::Commit { id, request: None, waiter });
    }

    fn draw(&mut self) -> TransactionId {
        let host = self.state.coordinator.change();
        host.sequence += 1;
        let (epoch, sequence) = (host.epoch, Sequence(host.sequence));
        let id = TransactionId::new(SLOT, self.world.bounds.protocol, epoch, sequence);
        self.state.client.attempts.push(id);
        id
    }

    fn terms() -> coordinator::Terms {
        let timeout_us = Coordinator::<Caller>::LATE_AT.0;
        coordinator::Terms { timeout_us, ..coordinator::Terms::default() }
    }

    fn waiter(attempt: usize) -> coordinator::Waiter<Caller> {
        coordinator::Waiter {
            to: Caller::Client(attempt),
            reply_time: coordinator::ReplyTime::Decided,
            until: Coordinator::<Caller>::LATE_AT,
        }
    }

    /// The client sends its request, for the first time or again.
    fn execute(&mut self) {
        let request: Option<handfast_commit_core::record::Request> =
            "R".parse().ok().map(|id| handfast_commit_core::record::Request { id, fingerprint: 7 });
        let request = request.filter(|_| !self.lies(Lie::RetryWithoutName));
        let stored = request.as_ref().and_then(|request| self.stored_request(&request.id));
        let attempt = self.state.client.attempts.len();
        let id = self.draw();
        let work = Bytes::from_static(b"w");
        let branches = self.world.names.iter().map(|name| (name.clone(), work.clone())).collect();
        let (waiter, terms) = (Self::waiter(attempt), Self::terms());
        let execute = coordinator::Execute { id, branches, terms, request, stored, waiter };
        self.step_coordinator(Time(0), coordinator::Input::Execute(execute));
    }

    /// Who speaks for the coordinator.
    pub(crate) fn origin(&self) -> Option<participant::Origin> {
        let host = self.state.coordinator.get();
        let core = host.core.as_ref()?;
        Some(participant::Origin {
            slot: SLOT,
            epoch: host.epoch,
            incarnation: COORDINATOR_LOG,
            lowest_live: core.lowest_live().unwrap_or(Sequence(host.sequence + 1)),
            endpoint: "C".into(),
        })
    }
}

/// Reasons are for people.
fn without_reasons(mut body: Body) -> Body {
    if let Body::Answer(
        FromParticipant::Refused { reason, .. }
        | FromParticipant::Voted { vote: Vote::No { reason }, .. },
    ) = &mut body
    {
        reason.clear();
    }
    body
}

/// The first epoch.
pub const FIRST: Epoch = Epoch(1);
