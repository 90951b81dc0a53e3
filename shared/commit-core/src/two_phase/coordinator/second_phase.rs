//! After the votes: delivery, ends, aborts, what a participant reports.

use std::sync::Arc;

use super::inputs::{Action, Alarm, Event, OnePhaseReport, Outcome, Reply, Stored};
use super::transaction::{Phase, Transaction};
use super::{Coordinator, Ending};
use crate::id::{Incarnation, ParticipantName, Protocol, TransactionId};
use crate::marks::{Mark, mark};
use crate::message::ToParticipant;
use crate::mutants::{Mutant, mutant};
use crate::record::{AbortReason, CoordinatorRecord, Ended, Request};
use crate::step::{Now, TimerKey};
use crate::three_phase::SiteName;

impl<W> Coordinator<W> {
    // ---- delivery -------------------------------------------------------------------------------

    /// Owes a participant a decided commit, and sends it when the window allows.
    pub(super) fn deliver(
        &mut self,
        now: Now,
        participant: ParticipantName,
        id: TransactionId,
        incarnation: Incarnation,
    ) {
        let window = self.config.delivery_window;
        let link = self.link(&participant);
        link.wait(id);
        // Usually exactly this one. When older ones wait, they go first.
        match link.send_more(window).as_slice() {
            [] => {}
            [sent] if *sent == id => {
                let message = ToParticipant::Commit { id, incarnation };
                self.out.act(Action::Send { to: participant.clone(), message });
                self.arm_redelivery(now, &participant);
            }
            sent => {
                let sent = sent.to_vec();
                self.send_commits(now, &participant, &sent);
            }
        }
    }

    pub(crate) fn send_commits(
        &mut self,
        now: Now,
        participant: &ParticipantName,
        ids: &[TransactionId],
    ) {
        for id in ids {
            let Some(transaction) = self.transactions.get(id) else {
                continue;
            };
            let message = match &transaction.phase {
                Phase::Committing { voters, .. } => match voters.get(participant) {
                    Some(voter) => {
                        ToParticipant::Commit { id: *id, incarnation: voter.incarnation }
                    }
                    None => continue,
                },
                Phase::Delivering(delivering) => delivering.command(*id, participant),
                _ => continue,
            };
            if transaction.restored {
                mark(Mark::RestoredDelivered);
            }
            if !mutant(Mutant::ConnectBeforeDurable) {
                self.out.speaks_of(transaction.decided_at);
            }
            self.out.act(Action::Send { to: participant.clone(), message });
        }
        self.arm_redelivery(now, participant);
    }

    fn arm_redelivery(&mut self, now: Now, participant: &ParticipantName) {
        let Some(link) = self.links.get(participant) else {
            return;
        };
        if link.redeliver_at.is_some() || !link.connected || link.is_quiet() {
            return;
        }
        let wait = self.backoff(link.silent_rounds);
        let at = now.at.plus(wait);
        self.link(participant).redeliver_at = Some(at);
        self.out.timer(TimerKey::Participant(participant.clone()), Some(at));
    }

    /// A whole wait has passed since something was sent to this participant.
    pub(super) fn redeliver(&mut self, now: Now, participant: &ParticipantName) {
        let link = self.link(participant);
        if link.redeliver_at.is_none_or(|at| now.at < at) {
            return;
        }
        link.redeliver_at = None;
        let ids = link.again();
        if ids.is_empty() {
            return;
        }
        mark(Mark::CommitAgain);
        link.silent_rounds = link.silent_rounds.saturating_add(1);
        self.send_commits(now, participant, &ids);
    }

    pub(super) fn acknowledged(&mut self, now: Now, from: &ParticipantName, id: TransactionId) {
        if id.is_three_phase() && self.differs(id, &SiteName::Participant(from.clone()), true) {
            return;
        }
        let window = self.config.delivery_window;
        let link = self.link(from);
        let owed = link.acknowledged(id);
        let window = if mutant(Mutant::WindowStuck) { 0 } else { window };
        let more = link.send_more(window);
        let Some(transaction) = self.transactions.get_mut(&id) else {
            mark(Mark::AcknowledgedAgain);
            return self.send_commits(now, from, &more);
        };
        match &mut transaction.phase {
            Phase::Committing { voters, pending } => {
                if let Some(voter) = voters
                    .get_mut(from)
                    .filter(|voter| !voter.acknowledged || mutant(Mutant::AckCountedTwice))
                {
                    assert!(owed || voter.acknowledged, "{from} was not owed {id}");
                    voter.acknowledged = true;
                    *pending -= 1;
                    if mutant(Mutant::ForgetBeforeLastAck) {
                        *pending = 0;
                    }
                    let ended = *pending == 0;
                    self.out.speaks_of(transaction.decided_at);
                    self.note(Event::Acknowledged { id, participant: from.clone() });
                    mark(if ended { Mark::AcknowledgedByAll } else { Mark::AcknowledgedInPart });
                    if ended {
                        self.answer_waiters(now, id);
                        self.end(now, id, true);
                    }
                }
            }
            Phase::Delivering(_) | Phase::Voted(_) => self.participant_has_it(now, from, id, true),
            Phase::Active { .. } | Phase::Preparing { .. } | Phase::Delegated { .. } => {
                mark(Mark::AcknowledgedUndecided);
                self.alarm(id, from, Alarm::AcknowledgedUndecided);
            }
        }
        if !more.is_empty() {
            self.send_commits(now, from, &more);
        }
    }

