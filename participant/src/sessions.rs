//! The coordinators' sessions: one per slot, of which the latest counts.
//!
//! The law kept here: **what an older session says is not heard once a newer one is open.** Inputs are
//! handed to the shard under the same lock that a new session is opened under, so that none of the
//! older one can come behind the first of the newer one.
//!
//! A queue is bounded. A message that does not fit ends its session: the coordinator asks again after
//! it has reconnected, and would wait for ever if one message were missing in between.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use handfast_commit_core::id::{Epoch, Slot};
use handfast_commit_core::message::FromParticipant;
use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_wire::v1;
use tokio::sync::{mpsc, watch};

/// Most messages that wait for a coordinator.
pub(crate) const QUEUE_MAX: usize = 10_000;
/// Questions leave this much of a queue to answers. One that is left out is asked again by its timer.
const LEFT_FOR_ANSWERS: usize = QUEUE_MAX / 2;

/// Which session of a slot: rises with each one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionNumber {
    pub(crate) epoch: Epoch,
    pub(crate) session: u64,
}

/// What a coordinator is told over its session.
#[derive(Debug)]
pub(crate) enum ToCoordinator {
    /// An answer, as it is written.
    Answer(FromParticipant),
    /// Any message.
    Message(Box<v1::ParticipantMessage>),
}

impl From<v1::ParticipantMessage> for ToCoordinator {
    fn from(message: v1::ParticipantMessage) -> Self {
        Self::Message(Box::new(message))
    }
}

/// All sessions of this participant.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    open: Mutex<BTreeMap<Slot, OpenSession>>,
}

#[derive(Debug)]
struct OpenSession {
    number: SessionNumber,
    queue: mpsc::Sender<ToCoordinator>,
    end: watch::Sender<Option<String>>,
}

/// The session's own end of what [`Sessions`] knows of it.
#[derive(Debug)]
pub(crate) struct SessionEnds {
    /// What the coordinator is to be told.
    pub(crate) queue: mpsc::Receiver<ToCoordinator>,
    /// Says why the session is over.
    pub(crate) ended: watch::Receiver<Option<String>>,
}

/// A newer session, or this very one, is open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "session {session} of epoch {epoch} is not newer than the one that is open (session {open_session} of epoch \
     {open_epoch})"
)]
pub(crate) struct NotNewer {
    epoch: u64,
    session: u64,
    open_epoch: u64,
    open_session: u64,
}

impl Sessions {
    /// Opens a session and ends the one before.
    pub(crate) fn open(&self, slot: Slot, number: SessionNumber) -> Result<SessionEnds, NotNewer> {
        let mut open = self.lock();
        if let Some(before) = open.get(&slot) {
            if before.number >= number {
                return Err(NotNewer {
                    epoch: number.epoch.0,
                    session: number.session,
                    open_epoch: before.number.epoch.0,
                    open_session: before.number.session,
                });
            }
            before.end.send_replace(Some(format!(
                "session {} of epoch {} has taken over",
                number.session, number.epoch.0
            )));
        }
        let (queue, queued) = mpsc::channel(QUEUE_MAX);
        let (end, ended) = watch::channel(None);
        open.insert(slot, OpenSession { number, queue, end });
        metrics::gauge!("handfast_participant_sessions").set(open.len() as f64);
        Ok(SessionEnds { queue: queued, ended })
    }

    /// Forgets a session that is over, unless a newer one has taken its place.
    pub(crate) fn close(&self, slot: Slot, number: SessionNumber) {
        let mut open = self.lock();
        if open.get(&slot).is_some_and(|session| session.number == number) {
            open.remove(&slot);
        }
        metrics::gauge!("handfast_participant_sessions").set(open.len() as f64);
    }

    /// Does something that only the latest session may, with no other session opening meanwhile. False:
    /// it is not the latest any more.
    pub(crate) fn while_latest(
        &self,
        slot: Slot,
        number: SessionNumber,
        act: impl FnOnce(),
    ) -> bool {
        let open = self.lock();
        let latest = open.get(&slot).is_some_and(|session| session.number == number)
            || mutant(Mutant::StaleSessionHeard);
        if latest {
            act();
        }
        latest
    }

