//! In doubt: asking the coordinator, asking the peers, and answering theirs.

use super::Participant;
use super::branch::{Before, Branch, Doomed};
use super::inputs::{Action, Ending, Event};
use crate::id::{ParticipantName, Slot, TransactionId};
use crate::marks::{Mark, mark};
use crate::message::Inquired;
use crate::mutants::{Mutant, mutant};
use crate::record::ParticipantRecord;
use crate::step::{Now, TimerKey};

impl<W> Participant<W> {
    pub(super) fn timer(&mut self, now: Now, id: TransactionId) {
        match self.branches.get_mut(&id) {
            // Its client is gone, or too slow: before the vote it may be given up at any time.
            Some(Branch::Session { until }) if now.at >= *until => {
                mark(Mark::SessionIdle);
                self.give_up(id);
            }
            Some(Branch::Session { until }) => {
                let until = *until;
                self.out.timer(TimerKey::Transaction(id), Some(until));
            }
            Some(Branch::Prepared(in_doubt))
                if mutant(Mutant::InDoubtTimeout) && in_doubt.unanswered > 2 =>
            {
                self.adopt(id, Inquired::Abort);
            }
            Some(Branch::Prepared(_)) => self.inquire(now, id),
            Some(Branch::Voted(_)) => self.voted_timer(now, id),
            Some(Branch::Decided(_)) => self.decided_timer(now, id),
            // A timer that had run out before the decision came finds the resource at work.
            Some(Branch::Committing(finishing)) if !finishing.at_work => {
                finishing.at_work = true;
                self.call(id, super::ResourceCall::Commit);
            }
            Some(Branch::Aborting(finishing)) if !finishing.at_work => {
                finishing.at_work = true;
                self.call(id, super::ResourceCall::Abort);
            }
            _ => {}
        }
    }

    fn inquire(&mut self, now: Now, id: TransactionId) {
        let Some(Branch::Prepared(in_doubt)) = self.branches.get_mut(&id) else {
            return;
        };
        mark(Mark::Inquired);
        let record = &in_doubt.record;
        let incarnation = record.coordinator_incarnation;
        let endpoint = match self.slots.get(&id.slot()) {
            Some(seen) if !seen.endpoint.is_empty() => seen.endpoint.to_string(),
            _ => record.coordinator_endpoint.to_string(),
        };
        let silent = in_doubt.unanswered > 0;
        in_doubt.inquiries = in_doubt.inquiries.saturating_add(1);
        in_doubt.unanswered = in_doubt.unanswered.saturating_add(1);
        let attempts = in_doubt.inquiries;
        let peers = record.peers.clone();
        if silent {
            mark(Mark::Blocked);
            in_doubt.waiting_for = format!(
                "the coordinator at {endpoint}, which has not answered {} inquiries; {}",
                in_doubt.unanswered - 1,
                match peers.len() {
                    0 => "there are no other participants to ask".to_owned(),
                    n => format!("none of the {n} other participants has known the decision"),
                }
            )
            .into();
            let waiting_for = in_doubt.waiting_for.clone().into_owned();
            self.note(Event::Blocked { id, waiting_for });
            if !peers.is_empty() {
                mark(Mark::PeersInquired);
                self.out.act(Action::InquirePeers { id, incarnation, peers });
            }
        }
        self.out.act(Action::Inquire { id, incarnation, endpoint });
        self.arm_inquiry(now, id, attempts);
    }

    /// A session with the slot's coordinator has begun: all questions are asked at once.
    pub(super) fn inquire_all(&mut self, slot: Slot) {
        let mut asked = Vec::new();
        let mut sites = Vec::new();
        for (id, branch) in self.branches.iter() {
            match branch {
                Branch::Prepared(in_doubt) if id.slot() == slot => {
                    asked.push((*id, in_doubt.record.coordinator_incarnation));
                }
                Branch::Voted(_) if id.slot() == slot => sites.push(*id),
                _ => {}
            }
        }
        for id in sites {
            self.ask_coordinator(id);
        }
        let endpoint =
            self.slots.get(&slot).map(|seen| seen.endpoint.to_string()).unwrap_or_default();
        for (id, incarnation) in asked {
            mark(Mark::InquiredAtConnect);
            // The vote may not be durable yet; the question is part of nobody's decision.
            let endpoint = endpoint.clone();
            self.out.act(Action::Inquire { id, incarnation, endpoint });
        }
    }