    /// Everybody has durably acknowledged: the decision, where there is one in the log, may be forgotten, and
    /// its outcome is remembered.
    pub(super) fn end(&mut self, now: Now, id: TransactionId, decision_logged: bool) {
        let Some(transaction) = self.remove(id) else {
            return;
        };
        assert!(matches!(transaction.phase, Phase::Committing { pending: 0, .. }));
        let participants = transaction.participants();
        self.out.lazily(CoordinatorRecord::Ended(Ended {
            id,
            outcome: Ok(()),
            request: transaction.request,
            participants,
            info: transaction.info,
            started_ms: transaction.started_ms,
            ended_ms: now.wall_ms,
            decision_logged,
        }));
        self.note(Event::Ended { id });
    }

    // ---- abort ----------------------------------------------------------------------------------

    /// Aborts what is undecided. Presumed abort: nothing is forced, nobody acknowledges.
    pub(crate) fn abort(&mut self, now: Now, id: TransactionId, reason: AbortReason) {
        if id.is_three_phase()
            && let Some(Transaction { phase: Phase::Preparing { .. }, .. }) =
                self.transactions.get(&id)
        {
            return self.abort_votes(now, id, reason);
        }
        let Some(mut transaction) = self.remove(id) else {
            return;
        };
        let participants = transaction.participants();
        let told: Vec<ParticipantName> = match &transaction.phase {
            Phase::Active { enlisted } => enlisted.keys().cloned().collect(),
            Phase::Preparing { asked } => asked
                .iter()
                .filter(|(_, branch)| branch.vote.is_none_or(|vote| !vote.read_only))
                .map(|(name, _)| name.clone())
                .collect(),
            // It has said itself that it is aborted.
            Phase::Delegated { .. } => Vec::new(),
            Phase::Committing { .. } | Phase::Voted(_) | Phase::Delivering(_) => {
                unreachable!("abort() is called for what is undecided")
            }
        };
        for waiter in std::mem::take(&mut transaction.waiters) {
            let reply = Reply::Outcome(Outcome::aborted(id, reason.clone()));
            self.out.act(Action::Reply { to: waiter.to, reply });
        }
        for to in told {
            self.tell_of_abort(to, id);
        }
        self.out.lazily(CoordinatorRecord::Ended(Ended {
            id,
            outcome: Err(reason.clone()),
            request: transaction.request,
            participants,
            info: transaction.info,
            started_ms: transaction.started_ms,
            ended_ms: now.wall_ms,
            decision_logged: false,
        }));
        self.note(Event::Aborted { id, reason });
    }

    /// Says once that it is over; to whom that cannot be said now, when he is back.
    pub(crate) fn tell_of_abort(&mut self, to: ParticipantName, id: TransactionId) {
        let link = self.link(&to);
        if link.connected {
            self.out.act(Action::Send { to, message: ToParticipant::Abort { id } });
        } else {
            link.miss_abort(id);
        }
    }

    /// Aborts what no participant has been asked for. If it was the repetition of a request that its only
    /// participant may have committed for an earlier process, the *request's* outcome is not known.
    pub(super) fn abort_unasked(&mut self, now: Now, id: TransactionId, reason: AbortReason) {
        if let Some(transaction) = self.transactions.get_mut(&id)
            && let Phase::Delegated { participant, .. } = &transaction.phase
            && !self.links.get(participant).is_some_and(|link| link.heard)
            && let Some(request) = transaction.request.take()
        {
            mark(Mark::OnePhaseNeverHeard);
            self.requests.remove(&request.id);
            let participant = participant.clone();
            for waiter in std::mem::take(&mut transaction.waiters) {
                let reply = Reply::Unknown { id, participant: participant.clone() };
                self.out.act(Action::Reply { to: waiter.to, reply });
            }
        }
        self.abort(now, id, reason);
    }

