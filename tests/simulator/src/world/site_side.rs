//! Voting sites of three-phase commit: what they say to each other, over sessions and by calls of their own, and
//! the processes that are witnesses.

use handfast_commit_core::id::TransactionId;
use handfast_commit_core::message::{FromSite, Order, Report, ToSite};
use handfast_commit_core::three_phase::SiteName;
use handfast_commit_core::two_phase::coordinator::{Action, Input as CoordinatorInput};
use handfast_commit_core::two_phase::participant::{Input, Origin, Via};
use handfast_coordinator::shard::{ShardAction, ShardInput};
use handfast_participant::simulation::Waiter;
use handfast_runtime::site_service::ReportTo;
use tokio::sync::mpsc::error::TryRecvError;

use super::World;
use super::voting_disks::OnDisk;
use crate::coordinator::{name, take_unreadable, witness_name};
use crate::event::{Event, Letter, Life, Site};
use crate::faults::Fault;

impl World {
    /// As voting sites know each other.
    fn site_name(site: Site) -> SiteName {
        match site {
            Site::Coordinator => SiteName::Coordinator,
            Site::Participant(index) => SiteName::Participant(name(index)),
            Site::Witness(index) => SiteName::Witness(witness_name(index)),
        }
    }

    pub(crate) fn site_named(&self, name: &SiteName) -> Option<Site> {
        match name {
            SiteName::Coordinator => Some(Site::Coordinator),
            SiteName::Participant(name) => self.names.get(name).copied().map(Site::Participant),
            SiteName::Witness(name) => (0..self.swarm.witnesses)
                .find(|index| witness_name(*index) == *name)
                .map(Site::Witness),
        }
    }

    // ---- who leads --------------------------------------------------------------------------------

    /// A site leads, by a call.
    pub(crate) fn lead(&mut self, from: Site, to: &SiteName, message: ToSite) {
        self.check_order(from, message);
        let life = self.life(from);
        if let Some(to) = self.site_named(to) {
            self.post(Letter::Order { from, life, to, message });
        }
    }

    /// The coordinator leads: its participants over their sessions, its witnesses by calls.
    pub(crate) fn coordinator_leads(&mut self, to: &SiteName, message: ToSite) {
        let Some(Site::Participant(index)) = self.site_named(to) else {
            return self.lead(Site::Coordinator, to, message);
        };
        self.check_order(Site::Coordinator, message);
        let Some(running) = &self.coordinator.running else { return };
        let link = &running.links[index];
        if link.connected && !self.swarm.unary[index] {
            let (session, origin) = (link.session, running.origin());
            self.post(Letter::DownOrder { to: index, session, origin, message });
        }
    }

    /// Whoever begins an election is a good victim: the next one has to clear up behind it.
    pub(crate) fn elects(&mut self, site: Site) {
        if self.random.chance(self.rates.leader_killed) {
            let at = self.now + self.random.below(4 * self.swarm.delay_us.1);
            self.agenda.plan(at, Event::LeaderKilled(site, self.life(site)));
        }
    }

    /// The coordinator tells a decision while that is on its way to its disk: another good moment, when it has been
    /// heard of and has not arrived there.
    pub(crate) fn decides(&mut self) {
        if self.random.chance(self.rates.leader_killed / 8) {
            let at = self.now + self.random.between(1, 3 * self.swarm.delay_us.1);
            let site = Site::Coordinator;
            self.agenda.plan(at, Event::LeaderKilled(site, self.life(site)));
            self.slow_until = at + 1;
        }
    }

    /// An order leaves: its leader has on its disk what it says.
    fn check_order(&mut self, from: Site, ToSite { id, order, .. }: ToSite) {
        let on_disk = self.on_disk(from, id);
        // One batch may hold all that follows, up to the end that is forgotten.
        let ended = self.decisions.contains_key(&id);
        let wrong = match (order.ballot(), &on_disk) {
            (Some(ballot), OnDisk::Undecided(site, _)) => site.promised < ballot,
            (Some(_), OnDisk::Nothing) => !ended,
            _ => false,
        };
        if wrong && !self.oracle.excused {
            let what = format!("{from:?} says {order:?}, and its disk says {on_disk:?}");
            self.oracle.violated(Some(id), what);
        }
        match order {
            Order::Forget => self.may_be_forgotten(id),
            Order::Decided { committed } => self.told_decision(id, committed),
            _ => {}
        }
    }

    /// Somebody is told a decision: nobody has ever been told the other one.
    fn told_decision(&mut self, id: TransactionId, committed: bool) {
        if self.oracle.excused {
            return;
        }
        let before = *self.decisions.entry(id).or_insert(committed);
        if before != committed {
            self.oracle.violated(Some(id), "sites are told two decisions");
        }
    }

    // ---- who is led -------------------------------------------------------------------------------

    /// A report leaves: it speaks of what is on the disk.
    pub(crate) fn reports(&mut self, from: Site, FromSite { id, report }: FromSite) {
        let on_disk = self.on_disk(from, id);
        let wrong = match (report, &on_disk) {
            (Report::Joined { ballot, .. }, OnDisk::Undecided(site, _)) => site.promised < ballot,
            (Report::Moved { ballot }, OnDisk::Undecided(site, _)) => site.accepted < ballot,
            (Report::Joined { .. } | Report::Moved { .. }, OnDisk::Nothing) => {
                !self.decisions.contains_key(&id)
            }
            // What comes late to a witness leaves a record there that means nothing.
            (Report::Acknowledged { .. } | Report::Unvoted, OnDisk::Undecided(..)) => {
                !matches!(from, Site::Witness(_))
            }
            (Report::Acknowledged { committed }, OnDisk::Decided { committed: kept }) => {
                committed != *kept
            }
            // One that may forget says that it has not voted: nobody is left whom that could mislead.
            _ => false,
        };
        if wrong && !self.oracle.excused {
            let what = format!("{from:?} reports {report:?}, and its disk says {on_disk:?}");
            self.oracle.violated(Some(id), what);
        }
    }

