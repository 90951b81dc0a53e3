//! The rules that three-phase commit adds: `pre_commit` may come, and may not, and decides nothing.
//!
//! Ballots and elections are the library's own, and have tests of their own. What is looked at here is that a
//! resource manager is none the worse for them.

use handfast_commit_core::message::{Order, Report};
use handfast_commit_core::three_phase::{Ballot, SiteNumber};

use super::Subject;
use super::site::{Seen, Site};

const PRE_COMMIT: Order = Order::PreCommit { ballot: Ballot::FIRST };

async fn moved<S: Subject>(site: &Site<'_, S>, number: u64, order: Order) -> Result<(), Seen> {
    match site.led(number, order).await? {
        Report::Moved { .. } => Ok(()),
        other => Err(format!("branch {number} should have moved, and reported {other:?}")),
    }
}

fn pre_abort() -> Result<Order, Seen> {
    let ballot = Ballot::FIRST.next(SiteNumber::COORDINATOR);
    ballot.map(|ballot| Order::PreAbort { ballot }).ok_or_else(|| "no ballot is left".to_owned())
}

pub(super) async fn pre_committed_commits<S: Subject>(site: &mut Site<'_, S>) -> Result<(), Seen> {
    site.three_phase();
    site.prepared(1, 1, 5).await?;
    for _ in 0..2 {
        moved(site, 1, PRE_COMMIT).await?;
    }
    site.shows(1, 0, "after the pre-commit").await?;
    site.holds(&[1], "after the pre-commit").await?;
    site.committed(1).await?;
    site.shows(1, 5, "after the commit").await?;
    site.holds(&[], "after the commit").await?;
    // A decision may be here before the pre-commit is.
    site.prepared(2, 1, 6).await?;
    site.committed(2).await?;
    site.shows(1, 11, "after a commit without a pre-commit").await
}

pub(super) async fn pre_committed_aborts<S: Subject>(site: &mut Site<'_, S>) -> Result<(), Seen> {
    site.three_phase();
    site.prepared(1, 1, 5).await?;
    moved(site, 1, PRE_COMMIT).await?;
    moved(site, 1, pre_abort()?).await?;
    site.holds(&[1], "after it was moved towards abort").await?;
    site.aborted(1).await?;
    site.holds(&[], "after the abort").await?;
    site.shows(1, 0, "after the abort").await?;
    site.prepared(2, 1, 6).await?;
    site.committed(2).await?;
    site.shows(1, 6, "after another branch's commit").await
}

pub(super) async fn pre_committed_survives<S: Subject>(site: &mut Site<'_, S>) -> Result<(), Seen> {
    site.three_phase();
    site.prepared(1, 1, 5).await?;
    site.prepared(2, 2, 7).await?;
    for number in [1, 2] {
        moved(site, number, PRE_COMMIT).await?;
    }
    site.crash().await?;
    site.holds(&[1, 2], "after a crash").await?;
    site.shows(1, 0, "after a crash").await?;
    site.committed(1).await?;
    site.shows(1, 5, "after the commit").await?;
    moved(site, 2, pre_abort()?).await?;
    site.aborted(2).await?;
    site.shows(2, 0, "after the abort").await?;
    site.crash().await?;
    site.holds(&[], "after another crash").await?;
    site.shows(1, 5, "after another crash").await
}

pub(super) async fn lost_pre_commit<S: Subject>(site: &mut Site<'_, S>) -> Result<(), Seen> {
    site.three_phase();
    site.prepared(1, 1, 5).await?;
    site.fail_next_write();
    if let Ok(report) = site.led(1, PRE_COMMIT).await {
        return Err(format!("{report:?} was reported although its record failed"));
    }
    site.crash().await?;
    site.holds(&[1], "after the crash").await?;
    match site.led(1, Order::Join { ballot: Ballot::FIRST }).await? {
        Report::Joined { accepted: Ballot::NONE, .. } => {}
        other => return Err(format!("it has moved without a record: {other:?}")),
    }
    moved(site, 1, PRE_COMMIT).await?;
    site.committed(1).await?;
    site.shows(1, 5, "in the end").await
}
