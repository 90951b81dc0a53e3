//! What a resource answers, and what that makes of its branch.

use std::sync::Arc;

use bytes::Bytes;

use super::branch::{Before, Branch, Doomed, Finishing, InDoubt, Preparing};
use super::inputs::{Action, Alarm, Ending, Event, ResourceCall, ResourceResult};
use super::{Participant, no};
use crate::id::TransactionId;
use crate::marks::{Mark, mark};
use crate::message::{FromParticipant, Vote};
use crate::mutants::{Mutant, mutant};
use crate::record::{OnePhaseCommit, ParticipantEntry, ParticipantRecord, PreparedBranch};
use crate::step::{Now, TimerKey};

impl<W> Participant<W> {
    pub(super) fn resource_result(&mut self, now: Now, id: TransactionId, result: ResourceResult) {
        let Some(place) = self.branches.get_mut(&id) else { return };
        // Each of them puts something in its place.
        match std::mem::replace(place, Branch::Changing) {
            Branch::Preparing(preparing) => self.was_prepared(now, id, preparing, result),
            Branch::Committing(finishing) => self.was_committed(now, id, finishing, result),
            Branch::Aborting(finishing) => self.was_aborted(now, id, finishing, result),
            other => *place = other,
        }
    }

    fn was_prepared(
        &mut self,
        now: Now,
        id: TransactionId,
        preparing: Preparing<W>,
        result: ResourceResult,
    ) {
        let mut preparing = preparing;
        let doomed = preparing.doomed.take().filter(|_| !mutant(Mutant::DoomedVotesPrepared));
        let durable_abort = doomed.as_ref().and_then(|doomed| doomed.at);
        let commits = matches!(&result, ResourceResult::Prepared { .. }) && doomed.is_none();
        let is_no = matches!(&result, ResourceResult::No { .. } | ResourceResult::Failed { .. });
        let durable_abort = match durable_abort {
            None if is_no || doomed.is_some() => self.force_no(id),
            known => known,
        };
        if preparing.voting.is_some() && doomed.is_none() {
            match result {
                ResourceResult::Prepared { result, changes } => {
                    return self.vote_as_site(now, id, preparing, (result, changes), false);
                }
                ResourceResult::ReadOnly { result } => {
                    return self.vote_as_site(now, id, preparing, (result, Vec::new()), true);
                }
                _ => {}
            }
        }
        let Preparing { origin, peers, one_phase, vias, .. } = preparing;
        if let Some(Some(request)) = &one_phase
            && !commits
            && self.requests.get(request) == Some(&id)
        {
            self.requests.remove(request);
        }
        match result {
            ResourceResult::Prepared { result, changes } => {
                if let Some(Doomed { vias: told, .. }) = doomed {
                    mark(Mark::DoomedPrepared);
                    self.vote(vias, id, no("aborted while it was being prepared"), Bytes::new());
                    // What the resource wanted written is not: the branch never became prepared.
                    let finishing = Finishing {
                        vias: told,
                        leaders: Vec::new(),
                        attempts: 0,
                        at_work: true,
                        before: Before::Unprepared,
                        at: durable_abort,
                    };
                    self.branches.insert(id, Branch::Aborting(finishing));
                    return self.call(id, ResourceCall::Abort);
                }
                if let Some(request_id) = one_phase {
                    let before = Before::OnePhase { request_id, result, changes };
                    let leaders = Vec::new();
                    let finishing =
                        Finishing { vias, leaders, attempts: 0, at_work: true, before, at: None };
                    self.branches.insert(id, Branch::Committing(finishing));
                    return self.call(id, ResourceCall::Commit);
                }
                mark(Mark::Prepared);
                let record = Arc::new(PreparedBranch {
                    id,
                    coordinator_incarnation: origin.incarnation,
                    coordinator_endpoint: origin.endpoint,
                    peers: if mutant(Mutant::PeersNotRecorded) { Vec::new() } else { peers },
                    result: result.clone(),
                    since_ms: now.wall_ms,
                });
                let at = self.force(ParticipantRecord::Prepared(Arc::clone(&record)), changes);
                if mutant(Mutant::VoteBeforeDurable) {
                    self.out.ungate();
                }
                self.vote(vias, id, Vote::Prepared, result);
                self.out.act(Action::Note(Event::Prepared { id }));
                let waiting_for = "the coordinator's decision".into();
                let in_doubt = InDoubt { record, at, inquiries: 0, unanswered: 0, waiting_for };
                self.branches.insert(id, Branch::Prepared(in_doubt));
                self.arm_inquiry(now, id, 0);
            }
            // A peer may have been promised that this branch does not let the transaction commit.
            ResourceResult::ReadOnly { .. }
                if doomed.is_some() && !mutant(Mutant::DoomedVotesReadOnly) =>
            {
                mark(Mark::DoomedReadOnly);
                self.vote(vias, id, no("aborted while it was being prepared"), Bytes::new());
                self.finish(id, Ending::Aborted, durable_abort, false);
                self.respond_aborted(doomed, id);
            }
            ResourceResult::ReadOnly { result } => {
                mark(Mark::ReadOnly);
                self.vote(vias, id, Vote::ReadOnly, result);
                self.finish(id, Ending::ReadOnly, None, false);
            }
            ResourceResult::No { reason } | ResourceResult::Failed { reason } => {
                self.vote(vias, id, no(&reason), Bytes::new());
                self.finish(id, Ending::Aborted, durable_abort, false);
                self.respond_aborted(doomed, id);
            }
            ResourceResult::Done { .. } | ResourceResult::Unknown => {
                unreachable!("the driver answers a prepare with a vote")
            }
        }
    }

