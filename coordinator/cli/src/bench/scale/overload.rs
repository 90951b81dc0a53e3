//! More than there is room for: what comes is not slowed down by what is not answered. What counts is that
//! some are still served at full speed, that the others are refused instead of piled up, and that it passes.

use std::time::Duration;

use tokio::time::{Instant, interval};

use crate::bench::closed_loop;
use crate::bench::open_loop::{self, Offered};
use crate::bench::scale::{Scale, Stage, answered, usual};
use crate::bench::system::System;
use crate::bench::target::Window;
use crate::options::CallMode;

/// Callers that find out what there is room for.
const CALLERS: usize = 256;
/// More than a coordinator takes, so that it is the one that refuses.
const OPEN_MAX: usize = 200_000;
const PATIENCE: Duration = Duration::from_secs(10);
/// The load is on for so many times the usual time.
const LONGER: u32 = 5;
const SAMPLE_EVERY: Duration = Duration::from_millis(500);
/// It has passed when there is room for so much of what there was room for before.
const RECOVERED: f64 = 0.8;
const RECOVERY_MAX: Duration = Duration::from_secs(60);

/// Offers so many times as much as there is room for.
///
/// # Errors
/// A sentence, when not even the usual load is served.
pub async fn run(factor: f64, system: &mut System, stage: &Stage<'_>) -> Result<Scale, String> {
    let mut scale = Scale::new("overload");
    let stores = system.stores().to_vec();
    let target = usual(system.client(CallMode::Stream)?, &stores);
    stage.says("how much there is room for");
    let room = closed_loop::run(&target, CALLERS, stage.window, async |_| {}).await;
    let room = answered(&room)?;
    scale.note("room_per_second", room);

    let rate = room * factor;
    scale.note("offered_per_second", rate);
    let impatient = usual(system.impatient_client(CallMode::Stream)?, &stores);
    let window = Window { measured: stage.window.measured * LONGER, ..stage.window };
    let offered = Offered { rate, open_max: OPEN_MAX, patience: PATIENCE };
    stage.says(&format!("{rate:.0} a second for {:.1} s", window.measured.as_secs_f64()));
    let mut bytes = Vec::new();
    let sampling = async {
        let mut ticks = interval(SAMPLE_EVERY);
        loop {
            ticks.tick().await;
            bytes.push(system.coordinator_bytes().unwrap_or_default() as f64);
        }
    };
    let loaded = tokio::select! {
        loaded = open_loop::run(&impatient, offered, window, async |_| {}) => loaded,
        () = sampling => unreachable!("it samples until it is dropped"),
    };
    let loaded = loaded.map_err(|error| format!("no thread for the time: {error}"))?;
    scale.note("committed_per_second", loaded.rate(loaded.committed));
    scale.note("ratio_to_room", loaded.rate(loaded.committed) / room);
    scale.note("aborted_per_second", loaded.rate(loaded.aborted));
    scale.note_text("first_abort", loaded.abort.as_deref());
    scale.note("refused", loaded.refused as f64);
    scale.note("failed", loaded.failed as f64);
    scale.note_text("first_failure", loaded.failure.as_deref());
    scale.note("unanswered", loaded.unanswered as f64);
    // Of those that were answered, from where they were due.
    scale.note("p50_ms", loaded.percentile_ms(50.0));
    scale.note("p99_ms", loaded.percentile_ms(99.0));
    scale.note_series("coordinator_bytes_every_half_second", bytes);

    stage.says("afterwards");
    let over = Instant::now();
    let after = loop {
        let after = closed_loop::run(&target, CALLERS, stage.window, async |_| {}).await;
        let rate = after.rate(after.committed);
        if rate >= room * RECOVERED || over.elapsed() >= RECOVERY_MAX {
            break rate;
        }
    };
    scale.note("recovery_seconds", over.elapsed().as_secs_f64());
    scale.note("transactions_per_second_afterwards", after);
    scale.note("ratio_to_room_afterwards", after / room);
    Ok(scale)
}
