//! Whoever turns it: each input once, in order, one at a time; timers, questions, the end.

use std::sync::mpsc;

use handfast_commit_core::id::{Epoch, Protocol, Sequence, Slot, TransactionId};
use handfast_commit_core::step::{Position, Step, TimerKey};
use handfast_journal::{
    Flush, Kind, LogHandle, LogWriter, MemoryDisk, MemoryJournal, Mutation, Table, WriterOptions,
};

use super::*;
use crate::driver::Gated;

/// Counts, and sets timers.
#[derive(Default)]
struct Counter {
    handled: Vec<u32>,
    written: u64,
    busy: bool,
}

enum Asked {
    Count(u32),
    /// After so many microseconds.
    Timer(u64),
    /// Its effect leaves another input.
    Again(u32),
    /// Leaves itself again, so many times.
    Chain(u32),
    /// Has a record.
    Write,
    Panic,
}

#[derive(Debug)]
enum Done {
    Fired,
    Again(u32),
    Chain(u32),
}

/// What a timer counts as.
const FIRED: u32 = u32::MAX;

fn step(then: Vec<Done>, timer: Option<Time>) -> Step<(), Done> {
    let sequence = Sequence(1);
    let id = TransactionId::new(Slot(0), Protocol::TwoPhase, Epoch(1), sequence);
    Step {
        records: Vec::new(),
        position: Position(0),
        forced: false,
        gate: Position(0),
        then,
        later: Vec::new(),
        timers: timer.map(|at| (TimerKey::Transaction(id), Some(at))).into_iter().collect(),
    }
}

impl Machine for Counter {
    type Input = Asked;
    type Record = ();
    type Action = Done;

    fn step(&mut self, now: Now, input: Asked) -> Step<(), Done> {
        assert!(!std::mem::replace(&mut self.busy, true), "two turn it");
        let done = match input {
            Asked::Count(number) => {
                self.handled.push(number);
                step(Vec::new(), None)
            }
            Asked::Timer(0) => {
                self.handled.push(FIRED);
                step(vec![Done::Fired], None)
            }
            Asked::Timer(after) => step(Vec::new(), Some(now.at.plus(after))),
            Asked::Again(number) => step(vec![Done::Again(number)], None),
            Asked::Chain(left) => {
                self.handled.push(left);
                let next = left.checked_sub(1).map(Done::Chain);
                step(next.into_iter().collect(), None)
            }
            Asked::Write => {
                self.written += 1;
                let position = Position(self.written);
                Step { records: vec![()], position, forced: true, ..step(Vec::new(), None) }
            }
            Asked::Panic => panic!("as it was asked"),
        };
        self.busy = false;
        done
    }

    fn timer(&self, _: TimerKey) -> Asked {
        Asked::Timer(0)
    }

    fn write(&self, (): (), mutations: &mut Vec<Mutation>) {
        mutations.push(Mutation::put(Table::Live, "a", "a"));
    }
}