    /// Queues an answer. Without a session it is dropped: the coordinator asks again when it has one.
    pub(crate) fn answer(&self, slot: Slot, message: ToCoordinator) {
        let open = self.lock();
        let Some(session) = open.get(&slot) else {
            return;
        };
        if let Err(mpsc::error::TrySendError::Full(_)) = session.queue.try_send(message) {
            metrics::counter!("handfast_participant_session_overflows_total").increment(1);
            session.end.send_replace(Some(format!(
                "{QUEUE_MAX} messages wait for the coordinator, which does not take them"
            )));
        }
    }

    /// Queues a question. False: there is no session, or its queue is too full.
    pub(crate) fn ask(&self, slot: Slot, message: ToCoordinator) -> Asked {
        let open = self.lock();
        let Some(session) = open.get(&slot) else {
            return Asked::NoSession;
        };
        if session.queue.capacity() > LEFT_FOR_ANSWERS {
            // The session may be ending; the timer of the question sees to that.
            let _ = session.queue.try_send(message);
        }
        Asked::OverSession
    }

    /// True while some coordinator has a session.
    pub(crate) fn any(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Ends all of them.
    pub(crate) fn end_all(&self, why: &str) {
        for session in self.lock().values() {
            session.end.send_replace(Some(why.to_owned()));
        }
    }

    /// The map is whole between any two statements, so that a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Slot, OpenSession>> {
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Where a question went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Over the session; or nowhere just now, because its queue is full.
    OverSession,
    /// Nowhere.
    NoSession,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: Slot = Slot(3);

    fn number(epoch: u64, session: u64) -> SessionNumber {
        SessionNumber { epoch: Epoch(epoch), session }
    }

    fn message(text: &str) -> ToCoordinator {
        v1::ParticipantMessage { transaction_id: text.to_owned(), message: None }.into()
    }

    #[test]
    fn only_a_newer_session_takes_over() {
        let sessions = Sessions::default();
        let first = sessions.open(SLOT, number(2, 5)).expect("the first");
        for not_newer in [number(2, 5), number(2, 4), number(1, 9)] {
            let error = sessions.open(SLOT, not_newer).expect_err("not newer").to_string();
            assert!(error.contains("session 5 of epoch 2"), "{error}");
        }
        assert!(first.ended.borrow().is_none());
        let _second = sessions.open(SLOT, number(3, 1)).expect("newer: a later epoch");
        assert!(first.ended.borrow().as_deref().is_some_and(|why| why.contains("epoch 3")));
        assert!(!sessions.while_latest(SLOT, number(2, 5), || panic!("of an older session")));
        sessions.close(SLOT, number(2, 5));
        assert!(sessions.any(), "the newer one is still open");
        let mut done = false;
        assert!(sessions.while_latest(SLOT, number(3, 1), || done = true) && done);
    }

    #[test]
    fn a_full_queue_ends_the_session_and_leaves_room_for_answers() {
        let sessions = Sessions::default();
        sessions.answer(SLOT, message("nobody listens"));
        assert_eq!(sessions.ask(SLOT, message("q")), Asked::NoSession);
        let mut ends = sessions.open(SLOT, number(1, 1)).expect("the first");
        for _ in 0..QUEUE_MAX * 2 {
            assert_eq!(sessions.ask(SLOT, message("q")), Asked::OverSession);
        }
        for _ in 0..LEFT_FOR_ANSWERS {
            sessions.answer(SLOT, message("a"));
        }
        assert!(ends.ended.borrow().is_none(), "questions leave room");
        sessions.answer(SLOT, message("one too many"));
        assert!(ends.ended.borrow().is_some());
        assert_eq!(ends.queue.len(), QUEUE_MAX);
        let first = ends.queue.try_recv();
        let question = matches!(&first, Ok(ToCoordinator::Message(m)) if m.transaction_id == "q");
        assert!(question, "{first:?}");
    }
}
