//! Faults that come at random times, and their end.

use super::World;
use crate::event::{Event, Site, Storm};
use crate::faults::Fault;
use crate::participant::fill;
use crate::swarm::Rates;

impl World {
    /// Plans the next fault of a kind, while there are to be any.
    pub(crate) fn plan_storm(&mut self, storm: Storm) {
        let rates = &self.rates;
        let every = match storm {
            Storm::CoordinatorCrash => rates.coordinator_crash_every_us,
            Storm::ParticipantCrash => rates.participant_crash_every_us,
            Storm::DiskFull => rates.disk_full_every_us,
            Storm::Partition => rates.partition_every_us,
            Storm::OneWayCut => rates.one_way_cut_every_us,
            Storm::Pause => rates.pause_every_us,
            Storm::ClockJump => rates.clock_jump_every_us,
            Storm::DiskReplaced => rates.disk_replaced_every_us,
            Storm::WitnessCrash if self.swarm.witnesses == 0 => 0,
            Storm::WitnessCrash => rates.witness_crash_every_us,
        };
        if every == 0 || self.healed {
            return;
        }
        let at = self.now + self.random.between(1, 2 * every);
        if at < self.swarm.storm_us {
            self.agenda.plan(at, Event::Storm(storm));
        }
    }

    pub(crate) fn storm(&mut self, storm: Storm) {
        if self.healed {
            return;
        }
        let anybody = self.any_site();
        match storm {
            Storm::CoordinatorCrash => self.kill(Site::Coordinator, Fault::CoordinatorCrash),
            Storm::ParticipantCrash => {
                let index = self.random.index(self.swarm.participants);
                self.kill(Site::Participant(index), Fault::ParticipantCrash);
            }
            Storm::DiskFull => {
                let disk = self.disk(anybody).clone();
                disk.set_capacity(Some(disk.used_bytes() + 200));
                let at = self.now + self.random.between(10_000, 300_000);
                self.agenda.plan(at, Event::Space(anybody));
            }
            Storm::Partition => self.partition(),
            Storm::OneWayCut => {
                let (from, to) = (anybody, self.any_site());
                if from != to {
                    self.faults.add(Fault::OneWayCut);
                    let until = self.now + self.random.between(5_000, 600_000);
                    self.cut.insert((from, to), until);
                    self.note_fault(Some(from), format!("nothing reaches {to:?}"));
                }
            }
            Storm::Pause => self.pause(anybody),
            Storm::ClockJump => {
                self.faults.add(Fault::ClockJump);
                let by = i64::try_from(self.random.below(7_200_000)).unwrap_or(0) - 3_600_000;
                match anybody {
                    Site::Coordinator | Site::Witness(_) => {
                        self.coordinating_mut(anybody).clock.wall_offset_ms += by;
                    }
                    Site::Participant(index) => {
                        self.participants[index].clock.wall_offset_ms += by;
                    }
                }
                let (now, lane) = (self.now, self.lane(anybody));
                self.recorder.record(|trace| trace.clock_jump(now, lane, by));
            }
            Storm::DiskReplaced => self.replace_disk(),
            Storm::WitnessCrash => {
                let index = self.random.index(self.swarm.witnesses);
                self.kill(Site::Witness(index), Fault::WitnessCrash);
            }
        }
        self.plan_storm(storm);
    }

    fn any_site(&mut self) -> Site {
        let sites = self.sites();
        sites[self.random.index(sites.len())]
    }

    fn note_fault(&mut self, site: Option<Site>, what: String) {
        let (now, lane) = (self.now, site.map(|site| self.lane(site)));
        self.recorder.record(|trace| trace.fault(now, lane, what));
    }

    fn partition(&mut self) {
        self.faults.add(Fault::Partition);
        let until = self.now + self.random.between(5_000, 800_000);
        let sites = self.sites();
        let side: Vec<bool> = sites.iter().map(|_| self.random.one_in(2)).collect();
        for (a, from) in sites.iter().enumerate() {
            for (b, to) in sites.iter().enumerate() {
                if side[a] != side[b] {
                    self.cut.insert((*from, *to), until);
                }
            }
        }
        self.note_fault(None, "partition".to_owned());
    }

    fn pause(&mut self, site: Site) {
        if !self.is_up(site) {
            return;
        }
        self.faults.add(Fault::Pause);
        let until = self.now + self.random.between(5_000, 900_000);
        match site {
            Site::Coordinator | Site::Witness(_) => {
                let process = self.coordinating_mut(site);
                process.paused_until = process.paused_until.max(until);
            }
            Site::Participant(index) => {
                let process = &mut self.participants[index];
                process.paused_until = process.paused_until.max(until);
            }
        }
        let (now, lane) = (self.now, self.lane(site));
        self.recorder.record(|trace| trace.pause(now, lane, until));
    }

    /// From here on alarms are right, and not every promise can be kept.
    fn replace_disk(&mut self) {
        let index = self.random.index(self.swarm.participants);
        self.faults.add(Fault::DiskReplaced);
        self.oracle.excused = true;
        self.kill(Site::Participant(index), Fault::ParticipantCrash);
        let incarnation = self.random.next();
        self.participants[index].disk.replace(incarnation);
        if let Err(why) = fill(&self.participants[index].disk, self.swarm.accounts) {
            self.oracle.violated(None, format!("a new disk does not work: {why}"));
        }
        self.note_fault(Some(Site::Participant(index)), "the disk is a new one".to_owned());
    }

    /// There is space on a disk again.
    pub(crate) fn space(&mut self, site: Site) {
        self.disk(site).set_capacity(None);
    }

    /// All faults stop. A process that is stopped goes on when its time has come: what has arrived for it
    /// meanwhile keeps its order.
    pub(crate) fn heal(&mut self) {
        self.healed = true;
        self.rates = Rates::none();
        self.cut.clear();
        for site in self.sites() {
            self.disk(site).set_capacity(None);
        }
        self.note_fault(None, "all faults stop".to_owned());
        self.agenda.plan(self.now + 50_000, Event::LookForTheEnd);
    }
}
