//! One transaction of a coordinator.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::inputs::{Terms, Waiter};
use crate::id::{Incarnation, ParticipantName};
use crate::record::{AbortReason, Commit, Info, Request};
use crate::step::{Now, Position, Time};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Transaction<W> {
    pub(super) phase: Phase,
    pub(super) info: Arc<Info>,
    pub(super) request: Option<Request>,
    pub(super) waiters: Vec<Waiter<W>>,
    pub(super) results: BTreeMap<ParticipantName, Bytes>,
    /// Decided by an earlier process: whoever is told of it has asked before.
    pub(super) restored: bool,
    /// Where the decision is in the log: whatever speaks of it waits for that.
    pub(super) decided_at: Position,
    pub(super) started_ms: u64,
    pub(super) decided_ms: u64,
    /// For the deadline of the transaction as a whole.
    pub(super) timeout_us: u64,
    pub(super) deadline: Time,
    /// When PREPARE is repeated, and how often it has been sent.
    pub(super) resend_at: Time,
    pub(super) attempts: u32,
    /// What the driver's timer is set to.
    pub(super) armed: Option<Time>,
}

/// Where a transaction stands. Each state holds what it needs and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    /// Branches may still join.
    Active { enlisted: BTreeMap<ParticipantName, Enlisted> },
    /// Votes are outstanding.
    Preparing { asked: BTreeMap<ParticipantName, Asked> },
    /// The only participant has been permitted to commit: it owns the outcome until it answers.
    Delegated {
        participant: ParticipantName,
        work: Option<Bytes>,
        /// Why we want it to abort, if it has not committed.
        stopping: Option<AbortReason>,
        /// How many messages about this it has been sent. A refusal means that nothing was done only
        /// when it answers the first and only one.
        asked: u32,
    },
    /// Decided; `pending` voters have not acknowledged.
    Committing { voters: BTreeMap<ParticipantName, Voter>, pending: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Enlisted {
    pub(super) incarnation: Incarnation,
    pub(super) enlistment: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    /// Kept for repetition until the vote is here.
    pub(super) work: Option<Bytes>,
    /// The log that did the work, when it was done before.
    pub(super) enlisted: Option<Incarnation>,
    pub(super) vote: Option<Voter>,
}

/// A participant that has voted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Voter {
    pub(super) incarnation: Incarnation,
    pub(super) acknowledged: bool,
    /// Out of the second phase: it voted read-only, or no.
    pub(super) read_only: bool,
}

impl<W> Transaction<W> {
    pub(super) fn begun(now: Now, terms: Terms, phase: Phase) -> Self {
        Self {
            phase,
            info: terms.info,
            request: None,
            waiters: Vec::new(),
            results: BTreeMap::new(),
            restored: false,
            decided_at: Position(0),
            started_ms: now.wall_ms,
            decided_ms: 0,
            timeout_us: terms.timeout_us,
            deadline: now.at.plus(terms.timeout_us),
            resend_at: Time(u64::MAX),
            attempts: 0,
            armed: None,
        }
    }

    pub(super) fn restored(commit: Commit) -> Self {
        let pending = commit.voters.len();
        let voters = commit
            .voters
            .into_iter()
            .map(|(name, incarnation)| {
                (name, Voter { incarnation, acknowledged: false, read_only: false })
            })
            .collect();
        Self {
            phase: Phase::Committing { voters, pending },
            info: commit.info,
            request: commit.request,
            waiters: Vec::new(),
            results: BTreeMap::new(),
            restored: true,
            decided_at: Position(0),
            started_ms: commit.started_ms,
            decided_ms: commit.decided_ms,
            timeout_us: 0,
            deadline: Time(0),
            resend_at: Time(u64::MAX),
            attempts: 0,
            armed: None,
        }
    }

    /// Everybody who takes part.
    pub(super) fn participants(&self) -> Vec<ParticipantName> {
        match &self.phase {
            Phase::Active { enlisted } => enlisted.keys().cloned().collect(),
            Phase::Preparing { asked } => asked.keys().cloned().collect(),
            Phase::Delegated { participant, .. } => vec![participant.clone()],
            Phase::Committing { voters, .. } => voters.keys().cloned().collect(),
        }
    }

    /// When something is due next.
    pub(super) fn due(&self) -> Option<Time> {
        let patience = self.waiters.iter().map(|waiter| waiter.until).min();
        let own = match &self.phase {
            Phase::Active { .. } => Some(self.deadline),
            Phase::Preparing { .. } => Some(self.deadline.min(self.resend_at)),
            Phase::Delegated { stopping: None, .. } => Some(self.deadline.min(self.resend_at)),
            // Past its deadline: only the participant can end it.
            Phase::Delegated { stopping: Some(_), .. } => Some(self.resend_at),
            Phase::Committing { .. } => None,
        };
        // Before the decision a waiter's own patience changes nothing: its caller is told "unknown"
        // by the edge, and the transaction goes on. After it, the outcome is told.
        match (&self.phase, own, patience) {
            (
                Phase::Committing { .. } | Phase::Delegated { stopping: Some(_), .. },
                own,
                patience,
            ) => own.into_iter().chain(patience).min(),
            (_, own, _) => own,
        }
    }
}
