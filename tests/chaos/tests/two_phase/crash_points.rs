//! Every crash point there is, one after the other, under a little of everything.

use std::sync::Arc;

use handfast_chaos::{Answer, Cluster, Oracle, killed_at_each};
use handfast_client::Client;
use handfast_client::key_value::Work;

use crate::{execute_once, puts};

const COORDINATOR: &[&str] = &[
    "coordinator.before-prepare-sent",
    "coordinator.after-prepare-sent",
    "coordinator.before-decision-sync",
    "coordinator.after-decision-sync",
    "coordinator.before-commit-sent",
    "coordinator.after-commit-sent",
    "coordinator.before-abort-sent",
    "coordinator.after-abort-sent",
    "coordinator.before-forget-sent",
    "coordinator.after-forget-sent",
    "coordinator.before-reply",
    "coordinator.after-sync",
];

const PARTICIPANT: &[&str] = &[
    "participant.before-prepared-record",
    "participant.after-prepared-record",
    "participant.after-vote-sent",
    "participant.before-commit-record",
    "participant.after-commit-record",
    "participant.after-ack-sent",
    "participant.before-abort-record",
    "participant.one-phase.before-record",
    "participant.one-phase.after-record",
    "participant.one-phase.after-vote-sent",
];

/// Points that are come by at every start, before the server serves.
const RECOVERY: &[&str] = &[
    "coordinator.recovery.before-read",
    "coordinator.recovery.reading",
    "coordinator.recovery.before-epoch",
    "coordinator.recovery.after-epoch",
];

/// Commits at both and at one, and an abort of what each of them has prepared.
async fn a_little_of_everything(client: Client, oracle: Arc<Oracle>, round: String) {
    let (both, one) = (format!("{round}/both"), format!("{round}/one"));
    let both = oracle.execute(&client, &both, puts(&["a", "b"], &round));
    let one = oracle.execute(&client, &one, puts(&["b"], "one"));
    let refuse = |refusing: &'static str, other: &'static str| {
        let never = Work::new().put(format!("refused by {refusing}"), "never");
        let work = [(refusing, never.clone().expect("never there", "x")), (other, never)];
        let (client, oracle, round) = (&client, &oracle, &round);
        async move { oracle.execute(client, &format!("{round}/refused-{refusing}"), work).await }
    };
    let (both, one, first, second) = tokio::join!(both, one, refuse("a", "b"), refuse("b", "a"));
    for answer in [first, second] {
        assert!(!matches!(answer, Answer::Committed(_)), "{round}: {answer:?}");
    }
    for answer in [both, one] {
        assert!(!matches!(answer, Answer::Aborted(_)), "{round}: {answer:?}");
    }
}

#[tokio::test]
async fn the_coordinator_is_killed_at_every_crash_point() {
    killed_at_each(COORDINATOR, None, a_little_of_everything).await;
}

#[tokio::test]
async fn a_participant_is_killed_at_every_crash_point() {
    killed_at_each(PARTICIPANT, Some("b"), a_little_of_everything).await;
}

/// Killed while it starts, with something to take over; the next start takes it over.
#[tokio::test]
async fn killed_at_every_crash_point_of_a_start() {
    const DECIDED: &str = "coordinator.after-decision-sync";
    let mut cluster = Cluster::start(&["a", "b"]).await;
    cluster.restart_coordinator_at(DECIDED).await;
    let oracle = Oracle::new();
    let lost = execute_once(&cluster, &oracle, "order-1", puts(&["a", "b"], "key"));
    cluster.coordinator.dies_at(DECIDED).await;
    drop(lost);
    for point in RECOVERY {
        cluster.coordinator.launch(Some(point));
        cluster.coordinator.dies_at(point).await;
    }
    cluster.participant("b").kill();
    cluster.participant("b").launch(Some("participant.recovery.before-ready"));
    cluster.participant("b").dies_at("participant.recovery.before-ready").await;
    cluster.start_all().await;
    oracle.execute(&cluster.client(), "order-1", puts(&["a", "b"], "key")).await.committed();
    oracle.check(&cluster).await;
}
