//! The coordinator's half: the first ballot is its own, and afterwards it is a voting site like the others.
//!
//! The laws here: nobody is told to move before the coordinator's own move is on its disk, with the client's
//! request (rule 2); the client is answered as soon as a quorum has moved (rule 4), for from then on no election
//! can find anything else, and what it is answered need not be on this disk; whoever asks a coordinator that has
//! not moved, or does not remember, makes it abort for good (rules 6 and 8).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::delivering::Delivering;
use super::leader::Delivery;
use super::seat::{NO_BALLOT_LEFT, Progress, Seat};
use super::sites::{SiteName, SiteNumber, Sites, Witness};
use super::view::SiteView;
use crate::id::{Incarnation, ParticipantName, TransactionId};
use crate::marks::{Mark, mark};
use crate::message::{FromSite, Order, Report, ToSite, Voting};
use crate::mutants::{Mutant, mutant};
use crate::record::{AbortCause, AbortReason, CoordinatorRecord, Ended, VotingCoordinator};
use crate::step::{Now, Position, Step};
use crate::two_phase::Coordinator;
use crate::two_phase::coordinator::transaction::{Asked, Phase, Transaction};
use crate::two_phase::coordinator::{Action, Alarm, Event, Outcome, Reply, Stored};
use crate::two_phase::participant::Via;

/// Everybody has voted prepared, and the coordinator is a voting site that does not know the decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct VotedAll {
    pub(crate) seat: Seat,
    pub(crate) sites: Sites,
    /// For people: they hold no resources.
    pub(crate) read_only: BTreeSet<ParticipantName>,
}

impl VotedAll {
    /// For people.
    pub(crate) fn view(&self) -> SiteView {
        SiteView::of(&self.seat, &self.sites)
    }
}

impl<W> Coordinator<W> {
    /// The witnesses of the transactions that are begun from now on.
    pub fn set_witnesses(&mut self, witnesses: Vec<Witness>) {
        self.witnesses = witnesses;
    }

    /// How many transactions of three-phase commit everybody has voted prepared for, and nobody has decided.
    #[must_use]
    pub fn voting(&self) -> usize {
        self.voting.len()
    }

    /// How many of those have not been ended within a first wait: a quorum is missing, or slow.
    #[must_use]
    pub fn waiting_for_quorum(&self) -> usize {
        let waits = |id: &&TransactionId| {
            self.transactions.get(id).is_some_and(|transaction| transaction.attempts > 0)
        };
        self.voting.iter().filter(waits).count()
    }

    /// Everything that has to be led or delivered again after a restart: each gets its first timer.
    pub fn resume(&mut self, now: Now) -> Step<CoordinatorRecord, Action<W>> {
        let ids: Vec<_> = self.transactions.keys().copied().collect();
        for id in ids {
            let Some(transaction) = self.transactions.get_mut(&id) else {
                continue;
            };
            if matches!(transaction.phase, Phase::Voted(_) | Phase::Delivering(_)) {
                transaction.resend_at = now.at;
                self.rearm(id);
            }
        }
        self.out.take()
    }

    /// Takes over a voting site that was found in the log. It has lost what it had heard: like any other it
    /// begins an election.
    pub(crate) fn restore_voting(&mut self, record: VotingCoordinator) {
        mark(Mark::ThreeRestoredVoting);
        let VotingCoordinator { id, site, sites, request, info, started_ms } = record;
        for (participant, _) in sites.participants() {
            self.link(participant).voting.insert(id);
        }
        if let Some(request) = &request
            && !mutant(Mutant::RestartForgetsRequest)
        {
            self.requests.insert(request.id.clone(), id);
        }
        let seat = Seat::new(SiteNumber::COORDINATOR, site, Position(0));
        let voted = VotedAll { seat, sites, read_only: BTreeSet::new() };
        let phase = Phase::Voted(Box::new(voted));
        let transaction = Transaction::found(phase, info, request, started_ms, 0);
        self.voting.insert(id);
        self.transactions.insert(id, transaction);
    }

