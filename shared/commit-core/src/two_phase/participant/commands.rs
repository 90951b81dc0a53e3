//! What a coordinator tells a participant to do.

use bytes::Bytes;

use super::branch::{Before, Branch, Doomed, Finishing, Preparing, wait_too};
use super::inputs::{Action, Alarm, Ending, Origin, ResourceCall, Via};
use super::{Participant, no};
use crate::id::{Incarnation, ParticipantName, TransactionId};
use crate::marks::{Mark, mark};
use crate::message::{FromParticipant, Inquired, Prepare, Vote};
use crate::mutants::{Mutant, mutant};
use crate::record::ParticipantRecord;
use crate::step::{Now, TimerKey};

impl<W> Participant<W> {
    pub(super) fn prepare(
        &mut self,
        prepare: Prepare,
        peers: Vec<(ParticipantName, String)>,
        origin: Origin,
        via: Via<W>,
    ) {
        let Prepare { id, work, one_phase, request_id, voting, .. } = prepare;
        if let Some(reason) = self.voting_refused(id, voting.as_deref()) {
            mark(Mark::ThreePrepareRefused);
            return self.respond_refused(via, id, reason.to_owned());
        }
        let voting = voting.filter(|_| id.is_three_phase());
        if self.stopping && mutant(Mutant::StoppingRefusesAll) {
            return self.respond_refused(via, id, "stopping".to_owned());
        }
        // Whatever the resource can do now: it may have been able to commit alone before a restart. An
        // attempt that is doomed will not commit any more, and stands in nobody's way.
        let earlier = request_id
            .as_ref()
            .filter(|_| one_phase)
            .and_then(|request| self.requests.get(request).copied())
            .filter(|earlier| !self.is_doomed(*earlier) || mutant(Mutant::DoomedFollowed))
            .filter(|_| !mutant(Mutant::EarlierAttemptIgnored));
        let one_phase = (one_phase && self.config.one_phase).then_some(request_id);
        let preparing =
            |via| Preparing { origin, peers, one_phase, voting, vias: vec![via], doomed: None };
        match self.branches.remove(&id) {
            None => {
                if self.is_passed(id) {
                    mark(Mark::PrepareOfPassed);
                    let vote = no("this request comes too late: its transaction is over");
                    return self.vote(vec![via], id, vote, Bytes::new());
                }
                if let Some(earlier) = earlier {
                    return self.follow(id, earlier, via);
                }
                if work.is_none() {
                    mark(Mark::PrepareWithoutWork);
                    if let Some(at) = self.force_no(id) {
                        self.remember(id, Ending::Aborted, Some(at));
                    }
                    let vote = no("no work of this transaction is here: the participant has \
                                   restarted, or has given it up");
                    return self.vote(vec![via], id, vote, Bytes::new());
                }
                if self.stopping {
                    mark(Mark::PrepareWhileStopping);
                    let reason = "the participant is stopping and takes no new work".to_owned();
                    return self.respond_refused(via, id, reason);
                }
                self.start_preparing(id, work, preparing(via));
            }
            Some(Branch::Changing) => unreachable!("no step ends between two states"),
            Some(Branch::Session { .. }) => {
                self.out.timer(TimerKey::Transaction(id), None);
                self.start_preparing(id, None, preparing(via));
            }
            Some(Branch::Preparing(mut preparing)) => {
                mark(Mark::PrepareJoins);
                wait_too(&mut preparing.vias, via);
                self.branches.insert(id, Branch::Preparing(preparing));
            }
            Some(Branch::Following { earlier, mut vias }) => {
                wait_too(&mut vias, via);
                self.branches.insert(id, Branch::Following { earlier, vias });
                self.answer_followers(earlier);
            }
            Some(Branch::Prepared(in_doubt)) => {
                mark(Mark::PrepareOfPrepared);
                if !mutant(Mutant::RepeatedVoteBeforeDurable) {
                    self.out.speaks_of(in_doubt.at);
                }
                let result = in_doubt.record.result.clone();
                self.branches.insert(id, Branch::Prepared(in_doubt));
                self.vote(vec![via], id, Vote::Prepared, result);
            }
            Some(branch @ Branch::Voted(_)) => {
                self.branches.insert(id, branch);
                self.vote_again(id, via);
            }
            Some(branch @ Branch::Decided(_)) => {
                mark(Mark::PrepareOfEnded);
                self.branches.insert(id, branch);
                let vote = match self.asked(id) {
                    Inquired::Commit => Vote::Prepared,
                    _ => no("the transaction is aborted"),
                };
                self.vote(vec![via], id, vote, Bytes::new());
            }
            Some(Branch::Committing(mut finishing)) => {
                match &finishing.before {
                    Before::Voted(told) => {
                        let result = told.record.result.clone();
                        self.vote(vec![via], id, Vote::Prepared, result);
                    }
                    Before::OnePhase { .. } => wait_too(&mut finishing.vias, via),
                    // Repeated on the way, long after the vote was counted: the same vote again, which
                    // nobody counts twice. A refusal would look like one of the commit.
                    Before::Prepared(record) => {
                        let result = record.result.clone();
                        self.vote(vec![via], id, Vote::Prepared, result);
                    }
                    Before::Unprepared => unreachable!("only a prepared branch is committed"),
                }
                self.branches.insert(id, Branch::Committing(finishing));
            }
            Some(Branch::OnePhase { commit, at }) => {
                mark(Mark::OnePhaseRepeated);
                self.out.speaks_of(at);
                let result = commit.result.clone();
                self.branches.insert(id, Branch::OnePhase { commit, at });
                self.vote(vec![via], id, Vote::Committed { earlier: None }, result);
            }
            // It voted, and has not written how it ends: a no would be taken for its acknowledgement.
            Some(Branch::Aborting(finishing @ Finishing { before: Before::Voted(_), .. })) => {
                mark(Mark::ThreeVotedWhileAborting);
                let Before::Voted(told) = &finishing.before else {
                    unreachable!("the pattern above")
                };
                self.out.speaks_of(told.at);
                let result = told.record.result.clone();
                self.branches.insert(id, Branch::Aborting(finishing));
                self.vote(vec![via], id, Vote::Prepared, result);
            }
            Some(branch @ Branch::Aborting(_)) => {
                mark(Mark::PrepareOfEnded);
                self.branches.insert(id, branch);
                self.last_of_no(id);
                self.vote(vec![via], id, no("the branch was given up"), Bytes::new());
            }
            Some(branch @ Branch::Finished { ending, .. }) => {
                mark(Mark::PrepareOfEnded);
                self.branches.insert(id, branch);
                match ending {
                    Ending::Aborted => {
                        self.last_of_no(id);
                        self.vote(vec![via], id, no("the branch was given up"), Bytes::new());
                    }
                    Ending::ReadOnly => self.vote(vec![via], id, Vote::ReadOnly, Bytes::new()),
                    Ending::Committed => {
                        self.vote(vec![via], id, Vote::Prepared, Bytes::new());
                    }
                }
            }
        }
    }

