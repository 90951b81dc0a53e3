//! Through what a caller is answered: a call of its own, or one of the calls that share a stream.
//!
//! The law: whoever asked is told something. One that is dropped unanswered, because the engine ends, tells
//! its caller just that.

use handfast_commit_core::message::FromSite;
use handfast_commit_core::two_phase::coordinator::Reply;
use handfast_runtime::site_service::ReportTo;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::outbox::OpenCall;

/// Through what a caller is answered. What it holds of the memory for payloads is free again when it
/// has been answered.
#[derive(Debug)]
pub struct ReplyTo {
    to: To,
    memory: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum To {
    /// Somebody waits for it.
    Waiting(oneshot::Sender<Reply>),
    /// It goes out with the next frame of a stream.
    Stream(OpenCall),
    /// Another voting site leads, and is told with the other reports of its call.
    Site(ReportTo),
}

impl ReplyTo {
    /// With the channel's other end, and what the request takes of the memory for payloads.
    #[must_use]
    pub fn new(memory: Option<OwnedSemaphorePermit>) -> (Self, oneshot::Receiver<Reply>) {
        let (to, answered) = oneshot::channel();
        (Self { to: To::Waiting(to), memory }, answered)
    }

    /// For a call of a stream.
    pub(crate) fn stream(call: OpenCall) -> Self {
        Self { to: To::Stream(call), memory: None }
    }

    /// For the order of another voting site.
    #[must_use]
    pub fn site(report_to: ReportTo) -> Self {
        Self { to: To::Site(report_to), memory: None }
    }

    /// The same, with what the request takes of the memory for payloads.
    pub(crate) fn holding(self, memory: Option<OwnedSemaphorePermit>) -> Self {
        Self { memory, ..self }
    }

    /// Answers. A caller that has gone away is no error: the transaction was never its own.
    pub fn send(self, reply: Reply) {
        let Self { to, memory } = self;
        match to {
            To::Waiting(to) => drop(to.send(reply)),
            To::Stream(call) => call.replied(reply),
            // It is told reports only; whoever leads asks again.
            To::Site(_) => {}
        }
        drop(memory);
    }

    /// Answers another voting site.
    pub fn report(self, report: FromSite) {
        if let To::Site(to) = self.to {
            to.send(report);
        }
    }
}
