//! Many seeds: worlds on several threads, progress, and totals.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use handfast_commit_core::marks::{Mark, Reach};

use crate::faults::{Fault, Faults};
use crate::oracle::Violation;
use crate::swarm::Swarm;
use crate::trace::Recorder;
use crate::world::{Summary, World};

/// How much to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// So many seeds.
    Seeds(u64),
    /// Until so much time has passed.
    Time(Duration),
}

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The first seed.
    pub from: u64,
    /// How many.
    pub budget: Budget,
    /// On how many threads.
    pub threads: usize,
    /// Transactions of each world.
    pub transactions: u32,
    /// How often to say how far it is; `None`: never.
    pub progress: Option<Duration>,
}

/// What came of many runs.
#[derive(Debug, Clone)]
pub struct Totals {
    /// Worlds.
    pub runs: u64,
    /// Transactions that clients began.
    pub transactions: u64,
    /// Told committed and told aborted.
    pub told: (u64, u64),
    /// Events.
    pub events: u64,
    /// What was injected.
    pub faults: Faults,
    /// How often each rule was followed, by mark.
    pub marks: Vec<u64>,
    /// What was violated, by seed.
    pub violations: Vec<(u64, Violation)>,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            runs: 0,
            transactions: 0,
            told: (0, 0),
            events: 0,
            faults: Faults::default(),
            marks: vec![0; Mark::COUNT],
            violations: Vec::new(),
        }
    }
}

/// The rules that a correct system follows now and then: those that the simulation must reach.
pub fn ordinary_marks() -> impl Iterator<Item = Mark> {
    Mark::ALL.iter().copied().filter(|mark| mark.reach() == Reach::Ordinary)
}

impl Totals {
    fn add(&mut self, seed: u64, result: Result<Summary, Violation>) {
        self.runs += 1;
        match result {
            Ok(summary) => {
                self.transactions += summary.transactions;
                self.told.0 += summary.told.0;
                self.told.1 += summary.told.1;
                self.events += summary.events;
                self.faults.merge(&summary.faults);
                for (sum, more) in self.marks.iter_mut().zip(summary.marks) {
                    *sum += more;
                }
            }
            Err(violation) => self.violations.push((seed, violation)),
        }
    }

    /// The ordinary marks that were not reached.
    #[must_use]
    pub fn missing(&self) -> Vec<Mark> {
        ordinary_marks().filter(|mark| self.marks[*mark as usize] == 0).collect()
    }

    /// The last line: transactions, faults, violations, marks.
    #[must_use]
    pub fn line(&self) -> String {
        let all = ordinary_marks().count();
        format!(
            "{} transactions, {} faults, {} violations, {} of {all} marks",
            self.transactions,
            self.faults.total(),
            self.violations.len(),
            all - self.missing().len(),
        )
    }

    /// The faults by kind, and the rules that were not followed.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{} worlds, {} events; clients were told {} times committed, {} times aborted",
            self.runs, self.events, self.told.0, self.told.1
        );
        for fault in Fault::ALL {
            let _ = writeln!(text, "{:>12}  {}", self.faults.of(*fault), fault.what());
        }
        for mark in self.missing() {
            let _ = writeln!(text, "not reached: {}: {}", mark.name(), mark.rule());
        }
        text
    }
}

/// Runs one world.
///
/// # Errors
/// What it violated.
pub fn run_seed(seed: u64, transactions: u32) -> Result<Summary, Violation> {
    let violated = |what| Violation { id: None, what };
    World::new(Swarm::draw(seed, transactions), Recorder::off()).map_err(violated)?.run()
}

/// Runs many worlds, each wholly on one thread. Stops early when something is violated. The totals of a
/// number of seeds do not depend on the number of threads.
#[must_use]
pub fn run(plan: Plan) -> Totals {
    let next = AtomicU64::new(plan.from);
    let stop = AtomicBool::new(false);
    let totals = Mutex::new(Totals::default());
    let began = Instant::now();
    let spoke = Mutex::new(began);
    std::thread::scope(|scope| {
        for _ in 0..plan.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let over = match plan.budget {
                        Budget::Seeds(seeds) => seed - plan.from >= seeds,
                        Budget::Time(time) => began.elapsed() >= time,
                    };
                    if over || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let result = run_seed(seed, plan.transactions);
                    let violated = result.is_err();
                    let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
                    totals.add(seed, result);
                    if violated {
                        // The others end their worlds, and begin no more.
                        stop.store(true, Ordering::Relaxed);
                    }
                    if let Some(every) = plan.progress {
                        let mut spoke = spoke.lock().unwrap_or_else(PoisonError::into_inner);
                        if spoke.elapsed() >= every {
                            *spoke = Instant::now();
                            let rate = totals.transactions as f64 / began.elapsed().as_secs_f64();
                            eprintln!(
                                "{:>5.0} s  {} worlds, {} ({rate:.0} transactions/s)",
                                began.elapsed().as_secs_f64(),
                                totals.runs,
                                totals.line()
                            );
                        }
                    }
                }
            });
        }
    });
    totals.into_inner().unwrap_or_else(PoisonError::into_inner)
}
