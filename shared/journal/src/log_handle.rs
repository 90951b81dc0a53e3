//! The submitting end of a [`LogWriter`](crate::LogWriter), and the queue between the two.
//!
//! Law: a submission is written in the order of its `submit`, and its completion runs when it is durable
//! or never. Nothing here waits for the disk: the lock is held to push or to take the whole queue.
//!
//! Absent on purpose: a bound that blocks the submitter. A shard that waits for its log stops answering
//! inquiries; the bound is [`LogHandle::depth`], which whoever admits work looks at.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use handfast_commit_core::mutants::{Mutant, mutant};

use crate::Mutation;

/// What waits for a submission to be durable.
///
/// It runs on the log writer's thread, between two syncs: hand the news on and return.
pub trait Completion: Send + Sized + 'static {
    /// The submission, and every one before it, is durable.
    fn durable(self);

    /// The same of all that one sync has made durable, in order. For those that hand their news on together.
    fn all_durable(completions: impl Iterator<Item = Self>) {
        completions.for_each(Completion::durable);
    }
}

/// A completion for submissions that nobody waits for.
impl Completion for () {
    fn durable(self) {}
}

/// Some mutations to be written together, and what is gated on them.
#[derive(Debug)]
pub struct Submission<C> {
    /// Written in one batch, in order. None at all makes the submission a barrier: it completes when
    /// everything before it is durable, and costs no sync if that is so already.
    pub mutations: Vec<Mutation>,
    /// Whether to sync at once. A submission that is not forced rides in the next batch that is, or is
    /// written when the log has been idle for [`WriterOptions::idle`](crate::WriterOptions::idle).
    pub forced: bool,
    /// Runs once the submission is durable, forced or not; dropped unrun if that never happens.
    pub completion: Option<C>,
}

/// Submits to a log writer; cloned for every shard. When the last clone is gone, or one is
/// [closed](LogHandle::close), the writer writes what it has and ends.
#[derive(Debug)]
pub struct LogHandle<C> {
    queue: Arc<Queue<C>>,
}

impl<C> LogHandle<C> {
    /// The first handle of a new queue.
    pub(crate) fn new(queue: Arc<Queue<C>>) -> Self {
        LogHandle { queue }
    }

    /// Queues `submission` and returns. Once the writer has ended (closed, or poisoned by a failed
    /// write) it drops the submission and its completion instead.
    pub fn submit(&self, submission: Submission<C>) {
        self.submit_all(&mut vec![submission]);
    }

    /// The same for several, in their order, which one sync can make durable together. Leaves none.
    pub fn submit_all(&self, submissions: &mut Vec<Submission<C>>) {
        if !submissions.is_empty() {
            self.queue.push(submissions);
        }
    }

    /// The submissions that have been accepted and are not durable yet.
    pub fn depth(&self) -> usize {
        self.queue.depth.load(Ordering::Relaxed)
    }

    /// Ends the writer for every handle: what was submitted before is written, lazy or not, and
    /// completes; what is submitted later is dropped. Returns at once; join the writer's thread to wait.
    pub fn close(&self) {
        self.queue.close();
    }
}

impl<C> Clone for LogHandle<C> {
    fn clone(&self) -> Self {
        self.queue.lock().handles += 1;
        LogHandle { queue: Arc::clone(&self.queue) }
    }
}

impl<C> Drop for LogHandle<C> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.handles -= 1;
        let last = state.handles == 0;
        drop(state);
        if last {
            self.queue.close();
        }
    }
}

/// The queue between the handles and the writer.
#[derive(Debug)]
pub(crate) struct Queue<C> {
    state: Mutex<QueueState<C>>,
    /// Signalled when something is queued while the writer waits, and at the end.
    news: Condvar,
    /// Accepted and not durable; kept beside the lock so that metrics do not contend for it.
    depth: AtomicUsize,
}

/// The mutations of a batch, and the buffers that they came in.
///
/// They are dropped where they were made: memory that one thread allocates and another one frees travels
/// between their caches, and costs both of them more than all the rest that they do with it.
pub(crate) type Spent = (Vec<Mutation>, Vec<Vec<Mutation>>);

