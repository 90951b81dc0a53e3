//! Atomic commitment as pure functions.
//!
//! This crate decides; it does nothing. It has no clock, no randomness, no I/O, no async and no
//! logging, and all its collections have a fixed order, so that the same inputs always give the same
//! steps: in production, in the simulator and in the model checker.
//!
//! # How to drive it
//!
//! A state machine is [`two_phase::Coordinator`] or [`two_phase::Participant`]. Feed it one input at
//! a time; each returns a [`step::Step`]:
//!
//! 1. Give `records` to the log, in the order of the steps.
//! 2. **The ordering law.** Nothing in `then` may happen before the log is durable up to `gate`. A
//!    step without records can have a gate as well: it speaks of a decision whose record is still on
//!    its way to the disk.
//! 3. Timers (`arm`) are the driver's own business and are set at once; setting a transaction's timer
//!    replaces the one before.
//! 4. If the log fails, stop: perform nothing that was gated, and exit.
//!
//! There is no call named "save" that could be forgotten, and no action that could escape early.
//!
//! # Absent on purpose
//!
//! Who is connected, how bytes look, what a queue's length is, what time people read on their clocks
//! (it passes through, and nothing is decided by it).

mod by_id;
pub mod id;
mod jitter;
pub mod limits;
pub mod marks;
pub mod message;
pub mod mutants;
pub mod record;
pub mod step;
pub mod three_phase;
pub mod two_phase;
