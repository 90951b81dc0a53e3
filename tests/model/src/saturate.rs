//! What may be done at once in a network in which everything ever said can be delivered for ever.
//!
//! There, a state with more messages can do all that the same state with fewer can. So whatever only adds
//! messages may as well happen at once: it happens in some real run, and no other run is lost by it. That are
//! deliveries that leave their receiver as it is (a question and its answer, a repetition and the same answer
//! again), the questions of a branch in doubt, the coordinator's connects, and the syncs of a process that
//! will not crash any more. Messages that can have no effect any more are dropped.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use handfast_commit_core::id::{Epoch, TransactionId};
use handfast_commit_core::record::{CoordinatorRecord, ParticipantRecord};

use crate::action::Action;
use crate::log::Key;
use crate::network::{Body, Envelope, Who};
use crate::state::{Fact, Part, State};
use crate::world::Run;

/// A receiver in one state, a message, and the coordinator that is there to be answered.
type Pair = (u64, u64, Option<Epoch>);

/// What a message does to a receiver: `None` when it changes it, otherwise what it says.
type Effect = Option<Said>;

/// The answers, by their hashes, and what was said of transactions.
#[derive(Debug)]
struct Said {
    answers: Vec<(u64, Arc<Envelope>)>,
    claims: Vec<(TransactionId, Fact)>,
}

/// What has been tried before: a state machine does the same again.
#[derive(Debug, Default)]
pub(crate) struct Tried(RwLock<HashMap<Pair, Arc<Effect>>>);

impl Tried {
    fn get(&self, pair: &Pair) -> Option<Arc<Effect>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(pair).cloned()
    }

    fn put(&self, pair: Pair, effect: Effect) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(pair, Arc::new(effect));
    }
}

impl Run<'_> {
    /// Does all that only adds messages.
    pub(crate) fn saturate(&mut self, before: &State) {
        // What had been saturated needs nothing until it changes.
        let mut calm: Vec<u64> = before.participants.iter().map(Part::hash).collect();
        loop {
            self.hurry(&mut calm);
            let receiver = |state: &State, who: Who| match who {
                Who::C => state.coordinator.hash(),
                Who::P(number) => state.participants[number].hash(),
                Who::W(number) => state.witnesses[number].hash(),
            };
            let Some((key, envelope)) = self.state.bag.untried(|who| receiver(&self.state, who))
            else {
                break;
            };
            let before = receiver(&self.state, envelope.to);
            let host = self.state.coordinator.get();
            let pair = (before, key, host.core.is_some().then_some(host.epoch));
            if let Some(tried) = self.world.tried.get(&pair) {
                for said in tried.iter() {
                    for (id, fact) in &said.claims {
                        self.claim(*id, *fact);
                    }
                    for (key, answer) in &said.answers {
                        if self.state.bag.get(*key).is_none() {
                            self.post(answer.from, answer.to, answer.body.clone());
                        }
                    }
                }
                self.state.bag.tried(key, before, tried.is_none());
                continue;
            }
            let mut trial = Run::new(self.world, self.state.clone(), false);
            let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                trial.try_to_deliver(&envelope);
            }))
            .is_err();
            trial.finish();
            let changes = failed
                || trial.state.broken.is_some()
                || receiver(&trial.state, envelope.to) != before;
            if changes || !trial.told {
                let said = Said { answers: trial.posted, claims: trial.claimed };
                self.world.tried.put(pair, (!changes).then_some(said));
            }
            if !changes {
                self.state = trial.state;
            }
            self.state.bag.tried(key, before, changes);
        }
        self.drop_dead_messages();
    }

    /// Questions and syncs that nothing stands in the way of.
    fn hurry(&mut self, calm: &mut [u64]) {
        for (number, calm) in calm.iter_mut().enumerate() {
            loop {
                let host = self.state.participants[number].get();
                if host.core.is_none() || self.state.participants[number].hash() == *calm {
                    break;
                }
                if host.crashes == 0 && !host.log.pending.is_empty() {
                    self.sync_participant(number);
                    self.settle();
                    self.finish();
                    continue;
                }
                let before = self.state.participants[number].hash();
                let timers: Vec<_> = host.timers.iter().copied().collect();
                for id in timers {
                    if self.is_in_doubt(number, id) {
                        self.ask_again(number, id);
                    }
                }
                self.settle();
                self.finish();
                if self.state.participants[number].hash() == before {
                    *calm = before;
                }
            }
        }
        if self.state.coordinator.get().core.is_some() {
            for number in 0..self.state.links.len() {
                if !self.state.links[number].known {
                    self.connect(number);
                }
            }
            self.settle();
            self.finish();
        }
    }

    fn drop_dead_messages(&mut self) {
        self.drop_dead_talk();
        let State { coordinator, participants, bag, .. } = &mut self.state;
        let coordinator = coordinator.get();
        bag.retain(|envelope| match (&envelope.body, envelope.to) {
            // What is over at the coordinator and not in its log as a decision never comes back there, and
            // a late vote gets no answer by a call.
            (Body::Answer(message), Who::C) => {
                let id = message.id();
                let decided = |record: &CoordinatorRecord| match record {
                    CoordinatorRecord::Commit(commit) => commit.id == id,
                    CoordinatorRecord::Decision(decision) => decision.id == id,
                    _ => false,
                };
                coordinator.core.as_ref().is_none_or(|core| core.knows(id))
                    || coordinator.log.durable.values().any(decided)
                    || coordinator.log.pending.iter().any(decided)
            }
            // Nor is a branch in doubt again that has its end on its disk.
            (Body::InquiryAnswered(id, _) | Body::PeerAnswered(id, _), Who::P(number)) => {
                let host = participants[number].get();
                let in_doubt = |record: &ParticipantRecord| match record {
                    ParticipantRecord::Prepared(branch) => branch.id == *id,
                    ParticipantRecord::Voted(branch) => branch.id == *id,
                    _ => false,
                };
                let durable = host.log.durable.get(&Key::Transaction(*id));
                let open = host
                    .core
                    .as_ref()
                    .is_some_and(|core| core.open_branches().any(|branch| branch.id == *id));
                open || durable.is_none_or(|entry| in_doubt(&entry.record))
            }
            _ => true,
        });
    }

    fn connect(&mut self, number: usize) {
        self.act(&Action::Connect(number));
    }
}
