//! What coordinators and participants say to each other.
//!
//! A message carries no origin: slot, epoch, incarnation and `lowest_live_sequence` are the same for
//! everything that one process says, and the link adds them. What arrives here has passed the checks
//! that need no knowledge of the transaction.

use bytes::Bytes;

use crate::id::{Incarnation, ParticipantName, RequestId, TransactionId};

/// From a coordinator to a participant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ToParticipant {
    /// Do the work as far as it can still be undone, and vote.
    Prepare(Prepare),
    /// The decision is commit.
    Commit {
        /// Which transaction.
        id: TransactionId,
        /// Of the participant's log that voted: another one that does not know the branch has lost it.
        incarnation: Incarnation,
    },
    /// The decision is abort.
    Abort {
        /// Which transaction.
        id: TransactionId,
    },
    /// The outcome of a one-phase commit is in the coordinator's log.
    Forget {
        /// Which transaction.
        id: TransactionId,
    },
    /// The answer to an inquiry.
    Answer {
        /// Which transaction.
        id: TransactionId,
        /// What became of it.
        outcome: Inquired,
    },
}

/// A request for a vote.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Prepare {
    /// Which transaction.
    pub id: TransactionId,
    /// The work, when it comes with the request; `None` when it was done before.
    pub work: Option<Bytes>,
    /// The other participants.
    pub peers: Vec<ParticipantName>,
    /// The participant may commit at once and own the outcome.
    pub one_phase: bool,
    /// The client's name for the request; sent with `one_phase` only.
    pub request_id: Option<RequestId>,
}

/// From a participant to its coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FromParticipant {
    /// The answer to [`Prepare`].
    Voted {
        /// Which transaction.
        id: TransactionId,
        /// The vote.
        vote: Vote,
        /// Of the participant's log.
        incarnation: Incarnation,
        /// What the work returned, for the client.
        result: Bytes,
    },
    /// The commit is durable here.
    Committed {
        /// Which transaction.
        id: TransactionId,
    },
    /// The branch is aborted here.
    Aborted {
        /// Which transaction.
        id: TransactionId,
    },
    /// The participant will not do what it was told.
    Refused {
        /// Which transaction.
        id: TransactionId,
        /// One sentence.
        reason: String,
    },
}

impl FromParticipant {
    /// The transaction that the message is about.
    #[must_use]
    pub fn id(&self) -> TransactionId {
        match self {
            Self::Voted { id, .. }
            | Self::Committed { id }
            | Self::Aborted { id }
            | Self::Refused { id, .. } => *id,
        }
    }
}

/// A participant's vote.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Vote {
    /// Durable: can be committed and can be aborted.
    Prepared,
    /// Nothing to commit; released already.
    ReadOnly,
    /// Aborted there.
    No {
        /// One sentence.
        reason: String,
    },
    /// One-phase: committed, durably.
    Committed {
        /// The earlier transaction that did the work for the same `request_id`.
        earlier: Option<TransactionId>,
    },
}

/// What became of a transaction, as a participant in doubt is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Inquired {
    /// Committed, for ever.
    Commit,
    /// Aborted, for ever.
    Abort,
    /// Undecided.
    Pending,
    /// Cannot say now.
    Retry,
    /// Another coordinator's.
    NotOwner,
    /// Nothing may be concluded from this answer.
    NoInformation,
}
