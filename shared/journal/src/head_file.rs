//! The HEAD file: the last batch that this folder has acknowledged.
//!
//! RocksDB takes a log that ends early for one whose last write was never acknowledged. HEAD is what tells
//! the two apart: a log that ends before it has lost acknowledged records.
//!
//! Laws:
//! - **HEAD may lag behind the log and never leads it**: it is written after the sync, and is not itself
//!   synced on the path. Losing its last update loses a little of the check and none of the records.
//! - **HEAD alone never prevents a start**: torn or unreadable, it is taken for absent, with a warning.
//!
//! Two slots, written in turn, in place: a torn write leaves the other one, which lags by one batch.
//! A slot is a magic (4 bytes), CRC-32C of the rest (4), incarnation (8), sequence (8), little-endian.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::LogSequence;

/// The file's name.
pub(crate) const FILE_NAME: &str = "HEAD";

const MAGIC: [u8; 4] = *b"HFH1";
const SLOT_BYTES: usize = 24;
const FILE_BYTES: usize = 2 * SLOT_BYTES;

/// What a HEAD file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadState {
    /// There is no file, or it is empty: nothing was ever acknowledged, or the file is lost.
    Absent,
    /// There is a file, and no slot of it can be read.
    Unreadable,
    /// The last acknowledged batch that is known of.
    At(LogSequence),
    /// The file belongs to another life of the log; the other incarnation.
    Other(u64),
}

/// An open HEAD file.
#[derive(Debug)]
pub(crate) struct HeadFile {
    file: File,
    incarnation: u64,
}

impl HeadFile {
    /// What the HEAD file of `folder` says to the log of this incarnation.
    pub(crate) fn read(folder: &Path, incarnation: u64) -> io::Result<HeadState> {
        let mut file = match File::open(folder.join(FILE_NAME)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HeadState::Absent),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::with_capacity(FILE_BYTES);
        file.by_ref().take(FILE_BYTES as u64).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            return Ok(HeadState::Absent);
        }
        let slots: Vec<(u64, LogSequence)> =
            bytes.chunks(SLOT_BYTES).filter_map(decode_slot).collect();
        Ok(match slots.iter().filter(|slot| slot.0 == incarnation).map(|slot| slot.1).max() {
            Some(sequence) => HeadState::At(sequence),
            None => match slots.first() {
                Some(other) => HeadState::Other(other.0),
                None => HeadState::Unreadable,
            },
        })
    }

    /// Opens or creates the file and makes both slots say `sequence`, durably.
    pub(crate) fn start(
        folder: &Path,
        incarnation: u64,
        sequence: LogSequence,
    ) -> io::Result<HeadFile> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(folder.join(FILE_NAME))?;
        let head = HeadFile { file, incarnation };
        let slot = encode_slot(incarnation, sequence);
        head.file.write_all_at(&slot, 0)?;
        head.file.write_all_at(&slot, SLOT_BYTES as u64)?;
        head.file.set_len(FILE_BYTES as u64)?;
        head.file.sync_all()?;
        Ok(head)
    }

    /// Notes that `sequence` is acknowledged. Not synced.
    pub(crate) fn write(&self, sequence: LogSequence) -> io::Result<()> {
        let offset = if sequence.0.is_multiple_of(2) { 0 } else { SLOT_BYTES };
        self.file.write_all_at(&encode_slot(self.incarnation, sequence), offset as u64)
    }

    /// Makes the last note durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn encode_slot(incarnation: u64, sequence: LogSequence) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..4].copy_from_slice(&MAGIC);
    slot[8..16].copy_from_slice(&incarnation.to_le_bytes());
    slot[16..].copy_from_slice(&sequence.0.to_le_bytes());
    let sum = crc32c::crc32c(&slot[8..]);
    slot[4..8].copy_from_slice(&sum.to_le_bytes());
    slot
}

fn decode_slot(slot: &[u8]) -> Option<(u64, LogSequence)> {
    let (magic, rest) = slot.split_first_chunk::<4>()?;
    let (sum, body) = rest.split_first_chunk::<4>()?;
    let (incarnation, rest) = body.split_first_chunk::<8>()?;
    let sequence: &[u8; 8] = rest.try_into().ok()?;
    if *magic != MAGIC || u32::from_le_bytes(*sum) != crc32c::crc32c(body) {
        return None;
    }
    Some((u64::from_le_bytes(*incarnation), LogSequence(u64::from_le_bytes(*sequence))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn read(folder: &Path) -> HeadState {
        HeadFile::read(folder, 5).unwrap()
    }

    #[test]
    fn the_last_note_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()), HeadState::Absent);
        let head = HeadFile::start(folder.path(), 5, LogSequence(0)).unwrap();
        assert_eq!(read(folder.path()), HeadState::At(LogSequence(0)));
        for sequence in 1..=5 {
            head.write(LogSequence(sequence)).unwrap();
            assert_eq!(read(folder.path()), HeadState::At(LogSequence(sequence)));
        }
    }

    #[test]
    fn a_torn_note_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let head = HeadFile::start(folder.path(), 5, LogSequence(6)).unwrap();
        head.write(LogSequence(7)).unwrap();
        let path = folder.path().join(FILE_NAME);
        for byte in SLOT_BYTES..FILE_BYTES {
            let mut bytes = fs::read(&path).unwrap();
            bytes[byte] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            assert_eq!(read(folder.path()), HeadState::At(LogSequence(6)));
            bytes[byte] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            assert_eq!(read(folder.path()), HeadState::At(LogSequence(7)));
        }
    }

    #[test]
    fn rubbish_is_unreadable_and_emptiness_is_absence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        fs::write(&path, b"").unwrap();
        assert_eq!(read(folder.path()), HeadState::Absent);
        for rubbish in [&b"x"[..], &[0; FILE_BYTES], &[0xff; 1000]] {
            fs::write(&path, rubbish).unwrap();
            assert_eq!(read(folder.path()), HeadState::Unreadable);
        }
    }

    #[test]
    fn another_life_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        HeadFile::start(folder.path(), 6, LogSequence(9)).unwrap();
        assert_eq!(read(folder.path()), HeadState::Other(6));
    }
}
