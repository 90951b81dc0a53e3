//! Group commit by one thread: whatever has queued while one sync ran becomes the next batch.
//!
//! Laws:
//! - **Nothing completes before the append that carries it has returned `Ok`**, and completions run in the
//!   order of submission. On an error no completion runs, nothing is retried, and the writer ends.
//! - **No timer on the commit path.** A forced submission is written as soon as the writer is free, alone if
//!   it is alone. The one timer is for lazy submissions on an idle log, and it lives in the thread, not in
//!   [`LogWriter::run_once`]: a simulator turns that by hand, on one thread, without a clock.
//! - **A batch is bounded**, so that one long queue does not become one long sync.
//!
//! Absent on purpose: several writers (RocksDB's own write groups were measured at a seventh of this rate), and
//! any answer to a failed write but stopping.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use handfast_commit_core::mutants::{Mutant, mutant};

use crate::log_handle::{Queue, Wake};
use crate::{Completion, Journal, JournalError, LogHandle, Mutation, Submission};

/// The bounds of a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterOptions {
    /// A batch stops growing at this many bytes of keys and values. A single larger submission is
    /// still one batch: it is atomic.
    pub batch_bytes_max: usize,
    /// A batch stops growing at this many mutations.
    pub batch_mutations_max: usize,
    /// The longest that a lazy submission waits for a forced one to ride with.
    pub idle: Duration,
}

impl Default for WriterOptions {
    /// 4 MiB, 10,000 mutations, 20 ms.
    fn default() -> Self {
        WriterOptions {
            batch_bytes_max: 4 << 20,
            batch_mutations_max: 10_000,
            idle: Duration::from_millis(20),
        }
    }
}

/// Sees every batch, for metrics. Runs on the writer's thread.
pub trait WriterObserver: Send + 'static {
    /// A batch has become durable, and its completions are about to run. `sync` is what the append
    /// took; zero where the writer is turned by hand, without a clock.
    fn batch(&self, submissions: usize, mutations: usize, bytes: usize, sync: Duration) {
        let _ = (submissions, mutations, bytes, sync);
    }
}

/// Observes nothing.
impl WriterObserver for () {}

/// What a turn has to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// A batch, if a forced submission waits (or the lazy ones alone would fill a batch).
    WhenForced,
    /// A batch, if anything waits: the lazy ones have waited long enough.
    Everything,
}

/// What one turn of the writer did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// The submissions that became durable.
    pub completed: usize,
    /// The mutations written. Zero means that nothing was appended: the turn was idle, or it
    /// completed barriers that had nothing to wait for.
    pub mutations: usize,
    /// The bytes of keys and values written.
    pub bytes: usize,
    /// The submissions that are held over to a later turn.
    pub held: usize,
    /// The batch was full, and what is held over has a forced one among it, or is full again: turn again, at once.
    pub again: bool,
}

/// The writing end of a queue of submissions; owns the journal.
pub struct LogWriter<C> {
    journal: Box<dyn Journal>,
    queue: Arc<Queue<C>>,
    options: WriterOptions,
    observer: Box<dyn WriterObserver>,
    /// Taken from the queue and not written yet, oldest first.
    pending: VecDeque<Submission<C>>,
    /// Totals over `pending`.
    pending_forced: usize,
    pending_mutations: usize,
    pending_bytes: usize,
    batch: Vec<Mutation>,
    /// What the mutations of the batch came in.
    buffers: Vec<Vec<Mutation>>,
    /// Kept for its capacity.
    completions: Vec<C>,
    failure: Option<JournalError>,
}

impl<C: Completion> LogWriter<C> {
    /// A writer on `journal`, and the first handle to submit to it.
    pub fn new(
        journal: Box<dyn Journal>,
        options: WriterOptions,
        observer: Box<dyn WriterObserver>,
    ) -> (LogWriter<C>, LogHandle<C>) {
        let queue = Arc::new(Queue::new());
        let writer = LogWriter {
            journal,
            queue: Arc::clone(&queue),
            options,
            observer,
            pending: VecDeque::new(),
            pending_forced: 0,
            pending_mutations: 0,
            pending_bytes: 0,
            batch: Vec::new(),
            buffers: Vec::new(),
            completions: Vec::new(),
            failure: None,
        };
        (writer, LogHandle::new(queue))
    }

