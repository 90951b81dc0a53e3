//! A queue and whoever turns its driver: one at a time, in the order of the queue.
//!
//! A shard owns its transactions outright. Whoever wants something of it leaves an input; whoever wants
//! to know something leaves a question, which is answered between two inputs.
//!
//! Who turns it: a thread of its own, which is there when a timer runs out; and, where a message has arrived on a
//! thread that may as well do the work ([`ShardHandle::turn`]), that thread, if nobody else does already. On
//! an idle machine that saves two changes of threads for each message, and on a busy one the queue fills
//! behind whoever turns, as it would behind the thread.
//!
//! Laws:
//! - **One at a time.** `turning` is set and cleared under the queue's lock, and whoever has set it handles
//!   what comes meanwhile before it clears it. So nothing is left behind, and nobody waits for a driver.
//! - **Leaving an input never runs the driver.** So an input may be left under any lock, and by the driver's own
//!   effects. [`ShardHandle::turn`] may be called under no lock that an effect takes.
//! - **Only the thread ends a shard**, so that the driver is gone when the thread is.
//! - **What one pass has for the log goes there together**, so that one sync is for all of it; and before a question
//!   is answered, so that a barrier that whoever asked submits is behind all that the answer speaks of.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_commit_core::step::{Now, Time};

use crate::clock::Clock;
use crate::driver::{Driver, Effects, Machine};

/// Most inputs between two looks at the timers, and most timers between two looks at the queue.
const BATCH_MAX: usize = 256;
/// Most inputs and timers that a thread handles which has other things to do. The shard's own goes on behind them.
const VISIT_MAX: usize = 1024;
/// Longest sleep, so that [`Machine::settled`] runs now and then on an idle shard.
const IDLE_MAX: Duration = Duration::from_millis(250);

thread_local! {
    static TURNING: Cell<bool> = const { Cell::new(false) };
}

/// True while this thread turns a driver, or acts for one, whatever thread it is.
pub(crate) fn turns_here() -> bool {
    TURNING.get()
}

/// While it is there, this thread is one that the process relies on.
pub(crate) struct Turning {
    before: bool,
}

impl Turning {
    pub(crate) fn here() -> Self {
        Self { before: TURNING.replace(true) }
    }
}

impl Drop for Turning {
    fn drop(&mut self) {
        TURNING.set(self.before);
    }
}

enum Message<M: Machine> {
    Input(M::Input),
    Inputs(Vec<M::Input>),
    Question(Box<dyn FnOnce(&mut M) + Send>),
    Stop,
}

/// A driver, whatever its effects are. What inputs and timers have for the log waits for `submit`.
trait Turn<M: Machine>: Send {
    fn handle(&mut self, now: Now, input: M::Input);
    fn fire(&mut self, now: Now) -> bool;
    fn submit(&mut self);
    fn due(&self) -> Option<Time>;
    fn machine(&mut self) -> &mut M;
}

impl<M: Machine, E: Effects<M::Action>> Turn<M> for Driver<M, E> {
    fn handle(&mut self, now: Now, input: M::Input) {
        self.handle_without_submitting(now, input);
    }

    fn fire(&mut self, now: Now) -> bool {
        self.fire_without_submitting(now)
    }

    fn submit(&mut self) {
        Driver::submit(self);
    }

    fn due(&self) -> Option<Time> {
        Driver::due(self)
    }

    fn machine(&mut self) -> &mut M {
        self.machine_mut()
    }
}

struct Shared<M: Machine> {
    queue: Mutex<Queue<M>>,
    /// Inputs that have been left and not been handled; beside the lock, for whoever admits work.
    depth: AtomicUsize,
    /// For the thread: something is to be done, and nobody else does it.
    news: Condvar,
    /// There while the shard runs. Locked by whoever has set `turning`, so that nobody ever waits for it.
    running: Mutex<Option<Running<M>>>,
}

struct Running<M: Machine> {
    driver: Box<dyn Turn<M>>,
    clock: Clock,
    /// Taken from the queue.
    taken: VecDeque<Message<M>>,
}

struct Queue<M: Machine> {
    messages: VecDeque<Message<M>>,
    /// Somebody turns the driver.
    turning: bool,
    /// The thread sleeps, and needs a signal.
    asleep: bool,
    /// When the thread looks at the timers, if nothing wakes it before.
    looks_at: Time,
    /// There is no thread yet.
    waiting_for_start: bool,
    /// Nothing is handled any more, and what comes is dropped.
    ended: bool,
}

/// Sends to a shard. Cheap to clone.
pub struct ShardHandle<M: Machine> {
    shared: Arc<Shared<M>>,
}

impl<M: Machine> Clone for ShardHandle<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<M: Machine> std::fmt::Debug for ShardHandle<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardHandle").finish_non_exhaustive()
    }
}

/// A shard that has not been started. Dropping it ends the shard.
pub struct ShardQueue<M: Machine> {
    shared: Arc<Shared<M>>,
}