    // ---- the votes ------------------------------------------------------------------------------

    /// Who votes; `None` while the log of some participant is not known. PREPARE names them all, so that a
    /// participant that loses its disk later cannot pass for one that has not voted.
    pub(crate) fn sites_of(&self, asked: &BTreeMap<ParticipantName, Asked>) -> Option<Sites> {
        let logs = asked.iter().map(|(name, asked)| Some((name.clone(), asked.enlisted?)));
        let logs = logs.collect::<Option<Vec<_>>>()?;
        Some(Sites::new(logs, self.witnesses.clone()))
    }

    /// What PREPARE says of the voting sites to one of them.
    pub(crate) fn voting_of(sites: &Sites, name: &ParticipantName) -> Option<Voting> {
        let own = sites.number(&SiteName::Participant(name.clone()))?;
        Some(Voting { sites: sites.clone(), own })
    }

    /// The log of a participant that has just connected, `None` when it is only called. Returns those of its
    /// transactions whose sites are known by that.
    pub(crate) fn log_known(
        &mut self,
        now: Now,
        name: &ParticipantName,
        incarnation: Option<Incarnation>,
    ) -> Vec<TransactionId> {
        let mut known = Vec::new();
        let waiting: Vec<_> = self.link(name).voting.iter().copied().collect();
        for id in waiting.into_iter().filter(|id| id.is_three_phase()) {
            let Some(Transaction { phase: Phase::Preparing { asked }, .. }) =
                self.transactions.get_mut(&id)
            else {
                continue;
            };
            let Some(branch) = asked.get_mut(name) else {
                continue;
            };
            match (branch.enlisted, incarnation) {
                (_, None) => self.abort_only_called(now, id, name.clone()),
                (None, Some(_)) => {
                    branch.enlisted = incarnation;
                    known.push(id);
                }
                (Some(before), Some(incarnation)) if before != incarnation => {
                    self.lost_its_log(now, name.clone(), id);
                }
                (Some(_), _) => {}
            }
        }
        known
    }

    /// There is no call that says JOIN, and whoever is only called need not keep ballots.
    pub(crate) fn abort_only_called(&mut self, now: Now, id: TransactionId, name: ParticipantName) {
        mark(Mark::ThreeOnlyCalled);
        let reason = AbortReason {
            cause: AbortCause::Unreachable,
            message: format!("{name} serves no sessions, and so cannot be a voting site"),
            participant: Some(name),
        };
        self.abort(now, id, reason);
    }

    /// Everybody has voted, and nobody has voted no: this site moves first, and then the others are told to.
    pub(crate) fn pre_commit(&mut self, now: Now, id: TransactionId) {
        let Some(Transaction { phase: Phase::Preparing { asked }, .. }) =
            self.transactions.get(&id)
        else {
            unreachable!("called when the votes of a preparing transaction are complete")
        };
        let Some(sites) = self.sites_of(asked) else {
            unreachable!("nobody is asked to vote before every participant's log is known")
        };
        let read_only = |branch: &&Asked| branch.vote.is_some_and(|vote| vote.read_only);
        let read_only =
            asked.iter().filter(|(_, branch)| read_only(branch)).map(|(name, _)| name.clone());
        let voted = VotedAll { seat: Seat::first(), read_only: read_only.collect(), sites };
        mark(Mark::ThreePreCommitted);
        for (participant, _) in voted.sites.participants() {
            self.links.entry(participant.clone()).or_default().voting.insert(id);
        }
        self.undecided.remove(&id);
        self.voting.insert(id);
        if let Some(transaction) = self.transactions.get_mut(&id) {
            transaction.phase = Phase::Voted(Box::new(voted));
        }
        self.write_voting(id);
        if mutant(Mutant::PreCommitNotForced) {
            self.out.ungate();
        }
        self.note(Event::PreCommitted { id });
        self.lead(id, None);
        self.wait_for_sites(now, id, 0);
    }

