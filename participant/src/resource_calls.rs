//! Calls of the resource manager: whoever wrote it, nothing that it does ends the engine.
//!
//! A panic in it becomes a no (before the vote) or a failure that is tried again (after it), loudly.
//! Results that could not be carried become a no as well, before anything is promised.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use handfast_commit_core::id::TransactionId;
use handfast_commit_core::limits;
use handfast_commit_core::two_phase::participant::{
    Ending as CoreEnding, ResourceCall, ResourceResult,
};

use crate::resource_manager::{
    Change, Ending, Finished, Prepared, ResourceError, ResourceManager, Work,
};
use crate::shard::STAGED;

type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A [`ResourceManager`] whose type is not known: the engine is compiled once.
pub trait AnyResource: Send + Sync + 'static {
    /// See [`ResourceManager::prepare`].
    fn prepare(&self, id: TransactionId, work: Work) -> Pending<'_, Prepared>;
    /// See [`ResourceManager::cancel`].
    fn cancel(&self, id: TransactionId);
    /// See [`ResourceManager::pre_commit`].
    fn pre_commit(&self, id: TransactionId) -> Pending<'_, ()>;
    /// See [`ResourceManager::commit`].
    fn commit(&self, id: TransactionId) -> Pending<'_, Result<Finished, ResourceError>>;
    /// See [`ResourceManager::abort`].
    fn abort(&self, id: TransactionId) -> Pending<'_, Result<Finished, ResourceError>>;
    /// See [`ResourceManager::finished`].
    fn finished(&self, id: TransactionId, ending: Ending);
    /// See [`ResourceManager::in_doubt`].
    fn in_doubt(&self) -> Pending<'_, Result<Vec<TransactionId>, ResourceError>>;
    /// See [`ResourceManager::keeps_all_in_store`].
    fn keeps_all_in_store(&self) -> bool;
    /// See [`ResourceManager::never_keeps_a_thread`].
    fn never_keeps_a_thread(&self) -> bool;
}

impl<R: ResourceManager> AnyResource for R {
    fn prepare(&self, id: TransactionId, work: Work) -> Pending<'_, Prepared> {
        Box::pin(ResourceManager::prepare(self, id, work))
    }

    fn cancel(&self, id: TransactionId) {
        ResourceManager::cancel(self, id);
    }

    fn pre_commit(&self, id: TransactionId) -> Pending<'_, ()> {
        Box::pin(ResourceManager::pre_commit(self, id))
    }

    fn commit(&self, id: TransactionId) -> Pending<'_, Result<Finished, ResourceError>> {
        Box::pin(ResourceManager::commit(self, id))
    }

    fn abort(&self, id: TransactionId) -> Pending<'_, Result<Finished, ResourceError>> {
        Box::pin(ResourceManager::abort(self, id))
    }

    fn finished(&self, id: TransactionId, ending: Ending) {
        ResourceManager::finished(self, id, ending);
    }

    fn in_doubt(&self) -> Pending<'_, Result<Vec<TransactionId>, ResourceError>> {
        Box::pin(ResourceManager::in_doubt(self))
    }

    fn keeps_all_in_store(&self) -> bool {
        ResourceManager::keeps_all_in_store(self)
    }

    fn never_keeps_a_thread(&self) -> bool {
        ResourceManager::never_keeps_a_thread(self)
    }
}

/// First wait before an abort is repeated that must succeed before a no; doubles up to
/// [`ABORT_AGAIN_AFTER_MAX`].
const ABORT_AGAIN_AFTER: Duration = Duration::from_millis(20);
const ABORT_AGAIN_AFTER_MAX: Duration = Duration::from_secs(2);

