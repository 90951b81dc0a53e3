//! The store against its contract, with a journal in memory and a clock that stands still unless
//! everybody waits.

mod carried;
mod random;
mod recovery;
mod service;
mod sessions;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use handfast_commit_core::id::{Epoch, Protocol, Sequence, Slot, TransactionId};
use handfast_journal::{JournalError, Reader, Table};
use handfast_wire::v1::key_value_operation::Operation;
use handfast_wire::v1::{
    KeyValueAdd, KeyValueDelete, KeyValueExpect, KeyValueGet, KeyValueOperation, KeyValuePut,
    KeyValueResult, KeyValueWork,
};
use prost::Message;
use prost::bytes::Bytes;
use tokio::task::JoinHandle;

use super::staged::data_key;
use super::{KeyValueConfig, KeyValueStore};
use crate::resource_manager::{Change, Ending, Finished, Prepared, ResourceManager, Work};

/// The data table of a journal, and the one of what is staged.
#[derive(Default)]
struct Disk {
    data: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    staged: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    fails: AtomicBool,
}

impl Disk {
    fn write(&self, changes: Vec<Change>) {
        let mut data = self.data.lock().expect("no test panics here");
        for (key, value) in changes {
            match value {
                Some(value) => data.insert(key, value),
                None => data.remove(&key),
            };
        }
    }

    /// As the library does with the vote.
    fn stage(&self, id: TransactionId, staged: Vec<u8>) {
        self.staged.lock().expect("no test panics here").insert(id.as_bytes().to_vec(), staged);
    }

    /// As the library does when a branch ends.
    fn end(&self, id: TransactionId) {
        self.staged.lock().expect("no test panics here").remove(&id.as_bytes()[..]);
    }

    fn value(&self, key: &str) -> Option<String> {
        let data = self.data.lock().expect("no test panics here");
        let value = data.get(&data_key(key.as_bytes()))?;
        Some(String::from_utf8(value.clone()).expect("tests store text"))
    }

    fn staged_count(&self) -> usize {
        self.staged.lock().expect("no test panics here").len()
    }

    /// What lies in a table; nothing among the library's own.
    fn table(&self, table: Table) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, JournalError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(JournalError::Poisoned {
                place: "a folder".into(),
                reason: "a test".into(),
            });
        }
        Ok(match table {
            Table::Data => self.data.lock().expect("no test panics here").clone(),
            Table::Staged => self.staged.lock().expect("no test panics here").clone(),
            _ => BTreeMap::new(),
        })
    }
}

impl Reader for Disk {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        assert_eq!(table, Table::Data, "the store looks up its own keys only");
        Ok(self.table(table)?.get(key).cloned())
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), JournalError> {
        for (key, value) in self.table(table)?.range(from.to_vec()..) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn incarnation(&self) -> u64 {
        1
    }
}

/// A store and its disk.
#[derive(Clone)]
struct Site {
    disk: Arc<Disk>,
    store: Arc<KeyValueStore>,
}

impl Site {
    fn new(data: &[(&str, &str)]) -> Self {
        let disk = Arc::new(Disk::default());
        let put = |(key, value): &(&str, &str)| {
            (data_key(key.as_bytes()), Some(value.as_bytes().to_vec()))
        };
        disk.write(data.iter().map(put).collect());
        Self::open(disk)
    }

    fn open(disk: Arc<Disk>) -> Self {
        let store =
            KeyValueStore::open(disk.clone(), KeyValueConfig::default()).expect("a sound disk");
        Self { disk, store: Arc::new(store) }
    }

    /// As after a crash: only what is on disk is left.
    fn reopened(&self) -> Self {
        Self::open(self.disk.clone())
    }

    /// Prepares work that is carried, beside other branches, and writes what is to be written.
    async fn prepare(&self, id: TransactionId, operations: Vec<KeyValueOperation>) -> Prepared {
        self.prepare_work(id, carried(operations)).await
    }

    async fn prepare_work(&self, id: TransactionId, work: Work) -> Prepared {
        let mut vote = self.store.prepare(id, work).await;
        self.store.branches().invariants();
        match &mut vote {
            Prepared::Yes { staged, changes, .. } => {
                self.disk.stage(id, std::mem::take(staged));
                assert!(changes.is_empty(), "nothing is written before the decision");
            }
            Prepared::ReadOnly { .. } => self.store.finished(id, Ending::ReadOnly),
            Prepared::No { .. } => self.store.finished(id, Ending::Aborted),
        }
        vote
    }

