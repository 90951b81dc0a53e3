//! What a damaged log does: it opens with everything acknowledged, or it is refused. It never opens
//! without something acknowledged.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use common::copy_folder;
use handfast_journal::{
    Journal, JournalError, JournalOptions, Kind, LogSequence, Mutation, OpenError, RocksJournal,
    Table,
};

const BATCHES: u64 = 20;

/// Small enough that a test can write a journal of several files.
const SMALL: JournalOptions =
    JournalOptions { memtable_bytes: 64 << 10, wal_bytes_max: 1 << 20, cache_bytes: 1 << 20 };

fn open(folder: &Path) -> Result<RocksJournal, OpenError> {
    RocksJournal::open(folder, Kind::Coordinator, JournalOptions::default())
}

fn open_small(folder: &Path) -> Result<RocksJournal, OpenError> {
    RocksJournal::open(folder, Kind::Coordinator, SMALL)
}

fn append(journal: &mut RocksJournal, n: u64, bytes: usize) {
    let batch = [
        Mutation::put(Table::Live, n.to_be_bytes(), vec![n as u8; bytes]),
        Mutation::put(Table::Outcomes, n.to_be_bytes(), "x"),
    ];
    assert_eq!(journal.append(&batch), Ok(LogSequence(n)));
}

/// A folder as a killed process leaves it after `BATCHES` acknowledged batches, all in one log file, and
/// the length of that file after each batch.
struct Image {
    root: tempfile::TempDir,
    ends: BTreeMap<u64, u64>,
}

impl Image {
    /// Of batches of about so many bytes.
    fn make(bytes: usize) -> Image {
        let root = tempfile::tempdir().expect("a temporary folder");
        let live = root.path().join("live");
        let mut journal = open(&live).expect("the journal opens");
        let mut ends = BTreeMap::new();
        for n in 1..=BATCHES {
            append(&mut journal, n, bytes);
            let length = fs::metadata(wal(&live)).expect("the log file").len();
            ends.insert(n, length);
        }
        assert_eq!(files(&live, ".log").len(), 1, "the log has more than one file");
        copy_folder(&live, &root.path().join("image"));
        drop(journal);
        Image { root, ends }
    }

    /// A fresh copy of the image.
    fn copy(&self) -> PathBuf {
        let copy = self.root.path().join("copy");
        if copy.exists() {
            fs::remove_dir_all(&copy).expect("the last copy goes");
        }
        copy_folder(&self.root.path().join("image"), &copy);
        copy
    }

    fn end(&self) -> u64 {
        self.ends[&BATCHES]
    }
}

/// The newest write-ahead log.
fn wal(folder: &Path) -> PathBuf {
    files(folder, ".log").pop().expect("a log file")
}

/// The files of the log with this ending, in the order of their numbers.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder.join("rocksdb"))
        .expect("names")
        .map(|entry| entry.expect("a name").path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    files.sort();
    files
}

fn cut(file: &Path, length: u64) {
    let file = OpenOptions::new().write(true).open(file);
    file.and_then(|file| file.set_len(length)).expect("the file is cut");
}