    pub(crate) fn participant_reports(
        &mut self,
        index: usize,
        via: Via<Waiter>,
        message: FromSite,
    ) {
        self.reports(Site::Participant(index), message);
        match via {
            Via::Link => {
                let running = self.participants[index].running.as_ref();
                if let Some((_, session)) = running.and_then(|running| running.session) {
                    self.post(Letter::UpReport { from: index, session, message });
                }
            }
            Via::Call(Waiter::Site(leader)) => leader.send(message),
            Via::Call(_) => {}
        }
    }

    pub(crate) fn ordered_over_session(
        &mut self,
        index: usize,
        session: u64,
        origin: Origin,
        message: ToSite,
    ) {
        let now = self.participant_now(index);
        let Some(running) = &mut self.participants[index].running else { return };
        if running.session != Some((origin.epoch, session)) {
            let soon = self.now + self.swarm.delay_us.1;
            return self.agenda.plan(soon, Event::Broken(index, session));
        }
        running.input(now, Input::Heard { origin, opened: false });
        let from = SiteName::Coordinator;
        running.input(now, Input::Led { from, message, via: Via::Link });
        self.settle(Site::Participant(index));
    }

    /// An order arrives by a call.
    pub(crate) fn ordered(&mut self, from: Site, life: Life, to: Site, message: ToSite) {
        let leader = Self::site_name(from);
        match to {
            Site::Participant(index) => {
                let now = self.participant_now(index);
                let Some(running) = &mut self.participants[index].running else { return };
                let (report_to, reports) = ReportTo::channel();
                running.led.push((from, life, reports));
                let via = Via::Call(Waiter::Site(report_to));
                running.input(now, Input::Led { from: leader, message, via });
            }
            Site::Coordinator | Site::Witness(_) => {
                let now = self.coordinating(to).clock.now(self.now);
                let Some(running) = &mut self.coordinating_mut(to).running else { return };
                let reports = running.report_to(from, life);
                let shard = running.sequences.shard_of(message.id);
                running.input(shard, now, ShardInput::Led { from: leader, message, to: reports });
            }
        }
        self.settle(to);
    }

    /// Sends the reports that are ready to those that lead.
    pub(crate) fn answer_leaders(&mut self, site: Site) {
        let led = match site {
            Site::Participant(index) => {
                self.participants[index].running.as_mut().map(|running| &mut running.led)
            }
            Site::Coordinator | Site::Witness(_) => {
                self.coordinating_mut(site).running.as_mut().map(|running| &mut running.led)
            }
        };
        let Some(led) = led else { return };
        let mut letters = Vec::new();
        led.retain_mut(|(leader, life, reports)| match reports.try_recv() {
            Ok(message) => {
                letters.push(Letter::Report { to: *leader, life: *life, from: site, message });
                false
            }
            Err(TryRecvError::Empty) => true,
            Err(TryRecvError::Disconnected) => false,
        });
        for letter in letters {
            self.post(letter);
        }
    }

    // ---- what comes back --------------------------------------------------------------------------

    pub(crate) fn reported_over_session(&mut self, from: usize, session: u64, message: FromSite) {
        if self.has_session(from, session) {
            let shard = self.shard_of(message.id);
            let from = SiteName::Participant(name(from));
            let input = CoordinatorInput::Reported { from, message };
            self.coordinator_input(shard, ShardInput::Core(input));
            self.settle(Site::Coordinator);
        }
    }

    pub(crate) fn reported(&mut self, to: Site, life: Life, from: Site, message: FromSite) {
        if !self.is_alive(to, life) {
            return;
        }
        let from = Self::site_name(from);
        match to {
            Site::Participant(index) => {
                self.participant_input(index, Input::Reported { from, message });
            }
            Site::Coordinator => {
                let shard = self.shard_of(message.id);
                let input = CoordinatorInput::Reported { from, message };
                self.coordinator_input(shard, ShardInput::Core(input));
            }
            // It leads nothing.
            Site::Witness(_) => {}
        }
        self.settle(to);
    }

    // ---- witnesses --------------------------------------------------------------------------------

    pub(crate) fn settle_witness(&mut self, index: usize) {
        let site = Site::Witness(index);
        loop {
            let Some(running) = &self.witnesses[index].running else { return };
            let actions = running.outbox.take();
            if actions.is_empty() {
                break;
            }
            for action in actions {
                match action {
                    ShardAction::Core(Action::Report { via, message, .. }) => {
                        self.reports(site, message);
                        if let Via::Call(to) = via {
                            to.report(message);
                        }
                    }
                    ShardAction::Durable(tell) => drop(tell.send(())),
                    ShardAction::Core(_) | ShardAction::Watched(..) => {}
                }
            }
        }
        if take_unreadable() {
            return self.kill(site, Fault::WitnessCrash);
        }
        self.answer_leaders(site);
    }
}
