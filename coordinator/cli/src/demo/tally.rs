//! What has happened so far, counted by many and read by the display.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use handfast_client::{AbortCause, Error, TransactionId};
use hdrhistogram::Histogram;

/// The longest time that the histogram tells from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(300);
/// Most surprises that are kept word for word.
const SURPRISES_MAX: usize = 20;

/// Why a transfer did not take place. None of these is a failure of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AbortKind {
    /// The account holds less than was to be taken.
    NotEnoughMoney,
    /// Another transaction had the key.
    LockConflict,
    /// A participant voted no for another reason: it was restarted under the work, mostly.
    VotedNo,
    /// Not every vote came in time.
    Timeout,
    /// The coordinator was restarted before the decision.
    CoordinatorRestarted,
    /// A participant could not be reached, or lost the work of an open transaction.
    Interrupted,
    /// The coordinator could not be reached; nothing was done.
    NothingDone,
    /// Some other cause.
    Other,
}

impl AbortKind {
    /// For people.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::NotEnoughMoney => "not enough money",
            Self::LockConflict => "another transaction had the key",
            Self::VotedNo => "a participant voted no for another reason",
            Self::Timeout => "not every vote came in time",
            Self::CoordinatorRestarted => "the coordinator was killed before the decision",
            Self::Interrupted => "a participant was killed under open work",
            Self::NothingDone => "the coordinator was away, nothing was done",
            Self::Other => "other",
        }
    }

    /// For programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::NotEnoughMoney => "not_enough_money",
            Self::LockConflict => "lock_conflict",
            Self::VotedNo => "voted_no",
            Self::Timeout => "timeout",
            Self::CoordinatorRestarted => "coordinator_restarted",
            Self::Interrupted => "interrupted",
            Self::NothingDone => "nothing_done",
            Self::Other => "other",
        }
    }

    /// The kind of an abort that the coordinator, or a participant of an open transaction, has told.
    pub fn of(cause: AbortCause, message: &str) -> Self {
        let says = |parts: &[&str]| parts.iter().any(|part| message.contains(part));
        match cause {
            _ if says(&["below the floor"]) => Self::NotEnoughMoney,
            _ if says(&["is held by", "is awaited by", "wounded"]) => Self::LockConflict,
            AbortCause::VotedNo => Self::VotedNo,
            AbortCause::Timeout => Self::Timeout,
            AbortCause::Presumed => Self::CoordinatorRestarted,
            AbortCause::Unreachable | AbortCause::Client => Self::Interrupted,
            AbortCause::Unspecified => Self::Other,
        }
    }
}

/// The counts.
#[derive(Debug)]
pub struct Tally {
    committed: AtomicU64,
    repeated: AtomicU64,
    unknown: AtomicU64,
    resolved: AtomicU64,
    details: Mutex<Details>,
}

#[derive(Debug)]
struct Details {
    aborted: BTreeMap<AbortKind, u64>,
    latency_us: Histogram<u64>,
    slowest: Option<(Duration, TransactionId)>,
    samples: BTreeMap<AbortKind, String>,
    unknown_sample: Option<String>,
    surprises: Vec<String>,
}

