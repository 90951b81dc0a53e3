//! Runs the production coordinator as a driver would: log first, then what waits for it.

use handfast_commit_core::id::{RequestId, TransactionId};
use handfast_commit_core::message::{FromParticipant, Inquired, ToParticipant};
use handfast_commit_core::record::{AbortCause, AbortReason, CoordinatorRecord, Decision, Ended};
use handfast_commit_core::step::{Position, Step, Time};
use handfast_commit_core::three_phase::SiteName;
use handfast_commit_core::two_phase::Coordinator;
use handfast_commit_core::two_phase::coordinator::{
    Action, Event, Identity, Input, Inquiry, Reply, Stored,
};
use handfast_commit_core::two_phase::participant::Via;

use crate::bounds::Network;
use crate::lies::Lie;
use crate::log::Key;
use crate::marks::Mark;
use crate::network::{Body, Who};
use crate::state::{Caller, Fact};
use crate::world::{COORDINATOR_LOG, Next, Run, SLOT, World};

const NO_REASON: AbortReason =
    AbortReason { cause: AbortCause::Presumed, participant: None, message: String::new() };

/// What a record says of its transaction.
fn outcome(record: &CoordinatorRecord) -> Option<Stored> {
    let (committed, request) = match record {
        CoordinatorRecord::Commit(commit) => (true, &commit.request),
        CoordinatorRecord::Ended(ended) => (ended.outcome.is_ok(), &ended.request),
        CoordinatorRecord::Decision(decision) => (decision.outcome.is_ok(), &decision.request),
        _ => return None,
    };
    let (id, request) = (record.id(), request.clone());
    Some(if committed { Stored::Committed { id, request } } else { Stored::Aborted })
}