/// Opens the folder, which has acknowledged the batches up to `acknowledged`, and demands all of them
/// or a refusal. Returns the last batch, or `None` for a refusal.
fn all_or_refused(folder: &Path, acknowledged: u64, what: &str) -> Option<u64> {
    let before = fs::read(wal(folder)).expect("the log file");
    let journal = match open(folder) {
        Ok(journal) => journal,
        Err(OpenError::Behind { .. } | OpenError::Corrupt { .. }) => {
            assert_eq!(
                fs::read(wal(folder)).expect("the log file"),
                before,
                "{what}: a refused log was changed"
            );
            return None;
        }
        Err(other) => panic!("{what}: {other:?}"),
    };
    let reader = journal.reader();
    for n in 1..=acknowledged {
        for table in [Table::Live, Table::Outcomes] {
            match reader.get(table, &n.to_be_bytes()) {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{what}: acknowledged batch {n} is lost from {table}"),
                Err(JournalError::Corrupt { .. }) => return None,
                Err(other) => panic!("{what}: {other:?}"),
            }
        }
    }
    // A batch that was not acknowledged may be there, whole.
    let (mut live, mut outcomes) = (0, 0);
    for (table, count) in [(Table::Live, &mut live), (Table::Outcomes, &mut outcomes)] {
        let scanned = reader.scan(table, b"", &mut |_, _| {
            *count += 1;
            ControlFlow::Continue(())
        });
        assert_eq!(scanned, Ok(()), "{what}");
    }
    assert_eq!(live, outcomes, "{what}: a batch is there in part");
    assert_eq!(LogSequence(live), journal.sequence(), "{what}");
    Some(live)
}

#[test]
fn a_killed_process_leaves_everything_it_acknowledged() {
    let image = Image::make(100);
    assert_eq!(all_or_refused(&image.copy(), BATCHES, "untouched"), Some(BATCHES));
}

/// A cut anywhere takes acknowledged batches with it, since HEAD has seen the last one.
#[test]
fn a_log_cut_inside_acknowledged_batches_is_refused() {
    let image = Image::make(100);
    let mut lengths: Vec<u64> = (0..image.end()).step_by(97).collect();
    // Around the end of every record as well, where a cut leaves no torn record behind.
    for end in image.ends.values() {
        lengths.extend([end - 1, *end, end + 1]);
    }
    for length in lengths.into_iter().filter(|length| *length < image.end()) {
        let folder = image.copy();
        cut(&wal(&folder), length);
        let opened = all_or_refused(&folder, BATCHES, &format!("cut at {length}"));
        assert_eq!(opened, None, "cut at {length}");
    }
}

/// The last batch was written and never acknowledged: HEAD does not know of it, and whatever is left of
/// it, the journal opens with all the others.
#[test]
fn a_log_cut_inside_its_last_unacknowledged_batch_opens() {
    let image = Image::make(100);
    let acknowledged = BATCHES - 1;
    let head = {
        // HEAD as it was before the last batch was acknowledged.
        let folder = image.root.path().join("head");
        let mut journal = open(&folder).expect("the journal opens");
        for n in 1..=acknowledged {
            append(&mut journal, n, 100);
        }
        drop(journal);
        fs::read(folder.join("HEAD")).expect("a HEAD file")
    };
    let start = image.ends[&acknowledged];
    let lengths = (start..image.end()).step_by(9).chain([start + 1, image.end() - 1, image.end()]);
    for length in lengths {
        let folder = image.copy();
        let incarnation = &fs::read(folder.join("HEAD")).expect("a HEAD file")[8..16];
        fs::write(folder.join("HEAD"), with_incarnation(&head, incarnation)).expect("a file");
        cut(&wal(&folder), length);
        let opened = all_or_refused(&folder, acknowledged, &format!("cut at {length}"));
        let expected = if length == image.end() { BATCHES } else { acknowledged };
        assert_eq!(opened, Some(expected), "cut at {length}");
        // And it goes on from there.
        let mut journal = open(&folder).expect("the journal opens again");
        append(&mut journal, expected + 1, 10);
    }
}

