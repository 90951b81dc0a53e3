//! Where `pre_commit` comes among the calls of its branch: before the one that ends it, or not at all.
//!
//! The core asks for it when the site's move is on the disk, and waits for nothing. The decision may be here
//! first, since a quorum may have moved without this site:
//!
//! ```text
//! PRE_COMMIT ──► record … on its way to the disk … ──► pre_commit
//!          COMMIT ──► commit
//! ```
//!
//! So the call that ends the branch waits for a `pre_commit` that runs, and one that comes behind it is left
//! out. Branches of two-phase commit never come by here.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use handfast_commit_core::id::TransactionId;
use handfast_commit_core::mutants::{Mutant, mutant};

/// The call that ends a branch.
pub(crate) type Ending = Box<dyn FnOnce() + Send>;

/// The branches that have come so far.
#[derive(Default)]
pub(crate) struct PreCommits {
    branches: Mutex<HashMap<TransactionId, Stage>>,
}

enum Stage {
    /// `pre_commit` runs, and what waits for its end.
    Running(Option<Ending>),
    /// The branch is being ended.
    Ending,
}

impl PreCommits {
    /// True when `pre_commit` is to be called now, and [`done`](Self::done) when it has returned.
    pub(crate) fn begin(&self, id: TransactionId) -> bool {
        match self.lock().entry(id) {
            Entry::Vacant(entry) => {
                entry.insert(Stage::Running(None));
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// `pre_commit` has returned, or its task is gone.
    pub(crate) fn done(&self, id: TransactionId) {
        let mut branches = self.lock();
        let waiting = match branches.remove(&id) {
            Some(Stage::Running(Some(ending))) => {
                branches.insert(id, Stage::Ending);
                Some(ending)
            }
            Some(Stage::Running(None)) | None => None,
            Some(Stage::Ending) => unreachable!("the branch is ended behind its pre_commit"),
        };
        drop(branches);
        if let Some(ending) = waiting {
            ending();
        }
    }

    /// Makes the call that ends the branch: now, or when `pre_commit` has returned.
    pub(crate) fn end(&self, id: TransactionId, ending: Ending) {
        let mut branches = self.lock();
        match branches.entry(id) {
            Entry::Occupied(mut entry) => match entry.get_mut() {
                Stage::Running(waiting) if !mutant(Mutant::EndBesidePreCommit) => {
                    *waiting = Some(ending);
                    return;
                }
                Stage::Running(_) | Stage::Ending => {}
            },
            Entry::Vacant(entry) => {
                entry.insert(Stage::Ending);
            }
        }
        drop(branches);
        ending();
    }

    /// The end is durable: nothing more will be asked of the resource.
    pub(crate) fn finished(&self, id: TransactionId) {
        self.lock().remove(&id);
    }

    /// The map is whole between any two statements, so that a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, HashMap<TransactionId, Stage>> {
        self.branches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn id() -> TransactionId {
        "0000-03-0000000001-0000000000000001".parse().expect("an id")
    }

    fn counting(count: &Arc<AtomicUsize>) -> Ending {
        let count = Arc::clone(count);
        Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        })
    }

    #[test]
    fn the_end_waits_for_a_pre_commit_that_runs() {
        let (calls, ended) = (PreCommits::default(), Arc::default());
        assert!(calls.begin(id()));
        assert!(!calls.begin(id()), "one at a time");
        calls.end(id(), counting(&ended));
        assert_eq!(ended.load(Ordering::Relaxed), 0);
        calls.done(id());
        assert_eq!(ended.load(Ordering::Relaxed), 1);
        assert!(!calls.begin(id()), "it would come behind the call that ends the branch");
        calls.end(id(), counting(&ended));
        assert_eq!(ended.load(Ordering::Relaxed), 2, "tried again");
        calls.finished(id());
        assert!(calls.lock().is_empty());
    }

    #[test]
    fn a_pre_commit_that_comes_too_late_is_left_out() {
        let (calls, ended) = (PreCommits::default(), Arc::default());
        calls.end(id(), counting(&ended));
        assert_eq!(ended.load(Ordering::Relaxed), 1);
        assert!(!calls.begin(id()));
        calls.finished(id());
        assert!(calls.begin(id()));
        calls.done(id());
        assert!(calls.lock().is_empty(), "nothing is kept of one that nobody waits for");
    }
}
