//! The contract of a resource manager as tests, which any implementation runs in its own.
//!
//! ```text
//! #[tokio::test]
//! async fn it_keeps_the_contract() {
//!     let folder = tempfile::tempdir().unwrap();
//!     conformance::check(&MySubject, folder.path()).await.unwrap();
//! }
//! ```
//!
//! The author writes a [`Subject`]: how the resource is opened, work that adds to a number, and how the
//! number is read. [`check`] drives the resource through the production engine, over a journal in memory
//! whose power it cuts, and looks at nothing but votes, acknowledgements, the resource's own list and the
//! numbers. Each rule has a life of its own: a fresh journal and a fresh folder.
//!
//! No rule is about time. Where a rule waits for something that must happen, it waits long; where it
//! waits for something that must *not* happen, a slow machine can make it miss a fault, and never see one
//! that is not there.

mod rules;
mod site;
mod voting;

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use crate::resource_manager::ResourceManager;
use crate::store::Store;

/// A resource manager under test.
pub trait Subject: Send + Sync {
    /// What is tested.
    type Resource: ResourceManager;

    /// Opens the resource, as its process does at the start. `folder` is the same, and keeps its files,
    /// until `open` is called with another one; `store` is the library's store of this life.
    fn open(
        &self,
        folder: &Path,
        store: Store,
    ) -> impl Future<Output = Result<Arc<Self::Resource>, String>> + Send;

    /// Work that adds `amount` to the number at `place`, which is 0 at first.
    fn work(&self, place: u32, amount: u64) -> Vec<u8>;

    /// The committed number at `place`. Must neither wait for branches in doubt nor see their work.
    fn probe(
        &self,
        resource: &Self::Resource,
        place: u32,
    ) -> impl Future<Output = Result<u64, String>> + Send;

    /// True when two branches that change the same place exclude each other: the second one waits, or
    /// is refused. False when they never conflict.
    fn excludes(&self) -> bool {
        true
    }

    /// Work that must be refused; `None` when there is none.
    fn bad_work(&self) -> Option<Vec<u8>> {
        None
    }
}

/// A rule that the resource manager has broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The rule, in words.
    pub rule: &'static str,
    /// What was seen.
    pub seen: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the contract of resource managers is broken: {}: {}", self.rule, self.seen)
    }
}

impl std::error::Error for Broken {}

/// Checks every rule. `folder` is for the resource's own files, and should be empty. Must be called on
/// a tokio runtime.
///
/// # Errors
/// The first rule that is broken.
pub async fn check<S: Subject>(subject: &S, folder: &Path) -> Result<(), Broken> {
    rules::check_all(subject, folder).await
}
