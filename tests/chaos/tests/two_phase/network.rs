//! Connections that break, block and crawl.

use std::sync::Arc;
use std::time::Duration;

use handfast_chaos::{Answer, Cluster, Flow, Oracle, Plan, Proxy, ask, eventually, eventually_ok};
use handfast_client::TransactionState;
use handfast_client::key_value::Work;

use crate::{LONG, again, execute_once, puts, request};

/// (12) The client's connection is cut after the commit and before the answer. It asks again, with the
/// same request_id, and is told of the first attempt.
#[tokio::test]
async fn s12_a_client_that_is_cut_off_before_the_reply_retries() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let proxy = Proxy::start(cluster.coordinator.address()).await;
    let oracle = Oracle::new();
    let work = puts(&["a", "b"], "key");
    let request = request(&oracle, "order-1", work.clone(), LONG);
    // The connection has to be made before its answers are kept back.
    let mut service = ask::transactions(proxy.address()).await.expect("connected");
    proxy.to_client(Flow::Blocked);
    let lost = tokio::spawn(async move { service.execute_transaction(request).await });
    let address = cluster.coordinator.address();
    let committed = eventually_ok("it has committed", || async move {
        let found =
            ask::get_request(address, "order-1").await.map_err(|status| status.to_string())?;
        match found.state() {
            TransactionState::Committed => Ok(found.transaction_id),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    proxy.cut();
    lost.await.expect("no panic").expect_err("the answer is lost");
    proxy.heal();
    let retry = ask::execute_once(proxy.address(), again("order-1", &work)).await;
    let retry = retry.expect("an outcome");
    assert!(retry.repeated_request);
    assert_eq!(retry.transaction_id, committed);
    oracle.check(&cluster).await;
}

/// (12) The client goes away in the middle: the commit is not stopped half way.
#[tokio::test]
async fn s12_a_client_that_goes_away_stops_nothing() {
    const PLACE: &str = "coordinator.before-decision-sync";
    let mut cluster = Cluster::start(&["a", "b"]).await;
    let hold = cluster.hold(PLACE);
    cluster.restart_coordinator_at(&hold.point()).await;
    let oracle = Oracle::new();
    let going = execute_once(&cluster, &oracle, "order-1", puts(&["a", "b"], "key"));
    cluster.coordinator.comes_by(PLACE).await;
    going.abort();
    hold.release();
    let address = cluster.coordinator.address();
    eventually("it commits all the same", || async move {
        ask::get_request(address, "order-1")
            .await
            .is_ok_and(|found| found.state() == TransactionState::Committed)
    })
    .await;
    oracle.check(&cluster).await;
}

/// The link is cut again and again under load.
#[tokio::test]
async fn links_that_are_cut_under_load_lose_and_repeat_nothing() {
    let cluster = Plan::new(&["a", "b"]).proxied().start().await;
    let oracle = Arc::new(Oracle::new());
    let client = cluster.client();
    let load = tokio::spawn({
        let oracle = Arc::clone(&oracle);
        async move {
            for number in 0..60 {
                let add = Work::new().add(format!("count/{}", number % 7), 1);
                let work = ["a", "b"].map(|name| (name, add.clone()));
                oracle.execute(&client, &format!("order-{number}"), work).await;
            }
        }
    });
    let mut cuts = 0;
    while !load.is_finished() {
        for name in ["a", "b"] {
            cluster.proxy(name).cut();
            tokio::time::sleep(Duration::from_millis(40)).await;
            cuts += 1;
        }
    }
    load.await.expect("the load is done");
    assert!(cuts > 2, "nothing was cut");
    oracle.check(&cluster).await;
}

/// Slow links are slow, and nothing else.
#[tokio::test]
async fn slow_links_change_no_outcome() {
    let cluster = Plan::new(&["a", "b"]).proxied().start().await;
    cluster.proxy("a").both(Flow::Delayed(Duration::from_millis(30)));
    cluster.proxy("b").to_client(Flow::Delayed(Duration::from_millis(60)));
    let oracle = Oracle::new();
    for number in 0..5 {
        let request_id = format!("order-{number}");
        oracle.execute(&cluster.client(), &request_id, puts(&["a", "b"], "key")).await.committed();
    }
    oracle.check(&cluster).await;
}

/// Votes do not come through: the transaction aborts. When they do, nothing changes.
#[tokio::test]
async fn a_link_that_is_blocked_one_way_aborts_and_comes_back() {
    let cluster = Plan::new(&["a", "b"]).proxied().start().await;
    let oracle = Oracle::new();
    cluster.proxy("b").to_client(Flow::Blocked);
    let request = request(&oracle, "order-1", puts(&["a", "b"], "key"), Duration::from_secs(2));
    let outcome = ask::execute_once(cluster.coordinator.address(), request).await;
    assert_eq!(outcome.expect("an outcome").state(), TransactionState::Aborted);
    // It has voted; it is in doubt until it can be told.
    cluster.proxy("b").heal();
    oracle.check(&cluster).await;
    oracle.execute(&cluster.client(), "order-2", puts(&["a", "b"], "key")).await.committed();
    oracle.check(&cluster).await;
}

/// Commits do not come through: decided is decided, and it arrives when it can.
#[tokio::test]
async fn a_commit_that_cannot_be_delivered_is_delivered_later() {
    const PLACE: &str = "coordinator.before-decision-sync";
    let mut cluster = Plan::new(&["a", "b"]).proxied().start().await;
    let hold = cluster.hold(PLACE);
    cluster.restart_coordinator_at(&hold.point()).await;
    let oracle = Oracle::new();
    let answer = execute_once(&cluster, &oracle, "order-1", puts(&["a", "b"], "key"));
    cluster.coordinator.comes_by(PLACE).await;
    cluster.proxy("b").refuse();
    hold.release();
    let address = cluster.coordinator.address();
    eventually("it is decided", || async move {
        ask::get_request(address, "order-1")
            .await
            .is_ok_and(|found| found.state() == TransactionState::Committing)
    })
    .await;
    cluster.wait_in_doubt("a", 0).await;
    assert_eq!(cluster.in_doubt("b").await.len(), 1);
    // b cannot be reached, and can ask by itself; either way it learns.
    cluster.proxy("b").heal();
    let outcome = answer.await.expect("no panic").expect("an outcome");
    oracle.record(
        &"order-1".parse().expect("a request_id"),
        Answer::Committed(outcome.transaction_id.parse().expect("an id")),
    );
    oracle.check(&cluster).await;
}
