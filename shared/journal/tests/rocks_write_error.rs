//! A write that the system cuts short: a limit on the size of files stands in for a full disk.
//!
//! The limit holds for a whole process, so the test runs itself again as a child under `ulimit -f`, with the
//! signal ignored that would otherwise kill it. The child appends until the system refuses in the middle of
//! a record; the parent then opens what is on the disk.

use std::path::{Path, PathBuf};
use std::process::Command;

use handfast_journal::{
    Journal, JournalError, JournalOptions, Kind, LogSequence, Mutation, RocksJournal, Table,
};

const FOLDER: &str = "HANDFAST_TEST_JOURNAL";

fn open(folder: &Path) -> RocksJournal {
    match RocksJournal::open(folder, Kind::Coordinator, JournalOptions::default()) {
        Ok(journal) => journal,
        Err(error) => panic!("the journal does not open: {error}"),
    }
}

/// The child's part: appends until the system refuses, and prints the last batch acknowledged.
fn append_until_refused(folder: &Path) {
    const BATCHES_MAX: u64 = 10_000;
    let mut journal = open(folder);
    let reader = journal.reader();
    for n in 1..=BATCHES_MAX {
        let batch = [Mutation::put(Table::Live, n.to_be_bytes(), vec![7; 5000])];
        match journal.append(&batch) {
            Ok(sequence) => assert_eq!(sequence, LogSequence(n)),
            Err(error) => {
                assert!(matches!(error, JournalError::Write { .. }), "{error:?}");
                let message = error.to_string();
                assert!(
                    message.contains(&folder.display().to_string())
                        && message.contains("start again"),
                    "{message}"
                );
                for _ in 0..2 {
                    let later = journal.append(&batch);
                    assert!(matches!(later, Err(JournalError::Poisoned { .. })), "{later:?}");
                }
                let read = reader.get(Table::Live, &n.to_be_bytes());
                assert!(matches!(read, Err(JournalError::Poisoned { .. })), "{read:?}");
                println!("acknowledged={}", n - 1);
                return;
            }
        }
    }
    panic!("the limit never came");
}

#[test]
fn a_write_cut_short_poisons_and_loses_nothing() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        append_until_refused(&PathBuf::from(folder));
        return;
    }
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = root.path().join("journal");
    let child = Command::new("sh")
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 600; exec \"$0\" --exact --nocapture a_write_cut_short_poisons_and_loses_nothing",
        ])
        .arg(std::env::current_exe().expect("this program"))
        .env(FOLDER, &folder)
        .output()
        .expect("a shell");
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{output}{}", String::from_utf8_lossy(&child.stderr));
    let acknowledged: u64 = output
        .split("acknowledged=")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("the child did not say: {output}"));
    assert!(acknowledged > 10, "only {acknowledged}");

    let mut journal = open(&folder);
    let reader = journal.reader();
    for n in 1..=acknowledged {
        let read = reader.get(Table::Live, &n.to_be_bytes());
        assert_eq!(read, Ok(Some(vec![7; 5000])), "batch {n}");
    }
    let found = journal.sequence().0;
    assert!((acknowledged..=acknowledged + 1).contains(&found), "{found} of {acknowledged}");
    let next = journal.append(&[Mutation::delete(Table::Live, 1_u64.to_be_bytes())]);
    assert_eq!(next, Ok(LogSequence(found + 1)));
}
