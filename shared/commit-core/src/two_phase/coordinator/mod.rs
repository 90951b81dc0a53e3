//! The coordinator's side of two-phase commit with presumed abort.
//!
//! One value of [`Coordinator`] owns the transactions of one shard of a slot. It writes exactly one
//! forced record per committed transaction, the decision, and none for an abort: what nobody
//! remembers was aborted (Mohan, Lindsay, Obermarck 1986, section 3). For that to be true for ever, ids
//! carry the epoch they were begun in, and an id of an older epoch is never decided again.
//!
//! Absent on purpose: a record of the beginning, a record of who was asked to prepare, and any
//! decision taken because an answer did not come (except to abort what is undecided).

mod bookkeeping;
mod canonical;
pub(crate) mod delivery;
mod first_phase;
mod inputs;
mod inquiries;
mod second_phase;
pub(crate) mod transaction;
mod view;

use std::collections::{BTreeMap, BTreeSet};

pub use inputs::{
    Action, Alarm, ClientRefusal, Event, Execute, Input, Inquiry, OnePhaseReport, Outcome, Reply,
    ReplyTime, Stored, Terms, Waiter,
};
pub use view::{BranchState, BranchView, Phase as PhaseView, TransactionView};

use crate::by_id::ById;
use crate::id::{
    Epoch, Incarnation, ParticipantName, Protocol, RequestId, Sequence, Slot, TransactionId,
};
use crate::marks::{Mark, mark};
use crate::message::ToParticipant;
use crate::mutants::{Mutant, mutant};
use crate::record::{AbortCause, AbortReason, Commit, CoordinatorRecord, Request};
use crate::step::{Now, Position, Step, Steps, TimerKey};
use crate::three_phase::Witness;
use crate::three_phase::witness::Witnessed;
use delivery::Link;
use transaction::{Asked, Enlisted, Phase, Transaction};

/// Who this coordinator is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The slot it owns.
    pub slot: Slot,
    /// The epoch of its ownership, raised durably before this value was made.
    pub epoch: Epoch,
    /// Of its log.
    pub incarnation: Incarnation,
}

/// How long to wait, and how much to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// Most undecided transactions.
    pub undecided_max: usize,
    /// Most transactions in one call that wait for one participant's vote at a time. Not more than
    /// `delivery_window`: a participant that is asked faster than it commits falls ever further behind.
    pub voting_max: usize,
    /// Most transactions that wait for others after their votes: see [`Coordinator::undelivered`].
    pub undelivered_max: usize,
    /// Most decisions on their way to one participant at a time; the others wait for an acknowledgement.
    pub delivery_window: usize,
    /// First wait before a message is repeated, in microseconds; it doubles from there.
    pub resend_after_us: u64,
    /// Longest wait before a message is repeated, in microseconds.
    pub resend_after_us_max: u64,
    /// Where the jitter of the waits comes from.
    pub jitter_seed: u64,
    /// It serves as a witness of transactions of other slots.
    pub witness: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            undecided_max: 100_000,
            voting_max: 1024,
            undelivered_max: 2_000_000,
            delivery_window: 1024,
            resend_after_us: 500_000,
            resend_after_us_max: 10_000_000,
            jitter_seed: 0,
            witness: false,
        }
    }
}

/// A one-phase commit whose end is on its way to the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Ending {
    id: TransactionId,
    request: Request,
    at: Position,
}

type Out<W> = Steps<CoordinatorRecord, Action<W>>;

