//! Runs the configurations and prints what came of them.
//!
//! `handfast-model` runs the quick ones, `handfast-model full` those of a minute as well and `long` all of them,
//! `handfast-model NAME…` those with such names, and `handfast-model lies` shows which property catches which
//! deliberate fault. `HANDFAST_MODEL_SEEN=1` lists all that was seen, not only what must be.
//!
//! With the feature `mutants`, `handfast-model mutants NAME…` shows what catches the core's deliberate bugs of these
//! names (of three-phase commit when there is none), from the smallest configuration to the largest.

use std::process::{Command, ExitCode};

use handfast_commit_core::mutants::{Mutant, VARIABLE};
use handfast_model::bounds::{Bounds, Effort};
use handfast_model::check::{Outcome, always, check};
use handfast_model::configurations;
use handfast_model::lies::Lie;

const THREADS: usize = 2;

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    match wanted.first().map(String::as_str) {
        Some("lies") => return lies(),
        Some("mutants") => return mutants(&wanted[1..]),
        Some("mutant") => return mutant(),
        _ => {}
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
        print(&bounds, &outcome);
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

fn print(bounds: &Bounds, outcome: &Outcome) {
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

/// Bugs of the core, each in a process of its own.
fn mutants(names: &[String]) -> ExitCode {
    if !cfg!(feature = "mutants") {
        eprintln!("handfast-model is built without the deliberate bugs: --features mutants");
        return ExitCode::FAILURE;
    }
    let known = |name: &String| Mutant::named(name).is_some();
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        eprintln!("there is no mutant {unknown}");
        return ExitCode::FAILURE;
    }
    let chosen = Mutant::ALL.iter().filter(|mutant| match names {
        [] => mutant.is_of_three_phase(),
        names => names.iter().any(|name| name == mutant.name()),
    });
    let Ok(program) = std::env::current_exe() else { return ExitCode::FAILURE };
    let mut failed = false;
    for mutant in chosen {
        let run = Command::new(&program).arg("mutant").env(VARIABLE, mutant.name()).status();
        failed |= !run.is_ok_and(|status| status.success());
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The bug of this process, with the first configuration that catches it, from the smallest on.
fn mutant() -> ExitCode {
    let name = std::env::var(VARIABLE).unwrap_or_default();
    let mut all = configurations::all();
    all.retain(|bounds| bounds.effort < Effort::Long);
    all.sort_by_key(|bounds| bounds.states);
    // Assertions of the core are properties: their stories tell what they say.
    std::panic::set_hook(Box::new(|_| {}));
    for bounds in all {
        let outcome = check(&bounds, None, THREADS);
        let lines = |story: &Vec<String>| story.len();
        let what = match (outcome.violations.iter().next(), outcome.missing.first()) {
            (Some((property, story)), _) => format!("{property} ({} lines)", lines(story)),
            (None, Some(mark)) => format!("never seen: {}", mark.text()),
            (None, None) => continue,
        };
        println!("{name}: {}: {what}", bounds.name);
        return ExitCode::SUCCESS;
    }
    println!("{name}: MISSED");
    ExitCode::FAILURE
}
