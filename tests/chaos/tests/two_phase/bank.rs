//! (4) A bank under hundreds of random kills of any process: its total never changes.

use std::sync::Arc;
use std::time::Duration;

use handfast_chaos::bank::Bank;
use handfast_chaos::{Cluster, Oracle, Plan, Random};

/// Where a process that is restarted may die next, and how often it comes by before it does.
const COORDINATOR: &[&str] = &[
    "coordinator.before-prepare-sent",
    "coordinator.before-decision-sync",
    "coordinator.after-decision-sync",
    "coordinator.before-commit-sent",
    "coordinator.after-commit-sent",
    "coordinator.before-reply",
    "coordinator.before-forget-sent",
];
const PARTICIPANT: &[&str] = &[
    "participant.before-prepared-record",
    "participant.after-prepared-record",
    "participant.after-vote-sent",
    "participant.before-commit-record",
    "participant.after-commit-record",
    "participant.one-phase.after-record",
];

/// How many faults: `HANDFAST_KILLS`, for a run by hand with more.
fn how_many() -> u64 {
    let given = std::env::var("HANDFAST_KILLS").ok();
    given.map_or(100, |text| text.parse().expect("HANDFAST_KILLS is a number"))
}

#[tokio::test]
async fn s04_the_total_never_changes() {
    let mut random = Random::from_environment("s04_the_total_never_changes");
    let mut cluster = Plan::new(&["a", "b", "c"])
        .coordinator(&["--timeout", "2s"])
        .each_participant(&["--lock-wait", "1s"])
        .proxied()
        .start()
        .await;
    let oracle = Arc::new(Oracle::new());
    let bank = Bank::open(&cluster, Arc::clone(&oracle)).await;
    let tellers = bank.work(&cluster, 6, &random);
    for _ in 0..how_many() {
        tokio::time::sleep(Duration::from_millis(20 + random.below(250))).await;
        one_fault(&mut cluster, &mut random).await;
    }
    // Once more for everybody, so that nobody is left who is to die at a crash point.
    for server in cluster.servers() {
        server.kill();
    }
    cluster.start_all().await;
    let audits = tellers.stop().await;
    let told = oracle.counts();
    oracle.check(&cluster).await;
    bank.check(&cluster).await;
    let (committed, aborted, unknown) = told;
    let starts: usize =
        cluster.servers().map(|server| server.times_said("starts as process")).sum();
    println!(
        "{starts} starts; {committed} committed, {aborted} aborted, {unknown} unknown; {audits} audits"
    );
    assert!(committed > 20, "only {committed} transactions committed: the test has shown little");
}

async fn one_fault(cluster: &mut Cluster, random: &mut Random) {
    // Whoever has died at a crash point has been away for long enough.
    for server in cluster.servers() {
        if !server.runs() {
            server.kill();
            server.launch(None);
        }
    }
    let names = cluster.names();
    let name = random.one_of(&names).clone();
    match random.below(10) {
        0..3 => restart(cluster, None, random).await,
        3..6 => restart(cluster, Some(&name), random).await,
        6 => {
            // Both ends of a commit at once.
            cluster.participant(&name).kill();
            cluster.coordinator.kill();
            restart(cluster, Some(&name), random).await;
            restart(cluster, None, random).await;
        }
        7 => {
            cluster.participant(&name).signal("STOP");
            tokio::time::sleep(Duration::from_millis(random.below(400))).await;
            cluster.participant(&name).signal("CONT");
        }
        8 => cluster.proxy(&name).cut(),
        _ => {
            cluster.proxy(&name).refuse();
            tokio::time::sleep(Duration::from_millis(random.below(400))).await;
            cluster.proxy(&name).heal();
        }
    }
}

/// Kills a process and starts it, sometimes so that it dies by itself at a crash point a little later.
async fn restart(cluster: &mut Cluster, participant: Option<&str>, random: &mut Random) {
    let points = if participant.is_some() { PARTICIPANT } else { COORDINATOR };
    let point = match random.below(3) {
        0 => Some(format!("{}@{}", random.one_of(points), 1 + random.below(40))),
        _ => None,
    };
    let server = match participant {
        Some(name) => cluster.participant(name),
        None => &mut cluster.coordinator,
    };
    server.kill();
    server.launch(point.as_deref());
    // It may die of its crash point as soon as it is ready; so this does not wait for it.
}
