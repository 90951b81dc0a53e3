//! What a coordinator can be told.

use std::path::PathBuf;
use std::time::Duration;

use handfast_commit_core::id::{ParticipantName, Slot};
use handfast_commit_core::three_phase::Witness;

/// A coordinator's settings. The defaults serve a single machine.
#[derive(Debug, Clone)]
pub struct CoordinatorConfig {
    /// The folder of its log; made when it is not there.
    pub data: PathBuf,
    /// The slot of the transaction space that it owns.
    pub slot: Slot,
    /// Single-threaded shards.
    pub shards: usize,
    /// Most undecided transactions; more are refused with RESOURCE_EXHAUSTED.
    pub in_flight_max: usize,
    /// Most bytes of work in undecided transactions; more are refused with RESOURCE_EXHAUSTED.
    pub in_flight_bytes_max: usize,
    /// Most decided transactions that some participant has not acknowledged.
    pub undelivered_max: usize,
    /// Most messages in the queue to one participant. A fifth of it is for transactions in one call that wait for
    /// its vote; more of these are refused with RESOURCE_EXHAUSTED.
    pub link_queue_max: usize,
    /// Most calls in flight on one client's stream; more are refused with RESOURCE_EXHAUSTED.
    pub stream_calls_max: usize,
    /// Most bytes of results that are kept for a stream whose client does not read; what comes in addition is
    /// left out of its answer.
    pub stream_bytes_max: usize,
    /// How long a transaction may stay undecided, unless its client says otherwise.
    pub timeout: Duration,
    /// The longest that a client may ask for.
    pub timeout_max: Duration,
    /// Voting sites of every three-phase transaction that is begun, besides the coordinator and the participants.
    pub witnesses: Vec<Witness>,
    /// Under which name this process is itself a witness of other slots' transactions.
    pub witness_name: Option<ParticipantName>,
    /// How long an outcome is remembered after its transaction has ended.
    pub outcome_retention: Duration,
}

impl Default for CoordinatorConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            data: PathBuf::from("handfast-coordinator-data"),
            slot: Slot(0),
            shards: (cores / 2).clamp(1, 8),
            in_flight_max: 100_000,
            in_flight_bytes_max: 1 << 30,
            undelivered_max: 2_000_000,
            link_queue_max: 10_000,
            stream_calls_max: 100_000,
            stream_bytes_max: 256 << 20,
            timeout: Duration::from_secs(30),
            timeout_max: Duration::from_secs(3600),
            witnesses: Vec::new(),
            witness_name: None,
            outcome_retention: Duration::from_secs(24 * 3600),
        }
    }
}
