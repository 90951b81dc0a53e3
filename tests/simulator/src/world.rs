//! The world: everything that exists in a run, and the loop that makes it happen.

mod clients;
mod coordinator_side;
mod end;
mod logs;
mod mail;
mod participant_side;
mod site_side;
mod storm;
mod voting_disks;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use handfast_commit_core::id::{ParticipantName, TransactionId};
use handfast_commit_core::marks;
use handfast_history::{History, Ticket};
use handfast_journal::{Flush, Unsynced};

use crate::client::{CallId, Client, Plan};
use crate::coordinator::{self, CoordinatorProcess, LocalClock, SLOT, witness_name};
use crate::event::{Agenda, Event, Life, Site, Storm};
use crate::faults::{Fault, Faults};
use crate::oracle::{Oracle, Violation};
use crate::participant::ParticipantProcess;
use crate::random::Random;
use crate::swarm::{Rates, Swarm};
use crate::trace::{EventRef, ProcessId, Recorder, Role};

/// More events than any run needs: one that goes on has lost its way.
const EVENTS_MAX: u64 = 3_000_000;

/// What came of a run that kept every promise.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Transactions that clients began.
    pub transactions: u64,
    /// Told committed and told aborted.
    pub told: (u64, u64),
    /// What was injected.
    pub faults: Faults,
    /// What was handled.
    pub events: u64,
    /// Reads and writes that were checked for serializability.
    pub checked: u64,
    /// How often each rule was followed.
    pub marks: marks::Counts,
}

/// What a committed transaction has to have done.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) plan: Plan,
    pub(crate) ticket: Ticket,
    /// The history has its outcome.
    pub(crate) concluded: bool,
}

/// See the module.
pub struct World {
    pub(crate) swarm: Swarm,
    pub(crate) rates: Rates,
    pub(crate) random: Random,
    pub(crate) now: u64,
    pub(crate) agenda: Agenda,
    pub(crate) coordinator: CoordinatorProcess,
    pub(crate) participants: Vec<ParticipantProcess>,
    pub(crate) witnesses: Vec<CoordinatorProcess>,
    pub(crate) names: BTreeMap<ParticipantName, usize>,
    pub(crate) clients: Vec<Client>,
    pub(crate) oracle: Oracle,
    pub(crate) faults: Faults,
    pub(crate) recorder: Recorder,
    /// Since when syncs run, for the diagram.
    syncs: BTreeMap<Site, u64>,
    /// Requests that are drawn, whose transaction has no name yet.
    pub(crate) drawn_asks: BTreeMap<CallId, EventRef>,
    pub(crate) history: History,
    /// By the client's name for them.
    pub(crate) requests: BTreeMap<String, Job>,
    /// The interactive ones.
    pub(crate) interactive: BTreeMap<TransactionId, Job>,
    /// What was read or written last, as far as clients know.
    pub(crate) last_seen: BTreeMap<(usize, u64), Option<u64>>,
    pub(crate) values: u64,
    pub(crate) begun: u64,
    pub(crate) sessions: u64,
    /// Messages of a session that would arrive later than this are lost.
    pub(crate) dead_after: BTreeMap<u64, u64>,
    /// Until when messages from one site to another are lost.
    pub(crate) cut: BTreeMap<(Site, Site), u64>,
    /// What voting sites were told that a transaction's end is.
    pub(crate) decisions: BTreeMap<TransactionId, bool>,
    /// What participants have said that they aborted.
    pub(crate) said_aborted: BTreeSet<(usize, TransactionId)>,
    /// The coordinator's disk has something else to do until then.
    pub(crate) slow_until: u64,
    pub(crate) healed: bool,
    pub(crate) ended: bool,
    /// Which participants have a look at their locks planned.
    pub(crate) lock_looks: Vec<bool>,
    pub(crate) runtime: tokio::runtime::Runtime,
    runtime_us: u64,
    events: u64,
}

