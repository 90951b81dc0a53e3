//! What clients saw, as it is recorded: transactions, their reads and writes, their outcomes.

use std::collections::HashMap;

/// A key, known by number. See [`History::key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub(crate) u32);

/// A transaction of one history, known by number in the order of their beginnings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(crate) u32);

/// What is written: any number that was never written to the same key before.
pub type Value = u64;

/// What a client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It committed.
    Committed,
    /// It did not and never will.
    Aborted,
    /// One of the two.
    Unknown,
}

/// A point in the order of all beginnings and ends.
pub(crate) type Instant = u32;

/// A time that never comes.
pub(crate) const NEVER: Instant = Instant::MAX;

#[derive(Debug, Clone)]
pub(crate) struct Transaction {
    pub(crate) name: String,
    pub(crate) client: u32,
    pub(crate) begun: Instant,
    /// [`NEVER`] while it is open and when nobody was told its outcome.
    pub(crate) ended: Instant,
    pub(crate) outcome: Outcome,
    /// A second outcome that denies the first.
    pub(crate) contradicted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Read(Option<Value>),
    Write(Value),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) ticket: Ticket,
    pub(crate) key: Key,
    pub(crate) action: Action,
}

/// What clients saw. The order of the calls to [`begin`](Self::begin) and [`finish`](Self::finish) is taken
/// for real time; several threads record under a lock.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub(crate) keys: Vec<String>,
    numbers: HashMap<String, Key>,
    pub(crate) transactions: Vec<Transaction>,
    pub(crate) operations: Vec<Operation>,
    pub(crate) last: Vec<(Key, Option<Value>)>,
    now: Instant,
}

impl History {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The key of this name. The same name gives the same key.
    pub fn key(&mut self, name: &str) -> Key {
        if let Some(key) = self.numbers.get(name) {
            return *key;
        }
        let key = Key(number(self.keys.len()));
        self.keys.push(name.to_owned());
        self.numbers.insert(name.to_owned(), key);
        key
    }

    /// A client begins a transaction: called before its first request leaves. Names are for people.
    pub fn begin(&mut self, client: u32, name: impl Into<String>) -> Ticket {
        let ticket = Ticket(number(self.transactions.len()));
        let begun = self.tick();
        self.transactions.push(Transaction {
            name: name.into(),
            client,
            begun,
            ended: NEVER,
            outcome: Outcome::Unknown,
            contradicted: false,
        });
        ticket
    }

    /// Gives a transaction another name, for instance the one that the coordinator gave it.
    ///
    /// # Panics
    /// When the ticket is of another history.
    pub fn rename(&mut self, ticket: Ticket, name: impl Into<String>) {
        self.transactions[ticket.0 as usize].name = name.into();
    }

    /// A transaction has read a key: a value, or that there is none. In the order in which it did.
    pub fn read(&mut self, ticket: Ticket, key: Key, value: Option<Value>) {
        self.operations.push(Operation { ticket, key, action: Action::Read(value) });
    }

    /// A transaction writes a key. Recorded before the request leaves, so that a write without an answer is
    /// recorded too.
    pub fn write(&mut self, ticket: Ticket, key: Key, value: Value) {
        self.operations.push(Operation { ticket, key, action: Action::Write(value) });
    }

    /// A client was told what became of a transaction; [`Outcome::Unknown`] when it gave up asking. An unknown
    /// outcome may be learnt later, by another call. One that denies an earlier one is kept as a violation.
    ///
    /// # Panics
    /// When the ticket is of another history.
    pub fn finish(&mut self, ticket: Ticket, outcome: Outcome) {
        let now = self.tick();
        let transaction = &mut self.transactions[ticket.0 as usize];
        match (transaction.outcome, outcome) {
            (_, Outcome::Unknown) => {}
            (Outcome::Unknown, known) => {
                transaction.outcome = known;
                transaction.ended = now;
            }
            (before, again) => transaction.contradicted |= before != again,
        }
    }

    /// What a key holds after everything, when every transaction has ended.
    pub fn last(&mut self, key: Key, value: Option<Value>) {
        self.last.push((key, value));
    }

    /// How many transactions were begun.
    #[must_use]
    pub fn len(&self) -> usize {
        self.transactions.len()
    }

    /// What a transaction is called.
    ///
    /// # Panics
    /// When the ticket is of another history.
    #[must_use]
    pub fn name(&self, ticket: Ticket) -> &str {
        &self.transactions[ticket.0 as usize].name
    }

    /// True before the first transaction.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.transactions.is_empty()
    }

    fn tick(&mut self) -> Instant {
        let now = self.now;
        self.now += 1;
        now
    }

    pub(crate) fn transaction(&self, ticket: Ticket) -> &Transaction {
        &self.transactions[ticket.0 as usize]
    }
}

/// Histories are far shorter than what 32 bits count, and half the memory with them.
pub(crate) fn number(index: usize) -> u32 {
    match u32::try_from(index) {
        Ok(number) => number,
        Err(_) => unreachable!("a history of more than 2^32 entries does not fit into memory"),
    }
}
