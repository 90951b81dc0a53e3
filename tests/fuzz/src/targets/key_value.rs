//! The key-value store: payloads of anybody's making, as transactions that follow each other.
//!
//! An input is a list of transactions, each a byte that says how it is done and ends, two bytes with the length of its
//! payload, and the payload. What the store answers is checked against a map that the operations are done on
//! one after the other, and what is staged is read by another store, as after a restart.

use std::collections::BTreeMap;

use bytes::Bytes;
use handfast_commit_core::id::{Epoch, Protocol, Sequence, Slot, TransactionId};
use handfast_journal::{Journal, Kind, MemoryDisk, MemoryJournal, Mutation, Table};
use handfast_participant::resource_manager::{
    Change, Ending, Finished, Prepared, ResourceManager, Work,
};
use handfast_participant::resources::key_value::operations::{KEY_BYTES_MAX, RESULT_BYTES_MAX};
use handfast_participant::resources::key_value::{KeyValueConfig, KeyValueStore};
use handfast_wire::v1::key_value_operation::Operation;
use handfast_wire::v1::{KeyValueOperation, KeyValueResult, KeyValueWork};
use prost::Message;

use crate::Example;
use crate::events::Events;
use crate::messages::Sample;
use crate::random::Random;

/// Most transactions of one input.
const TRANSACTIONS_MAX: u64 = 16;

type Model = BTreeMap<Bytes, Bytes>;

pub(crate) fn run(input: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime without input and output").block_on(transactions(input));
}

async fn transactions(input: &[u8]) {
    let disk = MemoryDisk::new(1);
    let mut journal = MemoryJournal::open(&disk, Kind::Participant).expect("an empty disk");
    let open = |journal: &MemoryJournal| {
        let store = KeyValueStore::open(journal.reader(), KeyValueConfig::default());
        store.expect("what the store has written itself")
    };
    let mut store = open(&journal);
    let mut model = Model::new();
    for (sequence, (fate, payload)) in (1..=TRANSACTIONS_MAX).zip(Events::of(input)) {
        let id = TransactionId::new(Slot(0), Protocol::TwoPhase, Epoch(1), Sequence(sequence));
        let expected = expected(payload, &model);
        let done = match fate & 8 {
            0 => carried(&store, id, payload, fate & 2 != 0).await,
            _ => in_session(&store, id, payload).await,
        };
        let Some((result, staged)) = done else {
            assert!(expected.is_none(), "refused, though it can be done: {payload:?}");
            store.finished(id, Ending::Aborted);
            continue;
        };
        let Some((after, results)) = expected else {
            panic!("voted for work that cannot be done: {payload:?}");
        };
        let values: Vec<_> = result.results.into_iter().map(|result| result.value).collect();
        assert_eq!(values, results);
        let Some(staged) = staged else {
            assert_eq!(after, model, "read-only, and something has changed");
            store.finished(id, Ending::ReadOnly);
            continue;
        };
        append(&mut journal, Mutation::put(Table::Staged, *id.as_bytes(), staged), Vec::new());
        if fate & 4 != 0 {
            store = open(&journal);
            assert_eq!(
                store.in_doubt().await,
                Ok(vec![id]),
                "the branch did not survive a restart"
            );
        }
        let (finished, ending) = match fate & 1 {
            0 => (store.commit(id).await, Ending::Committed),
            _ => (store.abort(id).await, Ending::Aborted),
        };
        let Ok(Finished::Done { changes }) = finished else {
            panic!("a prepared branch does not end: {finished:?}");
        };
        append(&mut journal, Mutation::delete(Table::Staged, *id.as_bytes()), changes);
        store.finished(id, ending);
        if ending == Ending::Committed {
            model = after;
        }
        assert_eq!(store.in_doubt().await, Ok(Vec::new()));
    }
}

/// What came of the work: its results, and what is staged, unless it has only read.
type Done = Option<(KeyValueResult, Option<Vec<u8>>)>;

