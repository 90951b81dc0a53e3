//! After the decision, at the coordinator: told to every site, acknowledged by every site, and then forgotten.
//!
//! Commit and abort are delivered alike: a site that has moved knows nothing by itself. The coordinator's own
//! acknowledgement is its record on its disk, which comes back through the driver, so that a transaction is in
//! the table for as long as its log may not know the decision.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::leader::Delivery;
use super::sites::{SiteName, SiteNumber, Sites};
use crate::id::{Incarnation, ParticipantName, TransactionId};
use crate::marks::{Mark, mark};
use crate::message::{Order, Report, ToParticipant, ToSite};
use crate::mutants::{Mutant, mutant};
use crate::record::{AbortReason, CoordinatorRecord, Decision, Ended};
use crate::step::{Now, Position};
use crate::two_phase::Coordinator;
use crate::two_phase::coordinator::transaction::{Phase, Transaction};
use crate::two_phase::coordinator::{Action, Alarm, Event, Outcome, Reply};

/// A decision that not every site is known to have on its disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Delivering {
    pub(crate) outcome: Result<(), AbortReason>,
    /// Those who have to be told, and the coordinator.
    pub(crate) sites: Sites,
    /// For people: they hold no resources.
    pub(crate) read_only: BTreeSet<ParticipantName>,
    /// For people: all who took part.
    pub(crate) everybody: Vec<ParticipantName>,
    /// The coordinator acknowledges when the decision is on its own disk.
    pub(crate) delivery: Delivery,
}

impl Delivering {
    /// Whether the decision is on this disk.
    fn is_recorded(&self) -> bool {
        self.delivery.has_acknowledged(SiteNumber::COORDINATOR)
    }

    /// Participants that have not acknowledged.
    pub(crate) fn pending(&self) -> Vec<ParticipantName> {
        let silent = self.delivery.silent(&self.sites).into_iter();
        silent
            .filter_map(|number| match self.sites.name(number) {
                SiteName::Participant(name) => Some(name),
                SiteName::Coordinator | SiteName::Witness(_) => None,
            })
            .collect()
    }

    /// Witnesses that have not acknowledged.
    pub(crate) fn silent_witnesses(&self) -> Vec<SiteName> {
        let silent = self.delivery.silent(&self.sites).into_iter();
        silent
            .map(|number| self.sites.name(number))
            .filter(|name| matches!(name, SiteName::Witness(_)))
            .collect()
    }

    /// Whether this participant has to acknowledge.
    pub(crate) fn owes(&self, participant: &ParticipantName) -> bool {
        self.pending().contains(participant)
    }

    /// What a participant is told.
    pub(crate) fn command(&self, id: TransactionId, to: &ParticipantName) -> ToParticipant {
        let number = self.sites.number(&SiteName::Participant(to.clone()));
        let incarnation = number.map_or(Incarnation(0), |number| self.sites.incarnation(number));
        match &self.outcome {
            Ok(()) => ToParticipant::Commit { id, incarnation },
            Err(_) => ToParticipant::Abort { id },
        }
    }
}

impl<W> Coordinator<W> {
    /// Takes over a decision that was found in the log. It is delivered when its participants are connected.
    pub(crate) fn restore_decision(&mut self, decision: Decision) {
        mark(Mark::ThreeRestoredDecision);
        let Decision { id, outcome, sites, request, info, started_ms, decided_ms } = decision;
        let everybody: Vec<_> = sites.participants().iter().map(|(name, _)| name.clone()).collect();
        for participant in &everybody {
            if !mutant(Mutant::RestartForgetsDelivery) {
                self.link(participant).wait(id);
            }
        }
        if let Some(request) = &request
            && outcome.is_ok()
            && !mutant(Mutant::RestartForgetsRequest)
        {
            self.requests.insert(request.id.clone(), id);
        }
        let mut delivery = Delivery::default();
        delivery.acknowledged(SiteNumber::COORDINATOR);
        let read_only = BTreeSet::new();
        let delivering = Delivering { outcome, sites, read_only, everybody, delivery };
        let phase = Phase::Delivering(Box::new(delivering));
        let transaction = Transaction::found(phase, info, request, started_ms, decided_ms);
        self.transactions.insert(id, transaction);
    }

