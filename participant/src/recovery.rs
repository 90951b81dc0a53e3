//! What the log says at the start: the branches and the slots of an earlier process, and whose log it is.
//!
//! All of it is read before anything is answered. What cannot be read stops the start: a branch that is
//! not restored would be presumed never to have been prepared.

use std::ops::ControlFlow;

use handfast_commit_core::id::{ParticipantName, Slot};
use handfast_commit_core::record::ParticipantRecord;
use handfast_journal::{Journal, JournalError, Mutation, OpenError, Reader, Table};
use handfast_wire::record::{DamagedRecord, decode_participant, decode_slot};

use crate::shard::{ParticipantShard, SLOT_PREFIX};

/// Where the name of the log's owner is.
const NAME: &[u8] = b"name";

/// The participant cannot start. Each is the operator's to put right.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log cannot be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// An entry of the log makes no sense.
    #[error(
        "the log cannot be used: {0}. A branch in doubt must not be dropped: start the version that wrote it, or \
         restore the folder"
    )]
    Damaged(#[from] DamagedRecord),
    /// The log has a fact about itself that this version does not know.
    #[error(
        "the log has an entry {key:?} that this version does not know; start the version that wrote it"
    )]
    Unknown {
        /// The entry.
        key: String,
    },
    /// The log is another participant's.
    #[error(
        "the log in {folder} is that of participant {found}, not of {wanted}: a name belongs to its data; give \
         --name {found}, or another --data folder"
    )]
    OtherName {
        /// Where it is.
        folder: String,
        /// In the log.
        found: String,
        /// In the configuration.
        wanted: ParticipantName,
    },
    /// A thread cannot be started, or the system has no random numbers.
    #[error("the system does not give what a participant needs: {0}")]
    System(#[from] std::io::Error),
    /// The address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] handfast_runtime::listen::ListenError),
    /// A setting cannot be used.
    #[error("{setting}: {problem}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

/// What was found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Branches in doubt.
    pub in_doubt: usize,
    /// One-phase commits that are kept.
    pub one_phase: usize,
}

/// Writes the participant's name into a new log, and refuses one that is somebody else's.
pub fn claim(
    journal: &mut dyn Journal,
    name: &ParticipantName,
    folder: &str,
) -> Result<(), StartError> {
    let found = journal.reader().get(Table::Meta, NAME)?;
    match found {
        Some(found) if found == name.as_str().as_bytes() => Ok(()),
        Some(found) => Err(StartError::OtherName {
            folder: folder.to_owned(),
            found: String::from_utf8_lossy(&found).into_owned(),
            wanted: name.clone(),
        }),
        None => {
            journal.append(&[Mutation::put(Table::Meta, NAME, name.as_str())])?;
            Ok(())
        }
    }
}

/// Gives the shard everything that the log says.
pub fn restore(reader: &dyn Reader, shard: &mut ParticipantShard) -> Result<Found, StartError> {
    let mut found = Found::default();
    scan(reader, Table::Meta, |key, value| {
        if key != NAME {
            shard.restore(decode_slot(slot_of(key)?, value)?);
        }
        Ok(())
    })?;
    scan(reader, Table::Live, |key, value| {
        let record = decode_participant(key, value)?;
        match &record {
            ParticipantRecord::Prepared(_) | ParticipantRecord::Voted(_) => found.in_doubt += 1,
            ParticipantRecord::OnePhase(_) => found.one_phase += 1,
            ParticipantRecord::Decided(_)
            | ParticipantRecord::Finished { .. }
            | ParticipantRecord::Forgotten { .. }
            | ParticipantRecord::SlotSeen { .. } => {}
        }
        shard.restore(record);
        Ok(())
    })?;
    Ok(found)
}

fn slot_of(key: &[u8]) -> Result<Slot, StartError> {
    key.strip_prefix(SLOT_PREFIX)
        .and_then(|slot| slot.try_into().ok())
        .map(|slot| Slot(u16::from_be_bytes(slot)))
        .ok_or_else(|| StartError::Unknown { key: key.escape_ascii().to_string() })
}