impl Run<'_> {
    pub(crate) fn step_coordinator(&mut self, at: Time, input: Input<Caller>) {
        let Some(core) = self.state.coordinator.change().core.as_mut() else {
            return;
        };
        let step = core.step(Run::now(at), input);
        let violation = core.invariant_violation();
        self.perform_coordinator(step);
        if let Some(violation) = violation {
            self.broken(format!("the coordinator's invariant: {violation}"));
        }
    }

    fn perform_coordinator(&mut self, step: Step<CoordinatorRecord, Action<Caller>>) {
        let Step { records, position, forced, gate, then, later, timers } = step;
        for mut record in records {
            if let CoordinatorRecord::Ended(Ended { outcome: Err(reason), .. })
            | CoordinatorRecord::Decision(Decision { outcome: Err(reason), .. }) = &mut record
            {
                *reason = NO_REASON; // it is for people
            }
            self.say(|run| {
                let how = if forced { "forces" } else { "writes" };
                format!("   C {how} {}", run.world.coordinator_record(&run.state, &record))
            });
            self.state.coordinator.change().log.pending.push(record);
        }
        for (key, at) in timers {
            let timers = &mut self.state.coordinator.change().timers;
            match at {
                Some(_) => timers.insert(key),
                None => timers.remove(&key),
            };
        }
        let early = self.lies(Lie::CoordinatorActsEarly);
        let gate = if early { Position(0) } else { gate };
        let position =
            if early || self.lies(Lie::ForgetsBeforeLogged) { Position(0) } else { position };
        let gated = then.into_iter().map(|action| (gate, action));
        let all: Vec<_> = gated.chain(later.into_iter().map(|action| (position, action))).collect();
        for (gate, action) in all {
            let once = self.world.ever() && !matches!(action, Action::EndDurable { .. });
            let ready = self.state.coordinator.change().log.hold(gate, action, once);
            if let Some(action) = ready {
                self.act_for_coordinator(action);
            }
        }
        if forced && self.world.bounds.disk.is_prompt(Who::C) {
            while !self.state.coordinator.get().log.pending.is_empty() {
                self.sync_coordinator();
            }
        }
    }

    /// It is said, and never taken back.
    pub(crate) fn claim(&mut self, id: TransactionId, fact: Fact) {
        self.state.facts.entry(id).or_default().add(fact);
        self.claimed.push((id, fact));
    }

    fn act_for_coordinator(&mut self, action: Action<Caller>) {
        match action {
            Action::Send { to, message } => {
                let number = self.world.number(&to);
                self.send_from_coordinator(number, message);
            }
            Action::Reply { to, reply } => self.reply(to, reply),
            Action::EndDurable { participant, id } => {
                self.next.push_back(Next::Coordinator(Input::EndDurable { participant, id }));
            }
            Action::Recorded { id } => {
                self.next.push_back(Next::Coordinator(Input::Recorded { id }));
            }
            Action::Lead { to, message } => self.order(Who::C, to, message),
            Action::Report { via, message, .. } => self.report(Who::C, via, message),
            Action::Note(event) => match event {
                Event::Elects { .. } => self.coordinator_elects(),
                Event::Alarm { participant, alarm, .. } => {
                    self.broken(format!("an alarm of the coordinator: {participant} {alarm}"));
                }
                Event::Aborted { reason, .. } if reason.cause == AbortCause::Timeout => {
                    self.mark(Mark::Deadline);
                }
                _ => {}
            },
        }
    }

    fn told_participant(&mut self, id: TransactionId, outcome: Inquired) {
        let host = self.state.coordinator.get();
        let restarted = id.epoch() < host.epoch;
        match outcome {
            Inquired::Commit => {
                self.claim(id, Fact { commit_sent: true, ..Fact::default() });
            }
            Inquired::Abort => {
                // While it is known, an abort is a request to stop a one-phase commit.
                if !host.core.as_ref().is_some_and(|core| core.knows(id)) {
                    self.claim(id, Fact { abort_sent: true, ..Fact::default() });
                }
                if restarted {
                    self.mark(Mark::RestartPresumes);
                }
            }
            _ => {}
        }
    }

    fn send_from_coordinator(&mut self, number: usize, mut message: ToParticipant) {
        let restarted = |id: &TransactionId| id.epoch() < self.state.coordinator.get().epoch;
        match &mut message {
            ToParticipant::Commit { id, .. } => {
                if restarted(id) {
                    self.mark(Mark::RestartDelivers);
                }
                let id = *id;
                self.told_participant(id, Inquired::Commit);
            }
            ToParticipant::Abort { id } => {
                let id = *id;
                if id.is_three_phase() {
                    self.claim(id, Fact { abort_sent: true, ..Fact::default() });
                }
                self.told_participant(id, Inquired::Abort);
            }
            ToParticipant::Answer { id, outcome } => {
                if self.world.lie == Some(Lie::PresumesUndecided) && *outcome == Inquired::Pending {
                    *outcome = Inquired::Abort;
                }
                let (id, outcome) = (*id, *outcome);
                self.told_participant(id, outcome);
            }
            ToParticipant::Forget { id } if id.is_three_phase() => self.may_be_forgotten(*id),
            ToParticipant::Prepare(_) | ToParticipant::Forget { .. } => {}
        }
        let calls = self.world.bounds.network != Network::Links;
        let no_call = match &message {
            ToParticipant::Answer { .. } => true,
            // Of one-phase commits, which are promised over links only.
            ToParticipant::Forget { id } => !id.is_three_phase(),
            _ => false,
        };
        if calls && no_call {
            return; // there is no such call; whoever is in doubt asks
        }
        if let Some(origin) = self.origin() {
            self.post_link(number, false, Body::Command(origin, message));
        }
    }

    fn reply(&mut self, to: Caller, reply: Reply) {
        match (to, reply) {
            (Caller::Inquirer(number, _), Reply::Inquired(mut outcome)) => {
                let Caller::Inquirer(_, id) = to else { return };
                if self.lies(Lie::PresumesUndecided) && outcome == Inquired::Pending {
                    outcome = Inquired::Abort;
                }
                if outcome == Inquired::Pending {
                    self.mark(Mark::InquiryPending);
                }
                self.told_participant(id, outcome);
                self.post(Who::C, Who::P(number), Body::InquiryAnswered(id, outcome));
            }
            (Caller::Client(attempt), reply) => {
                self.say(|run| {
                    format!("   C tells the client: {}", run.world.reply(&run.state, &reply))
                });
                self.state.client.answered.insert(attempt);
                self.told_client(Some(attempt), &reply);
            }
            (Caller::Stopper, reply) => {
                self.say(|run| {
                    format!("   C tells the client: {}", run.world.reply(&run.state, &reply))
                });
                self.told_client(None, &reply);
            }
            _ => {}
        }
    }

    fn told_client(&mut self, attempt: Option<usize>, reply: &Reply) {
        self.told = true;
        match reply {
            Reply::Outcome(outcome) => {
                let committed = outcome.result.is_ok();
                if committed && outcome.id.is_three_phase() {
                    self.must_be_decided(outcome.id);
                }
                self.mark(if committed { Mark::Committed } else { Mark::Aborted });
                self.state.client.told.insert((outcome.id, committed));
                if let Some(attempt) = attempt.filter(|attempt| *attempt > 0) {
                    let own = self.state.client.attempts[attempt] == outcome.id;
                    if committed && !own {
                        let one_phase = self.world.bounds.parties.len() == 1;
                        self.mark(match (outcome.repeated, one_phase) {
                            (true, true) => Mark::OnePhaseRetried,
                            (true, false) => Mark::RetryFromLog,
                            (false, _) => Mark::RetryJoins,
                        });
                    }
                    if own {
                        self.mark(Mark::RetryBegins);
                    }
                }
            }
            Reply::Unknown { .. } => self.mark(Mark::Unknown),
            Reply::Refused(refusal) => {
                use handfast_commit_core::two_phase::coordinator::ClientRefusal;
                if let ClientRefusal::RequestIdReused { .. } = refusal {
                    self.broken("a repeated request is taken for another one".to_owned());
                }
            }
            _ => {}
        }
    }

    pub(crate) fn sync_coordinator(&mut self) {
        let Some((record, actions)) = self.state.coordinator.change().log.sync() else {
            return;
        };
        match record {
            CoordinatorRecord::Commit(commit) => {
                self.claim(commit.id, Fact { commit_logged: true, ..Fact::default() });
            }
            CoordinatorRecord::Ended(ended) => {
                let commit_logged = ended.outcome.is_ok();
                let abort_logged = !commit_logged;
                self.claim(ended.id, Fact { commit_logged, abort_logged, ..Fact::default() });
            }
            CoordinatorRecord::Decision(decision) => {
                let commit_logged = decision.outcome.is_ok();
                let abort_logged = !commit_logged;
                self.claim(decision.id, Fact { commit_logged, abort_logged, ..Fact::default() });
            }
            CoordinatorRecord::Voting(_)
            | CoordinatorRecord::Witness(_)
            | CoordinatorRecord::WitnessForgotten { .. } => {}
        }
        for action in actions {
            self.act_for_coordinator(action);
        }
    }

    pub(crate) fn crash_coordinator(&mut self) {
        self.state.budget.crashes -= 1;
        let host = self.state.coordinator.change();
        let lost = host.log.pending.iter().any(|record| {
            matches!(record, CoordinatorRecord::Commit(_) | CoordinatorRecord::Decision(_))
        });
        host.core = None;
        host.timers.clear();
        host.log.crash();
        // Answers to its calls go nowhere.
        self.state.bag.retain(|envelope| !matches!(envelope.body, Body::Answer(_)));
        for link in &mut self.state.links {
            link.cut();
            link.known = false;
        }
        let client = &mut self.state.client;
        let waiting =
            (0..client.attempts.len()).filter(|attempt| !client.answered.contains(attempt));
        let waiting: Vec<_> = waiting.collect();
        client.cut_off.extend(waiting);
        if lost {
            self.mark(Mark::CommitLost);
        }
    }

    pub(crate) fn restart_coordinator(&mut self) {
        let (keeps_epoch, blind) = (self.lies(Lie::KeepsEpoch), self.lies(Lie::StartsWithoutLog));
        let host = self.state.coordinator.change();
        if !keeps_epoch {
            host.epoch.0 += 1;
        }
        host.sequence = 0;
        let identity = Identity { slot: SLOT, epoch: host.epoch, incarnation: COORDINATOR_LOG };
        let mut core = Coordinator::new(identity, World::coordinator_config());
        core.set_witnesses(self.world.witnesses.clone());
        for record in host.log.durable.values() {
            if !blind {
                core.restore_record(record.clone());
            }
        }
        let step = core.resume(Run::now(Time(0)));
        host.core = Some(core);
        self.perform_coordinator(step);
    }

    /// What has ended is not remembered any more.
    pub(crate) fn expire(&mut self) {
        let log = &mut self.state.coordinator.change().log;
        log.durable.retain(|_, record| !matches!(record, CoordinatorRecord::Ended(_)));
    }

    // ---- what the log says ----------------------------------------------------------------------

    /// Of a transaction that is not running.
    fn stored(&self, id: TransactionId) -> Option<Stored> {
        let host = self.state.coordinator.get();
        if host.core.as_ref().is_none_or(|core| core.knows(id)) || self.lies(Lie::LooksNothingUp) {
            return None;
        }
        outcome(host.log.durable.get(&Key::Transaction(id))?)
    }

    /// Of a client's request that is not running.
    pub(crate) fn stored_request(&self, request: &RequestId) -> Option<Stored> {
        let host = self.state.coordinator.get();
        let core = host.core.as_ref()?;
        if core.running_request(request).is_some() || self.lies(Lie::LooksNothingUp) {
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
        let records = || host.log.durable.values().filter_map(found);
        records().find(|stored| *stored != Stored::Aborted).or_else(|| records().next())
    }

    // ---- what arrives ---------------------------------------------------------------------------

    pub(crate) fn deliver_to_coordinator(&mut self, from: usize, body: &Body, over_link: bool) {
        if self.state.coordinator.get().core.is_none() {
            return;
        }
        let name = self.world.names[from].clone();
        let input = match body {
            Body::Welcome(reports) => {
                self.notice(from);
                self.state.links[from].known = true;
                let one_phase_commits: Vec<_> =
                    reports.iter().map(|report| (report.clone(), self.stored(report.id))).collect();
                if one_phase_commits.iter().any(|(_, stored)| stored.is_none()) {
                    self.mark(Mark::OnePhaseReported);
                }
                let incarnation = World::incarnation(from);
                Input::Connected { participant: name, incarnation, one_phase_commits }
            }
            Body::Answer(message) => {
                let message = message.clone();
                let id = message.id();
                let knows = |run: &Self| {
                    run.state.coordinator.get().core.as_ref().is_some_and(|core| core.knows(id))
                };
                if matches!(message, FromParticipant::Voted { .. }) && !knows(self) {
                    self.mark(Mark::LateVote);
                }
                if matches!(message, FromParticipant::Aborted { .. }) && knows(self) {
                    self.mark(Mark::Stopped);
                }
                if matches!(message, FromParticipant::Committed { .. })
                    && self.lies(Lie::ForgetsEarly)
                {
                    for number in 0..self.world.names.len() {
                        let from = self.world.names[number].clone();
                        let message = message.clone();
                        let stored = self.stored(id);
                        self.step_coordinator(Time(0), Input::Received { from, message, stored });
                    }
                    return;
                }
                Input::Received { from: name, message, stored: self.stored(id) }
            }
            Body::Inquiry(id, incarnation) => {
                let (id, stored) = (*id, self.stored(*id));
                let inquiry = Inquiry { id, incarnation: *incarnation, participant: name };
                if over_link {
                    Input::InquireOverLink { inquiry, stored }
                } else {
                    Input::Inquire { inquiry, stored, waiter: Caller::Inquirer(from, id) }
                }
            }
            Body::Order(message) => {
                let stored = self.stored(message.id);
                let (from, via) =
                    (SiteName::Participant(name), Via::Call(Caller::Leader(Who::P(from))));
                Input::Led { from, message: *message, stored, via }
            }
            Body::Report(message) => {
                Input::Reported { from: SiteName::Participant(name), message: *message }
            }
            Body::Hello(_)
            | Body::Command(..)
            | Body::InquiryAnswered(..)
            | Body::PeerInquiry(_)
            | Body::PeerAnswered(..) => return,
        };
        self.step_coordinator(Time(0), input);
    }
}
