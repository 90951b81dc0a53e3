//! (25) What comes too late: a PRE_COMMIT of an old ballot after a newer promise; and everybody killed in the
//! middle.

use handfast_chaos::{Answer, Cluster, Oracle, ask};
use handfast_client::TransactionState;

use crate::{
    ALL_VOTED, DECIDED, ONE_TOLD, all_end, comes_to_its_end, coordinator_killed_at, execute_once,
    puts,
};

const ALL: &[&str] = &["a", "b", "c"];

/// The coordinator sleeps with its PRE_COMMIT in hand. The others end the transaction without it, and what it
/// says when it wakes up is refused: it learns the outcome, and so does its client.
#[tokio::test]
async fn s25_a_pre_commit_of_an_old_ballot_comes_after_a_newer_promise() {
    let mut cluster = Cluster::start(ALL).await;
    let hold = cluster.hold(ALL_VOTED);
    cluster.restart_coordinator_at(&hold.point()).await;
    let oracle = Oracle::new();
    let answer = execute_once(&cluster, &oracle, "order-1", puts(ALL, "key"));
    cluster.coordinator.comes_by(ALL_VOTED).await;
    cluster.coordinator.signal("STOP");
    all_end(&cluster, ALL).await;
    hold.release();
    cluster.coordinator.signal("CONT");
    let outcome = answer.await.expect("no panic").expect("an outcome");
    assert_eq!(outcome.state(), TransactionState::Aborted);
    oracle.record(
        &"order-1".parse().expect("a request_id"),
        Answer::Aborted("by those that were awake".to_owned()),
    );
    oracle.check(&cluster).await;
}

/// The same, when one has moved before the coordinator fell asleep: what it wanted is done without it.
#[tokio::test]
async fn s25_a_sleeping_coordinator_finds_its_transaction_committed() {
    let mut cluster = Cluster::start(ALL).await;
    let hold = cluster.hold(ONE_TOLD);
    cluster.restart_coordinator_at(&hold.point()).await;
    let oracle = Oracle::new();
    let answer = execute_once(&cluster, &oracle, "order-1", puts(ALL, "key"));
    cluster.coordinator.comes_by(ONE_TOLD).await;
    handfast_chaos::eventually("one of them has moved", || async {
        let moved = Some(handfast_wire::v1::SiteStanding::PreCommitted);
        crate::standings(&cluster, ALL).await.contains(&moved)
    })
    .await;
    cluster.coordinator.signal("STOP");
    all_end(&cluster, ALL).await;
    hold.release();
    cluster.coordinator.signal("CONT");
    let outcome = answer.await.expect("no panic").expect("an outcome");
    assert_eq!(outcome.state(), TransactionState::Committed);
    let id = outcome.transaction_id.parse().expect("an id");
    oracle.record(&"order-1".parse().expect("a request_id"), Answer::Committed(id));
    oracle.check(&cluster).await;
}

/// Everybody dies, at several moments of the protocol, and everybody comes back.
#[tokio::test]
async fn s25_everybody_is_killed_in_the_middle_and_restarted() {
    for place in [ALL_VOTED, ONE_TOLD, DECIDED] {
        let mut cluster = Cluster::start(ALL).await;
        let oracle = Oracle::new();
        let id = coordinator_killed_at(&mut cluster, &oracle, place, ALL).await;
        for name in ALL {
            cluster.participant(name).kill();
        }
        cluster.start_all().await;
        cluster.nothing_is_left().await;
        // Where only the coordinator has moved, the others may have ended it before it spoke.
        let first = ask::get(cluster.coordinator.address(), &id).await.expect("known");
        let committed = first.state() == TransactionState::Committed;
        assert!(committed || place == ALL_VOTED, "{place}: {first:?}");
        comes_to_its_end(&cluster, &oracle, ALL, &id, committed).await;
    }
}

/// Everybody dies again and again in the middle of an election, and it ends all the same.
#[tokio::test]
async fn s25_elections_that_are_killed_again_and_again_come_to_one_end() {
    let mut cluster = Cluster::start(ALL).await;
    let oracle = Oracle::new();
    let id = coordinator_killed_at(&mut cluster, &oracle, ONE_TOLD, ALL).await;
    let mut random = handfast_chaos::Random::from_environment("s25_elections");
    for _ in 0..12 {
        let name = *random.one_of(ALL);
        cluster.participant(name).kill();
        tokio::time::sleep(std::time::Duration::from_millis(random.below(600))).await;
        cluster.participant(name).start().await;
    }
    all_end(&cluster, ALL).await;
    cluster.coordinator.start().await;
    comes_to_its_end(&cluster, &oracle, ALL, &id, true).await;
}
