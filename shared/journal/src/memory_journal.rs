//! The journal in memory: the same contract as on RocksDB, for simulators and tests.
//!
//! It keeps nothing itself. Everything is on its [`MemoryDisk`], which survives it and on which faults are
//! injected.

use std::sync::Arc;

use crate::error::hex;
use crate::memory_disk::{PLACE, Session};
use crate::{
    Journal, JournalError, Kind, LogSequence, MemoryDisk, Mutation, OpenError, Reader, Table, Visit,
};

/// A journal on a [`MemoryDisk`].
#[derive(Debug)]
pub struct MemoryJournal {
    disk: MemoryDisk,
    session: Arc<Session>,
}

impl MemoryJournal {
    /// Opens the journal on `disk`, or creates it.
    ///
    /// # Errors
    /// As a journal on files: [`OpenError::Locked`] while another journal on the disk or a reader of it
    /// is alive and no [crash](MemoryDisk::crash) has ended them, [`OpenError::WrongKind`],
    /// [`OpenError::Behind`].
    pub fn open(disk: &MemoryDisk, kind: Kind) -> Result<Self, OpenError> {
        Ok(MemoryJournal { session: disk.open(kind)?, disk: disk.clone() })
    }
}

impl Journal for MemoryJournal {
    fn append(&mut self, batch: &[Mutation]) -> Result<LogSequence, JournalError> {
        let mut disk = self.disk.lock();
        self.session.refuse_poisoned()?;
        if batch.is_empty() {
            return Ok(disk.sequence());
        }
        disk.write(batch).map_err(|detail| {
            self.session.poison(detail);
            JournalError::Write { place: PLACE.to_owned(), detail: detail.to_owned() }
        })
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(MemoryReader {
            incarnation: self.disk.lock().incarnation(),
            disk: self.disk.clone(),
            session: Arc::clone(&self.session),
        })
    }
}

/// The reading end.
struct MemoryReader {
    incarnation: u64,
    disk: MemoryDisk,
    session: Arc<Session>,
}

impl Reader for MemoryReader {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        let disk = self.disk.lock();
        self.session.refuse_poisoned()?;
        let place = (table, key.to_vec());
        if disk.is_damaged(&place) {
            return Err(damaged(table, key));
        }
        Ok(disk.tables().get(&place).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], visit: Visit<'_>) -> Result<(), JournalError> {
        // The lock is not held while foreign code runs, which may read or append.
        let tables = {
            let disk = self.disk.lock();
            self.session.refuse_poisoned()?;
            disk.tables()
        };
        for (place, value) in tables.range((table, from.to_vec())..) {
            if place.0 != table {
                break;
            }
            if self.disk.lock().is_damaged(place) {
                return Err(damaged(table, &place.1));
            }
            if visit(&place.1, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn incarnation(&self) -> u64 {
        self.incarnation
    }
}

fn damaged(table: Table, key: &[u8]) -> JournalError {
    JournalError::Corrupt {
        place: PLACE.to_owned(),
        table,
        key: hex(key),
        advice: "a test has damaged it".to_owned(),
    }
}
