//! What coordinators and participants say to each other.
//!
//! A message carries no origin: slot, epoch, incarnation and `lowest_live_sequence` are the same for
//! everything that one process says, and the link adds them. What arrives here has passed the checks
//! that need no knowledge of the transaction.

use bytes::Bytes;

use crate::id::{Incarnation, ParticipantName, RequestId, TransactionId};
use crate::three_phase::{Ballot, SiteNumber, Sites, Standing};

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
    /// Three-phase commit only: who votes.
    pub voting: Option<Box<Voting>>,
}

/// The voting sites of a three-phase transaction, and which of them is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Voting {
    /// All of them.
    pub sites: Sites,
    /// The one that is asked to prepare.
    pub own: SiteNumber,
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

/// From whoever leads a three-phase transaction, its coordinator or any other voting site, to one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ToSite {
    /// Which transaction.
    pub id: TransactionId,
    /// Of the log that the site took part under: another one that does not know the transaction has lost
    /// it, and must not pass for one that has not voted. 0 for a witness.
    pub incarnation: Incarnation,
    /// What it is to do.
    pub order: Order,
}

/// What a leader wants of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// Join this ballot, and say where you stand. A site that has not voted aborts instead.
    Join {
        /// The leader's.
        ballot: Ballot,
    },
    /// Move towards commit.
    PreCommit {
        /// In which ballot.
        ballot: Ballot,
    },
    /// Move towards abort.
    PreAbort {
        /// In which ballot.
        ballot: Ballot,
    },
    /// It is decided.
    Decided {
        /// Or aborted.
        committed: bool,
    },
    /// Every site has the decision on its disk: nobody will ask any more.
    Forget,
}

impl Order {
    /// Of a leader's order to an undecided site.
    #[must_use]
    pub fn ballot(self) -> Option<Ballot> {
        match self {
            Self::Join { ballot } | Self::PreCommit { ballot } | Self::PreAbort { ballot } => {
                Some(ballot)
            }
            Self::Decided { .. } | Self::Forget => None,
        }
    }
}

/// From a voting site to whoever leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FromSite {
    /// Which transaction.
    pub id: TransactionId,
    /// What it has to say.
    pub report: Report,
}

/// What a site has to say to a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Report {
    /// To [`Order::Join`]: joined, durably.
    Joined {
        /// Which ballot.
        ballot: Ballot,
        /// The last one in which it moved.
        accepted: Ballot,
        /// Where to.
        standing: Standing,
    },
    /// To [`Order::PreCommit`] and [`Order::PreAbort`]: moved, durably.
    Moved {
        /// In which ballot.
        ballot: Ballot,
    },
    /// It has joined a higher ballot.
    Refused {
        /// The one that is refused.
        ballot: Ballot,
        /// The higher one.
        promised: Ballot,
    },
    /// It does not know the transaction, and never will: aborted. It says the same, and means nothing, when
    /// everybody has the decision and this site has been permitted to forget it; whoever still asks was late.
    Unvoted,
    /// It knows the decision: it has been told, or it had not voted and has aborted for good.
    Known {
        /// Or aborted.
        committed: bool,
    },
    /// It has the decision on its disk, and has carried it out.
    Acknowledged {
        /// Or aborted.
        committed: bool,
    },
    /// To [`Order::Forget`].
    Forgotten,
    /// Nothing may be concluded from this answer.
    NoInformation,
}
