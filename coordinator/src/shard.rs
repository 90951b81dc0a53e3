//! A shard: the core's coordinator, and what it needs of the journal.
//!
//! Whoever asks the core about a transaction that it does not hold has to bring what the log says. The
//! look-up happens here, by whoever turns the shard and just before the step, so that nothing can come
//! between the two.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use handfast_commit_core::id::{
    Incarnation, ParticipantName, Protocol, RequestId, Sequence, TransactionId,
};
use handfast_commit_core::message::{FromParticipant, ToSite};
use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_commit_core::record::{CoordinatorRecord, Request};
use handfast_commit_core::step::{Now, Position, Step, TimerKey};
use handfast_commit_core::three_phase::SiteName;
use handfast_commit_core::two_phase::Coordinator;
use handfast_commit_core::two_phase::coordinator::{
    Action, Event, Execute, Identity, Input, Inquiry, OnePhaseReport, Reply, Stored, Terms,
    TransactionView, Waiter,
};
use handfast_commit_core::two_phase::participant::Via;
use handfast_journal::Mutation;
use handfast_runtime::driver::Machine;
use tokio::sync::{mpsc, oneshot};

use crate::reply_to::ReplyTo;
use crate::store::{self, Found, Store};

/// The low bits of a sequence name the shard; the others count across all shards, so that ids sort by
/// age whatever shard they are of.
const SHARD_BITS: u32 = 6;
/// Most shards of one coordinator.
pub const SHARDS_MAX: usize = 1 << SHARD_BITS;

/// Gives out the sequences of one epoch.
#[derive(Debug)]
pub struct Sequences {
    next: AtomicU64,
    /// For each shard: no id below this will be asked to prepare any more.
    floors: Vec<AtomicU64>,
}

impl Sequences {
    /// For a number of shards.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        let floors = (0..shards).map(|_| AtomicU64::new(0)).collect();
        Self { next: AtomicU64::new(1), floors }
    }

    /// The shard that an id belongs to; ids of earlier epochs may have been another number's.
    #[must_use]
    pub fn shard_of(&self, id: TransactionId) -> usize {
        (id.sequence().0 & (SHARDS_MAX as u64 - 1)) as usize % self.floors.len()
    }

    fn draw(&self, shard: usize) -> Sequence {
        Sequence(self.next.fetch_add(1, Ordering::SeqCst) << SHARD_BITS | shard as u64)
    }

    /// True when this id can have been given out in this epoch.
    #[must_use]
    pub fn given_out(&self, sequence: Sequence) -> bool {
        sequence.0 >> SHARD_BITS < self.next.load(Ordering::SeqCst)
    }

    /// Called between two batches of a shard: whatever it draws later is not below `next`.
    fn settle(&self, shard: usize, lowest_live: Option<Sequence>) {
        let next = Sequence(self.next.load(Ordering::SeqCst) << SHARD_BITS);
        let lowest_live = lowest_live.filter(|_| !mutant(Mutant::FloorAhead));
        let floor = lowest_live.map_or(next, |lowest| lowest.min(next));
        self.floors[shard].fetch_max(floor.0, Ordering::SeqCst);
    }

    /// No transaction below this will be asked to prepare any more.
    #[must_use]
    pub fn lowest_live(&self) -> Sequence {
        let floors = self.floors.iter().map(|floor| floor.load(Ordering::SeqCst));
        Sequence(floors.min().unwrap_or(0))
    }
}