    /// Takes everything queued, appends at most one batch, and runs the completions of what is durable
    /// now, in order. Depends on nothing but the queue, the journal and `flush`.
    ///
    /// # Errors
    /// The journal's own, at the first failed append and at every turn after it. Everything that was
    /// pending has then been dropped, and so will be whatever is submitted later.
    pub fn run_once(&mut self, flush: Flush) -> Result<Turn, JournalError> {
        self.turn(flush, || Duration::ZERO)
    }

    /// Runs the writer on a thread of its own until every handle is gone or one of them is closed; all
    /// that was submitted before is then written, and the journal closed, when the thread ends.
    ///
    /// `on_poison` is called on that thread, at most once, when an append has failed (or a completion has
    /// panicked): the process must stop answering from this log, and end.
    ///
    /// # Errors
    /// The system's, if it has no thread to give.
    pub fn spawn(
        mut self,
        on_poison: impl FnOnce(JournalError) + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name("log-writer".to_owned()).spawn(move || {
            // A completion that panics would otherwise leave a process that accepts work and never
            // completes any.
            let ended = catch_unwind(AssertUnwindSafe(|| self.run())).unwrap_or_else(|_| {
                Err(JournalError::Poisoned {
                    place: "the log writer".to_owned(),
                    reason: "a completion or the journal panicked".to_owned(),
                })
            });
            // The journal is closed before anybody is told or can join.
            drop(self);
            if let Err(error) = ended {
                tracing::error!(%error, "the log is poisoned");
                on_poison(error);
            }
        })
    }

    /// The loop of the thread.
    fn run(&mut self) -> Result<(), JournalError> {
        let start = Instant::now();
        // When the oldest of the held lazy submissions has waited long enough.
        let mut lazy_due: Option<Instant> = None;
        loop {
            let flush = match self.queue.wait(lazy_due) {
                Wake::Queued => match lazy_due {
                    Some(due) if due <= Instant::now() => Flush::Everything,
                    _ => Flush::WhenForced,
                },
                Wake::Deadline => Flush::Everything,
                Wake::Closed => break,
            };
            let mut turn = self.turn(flush, || start.elapsed())?;
            while turn.again {
                turn = self.turn(Flush::WhenForced, || start.elapsed())?;
            }
            lazy_due = if turn.held == 0 {
                None
            } else if turn.mutations > 0 {
                // What is left came after a full batch.
                Some(Instant::now() + self.options.idle)
            } else {
                lazy_due.or_else(|| Some(Instant::now() + self.options.idle))
            };
        }
        // Closed: no submission can follow, so this ends.
        while self.turn(Flush::Everything, || start.elapsed())?.held > 0 {}
        Ok(())
    }

    fn turn(&mut self, flush: Flush, clock: impl Fn() -> Duration) -> Result<Turn, JournalError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.take_queued();
        let mut completed = self.complete_leading_barriers();
        let everything = flush == Flush::Everything && !mutant(Mutant::LazyNeverWritten);
        let due = everything || self.pending_forced > 0 || self.is_full();
        if self.pending.is_empty() || !due {
            return Ok(self.report(completed, 0, 0));
        }

