//! Three-phase commit in the model: who leads, what sites say to each other, and what must be true of that.
//!
//! An election takes a ballot above all others, and there is no end of ballots: elections have a budget, for each
//! process its own. What asks the coordinator first, as a driver's timer does, is done in the same step: the
//! question is one that can be asked at any time.

use handfast_commit_core::id::TransactionId;
use handfast_commit_core::message::{FromSite, Order, Report, ToSite};
use handfast_commit_core::record::{CoordinatorRecord, ParticipantRecord, WitnessState};
use handfast_commit_core::step::Time;
use handfast_commit_core::three_phase::{Ballot, Site, SiteName, Standing};
use handfast_commit_core::two_phase::coordinator::PhaseView;
use handfast_commit_core::two_phase::participant::{Input, Via};

use crate::action::Action;
use crate::log::Key;
use crate::marks::Mark;
use crate::network::{Body, Who};
use crate::state::{Caller, Fact, ParticipantHost, State};
use crate::world::{Run, World};

impl ParticipantHost {
    fn is_open(&self, id: TransactionId) -> bool {
        let core = self.core.as_ref();
        core.is_some_and(|core| core.open_branches().any(|open| open.id == id))
    }

    fn leads(&self, id: TransactionId) -> bool {
        let core = self.core.as_ref();
        core.is_some_and(|core| {
            let mut sites = core.open_branches().filter(|open| open.id == id);
            sites.any(|open| open.site.is_some_and(|site| site.wanted > 0))
        })
    }

    /// Nothing more is to be seen by a timer of a decided branch: whoever has led has told everybody, and what
    /// was said can be delivered for ever. An undecided one leads, if it may; one that leads must not take the
    /// silence of the others for anything.
    pub(crate) fn may_run_out(&self, id: TransactionId) -> bool {
        !id.is_three_phase()
            || self.is_open(id) && (self.elections > 0 || self.leads(id))
            || self.timers.contains(&id) && !self.is_open(id) && !self.is_decided(id)
    }

    fn is_decided(&self, id: TransactionId) -> bool {
        let records = self.log.durable.values().chain(&self.log.pending);
        let mut decided = records.filter(|entry| match &entry.record {
            ParticipantRecord::Decided(branch) => branch.id == id,
            _ => false,
        });
        decided.next().is_some()
    }
}

impl World {
    /// As the voting sites know each other.
    pub(crate) fn site(&self, who: Who) -> SiteName {
        match who {
            Who::C => SiteName::Coordinator,
            Who::P(number) => SiteName::Participant(self.names[number].clone()),
            Who::W(number) => SiteName::Witness(self.witnesses[number].name.clone()),
        }
    }

    fn who(&self, site: &SiteName) -> Who {
        match site {
            SiteName::Coordinator => Who::C,
            SiteName::Participant(name) => Who::P(self.number(name)),
            SiteName::Witness(name) => {
                let number = self.witnesses.iter().position(|witness| witness.name == *name);
                Who::W(number.unwrap_or(usize::MAX))
            }
        }
    }

    /// Who leads this ballot. Witnesses lead none.
    fn leader_of(&self, ballot: Ballot) -> Who {
        match usize::from(ballot.site().0).checked_sub(1) {
            None => Who::C,
            Some(index) => Who::P(index.min(self.names.len() - 1)),
        }
    }

    /// Whether the coordinator's timer may run out for an election; `None` when it is about something else.
    pub(crate) fn coordinator_may_lead(&self, state: &State, id: TransactionId) -> Option<bool> {
        let core = state.coordinator.get().core.as_ref()?;
        let view = core.view(id).filter(|_| id.is_three_phase())?;
        match view.phase {
            PhaseView::PreCommitted => {
                let leads = view.site.is_some_and(|site| site.wanted > 0);
                Some(!leads && state.budget.elections > 0)
            }
            PhaseView::Committing | PhaseView::Aborting => Some(false),
            _ => None,
        }
    }

    /// How many of the voting sites decide: a majority.
    fn quorum(&self) -> usize {
        (1 + self.names.len() + self.witnesses.len()) / 2 + 1
    }
}

/// At rest, somebody is in doubt who has no election left: that is the budget's doing. Nobody is excused who leads
/// and waits, though all who are there can be heard, or who could still lead.
pub(crate) fn is_excused(world: &World, state: &State) -> bool {
    let Some(&id) = state.client.attempts.first().filter(|id| id.is_three_phase()) else {
        return false;
    };
    let coordinator = state.coordinator.get();
    let others = state.participants.len() + state.witnesses.len();
    let there = usize::from(coordinator.core.is_some()) + others;
    let enough = there >= world.quorum();
    let voting = coordinator.core.as_ref().is_some_and(|core| core.voting() > 0);
    let coordinator_waits = voting && world.coordinator_may_lead(state, id) != Some(false);
    let coordinator_leads = voting && state.budget.elections > 0;
    let mut in_doubt = voting;
    let mut wrongly = enough && (coordinator_waits || coordinator_leads);
    for host in &state.participants {
        let host = host.get();
        if host.is_open(id) {
            in_doubt = true;
            wrongly |= enough && (host.leads(id) || host.elections > 0);
        }
    }
    in_doubt && !wrongly
}

