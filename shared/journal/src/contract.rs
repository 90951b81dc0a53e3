//! The laws of a [`Journal`], as tests that every implementation must pass.
//!
//! An implementation's test file gives the suite a [`Storage`] and gets one test per law:
//!
//! ```
//! use handfast_journal::contract::Storage;
//! use handfast_journal::{Journal, Kind, MemoryDisk, MemoryJournal, Unsynced};
//!
//! struct OnMemory(MemoryDisk);
//!
//! impl Storage for OnMemory {
//!     fn open(&mut self) -> Box<dyn Journal> {
//!         Box::new(MemoryJournal::open(&self.0, Kind::Coordinator).expect("opens"))
//!     }
//!     fn crash(&mut self, journal: Box<dyn Journal>) {
//!         self.0.crash(Unsynced::Lost);
//!         drop(journal);
//!     }
//!     fn break_writes(&mut self) {
//!         self.0.fail_next_sync();
//!     }
//!     fn mend_writes(&mut self) {}
//! }
//!
//! handfast_journal::journal_contract!(OnMemory(MemoryDisk::new(7)));
//! # fn main() {}
//! ```
//!
//! The functions panic with what they expected, as tests do. None asserts on elapsed time.
//!
//! Absent on purpose: what only one implementation has, such as the files of a folder and their damage.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::{Journal, JournalError, LogSequence, Mutation, Reader, Table};

/// Where the journal under test keeps its records, and how its faults are brought about.
pub trait Storage {
    /// Opens the journal, or creates it the first time. Whatever was open on it before is gone.
    fn open(&mut self) -> Box<dyn Journal>;

    /// Ends the journal as a crash would, with nothing tidied up. The next [`Storage::open`] finds what
    /// the crash has left.
    fn crash(&mut self, journal: Box<dyn Journal>);

    /// Makes writes fail from some append on (the suite appends until one does).
    fn break_writes(&mut self);

    /// Undoes [`Storage::break_writes`]; called when no journal is open.
    fn mend_writes(&mut self);
}

/// Makes one test of each law. The expression makes a new, empty [`Storage`].
#[macro_export]
macro_rules! journal_contract {
    ($storage:expr) => {
        $crate::journal_contract!(
            @laws $storage;
            a_new_journal_is_empty,
            a_batch_covers_all_its_tables,
            a_scan_is_in_order_and_within_its_table,
            a_scan_stops_when_told,
            a_scan_sees_one_moment,
            a_delete_removes_its_key_only,
            the_last_mutation_of_a_key_wins,
            an_empty_batch_writes_nothing,
            the_sequence_rises_by_one,
            an_empty_value_is_not_a_missing_one,
            large_batches_come_back_whole,
            a_reader_serves_any_thread,
            the_incarnation_lasts,
            a_crash_loses_nothing_acknowledged,
            a_failed_write_poisons,
        );
    };
    (@laws $storage:expr; $($law:ident,)*) => {
        $(
            #[test]
            fn $law() {
                $crate::contract::$law(&mut $storage);
            }
        )*
    };
}

/// Nothing is in it, and the empty batch numbers it 0.
pub fn a_new_journal_is_empty(storage: &mut dyn Storage) {
    let mut journal = storage.open();
    assert_eq!(journal.append(&[]), Ok(LogSequence(0)));
    let reader = journal.reader();
    for table in Table::ALL {
        assert_eq!(reader.get(table, b"key"), Ok(None));
        assert_eq!(content(&*reader, table), BTreeMap::new(), "{table}");
    }
}

/// A batch over every table is there whole, now and after a re-open.
pub fn a_batch_covers_all_its_tables(storage: &mut dyn Storage) {
    let mut journal = storage.open();
    let batch: Vec<Mutation> =
        Table::ALL.iter().map(|table| Mutation::put(*table, "key", table.to_string())).collect();
    append(&mut *journal, &batch);
    for round in 0..2 {
        let reader = journal.reader();
        for table in Table::ALL {
            assert_eq!(
                reader.get(table, b"key"),
                Ok(Some(table.to_string().into_bytes())),
                "{table}, round {round}"
            );
            assert_eq!(content(&*reader, table).len(), 1, "{table}, round {round}");
        }
        drop(reader);
        drop(journal);
        journal = storage.open();
    }
}

