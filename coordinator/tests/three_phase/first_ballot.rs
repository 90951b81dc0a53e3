//! Without a failure, with a no, with a participant that cannot be a voting site, and without a quorum.

use std::time::Duration;

use handfast_wire::v1;
use tonic::Code;

use crate::site::LOG;
use crate::{FIRST, LONG, World, slot, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quorum_of_moves_is_the_decision() {
    let (world, sites) = World::with_sites(slot(0), &["a", "b", "c"]).await;
    let outcome = world.execute("r", &["c", "a", "b"], LONG).await.expect("committed");
    assert_eq!(outcome.state(), v1::TransactionState::Committed);
    assert_eq!(&outcome.transaction_id[5..7], "03");
    let pre_commit = format!("SITE_ORDER_KIND_PRE_COMMIT {FIRST}");
    for site in &sites {
        until("it may forget", || site.was_told("FORGET")).await;
        assert_eq!(site.told(), ["PREPARE", &pre_commit, "COMMIT", "FORGET"]);
        let voting = site.sites();
        let named: Vec<_> = voting
            .participants
            .iter()
            .map(|site| (site.participant.as_str(), site.participant_incarnation))
            .collect();
        assert_eq!(named, [("a", LOG), ("b", LOG), ("c", LOG)]);
    }
    let transaction = world.get("r").await;
    assert_eq!(transaction.state(), v1::TransactionState::Committed);
    assert_eq!(transaction.protocol(), v1::Protocol::ThreePhase);
    let again = world.execute("r", &["c", "a", "b"], LONG).await.expect("remembered");
    assert_eq!((again.transaction_id, again.repeated_request), (outcome.transaction_id, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_protocol_is_part_of_a_request() {
    let (world, _sites) = World::with_sites(slot(0), &["a", "b"]).await;
    world.execute("r", &["a", "b"], LONG).await.expect("committed");
    let mut two_phase = crate::execute("r", &["a", "b"]);
    two_phase.options = None;
    let status = world.client().execute_transaction(two_phase).await.expect_err("another one");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_no_aborts_and_everybody_who_voted_is_told() {
    let (world, sites) = World::with_sites(slot(0), &["a", "b"]).await;
    sites[1].vote_no();
    let outcome = world.execute("r", &["a", "b"], LONG).await.expect("an outcome");
    assert_eq!(outcome.state(), v1::TransactionState::Aborted);
    let reason = outcome.abort_reason.expect("a reason");
    assert_eq!((reason.cause(), reason.participant.as_str()), (v1::AbortCause::VotedNo, "b"));
    until("a may forget", || sites[0].was_told("FORGET")).await;
    assert_eq!(sites[0].told(), ["PREPARE", "ABORT", "FORGET"]);
    assert!(!sites[1].was_told("ABORT"), "its no is on its disk");
    let transaction = world.get("r").await;
    assert_eq!(transaction.state(), v1::TransactionState::Aborted);
    assert!(transaction.abort_reason.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_serves_no_sessions_cannot_be_a_voting_site() {
    let (world, _sites) = World::with_sites(slot(0), &["a"]).await;
    let only_called = world.join("b", crate::Site::only_unary).await;
    let outcome = world.execute("r", &["a", "b"], LONG).await.expect("an outcome");
    let reason = outcome.abort_reason.expect("aborted");
    assert_eq!((reason.cause(), reason.participant.as_str()), (v1::AbortCause::Unreachable, "b"));
    assert!(reason.message.contains("serves no sessions"), "{}", reason.message);
    assert!(only_called.told().is_empty());
}

/// Nobody moves: the coordinator waits, says for whom, and tells its client that it does not know. Killed and
/// started again it leads, and ends with those that come back; a repetition of the request is told how.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_it_waits_and_a_restart_goes_on() {
    let (world, sites) = World::with_sites(slot(0), &["a", "b", "c"]).await;
    sites.iter().for_each(|site| site.mute(true));
    let waits = Duration::from_millis(1500);
    let status = world.execute("r", &["a", "b", "c"], waits).await.expect_err("nobody knows");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("not heard of: a, b, c"), "{status:?}");
    let transaction = world.get("r").await;
    assert_eq!(transaction.state(), v1::TransactionState::PreCommitted);
    let site = transaction.site.expect("it is a voting site");
    assert_eq!(site.standing(), v1::SiteStanding::PreCommitted);
    assert_eq!((site.promised.as_str(), site.accepted.as_str()), ("1.0", "1.0"));
    assert_eq!((site.leader.as_str(), site.moving, site.wanted), ("the coordinator", true, 2));
    assert_eq!(site.missing, ["a", "b", "c"]);
    let counts = world.engine.voting().await.expect("it runs");
    assert_eq!((counts.transactions, counts.waiting), (1, 1));

    let world = world.restart().await;
    for name in ["a", "b", "c"] {
        let name = name.parse().expect("a name");
        until("the participant is reached", || world.engine.links().is_connected(&name)).await;
    }
    let found = world.get("r").await;
    assert_eq!(found.state(), v1::TransactionState::PreCommitted);
    assert_eq!(found.transaction_id, transaction.transaction_id);
    until("it leads", || {
        sites[0].told().iter().any(|told| told.starts_with("SITE_ORDER_KIND_JOIN"))
    })
    .await;
    // Two of three and the coordinator are a quorum of four.
    sites[..2].iter().for_each(|site| site.mute(false));
    let outcome = world.execute("r", &["a", "b", "c"], LONG).await.expect("known at last");
    assert_eq!(outcome.transaction_id, transaction.transaction_id);
    assert_eq!(outcome.state(), v1::TransactionState::Committed);
    until("they may forget", || sites.iter().all(|site| site.was_told("FORGET"))).await;
}

/// The number of shards changes with the machine. Then a request comes to another shard than the one that its
/// transaction is restored in, and must not be done anew there.
#[tokio::test]
async fn a_request_that_is_voted_about_is_not_done_twice_with_another_number_of_shards() {
    let mut config = slot(0);
    config.shards = 8;
    let (mut world, sites) = World::with_sites(config, &["a", "b"]).await;
    sites.iter().for_each(|site| site.mute(true));
    let names: Vec<String> = (0..6).map(|number| format!("r-{number}")).collect();
    let mut ids = Vec::new();
    for name in &names {
        let waits = Duration::from_millis(300);
        world.execute(name, &["a", "b"], waits).await.expect_err("nobody knows");
        let transaction = world.get(name).await;
        assert_eq!(transaction.state(), v1::TransactionState::PreCommitted);
        ids.push(transaction.transaction_id);
    }
    world.config.shards = 3;
    let world = world.restart().await;
    for (name, id) in names.iter().zip(&ids) {
        let waits = Duration::from_millis(300);
        let status = world.execute(name, &["a", "b"], waits).await.expect_err("still nobody");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert_eq!(world.get(name).await.transaction_id, *id);
    }
    sites.iter().for_each(|site| site.mute(false));
    for (name, id) in names.iter().zip(&ids) {
        let outcome = tokio::time::timeout(LONG, async {
            loop {
                match world.execute(name, &["a", "b"], LONG).await {
                    Ok(outcome) => return outcome,
                    Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let outcome = outcome.await.expect("known at last");
        assert_eq!(outcome.transaction_id, *id, "{name} is done twice");
        assert_eq!(outcome.state(), v1::TransactionState::Committed);
    }
}
