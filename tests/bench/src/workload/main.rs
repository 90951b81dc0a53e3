//! `handfast-workload`: a fixed number of transactions through the product's own code, on one thread.
//!
//! `tests/instructions.rs` counts its instructions, which is what can be said of speed on a machine that does
//! other things meanwhile. So everything here is fixed: the transactions, their order, the batches in which
//! they go from hand to hand, the clock. A client calls a coordinator over a stream of calls, the coordinator
//! asks two participants with the key-value store over their sessions, and every frame is written to bytes and
//! read from them again. One transaction has two branches that put one value each, and a `request_id`.
//!
//! The parts are functions that are never inlined, so that the count can be split by their names.
//!
//! Absent on purpose: what a machine decides and not the code (network, disk, threads, waking), and with it the
//! transport and RocksDB. The logs are in memory, written by the production writer turned by hand. Also absent
//! is what the product does around its shards and cannot be had without a server: admission, phases, metrics.
//! It is of no use but to be counted.

mod client;
mod coordinator;
mod outbox;
mod participant;

use std::process::ExitCode;

use anyhow::{Context, ensure};
use handfast_commit_core::step::{Now, Time};
use handfast_journal::Flush;

use crate::client::Client;
use crate::coordinator::Coordinator;
use crate::participant::Participant;

/// Transactions that are begun together; all of them are over before the next batch begins.
const BATCH: usize = 64;
/// What the clock goes on by when a batch has been handed around once.
const TURN_US: u64 = 1_000;
/// More than a batch takes when nothing is wrong.
const TURNS_MAX: usize = 20;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("handfast-workload: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let transactions: usize = std::env::args()
        .nth(1)
        .and_then(|argument| argument.parse().ok())
        .context("usage: handfast-workload NUMBER-OF-TRANSACTIONS")?;
    let mut world = World::new()?;
    let mut begun = 0;
    while begun < transactions {
        let batch = BATCH.min(transactions - begun);
        world.batch(begun..begun + batch)?;
        begun += batch;
    }
    let committed = world.client.committed();
    ensure!(committed == transactions, "{committed} of {transactions} have committed");
    println!("{committed} transactions have committed");
    Ok(())
}

/// Everybody, and the time.
struct World {
    client: Client,
    coordinator: Coordinator,
    participants: Vec<Participant>,
    now: Now,
}

impl World {
    fn new() -> anyhow::Result<Self> {
        let names = ["a", "b"];
        let now = Now { at: Time(0), wall_ms: 1_700_000_000_000 };
        let mut coordinator = Coordinator::new(&names, now)?;
        let participants = names
            .iter()
            .map(|name| Participant::new(name, coordinator.origin(), now))
            .collect::<anyhow::Result<_>>()?;
        coordinator.sync(Flush::Everything)?;
        let client = Client::new(&names);
        Ok(Self { client, coordinator, participants, now })
    }

    /// From the calls to the last acknowledgement, and until nothing waits for a log.
    fn batch(&mut self, numbers: std::ops::Range<usize>) -> anyhow::Result<()> {
        let calls = self.client.write_calls(numbers);
        let inputs = self.coordinator.read_calls(calls, self.now)?;
        self.coordinator.handle(self.now, inputs);
        for _ in 0..TURNS_MAX {
            // What is lazy waits for company, or until nothing else is going on.
            if !self.turn(Flush::WhenForced)? && !self.turn(Flush::Everything)? {
                return Ok(());
            }
        }
        anyhow::bail!("a batch is not over after {TURNS_MAX} turns")
    }

    /// Hands everything on once. False: there was nothing.
    fn turn(&mut self, flush: Flush) -> anyhow::Result<bool> {
        let mut moved = self.coordinator.sync(flush)?;
        self.coordinator.handle(self.now, Vec::new());
        for (index, participant) in self.participants.iter_mut().enumerate() {
            if let Some(frame) = self.coordinator.write_frame(index) {
                let inputs = participant.read_frame(frame.as_bytes().clone())?;
                participant.handle(self.now, inputs)?;
                moved = true;
            }
            moved |= participant.sync(flush)?;
            participant.handle(self.now, Vec::new())?;
            if let Some(frame) = participant.write_frame() {
                let inputs = self.coordinator.read_frame(index, &frame)?;
                self.coordinator.handle(self.now, inputs);
                moved = true;
            }
        }
        if let Some(answers) = self.coordinator.write_answers() {
            self.client.read_answers(answers.as_bytes().clone())?;
            moved = true;
        }
        self.now.at = self.now.at.plus(TURN_US);
        self.now.wall_ms += TURN_US / 1_000;
        Ok(moved)
    }
}
