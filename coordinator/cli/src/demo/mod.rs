//! `handfast demo`: a whole system at work, and under fire.
//!
//! It starts a coordinator and three key-value participants as processes of their own, opens accounts at
//! all three, and lets many clients move money while processes die by kill -9 and are cut off from each other.
//! Then it lets everything come back, and compares what the stores hold with what the clients were told.
//!
//! The law: a promise that cannot be checked counts as broken. Children never outlive the demo.

mod bank;
mod chaos;
mod check;
mod cluster;
mod load;
mod network;
mod progress;
pub mod random;
mod report;
mod tally;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use handfast_client::{Client, ClientMode};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::Settings;
use crate::demo::bank::{Ledger, STORES};
use crate::demo::cluster::Cluster;
use crate::demo::load::Teller;
use crate::demo::progress::Progress;
use crate::demo::random::Random;
use crate::demo::report::Report;
use crate::demo::tally::Tally;
use crate::failure::Failure;
use crate::options::{Demo, DemoProtocol};
use crate::output::Output;
use crate::process::State;
use crate::programs::{self, COORDINATOR, PARTICIPANT};

/// The killer's stream of random numbers; clients have those of their own number.
const CHAOS_STREAM: u64 = u64::MAX / 2;
/// Whoever cuts the network has another.
const NETWORK_STREAM: u64 = u64::MAX / 2 + 1;

/// Runs the demo.
///
/// # Errors
/// When a promise did not hold, when the system could not be started, or when it was interrupted.
pub async fn run(options: Demo, settings: &Settings, output: &mut Output) -> Result<(), Failure> {
    let mode = settings.client_mode.value.into();
    // Before anything is started, so that nothing that was started is left behind.
    let interrupted = interruption().map_err(Failure::Failed)?;
    let programs = programs::find([COORDINATOR, PARTICIPANT]).map_err(Failure::Failed)?;
    let folder = TempDir::with_prefix("handfast-demo-");
    let folder = folder.map_err(|error| {
        let place = std::env::temp_dir();
        Failure::Failed(format!("no folder can be made in {}: {error}", place.display()))
    })?;
    let mut cluster = None;
    let finished = tokio::select! {
        finished = perform(&options, mode, &programs, folder.path(), &mut cluster) => finished.map(Some),
        () = interrupted => Ok(None),
    };
    if let Some(cluster) = &mut cluster {
        cluster.stop().await;
    }
    drop(cluster);
    let failed = match &finished {
        Ok(Some(report)) => !report.broken.is_empty(),
        Ok(None) => false,
        Err(_) => true,
    };
    let kept = keep(folder, options.keep || failed);
    match finished {
        Ok(Some(mut report)) => {
            report.kept = kept;
            report.write(output)?;
            output.flush()?;
            match report.broken.len() {
                0 => Ok(()),
                broken => Err(Failure::Failed(with_folder(
                    format!("{broken} promises were broken; the first: {}", report.broken[0]),
                    report.kept.as_deref(),
                ))),
            }
        }
        Ok(None) => Err(Failure::Failed(with_folder(
            "the demo was interrupted; its processes are stopped and nothing was checked".into(),
            kept.as_deref(),
        ))),
        Err(message) => Err(Failure::Failed(with_folder(message, kept.as_deref()))),
    }
}

