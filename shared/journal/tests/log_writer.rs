//! Group commit: what goes into one append, what completes when, and what happens at the end.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use handfast_journal::{
    Completion, Flush, Journal, JournalError, Kind, LogHandle, LogSequence, LogWriter, MemoryDisk,
    MemoryJournal, Mutation, Reader, Submission, Table, Turn, Unsynced, WriterObserver,
    WriterOptions,
};

/// Longer than anything here takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// An idle interval that never comes.
const NEVER: Duration = Duration::from_secs(3600);

/// What happened, in order: appends and completions.
#[derive(Clone, Debug, Default)]
struct Events(Arc<Mutex<Vec<Event>>>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    /// An append of so many mutations has returned.
    Appended(usize),
    /// The completion of this number ran.
    Durable(u32),
    /// The completion of this number was dropped without running.
    Dropped(u32),
}

impl Events {
    fn push(&self, event: Event) {
        self.0.lock().expect("no test panics with it").push(event);
    }

    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().expect("no test panics with it"))
    }
}

/// Says when it ran or was dropped.
struct Told {
    number: u32,
    events: Events,
    ran: bool,
}

impl Completion for Told {
    fn durable(mut self) {
        self.ran = true;
        self.events.push(Event::Durable(self.number));
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if !self.ran {
            self.events.push(Event::Dropped(self.number));
        }
    }
}

/// Notes its appends, and passes them on.
struct Noting {
    inner: MemoryJournal,
    events: Events,
}

impl Journal for Noting {
    fn append(&mut self, batch: &[Mutation]) -> Result<LogSequence, JournalError> {
        let sequence = self.inner.append(batch)?;
        self.events.push(Event::Appended(batch.len()));
        Ok(sequence)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.inner.reader()
    }
}

/// A writer to be turned by hand, and what belongs to it.
struct Bench {
    disk: MemoryDisk,
    events: Events,
    writer: LogWriter<Told>,
    handle: LogHandle<Told>,
}

impl Bench {
    fn new(options: WriterOptions) -> Self {
        let disk = MemoryDisk::new(7);
        let events = Events::default();
        let journal = Noting {
            inner: MemoryJournal::open(&disk, Kind::Coordinator).expect("the journal opens"),
            events: events.clone(),
        };
        let (writer, handle) = LogWriter::new(Box::new(journal), options, Box::new(()));
        Bench { disk, events, writer, handle }
    }

    fn submit(&self, number: u32, mutations: usize, forced: bool) {
        submit(&self.handle, &self.events, number, mutations, forced);
    }

    fn turn(&mut self, flush: Flush) -> Turn {
        self.writer.run_once(flush).expect("the append works")
    }
}

fn submit(handle: &LogHandle<Told>, events: &Events, number: u32, mutations: usize, forced: bool) {
    handle.submit(Submission {
        mutations: (0..mutations)
            .map(|n| {
                let key = [number.to_be_bytes(), (n as u32).to_be_bytes()].concat();
                Mutation::put(Table::Live, key, "12")
            })
            .collect(),
        forced,
        completion: Some(Told { number, events: events.clone(), ran: false }),
    });
}

fn durable(numbers: impl IntoIterator<Item = u32>) -> Vec<Event> {
    numbers.into_iter().map(Event::Durable).collect()
}

#[test]
fn everything_queued_is_one_append_and_completes_in_order() {
    let mut bench = Bench::new(WriterOptions::default());
    for number in 0..100 {
        bench.submit(number, 2, number % 3 == 0);
    }
    assert_eq!(bench.handle.depth(), 100);
    assert_eq!(
        bench.turn(Flush::WhenForced),
        Turn { completed: 100, mutations: 200, bytes: 2000, held: 0, again: false }
    );
    let mut expected = vec![Event::Appended(200)];
    expected.extend(durable(0..100));
    assert_eq!(bench.events.take(), expected);
    assert_eq!(bench.handle.depth(), 0);
    assert_eq!(bench.turn(Flush::Everything), Turn::default());
    assert_eq!(bench.events.take(), []);
}

