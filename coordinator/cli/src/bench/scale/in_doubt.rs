//! Transactions that are decided and that nobody acknowledges: the coordinator has to keep every one of them,
//! in its memory and in its log, for as long as it takes.
//!
//! Two participants vote prepared and then say nothing more. What is measured is what that costs the
//! transactions of others, how much memory it takes, and how soon a coordinator that is killed serves again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep};

use crate::bench::scale::crowd::{Crowd, Manner};
use crate::bench::scale::{Scale, Stage, usual};
use crate::bench::system::System;
use crate::bench::target::{Answer, Target};
use crate::options::CallMode;

/// Callers that bring the transactions about.
const CALLERS: usize = 256;
/// What the coordinator keeps by default; more has to be allowed.
const UNDELIVERED_MAX: u64 = 2_000_000;
const POLL: Duration = Duration::from_millis(10);

/// What the coordinator is started with, so that it takes so many.
pub fn flags(count: u64) -> Vec<String> {
    let most = UNDELIVERED_MAX.max(count.saturating_mul(2)).min(100_000_000);
    vec!["--undelivered-max".to_owned(), most.to_string()]
}

/// Brings them about, and measures.
///
/// # Errors
/// A sentence, when that does not succeed.
pub async fn run(count: u64, system: &mut System, stage: &Stage<'_>) -> Result<Scale, String> {
    let mut scale = Scale::new("in_doubt");
    let stores = system.stores().to_vec();
    scale.note("transactions_in_doubt", count as f64);
    let before = stage.throughput(system, &stores).await?;
    scale.note("transactions_per_second_before", before);
    scale.bytes("coordinator_bytes_before", system);

    let crowd = Crowd::start(2, Manner::Silent).await?;
    crowd.join(system).await?;
    let began = Instant::now();
    fill(count, system, crowd.names(), stage).await?;
    scale.note("filling_seconds", began.elapsed().as_secs_f64());
    scale.note("undelivered", undelivered(system).await?);
    scale.bytes("coordinator_bytes", system);

    let during = stage.throughput(system, &stores).await?;
    scale.note("transactions_per_second", during);
    scale.note("ratio_to_before", during / before);
    scale.bytes("coordinator_bytes_after_load", system);

    stage.says("the coordinator is killed and started again");
    let began = Instant::now();
    let ready = system.restart_coordinator().await?;
    scale.note("restart_until_ready_seconds", ready.as_secs_f64());
    let target = usual(system.client(CallMode::Unary)?, &stores);
    while target.call(0, 0).await != Answer::Committed {
        sleep(POLL).await;
    }
    scale.note("restart_until_first_commit_seconds", began.elapsed().as_secs_f64());
    scale.note("undelivered_after_restart", undelivered(system).await?);
    scale.bytes("coordinator_bytes_restarted", system);
    let again = stage.throughput(system, &stores).await?;
    scale.note("transactions_per_second_restarted", again);
    scale.note("ratio_to_before_restarted", again / before);
    Ok(scale)
}

/// Decisions that the coordinator keeps for somebody, one for each branch: so many are really in doubt.
async fn undelivered(system: &System) -> Result<f64, String> {
    let listed = system.client(CallMode::Unary)?.participants().await;
    let listed = listed.map_err(|error| error.to_string())?;
    let silent = listed.iter().filter(|found| !system.stores().contains(&found.participant));
    Ok(silent.map(|found| found.undelivered).sum::<u64>() as f64)
}

/// Commits so many transactions over these participants.
async fn fill(
    count: u64,
    system: &System,
    participants: &[String],
    stage: &Stage<'_>,
) -> Result<(), String> {
    let target = usual(system.client(CallMode::Stream)?, participants);
    let next = Arc::new(AtomicU64::new(0));
    let mut filling: JoinSet<Result<(), String>> = JoinSet::new();
    for caller in 0..CALLERS {
        let (target, next) = (target.clone(), Arc::clone(&next));
        filling.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok(());
                }
                match target.call(caller, number).await {
                    Answer::Committed => {}
                    other => return Err(format!("transaction {number} of {count}: {other:?}")),
                }
            }
        });
    }
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            ended = filling.join_next() => match ended {
                None => return Ok(()),
                Some(Ok(ended)) => ended?,
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            },
            _ = ticks.tick() => {
                let done = next.load(Ordering::Relaxed).min(count);
                stage.says(&format!("{done} of {count} are in doubt"));
            }
        }
    }
}
