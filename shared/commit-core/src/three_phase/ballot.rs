//! Ballots: the numbers of the attempts to end a transaction, ordered, and each of them one site's own.

use std::fmt;

use super::sites::SiteNumber;

/// An attempt to end a transaction: a round, and the site that leads it. No two sites ever lead the same
/// ballot, and a site leads none twice, because it makes a ballot durable before it asks anybody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ballot(u64);

impl Ballot {
    /// Before all ballots: of a site that has not moved, or has not been asked.
    pub const NONE: Ballot = Ballot(0);
    /// That of the first coordinator, which leads it without asking: the vote is the promise.
    pub const FIRST: Ballot = Ballot(1 << Self::SITE_BITS);

    const SITE_BITS: u32 = 16;

    /// The round, from 1; 0 for none.
    #[must_use]
    pub fn round(self) -> u64 {
        self.0 >> Self::SITE_BITS
    }

    /// The site that leads it.
    #[must_use]
    pub fn site(self) -> SiteNumber {
        SiteNumber((self.0 & ((1 << Self::SITE_BITS) - 1)) as u16)
    }

    /// The lowest ballot of `site` above this one; `None` when a peer has named the last round there is.
    #[must_use]
    pub fn next(self, site: SiteNumber) -> Option<Ballot> {
        let round = self.round() + 1;
        let rounds = u64::MAX >> Self::SITE_BITS;
        (round <= rounds).then_some(Ballot(round << Self::SITE_BITS | u64::from(site.0)))
    }

    /// As a number that sorts in the same way, for messages and records.
    #[must_use]
    pub fn to_number(self) -> u64 {
        self.0
    }

    /// From such a number.
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NONE => f.write_str("0"),
            ballot => write!(f, "{}.{}", ballot.round(), ballot.site().0),
        }
    }
}

impl fmt::Debug for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_round_is_above_every_site_of_an_earlier_one() {
        let next = |ballot: Ballot, site| ballot.next(SiteNumber(site)).expect("a round is left");
        assert!(Ballot::NONE < Ballot::FIRST);
        let two = next(Ballot::FIRST, u16::MAX);
        assert_eq!((two.round(), two.site()), (2, SiteNumber(u16::MAX)));
        let three = next(two, 0);
        assert!(Ballot::FIRST < two && two < three);
        assert!(next(Ballot::FIRST, 1) < next(Ballot::FIRST, 2));
        assert_eq!((Ballot::NONE.to_string(), three.to_string()), ("0".into(), "3.0".into()));
        assert_eq!(Ballot::from_number(three.to_number()), three);
    }

    /// Whatever a peer says, there is no overflow and no ballot that is not above it.
    #[test]
    fn the_last_round_has_no_next() {
        assert_eq!(Ballot::from_number(u64::MAX).next(SiteNumber(0)), None);
        let before = Ballot::from_number(u64::MAX - (1 << Ballot::SITE_BITS));
        assert!(before.next(SiteNumber(3)).is_some_and(|next| next > before));
    }
}