/// What a site's disk says of a transaction.
enum OnDisk {
    Nothing,
    Undecided(Site),
    Decided { committed: bool },
}

impl State {
    fn on_disk(&self, who: Who, id: TransactionId) -> OnDisk {
        let key = Key::Transaction(id);
        let decided = |committed: bool| OnDisk::Decided { committed };
        match who {
            Who::C => match self.coordinator.get().log.durable.get(&key) {
                Some(CoordinatorRecord::Voting(voting)) => OnDisk::Undecided(voting.site),
                Some(CoordinatorRecord::Decision(decision)) => decided(decision.outcome.is_ok()),
                Some(CoordinatorRecord::Ended(ended)) => decided(ended.outcome.is_ok()),
                _ => OnDisk::Nothing,
            },
            Who::P(number) => {
                let log = &self.participants[number].get().log;
                match log.durable.get(&key).map(|entry| &entry.record) {
                    Some(ParticipantRecord::Voted(branch)) => OnDisk::Undecided(branch.site),
                    Some(ParticipantRecord::Decided(branch)) => decided(branch.committed),
                    Some(ParticipantRecord::Finished { committed, .. }) => decided(*committed),
                    _ => OnDisk::Nothing,
                }
            }
            Who::W(number) => match self.witnesses[number].get().log.durable.get(&key) {
                Some(CoordinatorRecord::Witness(witness)) => match witness.state {
                    WitnessState::Undecided(site) => OnDisk::Undecided(site),
                    WitnessState::Decided { committed } => decided(committed),
                },
                _ => OnDisk::Nothing,
            },
        }
    }

    fn is_decided_on_disk(&self, who: Who, id: TransactionId) -> bool {
        matches!(self.on_disk(who, id), OnDisk::Decided { .. })
    }

    /// The ballot that a site leads.
    fn leads(&self, who: Who, id: TransactionId) -> Option<Ballot> {
        let site = match who {
            Who::C => self.coordinator.get().core.as_ref()?.view(id)?.site,
            Who::P(number) => {
                let mut open = self.participants[number].get().core.as_ref()?.open_branches();
                open.find(|open| open.id == id)?.site
            }
            Who::W(_) => None,
        };
        site?.leads
    }

    fn sites(&self) -> impl Iterator<Item = Who> + use<> {
        let (participants, witnesses) = (self.participants.len(), self.witnesses.len());
        let participants = (0..participants).map(Who::P);
        [Who::C].into_iter().chain(participants).chain((0..witnesses).map(Who::W))
    }
}