/// What has no result. Not to be called on a thread that the process relies on: where panics of such a
/// thread end the process, one that is caught does so as well.
pub fn tell(resource: &dyn AnyResource, id: TransactionId, call: &ResourceCall) {
    let told = catch_unwind(AssertUnwindSafe(|| match call {
        ResourceCall::Cancel => resource.cancel(id),
        ResourceCall::Finished(ending) => resource.finished(id, ending_of(*ending)),
        // It may take its time: pre_commit().
        ResourceCall::PreCommit => {}
        ResourceCall::Prepare { .. } | ResourceCall::Commit | ResourceCall::Abort => {
            unreachable!("these have a result, which call() waits for")
        }
    }));
    if let Err(panic) = told {
        complain(id, "cancel or finished", &*panic);
    }
}

/// Everybody has voted prepared. Whatever comes of it, the decision is not this resource's.
pub(crate) async fn pre_commit(resource: &dyn AnyResource, id: TransactionId) {
    if let Err(panic) = guarded(|| resource.pre_commit(id)).await {
        complain(id, "pre_commit", &*panic);
    }
}

/// What has a result.
pub async fn call(
    resource: Arc<dyn AnyResource>,
    id: TransactionId,
    call: ResourceCall,
) -> ResourceResult {
    match call {
        ResourceCall::Prepare { work, only_branch } => {
            let work = match work {
                Some(payload) => Work::Carried { payload: payload.into(), only_branch },
                None => Work::Joined,
            };
            match guarded(|| resource.prepare(id, work)).await {
                Ok(prepared) => vote(&*resource, id, prepared).await,
                Err(panic) => {
                    complain(id, "prepare", &*panic);
                    let reason = "the resource manager panicked in prepare".to_owned();
                    abort_then_no(&*resource, id, reason).await
                }
            }
        }
        ResourceCall::Commit => finished(id, "commit", guarded(|| resource.commit(id)).await),
        ResourceCall::Abort => match finished(id, "abort", guarded(|| resource.abort(id)).await) {
            // An unheard-of branch is as good as aborted.
            ResourceResult::Unknown => ResourceResult::Done { changes: Vec::new() },
            result => result,
        },
        ResourceCall::Cancel | ResourceCall::PreCommit | ResourceCall::Finished(_) => {
            unreachable!("these have no result: tell() and pre_commit()")
        }
    }
}

/// The branches that the resource holds prepared.
pub async fn in_doubt(resource: &dyn AnyResource) -> Result<Vec<TransactionId>, ResourceError> {
    guarded(|| resource.in_doubt()).await.unwrap_or_else(|panic| {
        Err(ResourceError(format!("in_doubt panicked: {}", text_of(&*panic))))
    })
}

async fn vote(resource: &dyn AnyResource, id: TransactionId, prepared: Prepared) -> ResourceResult {
    let too_large = |result: &[u8]| {
        (result.len() > limits::PAYLOAD_BYTES_MAX).then(|| {
            format!(
                "the work returned {} bytes; at most {} can be carried to the client",
                result.len(),
                limits::PAYLOAD_BYTES_MAX
            )
        })
    };
    match prepared {
        Prepared::Yes { changes, .. } if keyless(&changes) => {
            abort_then_no(resource, id, KEYLESS.to_owned()).await
        }
        Prepared::Yes { result, staged, mut changes } => match too_large(&result) {
            None => {
                if !staged.is_empty() {
                    changes.insert(0, (STAGED.to_vec(), Some(staged)));
                }
                ResourceResult::Prepared { result: Bytes::from(result), changes }
            }
            Some(reason) => abort_then_no(resource, id, reason).await,
        },
        Prepared::ReadOnly { result } => match too_large(&result) {
            None => ResourceResult::ReadOnly { result: Bytes::from(result) },
            Some(reason) => ResourceResult::No { reason },
        },
        Prepared::No { reason } => ResourceResult::No { reason },
    }
}

