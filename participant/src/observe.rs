//! What people see of the engine: structured log lines and metrics.
//!
//! Nothing is decided here. Alarms are errors, and are counted: one is worth waking somebody.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use handfast_commit_core::id::ParticipantName;
use handfast_commit_core::three_phase::Standing;
use handfast_commit_core::two_phase::participant::{Ending, Event, OpenBranch};
use handfast_journal::WriterObserver;

/// What every branch counts up. Looked up once: by name it would take as long as the rest of a note.
#[derive(Debug)]
pub(crate) struct Counters {
    prepared: metrics::Counter,
    committed: metrics::Counter,
    aborted: metrics::Counter,
    read_only: metrics::Counter,
}

impl Counters {
    /// Of the recorder that there is now.
    pub(crate) fn new() -> Self {
        const ENDED: &str = "handfast_participant_branches_ended_total";
        let ended = |ending: &'static str| metrics::counter!(ENDED, "ending" => ending);
        Self {
            prepared: metrics::counter!("handfast_participant_prepared_total"),
            committed: ended("committed"),
            aborted: ended("aborted"),
            read_only: ended("read_only"),
        }
    }
}

/// Says what has happened.
pub(crate) fn note(counters: &Counters, participant: &ParticipantName, event: &Event) {
    match event {
        Event::Prepared { id } => {
            counters.prepared.increment(1);
            tracing::debug!(transaction = %id, %participant, "prepared");
        }
        Event::Ended { id, ending, was_prepared } => {
            let (counter, ending) = match ending {
                Ending::Committed => (&counters.committed, "committed"),
                Ending::Aborted => (&counters.aborted, "aborted"),
                Ending::ReadOnly => (&counters.read_only, "read_only"),
            };
            counter.increment(1);
            tracing::debug!(transaction = %id, %participant, was_prepared, "{ending}");
        }
        Event::Blocked { id, waiting_for } => {
            metrics::counter!("handfast_participant_blocked_total").increment(1);
            // A hundred thousand branches in doubt wait for the same coordinator, and say so again and
            // again: the log tells of one a second, ListInDoubt of all.
            static LAST: Limiter = Limiter::new();
            if LAST.once_a_second() {
                tracing::warn!(
                    transaction = %id,
                    %participant,
                    waiting_for,
                    "in doubt and blocked: waiting for {waiting_for}"
                );
            }
        }
        Event::Elects { id, ballot } => {
            metrics::counter!("handfast_participant_elections_total").increment(1);
            // A coordinator that is gone leaves many transactions behind, each with an election of its own.
            static LAST: Limiter = Limiter::new();
            if LAST.once_a_second() {
                tracing::info!(
                    transaction = %id,
                    %participant,
                    %ballot,
                    "leads an election: nobody else has ended the transaction"
                );
            }
        }
        Event::Terminated { id, committed } => {
            let outcome = if *committed { "committed" } else { "aborted" };
            metrics::counter!("handfast_participant_terminations_total", "outcome" => outcome)
                .increment(1);
            static LAST: Limiter = Limiter::new();
            if LAST.once_a_second() {
                tracing::info!(transaction = %id, %participant, "{outcome} by an election led here");
            }
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
    /// Three-phase commit: of those in doubt, that have moved towards commit and towards abort.
    pub(crate) pre_committed: usize,
    pub(crate) pre_aborted: usize,
    /// Three-phase commit: of those in doubt, whose termination this participant leads.
    pub(crate) led: usize,
    /// Three-phase commit: decided, and not known to be decided everywhere.
    pub(crate) unforgotten: usize,
}

impl OpenCounts {
    /// Counts one more.
    pub(crate) fn add(&mut self, branch: &OpenBranch) {
        if branch.one_phase.is_some() {
            self.one_phase += 1;
            return;
        }
        self.in_doubt += 1;
        let oldest = self.oldest_ms.unwrap_or(branch.since_ms);
        self.oldest_ms = Some(oldest.min(branch.since_ms));
        if let Some(site) = &branch.site {
            match site.standing {
                Standing::Waiting => {}
                Standing::PreCommitted => self.pre_committed += 1,
                Standing::PreAborted => self.pre_aborted += 1,
            }
            self.led += usize::from(site.wanted > 0);
        }
    }

    pub(crate) fn show(self, now_ms: u64) {
        let age_ms = self.oldest_ms.map_or(0, |oldest| now_ms.saturating_sub(oldest));
        metrics::gauge!("handfast_participant_in_doubt").set(self.in_doubt as f64);
        metrics::gauge!("handfast_participant_in_doubt_oldest_age_seconds")
            .set(age_ms as f64 / 1000.0);
        metrics::gauge!("handfast_participant_one_phase_kept").set(self.one_phase as f64);
        metrics::gauge!("handfast_participant_pre_committed").set(self.pre_committed as f64);
        metrics::gauge!("handfast_participant_pre_aborted").set(self.pre_aborted as f64);
        metrics::gauge!("handfast_participant_terminations_led").set(self.led as f64);
        metrics::gauge!("handfast_participant_decisions_kept").set(self.unforgotten as f64);
    }
}

/// Says yes to the first of each second.
struct Limiter(AtomicU64);

impl Limiter {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn once_a_second(&self) -> bool {
        let now = handfast_runtime::clock::wall_ms() / 1000;
        self.0.swap(now, Ordering::Relaxed) != now
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