/// Keys come in the order of their bytes, from the given one on, and none of another table's.
pub fn a_scan_is_in_order_and_within_its_table(storage: &mut dyn Storage) {
    let mut journal = storage.open();
    let keys: [&[u8]; 7] = [b"", b"\x00", b"\x00\x00", b"a", b"a\xff", b"b", b"\xff\xff\xff"];
    // Written backwards, over two batches, to two neighbouring tables.
    for table in [Table::Outcomes, Table::Live] {
        let batch: Vec<Mutation> =
            keys.iter().rev().map(|key| Mutation::put(table, *key, *key)).collect();
        append(&mut *journal, &batch);
    }
    let reader = journal.reader();
    for (index, from) in keys.iter().enumerate() {
        let mut seen: Vec<Vec<u8>> = Vec::new();
        let scanned = reader.scan(Table::Live, from, &mut |key, value| {
            assert_eq!(key, value);
            seen.push(key.to_vec());
            ControlFlow::Continue(())
        });
        assert_eq!(scanned, Ok(()));
        assert_eq!(seen, keys[index..], "from {from:?}");
    }
    // From a key that is not there, and from beyond the last.
    let mut seen = 0;
    let mut count = |_: &[u8], _: &[u8]| {
        seen += 1;
        ControlFlow::Continue(())
    };
    assert_eq!(reader.scan(Table::Live, b"a\x01", &mut count), Ok(()));
    assert_eq!(reader.scan(Table::Live, b"\xff\xff\xff\x00", &mut count), Ok(()));
    assert_eq!(seen, 3);
    assert_eq!(content(&*reader, Table::Meta), BTreeMap::new());
    assert_eq!(content(&*reader, Table::Requests), BTreeMap::new());
}