    /// Writes the decision and tells everybody. `first`: it is made by this record, and nobody may hear of it
    /// before; otherwise it is a fact already.
    pub(crate) fn deliver_decision(
        &mut self,
        now: Now,
        id: TransactionId,
        delivering: Delivering,
        first: bool,
    ) {
        let wait = self.backoff(0);
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return;
        };
        let outcome = delivering.outcome.clone();
        let participants = delivering.sites.participants().to_vec();
        let everybody = delivering.everybody.clone();
        transaction.phase = Phase::Delivering(Box::new(delivering));
        transaction.decided_ms = now.wall_ms;
        transaction.attempts = 0;
        transaction.resend_at = now.at.plus(wait);
        let request = transaction.request.as_ref().map(|request| request.id.clone());
        self.undecided.remove(&id);
        self.voting.remove(&id);
        for participant in everybody {
            self.link(&participant).voting.remove(&id);
        }
        if let Some(request) = request
            && outcome.is_err()
            && self.requests.get(&request) == Some(&id)
        {
            // It may be tried again, however long this attempt takes to be heard of everywhere.
            self.requests.remove(&request);
        }
        if let Some(decision) = self.decision(id, now.wall_ms) {
            let record = CoordinatorRecord::Decision(decision);
            let decided_at = if first { self.out.force(record) } else { self.out.hurry(record) };
            if let Some(transaction) = self.transactions.get_mut(&id) {
                transaction.decided_at = if first { decided_at } else { Position(0) };
            }
        }
        self.out.act_later(Action::Recorded { id });
        match outcome {
            Ok(()) => self.note(Event::Decided { id }),
            Err(reason) => self.note(Event::Aborted { id, reason }),
        }
        self.answer_waiters(now, id);
        for (participant, _) in participants {
            let window = self.config.delivery_window;
            let link = self.link(&participant);
            link.wait(id);
            let sent = link.send_more(window);
            self.send_commits(now, &participant, &sent);
        }
        self.tell_witnesses(id);
        self.rearm(id);
    }

    /// A record of the decision, with everybody who has to be told.
    fn decision(&self, id: TransactionId, decided_ms: u64) -> Option<Decision> {
        let transaction = self.transactions.get(&id)?;
        let Phase::Delivering(delivering) = &transaction.phase else {
            return None;
        };
        Some(Decision {
            id,
            outcome: delivering.outcome.clone(),
            sites: delivering.sites.clone(),
            request: transaction.request.clone().filter(|_| !mutant(Mutant::RequestNotRecorded)),
            info: Arc::clone(&transaction.info),
            started_ms: transaction.started_ms,
            decided_ms,
        })
    }

    /// The decision is on this disk: the coordinator has acknowledged it.
    pub(crate) fn recorded(&mut self, now: Now, id: TransactionId) {
        if let Some(Transaction { phase: Phase::Delivering(delivering), .. }) =
            self.transactions.get_mut(&id)
        {
            delivering.delivery.acknowledged(SiteNumber::COORDINATOR);
            self.end_if_complete(now, id);
        }
    }

    fn tell_witnesses(&mut self, id: TransactionId) {
        let Some(transaction) = self.transactions.get(&id) else {
            return;
        };
        let Phase::Delivering(delivering) = &transaction.phase else {
            return;
        };
        self.out.speaks_of(transaction.decided_at);
        let order = Order::Decided { committed: delivering.outcome.is_ok() };
        for to in delivering.silent_witnesses() {
            let message = ToSite { id, incarnation: Incarnation(0), order };
            self.out.act(Action::Lead { to, message });
        }
    }

    /// A wait is over: witnesses that have not acknowledged are told again. (Participants are by their links.)
    pub(crate) fn delivering_timer(&mut self, now: Now, id: TransactionId) {
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return;
        };
        if now.at >= transaction.resend_at {
            transaction.attempts = transaction.attempts.saturating_add(1);
            let attempts = transaction.attempts;
            let wait = self.backoff(attempts);
            if let Some(transaction) = self.transactions.get_mut(&id) {
                transaction.resend_at = now.at.plus(wait);
            }
            self.tell_witnesses(id);
        }
        self.answer_waiters(now, id);
        self.rearm(id);
    }

    /// True, with an alarm, when a site says that the decision is the other one than it is told: that is no
    /// acknowledgement, and it is told again.
    pub(crate) fn differs(&mut self, id: TransactionId, from: &SiteName, committed: bool) -> bool {
        let Some(Transaction { phase: Phase::Delivering(delivering), .. }) =
            self.transactions.get(&id)
        else {
            return false;
        };
        let differs = delivering.outcome.is_ok() != committed;
        if differs {
            mark(Mark::ThreeContradiction);
            self.site_alarm(id, from, Alarm::SitesDiffer);
        }
        differs
    }

    /// A participant has the decision on its disk. It may have been told by an earlier process, which did not
    /// live to write it here: then this is how the decision is learned.
    pub(crate) fn participant_has_it(
        &mut self,
        now: Now,
        from: &ParticipantName,
        id: TransactionId,
        committed: bool,
    ) {
        let from = SiteName::Participant(from.clone());
        if let Some(Transaction { phase: Phase::Voted(voted), .. }) = self.transactions.get(&id)
            && voted.sites.number(&from).is_some()
        {
            mark(Mark::ThreeLearnedFromAcknowledgement);
            self.decided_as_site(now, id, committed);
        }
        self.site_has_it(now, &from, id, committed);
    }

    fn site_has_it(&mut self, now: Now, from: &SiteName, id: TransactionId, committed: bool) {
        if self.differs(id, from, committed) {
            return;
        }
        let Some(Transaction { phase: Phase::Delivering(delivering), .. }) =
            self.transactions.get_mut(&id)
        else {
            return;
        };
        let Some(number) = delivering.sites.number(from) else {
            return;
        };
        let first = delivering.delivery.silent(&delivering.sites).contains(&number);
        delivering.delivery.acknowledged(number);
        if !first {
            return mark(Mark::AcknowledgedAgain);
        }
        mark(Mark::ThreeAcknowledged);
        if let (SiteName::Participant(participant), true) = (from, committed) {
            self.note(Event::Acknowledged { id, participant: participant.clone() });
        }
        self.answer_waiters(now, id);
        self.end_if_complete(now, id);
    }

    /// A report to an order that is answered by now.
    pub(crate) fn reported_delivered(
        &mut self,
        now: Now,
        id: TransactionId,
        from: &SiteName,
        report: Report,
    ) {
        match report {
            Report::Acknowledged { committed } => self.site_has_it(now, from, id, committed),
            Report::Known { committed } => {
                self.differs(id, from, committed);
            }
            _ => mark(Mark::ThreeReportPassed),
        }
    }

    /// An order of a leader that has not heard of the decision, or has not heard that everybody has.
    pub(crate) fn led_delivering(
        &mut self,
        now: Now,
        from: &SiteName,
        id: TransactionId,
        order: Order,
    ) -> Report {
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return Report::NoInformation;
        };
        let decided_at = transaction.decided_at;
        let Phase::Delivering(delivering) = &mut transaction.phase else {
            return Report::NoInformation;
        };
        let committed = delivering.outcome.is_ok();
        match order {
            Order::Decided { committed: other } if other != committed => {
                mark(Mark::ThreeContradiction);
                self.site_alarm(id, from, Alarm::SitesDiffer);
                Report::NoInformation
            }
            Order::Decided { .. } => {
                mark(Mark::ThreeToldAgain);
                if !delivering.is_recorded() {
                    // It was written in an earlier step, which is not far behind.
                    self.out.speaks_of(self.out.position());
                }
                Report::Acknowledged { committed }
            }
            Order::Forget => {
                // Whoever says so has heard of everybody. What this disk has comes back through the driver.
                mark(Mark::ThreeReleasedByOther);
                for number in delivering.sites.numbers() {
                    if number != SiteNumber::COORDINATOR {
                        delivering.delivery.acknowledged(number);
                    }
                }
                self.answer_waiters(now, id);
                self.end_if_complete(now, id);
                Report::Forgotten
            }
            Order::Join { .. } | Order::PreCommit { .. } | Order::PreAbort { .. } => {
                self.out.speaks_of(decided_at);
                Report::Known { committed }
            }
        }
    }

    /// Every site has it on its disk, this one as well: nobody will ask any more, and all may forget.
    fn end_if_complete(&mut self, now: Now, id: TransactionId) {
        let complete = match self.transactions.get(&id).map(|transaction| &transaction.phase) {
            Some(Phase::Delivering(delivering)) => {
                delivering.is_recorded() && delivering.delivery.silent(&delivering.sites).is_empty()
            }
            _ => false,
        };
        if !complete {
            return;
        }
        let Some(transaction) = self.remove(id) else {
            return;
        };
        let Phase::Delivering(delivering) = transaction.phase else {
            unreachable!("looked at above")
        };
        mark(Mark::ThreeReleases);
        let committed = delivering.outcome.is_ok();
        self.out.lazily(CoordinatorRecord::Ended(Ended {
            id,
            outcome: delivering.outcome,
            request: transaction.request,
            participants: delivering.everybody,
            info: transaction.info,
            started_ms: transaction.started_ms,
            ended_ms: now.wall_ms,
            decision_logged: true,
        }));
        let window = self.config.delivery_window;
        for (to, _) in delivering.sites.participants() {
            let link = self.link(to);
            link.acknowledged(id);
            let connected = link.connected;
            // Another site may have said that it has it: nobody else makes room in the window then.
            let more = link.send_more(window);
            if connected {
                let to = to.clone();
                self.out.act(Action::Send { to, message: ToParticipant::Forget { id } });
            }
            self.send_commits(now, to, &more);
        }
        for witness in delivering.sites.witnesses() {
            let to = SiteName::Witness(witness.name.clone());
            let message = ToSite { id, incarnation: Incarnation(0), order: Order::Forget };
            self.out.act(Action::Lead { to, message });
        }
        if committed {
            self.note(Event::Ended { id });
        }
    }

    /// Answers the callers of a decided transaction whose moment has come.
    pub(crate) fn answer_decided(&mut self, now: Now, id: TransactionId) {
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return;
        };
        let Phase::Delivering(delivering) = &transaction.phase else {
            return;
        };
        let (waiters, pending) = (std::mem::take(&mut transaction.waiters), delivering.pending());
        let all_told = delivering.outcome.is_err() || pending.is_empty();
        let (ready, waiting): (Vec<_>, Vec<_>) = waiters
            .into_iter()
            .partition(|waiter| all_told || waiter.is_content() || now.at >= waiter.until);
        transaction.waiters = waiting;
        if ready.is_empty() {
            return;
        }
        self.out.speaks_of(transaction.decided_at);
        for waiter in ready {
            let outcome = match &delivering.outcome {
                Err(reason) => Outcome::aborted(id, reason.clone()),
                Ok(()) => {
                    mark(Mark::ThreeClientTold);
                    let mut outcome = Outcome::committed(id, transaction.restored);
                    outcome.pending.clone_from(&pending);
                    outcome.results = transaction.results.clone().into_iter().collect();
                    outcome
                }
            };
            self.out.act(Action::Reply { to: waiter.to, reply: Reply::Outcome(outcome) });
        }
    }
}
