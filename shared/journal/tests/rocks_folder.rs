//! Which folders are opened as a journal, and what the others are told.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use handfast_journal::{
    Journal, JournalOptions, Kind, LogSequence, Mutation, OpenError, RocksJournal, Table,
};

fn open(folder: &Path) -> Result<RocksJournal, OpenError> {
    RocksJournal::open(folder, Kind::Coordinator, JournalOptions::default())
}

/// A folder that held a journal with one batch, closed cleanly.
fn used(root: &tempfile::TempDir) -> PathBuf {
    let folder = root.path().join("journal");
    append(&mut open(&folder).expect("the journal opens"), "a");
    folder
}

fn append(journal: &mut RocksJournal, key: &str) -> LogSequence {
    journal.append(&[Mutation::put(Table::Live, key, "value")]).expect("the append works")
}

fn root() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The message names the folder, and says something to do after it.
fn check_message(error: &OpenError, folder: &Path, advice: &str) {
    let message = error.to_string();
    assert!(message.contains(&folder.display().to_string()), "no folder in: {message}");
    assert!(message.contains(advice), "no {advice:?} in: {message}");
}

#[test]
fn a_missing_folder_is_created_with_its_parents() {
    let root = root();
    let folder = root.path().join("a/b/c");
    let journal = open(&folder).expect("the journal opens");
    assert_eq!(journal.sequence(), LogSequence(0));
    let format = fs::read_to_string(folder.join("FORMAT")).expect("a FORMAT file");
    let incarnation = journal.reader().incarnation();
    assert_eq!(format, format!("handfast coordinator\nformat 1\nincarnation {incarnation:016x}\n"));
}

#[test]
fn an_empty_folder_is_taken() {
    let root = root();
    open(root.path()).expect("the journal opens");
    open(root.path()).expect("the journal opens again");
}

#[test]
fn the_root_of_a_fresh_volume_is_taken() {
    let root = root();
    fs::create_dir(root.path().join("lost+found")).expect("a folder");
    open(root.path()).expect("the journal opens");
}

#[test]
fn a_foreign_folder_is_refused_and_left_alone() {
    let root = root();
    fs::write(root.path().join("letter.txt"), "dear").expect("a file");
    let error = open(root.path()).expect_err("foreign");
    assert!(
        matches!(&error, OpenError::Foreign { found, .. } if found == "letter.txt"),
        "{error:?}"
    );
    check_message(&error, root.path(), "name an empty or a new folder");
    let names: Vec<OsString> = fs::read_dir(root.path())
        .expect("names")
        .map(|entry| entry.expect("a name").file_name())
        .collect();
    assert_eq!(names, ["letter.txt"]);
}

#[test]
fn a_journal_that_lost_its_format_is_foreign() {
    let root = root();
    let folder = used(&root);
    fs::remove_file(folder.join("FORMAT")).expect("the file goes");
    let error = open(&folder).expect_err("foreign");
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
}

#[test]
fn another_kind_is_refused() {
    let root = root();
    let folder = used(&root);
    let error = RocksJournal::open(&folder, Kind::Participant, JournalOptions::default())
        .expect_err("the wrong kind");
    assert!(
        matches!(
            error,
            OpenError::WrongKind { found: Kind::Coordinator, wanted: Kind::Participant, .. }
        ),
        "{error:?}"
    );
    check_message(&error, &folder, "name another folder");
}

#[test]
fn a_newer_format_is_refused() {
    let root = root();
    let folder = used(&root);
    fs::write(folder.join("FORMAT"), "handfast coordinator\nformat 9\n").expect("a file");
    let error = open(&folder).expect_err("newer");
    assert!(matches!(error, OpenError::NewerFormat { found: 9, supported: 2, .. }), "{error:?}");
    check_message(&error, &folder, "start the version that wrote it");
}