/// A HEAD file's two slots (magic, checksum, incarnation, sequence) with another incarnation.
fn with_incarnation(head: &[u8], incarnation: &[u8]) -> Vec<u8> {
    let mut bytes = head.to_vec();
    for slot in bytes.chunks_mut(24) {
        slot[8..16].copy_from_slice(incarnation);
        let sum = crc32c::crc32c(&slot[8..]);
        slot[4..8].copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

/// Also a length field that points beyond the end, which RocksDB takes for a torn record.
#[test]
fn a_flipped_bit_anywhere_in_the_log_is_refused() {
    let image = Image::make(100);
    for byte in (0..image.end()).step_by(13) {
        let folder = image.copy();
        let path = wal(&folder);
        let mut bytes = fs::read(&path).expect("the log file");
        bytes[byte as usize] ^= 1 << (byte % 8);
        fs::write(&path, bytes).expect("the log file");
        let opened = all_or_refused(&folder, BATCHES, &format!("bit flipped in byte {byte}"));
        assert_eq!(opened, None, "bit flipped in byte {byte}");
    }
}

/// RocksDB reads its log in blocks of 32 KiB. Damage in one leaves the later ones readable, and the last
/// batch with them, so here HEAD finds nothing.
#[test]
fn damage_with_sound_records_after_it_is_refused() {
    const BATCH_BYTES: usize = 8000;
    let image = Image::make(BATCH_BYTES);
    let (from, to) = (image.ends[&2], image.ends[&3]);
    for (what, damage) in [("zeros", 0x00), ("ones", 0xff), ("text", b'x')] {
        for bytes in [1, 64, to - from] {
            let folder = image.copy();
            let path = wal(&folder);
            let mut log = fs::read(&path).expect("the log file");
            log[from as usize..(from + bytes) as usize].fill(damage);
            fs::write(&path, log).expect("the log file");
            let what = format!("{bytes} bytes of {what}");
            assert_eq!(all_or_refused(&folder, BATCHES, &what), None, "{what}");
        }
    }
}

/// An old copy of the log, put back under the HEAD of a later one.
#[test]
fn an_old_log_under_a_new_head_is_refused() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = root.path().join("journal");
    let mut journal = open(&folder).expect("the journal opens");
    append(&mut journal, 1, 10);
    copy_folder(&folder, &root.path().join("backup"));
    append(&mut journal, 2, 10);
    drop(journal);
    fs::remove_dir_all(folder.join("rocksdb")).expect("the log goes");
    copy_folder(&root.path().join("backup/rocksdb"), &folder.join("rocksdb"));
    let error = open(&folder).expect_err("behind");
    assert!(
        matches!(error, OpenError::Behind { log: LogSequence(1), head: LogSequence(2), .. }),
        "{error:?}"
    );
    let message = error.to_string();
    assert!(message.contains("old backup"), "{message}");
}

/// Once the log has become table files, a flipped bit there is found at the open or at the read.
#[test]
fn a_flipped_bit_in_a_table_is_never_served() {
    // Several blocks of the table, so that a scan meets the damage half way.
    const BATCH_BYTES: usize = 1000;
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = root.path().join("journal");
    let mut journal = open(&folder).expect("the journal opens");
    for n in 1..=BATCHES {
        append(&mut journal, n, BATCH_BYTES);
    }
    drop(journal);
    // The next open turns the log into a table.
    drop(open(&folder).expect("the journal opens"));
    let image = root.path().join("image");
    copy_folder(&folder, &image);
    let tables = files(&folder, ".sst");
    let [table] = &tables[..] else {
        panic!("not one table: {tables:?}");
    };
    let sound = fs::read(table).expect("the table");
    let mut found = 0;
    for byte in (0..sound.len()).step_by(229) {
        fs::remove_dir_all(&folder).expect("the last copy goes");
        copy_folder(&image, &folder);
        let mut bytes = sound.clone();
        bytes[byte] ^= 0x04;
        fs::write(table, bytes).expect("the table");
        let journal = match open(&folder) {
            Ok(journal) => journal,
            Err(OpenError::Corrupt { .. }) => {
                found += 1;
                continue;
            }
            Err(other) => panic!("byte {byte}: {other:?}"),
        };
        let reader = journal.reader();
        for n in 1..=BATCHES {
            match reader.get(Table::Live, &n.to_be_bytes()) {
                Ok(value) => {
                    assert_eq!(value, Some(vec![n as u8; BATCH_BYTES]), "byte {byte}, batch {n}")
                }
                Err(JournalError::Corrupt { .. }) => {
                    found += 1;
                    break;
                }
                Err(other) => panic!("byte {byte}, batch {n}: {other:?}"),
            }
        }
        // A scan either fails or has visited everything.
        let mut seen = 0;
        let scanned = reader.scan(Table::Live, b"", &mut |key, value| {
            seen += 1;
            assert_eq!(value, [key[7]; BATCH_BYTES], "byte {byte}");
            ControlFlow::Continue(())
        });
        assert!(
            matches!(scanned, Err(JournalError::Corrupt { .. }))
                || (scanned == Ok(()) && seen == BATCHES),
            "byte {byte}: {scanned:?} after {seen}"
        );
    }
    assert!(found > 0, "no flipped bit was found, so none was looked at");
}

/// While a memtable is flushed there are two log files. HEAD guards the end of the newer one only, so a
/// cut in the older one must be found otherwise: it would be a hole in the middle.
#[test]
fn a_cut_in_the_older_of_two_log_files_is_refused() {
    const BATCHES_MAX: u64 = 10_000;
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = root.path().join("journal");
    let mut journal = open_small(&folder).expect("the journal opens");
    // Folders where the tables would go keep the flush from succeeding, and so the older file alive.
    let obstacles: Vec<PathBuf> =
        (1..200).map(|number| folder.join(format!("rocksdb/{number:06}.sst"))).collect();
    for obstacle in &obstacles {
        fs::create_dir(obstacle).expect("a folder");
    }
    let mut acknowledged = 0;
    let batch = |n: u64| {
        let key = n.to_be_bytes();
        [Mutation::put(Table::Live, key, vec![1; 100]), Mutation::put(Table::Outcomes, key, "x")]
    };
    while acknowledged < BATCHES_MAX && journal.append(&batch(acknowledged + 1)).is_ok() {
        acknowledged += 1;
    }
    drop(journal);
    for obstacle in &obstacles {
        fs::remove_dir(obstacle).expect("the folder goes");
    }
    let logs = files(&folder, ".log");
    let lengths: Vec<u64> =
        logs.iter().map(|log| fs::metadata(log).expect("a log file").len()).collect();
    assert!(
        logs.len() >= 2 && lengths.iter().all(|length| *length > 0),
        "not two log files: {logs:?} {lengths:?}, {acknowledged} acknowledged"
    );
    let image = root.path().join("image");
    copy_folder(&folder, &image);
    let older = &logs[logs.len() - 2];
    let older_length = lengths[logs.len() - 2];
    for length in [0, 1, older_length / 2, older_length - 200, older_length - 1] {
        fs::remove_dir_all(&folder).expect("the last copy goes");
        copy_folder(&image, &folder);
        cut(older, length);
        let opened = all_or_refused(&folder, acknowledged, &format!("cut at {length}"));
        assert_eq!(opened, None, "cut at {length} of {older_length}");
    }
    fs::remove_dir_all(&folder).expect("the last copy goes");
    copy_folder(&image, &folder);
    fs::remove_file(older).expect("the older file goes");
    assert_eq!(all_or_refused(&folder, acknowledged, "removed"), None);
    fs::remove_dir_all(&folder).expect("the last copy goes");
    copy_folder(&image, &folder);
    assert!(all_or_refused(&folder, acknowledged, "untouched").is_some());
}

/// A memtable's worth and more: several log files and tables, a kill, and everything is there.
#[test]
fn a_journal_of_many_files_survives_a_kill() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = root.path().join("journal");
    let mut journal = open_small(&folder).expect("the journal opens");
    for n in 1..=200 {
        append(&mut journal, n, 4000);
    }
    let copy = root.path().join("copy");
    copy_folder(&folder, &copy);
    assert!(!files(&copy, ".sst").is_empty());
    assert_eq!(all_or_refused(&copy, 200, "a kill"), Some(200));
}
