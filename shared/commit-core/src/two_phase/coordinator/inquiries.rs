//! Inquiries: what participants in doubt ask, and what may be presumed.

use super::Coordinator;
use super::inputs::{Action, Alarm, Inquiry, Stored};
use super::transaction::Phase;
use crate::marks::{Mark, mark};
use crate::message::{Inquired, ToParticipant};
use crate::mutants::{Mutant, mutant};

impl<W> Coordinator<W> {
    pub(super) fn answer_over_link(&mut self, inquiry: &Inquiry, stored: Option<Stored>) {
        let outcome = self.inquired(inquiry, stored);
        let to = inquiry.participant.clone();
        let message = ToParticipant::Answer { id: inquiry.id, outcome };
        self.out.act(Action::Send { to, message });
    }

    /// What became of a transaction, for a participant in doubt. Only called when the log has been
    /// read to its end: before that the edge answers [`Inquired::Retry`].
    pub(super) fn inquired(&mut self, inquiry: &Inquiry, stored: Option<Stored>) -> Inquired {
        let id = inquiry.id;
        if id.slot() != self.identity.slot {
            mark(Mark::InquiryOfAnotherSlot);
            return Inquired::NotOwner;
        }
        // Before anything is looked up: another log has given the same ids to other transactions.
        if inquiry.incarnation != self.identity.incarnation && !mutant(Mutant::ForeignLogPresumed) {
            mark(Mark::InquiryOfAnotherLog);
            self.alarm(id, &inquiry.participant.clone(), Alarm::ForeignLog);
            return Inquired::NoInformation;
        }
        if let Some(transaction) = self.transactions.get(&id) {
            return match &transaction.phase {
                Phase::Committing { .. } => {
                    mark(Mark::InquiryDecided);
                    if !mutant(Mutant::InquiryBeforeDurable) {
                        self.out.speaks_of(transaction.decided_at);
                    }
                    Inquired::Commit
                }
                _ if mutant(Mutant::PresumeAbortUndecided) => Inquired::Abort,
                _ => {
                    mark(Mark::InquiryPending);
                    Inquired::Pending
                }
            };
        }
        if let Some(stored) = stored {
            mark(Mark::InquiryEnded);
            return match stored {
                Stored::Committed { .. } => Inquired::Commit,
                Stored::Aborted => Inquired::Abort,
            };
        }
        if id.epoch() > self.identity.epoch && !mutant(Mutant::PresumeAbortAboveEpoch) {
            mark(Mark::InquiryAboveEpoch);
            return Inquired::Retry;
        }
        // Presumed abort. The epoch makes it permanent: an id of an earlier epoch is never decided
        // any more, and one of this epoch would be known if it could still be.
        mark(Mark::InquiryPresumed);
        Inquired::Abort
    }
}