    /// Tells the only participant to abort, unless it has committed. Its answer decides.
    pub(super) fn stop_one_phase(&mut self, now: Now, id: TransactionId) {
        if let Some(Transaction { phase: Phase::Delegated { asked: 0, stopping, .. }, .. }) =
            self.transactions.get(&id)
            && let Some(reason) = stopping.clone()
        {
            // It has never been permitted: nobody else can have decided.
            mark(Mark::OnePhaseNeverAsked);
            return self.abort_unasked(now, id, reason);
        }
        mark(Mark::OnePhaseStop);
        let wait = self.backoff(0);
        if let Some(transaction) = self.transactions.get_mut(&id) {
            transaction.attempts = 0;
            transaction.resend_at = now.at.plus(wait);
        }
        self.ask(id, None);
        self.rearm(id);
    }

    pub(super) fn aborted_there(&mut self, now: Now, from: &ParticipantName, id: TransactionId) {
        let Some(transaction) = self.transactions.get(&id) else {
            return;
        };
        match &transaction.phase {
            Phase::Delivering(_) | Phase::Voted(_) => {
                if self.differs(id, &SiteName::Participant(from.clone()), false) {
                    return;
                }
                let window = self.config.delivery_window;
                let link = self.link(from);
                link.acknowledged(id);
                let more = link.send_more(window);
                self.participant_has_it(now, from, id, false);
                self.send_commits(now, from, &more);
            }
            Phase::Delegated { participant, stopping: Some(reason), .. } if participant == from => {
                mark(Mark::OnePhaseStopped);
                let reason = reason.clone();
                self.abort(now, id, reason);
            }
            Phase::Delegated { .. } | Phase::Active { .. } => {}
            // It gave up on its own before voting: that is a no.
            Phase::Preparing { asked } => {
                if asked.get(from).is_some_and(|branch| branch.vote.is_none()) {
                    mark(Mark::GaveUp);
                    self.voted_no(now, from.clone(), id, "gave the branch up".to_owned());
                }
            }
            Phase::Committing { voters, .. } => {
                if voters.get(from).is_some_and(|voter| !voter.read_only) {
                    mark(Mark::AbortedCommitted);
                    self.alarm(id, from, Alarm::AbortedCommitted);
                }
            }
        }
    }