impl<M: Machine> std::fmt::Debug for ShardQueue<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardQueue").finish_non_exhaustive()
    }
}

/// A shard's two ends, so that effects can hold the handle before the shard runs.
#[must_use]
pub fn shard<M: Machine>() -> (ShardHandle<M>, ShardQueue<M>) {
    let queue = Queue {
        messages: VecDeque::new(),
        turning: false,
        asleep: false,
        looks_at: Time(0),
        waiting_for_start: true,
        ended: false,
    };
    let shared = Arc::new(Shared {
        queue: Mutex::new(queue),
        depth: AtomicUsize::new(0),
        news: Condvar::new(),
        running: Mutex::new(None),
    });
    (ShardHandle { shared: Arc::clone(&shared) }, ShardQueue { shared })
}

impl<M: Machine> ShardHandle<M> {
    /// Leaves an input for the shard's thread, or whoever turns the shard before. One that comes after the stop is
    /// dropped, with the reply channels in it.
    pub fn input(&self, input: M::Input) {
        self.shared.leave(Message::Input(input), true);
    }

    /// Leaves an input that the caller will see to with [`ShardHandle::turn`], soon: the thread is not woken.
    pub fn input_before_turn(&self, input: M::Input) {
        self.shared.leave(Message::Input(input), false);
    }

    /// The same of inputs that have come together, in their order.
    pub fn inputs_before_turn(&self, inputs: Vec<M::Input>) {
        if !inputs.is_empty() {
            self.shared.leave(Message::Inputs(inputs), false);
        }
    }

    /// The inputs that have been left and not been handled. They are not bounded here. Whoever lets in what others
    /// begin looks at this first: a coordinator, which refuses new transactions, and a participant's session, which
    /// reads no further. What else there is, either answers something that was asked from here, or has a caller
    /// who waits for it.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.shared.depth.load(Ordering::Relaxed)
    }

    /// Handles what is in the queue, here and now, unless somebody does so already. Not to be called under a
    /// lock that an effect of the shard takes.
    pub fn turn(&self) {
        let mut queue = self.shared.queue();
        let stopping = is_stop(&queue.messages);
        if queue.messages.is_empty() || queue.turning {
            return;
        }
        if queue.waiting_for_start || queue.ended || stopping {
            return self.shared.wake(queue);
        }
        queue.turning = true;
        drop(queue);
        let _ = self.shared.turn(VISIT_MAX, false);
    }

    /// Asks something of the machine, between two inputs. `None` when the shard has stopped.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut M) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let question = Box::new(move |machine: &mut M| {
            let _ = answer.send(question(machine));
        });
        self.shared.leave(Message::Question(question), true);
        answered.await.ok()
    }

    /// Ends the shard after the inputs that were sent before.
    pub fn stop(&self) {
        self.shared.leave(Message::Stop, true);
    }
}

/// Why a turn is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turned {
    /// The queue is empty, or there was enough of it.
    Enough,
    /// The shard is to end.
    Stopped,
}

