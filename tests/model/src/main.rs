//! Runs the configurations and prints what came of them.
//!
//! `handfast-model` runs the quick ones, `handfast-model full` those of a minute as well and `long` all of them,
//! `handfast-model NAME…` those with such names, and `handfast-model lies` shows which property catches which
//! deliberate fault. `HANDFAST_MODEL_SEEN=1` lists all that was seen, not only what must be.

use std::process::ExitCode;

use handfast_model::bounds::Effort;
use handfast_model::check::{always, check};
use handfast_model::configurations;
use handfast_model::lies::Lie;

const THREADS: usize = 2;

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted == ["lies"] {
        return lies();
    }
    let (mut total, mut count, mut violations) = (0, 0, 0);
    let mut failed = false;
    for bounds in configurations::all() {
        let chosen = match wanted.as_slice() {
            [] => bounds.effort == Effort::Quick,
            [effort] if Effort::named(effort).is_some() => {
                Some(bounds.effort) <= Effort::named(effort)
            }
            names => names.iter().any(|name| bounds.name == name),
        };
        if !chosen {
            continue;
        }
        let outcome = check(&bounds, None, THREADS);
        println!("{}: {}", bounds.name, bounds.what);
        println!("    {}", bounds.describe());
        println!(
            "    {} states, {} steps, depth {}, {:.1} s",
            outcome.states,
            outcome.steps,
            outcome.depth,
            outcome.took.as_secs_f64()
        );
        println!(
            "    always: {} of {} hold; sometimes: {} of {} seen",
            always() - outcome.violations.len(),
            always(),
            bounds.marks.len() - outcome.missing.len(),
            bounds.marks.len()
        );
        if let Some(failure) = outcome.failure(&bounds) {
            println!("FAILED: {failure}");
            failed = true;
        }
        if std::env::var_os("HANDFAST_MODEL_SEEN").is_some() {
            println!("    seen: {:?}", outcome.seen);
        }
        total += outcome.states;
        count += 1;
        violations += outcome.violations.len();
    }
    println!("{total} states, {count} configurations, {violations} violations");
    if failed || count == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Every fault, with the first configuration that catches it.
fn lies() -> ExitCode {
    let mut missed = 0;
    for lie in Lie::ALL {
        let mut caught = false;
        for bounds in configurations::all().iter().filter(|bounds| bounds.effort == Effort::Quick) {
            let outcome = check(bounds, Some(*lie), THREADS);
            if let Some((property, story)) = outcome.violations.iter().next() {
                caught = true;
                println!("{lie:?}: {} ({} lines of story): {property}", bounds.name, story.len());
                break;
            }
        }
        if !caught {
            println!("{lie:?}: MISSED");
            missed += 1;
        }
    }
    println!("{} of {} faults caught", Lie::ALL.len() - missed, Lie::ALL.len());
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
