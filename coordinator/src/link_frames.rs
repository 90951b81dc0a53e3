//! The queue of one link, and the stream that takes its frames from it.
//!
//! The transport pulls: whenever it has taken a frame, whatever has queued up since is the next one. No
//! task stands between the queue and the connection, and a message wakes nobody else on its way.
//!
//! A queue outlives its sessions. Only the stream that it is open to takes from it, so that a stream whose
//! session is over, and which the transport has not dropped yet, takes nothing of the next session's.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use handfast_commit_core::id::ParticipantName;
use handfast_commit_core::message::ToParticipant;
use handfast_wire::convert;
use handfast_wire::frames::{SessionRequest, SessionRequestWriter};
use tokio::sync::mpsc;
use tokio_stream::Stream;

use crate::effects::Shards;
use crate::links::{Link, Links, Outbound, work_bytes};

/// Messages in one frame at most, and bytes of work after which it is sent.
const FRAME_MESSAGES_MAX: usize = 512;
const FRAME_BYTES: usize = 1 << 20;

/// The receiving end of a link's queue.
#[derive(Debug)]
pub(crate) struct LinkQueue(Mutex<State>);

#[derive(Debug)]
struct State {
    messages: mpsc::Receiver<Outbound>,
    open_to: Option<u64>,
    /// Whoever is to look again when that changes.
    waiting: Option<Waker>,
}

impl LinkQueue {
    /// Open to nobody.
    pub(crate) fn new(messages: mpsc::Receiver<Outbound>) -> Self {
        Self(Mutex::new(State { messages, open_to: None, waiting: None }))
    }

    /// From here on the stream of this session takes the messages, and no other one does.
    pub(crate) fn open(&self, session: u64) {
        self.set(Some(session));
    }

    /// No stream takes messages any more.
    pub(crate) fn close(&self) {
        self.set(None);
    }

    fn set(&self, session: Option<u64>) {
        let mut state = self.state();
        state.open_to = session;
        if let Some(waker) = state.waiting.take() {
            waker.wake();
        }
    }

    /// The next message, for a link without a stream.
    pub(crate) async fn next(&self) -> Option<Outbound> {
        std::future::poll_fn(|context| self.state().messages.poll_recv(context)).await
    }

    /// A message that is there already.
    pub(crate) fn take(&self) -> Option<Outbound> {
        self.state().messages.try_recv().ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every field is whole between any two statements, whoever panicked in between.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The frames of one session, the hello first.
pub(crate) struct LinkFrames {
    hello: Option<SessionRequest>,
    session: u64,
    begun: bool,
    queue: Arc<LinkQueue>,
    /// Taken, and not in a frame yet.
    taken: VecDeque<Outbound>,
    batch: Vec<Outbound>,
    link: Arc<Link>,
    links: Arc<Links>,
    shards: Shards,
}

impl LinkFrames {
    /// Of a session that begins with `hello`. Messages follow when the queue is opened to it.
    pub(crate) fn new(
        hello: SessionRequest,
        session: u64,
        queue: Arc<LinkQueue>,
        link: Arc<Link>,
        links: Arc<Links>,
        shards: Shards,
    ) -> Self {
        let (taken, batch) = (VecDeque::new(), Vec::new());
        let hello = Some(hello);
        Self { hello, session, begun: false, queue, taken, batch, link, links, shards }
    }

    fn frame(&mut self) -> SessionRequest {
        let work = self.taken.iter().map(work_bytes).sum::<usize>().min(2 * FRAME_BYTES);
        let mut frame = SessionRequestWriter::new(self.taken.len().min(FRAME_MESSAGES_MAX), work);
        let mut bytes = 0;
        while frame.messages() < FRAME_MESSAGES_MAX
            && bytes < FRAME_BYTES
            && let Some(message) = self.taken.pop_front()
        {
            bytes += work_bytes(&message) + peer_bytes(&message);
            let endpoint_of = |peer: &ParticipantName, endpoint: &mut String| {
                self.links.write_endpoint_of(peer, endpoint);
            };
            match message {
                Outbound::Say(message) => frame.say(&self.link.name, message, endpoint_of),
                Outbound::Lead(order) => frame.message(&convert::order_message(&order)),
            }
        }
        metrics::histogram!("handfast_frame_messages").record(frame.messages() as f64);
        frame.finish(&self.links.context().origin(self.shards.sequences().lowest_live()))
    }
}

impl Stream for LinkFrames {
    type Item = SessionRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(hello) = this.hello.take() {
            return Poll::Ready(Some(hello));
        }
        if this.taken.is_empty() {
            let mut state = this.queue.state();
            if state.open_to != Some(this.session) {
                if this.begun {
                    return Poll::Ready(None);
                }
                state.waiting = Some(context.waker().clone());
                return Poll::Pending;
            }
            this.begun = true;
            let most = FRAME_MESSAGES_MAX;
            match state.messages.poll_recv_many(context, &mut this.batch, most) {
                Poll::Ready(0) => return Poll::Ready(None),
                Poll::Ready(_) => drop(state),
                Poll::Pending => {
                    // It may be closed to us meanwhile.
                    state.waiting = Some(context.waker().clone());
                    return Poll::Pending;
                }
            }
            let bytes = this.batch.iter().map(work_bytes).sum();
            this.link.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            this.taken.extend(this.batch.drain(..));
            let parked = this.link.take_parked(FRAME_MESSAGES_MAX);
            this.taken.extend(parked.into_iter().map(Outbound::Say));
        }
        Poll::Ready(Some(this.frame()))
    }
}

/// About what the peers and the voting sites of a PREPARE take in a frame.
fn peer_bytes(message: &Outbound) -> usize {
    match message {
        Outbound::Say(ToParticipant::Prepare(prepare)) => {
            let voting = prepare.voting.as_ref().map_or(0, |voting| voting.sites.count());
            (prepare.peers.len() + voting) * 128
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use handfast_commit_core::id::{Epoch, Incarnation, Protocol, Sequence, Slot, TransactionId};
    use handfast_commit_core::two_phase::coordinator::Identity;
    use handfast_wire::v1;
    use tokio_stream::StreamExt;

    use super::*;
    use crate::links::LinkContext;
    use crate::shard::Sequences;

    #[tokio::test]
    async fn what_was_parked_makes_no_frame_longer_than_frames_are() {
        let identity = Identity { slot: Slot(0), epoch: Epoch(1), incarnation: Incarnation(1) };
        let name = "a".parse().expect("a name");
        let (link, messages) = Link::new(&name, "http://a", FRAME_MESSAGES_MAX);
        for sequence in 0..2 * FRAME_MESSAGES_MAX as u64 {
            let sequence = Sequence(sequence);
            let id = TransactionId::new(Slot(0), Protocol::TwoPhase, Epoch(1), sequence);
            if link.queue.try_send(Outbound::Say(ToParticipant::Abort { id })).is_err() {
                assert!(link.park(ToParticipant::Forget { id }), "there is room");
            }
        }
        let queue = Arc::new(LinkQueue::new(messages));
        queue.open(1);
        let links = Arc::new(Links::new(LinkContext::new(identity, String::new(), 1)));
        let shards = Shards::new(Vec::new(), Arc::new(Sequences::new(1)));
        let hello = SessionRequest::of(&v1::SessionRequest::default());
        let mut frames = LinkFrames::new(hello, 1, queue, Arc::new(link), links, shards);
        frames.next().await.expect("the hello");
        for _ in 0..2 {
            let frame = frames.next().await.expect("a frame");
            assert_eq!(frame.decode().expect("a frame").messages.len(), FRAME_MESSAGES_MAX);
        }
    }
}