/// What a shard is told.
#[derive(Debug)]
pub enum ShardInput {
    /// A client begins a transaction.
    Begin {
        /// How it will be committed.
        protocol: Protocol,
        /// What it may cost.
        terms: Terms,
        /// Is told the id.
        to: ReplyTo,
    },
    /// A client sends a whole transaction.
    Execute {
        /// Who does what.
        branches: BTreeMap<ParticipantName, Bytes>,
        /// How it is committed.
        protocol: Protocol,
        /// What it may cost.
        terms: Terms,
        /// The client's name for it.
        request: Option<Request>,
        /// Is told the outcome.
        waiter: Waiter<ReplyTo>,
    },
    /// A participant says something.
    Received {
        /// Who.
        from: ParticipantName,
        /// What.
        message: FromParticipant,
    },
    /// A participant asks.
    Inquire {
        /// Who and about what.
        inquiry: Inquiry,
        /// Is told; over the link when `None`.
        to: Option<ReplyTo>,
    },
    /// A participant is connected.
    Connected {
        /// Who.
        participant: ParticipantName,
        /// Of its log; 0 for one without sessions.
        incarnation: Incarnation,
        /// The one-phase commits of this shard that it still keeps.
        one_phase_commits: Vec<OnePhaseReport>,
    },
    /// Another voting site leads a three-phase transaction.
    Led {
        /// Which one.
        from: SiteName,
        /// What it wants.
        message: ToSite,
        /// Is told.
        to: ReplyTo,
    },
    /// Answered when everything that this shard has wanted done so far has been done.
    Settle(oneshot::Sender<()>),
    /// Anything that needs nothing of the journal.
    Core(Input<ReplyTo>),
    /// Somebody wants to see what happens to a transaction.
    Watch {
        /// Which one.
        id: TransactionId,
        /// Gets the present state and every event.
        watcher: mpsc::UnboundedSender<Watched>,
    },
}

/// What a watcher is told.
#[derive(Debug, Clone)]
pub struct Watched {
    /// What happened; `None`: the present state.
    pub event: Option<Event>,
    /// The transaction afterwards; `None` when it is not running any more.
    pub view: Option<TransactionView>,
    /// Wall clock, milliseconds since 1970.
    pub at_ms: u64,
}

/// What a shard wants done.
#[derive(Debug)]
pub enum ShardAction {
    /// By the core.
    Core(Action<ReplyTo>),
    /// For watchers.
    Watched(Vec<mpsc::UnboundedSender<Watched>>, Box<Watched>),
    /// Something outside the core is durable.
    Durable(oneshot::Sender<()>),
}

impl ShardAction {
    fn core(self) -> Option<Action<ReplyTo>> {
        match self {
            Self::Core(action) => Some(action),
            Self::Watched(..) | Self::Durable(_) => None,
        }
    }
}

/// Requests in votes that were found in the log, whose repetitions come to another shard than the one that a
/// transaction's id leads to: the number of shards has changed. By name.
pub type VotesElsewhere = BTreeMap<RequestId, TransactionId>;

/// One shard.
#[derive(Debug)]
pub struct CoordinatorShard {
    index: usize,
    core: Coordinator<ReplyTo>,
    store: Store,
    sequences: Arc<Sequences>,
    watchers: BTreeMap<TransactionId, Vec<mpsc::UnboundedSender<Watched>>>,
    votes_elsewhere: Arc<VotesElsewhere>,
    on_unreadable: fn(&store::StoreError),
}

impl CoordinatorShard {
    /// Around a core that has been restored. `on_unreadable` is called when the journal cannot be
    /// read, and must not return to business as usual: "cannot be read" is not "not there".
    pub fn new(
        index: usize,
        core: Coordinator<ReplyTo>,
        store: Store,
        sequences: Arc<Sequences>,
        on_unreadable: fn(&store::StoreError),
    ) -> Self {
        let votes_elsewhere = Arc::default();
        let watchers = BTreeMap::new();
        Self { index, core, store, sequences, watchers, votes_elsewhere, on_unreadable }
    }

    /// Names the requests that a start has found in votes, and that run in other shards than their repetitions
    /// will come to.
    pub fn set_votes_elsewhere(&mut self, votes: Arc<VotesElsewhere>) {
        self.votes_elsewhere = votes;
    }

    /// What a request is told whose transaction is still voted about, in another shard.
    fn undecided_elsewhere(&self, input: &ShardInput) -> Result<Option<Reply>, store::StoreError> {
        let ShardInput::Execute { request: Some(request), .. } = input else { return Ok(None) };
        let Some(&id) = self.votes_elsewhere.get(&request.id) else { return Ok(None) };
        Ok(match self.store.find(id)? {
            Some(Found::Voting(_)) => {
                let waiting_for = "its voting sites, since before the coordinator was restarted";
                Some(Reply::Undecided { id, waiting_for: waiting_for.to_owned() })
            }
            _ => None,
        })
    }