    pub(super) fn refused_there(
        &mut self,
        now: Now,
        from: &ParticipantName,
        id: TransactionId,
        reason: String,
    ) {
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return;
        };
        match &mut transaction.phase {
            Phase::Preparing { asked } => {
                if asked.get(from).is_some_and(|branch| branch.vote.is_none()) {
                    mark(Mark::PrepareRefused);
                    self.voted_no(now, from.clone(), id, reason);
                }
            }
            Phase::Delegated { participant, stopping, asked, .. } if participant == from => {
                let first = *asked == 1 || mutant(Mutant::OnePhaseRefusalIsNo);
                match stopping.take() {
                    // It was told to abort and says it cannot: it has committed. Its vote will tell.
                    Some(_) => {
                        mark(Mark::OnePhaseGoesOn);
                        transaction.deadline = now.at.plus(self.config.resend_after_us_max);
                        self.ask(id, None);
                        self.rearm(id);
                    }
                    // It was never asked before, so it has not done anything. A refusal that follows
                    // another message may be the one of an ABORT that came after a commit.
                    None if first => {
                        mark(Mark::OnePhaseRefused);
                        self.voted_no(now, from.clone(), id, reason);
                    }
                    None => {}
                }
            }
            Phase::Committing { .. } | Phase::Delivering(_) => {
                let owes = match &transaction.phase {
                    Phase::Committing { voters, .. } => {
                        voters.get(from).is_some_and(|voter| !voter.acknowledged)
                    }
                    // The refusal of a PREPARE may still be on its way when it is aborted.
                    Phase::Delivering(delivering) => {
                        delivering.outcome.is_ok() && delivering.owes(from)
                    }
                    _ => false,
                };
                if owes {
                    // Never given up: it is sent again, now and then, and an operator sees why. Meanwhile
                    // it does not stand in the way of those that will be accepted.
                    mark(Mark::CommitRefused);
                    self.alarm(id, from, Alarm::CommitRefused { reason });
                    let window = self.config.delivery_window;
                    let link = self.link(from);
                    link.refused(id);
                    if mutant(Mutant::RefusedCommitDropped) {
                        link.acknowledged(id);
                    }
                    let more = link.send_more(window);
                    self.send_commits(now, from, &more);
                }
            }
            Phase::Delegated { .. } | Phase::Active { .. } | Phase::Voted(_) => {}
        }
    }

    // ---- links ----------------------------------------------------------------------------------

    pub(super) fn connected(
        &mut self,
        now: Now,
        participant: ParticipantName,
        incarnation: Incarnation,
        one_phase_commits: Vec<(OnePhaseReport, Option<Stored>)>,
    ) {
        let window = self.config.delivery_window;
        for (report, stored) in one_phase_commits {
            self.report_of_one_phase(now, &participant, report, stored);
        }
        let link = self.link(&participant);
        link.connected();
        link.incarnation = (incarnation != Incarnation(0)).then_some(incarnation);
        let incarnation = link.incarnation;
        let known = self.log_known(now, &participant, incarnation);
        let link = self.link(&participant);
        let voting: Vec<_> = link.voting.iter().copied().collect();
        let aborts = link.take_missed_aborts();
        let commits = link.send_more(window);
        for id in aborts {
            mark(Mark::AbortMissed);
            let message = ToParticipant::Abort { id };
            self.out.act(Action::Send { to: participant.clone(), message });
        }
        for id in voting {
            // PREPARE could not be sent to anybody before the last of them was known.
            let everybody = known.contains(&id);
            self.ask(id, Some(&participant).filter(|_| !everybody));
        }
        self.send_commits(now, &participant, &commits);
    }

    /// A participant holds a one-phase commit: whoever asked for it, and when, this is its outcome.
    pub(super) fn report_of_one_phase(
        &mut self,
        now: Now,
        from: &ParticipantName,
        report: OnePhaseReport,
        stored: Option<Stored>,
    ) {
        let OnePhaseReport { id, request_id } = report;
        if let Some(transaction) = self.transactions.get(&id) {
            match &transaction.phase {
                Phase::Delegated { participant, .. } if participant == from => {
                    mark(Mark::OnePhaseReported);
                    self.committed_in_one_phase(now, id, None);
                }
                _ => {
                    mark(Mark::CommittedUnasked);
                    self.alarm(id, from, Alarm::CommittedUnasked);
                }
            }
            return;
        }
        match stored {
            Some(Stored::Aborted) => {
                mark(Mark::CommittedAborted);
                self.alarm(id, from, Alarm::CommittedAborted);
            }
            Some(Stored::Committed { .. }) => {
                mark(Mark::OnePhaseReportedAgain);
                self.forget(from.clone(), id);
            }
            // Begun before a restart that lost the answer.
            Some(Stored::Expired) | None => {
                // And perhaps tried again since: this is the answer to that as well.
                if let Some(again) =
                    request_id.as_ref().and_then(|id| self.requests.get(id)).copied()
                    && let Some(Transaction { phase: Phase::Delegated { participant, .. }, .. }) =
                        self.transactions.get(&again)
                    && participant == from
                {
                    mark(Mark::OnePhaseReportedToRetry);
                    return self.committed_in_one_phase(now, again, Some(id));
                }
                if !self.may_have_begun(id) {
                    mark(Mark::CommittedStrange);
                    return self.alarm(id, from, Alarm::CommittedStrange { earlier: id });
                }
                mark(Mark::OnePhaseReportedLate);
                self.note(Event::Decided { id });
                self.end_one_phase(Ended {
                    id,
                    outcome: Ok(()),
                    // The digest of the request is lost: 0 matches every repetition.
                    request: request_id
                        .filter(|_| !mutant(Mutant::ReportWithoutRequest))
                        .map(|id| Request { id, fingerprint: 0 }),
                    participants: vec![from.clone()],
                    info: Arc::default(),
                    started_ms: 0,
                    ended_ms: now.wall_ms,
                    decision_logged: false,
                });
            }
        }
    }

    /// Writes the end of a one-phase commit. Its participant is told to forget it when both the outcome
    /// and the `request_id` are durable here.
    pub(super) fn end_one_phase(&mut self, ended: Ended) {
        let (id, participants) = (ended.id, ended.participants.clone());
        let request = ended.request.clone();
        self.out.lazily(CoordinatorRecord::Ended(ended));
        if let Some(request) = request {
            let at = self.out.position();
            self.ending_ids.insert(id, request.id.clone());
            self.ending.insert(request.id.clone(), Ending { id, request, at });
        }
        for participant in participants {
            self.forget(participant, id);
        }
    }

    /// The participant's record of a one-phase commit may go, once our own is durable.
    pub(super) fn forget(&mut self, participant: ParticipantName, id: TransactionId) {
        let action = Action::EndDurable { participant, id };
        if mutant(Mutant::ForgetBeforeLogged) {
            return self.out.act(action);
        }
        self.out.act_later(action);
    }

    /// True when an id that a participant names can be one of this coordinator's that is over.
    pub(super) fn may_have_begun(&self, id: TransactionId) -> bool {
        id.slot() == self.identity.slot
            && id.protocol() == Protocol::TwoPhase
            && id.epoch() <= self.identity.epoch
            && !self.transactions.contains_key(&id)
    }
}
