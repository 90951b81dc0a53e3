//! What a participant in doubt is told while there is nothing to tell.

use handfast_chaos::{Cluster, Oracle, ask, eventually};
use handfast_client::TransactionState;
use handfast_wire::v1::InquiryOutcome;

use crate::{execute_once, puts};

/// (9) A vote is outstanding: PENDING. While the log is being read: RETRY. Never ABORT before it is true.
#[tokio::test]
async fn s09_asked_too_early_the_coordinator_never_says_abort() {
    const PREPARING: &str = "participant.before-prepared-record";
    const READING: &str = "coordinator.recovery.reading";
    let mut cluster = Cluster::start(&["a", "b"]).await;
    let vote = cluster.hold(PREPARING);
    cluster.restart_participant_at("b", &vote.point()).await;
    let coordinator = cluster.coordinator.address();
    let log = ask::origin(coordinator, "a").await.expect("an origin").coordinator_incarnation;
    let oracle = Oracle::new();
    let lost = execute_once(&cluster, &oracle, "order-1", puts(&["a", "b"], "key"));
    cluster.participant("b").comes_by(PREPARING).await;
    let id = cluster.wait_in_doubt("a", 1).await.remove(0);
    let answer = ask::inquire(coordinator, &id, "a", log).await.expect("an answer");
    assert_eq!(answer, InquiryOutcome::Pending);

    cluster.coordinator.kill();
    drop(lost);
    let reading = cluster.hold(READING);
    cluster.coordinator.launch(Some(&reading.point()));
    cluster.coordinator.comes_by(READING).await;
    eventually("it answers while it reads its log", || async {
        ask::inquire(coordinator, &id, "a", log).await.is_ok()
    })
    .await;
    let answer = ask::inquire(coordinator, &id, "a", log).await.expect("an answer");
    assert_eq!(answer, InquiryOutcome::Retry);
    assert!(!ask::serves(coordinator).await.expect("its health"), "it does not say that it serves");
    let early = ask::get(coordinator, &id).await.expect_err("it cannot know yet");
    assert_eq!(early.code(), tonic::Code::Unavailable);
    assert_eq!(cluster.in_doubt("a").await, std::slice::from_ref(&id), "nobody has guessed");

    reading.release();
    cluster.coordinator.ready().await;
    vote.release();
    cluster.connected().await;
    cluster.nothing_is_left().await;
    let over = ask::get(coordinator, &id).await.expect("an answer");
    assert_eq!(over.state(), TransactionState::Aborted);
    oracle.check(&cluster).await;
}

/// Another log presumes nothing: an inquiry about what was prepared under the former one is no abort.
#[tokio::test]
async fn a_coordinator_with_a_new_log_presumes_nothing() {
    const POINT: &str = "coordinator.after-decision-sync";
    let mut cluster = Cluster::start(&["a", "b"]).await;
    cluster.restart_coordinator_at(POINT).await;
    let log = ask::origin(cluster.coordinator.address(), "a")
        .await
        .expect("an origin")
        .coordinator_incarnation;
    let oracle = Oracle::new();
    let lost = execute_once(&cluster, &oracle, "order-1", puts(&["a", "b"], "key"));
    cluster.coordinator.dies_at(POINT).await;
    drop(lost);
    let id = cluster.wait_in_doubt("a", 1).await.remove(0);

    // The decision was durable; then the whole folder is mislaid.
    let mislaid = cluster.folder().join("mislaid");
    std::fs::rename(cluster.coordinator_data(), &mislaid).expect("moved");
    cluster.coordinator.start().await;
    let address = cluster.coordinator.address();
    // Its epochs begin anew, and those who have seen later ones take no orders from it. It must not give
    // any, either: of what another log has decided nothing may be presumed.
    let answer = ask::inquire(address, &id, "a", log).await.expect("an answer");
    assert!(
        matches!(answer, InquiryOutcome::NoInformation | InquiryOutcome::Retry),
        "{answer:?} may not be said of another log's transaction"
    );
    assert_eq!(cluster.in_doubt("a").await, std::slice::from_ref(&id));
    assert_eq!(cluster.in_doubt("b").await, std::slice::from_ref(&id));

    // The folder is found, and everything ends as it was decided.
    cluster.coordinator.kill();
    std::fs::remove_dir_all(cluster.coordinator_data()).expect("the new log goes");
    std::fs::rename(&mislaid, cluster.coordinator_data()).expect("moved back");
    cluster.coordinator.start().await;
    cluster.connected().await;
    cluster.nothing_is_left().await;
    let over = ask::get(address, &id).await.expect("an answer");
    assert_eq!(over.state(), TransactionState::Committed);
    oracle.check(&cluster).await;
}
