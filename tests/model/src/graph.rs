//! Which states can still come to an end. "At rest everything is over" says nothing about a world that is
//! never at rest, because two of its processes ask each other the same thing for ever.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use stateright::Model;

use crate::action::Action;
use crate::state::State;
use crate::world::World;

/// The steps that the world takes by itself, and the states in which everything is over, by their hashes.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    steps: Mutex<Vec<(u64, u64)>>,
    over: Mutex<Vec<u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Graph {
    pub(crate) fn step(&self, from: &State, action: &Action, to: &State) {
        if !action.is_fault() {
            lock(&self.steps).push((from.hash, to.hash));
        }
    }

    pub(crate) fn over(&self, state: &State) {
        lock(&self.over).push(state.hash);
    }

    /// The states from which no step, however lucky, leads to the end.
    fn stuck(&self) -> HashSet<u64> {
        let mut steps = std::mem::take(&mut *lock(&self.steps));
        let mut pending = std::mem::take(&mut *lock(&self.over));
        let mut stuck: HashSet<u64> = steps.iter().flat_map(|(from, to)| [*from, *to]).collect();
        steps.sort_unstable_by_key(|(_, to)| *to);
        for state in &pending {
            stuck.remove(state);
        }
        while let Some(state) = pending.pop() {
            let first = steps.partition_point(|(_, to)| *to < state);
            for (from, _) in steps[first..].iter().take_while(|(_, to)| *to == state) {
                if stuck.remove(from) {
                    pending.push(*from);
                }
            }
        }
        stuck
    }
}

impl World {
    /// How a state comes about from which there is no end; `None` when there is no such state.
    pub(crate) fn way_into_the_endless(&self) -> Option<Vec<Action>> {
        let stuck = self.graph.stuck();
        if stuck.is_empty() {
            return None;
        }
        let first = self.init_states().pop()?;
        let mut ways: HashMap<u64, (u64, Action)> = HashMap::new();
        let mut pending = VecDeque::from([first.clone()]);
        let mut actions = Vec::new();
        while let Some(state) = pending.pop_front() {
            if stuck.contains(&state.hash) {
                let mut way = Vec::new();
                let mut hash = state.hash;
                while let Some((from, action)) = ways.get(&hash).filter(|_| hash != first.hash) {
                    way.push(action.clone());
                    hash = *from;
                }
                way.reverse();
                return Some(way);
            }
            self.actions(&state, &mut actions);
            for action in actions.drain(..) {
                if let Some(next) = self.apply(&state, &action, None)
                    && !ways.contains_key(&next.hash)
                {
                    ways.insert(next.hash, (state.hash, action));
                    pending.push_back(next);
                }
            }
        }
        None
    }
}
