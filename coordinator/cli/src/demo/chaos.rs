//! The killer: every so often a random process of the system dies by kill -9 and is started again.
//!
//! The seed fixes who dies and when; a process may die again while it is still recovering.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::demo::cluster::Cluster;
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

/// Half to one and a half of the mean.
fn pause(every: Duration, random: &mut Random) -> Duration {
    every.mul_f64(0.5 + random.fraction())
}
