//! What must survive a crash.

use std::sync::Arc;

use bytes::Bytes;

use crate::id::{Epoch, Incarnation, ParticipantName, RequestId, Sequence, Slot, TransactionId};

/// What people know a transaction by. It passes through; nothing depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Info {
    /// One line.
    pub summary: String,
    /// Keys and values.
    pub labels: Vec<(String, String)>,
    /// W3C trace context.
    pub traceparent: String,
}

/// A client's own name for a request, and a digest of the request itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Request {
    /// The name.
    pub id: RequestId,
    /// Tells a repeated request from another one under the same name; 0 when it is not known.
    pub fingerprint: u64,
}

impl Request {
    /// True when both may be the same request.
    #[must_use]
    pub fn may_be(&self, other: &Request) -> bool {
        self.id == other.id
            && (self.fingerprint == other.fingerprint
                || self.fingerprint == 0
                || other.fingerprint == 0)
    }
}

/// Why a transaction aborted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AbortReason {
    /// What kind of reason.
    pub cause: AbortCause,
    /// Who caused it.
    pub participant: Option<ParticipantName>,
    /// One sentence.
    pub message: String,
}

/// The kinds of reasons for an abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AbortCause {
    /// The client asked for it.
    Client,
    /// A participant voted no.
    VotedNo,
    /// Not every vote arrived in time.
    Timeout,
    /// Nobody remembers a decision, so there was none.
    Presumed,
    /// A participant could not be reached.
    Unreachable,
}

/// A coordinator's record, of one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CoordinatorRecord {
    /// Commit is decided. Live until every voter has acknowledged.
    Commit(Commit),
    /// Over. Replaces the decision, and stays for the outcome window.
    Ended(Ended),
}

/// The decision to commit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Commit {
    /// Which transaction.
    pub id: TransactionId,
    /// The prepared voters, and the incarnation that each voted under.
    pub voters: Vec<(ParticipantName, Incarnation)>,
    /// The client's request.
    pub request: Option<Request>,
    /// For people.
    pub info: Arc<Info>,
    /// Wall clock, milliseconds since 1970.
    pub started_ms: u64,
    /// Wall clock, milliseconds since 1970.
    pub decided_ms: u64,
}

/// The end of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ended {
    /// Which transaction.
    pub id: TransactionId,
    /// `Ok`: committed everywhere.
    pub outcome: Result<(), AbortReason>,
    /// The client's request.
    pub request: Option<Request>,
    /// Everybody who took part.
    pub participants: Vec<ParticipantName>,
    /// For people.
    pub info: Arc<Info>,
    /// Wall clock, milliseconds since 1970; 0 when it was not seen by this process.
    pub started_ms: u64,
    /// Wall clock, milliseconds since 1970.
    pub ended_ms: u64,
}

/// A change of the resource's data in the participant's own store: `None` deletes the key.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// A participant's record, and the changes of data that are written with it, all or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ParticipantEntry {
    /// The record.
    pub record: ParticipantRecord,
    /// The changes.
    pub changes: Vec<Change>,
}

/// A participant's record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ParticipantRecord {
    /// Voted prepared: in doubt until the decision is known.
    Prepared(PreparedBranch),
    /// Over; kept so that a late PREPARE cannot do the work again.
    Finished {
        /// Which transaction.
        id: TransactionId,
        /// Or aborted.
        committed: bool,
    },
    /// Committed in one phase: this participant owns the outcome until the coordinator says forget.
    OnePhase(OnePhaseCommit),
    /// Nothing more needs to be known of this transaction.
    Forgotten {
        /// Which transaction.
        id: TransactionId,
    },
    /// The highest epoch seen of a slot, and how far its transactions are all finished.
    SlotSeen {
        /// Which slot.
        slot: Slot,
        /// The highest epoch.
        epoch: Epoch,
        /// Of that epoch.
        lowest_live: Sequence,
    },
}

/// A prepared branch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PreparedBranch {
    /// Which transaction.
    pub id: TransactionId,
    /// Of the coordinator's log that asked.
    pub coordinator_incarnation: Incarnation,
    /// Where the coordinator was.
    pub coordinator_endpoint: String,
    /// The other participants and where they were.
    pub peers: Vec<(ParticipantName, String)>,
    /// What the work returned: repeated with the vote.
    pub result: Bytes,
    /// Wall clock, milliseconds since 1970.
    pub since_ms: u64,
}

/// A one-phase commit that has not been forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OnePhaseCommit {
    /// Which transaction.
    pub id: TransactionId,
    /// The client's name for the request.
    pub request_id: Option<RequestId>,
    /// What the work returned.
    pub result: Bytes,
    /// Wall clock, milliseconds since 1970.
    pub since_ms: u64,
}
