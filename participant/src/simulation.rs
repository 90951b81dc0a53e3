//! What a simulator needs to run this library's own parts in a world of its own making: the state machine
//! as the driver turns it, its recovery, and the calls of the resource. Not an interface: it follows the
//! simulator.

use std::sync::Arc;

use handfast_journal::Reader;

use crate::store::Store;

pub use crate::recovery::{Found, claim, restore};
pub use crate::resource_calls::{AnyResource, call, in_doubt, tell};
pub use crate::shard::{OnePhaseCommitted, ParticipantShard, ShardAction, ShardInput, Waiter};

/// The library's own store in a journal.
#[must_use]
pub fn store(reader: Arc<dyn Reader>) -> Store {
    Store::new(reader)
}