fn scan(
    reader: &dyn Reader,
    table: Table,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), StartError>,
) -> Result<(), StartError> {
    let mut failure = None;
    reader.scan(table, &[], &mut |key, value| match visit(key, value) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failure.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use handfast_commit_core::id::{Epoch, Incarnation, Sequence, TransactionId};
    use handfast_commit_core::record::{
        DecidedBranch, Electorate, OnePhaseCommit, ParticipantEntry, PreparedBranch, VotedBranch,
    };
    use handfast_commit_core::three_phase::{Site, SiteNumber, Sites};
    use handfast_commit_core::two_phase::participant::Config;
    use handfast_journal::{Kind, MemoryDisk, MemoryJournal};
    use handfast_runtime::driver::Machine;

    use super::*;
    use crate::shard::STAGED;
    use crate::store::Store;

    fn name(text: &str) -> ParticipantName {
        text.parse().expect("a name")
    }

    fn journal() -> MemoryJournal {
        MemoryJournal::open(&MemoryDisk::new(7), Kind::Participant).expect("an empty disk")
    }

    fn shard() -> ParticipantShard {
        ParticipantShard::new(Incarnation(7), Config::default())
    }

    #[test]
    fn a_log_has_one_name_for_ever() {
        let mut journal = journal();
        claim(&mut journal, &name("a"), "F").expect("new");
        claim(&mut journal, &name("a"), "F").expect("the same");
        let error = claim(&mut journal, &name("b"), "F").expect_err("another").to_string();
        for part in ["log in F", "participant a", "not of b", "--name a"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn what_was_written_is_restored() {
        let mut journal = journal();
        claim(&mut journal, &name("a"), "F").expect("new");
        let id: TransactionId = "0009-02-0000000003-0000000000000001".parse().expect("an id");
        let shard_before = shard();
        let mut mutations = Vec::new();
        for record in [
            ParticipantRecord::SlotSeen {
                slot: Slot(9),
                epoch: Epoch(3),
                lowest_live: Sequence(1),
            },
            ParticipantRecord::Finished { id, committed: true },
        ] {
            let entry = ParticipantEntry { record, changes: vec![(b"k".to_vec(), Some(vec![1]))] };
            shard_before.write(entry, &mut mutations);
        }
        journal.append(&mutations).expect("a disk in memory");
        assert_eq!(journal.reader().get(Table::Data, b"k"), Ok(Some(vec![1])));
        let mut shard = shard();
        restore(&*journal.reader(), &mut shard).expect("sound");
        assert_eq!(shard.epoch(Slot(9)), Some(Epoch(3)));
        assert_eq!(shard.epoch(Slot(8)), None);
    }

    #[test]
    fn what_is_staged_goes_with_the_branch() {
        let two: TransactionId = "0009-02-0000000003-0000000000000001".parse().expect("an id");
        let three: TransactionId = "0009-03-0000000003-0000000000000002".parse().expect("an id");
        let mut journal = journal();
        let store = Store::new(journal.reader());
        let staged = || {
            let mut found = Vec::new();
            let read = store.staged(|id, staged| {
                found.push((id, staged.to_vec()));
                ControlFlow::Continue(())
            });
            read.expect("sound");
            found
        };
        let mut write = |record, keys: &[&[u8]]| {
            let changes = keys.iter().map(|key| (key.to_vec(), Some(vec![1]))).collect();
            let mut mutations = Vec::new();
            shard().write(ParticipantEntry { record, changes }, &mut mutations);
            journal.append(&mutations).expect("a disk in memory");
            mutations.len()
        };
        let sites = Sites::new(vec![(name("a"), Incarnation(1))], Vec::new());
        let electorate = Electorate {
            own: SiteNumber(1),
            sites,
            coordinator_incarnation: Incarnation(1),
            coordinator_endpoint: String::new(),
            peers: Vec::new(),
        };
        let voted = || {
            ParticipantRecord::Voted(VotedBranch {
                id: three,
                site: Site::VOTED,
                electorate: electorate.clone(),
                read_only: false,
                result: Bytes::new(),
                since_ms: 0,
            })
        };
        let prepared = ParticipantRecord::Prepared(Arc::new(PreparedBranch {
            id: two,
            coordinator_incarnation: Incarnation(1),
            coordinator_endpoint: "".into(),
            peers: Vec::new(),
            result: Bytes::new(),
            since_ms: 0,
        }));
        assert_eq!(write(prepared, &[STAGED]), 1, "one entry for both");
        assert_eq!(write(voted(), &[STAGED, b"k"]), 3);
        assert_eq!(write(voted(), &[]), 1, "a move");
        assert_eq!(staged(), [(two, vec![1]), (three, vec![1])]);
        let mut first = Vec::new();
        let read = store.staged(|id, _| {
            first.push(id);
            ControlFlow::Break(())
        });
        assert_eq!((read, first), (Ok(()), vec![two]), "no further than it was wanted");
        assert_eq!(write(ParticipantRecord::Finished { id: two, committed: true }, &[b"k"]), 2);
        let decided = DecidedBranch { id: three, committed: true, electorate: electorate.clone() };
        write(ParticipantRecord::Decided(decided), &[b"k"]);
        assert_eq!(staged(), []);
        // Done at once, so nothing has to be known of it after a restart.
        let commit =
            OnePhaseCommit { id: two, request_id: None, result: Bytes::new(), since_ms: 0 };
        assert_eq!(write(ParticipantRecord::OnePhase(commit), &[STAGED, b"k"]), 2);
        assert_eq!(staged(), []);
        journal.append(&[Mutation::put(Table::Live, "short", "")]).expect("a disk in memory");
        assert!(store.staged(|_, _| ControlFlow::Continue(())).is_err());
    }

    #[test]
    fn what_is_not_understood_stops_the_start() {
        for (table, key) in [
            (Table::Meta, b"slot\x00".as_slice()),
            (Table::Meta, b"other"),
            (Table::Live, b"short"),
        ] {
            let mut journal = journal();
            journal.append(&[Mutation::put(table, key, [0xff])]).expect("a disk in memory");
            restore(&*journal.reader(), &mut shard()).expect_err("not understood");
        }
    }
}
