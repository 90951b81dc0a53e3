//! A participant is killed or stopped: before and after its vote, and before and after its commit.

use std::time::Duration;

use handfast_chaos::{Answer, Cluster, Oracle, Plan, ask, eventually};
use handfast_client::key_value::Work;
use handfast_client::{AbortCause, ReplyTime, TransactionState};
use handfast_wire::v1;

use crate::{LONG, execute_once, puts, request};

/// What a request over a and b comes to, when b is killed at a place on its way and comes back at once.
async fn killed_on_the_way(point: &str) -> (Cluster, Oracle, v1::Outcome) {
    let mut cluster = Cluster::start(&["a", "b"]).await;
    cluster.restart_participant_at("b", point).await;
    let oracle = Oracle::new();
    let answer = execute_once(&cluster, &oracle, "order-1", puts(&["a", "b"], "key"));
    cluster.participant("b").dies_at(point).await;
    cluster.participant("b").start().await;
    let outcome = answer.await.expect("no panic").expect("an outcome");
    (cluster, oracle, outcome)
}

/// (5) Its vote is on its disk and was not heard. It comes back in time, votes again, and all commit.
#[tokio::test]
async fn s05_killed_before_its_vote_was_sent_it_votes_again() {
    let (cluster, oracle, outcome) = killed_on_the_way("participant.after-prepared-record").await;
    assert_eq!(outcome.state(), TransactionState::Committed);
    oracle.check(&cluster).await;
}

/// (5) It stays away for too long: all abort, and it learns so when it comes back.
#[tokio::test]
async fn s05_killed_before_its_vote_was_sent_and_away_for_too_long_all_abort() {
    const POINT: &str = "participant.after-prepared-record";
    let mut cluster = Cluster::start(&["a", "b"]).await;
    cluster.restart_participant_at("b", POINT).await;
    let oracle = Oracle::new();
    let request = request(&oracle, "order-1", puts(&["a", "b"], "key"), Duration::from_secs(2));
    let answer = tokio::spawn(ask::execute_once(cluster.coordinator.address(), request));
    cluster.participant("b").dies_at(POINT).await;
    let outcome = answer.await.expect("no panic").expect("an outcome");
    assert_eq!(outcome.state(), TransactionState::Aborted);
    let reason = outcome.abort_reason.expect("a reason");
    assert_eq!((reason.cause(), reason.participant.as_str()), (AbortCause::Timeout, "b"));
    cluster.participant("b").start().await;
    cluster.nothing_is_left().await;
    let untouched = Work::new().expect_absent("key").put("key", "free");
    oracle.execute(&cluster.client(), "next", [("b", untouched)]).await.committed();
    oracle.check(&cluster).await;
}

/// (6) It has voted and is killed before anything is decided. After its restart it holds its locks: who
/// wants the same key waits, and goes on when the decision is known.
#[tokio::test]
async fn s06_killed_after_its_vote_it_comes_back_in_doubt_with_its_locks() {
    const VOTING: &str = "participant.before-prepared-record";
    let mut cluster =
        Plan::new(&["a", "b"]).each_participant(&["--lock-wait", "60s"]).start().await;
    // a takes its time to vote.
    let hold = cluster.hold(VOTING);
    cluster.restart_participant_at("a", &hold.point()).await;
    let oracle = Oracle::new();
    let first = execute_once(&cluster, &oracle, "first", puts(&["a", "b"], "key"));
    cluster.participant("a").comes_by(VOTING).await;
    let voted = cluster.wait_in_doubt("b", 1).await;

    cluster.participant("b").kill_and_start().await;
    assert_eq!(cluster.in_doubt("b").await, voted, "it remembers its vote");
    // The next one votes no unless it finds what the first one has put.
    let after = Work::new().expect("key", "x").put("key", "y");
    let second = execute_once(&cluster, &oracle, "second", [("b".to_owned(), after)].into());
    let address = cluster.coordinator.address();
    eventually("the second one waits at b", || async move {
        let listed = ask::list(address, &[TransactionState::Preparing]).await;
        listed.is_ok_and(|preparing| preparing.len() == 2)
    })
    .await;
    // Many questions have gone round since; whoever did not wait would have been answered.
    for _ in 0..20 {
        assert_eq!(cluster.in_doubt("b").await, voted, "still in doubt");
        assert!(!first.is_finished() && !second.is_finished());
    }

    hold.release();
    for answer in [first, second] {
        let outcome = answer.await.expect("no panic").expect("an outcome");
        assert_eq!(outcome.state(), TransactionState::Committed, "{outcome:?}");
    }
    oracle.check(&cluster).await;
}

/// (6) It is killed when its vote has left. Whatever became of that, it learns the decision.
#[tokio::test]
async fn s06_killed_after_its_vote_was_sent_it_learns_the_decision() {
    let (cluster, oracle, outcome) = killed_on_the_way("participant.after-vote-sent").await;
    assert_ne!(outcome.state(), TransactionState::Aborted, "{outcome:?}");
    oracle.check(&cluster).await;
    oracle.execute(&cluster.client(), "order-1", puts(&["a", "b"], "key")).await.committed();
}

