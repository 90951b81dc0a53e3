//! The timers of one shard: at most one for each key, the next one always at hand.

use std::collections::{BTreeMap, BTreeSet};

use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_commit_core::step::{Time, TimerKey};

/// Timers by key and by time.
#[derive(Debug, Default)]
pub struct Timers {
    by_key: BTreeMap<TimerKey, Time>,
    by_time: BTreeSet<(Time, TimerKey)>,
}

impl Timers {
    /// Sets the key's timer, or clears it. The one before is gone.
    pub fn set(&mut self, key: TimerKey, at: Option<Time>) {
        let before = match at {
            Some(at) => self.by_key.insert(key.clone(), at),
            None => self.by_key.remove(&key),
        };
        if let Some(before) = before
            && !mutant(Mutant::OldTimerKept)
        {
            self.by_time.remove(&(before, key.clone()));
        }
        if let Some(at) = at {
            self.by_time.insert((at, key));
        }
    }

    /// When the next one runs out.
    #[must_use]
    pub fn next(&self) -> Option<Time> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes out one that has run out.
    pub fn pop(&mut self, now: Time) -> Option<TimerKey> {
        let (at, _) = self.by_time.first()?;
        if *at > now {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }

    /// How many are set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// True when none is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(sequence: u64) -> TimerKey {
        use handfast_commit_core::id::{Epoch, Protocol, Sequence, Slot, TransactionId};
        let sequence = Sequence(sequence);
        TimerKey::Transaction(TransactionId::new(Slot(0), Protocol::TwoPhase, Epoch(1), sequence))
    }

    #[test]
    fn each_key_has_its_last_timer_only() {
        let mut timers = Timers::default();
        timers.set(key(1), Some(Time(10)));
        timers.set(key(2), Some(Time(20)));
        timers.set(key(1), Some(Time(30)));
        assert_eq!(timers.next(), Some(Time(20)));
        assert_eq!(timers.pop(Time(19)), None);
        assert_eq!(timers.pop(Time(25)), Some(key(2)));
        timers.set(key(1), None);
        assert_eq!(timers.next(), None);
        assert!(timers.is_empty());
    }
}
