//! The durable log: what a coordinator or a participant must still know after a crash.
//!
//! A journal is a handful of ordered tables with **one synced writer**. A batch of mutations is atomic
//! and durable when [`Journal::append`] returns, or the journal is poisoned and nothing more comes
//! from it. There is no unsynced write, no retry of a failed sync, and no repair of a log that is
//! damaged in the middle: each of these is how a decision gets lost silently.
//!
//! | part | what it is |
//! | --- | --- |
//! | [`Journal`], [`Reader`] | the contract, two traits that any backend can keep |
//! | [`RocksJournal`] | the contract on RocksDB, in a folder of its own |
//! | [`MemoryJournal`], [`MemoryDisk`] | the contract in memory, with power cuts, for simulators and tests |
//! | [`LogWriter`], [`LogHandle`] | group commit: one thread, one sync for whatever has queued |
//! | [`contract`] | the laws as tests, to be passed by every implementation |
//!
//! # What survives what
//!
//! | what happens | what a later open finds |
//! | --- | --- |
//! | the process dies, or the power fails, during an append | everything acknowledged; the last batch whole or not at all |
//! | the log is cut inside a batch that was not acknowledged | everything acknowledged |
//! | the log is cut inside acknowledged batches, or an older copy of it is put back | refusal: [`OpenError::Behind`], thanks to the HEAD file |
//! | bytes change in the middle of the log | refusal: [`OpenError::Corrupt`], or [`JournalError::Corrupt`] at the read |
//! | a write or a sync fails | this process gets nothing more from the journal; the next one reads what is on the disk |
//!
//! Absent on purpose: transactions that read, more than one writer, snapshots across tables, time to
//! live, and compression. Records are small, keyed, and deleted by whoever wrote them.

pub mod contract;

mod error;
mod folder;
mod format_file;
mod frame;
mod head_file;
mod journal;
mod log_handle;
mod log_writer;
mod memory_disk;
mod memory_journal;
mod mutation;
mod rocks_journal;

pub use error::{JournalError, OpenError};
pub use format_file::Kind;
pub use journal::{Journal, LogSequence, Reader, Visit};
pub use log_handle::{Completion, LogHandle, Submission};
pub use log_writer::{Flush, LogWriter, Turn, WriterObserver, WriterOptions};
pub use memory_disk::{MemoryDisk, Unsynced};
pub use memory_journal::MemoryJournal;
pub use mutation::{Mutation, Table};
pub use rocks_journal::{JournalOptions, RocksJournal};
