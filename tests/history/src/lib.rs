//! Strict serializability of a key-value store, checked by searching a history for cycles.
//!
//! A [`History`] is what clients saw: which transactions began and ended, in which order, and what each read
//! and wrote. [`check`] asks whether some serial order explains it that also respects real time (what had
//! been answered before something began comes before it). As in Elle (Kingsbury and Alvaro 2020) no order is
//! guessed: the history is recorded so that the order of each key's versions can be read off it, the
//! dependencies between transactions follow, and a serial order exists exactly when they have no cycle.
//! That takes time linear in the history, where trying orders takes exponential time.
//!
//! | dependency | `a → b` when |
//! | --- | --- |
//! | `ww` | `b` overwrote the version that `a` wrote |
//! | `wr` | `b` read the version that `a` wrote |
//! | `rw` | `b` overwrote the version that `a` read |
//! | `rt` | `a` was answered before `b` began |
//!
//! # What a workload has to do
//! - Every written value is unique for its key, for ever. Nothing is deleted.
//! - Whoever writes a key reads it first, in the same transaction, and both are recorded (`get` and `put`; or
//!   `expect` and `put`, whose success is a read). Then each version names the one before it, as an element
//!   of a growing list does, without the list.
//! - A write whose read was lost with its answer is recorded alone. One or two of them for a key can still be
//!   placed, more of them only where real time tells them apart; [`Stats::unplaced`] counts the others, about
//!   which less is checked.
//! - [`History::begin`] comes before the first request, [`History::finish`] after the last answer: the order
//!   of these calls is real time.
//! - An unknown outcome is recorded as such. If somebody read what the transaction wrote, it committed;
//!   otherwise it may have done either.
//! - At the end every key is read once more, by a transaction of its own or with [`History::last`].
//!
//! Reads of transactions that did not commit are not looked at: a transaction that is about to be refused
//! may see anything.
//!
//! Absent on purpose: predicates and deletions, which the store's interface lacks or this check does not need;
//! weaker isolation levels.

mod check;
mod graph;
mod history;
mod story;
mod versions;
mod violation;

pub use check::{Stats, check};
pub use history::{History, Key, Outcome, Ticket, Value};
pub use violation::{Anomaly, Violation};
