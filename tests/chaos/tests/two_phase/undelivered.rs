//! A coordinator that restarts with very many commits that somebody has not heard of.

use std::sync::Arc;

use handfast_chaos::{Oracle, Plan, ask, eventually, eventually_ok};
use handfast_client::key_value::Work;
use handfast_client::{Client, ReplyTime, TransactionState};

use crate::puts;

/// Calls on one connection: servers take 200 at a time.
const CALLS_AT_ONCE: usize = 100;

/// How many: `HANDFAST_UNDELIVERED`, for a run by hand with more.
fn how_many() -> usize {
    let given = std::env::var("HANDFAST_UNDELIVERED").ok();
    given.map_or(5000, |text| text.parse().expect("HANDFAST_UNDELIVERED is a number"))
}

/// It serves new transactions while it delivers, and it delivers all.
#[tokio::test]
async fn a_restart_with_many_undelivered_commits_serves_at_once_and_delivers_all() {
    const DECIDING: &str = "coordinator.before-decision-sync";
    let count = how_many();
    let mut cluster = Plan::new(&["a", "b", "c"])
        .coordinator(&[
            "--link-queue-max",
            "1000000",
            "--in-flight-max",
            "1000000",
            "--timeout",
            "300s",
        ])
        .start()
        .await;
    // All are prepared everywhere while the first decision is held up; then b dies, then all are decided.
    let hold = cluster.hold(DECIDING);
    cluster.restart_coordinator_at(&hold.point()).await;
    let oracle = Arc::new(Oracle::new());
    let mut clients = Vec::new();
    for first in (0..count).step_by(CALLS_AT_ONCE) {
        let (client, oracle) = (cluster.client(), Arc::clone(&oracle));
        clients.push(tokio::spawn(some(client, oracle, first..count.min(first + CALLS_AT_ONCE))));
    }
    eventually_ok("all are prepared", || async {
        let held = cluster.in_doubt("b").await.len();
        if held == count { Ok(()) } else { Err(format!("{held} are")) }
    })
    .await;
    cluster.participant("b").kill();
    hold.release();
    for client in clients {
        client.await.expect("all are decided");
    }
    let committing = [TransactionState::Committing];
    let undelivered = ask::list(cluster.coordinator.address(), &committing).await.expect("a list");
    assert_eq!(undelivered.len(), count);

    // Killed with all of them undelivered; b stays away, and the others are served.
    cluster.coordinator.kill_and_start().await;
    let client = cluster.client();
    eventually("a and c are connected", || async {
        ask::participants(cluster.coordinator.address()).await.is_ok_and(|registered| {
            registered.iter().filter(|participant| participant.connected).count() == 2
        })
    })
    .await;
    oracle.execute(&client, "new", puts(&["a", "c"], "new")).await.committed();
    let registered = ask::participants(cluster.coordinator.address()).await.expect("a list");
    let at_b = registered.iter().find(|known| known.participant == "b").expect("registered");
    assert_eq!(at_b.undelivered, count as u64);

    // b comes back: all are delivered, and new ones are served meanwhile.
    cluster.participant("b").start().await;
    oracle.execute(&client, "newer", puts(&["a", "b"], "newer")).await.committed();
    oracle.check(&cluster).await;
}

/// A share of the transactions, all at once over one connection.
async fn some(client: Client, oracle: Arc<Oracle>, numbers: std::ops::Range<usize>) {
    let mut calls = Vec::new();
    for number in numbers {
        let (client, oracle) = (client.clone(), Arc::clone(&oracle));
        calls.push(tokio::spawn(async move {
            let work = ["a", "b"].map(|name| (name.to_owned(), Work::new())).into();
            let more = |request: handfast_client::Request| request.reply_time(ReplyTime::Decided);
            oracle
                .execute_request(&client, &format!("many-{number}"), work, more)
                .await
                .committed();
        }));
    }
    for call in calls {
        call.await.expect("a commit");
    }
}
