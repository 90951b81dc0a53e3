//! A site and the ballot that it leads, if it leads one: what orders and reports make of the two.
//!
//! The participant and the coordinator sit in the same seat; what is around it (records, resources, clients,
//! links) is theirs. Nothing here is told to anybody before its owner has made it durable.

use super::ballot::Ballot;
use super::leader::{Leader, Stage};
use super::site::{Obeyed, Site, Standing};
use super::sites::{SiteNumber, Sites};
use crate::id::TransactionId;
use crate::marks::{Mark, mark};
use crate::message::{Order, Report, ToSite};
use crate::mutants::{Mutant, mutant};
use crate::step::Position;

/// What a site waits for that has heard of the last ballot there is, for people. Only a site that makes ballots up
/// names it; whoever has not heard of it goes on leading.
pub(crate) const NO_BALLOT_LEFT: &str =
    "another site to end it: no ballot is left above the one that was named";

/// An undecided voting site.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Seat {
    /// Which of the sites it is.
    pub(crate) own: SiteNumber,
    pub(crate) site: Site,
    /// Where the log says so: whatever is said of the site waits for that.
    pub(crate) at: Position,
    pub(crate) leader: Option<Leader>,
    /// The highest ballot that others have spoken of. It need not be durable: the next one that this site
    /// leads is, before anybody hears of it.
    pub(crate) seen: Ballot,
}

/// What a report leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing yet.
    None,
    /// The site has moved, in the ballot that it leads: that is made durable, and then everybody is told to.
    Moving(bool),
    /// Decided, for ever.
    Decided(bool),
    /// A higher ballot has been joined somewhere.
    Preempted,
}

impl Seat {
    /// Of the site with this number, as its log has it.
    pub(crate) fn new(own: SiteNumber, site: Site, at: Position) -> Self {
        Self { own, site, at, leader: None, seen: Ballot::NONE }
    }

    /// Of the first coordinator, when everybody has voted prepared.
    pub(crate) fn first() -> Self {
        let own = SiteNumber::COORDINATOR;
        Self { leader: Some(Leader::first()), ..Self::new(own, Site::ALL_VOTED, Position(0)) }
    }

    /// An order of a leader to an undecided site: to join or to move. What it answers, and whether that has
    /// to be made durable first; `None` for another order.
    pub(crate) fn hear(&mut self, order: Order) -> Option<(bool, Report)> {
        let ballot = order.ballot()?;
        let (obeyed, report) = self.site.hear(order)?;
        self.seen = self.seen.max(ballot);
        if obeyed == Obeyed::No {
            mark(Mark::ThreeRefused);
            return Some((false, report));
        }
        if self.leader.as_ref().is_some_and(|leader| leader.ballot < ballot) {
            self.preempt();
        }
        if matches!(order, Order::Join { .. }) {
            mark(Mark::ThreeJoined);
        }
        Some((obeyed == Obeyed::Anew, report))
    }

    /// Begins an election, above everything that this site has seen. Returns false when no ballot is left.
    pub(crate) fn elect(&mut self) -> bool {
        let Some(ballot) = self.seen.max(self.site.promised).next(self.own) else {
            return false;
        };
        mark(Mark::ThreeElected);
        self.site.join(ballot);
        self.leader = Some(Leader::elect(ballot, self.own, &self.site));
        true
    }

    /// True while it leads a ballot that may still come to something by being repeated.
    pub(crate) fn leads(&self) -> bool {
        self.leader.as_ref().is_some_and(|leader| !leader.preempted)
    }

    /// Whether somebody has led an election that this site has joined, this site itself as well. If it has to lead one
    /// now, that has come to no end.
    pub(crate) fn has_seen_election(&self) -> bool {
        self.site.promised > Ballot::FIRST
    }

    /// Whether a ballot is one that this site has led: it joins its own before it asks anybody.
    fn has_led(&self, ballot: Ballot) -> bool {
        ballot.site() == self.own && ballot <= self.site.promised
    }

