//! Transactions of one branch: the participant owns the outcome until the coordinator has it in its log.

use handfast_chaos::{Answer, Cluster, Oracle, ask, eventually};
use handfast_client::TransactionState;

use crate::{again, execute_once, puts};

const AFTER_RECORD: &str = "participant.one-phase.after-record";

/// The participant has committed and is killed before it could say so.
#[tokio::test]
async fn the_participant_is_killed_after_its_record() {
    let mut cluster = Cluster::start(&["a"]).await;
    cluster.restart_participant_at("a", AFTER_RECORD).await;
    let oracle = Oracle::new();
    let work = puts(&["a"], "key");
    let answer = execute_once(&cluster, &oracle, "order-1", work.clone());
    cluster.participant("a").dies_at(AFTER_RECORD).await;
    cluster.participant("a").start().await;
    let outcome = answer.await.expect("no panic").expect("an outcome");
    assert_eq!(outcome.state(), TransactionState::Committed);
    let retry = ask::execute_once(cluster.coordinator.address(), again("order-1", &work)).await;
    assert_eq!(retry.expect("an outcome").transaction_id, outcome.transaction_id);
    oracle.check(&cluster).await;
}

/// The participant has committed; the coordinator is killed before it has heard so. Until the participant
/// has been heard, the outcome is unknown, and is never called aborted.
#[tokio::test]
async fn the_coordinator_is_killed_before_it_has_heard() {
    let mut cluster = Cluster::start(&["a", "b"]).await;
    let hold = cluster.hold(AFTER_RECORD);
    cluster.restart_participant_at("a", &hold.point()).await;
    let oracle = Oracle::new();
    let work = puts(&["a"], "key");
    let lost = execute_once(&cluster, &oracle, "order-1", work.clone());
    cluster.participant("a").comes_by(AFTER_RECORD).await;
    let running = ask::running(cluster.coordinator.address()).await.expect("a list");
    assert_eq!(running.len(), 1);
    cluster.coordinator.kill();
    cluster.participant("a").kill();
    drop(lost);

    cluster.coordinator.start().await;
    let address = cluster.coordinator.address();
    let unknown = ask::get(address, &running[0]).await.expect("an answer");
    assert_eq!(unknown.state(), TransactionState::Unknown, "a may have committed it");
    let unknown = ask::get_request(address, "order-1").await.expect_err("nobody can tell");
    assert_eq!(unknown.code(), tonic::Code::Unavailable);

    cluster.participant("a").start().await;
    cluster.connected().await;
    let told = ask::get(address, &running[0]).await.expect("an answer");
    assert_eq!(told.state(), TransactionState::Committed);
    let retry = ask::execute_once(address, again("order-1", &work)).await.expect("an outcome");
    assert_eq!(retry.transaction_id, running[0]);
    assert!(retry.repeated_request);
    oracle.check(&cluster).await;
}

/// The coordinator has heard, and is killed at each step from there to its last word.
#[tokio::test]
async fn the_coordinator_is_killed_around_the_end() {
    let mut cluster = Cluster::start(&["a"]).await;
    let oracle = Oracle::new();
    for point in [
        "coordinator.after-prepare-sent",
        "coordinator.before-reply",
        "coordinator.before-forget-sent",
        "coordinator.after-forget-sent",
    ] {
        cluster.restart_coordinator_at(point).await;
        let work = puts(&["a"], "key");
        let told = execute_once(&cluster, &oracle, point, work.clone());
        cluster.coordinator.dies_at(point).await;
        let told = told.await.expect("no panic");
        cluster.coordinator.start().await;
        let retry = oracle.execute(&cluster.client(), point, work).await.committed();
        if let Ok(told) = told {
            assert_eq!(told.transaction_id, retry.to_string(), "{point}");
        }
        cluster.connected().await;
        cluster.nothing_is_left().await;
    }
    oracle.check(&cluster).await;
}

/// A retry reaches the participant while its first attempt is known to nobody else: done once, and
/// answered with the first attempt's id.
#[tokio::test]
async fn a_retry_under_a_new_coordinator_finds_the_first_attempt() {
    let mut cluster = Cluster::start(&["a"]).await;
    let hold = cluster.hold(AFTER_RECORD);
    cluster.restart_participant_at("a", &hold.point()).await;
    let oracle = Oracle::new();
    let work = puts(&["a"], "key");
    let lost = execute_once(&cluster, &oracle, "order-1", work.clone());
    cluster.participant("a").comes_by(AFTER_RECORD).await;
    let first = ask::running(cluster.coordinator.address()).await.expect("a list").remove(0);
    cluster.coordinator.kill_and_start().await;
    drop(lost);
    let retry =
        tokio::spawn(ask::execute_once(cluster.coordinator.address(), again("order-1", &work)));
    eventually("the retry is on its way", || async {
        ask::running(cluster.coordinator.address()).await.is_ok_and(|running| !running.is_empty())
            || retry.is_finished()
    })
    .await;
    hold.release();
    let outcome = retry.await.expect("no panic").expect("an outcome");
    assert_eq!(outcome.transaction_id, first);
    let id = first.parse().expect("an id");
    assert_eq!(oracle.execute(&cluster.client(), "order-1", work).await, Answer::Committed(id));
    oracle.check(&cluster).await;
}