impl World {
    /// The world of a seed, before anything has happened.
    ///
    /// # Errors
    /// When this machine has no clock or no memory for it.
    pub fn new(swarm: Swarm, mut recorder: Recorder) -> Result<Self, String> {
        let mut random = Random::new(swarm.seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|error| error.to_string())?;
        let mut coordinator = CoordinatorProcess::new(SLOT, random.next());
        coordinator.clock = clock(&swarm.rates, &mut random);
        let mut participants = Vec::with_capacity(swarm.participants);
        for index in 0..swarm.participants {
            let mut process = ParticipantProcess::new(index, random.next(), swarm.accounts)?;
            process.clock = clock(&swarm.rates, &mut random);
            participants.push(process);
        }
        let mut witnesses = Vec::with_capacity(swarm.witnesses);
        for index in 0..swarm.witnesses {
            let mut process = CoordinatorProcess::witness(index, random.next());
            process.clock = clock(&swarm.rates, &mut random);
            witnesses.push(process);
        }
        recorder.record(|trace| {
            trace.lane(lane(&swarm, Site::Coordinator), Role::Coordinator, "coordinator");
            for index in 0..swarm.participants {
                let site = Site::Participant(index);
                trace.lane(
                    lane(&swarm, site),
                    Role::Participant,
                    coordinator::name(index).as_str(),
                );
            }
            for index in 0..swarm.witnesses {
                let lane = lane(&swarm, Site::Witness(index));
                trace.lane(lane, Role::Participant, witness_name(index).as_str());
            }
            for index in 0..swarm.clients {
                trace.lane(client_lane(index), Role::Client, format!("client {index}"));
            }
        });
        let _ = marks::take();
        let mut world = Self {
            rates: swarm.rates.clone(),
            random,
            now: 0,
            agenda: Agenda::default(),
            coordinator,
            participants,
            witnesses,
            names: coordinator::names(swarm.participants),
            clients: (0..swarm.clients).map(|_| Client::new()).collect(),
            oracle: Oracle::default(),
            faults: Faults::default(),
            recorder,
            syncs: BTreeMap::new(),
            drawn_asks: BTreeMap::new(),
            history: History::new(),
            requests: BTreeMap::new(),
            interactive: BTreeMap::new(),
            last_seen: BTreeMap::new(),
            values: 0,
            begun: 0,
            sessions: 0,
            dead_after: BTreeMap::new(),
            cut: BTreeMap::new(),
            decisions: BTreeMap::new(),
            said_aborted: BTreeSet::new(),
            slow_until: 0,
            healed: false,
            ended: false,
            lock_looks: vec![false; swarm.participants],
            runtime,
            runtime_us: 0,
            events: 0,
            swarm,
        };
        world.set_up();
        Ok(world)
    }

    fn set_up(&mut self) {
        for index in 0..self.swarm.participants {
            self.agenda.plan(index as u64, Event::Start(Site::Participant(index)));
        }
        for index in 0..self.swarm.witnesses {
            self.agenda.plan(index as u64, Event::Start(Site::Witness(index)));
        }
        self.agenda.plan(10, Event::Start(Site::Coordinator));
        for client in 0..self.swarm.clients {
            let at = 1_000 + self.random.below(5_000);
            self.agenda.plan(at, Event::Client(client));
        }
        for storm in [
            Storm::CoordinatorCrash,
            Storm::ParticipantCrash,
            Storm::DiskFull,
            Storm::Partition,
            Storm::OneWayCut,
            Storm::Pause,
            Storm::ClockJump,
            Storm::DiskReplaced,
            Storm::WitnessCrash,
        ] {
            self.plan_storm(storm);
        }
        self.agenda.plan(self.swarm.storm_us, Event::Heal);
    }

    /// Runs to the end, or to the first violation.
    ///
    /// # Errors
    /// What was violated.
    pub fn run(&mut self) -> Result<Summary, Violation> {
        while !self.ended && self.oracle.violation().is_none() {
            let Some((at, event)) = self.agenda.pop() else {
                self.oracle
                    .violated(None, "nothing is going to happen, and not everything has ended");
                break;
            };
            self.now = self.now.max(at);
            self.events += 1;
            if self.events > EVENTS_MAX {
                self.oracle.violated(None, format!("no end after {EVENTS_MAX} events"));
                break;
            }
            self.handle(event);
        }
        if self.oracle.violation().is_none() {
            self.check_the_end();
        }
        let marks = marks::take();
        match self.oracle.violation().cloned() {
            Some(violation) => {
                let (now, what) = (self.now, violation.what.clone());
                self.recorder.record(|trace| trace.violation(now, None, violation.id, what));
                Err(violation)
            }
            None => Ok(Summary {
                transactions: self.begun,
                told: self.oracle.totals(),
                faults: self.faults.clone(),
                events: self.events,
                checked: self.history.len() as u64,
                marks,
            }),
        }
    }

