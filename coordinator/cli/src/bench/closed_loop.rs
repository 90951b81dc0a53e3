//! A closed loop: so many callers, each of which makes its next call when the one before is answered.
//!
//! It shows what a system can do. It does not show what a stall does to those who come meanwhile, because
//! nobody comes: for that there is the open loop.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::bench::target::{Moment, Tally, Target, Window};

/// Runs it. `observe` is called at both ends of the time that is counted.
pub async fn run<T: Target>(
    target: &T,
    callers: usize,
    window: Window,
    mut observe: impl AsyncFnMut(Moment),
) -> Tally {
    let begin = Instant::now() + window.warm_up;
    let end = begin + window.measured;
    // One lock for all: there is one thread, and a histogram for each caller would take all the memory.
    let tally = Arc::new(Mutex::new(Tally::new()));
    let mut calling = JoinSet::new();
    for caller in 0..callers {
        let (target, tally) = (target.clone(), Arc::clone(&tally));
        calling.spawn(async move {
            let mut number = 0;
            let mut called = Instant::now();
            while called < end {
                let answer = target.call(caller, number).await;
                number += 1;
                let answered = Instant::now();
                // Counted where it ends: at each end of the window one call of each caller is cut.
                if begin <= answered && answered < end {
                    let latency = answered - called;
                    tally.lock().unwrap_or_else(PoisonError::into_inner).count(answer, latency);
                }
                called = answered;
            }
        });
    }
    let observing = async {
        sleep_until(begin).await;
        observe(Moment::Begin).await;
        sleep_until(end).await;
        observe(Moment::End).await;
    };
    let called = async {
        while let Some(ended) = calling.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                // A bug of ours; nothing that is said after it could be believed.
                std::panic::resume_unwind(error.into_panic());
            }
        }
    };
    tokio::join!(observing, called);
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner).clone();
    tally.time = window.measured;
    tally
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::bench::target::Answer;

    /// Takes 10 ms, and aborts every fourth call of a caller.
    #[derive(Clone, Default)]
    struct Steady {
        calls: Arc<AtomicU64>,
    }

    impl Target for Steady {
        async fn call(&self, _: usize, number: u64) -> Answer {
            self.calls.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
            match number % 4 {
                3 => Answer::Aborted("told to".to_owned()),
                _ => Answer::Committed,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_caller_has_one_call_open_and_the_warm_up_is_not_counted() {
        let target = Steady::default();
        let measured = Duration::from_millis(1000);
        let window = Window { warm_up: Duration::from_millis(100), measured };
        let mut moments = Vec::new();
        let began = Instant::now();
        let tally = run(&target, 8, window, async |moment| {
            moments.push((moment, began.elapsed().as_millis()));
        })
        .await;
        let counted = tally.committed + tally.aborted;
        assert!((792..=808).contains(&counted), "{counted}: 8 callers, 100 calls each");
        assert!((190..=210).contains(&tally.aborted), "{}", tally.aborted);
        assert!(target.calls.load(Ordering::Relaxed) >= counted + 72, "those of the warm-up");
        assert!((9.9..11.1).contains(&tally.percentile_ms(50.0)));
        let [(first, at_begin), (second, at_end)] = moments[..] else { panic!("{moments:?}") };
        assert_eq!((first, second), (Moment::Begin, Moment::End));
        assert!((100..105).contains(&at_begin) && (1100..1105).contains(&at_end), "{moments:?}");
        assert_eq!(tally.time, measured);
    }
}
