//! Runs a production coordinator as a driver would: log first, then what waits for it.

use std::collections::BTreeMap;

use handfast_commit_core::id::{
    Epoch, Incarnation, ParticipantName, Protocol, RequestId, Sequence, Slot, TransactionId,
};
use handfast_commit_core::message::ToParticipant;
use handfast_commit_core::record::CoordinatorRecord;
use handfast_commit_core::step::{Step, Time, TimerKey};
use handfast_commit_core::two_phase::Coordinator;
use handfast_commit_core::two_phase::coordinator::{
    Action, Config, Event, Identity, Input, Reply, Stored,
};
use handfast_commit_core::two_phase::participant::{Origin, Via};

use super::log::{Held, Log};
use super::{Body, CallAnswer, Envelope, Pending, Told, Who, World};

pub struct CoordinatorHost {
    pub core: Option<Coordinator<String>>,
    pub log: Log<CoordinatorRecord>,
    pub timers: BTreeMap<TimerKey, Time>,
    /// The outcome window has passed for what had ended up to this record.
    pub expired: usize,
    held: Vec<Held<Action<String>>>,
    config: Config,
    identity: Identity,
    sequence: u64,
}

impl CoordinatorHost {
    pub fn new(slot: Slot, incarnation: Incarnation, config: Config) -> Self {
        let identity = Identity { slot, epoch: Epoch(1), incarnation };
        Self {
            core: Some(Coordinator::new(identity, config)),
            log: Log::new(),
            timers: BTreeMap::new(),
            expired: 0,
            held: Vec::new(),
            config,
            identity,
            sequence: 0,
        }
    }

    pub fn epoch(&self) -> Epoch {
        self.identity.epoch
    }

    pub fn draw(&mut self, protocol: Protocol) -> TransactionId {
        self.sequence += 1;
        let Identity { slot, epoch, .. } = self.identity;
        TransactionId::new(slot, protocol, epoch, Sequence(self.sequence))
    }

    /// What every message carries.
    pub fn origin(&self) -> Option<Origin> {
        let core = self.core.as_ref()?;
        Some(Origin {
            slot: self.identity.slot,
            epoch: self.identity.epoch,
            incarnation: self.identity.incarnation,
            lowest_live: core.lowest_live().unwrap_or(Sequence(self.sequence + 1)),
            endpoint: "C".into(),
        })
    }

    /// What the log says of a transaction that is not running. What is not synced cannot be read.
    pub fn stored(&self, id: TransactionId) -> Option<Stored> {
        if self.core.as_ref().is_none_or(|core| core.knows(id)) {
            return None;
        }
        let records = self.log.durable_records().iter().enumerate();
        match records.rev().find(|(_, record)| record.id() == id)? {
            (index, CoordinatorRecord::Ended(_)) if index < self.expired => {
                // An id that was never there looks the same after so long.
                id.is_three_phase().then_some(Stored::Expired)
            }
            (_, record) => outcome(record),
        }
    }

    /// What the log says of a client's request, unless it is running.
    pub fn stored_request(&self, request: &RequestId) -> Option<Stored> {
        let core = self.core.as_ref()?;
        if core.running_request(request).is_some() {
            return None;
        }
        // The attempt that committed, or else one that did not.
        let found = |record: &CoordinatorRecord| {
            let asked_for = match record {
                CoordinatorRecord::Commit(commit) => &commit.request,
                CoordinatorRecord::Ended(ended) => &ended.request,
                CoordinatorRecord::Decision(decision) => &decision.request,
                _ => &None,
            };
            asked_for.as_ref().filter(|asked| asked.id == *request).and_then(|_| outcome(record))
        };
        let records = self.log.durable_records();
        let committed =
            records.iter().rev().filter_map(found).find(|stored| *stored != Stored::Aborted);
        committed.or_else(|| records.iter().rev().find_map(found))
    }
}

/// What a record says of its transaction.
fn outcome(record: &CoordinatorRecord) -> Option<Stored> {
    let (result, request) = match record {
        CoordinatorRecord::Commit(commit) => (true, &commit.request),
        CoordinatorRecord::Ended(ended) => (ended.outcome.is_ok(), &ended.request),
        CoordinatorRecord::Decision(decision) => (decision.outcome.is_ok(), &decision.request),
        _ => return None,
    };
    let (id, request) = (record.id(), request.clone());
    Some(if result { Stored::Committed { id, request } } else { Stored::Aborted })
}

