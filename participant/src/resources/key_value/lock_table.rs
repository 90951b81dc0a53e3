//! Shared and exclusive locks on keys, and who waits for whom.
//!
//! **A transaction waits only for older ones.** Every edge "waits for" thus goes from a larger to a
//! smaller [`TransactionId`], in this table and in every other one of the same transaction, and edges
//! that all fall cannot close a circle: there are no deadlocks to detect, on one participant or across
//! several. (Rosenkrantz, Stearns, Lewis 1978, wound-wait; a prepared branch cannot be wounded, there the
//! requester dies as in wait-die.)
//!
//! | the conflicting one is | and | the requester |
//! | --- | --- | --- |
//! | older | holds the lock, or waits for it | waits |
//! | younger | waits | goes ahead of it: the queue is ordered by age |
//! | younger | holds the lock, unprepared | wounds it: it loses all its locks at once |
//! | younger | holds the lock, prepared | dies |
//!
//! A wounded transaction loses its locks even while its operations run. What they read from then on may
//! be inconsistent; it goes nowhere, since whoever runs them learns of the wound before it answers.
//!
//! Pure: no clock, no tasks. Whoever has this table wakes those whom a change has let in. Absent on
//! purpose: fairness towards the wounded. One that tries again is a new and younger transaction.

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::RandomState;
use handfast_commit_core::id::TransactionId;
use handfast_commit_core::mutants::{Mutant, mutant};
use prost::bytes::Bytes;

/// How a lock is held. An exclusive lock includes a shared one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// For reading; compatible with others of its kind.
    Shared,
    /// For writing; compatible with nothing.
    Exclusive,
}

impl Mode {
    fn conflicts(self, other: Mode) -> bool {
        self == Mode::Exclusive || other == Mode::Exclusive
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The lock is held.
    Granted,
    /// The request is in the queue; the lock is held when [`Effects::granted`] names its transaction.
    Waits,
    /// The lock cannot be had without waiting for a younger transaction, which has prepared.
    Dies { holder: TransactionId },
}

/// What a change did to other transactions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    /// They hold and await nothing any more and must be told.
    pub(super) wounded: Vec<TransactionId>,
    /// What they waited for is theirs.
    pub(super) granted: Vec<TransactionId>,
}

/// Who is in the way of a waiting transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocker {
    /// Holds the lock.
    Holder(TransactionId),
    /// Waits for the lock as well, and is older.
    Waiter(TransactionId),
}

#[derive(Debug, Default)]
struct KeyLocks {
    holders: BTreeMap<TransactionId, Mode>,
    waiters: BTreeMap<TransactionId, Mode>,
}

impl KeyLocks {
    fn conflicting_holders(
        &self,
        id: TransactionId,
        mode: Mode,
    ) -> impl Iterator<Item = TransactionId> {
        self.holders
            .iter()
            .filter(move |(holder, held)| **holder != id && mode.conflicts(**held))
            .map(|(holder, _)| *holder)
    }

    fn conflicting_older_waiters(
        &self,
        id: TransactionId,
        mode: Mode,
    ) -> impl Iterator<Item = TransactionId> {
        self.waiters
            .range(..id)
            .filter(move |(_, wanted)| mode.conflicts(**wanted))
            .map(|(waiter, _)| *waiter)
    }

    fn is_unused(&self) -> bool {
        self.holders.is_empty() && self.waiters.is_empty()
    }
}

#[derive(Debug, Default)]
struct Owner {
    /// Each once, in the order in which they came.
    held: Vec<Bytes>,
    waits_for: Option<Bytes>,
    prepared: bool,
}

/// The locks of one store.
#[derive(Debug, Default)]
pub(super) struct LockTable {
    keys: HashMap<Bytes, KeyLocks, RandomState>,
    owners: HashMap<TransactionId, Owner, RandomState>,
}

