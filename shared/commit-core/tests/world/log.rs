//! A log that forgets in a crash what was not synced, and the actions that wait for it.

use handfast_commit_core::step::Position;

/// Records are numbered from 1 over the whole life of the log; a state machine numbers those of its own
/// life, from `base`.
#[derive(Debug)]
pub struct Log<R> {
    records: Vec<R>,
    base: usize,
    durable: usize,
    /// Every record is durable at once.
    pub auto: bool,
}

impl<R> Log<R> {
    pub fn new() -> Self {
        Self { records: Vec::new(), base: 0, durable: 0, auto: true }
    }

    /// Returns the record's number.
    pub fn append(&mut self, record: R) -> usize {
        self.records.push(record);
        self.records.len()
    }

    /// The number of a state machine's position; 0 for none.
    pub fn number(&self, position: Position) -> usize {
        match usize::try_from(position.0) {
            Ok(0) | Err(_) => 0,
            Ok(position) => self.base + position,
        }
    }

    /// How far the log is durable, in a state machine's own positions.
    pub fn durable_position(&self) -> Position {
        Position(self.durable.saturating_sub(self.base) as u64)
    }

    pub fn is_durable(&self, number: usize) -> bool {
        number <= self.durable
    }

    /// How many records are durable.
    pub fn durable(&self) -> usize {
        self.durable
    }

    pub fn unsynced(&self) -> usize {
        self.records.len() - self.durable
    }

    /// Makes the next `count` records durable, or all there are. Returns how far it has come.
    pub fn sync(&mut self, count: usize) -> usize {
        self.durable = self.records.len().min(self.durable.saturating_add(count));
        self.durable
    }

    /// Returns how many records are lost.
    pub fn crash(&mut self) -> usize {
        let lost = self.unsynced();
        self.records.truncate(self.durable);
        lost
    }

    /// A new life begins. Everything in the log is older than it.
    pub fn reopen(&mut self) {
        self.base = self.records.len();
    }

    pub fn records(&self) -> &[R] {
        &self.records
    }

    /// What a reader of the log sees.
    pub fn durable_records(&self) -> &[R] {
        &self.records[..self.durable]
    }
}

/// Actions that wait for the log.
#[derive(Debug)]
pub struct Held<A> {
    pub gate: usize,
    pub action: A,
}
