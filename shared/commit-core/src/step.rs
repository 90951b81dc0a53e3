//! What a state machine returns, and the ordering law that comes with it.

use crate::id::{ParticipantName, TransactionId};

/// A moment of the driver's monotonic clock, in microseconds. Only differences mean anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// This moment and `micros` more.
    #[must_use]
    pub fn plus(self, micros: u64) -> Time {
        Time(self.0.saturating_add(micros))
    }

    /// Microseconds from this moment until `later`; 0 when it has passed.
    #[must_use]
    pub fn until(self, later: Time) -> u64 {
        later.0.saturating_sub(self.0)
    }
}

/// The time that comes with an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// For every decision that depends on time.
    pub at: Time,
    /// Milliseconds since 1970, for people only: it is stored and shown, and decides nothing.
    pub wall_ms: u64,
}

/// How far a state machine's log has come: its records are numbered from 1. 0 is always durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

impl Position {
    /// The same position in a log that is counted from `durable` on; 0 for what is durable.
    pub(crate) fn since(self, durable: Position) -> Position {
        Position(self.0.saturating_sub(durable.0))
    }
}

/// Whose timer it is. Each has at most one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimerKey {
    /// A transaction's.
    Transaction(TransactionId),
    /// A participant's.
    Participant(ParticipantName),
}

/// The consequences of one input.
#[derive(Debug)]
#[must_use = "a step that is dropped is a promise that is broken"]
pub struct Step<R, A> {
    /// For the log, in this order and after those of earlier steps.
    pub records: Vec<R>,
    /// The log's position once `records` are in it; the previous one when there are none.
    pub position: Position,
    /// True: the records are wanted on disk as soon as possible. False: they may wait for company.
    pub forced: bool,
    /// **The ordering law**: nothing in `then` may happen before the log is durable up to here. It is
    /// this step's own position when its records are what the actions speak of, an earlier one when
    /// they speak of an earlier record, and 0 when they speak of none.
    pub gate: Position,
    /// What to do then, in this order.
    pub then: Vec<A>,
    /// What to do once the log is durable up to `position`, after `then`. No caller waits for it.
    pub later: Vec<A>,
    /// Timers to set, or (`None`) to clear, at once.
    pub timers: Vec<(TimerKey, Option<Time>)>,
}

/// Collects a step while a state machine handles an input.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Steps<R, A> {
    position: Position,
    records: Vec<R>,
    forced: bool,
    gate: Position,
    then: Vec<A>,
    later: Vec<A>,
    timers: Vec<(TimerKey, Option<Time>)>,
}

impl<R, A> Steps<R, A> {
    pub(crate) fn new() -> Self {
        Self {
            position: Position(0),
            records: Vec::new(),
            forced: false,
            gate: Position(0),
            then: Vec::new(),
            later: Vec::new(),
            timers: Vec::new(),
        }
    }

    /// Adds a record that the step's actions must wait for. Returns its position.
    pub(crate) fn force(&mut self, record: R) -> Position {
        self.lazily_wait(record);
        self.forced = true;
        self.gate
    }

    /// Adds a record that the step's actions must wait for, but that is in no hurry.
    pub(crate) fn lazily_wait(&mut self, record: R) {
        self.lazily(record);
        self.gate = self.position;
    }

    /// Adds a record that is wanted on disk soon, and that nothing waits for. Returns its position.
    pub(crate) fn hurry(&mut self, record: R) -> Position {
        self.lazily(record);
        self.forced = true;
        self.position
    }

    /// Adds a record that nothing waits for.
    pub(crate) fn lazily(&mut self, record: R) {
        self.position.0 += 1;
        self.records.push(record);
    }

    /// The step speaks of a record that was written earlier, at `position`.
    pub(crate) fn speaks_of(&mut self, position: Position) {
        self.gate = self.gate.max(position);
    }

    /// For mutants: forgets what the step has to wait for.
    pub(crate) fn ungate(&mut self) -> Position {
        self.gate = Position(0);
        self.gate
    }

    /// The position of the record that was added last.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    pub(crate) fn act(&mut self, action: A) {
        self.then.push(action);
    }

    /// Does it when this step's records are durable, without making `then` wait for them.
    pub(crate) fn act_later(&mut self, action: A) {
        self.later.push(action);
    }

    pub(crate) fn timer(&mut self, key: TimerKey, at: Option<Time>) {
        self.timers.push((key, at));
    }

    /// Counts the records from `durable` on, between two steps.
    pub(crate) fn rebase(&mut self, durable: Position) {
        self.position = self.position.since(durable);
    }

    /// Takes the buffers of a step that has been carried out, for the ones to come.
    pub(crate) fn reuse(&mut self, used: Step<R, A>) {
        keep(&mut self.records, used.records);
        keep(&mut self.then, used.then);
        keep(&mut self.later, used.later);
        keep(&mut self.timers, used.timers);
    }

    /// Hands the step over and begins the next one.
    pub(crate) fn take(&mut self) -> Step<R, A> {
        let step = Step {
            records: std::mem::take(&mut self.records),
            position: self.position,
            forced: self.forced,
            gate: self.gate,
            then: std::mem::take(&mut self.then),
            later: std::mem::take(&mut self.later),
            timers: std::mem::take(&mut self.timers),
        };
        self.forced = false;
        self.gate = Position(0);
        step
    }
}

/// What a step of a usual size needs; what a step of another size has needed is given back.
const KEPT_MAX: usize = 64;

fn keep<T>(own: &mut Vec<T>, mut used: Vec<T>) {
    if own.is_empty() && own.capacity() < used.capacity() && used.capacity() <= KEPT_MAX {
        used.clear();
        *own = used;
    }
}
