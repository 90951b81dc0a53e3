//! A disk in memory: what survives when a simulated process dies.
//!
//! It stands for a journal's whole folder. Clones are the same disk; [`MemoryDisk::backup`] is a copy.
//! A batch is written to it and then synced, and each can be made to fail. What was written and not synced
//! is one batch at most, since a failed sync poisons the journal; a crash keeps it whole or loses it, which
//! is what the write-ahead log makes of any torn tail.
//!
//! Absent on purpose: timing, and damage that the log would not survive undetected.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use handfast_commit_core::mutants::{Mutant, mutant};

use crate::{JournalError, Kind, LogSequence, Mutation, OpenError, Table};

/// What messages call it.
pub(crate) const PLACE: &str = "the disk in memory";

/// A disk that outlives the journals on it.
#[derive(Clone, Debug)]
pub struct MemoryDisk {
    state: Arc<Mutex<DiskState>>,
}

/// What becomes of a batch that was written and not synced when the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// It is gone.
    Lost,
    /// It had reached the disk all the same.
    Kept,
    /// One or the other, by this seed.
    Drawn(u64),
}

/// The content of the tables. Shared with running scans and copied only if a batch comes during one.
pub(crate) type Tables = Arc<BTreeMap<(Table, Vec<u8>), Vec<u8>>>;

#[derive(Debug)]
pub(crate) struct DiskState {
    kind: Option<Kind>,
    incarnation: u64,
    tables: Tables,
    sequence: LogSequence,
    /// The last acknowledged batch, as in the HEAD file.
    head: LogSequence,
    unsynced: Option<Vec<Mutation>>,
    damaged: BTreeSet<(Table, Vec<u8>)>,
    fail_next_sync: bool,
    /// Bytes of keys and values.
    used_bytes: usize,
    capacity_bytes: Option<usize>,
    session: Weak<Session>,
}

/// One journal's hold on the disk, shared with its readers.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// Why nothing more comes from it.
    poison: OnceLock<String>,
}

impl Session {
    pub(crate) fn poison(&self, reason: &str) {
        // The first reason is the one that counts.
        let _ = self.poison.set(reason.to_owned());
    }

    pub(crate) fn refuse_poisoned(&self) -> Result<(), JournalError> {
        match self.poison.get() {
            None => Ok(()),
            Some(_) if mutant(Mutant::PoisonIgnored) => Ok(()),
            Some(reason) => {
                Err(JournalError::Poisoned { place: PLACE.to_owned(), reason: reason.clone() })
            }
        }
    }
}

impl MemoryDisk {
    /// An empty disk. The journal created on it will have this incarnation; a simulator draws it from
    /// its seed. Zero, which no journal has, becomes 1.
    pub fn new(incarnation: u64) -> Self {
        MemoryDisk { state: Arc::new(Mutex::new(DiskState::empty(incarnation))) }
    }

    /// Cuts the power: the journal on the disk and its readers give nothing more, and the next open finds
    /// what was synced, and of what was not what `unsynced` says. Also ends an injected fault of the
    /// next sync.
    pub fn crash(&self, unsynced: Unsynced) {
        let mut state = self.lock();
        if let Some(session) = state.session.upgrade() {
            session.poison("the power was cut");
        }
        state.session = Weak::new();
        state.fail_next_sync = false;
        let keep = match unsynced {
            Unsynced::Lost => false,
            Unsynced::Kept => true,
            // Neighbouring seeds must not draw alike, hence a multiplication that mixes them.
            Unsynced::Drawn(seed) => seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63 == 1,
        };
        if keep {
            state.keep_unsynced();
        } else {
            state.unsynced = None;
        }
    }

    /// Makes the next sync fail: its batch has been written, and whether it survives is up to
    /// [`MemoryDisk::crash`] (without a crash, the next open finds it).
    pub fn fail_next_sync(&self) {
        self.lock().fail_next_sync = true;
    }

