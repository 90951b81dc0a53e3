//! Random executions: a store that does one transaction after the other, clients that are open at once, and
//! faults that are put in on purpose.

use handfast_history::{History, Key, Outcome, Ticket, Value};

/// Draws the same numbers for the same seed (splitmix64).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `bound`, not included.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

/// A fault of the store that the check has to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A write over a version that is not the latest any more.
    StaleUpdate,
    /// A read of an older version, beside the newer of another key that the same transaction wrote.
    HalfSeen,
    /// A read of a version that was overwritten before the reader began.
    StaleRead,
    /// Two transactions read two keys and each writes one of them.
    Skew,
    /// A value is seen whose writer aborts.
    Dirty,
    /// A value is seen that its writer overwrites.
    Intermediate,
    /// Two transactions see each other's writes.
    Circle,
    /// Two transactions overwrite each other's writes.
    Crossed,
    /// A value comes from nowhere.
    Garbage,
    /// A committed transaction takes effect for one of its keys only.
    HalfApplied,
    /// A committed transaction takes no effect.
    NotApplied,
    /// At the end a key holds what it held before its last write.
    RolledBack,
    /// A transaction does not see its own write.
    Forgetful,
}

/// All of them.
pub const FAULTS: &[Fault] = &[
    Fault::StaleUpdate,
    Fault::HalfSeen,
    Fault::StaleRead,
    Fault::Skew,
    Fault::Dirty,
    Fault::Intermediate,
    Fault::Circle,
    Fault::Crossed,
    Fault::Garbage,
    Fault::HalfApplied,
    Fault::NotApplied,
    Fault::RolledBack,
    Fault::Forgetful,
];

/// How much, and with how many clients and keys.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub transactions: usize,
    pub clients: usize,
    pub keys: usize,
    /// Of a hundred writes, how many are recorded without the read before.
    pub blind_percent: usize,
}

/// A store, its clients and what they see.
pub struct World {
    pub random: Random,
    pub history: History,
    size: Size,
    keys: Vec<Key>,
    /// What each key has held, oldest first.
    held: Vec<Vec<Option<Value>>>,
    /// Each client's transaction and whether it was done.
    open: Vec<Option<(Ticket, bool)>>,
    written: Value,
}

impl World {
    pub fn new(seed: u64, size: Size) -> Self {
        let mut history = History::new();
        let keys = (0..size.keys).map(|key| history.key(&format!("k{key}"))).collect();
        Self {
            random: Random(seed),
            history,
            size,
            keys,
            held: vec![vec![None]; size.keys],
            open: vec![None; size.clients],
            written: 0,
        }
    }

    /// Runs without faults; at the end every key is read.
    pub fn run(mut self) -> History {
        self.work(self.size.transactions);
        self.close();
        self.end();
        self.history
    }

    /// Runs, with one fault in the middle.
    pub fn run_with(mut self, fault: Fault) -> History {
        self.work(self.size.transactions / 2);
        self.close();
        self.inject(fault);
        self.work(self.size.transactions / 2);
        self.close();
        if fault == Fault::RolledBack {
            let key = self.random.below(self.keys.len());
            let value = self.fresh();
            self.update("fault", &[(key, value)]);
            self.held[key].pop();
        }
        self.end();
        self.history
    }

    /// Every client does what it does, in any order.
    fn work(&mut self, transactions: usize) {
        for _ in 0..3 * transactions {
            let client = self.random.below(self.open.len());
            match self.open[client] {
                None => {
                    let name = format!("t{}", self.history.len());
                    self.open[client] = Some((self.history.begin(client as u32, name), false));
                }
                Some((ticket, false)) => {
                    let outcome = self.do_all(ticket);
                    self.open[client] = match outcome {
                        // Nobody ever hears of it, or only much later.
                        Outcome::Unknown => {
                            self.history.finish(ticket, Outcome::Unknown);
                            None
                        }
                        Outcome::Aborted => {
                            self.history.finish(ticket, Outcome::Aborted);
                            None
                        }
                        Outcome::Committed => Some((ticket, true)),
                    };
                }
                Some((ticket, true)) => {
                    self.history.finish(ticket, Outcome::Committed);
                    self.open[client] = None;
                }
            }
        }
    }

    /// A transaction at once: the point at which it takes effect.
    fn do_all(&mut self, ticket: Ticket) -> Outcome {
        let outcome = match self.random.below(100) {
            0..85 => Outcome::Committed,
            85..95 => Outcome::Aborted,
            _ => Outcome::Unknown,
        };
        let applied = match outcome {
            Outcome::Committed => true,
            Outcome::Aborted => false,
            Outcome::Unknown => self.random.percent(50),
        };
        let mut used = Vec::new();
        for _ in 0..1 + self.random.below(4) {
            let key = self.random.below(self.keys.len());
            if used.contains(&key) {
                continue;
            }
            used.push(key);
            let writes = self.random.percent(50);
            if !writes || !self.random.percent(self.size.blind_percent) {
                self.history.read(ticket, self.keys[key], self.now(key));
            }
            if writes {
                let value = self.fresh();
                self.history.write(ticket, self.keys[key], value);
                if applied {
                    self.held[key].push(Some(value));
                }
            }
        }
        outcome
    }

