//! The contract of a durable log, as two traits. [`crate::contract`] is the same contract as tests.
//!
//! Traits compose: a test that needs a slow, a failing or a counting journal wraps a good one, so no
//! implementation carries switches for faults.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::{JournalError, Mutation, Table};

/// The running number of a log's batches. The first batch is 1; 0 means that nothing was written yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogSequence(pub u64);

impl fmt::Display for LogSequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The writing end of a log. There is one per log, ever; whoever holds it is the only writer.
pub trait Journal: Send + 'static {
    /// Writes the batch atomically. When this returns `Ok` the batch is durable and readers see it;
    /// the sequence is its number, one more than the last batch's. An empty batch writes nothing and
    /// returns the number of the last batch.
    ///
    /// # Errors
    /// After any error the journal is poisoned for good: the batch may or may not be on disk, later
    /// appends return [`JournalError::Poisoned`], and readers refuse as well. The only way on is to end
    /// the process and open the log again, which tells what is on the disk.
    fn append(&mut self, batch: &[Mutation]) -> Result<LogSequence, JournalError>;

    /// A reading end, which may outlive this writer and be used from any thread.
    fn reader(&self) -> Arc<dyn Reader>;
}

/// Takes a key and its value, and says whether the scan goes on.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// A reading end of a log. It sees every batch whose append has returned, and never a batch that is not
/// durable.
pub trait Reader: Send + Sync + 'static {
    /// The value of `key`, or `None` if it has none.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] if the value on disk is damaged, [`JournalError::Read`] if it could not
    /// be read, [`JournalError::Poisoned`] after a failed append. None of them means "not there".
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError>;

    /// Visits the keys of `table` from `from` on (included), in the order of their bytes, until `visit`
    /// breaks or the table ends. What it visits is the table at one moment, whatever is appended
    /// meanwhile.
    ///
    /// # Errors
    /// As [`Reader::get`]; what was visited before the error is sound.
    fn scan(&self, table: Table, from: &[u8], visit: Visit<'_>) -> Result<(), JournalError>;

    /// The identity of this log's life: drawn at its creation, never 0, the same after every re-open.
    /// Another number under the same name means that the log is another one, and what it does not know
    /// has been lost rather than forgotten.
    fn incarnation(&self) -> u64;
}