/// The records that are not over, the last of each transaction.
pub fn live(records: &[CoordinatorRecord]) -> BTreeMap<TransactionId, CoordinatorRecord> {
    let mut live = BTreeMap::new();
    for record in records {
        match record {
            CoordinatorRecord::Ended(_) | CoordinatorRecord::WitnessForgotten { .. } => {
                live.remove(&record.id());
            }
            _ => {
                live.insert(record.id(), record.clone());
            }
        }
    }
    live
}

impl World {
    pub fn step_coordinator(&mut self, input: Input<String>) {
        let now = self.now();
        let Some(core) = self.coordinator.core.as_mut() else {
            return self.say("C is not there".to_owned());
        };
        let step = core.step(now, input);
        if let Some(violation) = core.invariant_violation() {
            self.alarms.push(violation);
        }
        self.perform_coordinator(step);
    }

    fn perform_coordinator(&mut self, step: Step<CoordinatorRecord, Action<String>>) {
        let Step { records, position, forced, gate, then, later, timers } = step;
        let how = if forced { "force" } else { "write" };
        for record in records {
            let text = self.coordinator_record(&record);
            let number = self.coordinator.log.append(record);
            self.say(format!("C: {how} #{number} {text}"));
        }
        if self.coordinator.log.auto {
            self.coordinator.log.sync(usize::MAX);
        }
        for (key, at) in timers {
            match at {
                Some(at) => self.coordinator.timers.insert(key, at),
                None => self.coordinator.timers.remove(&key),
            };
        }
        let (gate, position) =
            (self.coordinator.log.number(gate), self.coordinator.log.number(position));
        let gated = then.into_iter().map(|action| Held { gate, action });
        let later = later.into_iter().map(|action| Held { gate: position, action });
        for held in gated.chain(later) {
            if self.coordinator.log.is_durable(held.gate) {
                self.act_for_coordinator(held);
            } else {
                let text = self.coordinator_action(&held.action);
                self.say(format!("C waits for #{}: {text}", held.gate));
                self.coordinator.held.push(held);
            }
        }
    }

    fn act_for_coordinator(&mut self, held: Held<Action<String>>) {
        self.waited_for = held.gate;
        match held.action {
            Action::Send { to, message } => self.send_from_coordinator(to, message),
            Action::Reply { to, reply } => self.reply(to, reply),
            Action::EndDurable { participant, id } => {
                self.push(Pending::Coordinator(Input::EndDurable { participant, id }));
            }
            Action::Lead { to, message } => {
                let (from, to) = (Who::Coordinator, Who::of(to));
                let (session, possible) = match &to {
                    Who::Participant(name) => (Some(self.links[name].session), self.links[name].up),
                    _ => (None, self.is_up(&to)),
                };
                let body = Body::Order(message);
                self.post(Envelope { from, to, session, origin: None, body }, possible);
            }
            Action::Report { to, via: Via::Link, message } => {
                let (from, to) = (Who::Coordinator, Who::of(to));
                let Who::Participant(name) = &to else { unreachable!("links have participants") };
                let (session, up) = (Some(self.links[name].session), self.links[name].up);
                let body = Body::Report(message);
                self.post(Envelope { from, to, session, origin: None, body }, up);
            }
            Action::Report { via: Via::Call(label), message, .. } => {
                self.answer_call(&label, CallAnswer::Report(message));
            }
            Action::Recorded { id } => {
                self.push(Pending::Coordinator(Input::Recorded { id }));
            }
            Action::Note(event) => {
                let text = self.event(&event);
                if let Event::Alarm { .. } = event {
                    self.alarms.push(format!("C: {text}"));
                }
                self.say(format!("C: {text}"));
            }
        }
        self.waited_for = 0;
    }

