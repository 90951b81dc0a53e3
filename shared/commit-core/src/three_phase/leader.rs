//! Leading a transaction to its end: the first coordinator in ballot 1, and any site afterwards.
//!
//! A leader decides nothing by itself. It asks who has moved how far (rule 6), moves a quorum towards what the
//! highest ballot among the answers wanted (rule 7), and knows the decision when a quorum has moved (rule 4).
//! No clock is here: time repeats messages and begins elections, and does nothing else.

use std::collections::{BTreeMap, BTreeSet};

use super::ballot::Ballot;
use super::site::{Site, Standing};
use super::sites::{SiteNumber, Sites};
use crate::marks::{Mark, mark};
use crate::mutants::{Mutant, mutant};

/// One ballot, seen by the site that leads it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Leader {
    pub(crate) ballot: Ballot,
    pub(crate) stage: Stage,
    /// A site has joined a higher ballot: no more messages are sent in this one. Acknowledgements that are
    /// on their way count all the same; what a quorum has moved to is decided, whoever asks later.
    pub(crate) preempted: bool,
}

/// How far a ballot has come.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// The sites are asked where they stand; those that have answered, and what.
    Asking(BTreeMap<SiteNumber, (Ballot, Standing)>),
    /// The sites are being moved; those that have.
    Moving { commit: bool, moved: BTreeSet<SiteNumber> },
}

impl Leader {
    /// The first coordinator, which has moved itself: everybody has promised by voting.
    pub(crate) fn first() -> Self {
        Self {
            ballot: Ballot::FIRST,
            stage: Stage::Moving { commit: true, moved: BTreeSet::from([SiteNumber::COORDINATOR]) },
            preempted: false,
        }
    }

    /// An election in a ballot that this site itself has joined.
    pub(crate) fn elect(ballot: Ballot, own: SiteNumber, site: &Site) -> Self {
        let answers = BTreeMap::from([(own, (site.accepted, site.standing))]);
        Self { ballot, stage: Stage::Asking(answers), preempted: false }
    }

    /// A site has joined. Returns what to move towards once a quorum has.
    pub(crate) fn joined(
        &mut self,
        sites: &Sites,
        from: SiteNumber,
        accepted: Ballot,
        standing: Standing,
    ) -> Option<bool> {
        let Stage::Asking(answers) = &mut self.stage else {
            return None;
        };
        answers.insert(from, (accepted, standing));
        (answers.len() >= sites.quorum()).then(|| Self::direction(answers))
    }

    /// Rule 7: what the highest ballot among the answers wanted; abort if there is none.
    fn direction(answers: &BTreeMap<SiteNumber, (Ballot, Standing)>) -> bool {
        if mutant(Mutant::AnswersNotHeard) {
            return false;
        }
        if mutant(Mutant::AnyPreCommitCounts) {
            return answers.values().any(|(_, standing)| *standing == Standing::PreCommitted);
        }
        let highest = answers.values().max_by_key(|(accepted, _)| *accepted);
        let commit = highest.is_some_and(|(accepted, standing)| {
            *accepted > Ballot::NONE && *standing == Standing::PreCommitted
        });
        let other = |standing: &Standing| match standing {
            Standing::Waiting => false,
            Standing::PreCommitted => !commit,
            Standing::PreAborted => commit,
        };
        if answers.values().any(|(_, standing)| other(standing)) {
            mark(Mark::ThreeHighestCounts);
        }
        commit
    }

    /// Goes on to move the sites; this one has moved itself.
    pub(crate) fn move_all(&mut self, commit: bool, own: SiteNumber) {
        self.stage = Stage::Moving { commit, moved: BTreeSet::from([own]) };
    }

    /// A site has moved. Returns the decision once a quorum has.
    pub(crate) fn moved(&mut self, sites: &Sites, from: SiteNumber) -> Option<bool> {
        let Stage::Moving { commit, moved } = &mut self.stage else {
            return None;
        };
        moved.insert(from);
        let needed = sites.quorum() - usize::from(mutant(Mutant::QuorumLacksOne));
        (moved.len() >= needed).then_some(*commit)
    }

