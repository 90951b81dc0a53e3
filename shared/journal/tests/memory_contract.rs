//! The contract, on the journal in memory.

use handfast_journal::contract::Storage;
use handfast_journal::{Journal, Kind, MemoryDisk, MemoryJournal, Unsynced};

struct OnMemory {
    disk: MemoryDisk,
    unsynced: Unsynced,
}

impl OnMemory {
    fn new(unsynced: Unsynced) -> Self {
        OnMemory { disk: MemoryDisk::new(7), unsynced }
    }
}

impl Storage for OnMemory {
    fn open(&mut self) -> Box<dyn Journal> {
        Box::new(MemoryJournal::open(&self.disk, Kind::Participant).expect("the journal opens"))
    }

    fn crash(&mut self, journal: Box<dyn Journal>) {
        self.disk.crash(self.unsynced);
        drop(journal);
    }

    fn break_writes(&mut self) {
        self.disk.fail_next_sync();
    }

    fn mend_writes(&mut self) {
        self.disk.crash(self.unsynced);
    }
}

mod unsynced_lost {
    use super::*;
    handfast_journal::journal_contract!(OnMemory::new(Unsynced::Lost));
}

mod unsynced_kept {
    use super::*;
    handfast_journal::journal_contract!(OnMemory::new(Unsynced::Kept));
}
