//! A wall clock that jumps.

use std::time::Duration;

use handfast_chaos::{Oracle, Plan, Shim, ask};
use handfast_client::key_value::Work;
use handfast_client::{TransactionOptions, TransactionState};

use crate::puts;

/// (21) An hour forwards, an hour back, two hours at once, and over a restart: nothing times out that has
/// not, nothing that is known is forgotten, and no id is given out twice.
#[tokio::test]
async fn s21_the_wall_clock_moves_by_an_hour_either_way() {
    let shim = Shim::build();
    shim.move_clock(0);
    // Everywhere: no file is touched below an empty folder.
    let everywhere = shim.environment(std::path::Path::new("/nowhere"));
    let mut cluster = Plan::new(&["a", "b"]).environment(&everywhere).start().await;
    let oracle = Oracle::new();
    let mut known = Vec::new();
    for (turn, hours) in [0, 1, -1, 1, 0].into_iter().enumerate() {
        // Open while the clock jumps: neither its time-out nor its sessions' idle time is used up.
        let options = TransactionOptions::new().timeout(Duration::from_secs(50));
        let open = cluster.client().begin(options).await.expect("begun");
        let add = Work::new().add("count", 1);
        open.key_value("a").apply(add.clone()).await.expect("the work is done");
        shim.move_clock(hours * 3600);
        let request_id = format!("order-{turn}");
        known.push(
            oracle
                .execute(&cluster.client(), &request_id, puts(&["a", "b"], "key"))
                .await
                .committed(),
        );
        open.key_value("b").apply(add).await.expect("the work is done");
        known.push(open.commit().await.expect("still open, hence committed").transaction_id);
        if turn == 2 {
            // The clock of the next process is behind all that the log says.
            for name in ["a", "b"] {
                cluster.participant(name).kill();
            }
            cluster.coordinator.kill();
            cluster.start_all().await;
        }
        for id in &known {
            let found = ask::get(cluster.coordinator.address(), &id.to_string()).await;
            assert_eq!(found.expect("known").state(), TransactionState::Committed);
        }
    }
    known.sort_unstable();
    known.dedup();
    assert_eq!(known.len(), 10, "every id was given out once");
    assert!(
        wall_clock_was_moved(&cluster).await,
        "the library in front of the clock does nothing: the test has shown nothing"
    );
    oracle.check(&cluster).await;
}

/// The times that people read are the wall clock's, wherever that stands.
async fn wall_clock_was_moved(cluster: &handfast_chaos::Cluster) -> bool {
    let mut seen = Vec::new();
    for turn in [1, 2] {
        let found = ask::get_request(cluster.coordinator.address(), &format!("order-{turn}")).await;
        let found = found.expect("known");
        seen.push(found.started_at.expect("a time").seconds);
    }
    (seen[0] - seen[1] - 7200).abs() < 600
}
