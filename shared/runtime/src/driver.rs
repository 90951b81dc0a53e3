//! The driver: append, then act.
//!
//! Every step of every state machine goes through [`Driver::handle`]. It gives the step's records to
//! the log, and performs the step's actions when, and only when, the log is durable up to the step's
//! gate. Nothing else in the product writes records or performs actions.
//!
//! What comes of inputs that have come together goes to the log together ([`Driver::handle_without_submitting`]): the
//! log's thread begins to sync with the first thing that it is given, and the others would wait for the next sync.
//!
//! The driver is as deterministic as its machine: it has no thread and no clock of its own. Whoever turns a
//! [`crate::shard`] turns it, one thread at a time; the simulator turns it by hand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_commit_core::step::{Now, Position, Step, Time, TimerKey};
use handfast_journal::{Completion, LogHandle, Mutation, Submission};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::hand_over::HandOver;
use crate::timers::Timers;

/// What goes to the log together at most. With more of it, the log would stand still while the inputs are handled.
const SUBMITTED_TOGETHER_MAX: usize = 64;

/// A pure state machine, and how its records look on the disk.
pub trait Machine: Send + 'static {
    /// One thing that happened.
    type Input: Send + 'static;
    /// What must survive a crash.
    type Record: Send + 'static;
    /// One thing to do.
    type Action: Send + 'static;

    /// Handles one input.
    fn step(&mut self, now: Now, input: Self::Input) -> Step<Self::Record, Self::Action>;

    /// Takes back a step that has been carried out, whose buffers serve the ones to come.
    fn reuse(&mut self, used: Step<Self::Record, Self::Action>) {
        drop(used);
    }

    /// The input that says that a timer has run out.
    fn timer(&self, key: TimerKey) -> Self::Input;

    /// What a record changes in the journal, appended to `mutations`.
    fn write(&self, record: Self::Record, mutations: &mut Vec<Mutation>);

    /// Called after a batch of inputs, with the driver idle.
    fn settled(&mut self) {}
}

/// Does what a state machine wants done. Called by whoever turns the driver, one thread at a time, and by a
/// task of the runtime, or the log's thread, when an action had to wait for the log; must not block.
pub trait Effects<A>: Clone + Send + Sync + 'static {
    /// Does one thing.
    fn perform(&self, action: A);
}

/// What waits in the log's queue for its records to be durable.
#[derive(Debug)]
pub struct Gated<A, E>(Kind<A, E>);

#[derive(Debug)]
enum Kind<A, E> {
    /// Actions of a step.
    Step { position: Position, shared: Arc<Shared<A, E>>, actions: Vec<A> },
    /// Of a submission that no state machine has made.
    Told(oneshot::Sender<()>),
}

/// What a driver has in common with what waits in the log's queue. One pointer to all of it: each that is
/// counted up on one thread and down on another costs as much as a small allocation.
#[derive(Debug)]
struct Shared<A, E> {
    /// How far the log is durable, in the machine's positions.
    durable: AtomicU64,
    effects: E,
    /// To those who act on what is durable; there when it is not the log's thread that does.
    hand_over: OnceLock<Arc<HandOver<Gated<A, E>>>>,
}

impl<A, E> Shared<A, E> {
    fn new(effects: E) -> Arc<Self> {
        Arc::new(Self { durable: AtomicU64::new(0), effects, hand_over: OnceLock::new() })
    }
}

impl<A, E> Gated<A, E> {
    /// For a submission that no state machine has made: a registration, a barrier. `tell` is told by the
    /// log's thread, and what came before in the log may still be on its way to its effects.
    pub fn standalone(tell: oneshot::Sender<()>) -> Self {
        Self(Kind::Told(tell))
    }

    fn shared(&self) -> Option<&Arc<Shared<A, E>>> {
        match &self.0 {
            Kind::Step { shared, .. } => Some(shared),
            Kind::Told(_) => None,
        }
    }
}

