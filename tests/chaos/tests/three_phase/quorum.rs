//! Fewer than a quorum are left: they wait, say for whom, keep what is locked, and go on when one is back.

use handfast_chaos::{Cluster, Oracle, Plan};
use handfast_client::key_value::Work;

use crate::{
    DECIDED, all_end, comes_to_its_end, coordinator_killed_at, nothing_ends, one_waits_for,
};

const ALL: &[&str] = &["a", "b", "c"];

/// The coordinator and c are gone: two of four sites cannot decide.
async fn two_of_four_are_left() -> (Cluster, Oracle, String) {
    let mut cluster = Plan::new(ALL).each_participant(&["--lock-wait", "60s"]).start().await;
    let oracle = Oracle::new();
    let id = coordinator_killed_at(&mut cluster, &oracle, DECIDED, ALL).await;
    cluster.participant("c").kill();
    (cluster, oracle, id)
}

#[tokio::test]
async fn the_coordinator_and_one_of_three_are_gone_the_rest_waits_until_the_one_is_back() {
    let (mut cluster, oracle, id) = two_of_four_are_left().await;
    let waiting = one_waits_for(&cluster, &["a", "b"], "not heard of: the coordinator, c").await;
    assert!(waiting.contains("a quorum of 3 of 4 sites"), "{waiting}");
    nothing_ends(&cluster, &["a", "b"]).await;
    cluster.participant("c").start().await;
    all_end(&cluster, ALL).await;
    cluster.coordinator.start().await;
    comes_to_its_end(&cluster, &oracle, ALL, &id, true).await;
}

#[tokio::test]
async fn the_coordinator_and_one_of_three_are_gone_the_rest_waits_until_the_coordinator_is_back() {
    let (mut cluster, oracle, id) = two_of_four_are_left().await;
    one_waits_for(&cluster, &["a", "b"], "not heard of: the coordinator, c").await;
    nothing_ends(&cluster, &["a", "b"]).await;
    cluster.coordinator.start().await;
    all_end(&cluster, &["a", "b"]).await;
    // c learns when it is back, and nobody forgets before.
    cluster.participant("c").start().await;
    all_end(&cluster, ALL).await;
    comes_to_its_end(&cluster, &oracle, ALL, &id, true).await;
}

/// What waits keeps its locks: work on the same key goes on when the transaction has ended, and sees it.
#[tokio::test]
async fn what_waits_keeps_its_locks() {
    let (mut cluster, oracle, id) = two_of_four_are_left().await;
    one_waits_for(&cluster, &["a", "b"], "not heard of: the coordinator, c").await;
    for name in ["a", "b"] {
        cluster.participant(name).kill_and_start().await;
        assert_eq!(cluster.in_doubt(name).await.len(), 1, "{name} remembers its vote");
    }
    cluster.participant("c").start().await;
    all_end(&cluster, ALL).await;
    cluster.coordinator.start().await;
    cluster.connected().await;
    let after = Work::new().expect("key", "x").put("key", "y");
    oracle.execute(&cluster.client(), "order-2", [("a", after)]).await.committed();
    comes_to_its_end(&cluster, &oracle, ALL, &id, true).await;
}

/// A single participant and its coordinator are two sites, and need each other.
#[tokio::test]
async fn a_single_participant_waits_for_its_coordinator() {
    const ONLY: &[&str] = &["a"];
    let mut cluster = Cluster::start(ONLY).await;
    let oracle = Oracle::new();
    let id = coordinator_killed_at(&mut cluster, &oracle, crate::ALL_VOTED, ONLY).await;
    one_waits_for(&cluster, ONLY, "not heard of: the coordinator").await;
    nothing_ends(&cluster, ONLY).await;
    cluster.coordinator.start().await;
    all_end(&cluster, ONLY).await;
    // The coordinator has moved, and finds that in its log.
    comes_to_its_end(&cluster, &oracle, ONLY, &id, true).await;
}
