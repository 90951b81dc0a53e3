//! The participant's side of two-phase commit with presumed abort.
//!
//! One value of [`Participant`] owns all branches of one resource. It forces exactly two records per
//! committed branch, the vote and the commit, and none for an abort.
//!
//! Three laws are kept here. Before it votes prepared a branch may abort on its own at any time;
//! afterwards never, whatever the clock says. No work is done twice: a finished id is remembered until
//! its coordinator has promised not to ask about it again. And a silent coordinator is never taken
//! for an abort: a branch in doubt asks, first the coordinator and then its peers, and waits.

pub(crate) mod branch;
mod canonical;
mod commands;
mod inputs;
mod results;
mod termination;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

pub use inputs::{
    Action, Alarm, Ending, Event, Input, Origin, ResourceCall, ResourceResult, SessionRefusal, Via,
};

use crate::by_id::ById;
use crate::id::{Epoch, Incarnation, Protocol, RequestId, Sequence, Slot, TransactionId};
use crate::marks::{Mark, mark};
use crate::message::{FromParticipant, Vote};
use crate::mutants::{Mutant, mutant};
use crate::record::{Change, ParticipantEntry, ParticipantRecord};
use crate::step::{Now, Position, Step, Steps, TimerKey};
use crate::three_phase::SiteView;
use crate::three_phase::decided::Decided;
use crate::three_phase::participant::Voted;
use branch::{Before, Branch, Doomed, Finishing, InDoubt};

/// How long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// The resource keeps everything in the participant's store, so that it can commit in one phase.
    pub one_phase: bool,
    /// A branch in doubt asks after this long, in microseconds; the wait doubles from there.
    pub inquire_after_us: u64,
    /// Longest wait between two inquiries, in microseconds.
    pub inquire_after_us_max: u64,
    /// First wait before the resource is asked again to finish a branch, in microseconds.
    pub retry_after_us: u64,
    /// Where the jitter of the waits comes from.
    pub jitter_seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            one_phase: false,
            inquire_after_us: 1_000_000,
            inquire_after_us_max: 10_000_000,
            retry_after_us: 50_000,
            jitter_seed: 0,
        }
    }
}

type Out<W> = Steps<ParticipantEntry, Action<W>>;

/// Those whose coordinators say how far they have come.
const PROTOCOLS: [Protocol; 2] = [Protocol::TwoPhase, Protocol::ThreePhase];

/// The branches of one resource. `W` is whatever the driver answers a caller through.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Participant<W> {
    pub(crate) incarnation: Incarnation,
    pub(crate) config: Config,
    pub(crate) branches: ById<Branch<W>>,
    /// Those of `branches` that are finished: they go when their coordinator has passed them.
    finished: BTreeSet<TransactionId>,
    /// Where the last end of those that went before is in the log: whatever speaks of one of them waits for it.
    pub(crate) forgotten_at: Position,
    /// One-phase commits, at work or done, by the client's name for them: a request is done once.
    requests: BTreeMap<RequestId, TransactionId>,
    /// Who follows an attempt that is at work.
    followers: BTreeMap<TransactionId, Vec<TransactionId>>,
    pub(crate) slots: BTreeMap<Slot, SlotSeen>,
    stopping: bool,
    jitter: u64,
    pub(crate) out: Out<W>,
}

/// What is known of a slot's coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SlotSeen {
    pub(crate) epoch: Epoch,
    pub(crate) lowest_live: Sequence,
    /// Where it answers; empty when only the log remembers it.
    pub(crate) endpoint: Arc<str>,
    /// Where the log says so; `None` when the coordinator has come further since.
    pub(crate) recorded_at: Option<Position>,
}

/// A branch that this participant cannot end by itself, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenBranch {
    /// Which transaction.
    pub id: TransactionId,
    /// Committed in one phase and not forgotten, with the client's name for it; otherwise in doubt.
    pub one_phase: Option<Option<RequestId>>,
    /// Wall clock, milliseconds since 1970.
    pub since_ms: u64,
    /// What it waits for.
    pub waiting_for: String,
    /// Three-phase commit: where it stands as a voting site, until it knows the decision.
    pub site: Option<SiteView>,
}

