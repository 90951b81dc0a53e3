//! What people are shown of a running transaction.

use std::sync::Arc;

use bytes::Bytes;

use super::Coordinator;
use super::transaction::Phase as Inner;
use crate::id::{ParticipantName, TransactionId};
use crate::record::{AbortReason, Info, Request};
use crate::three_phase::SiteView;

/// A running transaction, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionView {
    /// Which one.
    pub id: TransactionId,
    /// Where it stands.
    pub phase: Phase,
    /// The client's request.
    pub request: Option<Request>,
    /// Its branches, by name.
    pub branches: Vec<BranchView>,
    /// For people.
    pub info: Arc<Info>,
    /// Wall clock, milliseconds since 1970.
    pub started_ms: u64,
    /// Wall clock, milliseconds since 1970; 0 while undecided.
    pub decided_ms: u64,
    /// How long it may stay undecided, microseconds; 0 for one that was found in the log.
    pub timeout_us: u64,
    /// Three-phase commit: why it aborts, when that is decided.
    pub abort: Option<AbortReason>,
    /// Three-phase commit: where the coordinator stands as a voting site, until it knows the decision.
    pub site: Option<SiteView>,
}

/// Where a running transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Branches may join.
    Active,
    /// Votes are outstanding.
    Preparing,
    /// The only participant may have committed.
    OnePhase,
    /// Three-phase commit: everybody has voted prepared, and it is not known to be decided.
    PreCommitted,
    /// Decided, and not acknowledged by everybody.
    Committing,
    /// Three-phase commit: abort is decided, and not acknowledged by everybody.
    Aborting,
}

/// One branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchView {
    /// Whose.
    pub participant: ParticipantName,
    /// Where it stands.
    pub state: BranchState,
    /// What it returned.
    pub result: Bytes,
}

/// Where a branch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BranchState {
    /// Joined.
    Enlisted,
    /// Asked.
    Preparing,
    /// Voted prepared.
    Prepared,
    /// Voted read-only.
    ReadOnly,
    /// May have committed in one phase.
    OnePhase,
    /// Owed the commit.
    Committing,
    /// Has acknowledged it.
    Committed,
    /// Three-phase commit: owed the abort.
    Aborting,
    /// Three-phase commit: has acknowledged the abort.
    Aborted,
}

impl<W> Coordinator<W> {
    /// A running transaction.
    #[must_use]
    pub fn view(&self, id: TransactionId) -> Option<TransactionView> {
        let transaction = self.transactions.get(&id)?;
        let result =
            |name: &ParticipantName| transaction.results.get(name).cloned().unwrap_or_default();
        let branch = |name: &ParticipantName, state| BranchView {
            participant: name.clone(),
            state,
            result: result(name),
        };
        let (phase, branches) = match &transaction.phase {
            Inner::Active { enlisted } => (
                Phase::Active,
                enlisted.keys().map(|name| branch(name, BranchState::Enlisted)).collect(),
            ),
            Inner::Preparing { asked } => (
                Phase::Preparing,
                asked
                    .iter()
                    .map(|(name, asked)| {
                        let state = match asked.vote {
                            None => BranchState::Preparing,
                            Some(vote) if vote.read_only => BranchState::ReadOnly,
                            Some(_) => BranchState::Prepared,
                        };
                        branch(name, state)
                    })
                    .collect(),
            ),
            Inner::Delegated { participant, .. } => {
                (Phase::OnePhase, vec![branch(participant, BranchState::OnePhase)])
            }
            Inner::Voted(voted) => {
                let state = |name: &ParticipantName| match voted.read_only.contains(name) {
                    true => BranchState::ReadOnly,
                    false => BranchState::Prepared,
                };
                let names = voted.sites.participants().iter();
                let branches = names.map(|(name, _)| branch(name, state(name))).collect();
                (Phase::PreCommitted, branches)
            }
            Inner::Delivering(delivering) => {
                let state = |name: &ParticipantName| match (
                    delivering.outcome.is_ok(),
                    delivering.owes(name),
                ) {
                    _ if delivering.read_only.contains(name) => BranchState::ReadOnly,
                    (true, true) => BranchState::Committing,
                    (true, false) => BranchState::Committed,
                    (false, true) => BranchState::Aborting,
                    (false, false) => BranchState::Aborted,
                };
                let names = delivering.everybody.iter();
                let branches = names.map(|name| branch(name, state(name))).collect();
                match delivering.outcome {
                    Ok(()) => (Phase::Committing, branches),
                    Err(_) => (Phase::Aborting, branches),
                }
            }
            Inner::Committing { voters, .. } => (
                Phase::Committing,
                voters
                    .iter()
                    .map(|(name, voter)| {
                        let state = match voter {
                            voter if voter.read_only => BranchState::ReadOnly,
                            voter if voter.acknowledged => BranchState::Committed,
                            _ => BranchState::Committing,
                        };
                        branch(name, state)
                    })
                    .collect(),
            ),
        };
        let site = match &transaction.phase {
            Inner::Voted(voted) => Some(voted.view()),
            _ => None,
        };
        let abort = match &transaction.phase {
            Inner::Delivering(delivering) => delivering.outcome.as_ref().err().cloned(),
            _ => None,
        };
        Some(TransactionView {
            id,
            abort,
            site,
            phase,
            request: transaction.request.clone(),
            branches,
            info: Arc::clone(&transaction.info),
            started_ms: transaction.started_ms,
            decided_ms: transaction.decided_ms,
            timeout_us: transaction.timeout_us,
        })
    }

    /// Running transactions after `after`, oldest first.
    pub fn running(
        &self,
        after: Option<TransactionId>,
    ) -> impl Iterator<Item = TransactionView> + '_ {
        use std::ops::Bound;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.transactions.range((from, Bound::Unbounded)).filter_map(|(id, _)| self.view(*id))
    }

    /// How many running transactions are in each phase: active, preparing (one-phase included),
    /// committing.
    #[must_use]
    pub fn phases(&self) -> [usize; 3] {
        let mut counts = [0; 3];
        for id in &self.undecided {
            match self.transactions.get(id).map(|transaction| &transaction.phase) {
                Some(Inner::Active { .. }) => counts[0] += 1,
                _ => counts[1] += 1,
            }
        }
        counts[2] = self.transactions.len() - self.undecided.len();
        counts
    }
}
