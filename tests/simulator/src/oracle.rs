//! What must always be true.
//!
//! The oracle hears of everything that leaves a process and of everything that is durable, and of nothing
//! else: it knows no more than an outside observer with access to all disks. The first thing that is wrong
//! is kept as the violation; the run ends there.

use std::collections::BTreeMap;

use handfast_commit_core::id::TransactionId;
use handfast_commit_core::two_phase::participant::Ending;

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The transaction concerned.
    pub id: Option<TransactionId>,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.id {
            Some(id) => write!(f, "{id}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// What is known of one transaction.
#[derive(Debug, Default)]
struct Known {
    /// What a client was told.
    told: Option<bool>,
    /// How branches ended, by participant.
    endings: BTreeMap<usize, Ending>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Oracle {
    violation: Option<Violation>,
    transactions: BTreeMap<TransactionId, Known>,
    /// A disk was lost, or somebody broke the protocol on purpose: alarms are right, and promises that
    /// need that disk cannot be kept.
    pub excused: bool,
    told_committed: u64,
    told_aborted: u64,
}

impl Oracle {
    /// The first thing that was wrong.
    #[must_use]
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Something is wrong. The first time counts.
    pub fn violated(&mut self, id: Option<TransactionId>, what: impl Into<String>) {
        if self.violation.is_none() {
            self.violation = Some(Violation { id, what: what.into() });
        }
    }

    /// A client is told an outcome. It must never be told another one.
    pub fn told(&mut self, id: TransactionId, committed: bool) {
        let word = |committed| if committed { "committed" } else { "aborted" };
        let known = self.transactions.entry(id).or_default();
        match known.told {
            Some(before) if before != committed => {
                let what =
                    format!("a client was told {}, and now {}", word(before), word(committed));
                return self.violated(Some(id), what);
            }
            Some(_) => return,
            None => known.told = Some(committed),
        }
        if committed {
            self.told_committed += 1;
        } else {
            self.told_aborted += 1;
        }
        self.agree(id);
    }

    /// A branch has ended, durably.
    pub fn ended(&mut self, participant: usize, id: TransactionId, ending: Ending) {
        let known = self.transactions.entry(id).or_default();
        match known.endings.insert(participant, ending) {
            Some(before) if before != ending && !self.excused => {
                let what =
                    format!("p{participant} ended its branch {before:?}, and now {ending:?}");
                return self.violated(Some(id), what);
            }
            _ => {}
        }
        self.agree(id);
    }

    /// Atomicity: no two branches end differently, and nobody is told otherwise.
    fn agree(&mut self, id: TransactionId) {
        if self.excused {
            return;
        }
        let Some(known) = self.transactions.get(&id) else { return };
        let of = |ending| known.endings.iter().find(|(_, e)| **e == ending).map(|(p, _)| *p);
        let (committed, aborted) = (of(Ending::Committed), of(Ending::Aborted));
        let what = match (committed, aborted, known.told) {
            (Some(c), Some(a), _) => format!("committed at p{c} and aborted at p{a}"),
            (Some(c), _, Some(false)) => format!("a client was told aborted; committed at p{c}"),
            (_, Some(a), Some(true)) => format!("a client was told committed; aborted at p{a}"),
            _ => return,
        };
        self.violated(Some(id), what);
    }

    /// What a client was told of a transaction.
    #[must_use]
    pub fn told_of(&self, id: TransactionId) -> Option<bool> {
        self.transactions.get(&id)?.told
    }

    /// Whether some branch is known to have committed.
    #[must_use]
    pub fn committed_somewhere(&self, id: TransactionId) -> bool {
        self.transactions
            .get(&id)
            .is_some_and(|known| known.endings.values().any(|e| *e == Ending::Committed))
    }

    /// Everything that was told: the transactions, and whether they committed.
    pub fn all_told(&self) -> impl Iterator<Item = (TransactionId, bool)> + '_ {
        self.transactions.iter().filter_map(|(id, known)| Some((*id, known.told?)))
    }

    /// The transactions of which some branch committed.
    pub fn all_committed(&self) -> impl Iterator<Item = TransactionId> + '_ {
        self.transactions
            .iter()
            .filter(|(_, known)| known.endings.values().any(|e| *e == Ending::Committed))
            .map(|(id, _)| *id)
    }

    /// How many transactions clients were told committed and aborted.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        (self.told_committed, self.told_aborted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> TransactionId {
        "0007-02-0000000001-0000000000000001".parse().expect("an id")
    }

    #[test]
    fn what_contradicts_is_a_violation() {
        let told = |first: bool, second: bool| {
            let mut oracle = Oracle::default();
            oracle.told(id(), first);
            oracle.told(id(), second);
            oracle.violation().is_some()
        };
        assert!(told(true, false) && told(false, true) && !told(true, true));
        let ended = |told: Option<bool>, endings: &[Ending]| {
            let mut oracle = Oracle::default();
            for (participant, ending) in endings.iter().enumerate() {
                oracle.ended(participant, id(), *ending);
            }
            if let Some(told) = told {
                oracle.told(id(), told);
            }
            oracle.violation().is_some()
        };
        use Ending::{Aborted, Committed, ReadOnly};
        assert!(ended(None, &[Committed, Aborted]));
        assert!(ended(Some(false), &[Committed]));
        assert!(ended(Some(true), &[Committed, Aborted]));
        assert!(!ended(Some(true), &[Committed, ReadOnly]));
        assert!(!ended(Some(false), &[Aborted, ReadOnly]));
    }

    #[test]
    fn a_branch_ends_once() {
        let mut oracle = Oracle::default();
        oracle.ended(0, id(), Ending::Aborted);
        oracle.ended(0, id(), Ending::Aborted);
        assert!(oracle.violation().is_none());
        oracle.ended(0, id(), Ending::Committed);
        assert!(oracle.violation().is_some());
    }
}
