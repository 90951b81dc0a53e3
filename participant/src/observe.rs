//! What people see of the engine: structured log lines and metrics.
//!
//! Nothing is decided here. Alarms are errors, and are counted: one is worth waking somebody.

use std::time::Duration;

use handfast_commit_core::id::ParticipantName;
use handfast_commit_core::two_phase::participant::{Ending, Event};
use handfast_journal::WriterObserver;

/// Says what has happened.
pub(crate) fn note(participant: &ParticipantName, event: &Event) {
    match event {
        Event::Prepared { id } => {
            metrics::counter!("handfast_participant_prepared_total").increment(1);
            tracing::debug!(transaction = %id, %participant, "prepared");
        }
        Event::Ended { id, ending, was_prepared } => {
            let ending = match ending {
                Ending::Committed => "committed",
                Ending::Aborted => "aborted",
                Ending::ReadOnly => "read_only",
            };
            metrics::counter!("handfast_participant_branches_ended_total", "ending" => ending)
                .increment(1);
            tracing::debug!(transaction = %id, %participant, was_prepared, "{ending}");
        }
        Event::Blocked { id, waiting_for } => {
            metrics::counter!("handfast_participant_blocked_total").increment(1);
            // A hundred thousand branches in doubt wait for the same coordinator, and say so again and
            // again: the log tells of one a second, ListInDoubt of all.
            if once_a_second() {
                tracing::warn!(
                    transaction = %id,
                    %participant,
                    waiting_for,
                    "in doubt and blocked: waiting for {waiting_for}"
                );
            }
        }
        Event::Elects { id, ballot } => {
            tracing::info!(transaction = %id, %participant, %ballot, "leads an election");
        }
        Event::Terminated { id, committed } => {
            tracing::info!(transaction = %id, %participant, committed, "ended by an election");
        }
        Event::ResourceFailed { id, reason } => {
            metrics::counter!("handfast_participant_resource_failures_total").increment(1);
            tracing::warn!(
                transaction = %id,
                %participant,
                "the resource could not finish a branch, and is asked again: {reason}"
            );
        }
        Event::Alarm { id, alarm } => {
            metrics::counter!("handfast_participant_alarms_total").increment(1);
            tracing::error!(transaction = %id, %participant, "ALARM: {alarm}");
        }
    }
}

/// How many branches are open, for the gauges.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenCounts {
    pub(crate) in_doubt: usize,
    pub(crate) one_phase: usize,
    /// Wall clock, milliseconds since 1970; of the oldest in doubt.
    pub(crate) oldest_ms: Option<u64>,
}

impl OpenCounts {
    pub(crate) fn show(self, now_ms: u64) {
        let age_ms = self.oldest_ms.map_or(0, |oldest| now_ms.saturating_sub(oldest));
        metrics::gauge!("handfast_participant_in_doubt").set(self.in_doubt as f64);
        metrics::gauge!("handfast_participant_in_doubt_oldest_age_seconds")
            .set(age_ms as f64 / 1000.0);
        metrics::gauge!("handfast_participant_one_phase_kept").set(self.one_phase as f64);
    }
}

/// Measures the log.
pub(crate) struct LogObserver;

impl WriterObserver for LogObserver {
    fn batch(&self, submissions: usize, mutations: usize, bytes: usize, sync: Duration) {
        metrics::histogram!("handfast_log_batch_submissions").record(submissions as f64);
        metrics::histogram!("handfast_log_sync_seconds").record(sync);
        metrics::counter!("handfast_log_bytes_total").increment(bytes as u64);
        metrics::counter!("handfast_log_mutations_total").increment(mutations as u64);
    }
}
/// True for the first call of each second.
fn once_a_second() -> bool {
    use std::sync::atomic::{AtomicU64, Ordering};
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = handfast_runtime::clock::wall_ms() / 1000;
    LAST.swap(now, Ordering::Relaxed) != now
}
