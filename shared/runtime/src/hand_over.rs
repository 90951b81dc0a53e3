//! From the log's thread to the runtime: what has become durable, for a task to act on.
//!
//! The log's thread could act on it itself. But then it would allocate what the threads of the runtime free,
//! and free what they have allocated, and every such piece of memory travels between their caches; and no sync
//! would run meanwhile. So all that one sync has made durable is handed over together, and wakes one task.
//!
//! Laws:
//! - **In order, one at a time.** One task takes, and takes all there is.
//! - **Nothing is left.** Once nobody takes any more, what is given comes back to the giver, and what was
//!   given before comes out of [`HandOver::end`].
//! - **A taker that panics is one that the process relies on**: where such a panic ends the process, this one
//!   does. Where it does not, whoever gives something next panics, which poisons the log, as it would have if it
//!   had acted itself.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::shard::Turning;

/// A queue with one taker.
#[derive(Debug)]
pub(crate) struct HandOver<T> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    given: Vec<T>,
    taker: Option<Waker>,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nobody takes any more.
    Ended,
    Panicked,
}

impl<T> Default for HandOver<T> {
    fn default() -> Self {
        Self { state: Mutex::new(State { given: Vec::new(), taker: None, end: None }) }
    }
}

impl<T> HandOver<T> {
    /// For some things that belong together: the taker is woken once, when this is dropped. `None`: nobody
    /// takes any more, and whoever asks has to act himself.
    ///
    /// # Panics
    /// When the taker has.
    pub(crate) fn giving(&self) -> Option<Giving<'_, T>> {
        let state = self.lock();
        match state.end {
            None => Some(Giving { state: Some(state) }),
            Some(End::Ended) => None,
            Some(End::Panicked) => {
                drop(state);
                panic!("what was to be done once the log was durable has panicked")
            }
        }
    }

    /// All that has been given, into `taken`, which is empty. It stays empty at the end.
    fn poll_take(&self, context: &mut Context<'_>, taken: &mut Vec<T>) -> Poll<()> {
        let mut state = self.lock();
        if state.given.is_empty() && state.end.is_none() {
            state.taker = Some(context.waker().clone());
            return Poll::Pending;
        }
        std::mem::swap(&mut state.given, taken);
        Poll::Ready(())
    }

    /// Acts on what is given, until the end.
    pub(crate) async fn take(&self, mut act: impl FnMut(T)) {
        let mut taker = Taker { from: self, acting: false };
        let mut taken = Vec::new();
        loop {
            std::future::poll_fn(|context| self.poll_take(context, &mut taken)).await;
            if taken.is_empty() {
                return;
            }
            taker.acting = true;
            let turning = Turning::here();
            taken.drain(..).for_each(&mut act);
            drop(turning);
            taker.acting = false;
            // There may always be more; other tasks have a right to the thread.
            tokio::task::consume_budget().await;
        }
    }

    /// Nobody takes any more. Returns what was left.
    pub(crate) fn end(&self) -> Vec<T> {
        let mut state = self.lock();
        state.end.get_or_insert(End::Ended);
        let left = std::mem::take(&mut state.given);
        let taker = state.taker.take();
        drop(state);
        if let Some(taker) = taker {
            taker.wake();
        }
        left
    }

    /// The state is whole between any two statements, whoever panicked in between.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to give.
#[derive(Debug)]
pub(crate) struct Giving<'a, T> {
    /// There until it is dropped.
    state: Option<MutexGuard<'a, State<T>>>,
}

impl<T> Giving<'_, T> {
    pub(crate) fn give(&mut self, thing: T) {
        if let Some(state) = &mut self.state {
            state.given.push(thing);
        }
    }
}

impl<T> Drop for Giving<'_, T> {
    fn drop(&mut self) {
        let taker = self.state.take().and_then(|mut state| state.taker.take());
        // Not under the lock: whoever is woken wants it.
        if let Some(taker) = taker {
            taker.wake();
        }
    }
}

/// Whoever takes. When its task goes away, nobody does any more.
struct Taker<'a, T> {
    from: &'a HandOver<T>,
    acting: bool,
}

impl<T> Drop for Taker<'_, T> {
    fn drop(&mut self) {
        let mut state = self.from.lock();
        state.end.get_or_insert(if self.acting { End::Panicked } else { End::Ended });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::mpsc;

    use super::*;
    use crate::shard::turns_here;

    fn give(hand_over: &HandOver<u32>, things: &[u32]) -> bool {
        let Some(mut giving) = hand_over.giving() else { return false };
        things.iter().for_each(|thing| giving.give(*thing));
        true
    }

    fn taking(hand_over: &Arc<HandOver<u32>>) -> (mpsc::UnboundedReceiver<u32>, Task) {
        let (told, done) = mpsc::unbounded_channel();
        let from = Arc::clone(hand_over);
        let act = move |thing| {
            assert!(turns_here(), "the process relies on it");
            assert_ne!(thing, 0, "told to panic");
            let _ = told.send(thing);
        };
        (done, tokio::spawn(async move { from.take(act).await }))
    }

    type Task = tokio::task::JoinHandle<()>;

    #[tokio::test]
    async fn what_is_given_is_acted_on_in_order() {
        let hand_over = Arc::new(HandOver::default());
        assert!(give(&hand_over, &[1, 2]));
        let (mut done, _task) = taking(&hand_over);
        for thing in [1, 2] {
            assert_eq!(done.recv().await, Some(thing));
        }
        let giver = Arc::clone(&hand_over);
        let thread = std::thread::spawn(move || (3..1000).all(|thing| give(&giver, &[thing])));
        for thing in 3..1000 {
            assert_eq!(done.recv().await, Some(thing));
        }
        assert!(thread.join().expect("no panic"));
    }

    #[tokio::test]
    async fn once_nobody_takes_it_comes_back() {
        let hand_over = Arc::new(HandOver::default());
        let (mut done, task) = taking(&hand_over);
        assert!(give(&hand_over, &[1]));
        assert_eq!(done.recv().await, Some(1));
        task.abort();
        assert!(task.await.is_err_and(|error| error.is_cancelled()));
        assert!(!give(&hand_over, &[2]));
        assert!(hand_over.end().is_empty());
    }

    #[tokio::test]
    async fn what_is_left_at_the_end_comes_out() {
        let hand_over = Arc::new(HandOver::default());
        assert!(give(&hand_over, &[1, 2]));
        assert_eq!(hand_over.end(), [1, 2]);
        assert!(!give(&hand_over, &[3]));
    }

    #[tokio::test]
    async fn the_taker_ends_with_the_hand_over() {
        let hand_over = Arc::new(HandOver::default());
        let (mut done, task) = taking(&hand_over);
        assert!(give(&hand_over, &[1]));
        assert_eq!(done.recv().await, Some(1));
        assert!(hand_over.end().is_empty());
        task.await.expect("no panic");
        assert!(!give(&hand_over, &[2]));
    }

    #[tokio::test]
    async fn a_taker_that_panics_is_heard_of() {
        let hand_over = Arc::new(HandOver::default());
        let (_done, task) = taking(&hand_over);
        assert!(give(&hand_over, &[0]));
        assert!(task.await.is_err_and(|error| error.is_panic()));
        let giver = Arc::clone(&hand_over);
        assert!(std::thread::spawn(move || give(&giver, &[1])).join().is_err());
    }
}
