//! `handfast-simulate`: runs simulated worlds, or one of them for people to look at.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use handfast_commit_core::id::TransactionId;
use handfast_simulator::diagram::{View, render};
use handfast_simulator::report::{self, Budget, Plan, Totals};
use handfast_simulator::swarm::Swarm;
use handfast_simulator::trace::Recorder;
use handfast_simulator::world::World;

/// Runs the production code in simulated worlds: networks, disks, clocks and crashes that a seed decides.
#[derive(Debug, Parser)]
#[command(name = "handfast-simulate", version)]
struct Options {
    /// Run for so long.
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "seed"])]
    seconds: Option<u64>,
    /// Run so many seeds.
    #[arg(long, value_name = "N", conflicts_with = "seed")]
    seeds: Option<u64>,
    /// Run this seed only.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The first seed of many.
    #[arg(long, value_name = "N", default_value_t = 1)]
    from_seed: u64,
    /// Worlds at a time; one for each processor unless given.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Transactions of each world.
    #[arg(long, value_name = "N", default_value_t = 300)]
    transactions: u32,
    /// With --seed: draw what happened into this SVG file.
    #[arg(long, value_name = "FILE", requires = "seed")]
    trace: Option<PathBuf>,
    /// With --trace: only what concerns this transaction.
    #[arg(long, value_name = "ID", requires = "trace")]
    transaction: Option<TransactionId>,
    /// With --trace: nothing before, in milliseconds of simulated time.
    #[arg(long, value_name = "MS", requires = "trace")]
    from: Option<u64>,
    /// With --trace: nothing after, in milliseconds of simulated time.
    #[arg(long, value_name = "MS", requires = "trace")]
    to: Option<u64>,
    /// With --seed: print what happened, a line for each event.
    #[arg(long, requires = "seed")]
    log: bool,
    /// Fail when a rule of the protocol was not reached. Runs of a minute or more always do.
    #[arg(long)]
    require_marks: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match options.seed {
        Some(seed) => one(&options, seed),
        None => many(&options),
    }
}

fn many(options: &Options) -> ExitCode {
    let budget = match (options.seconds, options.seeds) {
        (Some(seconds), _) => Budget::Time(Duration::from_secs(seconds)),
        (None, Some(seeds)) => Budget::Seeds(seeds),
        (None, None) => Budget::Time(Duration::from_secs(60)),
    };
    let threads = options
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let totals = report::run(Plan {
        from: options.from_seed,
        budget,
        threads,
        transactions: options.transactions,
        progress: Some(Duration::from_secs(5)),
    });
    print!("{}", totals.table());
    let long = matches!(budget, Budget::Time(time) if time >= Duration::from_secs(60));
    let unreached = !totals.missing().is_empty() && (options.require_marks || long);
    let failed = tell_violations(options, &totals);
    println!("{}", totals.line());
    if failed || unreached { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn tell_violations(options: &Options, totals: &Totals) -> bool {
    for (seed, violation) in &totals.violations {
        println!("seed {seed}: VIOLATION: {violation}");
        if let Ok(mut world) = world(*seed, options.transactions)
            && world.run().is_err()
            && let (Some(id), Some(trace)) = (violation.id, world.recorder().trace())
        {
            println!("{}", trace.story(id, 60));
        }
        let transactions = match options.transactions {
            300 => String::new(),
            transactions => format!(" --transactions {transactions}"),
        };
        println!("replay: handfast-simulate --seed {seed}{transactions} --trace trace.svg --log");
    }
    !totals.violations.is_empty()
}

fn world(seed: u64, transactions: u32) -> Result<World, String> {
    World::new(Swarm::draw(seed, transactions), Recorder::on())
}

fn one(options: &Options, seed: u64) -> ExitCode {
    let mut world = match world(seed, options.transactions) {
        Ok(world) => world,
        Err(why) => {
            eprintln!("handfast-simulate: no world can be made: {why}");
            return ExitCode::FAILURE;
        }
    };
    let result = world.run();
    let Some(trace) = world.into_recorder().into_trace() else { return ExitCode::FAILURE };
    if options.log {
        print!("{}", trace.log());
    }
    if let Some(file) = &options.trace {
        let view = View {
            title: format!("seed {seed}"),
            transaction: options.transaction,
            from: options.from.map(|ms| ms * 1000),
            to: options.to.map(|ms| ms * 1000),
            ..View::default()
        };
        if let Err(error) = std::fs::write(file, render(&trace, &view)) {
            eprintln!("handfast-simulate: cannot write {}: {error}", file.display());
            return ExitCode::FAILURE;
        }
    }
    match result {
        Ok(summary) => {
            println!(
                "seed {seed}: {} transactions, {} faults, {} events, no violation",
                summary.transactions,
                summary.faults.total(),
                summary.events
            );
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("seed {seed}: VIOLATION: {violation}");
            if let Some(id) = violation.id {
                println!("{}", trace.story(id, 60));
            }
            ExitCode::FAILURE
        }
    }
}
