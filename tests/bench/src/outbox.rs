//! What waits to be sent to one peer: a frame is whatever has queued up while the one before was taken.
//!
//! The transport asks for the next frame when it has room for it, so that frames grow under load and are
//! sent at once when idle. No timer, no task of its own.
//!
//! Absent on purpose: a bound. Each client has a bounded number of transactions open, and the skeleton
//! is driven by nobody else.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio_stream::Stream;

/// Messages in one frame at most, as in the product.
const FRAME_MESSAGES_MAX: usize = 512;

/// The end that is written to.
#[derive(Debug)]
pub struct Outbox<T> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    queued: Vec<T>,
    reader: Option<Waker>,
    gone: bool,
}

impl<T> Outbox<T> {
    /// An empty one, and the frames that come out of it.
    pub fn new() -> (Arc<Self>, Frames<T>) {
        let state = State { queued: Vec::new(), reader: None, gone: false };
        let outbox = Arc::new(Self { state: Mutex::new(state) });
        (Arc::clone(&outbox), Frames { outbox })
    }

    /// Queues a message. Once the reader has gone it is dropped.
    pub fn push(&self, message: T) {
        self.put(|queued| queued.push(message));
    }

    /// Queues messages, and wakes the reader once.
    pub fn push_all(&self, messages: Vec<T>) {
        if messages.is_empty() {
            return;
        }
        self.put(|queued| match queued.is_empty() {
            true => *queued = messages,
            false => queued.extend(messages),
        });
    }

    fn put(&self, put: impl FnOnce(&mut Vec<T>)) {
        let mut state = self.lock();
        if state.gone {
            return;
        }
        put(&mut state.queued);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // The state is whole between any two of its calls, whoever panicked in between.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end that the transport reads.
#[derive(Debug)]
pub struct Frames<T> {
    outbox: Arc<Outbox<T>>,
}

impl<T> Stream for Frames<T> {
    type Item = Vec<T>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Vec<T>>> {
        let mut state = self.outbox.lock();
        if state.queued.is_empty() {
            state.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let rest = state.queued.len().min(FRAME_MESSAGES_MAX);
        let rest = state.queued.split_off(rest);
        Poll::Ready(Some(std::mem::replace(&mut state.queued, rest)))
    }
}

impl<T> Drop for Frames<T> {
    fn drop(&mut self) {
        let mut state = self.outbox.lock();
        state.gone = true;
        let dropped = std::mem::take(&mut state.queued);
        drop(state);
        drop(dropped);
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test]
    async fn a_frame_is_what_has_queued_up() {
        let (outbox, mut frames) = Outbox::new();
        outbox.push(0);
        outbox.push_all(vec![1, 2]);
        assert_eq!(frames.next().await, Some(vec![0, 1, 2]));
        outbox.push_all((0..FRAME_MESSAGES_MAX + 1).collect());
        assert_eq!(frames.next().await.map(|frame| frame.len()), Some(FRAME_MESSAGES_MAX));
        assert_eq!(frames.next().await, Some(vec![FRAME_MESSAGES_MAX]));
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken() {
        let (outbox, mut frames) = Outbox::new();
        let reader = tokio::spawn(async move { frames.next().await });
        tokio::task::yield_now().await;
        outbox.push(7);
        assert_eq!(reader.await.expect("no panic"), Some(vec![7]));
        outbox.push(8);
        assert!(outbox.lock().queued.is_empty(), "nobody reads any more");
    }
}
