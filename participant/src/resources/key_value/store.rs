//! The store: a [`ResourceManager`] whose data are in the library's journal, and its sessions.
//!
//! Everything that decides is in [`Branches`]; here is what waits: for locks, up to a limit. The mutex is
//! held for one step at a time and never across an await.
//!
//! Reads go to the journal from the task that serves the call, under the key's lock: a point lookup in
//! RocksDB is mostly a memory access, and handing it to another thread costs more.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use handfast_commit_core::id::TransactionId;
use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_journal::{JournalError, Reader, Table};
use handfast_wire::record::DamagedRecord;
use handfast_wire::v1::{KeyValueResult, KeyValueWork};
use prost::bytes::Bytes;
use tokio::time::Instant;

use super::branches::{ApplyError, Branches, Call, LockRefusal, in_seconds};
use super::lock_table::Mode;
use super::operations::{Plan, Shown, Workspace, Writes};
use super::staged::{Staged, data_key};
use crate::resource_manager::{Ending, Finished, Prepared, ResourceError, ResourceManager, Work};
use crate::store::{StagedError, Store};

/// Settings of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyValueConfig {
    /// How long one call may wait for locks, all together.
    pub lock_wait: Duration,
}

impl Default for KeyValueConfig {
    fn default() -> Self {
        Self { lock_wait: Duration::from_secs(5) }
    }
}

/// Why a store cannot be opened. Each is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The journal cannot be read.
    #[error("the staged branches of the key-value store cannot be read: {0}")]
    Journal(#[from] JournalError),
    /// An entry of the journal makes no sense.
    #[error(transparent)]
    Damaged(#[from] DamagedRecord),
    /// A staged branch is unreadable.
    #[error(
        "the staged branch of transaction {id} cannot be read: {detail}. It is in doubt and must not be \
         dropped: start the version that wrote it, or restore the folder"
    )]
    Staged {
        /// Its transaction.
        id: TransactionId,
        /// What the decoder says.
        detail: String,
    },
    /// Two prepared branches hold the same lock.
    #[error(
        "transactions {id} and {other} have both prepared with the same key, which no run of the store \
         does; the folder is damaged: restore it"
    )]
    Conflict {
        /// One of them.
        id: TransactionId,
        /// The other one.
        other: TransactionId,
    },
}

/// A transactional key-value store. See the module [`key_value`](super).
pub struct KeyValueStore {
    branches: Mutex<Branches>,
    reader: Arc<dyn Reader>,
    config: KeyValueConfig,
}

impl KeyValueStore {
    /// Opens the store: takes the locks of all branches that an earlier process prepared.
    ///
    /// # Errors
    /// When they cannot all be read; then nothing may be served, since a branch whose locks are not
    /// held is lost.
    pub fn open(reader: Arc<dyn Reader>, config: KeyValueConfig) -> Result<Self, OpenError> {
        let mut branches = Branches::default();
        let mut failure = None;
        let store = Store::new(Arc::clone(&reader));
        let read = store.staged(|id, staged| match adopt(&mut branches, id, staged) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        });
        match failure {
            Some(error) => Err(error),
            None => {
                read.map_err(|error| match error {
                    StagedError::Journal(error) => OpenError::Journal(error),
                    StagedError::Damaged(error) => OpenError::Damaged(error),
                })?;
                Ok(Self { branches: Mutex::new(branches), reader, config })
            }
        }
    }

    /// Begins a session of an interactive transaction. Until [`OpeningSession::enlisted`] it takes no
    /// work, and dropping what is returned undoes it: the coordinator is told first, and a branch that
    /// it does not know never has locks.
    ///
    /// # Errors
    /// When there is a branch of the transaction already.
    pub fn open_session(&self, id: TransactionId) -> Result<OpeningSession<'_>, ApplyError> {
        let call = self.branches().open_session(id)?;
        Ok(OpeningSession { guard: CallGuard { store: self, id, call } })
    }

    /// True when there is a branch of the transaction, in whatever state.
    pub fn has_branch(&self, id: TransactionId) -> bool {
        self.branches().knows(id)
    }

    /// Does operations in a session, all or none of them, and keeps their locks.
    ///
    /// A call that is dropped has done nothing, though it may have taken locks.
    ///
    /// # Errors
    /// See [`ApplyError`]: on [`ApplyError::Refused`] the branch is aborted here.
    pub async fn apply(
        &self,
        id: TransactionId,
        work: KeyValueWork,
    ) -> Result<KeyValueResult, ApplyError> {
        let plan = Plan::new(work)?;
        let (call, written) = self.branches().start_applying(id, plan.locks().keys())?;
        let _guard = CallGuard { store: self, id, call };
        let done = match self.run(id, call, &plan, written).await {
            Ok((writes, result)) => {
                self.branches().finish_applying(id, call, writes).map(|()| result)
            }
            Err(reason) => Err(reason),
        };
        done.map_err(|reason| {
            ApplyError::Refused(self.branches().refuse_applying(id, call, reason))
        })
    }

    async fn prepare_carried(
        &self,
        id: TransactionId,
        payload: Vec<u8>,
        only_branch: bool,
    ) -> Prepared {
        let plan = match Plan::decode(payload) {
            Ok(plan) => plan,
            Err(error) => return Prepared::No { reason: error.to_string() },
        };
        let call = match self.branches().start_preparing(id) {
            Ok(call) => call,
            Err(vote) => return vote,
        };
        let _guard = CallGuard { store: self, id, call };
        match self.run(id, call, &plan, Writes::new()).await {
            Ok((writes, result)) => self.branches().vote(id, call, only_branch, writes, &result),
            Err(reason) => self.branches().decline(id, call, reason),
        }
    }

    /// Takes all locks of the plan, in the order of the keys, then does its operations.
    async fn run(
        &self,
        id: TransactionId,
        call: Call,
        plan: &Plan,
        written: Writes,
    ) -> Result<(Writes, KeyValueResult), String> {
        self.lock(id, call, plan.locks()).await?;
        let mut workspace = Workspace::new(written);
        for (key, operation) in plan.operations() {
            workspace
                .apply(key, operation, |key| self.read(key))
                .map_err(|refusal| refusal.to_string())?;
            tokio::task::coop::consume_budget().await;
        }
        Ok(workspace.into_parts())
    }

    async fn lock(
        &self,
        id: TransactionId,
        call: Call,
        locks: &BTreeMap<Bytes, Mode>,
    ) -> Result<(), String> {
        // From the first wait on. Nearly no call waits at all.
        let mut deadline = None;
        for (key, mode) in locks {
            self.lock_key(id, call, key, *mode, &mut deadline).await?;
        }
        Ok(())
    }

    async fn lock_key(
        &self,
        id: TransactionId,
        call: Call,
        key: &Bytes,
        mode: Mode,
        deadline: &mut Option<Instant>,
    ) -> Result<(), String> {
        let shown = || Shown(key.clone());
        let woken = match self.branches().request(id, call, key, mode) {
            Ok(None) => return Ok(()),
            Ok(Some(woken)) => woken,
            Err(LockRefusal::Doomed(reason)) => return Err(reason),
            Err(LockRefusal::Dies(holder)) => {
                return Err(format!(
                    "lock on key {} is held by {holder}, which is younger and has prepared: an older \
                     transaction does not wait for it; try again",
                    shown()
                ));
            }
        };
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.config.lock_wait);
        if tokio::time::timeout_at(deadline, woken).await.is_ok() {
            // Granted; or doomed, which every later step finds out.
            return Ok(());
        }
        match self.branches().stop_waiting(id, call) {
            None => Ok(()),
            Some(blocker) => {
                let (shown, waited) = (shown(), in_seconds(self.config.lock_wait));
                tracing::debug!(transaction = %id, key = %shown, "gave up waiting for a lock that {blocker}");
                Err(format!("lock on key {shown} {blocker}; waited {waited}"))
            }
        }
    }

    fn read(&self, key: &Bytes) -> Result<Option<Bytes>, JournalError> {
        Ok(self.reader.get(Table::Data, &data_key(key))?.map(Bytes::from))
    }

    pub(super) fn branches(&self) -> MutexGuard<'_, Branches> {
        self.branches.lock().expect("nothing panics while it holds the branches")
    }
}

