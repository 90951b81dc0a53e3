//! Runs a production participant as a driver would: log first, then what waits for it.

use std::collections::BTreeMap;

use handfast_commit_core::id::{Incarnation, ParticipantName, Slot, TransactionId};
use handfast_commit_core::message::{FromParticipant, ToParticipant};
use handfast_commit_core::record::ParticipantEntry;
use handfast_commit_core::step::{Step, Time, TimerKey};
use handfast_commit_core::two_phase::Participant;
use handfast_commit_core::two_phase::coordinator::OnePhaseReport;
use handfast_commit_core::two_phase::participant::{
    Action, Config, Event, Input, Origin, ResourceCall, ResourceResult, Via,
};

use super::log::{Held, Log};
use super::resource::Resource;
use super::{Body, CallAnswer, Envelope, Pending, Who, World};

pub struct ParticipantHost {
    pub core: Option<Participant<String>>,
    pub log: Log<ParticipantEntry>,
    pub timers: BTreeMap<TransactionId, Time>,
    pub resource: Resource,
    pub incarnation: Incarnation,
    /// It has no link: it is called, and answers calls.
    pub unary: bool,
    held: Vec<Held<Action<String>>>,
    config: Config,
}

impl ParticipantHost {
    pub fn new(incarnation: Incarnation, config: Config) -> Self {
        Self {
            core: Some(Participant::new(incarnation, config)),
            log: Log::new(),
            timers: BTreeMap::new(),
            resource: Resource::new(),
            incarnation,
            unary: false,
            held: Vec::new(),
            config,
        }
    }

    /// What a coordinator is told at the beginning of a session.
    pub fn one_phase_commits(&self) -> Vec<OnePhaseReport> {
        let Some(core) = &self.core else {
            return Vec::new();
        };
        core.one_phase_commits(self.log.durable_position())
            .map(|(id, request)| OnePhaseReport { id, request_id: request.cloned() })
            .collect()
    }
}

/// A message as a participant's driver hands it in.
pub fn command(command: ToParticipant, origin: Origin, via: Via<String>) -> Input<String> {
    match command {
        ToParticipant::Prepare(prepare) => {
            let peers = prepare.peers.iter().map(|name| (name.clone(), name.to_string())).collect();
            Input::Prepare { prepare, peers, origin, via }
        }
        ToParticipant::Commit { id, incarnation } => Input::Commit { id, incarnation, origin, via },
        ToParticipant::Abort { id } => Input::Abort { id, origin, via },
        ToParticipant::Forget { id } => Input::Forget { id, origin },
        ToParticipant::Answer { id, outcome } => Input::Answer { id, outcome },
    }
}

impl World {
    pub fn step_participant(&mut self, name: &ParticipantName, input: Input<String>) {
        let now = self.now();
        let Some(core) = self.participants.get_mut(name).and_then(|host| host.core.as_mut()) else {
            return;
        };
        let step = core.step(now, input);
        self.perform_participant(name, step);
    }

    fn perform_participant(
        &mut self,
        name: &ParticipantName,
        step: Step<ParticipantEntry, Action<String>>,
    ) {
        let Step { records, position, forced, gate, then, later, timers } = step;
        let how = if forced { "force" } else { "write" };
        for entry in records {
            let text = self.participant_record(&entry.record);
            let number = self.host(name).log.append(entry);
            self.say(format!("{name}: {how} #{number} {text}"));
        }
        let host = self.host(name);
        if host.log.auto {
            host.log.sync(usize::MAX);
        }
        for (key, at) in timers {
            let TimerKey::Transaction(id) = key else {
                unreachable!("a participant has timers of transactions only")
            };
            match at {
                Some(at) => host.timers.insert(id, at),
                None => host.timers.remove(&id),
            };
        }
        let (gate, position) = (host.log.number(gate), host.log.number(position));
        let gated = then.into_iter().map(|action| Held { gate, action });
        let later = later.into_iter().map(|action| Held { gate: position, action });
        for held in gated.chain(later) {
            if self.host(name).log.is_durable(held.gate) {
                self.act_for_participant(name, held);
            } else {
                let text = self.participant_action(&held.action);
                self.say(format!("{name} waits for #{}: {text}", held.gate));
                self.host(name).held.push(held);
            }
        }
    }

    pub fn host(
        &mut self,
        name: &ParticipantName,
    ) -> &mut super::participant_host::ParticipantHost {
        self.participants.get_mut(name).expect("the world knows its participants")
    }

