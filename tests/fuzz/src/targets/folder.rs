//! The files of a journal's folder beside its log: FORMAT, HEAD and LOCK with any content.
//!
//! An input is a byte that says which files are there and whether a log is, a byte with the length of the
//! FORMAT file, that file, a byte with the length of the HEAD file, that file, and the LOCK file.

use std::fs;
use std::path::Path;

use handfast_journal::{JournalOptions, Kind, OpenError, RocksJournal};

use crate::Example;
use crate::random::Random;
use crate::scratch;

const FORMAT: &str = "handfast coordinator\nformat 1\nincarnation 9f86d081884c7d65\n";
const INCARNATION: u64 = 0x9f86_d081_884c_7d65;

pub(crate) fn run(input: &[u8]) {
    let Some((there, rest)) = input.split_first() else { return };
    let (format, rest) = part(rest);
    let (head, lock) = part(rest);
    let folder = scratch::folder().join("journal");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).expect("a folder of our own");
    for (bit, name, content) in [(1, "FORMAT", format), (2, "HEAD", head), (4, "LOCK", lock)] {
        if there & bit != 0 {
            write(&folder.join(name), content);
        }
    }
    if there & 8 != 0 {
        // A log of which nothing else is left.
        fs::create_dir(folder.join("rocksdb")).expect("a folder of our own");
        write(&folder.join("rocksdb/000004.log"), b"");
    }
    // The wrong kind is refused when the files have been understood and before RocksDB is opened, which
    // takes a thousand times as long.
    let sound = RocksJournal::open(&folder, Kind::Participant, JournalOptions::default());
    let refused_as_wrong = matches!(sound, Err(OpenError::WrongKind { .. }));
    let error = match sound {
        Ok(journal) => return assert_eq!(journal.sequence().0, 0, "there is no log"),
        Err(error) => error,
    };
    assert!(!error.to_string().is_empty());
    unchanged(&folder, there & 1 != 0, "FORMAT", format);
    unchanged(&folder, there & 2 != 0, "HEAD", head);
    if refused_as_wrong && (there & 2 != 0 && head.len() >= 24 || there & 8 != 0) {
        match RocksJournal::open(&folder, Kind::Coordinator, JournalOptions::default()) {
            Ok(journal) => assert_eq!(journal.sequence().0, 0, "there is no log"),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                unchanged(&folder, true, "FORMAT", format);
                unchanged(&folder, there & 2 != 0, "HEAD", head);
            }
        }
    }
}

fn write(path: &Path, content: &[u8]) {
    fs::write(path, content).expect("a file in a folder of our own");
}

/// A folder that is refused is left as it was found.
fn unchanged(folder: &Path, was_there: bool, name: &str, content: &[u8]) {
    let found = fs::read(folder.join(name)).ok();
    assert_eq!(
        found.as_deref(),
        was_there.then_some(content),
        "{name} of a folder that was refused"
    );
}

fn part(input: &[u8]) -> (&[u8], &[u8]) {
    match input.split_first() {
        Some((length, rest)) => rest.split_at(usize::from(*length).min(rest.len())),
        None => (&[], &[]),
    }
}

pub(crate) fn generate(random: &mut Random) -> Vec<u8> {
    let kind = *random.pick(&["coordinator", "coordinator", "participant", "other"]);
    let version = if random.one_in(4) { random.number() } else { 1 };
    let incarnation = if random.one_in(4) { random.number() } else { INCARNATION };
    let format = match random.below(2) {
        0 => FORMAT.to_owned(),
        _ => format!("handfast {kind}\nformat {version}\nincarnation {incarnation:016x}\n"),
    };
    let head = [head_slot(random), head_slot(random)].concat();
    input(*random.pick(&[1, 3, 3, 3, 7, 11, 15, 0, 2]), format.as_bytes(), &head, b"1\n")
}

/// A slot of the HEAD file, now and then of another life of the log.
fn head_slot(random: &mut Random) -> Vec<u8> {
    let incarnation = if random.one_in(4) { random.number() } else { INCARNATION };
    let body = [incarnation.to_le_bytes(), (random.number() | 1).to_le_bytes()].concat();
    let sum = crc32c::crc32c(&body).to_le_bytes();
    [&b"HFH1"[..], &sum, &body].concat()
}

fn input(there: u8, format: &[u8], head: &[u8], lock: &[u8]) -> Vec<u8> {
    let length = |part: &[u8]| vec![u8::try_from(part.len()).unwrap_or(u8::MAX)];
    [vec![there], length(format), format.to_vec(), length(head), head.to_vec(), lock.to_vec()]
        .concat()
}

pub(crate) fn examples(random: &mut Random) -> Vec<Example> {
    let head = [head_slot(random), head_slot(random)].concat();
    let examples = [
        ("behind", input(3, FORMAT.as_bytes(), &head, b"")),
        ("torn-head", input(3, FORMAT.as_bytes(), &head[..30], b"")),
        ("log-without-current", input(9, FORMAT.as_bytes(), b"", b"")),
        ("newer", input(1, b"handfast witness\nformat 2\n", b"", b"")),
        ("locked-by", input(7, FORMAT.as_bytes(), &head, b"4294967296\n")),
    ];
    examples.map(|(name, input)| Example { name: name.to_owned(), input }).into()
}
