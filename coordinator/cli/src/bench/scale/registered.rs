//! Many registered participants: each has a connection, a session and a queue at the coordinator, and most of
//! them nothing to do.

use std::time::Duration;

use tokio::time::sleep;

use crate::bench::scale::crowd::{Crowd, Manner};
use crate::bench::scale::{Scale, Stage};
use crate::bench::system::System;

/// How long the coordinator is watched while nobody asks anything of it.
const IDLE: Duration = Duration::from_secs(2);

/// Registers so many, and measures what it costs two others.
///
/// # Errors
/// A sentence, when they do not get connected.
pub async fn run(count: u32, system: &mut System, stage: &Stage<'_>) -> Result<Scale, String> {
    let mut scale = Scale::new("registered");
    let stores = system.stores().to_vec();
    scale.note("participants", f64::from(count));
    let before = stage.throughput(system, &stores).await?;
    scale.note("transactions_per_second_before", before);
    scale.bytes("coordinator_bytes_before", system);

    stage.says("registering");
    let began = tokio::time::Instant::now();
    let crowd = Crowd::start(count as usize, Manner::Prompt).await?;
    crowd.join(system).await?;
    scale.note("connecting_seconds", began.elapsed().as_secs_f64());
    scale.bytes("coordinator_bytes", system);

    stage.says("idle");
    let before_idle = system.usage();
    sleep(IDLE).await;
    let idle = system.usage().since(before_idle).coordinator;
    scale.note("idle_processor_share", idle.as_secs_f64() / IDLE.as_secs_f64());
    let with = stage.throughput(system, &stores).await?;
    scale.note("transactions_per_second", with);
    scale.note("ratio_to_before", with / before);
    Ok(scale)
}
