//! Every so often a random process of the system dies by kill -9 and is started again; and every so often one
//! is cut off from the others for a while.
//!
//! The seed fixes who and when; a process may die again while it is still recovering, and while it is cut off.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::demo::cluster::Cluster;
use crate::demo::network::{Manner, Network};
use crate::demo::random::Random;

/// How often processes are looked after that may have ended by themselves.
const WATCH_EVERY: Duration = Duration::from_millis(100);

/// Kills until the end. `every` is the mean time between two kills; nobody dies without one.
///
/// # Errors
/// When a process cannot be started again.
pub async fn kill_until(
    end: Instant,
    every: Option<Duration>,
    mut random: Random,
    cluster: &mut Cluster,
) -> Result<(), String> {
    let mut next = every.map(|every| Instant::now() + pause(every, &mut random));
    loop {
        let watch = Instant::now() + WATCH_EVERY;
        let until = next.map_or(watch, |next| next.min(watch)).min(end);
        sleep_until(until).await;
        let now = Instant::now();
        if now >= end {
            return Ok(());
        }
        match (next, every) {
            (Some(at), Some(every)) if now >= at => {
                let victim = random.below(cluster.len());
                cluster.kill(victim).await?;
                next = Some(at + pause(every, &mut random));
            }
            _ => cluster.watch_over().await?,
        }
    }
}

/// How long a process is cut off, in seconds: at least, and so much more.
const CUT_SECONDS: (f64, f64) = (0.2, 1.6);

/// Cuts processes off until the end, one at a time. `every` is the mean time between two cuts.
pub async fn cut_until(
    end: Instant,
    every: Option<Duration>,
    mut random: Random,
    network: &Network,
) {
    let Some(every) = every else { return };
    let mut next = Instant::now() + pause(every, &mut random);
    while next < end {
        sleep_until(next).await;
        let servers = network.cuts().len() as u64;
        let manner = if random.below(2) == 0 { Manner::Broken } else { Manner::Silent };
        network.cut_off(random.below(servers) as usize, manner);
        let (least, more) = CUT_SECONDS;
        let over = Instant::now() + Duration::from_secs_f64(least + more * random.fraction());
        sleep_until(over.min(end)).await;
        network.heal();
        next = (next + pause(every, &mut random)).max(over);
    }
}

/// Half to one and a half of the mean.
fn pause(every: Duration, random: &mut Random) -> Duration {
    every.mul_f64(0.5 + random.fraction())
}
