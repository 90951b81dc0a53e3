//! After the decision, at a participant: carried out, written, told to the others, and forgotten when every site
//! has it on its disk.
//!
//! A site that found the decision out tells it to all. So does one that was told, when it has waited too
//! long for the permission to forget: whoever told it may be gone. FORGET is therefore said once and never
//! repeated; whoever misses it finds out by asking everybody for an acknowledgement.

use super::leader::Delivery;
use super::sites::SiteName;
use crate::id::TransactionId;
use crate::marks::{Mark, mark};
use crate::message::{FromParticipant, Order, Report};
use crate::mutants::{Mutant, mutant};
use crate::record::{Change, DecidedBranch, ParticipantRecord, VotedBranch};
use crate::step::{Now, Position, TimerKey};
use crate::two_phase::Participant;
use crate::two_phase::participant::branch::{Before, Branch, Finishing, wait_too};
use crate::two_phase::participant::{Alarm, Ending, Via};

/// How a site has learned the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Learned {
    /// It led the termination: everybody is told at once.
    Led,
    /// It was answered by somebody who may not tell the others.
    Found,
    /// By whoever leads and tells everybody.
    Told,
}

impl Learned {
    /// How many waits it has behind it when it is left alone with its decision.
    fn attempts(self) -> u32 {
        match self {
            Self::Led | Self::Found => 0,
            Self::Told => 4,
        }
    }
}

/// A branch whose decision is being carried out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Told {
    pub(crate) record: VotedBranch,
    /// Where the log says where it stood.
    pub(crate) at: Position,
    pub(crate) delivery: Delivery,
    pub(crate) learned: Learned,
}

/// A branch that has its decision on the disk, and waits for everybody to have it there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Decided {
    pub(crate) record: DecidedBranch,
    /// Where the log says so.
    pub(crate) at: Position,
    pub(crate) delivery: Delivery,
    pub(crate) attempts: u32,
}

impl Decided {
    /// Written at `at`.
    pub(crate) fn new(record: DecidedBranch, at: Position, mut delivery: Delivery) -> Self {
        delivery.acknowledged(record.electorate.own);
        Self { record, at, delivery, attempts: 0 }
    }

    /// Found in the log.
    pub(crate) fn restored(record: DecidedBranch) -> Self {
        Self::new(record, Position(0), Delivery::default())
    }

    fn ending(&self) -> Ending {
        if self.record.committed { Ending::Committed } else { Ending::Aborted }
    }
}

impl<W> Participant<W> {
    /// Whoever leads says what the decision is.
    pub(crate) fn told_by_leader(
        &mut self,
        now: Now,
        id: TransactionId,
        committed: bool,
        via: Via<W>,
    ) {
        let known = match self.branches.get_mut(&id) {
            None => return,
            Some(Branch::Voted(_)) => {
                mark(Mark::ThreeToldByLeader);
                return self.decide(now, id, committed, Learned::Told, None, Some(via));
            }
            Some(Branch::Committing(finishing)) if committed => {
                return wait_too(&mut finishing.leaders, via);
            }
            Some(Branch::Aborting(finishing))
                if !committed && matches!(finishing.before, Before::Voted(_)) =>
            {
                return wait_too(&mut finishing.leaders, via);
            }
            Some(Branch::Decided(decided)) => {
                self.out.speaks_of(decided.at);
                Some(decided.record.committed)
            }
            Some(Branch::Finished { ending: Ending::Committed, at }) => {
                self.out.speaks_of(at.unwrap_or_default());
                Some(true)
            }
            Some(Branch::Finished { .. }) => Some(false),
            Some(Branch::Aborting(finishing)) => {
                matches!(finishing.before, Before::Voted(_)).then_some(false)
            }
            Some(Branch::Session { .. } | Branch::Preparing(_)) => None,
            Some(_) => Some(!committed),
        };
        if committed && known != Some(true) || !committed && known == Some(true) {
            mark(Mark::ThreeContradiction);
            self.alarm(
                id,
                match (committed, known) {
                    (true, None) => Alarm::CommitOfUnprepared,
                    (true, _) => Alarm::CommitOfAborted,
                    (false, _) => Alarm::AbortOfCommitted,
                },
            );
            return self.report(via, id, Report::NoInformation);
        }
        mark(Mark::ThreeToldAgain);
        if !committed && !matches!(self.branches.get(&id), Some(Branch::Decided(_))) {
            // It aborted by itself, or does now; that has to last.
            self.asked(id);
        }
        self.report(via, id, Report::Acknowledged { committed });
    }

