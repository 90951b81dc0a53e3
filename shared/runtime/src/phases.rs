//! How long the phases of a transaction take: a histogram for operators, and for whoever tunes.
//!
//! One of sixteen transactions is measured, so that the others pay a multiplication and nothing else. Which
//! ones follows from the id: all processes measure the same transactions.
//!
//! Absent on purpose: any influence. Nothing is decided by what is measured here.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use handfast_commit_core::id::TransactionId;

/// Most transactions that are measured at a time. Then all are given up: those whose end nobody tells of must
/// take neither more and more memory nor the place of those that come.
const OPEN_MAX: usize = 10_000;

/// Measures phases under one metric, a histogram in seconds with the label `phase`.
#[derive(Debug)]
pub struct Phases {
    metric: &'static str,
    open: Mutex<HashMap<TransactionId, Times>>,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    /// Where the present phase began.
    since: Instant,
    /// Where it may have ended.
    marked: Option<Instant>,
}

impl Phases {
    /// Under a metric, whose name ends in `_seconds`.
    #[must_use]
    pub fn new(metric: &'static str) -> Self {
        Self { metric, open: Mutex::default() }
    }

    /// The first phase begins.
    pub fn begin(&self, id: TransactionId) {
        if !is_measured(id) {
            return;
        }
        let mut open = self.lock();
        if open.len() >= OPEN_MAX {
            open.clear();
        }
        open.insert(id, Times { since: Instant::now(), marked: None });
    }

    /// The present phase ends here, unless something comes that belongs to it: the last mark counts.
    pub fn mark(&self, id: TransactionId) {
        if is_measured(id)
            && let Some(times) = self.lock().get_mut(&id)
        {
            times.marked = Some(Instant::now());
        }
    }

    /// The present phase, which was this one, has ended at the last mark; now if there was none.
    pub fn ended_at_mark(&self, id: TransactionId, phase: &'static str) {
        self.end(id, phase, |times| times.marked);
    }

    /// The present phase, which was this one, has ended.
    pub fn ended(&self, id: TransactionId, phase: &'static str) {
        self.end(id, phase, |_| None);
    }

    /// No phase follows, and the present one is not counted.
    pub fn forget(&self, id: TransactionId) {
        if is_measured(id) {
            self.lock().remove(&id);
        }
    }

    fn end(&self, id: TransactionId, phase: &'static str, at: fn(&Times) -> Option<Instant>) {
        if !is_measured(id) {
            return;
        }
        let mut open = self.lock();
        let Some(times) = open.get_mut(&id) else { return };
        let end = at(times).unwrap_or_else(Instant::now);
        let took = end.saturating_duration_since(times.since);
        *times = Times { since: end, marked: None };
        drop(open);
        metrics::histogram!(self.metric, "phase" => phase).record(took);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TransactionId, Times>> {
        // The map is whole between any two of its calls, whoever panicked in between.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of sixteen, evenly spread over whatever numbering the ids have.
fn is_measured(id: TransactionId) -> bool {
    id.sequence().0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60 == 0
}

#[cfg(test)]
mod tests {
    use handfast_commit_core::id::{Epoch, Protocol, Sequence, Slot};
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    fn id(sequence: u64) -> TransactionId {
        TransactionId::new(Slot(0), Protocol::TwoPhase, Epoch(1), Sequence(sequence))
    }

    #[test]
    fn one_of_sixteen_is_measured_whatever_the_numbering() {
        for step in [1, 2, 16, 64] {
            let count = (0..16_000).filter(|n| is_measured(id(n * step))).count();
            assert!((900..1100).contains(&count), "{count} of those that are {step} apart");
        }
    }

    #[test]
    fn phases_follow_each_other_and_end_at_the_last_mark() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let page = recorder.handle();
        let phases = Phases::new("test_phase_seconds");
        let ids: Vec<_> = (0..1000).map(id).filter(|id| is_measured(*id)).take(3).collect();
        metrics::with_local_recorder(&recorder, || {
            for id in &ids {
                phases.begin(*id);
                phases.mark(*id);
                let first = phases.lock()[id].marked;
                phases.mark(*id);
                assert!(phases.lock()[id].marked >= first && first.is_some());
                let last = phases.lock()[id].marked;
                phases.ended_at_mark(*id, "prepare");
                assert_eq!(Some(phases.lock()[id].since), last);
            }
            phases.ended(ids[0], "decide");
            phases.forget(ids[1]);
            phases.ended(ids[1], "decide");
        });
        let page = page.render();
        for line in ["_count{phase=\"prepare\"} 3", "_count{phase=\"decide\"} 1"] {
            assert!(page.contains(&format!("test_phase_seconds{line}")), "{page}");
        }
    }

    #[test]
    fn those_that_never_end_take_no_more_than_their_share() {
        let phases = Phases::new("test_phase_seconds");
        for id in (0..40 * OPEN_MAX as u64).map(id) {
            phases.begin(id);
            assert!(phases.lock().len() <= OPEN_MAX);
            assert_eq!(phases.lock().contains_key(&id), is_measured(id), "the latest is measured");
        }
    }
}