impl<A: Send + 'static, E: Effects<A>> Gated<A, E> {
    fn act(self) {
        match self.0 {
            Kind::Step { position, shared, actions } => {
                for action in actions {
                    shared.effects.perform(action);
                }
                // After the actions, so that "durable up to here" also says that nothing gated on it is still
                // to come. What the actions cause meanwhile waits behind a barrier, which costs no sync.
                shared.durable.fetch_max(position.0, Ordering::Release);
            }
            // Whoever does not wait any more need not be told.
            Kind::Told(tell) => {
                let _ = tell.send(());
            }
        }
    }
}

impl<A: Send + 'static, E: Effects<A>> Completion for Gated<A, E> {
    fn durable(self) {
        Self::all_durable(std::iter::once(self));
    }

    fn all_durable(completions: impl Iterator<Item = Self>) {
        let mut completions = completions.peekable();
        while let Some(first) = completions.next() {
            let shared = first.shared().cloned();
            let over = shared.as_ref().and_then(|shared| shared.hand_over.get());
            let Some(mut giving) = over.and_then(|over| over.giving()) else {
                // In order: what the task has left comes first.
                over.into_iter().flat_map(|over| over.end()).for_each(Self::act);
                first.act();
                continue;
            };
            giving.give(first);
            let same = |next: &Self| match (next.shared(), &shared) {
                (Some(next), Some(shared)) => Arc::ptr_eq(next, shared),
                _ => false,
            };
            while let Some(next) = completions.next_if(same) {
                giving.give(next);
            }
        }
    }
}

/// Ends the handing over of a driver's actions to a task.
pub struct HandedOver(Box<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for HandedOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandedOver").finish_non_exhaustive()
    }
}

impl HandedOver {
    /// Ends the task, and does here and now what it has not begun to do. To be called when the log's thread has
    /// ended: nothing comes after that.
    pub fn finish(&self) {
        (self.0)();
    }
}

/// The log that a driver submits to.
pub type Log<M, E> = LogHandle<Gated<<M as Machine>::Action, E>>;

/// A state machine with its timers, its log and its effects.
pub struct Driver<M: Machine, E: Effects<M::Action>> {
    machine: M,
    shared: Arc<Shared<M::Action, E>>,
    log: Log<M, E>,
    /// Not given to the log yet.
    submissions: Vec<Submission<Gated<M::Action, E>>>,
    timers: Timers,
}

impl<M: Machine, E: Effects<M::Action>> std::fmt::Debug for Driver<M, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("timers", &self.timers.len()).finish_non_exhaustive()
    }
}

impl<M: Machine, E: Effects<M::Action>> Driver<M, E> {
    /// Drives `machine`, which has taken over what the log says and has not made a step.
    pub fn new(machine: M, log: Log<M, E>, effects: E) -> Self {
        let shared = Shared::new(effects);
        Self { machine, shared, log, submissions: Vec::new(), timers: Timers::default() }
    }

    /// From here on a task of this runtime performs what had to wait for the log, and not the log's thread.
    /// Whatever the log's thread holds when it ends is left to [`HandedOver::finish`].
    pub fn hand_over(&self, runtime: &Handle) -> HandedOver {
        let over = Arc::clone(self.shared.hand_over.get_or_init(Arc::default));
        let taken = Arc::clone(&over);
        runtime.spawn(async move { taken.take(Gated::act).await });
        HandedOver(Box::new(move || over.end().into_iter().for_each(Gated::act)))
    }

    /// The machine, to look at.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The machine, for what is not a step: counters, subscriptions.
    pub fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    /// Handles one input.
    pub fn handle(&mut self, now: Now, input: M::Input) {
        self.handle_without_submitting(now, input);
        self.submit();
    }