#[test]
fn a_format_from_before_the_first_release_is_refused() {
    let root = root();
    let folder = root.path().to_owned();
    fs::write(folder.join("FORMAT"), "handfast participant\nformat 1\nincarnation 1\n")
        .expect("a file");
    let error = RocksJournal::open(&folder, Kind::Participant, JournalOptions::default())
        .expect_err("its branches would lose their locks");
    assert!(matches!(error, OpenError::OlderFormat { found: 1, supported: 2, .. }), "{error:?}");
    check_message(&error, &folder, "with the version that wrote it");
}

#[test]
fn a_malformed_format_is_damage() {
    let root = root();
    let folder = used(&root);
    fs::write(folder.join("FORMAT"), "handfast coord").expect("a file");
    let error = open(&folder).expect_err("malformed");
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
    check_message(&error, &folder, "FORMAT");
}

#[test]
fn a_place_where_nothing_can_be_written_is_named() {
    let root = root();
    let file = root.path().join("file");
    fs::write(&file, "x").expect("a file");
    // A file where the folder should be, a file above it, and a file system that takes no files.
    for folder in [file.clone(), file.join("below"), PathBuf::from("/proc/handfast")] {
        let error = open(&folder).expect_err("unwritable");
        assert!(matches!(error, OpenError::Unwritable { .. }), "{error:?}");
        check_message(&error, &folder, "name another folder");
    }
}

#[test]
fn a_second_opener_is_told_who_is_there() {
    let root = root();
    let folder = used(&root);
    let journal = open(&folder).expect("the journal opens");
    let reader = journal.reader();
    let error = open(&folder).expect_err("locked");
    assert!(matches!(error, OpenError::Locked { .. }), "{error:?}");
    check_message(&error, &folder, "this very process");
    // Somebody else's number, as another process would have written it.
    fs::write(folder.join("LOCK"), "4194303\n").expect("a file");
    let error = open(&folder).expect_err("locked");
    check_message(&error, &folder, "process 4194303");
    // A reader holds the folder too.
    drop(journal);
    assert!(matches!(open(&folder), Err(OpenError::Locked { .. })));
    drop(reader);
    open(&folder).expect("the journal opens");
}

#[test]
fn a_lock_left_by_a_dead_process_is_no_obstacle() {
    let root = root();
    let folder = used(&root);
    fs::write(folder.join("LOCK"), "4194303\n").expect("a file");
    open(&folder).expect("the journal opens");
}

/// Every prefix of the steps of a creation can be taken up again.
#[test]
fn a_creation_that_stopped_half_way_is_taken_up() {
    let root = root();
    let complete = root.path().join("complete");
    let incarnation = open(&complete).expect("the journal opens").reader().incarnation();

    let folder = |name: &str| {
        let folder = root.path().join(name);
        fs::create_dir(&folder).expect("a folder");
        folder
    };
    let locked = folder("locked");
    fs::write(locked.join("LOCK"), "").expect("a file");
    open(&locked).expect("the journal opens");

    let unfinished = folder("unfinished");
    fs::write(unfinished.join("LOCK"), "1\n").expect("a file");
    fs::write(unfinished.join("FORMAT.new"), "handfast coo").expect("a file");
    open(&unfinished).expect("the journal opens");

    for (name, log) in [("no log", false), ("an empty log", true)] {
        let folder = folder(name);
        fs::copy(complete.join("FORMAT"), folder.join("FORMAT")).expect("a copy");
        if log {
            fs::create_dir(folder.join("rocksdb")).expect("a folder");
            fs::write(folder.join("rocksdb/LOCK"), "").expect("a file");
        }
        let mut journal = open(&folder).expect("the journal opens");
        assert_eq!(journal.reader().incarnation(), incarnation, "{name}");
        append(&mut journal, "a");
    }

    // Before the first batch, HEAD is there and says 0.
    fs::remove_dir_all(complete.join("rocksdb")).expect("the log goes");
    open(&complete).expect("the journal opens");
}

