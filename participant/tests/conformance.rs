//! The suite against resource managers that keep the contract, and against ones that do not: a suite
//! that passes everything proves nothing.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use handfast_participant::Store;
use handfast_participant::conformance::{Broken, Subject, check};
use handfast_participant::resource_manager::{
    Ending, Finished, Prepared, ResourceError, ResourceManager, TransactionId, Work,
};
use handfast_participant::resources::key_value::{KeyValueConfig, KeyValueStore};
use handfast_wire::v1::key_value_operation::Operation;
use handfast_wire::v1::{KeyValueAdd, KeyValueOperation, KeyValueWork};
use prost::Message;

fn key(place: u32) -> Vec<u8> {
    format!("place-{place}").into_bytes()
}

fn add(place: u32, amount: u64) -> Vec<u8> {
    let amount = i64::try_from(amount).expect("the suite adds small numbers");
    let operation = Some(Operation::Add(KeyValueAdd { amount, floor: None }));
    let operations = vec![KeyValueOperation { key: key(place).into(), operation }];
    KeyValueWork { operations }.encode_to_vec()
}

fn number(store: &Store, place: u32) -> Result<u64, String> {
    let value = store.get(&[b"d".to_vec(), key(place)].concat()).map_err(|e| e.to_string())?;
    match value {
        None => Ok(0),
        Some(text) => String::from_utf8_lossy(&text).parse().map_err(|e| format!("{e}")),
    }
}

/// What is wrong with a resource manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    ForgetsWhatItHolds,
    ListsWhatItDoesNotHold,
    KeepsNothingOfAVote,
    KeepsNothingOfACommit,
    CommitsWhatItAborts,
    GivesUpItsLocksWithTheVote,
    NeverGivesUpItsLocks,
    KnowsNoBranchToAbort,
    PreparesWithoutWork,
    IgnoresTheCall,
    CannotCommitWhatWasPreparedBefore,
    LosesWhatIsPreCommitted,
    CommitsWhatWasPreCommittedAndIsAborted,
    NeedsAPreCommit,
}

/// The key-value store with a fault.
struct Faulty {
    inner: KeyValueStore,
    fault: Fault,
    prepared_here: Mutex<Vec<TransactionId>>,
    pre_committed_here: Mutex<Vec<TransactionId>>,
}

impl Faulty {
    fn has_pre_committed(&self, id: TransactionId) -> bool {
        self.pre_committed_here.lock().expect("no panic").contains(&id)
    }
}

impl ResourceManager for Faulty {
    async fn prepare(&self, id: TransactionId, work: Work) -> Prepared {
        if self.fault == Fault::PreparesWithoutWork && work == Work::Joined {
            return Prepared::Yes { result: Vec::new(), staged: Vec::new(), changes: Vec::new() };
        }
        self.prepared_here.lock().expect("no panic").push(id);
        let mut prepared = self.inner.prepare(id, work).await;
        if let Prepared::Yes { staged, changes, .. } = &mut prepared {
            if self.fault == Fault::KeepsNothingOfAVote {
                staged.clear();
                changes.clear();
            }
            if self.fault == Fault::GivesUpItsLocksWithTheVote {
                self.inner.finished(id, Ending::Committed);
            }
        }
        prepared
    }

    fn cancel(&self, id: TransactionId) {
        if self.fault != Fault::IgnoresTheCall {
            self.inner.cancel(id);
        }
    }

    async fn pre_commit(&self, id: TransactionId) {
        self.pre_committed_here.lock().expect("no panic").push(id);
    }

    async fn commit(&self, id: TransactionId) -> Result<Finished, ResourceError> {
        match self.fault {
            Fault::LosesWhatIsPreCommitted if self.has_pre_committed(id) => {
                return Ok(Finished::AlreadyDone);
            }
            Fault::NeedsAPreCommit if id.is_three_phase() && !self.has_pre_committed(id) => {
                return Ok(Finished::AlreadyDone);
            }
            _ => {}
        }
        if self.fault == Fault::CannotCommitWhatWasPreparedBefore
            && !self.prepared_here.lock().expect("no panic").contains(&id)
        {
            return Ok(Finished::AlreadyDone);
        }
        let mut finished = self.inner.commit(id).await?;
        if let Finished::Done { changes } = &mut finished
            && self.fault == Fault::KeepsNothingOfACommit
        {
            changes.clear();
        }
        Ok(finished)
    }

    async fn abort(&self, id: TransactionId) -> Result<Finished, ResourceError> {
        match self.fault {
            Fault::CommitsWhatWasPreCommittedAndIsAborted if self.has_pre_committed(id) => {
                self.inner.commit(id).await
            }
            Fault::CommitsWhatItAborts => match self.inner.commit(id).await? {
                Finished::Done { changes } => Ok(Finished::Done { changes }),
                _ => self.inner.abort(id).await,
            },
            Fault::KnowsNoBranchToAbort => match self.inner.abort(id).await? {
                Finished::Unknown => Err(ResourceError("no such branch".into())),
                done => Ok(done),
            },
            _ => self.inner.abort(id).await,
        }
    }

