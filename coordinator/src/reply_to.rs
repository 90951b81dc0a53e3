//! Through what a caller is answered.

use handfast_commit_core::two_phase::coordinator::Reply;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Through what a caller is answered. What it holds of the memory for payloads is free again when it
/// has been answered.
#[derive(Debug)]
pub struct ReplyTo {
    to: oneshot::Sender<Reply>,
    memory: Option<OwnedSemaphorePermit>,
}

impl ReplyTo {
    /// With the channel's other end, and what the request takes of the memory for payloads.
    #[must_use]
    pub fn new(memory: Option<OwnedSemaphorePermit>) -> (Self, oneshot::Receiver<Reply>) {
        let (to, answered) = oneshot::channel();
        (Self { to, memory }, answered)
    }

    /// The same, with what the request takes of the memory for payloads.
    pub(crate) fn holding(self, memory: Option<OwnedSemaphorePermit>) -> Self {
        Self { memory, ..self }
    }

    /// Answers. A caller that has gone away is no error: the transaction was never its own.
    pub fn send(self, reply: Reply) {
        let _ = self.to.send(reply);
        drop(self.memory);
    }
}
