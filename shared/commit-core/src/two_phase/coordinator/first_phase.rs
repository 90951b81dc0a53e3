//! The first phase: asking for votes, counting them, and the decision.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::Coordinator;
use super::inputs::{Action, Alarm, Event, Inquiry, Outcome, Reply, Stored};
use super::transaction::{Asked, Phase, Transaction, Voter};
use crate::id::{Incarnation, ParticipantName, TransactionId};
use crate::marks::{Mark, mark};
use crate::message::{FromParticipant, Prepare, ToParticipant, Vote};
use crate::mutants::{Mutant, mutant};
use crate::record::{AbortCause, AbortReason, Commit, CoordinatorRecord, Ended};
use crate::step::Now;

impl<W> Coordinator<W> {
    pub(super) fn prepare(
        &mut self,
        now: Now,
        id: TransactionId,
        asked: BTreeMap<ParticipantName, Asked>,
    ) {
        let wait = self.backoff(0);
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return;
        };
        transaction.resend_at = now.at.plus(wait);
        let mut asked = asked;
        for (name, branch) in &mut asked {
            let link = self.links.entry(name.clone()).or_default();
            link.voting.insert(id);
            if id.is_three_phase() && branch.enlisted.is_none() {
                branch.enlisted = link.incarnation;
            }
        }
        let only =
            (asked.len() == 1 && !id.is_three_phase()).then(|| asked.iter().next()).flatten();
        transaction.phase = match only {
            Some((name, asked)) => Phase::Delegated {
                participant: name.clone(),
                work: asked.work.clone(),
                stopping: None,
                asked: 0,
            },
            None => Phase::Preparing { asked },
        };
        self.note(Event::Preparing { id });
        if let Some(name) = self.only_called(id) {
            return self.abort_only_called(now, id, name);
        }
        if let Some(name) = self.out_of_reach(id) {
            mark(Mark::Unreachable);
            let reason = AbortReason {
                cause: AbortCause::Unreachable,
                message: format!("{name} is not connected, and enough work waits for it already"),
                participant: Some(name),
            };
            return self.abort_unasked(now, id, reason);
        }
        self.ask(id, None);
        self.rearm(id);
    }

    /// A participant that is connected and has no session: it cannot take part in three-phase commit.
    fn only_called(&self, id: TransactionId) -> Option<ParticipantName> {
        let Phase::Preparing { asked } = &self.transactions.get(&id)?.phase else {
            return None;
        };
        let lacks = |name: &&ParticipantName| {
            let link = self.links.get(*name);
            link.is_some_and(|link| link.connected && link.incarnation.is_none())
        };
        asked.keys().filter(|_| id.is_three_phase()).find(lacks).cloned()
    }

    /// A participant that is not connected, and for which so many transactions wait already that more
    /// would use up what all participants share.
    fn out_of_reach(&self, id: TransactionId) -> Option<ParticipantName> {
        let waiting_max = (self.config.undecided_max / 4).max(1);
        self.transactions.get(&id)?.participants().into_iter().find(|name| {
            self.links
                .get(name)
                .is_some_and(|link| !link.connected && link.voting.len() > waiting_max)
        })
    }

    /// Sends PREPARE (or, when a one-phase commit is being stopped, ABORT) to those who have not
    /// answered and are connected; only to `to` when given.
    pub(super) fn ask(&mut self, id: TransactionId, to: Option<&ParticipantName>) {
        let sites = match self.transactions.get(&id).map(|transaction| &transaction.phase) {
            Some(Phase::Voted(_)) => return self.lead(id, to),
            Some(Phase::Preparing { asked }) if id.is_three_phase() => match self.sites_of(asked) {
                Some(sites) => Some(sites),
                None => return mark(Mark::ThreeLogUnknown),
            },
            _ => None,
        };
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return;
        };
        let links = &self.links;
        let reachable = |name: &ParticipantName| {
            to.is_none_or(|to| to == name) && links.get(name).is_some_and(|link| link.connected)
        };
        match &mut transaction.phase {
            Phase::Preparing { asked } => {
                let names: Vec<_> = asked.keys().cloned().collect();
                for (name, branch) in asked.iter_mut().filter(|(_, branch)| branch.vote.is_none()) {
                    if reachable(name) {
                        branch.owed = sites.is_some();
                        let message = ToParticipant::Prepare(Prepare {
                            id,
                            work: branch.work.clone(),
                            peers: names.iter().filter(|peer| *peer != name).cloned().collect(),
                            one_phase: false,
                            request_id: None,
                            voting: sites
                                .as_ref()
                                .and_then(|sites| Self::voting_of(sites, name).map(Box::new)),
                        });
                        self.out.act(Action::Send { to: name.clone(), message });
                    }
                }
            }
            Phase::Delegated { participant, work, stopping, asked } => {
                if reachable(participant) {
                    *asked = asked.saturating_add(1);
                    let message = match stopping {
                        Some(_) => ToParticipant::Abort { id },
                        None => {
                            mark(Mark::OnePhaseAsked);
                            ToParticipant::Prepare(Prepare {
                                id,
                                work: work.clone(),
                                peers: Vec::new(),
                                one_phase: true,
                                request_id: transaction
                                    .request
                                    .as_ref()
                                    .map(|request| request.id.clone()),
                                voting: None,
                            })
                        }
                    };
                    self.out.act(Action::Send { to: participant.clone(), message });
                }
            }
            Phase::Active { .. }
            | Phase::Committing { .. }
            | Phase::Voted(_)
            | Phase::Delivering(_) => {}
        }
    }

    pub(super) fn received(
        &mut self,
        now: Now,
        from: ParticipantName,
        message: FromParticipant,
        stored: Option<Stored>,
    ) {
        match message {
            FromParticipant::Voted { id, vote, incarnation, result } => {
                self.voted(now, from, id, vote, incarnation, result, stored);
            }
            FromParticipant::Committed { id } => self.acknowledged(now, &from, id),
            FromParticipant::Aborted { id } => self.aborted_there(now, &from, id),
            FromParticipant::Refused { id, reason } => self.refused_there(now, &from, id, reason),
        }
    }

    #[allow(clippy::too_many_arguments)] // the fields of one message, and what goes with it
    pub(super) fn voted(
        &mut self,
        now: Now,
        from: ParticipantName,
        id: TransactionId,
        vote: Vote,
        incarnation: Incarnation,
        result: Bytes,
        stored: Option<Stored>,
    ) {
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return self.voted_too_late(now, from, id, &vote, stored);
        };
        match &mut transaction.phase {
            Phase::Preparing { asked } => {
                let Some(branch) = asked.get_mut(&from) else {
                    mark(Mark::VoteOfAStranger);
                    return self.alarm(id, &from, Alarm::VoteOfAStranger);
                };
                if branch.vote.is_some() {
                    return mark(Mark::VoteRepeated); // it changes nothing
                }
                if id.is_three_phase() && !branch.owed {
                    // Nobody is asked before the logs of all are known, and who votes all the same knows no sites.
                    mark(Mark::VoteOfAStranger);
                    return self.alarm(id, &from, Alarm::VoteOfAStranger);
                }
                if branch.enlisted.is_some_and(|enlisted| enlisted != incarnation)
                    && !mutant(Mutant::ChangedLogCounted)
                {
                    return self.lost_its_log(now, from, id);
                }
                self.links.entry(from.clone()).or_default().voting.remove(&id);
                match vote {
                    Vote::Prepared => {
                        branch.vote =
                            Some(Voter { incarnation, acknowledged: false, read_only: false });
                    }
                    Vote::ReadOnly => {
                        branch.vote =
                            Some(Voter { incarnation, acknowledged: true, read_only: true });
                    }
                    Vote::No { reason } => {
                        // Its no is on its disk, and is its acknowledgement.
                        branch.owed = false;
                        branch.vote =
                            Some(Voter { incarnation, acknowledged: true, read_only: true });
                        if !mutant(Mutant::NoCountedReadOnly) {
                            return self.voted_no(now, from, id, reason);
                        }
                    }
                    Vote::Committed { .. } => {
                        mark(Mark::CommittedUnasked);
                        return self.alarm(id, &from, Alarm::CommittedUnasked);
                    }
                }
                if !result.is_empty() {
                    transaction.results.insert(from.clone(), result);
                }
                // The work will not be sent again.
                branch.work = None;
                let missing = asked.values().filter(|branch| branch.vote.is_none()).count();
                let complete = missing == 0 || missing == 1 && mutant(Mutant::MissingVoteCounted);
                self.note(Event::Voted { id, participant: from });
                if complete {
                    self.decide(now, id);
                }
            }
            Phase::Delegated { participant, stopping, .. } => {
                if *participant != from {
                    mark(Mark::VoteOfAStranger);
                    return self.alarm(id, &from, Alarm::VoteOfAStranger);
                }
                let stopping = stopping.clone();
                if !result.is_empty() {
                    transaction.results.insert(from.clone(), result);
                }
                match vote {
                    Vote::No { reason } => match stopping {
                        Some(why) => {
                            mark(Mark::OnePhaseStopped);
                            self.abort(now, id, why);
                        }
                        None => self.voted_no(now, from, id, reason),
                    },
                    Vote::Committed { earlier: Some(earlier) } if !self.may_have_begun(earlier) => {
                        mark(Mark::CommittedStrange);
                        self.alarm(id, &from, Alarm::CommittedStrange { earlier });
                    }
                    Vote::Committed { earlier } => self.committed_in_one_phase(now, id, earlier),
                    Vote::ReadOnly => {
                        mark(Mark::OnePhaseReadOnly);
                        self.link(&from).voting.remove(&id);
                        self.note(Event::Voted { id, participant: from.clone() });
                        let voter = Voter { incarnation, acknowledged: true, read_only: true };
                        self.end_without_decision(now, id, BTreeMap::from([(from, voter)]));
                    }
                    // The participant did not take the permission: the decision is ours.
                    Vote::Prepared => {
                        mark(Mark::OnePhaseDeclined);
                        self.link(&from).voting.remove(&id);
                        self.note(Event::Voted { id, participant: from.clone() });
                        let voter = Voter { incarnation, acknowledged: false, read_only: false };
                        let asked = Asked { vote: Some(voter), ..Asked::new(None, None) };
                        if let Some(transaction) = self.transactions.get_mut(&id) {
                            transaction.phase =
                                Phase::Preparing { asked: BTreeMap::from([(from, asked)]) };
                        }
                        match stopping {
                            Some(reason) => self.abort(now, id, reason),
                            None => self.decide(now, id),
                        }
                    }
                }
            }
            // A vote that was repeated on the way, or a question whose answer is on its way.
            Phase::Committing { .. } | Phase::Voted(_) | Phase::Delivering(_) => {
                mark(Mark::VoteAfterDecision);
            }
            Phase::Active { .. } => {
                mark(Mark::VoteOfAStranger);
                self.alarm(id, &from, Alarm::VoteOfAStranger);
            }
        }
    }

    /// A vote for a transaction that is over here: whoever holds a prepared branch is told its end.
    pub(super) fn voted_too_late(
        &mut self,
        now: Now,
        from: ParticipantName,
        id: TransactionId,
        vote: &Vote,
        stored: Option<Stored>,
    ) {
        match vote {
            Vote::Prepared if mutant(Mutant::LateVoteUnanswered) => {}
            Vote::ReadOnly if !id.is_three_phase() => {}
            Vote::Prepared | Vote::ReadOnly => {
                match stored {
                    Some(Stored::Committed { .. }) => mark(Mark::VoteAfterEnd),
                    Some(Stored::Aborted | Stored::Expired) | None => mark(Mark::VoteAfterAbort),
                }
                let incarnation = self.identity.incarnation;
                let inquiry = Inquiry { id, incarnation, participant: from };
                self.answer_over_link(now, &inquiry, stored);
            }
            // Answered already; what it says of the earlier attempt, the next session says again.
            Vote::Committed { earlier: Some(_) } => {}
            // Repeated on the way, or told at the connect before: it is told to forget when that is due.
            Vote::Committed { earlier: None } => match stored {
                Some(Stored::Committed { .. }) => self.forget(from, id),
                Some(Stored::Aborted) => {
                    mark(Mark::CommittedAborted);
                    self.alarm(id, &from, Alarm::CommittedAborted);
                }
                Some(Stored::Expired) | None => {}
            },
            Vote::No { .. } => {}
        }
    }

    pub(super) fn voted_no(
        &mut self,
        now: Now,
        from: ParticipantName,
        id: TransactionId,
        reason: String,
    ) {
        mark(Mark::VotedNo);
        self.link(&from).voting.remove(&id);
        self.note(Event::VotedNo { id, participant: from.clone(), reason: reason.clone() });
        let reason =
            AbortReason { cause: AbortCause::VotedNo, message: reason, participant: Some(from) };
        self.abort(now, id, reason);
    }

    pub(crate) fn lost_its_log(&mut self, now: Now, from: ParticipantName, id: TransactionId) {
        mark(Mark::VoteOfAnotherLog);
        self.alarm(id, &from, Alarm::IncarnationChanged);
        let reason = AbortReason {
            cause: AbortCause::VotedNo,
            message: format!("{from} has another log than when it joined; its work is lost"),
            participant: Some(from),
        };
        self.abort(now, id, reason);
    }

    pub(super) fn not_sent(&mut self, now: Now, to: &ParticipantName, id: TransactionId) {
        // Commits stay in the window and are repeated by its timer. Of a PREPARE that never left the
        // process nobody knows anything: better a quick no than a slow one.
        if let Some(Transaction { phase: Phase::Preparing { asked }, .. }) =
            self.transactions.get(&id)
            && asked.get(to).is_some_and(|branch| branch.vote.is_none())
        {
            mark(Mark::NotSent);
            let reason = AbortReason {
                cause: AbortCause::Unreachable,
                participant: Some(to.clone()),
                message: format!("the queue of messages to {to} is full"),
            };
            self.abort(now, id, reason);
        }
    }

    // ---- the decision ---------------------------------------------------------------------------

    /// Every branch has voted, and none has voted no.
    pub(super) fn decide(&mut self, now: Now, id: TransactionId) {
        if id.is_three_phase() {
            return self.pre_commit(now, id);
        }
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return;
        };
        let Phase::Preparing { asked } = &mut transaction.phase else {
            unreachable!(
                "decide() is called when the votes of a preparing transaction are complete"
            )
        };
        let voters: BTreeMap<ParticipantName, Voter> = std::mem::take(asked)
            .into_iter()
            .map(|(name, branch)| match branch.vote {
                Some(vote) => (name, vote),
                None if mutant(Mutant::MissingVoteCounted)
                    || mutant(Mutant::VoteTimeoutCommits) =>
                {
                    let incarnation = branch.enlisted.unwrap_or(Incarnation(1));
                    (name, Voter { incarnation, acknowledged: false, read_only: false })
                }
                None => unreachable!("decide() is called when the votes are complete"),
            })
            .collect();
        let prepared: Vec<_> = voters
            .iter()
            .filter(|(_, voter)| !voter.read_only)
            .map(|(name, voter)| (name.clone(), voter.incarnation))
            .collect();
        if prepared.is_empty() {
            mark(Mark::AllReadOnly);
            return self.end_without_decision(now, id, voters);
        }
        if prepared.len() < voters.len() {
            mark(Mark::ReadOnlyLeftOut);
        }
        mark(Mark::Decided);
        transaction.phase = Phase::Committing { voters, pending: prepared.len() };
        transaction.decided_ms = now.wall_ms;
        transaction.decided_at = self.out.force(CoordinatorRecord::Commit(Commit {
            id,
            voters: prepared.clone(),
            request: transaction.request.clone().filter(|_| !mutant(Mutant::RequestNotRecorded)),
            info: Arc::clone(&transaction.info),
            started_ms: transaction.started_ms,
            decided_ms: now.wall_ms,
        }));
        if mutant(Mutant::DecisionNotForced) {
            transaction.decided_at = self.out.ungate();
        }
        self.undecided.remove(&id);
        self.note(Event::Decided { id });
        self.answer_waiters(now, id);
        for (participant, incarnation) in prepared {
            self.deliver(now, participant, id, incarnation);
        }
        self.rearm(id);
    }

    /// Nobody has anything to commit: no branch, or all of them read-only. The answer is "committed",
    /// and the record only remembers it for whoever asks later.
    pub(super) fn end_without_decision(
        &mut self,
        now: Now,
        id: TransactionId,
        voters: BTreeMap<ParticipantName, Voter>,
    ) {
        self.undecided.remove(&id);
        if let Some(transaction) = self.transactions.get_mut(&id) {
            transaction.phase = Phase::Committing { voters, pending: 0 };
            transaction.decided_ms = now.wall_ms;
        }
        self.note(Event::Decided { id });
        self.answer_waiters(now, id);
        self.end(now, id, false);
    }

    pub(super) fn committed_in_one_phase(
        &mut self,
        now: Now,
        id: TransactionId,
        earlier: Option<TransactionId>,
    ) {
        let Some(mut transaction) = self.remove(id) else {
            return;
        };
        let Phase::Delegated { participant, .. } = &transaction.phase else {
            unreachable!("called for one-phase commits only")
        };
        let participant = participant.clone();
        mark(if earlier.is_some() { Mark::OnePhaseEarlier } else { Mark::OnePhaseDecided });
        // An earlier attempt may have done the work: its id is the one that committed.
        let committed = earlier.unwrap_or(id);
        self.note(Event::Decided { id: committed });
        let results = std::mem::take(&mut transaction.results);
        for waiter in std::mem::take(&mut transaction.waiters) {
            let mut outcome = Outcome::committed(committed, earlier.is_some());
            outcome.results = results.clone().into_iter().collect();
            let reply = Reply::Outcome(outcome);
            self.out.act(Action::Reply { to: waiter.to, reply });
        }
        self.end_one_phase(Ended {
            id: committed,
            outcome: Ok(()),
            request: transaction.request,
            participants: vec![participant],
            info: transaction.info,
            started_ms: transaction.started_ms,
            ended_ms: now.wall_ms,
            decision_logged: false,
        });
    }
}