    /// Another site leads from here on. Acknowledgements of moves still count.
    fn preempt(&mut self) {
        match &mut self.leader {
            Some(Leader { stage: Stage::Asking(_), .. }) | None => self.leader = None,
            Some(leader) => leader.preempted = true,
        }
    }

    /// What a site has to say to an order of ours.
    pub(crate) fn heard(&mut self, sites: &Sites, from: SiteNumber, report: Report) -> Progress {
        if let Report::Known { committed } | Report::Acknowledged { committed } = report {
            mark(if committed { Mark::ThreeKnownCommitted } else { Mark::ThreeKnownAborted });
            return Progress::Decided(committed);
        }
        if report == Report::Unvoted {
            mark(Mark::ThreeUnvoted);
            return Progress::Decided(false);
        }
        let ours = self.leader.as_ref().map(|leader| leader.ballot);
        match report {
            Report::Joined { ballot, accepted, standing } if Some(ballot) == ours => {
                let direction = self
                    .leader
                    .as_mut()
                    .and_then(|leader| leader.joined(sites, from, accepted, standing));
                match direction {
                    Some(commit) => self.go(commit),
                    None => Progress::None,
                }
            }
            Report::Moved { ballot } if Some(ballot) == ours => {
                match self.leader.as_mut().and_then(|leader| leader.moved(sites, from)) {
                    Some(commit) => {
                        mark(Mark::ThreeQuorumMoved);
                        Progress::Decided(commit)
                    }
                    None => Progress::None,
                }
            }
            // Nobody has refused what was never asked. An earlier ballot of this site's still tells how high the
            // next one has to be.
            Report::Refused { ballot, promised } if self.has_led(ballot) && promised > ballot => {
                self.seen = self.seen.max(promised);
                if Some(ballot) != ours {
                    return Progress::None;
                }
                mark(Mark::ThreePreempted);
                self.preempt();
                Progress::Preempted
            }
            // Of another ballot, or of nothing.
            _ => {
                mark(Mark::ThreeReportPassed);
                Progress::None
            }
        }
    }

    /// A quorum has answered: this site moves first, and then the others.
    pub(crate) fn go(&mut self, commit: bool) -> Progress {
        let own = self.own;
        let Some(leader) = self.leader.as_mut() else {
            return Progress::None;
        };
        mark(if commit { Mark::ThreeMovesToCommit } else { Mark::ThreeMovesToAbort });
        leader.move_all(commit, own);
        let ballot = leader.ballot;
        if self.site.move_to(ballot, Standing::towards(commit)) == Obeyed::No {
            unreachable!("a site that has joined a higher ballot leads none: see preempt()")
        }
        Progress::Moving(commit)
    }

    /// What the answers so far would lead to, for the mutant that does not wait for a quorum of them.
    pub(crate) fn go_without_quorum(&mut self) -> Option<Progress> {
        let asking = matches!(&self.leader, Some(Leader { stage: Stage::Asking(_), .. }));
        (mutant(Mutant::AbortsForLackOfAnswers) && asking).then(|| self.go(false))
    }

    /// What the site that leads has to say now, to those that have not answered it.
    pub(crate) fn orders(&self, id: TransactionId, sites: &Sites) -> Vec<(SiteNumber, ToSite)> {
        let Some(leader) = self.leader.as_ref().filter(|leader| !leader.preempted) else {
            return Vec::new();
        };
        let ballot = leader.ballot;
        let order = match &leader.stage {
            Stage::Asking(_) => Order::Join { ballot },
            Stage::Moving { commit: true, .. } => Order::PreCommit { ballot },
            Stage::Moving { commit: false, .. } => Order::PreAbort { ballot },
        };
        let silent = leader.silent(sites).into_iter();
        silent.map(|number| (number, to_site(id, sites, number, order))).collect()
    }

    /// What it waits for, for people.
    pub(crate) fn waiting_for(&self, sites: &Sites) -> String {
        let Some(leader) = &self.leader else {
            let leader = sites.name(self.site.promised.site());
            return format!("{leader}, which leads ballot {}", self.site.promised);
        };
        let silent = leader.silent(sites);
        format!(
            "a quorum of {} of {} sites in ballot {}; not heard of: {}",
            sites.quorum(),
            sites.count(),
            leader.ballot,
            sites.list(&silent)
        )
    }
}

