//! A bank whose transfers are committed under both protocols, and random kills of any process: its total never
//! changes, and three-phase transfers do not wait for a coordinator that stays away.

use std::sync::Arc;
use std::time::Duration;

use handfast_chaos::bank::Bank;
use handfast_chaos::{Cluster, Oracle, Plan, Random};
use handfast_client::Protocol;

/// Where a process that is restarted may die next.
const COORDINATOR: &[&str] = &[
    "coordinator.before-prepare-sent",
    "coordinator.before-voting-sync",
    "coordinator.after-voting-sync",
    "coordinator.before-pre-commit-sent",
    "coordinator.after-pre-commit-sent",
    "coordinator.after-decision-sync",
    "coordinator.before-commit-sent",
    "coordinator.before-reply",
    "coordinator.before-forget-sent",
];
const PARTICIPANT: &[&str] = &[
    "participant.before-prepared-record",
    "participant.three-phase.before-voted-record",
    "participant.after-vote-sent",
    "participant.three-phase.before-move-record",
    "participant.three-phase.after-move-record",
    "participant.three-phase.before-promise-record",
    "participant.three-phase.after-join-sent",
    "participant.three-phase.before-decided-record",
    "participant.three-phase.after-decision-sent",
    "participant.before-commit-record",
];

/// How many faults: `HANDFAST_KILLS`, for a run by hand with more.
fn how_many() -> u64 {
    let given = std::env::var("HANDFAST_KILLS").ok();
    given.map_or(60, |text| text.parse().expect("HANDFAST_KILLS is a number"))
}

async fn bank_under(name: &'static str, protocols: &[Protocol], witnesses: &[&str]) {
    let mut random = Random::from_environment(name);
    let mut cluster = Plan::new(&["a", "b", "c"])
        .witnesses(witnesses)
        .coordinator(&["--timeout", "2s"])
        .each_participant(&["--lock-wait", "1s"])
        .proxied()
        .start()
        .await;
    let oracle = Arc::new(Oracle::new());
    let bank = Bank::open(&cluster, Arc::clone(&oracle)).await.under(protocols);
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
    let (committed, aborted, unknown) = oracle.counts();
    oracle.check(&cluster).await;
    bank.check(&cluster).await;
    println!("{committed} committed, {aborted} aborted, {unknown} unknown; {audits} audits");
    assert!(committed > 20, "only {committed} transactions committed: the test has shown little");
}

#[tokio::test]
async fn the_total_never_changes_under_three_phase_commit() {
    bank_under("under_three_phase_commit", &[Protocol::ThreePhase], &[]).await;
}

#[tokio::test]
async fn the_total_never_changes_under_both_protocols_and_with_witnesses() {
    bank_under("under_both_protocols", &[Protocol::TwoPhase, Protocol::ThreePhase], &["v", "w"])
        .await;
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
    match random.below(12) {
        0..2 => restart(cluster, None, random).await,
        2..5 => restart(cluster, Some(&name), random).await,
        5 => {
            // Away for longer than the participants wait.
            cluster.coordinator.kill();
            tokio::time::sleep(Duration::from_millis(3000 + random.below(3000))).await;
            restart(cluster, None, random).await;
        }
        6 => {
            cluster.participant(&name).kill();
            cluster.coordinator.kill();
            tokio::time::sleep(Duration::from_millis(random.below(4000))).await;
            restart(cluster, Some(&name), random).await;
            restart(cluster, None, random).await;
        }
        7 => {
            cluster.coordinator.signal("STOP");
            tokio::time::sleep(Duration::from_millis(random.below(5000))).await;
            cluster.coordinator.signal("CONT");
        }
        8 => {
            cluster.participant(&name).signal("STOP");
            tokio::time::sleep(Duration::from_millis(random.below(400))).await;
            cluster.participant(&name).signal("CONT");
        }
        9 => cluster.proxy(&name).cut(),
        10 => {
            cluster.proxy(&name).to_client(handfast_chaos::Flow::Blocked);
            tokio::time::sleep(Duration::from_millis(random.below(3000))).await;
            cluster.proxy(&name).heal();
        }
        _ => {
            cluster.proxy(&name).refuse();
            tokio::time::sleep(Duration::from_millis(random.below(3000))).await;
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