impl<M: Machine> Shared<M> {
    /// Everything behind this lock is whole between any two statements, whoever panicked in between.
    fn queue(&self) -> MutexGuard<'_, Queue<M>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, message: Message<M>, wake: bool) {
        let mut queue = self.queue();
        if queue.ended {
            // Unlocked first: what is dropped may leave a message itself.
            drop(queue);
            return drop(message);
        }
        let inputs = match &message {
            Message::Input(_) => 1,
            Message::Inputs(inputs) => inputs.len(),
            Message::Question(_) | Message::Stop => 0,
        };
        self.depth.fetch_add(inputs, Ordering::Relaxed);
        queue.messages.push_back(message);
        if wake && !queue.turning {
            self.wake(queue);
        }
    }

    fn wake(&self, mut queue: MutexGuard<'_, Queue<M>>) {
        let asleep = std::mem::take(&mut queue.asleep);
        drop(queue);
        if asleep {
            self.news.notify_one();
        }
    }

    /// Handles what is in the queue, about `most` inputs of it. Called by whoever has set `turning`.
    fn turn(&self, most: usize, may_stop: bool) -> Turned {
        let end = EndOnPanic(self);
        let turning = Turning::here();
        let turned = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            match running.as_mut() {
                Some(running) => self.turn_running(running, most, may_stop),
                None => Turned::Stopped,
            }
        };
        drop(turning);
        std::mem::forget(end);
        turned
    }

    fn turn_running(&self, running: &mut Running<M>, most: usize, may_stop: bool) -> Turned {
        let Running { driver, clock, taken } = running;
        let mut handled = 0;
        // The thread comes for its timers, too, when there is no message at all.
        let mut first = true;
        loop {
            if taken.is_empty() || handled >= most || is_stop(taken) {
                let mut queue = self.queue();
                // What was taken and is left comes before what has come since.
                while let Some(message) = taken.pop_back() {
                    queue.messages.push_front(message);
                }
                let stopping = is_stop(&queue.messages);
                if stopping && may_stop {
                    return Turned::Stopped;
                }
                if (queue.messages.is_empty() && !first) || handled >= most || stopping {
                    self.leave_off(queue, driver.due(), clock, may_stop);
                    return Turned::Enough;
                }
                std::mem::swap(&mut queue.messages, taken);
            }
            first = false;
            let before = handled;
            let mut read = None;
            while handled - before < BATCH_MAX
                && !is_stop(taken)
                && let Some(message) = taken.pop_front()
            {
                match message {
                    Message::Input(input) => {
                        handled += 1;
                        self.depth.fetch_sub(1, Ordering::Relaxed);
                        // Those of one pass have waited together: one look at the clock does for all.
                        driver.handle(*read.get_or_insert_with(|| clock.now()), input);
                    }
                    Message::Inputs(inputs) => {
                        handled += inputs.len();
                        self.depth.fetch_sub(inputs.len(), Ordering::Relaxed);
                        let now = *read.insert(clock.now());
                        for input in inputs {
                            driver.handle(now, input);
                        }
                    }
                    Message::Question(question) => {
                        handled += 1;
                        // Whoever has the answer may wait for the log to say the same: it has been told by then.
                        if !mutant(Mutant::AnsweredUnsubmitted) {
                            driver.submit();
                        }
                        question(driver.machine());
                    }
                    Message::Stop => {}
                }
            }
            // Whoever turns fires: where inputs never end, the thread does not get its turn. The clock is not
            // read again for that.
            handled += fire(&mut **driver, read.unwrap_or_else(|| clock.now()));
            driver.submit();
            driver.machine().settled();
        }
    }

    /// Whoever has turned the driver does so no more.
    fn leave_off(
        &self,
        mut queue: MutexGuard<'_, Queue<M>>,
        due: Option<Time>,
        clock: &Clock,
        is_thread: bool,
    ) {
        queue.turning = false;
        if is_thread {
            let longest =
                clock.time().plus(u64::try_from(IDLE_MAX.as_micros()).unwrap_or(u64::MAX));
            queue.looks_at = due.map_or(longest, |due| due.min(longest));
            return;
        }
        let sooner = due.filter(|due| *due < queue.looks_at);
        queue.looks_at = sooner.unwrap_or(queue.looks_at);
        if sooner.is_some() || !queue.messages.is_empty() {
            self.wake(queue);
        }
    }

    /// Nothing is handled any more.
    fn end(&self) {
        let dropped = {
            let mut queue = self.queue();
            queue.ended = true;
            queue.turning = false;
            let messages = std::mem::take(&mut queue.messages);
            self.wake(queue);
            messages
        };
        drop(dropped);
    }
}

/// A driver that has panicked is in no state to go on: whoever waits for it is told by the end of its channel.
struct EndOnPanic<'a, M: Machine>(&'a Shared<M>);

impl<M: Machine> Drop for EndOnPanic<'_, M> {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn is_stop<M: Machine>(messages: &VecDeque<Message<M>>) -> bool {
    matches!(messages.front(), Some(Message::Stop))
}

/// Handles timers that have run out by `now`, and says how many.
fn fire<M: Machine>(driver: &mut dyn Turn<M>, now: Now) -> usize {
    let mut fired = 0;
    while fired < BATCH_MAX && driver.fire(now) {
        fired += 1;
    }
    fired
}

impl<M: Machine> ShardQueue<M> {
    /// Turns the driver on a thread of its own, called `shard-NAME`, until the shard is stopped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn spawn<E: Effects<M::Action>>(
        self,
        name: &str,
        clock: Clock,
        driver: Driver<M, E>,
    ) -> std::io::Result<JoinHandle<()>> {
        let running = Running { driver: Box::new(driver), clock, taken: VecDeque::new() };
        *self.shared.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
        std::thread::Builder::new().name(format!("shard-{name}")).spawn(move || self.run(clock))
    }

    fn run(&self, clock: Clock) {
        self.shared.queue().waiting_for_start = false;
        while self.sleep(clock) && self.shared.turn(BATCH_MAX, true) == Turned::Enough {}
    }

    /// Waits until there is something to do, and takes it on. False: the shard has ended.
    fn sleep(&self, clock: Clock) -> bool {
        /// While another one turns a driver whose timers are due.
        const MOMENT: Duration = Duration::from_millis(1);
        let mut queue = self.shared.queue();
        while !queue.ended {
            let left = Duration::from_micros(clock.time().until(queue.looks_at));
            if !queue.turning && (!queue.messages.is_empty() || left.is_zero()) {
                queue.turning = true;
                return true;
            }
            queue.asleep = true;
            let waited = self.shared.news.wait_timeout(queue, left.max(MOMENT));
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            queue.asleep = false;
        }
        false
    }
}

impl<M: Machine> Drop for ShardQueue<M> {
    fn drop(&mut self) {
        self.shared.end();
        // With the driver go its effects, which may hold this very shard.
        let running = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(running);
    }
}

#[cfg(test)]
mod tests;