    /// What was recorded, at any time.
    #[must_use]
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Hands over what was recorded.
    #[must_use]
    pub fn into_recorder(self) -> Recorder {
        self.recorder
    }

    fn handle(&mut self, event: Event) {
        if let Some(site) = self.site_of(&event) {
            let until = self.paused_until(site);
            if until > self.now {
                return self.agenda.plan(until, event);
            }
        }
        match event {
            Event::Mail(mail) => self.arrived(mail),
            Event::Client(client) => self.client_goes_on(client),
            Event::OutOfPatience(call) => self.out_of_patience(call),
            Event::Timer(site, life) => {
                if self.is_alive(site, life) {
                    self.fire_timers(site);
                    self.settle(site);
                }
            }
            Event::Sync(site, life) => self.sync(site, life, Flush::WhenForced),
            Event::Idle(site, life) => self.sync(site, life, Flush::Everything),
            Event::Connect(index, life) => self.connect(index, life),
            Event::Broken(index, session) => self.broken(index, session, false),
            Event::NoWelcome(index, session) => self.broken(index, session, true),
            Event::Report(index, life, session) => self.report(index, life, session),
            Event::AskList(index, life, session) => self.ask_list(index, life, session),
            Event::ResourceStarts(index, life, id, call) => {
                if self.is_alive(Site::Participant(index), life) {
                    if let Some(running) = &mut self.participants[index].running {
                        running.resource(id, call);
                    }
                    self.settle(Site::Participant(index));
                }
            }
            Event::ResourceEnds(index, life, id, result) => {
                self.resource_ended(index, life, id, result);
            }
            Event::LockTimeout(index, life) => self.lock_timeout(index, life),
            Event::EnlistTimeout(index, life, id) => self.enlist_timeout(index, life, id),
            Event::Start(site) => self.start(site),
            Event::Stopped(site, life) => {
                if self.is_alive(site, life) {
                    self.kill(site, Fault::Stopping);
                }
            }
            Event::LeaderKilled(site, life) => {
                if self.is_alive(site, life) {
                    self.kill(site, Fault::LeaderKilled);
                }
            }
            Event::Storm(storm) => self.storm(storm),
            Event::Space(site) => self.space(site),
            Event::Heal => self.heal(),
            Event::LookForTheEnd => self.look_for_the_end(),
        }
    }

    /// The process that handles an event; one that is stopped handles it later.
    fn site_of(&self, event: &Event) -> Option<Site> {
        match event {
            Event::Mail(mail) => mail.letter.to(),
            Event::Timer(site, _) | Event::Sync(site, _) | Event::Idle(site, _) => Some(*site),
            Event::Connect(..) | Event::Broken(..) | Event::NoWelcome(..) | Event::AskList(..) => {
                Some(Site::Coordinator)
            }
            Event::Report(index, ..)
            | Event::ResourceStarts(index, ..)
            | Event::ResourceEnds(index, ..)
            | Event::LockTimeout(index, ..)
            | Event::EnlistTimeout(index, ..) => Some(Site::Participant(*index)),
            Event::Client(_)
            | Event::OutOfPatience(_)
            | Event::Start(_)
            | Event::Stopped(..)
            | Event::LeaderKilled(..)
            | Event::Storm(_)
            | Event::Space(_)
            | Event::Heal
            | Event::LookForTheEnd => None,
        }
    }

    // ---- processes --------------------------------------------------------------------------------

    pub(crate) fn lane(&self, site: Site) -> ProcessId {
        lane(&self.swarm, site)
    }

