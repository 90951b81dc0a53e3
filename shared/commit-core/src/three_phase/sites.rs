//! Who votes: the coordinator, the participants and the witnesses, fixed in PREPARE.

use std::fmt;

use crate::id::{Incarnation, ParticipantName};
use crate::mutants::{Mutant, mutant};

/// A site's place among the voting sites of one transaction: the coordinator is 0, then the participants
/// follow in the order of their names, then the witnesses in the order of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteNumber(pub u16);

impl SiteNumber {
    /// The coordinator of the transaction.
    pub const COORDINATOR: SiteNumber = SiteNumber(0);

    fn of(index: usize) -> Self {
        // At most 256 participants (limits) and the witnesses of one configuration.
        Self(u16::try_from(index).unwrap_or(u16::MAX))
    }
}

/// Whom a site is known as.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SiteName {
    /// The coordinator that owns the transaction's slot.
    Coordinator,
    /// A participant.
    Participant(ParticipantName),
    /// A coordinator's process in the role of a witness.
    Witness(ParticipantName),
}

impl fmt::Display for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator => f.write_str("the coordinator"),
            Self::Participant(name) => name.fmt(f),
            Self::Witness(name) => write!(f, "witness {name}"),
        }
    }
}

impl fmt::Debug for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A witness: it votes about nothing, and remembers ballots so that fewer sites can be missing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Witness {
    /// Its name.
    pub name: ParticipantName,
    /// Where it answers.
    pub endpoint: String,
}

/// The voting sites of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sites {
    /// By name, and the log that each was asked to prepare under: another one that does not know the
    /// transaction has lost it, and is not initial.
    participants: Vec<(ParticipantName, Incarnation)>,
    witnesses: Vec<Witness>,
}

impl Sites {
    /// Of these participants and witnesses, and the coordinator.
    #[must_use]
    pub fn new(
        mut participants: Vec<(ParticipantName, Incarnation)>,
        mut witnesses: Vec<Witness>,
    ) -> Self {
        participants.sort();
        participants.dedup_by(|a, b| a.0 == b.0);
        witnesses.sort();
        witnesses.dedup_by(|a, b| a.name == b.name);
        Self { participants, witnesses }
    }

    /// The participants and their logs, by name.
    #[must_use]
    pub fn participants(&self) -> &[(ParticipantName, Incarnation)] {
        &self.participants
    }

    /// The witnesses, by name.
    #[must_use]
    pub fn witnesses(&self) -> &[Witness] {
        &self.witnesses
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        1 + self.participants.len() + self.witnesses.len()
    }

    /// How many of them decide: any two sets of so many have a site in common.
    #[must_use]
    pub fn quorum(&self) -> usize {
        if mutant(Mutant::QuorumIsAll) {
            return self.count();
        }
        self.count() / 2 + 1
    }

    /// All of them.
    pub fn numbers(&self) -> impl Iterator<Item = SiteNumber> + use<> {
        (0..self.count()).map(SiteNumber::of)
    }

    /// The site of this number; the coordinator for one that there is not.
    #[must_use]
    pub fn name(&self, number: SiteNumber) -> SiteName {
        let Some(index) = usize::from(number.0).checked_sub(1) else {
            return SiteName::Coordinator;
        };
        if let Some((name, _)) = self.participants.get(index) {
            return SiteName::Participant(name.clone());
        }
        let witness = self.witnesses.get(index - self.participants.len());
        witness.map_or(SiteName::Coordinator, |witness| SiteName::Witness(witness.name.clone()))
    }

    /// The number of a site; `None` for one that has no voice in this transaction.
    #[must_use]
    pub fn number(&self, name: &SiteName) -> Option<SiteNumber> {
        let index = match name {
            SiteName::Coordinator => 0,
            SiteName::Participant(name) => {
                1 + self.participants.iter().position(|(known, _)| known == name)?
            }
            SiteName::Witness(name) => {
                let index = self.witnesses.iter().position(|known| known.name == *name)?;
                1 + self.participants.len() + index
            }
        };
        Some(SiteNumber::of(index))
    }

    /// The number of a site that has a voice beside this one: nobody gives itself orders.
    #[must_use]
    pub fn other(&self, name: &SiteName, own: SiteNumber) -> Option<SiteNumber> {
        self.number(name).filter(|number| *number != own)
    }

    /// The log that a participant was asked to prepare under; 0 for the others.
    #[must_use]
    pub fn incarnation(&self, number: SiteNumber) -> Incarnation {
        let index = usize::from(number.0).checked_sub(1);
        let participant = index.and_then(|index| self.participants.get(index));
        participant.map_or(Incarnation(0), |(_, incarnation)| *incarnation)
    }

    /// Names in one line, for people.
    pub(crate) fn list(&self, numbers: &[SiteNumber]) -> String {
        let names: Vec<_> = numbers.iter().map(|number| self.name(*number).to_string()).collect();
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites(participants: &[&str], witnesses: &[&str]) -> Sites {
        let name = |text: &&str| text.parse::<ParticipantName>().expect("a name");
        let witness =
            |text: &&str| Witness { name: name(text), endpoint: format!("http://{text}") };
        Sites::new(
            participants.iter().map(|text| (name(text), Incarnation(7))).collect(),
            witnesses.iter().map(witness).collect(),
        )
    }

    #[test]
    fn every_site_has_one_number_whatever_the_order_they_are_named_in() {
        let sites = sites(&["p2", "p1"], &["w"]);
        let names: Vec<_> = sites.numbers().map(|number| sites.name(number).to_string()).collect();
        assert_eq!(names, ["the coordinator", "p1", "p2", "witness w"]);
        for number in sites.numbers() {
            assert_eq!(sites.number(&sites.name(number)), Some(number));
        }
        assert_eq!(sites.number(&SiteName::Participant("w".parse().expect("a name"))), None);
        assert_eq!(sites.incarnation(SiteNumber(2)), Incarnation(7));
        assert_eq!(sites.incarnation(SiteNumber(3)), Incarnation(0));
        assert_eq!(sites.name(SiteNumber(9)), SiteName::Coordinator);
    }

    #[test]
    fn two_quorums_have_a_site_in_common() {
        for participants in [vec!["a"], vec!["a", "b"], vec!["a", "b", "c"]] {
            for witnesses in [vec![], vec!["v"], vec!["v", "w"]] {
                let sites = sites(&participants, &witnesses);
                assert!(2 * sites.quorum() > sites.count(), "{sites:?}");
                assert!(2 * (sites.quorum() - 1) <= sites.count(), "{sites:?}");
            }
        }
    }
}