/// Votes no for a branch that the resource may hold prepared: a no means that it is gone.
async fn abort_then_no(
    resource: &dyn AnyResource,
    id: TransactionId,
    reason: String,
) -> ResourceResult {
    let mut wait = ABORT_AGAIN_AFTER;
    loop {
        match guarded(|| resource.abort(id)).await {
            Ok(Ok(_)) => return ResourceResult::No { reason },
            Ok(Err(error)) => {
                tracing::warn!(transaction = %id, "the resource cannot abort: {error}");
            }
            Err(panic) => complain(id, "abort", &*panic),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(ABORT_AGAIN_AFTER_MAX);
    }
}

fn finished(
    id: TransactionId,
    what: &str,
    result: Result<Result<Finished, ResourceError>, Box<dyn Any + Send>>,
) -> ResourceResult {
    match result {
        Ok(Ok(Finished::Done { changes })) if keyless(&changes) => {
            tracing::error!(transaction = %id, call = what, "{KEYLESS}");
            ResourceResult::Failed { reason: KEYLESS.to_owned() }
        }
        Ok(Ok(Finished::Done { changes })) => ResourceResult::Done { changes },
        Ok(Ok(Finished::AlreadyDone)) => ResourceResult::Done { changes: Vec::new() },
        Ok(Ok(Finished::Unknown)) => ResourceResult::Unknown,
        Ok(Err(ResourceError(reason))) => ResourceResult::Failed { reason },
        Err(panic) => {
            complain(id, what, &*panic);
            ResourceResult::Failed { reason: format!("the resource manager panicked in {what}") }
        }
    }
}

const KEYLESS: &str = "the resource manager has a change without a key";

/// One of the changes has the key that is not the resource's to use.
fn keyless(changes: &[Change]) -> bool {
    changes.iter().any(|(key, _)| key == STAGED)
}

/// Runs a call; a panic in it, or in making it, is an error.
async fn guarded<'a, T>(make: impl FnOnce() -> Pending<'a, T>) -> Result<T, Box<dyn Any + Send>> {
    let mut pending = catch_unwind(AssertUnwindSafe(make))?;
    poll_fn(move |context| {
        // After a panic the future is not polled again.
        match catch_unwind(AssertUnwindSafe(|| pending.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(done)) => Poll::Ready(Ok(done)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await
}

fn complain(id: TransactionId, what: &str, panic: &(dyn Any + Send)) {
    metrics::counter!("handfast_participant_resource_panics_total").increment(1);
    tracing::error!(
        transaction = %id,
        call = what,
        "the resource manager panicked in {what}: {}",
        text_of(panic)
    );
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

fn ending_of(ending: CoreEnding) -> Ending {
    match ending {
        CoreEnding::Committed => Ending::Committed,
        CoreEnding::Aborted => Ending::Aborted,
        CoreEnding::ReadOnly => Ending::ReadOnly,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Answers as it is told, and notes what it was asked.
    #[derive(Default)]
    struct Scripted {
        prepared: Mutex<Option<Prepared>>,
        aborts_that_fail: Mutex<u32>,
        asked: Mutex<Vec<&'static str>>,
    }

    impl Scripted {
        fn note(&self, what: &'static str) {
            self.asked.lock().expect("no test panics here").push(what);
        }
    }

    impl ResourceManager for Scripted {
        async fn prepare(&self, _: TransactionId, _: Work) -> Prepared {
            self.note("prepare");
            let answer = self.prepared.lock().expect("no panic").take();
            answer.expect("told to panic")
        }

        async fn pre_commit(&self, _: TransactionId) {
            panic!("in pre_commit")
        }

        async fn commit(&self, _: TransactionId) -> Result<Finished, ResourceError> {
            panic!("in commit")
        }

        async fn abort(&self, _: TransactionId) -> Result<Finished, ResourceError> {
            self.note("abort");
            let mut failing = self.aborts_that_fail.lock().expect("no panic");
            if *failing > 0 {
                *failing -= 1;
                return Err(ResourceError("not now".into()));
            }
            Ok(Finished::Unknown)
        }

        fn finished(&self, _: TransactionId, _: Ending) {
            panic!("in finished")
        }

        async fn in_doubt(&self) -> Result<Vec<TransactionId>, ResourceError> {
            panic!("in in_doubt")
        }
    }

    fn id() -> TransactionId {
        "0000-02-0000000001-0000000000000001".parse().expect("an id")
    }

    async fn prepare(resource: &Arc<Scripted>) -> ResourceResult {
        let work = Some(Bytes::new());
        let prepare = ResourceCall::Prepare { work, only_branch: true };
        call(resource.clone(), id(), prepare).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_in_prepare_is_an_abort_and_a_no() {
        let resource = Arc::new(Scripted::default());
        *resource.aborts_that_fail.lock().expect("no panic") = 2;
        let result = prepare(&resource).await;
        assert!(matches!(result, ResourceResult::No { reason } if reason.contains("panicked")));
        let asked = resource.asked.lock().expect("no panic").clone();
        assert_eq!(asked, ["prepare", "abort", "abort", "abort"], "a no means that it is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_result_that_cannot_be_carried_is_an_abort_and_a_no() {
        let resource = Arc::new(Scripted::default());
        let yes = |bytes| Prepared::Yes {
            result: vec![0; bytes],
            staged: Vec::new(),
            changes: Vec::new(),
        };
        *resource.prepared.lock().expect("no panic") = Some(yes(limits::PAYLOAD_BYTES_MAX));
        assert!(matches!(prepare(&resource).await, ResourceResult::Prepared { .. }));
        *resource.prepared.lock().expect("no panic") = Some(yes(limits::PAYLOAD_BYTES_MAX + 1));
        assert!(matches!(prepare(&resource).await, ResourceResult::No { reason }
            if reason.contains("1048577 bytes") && reason.contains("1048576")));
        assert_eq!(*resource.asked.lock().expect("no panic"), ["prepare", "prepare", "abort"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_staged_is_the_first_change_and_no_other_has_its_key() {
        let resource = Arc::new(Scripted::default());
        let yes = |staged: &[u8], key: &[u8]| {
            let changes = vec![(key.to_vec(), None)];
            Some(Prepared::Yes { result: Vec::new(), staged: staged.to_vec(), changes })
        };
        *resource.prepared.lock().expect("no panic") = yes(b"s", b"k");
        let ResourceResult::Prepared { changes, .. } = prepare(&resource).await else {
            panic!("it is prepared");
        };
        assert_eq!(changes, [(STAGED.to_vec(), Some(b"s".to_vec())), (b"k".to_vec(), None)]);
        *resource.prepared.lock().expect("no panic") = yes(b"", b"k");
        let ResourceResult::Prepared { changes, .. } = prepare(&resource).await else {
            panic!("it is prepared");
        };
        assert_eq!(changes, [(b"k".to_vec(), None)]);
        *resource.prepared.lock().expect("no panic") = yes(b"s", b"");
        let no = ResourceResult::No { reason: KEYLESS.to_owned() };
        assert_eq!(prepare(&resource).await, no);
        let asked = resource.asked.lock().expect("no panic").clone();
        assert_eq!(asked.last(), Some(&"abort"), "a no means that it is gone");
        let done = Ok(Ok(Finished::Done { changes: vec![(Vec::new(), Some(vec![1]))] }));
        let failed = ResourceResult::Failed { reason: KEYLESS.to_owned() };
        assert_eq!(finished(id(), "commit", done), failed);
    }

    #[tokio::test]
    async fn a_panic_after_the_vote_is_tried_again() {
        let resource = Arc::new(Scripted::default());
        pre_commit(&*resource, id()).await;
        let result = call(resource.clone(), id(), ResourceCall::Commit).await;
        assert!(matches!(result, ResourceResult::Failed { .. }), "{result:?}");
        let result = call(resource.clone(), id(), ResourceCall::Abort).await;
        assert_eq!(result, ResourceResult::Done { changes: Vec::new() });
        tell(&*resource, id(), &ResourceCall::Finished(CoreEnding::Aborted));
        let error = in_doubt(&*resource).await.expect_err("a panic is not an empty list");
        assert!(error.0.contains("in in_doubt"), "{error}");
    }
}
