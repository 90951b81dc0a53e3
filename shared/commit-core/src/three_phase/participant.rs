//! The participant's half: a branch that has voted is a voting site until it knows the decision.
//!
//! The laws here: what a site says of itself is on its disk first; a timeout asks, and begins an election,
//! and decides nothing (rule 5); a site that has not voted aborts for good when it is asked, whether it has
//! heard of the transaction or not (rules 6 and 8); one that has voted read-only holds no resources and votes
//! like the others (rule 8). What follows a decision is in the file beside this one.

use bytes::Bytes;

use super::ballot::Ballot;
use super::decided::{Learned, Told};
use super::leader::Delivery;
use super::seat::{NO_BALLOT_LEFT, Progress, Seat, to_site};
use super::site::{Site, Standing};
use super::sites::{SiteName, SiteNumber};
use super::view::SiteView;
use crate::id::TransactionId;
use crate::marks::{Mark, mark};
use crate::message::{FromSite, Inquired, Order, Report, ToSite, Vote, Voting};
use crate::mutants::{Mutant, mutant};
use crate::record::{Change, Electorate, ParticipantRecord, VotedBranch};
use crate::step::{Now, Position, TimerKey};
use crate::two_phase::Participant;
use crate::two_phase::participant::branch::{Before, Branch, Finishing, Preparing, wait_too};
use crate::two_phase::participant::{Action, Alarm, Ending, Event, ResourceCall, Via};

/// A voting site that does not know the decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Voted {
    pub(crate) record: VotedBranch,
    pub(crate) seat: Seat,
    /// How long it has been waiting: questions and repetitions.
    pub(crate) attempts: u32,
    /// The coordinator has been asked and has not answered.
    pub(crate) unanswered: bool,
    pub(crate) waits: Waits,
}

/// What a voting site waits for: told to people, in words that are found when they ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Waits {
    /// For the coordinator, from the vote on.
    ForDecision,
    /// The same, and the coordinator has been asked.
    ForCoordinator,
    /// For whoever is asked by this process, which has found the vote in its log.
    SinceRestart,
    /// For the end of the ballot that was joined last.
    ForBallot,
    /// It can lead no ballot any more.
    ForOthers,
}

impl Voted {
    /// Found in the log.
    pub(crate) fn restored(mut record: VotedBranch) -> Self {
        if mutant(Mutant::RestartForgetsBallots) {
            record.site = Site::VOTED;
        }
        let seat = Seat::new(record.electorate.own, record.site, Position(0));
        Self { record, seat, attempts: 0, unanswered: false, waits: Waits::SinceRestart }
    }

    /// For people: what it waits for now. While it leads that changes with every report.
    pub(crate) fn waiting_for(&self) -> String {
        let known = match self.waits {
            _ if self.seat.leads() => return self.waiting_for_ballot(),
            Waits::ForBallot => return self.waiting_for_ballot(),
            Waits::ForDecision => "the coordinator's decision",
            Waits::ForCoordinator => "the coordinator, which has not decided",
            Waits::SinceRestart => "a restart of this participant",
            Waits::ForOthers => NO_BALLOT_LEFT,
        };
        known.to_owned()
    }

    fn waiting_for_ballot(&self) -> String {
        self.seat.waiting_for(&self.record.electorate.sites)
    }

    /// For people.
    pub(crate) fn view(&self) -> SiteView {
        SiteView::of(&self.seat, &self.record.electorate.sites)
    }
}

impl Electorate {
    /// An order to one of the sites, and where that is.
    pub(crate) fn address(
        &self,
        id: TransactionId,
        number: SiteNumber,
        order: Order,
    ) -> (SiteName, String, ToSite) {
        let mut message = to_site(id, &self.sites, number, order);
        let to = self.sites.name(number);
        let endpoint = match &to {
            SiteName::Coordinator => {
                message.incarnation = self.coordinator_incarnation;
                self.coordinator_endpoint.clone()
            }
            SiteName::Participant(name) => {
                let known = self.peers.iter().find(|(peer, _)| peer == name);
                known.map(|(_, endpoint)| endpoint.clone()).unwrap_or_default()
            }
            SiteName::Witness(name) => {
                let known = self.sites.witnesses().iter().find(|known| known.name == *name);
                known.map(|witness| witness.endpoint.clone()).unwrap_or_default()
            }
        };
        (to, endpoint, message)
    }
}

