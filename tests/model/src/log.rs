//! A log that forgets in a crash what was not synced, and the actions that wait for it.

use std::collections::BTreeMap;

use handfast_commit_core::id::{Slot, TransactionId};
use handfast_commit_core::record::{CoordinatorRecord, ParticipantEntry, ParticipantRecord};
use handfast_commit_core::step::Position;

/// What a record is about: a later record of the same replaces it, as it does in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// How far a slot's coordinator has come.
    Slot(Slot),
    /// A transaction.
    Transaction(TransactionId),
}

/// A record, as far as the log has to know it.
pub trait Record {
    /// What it is about.
    fn key(&self) -> Key;
    /// It only says that nothing needs to be known of its key any more.
    fn deletes(&self) -> bool;
}

impl Record for CoordinatorRecord {
    fn key(&self) -> Key {
        Key::Transaction(self.id())
    }

    fn deletes(&self) -> bool {
        matches!(self, Self::WitnessForgotten { .. })
    }
}

impl Record for ParticipantEntry {
    fn key(&self) -> Key {
        match &self.record {
            ParticipantRecord::Prepared(branch) => Key::Transaction(branch.id),
            ParticipantRecord::OnePhase(commit) => Key::Transaction(commit.id),
            ParticipantRecord::Voted(branch) => Key::Transaction(branch.id),
            ParticipantRecord::Decided(branch) => Key::Transaction(branch.id),
            ParticipantRecord::Finished { id, .. } | ParticipantRecord::Forgotten { id } => {
                Key::Transaction(*id)
            }
            ParticipantRecord::SlotSeen { slot, .. } => Key::Slot(*slot),
        }
    }

    fn deletes(&self) -> bool {
        matches!(self.record, ParticipantRecord::Forgotten { .. })
    }
}

/// The log of one process. A state machine numbers the records of its own life from 1.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Log<R, A> {
    /// What the disk holds.
    pub durable: BTreeMap<Key, R>,
    /// What is on its way to the disk, oldest first.
    pub pending: Vec<R>,
    /// How many records of this life are durable.
    synced: u64,
    /// What waits, and for which record.
    held: Vec<(u64, A)>,
}

impl<R, A> Default for Log<R, A> {
    fn default() -> Self {
        Self { durable: BTreeMap::new(), pending: Vec::new(), synced: 0, held: Vec::new() }
    }
}

impl<R: Record + Clone, A: PartialEq> Log<R, A> {
    /// How far the log is durable, in the state machine's positions.
    pub fn position(&self) -> Position {
        Position(self.synced)
    }

    /// Holds an action back until the log is durable up to `gate`; returns it when it is already.
    pub fn hold(&mut self, gate: Position, action: A, once: bool) -> Option<A> {
        if gate.0 <= self.synced {
            return Some(action);
        }
        let held = (gate.0, action);
        if !(once && self.held.contains(&held)) {
            self.held.push(held);
        }
        None
    }

    /// Makes the oldest record durable. Returns it, and what had waited for it.
    pub fn sync(&mut self) -> Option<(R, Vec<A>)> {
        if self.pending.is_empty() {
            return None;
        }
        let record = self.pending.remove(0);
        self.synced += 1;
        if record.deletes() {
            self.durable.remove(&record.key());
        } else {
            self.durable.insert(record.key(), record.clone());
        }
        let (ready, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.held).into_iter().partition(|(gate, _)| *gate <= self.synced);
        self.held = waiting;
        Some((record, ready.into_iter().map(|(_, action)| action).collect()))
    }

    /// Counts the records of this life from here on. Returns from where.
    pub fn rebase(&mut self) -> Position {
        let durable = std::mem::take(&mut self.synced);
        for (gate, _) in &mut self.held {
            *gate = gate.saturating_sub(durable);
        }
        Position(durable)
    }

    /// The process dies.
    pub fn crash(&mut self) {
        self.pending.clear();
        self.held.clear();
        self.synced = 0;
    }
}