    /// A voting site that has aborted by itself says no when that is on its disk.
    fn last_of_no(&mut self, id: TransactionId) {
        if id.is_three_phase() {
            self.asked(id);
        }
    }

    /// True when the branch is at work and will be aborted.
    fn is_doomed(&self, id: TransactionId) -> bool {
        matches!(self.branches.get(&id), Some(Branch::Preparing(preparing)) if preparing.doomed.is_some())
    }

    /// An earlier attempt of the same request is here: its end is the answer to this one. It may have
    /// been begun under a coordinator that has restarted since. To say no would be to say that the request
    /// was not carried out, and to begin would be to carry it out twice.
    fn follow(&mut self, id: TransactionId, earlier: TransactionId, via: Via<W>) {
        mark(Mark::Followed);
        self.branches.insert(id, Branch::Following { earlier, vias: vec![via] });
        let followers = self.followers.entry(earlier).or_default();
        if !followers.contains(&id) {
            followers.push(id);
        }
        self.answer_followers(earlier);
    }

    /// Tells them what has become of the attempt that they follow, if it has come to its end.
    pub(super) fn answer_followers(&mut self, earlier: TransactionId) {
        let (committed, aborted) = match self.branches.get(&earlier) {
            Some(Branch::OnePhase { commit, at }) => (Some((commit.result.clone(), *at)), false),
            Some(Branch::Finished { .. }) => (None, true),
            _ => (None, false),
        };
        let Some(followers) = self.followers.get(&earlier).cloned() else {
            return;
        };
        for id in followers {
            let Some(Branch::Following { vias, .. }) = self.branches.get_mut(&id) else {
                continue;
            };
            if let Some((result, at)) = &committed {
                mark(Mark::FollowedToCommit);
                let vias = std::mem::take(vias);
                self.out.speaks_of(*at);
                let vote = Vote::Committed { earlier: Some(earlier) };
                self.vote(vias, id, vote, result.clone());
            } else if aborted {
                mark(Mark::FollowedToAbort);
                let vias = std::mem::take(vias);
                self.remember(id, Ending::Aborted, None);
                let vote = no("an earlier attempt of this request was at work here and has ended \
                               without a commit");
                self.vote(vias, id, vote, Bytes::new());
            }
        }
        if aborted {
            self.followers.remove(&earlier);
        }
    }

