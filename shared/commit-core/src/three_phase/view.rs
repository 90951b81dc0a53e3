//! What people are shown of a voting site: where it stands, who leads, and who is missing.

use super::ballot::Ballot;
use super::leader::Stage;
use super::seat::Seat;
use super::site::Standing;
use super::sites::{SiteName, Sites};

/// An undecided voting site, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteView {
    /// Where it stands.
    pub standing: Standing,
    /// The last ballot that it joined.
    pub promised: Ballot,
    /// The last ballot in which it moved.
    pub accepted: Ballot,
    /// Who leads the ballot that it joined.
    pub leader: SiteName,
    /// The ballot that it leads itself, if it leads one; still when a higher one has been joined, because its moves
    /// may yet turn out to be a quorum's.
    pub leads: Option<Ballot>,
    /// When it leads itself: the sites of which it has not heard in the present stage of the ballot.
    pub missing: Vec<SiteName>,
    /// When it leads itself: how many of them it has to hear of to go on.
    pub wanted: usize,
    /// When it leads itself: true when the sites are being moved, false when they are asked where they stand.
    pub moving: bool,
}

impl SiteView {
    pub(crate) fn of(seat: &Seat, sites: &Sites) -> Self {
        let leader = seat.leader.as_ref().filter(|leader| !leader.preempted);
        let silent = leader.map(|leader| leader.silent(sites)).unwrap_or_default();
        let answered = sites.count() - silent.len();
        Self {
            standing: seat.site.standing,
            promised: seat.site.promised,
            accepted: seat.site.accepted,
            leader: sites.name(seat.site.promised.site()),
            leads: seat.leader.as_ref().map(|leader| leader.ballot),
            wanted: leader.map_or(0, |_| sites.quorum().saturating_sub(answered)),
            missing: silent.into_iter().map(|number| sites.name(number)).collect(),
            moving: leader.is_some_and(|leader| matches!(leader.stage, Stage::Moving { .. })),
        }
    }
}