/// An order to one of the sites. It names the log that the site voted under; the coordinator's, which every
/// site knows by its own record, is put in by whoever sends it.
pub(crate) fn to_site(
    id: TransactionId,
    sites: &Sites,
    number: SiteNumber,
    order: Order,
) -> ToSite {
    ToSite { id, incarnation: sites.incarnation(number), order }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Epoch, Incarnation, Protocol, Sequence, Slot};

    fn four() -> Sites {
        let participants = ["a", "b", "c"].map(|name| {
            let name = name.parse().expect("a name");
            (name, Incarnation(1))
        });
        Sites::new(participants.to_vec(), Vec::new())
    }

    fn voted(number: u16) -> Seat {
        Seat::new(SiteNumber(number), Site::VOTED, Position(0))
    }

    fn joined(ballot: Ballot) -> Report {
        Report::Joined { ballot, accepted: Ballot::NONE, standing: Standing::Waiting }
    }

    fn orders(seat: &Seat) -> Vec<SiteNumber> {
        let id = TransactionId::new(Slot(0), Protocol::ThreePhase, Epoch(1), Sequence(1));
        seat.orders(id, &four()).into_iter().map(|(number, _)| number).collect()
    }

    #[test]
    fn a_leader_that_has_joined_a_higher_ballot_asks_nobody_any_more() {
        let (mut one, mut two) = (voted(1), voted(2));
        assert!(one.elect() && two.elect());
        let higher = two.site.promised;
        assert_eq!(orders(&one), [0, 2, 3].map(SiteNumber));
        assert!(one.hear(Order::Join { ballot: higher }).is_some_and(|(anew, _)| anew));
        assert!(!one.leads() && orders(&one).is_empty());
        let late = one.heard(&four(), SiteNumber(3), joined(one.site.promised));
        assert_eq!(late, Progress::None);
        assert!(one.elect() && one.site.promised > higher);
    }

    #[test]
    fn moves_that_a_quorum_has_made_count_whoever_has_asked_since() {
        let mut first = Seat::first();
        let ballot = Ballot::FIRST;
        first.heard(&four(), SiteNumber(1), Report::Moved { ballot });
        let higher = Ballot::FIRST.next(SiteNumber(2)).expect("a round is left");
        first.hear(Order::Join { ballot: higher });
        assert!(!first.leads());
        let last = first.heard(&four(), SiteNumber(3), Report::Moved { ballot });
        assert_eq!(last, Progress::Decided(true));
    }

    #[test]
    fn a_refusal_of_an_earlier_ballot_is_only_remembered() {
        let mut seat = voted(1);
        seat.elect();
        let old = seat.site.promised;
        seat.elect();
        let high = Ballot::from_number(9 << 16);
        let refused = Report::Refused { ballot: old, promised: high };
        assert_eq!(seat.heard(&four(), SiteNumber(2), refused), Progress::None);
        assert!(seat.leads());
        let refused = Report::Refused { ballot: seat.site.promised, promised: high };
        assert_eq!(seat.heard(&four(), SiteNumber(2), refused), Progress::Preempted);
        assert!(seat.elect() && seat.site.promised > high);
    }

    #[test]
    fn a_ballot_that_was_never_led_is_refused_by_nobody() {
        let mut seat = voted(1);
        seat.elect();
        let last = Ballot::from_number(u64::MAX);
        let other = Ballot::FIRST.next(SiteNumber(2)).expect("a round is left");
        let yet_to_be = seat.site.promised.next(SiteNumber(1)).expect("a round is left");
        for ballot in [Ballot::FIRST, other, yet_to_be] {
            let refused = Report::Refused { ballot, promised: last };
            assert_eq!(seat.heard(&four(), SiteNumber(2), refused), Progress::None);
        }
        assert!(seat.leads() && seat.elect(), "a ballot is left");
    }
}
