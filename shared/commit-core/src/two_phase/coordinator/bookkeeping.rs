//! Timers, answers to callers, the tables, and what must hold between two inputs.

use super::Coordinator;
use super::delivery::Link;
use super::inputs::{Action, Alarm, ClientRefusal, Event, Outcome, Reply, ReplyTime};
use super::transaction::{Phase, Transaction};
use crate::id::{ParticipantName, TransactionId};
use crate::marks::{Mark, mark};
use crate::mutants::{Mutant, mutant};
use crate::record::{AbortCause, AbortReason};
use crate::step::{Now, TimerKey};

impl<W> Coordinator<W> {
    pub(crate) fn transaction_timer(&mut self, now: Now, id: TransactionId) {
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return;
        };
        transaction.armed = None;
        match &transaction.phase {
            Phase::Voted(_) => return self.voting_timer(now, id),
            Phase::Delivering(_) => return self.delivering_timer(now, id),
            _ => {}
        }
        let late = now.at >= transaction.deadline;
        match &mut transaction.phase {
            Phase::Active { .. } if late => {
                mark(Mark::ActiveTimeout);
                let message = "not committed in time".to_owned();
                let reason = AbortReason { cause: AbortCause::Timeout, participant: None, message };
                return self.abort(now, id, reason);
            }
            Phase::Preparing { .. } if late && mutant(Mutant::VoteTimeoutCommits) => {
                return self.decide(now, id);
            }
            Phase::Preparing { asked } if late => {
                mark(Mark::VoteTimeout);
                let missing = asked.iter().find(|(_, branch)| branch.vote.is_none());
                let participant = missing.map(|(name, _)| name.clone());
                let message = match &participant {
                    Some(name) if !self.links.get(name).is_some_and(|link| link.connected) => {
                        format!("{name} could not be reached in time")
                    }
                    Some(name) => format!("{name} did not vote in time"),
                    None => "not every vote arrived in time".to_owned(),
                };
                let reason = AbortReason { cause: AbortCause::Timeout, participant, message };
                return self.abort(now, id, reason);
            }
            Phase::Delegated { participant, stopping: stopping @ None, .. } if late => {
                *stopping = Some(AbortReason {
                    cause: AbortCause::Timeout,
                    message: format!("{participant} did not answer in time"),
                    participant: Some(participant.clone()),
                });
                if mutant(Mutant::OnePhasePresumed)
                    && let Some(reason) = stopping.clone()
                {
                    return self.abort(now, id, reason);
                }
                self.stop_one_phase(now, id);
                self.answer_waiters(now, id);
                return self.rearm(id);
            }
            Phase::Preparing { .. } | Phase::Delegated { .. }
                if now.at >= transaction.resend_at =>
            {
                mark(Mark::PrepareAgain);
                transaction.attempts = transaction.attempts.saturating_add(1);
                let attempts = transaction.attempts;
                let wait = self.backoff(attempts);
                if let Some(transaction) = self.transactions.get_mut(&id) {
                    transaction.resend_at = now.at.plus(wait);
                }
                self.ask(id, None);
            }
            _ => {}
        }
        self.answer_waiters(now, id);
        self.rearm(id);
    }

    /// Answers those callers of a running transaction whose moment has come.
    pub(crate) fn answer_waiters(&mut self, now: Now, id: TransactionId) {
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return;
        };
        match &transaction.phase {
            Phase::Committing { voters, pending } => {
                let pending_names = || {
                    let open = voters.iter().filter(|(_, voter)| !voter.acknowledged);
                    open.map(|(name, _)| name.clone()).collect::<Vec<_>>()
                };
                let all_applied = *pending == 0;
                let (ready, waiting) =
                    std::mem::take(&mut transaction.waiters).into_iter().partition(|waiter| {
                        all_applied
                            || waiter.reply_time == ReplyTime::Decided
                            || now.at >= waiter.until
                    });
                transaction.waiters = waiting;
                if !mutant(Mutant::RetryBeforeDurable) {
                    self.out.speaks_of(transaction.decided_at);
                }
                for waiter in ready {
                    if !all_applied && waiter.reply_time == ReplyTime::Applied {
                        mark(Mark::ToldBeforeApplied);
                    }
                    let mut outcome = Outcome::committed(id, transaction.restored);
                    outcome.pending = pending_names();
                    outcome.results = transaction.results.clone().into_iter().collect();
                    let reply = Reply::Outcome(outcome);
                    self.out.act(Action::Reply { to: waiter.to, reply });
                }
            }
            Phase::Delegated { participant, .. } => {
                // Nobody but the participant knows; a caller whose time is over is told just that.
                let participant = participant.clone();
                let (ready, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut transaction.waiters)
                    .into_iter()
                    .partition(|waiter| now.at >= waiter.until);
                transaction.waiters = waiting;
                for waiter in ready {
                    mark(Mark::OnePhaseUnknown);
                    let reply = Reply::Unknown { id, participant: participant.clone() };
                    self.out.act(Action::Reply { to: waiter.to, reply });
                }
            }
            Phase::Voted(voted) if !mutant(Mutant::UndecidedNotTold) => {
                // Nobody knows, and it may take as long as a quorum is missing.
                let (ready, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut transaction.waiters)
                    .into_iter()
                    .partition(|waiter| now.at >= waiter.until);
                transaction.waiters = waiting;
                for waiter in ready {
                    mark(Mark::ThreeClientNotTold);
                    let waiting_for = voted.seat.waiting_for(&voted.sites);
                    let reply = Reply::Undecided { id, waiting_for };
                    self.out.act(Action::Reply { to: waiter.to, reply });
                }
            }
            Phase::Delivering(_) => self.answer_decided(now, id),
            Phase::Active { .. } | Phase::Preparing { .. } | Phase::Voted(_) => {}
        }
    }

    pub(crate) fn overloaded(&self) -> Option<ClientRefusal> {
        let undecided = self.undecided.len();
        let undelivered = self.transactions.len() - undecided;
        if undecided >= self.config.undecided_max {
            Some(ClientRefusal::TooManyInFlight { undecided })
        } else if undelivered >= self.config.undelivered_max {
            Some(ClientRefusal::TooManyUndelivered { undelivered })
        } else {
            None
        }
    }

    /// A participant that has been asked for as many votes as it may be asked for at a time. What comes in
    /// addition would only wait, there or on its way there; interactive transactions hold locks there already,
    /// and are let in.
    pub(super) fn busy<'a>(
        &self,
        mut asked: impl Iterator<Item = &'a ParticipantName>,
    ) -> Option<ClientRefusal> {
        asked.find_map(|name| {
            let voting = self.links.get(name)?.voting.len();
            (voting >= self.config.voting_max)
                .then(|| ClientRefusal::ParticipantBusy { participant: name.clone(), voting })
        })
    }

    pub(crate) fn refuse(&mut self, to: W, refusal: ClientRefusal) {
        self.out.act(Action::Reply { to, reply: Reply::Refused(refusal) });
    }

    pub(crate) fn alarm(&mut self, id: TransactionId, participant: &ParticipantName, alarm: Alarm) {
        self.note(Event::Alarm { id, participant: participant.clone(), alarm });
    }

    pub(crate) fn note(&mut self, event: Event) {
        self.out.act(Action::Note(event));
    }

    pub(crate) fn link(&mut self, participant: &ParticipantName) -> &mut Link {
        if !self.links.contains_key(participant) {
            self.links.insert(participant.clone(), Link::default());
        }
        match self.links.get_mut(participant) {
            Some(link) => link,
            None => unreachable!("inserted above"),
        }
    }

    pub(crate) fn insert(&mut self, id: TransactionId, transaction: Transaction<W>) {
        let before = self.transactions.insert(id, transaction);
        assert!(before.is_none(), "the driver gave the id {id} out twice");
        self.undecided.insert(id);
        if id.is_three_phase() {
            self.begun = self.begun.max(id.sequence());
        }
    }

    /// Takes a transaction out of every table.
    pub(crate) fn remove(&mut self, id: TransactionId) -> Option<Transaction<W>> {
        let transaction = self.transactions.remove(&id)?;
        self.undecided.remove(&id);
        self.voting.remove(&id);
        if let Some(request) = &transaction.request
            && self.requests.get(&request.id) == Some(&id)
        {
            self.requests.remove(&request.id);
        }
        for participant in transaction.participants() {
            if let Some(link) = self.links.get_mut(&participant) {
                link.voting.remove(&id);
            }
        }
        if transaction.armed.is_some() {
            self.out.timer(TimerKey::Transaction(id), None);
        }
        Some(transaction)
    }

    /// Sets the driver's timer to what is due next.
    pub(crate) fn rearm(&mut self, id: TransactionId) {
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return;
        };
        let due = transaction.due();
        if transaction.armed != due {
            transaction.armed = due;
            self.out.timer(TimerKey::Transaction(id), due);
        }
    }

    /// The wait before the next repetition, microseconds: doubling, bounded, and each a little
    /// different so that a crowd does not come back as a crowd.
    pub(crate) fn backoff(&mut self, attempts: u32) -> u64 {
        let base = self.config.resend_after_us.max(1);
        let wait = base
            .saturating_mul(1 << attempts.min(20))
            .min(self.config.resend_after_us_max.max(base));
        wait + crate::jitter::draw(&mut self.jitter) % (wait / 4 + 1)
    }

    /// What must hold between any two inputs; `None` when it does.
    #[must_use]
    pub fn invariant_violation(&self) -> Option<String> {
        // In proportion to what is running it would be too slow for every step of a large shard.
        if self.transactions.len() > 64 {
            return None;
        }
        for (request, id) in &self.requests {
            let Some(transaction) = self.transactions.get(id) else {
                return Some(format!("request {request} points to {id}, which is not running"));
            };
            if transaction.request.as_ref().is_none_or(|mine| mine.id != *request) {
                return Some(format!("request {request} is not the one of {id}"));
            }
        }
        for (id, transaction) in self.transactions.iter() {
            let undecided = matches!(
                transaction.phase,
                Phase::Active { .. } | Phase::Preparing { .. } | Phase::Delegated { .. }
            );
            if undecided != self.undecided.contains(id) {
                return Some(format!("{id} is in the wrong half of the table"));
            }
            if matches!(transaction.phase, Phase::Voted(_)) != self.voting.contains(id) {
                return Some(format!("{id} is wrongly said to be voting, or not to be"));
            }
            if let Phase::Committing { voters, pending } = &transaction.phase {
                let open = voters.values().filter(|voter| !voter.acknowledged).count();
                if open != *pending || open == 0 {
                    return Some(format!("{id} has {open} open voters and counts {pending}"));
                }
            }
        }
        None
    }
}
