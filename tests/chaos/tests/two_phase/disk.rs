//! A disk that is full, and syncs that fail.
//!
//! Full disks are made in two ways, neither of which needs privileges: a limit on the size of files, at
//! which the kernel itself cuts a write short and then refuses it, and a library in front of the system
//! that answers "no space left".

use std::time::Duration;

use handfast_chaos::{Cluster, Oracle, Shim, ask};
use handfast_client::TransactionState;

use crate::{execute_once, puts, request};

/// What an operator must read when the log fails.
const LAST_WORDS: &str = "the log has failed";

/// Commits a few, so that there is something to lose.
async fn some_history(cluster: &Cluster, oracle: &Oracle) {
    for number in 0..4 {
        let request_id = format!("before-{number}");
        oracle.execute(&cluster.client(), &request_id, puts(&["a", "b"], "key")).await.committed();
    }
}

/// The decision of `order-1` could not be made durable: nobody was told anything, the process ended, and
/// the next one brings everything to one outcome.
async fn the_decision_was_not_taken(mut cluster: Cluster, oracle: Oracle) {
    let told = execute_once(&cluster, &oracle, "order-1", puts(&["a", "b"], "key"));
    let status = cluster.coordinator.ended().await;
    assert_eq!(status.code(), Some(1));
    let told = told.await.expect("no panic");
    assert!(told.is_err(), "an answer from a log that has failed: {told:?}");
    let voted = cluster.wait_in_doubt("a", 1).await;
    assert_eq!(cluster.in_doubt("b").await, voted, "no COMMIT was sent");
    assert!(cluster.coordinator.times_said(LAST_WORDS) > 0, "it says why it ended");

    cluster.coordinator.set_environment(&[("LD_PRELOAD".to_owned(), String::new())]);
    cluster.coordinator.start().await;
    cluster.connected().await;
    cluster.nothing_is_left().await;
    let over = ask::get(cluster.coordinator.address(), &voted[0]).await.expect("an answer");
    assert!(
        matches!(over.state(), TransactionState::Aborted | TransactionState::Committed),
        "one outcome: {over:?}"
    );
    oracle.check(&cluster).await;
    oracle.execute(&cluster.client(), "order-2", puts(&["a", "b"], "key")).await.committed();
    oracle.check(&cluster).await;
}

/// (16) The disk is full at the decision, to the byte or in the middle of the record.
#[tokio::test]
async fn s16_full_disk_at_the_decision() {
    for room in [0, 25] {
        let cluster = Cluster::start(&["a", "b"]).await;
        let oracle = Oracle::new();
        some_history(&cluster, &oracle).await;
        cluster.nothing_is_left().await;
        // Ends are written lazily; a question waits until they are in the log.
        let list = ask::get_request(cluster.coordinator.address(), "before-0").await;
        list.expect("known");
        cluster.coordinator.limit_files(cluster.coordinator_log().length() + room);
        the_decision_was_not_taken(cluster, oracle).await;
    }
}

/// (16) The same, with the error that a full disk gives.
#[tokio::test]
async fn s16_no_space_left_at_the_decision() {
    let (cluster, oracle, shim) = with_shim_at_the_coordinator().await;
    shim.fill_disk(true);
    the_decision_was_not_taken(cluster, oracle).await;
}

/// (17) The sync of the decision fails.
#[tokio::test]
async fn s17_failed_sync_at_the_decision() {
    let (cluster, oracle, shim) = with_shim_at_the_coordinator().await;
    shim.fail_syncs(true);
    the_decision_was_not_taken(cluster, oracle).await;
}

async fn with_shim_at_the_coordinator() -> (Cluster, Oracle, Shim) {
    let mut cluster = Cluster::start(&["a", "b"]).await;
    let shim = Shim::build();
    let environment = shim.environment(&cluster.coordinator_data());
    cluster.coordinator.set_environment(&environment);
    cluster.coordinator.kill_and_start().await;
    cluster.connected().await;
    let oracle = Oracle::new();
    some_history(&cluster, &oracle).await;
    cluster.nothing_is_left().await;
    (cluster, oracle, shim)
}

/// (16), (17) A coordinator does not serve what it cannot write: the new epoch has to be durable first.
#[tokio::test]
async fn s16_a_coordinator_that_cannot_write_does_not_start() {
    let (mut cluster, oracle, shim) = with_shim_at_the_coordinator().await;
    let faults: [fn(&Shim, bool); 2] = [Shim::fill_disk, Shim::fail_syncs];
    for fault in faults {
        cluster.coordinator.kill();
        fault(&shim, true);
        let (status, said) = cluster.coordinator.refuses().await;
        assert_eq!(status.code(), Some(1), "{said}");
        let folder = cluster.coordinator_data().display().to_string();
        assert!(said.contains(&folder), "it names its folder: {said}");
        fault(&shim, false);
        cluster.coordinator.start().await;
        oracle.check(&cluster).await;
    }
}

/// (16) A participant's disk is full: there is no vote, and the transaction aborts.
#[tokio::test]
async fn s16_full_disk_at_a_participant_is_no_vote() {
    let mut cluster = Cluster::start(&["a", "b"]).await;
    let oracle = Oracle::new();
    some_history(&cluster, &oracle).await;
    cluster.nothing_is_left().await;
    let length = handfast_chaos::LogFiles::new(&cluster.participant_data("b")).length();
    cluster.participant("b").limit_files(length + 10);
    no_vote(cluster, oracle).await;
}

/// (17) The sync of a participant's vote fails: there is no vote.
#[tokio::test]
async fn s17_failed_sync_at_a_participant_is_no_vote() {
    let mut cluster = Cluster::start(&["a", "b"]).await;
    let shim = Shim::build();
    let environment = shim.environment(&cluster.participant_data("b"));
    cluster.participant("b").set_environment(&environment);
    cluster.participant("b").kill_and_start().await;
    cluster.connected().await;
    let oracle = Oracle::new();
    some_history(&cluster, &oracle).await;
    cluster.nothing_is_left().await;
    shim.fail_syncs(true);
    no_vote(cluster, oracle).await;
}

async fn no_vote(mut cluster: Cluster, oracle: Oracle) {
    let request = request(&oracle, "order-1", puts(&["a", "b"], "key"), Duration::from_secs(3));
    let told = tokio::spawn(ask::execute_once(cluster.coordinator.address(), request));
    let status = cluster.participant("b").ended().await;
    assert_eq!(status.code(), Some(1));
    let outcome = told.await.expect("no panic").expect("an outcome");
    assert_eq!(outcome.state(), TransactionState::Aborted, "there was no vote");
    cluster.participant("b").set_environment(&[("LD_PRELOAD".to_owned(), String::new())]);
    cluster.participant("b").start().await;
    oracle.check(&cluster).await;
    oracle.execute(&cluster.client(), "order-2", puts(&["a", "b"], "key")).await.committed();
    oracle.check(&cluster).await;
}