impl Tally {
    /// Nothing has happened.
    pub fn new() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_MAX.as_micros() as u64, 3)
            .expect("three digits and a range above 2 make a histogram");
        Self {
            committed: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            resolved: AtomicU64::new(0),
            details: Mutex::new(Details {
                aborted: BTreeMap::new(),
                latency_us,
                slowest: None,
                samples: BTreeMap::new(),
                unknown_sample: None,
                surprises: Vec::new(),
            }),
        }
    }

    /// A transfer has committed, and its client was told after so long; `repeated` when only a retry of
    /// its request was told.
    pub fn committed(&self, after: Duration, id: TransactionId, repeated: bool) {
        self.committed.fetch_add(1, Ordering::Relaxed);
        self.repeated.fetch_add(repeated.into(), Ordering::Relaxed);
        let mut details = self.details();
        details.latency_us.saturating_record(after.as_micros() as u64);
        if details.slowest.is_none_or(|(slowest, _)| slowest < after) {
            details.slowest = Some((after, id));
        }
    }

    /// A transfer has not taken place.
    pub fn aborted(&self, kind: AbortKind, message: &str) {
        let mut details = self.details();
        *details.aborted.entry(kind).or_default() += 1;
        details.samples.entry(kind).or_insert_with(|| message.to_owned());
    }

    /// A client could not be told what became of its transfer.
    pub fn unknown(&self, error: &Error) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
        self.details().unknown_sample.get_or_insert_with(|| error.to_string());
    }

    /// A client that had not been told has been told after all; the transfer itself is counted apart.
    pub fn resolved(&self, committed: bool) {
        self.resolved.fetch_add(1, Ordering::Relaxed);
        if committed {
            // Its latency would be that of the demo's waiting, not of the system.
            self.committed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Something that no caller may ever see.
    pub fn surprise(&self, what: &str, error: &Error) {
        let mut details = self.details();
        if details.surprises.len() < SURPRISES_MAX {
            details.surprises.push(format!("{what}: {error}"));
        }
    }

    /// The counts as they are now.
    pub fn read(&self) -> Counts {
        let details = self.details();
        let quantile_ms = |quantile: f64| match details.latency_us.is_empty() {
            true => 0.0,
            false => details.latency_us.value_at_quantile(quantile) as f64 / 1000.0,
        };
        Counts {
            committed: self.committed.load(Ordering::Relaxed),
            repeated: self.repeated.load(Ordering::Relaxed),
            aborted: details.aborted.clone(),
            unknown: self.unknown.load(Ordering::Relaxed),
            resolved: self.resolved.load(Ordering::Relaxed),
            latency_p50_ms: quantile_ms(0.5),
            latency_p99_ms: quantile_ms(0.99),
            latency_max_ms: quantile_ms(1.0),
            slowest: details.slowest.map(|(_, id)| id),
            samples: details.samples.clone(),
            unknown_sample: details.unknown_sample.clone(),
            surprises: details.surprises.clone(),
        }
    }

    fn details(&self) -> MutexGuard<'_, Details> {
        // Counts are as good after a panic as before.
        self.details.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The counts at one moment.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub committed: u64,
    /// Those whose first answer was lost, and that a retry was told of.
    pub repeated: u64,
    pub aborted: BTreeMap<AbortKind, u64>,
    /// All that were ever unknown, resolved or not.
    pub unknown: u64,
    pub resolved: u64,
    /// Of transfers that committed and whose client was told at once. Milliseconds, as the others.
    pub latency_p50_ms: f64,
    pub latency_p99_ms: f64,
    pub latency_max_ms: f64,
    /// The one that took longest.
    pub slowest: Option<TransactionId>,
    /// One message of each kind of abort, as it came.
    pub samples: BTreeMap<AbortKind, String>,
    pub unknown_sample: Option<String>,
    pub surprises: Vec<String>,
}

impl Counts {
    /// How many transfers aborted.
    pub fn aborted_total(&self) -> u64 {
        self.aborted.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abort_is_sorted_by_what_it_says() {
        let check = |cause, message: &str, kind| assert_eq!(AbortKind::of(cause, message), kind);
        let no = AbortCause::VotedNo;
        check(no, "key \"k\": 5 + -10 is below the floor of 0", AbortKind::NotEnoughMoney);
        check(no, "key \"k\" is held by 0000 (prepared 1 s ago)", AbortKind::LockConflict);
        check(AbortCause::Unspecified, "wounded by older transaction 7", AbortKind::LockConflict);
        check(no, "the disk is full", AbortKind::VotedNo);
        check(AbortCause::Presumed, "nobody remembers", AbortKind::CoordinatorRestarted);
        check(AbortCause::Unspecified, "", AbortKind::Other);
    }

    #[test]
    fn what_was_unknown_is_counted_once_more_when_it_is_known() {
        let tally = Tally::new();
        let id = "0007-02-0000000012-00000000000004d2".parse().expect("an id");
        tally.committed(Duration::from_millis(2), id, true);
        let error = Error::NoRandomness { message: "a test".into() };
        tally.unknown(&error);
        tally.unknown(&error);
        tally.resolved(true);
        tally.resolved(false);
        let counts = tally.read();
        assert_eq!((counts.committed, counts.unknown, counts.resolved), (2, 2, 2));
        assert_eq!((counts.repeated, counts.slowest), (1, Some(id)));
        assert!((1.9..2.1).contains(&counts.latency_p50_ms), "{counts:?}");
    }
}