    fn start_preparing(&mut self, id: TransactionId, work: Option<Bytes>, preparing: Preparing<W>) {
        let only_branch = preparing.peers.is_empty();
        if let Some(Some(request)) = &preparing.one_phase {
            let doomed = self.requests.get(request).is_some_and(|holder| self.is_doomed(*holder));
            if doomed {
                mark(Mark::DoomedReplaced);
                self.requests.remove(request);
            }
            self.requests.entry(request.clone()).or_insert(id);
        }
        self.branches.insert(id, Branch::Preparing(preparing));
        self.call(id, ResourceCall::Prepare { work, only_branch });
    }

    pub(super) fn commit(
        &mut self,
        now: Now,
        id: TransactionId,
        incarnation: Incarnation,
        via: Via<W>,
    ) {
        let Err(via) = self.commit_as_site(now, id, via) else {
            return;
        };
        if let Some(place @ Branch::Prepared(_)) = self.branches.get_mut(&id)
            && let Branch::Prepared(in_doubt) = std::mem::replace(place, Branch::Changing)
        {
            mark(Mark::CommitOfPrepared);
            let before = Before::Prepared(in_doubt.record);
            let (vias, leaders) = (vec![via], Vec::new());
            *place = Branch::Committing(Finishing {
                vias,
                leaders,
                attempts: 0,
                at_work: true,
                before,
                at: None,
            });
            self.out.timer(TimerKey::Transaction(id), None);
            return self.call(id, ResourceCall::Commit);
        }
        match self.branches.remove(&id) {
            // It has never been here: somebody makes it up.
            None if incarnation == self.incarnation && !self.is_past(id) => {
                mark(Mark::CommitOfUnprepared);
                self.refuse_commit(via, id, Alarm::CommitOfUnprepared);
            }
            // Forgotten, because everybody knew; or lost.
            None if incarnation == self.incarnation || mutant(Mutant::LostBranchAcknowledged) => {
                mark(Mark::CommitOfForgotten);
                // It may have been forgotten while the record of its end was on its way to the disk.
                if !mutant(Mutant::ForgottenBeforeDurable) {
                    self.out.speaks_of(self.forgotten_at);
                }
                self.respond(via, FromParticipant::Committed { id });
            }
            None => {
                mark(Mark::CommitOfLost);
                self.alarm(id, Alarm::CommitOfLostBranch);
                let reason = Alarm::CommitOfLostBranch.to_string();
                self.respond_refused(via, id, reason);
            }
            Some(Branch::Committing(mut finishing)) => {
                if matches!(finishing.before, Before::OnePhase { .. }) {
                    mark(Mark::CommitOfUnprepared);
                    self.refuse_commit(via, id, Alarm::CommitOfUnprepared);
                } else {
                    mark(Mark::CommitJoins);
                    wait_too(&mut finishing.vias, via);
                }
                self.branches.insert(id, Branch::Committing(finishing));
            }
            Some(branch @ Branch::Finished { ending: Ending::Committed, at }) => {
                mark(Mark::CommitOfCommitted);
                self.out.speaks_of(at.unwrap_or_default());
                self.branches.insert(id, branch);
                self.respond(via, FromParticipant::Committed { id });
            }
            Some(Branch::OnePhase { commit, at }) => {
                self.out.speaks_of(at);
                self.branches.insert(id, Branch::OnePhase { commit, at });
                self.respond(via, FromParticipant::Committed { id });
            }
            Some(branch) => {
                let alarm = match &branch {
                    Branch::Session { .. } | Branch::Preparing(_) | Branch::Following { .. } => {
                        mark(Mark::CommitOfUnprepared);
                        Alarm::CommitOfUnprepared
                    }
                    _ => {
                        mark(Mark::CommitOfAborted);
                        Alarm::CommitOfAborted
                    }
                };
                self.branches.insert(id, branch);
                self.refuse_commit(via, id, alarm);
            }
        }
    }