    /// The resource has carried the decision out: it is written, and acknowledged to all who have told it.
    pub(crate) fn settle(
        &mut self,
        now: Now,
        id: TransactionId,
        finishing: Finishing<W>,
        committed: bool,
        changes: Vec<Change>,
    ) {
        let Finishing { vias, leaders, before: Before::Voted(told), .. } = finishing else {
            unreachable!("called for the branches of voting sites only")
        };
        let Told { record, delivery, learned, .. } = *told;
        let read_only = record.read_only;
        let record = DecidedBranch { id, committed, electorate: record.electorate };
        let at = self.force(ParticipantRecord::Decided(record.clone()), changes);
        if mutant(Mutant::AckBeforeDurable) {
            self.out.ungate();
        }
        for via in vias {
            if committed {
                self.respond(via, FromParticipant::Committed { id });
            } else {
                self.respond_aborted_to(via, id);
            }
        }
        for via in leaders {
            self.report(via, id, Report::Acknowledged { committed });
        }
        let decided =
            Decided { attempts: learned.attempts(), ..Decided::new(record, at, delivery) };
        let ending = decided.ending();
        self.branches.insert(id, Branch::Decided(Box::new(decided)));
        if !read_only {
            self.ended(id, ending, true);
        }
        self.arm_delivery(now, id);
        self.release_if_complete(id);
    }

    /// Tells every other site, once; what is not acknowledged is told again when this site has its own record.
    pub(crate) fn deliver_decision(&mut self, id: TransactionId, told: &Told, committed: bool) {
        let electorate = &told.record.electorate;
        for number in told.delivery.silent(&electorate.sites) {
            if number != electorate.own {
                self.send_order(id, electorate, number, Order::Decided { committed });
            }
        }
    }

    /// It has waited for the permission to forget, or for acknowledgements.
    pub(crate) fn decided_timer(&mut self, now: Now, id: TransactionId) {
        let Some(Branch::Decided(decided)) = self.branches.get_mut(&id) else {
            return;
        };
        mark(Mark::ThreeDelivers);
        decided.attempts = decided.attempts.saturating_add(1);
        let electorate = decided.record.electorate.clone();
        let committed = decided.record.committed;
        let silent = decided.delivery.silent(&electorate.sites);
        self.out.speaks_of(decided.at);
        for number in silent {
            self.send_order(id, &electorate, number, Order::Decided { committed });
        }
        self.arm_delivery(now, id);
    }

    /// The longer it lasts, the rarer it is: a site that is away for a night is not worth a crowd of messages.
    pub(crate) fn arm_delivery(&mut self, now: Now, id: TransactionId) {
        if let Some(Branch::Decided(decided)) = self.branches.get(&id) {
            let attempts = decided.attempts;
            let longest = self.config.inquire_after_us_max.saturating_mul(64);
            let wait = self.config.inquire_after_us.max(1).saturating_mul(1 << attempts.min(20));
            let wait = self.backoff(wait.min(longest), 0);
            self.out.timer(TimerKey::Transaction(id), Some(now.at.plus(wait)));
        }
    }