    /// Sets the size of the disk, in bytes of keys and values; `None` for no limit. A batch that does not
    /// fit is not written at all, and poisons its journal.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.lock().capacity_bytes = bytes;
    }

    /// The bytes of keys and values on the disk.
    pub fn used_bytes(&self) -> usize {
        self.lock().used_bytes
    }

    /// Damages the value of a key: reading it reports [`JournalError::Corrupt`] until it is written
    /// again. Returns whether there is such a key.
    pub fn damage(&self, table: Table, key: &[u8]) -> bool {
        let mut state = self.lock();
        let place = (table, key.to_vec());
        let there = state.tables.contains_key(&place);
        if there {
            state.damaged.insert(place);
        }
        there
    }

    /// A copy of the synced content, as another disk.
    pub fn backup(&self) -> MemoryDisk {
        let state = self.lock();
        let mut copy = DiskState::empty(state.incarnation);
        copy.kind = state.kind;
        copy.tables = Arc::clone(&state.tables);
        copy.sequence = state.sequence;
        copy.head = state.head;
        copy.damaged = state.damaged.clone();
        copy.used_bytes = state.used_bytes;
        MemoryDisk { state: Arc::new(Mutex::new(copy)) }
    }

    /// Puts back the log of an earlier [`MemoryDisk::backup`], and leaves the HEAD file: what an operator
    /// does who restores the large folder only. The power is cut first.
    pub fn restore_log(&self, backup: &MemoryDisk) {
        self.crash(Unsynced::Lost);
        let copy = backup.backup();
        let from = copy.lock();
        let mut state = self.lock();
        state.incarnation = from.incarnation;
        state.tables = Arc::clone(&from.tables);
        state.sequence = from.sequence;
        state.damaged = from.damaged.clone();
        state.used_bytes = from.used_bytes;
    }

    /// Replaces the disk by an empty one; the power is cut first.
    pub fn replace(&self, incarnation: u64) {
        self.crash(Unsynced::Lost);
        *self.lock() = DiskState::empty(incarnation);
    }

    /// Starts a journal's session.
    pub(crate) fn open(&self, kind: Kind) -> Result<Arc<Session>, OpenError> {
        let mut state = self.lock();
        let folder = PathBuf::from(PLACE);
        if state.session.upgrade().is_some() {
            return Err(OpenError::Locked {
                folder,
                holder: "a journal that is still open".to_owned(),
            });
        }
        match state.kind {
            Some(found) if found != kind => {
                return Err(OpenError::WrongKind { folder, found, wanted: kind });
            }
            _ => state.kind = Some(kind),
        }
        state.keep_unsynced();
        if state.sequence < state.head && !mutant(Mutant::HeadNotChecked) {
            return Err(OpenError::Behind { folder, log: state.sequence, head: state.head });
        }
        state.head = state.sequence;
        let session = Arc::new(Session::default());
        state.session = Arc::downgrade(&session);
        Ok(session)
    }

    /// No panic can leave the state half changed.
    pub(crate) fn lock(&self) -> MutexGuard<'_, DiskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DiskState {
    fn empty(incarnation: u64) -> Self {
        DiskState {
            kind: None,
            incarnation: incarnation.max(1),
            tables: Tables::default(),
            sequence: LogSequence(0),
            head: LogSequence(0),
            unsynced: None,
            damaged: BTreeSet::new(),
            fail_next_sync: false,
            used_bytes: 0,
            capacity_bytes: None,
            session: Weak::new(),
        }
    }

    pub(crate) fn sequence(&self) -> LogSequence {
        self.sequence
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub(crate) fn tables(&self) -> Tables {
        Arc::clone(&self.tables)
    }

    pub(crate) fn is_damaged(&self, place: &(Table, Vec<u8>)) -> bool {
        self.damaged.contains(place)
    }

    /// Writes a batch and syncs it, or says what went wrong.
    pub(crate) fn write(&mut self, batch: &[Mutation]) -> Result<LogSequence, &'static str> {
        let batch_bytes: usize = batch.iter().map(Mutation::size).sum();
        if self.capacity_bytes.is_some_and(|capacity| self.used_bytes + batch_bytes > capacity) {
            return Err("no space left on device");
        }
        self.unsynced = Some(batch.to_vec());
        if std::mem::take(&mut self.fail_next_sync) {
            return Err("the sync failed");
        }
        self.keep_unsynced();
        self.head = self.sequence;
        Ok(self.sequence)
    }

    /// Moves what was written and not synced, if anything, to what is synced.
    fn keep_unsynced(&mut self) {
        let Some(batch) = self.unsynced.take() else {
            return;
        };
        let tables = Arc::make_mut(&mut self.tables);
        for mutation in batch {
            let place = (mutation.table, mutation.key);
            self.damaged.remove(&place);
            let key_bytes = place.1.len();
            let removed = match mutation.value {
                Some(value) => {
                    self.used_bytes += key_bytes + value.len();
                    tables.insert(place, value)
                }
                None => tables.remove(&place),
            };
            self.used_bytes -= removed.map_or(0, |value| key_bytes + value.len());
        }
        self.sequence.0 += 1;
    }
}