impl Run<'_> {
    /// From whoever leads to a voting site.
    pub(crate) fn order(&mut self, from: Who, to: SiteName, message: ToSite) {
        let to = self.world.who(&to);
        match message.order {
            Order::Forget => self.may_be_forgotten(message.id),
            Order::Decided { committed } => self.claim_told(message.id, committed),
            _ => {}
        }
        self.post(from, to, Body::Order(message));
    }

    /// From a voting site to whoever leads.
    pub(crate) fn report(&mut self, from: Who, via: Via<Caller>, message: FromSite) {
        match message.report {
            Report::Refused { .. } => self.mark(Mark::Refused),
            Report::Unvoted => self.mark(Mark::Unvoted),
            Report::Acknowledged { .. } if from == Who::C => self.mark(Mark::ToldByLeader),
            // The leader does not wait for it.
            Report::Forgotten | Report::NoInformation => return,
            _ => {}
        }
        match via {
            Via::Call(Caller::Leader(to)) => self.post(from, to, Body::Report(message)),
            _ => self.post(from, Who::C, Body::Report(message)),
        }
    }

    fn claim_told(&mut self, id: TransactionId, committed: bool) {
        let fact = match committed {
            true => Fact { commit_sent: true, ..Fact::default() },
            false => Fact { abort_sent: true, ..Fact::default() },
        };
        self.claim(id, fact);
    }

    // ---- elections ------------------------------------------------------------------------------

    /// A branch in doubt asks its coordinator what became of it: nothing but a message comes of that.
    pub(crate) fn ask_again(&mut self, number: usize, id: TransactionId) {
        if !id.is_three_phase() {
            return self.participant_timer(number, id);
        }
        let host = self.state.participants[number].get();
        if !host.leads(id) && host.timers.contains(&id) {
            self.step_participant(number, Time(2), Input::Timer(id));
        }
    }

    /// Its patience has ended: it asks, hears nothing, and leads.
    pub(crate) fn lead(&mut self, number: usize, id: TransactionId) {
        let before = self.state.participants[number].get().elections;
        for _ in 0..2 {
            self.step_participant(number, Time(2), Input::Timer(id));
            if self.state.participants[number].get().elections < before {
                return;
            }
        }
    }

    pub(crate) fn participant_elects(&mut self, number: usize) {
        self.mark(Mark::Led);
        let host = self.state.participants[number].change();
        match host.elections.checked_sub(1) {
            Some(left) => host.elections = left,
            None => self.forbidden = true,
        }
    }

    pub(crate) fn coordinator_elects(&mut self) {
        self.mark(Mark::CoordinatorLed);
        match self.state.budget.elections.checked_sub(1) {
            Some(left) => self.state.budget.elections = left,
            None => self.forbidden = true,
        }
    }

    pub(crate) fn terminated(&mut self, id: TransactionId, committed: bool) {
        self.mark(if committed { Mark::LedToCommit } else { Mark::LedToAbort });
        self.claim_told(id, committed);
    }

    /// Everybody votes prepared, and the coordinator moves, before anything else happens.
    pub(crate) fn collect_votes(&mut self) {
        loop {
            let state = &self.state;
            let message = state.bag.keys().find(|key| {
                state.bag.get(*key).is_some_and(|envelope| {
                    matches!(envelope.body, Body::Command(..) | Body::Answer(_))
                })
            });
            let Some(key) = message else {
                break;
            };
            let envelope = self.state.bag.take(key);
            if let Some(envelope) = envelope {
                self.try_to_deliver(&envelope);
            }
            for number in 0..self.world.names.len() {
                while !self.state.participants[number].get().log.pending.is_empty() {
                    self.act(&Action::Sync(number));
                }
            }
        }
        while !self.state.coordinator.get().log.pending.is_empty() {
            self.act(&Action::SyncCoordinator);
        }
    }

    /// Drops what sites have said to each other and what can have no effect any more: reports to a site that does
    /// not lead that ballot any more, and what is said to a site that has the decision on its disk. Orders of old
    /// ballots stay: that they are refused is what is to be seen.
    pub(crate) fn drop_dead_talk(&mut self) {
        let (world, mut bag) = (self.world, std::mem::take(&mut self.state.bag));
        let state = &self.state;
        bag.retain(|envelope| match &envelope.body {
            Body::Report(FromSite { id, report }) => match report {
                Report::Joined { ballot, .. }
                | Report::Moved { ballot }
                | Report::Refused { ballot, .. } => state.leads(envelope.to, *id) == Some(*ballot),
                Report::Known { .. } | Report::Unvoted => {
                    !state.is_decided_on_disk(envelope.to, *id)
                }
                _ => true,
            },
            Body::Order(ToSite { id, order, .. }) => order.ballot().is_none_or(|ballot| {
                let known = |who| state.is_decided_on_disk(who, *id);
                !(known(envelope.to) && known(world.leader_of(ballot)))
            }),
            _ => true,
        });
        self.state.bag = bag;
    }

    // ---- what must be true ----------------------------------------------------------------------

    /// The client is told committed: a quorum has moved towards that, or has the decision, on its disks.
    pub(crate) fn must_be_decided(&mut self, id: TransactionId) {
        let state = &self.state;
        let for_it = |who: &Who| match (state.on_disk(*who, id), who) {
            (OnDisk::Undecided(site), _) => site.standing == Standing::PreCommitted,
            (OnDisk::Decided { committed }, _) => committed,
            (OnDisk::Nothing, Who::P(number)) => {
                state.participants[*number].get().resource.effects.contains_key(&id)
            }
            (OnDisk::Nothing, _) => false,
        };
        let count = state.sites().filter(for_it).count();
        if count < self.world.quorum() {
            self.broken(format!("told committed when {count} sites had moved"));
        }
    }

    /// Somebody says that the decision may be forgotten: every site has it on its disk.
    pub(crate) fn may_be_forgotten(&mut self, id: TransactionId) {
        self.mark(Mark::Forgot);
        let state = &self.state;
        let has_it = |who: Who| match (state.on_disk(who, id), who) {
            (OnDisk::Decided { .. }, _) => true,
            // It has been permitted before, or has never voted and never will; and then a late message may
            // leave a record at a witness.
            (OnDisk::Nothing, Who::P(_)) | (_, Who::W(_)) => true,
            // A coordinator that remembers nothing aborts before it says so.
            (OnDisk::Undecided(_), _) | (OnDisk::Nothing, Who::C) => false,
        };
        if !state.sites().all(has_it) {
            let text = "it may be forgotten, and some site does not have it on its disk";
            self.broken(text.to_owned());
        }
    }
}