/// (7) Its commit is on its disk, and nobody has heard so: it is told again, and does nothing twice.
#[tokio::test]
async fn s07_killed_after_its_commit_record_the_effect_is_there_once() {
    for point in ["participant.before-commit-record", "participant.after-commit-record"] {
        let mut cluster = Cluster::start(&["a", "b"]).await;
        cluster.restart_participant_at("b", point).await;
        let oracle = Oracle::new();
        let answer = execute_once(&cluster, &oracle, "order-1", puts(&["a", "b"], "key"));
        cluster.participant("b").dies_at(point).await;
        let running = ask::running(cluster.coordinator.address()).await.expect("a list");
        assert_eq!(running.len(), 1, "{point}: it stays decided until b has acknowledged it");
        cluster.participant("b").start().await;
        let outcome = answer.await.expect("no panic").expect("an outcome");
        assert_eq!(outcome.state(), TransactionState::Committed, "{point}");
        oracle.record(
            &"order-1".parse().expect("a request_id"),
            Answer::Committed(outcome.transaction_id.parse().expect("an id")),
        );
        oracle.check(&cluster).await;
    }
}

/// (8) It is stopped when it should vote, for too long. When it goes on, its vote comes too late.
#[tokio::test]
async fn s08_stopped_past_the_vote_and_continued() {
    let mut cluster = Cluster::start(&["a", "b"]).await;
    let oracle = Oracle::new();
    cluster.participant("b").signal("STOP");
    let request = request(&oracle, "order-1", puts(&["a", "b"], "key"), Duration::from_secs(2));
    let outcome = ask::execute_once(cluster.coordinator.address(), request).await;
    let outcome = outcome.expect("an outcome");
    assert_eq!(outcome.state(), TransactionState::Aborted);
    assert_eq!(outcome.abort_reason.expect("a reason").cause(), AbortCause::Timeout);
    cluster.participant("b").signal("CONT");
    cluster.connected().await;
    cluster.nothing_is_left().await;
    let untouched = Work::new().expect_absent("key").put("key", "free");
    let both = ["a", "b"].map(|name| (name, untouched.clone()));
    oracle.execute(&cluster.client(), "next", both).await.committed();
    oracle.check(&cluster).await;
}

/// (8) It is stopped between its vote and the decision: nobody waits for it, and it commits when it goes on.
#[tokio::test]
async fn s08_stopped_after_its_vote_and_continued() {
    const PLACE: &str = "coordinator.before-decision-sync";
    let mut cluster = Cluster::start(&["a", "b"]).await;
    let hold = cluster.hold(PLACE);
    cluster.restart_coordinator_at(&hold.point()).await;
    let oracle = Oracle::new();
    let mut request = request(&oracle, "order-1", puts(&["a", "b"], "key"), LONG);
    request.set_reply_time(ReplyTime::Decided);
    let answer = tokio::spawn(ask::execute_once(cluster.coordinator.address(), request));
    cluster.coordinator.comes_by(PLACE).await;
    cluster.participant("b").signal("STOP");
    hold.release();
    let outcome = answer.await.expect("no panic").expect("an outcome");
    assert_eq!(outcome.state(), TransactionState::Committing);
    assert!(outcome.pending.contains(&"b".to_owned()), "{:?}", outcome.pending);
    cluster.participant("b").signal("CONT");
    oracle.check(&cluster).await;
}

/// A branch that is still doing its work when its participant dies has done nothing.
#[tokio::test]
async fn killed_before_its_prepared_record_nothing_was_done() {
    let (cluster, oracle, outcome) = killed_on_the_way("participant.before-prepared-record").await;
    // Its PREPARE carries the work, so that it can be asked again as long as there is time.
    assert_eq!(outcome.state(), TransactionState::Committed);
    oracle.check(&cluster).await;
}

/// Its disk is lost between its vote and the decision. Nobody is told that all is well: the alarm is loud,
/// and the commit stays undelivered for an operator to see.
#[tokio::test]
async fn a_prepared_branch_on_a_lost_disk_is_an_alarm_and_not_a_success() {
    const PLACE: &str = "coordinator.before-decision-sync";
    let mut cluster = Cluster::start(&["a", "b"]).await;
    let hold = cluster.hold(PLACE);
    cluster.restart_coordinator_at(&hold.point()).await;
    let oracle = Oracle::new();
    let answer = execute_once(&cluster, &oracle, "order-1", puts(&["a", "b"], "key"));
    cluster.coordinator.comes_by(PLACE).await;
    cluster.participant("b").kill();
    std::fs::remove_dir_all(cluster.participant_data("b")).expect("the disk is lost");
    cluster.participant("b").start().await;
    hold.release();
    eventually("the coordinator sounds the alarm", || async {
        cluster.coordinator.has_said("ALARM")
    })
    .await;
    let listed = ask::list(cluster.coordinator.address(), &[TransactionState::Committing]).await;
    assert_eq!(listed.expect("a list").len(), 1, "it is not called applied");
    answer.abort();
}