impl LockTable {
    /// Asks for a lock. A transaction asks for one at a time, and for none after it has prepared.
    pub(super) fn request(
        &mut self,
        id: TransactionId,
        key: &Bytes,
        mode: Mode,
    ) -> (Answer, Effects) {
        let mut effects = Effects::default();
        let owner = self.owners.entry(id).or_default();
        assert!(owner.waits_for.is_none(), "{id} asks for a lock while it waits for another");
        assert!(!owner.prepared, "{id} asks for a lock after it has prepared");
        let locks = self.keys.entry(key.clone()).or_default();
        let enough = |held: &Mode| *held >= mode || mutant(Mutant::UpgradeIgnored);
        if locks.holders.get(&id).is_some_and(enough) {
            return (Answer::Granted, effects);
        }
        if locks.waiters.is_empty() && locks.conflicting_holders(id, mode).next().is_none() {
            if locks.holders.insert(id, mode).is_none() {
                owner.held.push(key.clone());
            }
            return (Answer::Granted, effects);
        }
        let younger: Vec<_> =
            locks.conflicting_holders(id, mode).filter(|holder| *holder > id).collect();
        // Nobody is wounded for a request that dies anyway.
        let prepared =
            |holder: &TransactionId| self.owners.get(holder).is_some_and(|owner| owner.prepared);
        if let Some(holder) = younger.iter().copied().find(prepared) {
            return (Answer::Dies { holder }, effects);
        }
        locks.waiters.insert(id, mode);
        owner_of(&mut self.owners, id).waits_for = Some(key.clone());
        // In the queue before the wounded let go, so that what they let go is given out by age.
        let mut freed = vec![key.clone()];
        for victim in younger {
            freed.extend(self.detach(victim));
            effects.wounded.push(victim);
        }
        effects.granted = self.promote(&freed);
        let before = effects.granted.len();
        effects.granted.retain(|granted| *granted != id);
        let answer = if effects.granted.len() < before { Answer::Granted } else { Answer::Waits };
        (answer, effects)
    }

    /// Takes a lock for a branch that an earlier process prepared.
    ///
    /// # Errors
    /// When another branch holds it in a conflicting mode, which it names.
    pub(super) fn adopt(
        &mut self,
        id: TransactionId,
        key: &Bytes,
        mode: Mode,
    ) -> Result<(), TransactionId> {
        let locks = self.keys.entry(key.clone()).or_default();
        if let Some(holder) = locks.conflicting_holders(id, mode).next() {
            return Err(holder);
        }
        match locks.holders.insert(id, mode) {
            Some(held) => {
                locks.holders.insert(id, held.max(mode));
            }
            None => self.owners.entry(id).or_default().held.push(key.clone()),
        }
        Ok(())
    }

    /// From now on the transaction cannot be wounded.
    pub(super) fn prepare(&mut self, id: TransactionId) {
        if let Some(owner) = self.owners.get_mut(&id) {
            assert!(owner.waits_for.is_none(), "{id} prepares while it waits for a lock");
            owner.prepared = !mutant(Mutant::PreparedWounded);
        }
    }

    /// Takes a waiting request back; what the transaction holds stays.
    pub(super) fn withdraw(&mut self, id: TransactionId) -> Effects {
        let Some(key) = self.owners.get_mut(&id).and_then(|owner| owner.waits_for.take()) else {
            return Effects::default();
        };
        if let Some(locks) = self.keys.get_mut(&key) {
            locks.waiters.remove(&id);
        }
        self.effects_of(vec![key])
    }

    /// Gives up everything that the transaction holds or waits for.
    pub(super) fn release(&mut self, id: TransactionId) -> Effects {
        let freed = self.detach(id);
        self.effects_of(freed)
    }

    /// What the transaction holds a key in.
    #[cfg(test)]
    pub(super) fn held(&self, id: TransactionId, key: &Bytes) -> Option<Mode> {
        self.keys.get(key).and_then(|locks| locks.holders.get(&id)).copied()
    }

    /// How many keys the transaction holds.
    pub(super) fn held_count(&self, id: TransactionId) -> usize {
        self.owners.get(&id).map_or(0, |owner| owner.held.len())
    }

    /// The keys that the transaction holds.
    pub(super) fn held_keys(&self, id: TransactionId) -> impl Iterator<Item = &Bytes> {
        self.owners.get(&id).into_iter().flat_map(|owner| &owner.held)
    }

