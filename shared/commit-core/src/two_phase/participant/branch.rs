//! One branch of a participant.

use bytes::Bytes;

use super::inputs::{Ending, Origin, Via};
use crate::id::{ParticipantName, RequestId, TransactionId};
use crate::record::{Change, OnePhaseCommit, PreparedBranch};
use crate::step::{Position, Time};

/// Where a branch stands. Each state holds what it needs and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Branch<W> {
    /// Enlisted; work is being done in a session.
    Session { until: Time },
    /// The resource is preparing.
    Preparing(Preparing<W>),
    /// May commit in one phase, but an earlier attempt of the same request is here: how that ends is the
    /// answer to this one as well.
    Following { earlier: TransactionId, vias: Vec<Via<W>> },
    /// Voted prepared: in doubt.
    Prepared(InDoubt),
    /// The decision is commit, and the resource is carrying it out.
    Committing(Finishing<W>),
    /// The decision is abort, and the resource is carrying it out.
    Aborting(Finishing<W>),
    /// Committed in one phase; not forgotten.
    OnePhase { commit: OnePhaseCommit, at: Position },
    /// Over; remembered so that a late PREPARE cannot do the work again. `at` is where the log says
    /// so, `None` when it does not: what only this process remembers, only this process may rely on.
    Finished { ending: Ending, at: Option<Position> },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Preparing<W> {
    pub(super) origin: Origin,
    pub(super) peers: Vec<(ParticipantName, String)>,
    /// May commit at once, for this request.
    pub(super) one_phase: Option<Option<RequestId>>,
    /// Who is told the vote.
    pub(super) vias: Vec<Via<W>>,
    /// The abort came first.
    pub(super) doomed: Option<Doomed<W>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Doomed<W> {
    /// Who is told that it is gone.
    pub(super) vias: Vec<Via<W>>,
    /// The abort is in the log already, because a peer relies on it.
    pub(super) at: Option<Position>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct InDoubt {
    pub(super) record: PreparedBranch,
    /// Where the log says so.
    pub(super) at: Position,
    pub(super) inquiries: u32,
    /// Inquiries since the coordinator was heard of this transaction.
    pub(super) unanswered: u32,
    /// For people.
    pub(super) waiting_for: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Finishing<W> {
    pub(super) vias: Vec<Via<W>>,
    pub(super) attempts: u32,
    /// The resource has been called and has not answered: it is not called again meanwhile.
    pub(super) at_work: bool,
    /// The branch had voted prepared, or was about to commit in one phase.
    pub(super) before: Before,
    /// The abort is in the log already.
    pub(super) at: Option<Position>,
}

/// What a branch was before it was finished.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Before {
    Unprepared,
    Prepared(PreparedBranch),
    /// Commits in one phase: the changes of its preparation are written with those of its commit.
    OnePhase {
        request_id: Option<RequestId>,
        result: Bytes,
        changes: Vec<Change>,
    },
}