/// The transactions of one shard. `W` is whatever the driver answers a caller through; it passes
/// through untouched.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Coordinator<W> {
    pub(crate) identity: Identity,
    pub(crate) config: Config,
    pub(crate) transactions: ById<Transaction<W>>,
    /// Those of `transactions` that may still send PREPARE, by age.
    pub(crate) undecided: BTreeSet<TransactionId>,
    /// Running requests by the client's name.
    pub(crate) requests: BTreeMap<RequestId, TransactionId>,
    /// Requests that were committed in one phase, until that is durable here: a repetition must find
    /// them in every moment, or it would be sent to a participant that has just been told to forget.
    ending: BTreeMap<RequestId, Ending>,
    ending_ids: BTreeMap<TransactionId, RequestId>,
    pub(crate) links: BTreeMap<ParticipantName, Link>,
    jitter: u64,
    pub(crate) out: Out<W>,
    /// Those of `transactions` of three-phase commit for which all have voted, and nothing is decided here.
    pub(crate) voting: BTreeSet<TransactionId>,
    /// Of the three-phase transaction that was begun last: a later one is not known because it is yet to be.
    pub(crate) begun: Sequence,
    pub(crate) witnesses: Vec<Witness>,
    /// Transactions of other slots, for which this coordinator is a witness.
    pub(crate) witnessed: BTreeMap<TransactionId, Witnessed>,
}

impl<W> Coordinator<W> {
    /// A coordinator without transactions.
    #[must_use]
    pub fn new(identity: Identity, config: Config) -> Self {
        Self {
            identity,
            config,
            transactions: ById::new(),
            undecided: BTreeSet::new(),
            requests: BTreeMap::new(),
            ending: BTreeMap::new(),
            ending_ids: BTreeMap::new(),
            links: BTreeMap::new(),
            jitter: config.jitter_seed,
            out: Steps::new(),
            voting: BTreeSet::new(),
            begun: Sequence(0),
            witnesses: Vec::new(),
            witnessed: BTreeMap::new(),
        }
    }

    /// Takes over a record that was found in the log, before [`resume`](Self::resume) and the first
    /// [`step`](Self::step). Those that end a transaction have nothing to say.
    pub fn restore_record(&mut self, record: CoordinatorRecord) {
        match record {
            CoordinatorRecord::Commit(commit) => self.restore(commit),
            CoordinatorRecord::Voting(voting) => self.restore_voting(voting),
            CoordinatorRecord::Decision(decision) => self.restore_decision(decision),
            CoordinatorRecord::Witness(witness) => self.restore_witness(witness),
            CoordinatorRecord::Ended(_) | CoordinatorRecord::WitnessForgotten { .. } => {}
        }
    }

    /// Takes over a decision that was found in the log, before the first [`step`](Self::step). It is
    /// delivered when its participants are connected.
    pub fn restore(&mut self, commit: Commit) {
        let id = commit.id;
        for (participant, _) in &commit.voters {
            if !mutant(Mutant::RestartForgetsDelivery) {
                self.link(participant).wait(id);
            }
        }
        if let Some(request) = &commit.request
            && !mutant(Mutant::RestartForgetsRequest)
        {
            self.requests.insert(request.id.clone(), id);
        }
        self.transactions.insert(id, Transaction::restored(commit));
    }

    /// Who this coordinator is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// True while the transaction is undecided or its commit is undelivered. For any other id the
    /// driver looks into the log and passes what it found as [`Stored`].
    #[must_use]
    pub fn knows(&self, id: TransactionId) -> bool {
        self.transactions.contains_key(&id)
    }

    /// The running transaction of a client's request.
    #[must_use]
    pub fn running_request(&self, request: &RequestId) -> Option<TransactionId> {
        self.requests.get(request).copied()
    }

    /// The oldest transaction that may still send PREPARE; `None` when there is none.
    #[must_use]
    pub fn lowest_live(&self) -> Option<Sequence> {
        // Ids sort by protocol before they sort by age.
        let other =
            TransactionId::new(self.identity.slot, Protocol::ThreePhase, Epoch(0), Sequence(0));
        let first = self.undecided.first().map(TransactionId::sequence);
        let first_other = self.undecided.range(other..).next().map(TransactionId::sequence);
        first.into_iter().chain(first_other).min()
    }