    /// A report to a site that knows the decision: perhaps the last acknowledgement.
    pub(crate) fn reported_decided(&mut self, id: TransactionId, from: &SiteName, report: Report) {
        let branch = self.branches.get_mut(&id);
        let carries_out_commit = matches!(branch, Some(Branch::Committing(_)));
        let (decision, delivery, electorate) = match branch {
            Some(
                Branch::Committing(Finishing { before: Before::Voted(told), .. })
                | Branch::Aborting(Finishing { before: Before::Voted(told), .. }),
            ) => (carries_out_commit, &mut told.delivery, &told.record.electorate),
            Some(Branch::Decided(decided)) => {
                let DecidedBranch { committed, electorate, .. } = &decided.record;
                (*committed, &mut decided.delivery, electorate)
            }
            _ => return mark(Mark::ThreeReportPassed),
        };
        let Some(number) = electorate.sites.number(from) else {
            return mark(Mark::ThreeStranger);
        };
        match report {
            Report::Known { committed } | Report::Acknowledged { committed }
                if committed != decision =>
            {
                mark(Mark::ThreeContradiction);
                self.alarm(id, Alarm::SitesDiffer);
            }
            Report::Acknowledged { .. } => {
                mark(Mark::ThreeAcknowledged);
                delivery.acknowledged(number);
                self.release_if_complete(id);
            }
            _ => mark(Mark::ThreeReportPassed),
        }
    }

    /// Everybody has it on the disk, this site as well: nobody will ask any more, and all may forget.
    fn release_if_complete(&mut self, id: TransactionId) {
        let Some(Branch::Decided(decided)) = self.branches.get(&id) else {
            return;
        };
        if !decided.delivery.silent(&decided.record.electorate.sites).is_empty() {
            return;
        }
        let electorate = decided.record.electorate.clone();
        mark(Mark::ThreeReleases);
        self.out.speaks_of(decided.at);
        for number in electorate.sites.numbers().filter(|number| *number != electorate.own) {
            self.send_order(id, &electorate, number, Order::Forget);
        }
        self.permitted(id);
    }

    /// Every site has the decision on its disk. A late PREPARE must find the id all the same, until it is
    /// passed.
    pub(crate) fn permitted(&mut self, id: TransactionId) {
        let Some(Branch::Decided(decided)) = self.branches.get(&id) else {
            return;
        };
        mark(Mark::ThreeForgotten);
        let (ending, at) = (decided.ending(), decided.at);
        let committed = decided.record.committed;
        self.out.timer(TimerKey::Transaction(id), None);
        if !self.is_past(id) {
            self.remember(id, ending, Some(at));
            self.record_lazily(ParticipantRecord::Finished { id, committed });
        } else {
            self.branches.remove(&id);
            self.forgotten_at = self.forgotten_at.max(at);
            // First: a log that is cut between the two must not begin the transaction again. (A newer epoch is
            // in the log before anything that is done under it.)
            if self.is_current(id) {
                self.record_seen(id.slot());
            }
            self.record_lazily(ParticipantRecord::Forgotten { id });
        }
    }

    /// What is said of a passed transaction waits until the log knows that it is, which is written once, however often
    /// somebody asks; and for its end, if it has one here that has just been forgotten.
    pub(crate) fn speak_of_passed(&mut self, id: TransactionId) {
        let at = match self.is_current(id) {
            true => self.record_seen(id.slot()),
            false => self.out.position(),
        };
        self.out.speaks_of(at.max(self.forgotten_at));
    }

    /// COMMIT for a branch that is a voting site, or was one; otherwise whoever has to be answered.
    pub(crate) fn commit_as_site(
        &mut self,
        now: Now,
        id: TransactionId,
        via: Via<W>,
    ) -> Result<(), Via<W>> {
        match self.branches.get_mut(&id) {
            _ if !id.is_three_phase() => return Err(via),
            Some(Branch::Voted(_)) => {
                mark(Mark::ThreeCommitTold);
                self.decide(now, id, true, Learned::Told, Some(via), None);
            }
            Some(Branch::Decided(decided)) if decided.record.committed => {
                self.out.speaks_of(decided.at);
                self.respond(via, FromParticipant::Committed { id });
            }
            _ => return Err(via),
        }
        Ok(())
    }

    pub(crate) fn respond_aborted_to(&mut self, via: Via<W>, id: TransactionId) {
        self.respond(via, FromParticipant::Aborted { id });
    }

    /// How many decided branches wait for every site to have the decision on its disk.
    #[must_use]
    pub fn unforgotten(&self) -> usize {
        let kept = |branch: &&Branch<W>| matches!(branch, Branch::Decided(_));
        self.branches.values().filter(kept).count()
    }
}
