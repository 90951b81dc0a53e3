//! What the shards want done: messages to participants, answers to callers, notes for people.
//!
//! Called by whoever turns a shard, one thread at a time for each, and by a task, or the log's thread, when an
//! action had to wait for a record. Nothing here blocks: a queue that is full is an answer, too.

use std::sync::{Arc, OnceLock};

use handfast_commit_core::id::TransactionId;
use handfast_commit_core::message::{Order, ToParticipant};
use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_commit_core::three_phase::SiteName;
use handfast_commit_core::two_phase::coordinator::{Action, Event, Input};
use handfast_commit_core::two_phase::participant::Via;
use handfast_runtime::crash_point::reached;
use handfast_runtime::driver::Effects;
use handfast_runtime::phases::Phases;
use handfast_runtime::shard::ShardHandle;

use crate::links::Links;
use crate::shard::{CoordinatorShard, Sequences, ShardAction, ShardInput};
use crate::witness_links::WitnessLinks;

/// The shards, as everybody else sees them.
#[derive(Debug, Clone)]
pub struct Shards {
    handles: Arc<[ShardHandle<CoordinatorShard>]>,
    sequences: Arc<Sequences>,
}

impl Shards {
    /// Of a coordinator that has at least one.
    #[must_use]
    pub fn new(handles: Vec<ShardHandle<CoordinatorShard>>, sequences: Arc<Sequences>) -> Self {
        Self { handles: handles.into(), sequences }
    }

    /// The one that a transaction belongs to.
    #[must_use]
    pub fn of(&self, id: TransactionId) -> &ShardHandle<CoordinatorShard> {
        &self.handles[self.sequences.shard_of(id)]
    }