    /// The position of the record that was written last.
    #[must_use]
    pub fn position(&self) -> Position {
        self.out.position()
    }

    /// How many transactions may still send PREPARE, or wait for votes.
    #[must_use]
    pub fn undecided(&self) -> usize {
        self.undecided.len()
    }

    /// How many transactions wait for others after their votes: decisions for an acknowledgement, and those of
    /// three-phase commit that are not decided (see [`voting`](Self::voting)) for a quorum.
    #[must_use]
    pub fn undelivered(&self) -> usize {
        self.transactions.len() - self.undecided.len()
    }

    /// How many decisions wait for this participant's acknowledgement: commits, and aborts of three-phase commit.
    #[must_use]
    pub fn undelivered_to(&self, participant: &ParticipantName) -> usize {
        self.links.get(participant).map_or(0, Link::undelivered)
    }

    /// Takes back a step that has been carried out, whose buffers serve the ones to come. Nobody has to.
    pub fn reuse(&mut self, used: Step<CoordinatorRecord, Action<W>>) {
        self.out.reuse(used);
    }

    /// Handles one input.
    pub fn step(&mut self, now: Now, input: Input<W>) -> Step<CoordinatorRecord, Action<W>> {
        match input {
            Input::Begin { id, terms, waiter } => self.begin(now, id, terms, waiter),
            Input::Execute(execute) => self.execute(now, execute),
            Input::Enlist { id, participant, incarnation, enlistment, waiter } => {
                self.enlist(now, id, participant, incarnation, enlistment, waiter);
            }
            Input::Commit { id, request, waiter } => self.commit(now, id, request, waiter),
            Input::Abort { id, message, waiter } => self.abort_by_client(now, id, message, waiter),
            Input::Inquire { inquiry, stored, waiter } => {
                let outcome = self.inquired(now, &inquiry, stored);
                self.out.act(Action::Reply { to: waiter, reply: Reply::Inquired(outcome) });
            }
            Input::InquireOverLink { inquiry, stored } => {
                self.answer_over_link(now, &inquiry, stored)
            }
            Input::Received { from, message, stored } => self.received(now, from, message, stored),
            Input::Connected { participant, incarnation, one_phase_commits } => {
                self.connected(now, participant, incarnation, one_phase_commits);
            }
            Input::Led { from, message, stored, via } => {
                self.led(now, from, message, stored, via);
            }
            Input::Reported { from, message } => self.site_reported(now, &from, message),
            Input::Recorded { id } => self.recorded(now, id),
            Input::Disconnected { participant } => {
                self.link(&participant).disconnected();
                self.out.timer(TimerKey::Participant(participant), None);
            }
            Input::EndDurable { participant, id } => {
                if let Some(request) = self.ending_ids.remove(&id)
                    && self.ending.get(&request).is_some_and(|ending| ending.id == id)
                {
                    self.ending.remove(&request);
                }
                mark(Mark::Forget);
                let message = ToParticipant::Forget { id };
                self.out.act(Action::Send { to: participant, message });
            }
            Input::NotSent { to, id } => self.not_sent(now, &to, id),
            Input::Timer(TimerKey::Transaction(id)) => self.transaction_timer(now, id),
            Input::Timer(TimerKey::Participant(name)) => self.redeliver(now, &name),
        }
        self.out.take()
    }

    // ---- what clients ask -----------------------------------------------------------------------

    fn begin(&mut self, now: Now, id: TransactionId, terms: Terms, waiter: W) {
        assert_eq!((id.slot(), id.epoch()), (self.identity.slot, self.identity.epoch));
        if let Some(refusal) = self.overloaded() {
            return self.refuse(waiter, refusal);
        }
        let time_left_us = terms.timeout_us;
        let transaction =
            Transaction::begun(now, terms, Phase::Active { enlisted: BTreeMap::new() });
        self.insert(id, transaction);
        self.note(Event::Begun { id });
        self.out.act(Action::Reply { to: waiter, reply: Reply::Begun { id, time_left_us } });
        self.rearm(id);
    }

