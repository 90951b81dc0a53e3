//! What a simulator needs to run this library's own parts in a world of its own making: the state machine
//! as the driver turns it, its recovery, and the calls of the resource. Not an interface: it follows the
//! simulator.

pub use crate::recovery::{Found, claim, restore};
pub use crate::resource_calls::{AnyResource, call, in_doubt, tell};
pub use crate::shard::{OnePhaseCommitted, ParticipantShard, ShardAction, ShardInput, Waiter};
