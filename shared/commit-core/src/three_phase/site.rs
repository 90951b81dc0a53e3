//! One voting site's memory of one transaction: the last ballot that it joined, the last in which it moved,
//! and where to. Participants, coordinators and witnesses keep the same three.
//!
//! This is an acceptor of single-decree Paxos whose only values are commit and abort (Gray and Lamport 2006,
//! section 4; Keidar and Dolev 1998 for the same in the words of three-phase commit). Whatever it changes is
//! durable before it is told.

use super::ballot::Ballot;
use crate::message::{Order, Report};
use crate::mutants::{Mutant, mutant};

/// Where an undecided site stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// It has voted, or is a witness, and has not moved.
    Waiting,
    /// It has moved towards commit.
    PreCommitted,
    /// It has moved towards abort.
    PreAborted,
}

impl Standing {
    /// The move of a ballot that wants this decision.
    #[must_use]
    pub fn towards(commit: bool) -> Self {
        if commit { Self::PreCommitted } else { Self::PreAborted }
    }
}

/// What an undecided site keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// The last ballot that it joined: it will have nothing to do with a lower one.
    pub promised: Ballot,
    /// The last ballot in which it moved.
    pub accepted: Ballot,
    /// Where to.
    pub standing: Standing,
}

/// What came of a leader's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Obeyed {
    /// The site is another one now: that has to be durable before it is told.
    Anew,
    /// It had been done before.
    Before,
    /// A higher ballot has been joined.
    No,
}

impl Site {
    /// Of one that has voted: the vote is the promise for the first ballot.
    pub const VOTED: Site =
        Site { promised: Ballot::FIRST, accepted: Ballot::NONE, standing: Standing::Waiting };
    /// Of a witness that has not been asked. It is waiting, and never initial: it has no vote that it could
    /// still refuse, and if it answered "aborted" it could undo a commit.
    pub const UNASKED: Site =
        Site { promised: Ballot::NONE, accepted: Ballot::NONE, standing: Standing::Waiting };
    /// Of the first coordinator when all have voted prepared.
    pub const ALL_VOTED: Site =
        Site { promised: Ballot::FIRST, accepted: Ballot::FIRST, standing: Standing::PreCommitted };

    /// An order of a leader to an undecided site: to join or to move. What came of it, and what it answers;
    /// `None` for another order.
    pub(crate) fn hear(&mut self, order: Order) -> Option<(Obeyed, Report)> {
        let (ballot, obeyed) = match order {
            Order::Join { ballot } => (ballot, self.join(ballot)),
            Order::PreCommit { ballot } => (ballot, self.move_to(ballot, Standing::PreCommitted)),
            Order::PreAbort { ballot } => (ballot, self.move_to(ballot, Standing::PreAborted)),
            Order::Decided { .. } | Order::Forget => return None,
        };
        let report = match (obeyed, order) {
            (Obeyed::No, _) => Report::Refused { ballot, promised: self.promised },
            (_, Order::Join { .. }) => {
                Report::Joined { ballot, accepted: self.accepted, standing: self.standing }
            }
            _ => Report::Moved { ballot },
        };
        Some((obeyed, report))
    }

    /// Joins a ballot, unless a higher one has been joined.
    pub(crate) fn join(&mut self, ballot: Ballot) -> Obeyed {
        if ballot > self.promised {
            self.promised = ballot;
            Obeyed::Anew
        } else if ballot == self.promised {
            Obeyed::Before
        } else {
            Obeyed::No
        }
    }

    /// Moves in a ballot, unless a higher one has been joined.
    pub(crate) fn move_to(&mut self, ballot: Ballot, standing: Standing) -> Obeyed {
        if ballot < self.promised && !mutant(Mutant::OldBallotObeyed) {
            return Obeyed::No;
        }
        if ballot == self.accepted {
            // A ballot has one leader, which says one thing in it.
            return if standing == self.standing { Obeyed::Before } else { Obeyed::No };
        }
        self.promised = ballot;
        if !mutant(Mutant::AcceptedNotMoved) {
            self.accepted = ballot;
        }
        self.standing = standing;
        Obeyed::Anew
    }
}

#[cfg(test)]
mod tests {
    use super::super::sites::SiteNumber;
    use super::*;

    fn ballot(round: u64, site: u16) -> Ballot {
        (1..round)
            .try_fold(Ballot::NONE, |ballot, _| ballot.next(SiteNumber(0)))
            .and_then(|ballot| ballot.next(SiteNumber(site)))
            .expect("few rounds")
    }

    #[test]
    fn a_promise_holds_against_every_lower_ballot() {
        let mut site = Site::VOTED;
        assert_eq!(site.join(ballot(3, 1)), Obeyed::Anew);
        assert_eq!(site.join(ballot(3, 1)), Obeyed::Before);
        for lower in [Ballot::FIRST, ballot(2, 2), ballot(3, 0)] {
            let before = site;
            assert_eq!(site.join(lower), Obeyed::No);
            assert_eq!(site.move_to(lower, Standing::PreCommitted), Obeyed::No);
            assert_eq!(site, before);
        }
    }

    #[test]
    fn a_move_is_a_promise_too() {
        let mut site = Site::VOTED;
        assert_eq!(site.move_to(ballot(2, 1), Standing::PreAborted), Obeyed::Anew);
        assert_eq!((site.promised, site.accepted), (ballot(2, 1), ballot(2, 1)));
        assert_eq!(site.move_to(ballot(2, 1), Standing::PreAborted), Obeyed::Before);
        assert_eq!(site.move_to(ballot(2, 1), Standing::PreCommitted), Obeyed::No);
        assert_eq!(site.join(ballot(2, 0)), Obeyed::No);
        assert_eq!(site.standing, Standing::PreAborted);
    }

    #[test]
    fn a_witness_joins_the_first_ballot_by_moving_in_it() {
        let mut site = Site::UNASKED;
        assert_eq!(site.move_to(Ballot::FIRST, Standing::PreCommitted), Obeyed::Anew);
        assert_eq!(site, Site::ALL_VOTED);
    }
}