impl<W> Participant<W> {
    // ---- the vote -------------------------------------------------------------------------------

    /// Why a PREPARE of this protocol cannot be obeyed; `None` when it can.
    pub(crate) fn voting_refused(
        &self,
        id: TransactionId,
        voting: Option<&Voting>,
    ) -> Option<&'static str> {
        match voting {
            _ if !id.is_three_phase() => None,
            None => Some("a three-phase PREPARE has to name the voting sites"),
            Some(Voting { sites, own }) => match sites.name(*own) {
                SiteName::Participant(_) if sites.incarnation(*own) == self.incarnation => None,
                SiteName::Participant(_) => {
                    Some("the PREPARE was meant for another log of this participant")
                }
                _ => Some("the PREPARE gives this participant the place of another site"),
            },
        }
    }

    /// The resource has prepared, or has nothing to commit: rule 1.
    pub(crate) fn vote_as_site(
        &mut self,
        now: Now,
        id: TransactionId,
        preparing: Preparing<W>,
        (result, changes): (Bytes, Vec<Change>),
        read_only: bool,
    ) {
        let Preparing { origin, peers, vias, voting, .. } = preparing;
        let Some(Voting { sites, own }) = voting.map(|voting| *voting) else {
            unreachable!("checked when the PREPARE arrived: see voting_refused()")
        };
        let vote = if read_only { Vote::ReadOnly } else { Vote::Prepared };
        if read_only && mutant(Mutant::ReadOnlySiteForgets) {
            self.vote(vias, id, vote, result);
            self.branches.remove(&id);
            return self.ended(id, Ending::ReadOnly, false);
        }
        mark(if read_only { Mark::ThreeReadOnlyVoted } else { Mark::ThreeVoted });
        let electorate = Electorate {
            sites,
            own,
            coordinator_incarnation: origin.incarnation,
            coordinator_endpoint: origin.endpoint.to_string(),
            peers,
        };
        let record = VotedBranch {
            id,
            site: Site::VOTED,
            electorate,
            read_only,
            result: result.clone(),
            since_ms: now.wall_ms,
        };
        let at = self.force(ParticipantRecord::Voted(record.clone()), changes);
        if mutant(Mutant::VoteBeforeDurable) {
            self.out.ungate();
        }
        self.vote(vias, id, vote, result);
        if read_only {
            // Released at once; only its voice stays.
            self.ended(id, Ending::ReadOnly, false);
        } else {
            self.out.act(Action::Note(Event::Prepared { id }));
        }
        let seat = Seat::new(own, Site::VOTED, at);
        let waits = Waits::ForDecision;
        let voted = Voted { record, seat, attempts: 0, unanswered: false, waits };
        self.branches.insert(id, Branch::Voted(Box::new(voted)));
        self.arm_inquiry(now, id, 0);
    }

    /// The vote again, for a PREPARE that was repeated.
    pub(crate) fn vote_again(&mut self, id: TransactionId, via: Via<W>) {
        if let Some(Branch::Voted(voted)) = self.branches.get(&id) {
            mark(Mark::ThreeVotedAgain);
            self.out.speaks_of(voted.seat.at);
            let vote = if voted.record.read_only { Vote::ReadOnly } else { Vote::Prepared };
            let result = voted.record.result.clone();
            self.vote(vec![via], id, vote, result);
        }
    }

    /// A no is on the disk before it is said.
    pub(crate) fn force_no(&mut self, id: TransactionId) -> Option<Position> {
        if !id.is_three_phase() {
            return None;
        }
        mark(Mark::ThreeNoForced);
        Some(self.force_abort(id))
    }

    // ---- being led ------------------------------------------------------------------------------

    /// An order of whoever leads. It is answered once, now or later, through `via`.
    pub(crate) fn led(&mut self, now: Now, from: &SiteName, message: ToSite, via: Via<W>) {
        let ToSite { id, order, .. } = message;
        if !id.is_three_phase() {
            return self.report(via, id, Report::NoInformation);
        }
        let electorate = match self.branches.get(&id) {
            Some(Branch::Voted(voted)) => Some(&voted.record.electorate),
            Some(Branch::Decided(decided)) => Some(&decided.record.electorate),
            _ => None,
        };
        if electorate.is_some_and(|known| known.sites.other(from, known.own).is_none()) {
            mark(Mark::ThreeStranger);
            return self.report(via, id, Report::NoInformation);
        }
        match (self.branches.get(&id), order) {
            (None, _) => self.led_unknown(message, via),
            (_, Order::Decided { committed }) => self.told_by_leader(now, id, committed, via),
            (_, Order::Forget) => {
                self.permitted(id);
                self.report(via, id, Report::Forgotten);
            }
            (Some(Branch::Voted(_)), _) => self.led_voted(now, from, id, order, via),
            _ => {
                let report = self.led_otherwise(id, order);
                self.report(via, id, report);
            }
        }
    }

    /// Joins, or moves, if no higher ballot has been joined.
    fn led_voted(
        &mut self,
        now: Now,
        from: &SiteName,
        id: TransactionId,
        order: Order,
        via: Via<W>,
    ) {
        let Some(Branch::Voted(voted)) = self.branches.get_mut(&id) else {
            return;
        };
        let before = voted.seat.site.standing;
        // Nobody leads another site's ballot.
        if voted.record.electorate.sites.number(from) != order.ballot().map(Ballot::site) {
            mark(Mark::ThreeStranger);
            return self.report(via, id, Report::NoInformation);
        }
        let Some((anew, report)) = voted.seat.hear(order) else {
            return;
        };
        if !matches!(report, Report::Refused { .. }) {
            // Somebody leads; he gets a whole wait.
            let site = voted.seat.site;
            voted.waits = Waits::ForBallot;
            if *from == SiteName::Coordinator {
                voted.unanswered = false;
                voted.attempts = 0;
            }
            let attempts = voted.attempts;
            if anew {
                self.write_voted(id);
                self.tell_of_move(id, before, site.standing);
            }
            self.arm_election(now, id, attempts);
        }
        if let Some(Branch::Voted(voted)) = self.branches.get(&id) {
            self.out.speaks_of(voted.seat.at);
        }
        if anew && mutant(Mutant::PromiseNotForced) {
            self.out.ungate();
        }
        self.report(via, id, report);
    }

    /// An undecided site's record, as it is now.
    fn write_voted(&mut self, id: TransactionId) {
        let Some(Branch::Voted(voted)) = self.branches.get_mut(&id) else {
            return;
        };
        voted.record.site = voted.seat.site;
        if voted.seat.site.standing != Standing::Waiting {
            // Nobody moves before every vote is counted: it will not be repeated with its result.
            voted.record.result = Bytes::new();
        }
        let record = ParticipantRecord::Voted(voted.record.clone());
        let at = self.force(record, Vec::new());
        if let Some(Branch::Voted(voted)) = self.branches.get_mut(&id) {
            voted.seat.at = at;
        }
    }

    /// The resource hears of it when it has moved towards commit.
    fn tell_of_move(&mut self, id: TransactionId, before: Standing, now: Standing) {
        let holds_something =
            matches!(self.branches.get(&id), Some(Branch::Voted(voted)) if !voted.record.read_only);
        if before != Standing::PreCommitted && now == Standing::PreCommitted && holds_something {
            mark(Mark::ThreePreCommitCalled);
            self.call(id, ResourceCall::PreCommit);
        }
    }

    /// An order to join or to move, for a transaction that this site does not know.
    fn led_unknown(&mut self, message: ToSite, via: Via<W>) {
        let ToSite { id, incarnation, order } = message;
        if order == Order::Forget {
            return self.report(via, id, Report::Forgotten);
        }
        // It may have voted, and the disk with the vote is gone.
        if incarnation != self.incarnation && !mutant(Mutant::AnotherLogPassesForInitial) {
            mark(Mark::ThreeAnotherLog);
            self.alarm(id, Alarm::LedUnderAnotherLog);
            return self.report(via, id, Report::NoInformation);
        }
        let report = match order {
            Order::Join { .. } | Order::PreAbort { .. } if mutant(Mutant::UnknownSiteSilent) => {
                Report::NoInformation
            }
            Order::Join { .. } | Order::PreAbort { .. } => {
                self.abort_unknown(id);
                Report::Unvoted
            }
            Order::Decided { committed: false } => {
                self.abort_unknown(id);
                Report::Acknowledged { committed: false }
            }
            // Nobody can have moved without this site's vote: it has been told, and has been permitted to
            // forget. So has everybody else, and whoever asks has only been late.
            Order::PreCommit { .. } => {
                mark(Mark::ThreeMoveOfForgotten);
                Report::NoInformation
            }
            // It has not been forgotten, so it has not voted, and nobody can have committed.
            Order::Decided { committed: true } if !self.is_past(id) => {
                mark(Mark::ThreeContradiction);
                self.alarm(id, Alarm::CommitOfUnprepared);
                Report::NoInformation
            }
            Order::Decided { committed: true } => {
                mark(Mark::ThreeDecidedOfForgotten);
                self.out.speaks_of(self.forgotten_at);
                Report::Acknowledged { committed: true }
            }
            Order::Forget => Report::Forgotten,
        };
        self.report(via, id, report);
    }

    /// A site that has never heard of the transaction has not voted, and never will from here on.
    pub(crate) fn abort_unknown(&mut self, id: TransactionId) {
        if !self.is_past(id) {
            mark(Mark::ThreeUnknownAborts);
            let at = self.force_abort(id);
            self.remember(id, Ending::Aborted, Some(at));
        } else {
            // Its PREPARE would be answered no by its number alone. That has to last as well.
            mark(Mark::ThreePassedAborts);
            self.speak_of_passed(id);
        }
    }

    /// An order to join or to move, for a branch that has not voted, or knows the decision.
    fn led_otherwise(&mut self, id: TransactionId, order: Order) -> Report {
        if let Some(Branch::Decided(decided)) = self.branches.get(&id) {
            let committed = decided.record.committed;
            self.out.speaks_of(decided.at);
            return Report::Known { committed };
        }
        let unvoted =
            matches!(self.branches.get(&id), Some(Branch::Session { .. } | Branch::Preparing(_)));
        if unvoted && matches!(order, Order::PreCommit { .. }) {
            mark(Mark::ThreeMoveOfUnvoted);
            self.alarm(id, Alarm::PreCommitOfUnvoted);
            return Report::NoInformation;
        }
        if unvoted {
            mark(Mark::ThreeInitialAborts);
        }
        match self.asked(id) {
            Inquired::Commit => Report::Known { committed: true },
            Inquired::Abort => Report::Known { committed: false },
            _ => Report::NoInformation,
        }
    }

    /// ABORT of the coordinator, which forgets it when everybody has it on the disk.
    pub(crate) fn abort_as_site(&mut self, now: Now, id: TransactionId, via: Via<W>) {
        match self.branches.get_mut(&id) {
            None => {
                self.abort_unknown(id);
                self.respond_aborted_to(via, id);
            }
            Some(Branch::Voted(_)) => self.decide(now, id, false, Learned::Told, Some(via), None),
            Some(Branch::Aborting(Finishing { before: Before::Voted(_), vias, .. })) => {
                wait_too(vias, via);
            }
            Some(Branch::Decided(decided)) if !decided.record.committed => {
                self.out.speaks_of(decided.at);
                self.respond_aborted_to(via, id);
            }
            Some(
                Branch::Session { .. }
                | Branch::Preparing(_)
                | Branch::Aborting(_)
                | Branch::Finished { ending: Ending::Aborted, .. },
            ) => {
                mark(Mark::ThreeAbortForcedHere);
                self.asked(id);
                self.respond_aborted_to(via, id);
            }
            Some(_) => {
                mark(Mark::ThreeContradiction);
                self.alarm(id, Alarm::AbortOfCommitted);
                self.respond_refused(via, id, Alarm::AbortOfCommitted.to_string());
            }
        }
    }

    // ---- leading --------------------------------------------------------------------------------

    /// A wait is over. The coordinator is asked first: while it answers PENDING, nobody's patience ends a
    /// transaction that is only slow. When it is silent, an election begins.
    pub(crate) fn voted_timer(&mut self, now: Now, id: TransactionId) {
        let Some(Branch::Voted(voted)) = self.branches.get_mut(&id) else {
            return;
        };
        let attempts = voted.attempts.saturating_add(1);
        voted.attempts = attempts;
        let standing = voted.seat.site.standing;
        let again = voted.seat.has_seen_election();
        let decides = match standing {
            Standing::PreCommitted => mutant(Mutant::DecidesOnTimeout),
            Standing::Waiting => mutant(Mutant::AbortsOnTimeout),
            Standing::PreAborted => false,
        };
        if decides && voted.unanswered {
            let committed = standing == Standing::PreCommitted;
            return self.decide(now, id, committed, Learned::Led, None, None);
        }
        if let Some(Progress::Moving(_)) = voted.seat.go_without_quorum() {
            self.write_voted(id);
            self.send_orders(id);
        } else if voted.seat.leads() {
            mark(Mark::ThreeWaits);
            let waiting_for = voted.waiting_for();
            self.note(Event::Blocked { id, waiting_for });
            self.send_orders(id);
        } else if !voted.unanswered {
            self.ask_coordinator(id);
        } else if voted.seat.elect() {
            voted.waits = Waits::ForBallot;
            let ballot = voted.seat.site.promised;
            // Two that lead in turn, without a quorum, hardly ever lead when a wait is over.
            let waiting_for = again.then(|| voted.waiting_for());
            self.write_voted(id);
            self.note(Event::Elects { id, ballot });
            if let Some(waiting_for) = waiting_for {
                mark(Mark::ThreeWaits);
                self.note(Event::Blocked { id, waiting_for });
            }
            self.send_orders(id);
        } else {
            mark(Mark::ThreeNoBallotLeft);
            voted.waits = Waits::ForOthers;
            let waiting_for = voted.waiting_for();
            self.note(Event::Blocked { id, waiting_for });
            self.ask_coordinator(id);
        }
        self.arm_election(now, id, attempts);
    }

    /// Waits double, and sites wait a little differently, so that two that lead against each other do not go
    /// on doing so.
    fn arm_election(&mut self, now: Now, id: TransactionId, attempts: u32) {
        let Some(Branch::Voted(voted)) = self.branches.get(&id) else {
            return;
        };
        let place = u64::from(voted.seat.own.0 % 8);
        let wait = self.backoff(self.config.inquire_after_us, attempts);
        let at = now.at.plus(wait + wait / 8 * place);
        self.out.timer(TimerKey::Transaction(id), Some(at));
    }

    /// Asks what became of the transaction; nothing but silence leads to an election.
    pub(crate) fn ask_coordinator(&mut self, id: TransactionId) {
        let Some(Branch::Voted(voted)) = self.branches.get_mut(&id) else {
            return;
        };
        mark(Mark::ThreeAsksCoordinator);
        voted.unanswered = true;
        let incarnation = voted.record.electorate.coordinator_incarnation;
        let before = voted.record.electorate.coordinator_endpoint.clone();
        let endpoint = self.coordinator_endpoint(id, before);
        self.out.act(Action::Inquire { id, incarnation, endpoint });
    }

    /// Where the coordinator was heard of last.
    fn coordinator_endpoint(&self, id: TransactionId, before: String) -> String {
        match self.slots.get(&id.slot()) {
            Some(seen) if !seen.endpoint.is_empty() => seen.endpoint.to_string(),
            _ => before,
        }
    }

    /// What the site that leads has to say, to those that have not answered it.
    fn send_orders(&mut self, id: TransactionId) {
        let Some(Branch::Voted(voted)) = self.branches.get(&id) else {
            return;
        };
        let electorate = voted.record.electorate.clone();
        self.out.speaks_of(voted.seat.at);
        let orders = voted.seat.orders(id, &electorate.sites);
        for (number, message) in orders {
            self.send_order(id, &electorate, number, message.order);
        }
    }

    pub(crate) fn send_order(
        &mut self,
        id: TransactionId,
        electorate: &Electorate,
        number: SiteNumber,
        order: Order,
    ) {
        let (to, mut endpoint, message) = electorate.address(id, number, order);
        if to == SiteName::Coordinator {
            if mutant(Mutant::CoordinatorNotTold) && matches!(order, Order::Decided { .. }) {
                return;
            }
            endpoint = self.coordinator_endpoint(id, endpoint);
        }
        self.out.act(Action::Lead { to, endpoint, message });
    }

    /// The answer of the coordinator to the question of a voting site.
    pub(crate) fn answered_site(&mut self, now: Now, id: TransactionId, outcome: Inquired) {
        let Some(Branch::Voted(voted)) = self.branches.get_mut(&id) else {
            return;
        };
        match outcome {
            Inquired::Commit | Inquired::Abort => {
                mark(Mark::ThreeAnswered);
                let committed = outcome == Inquired::Commit;
                self.decide(now, id, committed, Learned::Found, None, None);
            }
            Inquired::Pending | Inquired::Retry => {
                mark(Mark::ThreeAnsweredPending);
                voted.unanswered = false;
                voted.attempts = 0;
                voted.waits = Waits::ForCoordinator;
                self.arm_election(now, id, 0);
            }
            // It cannot help: the next wait ends in an election.
            Inquired::NotOwner | Inquired::NoInformation => mark(Mark::ThreeAnsweredNothing),
        }
    }

    /// What a site says to an order of ours.
    pub(crate) fn site_reported(&mut self, now: Now, from: &SiteName, message: FromSite) {
        let FromSite { id, report } = message;
        let Some(Branch::Voted(voted)) = self.branches.get_mut(&id) else {
            return self.reported_decided(id, from, report);
        };
        let electorate = &voted.record.electorate;
        let Some(number) = electorate.sites.number(from).filter(|number| *number != electorate.own)
        else {
            return mark(Mark::ThreeStranger);
        };
        let before = voted.seat.site.standing;
        match voted.seat.heard(&electorate.sites, number, report) {
            Progress::None => {}
            Progress::Moving(_) => {
                let standing = voted.seat.site.standing;
                voted.attempts = 0;
                self.write_voted(id);
                self.tell_of_move(id, before, standing);
                self.send_orders(id);
                self.arm_election(now, id, 0);
            }
            Progress::Decided(committed) => {
                self.decide(now, id, committed, Learned::Led, None, None);
            }
            Progress::Preempted => {
                let attempts = voted.attempts;
                voted.waits = Waits::ForBallot;
                self.arm_election(now, id, attempts);
            }
        }
    }

    // ---- the decision ---------------------------------------------------------------------------

    /// A voting site knows the decision: its resource carries it out, and then it is written.
    pub(crate) fn decide(
        &mut self,
        now: Now,
        id: TransactionId,
        committed: bool,
        learned: Learned,
        via: Option<Via<W>>,
        leader: Option<Via<W>>,
    ) {
        let Some(Branch::Voted(voted)) = self.branches.remove(&id) else {
            return;
        };
        self.out.timer(TimerKey::Transaction(id), None);
        let read_only = voted.record.read_only;
        let (at, delivery) = (voted.seat.at, Delivery::default());
        let told = Told { record: voted.record, at, delivery, learned };
        if learned == Learned::Led {
            // The others need not wait for what this site's resource takes its time for.
            self.note(Event::Terminated { id, committed });
            self.deliver_decision(id, &told, committed);
        }
        let finishing = Finishing {
            vias: via.into_iter().collect(),
            leaders: leader.into_iter().collect(),
            attempts: 0,
            at_work: true,
            before: Before::Voted(Box::new(told)),
            at: None,
        };
        if read_only {
            return self.settle(now, id, finishing, committed, Vec::new());
        }
        let (branch, call) = if committed {
            (Branch::Committing(finishing), ResourceCall::Commit)
        } else {
            (Branch::Aborting(finishing), ResourceCall::Abort)
        };
        self.branches.insert(id, branch);
        self.call(id, call);
    }

    /// Answers whoever leads.
    pub(crate) fn report(&mut self, via: Via<W>, id: TransactionId, report: Report) {
        self.out.act(Action::Report { via, message: FromSite { id, report } });
    }
}