#[test]
fn lazy_submissions_wait_for_a_forced_one_and_ride_along() {
    let mut bench = Bench::new(WriterOptions::default());
    bench.submit(1, 1, false);
    bench.submit(2, 1, false);
    assert_eq!(bench.turn(Flush::WhenForced).held, 2);
    assert_eq!(bench.turn(Flush::WhenForced).held, 2);
    assert_eq!(bench.events.take(), []);
    assert_eq!(bench.handle.depth(), 2);
    bench.submit(3, 1, true);
    bench.submit(4, 1, false);
    assert_eq!(bench.turn(Flush::WhenForced).completed, 4);
    assert_eq!(bench.events.take(), [vec![Event::Appended(4)], durable(1..=4)].concat());
}

#[test]
fn lazy_submissions_are_written_when_they_have_waited_long_enough() {
    let mut bench = Bench::new(WriterOptions::default());
    bench.submit(1, 1, false);
    assert_eq!(bench.turn(Flush::WhenForced).held, 1);
    assert_eq!(bench.turn(Flush::Everything).completed, 1);
    assert_eq!(bench.events.take(), [Event::Appended(1), Event::Durable(1)]);
}

#[test]
fn a_barrier_completes_with_what_is_before_it_and_costs_no_sync_of_its_own() {
    let mut bench = Bench::new(WriterOptions::default());
    // Nothing before it: at once, forced or not.
    bench.submit(1, 0, true);
    bench.submit(2, 0, false);
    assert_eq!(bench.turn(Flush::WhenForced).completed, 2);
    assert_eq!(bench.events.take(), durable(1..=2));
    // A lazy barrier behind a lazy submission waits; a forced one makes both durable.
    bench.submit(3, 1, false);
    bench.submit(4, 0, false);
    assert_eq!(bench.turn(Flush::WhenForced).held, 2);
    assert_eq!(bench.events.take(), []);
    bench.submit(5, 0, true);
    let turn = bench.turn(Flush::WhenForced);
    assert_eq!((turn.completed, turn.mutations, turn.again), (3, 1, false));
    assert_eq!(bench.events.take(), [vec![Event::Appended(1)], durable(3..=5)].concat());
}

#[test]
fn a_batch_is_bounded_and_the_rest_follows() {
    let by_mutations = WriterOptions { batch_mutations_max: 5, ..WriterOptions::default() };
    // Ten bytes each.
    let by_bytes = WriterOptions { batch_bytes_max: 50, ..WriterOptions::default() };
    for options in [by_mutations, by_bytes] {
        let mut bench = Bench::new(options);
        for number in 1..=6 {
            bench.submit(number, 2, true);
        }
        // Larger than a batch may be, and atomic: a batch of its own.
        bench.submit(7, 9, true);
        bench.submit(8, 0, true);
        let mut turns = Vec::new();
        loop {
            let turn = bench.turn(Flush::WhenForced);
            turns.push((turn.completed, turn.held));
            if !turn.again {
                break;
            }
        }
        assert_eq!(turns, [(2, 6), (2, 4), (2, 2), (2, 0)]);
        let mut expected = Vec::new();
        for first in [1, 3, 5] {
            expected.push(Event::Appended(4));
            expected.extend(durable([first, first + 1]));
        }
        expected.push(Event::Appended(9));
        expected.extend(durable([7, 8]));
        assert_eq!(bench.events.take(), expected);
    }
}

/// Lazy submissions alone would otherwise pile up without a bound while the thread is never idle.
#[test]
fn lazy_submissions_that_fill_a_batch_are_written() {
    let mut bench =
        Bench::new(WriterOptions { batch_mutations_max: 4, ..WriterOptions::default() });
    for number in 1..=3 {
        bench.submit(number, 1, false);
    }
    assert_eq!(bench.turn(Flush::WhenForced).completed, 0);
    (4..=9).for_each(|number| bench.submit(number, 1, false));
    let turn = bench.turn(Flush::WhenForced);
    assert_eq!((turn.completed, turn.held, turn.again), (4, 5, true), "it fills another one");
    let turn = bench.turn(Flush::WhenForced);
    assert_eq!((turn.completed, turn.held, turn.again), (4, 1, false));
}