    /// Who is in the way of a waiting transaction: the oldest holder, or else the oldest waiter.
    pub(super) fn blocker(&self, id: TransactionId) -> Option<Blocker> {
        let key = self.owners.get(&id)?.waits_for.as_ref()?;
        let locks = self.keys.get(key)?;
        let mode = *locks.waiters.get(&id)?;
        let holder = locks.conflicting_holders(id, mode).next().map(Blocker::Holder);
        holder.or_else(|| locks.conflicting_older_waiters(id, mode).next().map(Blocker::Waiter))
    }

    /// Takes a transaction out of the table; returns the keys where that may let others in.
    fn detach(&mut self, id: TransactionId) -> Vec<Bytes> {
        let Some(owner) = self.owners.remove(&id) else {
            return Vec::new();
        };
        let mut freed = owner.held;
        for key in &freed {
            if let Some(locks) = self.keys.get_mut(key) {
                locks.holders.remove(&id);
            }
        }
        if let Some(key) = owner.waits_for {
            if let Some(locks) = self.keys.get_mut(&key) {
                locks.waiters.remove(&id);
            }
            freed.push(key);
        }
        freed
    }

    fn effects_of(&mut self, freed: Vec<Bytes>) -> Effects {
        Effects { wounded: Vec::new(), granted: self.promote(&freed) }
    }

    /// Grants what can be granted on these keys, oldest first. A key may be among them twice.
    fn promote(&mut self, keys: &[Bytes]) -> Vec<TransactionId> {
        let mut granted = Vec::new();
        for key in keys {
            let Some(locks) = self.keys.get_mut(key) else {
                continue;
            };
            while let Some((id, mode)) =
                locks.waiters.first_key_value().map(|(id, mode)| (*id, *mode))
            {
                // Stopping at the first that must wait is the rule that nobody overtakes: one that
                // waits conflicts with all behind it, or an exclusive holder does.
                if locks.conflicting_holders(id, mode).next().is_some() {
                    break;
                }
                locks.waiters.remove(&id);
                let is_new = locks.holders.insert(id, mode).is_none();
                let owner = owner_of(&mut self.owners, id);
                owner.waits_for = None;
                if is_new {
                    owner.held.push(key.clone());
                }
                granted.push(id);
            }
            #[cfg(test)]
            assert_eq!(younger_in_the_way(locks), None, "a transaction waits for a younger one");
            if locks.is_unused() {
                self.keys.remove(key);
            }
        }
        granted
    }

    /// The law: whoever waits is younger than everything it waits for.
    #[cfg(test)]
    pub(super) fn invariant_waits_only_for_older(&self) {
        for (key, locks) in &self.keys {
            assert_eq!(younger_in_the_way(locks), None, "on key {key:?}");
        }
    }

    /// Both halves of the table say the same, and nothing is left of those who are gone.
    #[cfg(test)]
    pub(super) fn invariant_halves_agree(&self) {
        for (id, owner) in &self.owners {
            for key in &owner.held {
                assert!(self.held(*id, key).is_some(), "{id} holds {key:?} on one side only");
            }
            if let Some(key) = &owner.waits_for {
                assert!(
                    self.keys[key].waiters.contains_key(id),
                    "{id} waits for {key:?} on one side only"
                );
            }
        }
        for (key, locks) in &self.keys {
            for id in locks.holders.keys() {
                assert!(self.owners[id].held.contains(key), "{id} holds {key:?} on one side only");
            }
            for id in locks.waiters.keys() {
                assert_eq!(
                    self.owners[id].waits_for.as_ref(),
                    Some(key),
                    "{id} waits on one side only"
                );
            }
            let exclusive = locks.holders.values().any(|mode| *mode == Mode::Exclusive);
            assert!(
                !exclusive || locks.holders.len() == 1,
                "{key:?} is held exclusively by several"
            );
        }
    }

    /// Nothing is left of anybody.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.owners.is_empty()
    }
}

/// The entry of a transaction that is in the table for certain: it waits there.
fn owner_of(
    owners: &mut HashMap<TransactionId, Owner, RandomState>,
    id: TransactionId,
) -> &mut Owner {
    owners.entry(id).or_default()
}