    fn finished(&self, id: TransactionId, ending: Ending) {
        if self.fault != Fault::NeverGivesUpItsLocks {
            self.inner.finished(id, ending);
        }
    }

    async fn in_doubt(&self) -> Result<Vec<TransactionId>, ResourceError> {
        let mut ids = self.inner.in_doubt().await?;
        match self.fault {
            Fault::ForgetsWhatItHolds => ids.clear(),
            Fault::ListsWhatItDoesNotHold => {
                ids.extend("0000-02-0000000001-00000000000000ff".parse::<TransactionId>())
            }
            _ => {}
        }
        Ok(ids)
    }

    fn keeps_all_in_store(&self) -> bool {
        true
    }
}

struct KeyValue {
    fault: Fault,
    store: Mutex<Option<Store>>,
}

impl Subject for KeyValue {
    type Resource = Faulty;

    async fn open(&self, _: &Path, store: Store) -> Result<Arc<Faulty>, String> {
        let config = KeyValueConfig { lock_wait: Duration::from_secs(5) };
        let inner = KeyValueStore::open(store.reader(), config).map_err(|e| e.to_string())?;
        *self.store.lock().expect("no panic") = Some(store);
        Ok(Arc::new(Faulty {
            inner,
            fault: self.fault,
            prepared_here: Mutex::default(),
            pre_committed_here: Mutex::default(),
        }))
    }

    fn work(&self, place: u32, amount: u64) -> Vec<u8> {
        add(place, amount)
    }

    async fn probe(&self, _: &Faulty, place: u32) -> Result<u64, String> {
        let store = self.store.lock().expect("no panic").clone();
        number(&store.expect("opened"), place)
    }

    fn bad_work(&self) -> Option<Vec<u8>> {
        Some(vec![0xff; 3])
    }
}

