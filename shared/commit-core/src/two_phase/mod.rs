#![doc = include_str!("../../docs/two_phase.md")]

pub mod coordinator;
pub mod participant;

pub use coordinator::Coordinator;
pub use participant::Participant;

#[doc = include_str!("../../docs/crash_matrix.md")]
pub mod crash_matrix {}
