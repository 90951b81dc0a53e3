//! The calls of one stream that are in flight, and their answers on the way to the client.
//!
//! The engine's threads leave what they reply here and go on; the stream takes whatever is here into its
//! next frame. Laws:
//! - Each call is answered once: by the engine, by the end of its time, or, if the engine ends first, by word
//!   of that. What comes later finds the call closed, even if its number is in use again.
//! - Memory is bounded whatever the client does: so many calls are in flight, reading stops while answers are
//!   not taken, and what participants returned is left out once very much of it waits.
//!
//! Absent on purpose: a task or a channel for each call.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use handfast_commit_core::two_phase::coordinator::Reply;
use handfast_wire::v1::transaction_answer::Answer;
use tokio::sync::Notify;
use tonic::Status;

use crate::status;

/// While so many answers wait to be taken, no call is read.
const UNREAD_ANSWERS_MAX: usize = 4096;
/// While so many bytes of results wait to be taken, no call is read.
const UNREAD_BYTES_MAX: usize = 16 << 20;

/// The bounds of one stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutboxLimits {
    /// Most calls in flight.
    pub(crate) calls_max: usize,
    /// Most bytes of results that wait for a client that does not read them.
    pub(crate) results_bytes_max: usize,
}

/// What a call asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Execute,
    Begin,
    Commit,
    Abort,
    Get,
}

/// A call in flight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) verb: Verb,
    pub(crate) started: Instant,
    /// Tells it from an earlier or a later call of the same number.
    serial: u64,
    deadline: Option<Instant>,
}

/// Which call: the client's number, and ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CallKey {
    pub(crate) call_id: u64,
    serial: u64,
}

/// What has been said about a call, and not been taken into a frame.
#[derive(Debug)]
pub(crate) enum Said {
    /// By the engine; perhaps without what the participants returned.
    Replied { key: CallKey, reply: Reply, results_left_out: bool },
    /// By whoever looked something up.
    Answered { key: CallKey, answer: Box<Result<Answer, Status>> },
    /// The engine has ended.
    Lost { key: CallKey },
    /// Of something that never became a call.
    Refused { call_id: u64, status: Status },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Outbox {
    limits: OutboxLimits,
    queue: Mutex<Queue>,
    calls: Mutex<Calls>,
    /// What is in the queue or has been taken from it and is in no frame yet.
    unread_answers: AtomicUsize,
    unread_bytes: AtomicUsize,
    /// Told when there may be room again, and when the client has gone.
    news: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    said: VecDeque<Said>,
    /// Whoever takes waits for more.
    taker: Option<Waker>,
    /// No call is read any more: why, if there is something wrong.
    end: Option<Option<Status>>,
    /// Nobody takes any more.
    gone: bool,
}

#[derive(Debug, Default)]
struct Calls {
    open: HashMap<u64, Call>,
    deadlines: BTreeSet<(Instant, u64)>,
    /// When the taker looks at the deadlines next; may be earlier than the first of them.
    due: Option<Instant>,
    serial: u64,
}

/// What whoever takes does next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Looks again: there are answers, or something is due.
    Again,
    /// None, and there will be none: every call is answered. With what is wrong, if something is.
    Over(Option<Status>),
}

/// A call that somebody is about to answer. One that is dropped unanswered is answered all the same: with
/// the end of the engine.
#[derive(Debug)]
pub struct OpenCall {
    key: CallKey,
    /// Empty once it is answered.
    outbox: Option<Arc<Outbox>>,
}

impl OpenCall {
    /// The engine has replied. Called on its threads.
    pub(crate) fn replied(mut self, reply: Reply) {
        if let Some(outbox) = self.outbox.take() {
            outbox.replied(self.key, reply);
        }
    }

