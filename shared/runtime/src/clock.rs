//! Where time comes from. The core is told the time; this is who tells it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use handfast_commit_core::step::{Now, Time};

/// A monotonic clock for decisions, and a wall clock for people.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// The time on both clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        Now { at: self.time(), wall_ms: wall_ms() }
    }

    /// The time on the monotonic clock.
    #[must_use]
    pub fn time(&self) -> Time {
        Time(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The same moment on the monotonic clock of this process.
    #[must_use]
    pub fn instant(&self, time: Time) -> Option<Instant> {
        self.start.checked_add(std::time::Duration::from_micros(time.0))
    }
}

/// The wall clock, milliseconds since 1970; 0 before that.
#[must_use]
pub fn wall_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
