//! One transaction of a coordinator.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::inputs::{Terms, Waiter};
use crate::id::{Incarnation, ParticipantName};
use crate::record::{AbortReason, Commit, Info, Request};
use crate::step::{Now, Position, Time};
use crate::three_phase::coordinator::VotedAll;
use crate::three_phase::delivering::Delivering;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Transaction<W> {
    pub(crate) phase: Phase,
    pub(crate) info: Arc<Info>,
    pub(crate) request: Option<Request>,
    pub(crate) waiters: Vec<Waiter<W>>,
    pub(crate) results: BTreeMap<ParticipantName, Bytes>,
    /// Decided by an earlier process: whoever is told of it has asked before.
    pub(crate) restored: bool,
    /// Where the decision is in the log: whatever speaks of it waits for that.
    pub(crate) decided_at: Position,
    pub(crate) started_ms: u64,
    pub(crate) decided_ms: u64,
    /// For the deadline of the transaction as a whole.
    pub(crate) timeout_us: u64,
    pub(crate) deadline: Time,
    /// When PREPARE is repeated, and how often it has been sent.
    pub(crate) resend_at: Time,
    pub(crate) attempts: u32,
    /// What the driver's timer is set to.
    pub(crate) armed: Option<Time>,
}

/// Where a transaction stands. Each state holds what it needs and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
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
    /// Three-phase commit: everybody has voted prepared, and nobody here knows the decision.
    Voted(Box<VotedAll>),
    /// Three-phase commit: decided; some site has not acknowledged.
    Delivering(Box<Delivering>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Enlisted {
    pub(crate) incarnation: Incarnation,
    pub(crate) enlistment: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Asked {
    /// Kept for repetition until the vote is here.
    pub(crate) work: Option<Bytes>,
    /// The log that did the work, when it was done before.
    pub(crate) enlisted: Option<Incarnation>,
    pub(crate) vote: Option<Voter>,
    /// Three-phase commit: it has been asked, has not said no, and has to be told what becomes of it.
    pub(crate) owed: bool,
}

impl Asked {
    /// Not asked yet.
    pub(crate) fn new(work: Option<Bytes>, enlisted: Option<Incarnation>) -> Self {
        Self { work, enlisted, vote: None, owed: false }
    }
}

/// A participant that has voted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Voter {
    pub(crate) incarnation: Incarnation,
    pub(crate) acknowledged: bool,
    /// Out of the second phase: it voted read-only, or no.
    pub(crate) read_only: bool,
}

impl<W> Transaction<W> {
    pub(crate) fn begun(now: Now, terms: Terms, phase: Phase) -> Self {
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

    pub(crate) fn restored(commit: Commit) -> Self {
        let pending = commit.voters.len();
        let voters = commit
            .voters
            .into_iter()
            .map(|(name, incarnation)| {
                (name, Voter { incarnation, acknowledged: false, read_only: false })
            })
            .collect();
        let Commit { info, request, started_ms, decided_ms, .. } = commit;
        let phase = Phase::Committing { voters, pending };
        Self::found(phase, info, request, started_ms, decided_ms)
    }

    /// Found in the log.
    pub(crate) fn found(
        phase: Phase,
        info: Arc<Info>,
        request: Option<Request>,
        started_ms: u64,
        decided_ms: u64,
    ) -> Self {
        Self {
            phase,
            info,
            request,
            waiters: Vec::new(),
            results: BTreeMap::new(),
            restored: true,
            decided_at: Position(0),
            started_ms,
            decided_ms,
            timeout_us: 0,
            deadline: Time(0),
            resend_at: Time(u64::MAX),
            attempts: 0,
            armed: None,
        }
    }

    /// Everybody who takes part.
    pub(crate) fn participants(&self) -> Vec<ParticipantName> {
        match &self.phase {
            Phase::Active { enlisted } => enlisted.keys().cloned().collect(),
            Phase::Preparing { asked } => asked.keys().cloned().collect(),
            Phase::Delegated { participant, .. } => vec![participant.clone()],
            Phase::Committing { voters, .. } => voters.keys().cloned().collect(),
            Phase::Voted(voted) => {
                voted.sites.participants().iter().map(|(name, _)| name.clone()).collect()
            }
            Phase::Delivering(delivering) => delivering.everybody.clone(),
        }
    }

    /// When something is due next.
    pub(crate) fn due(&self) -> Option<Time> {
        let patience = self.waiters.iter().map(|waiter| waiter.until).min();
        let own = match &self.phase {
            Phase::Active { .. } => Some(self.deadline),
            Phase::Preparing { .. } => Some(self.deadline.min(self.resend_at)),
            Phase::Delegated { stopping: None, .. } => Some(self.deadline.min(self.resend_at)),
            // Past its deadline: only the participant can end it.
            Phase::Delegated { stopping: Some(_), .. } => Some(self.resend_at),
            Phase::Committing { .. } => None,
            Phase::Voted(_) => Some(self.resend_at),
            Phase::Delivering(delivering) => {
                (!delivering.silent_witnesses().is_empty()).then_some(self.resend_at)
            }
        };
        // Before the decision a waiter's own patience changes nothing: its caller is told "unknown"
        // by the edge, and the transaction goes on. After it, the outcome is told.
        match (&self.phase, own, patience) {
            (
                Phase::Committing { .. }
                | Phase::Voted(_)
                | Phase::Delivering(_)
                | Phase::Delegated { stopping: Some(_), .. },
                own,
                patience,
            ) => own.into_iter().chain(patience).min(),
            (_, own, _) => own,
        }
    }
}