fn adopt(branches: &mut Branches, id: TransactionId, value: &[u8]) -> Result<(), OpenError> {
    let staged = Staged::decode(value)
        .map_err(|error| OpenError::Staged { id, detail: error.to_string() })?;
    branches.adopt(id, staged).map_err(|other| OpenError::Conflict { id, other })
}

impl ResourceManager for KeyValueStore {
    async fn prepare(&self, id: TransactionId, work: Work) -> Prepared {
        match work {
            Work::Carried { payload, only_branch } => {
                self.prepare_carried(id, payload, only_branch).await
            }
            Work::Joined => self.branches().vote_joined(id),
        }
    }

    fn cancel(&self, id: TransactionId) {
        self.branches().cancel(id);
    }

    async fn commit(&self, id: TransactionId) -> Result<Finished, ResourceError> {
        Ok(self.branches().commit(id))
    }

    async fn abort(&self, id: TransactionId) -> Result<Finished, ResourceError> {
        self.branches().abort(id)
    }

    fn finished(&self, id: TransactionId, _ending: Ending) {
        if !mutant(Mutant::LocksNotReleased) {
            self.branches().give_up(id);
        }
    }

    async fn in_doubt(&self) -> Result<Vec<TransactionId>, ResourceError> {
        Ok(self.branches().in_doubt())
    }

    fn keeps_all_in_store(&self) -> bool {
        true
    }

    fn never_keeps_a_thread(&self) -> bool {
        true
    }
}

/// A session that the coordinator is being told of.
#[must_use = "dropping it gives the session up"]
pub struct OpeningSession<'a> {
    guard: CallGuard<'a>,
}

impl OpeningSession<'_> {
    /// The coordinator knows of the session: it may take work.
    ///
    /// # Errors
    /// When the branch was given up meanwhile.
    pub fn enlisted(self) -> Result<(), ApplyError> {
        let CallGuard { store, id, call } = self.guard;
        if store.branches().session_opened(id, call) {
            Ok(())
        } else {
            Err(ApplyError::Unknown(id))
        }
    }
}

/// Ends a call that goes away before its end, so that it leaves no request for a lock behind. After the
/// end it does nothing: the branch has no such call any more.
struct CallGuard<'a> {
    store: &'a KeyValueStore,
    id: TransactionId,
    call: Call,
}

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        // Not `branches()`: a panic while panicking would end the process without a word.
        if let Ok(mut branches) = self.store.branches.lock() {
            branches.abandon(self.id, self.call);
        }
    }
}