    fn was_committed(
        &mut self,
        now: Now,
        id: TransactionId,
        mut finishing: Finishing<W>,
        result: ResourceResult,
    ) {
        let changes = match result {
            ResourceResult::Done { changes } => changes,
            ResourceResult::Unknown => {
                mark(Mark::ResourceLost);
                self.alarm(id, Alarm::ResourceLostBranch);
                finishing.attempts = finishing.attempts.saturating_add(1);
                return self.try_again(now, id, Branch::Committing(finishing));
            }
            ResourceResult::Failed { reason } => {
                mark(Mark::ResourceFailed);
                self.out.act(Action::Note(Event::ResourceFailed { id, reason }));
                finishing.attempts = finishing.attempts.saturating_add(1);
                return self.try_again(now, id, Branch::Committing(finishing));
            }
            _ => unreachable!("the driver answers a commit with an end"),
        };
        match finishing.before {
            Before::Voted(_) => self.settle(now, id, finishing, true, changes),
            Before::OnePhase { request_id, result, changes: mut all } => {
                if !mutant(Mutant::OnePhaseWritesLost) {
                    all.extend(changes);
                }
                if let Some(request) = &request_id {
                    self.requests.insert(request.clone(), id);
                }
                mark(Mark::OnePhaseCommit);
                let commit = OnePhaseCommit {
                    id,
                    request_id,
                    result: result.clone(),
                    since_ms: now.wall_ms,
                };
                let at = self.force(ParticipantRecord::OnePhase(commit.clone()), all);
                self.vote(finishing.vias, id, Vote::Committed { earlier: None }, result);
                self.branches.insert(id, Branch::OnePhase { commit, at });
                self.answer_followers(id);
                self.ended(id, Ending::Committed, false);
            }
            Before::Prepared(_) | Before::Unprepared => {
                let at = self.force(ParticipantRecord::Finished { id, committed: true }, changes);
                if mutant(Mutant::AckBeforeDurable) {
                    self.out.ungate();
                }
                for via in finishing.vias {
                    self.respond(via, FromParticipant::Committed { id });
                }
                self.finish(id, Ending::Committed, Some(at), true);
            }
        }
    }

    fn was_aborted(
        &mut self,
        now: Now,
        id: TransactionId,
        mut finishing: Finishing<W>,
        result: ResourceResult,
    ) {
        let changes = match result {
            ResourceResult::Done { changes } => changes,
            ResourceResult::Unknown => Vec::new(),
            ResourceResult::Failed { reason } => {
                mark(Mark::ResourceFailed);
                self.out.act(Action::Note(Event::ResourceFailed { id, reason }));
                finishing.attempts = finishing.attempts.saturating_add(1);
                return self.try_again(now, id, Branch::Aborting(finishing));
            }
            _ => unreachable!("the driver answers an abort with an end"),
        };
        if matches!(finishing.before, Before::Voted(_)) {
            return self.settle(now, id, finishing, false, changes);
        }
        let was_prepared = matches!(finishing.before, Before::Prepared(_));
        let mut at = finishing.at;
        if was_prepared || !changes.is_empty() {
            let record = ParticipantRecord::Finished { id, committed: false };
            self.out.lazily(ParticipantEntry { record, changes });
            at = at.or(Some(self.out.position()));
        }
        for via in finishing.vias {
            self.respond(via, FromParticipant::Aborted { id });
        }
        self.finish(id, Ending::Aborted, at, was_prepared);
    }

    fn try_again(&mut self, now: Now, id: TransactionId, mut branch: Branch<W>) {
        let attempts = match &mut branch {
            Branch::Committing(finishing) | Branch::Aborting(finishing) => {
                finishing.at_work = false;
                finishing.attempts
            }
            _ => 0,
        };
        self.branches.insert(id, branch);
        let wait = self.backoff(self.config.retry_after_us, attempts);
        self.out.timer(TimerKey::Transaction(id), Some(now.at.plus(wait)));
    }
}
