//! The contract, on the journal in a folder.

mod common;

use std::fs;
use std::path::PathBuf;

use common::copy_folder;
use handfast_journal::contract::Storage;
use handfast_journal::{Journal, JournalOptions, Kind, RocksJournal};

/// Each crash moves on to a copy of the folder, made while the journal was open on it: what a process
/// that is killed leaves.
struct OnFolder {
    root: tempfile::TempDir,
    life: u32,
}

impl OnFolder {
    fn new() -> Self {
        OnFolder { root: tempfile::tempdir().expect("a temporary folder"), life: 0 }
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join(self.life.to_string())
    }

    fn log(&self) -> PathBuf {
        self.folder().join("rocksdb")
    }

    fn log_aside(&self) -> PathBuf {
        self.root.path().join("aside")
    }
}

impl Storage for OnFolder {
    fn open(&mut self) -> Box<dyn Journal> {
        let options = JournalOptions {
            // Small, so that a few batches need a new log file.
            memtable_bytes: 256 << 10,
            ..JournalOptions::default()
        };
        match RocksJournal::open(&self.folder(), Kind::Participant, options) {
            Ok(journal) => Box::new(journal),
            Err(error) => panic!("the journal does not open: {error}"),
        }
    }

    fn crash(&mut self, journal: Box<dyn Journal>) {
        let before = self.folder();
        self.life += 1;
        copy_folder(&before, &self.folder());
        drop(journal);
    }

    /// The log's folder goes away: the open files still take writes, and the next new one fails.
    fn break_writes(&mut self) {
        fs::rename(self.log(), self.log_aside()).expect("the log's folder moves");
    }

    fn mend_writes(&mut self) {
        // RocksDB may have made a new folder for its own messages.
        if self.log().exists() {
            fs::remove_dir_all(self.log()).expect("the stray folder goes");
        }
        fs::rename(self.log_aside(), self.log()).expect("the log's folder moves back");
    }
}

handfast_journal::journal_contract!(OnFolder::new());