    fn execute(&mut self, now: Now, execute: Execute<W>) {
        let Execute { id, branches, terms, request, stored, waiter } = execute;
        assert!(!branches.is_empty());
        if let Some(request) = &request {
            if let Some(&running) = self.requests.get(&request.id)
                && !mutant(Mutant::RetryWhileRunning)
            {
                return self.join_running(now, running, request, waiter);
            }
            if let Some(ending) = self.ending.get(&request.id)
                && !mutant(Mutant::RetryWhileEnding)
            {
                let id = ending.id;
                if !ending.request.may_be(request) {
                    mark(Mark::RequestReused);
                    return self.refuse(waiter.to, ClientRefusal::RequestIdReused { id });
                }
                mark(Mark::RequestEnding);
                self.out.speaks_of(ending.at);
                let reply = Reply::Outcome(Outcome::committed(id, true));
                return self.out.act(Action::Reply { to: waiter.to, reply });
            }
            // An aborted first attempt may be tried again; a committed one is the answer.
            if let Some(Stored::Committed { id, request: first }) = stored {
                if first.is_some_and(|first| !first.may_be(request)) {
                    mark(Mark::RequestReused);
                    return self.refuse(waiter.to, ClientRefusal::RequestIdReused { id });
                }
                mark(Mark::RequestLogged);
                let outcome = Outcome::committed(id, true);
                let reply = Reply::Outcome(outcome);
                return self.out.act(Action::Reply { to: waiter.to, reply });
            }
        }
        if let Some(refusal) = self.overloaded().or_else(|| self.busy(branches.keys())) {
            return self.refuse(waiter.to, refusal);
        }
        let mut transaction =
            Transaction::begun(now, terms, Phase::Active { enlisted: BTreeMap::new() });
        transaction.waiters.push(waiter);
        if let Some(request) = request {
            self.requests.insert(request.id.clone(), id);
            transaction.request = Some(request);
        }
        self.insert(id, transaction);
        self.note(Event::Begun { id });
        let asked =
            branches.into_iter().map(|(name, work)| (name, Asked::new(Some(work), None))).collect();
        self.prepare(now, id, asked);
    }

    fn join_running(&mut self, now: Now, id: TransactionId, request: &Request, waiter: Waiter<W>) {
        let Some(transaction) = self.transactions.get_mut(&id) else {
            unreachable!("every running request has its transaction: see invariant_violation")
        };
        let same = transaction.request.as_ref().is_some_and(|first| first.may_be(request));
        if !same {
            mark(Mark::RequestReused);
            return self.refuse(waiter.to, ClientRefusal::RequestIdReused { id });
        }
        mark(Mark::RequestRunning);
        transaction.waiters.push(waiter);
        self.answer_waiters(now, id);
        self.rearm(id);
    }

    fn enlist(
        &mut self,
        now: Now,
        id: TransactionId,
        participant: ParticipantName,
        incarnation: Incarnation,
        enlistment: u64,
        waiter: W,
    ) {
        let Some(transaction) = self.transactions.get_mut(&id) else {
            mark(Mark::EnlistedTooLate);
            return self.refuse(waiter, ClientRefusal::Over { id });
        };
        let time_left_us = now.at.until(transaction.deadline);
        let Phase::Active { enlisted } = &mut transaction.phase else {
            mark(Mark::EnlistedTooLate);
            if mutant(Mutant::LateEnlistment) {
                return self
                    .out
                    .act(Action::Reply { to: waiter, reply: Reply::Enlisted { time_left_us } });
            }
            return self.refuse(waiter, ClientRefusal::NotActive { id });
        };
        let mine = Enlisted { incarnation, enlistment };
        match enlisted.get(&participant) {
            Some(before) if *before == mine || mutant(Mutant::EnlistmentIgnored) => {
                mark(Mark::EnlistedAgain)
            }
            // The same resource, but not the same branch: it has lost what it did before (a restart,
            // an idle time-out). Committing the rest would commit half of its work.
            Some(_) => {
                mark(Mark::EnlistedAnew);
                let reason = AbortReason {
                    cause: AbortCause::VotedNo,
                    message: format!("{participant} lost the work it had done in this transaction"),
                    participant: Some(participant),
                };
                self.abort(now, id, reason);
                return self.refuse(waiter, ClientRefusal::Over { id });
            }
            None if enlisted.len() >= crate::limits::BRANCHES_MAX => {
                return self.refuse(waiter, ClientRefusal::TooManyBranches { id });
            }
            None => {
                enlisted.insert(participant.clone(), mine);
                self.note(Event::Enlisted { id, participant });
            }
        }
        self.out.act(Action::Reply { to: waiter, reply: Reply::Enlisted { time_left_us } });
    }