/// A waiter and a younger holder that it waits for. There is none.
#[cfg(test)]
fn younger_in_the_way(locks: &KeyLocks) -> Option<(TransactionId, TransactionId)> {
    locks.waiters.iter().find_map(|(waiter, mode)| {
        let mut holders = locks.conflicting_holders(*waiter, *mode);
        holders.find(|holder| holder > waiter).map(|holder| (*waiter, holder))
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use handfast_commit_core::id::{Epoch, Protocol, Sequence, Slot};

    use super::*;

    fn id(number: u64) -> TransactionId {
        TransactionId::new(Slot(0), Protocol::TwoPhase, Epoch(1), Sequence(number))
    }

    /// `1 shared a`, `1 exclusive a`, `1 prepares`, `1 withdraws`, `1 releases`; and what comes of it.
    fn step(table: &mut LockTable, line: &str) -> String {
        let words: Vec<_> = line.split(' ').collect();
        let who = id(words[0].parse().expect("a number"));
        let (mut outcome, effects) = match words[1..] {
            ["prepares"] => {
                table.prepare(who);
                (String::new(), Effects::default())
            }
            ["withdraws"] => (String::new(), table.withdraw(who)),
            ["releases"] => (String::new(), table.release(who)),
            [mode, key] => {
                let mode = if mode == "shared" { Mode::Shared } else { Mode::Exclusive };
                let (answer, effects) =
                    table.request(who, &Bytes::copy_from_slice(key.as_bytes()), mode);
                let answer = match answer {
                    Answer::Granted => "granted".to_string(),
                    Answer::Waits => "waits".to_string(),
                    Answer::Dies { holder } => format!("dies of {}", holder.sequence().0),
                };
                (answer, effects)
            }
            _ => panic!("{line:?} is no step"),
        };
        for (word, ids) in [("wounds", &effects.wounded), ("grants", &effects.granted)] {
            for id in ids {
                write!(outcome, " {word} {}", id.sequence().0).expect("a string takes everything");
            }
        }
        table.invariant_waits_only_for_older();
        table.invariant_halves_agree();
        outcome.trim_start().to_string()
    }

    fn story(lines: &[(&str, &str)]) {
        let mut table = LockTable::default();
        for (at, (line, outcome)) in lines.iter().enumerate() {
            assert_eq!(step(&mut table, line), *outcome, "line {at}: {line}");
        }
    }

    #[test]
    fn readers_share_and_a_writer_does_not() {
        story(&[
            ("1 shared a", "granted"),
            ("2 shared a", "granted"),
            ("3 exclusive b", "granted"),
            ("4 shared b", "waits"),
            ("5 exclusive a", "waits"),
            ("1 releases", ""),
            ("2 releases", "grants 5"),
            ("3 releases", "grants 4"),
        ]);
    }

    #[test]
    fn asking_again_for_what_is_held_is_granted() {
        story(&[
            ("1 exclusive a", "granted"),
            ("1 shared a", "granted"),
            ("1 exclusive a", "granted"),
            ("2 shared a", "waits"),
        ]);
    }

    #[test]
    fn the_queue_is_ordered_by_age_and_compatible_ones_go_together() {
        story(&[
            ("1 exclusive a", "granted"),
            ("5 shared a", "waits"),
            ("4 exclusive a", "waits"),
            ("3 shared a", "waits"),
            ("2 shared a", "waits"),
            ("1 releases", "grants 2 grants 3"),
            ("2 releases", ""),
            ("3 releases", "grants 4"),
            ("4 releases", "grants 5"),
        ]);
    }

    #[test]
    fn a_younger_reader_does_not_overtake_an_older_writer() {
        story(&[
            ("1 shared a", "granted"),
            ("3 exclusive a", "waits"),
            ("4 shared a", "waits"),
            ("2 shared a", "granted"),
            ("1 releases", ""),
            ("2 releases", "grants 3"),
            ("3 releases", "grants 4"),
        ]);
    }

    #[test]
    fn an_older_one_wounds_a_younger_holder_that_has_not_prepared() {
        story(&[
            ("2 exclusive a", "granted"),
            ("2 exclusive b", "granted"),
            ("3 shared b", "waits"),
            // 2 loses b as well, which lets 3 in.
            ("1 exclusive a", "granted wounds 2 grants 3"),
            ("2 releases", ""),
        ]);
    }

    #[test]
    fn a_wounded_one_waits_for_nothing_any_more() {
        story(&[
            ("1 exclusive a", "granted"),
            ("3 exclusive b", "granted"),
            ("3 exclusive a", "waits"),
            ("2 exclusive b", "granted wounds 3"),
            ("1 releases", ""),
        ]);
        // Those who waited behind it go on.
        story(&[
            ("1 shared a", "granted"),
            ("3 exclusive b", "granted"),
            ("3 exclusive a", "waits"),
            ("4 shared a", "waits"),
            ("2 exclusive b", "granted wounds 3 grants 4"),
        ]);
    }

    #[test]
    fn an_older_one_dies_of_a_younger_one_that_has_prepared() {
        story(&[
            ("3 exclusive a", "granted"),
            ("3 prepares", ""),
            ("2 shared a", "dies of 3"),
            ("4 shared a", "waits"),
            ("3 releases", "grants 4"),
        ]);
    }

    #[test]
    fn nobody_is_wounded_for_a_request_that_dies() {
        story(&[
            ("3 shared a", "granted"),
            ("4 shared a", "granted"),
            ("4 prepares", ""),
            ("2 exclusive a", "dies of 4"),
            ("3 shared a", "granted"),
        ]);
    }

    #[test]
    fn a_request_among_older_and_younger_readers_waits_for_the_older_and_wounds_the_younger() {
        story(&[
            ("1 shared a", "granted"),
            ("3 shared a", "granted"),
            ("2 exclusive a", "waits wounds 3"),
            ("1 releases", "grants 2"),
        ]);
    }

    #[test]
    fn of_two_readers_that_want_to_write_the_older_wins() {
        story(&[
            ("1 shared a", "granted"),
            ("2 shared a", "granted"),
            ("2 exclusive a", "waits"),
            ("1 exclusive a", "granted wounds 2"),
        ]);
        story(&[
            ("1 shared a", "granted"),
            ("2 shared a", "granted"),
            ("2 exclusive a", "waits"),
            ("1 releases", "grants 2"),
            ("3 shared a", "waits"),
        ]);
    }

    #[test]
    fn a_writer_that_gives_up_waiting_lets_the_readers_behind_it_in() {
        story(&[
            ("1 shared a", "granted"),
            ("2 exclusive a", "waits"),
            ("3 shared a", "waits"),
            ("2 withdraws", "grants 3"),
        ]);
    }

    #[test]
    fn an_older_one_goes_ahead_of_younger_waiters_without_harm_to_them() {
        story(&[
            ("1 shared a", "granted"),
            ("3 exclusive a", "waits"),
            ("2 exclusive a", "waits"),
            ("1 releases", "grants 2"),
            ("2 releases", "grants 3"),
        ]);
    }

    #[test]
    fn who_is_in_the_way_is_named() {
        let mut table = LockTable::default();
        for line in ["1 shared a", "3 exclusive a", "4 shared a"] {
            step(&mut table, line);
        }
        assert_eq!(table.blocker(id(1)), None);
        assert_eq!(table.blocker(id(3)), Some(Blocker::Holder(id(1))));
        assert_eq!(table.blocker(id(4)), Some(Blocker::Waiter(id(3))));
    }

    #[test]
    fn adopted_locks_conflict_as_others_do() {
        let mut table = LockTable::default();
        let key = Bytes::from("a");
        assert_eq!(table.adopt(id(1), &key, Mode::Shared), Ok(()));
        assert_eq!(table.adopt(id(2), &key, Mode::Shared), Ok(()));
        assert_eq!(table.adopt(id(3), &key, Mode::Exclusive), Err(id(1)));
        table.prepare(id(2));
        assert_eq!(step(&mut table, "3 exclusive a"), "waits");
    }

    #[test]
    fn nothing_is_left_of_those_who_are_gone() {
        let mut table = LockTable::default();
        for line in ["1 exclusive a", "2 shared a", "2 withdraws", "1 releases", "2 releases"] {
            step(&mut table, line);
        }
        assert!(table.is_empty());
    }
}