    /// Which one a hash leads to.
    #[must_use]
    pub fn by_hash(&self, hash: u64) -> usize {
        (hash % self.handles.len() as u64) as usize
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[ShardHandle<CoordinatorShard>] {
        &self.handles
    }

    /// Gives each shard what came for it, by its index, and leaves nothing behind. All of it is left before any
    /// shard is turned: turning one may take long, and another thread may see to the next one meanwhile.
    pub(crate) fn submit(&self, inputs: &mut [Vec<ShardInput>]) {
        for (shard, inputs) in self.handles.iter().zip(inputs) {
            shard.inputs_before_turn(std::mem::take(inputs));
        }
        self.handles.iter().for_each(ShardHandle::turn);
    }

    /// Nothing yet for each shard, to be submitted; with room for this many together.
    pub(crate) fn no_inputs(&self, expected: usize) -> Vec<Vec<ShardInput>> {
        let each = expected.div_ceil(self.handles.len().max(1));
        self.handles.iter().map(|_| Vec::with_capacity(each)).collect()
    }

    /// The ids that were given out and that are live.
    #[must_use]
    pub fn sequences(&self) -> &Sequences {
        &self.sequences
    }
}

/// Does what the shards want done.
#[derive(Debug, Clone)]
pub struct CoordinatorEffects {
    links: Arc<Links>,
    witnesses: Arc<WitnessLinks>,
    /// Set before the first shard runs.
    shards: Arc<OnceLock<Shards>>,
    counters: Arc<Counters>,
}

/// What every transaction counts up. Looked up once: by name it would take as long as the rest of a note.
#[derive(Debug)]
struct Counters {
    begun: metrics::Counter,
    committed: metrics::Counter,
    applied: metrics::Counter,
}

impl Counters {
    fn new() -> Self {
        Self {
            begun: metrics::counter!("handfast_transactions_begun_total"),
            committed: metrics::counter!("handfast_transactions_decided_total", "outcome" => "committed"),
            applied: metrics::counter!("handfast_commits_applied_total"),
        }
    }
}

impl CoordinatorEffects {
    /// Over these links.
    #[must_use]
    pub fn new(
        links: Arc<Links>,
        witnesses: Arc<WitnessLinks>,
        shards: Arc<OnceLock<Shards>>,
    ) -> Self {
        Self { links, witnesses, shards, counters: Arc::new(Counters::new()) }
    }
}

impl Effects<ShardAction> for CoordinatorEffects {
    fn perform(&self, action: ShardAction) {
        match action {
            ShardAction::Core(Action::Send { to, message }) => {
                let id = id_of(&message);
                let name = point(&message);
                reached(name.0);
                if !self.links.send(&to, message) {
                    if let Some(shards) = self.shards.get() {
                        let input = ShardInput::Core(Input::NotSent { to, id });
                        shards.of(id).input(input);
                    }
                    return;
                }
                reached(name.1);
            }
            ShardAction::Core(Action::Reply { to, reply }) => {
                reached("coordinator.before-reply");
                to.send(reply);
            }
            ShardAction::Core(Action::EndDurable { participant, id }) => {
                reached("coordinator.after-one-phase-end");
                if let Some(shards) = self.shards.get() {
                    let input = ShardInput::Core(Input::EndDurable { participant, id });
                    shards.of(id).input(input);
                }
            }
            ShardAction::Core(Action::Recorded { id }) => {
                if let Some(shards) = self.shards.get() {
                    shards.of(id).input(ShardInput::Core(Input::Recorded { id }));
                }
            }
            ShardAction::Core(Action::Lead { to, message }) => {
                let point = order_point(message.order);
                reached(point.0);
                match &to {
                    SiteName::Participant(name) => self.links.lead(name, message),
                    SiteName::Witness(_) if mutant(Mutant::WitnessesNotTold) => {}
                    SiteName::Witness(name) => self.witnesses.lead(name, message),
                    // It does not lead itself.
                    SiteName::Coordinator => {}
                }
                reached(point.1);
            }
            ShardAction::Core(Action::Report { via, message, .. }) => {
                reached("coordinator.before-report");
                match via {
                    Via::Call(to) => to.report(message),
                    // Participants lead by calls, and are answered through them.
                    Via::Link => {}
                }
            }
            ShardAction::Core(Action::Note(event)) => {
                measure(self.links.phases(), &event);
                note(&self.counters, &event);
            }
            ShardAction::Watched(watchers, watched) => {
                for watcher in watchers {
                    let _ = watcher.send(watched.as_ref().clone());
                }
            }
            ShardAction::Durable(tell) => {
                let _ = tell.send(());
            }
        }
    }
}

fn id_of(message: &ToParticipant) -> TransactionId {
    match message {
        ToParticipant::Prepare(prepare) => prepare.id,
        ToParticipant::Commit { id, .. }
        | ToParticipant::Abort { id }
        | ToParticipant::Forget { id }
        | ToParticipant::Answer { id, .. } => *id,
    }
}

/// The crash points before and after a message is handed to its link.
fn point(message: &ToParticipant) -> (&'static str, &'static str) {
    match message {
        ToParticipant::Prepare(_) => {
            ("coordinator.before-prepare-sent", "coordinator.after-prepare-sent")
        }
        // The first of them comes right behind the decision's sync.
        ToParticipant::Commit { .. } => {
            ("coordinator.before-commit-sent", "coordinator.after-commit-sent")
        }
        ToParticipant::Abort { .. } => {
            ("coordinator.before-abort-sent", "coordinator.after-abort-sent")
        }
        ToParticipant::Forget { .. } => {
            ("coordinator.before-forget-sent", "coordinator.after-forget-sent")
        }
        ToParticipant::Answer { .. } => {
            ("coordinator.before-answer-sent", "coordinator.after-answer-sent")
        }
    }
}

/// The crash points before and after an order is handed to its link.
fn order_point(order: Order) -> (&'static str, &'static str) {
    match order {
        Order::Join { .. } => ("coordinator.before-join-sent", "coordinator.after-join-sent"),
        Order::PreCommit { .. } => {
            ("coordinator.before-pre-commit-sent", "coordinator.after-pre-commit-sent")
        }
        Order::PreAbort { .. } => {
            ("coordinator.before-pre-abort-sent", "coordinator.after-pre-abort-sent")
        }
        Order::Decided { .. } => {
            ("coordinator.before-decided-sent", "coordinator.after-decided-sent")
        }
        Order::Forget => {
            ("coordinator.before-site-forget-sent", "coordinator.after-site-forget-sent")
        }
    }
}

/// Waiting for the votes, until the last of them has arrived; then for the decision to be durable; then for
/// the acknowledgements.
fn measure(phases: &Phases, event: &Event) {
    match event {
        Event::Preparing { id } => phases.begin(*id),
        Event::PreCommitted { id } => phases.ended_at_mark(*id, "prepare"),
        Event::Decided { id } if id.is_three_phase() => {
            phases.ended(*id, "pre_commit");
        }
        Event::Decided { id } => {
            phases.ended_at_mark(*id, "prepare");
            phases.ended(*id, "decide");
        }
        Event::Ended { id } => {
            phases.ended(*id, "apply");
            phases.forget(*id);
        }
        Event::Aborted { id, .. } => phases.forget(*id),
        _ => {}
    }
}

fn note(counters: &Counters, event: &Event) {
    match event {
        Event::Begun { .. } => counters.begun.increment(1),
        Event::Decided { id } => {
            counters.committed.increment(1);
            tracing::debug!(transaction = %id, "committed");
        }
        Event::Aborted { id, reason } => {
            let cause = cause_label(reason.cause);
            metrics::counter!("handfast_transactions_decided_total", "outcome" => "aborted")
                .increment(1);
            metrics::counter!("handfast_aborts_total", "cause" => cause).increment(1);
            tracing::debug!(
                transaction = %id,
                cause,
                participant = reason.participant.as_ref().map(tracing::field::display),
                message = reason.message,
                "aborted"
            );
        }
        Event::Alarm { id, participant, alarm } => {
            metrics::counter!("handfast_alarms_total").increment(1);
            tracing::error!(transaction = %id, %participant, "ALARM: {participant} {alarm}");
        }
        Event::VotedNo { id, participant, reason } => {
            tracing::debug!(transaction = %id, %participant, reason, "voted no");
        }
        Event::Ended { .. } => counters.applied.increment(1),
        Event::Elects { id, ballot } => {
            metrics::counter!("handfast_elections_total").increment(1);
            tracing::info!(transaction = %id, %ballot, "leads an election");
        }
        Event::Waits { id, waiting_for } => {
            metrics::counter!("handfast_quorum_waits_total").increment(1);
            tracing::warn!(transaction = %id, waiting_for, "waits for {waiting_for}");
        }
        Event::PreCommitted { .. }
        | Event::Enlisted { .. }
        | Event::Preparing { .. }
        | Event::Voted { .. }
        | Event::Acknowledged { .. } => {}
    }
}

fn cause_label(cause: handfast_commit_core::record::AbortCause) -> &'static str {
    use handfast_commit_core::record::AbortCause;
    match cause {
        AbortCause::Client => "client",
        AbortCause::VotedNo => "voted_no",
        AbortCause::Timeout => "timeout",
        AbortCause::Presumed => "presumed",
        AbortCause::Unreachable => "unreachable",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use handfast_commit_core::id::{Epoch, Incarnation, Slot};
    use handfast_commit_core::two_phase::Coordinator;
    use handfast_commit_core::two_phase::coordinator::{Config, Identity};
    use handfast_journal::{Journal, Kind, LogWriter, MemoryDisk, MemoryJournal, WriterOptions};
    use handfast_runtime::clock::Clock;
    use handfast_runtime::driver::Driver;
    use handfast_runtime::shard::shard;
    use tokio::sync::oneshot;

    use super::*;
    use crate::store::Store;

    /// Says what waits for the second shard when the first one has something done.
    #[derive(Clone)]
    struct LooksAt(ShardHandle<CoordinatorShard>, mpsc::Sender<usize>);

    impl Effects<ShardAction> for LooksAt {
        fn perform(&self, _: ShardAction) {
            self.1.send(self.0.depth()).expect("the test listens");
        }
    }

    #[tokio::test]
    async fn all_shards_have_their_inputs_before_one_is_turned() {
        let journal = MemoryJournal::open(&MemoryDisk::new(1), Kind::Coordinator);
        let journal = journal.expect("a new disk");
        let store = Store::new(journal.reader());
        let (_, log) = LogWriter::new(Box::new(journal), WriterOptions::default(), Box::new(()));
        let (first, queue) = shard();
        // It has no thread, so that what is left for it stays there.
        let (second, _idle) = shard();
        let sequences = Arc::new(Sequences::new(2));
        let identity = Identity { slot: Slot(0), epoch: Epoch(1), incarnation: Incarnation(1) };
        let core = Coordinator::new(identity, Config::default());
        let machine = CoordinatorShard::new(0, core, store, Arc::clone(&sequences), |error| {
            panic!("{error}")
        });
        let (tell, seen) = mpsc::channel();
        let driver = Driver::new(machine, log, LooksAt(second.clone(), tell));
        let thread = queue.spawn("test", Clock::start(), driver).expect("a thread");
        let shards = Shards::new(vec![first.clone(), second], sequences);
        // From here on it is turned by whoever brings a message.
        first.ask(|_| ()).await.expect("it runs");
        let settle = || vec![ShardInput::Settle(oneshot::channel().0)];
        shards.submit(&mut [settle(), settle()]);
        assert_eq!(seen.recv(), Ok(1));
        first.stop();
        thread.join().expect("no panic");
    }
}
