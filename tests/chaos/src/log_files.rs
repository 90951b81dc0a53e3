//! The files of a server's log, for tests that damage them.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use crate::server::text;

/// The write-ahead logs of one data folder.
#[derive(Debug, Clone)]
pub struct LogFiles {
    folder: PathBuf,
}

impl LogFiles {
    /// Of a data folder.
    #[must_use]
    pub fn new(data: &Path) -> Self {
        Self { folder: data.join("rocksdb") }
    }

    /// The newest one.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn newest(&self) -> PathBuf {
        let listed = match fs::read_dir(&self.folder) {
            Ok(listed) => listed,
            Err(error) => panic!("{}: {error}", text(&self.folder)),
        };
        let logs = listed
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        match logs.max() {
            Some(newest) => newest,
            None => panic!("{} has no log", text(&self.folder)),
        }
    }

    /// How long the newest one is, in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.contents().len() as u64
    }

    /// What is in the newest one.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        let newest = self.newest();
        match fs::read(&newest) {
            Ok(contents) => contents,
            Err(error) => panic!("{}: {error}", text(&newest)),
        }
    }

    /// Cuts the newest one.
    ///
    /// # Panics
    /// When it cannot be cut.
    pub fn cut(&self, length: u64) {
        let newest = self.newest();
        let cut =
            OpenOptions::new().write(true).open(&newest).and_then(|file| file.set_len(length));
        if let Err(error) = cut {
            panic!("{}: {error}", text(&newest));
        }
    }

    /// Replaces what is in the newest one.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn replace(&self, contents: &[u8]) {
        let newest = self.newest();
        if let Err(error) = fs::write(&newest, contents) {
            panic!("{}: {error}", text(&newest));
        }
    }
}