    /// Somebody has found the answer.
    pub(crate) fn answered(mut self, answer: Result<Answer, Status>) {
        if let Some(outbox) = self.outbox.take() {
            outbox.push(Said::Answered { key: self.key, answer: Box::new(answer) });
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if let Some(outbox) = self.outbox.take() {
            outbox.push(Said::Lost { key: self.key });
        }
    }
}

impl Outbox {
    pub(crate) fn new(limits: OutboxLimits) -> Self {
        Self {
            limits,
            queue: Mutex::default(),
            calls: Mutex::default(),
            unread_answers: AtomicUsize::new(0),
            unread_bytes: AtomicUsize::new(0),
            news: Notify::new(),
        }
    }

    // ---- for whoever reads calls ----------------------------------------------------------------

    /// Begins a call.
    pub(crate) fn open(
        self: &Arc<Self>,
        call_id: u64,
        verb: Verb,
        started: Instant,
        deadline: Option<Instant>,
    ) -> Result<OpenCall, Status> {
        let mut calls = lock(&self.calls);
        if calls.open.contains_key(&call_id) {
            let problem = format!("{call_id} is in flight; the call that has it goes on");
            return Err(status::invalid_field("call_id", problem));
        }
        if calls.open.len() >= self.limits.calls_max {
            return Err(status::too_many_calls(self.limits.calls_max));
        }
        calls.serial += 1;
        let serial = calls.serial;
        calls.open.insert(call_id, Call { verb, started, serial, deadline });
        let mut sooner = false;
        if let Some(deadline) = deadline {
            calls.deadlines.insert((deadline, call_id));
            sooner = calls.due.is_none_or(|due| deadline < due);
            if sooner {
                calls.due = Some(deadline);
            }
        }
        drop(calls);
        if sooner {
            self.wake();
        }
        Ok(OpenCall { key: CallKey { call_id, serial }, outbox: Some(Arc::clone(self)) })
    }

    /// Answers what never became a call.
    pub(crate) fn refuse(&self, call_id: u64, status: Status) {
        self.push(Said::Refused { call_id, status });
    }

    /// Whether the client has taken so much that more may be read.
    pub(crate) fn has_room(&self) -> bool {
        self.unread_answers.load(Ordering::Acquire) < UNREAD_ANSWERS_MAX
            && self.unread_bytes.load(Ordering::Acquire) < UNREAD_BYTES_MAX
    }

    /// Waits for that. False: the client has gone.
    pub(crate) async fn room(&self) -> bool {
        while !self.has_room() {
            if lock(&self.queue).gone {
                return false;
            }
            self.news.notified().await;
        }
        true
    }

    /// Waits until the client has gone.
    pub(crate) async fn gone(&self) {
        while !lock(&self.queue).gone {
            self.news.notified().await;
        }
    }

    /// No call will be read any more. The stream ends when all that were read are answered.
    pub(crate) fn end(&self, why: Option<Status>) {
        lock(&self.queue).end = Some(why);
        self.wake();
    }

    // ---- for whoever answers --------------------------------------------------------------------

    fn replied(&self, key: CallKey, mut reply: Reply) {
        let waiting = self.unread_bytes.load(Ordering::Relaxed);
        let mut results_left_out = false;
        if let Reply::Outcome(outcome) = &mut reply
            && waiting > self.limits.results_bytes_max
            && !outcome.results.is_empty()
        {
            outcome.results.clear();
            results_left_out = true;
        }
        self.push(Said::Replied { key, reply, results_left_out });
    }

    fn push(&self, said: Said) {
        let taker = {
            let mut queue = lock(&self.queue);
            if queue.gone {
                return;
            }
            self.unread_answers.fetch_add(1, Ordering::AcqRel);
            self.unread_bytes.fetch_add(said.results_bytes(), Ordering::AcqRel);
            queue.said.push_back(said);
            queue.taker.take()
        };
        // Only the first of several that come together has somebody to wake.
        if let Some(taker) = taker {
            taker.wake();
        }
    }

    fn wake(&self) {
        let taker = lock(&self.queue).taker.take();
        if let Some(taker) = taker {
            taker.wake();
        }
    }

