//! What must survive a crash.

use std::sync::Arc;

use bytes::Bytes;

use crate::id::{Epoch, Incarnation, ParticipantName, RequestId, Sequence, Slot, TransactionId};
use crate::three_phase::{Site, SiteNumber, Sites};

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
    /// Three-phase commit: everybody has voted prepared, and this is where the coordinator stands. Live
    /// until the decision replaces it.
    Voting(VotingCoordinator),
    /// Three-phase commit: decided. Live until every site has acknowledged.
    Decision(Decision),
    /// Three-phase commit of another slot, for which this coordinator is a witness. Live until forgotten.
    Witness(WitnessRecord),
    /// A witness needs to know nothing more of this transaction.
    WitnessForgotten {
        /// Which one.
        id: TransactionId,
    },
}

impl CoordinatorRecord {
    /// The transaction that it is about: a later record of the same transaction replaces it.
    #[must_use]
    pub fn id(&self) -> TransactionId {
        match self {
            Self::Commit(commit) => commit.id,
            Self::Ended(ended) => ended.id,
            Self::Voting(voting) => voting.id,
            Self::Decision(decision) => decision.id,
            Self::Witness(witness) => witness.id,
            Self::WitnessForgotten { id } => *id,
        }
    }
}

/// A coordinator that is a voting site and does not know the decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VotingCoordinator {
    /// Which transaction.
    pub id: TransactionId,
    /// Its ballots.
    pub site: Site,
    /// Everybody who votes.
    pub sites: Sites,
    /// The client's request.
    pub request: Option<Request>,
    /// For people.
    pub info: Arc<Info>,
    /// Wall clock, milliseconds since 1970.
    pub started_ms: u64,
}

/// The decision of a three-phase transaction, and who has to be told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Decision {
    /// Which transaction.
    pub id: TransactionId,
    /// `Ok`: committed.
    pub outcome: Result<(), AbortReason>,
    /// Those who have to acknowledge, besides the coordinator.
    pub sites: Sites,
    /// The client's request.
    pub request: Option<Request>,
    /// For people.
    pub info: Arc<Info>,
    /// Wall clock, milliseconds since 1970.
    pub started_ms: u64,
    /// Wall clock, milliseconds since 1970.
    pub decided_ms: u64,
}

/// What a witness keeps of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WitnessRecord {
    /// Which transaction.
    pub id: TransactionId,
    /// Where it stands.
    pub state: WitnessState,
}

/// Where a witness stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WitnessState {
    /// It does not know the decision.
    Undecided(Site),
    /// It does.
    Decided {
        /// Or aborted.
        committed: bool,
    },
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
    /// A record of it with the request may be in the log, and is over with this one. Not itself written.
    pub decision_logged: bool,
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
    Prepared(Arc<PreparedBranch>),
    /// Over; kept so that a late PREPARE cannot do the work again.
    Finished {
        /// Which transaction.
        id: TransactionId,
        /// Or aborted.
        committed: bool,
    },
    /// Committed in one phase: this participant owns the outcome until the coordinator says forget.
    OnePhase(OnePhaseCommit),
    /// Three-phase commit: voted prepared or read-only, and where this site stands. A later one of the same
    /// transaction replaces it.
    Voted(VotedBranch),
    /// Three-phase commit: decided and carried out; kept until every site has the decision on its disk.
    Decided(DecidedBranch),
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
    pub coordinator_endpoint: Arc<str>,
    /// The other participants and where they were.
    pub peers: Vec<(ParticipantName, String)>,
    /// What the work returned: repeated with the vote.
    pub result: Bytes,
    /// Wall clock, milliseconds since 1970.
    pub since_ms: u64,
}

/// Who votes in a three-phase transaction, as one of its participants knows them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Electorate {
    /// All of them.
    pub sites: Sites,
    /// Which of them this participant is.
    pub own: SiteNumber,
    /// Of the coordinator's log that asked.
    pub coordinator_incarnation: Incarnation,
    /// Where the coordinator was.
    pub coordinator_endpoint: String,
    /// The other participants and where they were.
    pub peers: Vec<(ParticipantName, String)>,
}

/// A branch that has voted in a three-phase transaction: a voting site.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VotedBranch {
    /// Which transaction.
    pub id: TransactionId,
    /// Its ballots.
    pub site: Site,
    /// Who votes.
    pub electorate: Electorate,
    /// It voted read-only: it holds no resources, and is a voting site all the same.
    pub read_only: bool,
    /// What the work returned: repeated with the vote. Empty once it has moved, for then every vote has
    /// been counted.
    pub result: Bytes,
    /// Wall clock, milliseconds since 1970.
    pub since_ms: u64,
}

/// A decided branch of a three-phase transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DecidedBranch {
    /// Which transaction.
    pub id: TransactionId,
    /// Or aborted.
    pub committed: bool,
    /// Whom the decision may have to be told.
    pub electorate: Electorate,
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
