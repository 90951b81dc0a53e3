//! An open loop: calls come at a fixed rate, whether those before them are answered or not.
//!
//! The law: a latency is counted from the moment that the call was due, so that a stall is not hidden. It
//! does not matter who stalled, the system or the caller: whoever was due meanwhile has waited. (Gil Tene
//! calls the mistake "coordinated omission".) A call that is due and cannot be made, because too many are
//! open, waits in the same way; one that is not answered at the end is counted with what it had waited.
//!
//! Calls are due in bursts, one each millisecond, or each by itself when they are fewer. A thread of its own
//! keeps the time: the runtime's timers are a millisecond late.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;

use crate::bench::target::{Answer, Moment, Tally, Target, Window};
use crate::bench::workload::CALLS_IN_A_ROW;

/// Bursts in a second, at most.
const BURSTS_PER_SECOND: f64 = 1000.0;

/// What comes, and how much of it may be open.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Offered {
    /// Calls in a second.
    pub rate: f64,
    /// Calls that are open at a time; the others wait until one is answered.
    pub open_max: usize,
    /// How long the last calls are waited for when the time is up.
    pub patience: Duration,
}

/// When calls are due.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    start: Instant,
    burst: u64,
    period: Duration,
}

impl Schedule {
    fn new(start: Instant, rate: f64) -> Self {
        let burst = (rate / BURSTS_PER_SECOND).ceil().max(1.0);
        let period = Duration::from_secs_f64(burst / rate.max(1e-3));
        Self { start, burst: burst as u64, period }
    }

    fn of_burst(&self, burst: u64) -> Instant {
        // In floating point, so that no error adds up.
        self.start + Duration::from_secs_f64(self.period.as_secs_f64() * burst as f64)
    }

    fn of(&self, call: u64) -> Instant {
        self.of_burst(call / self.burst)
    }
}

/// Says when bursts are due; ends when it is dropped.
struct Pacer {
    stop: Option<mpsc::Sender<()>>,
    due: UnboundedReceiver<u64>,
    thread: Option<JoinHandle<()>>,
}

