//! What is called in a loop, and what the calls came to.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest time that a histogram tells from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(600);

/// Something that can be called many times at once.
pub trait Target: Clone + Send + Sync + 'static {
    /// One call, to its answer. `caller` is one of those that work side by side, and `number` counts the calls:
    /// of the caller in a closed loop, where it makes one at a time, and of all callers in an open one, where
    /// each makes [`CALLS_IN_A_ROW`](crate::bench::workload::CALLS_IN_A_ROW) of them.
    fn call(&self, caller: usize, number: u64) -> impl Future<Output = Answer> + Send;
}

/// What a call came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Committed.
    Committed,
    /// Aborted; why, in a sentence.
    Aborted(String),
    /// There was too much in flight; nothing was done.
    Refused,
    /// Anything else; why, in a sentence.
    Failed(String),
}

/// How long a load runs: a time that is not counted, and one that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub warm_up: Duration,
    pub measured: Duration,
}

/// The ends of the time that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Begin,
    End,
}

/// What the calls of one window came to.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Of the calls that committed or aborted, in microseconds.
    pub latency_us: Histogram<u64>,
    pub committed: u64,
    pub aborted: u64,
    /// Why the first of them aborted.
    pub abort: Option<String>,
    pub refused: u64,
    pub failed: u64,
    /// The first of the failures.
    pub failure: Option<String>,
    /// Open loops: calls that were due and had no answer, or were not even made, when the time was up. Their
    /// latency is counted as what it was by then.
    pub unanswered: u64,
    /// The time that was counted.
    pub time: Duration,
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_MAX.as_micros() as u64, 3)
            .expect("three digits and a range above 2 make a histogram");
        Self {
            latency_us,
            committed: 0,
            aborted: 0,
            abort: None,
            refused: 0,
            failed: 0,
            failure: None,
            unanswered: 0,
            time: Duration::ZERO,
        }
    }

    /// Counts an answer that took so long.
    pub fn count(&mut self, answer: Answer, latency: Duration) {
        match answer {
            Answer::Committed => self.committed += 1,
            Answer::Aborted(why) => {
                self.aborted += 1;
                self.abort.get_or_insert(why);
            }
            Answer::Refused => {
                self.refused += 1;
                return;
            }
            Answer::Failed(why) => {
                self.failed += 1;
                self.failure.get_or_insert(why);
                return;
            }
        }
        self.latency(latency);
    }

    /// Counts a call that has waited so long, and is not answered.
    pub fn count_unanswered(&mut self, waited: Duration) {
        self.unanswered += 1;
        self.latency(waited);
    }

    fn latency(&mut self, latency: Duration) {
        let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency_us.saturating_record(latency_us.max(1));
    }

    /// Of a hundred calls, so many were faster; in milliseconds.
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        self.latency_us.value_at_percentile(percent) as f64 / 1000.0
    }

    /// The mean, in microseconds.
    pub fn mean_us(&self) -> f64 {
        self.latency_us.mean()
    }

    /// A second.
    pub fn rate(&self, count: u64) -> f64 {
        count as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_has_no_latency_and_what_is_unanswered_has() {
        let mut tally = Tally::new();
        tally.time = Duration::from_secs(2);
        tally.count(Answer::Committed, Duration::from_millis(10));
        tally.count(Answer::Refused, Duration::from_millis(1));
        tally.count(Answer::Failed("first".into()), Duration::from_millis(1));
        tally.count(Answer::Failed("second".into()), Duration::from_millis(1));
        assert_eq!(tally.latency_us.len(), 1);
        tally.count_unanswered(Duration::from_secs(3600));
        assert!(tally.percentile_ms(99.0) > 500_000.0, "longer than can be told is the longest");
        assert_eq!((tally.refused, tally.failed, tally.unanswered), (1, 2, 1));
        assert_eq!(tally.failure.as_deref(), Some("first"));
        assert!((tally.rate(tally.committed) - 0.5).abs() < 1e-9);
    }
}
