//! The stream that carries a client's calls: the coordinator at its other end dies, is stopped, drains or is
//! cut off, with many calls in flight.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use handfast_chaos::{Answer, Cluster, Flow, Oracle, Plan, Proxy, Random, ask, eventually};
use handfast_client::key_value::Work;
use handfast_client::{Client, Error, Request};
use tokio::task::JoinSet;

use crate::{LONG, puts};

/// Requests that wait for nobody but their own answers.
fn load(client: &Client, oracle: &Arc<Oracle>, name: &str, count: usize) -> JoinSet<Answer> {
    let mut running = JoinSet::new();
    for number in 0..count {
        let (client, oracle) = (client.clone(), Arc::clone(oracle));
        let request_id = format!("{name}-{number}");
        running.spawn(async move {
            let work = puts(&["a", "b"], &request_id);
            oracle.execute(&client, &request_id, work).await
        });
    }
    running
}

async fn all_committed(mut running: JoinSet<Answer>) {
    while let Some(answer) = running.join_next().await {
        answer.expect("no panic").committed();
    }
}

/// Killed with a stream full of calls, before and after decisions are durable, and before replies: everybody
/// repeats, and everything is done once.
#[tokio::test]
async fn a_coordinator_that_dies_under_a_full_stream_answers_every_call_later() {
    const CALLS: usize = 60;
    let mut cluster = Cluster::start(&["a", "b"]).await;
    let oracle = Arc::new(Oracle::new());
    // One client, one stream at a time, through all of it.
    let client = cluster.client();
    // Many decisions share a sync.
    for (point, times) in [
        ("coordinator.before-prepare-sent", 5),
        ("coordinator.before-decision-sync", 1),
        ("coordinator.after-decision-sync", 1),
        ("coordinator.before-reply", 5),
    ] {
        cluster.restart_coordinator_at(&format!("{point}@{times}")).await;
        let running = load(&client, &oracle, point, CALLS);
        cluster.coordinator.dies_at(point).await;
        cluster.coordinator.start().await;
        all_committed(running).await;
    }
    oracle.check(&cluster).await;
}

/// The connection is cut again and again, in the middle of frames of either direction.
#[tokio::test]
async fn a_stream_that_is_cut_under_load_loses_and_repeats_nothing() {
    const CUTS: usize = 15;
    let mut random = Random::from_environment("a_stream_that_is_cut_under_load");
    let cluster = Cluster::start(&["a", "b"]).await;
    let proxy = Proxy::start(cluster.coordinator.address()).await;
    let oracle = Arc::new(Oracle::new());
    let client = cluster.client_through(&proxy, LONG);
    let stop = Arc::new(AtomicBool::new(false));
    let mut running = JoinSet::new();
    for caller in 0..20 {
        let (client, oracle, stop) = (client.clone(), Arc::clone(&oracle), Arc::clone(&stop));
        running.spawn(async move {
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let add = Work::new().add(format!("count/{}", number % 7), 1);
                let work = ["a", "b"].map(|name| (name, add.clone()));
                oracle.execute(&client, &format!("order-{caller}-{number}"), work).await;
            }
        });
    }
    for _ in 0..CUTS {
        tokio::time::sleep(Duration::from_millis(20 + random.below(120))).await;
        // What was on its way in a blocked direction is lost with the cut.
        match random.below(3) {
            0 => proxy.to_client(Flow::Blocked),
            1 => proxy.to_server(Flow::Blocked),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(random.below(60))).await;
        proxy.cut();
        proxy.heal();
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(done) = running.join_next().await {
        done.expect("no panic");
    }
    let (_, _, unknown) = oracle.counts();
    assert_eq!(unknown, 0, "whoever asks for long enough is told");
    oracle.check(&cluster).await;
}

/// A coordinator that is stopped says nothing: deadlines are the client's own, and nothing is guessed.
#[tokio::test]
async fn a_coordinator_that_is_stopped_leaves_outcomes_unknown_in_time() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let oracle = Oracle::new();
    let client = cluster.client();
    oracle.execute(&client, "before", puts(&["a", "b"], "before")).await.committed();
    cluster.coordinator.signal("STOP");
    let work = puts(&["a", "b"], "meanwhile");
    let request_id = oracle.expect("meanwhile", work.clone());
    let mut request = Request::new().request_id(request_id.clone());
    for (name, payload) in Oracle::marked("meanwhile", &work) {
        request = request.branch(name, payload);
    }
    let began = Instant::now();
    let error = client.execute(request.deadline(Duration::from_millis(500))).await;
    let error = error.expect_err("it is stopped");
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    cluster.coordinator.signal("CONT");
    // The same stream goes on.
    oracle.execute(&client, "after", puts(&["a", "b"], "after")).await.committed();
    oracle.check(&cluster).await;
}

/// SIGTERM with calls in flight: they are answered over the stream, which does not hold up the end; new ones
/// wait for the next start.
#[tokio::test]
async fn a_coordinator_that_drains_answers_the_calls_of_its_streams() {
    const VOTING: &str = "participant.before-prepared-record";
    let mut cluster = Plan::new(&["a", "b"]).coordinator(&["--drain", "60s"]).start().await;
    let hold = cluster.hold(VOTING);
    cluster.restart_participant_at("b", &hold.point()).await;
    let oracle = Arc::new(Oracle::new());
    let client = cluster.client();
    let running = load(&client, &oracle, "running", 10);
    cluster.participant("b").comes_by(VOTING).await;
    let idle = cluster.client();
    idle.get("nobody".parse::<handfast_client::RequestId>().expect("a request_id"))
        .await
        .expect_err("nobody has asked");
    cluster.coordinator.signal("TERM");
    let address = cluster.coordinator.address();
    eventually(
        "it drains",
        || async move { ask::serves(address).await.is_ok_and(|serves| !serves) },
    )
    .await;
    let new = load(&client, &oracle, "new", 3);
    hold.release();
    let began = Instant::now();
    all_committed(running).await;
    assert_eq!(cluster.coordinator.ended().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(30), "it took {:?}", began.elapsed());
    cluster.coordinator.start().await;
    all_committed(new).await;
    oracle.check(&cluster).await;
}

/// Work that is told to be gone is gone, and the stream that carried it goes on.
#[tokio::test]
async fn aborts_and_commits_share_a_stream() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let oracle = Arc::new(Oracle::new());
    let client = cluster.client();
    let running = load(&client, &oracle, "commits", 40);
    let mut refused = JoinSet::new();
    for number in 0..40 {
        let (client, oracle) = (client.clone(), Arc::clone(&oracle));
        refused.spawn(async move {
            let never = Work::new().expect("never there", "x").put("refused", "never");
            let work = BTreeMap::from(["a", "b"].map(|name| (name.to_owned(), never.clone())));
            oracle.execute(&client, &format!("refused-{number}"), work).await
        });
    }
    while let Some(answer) = refused.join_next().await {
        let answer = answer.expect("no panic");
        assert!(matches!(answer, Answer::Aborted(_)), "{answer:?}");
    }
    all_committed(running).await;
    oracle.check(&cluster).await;
}