#[derive(Debug)]
struct QueueState<C> {
    queued: VecDeque<Submission<C>>,
    /// What has been written, for the next submitter to drop.
    spent: Vec<Spent>,
    handles: usize,
    /// No submission is accepted any more.
    closed: bool,
    /// What has come since the writer sleeps and has not woken it, in bytes.
    unseen: usize,
    /// What the writer sleeps for; a submitter wakes it only then, since waking costs a system call.
    waiting: Waiting,
}

/// Whether the writer is asleep, and who is to wake it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    No,
    /// It holds nothing: whoever comes first.
    ForAny,
    /// It looks again by itself before long: only who cannot wait for that, or brings the queue to
    /// [`UNSEEN_MAX`].
    ForForced,
}

/// With so many bytes in the queue a writer looks whether they fill a batch: what nobody hurries for is bounded, too.
const UNSEEN_MAX: usize = 1 << 20;

/// About what submissions take in memory, in bytes.
fn weight<C>(submissions: &[Submission<C>]) -> usize {
    let bytes = |mutation: &Mutation| mutation.size() + size_of::<Mutation>();
    submissions.iter().flat_map(|submission| &submission.mutations).map(bytes).sum()
}

impl<C> Queue<C> {
    /// An empty queue that one handle exists of.
    pub(crate) fn new() -> Self {
        Queue {
            state: Mutex::new(QueueState {
                queued: VecDeque::new(),
                spent: Vec::new(),
                handles: 1,
                closed: false,
                unseen: 0,
                waiting: Waiting::No,
            }),
            news: Condvar::new(),
            depth: AtomicUsize::new(0),
        }
    }

    /// The state is plain data that no panic can leave half changed, so a poisoned mutex is as good as
    /// any.
    fn lock(&self) -> MutexGuard<'_, QueueState<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, submissions: &mut Vec<Submission<C>>) {
        let mut state = self.lock();
        if state.closed {
            // Unlock before the completions are dropped: their drop is foreign code and may submit.
            drop(state);
            submissions.clear();
            return;
        }
        let wake = match state.waiting {
            Waiting::No => false,
            Waiting::ForAny => true,
            Waiting::ForForced => {
                state.unseen += weight(submissions);
                state.unseen >= UNSEEN_MAX || submissions.iter().any(|submission| submission.forced)
            }
        };
        if wake {
            state.waiting = Waiting::No;
        }
        self.depth.fetch_add(submissions.len(), Ordering::Relaxed);
        state.queued.extend(submissions.drain(..));
        let spent = std::mem::take(&mut state.spent);
        drop(state);
        if wake {
            self.news.notify_one();
        }
        drop(spent);
    }

    /// Leaves what has been written to the next submitter. There is never more of it than was submitted
    /// since the last one came by.
    pub(crate) fn spend(&self, spent: Spent) {
        self.lock().spent.push(spent);
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waiting = Waiting::No;
        drop(state);
        self.news.notify_one();
    }

    /// Moves everything queued to the end of `pending`.
    pub(crate) fn take(&self, pending: &mut VecDeque<Submission<C>>) {
        let mut state = self.lock();
        if mutant(Mutant::SubmissionsReordered) {
            state.queued.append(pending);
        }
        if pending.is_empty() {
            std::mem::swap(&mut state.queued, pending);
        } else {
            pending.append(&mut state.queued);
        }
    }

    /// Waits until something is queued, the queue is closed, or `deadline` has passed. With a deadline, what is
    /// queued and not forced waits for it, unless it is much.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Wake {
        let mut state = self.lock();
        state.unseen = weight(state.queued.make_contiguous());
        let mut forced = state.queued.iter().any(|queued| queued.forced);
        loop {
            let urgent = deadline.is_none() || forced || state.unseen >= UNSEEN_MAX;
            if urgent && !state.queued.is_empty() {
                state.waiting = Waiting::No;
                return Wake::Queued;
            }
            if state.closed {
                return Wake::Closed;
            }
            let left = match deadline {
                None => None,
                Some(at) => match at.checked_duration_since(Instant::now()) {
                    Some(left) if !left.is_zero() => Some(left),
                    _ => {
                        state.waiting = Waiting::No;
                        return Wake::Deadline;
                    }
                },
            };
            let seen = state.queued.len();
            state.waiting = if left.is_some() { Waiting::ForForced } else { Waiting::ForAny };
            state = match left {
                None => self.news.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    self.news.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
            forced = state.queued.iter().skip(seen).any(|queued| queued.forced);
        }
    }

    /// Notes that `count` submissions are durable, or gone.
    pub(crate) fn settled(&self, count: usize) {
        self.depth.fetch_sub(count, Ordering::Relaxed);
    }

    /// Ends the queue and drops what is in it.
    pub(crate) fn abandon(&self) {
        self.close();
        let dropped = std::mem::take(&mut self.lock().queued);
        self.settled(dropped.len());
    }
}

