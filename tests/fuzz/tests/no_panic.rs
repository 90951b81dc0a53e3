//! The short run: every input of the corpus, and a fixed number of random and changed ones.
//!
//! `HANDFAST_FUZZ_SEED` chooses other inputs, `HANDFAST_FUZZ_SECONDS` goes on for so long in each target.

use std::time::{Duration, Instant};

use handfast_fuzz::{Feeder, inputs, target, try_input};

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value:?}")))
}

fn run(name: &str) {
    let target = target(name).expect("a target of this name");
    let seed = variable("HANDFAST_FUZZ_SEED").unwrap_or(1);
    let until = variable("HANDFAST_FUZZ_SECONDS").map(|s| Instant::now() + Duration::from_secs(s));
    let feeder = Feeder::new(target, seed).expect("the corpus can be read");
    for (executions, input) in (0_u64..).zip(feeder) {
        let enough = match until {
            Some(until) => Instant::now() >= until,
            None => executions >= target.executions,
        };
        if enough {
            break;
        }
        if let Err(finding) = try_input(target, &input) {
            panic!("seed {seed}, input {executions}: {finding}");
        }
    }
}

/// Else a seed would say nothing.
#[test]
fn the_same_seed_gives_the_same_inputs() {
    for target in handfast_fuzz::TARGETS {
        let inputs = |seed| {
            let feeder = Feeder::new(target, seed).expect("the corpus can be read");
            feeder.take(1000).collect::<Vec<_>>()
        };
        assert!(inputs(7) == inputs(7), "{} has chance of its own", target.name);
        assert!(inputs(7) != inputs(8), "{}: the seed does nothing", target.name);
    }
}

macro_rules! short_runs {
    ($($target:ident),* $(,)?) => {
        $(
            #[test]
            fn $target() {
                run(stringify!($target));
            }
        )*

        /// A target without a test would be one that nobody runs.
        #[test]
        fn every_target_has_a_corpus_and_a_short_run() {
            let names: Vec<_> = handfast_fuzz::TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($target)),*]);
            for target in handfast_fuzz::TARGETS {
                let inputs = inputs(target).expect("a folder");
                assert!(inputs.len() >= 5, "{} has {} inputs", target.name, inputs.len());
            }
        }
    };
}

short_runs!(
    wire,
    records,
    recovery,
    folder,
    configuration,
    command_line,
    key_value,
    participant,
    coordinator,
    services,
);