#[derive(Clone)]
struct Tell(mpsc::Sender<&'static str>, ShardHandle<Counter>);

impl Effects<Done> for Tell {
    fn perform(&self, action: Done) {
        match action {
            Done::Fired => self.0.send("fired").expect("the test listens"),
            Done::Again(number) => self.1.input(Asked::Count(number)),
            Done::Chain(left) => self.1.input(Asked::Chain(left)),
        }
    }
}

struct Site {
    handle: ShardHandle<Counter>,
    thread: JoinHandle<()>,
    told: mpsc::Receiver<&'static str>,
    writer: LogWriter<Gated<Done, Tell>>,
    log: LogHandle<Gated<Done, Tell>>,
}

fn site() -> Site {
    let disk = MemoryDisk::new(1);
    let journal = MemoryJournal::open(&disk, Kind::Coordinator).expect("a new disk");
    let (writer, log) = LogWriter::new(Box::new(journal), WriterOptions::default(), Box::new(()));
    let (handle, queue) = shard();
    let (tell, told) = mpsc::channel();
    let driver = Driver::new(Counter::default(), log.clone(), Tell(tell, handle.clone()));
    let thread = queue.spawn("test", Clock::start(), driver).expect("a thread");
    Site { handle, thread, told, writer, log }
}

#[tokio::test]
async fn the_log_has_what_an_answer_speaks_of_before_it_is_given() {
    let Site { handle, log, mut writer, .. } = site();
    // All in one pass: whoever turns stands still until they are there.
    let (go_on, wait) = mpsc::channel::<()>();
    let held = handle.clone();
    let held = tokio::spawn(async move { held.ask(move |_| wait.recv().is_ok()).await });
    tokio::task::yield_now().await;
    handle.inputs_before_turn(vec![Asked::Write, Asked::Write]);
    let asked = handle.clone();
    let given = log.clone();
    let asked =
        tokio::spawn(
            async move { asked.ask(move |counter| (counter.written, given.depth())).await },
        );
    tokio::task::yield_now().await;
    handle.inputs_before_turn(vec![Asked::Write, Asked::Write, Asked::Write]);
    drop(go_on);
    assert_eq!(held.await.expect("no panic"), Some(false));
    assert_eq!(asked.await.expect("no panic"), Some((2, 2)));
    assert_eq!(handled(&handle).await, Some(Vec::new()));
    let turn = writer.run_once(Flush::WhenForced).expect("memory");
    assert_eq!((turn.completed, turn.mutations), (5, 5));
}

async fn handled(handle: &ShardHandle<Counter>) -> Option<Vec<u32>> {
    handle.ask(|counter| counter.handled.clone()).await
}

#[tokio::test]
async fn each_input_is_handled_once_and_in_order_whoever_turns() {
    let site = site();
    let threads: Vec<_> = (0..4)
        .map(|own| {
            let handle = site.handle.clone();
            std::thread::spawn(move || {
                for number in 0..2_000 {
                    let input = Asked::Count(number * 4 + own);
                    if own % 2 == 0 {
                        handle.input(input);
                    } else {
                        handle.input_before_turn(input);
                        handle.turn();
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    let all = handled(&site.handle).await.expect("it runs");
    assert_eq!(all.len(), 8_000);
    assert_eq!(site.handle.depth(), 0);
    for own in 0..4 {
        let of: Vec<_> = all.iter().copied().filter(|number| number % 4 == own).collect();
        assert!(of.is_sorted() && of.len() == 2_000, "those of thread {own}: {}", of.len());
    }
    site.handle.stop();
    site.thread.join().expect("no panic");
}

#[tokio::test]
async fn what_an_effect_leaves_is_handled() {
    let site = site();
    site.handle.inputs_before_turn(vec![Asked::Again(7)]);
    site.handle.turn();
    // It may be the thread that turns: then the question can come before what the effect leaves.
    handled(&site.handle).await;
    assert_eq!(handled(&site.handle).await, Some(vec![7]));
    site.handle.stop();
    site.thread.join().expect("no panic");
}

#[test]
fn a_timer_that_was_set_elsewhere_runs_out() {
    let site = site();
    for _ in 0..20 {
        site.handle.inputs_before_turn(vec![Asked::Timer(500)]);
        site.handle.turn();
        assert_eq!(site.told.recv_timeout(Duration::from_secs(60)), Ok("fired"));
    }
    site.handle.stop();
    site.thread.join().expect("no panic");
}

/// Inputs that come one by one and never end would keep the thread, and its timers, from their turn.
#[tokio::test]
async fn a_timer_runs_out_among_the_inputs_that_a_visitor_handles() {
    let site = site();
    site.handle.inputs_before_turn(vec![Asked::Timer(1), Asked::Chain(1_000)]);
    site.handle.turn();
    site.told.recv_timeout(Duration::from_secs(60)).expect("it fires");
    let all = handled(&site.handle).await.expect("it runs");
    let at = all.iter().position(|number| *number == FIRED).expect("it has fired");
    assert!(at < 200, "it fired behind {at} inputs");
    site.handle.stop();
    site.thread.join().expect("no panic");
}

#[tokio::test]
async fn behind_the_stop_nothing_is_handled_and_the_driver_is_gone() {
    let site = site();
    site.handle.input(Asked::Count(1));
    site.handle.stop();
    site.handle.inputs_before_turn(vec![Asked::Count(2)]);
    site.handle.turn();
    site.thread.join().expect("no panic");
    assert_eq!(handled(&site.handle).await, None);
    // Its effects held the sender.
    assert_eq!(site.told.recv(), Err(mpsc::RecvError));
}

#[tokio::test]
async fn a_driver_that_panics_elsewhere_is_no_driver_any_more() {
    let site = site();
    let handle = site.handle.clone();
    let panicked = std::thread::spawn(move || {
        handle.inputs_before_turn(vec![Asked::Panic]);
        handle.turn();
    });
    // Either of the two may have had it.
    let (here, there) = (panicked.join(), site.thread.join());
    assert!(here.is_err() || there.is_err());
    assert_eq!(handled(&site.handle).await, None);
}