#[test]
fn a_failed_append_completes_nothing_and_ends_the_writer() {
    let mut bench =
        Bench::new(WriterOptions { batch_mutations_max: 2, ..WriterOptions::default() });
    bench.submit(1, 1, true);
    assert_eq!(bench.turn(Flush::WhenForced).completed, 1);
    bench.events.take();
    // The batch that fails, and what waits behind it.
    for number in 2..=5 {
        bench.submit(number, 1, true);
    }
    bench.disk.fail_next_sync();
    let failure = bench.writer.run_once(Flush::WhenForced);
    assert!(matches!(failure, Err(JournalError::Write { .. })), "{failure:?}");
    let mut events = bench.events.take();
    events.sort_by_key(|event| match event {
        Event::Dropped(number) => *number,
        other => panic!("{other:?}"),
    });
    assert_eq!(events, [2, 3, 4, 5].map(Event::Dropped));
    assert_eq!(bench.handle.depth(), 0);
    // Later submissions are dropped, and later turns say the same.
    bench.submit(6, 1, true);
    bench.submit(7, 0, true);
    assert_eq!(bench.events.take(), [6, 7].map(Event::Dropped));
    assert_eq!(bench.writer.run_once(Flush::Everything), failure);
    assert_eq!(bench.handle.depth(), 0);
    // What was acknowledged is there.
    bench.disk.crash(Unsynced::Lost);
    let journal = MemoryJournal::open(&bench.disk, Kind::Coordinator).expect("the journal opens");
    let key = [1_u32.to_be_bytes(), 0_u32.to_be_bytes()].concat();
    assert_eq!(journal.reader().get(Table::Live, &key), Ok(Some(b"12".to_vec())));
}

/// A completion may submit, as a shard does that runs on the writer's thread in a simulator.
#[test]
fn a_completion_may_submit() {
    struct Again(Option<LogHandle<Again>>);
    impl Completion for Again {
        fn durable(self) {
            if let Some(handle) = self.0 {
                handle.submit(Submission {
                    mutations: vec![Mutation::put(Table::Live, "b", "")],
                    forced: true,
                    completion: Some(Again(None)),
                });
            }
        }
    }
    let disk = MemoryDisk::new(7);
    let journal = MemoryJournal::open(&disk, Kind::Coordinator).expect("the journal opens");
    let (mut writer, handle) =
        LogWriter::new(Box::new(journal), WriterOptions::default(), Box::new(()));
    handle.submit(Submission {
        mutations: vec![Mutation::put(Table::Live, "a", "")],
        forced: true,
        completion: Some(Again(Some(handle.clone()))),
    });
    let completed = [(); 3].map(|()| {
        let turn = writer.run_once(Flush::WhenForced);
        turn.expect("the append works").completed
    });
    assert_eq!(completed, [1, 1, 0]);
}

/// Waits at every append until the test lets it go on, with the result it is given.
struct Gated {
    inner: Noting,
    arrived: Sender<usize>,
    go_on: Receiver<()>,
}

impl Journal for Gated {
    fn append(&mut self, batch: &[Mutation]) -> Result<LogSequence, JournalError> {
        self.arrived.send(batch.len()).expect("the test listens");
        self.go_on.recv_timeout(PATIENCE).expect("the test lets it go on");
        self.inner.append(batch)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.inner.reader()
    }
}

/// A writer on its thread, whose appends the test holds.
struct Threaded {
    disk: MemoryDisk,
    events: Events,
    handle: LogHandle<Told>,
    thread: std::thread::JoinHandle<()>,
    arrived: Receiver<usize>,
    go_on: Sender<()>,
    poisoned: Receiver<JournalError>,
}

impl Threaded {
    fn start(idle: Duration) -> Self {
        let disk = MemoryDisk::new(7);
        let events = Events::default();
        let (arrived_in, arrived) = mpsc::channel();
        let (go_on, go_on_out) = mpsc::channel();
        let (poisoned_in, poisoned) = mpsc::channel();
        let journal = Gated {
            inner: Noting {
                inner: MemoryJournal::open(&disk, Kind::Coordinator).expect("the journal opens"),
                events: events.clone(),
            },
            arrived: arrived_in,
            go_on: go_on_out,
        };
        let options = WriterOptions { idle, ..WriterOptions::default() };
        let (writer, handle) = LogWriter::new(Box::new(journal), options, Box::new(()));
        let thread = writer
            .spawn(move |error| poisoned_in.send(error).expect("the test listens"))
            .expect("a thread");
        Threaded { disk, events, handle, thread, arrived, go_on, poisoned }
    }

    fn submit(&self, number: u32, mutations: usize, forced: bool) {
        submit(&self.handle, &self.events, number, mutations, forced);
    }