    pub(crate) fn arm_inquiry(&mut self, now: Now, id: TransactionId, attempts: u32) {
        let wait = self.backoff(self.config.inquire_after_us, attempts);
        self.out.timer(TimerKey::Transaction(id), Some(now.at.plus(wait)));
    }

    pub(super) fn answered(&mut self, now: Now, id: TransactionId, outcome: Inquired) {
        if let Some(Branch::Voted(_)) = self.branches.get(&id) {
            return self.answered_site(now, id, outcome);
        }
        let Some(Branch::Prepared(in_doubt)) = self.branches.get_mut(&id) else {
            return mark(Mark::AnsweredLate);
        };
        match outcome {
            Inquired::Commit => {
                mark(Mark::AnsweredCommit);
                self.adopt(id, outcome);
            }
            Inquired::Abort => {
                mark(Mark::AnsweredAbort);
                self.adopt(id, outcome);
            }
            Inquired::Pending => {
                mark(Mark::AnsweredPending);
                in_doubt.unanswered = 0;
                in_doubt.inquiries = 0;
                in_doubt.waiting_for = "the coordinator, which has not decided".into();
                self.arm_inquiry(now, id, 0);
            }
            Inquired::Retry => {
                mark(Mark::AnsweredRetry);
                in_doubt.unanswered = 0;
                in_doubt.inquiries = 0;
                in_doubt.waiting_for = "the coordinator, which is reading its log".into();
                self.arm_inquiry(now, id, 0);
            }
            Inquired::NotOwner => {
                mark(Mark::AnsweredNothing);
                in_doubt.waiting_for =
                    "the owner of its slot, which the coordinator asked is not".into();
                let waiting_for = in_doubt.waiting_for.clone().into_owned();
                self.note(Event::Blocked { id, waiting_for });
            }
            Inquired::NoInformation => {
                mark(Mark::AnsweredNothing);
                in_doubt.waiting_for = "the coordinator's former log: the present one cannot \
                                        know the decision"
                    .into();
                let waiting_for = in_doubt.waiting_for.clone().into_owned();
                self.note(Event::Blocked { id, waiting_for });
            }
        }
    }

    /// The decision, from whoever knows it.
    fn adopt(&mut self, id: TransactionId, outcome: Inquired) {
        let Some(Branch::Prepared(in_doubt)) = self.branches.remove(&id) else {
            return;
        };
        self.out.timer(TimerKey::Transaction(id), None);
        let before = Before::Prepared(in_doubt.record);
        if outcome == Inquired::Commit {
            let (vias, leaders) = (Vec::new(), Vec::new());
            let finishing =
                super::Finishing { vias, leaders, attempts: 0, at_work: true, before, at: None };
            self.branches.insert(id, Branch::Committing(finishing));
            self.call(id, super::ResourceCall::Commit);
        } else {
            self.start_aborting(id, before, None, None);
        }
    }

    pub(super) fn peer_answered(
        &mut self,
        id: TransactionId,
        peer: &ParticipantName,
        outcome: Inquired,
    ) {
        let Some(Branch::Prepared(in_doubt)) = self.branches.get(&id) else {
            return;
        };
        // Only those named in PREPARE have anything to say.
        let named = in_doubt.record.peers.iter().any(|(name, _)| name == peer);
        if !named && !mutant(Mutant::StrangerBelieved) {
            return mark(Mark::PeerOfAnother);
        }
        match outcome {
            Inquired::Commit => {
                mark(Mark::PeerAnsweredCommit);
                self.adopt(id, outcome);
            }
            Inquired::Abort => {
                mark(Mark::PeerAnsweredAbort);
                self.adopt(id, outcome);
            }
            _ => mark(Mark::PeerAnsweredNothing),
        }
    }

    /// A peer asks. Whoever has not voted can still make the answer "abort", and does, durably: the
    /// peer will rely on it.
    pub(super) fn peer_asks(&mut self, id: TransactionId, waiter: W) {
        let outcome = self.asked(id);
        self.out.act(Action::AnswerPeer { to: waiter, outcome });
    }