impl Pacer {
    fn start(schedule: Schedule) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let (tell, due) = unbounded_channel();
        let thread = std::thread::Builder::new().name("pacer".to_owned()).spawn(move || {
            for burst in 0.. {
                let wait = schedule.of_burst(burst).saturating_duration_since(Instant::now());
                match stopped.recv_timeout(wait) {
                    Err(mpsc::RecvTimeoutError::Timeout) if tell.send(burst).is_ok() => {}
                    _ => return,
                }
            }
        })?;
        Ok(Self { stop: Some(stop), due, thread: Some(thread) })
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs it. `observe` is called at both ends of the time that is counted: what was due in that time counts.
///
/// # Errors
/// When the system has no thread to give.
pub async fn run<T: Target>(
    target: &T,
    offered: Offered,
    window: Window,
    mut observe: impl AsyncFnMut(Moment),
) -> std::io::Result<Tally> {
    let schedule = Schedule::new(Instant::now(), offered.rate);
    let begin = schedule.start + window.warm_up;
    let end = begin + window.measured;
    let counts = |due: Instant| begin <= due && due < end;
    let mut pacer = Pacer::start(schedule)?;
    let mut open: JoinSet<(Answer, Instant, Instant)> = JoinSet::new();
    let mut tally = Tally::new();
    // Calls that have been made, and calls that are due.
    let (mut made, mut due) = (0_u64, 0_u64);
    let making = async {
        loop {
            while made < due && open.len() < offered.open_max {
                let (target, number, intended) = (target.clone(), made, schedule.of(made));
                open.spawn(async move {
                    let caller = (number / CALLS_IN_A_ROW) as usize;
                    let answer = target.call(caller, number).await;
                    (answer, intended, Instant::now())
                });
                made += 1;
            }
            tokio::select! {
                burst = pacer.due.recv() => match burst {
                    Some(burst) if schedule.of_burst(burst) < end => due = (burst + 1) * schedule.burst,
                    _ => break,
                },
                Some(done) = open.join_next() => count(&mut tally, done, &counts),
            }
        }
        // Nothing more is due. What is open may end; what was not made has waited in vain.
        let last = tokio::time::sleep_until((end + offered.patience).into());
        tokio::pin!(last);
        loop {
            tokio::select! {
                done = open.join_next() => match done {
                    Some(done) => count(&mut tally, done, &counts),
                    None => break,
                },
                () = &mut last => break,
            }
        }
    };
    let observing = async {
        tokio::time::sleep_until(begin.into()).await;
        observe(Moment::Begin).await;
        tokio::time::sleep_until(end.into()).await;
        observe(Moment::End).await;
    };
    tokio::join!(making, observing);
    drop(pacer);
    let now = Instant::now();
    for call in (made..due).filter(|call| counts(schedule.of(*call))) {
        tally.count_unanswered(now - schedule.of(call));
    }
    // Those that are open have waited since the end at least; which of them they are is not known any more.
    let all = (0..due).filter(|call| counts(schedule.of(*call))).count() as u64;
    let told = tally.committed + tally.aborted + tally.refused + tally.failed + tally.unanswered;
    for _ in told..all {
        tally.count_unanswered(now.saturating_duration_since(end));
    }
    tally.time = window.measured;
    Ok(tally)
}

fn count(
    tally: &mut Tally,
    done: Result<(Answer, Instant, Instant), tokio::task::JoinError>,
    counts: &impl Fn(Instant) -> bool,
) {
    match done {
        Ok((answer, intended, answered)) if counts(intended) => {
            tally.count(answer, answered - intended);
        }
        Ok(_) => {}
        // A bug of ours; nothing that is said after it could be believed.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const OFFERED: Offered =
        Offered { rate: 1000.0, open_max: 1000, patience: Duration::from_secs(5) };

    /// Answers at once, but for one call that stops the whole thread: whoever is due meanwhile cannot even
    /// be sent.
    #[derive(Clone)]
    struct Stalls {
        at: u64,
        stall: Duration,
    }

    impl Target for Stalls {
        async fn call(&self, _: usize, number: u64) -> Answer {
            if number == self.at {
                let (_nobody, never) = mpsc::channel::<()>();
                let _ = never.recv_timeout(self.stall);
            }
            Answer::Committed
        }
    }

    #[tokio::test]
    async fn a_stall_is_not_hidden() {
        let target = Stalls { at: 200, stall: 300 * MS };
        let window = Window { warm_up: Duration::ZERO, measured: 1000 * MS };
        let tally = run(&target, OFFERED, window, async |_| {}).await.expect("a thread");
        assert_eq!(tally.committed + tally.unanswered, 1000, "everybody who was due is counted");
        // 300 of 1000 were due during the stall, and have waited 150 ms in the mean. Counted from where
        // they were sent, one call of 1000 would show it.
        let stalled = tally.latency_us.count_between(100_000, u64::MAX);
        assert!((150..=250).contains(&stalled), "{stalled} waited more than 100 of the 300 ms");
        assert!(tally.percentile_ms(90.0) >= 150.0, "{}", tally.percentile_ms(90.0));
    }

    /// Never answers.
    #[derive(Clone, Default)]
    struct Silent {
        calls: Arc<AtomicU64>,
    }

    impl Target for Silent {
        async fn call(&self, _: usize, _: u64) -> Answer {
            self.calls.fetch_add(1, Ordering::Relaxed);
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn what_is_never_answered_or_never_sent_is_counted() {
        let target = Silent::default();
        let window = Window { warm_up: Duration::ZERO, measured: 200 * MS };
        let offered = Offered { open_max: 10, patience: 100 * MS, ..OFFERED };
        let tally = run(&target, offered, window, async |_| {}).await.expect("a thread");
        assert_eq!(target.calls.load(Ordering::Relaxed), 10, "the others had to wait");
        assert_eq!(tally.unanswered, 200);
        assert!(tally.percentile_ms(1.0) >= 99.0, "all have waited at least until the end");
        assert!(
            tally.percentile_ms(50.0) >= 150.0,
            "those that were never sent, since they were due"
        );
    }

    #[test]
    fn calls_are_due_at_the_rate() {
        let start = Instant::now();
        let at = |rate: f64, call| Schedule::new(start, rate).of(call) - start;
        assert_eq!(at(10.0, 5), 500 * MS);
        assert_eq!(at(1000.0, 999), 999 * MS);
        // 2,500 a second come three at a time, every 1.2 ms.
        assert_eq!(at(2500.0, 2), Duration::ZERO);
        assert_eq!(at(2500.0, 3), Duration::from_micros(1200));
        assert_eq!(at(2500.0, 2500).as_millis(), 999);
    }
}
