//! What may happen next.

use handfast_commit_core::id::TransactionId;
use handfast_commit_core::step::TimerKey;

use crate::bounds::Verdict;

/// Which of the moments that a timer may stand for has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Something is to be repeated.
    Repeat,
    /// A deadline, or the end of a caller's patience.
    Late,
}

impl Action {
    /// It need not happen: nothing may depend on it.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        match self {
            Self::Lose(_)
            | Self::Repeat(_)
            | Self::Cut(_)
            | Self::CrashCoordinator
            | Self::Crash(_)
            | Self::Retry
            | Self::Abort
            | Self::Expire
            | Self::Early(_) => true,
            Self::Deliver(_)
            | Self::DeliverDown(_)
            | Self::DeliverUp(_)
            | Self::Open(_)
            | Self::Notice(_)
            | Self::Connect(_)
            | Self::SyncCoordinator
            | Self::Sync(_)
            | Self::Resource(..)
            | Self::CoordinatorTimer(..)
            | Self::Timer(..)
            | Self::RestartCoordinator
            | Self::Restart(_)
            | Self::Renew(_) => false,
        }
    }
}

/// One thing that happens. Messages go by their hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A call, or the answer to one, arrives.
    Deliver(u64),
    /// It is lost.
    Lose(u64),
    /// It will come twice.
    Repeat(u64),
    /// The oldest message of a session arrives at its participant.
    DeliverDown(usize),
    /// The oldest message of a session arrives at the coordinator.
    DeliverUp(usize),
    /// A session with a participant begins.
    Open(usize),
    /// A session ends, and what travelled in it is lost.
    Cut(usize),
    /// The coordinator notices that a session is over.
    Notice(usize),
    /// The coordinator can call a participant.
    Connect(usize),
    /// The coordinator's oldest record becomes durable.
    SyncCoordinator,
    /// A participant's oldest record becomes durable.
    Sync(usize),
    /// A participant's resource does what it was asked for first.
    Resource(usize, Verdict),
    /// A timer of the coordinator runs out.
    CoordinatorTimer(TimerKey, Moment),
    /// A timer of a participant runs out.
    Timer(usize, TransactionId),
    /// The coordinator's process dies.
    CrashCoordinator,
    /// It starts again, in a new epoch.
    RestartCoordinator,
    /// A participant's process dies.
    Crash(usize),
    /// It starts again.
    Restart(usize),
    /// The client sends its request again.
    Retry,
    /// The client wants its first attempt aborted.
    Abort,
    /// The outcome window passes for everything that has ended.
    Expire,
    /// A session with a participant ends when nothing travels in it, and another one begins.
    Renew(usize),
    /// A timer runs out early, while something else could still happen.
    Early(Box<Action>),
}