    fn send_from_coordinator(&mut self, to: ParticipantName, message: ToParticipant) {
        let link = &self.links[&to];
        let unary = self.participants[&to].unary;
        let (possible, full) = (link.up || unary, link.full);
        let session = (!unary).then_some(link.session);
        if full {
            let id = self.message_id(&message);
            let text = self.command_text(&message);
            self.say(format!("the queue to {to} is full: {text}"));
            return self.push(Pending::Coordinator(Input::NotSent { to, id }));
        }
        if unary && matches!(message, ToParticipant::Answer { .. } | ToParticipant::Forget { .. }) {
            // There is no such call; whoever is in doubt asks.
            let text = self.command_text(&message);
            return self.say(format!("no call for {text} to {to}"));
        }
        let to = Who::Participant(to);
        let body = Body::Command(message);
        self.post(Envelope { from: Who::Coordinator, to, session, origin: None, body }, possible);
    }

    fn reply(&mut self, to: String, reply: Reply) {
        let text = self.reply_text(&reply);
        let for_call = match &reply {
            Reply::Inquired(outcome) => Some(CallAnswer::Inquired(*outcome)),
            Reply::Enlisted { time_left_us } => Some(CallAnswer::Enlisted(*time_left_us)),
            Reply::Refused(refusal) => Some(CallAnswer::Refused(self.refusal(refusal))),
            _ => None,
        };
        if let Some(answer) = for_call
            && self.answer_call(&to, answer)
        {
            return;
        }
        self.say(format!("C → {to}: {text}{}", self.after()));
        if let Reply::Outcome(outcome) = reply {
            self.told.push(Told { label: to, outcome });
        }
    }

    /// Makes up to `count` more records of the coordinator's log durable, and does what waited for it.
    pub fn sync_coordinator(&mut self, count: usize) {
        if self.coordinator.log.unsynced() == 0 {
            return;
        }
        let number = self.coordinator.log.sync(count);
        self.say(format!("C: the log is durable up to #{number}"));
        let held = std::mem::take(&mut self.coordinator.held);
        let (ready, waiting) =
            held.into_iter().partition(|held| self.coordinator.log.is_durable(held.gate));
        self.coordinator.held = waiting;
        let ready: Vec<_> = ready;
        for held in ready {
            self.act_for_coordinator(held);
        }
        self.settle();
    }

    pub fn fire_coordinator(&mut self, key: TimerKey) {
        self.coordinator.timers.remove(&key);
        let text = self.timer_key(&key);
        self.say(format!("C: the timer of {text} at {}", super::narrate::seconds(self.now_us)));
        self.input(Input::Timer(key));
    }

    pub fn crash_coordinator(&mut self) {
        self.coordinator.core = None;
        self.coordinator.timers.clear();
        self.coordinator.held.clear();
        let lost = self.coordinator.log.crash();
        self.say(format!("C crashes; {lost} records are lost"));
        let names: Vec<_> = self.links.keys().cloned().collect();
        for name in names {
            self.cut(&name);
            if let Some(link) = self.links.get_mut(&name) {
                link.known = false;
            }
        }
        // Calls die with the process; the answers to its own go nowhere.
        self.pool.retain(|envelope| envelope.to != Who::Coordinator);
    }

    /// Starts again from the log, in a new epoch.
    pub fn restart_coordinator(&mut self) {
        if self.coordinator.core.is_some() {
            self.crash_coordinator();
        }
        let host = &mut self.coordinator;
        host.identity.epoch = host.identity.epoch.next().expect("a test has few epochs");
        host.sequence = 0;
        host.log.reopen();
        let mut core = Coordinator::new(host.identity, host.config);
        let live = live(host.log.records());
        for record in live.values() {
            core.restore_record(record.clone());
        }
        host.core = Some(core);
        self.name_witnesses();
        let named = |voting: bool| {
            let is_voting = |record: &CoordinatorRecord| {
                matches!(record, CoordinatorRecord::Voting(_)) == voting
            };
            let found = live.values().filter(|record| is_voting(record));
            let found: Vec<_> = found.map(|record| self.name(record.id())).collect();
            if found.is_empty() { "none".to_owned() } else { found.join(", ") }
        };
        let epoch = self.coordinator.identity.epoch.0;
        let mut text = format!("C starts in epoch {epoch}; decisions to deliver: {}", named(false));
        if named(true) != "none" {
            text += &format!("; a voting site of: {}", named(true));
        }
        self.say(text);
        let now = self.now();
        if let Some(core) = self.coordinator.core.as_mut() {
            let step = core.resume(now);
            self.perform_coordinator(step);
        }
    }
}