        let (submissions, bytes) = self.gather();
        let mutations = self.batch.len();
        if mutant(Mutant::CompletedBeforeWritten) {
            self.completions.drain(..).for_each(Completion::durable);
        }
        if mutant(Mutant::LastMutationDropped) && mutations > 1 {
            self.batch.pop();
        }
        if mutant(Mutant::BatchInTwoWrites) && mutations > 1 {
            let first: Vec<_> = self.batch.drain(..mutations / 2).collect();
            self.journal.append(&first)?;
        }
        let started = clock();
        let appended = self.journal.append(&self.batch);
        let sync = clock().saturating_sub(started);
        let spent = (std::mem::take(&mut self.batch), std::mem::take(&mut self.buffers));
        self.queue.spend(spent);
        if let Err(error) = appended {
            if mutant(Mutant::FailureCompleted) {
                self.completions.drain(..).for_each(Completion::durable);
            }
            return Err(self.fail(submissions, error));
        }
        self.queue.settled(submissions);
        self.observer.batch(submissions, mutations, bytes, sync);
        C::all_durable(self.completions.drain(..));
        completed += submissions;
        // A barrier right behind the batch has nothing left to wait for.
        completed += self.complete_leading_barriers();
        Ok(self.report(completed, mutations, bytes))
    }

    /// What is pending makes a batch, forced or not.
    fn is_full(&self) -> bool {
        self.pending_mutations >= self.options.batch_mutations_max
            || self.pending_bytes >= self.options.batch_bytes_max
    }

    fn report(&self, completed: usize, mutations: usize, bytes: usize) -> Turn {
        Turn {
            completed,
            mutations,
            bytes,
            held: self.pending.len(),
            again: self.pending_forced > 0 || self.is_full(),
        }
    }

    /// Moves the queue behind what is pending, and adds up what came.
    fn take_queued(&mut self) {
        let known = self.pending.len();
        self.queue.take(&mut self.pending);
        for submission in self.pending.iter().skip(known) {
            self.pending_forced += usize::from(submission.forced);
            self.pending_mutations += submission.mutations.len();
            self.pending_bytes += size(&submission.mutations);
        }
    }

    /// Completes the barriers that nothing unwritten is in front of.
    fn complete_leading_barriers(&mut self) -> usize {
        let mut completed = 0;
        while self.pending.front().is_some_and(|next| next.mutations.is_empty()) {
            let Some(barrier) = self.pending.pop_front() else {
                break;
            };
            self.pending_forced -= usize::from(barrier.forced);
            self.queue.settled(1);
            completed += 1;
            if let Some(completion) = barrier.completion {
                completion.durable();
            }
        }
        completed
    }

    /// Moves submissions from the front of `pending` into the batch, at least one and up to the bounds.
    fn gather(&mut self) -> (usize, usize) {
        let (mut submissions, mut bytes) = (0, 0);
        self.batch.reserve(self.pending_mutations.min(self.options.batch_mutations_max));
        self.buffers.reserve(self.pending.len());
        while let Some(next) = self.pending.front() {
            let next_bytes = size(&next.mutations);
            let fits = bytes + next_bytes <= self.options.batch_bytes_max
                && self.batch.len() + next.mutations.len() <= self.options.batch_mutations_max;
            if submissions > 0 && !fits {
                break;
            }
            let Some(mut next) = self.pending.pop_front() else {
                break;
            };
            submissions += 1;
            bytes += next_bytes;
            self.pending_forced -= usize::from(next.forced);
            self.pending_mutations -= next.mutations.len();
            self.pending_bytes -= next_bytes;
            self.batch.append(&mut next.mutations);
            self.buffers.push(next.mutations);
            self.completions.extend(next.completion);
        }
        (submissions, bytes)
    }

    /// Ends the writer: drops every completion unrun and accepts no more submissions.
    fn fail(&mut self, in_batch: usize, error: JournalError) -> JournalError {
        self.failure = Some(error.clone());
        self.completions.clear();
        self.queue.settled(in_batch);
        self.drop_pending();
        error
    }
}

impl<C> LogWriter<C> {
    fn drop_pending(&mut self) {
        self.queue.abandon();
        self.queue.settled(self.pending.len());
        self.pending.clear();
        self.pending_forced = 0;
        self.pending_mutations = 0;
        self.pending_bytes = 0;
    }
}

/// A writer that is gone, for whatever reason, leaves no queue that accepts submissions for ever.
impl<C> Drop for LogWriter<C> {
    fn drop(&mut self) {
        self.drop_pending();
    }
}

impl<C> fmt::Debug for LogWriter<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogWriter")
            .field("pending", &self.pending.len())
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

fn size(mutations: &[Mutation]) -> usize {
    mutations.iter().map(Mutation::size).sum()
}