    /// The process of the coordinator, or of a witness.
    pub(crate) fn coordinating(&self, site: Site) -> &CoordinatorProcess {
        match site {
            Site::Coordinator => &self.coordinator,
            Site::Witness(index) => &self.witnesses[index],
            Site::Participant(_) => unreachable!("a participant runs another program"),
        }
    }

    pub(crate) fn coordinating_mut(&mut self, site: Site) -> &mut CoordinatorProcess {
        match site {
            Site::Coordinator => &mut self.coordinator,
            Site::Witness(index) => &mut self.witnesses[index],
            Site::Participant(_) => unreachable!("a participant runs another program"),
        }
    }

    pub(crate) fn life(&self, site: Site) -> Life {
        match site {
            Site::Coordinator | Site::Witness(_) => self.coordinating(site).life,
            Site::Participant(index) => self.participants[index].life,
        }
    }

    pub(crate) fn is_up(&self, site: Site) -> bool {
        match site {
            Site::Coordinator | Site::Witness(_) => self.coordinating(site).running.is_some(),
            Site::Participant(index) => self.participants[index].running.is_some(),
        }
    }

    pub(crate) fn is_alive(&self, site: Site, life: Life) -> bool {
        self.is_up(site) && self.life(site) == life
    }

    pub(crate) fn paused_until(&self, site: Site) -> u64 {
        match site {
            Site::Coordinator | Site::Witness(_) => self.coordinating(site).paused_until,
            Site::Participant(index) => self.participants[index].paused_until,
        }
    }

    fn start(&mut self, site: Site) {
        if self.is_up(site) {
            return;
        }
        let seed = self.random.next();
        // The disk may fail the very first write.
        let fails = self.random.chance(self.rates.failed_sync);
        let started = match site {
            Site::Coordinator | Site::Witness(_) => {
                if fails {
                    self.disk(site).fail_next_sync();
                }
                let now = self.coordinating(site).clock.now(self.now);
                let swarm = self.swarm.clone();
                self.coordinating_mut(site).start(&swarm, now, seed)
            }
            Site::Participant(index) => {
                if fails {
                    self.participants[index].disk.fail_next_sync();
                }
                let now = self.participants[index].clock.now(self.now);
                self.participants[index].start(&self.swarm, now, seed)
            }
        };
        let (now, lane) = (self.now, self.lane(site));
        match started {
            Ok(()) => {
                let first = self.life(site) == 1;
                let what = if first { "starts" } else { "is back" };
                self.recorder.record(|trace| trace.restart(now, lane, what));
                let life = self.life(site);
                if site == Site::Coordinator {
                    for index in 0..self.swarm.participants {
                        let at = self.now + self.random.below(500);
                        self.agenda.plan(at, Event::Connect(index, life));
                    }
                }
                self.settle(site);
            }
            Err(why) => {
                if fails {
                    self.faults.add(Fault::FailedSync);
                } else if self.healed {
                    self.oracle.violated(None, format!("{site:?} does not start: {why}"));
                }
                self.recorder.record(|trace| trace.note(now, Some(lane), None, why));
                let unsynced = Unsynced::Drawn(self.random.next());
                self.disk(site).crash(unsynced);
                let at = self.now + self.random.between(500, 20_000);
                self.agenda.plan(at, Event::Start(site));
            }
        }
    }

    pub(crate) fn disk(&self, site: Site) -> &handfast_journal::MemoryDisk {
        match site {
            Site::Coordinator | Site::Witness(_) => &self.coordinating(site).disk,
            Site::Participant(index) => &self.participants[index].disk,
        }
    }

