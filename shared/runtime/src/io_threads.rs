//! The threads that serve connections.

use tokio::runtime::{Builder, Runtime};

/// How many there are when nobody says: one for each two cores. The others are the log's and the shards', and
/// work that goes from one thread to the next is dearer than work that waits for its turn.
#[must_use]
pub fn default_count() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.div_ceil(2)
}

/// The runtime of a server, with so many threads.
///
/// # Errors
/// When the system gives none.
pub fn runtime(count: Option<usize>) -> std::io::Result<Runtime> {
    let count = count.unwrap_or_else(default_count);
    Builder::new_multi_thread().worker_threads(count).enable_all().build()
}