    /// Whatever is open is done and answered.
    fn close(&mut self) {
        for client in 0..self.open.len() {
            if let Some((ticket, done)) = self.open[client].take() {
                let outcome = if done { Outcome::Committed } else { Outcome::Aborted };
                self.history.finish(ticket, outcome);
            }
        }
    }

    fn end(&mut self) {
        for (key, held) in self.keys.iter().zip(&self.held) {
            self.history.last(*key, held.last().copied().flatten());
        }
    }

    fn now(&self, key: usize) -> Option<Value> {
        self.held[key].last().copied().flatten()
    }

    fn fresh(&mut self) -> Value {
        self.written += 1;
        self.written
    }

    // ---- faults ---------------------------------------------------------------------------------

    /// A transaction that reads and writes these keys, by the rules.
    fn update(&mut self, name: &str, writes: &[(usize, Value)]) -> Ticket {
        let ticket = self.history.begin(99, name);
        for (key, value) in writes {
            self.history.read(ticket, self.keys[*key], self.now(*key));
            self.history.write(ticket, self.keys[*key], *value);
            self.held[*key].push(Some(*value));
        }
        self.history.finish(ticket, Outcome::Committed);
        ticket
    }

    fn read_update(&mut self, ticket: Ticket, key: usize, read: Option<Value>, write: Value) {
        self.history.read(ticket, self.keys[key], read);
        self.history.write(ticket, self.keys[key], write);
    }

    fn inject(&mut self, fault: Fault) {
        let a = self.random.below(self.keys.len());
        let b = (a + 1 + self.random.below(self.keys.len() - 1)) % self.keys.len();
        let (at_a, at_b) = (self.now(a), self.now(b));
        let [one, two, three, four] = std::array::from_fn(|_| self.fresh());
        match fault {
            Fault::StaleUpdate => {
                self.update("before", &[(a, one)]);
                let ticket = self.history.begin(98, "fault");
                self.read_update(ticket, a, at_a, two);
                self.history.finish(ticket, Outcome::Committed);
                self.held[a].push(Some(two));
            }
            Fault::HalfSeen => {
                let ticket = self.history.begin(98, "fault");
                self.update("before", &[(a, one), (b, two)]);
                self.history.read(ticket, self.keys[a], at_a);
                self.history.read(ticket, self.keys[b], Some(two));
                self.history.finish(ticket, Outcome::Committed);
            }
            Fault::StaleRead => {
                self.update("before", &[(a, one)]);
                let ticket = self.history.begin(98, "fault");
                self.history.read(ticket, self.keys[a], at_a);
                self.history.finish(ticket, Outcome::Committed);
            }
            Fault::Skew | Fault::Circle | Fault::Crossed => {
                let first = self.history.begin(97, "first");
                let second = self.history.begin(98, "second");
                match fault {
                    Fault::Skew => {
                        for ticket in [first, second] {
                            self.history.read(ticket, self.keys[a], at_a);
                            self.history.read(ticket, self.keys[b], at_b);
                        }
                        self.history.write(first, self.keys[a], one);
                        self.history.write(second, self.keys[b], two);
                    }
                    Fault::Circle => {
                        self.read_update(first, a, at_a, one);
                        self.read_update(second, b, at_b, two);
                        self.history.read(first, self.keys[b], Some(two));
                        self.history.read(second, self.keys[a], Some(one));
                    }
                    _ => {
                        self.read_update(first, a, at_a, one);
                        self.read_update(second, a, Some(one), three);
                        self.read_update(second, b, at_b, two);
                        self.read_update(first, b, Some(two), four);
                    }
                }
                self.history.finish(first, Outcome::Committed);
                self.history.finish(second, Outcome::Committed);
                let crossed = fault == Fault::Crossed;
                self.held[a].push(Some(if crossed { three } else { one }));
                self.held[b].push(Some(if crossed { four } else { two }));
            }
            Fault::Dirty | Fault::Intermediate => {
                let writer = self.history.begin(97, "writer");
                self.read_update(writer, a, at_a, one);
                let ticket = self.history.begin(98, "fault");
                self.history.read(ticket, self.keys[a], Some(one));
                self.history.finish(ticket, Outcome::Committed);
                if fault == Fault::Dirty {
                    self.history.finish(writer, Outcome::Aborted);
                } else {
                    self.history.write(writer, self.keys[a], two);
                    self.held[a].push(Some(two));
                    self.history.finish(writer, Outcome::Committed);
                }
            }
            Fault::Garbage => {
                let ticket = self.history.begin(98, "fault");
                self.history.read(ticket, self.keys[a], Some(one));
                self.history.finish(ticket, Outcome::Committed);
            }
            Fault::HalfApplied | Fault::NotApplied => {
                self.update("fault", &[(a, one), (b, two)]);
                self.held[b].pop();
                if fault == Fault::NotApplied {
                    self.held[a].pop();
                }
            }
            Fault::Forgetful => {
                let ticket = self.history.begin(98, "fault");
                self.read_update(ticket, a, at_a, one);
                self.history.read(ticket, self.keys[a], at_a);
                self.held[a].push(Some(one));
                self.history.finish(ticket, Outcome::Committed);
            }
            // At the end.
            Fault::RolledBack => {}
        }
    }
}