    /// What has to be led or delivered again after a restart gets its first timers. Called once, before the
    /// first input.
    pub fn resume(&mut self, now: Now) -> Step<CoordinatorRecord, ShardAction> {
        wrap(self.core.resume(now))
    }

    /// The core, to look at.
    #[must_use]
    pub fn core(&self) -> &Coordinator<ReplyTo> {
        &self.core
    }

    fn draw(&self, protocol: Protocol) -> TransactionId {
        let Identity { slot, epoch, .. } = self.core.identity();
        TransactionId::new(slot, protocol, epoch, self.sequences.draw(self.index))
    }

    fn stored(&self, id: TransactionId) -> Result<Option<Stored>, store::StoreError> {
        if self.core.knows(id) || mutant(Mutant::LogNotAsked) {
            return Ok(None);
        }
        match self.store.find(id)? {
            // Whatever the core knows is decided in its log before it leaves the core.
            Some(found) => found.stored().map(Some).ok_or(store::StoreError::Forgotten { id }),
            None if id.is_three_phase() && self.store.may_have_expired(id)? => {
                Ok(Some(Stored::Expired))
            }
            None => Ok(None),
        }
    }

    fn resolve(&self, input: ShardInput) -> Result<Input<ReplyTo>, store::StoreError> {
        Ok(match input {
            ShardInput::Core(input) => input,
            ShardInput::Begin { protocol, terms, to } => {
                Input::Begin { id: self.draw(protocol), terms, waiter: to }
            }
            ShardInput::Execute { branches, protocol, terms, request, waiter } => {
                let stored = match &request {
                    Some(_) if mutant(Mutant::RequestNotAsked) => None,
                    Some(request) if self.core.running_request(&request.id).is_none() => {
                        // One that has aborted may be tried again: nothing has to be known of it.
                        self.store.find_committed(&request.id)?.and_then(|found| found.stored())
                    }
                    _ => None,
                };
                let id = self.draw(protocol);
                Input::Execute(Execute { id, branches, terms, request, stored, waiter })
            }
            ShardInput::Received { from, message } => {
                // Only an answer that finds no transaction needs the log.
                let stored = match &message {
                    FromParticipant::Voted { id, .. } => self.stored(*id)?,
                    _ => None,
                };
                Input::Received { from, message, stored }
            }
            ShardInput::Inquire { inquiry, to } => {
                let stored = self.stored(inquiry.id)?;
                match to {
                    Some(waiter) => Input::Inquire { inquiry, stored, waiter },
                    None => Input::InquireOverLink { inquiry, stored },
                }
            }
            ShardInput::Connected { participant, incarnation, one_phase_commits } => {
                let one_phase_commits = one_phase_commits
                    .into_iter()
                    .map(|report| {
                        let stored = self.stored(report.id)?;
                        Ok((report, stored))
                    })
                    .collect::<Result<_, store::StoreError>>()?;
                Input::Connected { participant, incarnation, one_phase_commits }
            }
            ShardInput::Led { from, message, to } => {
                let own = message.id.slot() == self.core.identity().slot;
                let stored = if own { self.stored(message.id)? } else { None };
                Input::Led { from, message, stored, via: Via::Call(to) }
            }
            ShardInput::Watch { .. } | ShardInput::Settle(_) => {
                unreachable!("handled by step()")
            }
        })
    }

    fn watch(&mut self, now: Now, id: TransactionId, watcher: mpsc::UnboundedSender<Watched>) {
        let view = self.core.view(id);
        let running = view.is_some();
        let _ = watcher.send(Watched { event: None, view, at_ms: now.wall_ms });
        if running {
            self.watchers.entry(id).or_default().push(watcher);
        }
    }

    fn with_watchers(&mut self, now: Now, actions: Vec<Action<ReplyTo>>) -> Vec<ShardAction> {
        let mut all = Vec::with_capacity(actions.len());
        for action in actions {
            if let Action::Note(event) = &action
                && let Some(watchers) = self.watchers.get(&event.id())
            {
                let view = self.core.view(event.id());
                let event = Some(event.clone());
                let watched = Watched { event, view, at_ms: now.wall_ms };
                all.push(ShardAction::Watched(watchers.clone(), Box::new(watched)));
            }
            all.push(ShardAction::Core(action));
        }
        if !self.watchers.is_empty() {
            let core = &self.core;
            self.watchers.retain(|id, watchers| {
                watchers.retain(|watcher| !watcher.is_closed());
                core.knows(*id) && !watchers.is_empty()
            });
        }
        all
    }
}

