//! Servers that come back somewhere else.

use handfast_chaos::{Cluster, Oracle};

use crate::{execute_once, puts};

/// A participant in doubt comes back on another port; the coordinator hears of it and delivers.
#[tokio::test]
async fn a_participant_in_doubt_comes_back_on_another_port() {
    const POINT: &str = "participant.before-commit-record";
    let mut cluster = Cluster::start(&["a", "b"]).await;
    cluster.restart_participant_at("b", POINT).await;
    let oracle = Oracle::new();
    let lost = execute_once(&cluster, &oracle, "order-1", puts(&["a", "b"], "key"));
    cluster.participant("b").dies_at(POINT).await;
    cluster.participant("b").move_away();
    cluster.participant("b").start().await;
    lost.await.expect("no panic").expect("an outcome");
    oracle.check(&cluster).await;
}

/// The coordinator comes back on another port, and finds the participants, which hold a branch in doubt
/// and were told of no other address.
#[tokio::test]
async fn a_coordinator_comes_back_on_another_port() {
    const POINT: &str = "coordinator.after-decision-sync";
    let mut cluster = Cluster::start(&["a", "b"]).await;
    cluster.restart_coordinator_at(POINT).await;
    let oracle = Oracle::new();
    let lost = execute_once(&cluster, &oracle, "order-1", puts(&["a", "b"], "key"));
    cluster.coordinator.dies_at(POINT).await;
    drop(lost);
    cluster.coordinator.move_away();
    cluster.coordinator.start().await;
    oracle.execute(&cluster.client(), "order-1", puts(&["a", "b"], "key")).await.committed();
    oracle.check(&cluster).await;
}

/// Everybody moves at once; the participants are told of the coordinator's new address by their operator.
#[tokio::test]
async fn everybody_comes_back_on_another_port() {
    const POINT: &str = "coordinator.after-decision-sync";
    let mut cluster = Cluster::start(&["a", "b"]).await;
    cluster.restart_coordinator_at(POINT).await;
    let oracle = Oracle::new();
    let lost = execute_once(&cluster, &oracle, "order-1", puts(&["a", "b"], "key"));
    cluster.coordinator.dies_at(POINT).await;
    drop(lost);
    cluster.coordinator.move_away();
    let endpoint = cluster.coordinator.endpoint();
    for name in ["a", "b"] {
        let participant = cluster.participant(name);
        participant.kill();
        participant.move_away();
        participant.set_argument("--coordinator", &endpoint);
    }
    cluster.start_all().await;
    oracle.execute(&cluster.client(), "order-1", puts(&["a", "b"], "key")).await.committed();
    oracle.check(&cluster).await;
}
