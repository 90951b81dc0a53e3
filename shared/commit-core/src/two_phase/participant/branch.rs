//! One branch of a participant.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::inputs::{Ending, Origin, Via};
use crate::id::{ParticipantName, RequestId, TransactionId};
use crate::message::Voting;
use crate::record::{Change, OnePhaseCommit, PreparedBranch};
use crate::step::{Position, Time};
use crate::three_phase::decided::{Decided, Told};
use crate::three_phase::participant::Voted;

/// Where a branch stands. Each state holds what it needs and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Branch<W> {
    /// Enlisted; work is being done in a session.
    Session { until: Time },
    /// The resource is preparing.
    Preparing(Preparing<W>),
    /// May commit in one phase, but an earlier attempt of the same request is here: how that ends is the
    /// answer to this one as well.
    Following { earlier: TransactionId, vias: Vec<Via<W>> },
    /// Voted prepared: in doubt.
    Prepared(InDoubt),
    /// Voted in a three-phase transaction: a voting site that does not know the decision.
    Voted(Box<Voted>),
    /// The decision is commit, and the resource is carrying it out.
    Committing(Finishing<W>),
    /// The decision is abort, and the resource is carrying it out.
    Aborting(Finishing<W>),
    /// Committed in one phase; not forgotten.
    OnePhase { commit: OnePhaseCommit, at: Position },
    /// Decided and carried out, in a three-phase transaction; not every site is known to have that on its disk.
    Decided(Box<Decided>),
    /// Between two states, within one step: its place is kept, so that the branch goes back to it and not to
    /// another one.
    Changing,
    /// Over; remembered so that a late PREPARE cannot do the work again. `at` is where the log says
    /// so, `None` when it does not: what only this process remembers, only this process may rely on.
    Finished { ending: Ending, at: Option<Position> },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Preparing<W> {
    pub(crate) origin: Origin,
    pub(crate) peers: Vec<(ParticipantName, String)>,
    /// May commit at once, for this request.
    pub(crate) one_phase: Option<Option<RequestId>>,
    /// Three-phase commit: who votes.
    pub(crate) voting: Option<Box<Voting>>,
    /// Who is told the vote.
    pub(crate) vias: Vec<Via<W>>,
    /// The abort came first.
    pub(crate) doomed: Option<Doomed<W>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Doomed<W> {
    /// Who is told that it is gone.
    pub(crate) vias: Vec<Via<W>>,
    /// The abort is in the log already, because a peer relies on it.
    pub(crate) at: Option<Position>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct InDoubt {
    pub(crate) record: Arc<PreparedBranch>,
    /// Where the log says so.
    pub(crate) at: Position,
    pub(crate) inquiries: u32,
    /// Inquiries since the coordinator was heard of this transaction.
    pub(crate) unanswered: u32,
    /// For people.
    pub(crate) waiting_for: Cow<'static, str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Finishing<W> {
    pub(crate) vias: Vec<Via<W>>,
    /// Three-phase commit: the leaders who have told the decision, and wait for its end here.
    pub(crate) leaders: Vec<Via<W>>,
    pub(crate) attempts: u32,
    /// The resource has been called and has not answered: it is not called again meanwhile.
    pub(crate) at_work: bool,
    /// The branch had voted prepared, or was about to commit in one phase.
    pub(crate) before: Before,
    /// The abort is in the log already.
    pub(crate) at: Option<Position>,
}

/// What a branch was before it was finished.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Before {
    Unprepared,
    Prepared(Arc<PreparedBranch>),
    /// A voting site that has learned the decision.
    Voted(Box<Told>),
    /// Commits in one phase: the changes of its preparation are written with those of its commit.
    OnePhase {
        request_id: Option<RequestId>,
        result: Bytes,
        changes: Vec<Change>,
    },
}

/// Most callers that wait for the same answer.
pub(crate) const WAITING_MAX: usize = 64;

/// One more waits for an answer, which may take as long as a resource fails. A link is answered once, however
/// often it has asked. Of callers, which nobody can tell apart, the one that has waited longest goes unanswered
/// when there are too many: it has lost its patience long ago, and asks again if it has not.
pub(crate) fn wait_too<W>(waiting: &mut Vec<Via<W>>, via: Via<W>) {
    if via_link(&via) && waiting.iter().any(via_link) {
        return;
    }
    if waiting.len() >= WAITING_MAX
        && let Some(oldest) = waiting.iter().position(|via| !via_link(via))
    {
        waiting.remove(oldest);
    }
    waiting.push(via);
}

fn via_link<W>(via: &Via<W>) -> bool {
    matches!(via, Via::Link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_often_somebody_asks_few_are_remembered() {
        let mut waiting = vec![Via::Call(0)];
        for caller in 1..=2 * WAITING_MAX {
            wait_too(&mut waiting, Via::Call(caller));
            wait_too(&mut waiting, Via::Link);
        }
        assert_eq!(waiting.len(), WAITING_MAX);
        assert_eq!(waiting.iter().filter(|via| via_link(via)).count(), 1);
        assert_eq!(waiting.last(), Some(&Via::Call(2 * WAITING_MAX)), "who asks now is answered");
    }
}
