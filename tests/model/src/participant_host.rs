//! Runs a production participant as a driver would, with a resource that remembers what was really done.

use bytes::Bytes;
use handfast_commit_core::id::TransactionId;
use handfast_commit_core::message::{FromParticipant, Inquired, ToParticipant, Vote};
use handfast_commit_core::record::{DecidedBranch, ParticipantEntry, ParticipantRecord};
use handfast_commit_core::step::{Position, Step, Time, TimerKey};
use handfast_commit_core::two_phase::coordinator::OnePhaseReport;
use handfast_commit_core::two_phase::participant::{
    Action, Ending, Event, Input, Participant, ResourceCall, ResourceResult, Via,
};

use crate::bounds::{Network, Verdict};
use crate::lies::Lie;
use crate::marks::Mark;
use crate::network::{Body, Who};
use crate::state::Caller;
use crate::world::{Next, Run, World};

/// The key under which a branch's prepared work is kept.
const HELD: &[u8] = b"held";
/// The key under which its effect is kept.
const EFFECT: &[u8] = b"effect";

impl Run<'_> {
    pub(crate) fn step_participant(&mut self, number: usize, at: Time, input: Input<Caller>) {
        let Some(core) = self.state.participants[number].change().core.as_mut() else {
            return;
        };
        let step = core.step(Run::now(at), input);
        self.perform_participant(number, step);
    }

    fn perform_participant(&mut self, number: usize, step: Step<ParticipantEntry, Action<Caller>>) {
        let Step { records, position, forced, gate, then, later, timers } = step;
        for entry in records {
            self.say(|run| {
                let how = if forced { "forces" } else { "writes" };
                let record = run.world.participant_record(&run.state, &entry.record);
                format!("   p{} {how} {record}", number + 1)
            });
            self.state.participants[number].change().log.pending.push(entry);
        }
        for (key, at) in timers {
            let TimerKey::Transaction(id) = key else {
                continue;
            };
            let timers = &mut self.state.participants[number].change().timers;
            match at {
                Some(_) => timers.insert(id),
                None => timers.remove(&id),
            };
        }
        let early = self.lies(Lie::ParticipantActsEarly);
        let gate = if early { Position(0) } else { gate };
        let gated = then.into_iter().map(|action| (gate, action));
        let all: Vec<_> = gated.chain(later.into_iter().map(|action| (position, action))).collect();
        for (gate, action) in all {
            let once = self.world.ever() && !matches!(action, Action::Resource { .. });
            let ready = self.state.participants[number].change().log.hold(gate, action, once);
            if let Some(action) = ready {
                self.act_for_participant(number, action);
            }
        }
        if forced && self.world.bounds.disk.is_prompt(Who::P(number)) {
            while !self.state.participants[number].get().log.pending.is_empty() {
                self.sync_participant(number);
            }
        }
    }

    fn act_for_participant(&mut self, number: usize, action: Action<Caller>) {
        match action {
            Action::Respond { via, message, .. } => {
                if let FromParticipant::Voted { vote, .. } = &message {
                    match vote {
                        Vote::No { reason } if reason.contains("too late") => {
                            self.mark(Mark::PrepareTooLate);
                        }
                        Vote::No { reason } if reason.contains("no work") => {
                            self.mark(Mark::WorkLost);
                        }
                        Vote::No { .. } => self.mark(Mark::VotedNo),
                        Vote::ReadOnly => self.mark(Mark::ReadOnly),
                        Vote::Committed { earlier: None } => self.mark(Mark::OnePhase),
                        Vote::Committed { .. } | Vote::Prepared => {}
                    }
                }
                if let FromParticipant::Refused { reason, .. } = &message
                    && reason.contains("is over: epoch")
                {
                    self.mark(Mark::OldEpochRefused);
                }
                if let FromParticipant::Refused { reason, .. } = &message
                    && reason.contains("told to abort")
                {
                    self.mark(Mark::StopRefused);
                }
                match via {
                    Via::Link => self.post_link(number, true, Body::Answer(message)),
                    Via::Call(Caller::Coordinator(epoch))
                        if self.state.coordinator.get().core.is_some()
                            && self.state.coordinator.get().epoch == epoch =>
                    {
                        self.post(Who::P(number), Who::C, Body::Answer(message));
                    }
                    Via::Call(_) => {
                        self.say(|_| format!("   p{} answers a process that has gone", number + 1))
                    }
                }
            }
            Action::Resource { id, call } => self.call_resource(number, id, call),
            Action::Inquire { id, incarnation, .. } => {
                let body = Body::Inquiry(id, incarnation);
                if self.world.bounds.network == Network::Links && self.state.links[number].up {
                    self.post_link(number, true, body);
                } else {
                    self.post(Who::P(number), Who::C, body);
                }
            }
            Action::InquirePeers { id, peers, .. } => {
                for (peer, _) in peers {
                    let to = Who::P(self.world.number(&peer));
                    self.post(Who::P(number), to, Body::PeerInquiry(id));
                }
            }
            Action::AnswerPeer { to: Caller::Peer(asker, id), mut outcome } => {
                if self.lies(Lie::PeerInDoubtAnswersAbort)
                    && outcome == Inquired::NoInformation
                    && self.is_in_doubt(number, id)
                {
                    outcome = Inquired::Abort;
                }
                match outcome {
                    Inquired::Commit => self.mark(Mark::PeerCommit),
                    Inquired::Abort => self.mark(Mark::PeerAbort),
                    _ => {}
                }
                self.post(Who::P(number), Who::P(asker), Body::PeerAnswered(id, outcome));
            }
            Action::AnswerPeer { .. } | Action::AnswerTouch { .. } => {}
            Action::Lead { to, message, .. } => self.order(Who::P(number), to, message),
            Action::Report { via, message } => self.report(Who::P(number), via, message),
            Action::Note(event) => match event {
                Event::Alarm { alarm, .. } => {
                    self.broken(format!("an alarm of p{}: {alarm}", number + 1));
                }
                Event::Blocked { .. } => self.mark(Mark::Blocked),
                Event::Elects { .. } => self.participant_elects(number),
                Event::Terminated { id, committed } => self.terminated(id, committed),
                Event::Ended { id, ending, was_prepared } => {
                    let resource = &mut self.state.participants[number].change().resource;
                    match ending {
                        Ending::Aborted if was_prepared => {
                            resource.aborted.insert(id);
                        }
                        Ending::ReadOnly => {
                            resource.read_only.insert(id);
                        }
                        _ => {}
                    }
                }
                Event::Prepared { .. } | Event::ResourceFailed { .. } => {}
            },
        }
    }

    /// Work is being done, and the vote has not been asked for.
    fn has_session(&self, number: usize, id: TransactionId) -> bool {
        let host = self.state.participants[number].get();
        host.timers.contains(&id) && !self.is_in_doubt(number, id)
    }

    pub(crate) fn is_in_doubt(&self, number: usize, id: TransactionId) -> bool {
        let core = self.state.participants[number].get().core.as_ref();
        core.is_some_and(|core| {
            core.open_branches().any(|branch| branch.id == id && branch.one_phase.is_none())
        })
    }

    // ---- the disk -------------------------------------------------------------------------------

    pub(crate) fn sync_participant(&mut self, number: usize) {
        let host = self.state.participants[number].change();
        let Some((entry, actions)) = host.log.sync() else {
            return;
        };
        let resource = &mut host.resource;
        let id = match &entry.record {
            ParticipantRecord::Prepared(branch) => Some(branch.id),
            ParticipantRecord::OnePhase(commit) => Some(commit.id),
            ParticipantRecord::Voted(branch) => Some(branch.id),
            ParticipantRecord::Decided(branch) => Some(branch.id),
            ParticipantRecord::Finished { id, .. } | ParticipantRecord::Forgotten { id } => {
                Some(*id)
            }
            ParticipantRecord::SlotSeen { .. } => None,
        };
        if let Some(id) = id {
            for (key, value) in &entry.changes {
                match (key.as_slice(), value) {
                    (HELD, Some(_)) => {
                        resource.holds_durably.insert(id);
                    }
                    (HELD, None) => {
                        resource.holds_durably.remove(&id);
                    }
                    _ => *resource.effects.entry(id).or_insert(0) += 1,
                }
            }
        }
        match entry.record {
            ParticipantRecord::Finished { id, committed: false } => {
                resource.aborted.insert(id);
            }
            ParticipantRecord::Decided(DecidedBranch { id, committed: false, .. }) => {
                resource.aborted.insert(id);
            }
            _ => {}
        }
        for action in actions {
            self.act_for_participant(number, action);
        }
    }

    pub(crate) fn crash_participant(&mut self, number: usize) {
        let external = self.world.bounds.parties[number].external;
        let host = self.state.participants[number].change();
        host.crashes -= 1;
        host.core = None;
        host.timers.clear();
        host.log.crash();
        let resource = &mut host.resource;
        resource.calls.clear();
        if external {
            resource.holds_durably.clone_from(&resource.holds);
        } else {
            resource.holds.clear();
        }
        self.state.links[number].cut();
    }

    pub(crate) fn restart_participant(&mut self, number: usize) {
        let forgets = self.lies(Lie::ForgetsPrepared);
        let config = self.world.participant_config(number);
        let host = self.state.participants[number].change();
        let mut core = Participant::new(World::incarnation(number), config);
        for entry in host.log.durable.values() {
            let vote = matches!(
                entry.record,
                ParticipantRecord::Prepared(_) | ParticipantRecord::Voted(_)
            );
            if !(forgets && vote) {
                core.restore(entry.record.clone());
            }
        }
        if core.open_branches().any(|branch| branch.one_phase.is_none()) {
            self.world.reached.set(Mark::DoubtSurvives);
        }
        host.resource.holds.clone_from(&host.resource.holds_durably);
        let holds: Vec<_> = host.resource.holds.iter().copied().collect();
        let step = core.resume(Run::now(Time(0)));
        host.core = Some(core);
        self.perform_participant(number, step);
        if !holds.is_empty() && self.world.bounds.parties[number].external {
            let unvoted = holds.iter().any(|id| !self.is_in_doubt(number, *id));
            if unvoted {
                self.mark(Mark::DatabaseReleases);
            }
            self.step_participant(number, Time(0), Input::ResourceHolds { ids: holds });
        }
    }

    pub(crate) fn participant_timer(&mut self, number: usize, id: TransactionId) {
        let in_doubt = self.is_in_doubt(number, id);
        if !in_doubt && self.has_session(number, id) {
            self.mark(Mark::SessionEnds);
        }
        self.state.participants[number].change().timers.remove(&id);
        if in_doubt && self.lies(Lie::DoubtAborts) {
            let input = Input::Answer { id, outcome: Inquired::Abort };
            return self.step_participant(number, Time(0), input);
        }
        if id.is_three_phase() && in_doubt {
            return self.lead(number, id);
        }
        // Late enough for everything that a timer may stand for.
        self.step_participant(number, Time(2), Input::Timer(id));
    }

    // ---- the resource ---------------------------------------------------------------------------

    fn call_resource(&mut self, number: usize, id: TransactionId, call: ResourceCall) {
        let party = self.world.bounds.parties[number];
        match &call {
            ResourceCall::Cancel | ResourceCall::PreCommit | ResourceCall::Finished(_) => return,
            _ => {}
        }
        let chooses = matches!(call, ResourceCall::Prepare { .. }) && party.verdicts.len() > 1;
        self.state.participants[number].change().resource.calls.push((id, call));
        if !party.slow && !chooses {
            self.resource_works(number, party.verdicts[0]);
        }
    }

    /// The resource does what it was asked for first, and answers.
    pub(crate) fn resource_works(&mut self, number: usize, verdict: Verdict) {
        let external = self.world.bounds.parties[number].external;
        let resource = &mut self.state.participants[number].change().resource;
        if resource.calls.is_empty() {
            return;
        }
        let (id, call) = resource.calls.remove(0);
        let held = (HELD.to_vec(), None);
        let mut again = false;
        let result = match call {
            ResourceCall::Prepare { .. } => match verdict {
                Verdict::ReadOnly => ResourceResult::ReadOnly { result: Bytes::new() },
                Verdict::No => ResourceResult::No { reason: "a rule".to_owned() },
                Verdict::Yes => {
                    resource.holds.insert(id);
                    let changes =
                        if external { Vec::new() } else { vec![(HELD.to_vec(), Some(Vec::new()))] };
                    ResourceResult::Prepared { result: Bytes::new(), changes }
                }
            },
            ResourceCall::Commit if external => {
                let first = resource.holds.remove(&id);
                if first {
                    *resource.effects.entry(id).or_insert(0) += 1;
                }
                again = !first;
                match resource.effects.contains_key(&id) {
                    true => ResourceResult::Done { changes: Vec::new() },
                    false => ResourceResult::Unknown,
                }
            }
            ResourceCall::Commit => match resource.holds.remove(&id) {
                true => {
                    let effect = (EFFECT.to_vec(), Some(Vec::new()));
                    ResourceResult::Done { changes: vec![held, effect] }
                }
                false => ResourceResult::Unknown,
            },
            ResourceCall::Abort => {
                let changes =
                    if resource.holds.remove(&id) && !external { vec![held] } else { vec![] };
                ResourceResult::Done { changes }
            }
            ResourceCall::Cancel | ResourceCall::PreCommit | ResourceCall::Finished(_) => return,
        };
        if external {
            resource.holds_durably.clone_from(&resource.holds);
        }
        if again {
            self.mark(Mark::EffectRepeated);
        }
        self.next.push_back(Next::Participant(number, Input::Resource { id, result }));
    }

    // ---- what arrives ---------------------------------------------------------------------------

    pub(crate) fn deliver_to_participant(
        &mut self,
        from: Who,
        number: usize,
        body: &Body,
        over_link: bool,
    ) {
        if self.state.participants[number].get().core.is_none() {
            return;
        }
        let input = match body {
            Body::Hello(origin) => {
                let origin = origin.clone();
                // In the order of the driver: the session's first frame, then the answer to it.
                let reports = self.reports(number);
                self.step_participant(number, Time(0), Input::Heard { origin, opened: true });
                return self.post_link(number, true, Body::Welcome(reports));
            }
            Body::Command(origin, command) => {
                let origin = origin.clone();
                let via = if over_link {
                    Via::Link
                } else {
                    Via::Call(Caller::Coordinator(origin.epoch))
                };
                match command.clone() {
                    ToParticipant::Prepare(prepare) => {
                        let id = prepare.id;
                        if self.is_in_doubt(number, id) {
                            self.mark(Mark::VotedAgain);
                        }
                        let calls = &self.state.participants[number].get().resource.calls;
                        if prepare.one_phase && calls.iter().any(|(other, _)| *other != id) {
                            self.mark(Mark::OnePhaseFollows);
                        }
                        let peers =
                            prepare.peers.iter().map(|name| (name.clone(), name.to_string()));
                        let peers = peers.collect();
                        Input::Prepare { prepare, peers, origin, via }
                    }
                    ToParticipant::Commit { id, incarnation } => {
                        let resource = &self.state.participants[number].get().resource;
                        if resource.effects.contains_key(&id) && !self.is_in_doubt(number, id) {
                            self.mark(Mark::AcknowledgedAgain);
                        }
                        Input::Commit { id, incarnation, origin, via }
                    }
                    ToParticipant::Abort { id } => Input::Abort { id, origin, via },
                    ToParticipant::Forget { id } => {
                        if !id.is_three_phase() {
                            self.mark(Mark::Forgotten);
                        }
                        Input::Forget { id, origin }
                    }
                    ToParticipant::Answer { id, outcome } => {
                        return self.answered(number, id, outcome);
                    }
                }
            }
            Body::InquiryAnswered(id, outcome) => return self.answered(number, *id, *outcome),
            Body::PeerInquiry(id) => {
                let Who::P(asker) = from else { return };
                let id = *id;
                if self.lies(Lie::StrangerAnswersAbort) && !self.knows(number, id) {
                    let body = Body::PeerAnswered(id, Inquired::Abort);
                    return self.post(Who::P(number), from, body);
                }
                let unvoted = self.state.participants[number].get().resource.calls.iter().any(
                    |(at_work, call)| {
                        *at_work == id && matches!(call, ResourceCall::Prepare { .. })
                    },
                );
                if unvoted || self.has_session(number, id) {
                    if self.lies(Lie::PeerPromisesNothing) {
                        let body = Body::PeerAnswered(id, Inquired::Abort);
                        return self.post(Who::P(number), from, body);
                    }
                    self.mark(Mark::PeerPromises);
                }
                Input::PeerAsks { id, waiter: Caller::Peer(asker, id) }
            }
            Body::PeerAnswered(id, outcome) => {
                let Who::P(peer) = from else { return };
                let peer = self.world.names[peer].clone();
                Input::PeerAnswer { id: *id, peer, outcome: *outcome }
            }
            Body::Order(message) => {
                let via = Via::Call(Caller::Leader(from));
                Input::Led { from: self.world.site(from), message: *message, via }
            }
            Body::Report(message) => {
                Input::Reported { from: self.world.site(from), message: *message }
            }
            Body::Welcome(_) | Body::Answer(_) | Body::Inquiry(..) => return,
        };
        self.step_participant(number, Time(0), input);
    }

    /// The coordinator has answered an inquiry.
    fn answered(&mut self, number: usize, id: TransactionId, outcome: Inquired) {
        if self.is_in_doubt(number, id) {
            let host = self.state.participants[number].get();
            let returned = host.crashes < self.world.bounds.parties[number].crashes;
            let resolved = match outcome {
                Inquired::Commit => Some(Mark::InquiryCommit),
                Inquired::Abort => Some(Mark::InquiryAbort),
                _ => None,
            };
            if let Some(mark) = resolved {
                self.mark(mark);
                if returned {
                    self.mark(Mark::DoubtResolved);
                }
            }
        }
        self.step_participant(number, Time(0), Input::Answer { id, outcome });
    }

    /// The participant has some record or work of this transaction.
    fn knows(&self, number: usize, id: TransactionId) -> bool {
        let host = self.state.participants[number].get();
        let resource = &host.resource;
        host.log.durable.contains_key(&crate::log::Key::Transaction(id))
            || resource.calls.iter().any(|(at_work, _)| *at_work == id)
            || resource.holds.contains(&id)
            || self.is_in_doubt(number, id)
    }

    /// What a coordinator is told at the beginning of a session.
    fn reports(&self, number: usize) -> Vec<OnePhaseReport> {
        let host = self.state.participants[number].get();
        let Some(core) = &host.core else {
            return Vec::new();
        };
        if self.lies(Lie::ReportsNothing) {
            return Vec::new();
        }
        let durable = match self.lies(Lie::ReportsEarly) {
            true => Position(u64::MAX),
            false => host.log.position(),
        };
        core.one_phase_commits(durable)
            .map(|(id, request)| OnePhaseReport {
                id,
                request_id: request.cloned().filter(|_| !self.lies(Lie::ReportWithoutName)),
            })
            .collect()
    }
}
