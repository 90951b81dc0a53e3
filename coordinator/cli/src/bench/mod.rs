//! `handfast bench`: how fast the product is, beside what no coordinator could do without.
//!
//! It drives a coordinator with the client library, in closed and in open loops, and does the same to the
//! skeleton: processes, messages and synced writes as the product's, without protocol or data. A number is
//! worth little by itself; its ratio to the skeleton's, measured in turn in the same run, carries over to other
//! machines.
//!
//! One thread drives the load, so that the clients take as little as possible of the processors that they
//! share with the servers. On a machine with many of them that thread is the limit, of both.
//!
//! The law: children never outlive the benchmark, and their folders neither.

mod closed_loop;
mod cpu;
mod floors;
mod measure;
mod open_loop;
pub mod options;
mod phases;
mod plan;
mod plot;
mod report;
mod scale;
mod svg;
mod system;
mod target;
mod workload;

use std::path::Path;

use handfast_client::{Error, Request, TransactionOptions, key_value::Work};
use indicatif::ProgressBar;
use tempfile::TempDir;

use crate::bench::measure::Measured;
use crate::bench::options::Bench;
use crate::bench::plan::{Plan, ProtocolName};
use crate::bench::report::Results;
use crate::bench::scale::Scale;
use crate::bench::system::{Kind, Programs, System};
use crate::config::{Settings, Source};
use crate::demo::interruption;
use crate::failure::Failure;
use crate::options::CallMode;
use crate::output::Output;
use crate::programs::{self, COORDINATOR, PARTICIPANT, SKELETON};

/// Runs the benchmark.
///
/// # Errors
/// When the system could not be started or measured, or when it was interrupted.
pub async fn run(options: &Bench, settings: &Settings, output: &mut Output) -> Result<(), Failure> {
    let mode = match settings.client_mode.source {
        Source::Flag(_) => Some(settings.client_mode.value),
        _ => None,
    };
    let plan = options.plan(mode).map_err(Failure::Usage)?;
    // Before anything is started, so that nothing that was started is left behind.
    let interrupted = interruption().map_err(Failure::Failed)?;
    let (mut folder, mut systems) = (None, Vec::new());
    let bar = ProgressBar::new_spinner();
    let finished = tokio::select! {
        finished = perform(options, plan, settings, &mut folder, &mut systems, &bar) => finished,
        () = interrupted => Err("the benchmark was interrupted; its processes are stopped".to_owned()),
    };
    bar.finish_and_clear();
    for system in &mut systems {
        system.stop().await;
    }
    drop(systems);
    drop(folder);
    let finished = finished.map_err(Failure::Failed)?;
    if let Some(path) = &options.json {
        let text = match &finished {
            Finished::Cases(results) => format!("{:#}\n", results.json()),
            Finished::Scale(scale) => format!("{:#}\n", scale.json()),
        };
        std::fs::write(path, text).map_err(|error| {
            Failure::Failed(format!("{} cannot be written: {error}", path.display()))
        })?;
    }
    let results = match finished {
        Finished::Cases(results) => results,
        Finished::Scale(scale) => return scale.write(output),
    };
    results.write(output)?;
    if let Some(folder) = &options.plots {
        let written = plot::draw(&results, folder).map_err(Failure::Failed)?;
        if !output.is_json() {
            output.line(&format!("\ndrawn: {}", written.join(" ")))?;
        }
    }
    Ok(())
}

/// What was measured.
enum Finished {
    Cases(Results),
    Scale(Scale),
}

/// The whole of it. Systems and folder are left to the caller, who stops the ones and then removes the
/// other, whatever happens.
async fn perform(
    options: &Bench,
    plan: Plan,
    settings: &Settings,
    folder: &mut Option<TempDir>,
    systems: &mut Vec<System>,
    bar: &ProgressBar,
) -> Result<Finished, String> {
    let mut results = Results {
        plan,
        spawned: options.spawn,
        measured: Vec::new(),
        floors: Vec::new(),
        not_served: Vec::new(),
    };
    if options.spawn {
        let [coordinator, participant, skeleton] =
            programs::find([COORDINATOR, PARTICIPANT, SKELETON])?;
        let programs = Programs { coordinator, participant, skeleton };
        let folder = folder.insert(temporary_folder()?);
        if let Some(scale) =
            scale::run(options, &results.plan, &programs, folder.path(), systems, bar).await?
        {
            return Ok(Finished::Scale(scale));
        }
        measure_floors(&mut results, &programs.skeleton, folder.path(), bar).await?;
        let participants = results.plan.participants_max();
        for (kind, name) in [(Kind::Product, "product"), (Kind::Skeleton, "skeleton")] {
            bar.set_message(format!("starting the {name}"));
            let folder = folder.path().join(name);
            systems.push(System::start(kind, &programs, &folder, participants, &[]).await?);
        }
    } else {
        systems.push(System::running(&settings.coordinator.value).await?);
    }
    let [product, skeletons @ ..] = systems.as_slice() else {
        return Err("there is nothing to measure".to_owned());
    };
    let protocols: std::collections::BTreeSet<_> =
        results.plan.cases.iter().map(|case| case.protocol).collect();
    for protocol in protocols {
        if !serves(product, protocol).await? {
            results.not_served.push(protocol);
        }
    }
    let cases = results.plan.cases.clone();
    let served = |protocol: &ProtocolName| !results.not_served.contains(protocol);
    let cases: Vec<_> = cases.into_iter().filter(|case| served(&case.protocol)).collect();
    for (at, case) in cases.iter().enumerate() {
        let progress =
            |what: &str| bar.set_message(format!("case {} of {}, {what}", at + 1, cases.len()));
        let (rounds, window) = (results.plan.rounds, results.plan.window);
        let measured =
            Measured::measure(*case, product, skeletons.first(), rounds, window, &progress).await?;
        results.measured.push(measured);
    }
    Ok(Finished::Cases(results))
}

fn temporary_folder() -> Result<TempDir, String> {
    TempDir::with_prefix("handfast-bench-").map_err(|error| {
        let place = std::env::temp_dir();
        format!("no folder can be made in {}: {error}", place.display())
    })
}

async fn measure_floors(
    results: &mut Results,
    skeleton: &Path,
    folder: &Path,
    bar: &ProgressBar,
) -> Result<(), String> {
    for in_flight in results.plan.floors.clone() {
        bar.set_message(format!("floors, {in_flight} in flight"));
        let time = results.plan.floor_time;
        results.floors.push(floors::measure(skeleton, folder, in_flight, time).await?);
    }
    Ok(())
}

/// Whether transactions of this protocol are done there.
async fn serves(system: &System, protocol: ProtocolName) -> Result<bool, String> {
    let client = system.client(CallMode::Unary)?;
    let options = TransactionOptions::new().protocol(protocol.protocol());
    let mut request = Request::new().options(options);
    // Two, where there are: one is committed in one phase under every protocol.
    for participant in system.stores().iter().take(2) {
        request = request.branch(participant.as_str(), Work::new().put("probe", "probe"));
    }
    match client.execute(request).await {
        Ok(_) => Ok(true),
        Err(Error::Unsupported { .. }) => Ok(false),
        Err(error) => Err(format!("a first transaction was not committed: {error}")),
    }
}
