//! The branches that the store holds in memory, each in one phase, with their locks.
//!
//! ```text
//! Opening ──► Session ──┐ joined, has written     ┌──► (gone) read-only
//!    │           │      ├─────────────► Prepared ─┤
//!    │    Carried │ ────┘                         └──► (gone) finished
//!    │      │     │
//!    └──────┴─────┴──► Doomed ──► (gone) when the library has been told
//! ```
//!
//! Every function here runs under the store's one mutex and never waits. That makes the two races that
//! matter none: a branch is either wounded or prepared, whichever comes first; and a lock is either
//! granted or timed out.
//!
//! While the store runs, this is the truth, and the journal is what a restart reads. A branch counts as
//! prepared from its vote on, before that is durable: too early costs others a retry, too late would
//! let them wound a vote that is on its way.

use std::collections::HashMap;
use std::time::Duration;

use foldhash::fast::RandomState;
use handfast_commit_core::id::TransactionId;
use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_wire::v1::KeyValueResult;
use prost::Message;
use prost::bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::lock_table::{Answer, Blocker, Effects, LockTable, Mode};
use super::operations::{InvalidWork, Writes};
use super::staged::Staged;
use crate::resource_manager::{Finished, Prepared, ResourceError};

/// The most that one session may have written, in bytes of keys and values.
pub(super) const SESSION_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most keys that one session may have locked.
pub(super) const SESSION_LOCKS_MAX: usize = 50_000;

const NO_SESSION: &str =
    "no work of this transaction is here (the participant restarted, or the branch was given up)";
const GIVEN_UP: &str = "the branch was given up while the call ran";
const CALL_RUNS: &str = "a call of this transaction was still running when it was to be prepared";

/// Why a call of an interactive transaction did nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The work breaks a limit; the transaction is as it was.
    #[error(transparent)]
    Invalid(#[from] InvalidWork),
    /// The branch is aborted here and has given up its locks. The reason is for the client.
    #[error("{0}")]
    Refused(String),
    /// Nothing of the transaction is here.
    #[error("transaction {0} has no session here")]
    Unknown(TransactionId),
    /// Another call of the same transaction runs; they come one at a time.
    #[error("another call of transaction {0} is running; wait for its answer before the next one")]
    Busy(TransactionId),
    /// The transaction is being ended, or its work comes with the prepare.
    #[error("transaction {0} takes no more work here: it is being ended")]
    Ending(TransactionId),
}

/// The number of a running call. Tells a call that outlived its branch from one of a later branch with
/// the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call(u64);

#[derive(Debug)]
struct Branch {
    phase: Phase,
    /// The call that works on the branch now.
    call: Option<Call>,
    /// Wakes that call out of its wait for a lock; dropping it does, too.
    wake: Option<oneshot::Sender<()>>,
}

#[derive(Debug)]
enum Phase {
    /// A session that the coordinator does not know of yet.
    Opening,
    /// An interactive session.
    Session(Session),
    /// Work that came with a prepare is being done.
    Carried,
    /// Aborted here and without locks; stays to say why.
    Doomed { reason: String, carried: bool },
    /// Voted prepared.
    Prepared(PreparedBranch),
}

#[derive(Debug, Default)]
struct Session {
    writes: Writes,
    bytes: usize,
}

impl Session {
    fn write(&mut self, key: Bytes, value: Option<Bytes>) {
        let cost = |value: &Option<Bytes>| key.len() + value.as_ref().map_or(0, Bytes::len);
        self.bytes += cost(&value);
        if let Some(overwritten) = self.writes.get(&key) {
            self.bytes -= cost(overwritten);
        }
        self.writes.insert(key, value);
    }
}

#[derive(Debug)]
struct PreparedBranch {
    staged: Staged,
    result: Vec<u8>,
    /// `None`: by an earlier process.
    since: Option<Instant>,
    decision: Option<Decision>,
}

