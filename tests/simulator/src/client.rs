//! The clients: what they want, what they ask, and what they make of the answers.

use bytes::Bytes;
use handfast_commit_core::id::{Protocol, TransactionId};
use handfast_commit_core::two_phase::coordinator::Reply;
use handfast_history::Ticket;
use handfast_wire::v1::key_value_operation::Operation;
use handfast_wire::v1::{
    KeyValueAdd, KeyValueExpect, KeyValueGet, KeyValueOperation, KeyValuePut, KeyValueWork,
};

use crate::participant::{account, register};
use crate::random::Random;
use crate::swarm::Swarm;

/// A call of a client, unique in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId {
    /// Whose.
    pub client: usize,
    /// Which.
    pub number: u64,
}

/// What a client asks the coordinator.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// Do all of this.
    Execute {
        /// The client's name for it.
        request: String,
        /// How it is committed.
        protocol: Protocol,
        /// Who does what.
        branches: Vec<(usize, KeyValueWork)>,
        /// Answer when everybody has applied it.
        applied: bool,
    },
    /// Begin an interactive transaction.
    Begin {
        /// How it will be committed.
        protocol: Protocol,
    },
    /// Commit it.
    Commit {
        /// Which.
        id: TransactionId,
        /// Answer when everybody has applied it.
        applied: bool,
    },
    /// Abort it.
    Abort {
        /// Which.
        id: TransactionId,
    },
    /// What became of it?
    Look {
        /// Which.
        id: TransactionId,
    },
}

/// What the coordinator says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// The core's answer.
    Reply(Reply),
    /// To [`Ask::Look`].
    Known(Known),
    /// Nothing was done; try again.
    NotNow,
}

/// What is known of a transaction, as the coordinator's queries tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It committed.
    Committed,
    /// It aborted, or nobody remembers it and nobody can.
    Aborted,
    /// It is undecided.
    Running,
    /// Somebody may own its outcome who has not been heard of.
    Unknown,
}

/// One key that a transaction reads and then writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    /// At which participant.
    pub participant: usize,
    /// Which register.
    pub register: u64,
    /// What is written, unique in the run; `None`: it is only read.
    pub value: Option<u64>,
    /// Says what it expects to read instead of reading.
    pub expect: Option<Option<u64>>,
}

/// What a transaction does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Money: participant, account, amount; the sum is zero.
    pub moves: Vec<(usize, u64, i64)>,
    /// Registers.
    pub registers: Vec<Write>,
    /// One step after the other.
    pub interactive: bool,
    /// Committed in three phases.
    pub three_phase: bool,
}

/// Where a client stands.
#[derive(Debug, Default)]
pub enum Stage {
    /// Between two transactions.
    #[default]
    Idle,
    /// A whole transaction has been sent.
    Executing {
        /// The client's name for it.
        request: String,
        /// Calls that were not answered and may still arrive.
        unanswered: u32,
        /// How often it was sent.
        sent: u32,
    },
    /// The beginning of an interactive transaction has been asked for.
    Beginning,
    /// Work is being done.
    Working {
        /// The transaction.
        id: TransactionId,
        /// What is left to do: participant, work, and whether its results are those of the plan.
        left: Vec<(usize, KeyValueWork, bool)>,
        /// How often the present step was tried.
        tried: u32,
    },
    /// The commit has been asked for.
    Committing {
        /// The transaction.
        id: TransactionId,
    },
    /// An abort has been asked for; whatever comes of it.
    Aborting {
        /// The transaction.
        id: TransactionId,
    },
}

/// A client.
#[derive(Debug)]
pub struct Client {
    /// What it does now.
    pub stage: Stage,
    /// The call that it waits for.
    pub waiting: Option<CallId>,
    /// The plan of the present transaction.
    pub plan: Plan,
    /// Its place in the history.
    pub ticket: Option<Ticket>,
    /// What was read so far, in the plan's order of registers.
    pub seen: Vec<Option<Option<u64>>>,
    /// Running numbers.
    pub calls: u64,
    /// The first call of the present transaction.
    pub first_call: u64,
    /// Running numbers.
    pub begun: u64,
    /// No transaction after this one.
    pub finished: bool,
}