impl<W> Participant<W> {
    /// A participant without branches.
    #[must_use]
    pub fn new(incarnation: Incarnation, config: Config) -> Self {
        Self {
            incarnation,
            config,
            branches: ById::new(),
            finished: BTreeSet::new(),
            forgotten_at: Position(0),
            requests: BTreeMap::new(),
            followers: BTreeMap::new(),
            slots: BTreeMap::new(),
            stopping: false,
            jitter: config.jitter_seed,
            out: Steps::new(),
        }
    }

    /// Takes over a record that was found in the log, before the first [`step`](Self::step).
    pub fn restore(&mut self, record: ParticipantRecord) {
        let at = Position(0);
        match record {
            ParticipantRecord::Prepared(record) => {
                let waiting_for = "a restart of this participant".into();
                let in_doubt = InDoubt { at, inquiries: 0, unanswered: 0, waiting_for, record };
                self.branches.insert(in_doubt.record.id, Branch::Prepared(in_doubt));
            }
            ParticipantRecord::Finished { .. } if mutant(Mutant::RestartForgetsFinished) => {}
            ParticipantRecord::Finished { id, committed } => {
                let ending = if committed { Ending::Committed } else { Ending::Aborted };
                self.release_request(id);
                self.remember(id, ending, Some(at));
            }
            ParticipantRecord::OnePhase(commit) => {
                if let Some(request) = &commit.request_id
                    && !mutant(Mutant::RestartForgetsAttempt)
                {
                    self.requests.insert(request.clone(), commit.id);
                }
                self.branches.insert(commit.id, Branch::OnePhase { commit, at });
            }
            ParticipantRecord::Voted(record) => {
                let voted = Voted::restored(record);
                self.branches.insert(voted.record.id, Branch::Voted(Box::new(voted)));
            }
            ParticipantRecord::Decided(record) => {
                let decided = Decided::restored(record);
                self.branches.insert(decided.record.id, Branch::Decided(Box::new(decided)));
            }
            ParticipantRecord::Forgotten { id } => {
                self.release_request(id);
                self.branches.remove(&id);
                self.finished.remove(&id);
            }
            ParticipantRecord::SlotSeen { .. } if mutant(Mutant::RestartForgetsEpoch) => {}
            ParticipantRecord::SlotSeen { slot, epoch, lowest_live } => {
                let endpoint = Arc::from("");
                let recorded_at = Some(at);
                let seen = SlotSeen { epoch, lowest_live, endpoint, recorded_at };
                self.slots.insert(slot, seen);
            }
        }
    }

    /// A log that is read record by record has the one-phase commit before its end.
    pub(super) fn release_request(&mut self, id: TransactionId) {
        if let Some(Branch::OnePhase { commit, .. }) = self.branches.get(&id)
            && let Some(request) = &commit.request_id
            && self.requests.get(request) == Some(&id)
        {
            self.requests.remove(request);
        }
    }

