//! What is going to happen, and when.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use handfast_commit_core::id::{Incarnation, TransactionId};
use handfast_commit_core::message::{FromParticipant, FromSite, Inquired, ToParticipant, ToSite};
use handfast_commit_core::two_phase::coordinator::{OnePhaseReport, Reply};
use handfast_commit_core::two_phase::participant::{Origin, ResourceCall, ResourceResult};
use handfast_wire::v1::{KeyValueResult, KeyValueWork};

use crate::client::{Ask, CallId, Said};
use crate::trace::EventRef;

/// One life of a process: rises with each start and each death, so that what was meant for an earlier life
/// is told from what is meant for this one.
pub type Life = u64;

/// A process of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Site {
    /// The coordinator.
    Coordinator,
    /// A participant, by its index.
    Participant(usize),
    /// A witness of three-phase commit, by its index.
    Witness(usize),
}

/// A message between two processes, with its place in the trace.
#[derive(Debug)]
pub struct Mail {
    /// What it says.
    pub letter: Letter,
    /// Where the trace has it.
    pub traced: Option<EventRef>,
}

/// What processes say to each other.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // fields: who, in which life, over which session, about what
pub enum Letter {
    /// Client to coordinator.
    Ask { call: CallId, ask: Ask },
    /// Coordinator to client.
    Answer { call: CallId, said: Said },
    /// Client to participant: work in an interactive transaction.
    Work { call: CallId, to: usize, id: TransactionId, work: KeyValueWork },
    /// Participant to client.
    Worked { call: CallId, from: usize, result: Result<KeyValueResult, WorkError> },
    /// A link opens a session.
    Hello { to: usize, session: u64, origin: Origin },
    /// The participant has taken it.
    Welcome { from: usize, session: u64, incarnation: Incarnation, reports: Vec<OnePhaseReport> },
    /// The participant has not taken it.
    Unwelcome { from: usize, session: u64 },
    /// Over a session.
    Down { to: usize, session: u64, origin: Origin, message: ToParticipant },
    /// Over a session.
    Up { from: usize, session: u64, message: FromParticipant },
    /// Over a session: what became of it?
    UpInquiry { from: usize, session: u64, id: TransactionId, incarnation: Incarnation },
    /// A unary call.
    Call { to: usize, life: Life, session: u64, origin: Origin, message: ToParticipant },
    /// Its answer.
    Called { from: usize, life: Life, session: u64, message: FromParticipant },
    /// The unary call that lists what is in doubt.
    List { to: usize, life: Life, session: u64, first: bool },
    /// Its answer.
    Listed {
        from: usize,
        life: Life,
        session: u64,
        first: bool,
        ids: Vec<TransactionId>,
        kept: Vec<OnePhaseReport>,
    },
    /// Participant to coordinator, by a call of its own.
    Inquiry { from: usize, life: Life, id: TransactionId, incarnation: Incarnation },
    /// The answer.
    Inquired { to: usize, life: Life, id: TransactionId, outcome: Inquired },
    /// Participant to participant.
    PeerAsk { from: usize, life: Life, to: usize, id: TransactionId },
    /// The answer.
    PeerAnswer { to: usize, life: Life, from: usize, id: TransactionId, outcome: Inquired },
    /// Over a session: the coordinator leads.
    DownOrder { to: usize, session: u64, origin: Origin, message: ToSite },
    /// Over a session: the answer.
    UpReport { from: usize, session: u64, message: FromSite },
    /// One voting site to another, by a call of its own: it leads.
    Order { from: Site, life: Life, to: Site, message: ToSite },
    /// The answer.
    Report { to: Site, life: Life, from: Site, message: FromSite },
    /// Participant to coordinator: a branch joins.
    Enlist { from: usize, life: Life, id: TransactionId, incarnation: Incarnation, number: u64 },
    /// The answer.
    Enlisted { to: usize, life: Life, id: TransactionId, reply: Option<(Reply, Origin)> },
}

/// Why work was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkError {
    /// Nothing was done and the branch is as it was.
    TryAgain,
    /// The branch is over.
    Over,
}

/// One thing that is going to happen.
#[derive(Debug)]
pub enum Event {
    /// A message arrives.
    Mail(Mail),
    /// A client does its next thing.
    Client(usize),
    /// A client has waited long enough for an answer.
    OutOfPatience(CallId),
    /// A timer of a state machine may have run out.
    Timer(Site, Life),
    /// The disk has done what it was asked.
    Sync(Site, Life),
    /// The log has been idle for long enough to write what is lazy.
    Idle(Site, Life),
    /// A link tries to connect.
    Connect(usize, Life),
    /// The coordinator notices that a session has broken.
    Broken(usize, u64),
    /// A session that is being opened has taken too long.
    NoWelcome(usize, u64),
    /// A participant looks again whether it can report.
    Report(usize, Life, u64),
    /// A participant with unary calls is asked what it holds.
    AskList(usize, Life, u64),
    /// The resource begins a call.
    ResourceStarts(usize, Life, TransactionId, ResourceCall),
    /// The resource's answer reaches the library.
    ResourceEnds(usize, Life, TransactionId, ResourceResult),
    /// Somebody may have waited for a lock for long enough.
    LockTimeout(usize, Life),
    /// An enlistment was not answered.
    EnlistTimeout(usize, Life, TransactionId),
    /// A process is started.
    Start(Site),
    /// A process that has said that it would has ended.
    Stopped(Site, Life),
    /// A site that leads is killed.
    LeaderKilled(Site, Life),
    /// The next fault of a kind that comes at random times.
    Storm(Storm),
    /// The end of a shortage of disk space.
    Space(Site),
    /// All faults stop.
    Heal,
    /// Looks whether everything has ended.
    LookForTheEnd,
}

/// Faults that come at random times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storm {
    /// Kills the coordinator.
    CoordinatorCrash,
    /// Kills a participant.
    ParticipantCrash,
    /// Fills a disk.
    DiskFull,
    /// Cuts processes off from each other.
    Partition,
    /// Loses messages in one direction.
    OneWayCut,
    /// Stops a process for a while.
    Pause,
    /// Sets a wall clock.
    ClockJump,
    /// Replaces a participant's disk.
    DiskReplaced,
    /// Kills a witness.
    WitnessCrash,
}

#[derive(Debug)]
struct Entry {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The earliest is the greatest, because the heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// Everything that is going to happen, by time; of one moment, in the order in which it was planned.
#[derive(Debug, Default)]
pub struct Agenda {
    entries: BinaryHeap<Entry>,
    planned: u64,
}

impl Agenda {
    /// Plans an event.
    pub fn plan(&mut self, at: u64, event: Event) {
        self.planned += 1;
        self.entries.push(Entry { at, order: self.planned, event });
    }

    /// The next event, and when it is.
    pub fn pop(&mut self) -> Option<(u64, Event)> {
        self.entries.pop().map(|entry| (entry.at, entry.event))
    }

    /// How many are planned.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when nothing is going to happen any more.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
