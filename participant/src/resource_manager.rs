//! The contract between the participant library and a resource manager.
//!
//! A resource manager is whatever holds data that can be changed in a transaction: a store, a
//! database, a service. Its author implements [`ResourceManager`]; everything else (the protocol, the
//! journal, time-outs, recovery, termination) is done by the library. The suite in
//! [`crate::conformance`] checks an implementation against every rule on this page.
//!
//! # Order of calls
//!
//! The library calls one branch's methods one at a time, in this order, with the sole exception of
//! [`cancel`](ResourceManager::cancel), which may come while `prepare` runs:
//!
//! ```text
//! prepare ──► commit ──► finished(Committed)
//!    │   └──► abort  ──► finished(Aborted)
//!    └ (read-only or no) ► finished(ReadOnly) or finished(Aborted)
//! ```
//!
//! After a crash `commit` or `abort` may be called for a branch that was prepared by an earlier
//! process, or finished by it.
//!
//! In a three-phase transaction [`pre_commit`](ResourceManager::pre_commit) may come between `prepare` and
//! the call that ends the branch, which waits for its return. It is a notice, and optional: ballots,
//! elections and everything else that three-phase commit needs are the library's.

use std::future::Future;

pub use handfast_commit_core::id::TransactionId;

/// A change of the library's own store, written in the same forced write as the protocol record that
/// it comes with: `None` deletes the key. A key is not empty: a vote with such a change is a no, and an end with
/// one is taken for a failure, and tried again.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// The work of a branch, as it reaches `prepare`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// The work comes with the prepare and has not been done.
    Carried {
        /// In the resource manager's own format.
        payload: Vec<u8>,
        /// This is the transaction's only branch. When it is not, other branches may still be
        /// acquiring locks: a resource manager that releases its read locks on a read-only vote gives
        /// up serializability, and votes prepared instead.
        only_branch: bool,
    },
    /// The work was done before, in a session that the library enlisted.
    Joined,
}

/// What `prepare` came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prepared {
    /// The branch can be committed and can be aborted, whatever happens.
    ///
    /// Either it is durable already, in the resource's own storage, and both are empty; or
    /// `staged` and `changes` make it durable, and the library writes them together with its own record.
    Yes {
        /// For the client.
        result: Vec<u8>,
        /// What the branch will do, in the resource manager's own format. The library keeps it with the vote,
        /// shows it to [`Store::staged`](crate::Store::staged) after a restart, and drops it when the branch ends:
        /// no change has to. Empty: nothing to keep. Of a branch that commits in one phase it is never kept.
        staged: Vec<u8>,
        /// For the library's store.
        changes: Vec<Change>,
    },
    /// Nothing to commit; everything is released already.
    ReadOnly {
        /// For the client.
        result: Vec<u8>,
    },
    /// The branch is aborted already, and everything is released.
    No {
        /// One sentence for the client.
        reason: String,
    },
}

/// What `commit` or `abort` came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finished {
    /// Done now; `changes` go into the library's store with the record of it.
    Done {
        /// For the library's store.
        changes: Vec<Change>,
    },
    /// It had been done before.
    AlreadyDone,
    /// The resource knows no such branch. For an abort that is as good as done; for the commit of a
    /// branch that voted prepared it is loss of data, and the library says so loudly.
    Unknown,
}

/// How a branch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Committed, durably.
    Committed,
    /// Aborted.
    Aborted,
    /// Voted read-only.
    ReadOnly,
}

/// The resource could not do it now. The library tries again, for ever, with backoff: a commit that
/// was decided is never given up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ResourceError(pub String);

/// A resource manager: see the module's documentation for the order of calls.
pub trait ResourceManager: Send + Sync + 'static {
    /// Does the work up to the point where it can be committed and can be aborted, whatever happens.
    /// May wait (for locks, say), but not for ever.
    fn prepare(&self, id: TransactionId, work: Work) -> impl Future<Output = Prepared> + Send;

    /// A hint that the branch whose `prepare` is running will be aborted: `prepare` should return as
    /// soon as it can, with any answer.
    fn cancel(&self, _id: TransactionId) {}

    /// Three-phase commit only: every participant has voted prepared, and most likely the branch will be
    /// committed; it may be aborted all the same. A chance to make ready for that, and no more: it is not
    /// repeated after a restart, it is left out where the decision is here first, and the branch is not
    /// ended before it returns.
    fn pre_commit(&self, _id: TransactionId) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Commits a prepared branch. Idempotent; may be slow; may not refuse.
    ///
    /// # Errors
    /// When it cannot be done *now*; it will be called again.
    fn commit(
        &self,
        id: TransactionId,
    ) -> impl Future<Output = Result<Finished, ResourceError>> + Send;

    /// Aborts a branch, prepared or not. Idempotent; an unheard-of branch is done.
    ///
    /// # Errors
    /// When it cannot be done *now*; it will be called again.
    fn abort(
        &self,
        id: TransactionId,
    ) -> impl Future<Output = Result<Finished, ResourceError>> + Send;

    /// The end of the branch is durable: release what it held. Must not block.
    fn finished(&self, id: TransactionId, ending: Ending);

    /// The branches that this resource holds prepared.
    ///
    /// # Errors
    /// When it cannot tell. An error is not an empty list.
    fn in_doubt(&self) -> impl Future<Output = Result<Vec<TransactionId>, ResourceError>> + Send;

    /// True when *everything* that `prepare` and `commit` do durably is in what they return to be kept.
    /// Only such a resource can commit in one phase: its outcome and its data are one write.
    fn keeps_all_in_store(&self) -> bool {
        false
    }

    /// True when calls never keep a thread: they compute for microseconds, or wait as futures do. The
    /// engine then begins each call where it comes to it, on a thread of the async runtime, on its own or on the
    /// log's, and gives it a task only if it has to wait. Every other branch waits meanwhile, and a panic in such
    /// a call may end the process.
    fn never_keeps_a_thread(&self) -> bool {
        false
    }
}
