//! The timers of one shard: at most one for each key, the next one always at hand.
//!
//! Nearly every timer is cleared long before it runs out, so clearing is cheap: what is in the heap and not in
//! the map any more, or not with that time, is skipped when its turn comes. When most of the heap is of that
//! kind it is made anew, so that the memory stays in proportion to what is set.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};

use foldhash::fast::FixedState;

use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_commit_core::step::{Time, TimerKey};

/// A heap of fewer is never made anew.
const STALE_MIN: usize = 1024;

/// Timers by key and by time.
#[derive(Debug, Default)]
pub struct Timers {
    by_key: HashMap<TimerKey, Time, FixedState>,
    /// All of `by_key`, and some that are not any more. The first of all is one that is.
    by_time: BinaryHeap<Reverse<(Time, TimerKey)>>,
}

impl Timers {
    /// Sets the key's timer, or clears it. The one before is gone.
    pub fn set(&mut self, key: TimerKey, at: Option<Time>) {
        // Only then may the first of all be one that is not any more.
        let first = self.by_time.peek().is_some_and(|Reverse((_, first))| *first == key);
        match (self.by_key.entry(key), at) {
            (Entry::Vacant(_), None) => return,
            (Entry::Vacant(entry), Some(at)) => {
                self.by_time.push(Reverse((at, entry.key().clone())));
                entry.insert(at);
            }
            (Entry::Occupied(entry), Some(at)) if *entry.get() == at => return,
            (Entry::Occupied(mut entry), Some(at)) => {
                self.by_time.push(Reverse((at, entry.key().clone())));
                entry.insert(at);
            }
            (Entry::Occupied(entry), None) => {
                entry.remove();
            }
        }
        if self.by_time.len() > STALE_MIN.max(2 * self.by_key.len()) {
            let all = self.by_key.iter().map(|(key, at)| Reverse((*at, key.clone())));
            self.by_time = all.collect();
        }
        if first {
            self.skip_stale();
        }
    }

    fn skip_stale(&mut self) {
        while let Some(Reverse((at, key))) = self.by_time.peek()
            && self.by_key.get(key) != Some(at)
            && !mutant(Mutant::OldTimerKept)
        {
            self.by_time.pop();
        }
    }

    /// When the next one runs out.
    #[must_use]
    pub fn next(&self) -> Option<Time> {
        self.by_time.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes out one that has run out.
    pub fn pop(&mut self, now: Time) -> Option<TimerKey> {
        let Reverse((at, _)) = self.by_time.peek()?;
        if *at > now {
            return None;
        }
        let Reverse((_, key)) = self.by_time.pop()?;
        self.by_key.remove(&key);
        self.skip_stale();
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
    use std::collections::BTreeMap;

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

    #[test]
    fn what_is_cleared_takes_no_memory_for_long() {
        let mut timers = Timers::default();
        timers.set(key(0), Some(Time(1_000_000)));
        for sequence in 1..100_000 {
            timers.set(key(sequence), Some(Time(sequence)));
            timers.set(key(sequence), None);
            assert!(timers.by_time.len() <= STALE_MIN + 1, "{}", timers.by_time.len());
        }
        assert_eq!((timers.len(), timers.next()), (1, Some(Time(1_000_000))));
    }

    /// Against the plain way: all keys, looked through every time.
    #[test]
    fn whatever_is_set_and_cleared_the_next_one_is_the_next() {
        let mut plain = BTreeMap::new();
        let mut timers = Timers::default();
        let mut random = 1_u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (sequence, at) = (random >> 60, Time(random >> 50 & 0xff));
            match random >> 32 & 3 {
                0 => {
                    timers.set(key(sequence), None);
                    plain.remove(&sequence);
                }
                1 => {
                    let popped = timers.pop(at);
                    let first = plain.iter().map(|(sequence, at)| (*at, *sequence)).min();
                    let first = first.filter(|(due, _)| *due <= at).map(|(_, sequence)| sequence);
                    assert_eq!(popped, first.map(key));
                    first.map(|sequence| plain.remove(&sequence));
                }
                _ => {
                    timers.set(key(sequence), Some(at));
                    plain.insert(sequence, at);
                }
            }
            assert_eq!(timers.next(), plain.values().min().copied());
            assert_eq!(timers.len(), plain.len());
        }
    }
}