/// Comes true when somebody wants the demo, or whatever else it is, to end.
pub fn interruption() -> Result<impl Future<Output = ()>, String> {
    let listen = |kind| signal(kind).map_err(|error| format!("signals cannot be heard: {error}"));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

fn keep(folder: TempDir, keep: bool) -> Option<PathBuf> {
    match keep {
        true => Some(folder.keep()),
        // What cannot be removed lies in the system's folder for what may be removed.
        false => {
            let _ = folder.close();
            None
        }
    }
}

fn with_folder(message: String, kept: Option<&Path>) -> String {
    match kept {
        Some(folder) => format!("{message}\ndata and logs: {}", folder.display()),
        None => message,
    }
}

/// The whole demo, from the first start to the last comparison. The cluster is left to the caller, who
/// stops it whatever happens.
async fn perform(
    options: &Demo,
    mode: ClientMode,
    programs: &[PathBuf; 2],
    folder: &Path,
    cluster: &mut Option<Cluster>,
) -> Result<Report, String> {
    let seed = options.seed.unwrap_or_else(random::fresh_seed);
    let cluster = cluster.insert(Cluster::start(programs, folder).await?);
    let connect = Client::connect_with(cluster.endpoint(), load::client_options(mode));
    let client = connect.map_err(|error| error.to_string())?;
    cluster.connected(&client).await?;
    check::open_accounts(&client, options.accounts).await?;
    let before = check::read_all(&client, options.accounts, 0).await?;
    let total_before = before.total(options.accounts);

    let tally = Arc::new(Tally::new());
    let progress = Progress::new(Arc::clone(&tally), cluster.vitals());
    progress.say(&introduction(options, seed, folder));
    let began = Instant::now();
    let tellers = load(options, seed, &client, &tally, &progress, cluster).await?;
    let load = began.elapsed();
    progress.clear();

    let mut broken = Vec::new();
    let healing = Instant::now();
    if let Err(unhealed) = cluster.heal().await {
        broken.push(unhealed);
    }
    let tellers = together(tellers.into_iter().map(Teller::resolve)).await;
    let mut unresolved = 0;
    let mut ledger = Ledger::default();
    for teller in &tellers {
        ledger.merge(teller.ledger());
        unresolved += teller.untold().count() as u64;
    }
    let names = || tellers.iter().flat_map(Teller::untold).take(3).map(ToString::to_string);
    if unresolved > 0 {
        let names: Vec<_> = names().collect();
        broken.push(format!(
            "{unresolved} outcomes are still unknown with everything up: {}",
            names.join(", ")
        ));
    }
    let in_doubt_after_healing = match check::settled(&client, &addresses(cluster)).await {
        Ok(found) => {
            if found.count() > 0 {
                broken.push(format!(
                    "{} transactions are in doubt with everything up; branches: {:?}; transactions: {:?}",
                    found.count(),
                    found.branches.iter().take(3).collect::<Vec<_>>(),
                    found.transactions.iter().take(3).collect::<Vec<_>>()
                ));
            }
            Some(found.count())
        }
        Err(error) => {
            broken.push(format!("what is in doubt cannot be told: {error}"));
            None
        }
    };
    let healing = healing.elapsed();

    let total_after = match check::read_all(&client, options.accounts, options.clients).await {
        Ok(after) => {
            let total_after = after.total(options.accounts);
            if total_after != total_before {
                broken.push(format!("there was {total_before} and now there is {total_after}"));
            }
            broken.extend(check::differences(&after, &ledger, options.accounts, options.clients));
            Some(total_after)
        }
        Err(error) => {
            broken.push(error);
            None
        }
    };
    cluster.watch_over().await?;
    broken.extend(cluster.deaths());
    let counts = tally.read();
    broken.extend(counts.surprises.iter().cloned());
    Ok(Report {
        options: options.clone(),
        seed,
        counts,
        unresolved,
        in_doubt_after_healing,
        vitals: cluster.vitals(),
        cuts: cluster.network().cuts(),
        total_before,
        total_after,
        load,
        healing,
        broken,
        kept: None,
    })
}

/// Runs the clients, and whoever kills and cuts beside them, for as long as was asked for.
async fn load(
    options: &Demo,
    seed: u64,
    client: &Client,
    tally: &Arc<Tally>,
    progress: &Progress,
    cluster: &mut Cluster,
) -> Result<Vec<Teller>, String> {
    let length = Duration::from_secs(options.seconds.into());
    let end = Instant::now() + length;
    let tellers = (0..options.clients).map(|number| {
        let random = Random::new(seed, number as u64);
        let bank = (options.accounts, options.protocol);
        let teller = Teller::new(number, client.clone(), bank, random, Arc::clone(tally));
        teller.work_until(end)
    });
    let every = |seconds: f64| Some(seconds).filter(|seconds| *seconds > 0.0);
    let kill_every = every(options.kill_every).map(Duration::from_secs_f64);
    let cut_every = every(options.partition_every).map(Duration::from_secs_f64);
    let network = Arc::clone(cluster.network());
    let cuts = chaos::cut_until(end, cut_every, Random::new(seed, NETWORK_STREAM), &network);
    let chaos = chaos::kill_until(end, kill_every, Random::new(seed, CHAOS_STREAM), cluster);
    let working = async {
        let (tellers, killed, ()) = tokio::join!(together(tellers), chaos, cuts);
        killed.map(|()| tellers)
    };
    tokio::select! {
        tellers = working => tellers,
        () = progress.run(length) => Err("the display has ended".to_owned()),
    }
}

/// Runs all of them side by side, to their ends.
async fn together(
    work: impl Iterator<Item = impl Future<Output = Teller> + Send + 'static>,
) -> Vec<Teller> {
    let mut running: JoinSet<Teller> = work.collect();
    let mut done = Vec::new();
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(teller) => done.push(teller),
            // A bug of ours; nothing that is said after it could be believed.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    done
}

fn addresses(cluster: &Cluster) -> Vec<(&'static str, String)> {
    let vitals = cluster.vitals();
    let up = vitals.iter().filter_map(|vitals| match vitals.state() {
        State::Up(address) if STORES.contains(&vitals.name) => Some((vitals.name, address)),
        _ => None,
    });
    up.collect()
}

fn introduction(options: &Demo, seed: u64, folder: &Path) -> String {
    let kills = match options.kill_every > 0.0 {
        true => format!("a kill -9 about every {} s", options.kill_every),
        false => "nobody is killed".to_owned(),
    };
    let cuts = match options.partition_every > 0.0 {
        true => format!("somebody cut off about every {} s", options.partition_every),
        false => "the network holds".to_owned(),
    };
    let protocol = match options.protocol {
        DemoProtocol::TwoPhase => "two-phase commit",
        DemoProtocol::ThreePhase => "three-phase commit",
        DemoProtocol::Mixed => "two- and three-phase commit",
    };
    format!(
        "a coordinator and {} key-value participants in {}\n{} accounts of {}, {} clients, {protocol}, {} s, \
         {kills}, {cuts}, seed {seed}",
        STORES.len(),
        folder.display(),
        options.accounts,
        bank::OPENING_BALANCE,
        options.clients,
        options.seconds
    )
}