    fn refuse_commit(&mut self, via: Via<W>, id: TransactionId, alarm: Alarm) {
        if mutant(Mutant::UnpreparedAcknowledged) {
            return self.respond(via, FromParticipant::Committed { id });
        }
        let reason = alarm.to_string();
        self.alarm(id, alarm);
        self.respond_refused(via, id, reason);
    }

    pub(super) fn abort(&mut self, now: Now, id: TransactionId, via: Via<W>) {
        if id.is_three_phase() {
            return self.abort_as_site(now, id, via);
        }
        match self.branches.remove(&id) {
            None => {
                mark(Mark::AbortOfUnknown);
                // The PREPARE may still be on its way: it must not find an unknown transaction.
                if !self.is_past(id) && !mutant(Mutant::AbortNotRemembered) {
                    self.remember(id, Ending::Aborted, None);
                }
                self.respond(via, FromParticipant::Aborted { id });
            }
            Some(Branch::Session { .. }) => {
                mark(Mark::AbortOfSession);
                self.start_aborting(id, Before::Unprepared, Some(via), None);
            }
            // Its end is that of the attempt that it follows, which may still be stopped as well.
            Some(Branch::Following { earlier, vias }) => {
                mark(Mark::StopOfFollower);
                self.branches.insert(id, Branch::Following { earlier, vias });
                if let Some(Branch::Preparing(preparing)) = self.branches.get_mut(&earlier) {
                    preparing.doomed.get_or_insert(Doomed { vias: Vec::new(), at: None });
                    self.call(earlier, ResourceCall::Cancel);
                }
                let reason =
                    format!("an earlier attempt of the same request, {earlier}, decides it");
                self.respond_refused(via, id, reason);
            }
            Some(Branch::Preparing(mut preparing)) => {
                mark(Mark::AbortOfPreparing);
                match &mut preparing.doomed {
                    Some(doomed) => wait_too(&mut doomed.vias, via),
                    None => preparing.doomed = Some(Doomed { vias: vec![via], at: None }),
                }
                self.branches.insert(id, Branch::Preparing(preparing));
                self.call(id, ResourceCall::Cancel);
            }
            Some(Branch::Prepared(in_doubt)) => {
                mark(Mark::AbortOfPrepared);
                self.start_aborting(id, Before::Prepared(in_doubt.record), Some(via), None);
            }
            Some(Branch::Aborting(mut finishing)) => {
                mark(Mark::AbortOfAborted);
                wait_too(&mut finishing.vias, via);
                self.branches.insert(id, Branch::Aborting(finishing));
            }
            Some(branch @ Branch::Finished { ending: Ending::Aborted | Ending::ReadOnly, .. }) => {
                mark(Mark::AbortOfAborted);
                self.branches.insert(id, branch);
                self.respond(via, FromParticipant::Aborted { id });
            }
            // A one-phase commit that has not reached the log: it will in a moment, so it has won.
            Some(branch) => {
                let one_phase = matches!(
                    &branch,
                    Branch::OnePhase { .. }
                        | Branch::Committing(Finishing { before: Before::OnePhase { .. }, .. })
                );
                self.branches.insert(id, branch);
                if one_phase && mutant(Mutant::StopObeyedTooLate) {
                    return self.respond(via, FromParticipant::Aborted { id });
                }
                mark(if one_phase { Mark::StopRefused } else { Mark::AbortOfCommitted });
                if !one_phase {
                    self.alarm(id, Alarm::AbortOfCommitted);
                }
                self.respond_refused(via, id, Alarm::AbortOfCommitted.to_string());
            }
        }
    }

