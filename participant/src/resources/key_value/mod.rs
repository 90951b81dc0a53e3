//! A transactional key-value store in the participant's own journal.
//!
//! # Laws
//!
//! - **Serializable**, by strict two-phase locking: a transaction takes a lock on each key before it
//!   reads or writes it, and gives its locks up when its end is durable, never before.
//! - **A transaction waits only for older ones** (smaller [`TransactionId`]), here and in every other
//!   store that keeps this rule, so that no circle of waiting can form across participants, and nobody
//!   needs to look for one. See [`lock_table`] for what happens instead of waiting for a younger one.
//! - **A prepared branch survives.** Its writes and the keys that it has read are staged with the vote; a
//!   restart takes its locks again before anything else is served.
//! - **One forced write per step.** The store writes nothing itself. It returns what it stages and what it
//!   changes, and the library writes that together with its own record, so that the two cannot disagree.
//!
//! In the journal's data table a user's key has the letter `d` before it. Nothing else is there.
//!
//! # Absent on purpose
//!
//! Ranges, versions and snapshots: a key is read under its lock or not at all. Deadlock detection:
//! there is nothing to detect. Durable sessions: work that has not voted is gone with its process, and
//! its transaction aborts.
//!
//! [`TransactionId`]: handfast_commit_core::id::TransactionId
//! [`lock_table`]: self::lock_table

mod branches;
pub mod lock_table;
pub mod operations;
mod service;
mod staged;
mod store;

pub use branches::ApplyError;
pub use operations::InvalidWork;
pub use service::{Enlist, EnlistError, EnlistErrorCode, KeyValueGrpc};
pub use store::{KeyValueConfig, KeyValueStore, OpenError, OpeningSession};

#[cfg(test)]
mod tests;