    // ---- for whoever takes answers --------------------------------------------------------------

    /// Takes everything that has been said, at the end of `batch`.
    pub(crate) fn take(&self, batch: &mut VecDeque<Said>) {
        let mut queue = lock(&self.queue);
        if batch.is_empty() {
            std::mem::swap(&mut queue.said, batch);
        } else {
            batch.append(&mut queue.said);
        }
    }

    /// Something that was taken has gone into a frame, or was said too late.
    pub(crate) fn read(&self, said: &Said) {
        self.unread_answers.fetch_sub(1, Ordering::AcqRel);
        self.unread_bytes.fetch_sub(said.results_bytes(), Ordering::AcqRel);
    }

    /// Called after some of that.
    pub(crate) fn tell_of_room(&self) {
        self.news.notify_one();
    }

    /// Comes true when there is something to take, or will never be, or when the taker's timer, which is set
    /// for `armed`, is not set for what is due.
    pub(crate) fn poll_next(&self, context: &Context<'_>, armed: Option<Instant>) -> Poll<Next> {
        let mut queue = lock(&self.queue);
        let calls = lock(&self.calls);
        if !queue.said.is_empty() || calls.due != armed {
            return Poll::Ready(Next::Again);
        }
        if let Some(why) = &queue.end
            && calls.open.is_empty()
        {
            return Poll::Ready(Next::Over(why.clone()));
        }
        queue.taker = Some(context.waker().clone());
        Poll::Pending
    }

    /// The call that an answer is for, unless it is answered already.
    pub(crate) fn find(&self, key: CallKey) -> Option<Call> {
        let calls = lock(&self.calls);
        calls.open.get(&key.call_id).filter(|call| call.serial == key.serial).copied()
    }

    /// Its answer goes into a frame: it is in flight no more.
    pub(crate) fn close(&self, key: CallKey) -> Option<Call> {
        let mut calls = lock(&self.calls);
        let call =
            calls.open.get(&key.call_id).filter(|call| call.serial == key.serial).copied()?;
        calls.open.remove(&key.call_id);
        if let Some(deadline) = call.deadline {
            calls.deadlines.remove(&(deadline, key.call_id));
        }
        Some(call)
    }

    /// A call that is to be answered after all, by another way.
    pub(crate) fn reopen(self: &Arc<Self>, key: CallKey) -> OpenCall {
        OpenCall { key, outbox: Some(Arc::clone(self)) }
    }

    /// When the taker has to look at the deadlines.
    pub(crate) fn due(&self) -> Option<Instant> {
        lock(&self.calls).due
    }

    /// Closes the calls whose time is over, at most so many, and says which.
    pub(crate) fn overdue(&self, now: Instant, most: usize) -> Vec<u64> {
        let mut calls = lock(&self.calls);
        let mut overdue = Vec::new();
        while overdue.len() < most
            && let Some(&(deadline, call_id)) = calls.deadlines.first()
            && deadline <= now
        {
            calls.deadlines.pop_first();
            calls.open.remove(&call_id);
            overdue.push(call_id);
        }
        calls.due = calls.deadlines.first().map(|(deadline, _)| *deadline);
        overdue
    }

    /// Nobody takes answers any more. What is still to be answered is dropped when it is.
    pub(crate) fn leave(&self) {
        let said = {
            let mut queue = lock(&self.queue);
            queue.gone = true;
            std::mem::take(&mut queue.said)
        };
        drop(said);
        self.news.notify_one();
    }
}

impl Said {
    /// What it takes of the memory for results.
    fn results_bytes(&self) -> usize {
        match self {
            Self::Replied { reply: Reply::Outcome(outcome), .. } => {
                outcome.results.iter().map(|(_, result)| result.len()).sum()
            }
            _ => 0,
        }
    }
}

/// Every value behind these locks is whole between any two statements, whoever panicked in between.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
