//! Other sites lead, and the coordinator obeys them as a voting site.

use handfast_wire::v1;
use handfast_wire::v1::SiteOrderKind as Kind;
use handfast_wire::v1::SiteReportKind as Said;
use tonic::Code;

use crate::{FIRST, LONG, World, coordinator, order, participant, slot, until, witness};

/// Ballot 2 of site 1, which is the participant "a".
const SECOND: u64 = (2 << 16) + 1;
/// Of the coordinator's log.
const COORDINATOR_LOG: u64 = 7;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_participant_leads_and_the_coordinator_follows() {
    let (world, sites) = World::with_sites(slot(0), &["a", "b", "c"]).await;
    sites.iter().for_each(|site| site.mute(true));
    let waiting = world.execute("r", &["a", "b", "c"], LONG);
    let leading = async {
        until("everybody has voted", || sites[2].told().len() > 1).await;
        let id = world.get("r").await.transaction_id;
        let lead = |kind, ballot| {
            let order = order(&id, COORDINATOR_LOG, kind, ballot);
            world.lead(participant("a"), coordinator(), order)
        };
        let joined = lead(Kind::Join, SECOND).await.expect("joined");
        assert_eq!((joined.kind(), joined.ballot), (Said::Joined, SECOND));
        assert_eq!(joined.accepted, FIRST);
        assert_eq!(joined.standing(), v1::SiteStanding::PreCommitted);
        let site = world.get("r").await.site.expect("undecided");
        assert_eq!((site.promised.as_str(), site.leader.as_str()), ("2.1", "a"));
        // What is below the promise is refused, and so is another site's ballot.
        let refused = lead(Kind::PreAbort, (1 << 16) + 1).await.expect("an answer");
        assert_eq!((refused.kind(), refused.promised), (Said::Refused, SECOND));
        let strange = lead(Kind::Join, (3 << 16) + 2).await.expect("an answer");
        assert_eq!(strange.kind(), Said::NoInformation);
        let moved = lead(Kind::PreCommit, SECOND).await.expect("moved");
        assert_eq!((moved.kind(), moved.ballot), (Said::Moved, SECOND));
        let told = lead(Kind::Decided, 0).await.expect("acknowledged");
        assert_eq!((told.kind(), told.committed), (Said::Acknowledged, true));
    };
    let (outcome, ()) = tokio::join!(waiting, leading);
    assert_eq!(outcome.expect("told by a").state(), v1::TransactionState::Committed);
    until("they may forget", || sites.iter().all(|site| site.was_told("FORGET"))).await;
}

/// A coordinator that has lost an undecided transaction has not moved in it: it aborts for good, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_does_not_remember_aborts_for_good() {
    let (world, _sites) = World::with_sites(slot(0), &["a"]).await;
    let world = world.restart().await;
    let lost = "0000-03-0000000001-0000000000000040";
    let join = order(lost, COORDINATOR_LOG, Kind::Join, SECOND);
    for _ in 0..2 {
        let report = world.lead(participant("a"), coordinator(), join.clone()).await;
        let report = report.expect("an answer");
        assert!(matches!(report.kind(), Said::Unvoted | Said::Known), "{report:?}");
        assert!(!report.committed);
    }
    let world = world.restart().await;
    let request =
        v1::GetTransactionRequest { transaction_id: lost.to_owned(), ..Default::default() };
    let found = world.client().get_transaction(request).await.expect("it is in the log");
    let transaction = found.into_inner().transaction.expect("a transaction");
    assert_eq!(transaction.state(), v1::TransactionState::Aborted);
    assert!(transaction.finished_at.is_some(), "the log says so, and not a presumption");
    let of_another_log = order(lost, COORDINATOR_LOG + 1, Kind::Join, SECOND);
    let report = world.lead(participant("a"), coordinator(), of_another_log).await;
    assert_eq!(report.expect("an answer").kind(), Said::NoInformation);
}

/// Whoever answered for another site would be counted twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_answers_as_the_site_that_is_meant_or_not_at_all() {
    let mut config = slot(3);
    config.witness_name = Some("w".parse().expect("a name"));
    let world = World::start(config).await;
    let own = "0003-03-0000000001-0000000000000040";
    let others = "0000-03-0000000001-0000000000000040";
    for (to, id) in [
        (coordinator(), others),
        (witness("w"), own),
        (witness("v"), others),
        (participant("a"), own),
    ] {
        let join = order(id, 0, Kind::Join, SECOND);
        let status = world.lead(participant("a"), to.clone(), join).await.expect_err("not it");
        assert_eq!(status.code(), Code::FailedPrecondition, "{to:?} of {id}: {status:?}");
    }
    let join = order(others, 0, Kind::Join, SECOND);
    let report = world.lead(participant("a"), witness("w"), join.clone()).await.expect("it");
    assert_eq!((report.kind(), report.accepted), (Said::Joined, 0));
    let nothing = v1::SiteOrder { ballot: 0, ..join };
    let status = world.lead(participant("a"), witness("w"), nothing).await.expect_err("no ballot");
    assert_eq!(status.code(), Code::InvalidArgument);
}
