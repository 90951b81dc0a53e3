//! (23) The coordinator is killed between PRE_COMMIT and the decision, and stays away: the participants end the
//! transaction without it, and come to what the coordinator may have told its client.

use handfast_chaos::{Answer, Cluster, Oracle, ask};
use handfast_client::{Protocol, TransactionState};

use crate::{
    ALL_VOTED, DECIDED, ONE_TOLD, all_end, comes_to_its_end, coordinator_killed_at, execute_under,
    nothing_ends, one_waits_for, puts,
};

const ALL: &[&str] = &["a", "b", "c"];

/// A quorum has moved: the transaction is committed, and nobody but the coordinator knew.
#[tokio::test]
async fn s23_pre_commit_on_a_quorum_and_the_coordinator_killed_the_survivors_commit() {
    let mut cluster = Cluster::start(ALL).await;
    let oracle = Oracle::new();
    let id = coordinator_killed_at(&mut cluster, &oracle, DECIDED, ALL).await;
    let took = all_end(&cluster, ALL).await;
    println!("the participants have ended it {} ms after the kill", took.as_millis());
    cluster.coordinator.start().await;
    comes_to_its_end(&cluster, &oracle, ALL, &id, true).await;
}

/// One has moved. Whoever leads finds that, and moves the others after it.
#[tokio::test]
async fn s23_pre_commit_on_one_and_the_coordinator_killed_the_survivors_commit() {
    let mut cluster = Cluster::start(ALL).await;
    let oracle = Oracle::new();
    let id = coordinator_killed_at(&mut cluster, &oracle, ONE_TOLD, ALL).await;
    all_end(&cluster, ALL).await;
    cluster.coordinator.start().await;
    comes_to_its_end(&cluster, &oracle, ALL, &id, true).await;
}

/// Nobody has moved but the coordinator itself, which is away: nobody can have been told of a commit. When it is
/// back, it learns of the abort, and the request may be tried again.
#[tokio::test]
async fn s23_pre_commit_on_nobody_and_the_coordinator_killed_the_survivors_abort() {
    let mut cluster = Cluster::start(ALL).await;
    let oracle = Oracle::new();
    let id = coordinator_killed_at(&mut cluster, &oracle, ALL_VOTED, ALL).await;
    all_end(&cluster, ALL).await;
    cluster.coordinator.start().await;
    cluster.nothing_is_left().await;
    let first = ask::get(cluster.coordinator.address(), &id).await.expect("known");
    assert_eq!(first.state(), TransactionState::Aborted);
    comes_to_its_end(&cluster, &oracle, ALL, &id, false).await;
}

/// The same failure under two-phase commit blocks everybody, and everybody says so.
#[tokio::test]
async fn s23_the_same_under_two_phase_commit_blocks_and_says_so() {
    const PLACE: &str = "coordinator.before-commit-sent";
    let mut cluster = Cluster::start(ALL).await;
    let oracle = Oracle::new();
    let hold = cluster.hold(PLACE);
    cluster.restart_coordinator_at(&hold.point()).await;
    let work = puts(ALL, "key");
    let lost = execute_under(Protocol::TwoPhase, &cluster, &oracle, "order-1", work.clone());
    cluster.coordinator.comes_by(PLACE).await;
    for name in ALL {
        cluster.wait_in_doubt(name, 1).await;
    }
    cluster.coordinator.kill();
    drop(lost);
    for name in ALL {
        one_waits_for(&cluster, &[name], "has not answered").await;
    }
    nothing_ends(&cluster, ALL).await;
    assert!(cluster.participant("a").has_said("in doubt and blocked"));
    cluster.coordinator.start().await;
    cluster.nothing_is_left().await;
    oracle.execute(&cluster.client(), "order-1", work).await.committed();
    oracle.check(&cluster).await;
}

/// Two participants are three sites, and any two of them are a quorum.
#[tokio::test]
async fn two_participants_survive_their_coordinator() {
    const BOTH: &[&str] = &["a", "b"];
    let mut cluster = Cluster::start(BOTH).await;
    let oracle = Oracle::new();
    // Nobody is told: one that had moved would be a quorum with the coordinator, which would go on.
    let id = coordinator_killed_at(&mut cluster, &oracle, ALL_VOTED, BOTH).await;
    all_end(&cluster, BOTH).await;
    cluster.coordinator.start().await;
    comes_to_its_end(&cluster, &oracle, BOTH, &id, false).await;
}

/// A client that was told COMMITTED was told the truth, although the coordinator dies before anybody else is.
#[tokio::test]
async fn what_the_client_was_told_stays_true_without_the_coordinator() {
    // The answer leaves before the first COMMIT does, or behind it: the transaction is decided either way.
    let mut cluster = Cluster::start(ALL).await;
    let oracle = Oracle::new();
    let mut told = 0;
    for round in 0..5 {
        let request_id = format!("order-{round}");
        let work = puts(ALL, &request_id);
        let answering =
            execute_under(Protocol::ThreePhase, &cluster, &oracle, &request_id, work.clone());
        if let Ok(Ok(outcome)) = answering.await {
            let id = outcome.transaction_id.parse().expect("an id");
            oracle.record(&request_id.parse().expect("a request_id"), Answer::Committed(id));
            told += 1;
        }
        cluster.coordinator.kill();
        all_end(&cluster, ALL).await;
        cluster.coordinator.start().await;
        cluster.connected().await;
    }
    assert!(told > 0, "nobody was told anything: the test has shown nothing");
    oracle.check(&cluster).await;
}

/// Killed with the decision on their disks, they know it when they are back, and tell the coordinator.
#[tokio::test]
async fn participants_that_are_killed_too_tell_the_coordinator_when_it_comes_back() {
    let mut cluster = Cluster::start(ALL).await;
    let oracle = Oracle::new();
    let id = coordinator_killed_at(&mut cluster, &oracle, ONE_TOLD, ALL).await;
    all_end(&cluster, ALL).await;
    for name in ALL {
        cluster.participant(name).kill_and_start().await;
    }
    cluster.coordinator.start().await;
    comes_to_its_end(&cluster, &oracle, ALL, &id, true).await;
}

/// One that was held up all the while, with its vote given, is told when it goes on.
#[tokio::test]
async fn a_participant_that_was_stopped_learns_when_it_goes_on() {
    let mut cluster = Cluster::start(ALL).await;
    let oracle = Oracle::new();
    let id = coordinator_killed_at(&mut cluster, &oracle, DECIDED, ALL).await;
    cluster.participant("c").signal("STOP");
    // a and b are two of four.
    one_waits_for(&cluster, &["a", "b"], "not heard of: the coordinator, c").await;
    cluster.participant("c").signal("CONT");
    all_end(&cluster, ALL).await;
    cluster.coordinator.start().await;
    comes_to_its_end(&cluster, &oracle, ALL, &id, true).await;
}
