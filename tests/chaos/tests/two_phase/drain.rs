//! SIGTERM: no new transactions, the running ones are finished, and the process exits 0.

use handfast_chaos::{Cluster, Oracle, Plan, ask, eventually};
use handfast_client::{Error, TransactionOptions, TransactionState};

use crate::{execute_once, puts};

const VOTING: &str = "participant.before-prepared-record";

#[tokio::test]
async fn a_coordinator_finishes_what_runs_and_takes_nothing_new() {
    let mut cluster = Cluster::start(&["a", "b"]).await;
    let hold = cluster.hold(VOTING);
    cluster.restart_participant_at("b", &hold.point()).await;
    let oracle = Oracle::new();
    let running = execute_once(&cluster, &oracle, "order-1", puts(&["a", "b"], "key"));
    cluster.participant("b").comes_by(VOTING).await;
    let mut service = ask::transactions(cluster.coordinator.address()).await.expect("connected");
    cluster.coordinator.signal("TERM");
    let address = cluster.coordinator.address();
    eventually("it says that it does not serve", || async move {
        ask::serves(address).await.is_ok_and(|serves| !serves)
    })
    .await;
    let new =
        service.begin_transaction(handfast_wire::v1::BeginTransactionRequest::default()).await;
    assert_eq!(new.expect_err("nothing new").code(), tonic::Code::Unavailable);
    assert!(!running.is_finished());
    hold.release();
    let outcome = running.await.expect("no panic").expect("it was finished");
    assert_eq!(outcome.state(), TransactionState::Committed);
    assert_eq!(cluster.coordinator.ended().await.code(), Some(0));
    cluster.coordinator.start().await;
    oracle.check(&cluster).await;
}

/// What cannot be finished does not hold it up for ever: it is reported, and the exit is 0.
#[tokio::test]
async fn a_coordinator_that_cannot_finish_reports_what_is_left() {
    let mut cluster = Plan::new(&["a", "b"]).coordinator(&["--drain", "500ms"]).start().await;
    let client = cluster.client();
    let open = client.begin(TransactionOptions::new()).await.expect("begun");
    cluster.coordinator.signal("TERM");
    assert_eq!(cluster.coordinator.ended().await.code(), Some(0));
    eventually("it reports one transaction", || async {
        cluster.coordinator.has_said("1 undecided transactions are aborted")
    })
    .await;
    cluster.coordinator.start().await;
    cluster.connected().await;
    assert!(matches!(open.commit().await, Err(Error::Aborted { .. })));
}

/// The second signal ends at once.
#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let mut cluster = Cluster::start(&["a"]).await;
    let open = cluster.client().begin(TransactionOptions::new()).await.expect("begun");
    cluster.coordinator.signal("TERM");
    let address = cluster.coordinator.address();
    eventually(
        "it drains",
        || async move { ask::serves(address).await.is_ok_and(|serves| !serves) },
    )
    .await;
    cluster.coordinator.signal("TERM");
    assert_eq!(cluster.coordinator.ended().await.code(), Some(143));
    open.leave();
}

/// A participant reports what it leaves in doubt, and has it back after its start.
#[tokio::test]
async fn a_participant_leaves_its_branches_in_doubt_and_has_them_back() {
    let mut cluster = Cluster::start(&["a", "b"]).await;
    // a takes its time to vote.
    let hold = cluster.hold(VOTING);
    cluster.restart_participant_at("a", &hold.point()).await;
    let oracle = Oracle::new();
    let running = execute_once(&cluster, &oracle, "order-1", puts(&["a", "b"], "key"));
    cluster.participant("a").comes_by(VOTING).await;
    let voted = cluster.wait_in_doubt("b", 1).await;
    cluster.participant("b").signal("TERM");
    assert_eq!(cluster.participant("b").ended().await.code(), Some(0));
    let b = cluster.participant("b");
    eventually("it reports the branch", || {
        let reports = b.has_said("1 branches are left in doubt");
        async move { reports }
    })
    .await;
    cluster.participant("b").start().await;
    assert_eq!(cluster.in_doubt("b").await, voted);
    hold.release();
    let outcome = running.await.expect("no panic").expect("an outcome");
    assert_eq!(outcome.state(), TransactionState::Committed);
    oracle.check(&cluster).await;
}