    /// Those that have not answered in the present stage.
    pub(crate) fn silent(&self, sites: &Sites) -> Vec<SiteNumber> {
        let has_answered = |number: &SiteNumber| match &self.stage {
            Stage::Asking(answers) => answers.contains_key(number),
            Stage::Moving { moved, .. } => moved.contains(number),
        };
        sites.numbers().filter(|number| !has_answered(number)).collect()
    }
}

/// A decision on its way to every site. When all of them have it on their disks it may be forgotten, and
/// not before: a site that came back and found nobody who remembers would be told "aborted".
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Delivery {
    acknowledged: BTreeSet<SiteNumber>,
}

impl Delivery {
    /// A site has it on its disk.
    pub(crate) fn acknowledged(&mut self, site: SiteNumber) {
        self.acknowledged.insert(site);
    }

    /// Whether it has said so.
    pub(crate) fn has_acknowledged(&self, site: SiteNumber) -> bool {
        self.acknowledged.contains(&site)
    }

    /// Those that have not said so.
    pub(crate) fn silent(&self, sites: &Sites) -> Vec<SiteNumber> {
        if mutant(Mutant::ForgetAtQuorum) && self.acknowledged.len() >= sites.quorum() {
            return Vec::new();
        }
        sites.numbers().filter(|number| !self.has_acknowledged(*number)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Incarnation;

    fn five() -> Sites {
        let participants = ["a", "b", "c", "d"].map(|name| {
            let name = name.parse().expect("a name");
            (name, Incarnation(1))
        });
        Sites::new(participants.to_vec(), Vec::new())
    }

    fn ballot(round: u64) -> Ballot {
        (1..=round)
            .try_fold(Ballot::NONE, |ballot, _| ballot.next(SiteNumber(1)))
            .expect("few rounds")
    }

    fn ask(answers: &[(Ballot, Standing)]) -> Option<bool> {
        let own = Site { promised: ballot(9), ..Site::VOTED };
        let mut leader = Leader::elect(ballot(9), SiteNumber(1), &own);
        let mut result = None;
        for (number, (accepted, standing)) in (2..).zip(answers) {
            result = leader.joined(&five(), SiteNumber(number), *accepted, *standing);
        }
        result
    }

    #[test]
    fn fewer_than_a_quorum_of_answers_is_no_answer() {
        assert_eq!(ask(&[(ballot(1), Standing::PreCommitted)]), None);
        let waiting = (Ballot::NONE, Standing::Waiting);
        assert_eq!(ask(&[waiting, waiting]), Some(false));
    }

    #[test]
    fn the_highest_ballot_among_the_answers_wins() {
        let committing = |round| (ballot(round), Standing::PreCommitted);
        let aborting = |round| (ballot(round), Standing::PreAborted);
        let waiting = (Ballot::NONE, Standing::Waiting);
        assert_eq!(ask(&[committing(1), waiting]), Some(true));
        assert_eq!(ask(&[committing(1), aborting(2)]), Some(false));
        assert_eq!(ask(&[aborting(2), committing(3)]), Some(true));
    }

    #[test]
    fn the_same_site_counts_once() {
        let mut leader = Leader::first();
        assert_eq!(leader.moved(&five(), SiteNumber(2)), None);
        assert_eq!(leader.moved(&five(), SiteNumber(2)), None);
        assert_eq!(leader.silent(&five()), [1, 3, 4].map(SiteNumber));
        assert_eq!(leader.moved(&five(), SiteNumber(4)), Some(true));
    }

    #[test]
    fn a_decision_waits_for_everybody() {
        let mut delivery = Delivery::default();
        for number in [0, 1, 2, 4] {
            delivery.acknowledged(SiteNumber(number));
        }
        assert_eq!(delivery.silent(&five()), [SiteNumber(3)]);
        delivery.acknowledged(SiteNumber(3));
        assert!(delivery.silent(&five()).is_empty());
    }
}
