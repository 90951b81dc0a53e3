//! The state of the whole world: processes, disks, databases, network, client.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use handfast_commit_core::id::{Epoch, TransactionId};
use handfast_commit_core::record::{CoordinatorRecord, ParticipantEntry};
use handfast_commit_core::step::TimerKey;
use handfast_commit_core::two_phase::participant::ResourceCall;
use handfast_commit_core::two_phase::{Coordinator, Participant, coordinator, participant};

use crate::bounds::Budget;
use crate::log::Log;
use crate::network::{Bag, Link, Who, hash_of};

/// Through whom a state machine is asked, and answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Caller {
    /// The client's attempt with this number.
    Client(usize),
    /// The client, which wants to abort.
    Stopper,
    /// A participant in doubt, about a transaction.
    Inquirer(usize, TransactionId),
    /// A peer in doubt, about a transaction.
    Peer(usize, TransactionId),
    /// The coordinator of this epoch, which calls. The answer dies with its process.
    Coordinator(Epoch),
    /// Whoever leads a three-phase transaction.
    Leader(Who),
}

/// The coordinator's process and its disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CoordinatorHost {
    /// `None` while it is down.
    pub core: Option<Coordinator<Caller>>,
    /// Its log.
    pub log: Log<CoordinatorRecord, coordinator::Action<Caller>>,
    /// The timers that are set. When they run out is anybody's guess.
    pub timers: BTreeSet<TimerKey>,
    /// Raised at every start.
    pub epoch: Epoch,
    /// Of the transaction that was begun last.
    pub sequence: u64,
}

/// A participant's process, its disk and its resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ParticipantHost {
    /// `None` while it is down.
    pub core: Option<Participant<Caller>>,
    /// Its log.
    pub log: Log<ParticipantEntry, participant::Action<Caller>>,
    /// The timers that are set.
    pub timers: BTreeSet<TransactionId>,
    /// Its resource.
    pub resource: Resource,
    /// Crashes that are left.
    pub crashes: u8,
    /// Elections that are left.
    pub elections: u8,
}

/// A witness of three-phase commit and its disk. It does not die: what it answers with is durable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WitnessHost {
    /// A coordinator's process in that role.
    pub core: Coordinator<Caller>,
    /// Its log.
    pub log: Log<CoordinatorRecord, coordinator::Action<Caller>>,
}

/// The resource of a participant, and what became of its data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Resource {
    /// Calls that it has not answered, oldest first.
    pub calls: Vec<(TransactionId, ResourceCall)>,
    /// Branches that it holds prepared.
    pub holds: BTreeSet<TransactionId>,
    /// Of those, what is on the disk: the same, for a database of its own.
    pub holds_durably: BTreeSet<TransactionId>,
    /// How often each transaction took effect, durably.
    pub effects: BTreeMap<TransactionId, u8>,
    /// Branches that aborted for good: because somebody who knew said so, or durably.
    pub aborted: BTreeSet<TransactionId>,
    /// Branches that voted read-only.
    pub read_only: BTreeSet<TransactionId>,
}

/// What the client has done and heard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Client {
    /// The transactions of its attempts, in order. They may turn out not to be begun.
    pub attempts: Vec<TransactionId>,
    /// Of which transaction it was told what.
    pub told: BTreeSet<(TransactionId, bool)>,
    /// The attempts whose callers got an answer, an outcome or another.
    pub answered: BTreeSet<usize>,
    /// The attempts whose callers were cut off by a crash of the coordinator.
    pub cut_off: BTreeSet<usize>,
}

/// What was said or written about a transaction at the coordinator. Never taken back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Fact {
    /// The log says committed.
    pub commit_logged: bool,
    /// The log says aborted.
    pub abort_logged: bool,
    /// A participant was told to commit.
    pub commit_sent: bool,
    /// A participant was told to abort what cannot commit any more.
    pub abort_sent: bool,
}

impl Fact {
    /// And this.
    pub fn add(&mut self, other: Fact) {
        self.commit_logged |= other.commit_logged;
        self.abort_logged |= other.abort_logged;
        self.commit_sent |= other.commit_sent;
        self.abort_sent |= other.abort_sent;
    }
}

/// A part of the state with its hash, shared between states as long as it does not change.
#[derive(Debug, Clone)]
pub struct Part<T> {
    value: Arc<T>,
    hash: u64,
}

impl<T: Hash + Clone> Part<T> {
    /// Of this value.
    pub fn new(value: T) -> Self {
        Self { hash: hash_of(&value), value: Arc::new(value) }
    }

    /// The value.
    pub fn get(&self) -> &T {
        &self.value
    }

    /// The value, to be changed; [`rehash`](Self::rehash) must follow.
    pub fn change(&mut self) -> &mut T {
        self.hash = 0;
        Arc::make_mut(&mut self.value)
    }

    /// Its hash, when it has not been changed since.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// True after a change.
    pub fn is_changed(&self) -> bool {
        self.hash == 0
    }

    /// After a change.
    pub fn rehash(&mut self) {
        self.hash = hash_of(&*self.value).max(1);
    }
}

impl<T> Hash for Part<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

/// Everything.
#[derive(Clone)]
pub struct State {
    /// The coordinator.
    pub coordinator: Part<CoordinatorHost>,
    /// The participants.
    pub participants: Vec<Part<ParticipantHost>>,
    /// The witnesses.
    pub witnesses: Vec<Part<WitnessHost>>,
    /// Calls on their way.
    pub bag: Bag,
    /// Links, one for each participant. With calls only what the coordinator believes matters.
    pub links: Vec<Link>,
    /// The client.
    pub client: Client,
    /// What may still go wrong.
    pub budget: Budget,
    /// What was said at the coordinator.
    pub facts: BTreeMap<TransactionId, Fact>,
    /// An alarm, a broken invariant or a failed assertion: it is never taken back.
    pub broken: Option<Arc<str>>,
    /// The hash of all that.
    pub hash: u64,
}

impl State {
    /// After a change.
    pub fn rehash(&mut self) {
        let all = (
            &self.coordinator,
            &self.participants,
            &self.witnesses,
            &self.bag,
            &self.links,
            &self.client,
            &self.budget,
            &self.facts,
            &self.broken,
        );
        self.hash = hash_of(&all);
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "State({:016x})", self.hash)
    }
}