impl Client {
    /// One that has done nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stage: Stage::Idle,
            waiting: None,
            plan: Plan::default(),
            ticket: None,
            seen: Vec::new(),
            calls: 0,
            first_call: 0,
            begun: 0,
            finished: false,
        }
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Plan {
    /// Draws what a transaction does. `value` gives numbers that were never used.
    pub fn draw(
        swarm: &Swarm,
        random: &mut Random,
        value: &mut u64,
        last_seen: impl Fn(usize, u64) -> Option<u64>,
    ) -> Self {
        let total: u64 = swarm.mix.iter().sum::<u64>().max(1);
        let mut at = random.below(total);
        let mut kind = 0;
        while kind < 3 && at >= swarm.mix[kind] {
            at -= swarm.mix[kind];
            kind += 1;
        }
        let three_phase = swarm.three_phase > random.below(100);
        let mut plan = Plan { interactive: kind == 3, three_phase, ..Plan::default() };
        let registers = |random: &mut Random, plan: &mut Plan, writes: bool, value: &mut u64| {
            for _ in 0..random.between(1, 3) {
                let participant = random.index(swarm.participants);
                let register = random.below(swarm.registers);
                let known = |w: &Write| w.participant == participant && w.register == register;
                if plan.registers.iter().any(known) {
                    continue;
                }
                let written = (writes && !random.one_in(4)).then(|| {
                    *value += 1;
                    *value
                });
                let expect = (written.is_some() && random.one_in(8))
                    .then(|| last_seen(participant, register));
                plan.registers.push(Write { participant, register, value: written, expect });
            }
        };
        match kind {
            0 => plan.transfer(swarm, random),
            1 => registers(random, &mut plan, true, value),
            2 => registers(random, &mut plan, false, value),
            _ => {
                if random.one_in(2) {
                    plan.transfer(swarm, random);
                }
                let writes = !random.one_in(5);
                registers(random, &mut plan, writes, value);
            }
        }
        plan
    }

    /// How it is committed.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        if self.three_phase { Protocol::ThreePhase } else { Protocol::TwoPhase }
    }

    /// Whether it changes anything.
    #[must_use]
    pub fn writes(&self) -> bool {
        !self.moves.is_empty() || self.registers.iter().any(|register| register.value.is_some())
    }

    fn transfer(&mut self, swarm: &Swarm, random: &mut Random) {
        let from = (random.index(swarm.participants), random.below(swarm.accounts));
        let to = (random.index(swarm.participants), random.below(swarm.accounts));
        // Now and then more than there is: a no, with the floor as its reason.
        let amount = if random.one_in(12) { 1_000_000 } else { random.between(1, 300) };
        let amount = i64::try_from(amount).unwrap_or(1);
        self.moves.push((from.0, from.1, -amount));
        self.moves.push((to.0, to.1, amount));
    }

    /// The work of each participant.
    #[must_use]
    pub fn work(&self) -> Vec<(usize, KeyValueWork)> {
        let mut work: Vec<(usize, KeyValueWork)> = Vec::new();
        let mut at = |participant: usize, operation: KeyValueOperation| match work
            .iter_mut()
            .find(|(p, _)| *p == participant)
        {
            Some((_, work)) => work.operations.push(operation),
            None => work.push((participant, KeyValueWork { operations: vec![operation] })),
        };
        for write in &self.registers {
            let key = register(write.register);
            match write.expect {
                None => at(write.participant, operation(&key, Operation::Get(KeyValueGet {}))),
                Some(value) => {
                    let value = value.map(|value| Bytes::from(value.to_string()));
                    let expect = Operation::Expect(KeyValueExpect { value });
                    at(write.participant, operation(&key, expect));
                }
            }
            if let Some(value) = write.value {
                let put = Operation::Put(KeyValuePut { value: Bytes::from(value.to_string()) });
                at(write.participant, operation(&key, put));
            }
        }
        for &(participant, index, amount) in &self.moves {
            let floor = (amount < 0).then_some(0);
            let add = Operation::Add(KeyValueAdd { amount, floor });
            at(participant, operation(&account(index), add));
        }
        work
    }

    /// The steps of an interactive transaction: the work, and now and then a look at the same place again.
    pub fn steps(&self, random: &mut Random) -> Vec<(usize, KeyValueWork, bool)> {
        let mut steps = Vec::new();
        for (participant, work) in self.work() {
            steps.push((participant, work, true));
            if random.one_in(4) {
                steps.push((participant, look(), false));
            }
        }
        if random.one_in(3)
            && let Some((participant, ..)) = steps.first().cloned()
        {
            steps.push((participant, look(), false));
        }
        steps
    }

    /// The registers of one participant in the order of its `get` and `expect` operations, with the place of
    /// each in the plan and of its result among the results.
    pub fn reads_of(&self, participant: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let mut result = 0;
        self.registers.iter().enumerate().filter_map(move |(place, write)| {
            if write.participant != participant {
                return None;
            }
            let at = result;
            result += 1 + usize::from(write.value.is_some());
            Some((place, at))
        })
    }
}

/// Work that changes nothing.
#[must_use]
pub fn look() -> KeyValueWork {
    let operations = vec![operation("nothing", Operation::Get(KeyValueGet {}))];
    KeyValueWork { operations }
}

fn operation(key: &str, operation: Operation) -> KeyValueOperation {
    KeyValueOperation { key: Bytes::copy_from_slice(key.as_bytes()), operation: Some(operation) }
}