    /// Handles one input. What it has for the log waits for [`Driver::submit`], which has to follow soon: before
    /// anybody else is told something of the machine that the log has to say first. It does not wait for long:
    /// when so much has gathered that it is worth a sync, it goes.
    pub fn handle_without_submitting(&mut self, now: Now, input: M::Input) {
        let step = self.machine.step(now, input);
        self.perform(step);
        if self.submissions.len() >= SUBMITTED_TOGETHER_MAX {
            self.submit();
        }
    }

    /// Gives the log what has gathered, in its order.
    pub fn submit(&mut self) {
        self.log.submit_all(&mut self.submissions);
    }

    /// When the next timer runs out.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        self.timers.next()
    }

    /// Handles one timer that has run out. Returns false when there is none.
    pub fn fire(&mut self, now: Now) -> bool {
        let fired = self.fire_without_submitting(now);
        self.submit();
        fired
    }

    /// The same; what it has for the log waits, as after [`Driver::handle_without_submitting`].
    pub fn fire_without_submitting(&mut self, now: Now) -> bool {
        let Some(key) = self.timers.pop(now.at) else { return false };
        let input = self.machine.timer(key);
        self.handle_without_submitting(now, input);
        true
    }

    /// Puts a step into effect that the machine has made outside of the driver.
    pub fn apply(&mut self, step: Step<M::Record, M::Action>) {
        self.perform(step);
        self.submit();
    }

    /// Puts a step into effect, in the order of the law.
    fn perform(&mut self, mut step: Step<M::Record, M::Action>) {
        for (key, at) in step.timers.drain(..) {
            self.timers.set(key, at);
        }
        let durable = Position(self.shared.durable.load(Ordering::Acquire));
        let position = step.position;
        let gate = if mutant(Mutant::PerformBeforeDurable) { Position(0) } else { step.gate };
        if mutant(Mutant::LaterAtOnce) {
            let later = std::mem::take(&mut step.later);
            step.then.extend(later);
        }
        if step.records.is_empty() {
            self.perform_at(gate, durable, &mut step.then);
            // They speak of a record of an earlier step, which may still be on its way to the disk.
            self.perform_at(position, durable, &mut step.later);
            return self.machine.reuse(step);
        }
        let mut mutations = Vec::with_capacity(step.records.len() * 2 + 2);
        for record in step.records.drain(..) {
            self.machine.write(record, &mut mutations);
        }
        let mut actions = Vec::new();
        if gate >= position {
            actions.reserve_exact(step.then.len() + step.later.len());
            actions.append(&mut step.then);
        } else if gate > durable {
            // They speak of an earlier record than this step's own, and need not wait for the latter.
            self.perform_at(gate, durable, &mut step.then);
        }
        actions.append(&mut step.later);
        let completion = Some(self.gated(position, actions));
        self.submissions.push(Submission { mutations, forced: step.forced, completion });
        for action in step.then.drain(..) {
            self.shared.effects.perform(action);
        }
        self.machine.reuse(step);
    }

    fn perform_at(&mut self, gate: Position, durable: Position, actions: &mut Vec<M::Action>) {
        if actions.is_empty() {
            return;
        }
        if gate > durable && !mutant(Mutant::BarrierSkipped) {
            // A barrier: it completes behind the record, which has gone to the log before, or goes with it.
            let actions = std::mem::take(actions);
            let completion = Some(self.gated(gate, actions));
            let mutations = Vec::new();
            self.submissions.push(Submission { mutations, forced: true, completion });
        } else {
            for action in actions.drain(..) {
                self.shared.effects.perform(action);
            }
        }
    }

    fn gated(&self, position: Position, actions: Vec<M::Action>) -> Gated<M::Action, E> {
        Gated(Kind::Step { position, shared: Arc::clone(&self.shared), actions })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use handfast_journal::{
        Flush, Kind, LogWriter, MemoryDisk, MemoryJournal, Table, WriterOptions,
    };

    /// Says what it is told to say; its input is the step.
    struct Scripted;

    impl Machine for Scripted {
        type Input = Step<&'static str, &'static str>;
        type Record = &'static str;
        type Action = &'static str;

        fn step(&mut self, _: Now, input: Self::Input) -> Self::Input {
            input
        }

        fn timer(&self, _: TimerKey) -> Self::Input {
            step(&[], 0)
        }

        fn write(&self, record: &'static str, mutations: &mut Vec<Mutation>) {
            mutations.push(Mutation::put(Table::Live, record, record));
        }
    }

    /// What was done, in order.
    #[derive(Clone, Default)]
    struct Done(Arc<Mutex<Vec<&'static str>>>);

    impl Effects<&'static str> for Done {
        fn perform(&self, action: &'static str) {
            self.0.lock().expect("no test panics with it").push(action);
        }
    }

    impl Done {
        fn take(&self) -> Vec<&'static str> {
            std::mem::take(&mut self.0.lock().expect("no test panics with it"))
        }
    }

    fn step(records: &[&'static str], position: u64) -> Step<&'static str, &'static str> {
        Step {
            records: records.to_vec(),
            position: Position(position),
            forced: false,
            gate: Position(0),
            then: Vec::new(),
            later: Vec::new(),
            timers: Vec::new(),
        }
    }

    struct World {
        driver: Driver<Scripted, Done>,
        writer: LogWriter<Gated<&'static str, Done>>,
        done: Done,
    }

    impl World {
        fn new() -> Self {
            let disk = MemoryDisk::new(1);
            let journal = MemoryJournal::open(&disk, Kind::Coordinator).expect("a new disk");
            let (writer, log) =
                LogWriter::new(Box::new(journal), WriterOptions::default(), Box::new(()));
            let done = Done::default();
            Self { driver: Driver::new(Scripted, log, done.clone()), writer, done }
        }

        fn handle(&mut self, step: Step<&'static str, &'static str>) -> Vec<&'static str> {
            self.driver.handle(Now::default(), step);
            self.done.take()
        }

        fn write(&mut self) -> Vec<&'static str> {
            while self.writer.run_once(Flush::Everything).expect("memory").completed > 0 {}
            self.done.take()
        }
    }

    const NOTHING: [&str; 0] = [];

    #[test]
    fn what_speaks_of_a_record_waits_for_it() {
        let mut world = World::new();
        let vote = Step { gate: Position(1), then: vec!["vote"], ..step(&["prepared"], 1) };
        assert_eq!(world.handle(vote), NOTHING);
        // A later step without records that speaks of the same record waits as well.
        let repeat = Step { gate: Position(1), then: vec!["vote again"], ..step(&[], 1) };
        assert_eq!(world.handle(repeat), NOTHING);
        // One that speaks of nothing does not.
        let note = Step { then: vec!["note"], ..step(&[], 1) };
        assert_eq!(world.handle(note), ["note"]);
        assert_eq!(world.write(), ["vote", "vote again"]);
        let repeat = Step { gate: Position(1), then: vec!["vote again"], ..step(&[], 1) };
        assert_eq!(world.handle(repeat), ["vote again"]);
    }

    #[test]
    fn what_is_for_later_waits_for_all_records_even_in_a_step_without_any() {
        let mut world = World::new();
        let ended = Step { then: vec!["reply"], later: vec!["forget"], ..step(&["ended"], 1) };
        assert_eq!(world.handle(ended), ["reply"]);
        let again = Step { then: vec!["note"], later: vec!["forget again"], ..step(&[], 1) };
        assert_eq!(world.handle(again), ["note"]);
        assert_eq!(world.write(), ["forget", "forget again"]);
        let again = Step { later: vec!["forget at once"], ..step(&[], 1) };
        assert_eq!(world.handle(again), ["forget at once"]);
    }

    #[test]
    fn a_step_that_speaks_of_an_earlier_record_does_not_wait_for_its_own() {
        let mut world = World::new();
        assert_eq!(world.handle(step(&["decided"], 1)), NOTHING);
        let ended = Step { gate: Position(1), then: vec!["reply"], ..step(&["ended"], 2) };
        assert_eq!(world.handle(ended), NOTHING);
        assert_eq!(world.write(), ["reply"]);
        let next = Step { gate: Position(2), then: vec!["reply"], ..step(&["next"], 3) };
        assert_eq!(world.handle(next), ["reply"]);
    }

    #[test]
    fn what_comes_together_goes_to_the_log_together() {
        let mut world = World::new();
        let vote = |position, what| Step {
            gate: Position(position),
            then: vec![what],
            forced: true,
            ..step(&["prepared"], position)
        };
        world.driver.handle_without_submitting(Now::default(), vote(1, "one"));
        world.driver.handle_without_submitting(Now::default(), vote(2, "two"));
        assert_eq!(world.write(), NOTHING, "the log has not been given anything");
        world.driver.submit();
        let turn = world.writer.run_once(Flush::WhenForced).expect("memory");
        assert_eq!((turn.completed, turn.mutations), (2, 2), "in one sync");
        assert_eq!(world.done.take(), ["one", "two"]);
        // Nor does the log wait while there is enough for a sync.
        for position in 3..=70 {
            world.driver.handle_without_submitting(Now::default(), vote(position, "more"));
        }
        let turn = world.writer.run_once(Flush::WhenForced).expect("memory");
        assert_eq!(turn.completed, SUBMITTED_TOGETHER_MAX);
    }

    #[tokio::test]
    async fn what_is_durable_can_be_left_to_a_task() {
        let mut world = World::new();
        let handed_over = world.driver.hand_over(&Handle::current());
        let vote = Step { gate: Position(1), then: vec!["vote"], ..step(&["prepared"], 1) };
        assert_eq!(world.handle(vote), NOTHING);
        assert_eq!(world.write(), NOTHING, "it is the task's");
        // Durable, and not done yet: whatever speaks of the same record stays behind it.
        let repeat = Step { gate: Position(1), then: vec!["vote again"], ..step(&[], 1) };
        assert_eq!(world.handle(repeat), NOTHING);
        assert_eq!(world.write(), NOTHING);
        tokio::task::yield_now().await;
        assert_eq!(world.done.take(), ["vote", "vote again"]);
        let repeat = Step { gate: Position(1), then: vec!["vote once more"], ..step(&[], 1) };
        assert_eq!(world.handle(repeat), ["vote once more"]);
        // The end: nobody comes by any more.
        let vote = Step { gate: Position(2), then: vec!["last vote"], ..step(&["prepared"], 2) };
        assert_eq!(world.handle(vote), NOTHING);
        assert_eq!(world.write(), NOTHING);
        handed_over.finish();
        assert_eq!(world.done.take(), ["last vote"]);
        let vote = Step { gate: Position(3), then: vec!["too late"], ..step(&["prepared"], 3) };
        assert_eq!(world.handle(vote), NOTHING);
        assert_eq!(world.write(), ["too late"], "as without a task");
    }

    #[test]
    fn after_a_failed_sync_nothing_is_done_any_more() {
        let disk = MemoryDisk::new(1);
        let journal = MemoryJournal::open(&disk, Kind::Coordinator).expect("a new disk");
        let (writer, log) =
            LogWriter::new(Box::new(journal), WriterOptions::default(), Box::new(()));
        let done = Done::default();
        let mut world = World { driver: Driver::new(Scripted, log, done.clone()), writer, done };
        disk.fail_next_sync();
        let decided = Step { gate: Position(1), then: vec!["commit"], ..step(&["decided"], 1) };
        assert_eq!(world.handle(decided), NOTHING);
        assert!(world.writer.run_once(Flush::Everything).is_err());
        assert_eq!(world.done.take(), NOTHING);
        let answer = Step { gate: Position(1), then: vec!["answer"], ..step(&[], 1) };
        assert_eq!(world.handle(answer), NOTHING);
    }
}