/// The work comes with the PREPARE.
async fn carried(
    store: &KeyValueStore,
    id: TransactionId,
    payload: &[u8],
    only_branch: bool,
) -> Done {
    let work = Work::Carried { payload: payload.to_vec(), only_branch };
    let (result, staged) = match store.prepare(id, work).await {
        Prepared::Yes { result, staged, .. } => (result, Some(staged)),
        Prepared::ReadOnly { result } => (result, None),
        Prepared::No { reason } => {
            assert!(!reason.is_empty());
            return None;
        }
    };
    Some((KeyValueResult::decode(&result[..]).expect("what the store encodes"), staged))
}

/// The work is done in a session before the PREPARE.
async fn in_session(store: &KeyValueStore, id: TransactionId, payload: &[u8]) -> Done {
    let work = KeyValueWork::decode(payload).ok()?;
    let session = store.open_session(id).expect("there is no branch of this id");
    session.enlisted().expect("nobody has given it up");
    let result = match store.apply(id, work).await {
        Ok(result) => result,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return None;
        }
    };
    match store.prepare(id, Work::Joined).await {
        Prepared::Yes { staged, .. } => Some((result, Some(staged))),
        Prepared::ReadOnly { .. } => Some((result, None)),
        Prepared::No { reason } => panic!("work that was done is not voted for: {reason}"),
    }
}

/// As the library does: what is staged comes and goes with the branch's own entries.
fn append(journal: &mut MemoryJournal, staged: Mutation, changes: Vec<Change>) {
    let changes =
        changes.into_iter().map(|(key, value)| Mutation { table: Table::Data, key, value });
    let mutations: Vec<Mutation> = std::iter::once(staged).chain(changes).collect();
    journal.append(&mutations).expect("a good disk");
}

/// The data after the work and what its operations return; `None` when it cannot be done.
fn expected(payload: &[u8], before: &Model) -> Option<(Model, Vec<Option<Bytes>>)> {
    let work = KeyValueWork::decode(payload).ok()?;
    let mut data = before.clone();
    let mut results = Vec::new();
    let mut returned_bytes = 0;
    // Work that is wrong anywhere is refused before any of it is done.
    if !work.operations.iter().all(is_sound) {
        return None;
    }
    for operation in work.operations {
        let key = operation.key;
        let found = data.get(&key).cloned();
        match operation.operation? {
            Operation::Get(_) => {}
            Operation::Put(put) => drop(data.insert(key.clone(), put.value)),
            Operation::Delete(_) => drop(data.remove(&key)),
            Operation::Expect(expect) if expect.value == found => {}
            Operation::Expect(_) => return None,
            Operation::Add(add) => {
                let value: i64 = match &found {
                    Some(found) => std::str::from_utf8(found).ok()?.parse().ok()?,
                    None => 0,
                };
                let sum = value.checked_add(add.amount)?;
                if add.floor.is_some_and(|floor| sum < floor) {
                    return None;
                }
                data.insert(key.clone(), sum.to_string().into());
            }
        }
        let value = data.get(&key).cloned();
        returned_bytes += value.as_ref().map_or(0, Bytes::len);
        if returned_bytes > RESULT_BYTES_MAX {
            return None;
        }
        results.push(value);
    }
    Some((data, results))
}

fn is_sound(operation: &KeyValueOperation) -> bool {
    (1..=KEY_BYTES_MAX).contains(&operation.key.len()) && operation.operation.is_some()
}

pub(crate) fn generate(random: &mut Random) -> Vec<u8> {
    let mut events = Events::default();
    for _ in 0..=random.below(6) {
        let mut work = KeyValueWork::sample(random);
        if !random.one_in(4) {
            work.operations.truncate(3);
            work.operations.retain(is_sound);
        }
        events.push(random.byte(), &work.encode_to_vec());
    }
    events.into_input()
}

pub(crate) fn examples(random: &mut Random) -> Vec<Example> {
    (0..8).map(|n| Example { name: format!("transactions-{n}"), input: generate(random) }).collect()
}