/// A scan visits nothing after a break.
pub fn a_scan_stops_when_told(storage: &mut dyn Storage) {
    let mut journal = storage.open();
    let batch: Vec<Mutation> = (0..10).map(|n: u8| Mutation::put(Table::Data, [n], [n])).collect();
    append(&mut *journal, &batch);
    let mut seen = Vec::new();
    let scanned = journal.reader().scan(Table::Data, &[2], &mut |key, _| {
        seen.push(key.to_vec());
        if key == [5] { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(scanned, Ok(()));
    assert_eq!(seen, [[2], [3], [4], [5]]);
}

/// What is appended during a scan is not visited by it, and is there afterwards.
pub fn a_scan_sees_one_moment(storage: &mut dyn Storage) {
    let mut journal = storage.open();
    let batch: Vec<Mutation> =
        (0..10).map(|n: u8| Mutation::put(Table::Data, [n], "before")).collect();
    append(&mut *journal, &batch);
    let reader = journal.reader();
    let mut seen = Vec::new();
    let scanned = reader.scan(Table::Data, &[], &mut |key, value| {
        if seen.is_empty() {
            append(
                &mut *journal,
                &[
                    Mutation::put(Table::Data, [3], "after"),
                    Mutation::delete(Table::Data, [4]),
                    Mutation::put(Table::Data, [99], "after"),
                ],
            );
        }
        assert_eq!(value, b"before");
        seen.push(key[0]);
        ControlFlow::Continue(())
    });
    assert_eq!(scanned, Ok(()));
    assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let after = content(&*reader, Table::Data);
    assert_eq!(after[&vec![3]], b"after");
    assert_eq!(after.get(&vec![4]), None);
    assert_eq!(after[&vec![99]], b"after");
}

/// A deleted key is gone, now and after a re-open; its neighbours and namesakes are not.
pub fn a_delete_removes_its_key_only(storage: &mut dyn Storage) {
    let mut journal = storage.open();
    append(
        &mut *journal,
        &[
            Mutation::put(Table::Live, "a", "1"),
            Mutation::put(Table::Live, "ab", "2"),
            Mutation::put(Table::Outcomes, "a", "3"),
        ],
    );
    append(
        &mut *journal,
        &[Mutation::delete(Table::Live, "a"), Mutation::delete(Table::Live, "never there")],
    );
    for round in 0..2 {
        let reader = journal.reader();
        assert_eq!(reader.get(Table::Live, b"a"), Ok(None), "round {round}");
        assert_eq!(
            content(&*reader, Table::Live),
            BTreeMap::from([(b"ab".to_vec(), b"2".to_vec())])
        );
        assert_eq!(reader.get(Table::Outcomes, b"a"), Ok(Some(b"3".to_vec())));
        drop(reader);
        drop(journal);
        journal = storage.open();
    }
}

/// Within a batch as between batches, the later mutation of a key wins.
pub fn the_last_mutation_of_a_key_wins(storage: &mut dyn Storage) {
    let mut journal = storage.open();
    append(
        &mut *journal,
        &[
            Mutation::put(Table::Live, "twice", "1"),
            Mutation::put(Table::Live, "twice", "2"),
            Mutation::put(Table::Live, "gone", "1"),
            Mutation::delete(Table::Live, "gone"),
            Mutation::delete(Table::Live, "back"),
            Mutation::put(Table::Live, "back", "1"),
            Mutation::put(Table::Live, "later", "1"),
        ],
    );
    append(&mut *journal, &[Mutation::put(Table::Live, "later", "2")]);
    for _ in 0..2 {
        let expected = [("back", "1"), ("later", "2"), ("twice", "2")];
        let expected = expected.map(|(key, value)| (key.into(), value.into()));
        assert_eq!(content(&*journal.reader(), Table::Live), BTreeMap::from(expected));
        drop(journal);
        journal = storage.open();
    }
}

/// An empty batch has the number of the batch before it.
pub fn an_empty_batch_writes_nothing(storage: &mut dyn Storage) {
    let mut journal = storage.open();
    let first = append(&mut *journal, &[Mutation::put(Table::Meta, "a", "1")]);
    assert_eq!(journal.append(&[]), Ok(first));
    assert_eq!(journal.append(&[]), Ok(first));
    drop(journal);
    let mut journal = storage.open();
    assert_eq!(journal.append(&[]), Ok(first));
}

/// Batches are numbered 1, 2, 3, …, through re-opens and crashes.
pub fn the_sequence_rises_by_one(storage: &mut dyn Storage) {
    let mut expected = 0;
    for round in 0..4 {
        let mut journal = storage.open();
        for _ in 0..5 {
            expected += 1;
            let sequence =
                append(&mut *journal, &[Mutation::put(Table::Meta, "a", expected.to_string())]);
            assert_eq!(sequence, LogSequence(expected), "round {round}");
        }
        if round % 2 == 1 {
            storage.crash(journal);
        }
    }
}

/// A key with an empty value is there.
pub fn an_empty_value_is_not_a_missing_one(storage: &mut dyn Storage) {
    let mut journal = storage.open();
    append(&mut *journal, &[Mutation::put(Table::Requests, "a", "")]);
    let reader = journal.reader();
    assert_eq!(reader.get(Table::Requests, b"a"), Ok(Some(Vec::new())));
    assert_eq!(reader.get(Table::Requests, b"b"), Ok(None));
}

/// A value of several megabytes, and a batch of thousands of values, survive a crash.
pub fn large_batches_come_back_whole(storage: &mut dyn Storage) {
    let mut journal = storage.open();
    let large: Vec<u8> = (0..5 << 20).map(|n: u32| (n % 251) as u8).collect();
    append(&mut *journal, &[Mutation::put(Table::Data, "large", large.clone())]);
    let many: Vec<Mutation> = (0..10_000_u32)
        .map(|n| Mutation::put(Table::Live, n.to_be_bytes(), n.to_le_bytes()))
        .collect();
    append(&mut *journal, &many);
    storage.crash(journal);

    let reader = storage.open().reader();
    let read = reader.get(Table::Data, b"large");
    assert!(read == Ok(Some(large)), "the large value came back different");
    let live = content(&*reader, Table::Live);
    assert_eq!(live.len(), many.len());
    for mutation in many {
        assert_eq!(live.get(&mutation.key), mutation.value.as_ref());
    }
}

/// A reader works on another thread, and when its journal is gone.
pub fn a_reader_serves_any_thread(storage: &mut dyn Storage) {
    let mut journal = storage.open();
    append(&mut *journal, &[Mutation::put(Table::Meta, "a", "1")]);
    let reader = journal.reader();
    drop(journal);
    let read = std::thread::spawn(move || reader.get(Table::Meta, b"a")).join();
    assert_eq!(read.expect("the reading thread ends"), Ok(Some(b"1".to_vec())));
}

/// The incarnation is not 0, and every open finds the same.
pub fn the_incarnation_lasts(storage: &mut dyn Storage) {
    let journal = storage.open();
    let drawn = journal.reader().incarnation();
    assert_ne!(drawn, 0);
    drop(journal);
    let mut journal = storage.open();
    assert_eq!(journal.reader().incarnation(), drawn);
    append(&mut *journal, &[Mutation::put(Table::Meta, "a", "1")]);
    storage.crash(journal);
    assert_eq!(storage.open().reader().incarnation(), drawn);
}

/// After any number of crashes the journal equals a model of what it has acknowledged.
pub fn a_crash_loses_nothing_acknowledged(storage: &mut dyn Storage) {
    const ROUNDS: u64 = 12;
    const BATCHES: u64 = 20;
    let mut random = Random(0x5eed);
    let mut model: BTreeMap<(Table, Vec<u8>), Vec<u8>> = BTreeMap::new();
    let mut journal = storage.open();
    for round in 0..ROUNDS {
        for _ in 0..random.below(BATCHES) {
            let batch: Vec<Mutation> =
                (0..=random.below(8)).map(|_| random_mutation(&mut random)).collect();
            append(&mut *journal, &batch);
            for mutation in batch {
                let place = (mutation.table, mutation.key);
                match mutation.value {
                    Some(value) => model.insert(place, value),
                    None => model.remove(&place),
                };
            }
        }
        storage.crash(journal);
        journal = storage.open();
        let reader = journal.reader();
        let mut found = BTreeMap::new();
        for table in Table::ALL {
            for (key, value) in content(&*reader, table) {
                assert_eq!(reader.get(table, &key), Ok(Some(value.clone())));
                found.insert((table, key), value);
            }
        }
        assert_eq!(found, model, "after crash {round}");
    }
}

/// After a failed append nothing more comes from the journal or its readers. The next open finds
/// everything acknowledged, and the failed batch whole or not at all.
pub fn a_failed_write_poisons(storage: &mut dyn Storage) {
    const BATCHES_MAX: u32 = 10_000;
    let ballast = vec![0x5a; 16 << 10];
    let batch = |n: u32| {
        [
            Mutation::put(Table::Live, n.to_be_bytes(), ballast.clone()),
            Mutation::put(Table::Outcomes, n.to_be_bytes(), "x"),
        ]
    };
    let mut journal = storage.open();
    append(&mut *journal, &batch(0));
    let reader = journal.reader();
    storage.break_writes();

    let mut acknowledged = 0;
    let failure = loop {
        match journal.append(&batch(acknowledged + 1)) {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < BATCHES_MAX, "no write fails");
    };
    assert!(matches!(failure, JournalError::Write { .. }), "the first failure is {failure:?}");
    let later = [Mutation::put(Table::Meta, "later", "x")];
    for attempt in [&later[..], &[]] {
        let refused = journal.append(attempt);
        assert!(
            matches!(refused, Err(JournalError::Poisoned { .. })),
            "a later append gives {refused:?}"
        );
    }
    for reader in [&reader, &journal.reader()] {
        let got = reader.get(Table::Live, &0_u32.to_be_bytes());
        assert!(matches!(got, Err(JournalError::Poisoned { .. })), "a later get gives {got:?}");
        let scanned = reader.scan(Table::Live, &[], &mut |_, _| ControlFlow::Continue(()));
        assert!(
            matches!(scanned, Err(JournalError::Poisoned { .. })),
            "a later scan gives {scanned:?}"
        );
    }

    drop(reader);
    drop(journal);
    storage.mend_writes();
    let mut journal = storage.open();
    let reader = journal.reader();
    let live = content(&*reader, Table::Live);
    let outcomes = content(&*reader, Table::Outcomes);
    assert!(
        live.keys().eq(outcomes.keys()),
        "a batch is there in part: {} and {} keys",
        live.len(),
        outcomes.len()
    );
    for n in 0..=acknowledged {
        assert!(live.contains_key(&n.to_be_bytes()[..]), "acknowledged batch {n} is lost");
    }
    assert!(live.len() as u32 <= acknowledged + 2);
    assert_eq!(reader.get(Table::Meta, b"later"), Ok(None));
    append(&mut *journal, &later);
    assert_eq!(reader.get(Table::Meta, b"later"), Ok(Some(b"x".to_vec())));
}

fn append(journal: &mut dyn Journal, batch: &[Mutation]) -> LogSequence {
    match journal.append(batch) {
        Ok(sequence) => sequence,
        Err(error) => panic!("an append failed: {error}"),
    }
}

fn content(reader: &dyn Reader, table: Table) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut content = BTreeMap::new();
    let mut last: Option<Vec<u8>> = None;
    let scanned = reader.scan(table, &[], &mut |key, value| {
        assert!(last.as_deref().is_none_or(|last| last < key), "{table} is out of order");
        last = Some(key.to_vec());
        content.insert(key.to_vec(), value.to_vec());
        ControlFlow::Continue(())
    });
    assert_eq!(scanned, Ok(()), "scan of {table}");
    content
}

fn random_mutation(random: &mut Random) -> Mutation {
    let table = Table::ALL[random.below(Table::ALL.len() as u64) as usize];
    // Few keys, so that they meet.
    let key = vec![b'k'; random.below(12) as usize];
    if random.below(3) == 0 {
        return Mutation::delete(table, key);
    }
    let value = vec![random.below(256) as u8; random.below(300) as usize];
    Mutation::put(table, key, value)
}

/// SplitMix64: the suite repeats itself exactly.
struct Random(u64);

impl Random {
    /// A number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