async fn check_key_value(fault: Fault) -> Result<(), Broken> {
    let folder = tempfile::tempdir().expect("a folder");
    check(&KeyValue { fault, store: Mutex::default() }, folder.path()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_value_store_keeps_the_contract() {
    check_key_value(Fault::None).await.expect("kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_sees_what_breaks_the_contract() {
    for (fault, rule) in [
        (Fault::ForgetsWhatItHolds, "prepared work is not seen before its commit"),
        (Fault::ListsWhatItDoesNotHold, "prepared work is not seen before its commit"),
        (Fault::KeepsNothingOfAVote, "a prepared branch survives a crash, unseen"),
        (Fault::KeepsNothingOfACommit, "prepared work is not seen before its commit"),
        (Fault::CommitsWhatItAborts, "aborted work is never seen"),
        (Fault::GivesUpItsLocksWithTheVote, "prepared work is not seen before its commit"),
        (Fault::NeverGivesUpItsLocks, "prepared work is not seen before its commit"),
        (Fault::KnowsNoBranchToAbort, "the abort of a branch that was never heard of"),
        (Fault::PreparesWithoutWork, "work that is not here cannot be prepared"),
        (Fault::CannotCommitWhatWasPreparedBefore, "a prepared branch survives a crash, unseen"),
        (Fault::LosesWhatIsPreCommitted, "a pre-commit changes nothing that is seen"),
        (Fault::CommitsWhatWasPreCommittedAndIsAborted, "a branch that was pre-committed can be"),
        (Fault::NeedsAPreCommit, "a pre-commit changes nothing that is seen"),
    ] {
        let broken = check_key_value(fault).await.expect_err(&format!("{fault:?}"));
        assert!(broken.rule.starts_with(rule), "{fault:?}: {broken}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_be_called_off_is_a_hint_only() {
    check_key_value(Fault::IgnoresTheCall).await.expect("slower, and as good");
}

/// A resource with files of its own: `open-ID` is prepared, `done-ID` is committed.
struct Files {
    folder: PathBuf,
}

impl Files {
    fn path(&self, state: &str, id: TransactionId) -> PathBuf {
        self.folder.join(format!("{state}-{id}"))
    }

    fn in_state(&self, state: &str) -> std::io::Result<Vec<(TransactionId, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let id = name.strip_prefix(state).and_then(|rest| rest.strip_prefix('-'));
            if let Some(Ok(id)) = id.map(str::parse) {
                found.push((id, path));
            }
        }
        Ok(found)
    }
}

fn failed(error: std::io::Error) -> ResourceError {
    ResourceError(error.to_string())
}

impl ResourceManager for Files {
    async fn prepare(&self, id: TransactionId, work: Work) -> Prepared {
        let Work::Carried { payload, .. } = work else {
            return Prepared::No { reason: "no sessions".into() };
        };
        match fs::write(self.path("open", id), payload) {
            Ok(()) => Prepared::Yes { result: Vec::new(), staged: Vec::new(), changes: Vec::new() },
            Err(error) => Prepared::No { reason: error.to_string() },
        }
    }

    async fn commit(&self, id: TransactionId) -> Result<Finished, ResourceError> {
        if self.path("open", id).exists() {
            fs::rename(self.path("open", id), self.path("done", id)).map_err(failed)?;
            return Ok(Finished::Done { changes: Vec::new() });
        }
        let done = self.path("done", id).exists();
        Ok(if done { Finished::AlreadyDone } else { Finished::Unknown })
    }

    async fn abort(&self, id: TransactionId) -> Result<Finished, ResourceError> {
        match fs::remove_file(self.path("open", id)) {
            Ok(()) => Ok(Finished::Done { changes: Vec::new() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Finished::Unknown),
            Err(error) => Err(failed(error)),
        }
    }

    fn finished(&self, _: TransactionId, _: Ending) {}

    async fn in_doubt(&self) -> Result<Vec<TransactionId>, ResourceError> {
        let open = self.in_state("open").map_err(failed)?;
        Ok(open.into_iter().map(|(id, _)| id).collect())
    }
}

struct FileSubject;

impl Subject for FileSubject {
    type Resource = Files;

    async fn open(&self, folder: &Path, _: Store) -> Result<Arc<Files>, String> {
        Ok(Arc::new(Files { folder: folder.to_owned() }))
    }

    fn work(&self, place: u32, amount: u64) -> Vec<u8> {
        format!("{place} {amount}").into_bytes()
    }

    async fn probe(&self, files: &Files, place: u32) -> Result<u64, String> {
        let mut sum = 0;
        for (_, path) in files.in_state("done").map_err(|e| e.to_string())? {
            let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
            let (found, amount) = text.split_once(' ').ok_or("two numbers")?;
            if found == place.to_string() {
                sum += amount.parse::<u64>().map_err(|e| e.to_string())?;
            }
        }
        Ok(sum)
    }

    fn excludes(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_with_storage_of_its_own_keeps_the_contract() {
    let folder = tempfile::tempdir().expect("a folder");
    check(&FileSubject, folder.path()).await.expect("kept");
}

/// The example of the crate's documentation, with a line that can be summed up.
struct Notebook(Store);

fn entry(prefix: &str, id: TransactionId) -> Vec<u8> {
    [prefix.as_bytes(), &id.as_bytes()[..]].concat()
}

impl Notebook {
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ResourceError> {
        self.0.get(key).map_err(|error| ResourceError(error.to_string()))
    }
}

impl ResourceManager for Notebook {
    async fn prepare(&self, id: TransactionId, work: Work) -> Prepared {
        match work {
            Work::Carried { payload, .. } => {
                let changes = vec![(entry("draft/", id), Some(payload))];
                Prepared::Yes { result: Vec::new(), staged: Vec::new(), changes }
            }
            Work::Joined => Prepared::No { reason: "a notebook has no sessions".into() },
        }
    }

    async fn commit(&self, id: TransactionId) -> Result<Finished, ResourceError> {
        if let Some(line) = self.read(&entry("draft/", id))? {
            let changes = vec![(entry("draft/", id), None), (entry("line/", id), Some(line))];
            return Ok(Finished::Done { changes });
        }
        let done = self.read(&entry("line/", id))?.is_some();
        Ok(if done { Finished::AlreadyDone } else { Finished::Unknown })
    }

    async fn abort(&self, id: TransactionId) -> Result<Finished, ResourceError> {
        Ok(Finished::Done { changes: vec![(entry("draft/", id), None)] })
    }

    fn finished(&self, _: TransactionId, _: Ending) {}

    async fn in_doubt(&self) -> Result<Vec<TransactionId>, ResourceError> {
        let mut ids = Vec::new();
        self.0
            .scan(b"draft/", |key, _| {
                ids.extend(TransactionId::from_bytes(&key[b"draft/".len()..]));
                ControlFlow::Continue(())
            })
            .map_err(|error| ResourceError(error.to_string()))?;
        Ok(ids)
    }
}

struct NotebookSubject;

impl Subject for NotebookSubject {
    type Resource = Notebook;

    async fn open(&self, _: &Path, store: Store) -> Result<Arc<Notebook>, String> {
        Ok(Arc::new(Notebook(store)))
    }

    fn work(&self, place: u32, amount: u64) -> Vec<u8> {
        format!("{place} {amount}").into_bytes()
    }

    async fn probe(&self, notebook: &Notebook, place: u32) -> Result<u64, String> {
        let mut sum = 0;
        let scanned = notebook.0.scan(b"line/", |_, line| {
            let line = String::from_utf8_lossy(line).into_owned();
            if let Some((found, amount)) = line.split_once(' ')
                && found == place.to_string()
            {
                sum += amount.parse::<u64>().unwrap_or(u64::MAX / 2);
            }
            ControlFlow::Continue(())
        });
        scanned.map(|()| sum).map_err(|error| error.to_string())
    }

    fn excludes(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_example_keeps_the_contract() {
    let folder = tempfile::tempdir().expect("a folder");
    check(&NotebookSubject, folder.path()).await.expect("kept");
}
