//! One participant of three stands still (SIGSTOP), and some transactions need it. The others must not notice.
//!
//! Measured in turn, with and without, under the same load: callers that use the first two participants, and
//! beside them a few transactions a second that use the first and the third.

use std::time::Duration;

use tokio::process::Command;

use crate::bench::closed_loop;
use crate::bench::measure::median;
use crate::bench::open_loop::{self, Offered};
use crate::bench::scale::{CALLERS, Scale, Stage, answered, usual};
use crate::bench::system::System;
use crate::bench::target::{Answer, Target, Window};
use crate::bench::workload::Transactions;
use crate::options::CallMode;

/// Transactions a second that need the third participant.
const BACKGROUND_RATE: f64 = 50.0;
const OPEN_MAX: usize = 100_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// Transactions whose keys are not those of the callers.
#[derive(Clone)]
struct Background(Transactions);

impl Target for Background {
    async fn call(&self, caller: usize, number: u64) -> Answer {
        self.0.call(usize::MAX - caller, number).await
    }
}

/// Measures.
///
/// # Errors
/// A sentence, when the participant cannot be stopped, or the others fail.
pub async fn run(system: &mut System, stage: &Stage<'_>) -> Result<Scale, String> {
    let mut scale = Scale::new("stalled_participant");
    let stores = system.stores().to_vec();
    let [first, second, third] = stores.as_slice() else {
        return Err("three participants are needed".to_owned());
    };
    let Some(pid) = system.store_pid(2) else {
        return Err(format!("{third} has ended"));
    };
    let others = usual(system.client(CallMode::Stream)?, &[first.clone(), second.clone()]);
    let background = usual(system.client(CallMode::Stream)?, &[first.clone(), third.clone()]);
    let background = Background(background);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let (mut p99_with, mut p99_without) = (Vec::new(), Vec::new());
    for round in 1..=stage.rounds {
        for stalled in [false, true] {
            let word = if stalled { "one stands still" } else { "all are well" };
            stage.says(&format!("round {round} of {}: {word}", stage.rounds));
            if stalled {
                signal("STOP", pid).await?;
            }
            let Window { warm_up, measured } = stage.window;
            let offered = Offered { rate: BACKGROUND_RATE, open_max: OPEN_MAX, patience: PATIENCE };
            let measuring = async {
                let tally = closed_loop::run(&others, CALLERS, stage.window, async |_| {}).await;
                // Whatever came of it: the background waits for it.
                let continued = if stalled { signal("CONT", pid).await } else { Ok(()) };
                continued.map(|()| tally)
            };
            // The background is counted nowhere, and has ended when the next round begins.
            let whole = Window { warm_up: Duration::ZERO, measured: warm_up + measured };
            let loading = open_loop::run(&background, offered, whole, async |_| {});
            let (tally, _) = tokio::join!(measuring, loading);
            let tally = tally?;
            let (rates, p99s) = match stalled {
                true => (&mut with, &mut p99_with),
                false => (&mut without, &mut p99_without),
            };
            rates.push(answered(&tally)?);
            p99s.push(tally.percentile_ms(99.0));
        }
    }
    let (with, without) = (median(with), median(without));
    scale.note("background_per_second", BACKGROUND_RATE);
    scale.note("transactions_per_second_all_well", without);
    scale.note("transactions_per_second_one_stalled", with);
    scale.note("ratio", with / without);
    scale.note("p99_ms_all_well", median(p99_without));
    scale.note("p99_ms_one_stalled", median(p99_with));
    Ok(scale)
}

/// Sends a signal to a process that was started here.
async fn signal(name: &str, pid: u32) -> Result<(), String> {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().await;
    match sent {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("kill -{name} {pid}: {status}")),
        Err(error) => Err(format!("kill cannot be run: {error}")),
    }
}
