//! The coordinator is killed: before its decision is durable, just after, and half way through telling.

use handfast_chaos::{Answer, Cluster, Oracle, ask, eventually};
use handfast_client::key_value::Work;
use handfast_client::{AbortCause, CommitOptions, Error, TransactionOptions, TransactionState};

use crate::{LONG, again, execute_once, puts};

/// (1) Both have voted, nothing is durable: whatever happens later, that transaction has aborted.
#[tokio::test]
async fn s01_killed_before_its_decision_is_durable_all_abort() {
    const POINT: &str = "coordinator.before-decision-sync";
    let mut cluster = Cluster::start(&["a", "b"]).await;
    cluster.restart_coordinator_at(POINT).await;
    let oracle = Oracle::new();
    let work = puts(&["a", "b"], "key");

    let lost = execute_once(&cluster, &oracle, "order-1", work.clone());
    cluster.coordinator.dies_at(POINT).await;
    lost.await.expect("no panic").expect_err("nobody was left to answer");
    let voted = cluster.wait_in_doubt("a", 1).await;
    assert_eq!(cluster.in_doubt("b").await, voted, "both have voted in the same transaction");

    cluster.coordinator.start().await;
    cluster.nothing_is_left().await;
    let first = ask::get(cluster.coordinator.address(), &voted[0]).await.expect("an answer");
    assert_eq!(first.state(), TransactionState::Aborted);
    assert_eq!(first.abort_reason.expect("a reason").cause(), AbortCause::Presumed);
    // A retry is another attempt, and does the work for the first time.
    let retry = oracle.execute(&cluster.client(), "order-1", work).await.committed();
    assert_ne!(retry.to_string(), voted[0]);
    oracle.check(&cluster).await;
}

/// (1) The same in steps: a repeated commit of the same transaction is told that it has aborted.
#[tokio::test]
async fn s01_killed_before_its_decision_is_durable_a_repeated_commit_is_told_so() {
    const POINT: &str = "coordinator.before-decision-sync";
    let mut cluster = Cluster::start(&["a", "b"]).await;
    cluster.restart_coordinator_at(POINT).await;
    let transaction =
        cluster.client().begin(TransactionOptions::new().timeout(LONG)).await.expect("begun");
    for name in ["a", "b"] {
        let put = Work::new().put("key", "never");
        transaction.key_value(name).apply(put).await.expect("the work is done");
    }
    // The client library repeats the call until it is answered.
    let committing = tokio::spawn(transaction.commit());
    cluster.coordinator.dies_at(POINT).await;
    cluster.coordinator.start().await;
    match committing.await.expect("no panic") {
        Err(Error::Aborted { cause, .. }) => assert_eq!(cause, AbortCause::Presumed),
        other => panic!("expected an abort, was told {other:?}"),
    }
    cluster.nothing_is_left().await;
    // Nothing was done, and nothing is locked.
    let untouched = Work::new().expect_absent("key").put("key", "free");
    Oracle::new().execute(&cluster.client(), "next", [("a", untouched)]).await.committed();
}

/// (2) The decision is durable, nobody has heard of it: all commit, and a retry changes nothing.
#[tokio::test]
async fn s02_killed_after_its_decision_is_durable_all_commit_once() {
    const POINT: &str = "coordinator.after-decision-sync";
    let mut cluster = Cluster::start(&["a", "b"]).await;
    cluster.restart_coordinator_at(POINT).await;
    let oracle = Oracle::new();
    let work = puts(&["a", "b"], "key");

    let lost = execute_once(&cluster, &oracle, "order-1", work.clone());
    cluster.coordinator.dies_at(POINT).await;
    lost.await.expect("no panic").expect_err("nobody was left to answer");
    let voted = cluster.wait_in_doubt("a", 1).await;
    assert_eq!(cluster.in_doubt("b").await, voted, "nobody has been told");

    cluster.coordinator.start().await;
    let retry = ask::execute_once(cluster.coordinator.address(), again("order-1", &work)).await;
    let retry = retry.expect("an outcome");
    assert_eq!(retry.transaction_id, voted[0], "the first attempt's");
    cluster.nothing_is_left().await;
    let id = voted[0].parse().expect("an id");
    assert_eq!(oracle.execute(&cluster.client(), "order-1", work).await, Answer::Committed(id));
    oracle.check(&cluster).await;
}

