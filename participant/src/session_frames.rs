//! The frames that go to a coordinator over one session: the welcome, what has queued up, the end.
//!
//! The transport pulls: whenever it has taken a frame, whatever has queued up since is the next one. No
//! task stands between the queue and the connection, and a message wakes nobody else on its way.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use handfast_wire::frames::{SessionResponse, SessionResponseWriter};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

use crate::sessions::ToCoordinator;

/// Messages in one frame at most, and bytes after which it is sent.
const FRAME_MESSAGES_MAX: usize = 512;
const FRAME_BYTES: usize = 1 << 20;

/// What the session itself says: its welcome, then nothing until it ends, then why.
pub(crate) type Said = mpsc::UnboundedSender<Result<SessionResponse, Status>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct SessionFrames {
    said: mpsc::UnboundedReceiver<Result<SessionResponse, Status>>,
    welcomed: bool,
    queue: mpsc::Receiver<ToCoordinator>,
    /// Taken, and not in a frame yet.
    taken: VecDeque<ToCoordinator>,
    batch: Vec<ToCoordinator>,
}

impl SessionFrames {
    /// What has queued up already goes out behind the welcome.
    pub(crate) fn new(queue: mpsc::Receiver<ToCoordinator>) -> (Said, Self) {
        let (saying, said) = mpsc::unbounded_channel();
        let (taken, batch) = (VecDeque::new(), Vec::new());
        (saying, Self { said, welcomed: false, queue, taken, batch })
    }

    fn frame(&mut self) -> SessionResponse {
        let mut frame = SessionResponseWriter::new(self.taken.len());
        while frame.bytes() < FRAME_BYTES
            && let Some(message) = self.taken.pop_front()
        {
            match message {
                ToCoordinator::Answer(message) => frame.say(message),
                ToCoordinator::Message(message) => frame.message(&message),
            }
        }
        metrics::histogram!("handfast_participant_frame_messages").record(frame.messages() as f64);
        frame.finish()
    }
}

impl Stream for SessionFrames {
    type Item = Result<SessionResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        // That the session is over is more urgent than what is left in its queue.
        match this.said.poll_recv(context) {
            Poll::Ready(Some(said)) => {
                this.welcomed = true;
                return Poll::Ready(Some(said));
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending if !this.welcomed => return Poll::Pending,
            Poll::Pending => {}
        }
        if this.taken.is_empty() {
            let most = FRAME_MESSAGES_MAX;
            match this.queue.poll_recv_many(context, &mut this.batch, most) {
                // The session says why, soon.
                Poll::Ready(0) | Poll::Pending => return Poll::Pending,
                Poll::Ready(_) => this.taken.extend(this.batch.drain(..)),
            }
        }
        Poll::Ready(Some(Ok(this.frame())))
    }
}