    fn commit(&mut self, now: Now, id: TransactionId, request: Option<Request>, waiter: Waiter<W>) {
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return self.refuse(waiter.to, ClientRefusal::Over { id });
        };
        transaction.waiters.push(waiter);
        let Phase::Active { enlisted } = &mut transaction.phase else {
            // A repeated call: it waits for the same outcome.
            mark(Mark::CommitRepeated);
            self.answer_waiters(now, id);
            return self.rearm(id);
        };
        let enlisted = std::mem::take(enlisted);
        transaction.request = request;
        if enlisted.is_empty() {
            return self.end_without_decision(now, id, BTreeMap::new());
        }
        let asked = enlisted
            .into_iter()
            .map(|(name, enlisted)| (name, Asked::new(None, Some(enlisted.incarnation))))
            .collect();
        self.prepare(now, id, asked);
    }

    fn abort_by_client(&mut self, now: Now, id: TransactionId, message: String, waiter: W) {
        let reason = AbortReason { cause: AbortCause::Client, participant: None, message };
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return self.refuse(waiter, ClientRefusal::Over { id });
        };
        match &mut transaction.phase {
            Phase::Active { .. } | Phase::Preparing { .. } => {
                mark(Mark::AbortedByClient);
                let outcome = Outcome::aborted(id, reason.clone());
                self.abort(now, id, reason);
                self.out.act(Action::Reply { to: waiter, reply: Reply::Outcome(outcome) });
            }
            // The participant owns the outcome; it is asked, and its answer is everybody's.
            Phase::Delegated { stopping, .. } => {
                stopping.get_or_insert(reason);
                transaction.waiters.push(Waiter {
                    to: waiter,
                    reply_time: ReplyTime::Decided,
                    until: transaction.deadline,
                });
                self.stop_one_phase(now, id);
            }
            // Nobody knows yet; whatever it is, it is everybody's answer.
            Phase::Voted(_) => {
                mark(Mark::ThreeAbortWaits);
                let (reply_time, until) = (ReplyTime::Decided, transaction.deadline);
                transaction.waiters.push(Waiter { to: waiter, reply_time, until });
                self.answer_waiters(now, id);
                self.rearm(id);
            }
            Phase::Delivering(delivering) if delivering.outcome.is_err() => {
                let until = transaction.deadline;
                let waiter = Waiter { to: waiter, reply_time: ReplyTime::Decided, until };
                transaction.waiters.push(waiter);
                self.answer_waiters(now, id);
            }
            Phase::Committing { .. } | Phase::Delivering(_) => {
                mark(Mark::AbortTooLate);
                if mutant(Mutant::AbortToldAfterDecision) {
                    let reply = Reply::Outcome(Outcome::aborted(id, reason));
                    return self.out.act(Action::Reply { to: waiter, reply });
                }
                let position = transaction.decided_at;
                self.out.speaks_of(position);
                self.refuse(waiter, ClientRefusal::Decided { id });
            }
        }
    }
}
