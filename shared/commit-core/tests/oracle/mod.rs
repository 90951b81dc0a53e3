//! What must be true when everything has healed, whatever has happened before.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use handfast_commit_core::id::{ParticipantName, RequestId, TransactionId};
use handfast_commit_core::record::{CoordinatorRecord, ParticipantRecord};

use crate::world::World;
use crate::world::resource::{Verdict, effects};

/// What a transaction consists of.
pub struct Planned {
    pub branches: BTreeSet<ParticipantName>,
    pub request: Option<RequestId>,
}

pub struct Oracle<'a> {
    pub world: &'a World,
    pub planned: &'a BTreeMap<TransactionId, Planned>,
}

impl Oracle<'_> {
    /// After everything has healed.
    pub fn check(&self) -> Result<(), String> {
        if let Some(alarm) = self.world.alarms.first() {
            return Err(format!("an alarm: {alarm}"));
        }
        let reused = |line: &&String| line.contains("was used for a different request");
        if let Some(line) = self.world.lines.iter().find(reused) {
            return Err(format!("a retry is taken for another request: {line}"));
        }
        let core = self.world.coordinator.core.as_ref().ok_or("C is not there")?;
        if core.undecided() + core.undelivered() > 0 {
            return Err(format!("unfinished at C: {:?}", core.running(None).collect::<Vec<_>>()));
        }
        let mut effects_of: BTreeMap<TransactionId, BTreeMap<ParticipantName, u32>> =
            BTreeMap::new();
        let mut done: BTreeMap<(ParticipantName, Bytes), BTreeSet<TransactionId>> = BTreeMap::new();
        for (name, host) in &self.world.participants {
            let open = self.world.open_branches(name);
            if open != "none" {
                return Err(format!("open at {name}: {open}"));
            }
            let kept = host.core.as_ref().map_or(0, |core| core.unforgotten());
            if kept > 0 {
                return Err(format!("{name} has not been permitted to forget {kept} transactions"));
            }
            if let Some(id) = host.resource.prepared.keys().next() {
                let id = self.world.name(*id);
                return Err(format!("{name}'s database holds {id} prepared"));
            }
            for (id, (times, work)) in effects(&host.resource, host.log.records()) {
                effects_of.entry(id).or_default().insert(name.clone(), times);
                done.entry((name.clone(), work)).or_default().insert(id);
            }
        }
        for ((name, work), ids) in &done {
            if ids.len() > 1 {
                let ids: Vec<_> = ids.iter().map(|id| self.world.name(*id)).collect();
                return Err(format!("{name} did the work {work:?} more than once: {ids:?}"));
            }
        }
        for (id, planned) in self.planned {
            self.check_transaction(*id, planned, effects_of.get(id))?;
        }
        self.check_what_clients_were_told()
    }

    fn check_transaction(
        &self,
        id: TransactionId,
        planned: &Planned,
        effects: Option<&BTreeMap<ParticipantName, u32>>,
    ) -> Result<(), String> {
        let name = self.world.name(id);
        let told: Vec<_> = self.world.told.iter().filter(|told| told.outcome.id == id).collect();
        let told_committed = told.iter().any(|told| told.outcome.result.is_ok());
        let told_aborted = told.iter().any(|told| told.outcome.result.is_err());
        if told_committed && told_aborted {
            return Err(format!("clients were told that {name} committed and that it aborted"));
        }
        let (mut decided, mut given_up) = (false, false);
        for record in self.world.coordinator.log.records() {
            match record {
                CoordinatorRecord::Commit(commit) if commit.id == id => decided = true,
                CoordinatorRecord::Ended(ended) if ended.id == id => {
                    decided |= ended.outcome.is_ok();
                    given_up |= ended.outcome.is_err();
                }
                CoordinatorRecord::Decision(decision) if decision.id == id => {
                    decided |= decision.outcome.is_ok();
                    given_up |= decision.outcome.is_err();
                }
                _ => {}
            }
        }
        if decided && given_up {
            return Err(format!("the log says that {name} committed and that it aborted"));
        }
        for (site, host) in &self.world.participants {
            for entry in host.log.records() {
                match &entry.record {
                    ParticipantRecord::Decided(branch) if branch.id == id => {
                        decided |= branch.committed;
                        given_up |= !branch.committed;
                    }
                    ParticipantRecord::Finished { id: finished, committed } if *finished == id => {
                        decided |= committed;
                        // A read-only branch of two-phase commit may abort beside a commit.
                        given_up |= !committed && id.is_three_phase();
                    }
                    _ => {}
                }
                if decided && given_up {
                    return Err(format!("the sites differ about {name}: see {site}'s log"));
                }
            }
        }
        let committed = told_committed || decided;
        let aborted = told_aborted || given_up;
        if committed && aborted {
            return Err(format!("{name} committed, and it aborted"));
        }
        let writes = |branch: &&ParticipantName| {
            let verdicts = &self.world.participants[*branch].resource.verdicts;
            verdicts.get(&id) == Some(&Verdict::Yes)
        };
        let expected: BTreeSet<_> = planned.branches.iter().filter(writes).cloned().collect();
        let found = effects.cloned().unwrap_or_default();
        if let Some((branch, times)) = found.iter().find(|(_, times)| **times != 1) {
            return Err(format!("{name} took effect {times} times at {branch}"));
        }
        let found: BTreeSet<_> = found.into_keys().collect();
        if committed && found != expected {
            return Err(format!("{name} committed; it took effect at {found:?} of {expected:?}"));
        }
        if aborted && !found.is_empty() {
            return Err(format!("{name} aborted; it took effect at {found:?}"));
        }
        if !found.is_empty() && found != expected {
            return Err(format!("{name} took effect at {found:?} only, of {expected:?}"));
        }
        Ok(())
    }

    /// An answer to a retry speaks of the same request.
    fn check_what_clients_were_told(&self) -> Result<(), String> {
        for told in &self.world.told {
            let asked = self.planned.iter().find(|(id, _)| self.world.name(**id) == told.label);
            let about = self.planned.get(&told.outcome.id);
            if let (Some((asked_id, asked)), Some(about)) = (asked, about)
                && told.outcome.id != *asked_id
                && (asked.request.is_none() || asked.request != about.request)
            {
                let about = self.world.name(told.outcome.id);
                return Err(format!("{} was answered with {about}", told.label));
            }
        }
        Ok(())
    }
}