    /// Of this participant's log.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The branches that this participant cannot end by itself, oldest first.
    pub fn open_branches(&self) -> impl Iterator<Item = OpenBranch> + '_ {
        self.branches.iter().filter_map(|(id, branch)| match branch {
            Branch::Prepared(in_doubt) => Some(OpenBranch {
                id: *id,
                one_phase: None,
                since_ms: in_doubt.record.since_ms,
                waiting_for: in_doubt.waiting_for.clone().into_owned(),
                site: None,
            }),
            Branch::Voted(voted) => Some(OpenBranch {
                id: *id,
                one_phase: None,
                since_ms: voted.record.since_ms,
                waiting_for: voted.waiting_for(),
                site: Some(voted.view()),
            }),
            Branch::Committing(Finishing { before: Before::Prepared(record), .. })
            | Branch::Aborting(Finishing { before: Before::Prepared(record), .. }) => {
                Some(OpenBranch {
                    id: *id,
                    one_phase: None,
                    since_ms: record.since_ms,
                    waiting_for: "the resource, which is finishing it".to_owned(),
                    site: None,
                })
            }
            Branch::Committing(Finishing { before: Before::Voted(told), .. })
            | Branch::Aborting(Finishing { before: Before::Voted(told), .. }) => Some(OpenBranch {
                id: *id,
                one_phase: None,
                since_ms: told.record.since_ms,
                waiting_for: "the resource, which is finishing it".to_owned(),
                site: None,
            }),
            Branch::OnePhase { commit, .. } => Some(OpenBranch {
                id: *id,
                one_phase: Some(commit.request_id.clone()),
                since_ms: commit.since_ms,
                waiting_for: "the coordinator, to have it in its log".to_owned(),
                site: None,
            }),
            _ => None,
        })
    }

    /// One-phase commits that are not forgotten and lie below `durable`, how far the log has come: the
    /// coordinator is told at every connect. One that is still on its way to the disk may be lost, and
    /// whoever is told of it passes it on.
    pub fn one_phase_commits(
        &self,
        durable: Position,
    ) -> impl Iterator<Item = (TransactionId, Option<&RequestId>)> + '_ {
        self.branches.iter().filter_map(move |(id, branch)| match branch {
            Branch::OnePhase { commit, at } if *at <= durable => {
                Some((*id, commit.request_id.as_ref()))
            }
            _ => None,
        })
    }

    /// Everything that has to be asked about after a restart: each gets its first timer.
    pub fn resume(&mut self, now: Now) -> Step<ParticipantEntry, Action<W>> {
        let ids: Vec<_> = self.branches.keys().copied().collect();
        for id in ids {
            match self.branches.get(&id) {
                Some(Branch::Prepared(_)) => {
                    mark(Mark::RestoredInDoubt);
                    self.out.timer(TimerKey::Transaction(id), Some(now.at));
                }
                Some(Branch::Voted(_)) => {
                    mark(Mark::ThreeRestoredVoted);
                    self.out.timer(TimerKey::Transaction(id), Some(now.at));
                }
                Some(Branch::Decided(_)) => {
                    mark(Mark::ThreeRestoredDecided);
                    self.arm_delivery(now, id);
                }
                _ => {}
            }
        }
        self.out.take()
    }

    /// Takes back a step that has been carried out, whose buffers serve the ones to come. Nobody has to.
    pub fn reuse(&mut self, used: Step<ParticipantEntry, Action<W>>) {
        self.out.reuse(used);
    }

    /// Handles one input.
    pub fn step(&mut self, now: Now, input: Input<W>) -> Step<ParticipantEntry, Action<W>> {
        match input {
            Input::Prepare { prepare, peers, origin, via } => {
                let id = prepare.id;
                match self.admit(id, &origin, true) {
                    Ok(()) => self.prepare(prepare, peers, origin, via),
                    Err(reason) => self.respond_refused(via, id, reason),
                }
            }
            Input::Commit { id, incarnation, origin, via } => {
                match self.admit(id, &origin, false) {
                    Ok(()) => self.commit(now, id, incarnation, via),
                    Err(reason) => self.respond_refused(via, id, reason),
                }
            }
            Input::Abort { id, origin, via } => match self.admit(id, &origin, false) {
                Ok(()) => self.abort(now, id, via),
                Err(reason) => self.respond_refused(via, id, reason),
            },
            Input::Forget { id, origin } => {
                if self.admit(id, &origin, false).is_ok() {
                    self.forget(id);
                }
            }
            Input::Heard { origin, opened } => self.heard(&origin, opened),
            Input::Joined { id, origin, until } => {
                if self.admit(id, &origin, true).is_ok() && !self.branches.contains_key(&id) {
                    self.branches.insert(id, Branch::Session { until });
                    self.out.timer(TimerKey::Transaction(id), Some(until));
                }
            }
            Input::Touched { id, waiter } => {
                let allowed = match self.branches.get(&id) {
                    Some(Branch::Session { .. }) => Ok(()),
                    Some(_) => Err(SessionRefusal::Over),
                    None => Err(SessionRefusal::NotEnlisted),
                };
                self.out.act(Action::AnswerTouch { to: waiter, allowed });
            }
            Input::GivenUp { id } => {
                if matches!(self.branches.get(&id), Some(Branch::Session { .. })) {
                    mark(Mark::SessionGivenUp);
                    self.give_up(id);
                }
            }
            Input::Answer { id, outcome } => self.answered(now, id, outcome),
            Input::PeerAnswer { id, peer, outcome } => self.peer_answered(id, &peer, outcome),
            Input::PeerAsks { id, waiter } => self.peer_asks(id, waiter),
            Input::Led { from, message, via } => self.led(now, &from, message, via),
            Input::Reported { from, message } => self.site_reported(now, &from, message),
            Input::Resource { id, result } => self.resource_result(now, id, result),
            Input::ResourceHolds { ids } => self.resource_holds(&ids),
            Input::Stopping => self.stopping = true,
            Input::Timer(id) => self.timer(now, id),
        }
        self.out.take()
    }

    // ---- fencing --------------------------------------------------------------------------------

    /// Whether a coordinator may speak for this transaction.
    fn admit(&mut self, id: TransactionId, origin: &Origin, begins: bool) -> Result<(), String> {
        if id.slot() != origin.slot {
            mark(Mark::AnotherSlot);
            return Err(format!(
                "transaction {id} belongs to slot {}, the sender speaks for slot {}",
                id.slot().0,
                origin.slot.0
            ));
        }
        if let Some(seen) = self.slots.get(&origin.slot)
            && origin.epoch < seen.epoch
            && !mutant(Mutant::StaleEpochAccepted)
        {
            mark(Mark::StaleEpoch);
            return Err(format!(
                "epoch {} of slot {} is over: epoch {} has been seen",
                origin.epoch.0, origin.slot.0, seen.epoch.0
            ));
        }
        self.heard(origin, false);
        if id.epoch() > origin.epoch || (begins && id.epoch() != origin.epoch) {
            mark(Mark::AnotherEpoch);
            return Err(format!(
                "transaction {id} is not of the sender's epoch {}",
                origin.epoch.0
            ));
        }
        Ok(())
    }

    fn heard(&mut self, origin: &Origin, opened: bool) {
        let before = self.slots.get(&origin.slot);
        if before.is_some_and(|seen| origin.epoch < seen.epoch) {
            return;
        }
        let new_epoch = before.is_none_or(|seen| origin.epoch > seen.epoch);
        let passed = before
            .is_none_or(|seen| origin.epoch > seen.epoch || origin.lowest_live > seen.lowest_live);
        if passed {
            let lowest_live = origin.lowest_live;
            let endpoint = origin.endpoint.clone();
            let (epoch, recorded_at) = (origin.epoch, None);
            let seen = SlotSeen { epoch, lowest_live, endpoint, recorded_at };
            self.slots.insert(origin.slot, seen);
            let trimmed = self.trim(origin.slot);
            if new_epoch || !trimmed.is_empty() {
                // First: a log that is cut between the two must not have forgotten a transaction that
                // it would then begin again.
                self.record_seen(origin.slot);
            }
            for id in trimmed {
                self.record_lazily(ParticipantRecord::Forgotten { id });
            }
            if new_epoch {
                self.end_unvoted(origin.slot, origin.epoch);
            }
        } else if let Some(seen) = self.slots.get_mut(&origin.slot)
            && seen.endpoint != origin.endpoint
        {
            seen.endpoint.clone_from(&origin.endpoint);
        }
        if opened {
            self.inquire_all(origin.slot);
        }
    }

    /// A new epoch has begun: nobody will ask for the votes of earlier ones any more, so what has not
    /// voted gives its locks back now and not when its time is over.
    fn end_unvoted(&mut self, slot: Slot, epoch: Epoch) {
        let mut sessions = Vec::new();
        let mut running = Vec::new();
        for protocol in PROTOCOLS {
            let first = TransactionId::new(slot, protocol, Epoch(0), Sequence(0));
            let next = TransactionId::new(slot, protocol, epoch, Sequence(0));
            for (id, branch) in self.branches.range_mut(first..next) {
                match branch {
                    Branch::Session { .. } => sessions.push(*id),
                    Branch::Preparing(preparing) if preparing.doomed.is_none() => {
                        preparing.doomed = Some(Doomed { vias: Vec::new(), at: None });
                        running.push(*id);
                    }
                    _ => {}
                }
            }
        }
        for id in sessions {
            mark(Mark::EpochEndsSession);
            self.give_up(id);
        }
        for id in running {
            mark(Mark::EpochDoomsPreparing);
            self.call(id, ResourceCall::Cancel);
        }
    }

    /// Forgets finished transactions that no PREPARE can come for any more. Returns those that the log
    /// remembers.
    fn trim(&mut self, slot: Slot) -> Vec<TransactionId> {
        let Some(seen) = self.slots.get(&slot) else {
            return Vec::new();
        };
        let mut gone = Vec::new();
        for protocol in PROTOCOLS {
            let first = TransactionId::new(slot, protocol, Epoch(0), Sequence(0));
            let passed = TransactionId::new(slot, protocol, seen.epoch, seen.lowest_live);
            gone.extend(self.finished.range(first..passed));
        }
        if mutant(Mutant::FinishedForgotten) {
            gone = self.finished.iter().copied().collect();
        }
        gone.retain(|id| {
            mark(Mark::FinishedForgotten);
            self.finished.remove(id);
            match self.branches.remove(id) {
                Some(Branch::Finished { at: Some(at), .. }) => {
                    self.forgotten_at = self.forgotten_at.max(at);
                    if mutant(Mutant::ForgottenAtLowered) {
                        self.forgotten_at = at;
                    }
                    true
                }
                _ => false,
            }
        });
        gone
    }

    /// True when the coordinator has promised not to ask for this transaction any more.
    pub(crate) fn is_passed(&self, id: TransactionId) -> bool {
        self.slots
            .get(&id.slot())
            .is_some_and(|seen| id.epoch() == seen.epoch && id.sequence() < seen.lowest_live)
            && !mutant(Mutant::FloorNotChecked)
    }

    // ---- small things ---------------------------------------------------------------------------

    /// Remembers the end of a branch, and has the resource release it.
    pub(crate) fn finish(
        &mut self,
        id: TransactionId,
        ending: Ending,
        at: Option<Position>,
        was_prepared: bool,
    ) {
        self.remember(id, ending, at);
        self.answer_followers(id);
        self.ended(id, ending, was_prepared);
    }

    pub(crate) fn remember(&mut self, id: TransactionId, ending: Ending, at: Option<Position>) {
        self.branches.insert(id, Branch::Finished { ending, at });
        self.finished.insert(id);
    }

    pub(crate) fn ended(&mut self, id: TransactionId, ending: Ending, was_prepared: bool) {
        self.out.timer(TimerKey::Transaction(id), None);
        self.call(id, ResourceCall::Finished(ending));
        self.out.act(Action::Note(Event::Ended { id, ending, was_prepared }));
    }

    pub(crate) fn call(&mut self, id: TransactionId, call: ResourceCall) {
        self.out.act(Action::Resource { id, call });
    }

    pub(crate) fn vote(&mut self, vias: Vec<Via<W>>, id: TransactionId, vote: Vote, result: Bytes) {
        let incarnation = self.incarnation;
        for via in vias {
            let (vote, result) = (vote.clone(), result.clone());
            self.respond(via, FromParticipant::Voted { id, vote, incarnation, result });
        }
    }

    pub(crate) fn respond(&mut self, via: Via<W>, message: FromParticipant) {
        let slot = message.id().slot();
        self.out.act(Action::Respond { via, slot, message });
    }

    pub(crate) fn respond_refused(&mut self, via: Via<W>, id: TransactionId, reason: String) {
        self.respond(via, FromParticipant::Refused { id, reason });
    }

    fn respond_aborted(&mut self, doomed: Option<Doomed<W>>, id: TransactionId) {
        for via in doomed.into_iter().flat_map(|doomed| doomed.vias) {
            self.respond(via, FromParticipant::Aborted { id });
        }
    }

    pub(crate) fn alarm(&mut self, id: TransactionId, alarm: Alarm) {
        self.out.act(Action::Note(Event::Alarm { id, alarm }));
    }

    pub(crate) fn force(&mut self, record: ParticipantRecord, changes: Vec<Change>) -> Position {
        self.out.force(ParticipantEntry { record, changes })
    }

    /// The log knows how far a slot's transactions are over, or will before what is written next. Returns where.
    pub(crate) fn record_seen(&mut self, slot: Slot) -> Position {
        let Some(seen) = self.slots.get(&slot) else {
            return Position(0);
        };
        if let Some(at) = seen.recorded_at {
            return at;
        }
        let (epoch, lowest_live) = (seen.epoch, seen.lowest_live);
        self.record_lazily(ParticipantRecord::SlotSeen { slot, epoch, lowest_live });
        let at = self.out.position();
        if let Some(seen) = self.slots.get_mut(&slot) {
            seen.recorded_at = Some(at);
        }
        at
    }

    pub(crate) fn record_lazily(&mut self, record: ParticipantRecord) {
        self.out.lazily(ParticipantEntry { record, changes: Vec::new() });
    }

    pub(crate) fn backoff(&mut self, base: u64, attempts: u32) -> u64 {
        let longest = self.config.inquire_after_us_max.max(base);
        let wait = base.max(1).saturating_mul(1 << attempts.min(20)).min(longest);
        wait + crate::jitter::draw(&mut self.jitter) % (wait / 4 + 1)
    }
}

fn no(reason: &str) -> Vote {
    let reason = crate::limits::cut(reason, crate::limits::REASON_BYTES_MAX).to_owned();
    Vote::No { reason }
}
