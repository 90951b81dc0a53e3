//! What the disks of voting sites say of a transaction: the facts that everything said about it must agree with.

use handfast_commit_core::id::TransactionId;
use handfast_commit_core::record::{CoordinatorRecord, ParticipantRecord, WitnessState};
use handfast_commit_core::three_phase::{Site as Voter, Sites, Standing};
use handfast_journal::{Journal, Kind, MemoryJournal, Reader, Table};
use handfast_wire::record::{decode_ended, decode_live, decode_participant};

use super::World;
use crate::event::Site;

/// What one disk says of a transaction.
#[derive(Debug)]
pub(crate) enum OnDisk {
    /// It does not know it.
    Nothing,
    /// Where it stands, and who votes; a witness does not know the others.
    Undecided(Voter, Option<Sites>),
    /// How it ended.
    Decided {
        /// Or aborted.
        committed: bool,
    },
}

fn participant_says(reader: &dyn Reader, id: TransactionId) -> OnDisk {
    let key = id.as_bytes();
    let Ok(Some(value)) = reader.get(Table::Live, key) else { return OnDisk::Nothing };
    match decode_participant(key, &value) {
        Ok(ParticipantRecord::Voted(branch)) => {
            OnDisk::Undecided(branch.site, Some(branch.electorate.sites))
        }
        Ok(ParticipantRecord::Decided(branch)) => OnDisk::Decided { committed: branch.committed },
        Ok(ParticipantRecord::Finished { committed, .. }) => OnDisk::Decided { committed },
        _ => OnDisk::Nothing,
    }
}

fn coordinator_says(reader: &dyn Reader, id: TransactionId) -> OnDisk {
    let key = id.as_bytes();
    if let Ok(Some(value)) = reader.get(Table::Live, key) {
        return match decode_live(key, &value) {
            Ok(CoordinatorRecord::Voting(voting)) => {
                OnDisk::Undecided(voting.site, Some(voting.sites))
            }
            Ok(CoordinatorRecord::Decision(decision)) => {
                OnDisk::Decided { committed: decision.outcome.is_ok() }
            }
            Ok(CoordinatorRecord::Witness(witness)) => match witness.state {
                WitnessState::Undecided(site) => OnDisk::Undecided(site, None),
                WitnessState::Decided { committed } => OnDisk::Decided { committed },
            },
            _ => OnDisk::Nothing,
        };
    }
    let Ok(Some(value)) = reader.get(Table::Outcomes, key) else { return OnDisk::Nothing };
    match decode_ended(key, &value) {
        Ok(ended) => OnDisk::Decided { committed: ended.outcome.is_ok() },
        Err(_) => OnDisk::Nothing,
    }
}

impl World {
    /// What is durable of a transaction at a site, whether that is up or not.
    pub(crate) fn on_disk(&self, site: Site, id: TransactionId) -> OnDisk {
        let dead = |kind: Kind| MemoryJournal::open(&self.disk(site).backup(), kind);
        match site {
            Site::Participant(index) => match &self.participants[index].running {
                Some(running) => participant_says(&*running.reader, id),
                None => dead(Kind::Participant)
                    .map_or(OnDisk::Nothing, |journal| participant_says(&*journal.reader(), id)),
            },
            Site::Coordinator | Site::Witness(_) => match &self.coordinating(site).running {
                Some(running) => coordinator_says(&*running.reader, id),
                None => dead(Kind::Coordinator)
                    .map_or(OnDisk::Nothing, |journal| coordinator_says(&*journal.reader(), id)),
            },
        }
    }

    fn voters(&self, sites: &Sites) -> Vec<Site> {
        sites.numbers().filter_map(|number| self.site_named(&sites.name(number))).collect()
    }

    /// Whether a quorum of the voting sites has moved to commit on its disks, or has committed. A site that may
    /// forget has done so because all have it: then those that have not forgotten yet agree.
    pub(crate) fn is_decided_by_quorum(&self, id: TransactionId) -> bool {
        if !id.is_three_phase() {
            return false;
        }
        if self.oracle.excused {
            return true; // the disk that could show it may be the one that is lost
        }
        let mut electorate = None;
        let mut committed_somewhere = false;
        for site in self.sites() {
            match self.on_disk(site, id) {
                OnDisk::Undecided(_, Some(sites)) => electorate = Some(sites),
                OnDisk::Decided { committed } => committed_somewhere |= committed,
                OnDisk::Undecided(_, None) | OnDisk::Nothing => {}
            }
        }
        let Some(sites) = electorate else { return committed_somewhere };
        let for_it = |site: &Site| match self.on_disk(*site, id) {
            OnDisk::Undecided(voter, _) => voter.standing == Standing::PreCommitted,
            OnDisk::Decided { committed } => committed,
            OnDisk::Nothing => false,
        };
        let moved = self.voters(&sites).iter().filter(|site| for_it(site)).count();
        moved > sites.count() / 2
    }

    /// Somebody says that a decision may be forgotten: no voting site is left that does not have it on its disk.
    /// Witnesses are not looked at: a late message leaves a record there that means nothing.
    pub(crate) fn may_be_forgotten(&mut self, id: TransactionId) {
        if !id.is_three_phase() || self.oracle.excused {
            return;
        }
        let left = self.sites().into_iter().find(|site| {
            !matches!(site, Site::Witness(_))
                && matches!(self.on_disk(*site, id), OnDisk::Undecided(..))
        });
        if let Some(site) = left {
            let what = format!("it may be forgotten, and {site:?} is undecided on its disk");
            self.oracle.violated(Some(id), what);
        }
    }
}
