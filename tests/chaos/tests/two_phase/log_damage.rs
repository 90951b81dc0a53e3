//! Logs that were cut and bytes that have changed.

use handfast_chaos::{Cluster, Oracle, ask};
use handfast_client::{AbortCause, TransactionState};

use crate::{execute_once, puts};

async fn history(cluster: &Cluster, oracle: &Oracle) {
    for number in 0..6 {
        let request_id = format!("before-{number}");
        oracle.execute(&cluster.client(), &request_id, puts(&["a", "b"], "key")).await.committed();
    }
    cluster.nothing_is_left().await;
}

/// (18) The log ends inside a record that was never acknowledged, as a crash leaves it: it starts, and
/// every earlier decision is intact.
#[tokio::test]
async fn s18_cut_inside_its_last_unacknowledged_record() {
    const POINT: &str = "coordinator.before-decision-sync";
    for torn in [1, 7, 11] {
        let mut cluster = Cluster::start(&["a", "b"]).await;
        let oracle = Oracle::new();
        history(&cluster, &oracle).await;
        // The third decision of the next process is the one that is torn.
        cluster.restart_coordinator_at(&format!("{POINT}@3")).await;
        for number in 0..2 {
            let request_id = format!("after-{number}");
            oracle
                .execute(&cluster.client(), &request_id, puts(&["a", "b"], "key"))
                .await
                .committed();
        }
        let lost = execute_once(&cluster, &oracle, "torn", puts(&["a", "b"], "key"));
        cluster.coordinator.dies_at(POINT).await;
        lost.await.expect("no panic").expect_err("nobody was left to answer");
        let voted = cluster.wait_in_doubt("a", 1).await;
        // What reaches the disk of a write that is interrupted is its beginning.
        let log = cluster.coordinator_log();
        let mut contents = log.contents();
        let beginning = contents[..torn].to_vec();
        contents.extend(beginning);
        log.replace(&contents);

        cluster.coordinator.start().await;
        cluster.connected().await;
        cluster.nothing_is_left().await;
        let over = ask::get(cluster.coordinator.address(), &voted[0]).await.expect("an answer");
        assert_eq!(over.state(), TransactionState::Aborted, "{torn} bytes");
        assert_eq!(over.abort_reason.expect("a reason").cause(), AbortCause::Presumed);
        for number in 0..2 {
            let known =
                ask::get_request(cluster.coordinator.address(), &format!("after-{number}")).await;
            assert_eq!(known.expect("known").state(), TransactionState::Committed);
        }
        oracle.check(&cluster).await;
    }
}

/// (18) The log has lost what it had acknowledged: it is refused, untouched, with advice.
#[tokio::test]
async fn s18_cut_inside_acknowledged_records_is_refused() {
    let mut cluster = Cluster::start(&["a", "b"]).await;
    let oracle = Oracle::new();
    history(&cluster, &oracle).await;
    cluster.coordinator.kill();
    let log = cluster.coordinator_log();
    let whole = log.contents();
    for lost in [1, whole.len() / 3, whole.len()] {
        log.cut((whole.len() - lost) as u64);
        let damaged = log.contents();
        is_refused(&mut cluster, &format!("{lost} bytes cut off")).await;
        assert_eq!(log.contents(), damaged, "a refused log is left as it was");
    }
    log.replace(&whole);
    cluster.coordinator.start().await;
    oracle.check(&cluster).await;
}

/// (18) Bytes in the middle have changed: refused, untouched, with advice.
#[tokio::test]
async fn s18_changed_in_the_middle_is_refused() {
    let mut cluster = Cluster::start(&["a", "b"]).await;
    let oracle = Oracle::new();
    history(&cluster, &oracle).await;
    cluster.coordinator.kill();
    let log = cluster.coordinator_log();
    let whole = log.contents();
    for place in [whole.len() / 4, whole.len() / 2] {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x40;
        log.replace(&damaged);
        is_refused(&mut cluster, &format!("byte {place} changed")).await;
        assert_eq!(log.contents(), damaged, "a refused log is left as it was");
    }
    log.replace(&whole);
    cluster.coordinator.start().await;
    oracle.check(&cluster).await;
}

async fn is_refused(cluster: &mut Cluster, what: &str) {
    let (status, said) = cluster.coordinator.refuses().await;
    assert_eq!(status.code(), Some(1), "{what}: {said}");
    let folder = cluster.coordinator_data().display().to_string();
    assert!(said.contains(&folder), "{what}: it names the folder: {said}");
    // "put back a complete copy", "put the complete folder back"
    let advice = said.to_lowercase();
    assert!(
        advice.contains("put") && advice.contains("back") && advice.contains("complete"),
        "{what}: it says what to do: {said}"
    );
}