    /// What this branch can say, and will stand by.
    pub(crate) fn asked(&mut self, id: TransactionId) -> Inquired {
        match self.branches.remove(&id) {
            None => {
                mark(Mark::PeerAsksUnknown);
                if mutant(Mutant::UnknownPeerAborts) {
                    Inquired::Abort
                } else {
                    Inquired::NoInformation
                }
            }
            Some(Branch::Session { .. }) => {
                mark(Mark::PeerAsksSession);
                let at = self.force_abort(id);
                self.start_aborting(id, Before::Unprepared, None, Some(at));
                Inquired::Abort
            }
            Some(Branch::Preparing(mut preparing)) => {
                let outcome = if preparing.one_phase.is_some() {
                    Inquired::NoInformation
                } else {
                    mark(Mark::PeerAsksPreparing);
                    let known = preparing.doomed.as_ref().and_then(|doomed| doomed.at);
                    let at = match known {
                        Some(at) => {
                            self.out.speaks_of(at);
                            at
                        }
                        None => self.force_abort(id),
                    };
                    match &mut preparing.doomed {
                        Some(doomed) => doomed.at = Some(at),
                        None => {
                            preparing.doomed = Some(Doomed { vias: Vec::new(), at: Some(at) });
                            self.call(id, super::ResourceCall::Cancel);
                        }
                    }
                    Inquired::Abort
                };
                self.branches.insert(id, Branch::Preparing(preparing));
                outcome
            }
            Some(Branch::Changing) => unreachable!("no step ends between two states"),
            Some(branch @ Branch::Prepared(_)) => {
                mark(Mark::PeerAsksPrepared);
                self.branches.insert(id, branch);
                if mutant(Mutant::PreparedPeerAborts) {
                    Inquired::Abort
                } else {
                    Inquired::NoInformation
                }
            }
            Some(Branch::Committing(finishing)) => {
                mark(Mark::PeerAsksCommitted);
                // The coordinator (or a peer) has said so: it is a fact already.
                let known = matches!(finishing.before, Before::Prepared(_) | Before::Voted(_));
                self.branches.insert(id, Branch::Committing(finishing));
                if known { Inquired::Commit } else { Inquired::NoInformation }
            }
            Some(Branch::Aborting(mut finishing)) => {
                mark(Mark::PeerAsksAborted);
                // A prepared branch was told; another one relies on our own word, which must last.
                if !matches!(finishing.before, Before::Prepared(_) | Before::Voted(_)) {
                    let at = match finishing.at {
                        Some(at) => {
                            self.out.speaks_of(at);
                            at
                        }
                        None => self.force_abort(id),
                    };
                    finishing.at = Some(at);
                }
                self.branches.insert(id, Branch::Aborting(finishing));
                Inquired::Abort
            }
            Some(branch @ (Branch::OnePhase { .. } | Branch::Following { .. })) => {
                self.branches.insert(id, branch);
                Inquired::NoInformation
            }
            // Its leader asks in another way.
            Some(branch @ Branch::Voted(_)) => {
                self.branches.insert(id, branch);
                Inquired::NoInformation
            }
            Some(Branch::Decided(decided)) => {
                self.out.speaks_of(decided.at);
                let committed = decided.record.committed;
                self.branches.insert(id, Branch::Decided(decided));
                if committed { Inquired::Commit } else { Inquired::Abort }
            }
            Some(Branch::Finished { ending, at }) => match ending {
                Ending::Committed => {
                    mark(Mark::PeerAsksCommitted);
                    self.out.speaks_of(at.unwrap_or_default());
                    self.branches.insert(id, Branch::Finished { ending, at });
                    Inquired::Commit
                }
                Ending::Aborted => {
                    mark(Mark::PeerAsksAborted);
                    let at = match at {
                        Some(at) => {
                            self.out.speaks_of(at);
                            at
                        }
                        None => self.force_abort(id),
                    };
                    self.branches.insert(id, Branch::Finished { ending, at: Some(at) });
                    Inquired::Abort
                }
                Ending::ReadOnly => {
                    mark(Mark::PeerAsksReadOnly);
                    if mutant(Mutant::ReadOnlyPeerAborts) {
                        return Inquired::Abort;
                    }
                    self.branches.insert(id, Branch::Finished { ending, at });
                    Inquired::NoInformation
                }
            },
        }
    }

    pub(crate) fn force_abort(&mut self, id: TransactionId) -> crate::step::Position {
        if mutant(Mutant::PeerAnswerWithoutRecord) {
            return self.out.ungate();
        }
        self.force(ParticipantRecord::Finished { id, committed: false }, Vec::new())
    }
}
