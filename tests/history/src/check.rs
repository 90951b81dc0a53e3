//! The check: versions, then dependencies, then cycles.

use crate::graph::Graph;
use crate::history::{History, Outcome};
use crate::versions::Versions;
use crate::violation::Violation;

/// What a history that passed was made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Transactions of which a client was told that they committed.
    pub committed: usize,
    /// Transactions of which a client was told that they aborted.
    pub aborted: usize,
    /// Transactions whose outcome nobody was told.
    pub unknown: usize,
    /// Those of the unknown ones that committed, since what they wrote was read.
    pub unknown_seen: usize,
    /// Reads by committed transactions.
    pub reads: usize,
    /// Writes by committed transactions.
    pub writes: usize,
    /// Keys that were used.
    pub keys: usize,
    /// Dependencies between transactions, those of real time left out.
    pub dependencies: usize,
    /// Committed writes whose place among the versions of their key is not known. A good workload has none.
    pub unplaced: usize,
}

/// Whether a history is strictly serializable.
///
/// # Errors
/// The worst anomaly that it shows, with the shortest cycle that was found for it.
pub fn check(history: &History) -> Result<Stats, Violation> {
    let versions = Versions::infer(history)?;
    let graph = Graph::new(history, &versions);
    if let Some((anomaly, cycle)) = graph.worst_cycle() {
        return Err(crate::story::of_cycle(history, &versions, anomaly, &cycle));
    }
    versions.check_last(history)?;
    let mut stats = Stats {
        keys: history.keys.len(),
        dependencies: graph.dependencies(),
        unplaced: versions.unplaced(),
        ..Stats::default()
    };
    for (index, transaction) in history.transactions.iter().enumerate() {
        match transaction.outcome {
            Outcome::Committed => stats.committed += 1,
            Outcome::Aborted => stats.aborted += 1,
            Outcome::Unknown => {
                stats.unknown += 1;
                stats.unknown_seen += usize::from(versions.has_committed(index));
            }
        }
    }
    (stats.reads, stats.writes) = versions.counts(history.keys.len());
    Ok(stats)
}
