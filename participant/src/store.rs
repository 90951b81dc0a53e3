//! The library's own store, for resources that keep their data in the participant's journal.
//!
//! It is read here and written through what the resource manager returns, `staged` and `changes`, together with
//! the protocol's records. There is no other way to write it: what is not part of a step of the protocol
//! could survive without it.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use handfast_commit_core::id::TransactionId;
use handfast_journal::{JournalError, Reader, Table};
use handfast_wire::record::{DamagedRecord, id_in, staged_in};

/// What is staged cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StagedError {
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// An entry of it makes no sense.
    #[error(transparent)]
    Damaged(#[from] DamagedRecord),
}

/// Reads the store. It sees everything that is durable, and nothing else. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    reader: Arc<dyn Reader>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    pub(crate) fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// When it cannot be read, which does not mean that it is not there.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        self.reader.get(Table::Data, key)
    }

    /// Visits the keys that begin with `prefix`, in order, with their values, until `visit` breaks.
    ///
    /// # Errors
    /// When they cannot be read; what was visited before is sound.
    pub fn scan(
        &self,
        prefix: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), JournalError> {
        self.reader.scan(Table::Data, prefix, &mut |key, value| {
            if key.starts_with(prefix) { visit(key, value) } else { ControlFlow::Break(()) }
        })
    }

    /// Visits what resources have staged of the branches that are prepared and not ended, until `visit` breaks:
    /// the branches of two-phase commit in the order of their ids, then those of three-phase commit.
    ///
    /// # Errors
    /// When the journal cannot be read, or an entry of it makes no sense; what was visited before is sound.
    pub fn staged(
        &self,
        mut visit: impl FnMut(TransactionId, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StagedError> {
        let mut ended = None;
        self.reader.scan(Table::Live, &[], &mut |key, value| {
            let found = id_in(key, key).and_then(|id| Ok((id, staged_in(key, value)?)));
            match found {
                Ok((_, staged)) if staged.is_empty() => ControlFlow::Continue(()),
                Ok((id, staged)) => {
                    let goes_on = visit(id, &staged);
                    ended = goes_on.is_break().then_some(Ok(()));
                    goes_on
                }
                Err(error) => {
                    ended = Some(Err(error.into()));
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(ended) = ended {
            return ended;
        }
        let mut ended = Ok(());
        self.reader.scan(Table::Staged, &[], &mut |key, staged| match id_in(key, key) {
            Ok(id) => visit(id, staged),
            Err(error) => {
                ended = Err(error.into());
                ControlFlow::Break(())
            }
        })?;
        ended
    }

    /// The journal's reading end.
    #[must_use]
    pub fn reader(&self) -> Arc<dyn Reader> {
        Arc::clone(&self.reader)
    }
}

#[cfg(test)]
mod tests {
    use handfast_journal::{Journal, Kind, MemoryDisk, MemoryJournal, Mutation};

    use super::*;

    #[test]
    fn a_scan_stays_within_its_prefix() {
        let disk = MemoryDisk::new(1);
        let mut journal = MemoryJournal::open(&disk, Kind::Participant).expect("an empty disk");
        let put = |key: &str| Mutation::put(Table::Data, key, "v");
        journal.append(&["a", "b1", "b2", "c"].map(put)).expect("a disk in memory");
        let store = Store::new(journal.reader());
        let keys = |prefix: &str, most: usize| {
            let mut keys = Vec::new();
            store
                .scan(prefix.as_bytes(), |key, _| {
                    keys.push(String::from_utf8_lossy(key).into_owned());
                    if keys.len() < most {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    }
                })
                .expect("a disk in memory");
            keys.join(" ")
        };
        assert_eq!(keys("b", 9), "b1 b2");
        assert_eq!(keys("", 2), "a b1");
        assert_eq!(store.get(b"c"), Ok(Some(b"v".to_vec())));
        assert_eq!(store.get(b"d"), Ok(None));
    }
}