    async fn commit(&self, id: TransactionId) {
        match self.store.commit(id).await.expect("a store in memory does not fail") {
            Finished::Done { changes } => self.disk.write(changes),
            other => panic!("commit of {id}: {other:?}"),
        }
        self.disk.end(id);
        self.store.finished(id, Ending::Committed);
        self.store.branches().invariants();
    }

    async fn abort(&self, id: TransactionId) {
        if let Finished::Done { changes } = self.store.abort(id).await.expect("it is not committed")
        {
            self.disk.write(changes);
        }
        self.disk.end(id);
        self.store.finished(id, Ending::Aborted);
        self.store.branches().invariants();
    }

    /// A prepare that is known to wait for a lock.
    async fn prepare_waiting(
        &self,
        id: TransactionId,
        operations: Vec<KeyValueOperation>,
    ) -> JoinHandle<Prepared> {
        let site = self.clone();
        let prepare = tokio::spawn(async move { site.prepare(id, operations).await });
        self.until_waiting(id).await;
        prepare
    }

    async fn until_waiting(&self, id: TransactionId) {
        for _ in 0..1000 {
            if self.store.branches().waits(id) {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("{id} does not wait for a lock");
    }

    fn begin(&self, id: TransactionId) {
        self.store.open_session(id).expect("a new transaction").enlisted().expect("not given up");
    }

    async fn apply(
        &self,
        id: TransactionId,
        operations: Vec<KeyValueOperation>,
    ) -> Result<String, String> {
        let result = self.store.apply(id, KeyValueWork { operations }).await;
        self.store.branches().invariants();
        result.map(|result| shown(&result)).map_err(|error| error.to_string())
    }

    fn is_empty(&self) -> bool {
        self.store.branches().is_empty()
    }
}

fn id(number: u64) -> TransactionId {
    TransactionId::new(Slot(0), Protocol::TwoPhase, Epoch(1), Sequence(number))
}

fn carried(operations: Vec<KeyValueOperation>) -> Work {
    Work::Carried { payload: KeyValueWork { operations }.encode_to_vec(), only_branch: false }
}

fn operation(key: &str, operation: Operation) -> KeyValueOperation {
    KeyValueOperation { key: Bytes::copy_from_slice(key.as_bytes()), operation: Some(operation) }
}

fn get(key: &str) -> KeyValueOperation {
    operation(key, Operation::Get(KeyValueGet {}))
}

fn put(key: &str, value: &str) -> KeyValueOperation {
    operation(key, Operation::Put(KeyValuePut { value: Bytes::copy_from_slice(value.as_bytes()) }))
}

fn delete(key: &str) -> KeyValueOperation {
    operation(key, Operation::Delete(KeyValueDelete {}))
}

fn add(key: &str, amount: i64) -> KeyValueOperation {
    operation(key, Operation::Add(KeyValueAdd { amount, floor: Some(0) }))
}

fn expect(key: &str, value: &str) -> KeyValueOperation {
    let value = Some(Bytes::copy_from_slice(value.as_bytes()));
    operation(key, Operation::Expect(KeyValueExpect { value }))
}

fn shown(result: &KeyValueResult) -> String {
    let value = |value: &Option<Bytes>| match value {
        Some(value) => String::from_utf8_lossy(value).into_owned(),
        None => "-".into(),
    };
    result.results.iter().map(|result| value(&result.value)).collect::<Vec<_>>().join(" ")
}

/// `yes`, `read-only` or `no`, and what was returned or why.
fn vote(vote: &Prepared) -> String {
    let result =
        |bytes: &Vec<u8>| shown(&KeyValueResult::decode(bytes.as_slice()).expect("a result"));
    match vote {
        Prepared::Yes { result: bytes, .. } => format!("yes: {}", result(bytes)),
        Prepared::ReadOnly { result: bytes } => format!("read-only: {}", result(bytes)),
        Prepared::No { reason } => format!("no: {reason}"),
    }
}

/// Lets every task go on until it waits for the clock or another one.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