#[test]
fn a_log_that_is_gone_is_refused() {
    let root = root();
    let folder = used(&root);
    fs::remove_dir_all(folder.join("rocksdb")).expect("the log goes");
    let error = open(&folder).expect_err("behind");
    assert!(
        matches!(error, OpenError::Behind { log: LogSequence(0), head: LogSequence(1), .. }),
        "{error:?}"
    );
    check_message(&error, &folder, "Put the latest complete folder back");
    assert!(!folder.join("rocksdb").exists());

    // A HEAD that cannot be read still says that there was a log.
    fs::write(folder.join("HEAD"), [0xff; 48]).expect("a file");
    let error = open(&folder).expect_err("damaged");
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
}

#[test]
fn a_log_that_lost_a_file_is_refused() {
    let root = root();
    let folder = used(&root);
    // The second open turns the recovered log into a table file.
    drop(open(&folder).expect("the journal opens"));
    let log = folder.join("rocksdb");
    let names: Vec<PathBuf> =
        fs::read_dir(&log).expect("names").map(|entry| entry.expect("a name").path()).collect();
    let vital: Vec<&PathBuf> = names
        .iter()
        .filter(|path| {
            let name = path.file_name().expect("a name").to_string_lossy();
            name == "CURRENT" || name.starts_with("MANIFEST") || name.ends_with(".sst")
        })
        .collect();
    assert_eq!(vital.len(), 3, "{names:?}");
    for path in vital {
        let aside = root.path().join("aside");
        fs::rename(path, &aside).expect("the file goes");
        let error = open(&folder).expect_err("damaged");
        match &error {
            OpenError::Corrupt { .. } => check_message(&error, &folder, "Nothing was changed"),
            other => panic!("without {path:?}: {other:?}"),
        }
        fs::rename(&aside, path).expect("the file comes back");
    }
    assert_eq!(open(&folder).expect("the journal opens").sequence(), LogSequence(1));
}

#[test]
fn files_of_two_journals_are_not_mixed() {
    let root = root();
    let folder = used(&root);
    let other = root.path().join("other");
    append(&mut open(&other).expect("the journal opens"), "a");
    for name in ["FORMAT", "HEAD"] {
        let own = fs::read(folder.join(name)).expect("a file");
        fs::copy(other.join(name), folder.join(name)).expect("a copy");
        let error = open(&folder).expect_err("mixed");
        assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
        check_message(&error, &folder, "files of two folders are mixed");
        fs::write(folder.join(name), own).expect("a file");
    }
    // Everything but the log is another's, whose HEAD says the same.
    let mixed = root.path().join("mixed");
    fs::create_dir(&mixed).expect("a folder");
    fs::rename(folder.join("rocksdb"), mixed.join("rocksdb")).expect("the log moves");
    for name in ["FORMAT", "HEAD"] {
        fs::copy(other.join(name), mixed.join(name)).expect("a copy");
    }
    let error = open(&mixed).expect_err("mixed");
    check_message(&error, &mixed, "files of two folders are mixed");
    fs::rename(mixed.join("rocksdb"), folder.join("rocksdb")).expect("the log moves back");
    open(&folder).expect("the journal opens");
}

#[test]
fn a_head_that_cannot_be_read_does_not_prevent_a_start() {
    let root = root();
    let folder = used(&root);
    for rubbish in [&b""[..], b"x", &[0xff; 48]] {
        fs::write(folder.join("HEAD"), rubbish).expect("a file");
        let mut journal = open(&folder).expect("the journal opens");
        append(&mut journal, "b");
    }
    fs::remove_file(folder.join("HEAD")).expect("the file goes");
    let journal = open(&folder).expect("the journal opens");
    assert_eq!(journal.sequence(), LogSequence(4));
    // And it is whole again.
    assert_eq!(fs::metadata(folder.join("HEAD")).expect("a HEAD file").len(), 48);
}
