//! A thread that turns a driver: it waits for inputs and timers, and nothing else runs on it.
//!
//! A shard owns its transactions outright. Whoever wants something of it sends an input; whoever wants
//! to know something sends a question, which is answered between two inputs.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::Clock;
use crate::driver::{Driver, Effects, Machine};

/// Most inputs between two looks at the timers.
const BATCH_MAX: usize = 256;
/// Longest sleep, so that [`Machine::settled`] runs now and then on an idle shard.
const IDLE_MAX: Duration = Duration::from_millis(250);

enum Message<M: Machine> {
    Input(M::Input),
    Inputs(Vec<M::Input>),
    Question(Box<dyn FnOnce(&mut M) + Send>),
    Stop,
}

/// Sends to a shard. Cheap to clone.
pub struct ShardHandle<M: Machine> {
    sender: Sender<Message<M>>,
}

impl<M: Machine> Clone for ShardHandle<M> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone() }
    }
}

impl<M: Machine> std::fmt::Debug for ShardHandle<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardHandle").finish_non_exhaustive()
    }
}

/// The receiving end of a shard that has not been started.
pub struct ShardQueue<M: Machine> {
    receiver: Receiver<Message<M>>,
}

impl<M: Machine> std::fmt::Debug for ShardQueue<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardQueue").finish_non_exhaustive()
    }
}

/// A shard's two ends, so that effects can hold the handle before the shard runs.
#[must_use]
pub fn shard<M: Machine>() -> (ShardHandle<M>, ShardQueue<M>) {
    let (sender, receiver) = channel();
    (ShardHandle { sender }, ShardQueue { receiver })
}

impl<M: Machine> ShardHandle<M> {
    /// Sends an input. One that comes after the stop is dropped, with the reply channels in it.
    pub fn input(&self, input: M::Input) {
        let _ = self.sender.send(Message::Input(input));
    }

    /// Sends inputs that have come together, in their order: one message for all of them.
    pub fn inputs(&self, inputs: Vec<M::Input>) {
        if !inputs.is_empty() {
            let _ = self.sender.send(Message::Inputs(inputs));
        }
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
        self.sender.send(Message::Question(question)).ok()?;
        answered.await.ok()
    }

    /// Ends the shard after the inputs that were sent before.
    pub fn stop(&self) {
        let _ = self.sender.send(Message::Stop);
    }
}

impl<M: Machine> ShardQueue<M> {
    /// Turns the driver on a thread of its own, called `shard-NAME`, until the shard is stopped or
    /// every handle is gone.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn spawn<E: Effects<M::Action>>(
        self,
        name: &str,
        clock: Clock,
        mut driver: Driver<M, E>,
    ) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name(format!("shard-{name}")).spawn(move || {
            let mut running = true;
            while running {
                let wait = driver.due().map_or(IDLE_MAX, |due| {
                    Duration::from_micros(clock.time().until(due)).min(IDLE_MAX)
                });
                let mut next = match self.receiver.recv_timeout(wait) {
                    Ok(message) => Some(message),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                let mut handled = 0;
                while let Some(message) = next {
                    match message {
                        Message::Input(input) => driver.handle(clock.now(), input),
                        Message::Inputs(inputs) => {
                            handled += inputs.len();
                            for input in inputs {
                                driver.handle(clock.now(), input);
                            }
                        }
                        Message::Question(question) => question(driver.machine_mut()),
                        Message::Stop => {
                            running = false;
                            break;
                        }
                    }
                    handled += 1;
                    next = if handled < BATCH_MAX { self.receiver.try_recv().ok() } else { None };
                }
                let mut fired = 0;
                while fired < BATCH_MAX && driver.fire(clock.now()) {
                    fired += 1;
                }
                driver.machine_mut().settled();
            }
        })
    }
}