    /// Waits for the next append; the mutations in it.
    fn next_append(&self) -> usize {
        self.arrived.recv_timeout(PATIENCE).expect("an append")
    }

    fn let_go(&self) {
        self.go_on.send(()).expect("the writer waits");
    }

    /// Joins the thread; what happened since the last look, and the poison if there was any.
    fn join(self) -> (Vec<Event>, Vec<JournalError>) {
        self.thread.join().expect("the writer ends");
        (self.events.take(), self.poisoned.iter().collect())
    }
}

#[test]
fn while_one_sync_runs_the_next_batch_gathers() {
    let threaded = Threaded::start(NEVER);
    threaded.submit(0, 1, true);
    assert_eq!(threaded.next_append(), 1);
    for number in 1..=100 {
        threaded.submit(number, 1, true);
    }
    // The append has not returned, so nothing has completed.
    assert_eq!(threaded.events.take(), []);
    assert_eq!(threaded.handle.depth(), 101);
    threaded.let_go();
    assert_eq!(threaded.next_append(), 100);
    assert_eq!(threaded.events.take(), [Event::Appended(1), Event::Durable(0)]);
    threaded.let_go();
    threaded.handle.close();
    let (events, poison) = threaded.join();
    assert_eq!(events, [vec![Event::Appended(100)], durable(1..=100)].concat());
    assert_eq!(poison, []);
}

/// The idle interval is an hour, so this ends only if forced submissions never wait for it.
#[test]
fn a_forced_submission_alone_is_written_at_once() {
    let threaded = Threaded::start(NEVER);
    for number in 0..10 {
        threaded.submit(number, 1, true);
        assert_eq!(threaded.next_append(), 1);
        threaded.let_go();
    }
    threaded.handle.close();
    threaded.join();
}

#[test]
fn an_idle_log_writes_its_lazy_submissions() {
    let threaded = Threaded::start(Duration::from_millis(1));
    threaded.submit(1, 1, false);
    assert_eq!(threaded.next_append(), 1);
    threaded.let_go();
    // Once more, since the first wait has been set up and passed.
    threaded.submit(2, 1, false);
    assert_eq!(threaded.next_append(), 1);
    threaded.let_go();
    threaded.handle.close();
    let (events, _) = threaded.join();
    assert_eq!(
        events,
        [Event::Appended(1), Event::Durable(1), Event::Appended(1), Event::Durable(2)]
    );
}

#[test]
fn closing_writes_what_was_submitted_and_drops_what_comes_later() {
    let threaded = Threaded::start(NEVER);
    threaded.submit(1, 1, false);
    threaded.submit(2, 0, false);
    let other = threaded.handle.clone();
    threaded.handle.close();
    submit(&other, &threaded.events, 3, 1, true);
    assert_eq!(threaded.next_append(), 1);
    threaded.let_go();
    let disk = threaded.disk.clone();
    let (events, poison) = threaded.join();
    assert_eq!(
        events,
        [Event::Dropped(3), Event::Appended(1), Event::Durable(1), Event::Durable(2)]
    );
    assert_eq!(poison, []);
    // The journal is closed too.
    MemoryJournal::open(&disk, Kind::Coordinator).expect("the journal opens");
}

#[test]
fn the_last_handle_ends_the_writer_and_no_other() {
    let Threaded { handle, thread, events, arrived, go_on, .. } = Threaded::start(NEVER);
    let clone = handle.clone();
    drop(handle);
    submit(&clone, &events, 1, 1, true);
    assert_eq!(arrived.recv_timeout(PATIENCE), Ok(1));
    go_on.send(()).expect("the writer waits");
    submit(&clone, &events, 2, 1, false);
    drop(clone);
    assert_eq!(arrived.recv_timeout(PATIENCE), Ok(1));
    go_on.send(()).expect("the writer waits");
    thread.join().expect("the writer ends");
    assert_eq!(
        events.take(),
        [Event::Appended(1), Event::Durable(1), Event::Appended(1), Event::Durable(2)]
    );
}

#[test]
fn a_poisoned_writer_tells_once_and_drops_the_rest() {
    let threaded = Threaded::start(NEVER);
    threaded.disk.fail_next_sync();
    threaded.submit(1, 1, true);
    threaded.next_append();
    threaded.submit(2, 1, true);
    threaded.let_go();
    let told = threaded.poisoned.recv_timeout(PATIENCE).expect("poison");
    assert!(matches!(told, JournalError::Write { .. }), "{told:?}");
    threaded.submit(3, 1, true);
    assert_eq!(threaded.handle.depth(), 0);
    let (events, poison) = threaded.join();
    assert_eq!(events, [1, 2, 3].map(Event::Dropped));
    assert_eq!(poison, []);
}