    pub(super) fn start_aborting(
        &mut self,
        id: TransactionId,
        before: Before,
        via: Option<Via<W>>,
        at: Option<crate::step::Position>,
    ) {
        self.out.timer(TimerKey::Transaction(id), None);
        let (vias, leaders) = (via.into_iter().collect(), Vec::new());
        let finishing = Finishing { vias, leaders, attempts: 0, at_work: true, before, at };
        self.branches.insert(id, Branch::Aborting(finishing));
        self.call(id, ResourceCall::Abort);
    }

    /// An unprepared session ends on its own.
    pub(super) fn give_up(&mut self, id: TransactionId) {
        self.start_aborting(id, Before::Unprepared, None, None);
    }

    pub(super) fn forget(&mut self, id: TransactionId) {
        if id.is_three_phase() {
            return self.permitted(id);
        }
        if let Some(Branch::OnePhase { at, .. }) = self.branches.get(&id) {
            mark(Mark::Forgotten);
            let at = *at;
            self.release_request(id);
            for follower in self.followers.remove(&id).unwrap_or_default() {
                self.branches.remove(&follower);
            }
            // Still remembered as finished: a late PREPARE must not do the work again.
            if !self.is_past(id) {
                self.remember(id, Ending::Committed, Some(at));
                self.record_lazily(ParticipantRecord::Finished { id, committed: true });
            } else {
                self.branches.remove(&id);
                // First, as wherever something is forgotten: see heard().
                self.record_seen(id.slot());
                self.record_lazily(ParticipantRecord::Forgotten { id });
            }
        }
    }

    /// True when the id is of the latest epoch that was seen of its slot.
    pub(crate) fn is_current(&self, id: TransactionId) -> bool {
        self.slots.get(&id.slot()).is_none_or(|seen| id.epoch() >= seen.epoch)
    }

    /// True when no PREPARE can come for this transaction any more. Only then is its end forgotten, and where COMMIT
    /// may come again the log knows so before it forgets: it is true after a restart of whatever had been forgotten.
    pub(crate) fn is_past(&self, id: TransactionId) -> bool {
        !self.is_current(id) || self.is_passed(id)
    }

    /// The resource's own list, after a restart: what it holds without a vote in the log was never
    /// voted for, and is aborted. So is what the log says is aborted already: a peer was promised that
    /// while the resource was still preparing.
    pub(super) fn resource_holds(&mut self, ids: &[TransactionId]) {
        if mutant(Mutant::UnvotedKept) {
            return;
        }
        for id in ids {
            let at = match self.branches.get(id) {
                None => None,
                Some(Branch::Finished { ending: Ending::Aborted, at }) => *at,
                Some(_) => continue,
            };
            mark(Mark::ResourceUnvoted);
            self.finished.remove(id);
            self.start_aborting(*id, Before::Unprepared, None, at);
        }
    }

    pub(crate) fn note(&mut self, event: super::Event) {
        self.out.act(Action::Note(event));
    }
}
