//! One configuration, checked to the end: how many states there are, and what was wrong.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model};

use crate::bounds::Bounds;
use crate::lies::Lie;
use crate::marks::Mark;
use crate::properties;
use crate::world::World;

/// What came of a configuration.
#[derive(Debug)]
pub struct Outcome {
    /// Different states.
    pub states: usize,
    /// Steps that were tried and changed something.
    pub steps: usize,
    /// The longest run that was needed to see every state.
    pub depth: usize,
    /// How long it took. Nothing depends on it.
    pub took: Duration,
    /// Properties that do not hold, each with a story. The search ends with the first.
    pub violations: BTreeMap<&'static str, Vec<String>>,
    /// What was never seen, and should be.
    pub missing: Vec<Mark>,
    /// What was seen.
    pub seen: Vec<Mark>,
}

impl Outcome {
    /// Why it is not as it should be; `None` when it is.
    #[must_use]
    pub fn failure(&self, bounds: &Bounds) -> Option<String> {
        let name = bounds.name;
        if let Some((property, story)) = self.violations.iter().next() {
            let story = story.join("\n    ");
            return Some(format!("{name} breaks {property}\n    {story}"));
        }
        if !self.missing.is_empty() {
            let missing: Vec<_> = self.missing.iter().map(|mark| mark.text()).collect();
            return Some(format!("{name} has never shown: {}", missing.join("; ")));
        }
        (self.states != bounds.states).then(|| {
            format!(
                "{name} has {} states, and {} are written down: if that is meant, correct them in \
                 src/configurations.rs",
                self.states, bounds.states
            )
        })
    }
}

/// How many properties must hold in every state.
#[must_use]
pub fn always() -> usize {
    properties::always().len() + 1
}

/// Checks everything, with so many threads; with a fault when there is one.
#[must_use]
pub fn check(bounds: &Bounds, lie: Option<Lie>, threads: usize) -> Outcome {
    let began = Instant::now();
    let world = World::new(bounds.clone());
    let world = match lie {
        Some(lie) => world.lying(lie),
        None => world,
    };
    let mut builder = world.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
    if bounds.states > 0 {
        // A fault may make the world endless. Every step counts that leads to some state.
        builder = builder.target_state_count(bounds.states.saturating_mul(40));
    }
    let checker = builder.spawn_bfs().join();
    let took = began.elapsed();
    let world = checker.model();
    let mut violations = BTreeMap::new();
    let failures: Vec<_> = properties::always().iter().map(|property| property.name).collect();
    for (name, path) in checker.discoveries() {
        if failures.contains(&name) {
            violations.insert(name, world.story(&path.into_actions()));
        }
    }
    if violations.is_empty()
        && bounds.returns
        && let Some(way) = world.way_into_the_endless()
    {
        violations.insert(properties::ENDLESS, world.story(&way));
    }
    let missing = world.bounds.marks.iter().copied().filter(|mark| !world.reached.is_set(*mark));
    let seen = Mark::ALL.iter().copied().filter(|mark| world.reached.is_set(*mark));
    Outcome {
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        took,
        violations,
        missing: missing.collect(),
        seen: seen.collect(),
    }
}