    fn act_for_participant(&mut self, name: &ParticipantName, held: Held<Action<String>>) {
        self.waited_for = held.gate;
        let me = Who::Participant(name.clone());
        match held.action {
            Action::Respond { via: Via::Link, slot, message } => {
                self.respond_over_link(name, slot, message);
            }
            Action::Respond { via: Via::Call(label), message, .. } => {
                self.answer_call(&label, CallAnswer::Participant(message));
            }
            Action::Resource { id, call } => self.call_resource(name, id, call),
            Action::Inquire { id, incarnation, .. } => {
                let link = &self.links[name];
                let session = link.up.then_some(link.session);
                let possible = link.up || self.coordinator.core.is_some();
                let body = Body::Inquiry { id, incarnation };
                let to = Who::Coordinator;
                self.post(Envelope { from: me, to, session, origin: None, body }, possible);
            }
            Action::InquirePeers { id, peers, .. } => {
                for (peer, _) in peers {
                    let possible =
                        self.participants.get(&peer).is_some_and(|peer| peer.core.is_some());
                    let (from, to) = (me.clone(), Who::Participant(peer));
                    let body = Body::PeerInquiry { id };
                    self.post(Envelope { from, to, session: None, origin: None, body }, possible);
                }
            }
            Action::AnswerPeer { to, outcome } => {
                self.answer_call(&to, CallAnswer::Inquired(outcome));
            }
            Action::Lead { to, message, .. } => {
                let to = Who::of(to);
                let link = &self.links[name];
                let to_coordinator = to == Who::Coordinator;
                let session = (to_coordinator && link.up).then_some(link.session);
                let possible = self.is_up(&to);
                let body = Body::Order(message);
                self.post(Envelope { from: me, to, session, origin: None, body }, possible);
            }
            Action::Report { via: Via::Link, message } => {
                let link = &self.links[name];
                let (session, up) = (Some(link.session), link.up);
                let (to, body) = (Who::Coordinator, Body::Report(message));
                self.post(Envelope { from: me, to, session, origin: None, body }, up);
            }
            Action::Report { via: Via::Call(label), message } => {
                self.answer_call(&label, CallAnswer::Report(message));
            }
            Action::AnswerTouch { to, allowed } => {
                let text = match allowed {
                    Ok(()) => "work may be done".to_owned(),
                    Err(refusal) => format!("no work may be done: {refusal}"),
                };
                self.say(format!("{name} → {to}: {text}"));
            }
            Action::Note(event) => {
                let text = self.participant_event(&event);
                if let Event::Alarm { .. } = event {
                    self.alarms.push(format!("{name}: {text}"));
                }
                self.say(format!("{name}: {text}"));
            }
        }
        self.waited_for = 0;
    }

    fn respond_over_link(&mut self, name: &ParticipantName, slot: Slot, message: FromParticipant) {
        let link = &self.links[name];
        let (session, up) = (Some(link.session), link.up && slot == Self::SLOT);
        let (from, to) = (Who::Participant(name.clone()), Who::Coordinator);
        let body = Body::Answer(message);
        self.post(Envelope { from, to, session, origin: None, body }, up);
    }

    fn call_resource(&mut self, name: &ParticipantName, id: TransactionId, call: ResourceCall) {
        let text = self.resource_call(id, &call);
        self.say(format!("{name}: {text}"));
        let has_result = !matches!(
            call,
            ResourceCall::Cancel | ResourceCall::PreCommit | ResourceCall::Finished(_)
        );
        let resource = &mut self.host(name).resource;
        if resource.waits && has_result {
            resource.pending.push_back((id, call));
        } else if let Some(result) = resource.carry_out(id, &call) {
            self.hand_in(name, id, result);
        }
    }

    /// The resource's answer.
    pub fn hand_in(&mut self, name: &ParticipantName, id: TransactionId, result: ResourceResult) {
        let text = self.resource_result(id, &result);
        self.say(format!("{name}: {text}"));
        let input = Input::Resource { id, result };
        self.push(Pending::Participant(name.clone(), input));
    }

    /// Makes up to `count` more records of a participant's log durable, and does what waited for it.
    pub fn sync_participant(&mut self, name: &ParticipantName, count: usize) {
        let host = self.host(name);
        if host.log.unsynced() == 0 {
            return;
        }
        let number = host.log.sync(count);
        let held = std::mem::take(&mut host.held);
        let (ready, waiting) = held.into_iter().partition(|held| host.log.is_durable(held.gate));
        host.held = waiting;
        let ready: Vec<_> = ready;
        self.say(format!("{name}: the log is durable up to #{number}"));
        for held in ready {
            self.act_for_participant(name, held);
        }
        self.settle();
    }

    pub fn fire_participant(&mut self, name: &ParticipantName, id: TransactionId) {
        self.host(name).timers.remove(&id);
        let text = self.name(id);
        let at = super::narrate::seconds(self.now_us);
        self.say(format!("{name}: the timer of {text} at {at}"));
        self.participant_input(name, Input::Timer(id));
    }

    pub fn crash_participant(&mut self, name: &ParticipantName) {
        let host = self.host(name);
        host.core = None;
        host.timers.clear();
        host.held.clear();
        host.resource.pending.clear();
        let lost = host.log.crash();
        self.say(format!("{name} crashes; {lost} records are lost"));
        self.cut(name);
        let me = Who::Participant(name.clone());
        // Answers to its own calls go nowhere. Calls to it may be tried again.
        self.pool.retain(|envelope| {
            envelope.to != me
                || !matches!(
                    envelope.body,
                    Body::InquiryAnswered { .. }
                        | Body::PeerAnswered { .. }
                        | Body::Report(_)
                        | Body::Joined { .. }
                )
        });
    }

    /// Starts again from the log. `lost`: the disk was lost, and the log is a new one.
    pub fn restart_participant(&mut self, name: &ParticipantName, lost: bool) {
        if self.participants[name].core.is_some() {
            self.crash_participant(name);
        }
        let now = self.now();
        let host = self.host(name);
        if lost {
            host.log = Log::new();
            host.incarnation.0 += 1;
        }
        host.log.reopen();
        let mut core = Participant::new(host.incarnation, host.config);
        for entry in host.log.records() {
            core.restore(entry.record.clone());
        }
        host.resource.restarted(host.log.records());
        let holds: Vec<_> = host.resource.prepared.keys().copied().collect();
        let step = core.resume(now);
        host.core = Some(core);
        let open = self.open_branches(name);
        self.say(format!("{name} starts; open branches: {open}"));
        self.perform_participant(name, step);
        if !holds.is_empty() {
            self.push(Pending::Participant(name.clone(), Input::ResourceHolds { ids: holds }));
        }
        self.settle();
    }
}