    /// Kills a process, and plans its next start. Of what was on its way to the disk, some may be there.
    pub(crate) fn kill(&mut self, site: Site, fault: Fault) {
        if !self.is_up(site) {
            return;
        }
        self.faults.add(fault);
        self.draw_cut_sync(site);
        let draw = self.random.next();
        let written = self.random.one_in(2);
        let disk = self.disk(site).clone();
        let pending = match site {
            Site::Coordinator | Site::Witness(_) => {
                self.coordinating(site).running.as_ref().map_or(0, |running| running.log.depth())
            }
            Site::Participant(index) => {
                self.participants[index].running.as_ref().map_or(0, |running| running.log.depth())
            }
        };
        if pending > 0 && written {
            // The batch that was being written: on the disk or not, and nobody has been told.
            disk.fail_next_sync();
            let _ = match site {
                Site::Coordinator | Site::Witness(_) => self
                    .coordinating_mut(site)
                    .running
                    .as_mut()
                    .map(|running| running.write(Flush::Everything).is_ok()),
                Site::Participant(index) => self.participants[index]
                    .running
                    .as_mut()
                    .map(|running| running.write(Flush::Everything).is_ok()),
            };
            let before = disk.used_bytes();
            disk.crash(Unsynced::Drawn(draw));
            let kept = disk.used_bytes() != before;
            self.faults.add(if kept { Fault::UnsyncedKept } else { Fault::UnsyncedLost });
        } else {
            disk.crash(Unsynced::Lost);
        }
        match site {
            Site::Coordinator | Site::Witness(_) => {
                let process = self.coordinating_mut(site);
                process.running = None;
                process.life += 1;
                process.paused_until = 0;
            }
            Site::Participant(index) => {
                self.participants[index].running = None;
                self.participants[index].life += 1;
                self.participants[index].paused_until = 0;
            }
        }
        self.hang_up(site);
        let (now, lane) = (self.now, self.lane(site));
        self.recorder.record(|trace| trace.crash(now, lane, fault.what()));
        let down = if site == Site::Coordinator && self.random.chance(self.rates.long_away) {
            self.faults.add(Fault::LongAway);
            self.random.between(1_000_000, 6_000_000)
        } else if self.random.one_in(4) {
            self.random.between(50_000, 600_000)
        } else {
            self.random.between(200, 20_000)
        };
        self.agenda.plan(self.now + down, Event::Start(site));
    }

    /// The connections of a process that has died break, and the other ends notice unless they are cut off.
    fn hang_up(&mut self, site: Site) {
        let soon = self.now + 1 + self.random.below(self.swarm.delay_us.1);
        match site {
            // Whoever leads asks again.
            Site::Witness(_) => {}
            Site::Participant(index) => {
                if let Some(running) = &self.coordinator.running {
                    let session = running.links[index].session;
                    self.agenda.plan(soon, Event::Broken(index, session));
                }
            }
            Site::Coordinator => {
                for process in &mut self.participants {
                    if let Some(running) = &mut process.running {
                        running.session = None;
                        running.welcome = None;
                    }
                }
            }
        }
    }

    /// Lets a process do what it has wanted since the last event: its messages leave, its calls go on.
    pub(crate) fn settle(&mut self, site: Site) {
        match site {
            Site::Coordinator => self.settle_coordinator(),
            Site::Participant(index) => self.settle_participant(index),
            Site::Witness(index) => self.settle_witness(index),
        }
        self.plan_sync(site);
        self.plan_timer(site);
    }

    /// Lets the time that calls of the store see reach the world's.
    pub(crate) fn advance_runtime(&mut self) {
        let by = self.now.saturating_sub(self.runtime_us);
        self.runtime_us = self.now;
        if by > 0 {
            self.runtime.block_on(tokio::time::advance(Duration::from_micros(by)));
        }
    }
}

fn clock(rates: &Rates, random: &mut Random) -> LocalClock {
    let most = rates.clock_drift_ppm;
    let drift =
        i64::try_from(random.below(2 * most + 1)).unwrap_or(0) - i64::try_from(most).unwrap_or(0);
    LocalClock { drift_ppm: drift, wall_offset_ms: 0 }
}

fn lane(swarm: &Swarm, site: Site) -> ProcessId {
    let index = match site {
        Site::Coordinator => swarm.clients,
        Site::Participant(index) => swarm.clients + 1 + index,
        Site::Witness(index) => swarm.clients + 1 + swarm.participants + index,
    };
    ProcessId(u32::try_from(index).unwrap_or(u32::MAX))
}

/// Where a client is drawn.
pub(crate) fn client_lane(client: usize) -> ProcessId {
    ProcessId(u32::try_from(client).unwrap_or(u32::MAX))
}
