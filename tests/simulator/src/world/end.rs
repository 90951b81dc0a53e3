//! The end: whether everything has ended, and whether it adds up.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use handfast_commit_core::id::TransactionId;
use handfast_commit_core::two_phase::coordinator::Stored;
use handfast_coordinator::store::Found;
use handfast_history::Outcome;
use handfast_journal::Table;
use handfast_participant::simulation::store;

use super::World;
use crate::event::{Event, Site};
use crate::participant::{FIRST_BALANCE, account, data_key, register};

/// How long after the last fault everything must have ended.
const END_WITHIN_US: u64 = 60_000_000;
/// With a lost disk some things never end; the others have had their time.
const EXCUSED_US: u64 = 4_000_000;

impl World {
    pub(crate) fn look_for_the_end(&mut self) {
        let healed_for = self.now.saturating_sub(self.swarm.storm_us);
        match self.unfinished() {
            None => self.ended = true,
            Some(_) if self.oracle.excused && healed_for > EXCUSED_US => self.ended = true,
            Some(what) if healed_for > END_WITHIN_US => {
                self.oracle.violated(None, format!("does not end: {what}"));
            }
            Some(_) => self.agenda.plan(self.now + 50_000, Event::LookForTheEnd),
        }
    }

    /// What has not ended yet.
    fn unfinished(&self) -> Option<String> {
        if let Some(c) = self.clients.iter().position(|client| !client.finished) {
            return Some(format!("client {c}: {:?}", self.clients[c].stage));
        }
        match &self.coordinator.running {
            None => return Some("the coordinator is down".to_owned()),
            Some(running) if !running.is_idle() => {
                let [undecided, voting, undelivered] = running.open();
                return Some(format!(
                    "{undecided} undecided, {voting} voted for, {undelivered} undelivered transactions"
                ));
            }
            Some(_) => {}
        }
        if let Some(witness) = self.witnesses.iter().find(|witness| witness.running.is_none()) {
            return Some(format!("{:?} is down", witness.witness));
        }
        self.participants.iter().find_map(|process| {
            let index = process.index;
            match &process.running {
                None => Some(format!("p{index} is down")),
                Some(running) if !running.is_idle() => {
                    let open: Vec<String> = running
                        .driver
                        .machine()
                        .open_branches()
                        .map(|branch| format!("{} ({})", branch.id, branch.waiting_for))
                        .collect();
                    let kept = running.driver.machine().unforgotten();
                    Some(format!("p{index} has calls, branches ({open:?}) or {kept} decisions"))
                }
                Some(_) => None,
            }
        })
    }

    /// Everything has ended: does it add up?
    pub(crate) fn check_the_end(&mut self) {
        if self.oracle.excused {
            return;
        }
        let committed = self.check_outcomes();
        self.check_told();
        self.check_leftovers();
        self.check_balances(&committed);
        self.check_history();
    }

    /// The committed transactions by what they were to do; no request is done twice.
    fn check_outcomes(&mut self) -> Vec<(usize, u64, i64)> {
        let mut moves = Vec::new();
        let mut done: BTreeMap<String, TransactionId> = BTreeMap::new();
        for found in self.all_outcomes() {
            let Found::Ended(ended) = &found else { continue };
            if ended.outcome.is_err() {
                continue;
            }
            match &ended.request {
                Some(request) => {
                    let request = request.id.to_string();
                    let job = self.requests.get(&request);
                    // What only reads may be done as often as one likes.
                    let writes = job.is_some_and(|job| job.plan.writes());
                    let first = done.insert(request.clone(), ended.id).filter(|_| writes);
                    if let Some(first) = first {
                        let what = format!("request {request} was done before, by {first}");
                        return self.violate(ended.id, what);
                    }
                    moves.extend(job.map(|job| job.plan.moves.clone()).unwrap_or_default());
                }
                None => {
                    let job = self.interactive.get(&ended.id);
                    moves.extend(job.map(|job| job.plan.moves.clone()).unwrap_or_default());
                }
            }
        }
        moves
    }

    fn violate<T: Default>(&mut self, id: TransactionId, what: String) -> T {
        self.oracle.violated(Some(id), what);
        T::default()
    }