/// Why [`Queue::wait`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    Queued,
    Closed,
    Deadline,
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn submission(forced: bool) -> Submission<()> {
        Submission { mutations: Vec::new(), forced, completion: None }
    }

    fn with_bytes(bytes: usize) -> Submission<()> {
        let mutations = vec![Mutation::put(crate::Table::Live, "key", vec![0; bytes])];
        Submission { mutations, ..submission(false) }
    }

    /// What ends the wait of a writer that has this long.
    fn woken_by(forced: bool, wait: Option<Duration>) -> Wake {
        let queue = Arc::new(Queue::new());
        let waits = Arc::clone(&queue);
        let deadline = wait.map(|wait| Instant::now() + wait);
        let writer = thread::spawn(move || waits.wait(deadline));
        while queue.lock().waiting == Waiting::No {
            thread::yield_now();
        }
        queue.push(&mut vec![submission(false), submission(forced)]);
        writer.join().expect("no panic")
    }

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn who_looks_again_by_himself_is_woken_only_by_what_cannot_wait() {
        assert_eq!(woken_by(true, None), Wake::Queued);
        assert_eq!(woken_by(false, None), Wake::Queued);
        assert_eq!(woken_by(true, Some(LONG)), Wake::Queued);
        assert_eq!(woken_by(false, Some(Duration::from_millis(300))), Wake::Deadline);
    }

    #[test]
    fn what_can_wait_is_bounded() {
        let queue = Arc::new(Queue::new());
        let waits = Arc::clone(&queue);
        let writer = thread::spawn(move || waits.wait(Some(Instant::now() + LONG)));
        while queue.lock().waiting == Waiting::No {
            thread::yield_now();
        }
        let mut pushes = 0;
        while queue.lock().waiting != Waiting::No {
            queue.push(&mut vec![with_bytes(UNSEEN_MAX / 4)]);
            pushes += 1;
        }
        assert_eq!((writer.join().expect("no panic"), pushes), (Wake::Queued, 4));
        // What is there when the wait begins counts as well.
        assert_eq!(queue.wait(Some(Instant::now() + LONG)), Wake::Queued);
    }

    #[test]
    fn what_was_queued_before_the_wait_counts_as_well() {
        let queue = Queue::new();
        queue.push(&mut vec![submission(false)]);
        assert_eq!(queue.wait(None), Wake::Queued);
        assert_eq!(queue.wait(Some(Instant::now() + Duration::from_millis(1))), Wake::Deadline);
        queue.push(&mut vec![submission(false), submission(true)]);
        assert_eq!(queue.wait(Some(Instant::now() + LONG)), Wake::Queued);
        queue.push(&mut vec![submission(true)]);
        let mut pending = VecDeque::new();
        queue.take(&mut pending);
        assert_eq!(
            pending.iter().map(|one| one.forced).collect::<Vec<_>>(),
            [false, false, true, true]
        );
        assert_eq!(queue.depth.load(Ordering::Relaxed), 4);
    }
}