fn wrap(step: Step<CoordinatorRecord, Action<ReplyTo>>) -> Step<CoordinatorRecord, ShardAction> {
    let Step { records, position, forced, gate, then, later, timers } = step;
    let then = then.into_iter().map(ShardAction::Core).collect();
    let later = later.into_iter().map(ShardAction::Core).collect();
    Step { records, position, forced, gate, then, later, timers }
}

impl Machine for CoordinatorShard {
    type Input = ShardInput;
    type Record = CoordinatorRecord;
    type Action = ShardAction;

    fn reuse(&mut self, used: Step<CoordinatorRecord, ShardAction>) {
        // The places of the one kind of actions serve for the other kind: collected in place.
        let emptied = |used: Vec<ShardAction>| -> Vec<Action<ReplyTo>> {
            used.into_iter().filter_map(ShardAction::core).collect()
        };
        let Step { records, position, forced, gate, then, later, timers } = used;
        let (then, later) = (emptied(then), emptied(later));
        self.core.reuse(Step { records, position, forced, gate, then, later, timers });
    }

    fn step(&mut self, now: Now, input: ShardInput) -> Step<CoordinatorRecord, ShardAction> {
        let nothing = |position| Step {
            records: Vec::new(),
            position,
            forced: false,
            gate: position,
            then: Vec::new(),
            later: Vec::new(),
            timers: Vec::new(),
        };
        if let ShardInput::Watch { id, watcher } = input {
            self.watch(now, id, watcher);
            return nothing(Position(0));
        }
        if let ShardInput::Settle(tell) = input {
            let mut step = nothing(self.core.position());
            step.then.push(ShardAction::Durable(tell));
            return step;
        }
        if !self.votes_elsewhere.is_empty() {
            match self.undecided_elsewhere(&input) {
                Ok(None) => {}
                Ok(Some(reply)) => {
                    let ShardInput::Execute { waiter, .. } = input else {
                        return nothing(Position(0));
                    };
                    let mut step = nothing(Position(0));
                    step.then.push(ShardAction::Core(Action::Reply { to: waiter.to, reply }));
                    return step;
                }
                Err(error) => {
                    (self.on_unreadable)(&error);
                    return nothing(Position(0));
                }
            }
        }
        let input = match self.resolve(input) {
            Ok(input) => input,
            Err(error) => {
                (self.on_unreadable)(&error);
                return nothing(Position(0));
            }
        };
        let Step { records, position, forced, gate, then, later, timers } =
            self.core.step(now, input);
        Step {
            records,
            position,
            forced,
            gate,
            then: if self.watchers.is_empty() {
                then.into_iter().map(ShardAction::Core).collect()
            } else {
                self.with_watchers(now, then)
            },
            later: later.into_iter().map(ShardAction::Core).collect(),
            timers,
        }
    }

    fn timer(&self, key: TimerKey) -> ShardInput {
        ShardInput::Core(Input::Timer(key))
    }

    fn write(&self, record: CoordinatorRecord, mutations: &mut Vec<Mutation>) {
        store::write(&record, mutations);
    }

    fn settled(&mut self) {
        self.sequences.settle(self.index, self.core.lowest_live());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use handfast_commit_core::id::{Epoch, Slot};

    #[test]
    fn nothing_live_is_below_the_floor() {
        let sequences = Sequences::new(2);
        sequences.settle(0, None);
        sequences.settle(1, None);
        let first = sequences.draw(0);
        assert!(sequences.lowest_live() <= first);
        sequences.settle(1, None);
        assert!(sequences.lowest_live() <= first, "shard 0 has not settled since it drew");
        sequences.settle(0, Some(first));
        assert!(sequences.lowest_live() <= first);
        let id = TransactionId::new(Slot(0), Protocol::TwoPhase, Epoch(1), first);
        assert_eq!(sequences.shard_of(id), 0);
        sequences.settle(0, None);
        assert!(sequences.lowest_live() > first);
    }
}
