//! Inquiries: what participants in doubt ask, and what may be presumed.

use super::Coordinator;
use super::inputs::{Action, Alarm, Inquiry, Stored};
use super::transaction::Phase;
use crate::marks::{Mark, mark};
use crate::message::{Inquired, ToParticipant};
use crate::mutants::{Mutant, mutant};
use crate::step::Now;

impl<W> Coordinator<W> {
    pub(super) fn answer_over_link(&mut self, now: Now, inquiry: &Inquiry, stored: Option<Stored>) {
        let outcome = self.inquired(now, inquiry, stored);
        let to = inquiry.participant.clone();
        let message = ToParticipant::Answer { id: inquiry.id, outcome };
        self.out.act(Action::Send { to, message });
    }

    /// What became of a transaction, for a participant in doubt. Only called when the log has been
    /// read to its end: before that the edge answers [`Inquired::Retry`].
    pub(super) fn inquired(
        &mut self,
        now: Now,
        inquiry: &Inquiry,
        stored: Option<Stored>,
    ) -> Inquired {
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
                Phase::Delivering(delivering) => {
                    mark(Mark::InquiryDecided);
                    self.out.speaks_of(transaction.decided_at);
                    match delivering.outcome {
                        Ok(()) => Inquired::Commit,
                        Err(_) => Inquired::Abort,
                    }
                }
                _ if mutant(Mutant::PresumeAbortUndecided) => Inquired::Abort,
                _ => {
                    mark(Mark::InquiryPending);
                    Inquired::Pending
                }
            };
        }
        match stored {
            Some(Stored::Committed { .. }) => {
                mark(Mark::InquiryEnded);
                return Inquired::Commit;
            }
            Some(Stored::Aborted) => {
                mark(Mark::InquiryEnded);
                return Inquired::Abort;
            }
            Some(Stored::Expired) | None => {}
        }
        if id.is_three_phase() && self.is_yet_to_be(id)
            || id.epoch() > self.identity.epoch && !mutant(Mutant::PresumeAbortAboveEpoch)
        {
            mark(Mark::InquiryAboveEpoch);
            return Inquired::Retry;
        }
        if id.is_three_phase() && stored.is_none() {
            // A voting site that has not moved: its word has to last as every site's does.
            self.abort_unremembered(now, id);
            return Inquired::Abort;
        }
        // Presumed abort. The epoch makes it permanent: an id of an earlier epoch is never decided
        // any more, and one of this epoch would be known if it could still be.
        mark(Mark::InquiryPresumed);
        Inquired::Abort
    }
}
