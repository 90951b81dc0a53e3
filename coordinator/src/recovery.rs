//! The start of a coordinator: read the log, raise the epoch, take over what was decided.
//!
//! In this order, and before anybody is answered: the new epoch is durable before the first id of it
//! is given out, and everything that was decided is known before the first inquiry is answered. That is
//! all that presumed abort needs.

use std::path::Path;

use handfast_commit_core::id::{Epoch, Incarnation, Slot};
use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_commit_core::two_phase::coordinator::Identity;
use handfast_journal::{Journal, JournalError, Mutation, OpenError, Table};
use handfast_wire::storage;
use prost::Message;

use crate::participant_registry::ParticipantRegistry;
use crate::store::{self, Store, StoreError};

/// The coordinator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log cannot be written.
    #[error("cannot raise the epoch of slot {slot}: {source}", slot = .slot.0)]
    Epoch {
        /// Whose.
        slot: Slot,
        /// Why.
        source: JournalError,
    },
    /// The log belongs to another slot.
    #[error(
        "the log in {folder} is that of slot {found}, not of slot {wanted}: give --slot {found}, or another \
            --data folder"
    )]
    OtherSlot {
        /// The data folder.
        folder: String,
        /// In the log.
        found: u16,
        /// In the configuration.
        wanted: u16,
    },
    /// There are no epochs left.
    #[error(transparent)]
    Exhausted(#[from] handfast_commit_core::id::EpochsExhausted),
    /// What the log says of itself makes no sense.
    #[error(
        "the log in {folder} does not say which epoch it is in ({problem}): restore the folder from a copy"
    )]
    Meta {
        /// The data folder.
        folder: String,
        /// What is wrong.
        problem: String,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

const SLOT: &[u8] = b"slot";

/// A log that is open, in an epoch of its own.
#[derive(Debug)]
pub struct Recovered {
    /// Who we are.
    pub identity: Identity,
    /// For look-ups.
    pub store: Store,
    /// The participants.
    pub registry: ParticipantRegistry,
}

/// Reads the log, and raises the epoch durably.
///
/// # Errors
/// When the log cannot be read or written, or is not this coordinator's.
pub fn recover(
    journal: &mut dyn Journal,
    slot: Slot,
    folder: &Path,
) -> Result<Recovered, StartError> {
    let reader = journal.reader();
    let folder = || folder.display().to_string();
    let meta = |problem: String| StartError::Meta { folder: folder(), problem };
    let before = reader.get(Table::Meta, store::EPOCH).map_err(StoreError::from)?;
    let before = match before {
        Some(value) => {
            let value = storage::CoordinatorMeta::decode(value.as_slice())
                .map_err(|error| meta(error.to_string()))?;
            Epoch(value.epoch)
        }
        None => Epoch(0),
    };
    if let Some(found) = reader.get(Table::Meta, SLOT).map_err(StoreError::from)? {
        let found: [u8; 2] =
            found.try_into().map_err(|_| meta("its slot is damaged".to_owned()))?;
        let found = u16::from_be_bytes(found);
        if found != slot.0 {
            return Err(StartError::OtherSlot { folder: folder(), found, wanted: slot.0 });
        }
    }
    let epoch = match before {
        Epoch(1..) if mutant(Mutant::EpochNotRaised) => before,
        _ => before.next()?,
    };
    let value = storage::CoordinatorMeta { epoch: epoch.0 };
    journal
        .append(&[
            Mutation::put(Table::Meta, store::EPOCH, value.encode_to_vec()),
            Mutation::put(Table::Meta, SLOT, slot.0.to_be_bytes()),
        ])
        .map_err(|source| StartError::Epoch { slot, source })?;
    let registry = ParticipantRegistry::restore(&*reader)?;
    let incarnation = Incarnation(reader.incarnation());
    let identity = Identity { slot, epoch, incarnation };
    Ok(Recovered { identity, store: Store::new(reader), registry })
}

#[cfg(test)]
mod tests {
    use handfast_journal::{Kind, MemoryDisk, MemoryJournal, Unsynced};

    use super::*;

    fn start(disk: &MemoryDisk, slot: u16) -> Result<Identity, StartError> {
        disk.crash(Unsynced::Lost);
        let mut journal = MemoryJournal::open(disk, Kind::Coordinator)?;
        recover(&mut journal, Slot(slot), Path::new("F")).map(|recovered| recovered.identity)
    }

    #[test]
    fn every_start_has_an_epoch_of_its_own() {
        let disk = MemoryDisk::new(7);
        for epoch in 1..4 {
            let identity = start(&disk, 3).expect("a disk in memory");
            assert_eq!((identity.epoch, identity.incarnation), (Epoch(epoch), Incarnation(7)));
        }
    }

    /// An epoch that was given out and not written would be given out again.
    #[test]
    fn a_start_that_cannot_write_its_epoch_fails() {
        let disk = MemoryDisk::new(7);
        disk.set_capacity(Some(0));
        assert!(matches!(start(&disk, 3), Err(StartError::Epoch { .. })));
        disk.set_capacity(None);
        assert_eq!(start(&disk, 3).expect("space").epoch, Epoch(1));
    }

    #[test]
    fn a_log_has_one_slot_for_ever() {
        let disk = MemoryDisk::new(7);
        start(&disk, 3).expect("a disk in memory");
        let error = start(&disk, 4).expect_err("another slot").to_string();
        assert!(error.contains("slot 3, not of slot 4"), "{error}");
        start(&disk, 3).expect("its own");
    }
}