    /// The coordinator's record as a voting site, as it is now.
    fn write_voting(&mut self, id: TransactionId) {
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return;
        };
        let Phase::Voted(voted) = &mut transaction.phase else {
            return;
        };
        voted.seat.at = self.out.force(CoordinatorRecord::Voting(VotingCoordinator {
            id,
            site: voted.seat.site,
            sites: voted.sites.clone(),
            request: transaction.request.clone().filter(|_| !mutant(Mutant::RequestNotRecorded)),
            info: Arc::clone(&transaction.info),
            started_ms: transaction.started_ms,
        }));
    }

    /// Sends what the ballot that this site leads needs to those that have not answered; only to `to` when
    /// given.
    pub(crate) fn lead(&mut self, id: TransactionId, to: Option<&ParticipantName>) {
        let Some(Transaction { phase: Phase::Voted(voted), .. }) = self.transactions.get(&id)
        else {
            return;
        };
        if !mutant(Mutant::PreCommitNotForced) {
            self.out.speaks_of(voted.seat.at);
        }
        for (number, message) in voted.seat.orders(id, &voted.sites) {
            let name = voted.sites.name(number);
            let reachable = match &name {
                SiteName::Coordinator => false,
                SiteName::Participant(name) => {
                    to.is_none_or(|to| to == name)
                        && self.links.get(name).is_some_and(|link| link.connected)
                }
                SiteName::Witness(_) => to.is_none(),
            };
            if reachable {
                self.out.act(Action::Lead { to: name, message });
            }
        }
    }

    fn wait_for_sites(&mut self, now: Now, id: TransactionId, attempts: u32) {
        let wait = self.backoff(attempts);
        if let Some(transaction) = self.transactions.get_mut(&id) {
            transaction.attempts = attempts;
            transaction.resend_at = now.at.plus(wait);
        }
        self.rearm(id);
    }

    /// A wait is over: what was said is said again, or, when another site has taken the lead and come to no
    /// end, this one leads.
    pub(crate) fn voting_timer(&mut self, now: Now, id: TransactionId) {
        self.answer_waiters(now, id);
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return;
        };
        let attempts = transaction.attempts.saturating_add(1);
        let due = now.at >= transaction.resend_at;
        let Phase::Voted(voted) = &mut transaction.phase else {
            return;
        };
        if !due {
            return self.rearm(id);
        }
        let again = voted.seat.has_seen_election();
        if voted.seat.leads() {
            mark(Mark::ThreeLedAgain);
            let waiting_for = voted.seat.waiting_for(&voted.sites);
            self.note(Event::Waits { id, waiting_for });
        } else if !mutant(Mutant::CoordinatorStaysSilent) {
            if voted.seat.elect() {
                let ballot = voted.seat.site.promised;
                let waiting_for = again.then(|| voted.seat.waiting_for(&voted.sites));
                self.write_voting(id);
                self.note(Event::Elects { id, ballot });
                if let Some(waiting_for) = waiting_for {
                    self.note(Event::Waits { id, waiting_for });
                }
            } else {
                mark(Mark::ThreeNoBallotLeft);
                self.note(Event::Waits { id, waiting_for: NO_BALLOT_LEFT.to_owned() });
            }
        }
        self.lead(id, None);
        self.wait_for_sites(now, id, attempts);
    }

    // ---- answers of the sites -------------------------------------------------------------------

    /// What a site says to an order of ours.
    pub(crate) fn site_reported(&mut self, now: Now, from: &SiteName, message: FromSite) {
        let FromSite { id, report } = message;
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return mark(Mark::ThreeReportPassed);
        };
        let Phase::Voted(voted) = &mut transaction.phase else {
            return self.reported_delivered(now, id, from, report);
        };
        let Some(number) = voted.sites.number(from).filter(|number| *number != voted.seat.own)
        else {
            return mark(Mark::ThreeStranger);
        };
        match voted.seat.heard(&voted.sites, number, report) {
            Progress::None => {}
            Progress::Moving(_) => {
                self.write_voting(id);
                self.lead(id, None);
                self.wait_for_sites(now, id, 0);
            }
            Progress::Decided(committed) => self.decided_as_site(now, id, committed),
            Progress::Preempted => {
                let attempts = transaction.attempts;
                self.wait_for_sites(now, id, attempts);
            }
        }
    }

    /// A quorum has moved, or somebody knows. It is a fact already, whatever this disk does.
    pub(crate) fn decided_as_site(&mut self, now: Now, id: TransactionId, committed: bool) {
        let Some(Transaction { phase: Phase::Voted(voted), .. }) = self.transactions.get(&id)
        else {
            return;
        };
        let (sites, read_only) = (voted.sites.clone(), voted.read_only.clone());
        let outcome = if committed {
            Ok(())
        } else {
            let message = "ended by a quorum of its voting sites that the pre-commit had not \
                           reached in time";
            let (cause, message) = (AbortCause::Timeout, message.to_owned());
            Err(AbortReason { cause, participant: None, message })
        };
        mark(if committed { Mark::ThreeCommitted } else { Mark::ThreeAborted });
        let everybody = sites.participants().iter().map(|(name, _)| name.clone()).collect();
        let delivery = Delivery::default();
        let delivering = Delivering { outcome, sites, read_only, everybody, delivery };
        self.deliver_decision(now, id, delivering, false);
    }

    /// Rule 2: undecided votes end in an abort that is on the disk before anybody hears of it.
    pub(crate) fn abort_votes(&mut self, now: Now, id: TransactionId, reason: AbortReason) {
        let Some(Transaction { phase: Phase::Preparing { asked }, .. }) =
            self.transactions.get(&id)
        else {
            unreachable!("called for transactions that are being prepared")
        };
        mark(Mark::ThreeAbortForced);
        let everybody: Vec<_> = asked.keys().cloned().collect();
        let owed = asked.iter().filter(|(_, branch)| branch.owed);
        let owed: Vec<_> =
            owed.filter_map(|(name, branch)| Some((name.clone(), branch.enlisted?))).collect();
        // Nothing is owed to a site that was not asked: it has not voted, and never will. But it may have
        // a session that it need not wait with until its time is over.
        let in_session =
            |branch: &&Asked| !branch.owed && branch.vote.is_none() && branch.work.is_none();
        let in_session = asked.iter().filter(|(_, branch)| in_session(branch));
        let in_session: Vec<_> = in_session.map(|(name, _)| name.clone()).collect();
        for to in in_session {
            self.tell_of_abort(to, id);
        }
        if owed.is_empty() {
            return self.abort_unvoted(now, id, everybody, reason);
        }
        // Nobody has moved, so an election would end in the same way without a witness that knows. But whoever leads
        // one may ask it until the last participant has heard, and it has to be told to forget that in the end: told
        // of the abort before, it promises nothing any more that it would forget with the next message.
        let sites = Sites::new(owed, self.witnesses.clone());
        let delivery = Delivery::default();
        let outcome = Err(reason);
        let read_only = BTreeSet::new();
        let delivering = Delivering { outcome, sites, read_only, everybody, delivery };
        self.deliver_decision(now, id, delivering, true);
    }

    /// Nobody has been asked, or all who were have said no, and have that on their disks.
    fn abort_unvoted(
        &mut self,
        now: Now,
        id: TransactionId,
        participants: Vec<ParticipantName>,
        reason: AbortReason,
    ) {
        let Some(transaction) = self.remove(id) else {
            return;
        };
        self.out.force(CoordinatorRecord::Ended(Ended {
            id,
            outcome: Err(reason.clone()),
            request: transaction.request,
            participants,
            info: transaction.info,
            started_ms: transaction.started_ms,
            ended_ms: now.wall_ms,
            decision_logged: true,
        }));
        for waiter in transaction.waiters {
            let reply = Reply::Outcome(Outcome::aborted(id, reason.clone()));
            self.out.act(Action::Reply { to: waiter.to, reply });
        }
        self.note(Event::Aborted { id, reason });
    }

    // ---- being led ------------------------------------------------------------------------------

    /// An order of a site that leads. It is answered once, through `via`.
    pub(crate) fn led(
        &mut self,
        now: Now,
        from: SiteName,
        message: ToSite,
        stored: Option<Stored>,
        via: Via<W>,
    ) {
        let ToSite { id, incarnation, order } = message;
        if id.slot() != self.identity.slot || !id.is_three_phase() {
            let report = self.witness_led(&from, &message);
            return self.report(from, via, id, report);
        }
        // Before anything is looked up: another log has given the same ids to other transactions.
        if incarnation != self.identity.incarnation {
            mark(Mark::ThreeOfAnotherLog);
            self.site_alarm(id, &from, Alarm::ForeignLog);
            return self.report(from, via, id, Report::NoInformation);
        }
        let Some(transaction) = self.transactions.get_mut(&id) else {
            let report = self.led_unknown(now, &from, id, order, stored);
            return self.report(from, via, id, report);
        };
        let sites = match &transaction.phase {
            Phase::Voted(voted) => Some(&voted.sites),
            Phase::Delivering(delivering) => Some(&delivering.sites),
            _ => None,
        };
        if sites.is_some_and(|sites| sites.other(&from, SiteNumber::COORDINATOR).is_none()) {
            mark(Mark::ThreeStranger);
            return self.report(from, via, id, Report::NoInformation);
        }
        let report = match (&mut transaction.phase, order) {
            (Phase::Delivering(_), _) => self.led_delivering(now, &from, id, order),
            (Phase::Voted(_), Order::Decided { committed }) => {
                mark(Mark::ThreeToldByLeader);
                self.decided_as_site(now, id, committed);
                self.out.speaks_of(self.out.position());
                Report::Acknowledged { committed }
            }
            (Phase::Voted(_), Order::Forget) => Report::Forgotten,
            (Phase::Voted(_), _) => self.led_voting(now, &from, id, order),
            (
                Phase::Preparing { asked },
                Order::Join { .. } | Order::PreAbort { .. } | Order::Decided { committed: false },
            ) if matches!(&from, SiteName::Participant(name) if asked.contains_key(name)) => {
                mark(Mark::ThreeAskedWhilePreparing);
                let message = format!("{from} has waited too long for the other votes");
                let participant = match &from {
                    SiteName::Participant(name) => Some(name.clone()),
                    _ => None,
                };
                let reason = AbortReason { cause: AbortCause::Timeout, participant, message };
                self.abort(now, id, reason);
                match order {
                    Order::Decided { committed } => Report::Acknowledged { committed },
                    _ => Report::Known { committed: false },
                }
            }
            (Phase::Preparing { .. } | Phase::Active { .. }, Order::PreCommit { .. })
            | (
                Phase::Preparing { .. } | Phase::Active { .. },
                Order::Decided { committed: true },
            ) => {
                mark(Mark::ThreeContradiction);
                self.site_alarm(id, &from, Alarm::MovedWithoutCoordinator);
                Report::NoInformation
            }
            _ => {
                mark(Mark::ThreeStranger);
                Report::NoInformation
            }
        };
        self.report(from, via, id, report);
    }

    /// Joins, or moves, if no higher ballot has been joined.
    fn led_voting(&mut self, now: Now, from: &SiteName, id: TransactionId, order: Order) -> Report {
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return Report::NoInformation;
        };
        let Phase::Voted(voted) = &mut transaction.phase else {
            return Report::NoInformation;
        };
        // Nobody leads another site's ballot.
        if voted.sites.number(from) != order.ballot().map(super::Ballot::site) {
            mark(Mark::ThreeStranger);
            return Report::NoInformation;
        }
        let Some((anew, report)) = voted.seat.hear(order) else {
            return Report::NoInformation;
        };
        let at = voted.seat.at;
        let attempts = transaction.attempts;
        if anew {
            self.write_voting(id);
            if mutant(Mutant::PromiseNotForced) {
                self.out.ungate();
            }
            self.wait_for_sites(now, id, attempts);
        } else {
            self.out.speaks_of(at);
        }
        report
    }

    /// A transaction that is not in the table. What the log does not know either, nobody here has moved for,
    /// and never will: the epoch is in the id.
    fn led_unknown(
        &mut self,
        now: Now,
        from: &SiteName,
        id: TransactionId,
        order: Order,
        stored: Option<Stored>,
    ) -> Report {
        let known = match stored {
            Some(Stored::Committed { .. }) => Some(true),
            Some(Stored::Aborted) => Some(false),
            Some(Stored::Expired) | None => None,
        };
        match (order, known) {
            (Order::Forget, _) => Report::Forgotten,
            (Order::Decided { committed }, Some(known)) if committed == known => {
                mark(Mark::ThreeToldAgain);
                Report::Acknowledged { committed }
            }
            // Everybody had acknowledged it, a whole outcome window ago.
            (Order::Decided { committed }, None) if stored == Some(Stored::Expired) => {
                Report::Acknowledged { committed }
            }
            (Order::Decided { committed: false }, None) if !self.is_yet_to_be(id) => {
                self.abort_unremembered(now, id);
                Report::Acknowledged { committed: false }
            }
            (Order::Decided { .. }, _) => {
                mark(Mark::ThreeContradiction);
                self.site_alarm(id, from, Alarm::SitesDiffer);
                Report::NoInformation
            }
            (_, Some(committed)) => Report::Known { committed },
            (_, None) if self.is_yet_to_be(id) => {
                mark(Mark::ThreeYetToBe);
                Report::NoInformation
            }
            (Order::PreCommit { .. }, None) => {
                mark(Mark::ThreeMoveOfForgotten);
                Report::NoInformation
            }
            (_, None) => {
                if stored != Some(Stored::Expired) {
                    self.abort_unremembered(now, id);
                }
                Report::Unvoted
            }
        }
    }

    /// An id that has not been given out: whoever names it makes it up, or this disk was put back from a copy.
    pub(crate) fn is_yet_to_be(&self, id: TransactionId) -> bool {
        let epoch = self.identity.epoch;
        id.epoch() > epoch || id.epoch() == epoch && id.sequence() > self.begun
    }

    /// The coordinator has never moved, and somebody asks: it aborts, durably, and says so.
    pub(crate) fn abort_unremembered(&mut self, now: Now, id: TransactionId) {
        mark(Mark::ThreeCoordinatorInitial);
        let message = "the coordinator restarted before every vote was in".to_owned();
        let reason = AbortReason { cause: AbortCause::Presumed, participant: None, message };
        if mutant(Mutant::InitialNotForced) {
            return;
        }
        self.out.force(CoordinatorRecord::Ended(Ended {
            id,
            outcome: Err(reason),
            request: None,
            participants: Vec::new(),
            info: Arc::default(),
            started_ms: 0,
            ended_ms: now.wall_ms,
            decision_logged: true,
        }));
    }

    /// Answers whoever leads.
    fn report(&mut self, to: SiteName, via: Via<W>, id: TransactionId, report: Report) {
        self.out.act(Action::Report { to, via, message: FromSite { id, report } });
    }

    pub(crate) fn site_alarm(&mut self, id: TransactionId, from: &SiteName, alarm: Alarm) {
        // An alarm names who has caused it. The coordinator of another slot, which only a witness hears, has no name
        // of that kind: it is not obeyed either, and nothing is noted.
        match from {
            SiteName::Participant(name) | SiteName::Witness(name) => self.alarm(id, name, alarm),
            SiteName::Coordinator => {}
        }
    }
}