/// (2) The same in steps: a repeated commit of the same transaction is told that it has committed.
#[tokio::test]
async fn s02_killed_after_its_decision_is_durable_a_repeated_commit_is_told_so() {
    const POINT: &str = "coordinator.after-decision-sync";
    let mut cluster = Cluster::start(&["a", "b"]).await;
    cluster.restart_coordinator_at(POINT).await;
    let transaction =
        cluster.client().begin(TransactionOptions::new().timeout(LONG)).await.expect("begun");
    let id = transaction.id();
    for name in ["a", "b"] {
        let add = Work::new().add("count", 1);
        transaction.key_value(name).apply(add).await.expect("the work is done");
    }
    let request_id = "order-1".parse().ok();
    let committing =
        tokio::spawn(transaction.commit_with(CommitOptions { request_id, ..Default::default() }));
    cluster.coordinator.dies_at(POINT).await;
    cluster.coordinator.start().await;
    let committed = committing.await.expect("no panic").expect("committed");
    assert_eq!(committed.transaction_id, id);
    cluster.nothing_is_left().await;
    let named = ask::get_request(cluster.coordinator.address(), "order-1").await.expect("known");
    assert_eq!(named.transaction_id, id.to_string());
    let once = [("a", Work::new().expect("count", "1")), ("b", Work::new().expect("count", "1"))];
    Oracle::new().execute(&cluster.client(), "look", once).await.committed();
}

/// Stops the coordinator with one of three participants told, and kills it there.
async fn killed_with_one_of_three_told() -> (Cluster, Oracle) {
    const PLACE: &str = "coordinator.before-commit-sent@2";
    let mut cluster = Cluster::start(&["a", "b", "c"]).await;
    let hold = cluster.hold(PLACE);
    cluster.restart_coordinator_at(&hold.point()).await;
    let oracle = Oracle::new();
    let lost = execute_once(&cluster, &oracle, "order-1", puts(&["a", "b", "c"], "key"));
    cluster.coordinator.comes_by(PLACE).await;
    // The one COMMIT that was sent arrives.
    eventually("one of the three has committed", || async {
        let mut in_doubt = 0;
        for name in ["a", "b", "c"] {
            in_doubt += cluster.in_doubt(name).await.len();
        }
        in_doubt == 2
    })
    .await;
    cluster.coordinator.kill();
    lost.await.expect("no panic").expect_err("nobody was left to answer");
    (cluster, oracle)
}

/// (3) Half of the participants have been told; the others are told after the restart.
#[tokio::test]
async fn s03_killed_after_half_the_commits_the_rest_are_delivered() {
    let (mut cluster, oracle) = killed_with_one_of_three_told().await;
    cluster.coordinator.start().await;
    cluster.nothing_is_left().await;
    oracle.execute(&cluster.client(), "order-1", puts(&["a", "b", "c"], "key")).await.committed();
    oracle.check(&cluster).await;
}

/// (3) The coordinator stays away: who knows the outcome tells the others.
#[tokio::test]
async fn s03_killed_after_half_the_commits_the_peers_tell_each_other() {
    let (mut cluster, oracle) = killed_with_one_of_three_told().await;
    for name in ["a", "b", "c"] {
        cluster.wait_in_doubt(name, 0).await;
    }
    cluster.coordinator.start().await;
    let work = puts(&["a", "b", "c"], "key");
    oracle.execute(&cluster.client(), "order-1", work).await.committed();
    oracle.check(&cluster).await;
}

/// A decision that nobody has heard of blocks everybody, and nobody aborts, however long it takes.
#[tokio::test]
async fn all_prepared_and_the_coordinator_away_all_wait() {
    const POINT: &str = "coordinator.after-decision-sync";
    let mut cluster = Cluster::start(&["a", "b"]).await;
    cluster.restart_coordinator_at(POINT).await;
    let oracle = Oracle::new();
    let lost = execute_once(&cluster, &oracle, "order-1", puts(&["a", "b"], "key"));
    cluster.coordinator.dies_at(POINT).await;
    drop(lost);
    // Until the peers have been asked, too, and the participant says so.
    eventually("a says what blocks it", || async {
        let held = ask::held(cluster.address("a"), "a").await.unwrap_or_default();
        held.iter().any(|branch| branch.waiting_for.contains("has not answered"))
    })
    .await;
    assert_eq!(cluster.in_doubt("a").await.len(), 1);
    assert_eq!(cluster.in_doubt("b").await.len(), 1);
    cluster.coordinator.start().await;
    oracle.check(&cluster).await;
    oracle.execute(&cluster.client(), "order-1", puts(&["a", "b"], "key")).await.committed();
}