    /// What was told is what is.
    fn check_told(&mut self) {
        let Some(running) = &self.coordinator.running else { return };
        let mut wrong = None;
        for (id, told) in self.oracle.all_told() {
            let committed = match running.store.find(id) {
                Ok(Some(found)) => matches!(found.stored(), Some(Stored::Committed { .. })),
                // Nothing to commit, or presumed aborted.
                Ok(None) => continue,
                Err(error) => {
                    wrong = Some((id, error.to_string()));
                    break;
                }
            };
            if committed != told {
                wrong = Some((
                    id,
                    format!("a client was told committed = {told}, and it is {committed}"),
                ));
            }
        }
        for id in self.oracle.all_committed() {
            let found = running.store.find(id).ok().flatten().and_then(|found| found.stored());
            if !matches!(found, Some(Stored::Committed { .. })) {
                let what = format!("a branch committed, and the coordinator has {found:?}");
                wrong = Some((id, what));
            }
        }
        if let Some((id, what)) = wrong {
            self.oracle.violated(Some(id), what);
        }
    }

    /// Nothing is left in doubt on any disk.
    fn check_leftovers(&mut self) {
        let mut left = Vec::new();
        if let Some(running) = &self.coordinator.running {
            let _ = running.store.live(|record| left.push(format!("a record of {}", record.id())));
        }
        for process in &self.participants {
            let Some(running) = &process.running else { continue };
            let index = process.index;
            let staged = store(Arc::clone(&running.reader)).staged(|id, _| {
                left.push(format!("staged branch of {id} at p{index}"));
                ControlFlow::Continue(())
            });
            if let Err(error) = staged {
                left.push(error.to_string());
            }
        }
        if !left.is_empty() {
            self.oracle.violated(None, format!("left on the disks: {left:?}"));
        }
    }

    fn check_balances(&mut self, moves: &[(usize, u64, i64)]) {
        let mut expected: BTreeMap<(usize, u64), i64> = BTreeMap::new();
        for (participant, account, amount) in moves {
            *expected.entry((*participant, *account)).or_default() += amount;
        }
        for process in &self.participants {
            let Some(running) = &process.running else { continue };
            for index in 0..self.swarm.accounts {
                let name = account(index);
                let moved = expected.get(&(process.index, index)).copied().unwrap_or(0);
                let expected = FIRST_BALANCE + moved;
                let held = running.reader.get(Table::Data, &data_key(&name)).ok().flatten();
                let held = held.and_then(|text| String::from_utf8(text).ok());
                if held.as_deref() != Some(expected.to_string().as_str()) {
                    let at = process.index;
                    let what =
                        format!("{name} at p{at} holds {held:?}, and should hold {expected}");
                    return self.oracle.violated(None, what);
                }
            }
        }
    }

    fn check_history(&mut self) {
        let Some(running) = &self.coordinator.running else { return };
        let mut outcomes = Vec::new();
        for (request, job) in self.requests.iter().filter(|(_, job)| !job.concluded) {
            let Ok(id) = request.parse() else { continue };
            let found = running.store.find_request(&id).ok().flatten();
            outcomes.push((job.ticket, found));
        }
        for (id, job) in self.interactive.iter().filter(|(_, job)| !job.concluded) {
            outcomes.push((job.ticket, running.store.find(*id).ok().flatten()));
        }
        for (ticket, found) in outcomes {
            let committed = found.and_then(|found| found.stored());
            let committed = matches!(committed, Some(Stored::Committed { .. }));
            let outcome = if committed { Outcome::Committed } else { Outcome::Aborted };
            self.history.finish(ticket, outcome);
        }
        for index in 0..self.swarm.participants {
            let Some(running) = &self.participants[index].running else { continue };
            for at in 0..self.swarm.registers {
                let value = running.reader.get(Table::Data, &data_key(&register(at)));
                let value = value.ok().flatten().and_then(|value| String::from_utf8(value).ok());
                let key = self.history.key(&format!("p{index}-{at}"));
                self.history.last(key, value.and_then(|value| value.parse().ok()));
            }
        }
        if let Err(violation) = handfast_history::check(&self.history) {
            self.oracle.violated(None, format!("not serializable: {violation}"));
        }
    }

    /// All sites.
    #[must_use]
    pub fn sites(&self) -> Vec<Site> {
        std::iter::once(Site::Coordinator)
            .chain((0..self.swarm.participants).map(Site::Participant))
            .chain((0..self.swarm.witnesses).map(Site::Witness))
            .collect()
    }
}
