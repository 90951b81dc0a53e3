//! The faults that a simulator injects into the journal in memory.

use handfast_journal::{
    Journal, JournalError, Kind, LogSequence, MemoryDisk, MemoryJournal, Mutation, OpenError,
    Table, Unsynced,
};

fn open(disk: &MemoryDisk) -> MemoryJournal {
    MemoryJournal::open(disk, Kind::Coordinator).expect("the journal opens")
}

fn put(key: &str) -> [Mutation; 1] {
    [Mutation::put(Table::Live, key, "value")]
}

fn knows(journal: &MemoryJournal, key: &str) -> bool {
    let value = journal.reader().get(Table::Live, key.as_bytes());
    value.expect("the journal reads").is_some()
}

/// A batch whose sync failed, then a crash; returns whether the batch survived.
fn survives(unsynced: Unsynced) -> bool {
    let disk = MemoryDisk::new(7);
    let mut journal = open(&disk);
    journal.append(&put("a")).expect("the append works");
    disk.fail_next_sync();
    journal.append(&put("b")).expect_err("the sync fails");
    disk.crash(unsynced);
    let journal = open(&disk);
    assert!(knows(&journal, "a"));
    knows(&journal, "b")
}

#[test]
fn a_crash_decides_what_becomes_of_the_unsynced_batch() {
    assert!(!survives(Unsynced::Lost));
    assert!(survives(Unsynced::Kept));
    let kept = (0..100).filter(|seed| survives(Unsynced::Drawn(*seed))).count();
    assert!((20..=80).contains(&kept), "{kept} of 100 seeds keep it");
    assert_eq!(survives(Unsynced::Drawn(42)), survives(Unsynced::Drawn(42)));
}

#[test]
fn a_process_that_dies_leaves_what_it_wrote() {
    let disk = MemoryDisk::new(7);
    let mut journal = open(&disk);
    disk.fail_next_sync();
    journal.append(&put("a")).expect_err("the sync fails");
    drop(journal);
    assert!(knows(&open(&disk), "a"));
}

#[test]
fn a_crash_ends_the_journal_and_its_readers() {
    let disk = MemoryDisk::new(7);
    let mut old = open(&disk);
    let reader = old.reader();
    disk.crash(Unsynced::Lost);
    let _new = open(&disk);
    assert!(matches!(old.append(&put("a")), Err(JournalError::Poisoned { .. })));
    assert!(matches!(reader.get(Table::Live, b"a"), Err(JournalError::Poisoned { .. })));
}

#[test]
fn a_full_disk_takes_nothing_and_poisons() {
    let disk = MemoryDisk::new(7);
    let mut journal = open(&disk);
    journal.append(&put("a")).expect("the append works");
    disk.set_capacity(Some(disk.used_bytes() + 5));
    let full = journal.append(&put("b"));
    assert!(matches!(full, Err(JournalError::Write { .. })), "{full:?}");
    disk.set_capacity(None);
    let later = journal.append(&put("b"));
    assert!(matches!(later, Err(JournalError::Poisoned { .. })), "{later:?}");
    drop(journal);
    let mut journal = open(&disk);
    assert!(knows(&journal, "a") && !knows(&journal, "b"));
    assert_eq!(journal.append(&put("b")), Ok(LogSequence(2)));
}

#[test]
fn the_bytes_used_follow_the_content() {
    let disk = MemoryDisk::new(7);
    let mut journal = open(&disk);
    let used = |journal: &mut MemoryJournal, batch: &[Mutation]| {
        journal.append(batch).expect("the append works");
        disk.used_bytes()
    };
    assert_eq!(used(&mut journal, &put("a")), 6);
    assert_eq!(used(&mut journal, &put("a")), 6);
    assert_eq!(used(&mut journal, &[Mutation::put(Table::Live, "a", "")]), 1);
    assert_eq!(used(&mut journal, &[Mutation::delete(Table::Live, "a")]), 0);
}

#[test]
fn a_disk_has_one_journal() {
    let disk = MemoryDisk::new(7);
    let journal = open(&disk);
    let reader = journal.reader();
    for _ in 0..2 {
        let second = MemoryJournal::open(&disk.clone(), Kind::Coordinator);
        assert!(matches!(second, Err(OpenError::Locked { .. })), "{second:?}");
    }
    drop(journal);
    let second = MemoryJournal::open(&disk, Kind::Coordinator);
    assert!(matches!(second, Err(OpenError::Locked { .. })), "{second:?}");
    drop(reader);
    open(&disk);
}

#[test]
fn a_disk_keeps_its_kind() {
    let disk = MemoryDisk::new(7);
    drop(open(&disk));
    let other = MemoryJournal::open(&disk, Kind::Participant);
    assert!(matches!(other, Err(OpenError::WrongKind { .. })), "{other:?}");
}

#[test]
fn an_old_log_under_a_new_head_is_refused() {
    let disk = MemoryDisk::new(7);
    let mut journal = open(&disk);
    journal.append(&put("a")).expect("the append works");
    let backup = disk.backup();
    journal.append(&put("b")).expect("the append works");
    disk.restore_log(&backup);
    let opened = MemoryJournal::open(&disk, Kind::Coordinator);
    assert!(
        matches!(opened, Err(OpenError::Behind { log: LogSequence(1), head: LogSequence(2), .. })),
        "{opened:?}"
    );
    // The complete old folder cannot be told from one that never saw more.
    assert!(!knows(&open(&backup), "b"));
}

#[test]
fn a_new_disk_is_a_new_incarnation() {
    let disk = MemoryDisk::new(7);
    open(&disk).append(&put("a")).expect("the append works");
    disk.replace(8);
    let journal = open(&disk);
    assert_eq!(journal.reader().incarnation(), 8);
    assert!(!knows(&journal, "a"));
    assert_eq!(MemoryDisk::new(0).used_bytes(), 0);
    assert_eq!(open(&MemoryDisk::new(0)).reader().incarnation(), 1);
}

#[test]
fn damage_is_reported_until_it_is_overwritten() {
    let disk = MemoryDisk::new(7);
    let mut journal = open(&disk);
    journal.append(&put("a")).expect("the append works");
    assert!(disk.damage(Table::Live, b"a"));
    assert!(!disk.damage(Table::Live, b"b"));
    let reader = journal.reader();
    assert!(matches!(
        reader.get(Table::Live, b"a"),
        Err(JournalError::Corrupt { table: Table::Live, ref key, .. }) if key == "61"
    ));
    let scanned = reader.scan(Table::Live, b"", &mut |_, _| std::ops::ControlFlow::Continue(()));
    assert!(matches!(scanned, Err(JournalError::Corrupt { .. })));
    journal.append(&put("a")).expect("the append works");
    assert!(knows(&journal, "a"));
}
