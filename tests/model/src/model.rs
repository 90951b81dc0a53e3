//! The world as a model for the checker: what may happen next, and what must be true.

use stateright::{Model, Property};

use crate::action::{Action, Moment};
use crate::bounds::Network;
use crate::log::Log;
use crate::network::{Bag, Link};
use crate::properties;
use crate::state::{
    Caller, Client, CoordinatorHost, Part, ParticipantHost, Resource, State, WitnessHost,
};
use crate::world::{COORDINATOR_LOG, FIRST, Run, SLOT, World};
use handfast_commit_core::step::TimerKey;
use handfast_commit_core::two_phase::{Coordinator, Participant, coordinator};
use std::collections::{BTreeMap, BTreeSet};

impl World {
    fn first_state(&self) -> State {
        let identity =
            coordinator::Identity { slot: SLOT, epoch: FIRST, incarnation: COORDINATOR_LOG };
        let mut core = Coordinator::new(identity, World::coordinator_config());
        core.set_witnesses(self.witnesses.clone());
        let coordinator = CoordinatorHost {
            core: Some(core),
            log: Log::default(),
            timers: BTreeSet::new(),
            epoch: FIRST,
            sequence: 0,
        };
        let participant = |number: usize| ParticipantHost {
            core: Some(Participant::new(
                World::incarnation(number),
                self.participant_config(number),
            )),
            log: Log::default(),
            timers: BTreeSet::new(),
            resource: Resource::default(),
            crashes: self.bounds.parties[number].crashes,
            elections: self.bounds.parties[number].elections,
        };
        let count = self.names.len();
        State {
            coordinator: Part::new(coordinator),
            participants: (0..count).map(|number| Part::new(participant(number))).collect(),
            witnesses: (0..self.witnesses.len())
                .map(|number| Part::new(WitnessHost::new(number)))
                .collect(),
            bag: Bag::default(),
            links: vec![Link::default(); count],
            client: Client::default(),
            budget: self.bounds.budget,
            facts: BTreeMap::new(),
            broken: None,
            hash: 0,
        }
    }

    /// What the world does by itself, faults aside.
    pub fn fair_actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.progress(state, actions);
        if self.ever() || actions.is_empty() {
            self.timers(state, actions);
        }
    }

    fn progress(&self, state: &State, actions: &mut Vec<Action>) {
        let links = self.bounds.network == Network::Links;
        if self.ever() {
            actions.extend(state.bag.effective().map(Action::Deliver));
        } else {
            actions.extend(state.bag.keys().map(Action::Deliver));
        }
        let coordinator = state.coordinator.get();
        if coordinator.core.is_none() {
            if self.bounds.returns {
                actions.push(Action::RestartCoordinator);
            }
        } else if !coordinator.log.pending.is_empty() {
            actions.push(Action::SyncCoordinator);
        }
        for (number, host) in state.participants.iter().enumerate() {
            let host = host.get();
            let link = &state.links[number];
            if host.core.is_none() {
                actions.push(Action::Restart(number));
            } else if !host.log.pending.is_empty() {
                actions.push(Action::Sync(number));
            }
            if !host.resource.calls.is_empty() {
                let verdicts = self.bounds.parties[number].verdicts;
                actions.extend(verdicts.iter().map(|verdict| Action::Resource(number, *verdict)));
            }
            if !link.down_queue.is_empty() {
                actions.push(Action::DeliverDown(number));
            }
            if !link.up_queue.is_empty() {
                actions.push(Action::DeliverUp(number));
            }
            let both = coordinator.core.is_some() && host.core.is_some();
            if links && both && !link.up {
                actions.push(Action::Open(number));
            }
            if links && coordinator.core.is_some() && !link.up && link.known {
                actions.push(Action::Notice(number));
            }
            if !links && coordinator.core.is_some() && !link.known {
                actions.push(Action::Connect(number));
            }
        }
    }

    fn timers(&self, state: &State, actions: &mut Vec<Action>) {
        for key in &state.coordinator.get().timers {
            // What can be delivered for ever needs no repetition.
            if !self.ever() {
                actions.push(Action::CoordinatorTimer(key.clone(), Moment::Repeat));
            }
            if let TimerKey::Transaction(id) = key {
                let moment = match self.coordinator_may_lead(state, *id) {
                    Some(false) => continue,
                    Some(true) => Moment::Repeat,
                    None => Moment::Late,
                };
                actions.push(Action::CoordinatorTimer(key.clone(), moment));
            }
        }
        for (number, host) in state.participants.iter().enumerate() {
            let host = host.get();
            let timers = host.timers.iter().filter(|id| host.may_run_out(**id));
            actions.extend(timers.map(|id| Action::Timer(number, *id)));
            // What a participant has not been told in this session, it is told in the next.
            let keeps = |core: &Participant<Caller>| {
                core.open_branches().any(|branch| branch.one_phase.is_some())
            };
            if self.bounds.network == Network::Links
                && state.coordinator.get().core.is_some()
                && host.core.as_ref().is_some_and(keeps)
            {
                actions.push(Action::Renew(number));
            }
        }
    }

    fn faults(&self, state: &State, actions: &mut Vec<Action>) {
        let budget = &state.budget;
        if budget.losses > 0 {
            actions.extend(state.bag.keys().map(Action::Lose));
        }
        if budget.repeats > 0 {
            actions.extend(state.bag.keys().map(Action::Repeat));
        }
        let coordinator = state.coordinator.get();
        if coordinator.core.is_some() {
            if budget.crashes > 0 {
                actions.push(Action::CrashCoordinator);
            }
            if budget.retries > 0 {
                actions.push(Action::Retry);
            }
            let first = state.client.attempts[0];
            if budget.aborts > 0 && first.epoch() == coordinator.epoch {
                actions.push(Action::Abort);
            }
        }
        if budget.expiries > 0 {
            actions.push(Action::Expire);
        }
        for (number, host) in state.participants.iter().enumerate() {
            let host = host.get();
            if host.crashes > 0 && host.core.is_some() {
                actions.push(Action::Crash(number));
            }
            if budget.cuts > 0 && state.links[number].up {
                actions.push(Action::Cut(number));
            }
        }
        if budget.early > 0 && !self.ever() {
            let mut early = Vec::new();
            self.timers(state, &mut early);
            actions.extend(early.into_iter().map(|action| Action::Early(Box::new(action))));
        }
    }

    /// Nothing happens any more unless something goes wrong.
    pub fn is_at_rest(&self, state: &State) -> bool {
        let mut actions = Vec::new();
        self.fair_actions(state, &mut actions);
        // What is likeliest to change something comes last.
        actions.iter().rev().all(|action| self.apply(state, action, None).is_none())
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut run = Run::new(self, self.first_state(), false);
        run.begin();
        run.finish();
        if self.ever() {
            let first = run.state.clone();
            run.saturate(&first);
        }
        run.state.rehash();
        vec![run.state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        self.fair_actions(state, actions);
        self.faults(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let next = self.apply(state, &action, None)?;
        self.graph.step(state, &action, &next);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = properties::always();
        all.extend(self.bounds.marks.iter().map(|mark| properties::sometimes(*mark)));
        all
    }

    fn format_action(&self, action: &Action) -> String {
        format!("{action:?}")
    }
}