#[test]
fn a_completion_that_panics_poisons() {
    struct Panics;
    impl Completion for Panics {
        fn durable(self) {
            // Not `panic!`, which would print a backtrace into the test's output.
            std::panic::resume_unwind(Box::new("a completion panics"));
        }
    }
    let disk = MemoryDisk::new(7);
    let journal = MemoryJournal::open(&disk, Kind::Coordinator).expect("the journal opens");
    let (writer, handle) =
        LogWriter::new(Box::new(journal), WriterOptions::default(), Box::new(()));
    let (poisoned_in, poisoned) = mpsc::channel();
    let thread = writer
        .spawn(move |error| poisoned_in.send(error).expect("the test listens"))
        .expect("a thread");
    handle.submit(Submission {
        mutations: vec![Mutation::put(Table::Live, "a", "")],
        forced: true,
        completion: Some(Panics),
    });
    let told = poisoned.recv_timeout(PATIENCE).expect("poison");
    assert!(matches!(told, JournalError::Poisoned { .. }), "{told:?}");
    thread.join().expect("the thread ends");
}

#[test]
fn the_observer_sees_every_batch() {
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<VecDeque<(usize, usize, usize)>>>);
    impl WriterObserver for Seen {
        fn batch(&self, submissions: usize, mutations: usize, bytes: usize, sync: Duration) {
            assert_eq!(sync, Duration::ZERO, "a writer turned by hand has no clock");
            let mut seen = self.0.lock().expect("no test panics with it");
            seen.push_back((submissions, mutations, bytes));
        }
    }
    let seen = Seen::default();
    let disk = MemoryDisk::new(7);
    let journal = MemoryJournal::open(&disk, Kind::Coordinator).expect("the journal opens");
    let (mut writer, handle) =
        LogWriter::new(Box::new(journal), WriterOptions::default(), Box::new(seen.clone()));
    let events = Events::default();
    submit(&handle, &events, 1, 3, true);
    submit(&handle, &events, 2, 0, true);
    writer.run_once(Flush::WhenForced).expect("it works");
    submit(&handle, &events, 3, 0, true);
    writer.run_once(Flush::WhenForced).expect("it works");
    submit(&handle, &events, 4, 1, true);
    writer.run_once(Flush::WhenForced).expect("it works");
    let seen = seen.0.lock().expect("no test panics with it");
    assert_eq!(*seen, [(2, 3, 30), (1, 1, 10)]);
}

/// Several threads submit as fast as they can; every completion runs once, in its thread's order.
#[test]
fn many_submitters_lose_nothing() {
    const THREADS: u32 = 4;
    const EACH: u32 = 2000;
    struct Count(u32, u32, Sender<(u32, u32)>);
    impl Completion for Count {
        fn durable(self) {
            self.2.send((self.0, self.1)).expect("the test listens");
        }
    }
    let disk = MemoryDisk::new(7);
    let journal = MemoryJournal::open(&disk, Kind::Coordinator).expect("the journal opens");
    let (writer, handle) =
        LogWriter::new(Box::new(journal), WriterOptions::default(), Box::new(()));
    let thread = writer.spawn(|error| panic!("poisoned: {error}")).expect("a thread");
    let (done_in, done) = mpsc::channel();
    for submitter in 0..THREADS {
        let (handle, done_in) = (handle.clone(), done_in.clone());
        std::thread::spawn(move || {
            for number in 0..EACH {
                handle.submit(Submission {
                    mutations: vec![Mutation::put(Table::Live, number.to_be_bytes(), "")],
                    forced: number % 3 == 0,
                    completion: Some(Count(submitter, number, done_in.clone())),
                });
            }
        });
    }
    drop(done_in);
    drop(handle);
    let mut next = [0; THREADS as usize];
    for (submitter, number) in done {
        assert_eq!(number, next[submitter as usize]);
        next[submitter as usize] += 1;
    }
    assert_eq!(next, [EACH; THREADS as usize]);
    thread.join().expect("the writer ends");
}