impl PreparedBranch {
    fn vote(&self) -> Prepared {
        Prepared::Yes {
            result: self.result.clone(),
            staged: self.staged.encode(),
            changes: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Commit,
    Abort,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Branches {
    locks: LockTable,
    branches: HashMap<TransactionId, Branch, RandomState>,
    calls: u64,
}

impl Branches {
    /// Takes over a branch that an earlier process prepared.
    ///
    /// # Errors
    /// The branch that holds a lock of this one already.
    pub(super) fn adopt(&mut self, id: TransactionId, staged: Staged) -> Result<(), TransactionId> {
        let read = staged.read.iter().map(|key| (key, Mode::Shared));
        for (key, mode) in read.chain(staged.writes.keys().map(|key| (key, Mode::Exclusive))) {
            if !mutant(Mutant::LocksNotRestored) {
                self.locks.adopt(id, key, mode)?;
            }
        }
        self.locks.prepare(id);
        let prepared = PreparedBranch { staged, result: Vec::new(), since: None, decision: None };
        self.branches
            .insert(id, Branch { phase: Phase::Prepared(prepared), call: None, wake: None });
        Ok(())
    }

    /// Begins a session, before the coordinator is told of it.
    pub(super) fn open_session(&mut self, id: TransactionId) -> Result<Call, ApplyError> {
        match self.branches.get(&id) {
            None => Ok(self.begin(id, Phase::Opening)),
            Some(branch) => Err(Self::not_idle(id, branch)),
        }
    }

    /// The coordinator knows of the session. False: the branch was given up meanwhile.
    pub(super) fn session_opened(&mut self, id: TransactionId, call: Call) -> bool {
        if self.check(id, call).is_err() {
            return false;
        }
        self.become_idle(id, Phase::Session(Session::default()));
        true
    }

    /// True when there is a branch of the transaction, in whatever phase.
    pub(super) fn knows(&self, id: TransactionId) -> bool {
        self.branches.contains_key(&id)
    }

    /// Begins a call in a session; returns what the session wrote to the keys of the call.
    pub(super) fn start_applying<'a>(
        &mut self,
        id: TransactionId,
        keys: impl Iterator<Item = &'a Bytes>,
    ) -> Result<(Call, Writes), ApplyError> {
        let call = self.next_call();
        let branch = self.branches.get_mut(&id).ok_or(ApplyError::Unknown(id))?;
        match &branch.phase {
            Phase::Session(session) if branch.call.is_none() => {
                branch.call = Some(call);
                let written = keys.filter_map(|key| session.writes.get_key_value(key));
                Ok((call, written.map(|(key, value)| (key.clone(), value.clone())).collect()))
            }
            _ => Err(Self::not_idle(id, branch)),
        }
    }

    /// Ends a call in a session: what it wrote now belongs to the session.
    pub(super) fn finish_applying(
        &mut self,
        id: TransactionId,
        call: Call,
        writes: Writes,
    ) -> Result<(), String> {
        self.check(id, call)?;
        if self.locks.held_count(id) > SESSION_LOCKS_MAX {
            return Err(format!(
                "the transaction has used more than {SESSION_LOCKS_MAX} keys here, which is the limit"
            ));
        }
        let Some(Branch { phase: Phase::Session(session), call, .. }) = self.branches.get_mut(&id)
        else {
            return Err(GIVEN_UP.into());
        };
        for (key, value) in writes {
            session.write(key, value);
        }
        if session.bytes > SESSION_BYTES_MAX {
            return Err(format!(
                "the transaction has written more than {SESSION_BYTES_MAX} bytes here, which is the limit"
            ));
        }
        *call = None;
        Ok(())
    }

    /// A call in a session failed: the branch is aborted here. Returns what to tell the client.
    pub(super) fn refuse_applying(
        &mut self,
        id: TransactionId,
        call: Call,
        reason: String,
    ) -> String {
        // A wound explains everything that went wrong after it.
        let reason = self.check(id, call).err().unwrap_or(reason);
        if self.is_call(id, call) {
            self.doom(id, reason.clone());
            if let Some(branch) = self.branches.get_mut(&id) {
                branch.call = None;
            }
            self.release(id);
        }
        reason
    }

    /// Begins a prepare that carries its work. `Err` is the vote, where it is clear already.
    pub(super) fn start_preparing(&mut self, id: TransactionId) -> Result<Call, Prepared> {
        match self.branches.get(&id).map(|branch| &branch.phase) {
            None => Ok(self.begin(id, Phase::Carried)),
            Some(Phase::Prepared(prepared)) => Err(prepared.vote()),
            Some(_) => {
                self.give_up(id);
                let reason =
                    "the prepare carries work, and other work of this transaction is here already";
                Err(Prepared::No { reason: reason.into() })
            }
        }
    }

    /// Votes on work that came with the prepare and is done.
    pub(super) fn vote(
        &mut self,
        id: TransactionId,
        call: Call,
        only_branch: bool,
        writes: Writes,
        result: &KeyValueResult,
    ) -> Prepared {
        if let Err(reason) = self.check(id, call) {
            return self.decline(id, call, reason);
        }
        // One that has only read keeps its read locks all the same while other branches may still be
        // taking theirs: giving up a lock before the last one is taken is not two-phase, and somebody
        // could write between this read and a later one elsewhere.
        let only_branch = only_branch || mutant(Mutant::ReadOnlyReleasedEarly);
        if writes.is_empty() && (only_branch || self.locks.held_count(id) == 0) {
            self.give_up(id);
            return Prepared::ReadOnly { result: result.encode_to_vec() };
        }
        self.prepare(id, writes, result.encode_to_vec())
    }

    /// Votes on the work of a session.
    pub(super) fn vote_joined(&mut self, id: TransactionId) -> Prepared {
        let Some(branch) = self.branches.get_mut(&id) else {
            return Prepared::No { reason: NO_SESSION.into() };
        };
        let reason = match &mut branch.phase {
            Phase::Session(session) if branch.call.is_none() => {
                let writes = std::mem::take(&mut session.writes);
                // All work of the transaction was done before, here and elsewhere: no branch takes
                // another lock, so read locks can go.
                if writes.is_empty() {
                    self.give_up(id);
                    return Prepared::ReadOnly { result: Vec::new() };
                }
                return self.prepare(id, writes, Vec::new());
            }
            Phase::Prepared(prepared) => return prepared.vote(),
            Phase::Doomed { reason, .. } => std::mem::take(reason),
            Phase::Opening | Phase::Session(_) | Phase::Carried => CALL_RUNS.into(),
        };
        self.give_up(id);
        Prepared::No { reason }
    }

    /// Votes no on work that came with the prepare.
    pub(super) fn decline(&mut self, id: TransactionId, call: Call, reason: String) -> Prepared {
        let reason = self.check(id, call).err().unwrap_or(reason);
        if self.is_call(id, call) {
            self.give_up(id);
        }
        Prepared::No { reason }
    }

    /// A call went away without an end: its client did, or it panicked.
    pub(super) fn abandon(&mut self, id: TransactionId, call: Call) {
        if !self.is_call(id, call) {
            return;
        }
        match self.branches.get(&id).map(|branch| &branch.phase) {
            Some(Phase::Opening | Phase::Carried | Phase::Doomed { carried: true, .. }) => {
                self.give_up(id)
            }
            // Nothing of the call was done. The locks it has taken do no harm.
            _ => self.withdraw(id),
        }
        if let Some(branch) = self.branches.get_mut(&id) {
            branch.call = None;
        }
    }

    /// Asks for a lock. `Some` is to be awaited, then the call asks again.
    pub(super) fn request(
        &mut self,
        id: TransactionId,
        call: Call,
        key: &Bytes,
        mode: Mode,
    ) -> Result<Option<oneshot::Receiver<()>>, LockRefusal> {
        self.check(id, call).map_err(LockRefusal::Doomed)?;
        let (answer, effects) = self.locks.request(id, key, mode);
        self.settle(effects, id);
        match answer {
            Answer::Granted => Ok(None),
            Answer::Dies { holder } => Err(LockRefusal::Dies(holder)),
            Answer::Waits => {
                let (wake, woken) = oneshot::channel();
                if let Some(branch) = self.branches.get_mut(&id) {
                    branch.wake = Some(wake);
                }
                Ok(Some(woken))
            }
        }
    }

    /// A call has waited for its time: `None` when the lock was granted in the last moment, otherwise
    /// who is in the way, for people.
    pub(super) fn stop_waiting(&mut self, id: TransactionId, call: Call) -> Option<String> {
        if !self.is_call(id, call) {
            return None;
        }
        let blocker = self.locks.blocker(id)?;
        self.withdraw(id);
        Some(match blocker {
            Blocker::Holder(holder) => format!("is held by {holder} ({})", self.standing(holder)),
            Blocker::Waiter(waiter) => format!("is awaited by {waiter}, which is older"),
        })
    }

    /// The library will abort the transaction whose carried work is being done.
    pub(super) fn cancel(&mut self, id: TransactionId) {
        if let Some(Branch { phase: Phase::Carried, .. }) = self.branches.get(&id) {
            self.doom(id, "the transaction is being aborted".into());
            self.release(id);
        }
    }

    /// The changes that commit a prepared branch.
    pub(super) fn commit(&mut self, id: TransactionId) -> Finished {
        let Some(Branch { phase: Phase::Prepared(prepared), .. }) = self.branches.get_mut(&id)
        else {
            return Finished::Unknown;
        };
        if prepared.decision == Some(Decision::Abort) {
            return Finished::Unknown;
        }
        prepared.decision = Some(Decision::Commit);
        Finished::Done { changes: prepared.staged.changes() }
    }

    /// The changes that abort a branch.
    pub(super) fn abort(&mut self, id: TransactionId) -> Result<Finished, ResourceError> {
        let Some(branch) = self.branches.get_mut(&id) else {
            return Ok(Finished::Unknown);
        };
        match &mut branch.phase {
            Phase::Prepared(prepared) if prepared.decision == Some(Decision::Commit) => {
                Err(ResourceError(format!(
                    "transaction {id} is committed here and cannot be aborted any more"
                )))
            }
            Phase::Prepared(prepared) => {
                prepared.decision = Some(Decision::Abort);
                Ok(Finished::Done { changes: Vec::new() })
            }
            _ => {
                self.give_up(id);
                Ok(Finished::Done { changes: Vec::new() })
            }
        }
    }

    /// Lets go of everything that the transaction has here.
    pub(super) fn give_up(&mut self, id: TransactionId) {
        self.branches.remove(&id);
        self.release(id);
    }

    /// The prepared branches, oldest first.
    pub(super) fn in_doubt(&self) -> Vec<TransactionId> {
        let prepared = |(id, branch): (&TransactionId, &Branch)| match branch.phase {
            Phase::Prepared(_) => Some(*id),
            _ => None,
        };
        let mut ids: Vec<_> = self.branches.iter().filter_map(prepared).collect();
        ids.sort_unstable();
        ids
    }

    #[cfg(test)]
    pub(super) fn invariants(&self) {
        self.locks.invariant_waits_only_for_older();
        self.locks.invariant_halves_agree();
    }

    /// The branch has a call that waits for a lock.
    #[cfg(test)]
    pub(super) fn waits(&self, id: TransactionId) -> bool {
        self.branches.get(&id).is_some_and(|branch| branch.wake.is_some())
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.branches.is_empty() && self.locks.is_empty()
    }

    fn begin(&mut self, id: TransactionId, phase: Phase) -> Call {
        let call = self.next_call();
        self.branches.insert(id, Branch { phase, call: Some(call), wake: None });
        call
    }

    fn next_call(&mut self) -> Call {
        self.calls += 1;
        Call(self.calls)
    }

    fn not_idle(id: TransactionId, branch: &Branch) -> ApplyError {
        match &branch.phase {
            Phase::Opening | Phase::Session(_) => ApplyError::Busy(id),
            Phase::Doomed { reason, .. } => ApplyError::Refused(reason.clone()),
            Phase::Carried | Phase::Prepared(_) => ApplyError::Ending(id),
        }
    }

    fn is_call(&self, id: TransactionId, call: Call) -> bool {
        self.branches.get(&id).is_some_and(|branch| branch.call == Some(call))
    }

    /// The call may go on; otherwise why not.
    fn check(&self, id: TransactionId, call: Call) -> Result<(), String> {
        match self.branches.get(&id) {
            Some(branch) if branch.call == Some(call) => match &branch.phase {
                Phase::Doomed { reason, .. } => Err(reason.clone()),
                _ => Ok(()),
            },
            _ => Err(GIVEN_UP.into()),
        }
    }

    fn become_idle(&mut self, id: TransactionId, phase: Phase) {
        self.branches.insert(id, Branch { phase, call: None, wake: None });
    }

    fn prepare(&mut self, id: TransactionId, writes: Writes, result: Vec<u8>) -> Prepared {
        #[cfg(test)]
        assert!(
            writes.keys().all(|key| self.locks.held(id, key) == Some(Mode::Exclusive)),
            "{id} has written a key without its lock"
        );
        let read =
            self.locks.held_keys(id).filter(|key| !writes.contains_key(*key)).cloned().collect();
        let staged = Staged { writes, read };
        if mutant(Mutant::LockReleasedAtVote) {
            self.release(id);
        }
        self.locks.prepare(id);
        let since = Some(Instant::now());
        let prepared = PreparedBranch { staged, result, since, decision: None };
        let vote = prepared.vote();
        self.become_idle(id, Phase::Prepared(prepared));
        vote
    }

    /// Marks a branch as aborted here; a call that runs on it finds out at its next step.
    fn doom(&mut self, id: TransactionId, reason: String) {
        if let Some(branch) = self.branches.get_mut(&id) {
            let carried = matches!(branch.phase, Phase::Carried);
            branch.phase = Phase::Doomed { reason, carried };
            branch.wake = None;
        }
    }

    fn withdraw(&mut self, id: TransactionId) {
        let effects = self.locks.withdraw(id);
        self.settle(effects, id);
        if let Some(branch) = self.branches.get_mut(&id) {
            branch.wake = None;
        }
    }

    fn release(&mut self, id: TransactionId) {
        let effects = self.locks.release(id);
        self.settle(effects, id);
    }

    fn settle(&mut self, effects: Effects, by: TransactionId) {
        for victim in effects.wounded {
            tracing::debug!(transaction = %victim, %by, "wounded by an older transaction");
            self.doom(victim, format!("wounded by older transaction {by}"));
        }
        for id in effects.granted {
            if let Some(wake) = self.branches.get_mut(&id).and_then(|branch| branch.wake.take()) {
                // Nobody listens when the call has just been dropped; its guard withdraws it.
                let _ = wake.send(());
            }
        }
    }

    /// How far a transaction that holds a lock has come, for people.
    fn standing(&self, id: TransactionId) -> String {
        match self.branches.get(&id).map(|branch| &branch.phase) {
            Some(Phase::Prepared(PreparedBranch { since: None, .. })) => {
                "in doubt since before this participant started".into()
            }
            Some(Phase::Prepared(PreparedBranch { since: Some(since), .. })) => {
                format!("prepared {} ago", in_seconds(since.elapsed()))
            }
            _ => "still at work".into(),
        }
    }
}

/// Why a lock cannot be had.
#[derive(Debug)]
pub(super) enum LockRefusal {
    /// The branch is aborted already; why.
    Doomed(String),
    /// A younger transaction has prepared with it.
    Dies(TransactionId),
}

/// A duration as people read it, to the millisecond.
pub(super) fn in_seconds(duration: Duration) -> String {
    format!("{} s", duration.as_millis() as f64 / 1000.0)
}
