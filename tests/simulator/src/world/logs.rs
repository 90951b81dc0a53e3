//! The logs of the processes: when they are written and synced, what comes of it, and their timers.

use handfast_journal::{Flush, JournalError, Turn};
use handfast_runtime::driver::Machine;

use super::World;
use crate::event::{Event, Life, Site};
use crate::faults::Fault;
use crate::trace::SyncEnd;

impl World {
    pub(super) fn plan_sync(&mut self, site: Site) {
        let (depth, syncing) = match site {
            Site::Coordinator | Site::Witness(_) => match &self.coordinating(site).running {
                Some(running) => (running.log.depth(), running.syncing),
                None => return,
            },
            Site::Participant(index) => match &self.participants[index].running {
                Some(running) => (running.log.depth(), running.syncing),
                None => return,
            },
        };
        if depth == 0 || syncing {
            return;
        }
        let (low, high) = self.swarm.sync_us;
        let mut takes = self.random.between(low, high);
        if self.random.chance(self.rates.slow_disk) {
            self.faults.add(Fault::SlowDisk);
            takes += self.random.between(20_000, 500_000);
        }
        if site == Site::Coordinator {
            takes = takes.max(self.slow_until.saturating_sub(self.now));
        }
        self.set_syncing(site, true);
        self.syncs.insert(site, self.now);
        self.agenda.plan(self.now + takes, Event::Sync(site, self.life(site)));
    }

    fn set_syncing(&mut self, site: Site, syncing: bool) {
        match site {
            Site::Coordinator | Site::Witness(_) => {
                if let Some(running) = &mut self.coordinating_mut(site).running {
                    running.syncing = syncing;
                }
            }
            Site::Participant(index) => {
                if let Some(running) = &mut self.participants[index].running {
                    running.syncing = syncing;
                }
            }
        }
    }

    pub(super) fn sync(&mut self, site: Site, life: Life, flush: Flush) {
        if !self.is_alive(site, life) {
            return;
        }
        if flush == Flush::WhenForced {
            self.set_syncing(site, false);
        }
        let fails = self.random.chance(self.rates.failed_sync);
        if fails {
            self.disk(site).fail_next_sync();
        }
        let (written, depth, idling) = match site {
            Site::Coordinator | Site::Witness(_) => {
                let Some(running) = &mut self.coordinating_mut(site).running else { return };
                if flush == Flush::Everything {
                    running.idling = false;
                }
                let written = running.write(flush);
                (written, running.log.depth(), running.idling)
            }
            Site::Participant(index) => {
                let Some(running) = &mut self.participants[index].running else { return };
                if flush == Flush::Everything {
                    running.idling = false;
                }
                let written = running.write(flush);
                (written, running.log.depth(), running.idling)
            }
        };
        self.draw_sync(site, flush, &written);
        match written {
            // The process ends and says nothing more.
            Err(error) => {
                let full = error.to_string().contains("no space");
                return self.kill(site, if full { Fault::DiskFull } else { Fault::FailedSync });
            }
            Ok(_) if self.random.chance(self.rates.crash_after_sync) => {
                return self.kill(site, Fault::CrashAfterSync);
            }
            Ok(_) => {}
        }
        if depth > 0 && !idling {
            match site {
                Site::Coordinator | Site::Witness(_) => {
                    if let Some(running) = &mut self.coordinating_mut(site).running {
                        running.idling = true;
                    }
                }
                Site::Participant(index) => {
                    if let Some(running) = &mut self.participants[index].running {
                        running.idling = true;
                    }
                }
            }
            let at = self.now + self.random.between(1_000, 30_000);
            self.agenda.plan(at, Event::Idle(site, life));
        }
        match site {
            Site::Coordinator => self.settle_coordinator(),
            Site::Participant(index) => self.settle_participant(index),
            Site::Witness(index) => self.settle_witness(index),
        }
        self.plan_timer(site);
        if self.has_forced(site) {
            self.plan_sync(site);
        }
    }

    /// Whether something waits for the disk that is not lazy; what is lazy waits for the idle event.
    fn has_forced(&self, site: Site) -> bool {
        match site {
            Site::Coordinator | Site::Witness(_) => self
                .coordinating(site)
                .running
                .as_ref()
                .is_some_and(|r| r.log.depth() > 0 && !r.idling),
            Site::Participant(index) => self.participants[index]
                .running
                .as_ref()
                .is_some_and(|r| r.log.depth() > 0 && !r.idling),
        }
    }

    pub(super) fn plan_timer(&mut self, site: Site) {
        let (due, armed, clock) = match site {
            Site::Coordinator | Site::Witness(_) => match &self.coordinating(site).running {
                Some(running) => (running.due(), running.armed, self.coordinating(site).clock),
                None => return,
            },
            Site::Participant(index) => match &self.participants[index].running {
                Some(running) => {
                    (running.driver.due(), running.armed, self.participants[index].clock)
                }
                None => return,
            },
        };
        let Some(due) = due else { return };
        let at = clock.world(due).max(self.now + 1);
        if armed.is_some_and(|armed| armed > self.now && armed <= at) {
            return;
        }
        match site {
            Site::Coordinator | Site::Witness(_) => {
                if let Some(running) = &mut self.coordinating_mut(site).running {
                    running.armed = Some(at);
                }
            }
            Site::Participant(index) => {
                if let Some(running) = &mut self.participants[index].running {
                    running.armed = Some(at);
                }
            }
        }
        self.agenda.plan(at, Event::Timer(site, self.life(site)));
    }

    pub(super) fn fire_timers(&mut self, site: Site) {
        match site {
            Site::Coordinator | Site::Witness(_) => {
                let now = self.coordinating(site).clock.now(self.now);
                let Some(running) = &mut self.coordinating_mut(site).running else { return };
                for shard in &mut running.shards {
                    while shard.fire(now) {}
                    shard.machine_mut().settled();
                }
            }
            Site::Participant(index) => {
                let now = self.participants[index].clock.now(self.now);
                let Some(running) = &mut self.participants[index].running else { return };
                while running.driver.fire(now) {}
            }
        }
    }

    /// Draws a sync that is over, unless there was nothing to write.
    fn draw_sync(&mut self, site: Site, flush: Flush, written: &Result<Turn, JournalError>) {
        let (now, lane) = (self.now, self.lane(site));
        let began = match flush {
            Flush::WhenForced => self.syncs.remove(&site).unwrap_or(now),
            Flush::Everything => now,
        };
        let (records, end) = match written {
            Ok(Turn { mutations: 0, .. }) => return,
            Ok(Turn { completed: 1, .. }) => ("1 record".to_owned(), SyncEnd::Durable),
            Ok(turn) => (format!("{} records", turn.completed), SyncEnd::Durable),
            Err(_) => (String::new(), SyncEnd::Failed),
        };
        self.recorder.record(|trace| {
            let sync = trace.sync_began(began, lane, None, records);
            trace.sync_ended(sync, now, end);
        });
    }

    /// Draws a sync that the end of its process has cut.
    pub(super) fn draw_cut_sync(&mut self, site: Site) {
        let (now, lane) = (self.now, self.lane(site));
        let began = self.syncs.remove(&site);
        if let Some(began) = began.filter(|_| self.has_forced(site)) {
            self.recorder.record(|trace| {
                let sync = trace.sync_began(began, lane, None, "");
                trace.sync_ended(sync, now, SyncEnd::Cut);
            });
        }
    }
}
