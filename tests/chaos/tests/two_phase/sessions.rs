//! Work that was done in steps, and a coordinator that forgets it.

use std::time::Duration;

use handfast_chaos::{Cluster, Oracle};
use handfast_client::key_value::Work;
use handfast_client::{Error, TransactionOptions};

/// (13) Nothing was asked to prepare: after a restart the commit is refused, and the branches come free
/// by themselves.
#[tokio::test]
async fn s13_a_restart_with_an_open_session_refuses_its_commit() {
    let mut cluster = Cluster::start(&["a", "b"]).await;
    let options = TransactionOptions::new().timeout(Duration::from_secs(4));
    let transaction = cluster.client().begin(options).await.expect("begun");
    for name in ["a", "b"] {
        let put = Work::new().put("key", "never");
        transaction.key_value(name).apply(put).await.expect("the work is done");
    }
    cluster.coordinator.kill_and_start().await;
    match transaction.commit().await {
        Err(Error::Aborted { .. }) => {}
        other => panic!("expected an abort, was told {other:?}"),
    }
    // Nobody tells the participants of that transaction: what frees the key is their own doing.
    let oracle = Oracle::new();
    let free = Work::new().expect_absent("key").put("key", "free");
    let both = ["a", "b"].map(|name| (name, free.clone()));
    handfast_chaos::eventually_ok("the key is free again", || {
        let both = both.clone();
        async {
            match oracle.execute(&cluster.client(), "next", both).await {
                handfast_chaos::Answer::Committed(id) => Ok(id),
                other => Err(format!("{other:?}")),
            }
        }
    })
    .await;
    oracle.check(&cluster).await;
}

/// A participant loses the work of a session: the transaction cannot commit with the other half of it.
#[tokio::test]
async fn a_participant_that_has_lost_its_part_of_the_work_prevents_the_commit() {
    let mut cluster = Cluster::start(&["a", "b"]).await;
    let transaction = cluster.client().begin(TransactionOptions::new()).await.expect("begun");
    for name in ["a", "b"] {
        let add = Work::new().add("count", 1);
        transaction.key_value(name).apply(add).await.expect("the work is done");
    }
    cluster.participant("b").kill_and_start().await;
    cluster.connected().await;
    // More work at b, as if nothing had happened: it would be the only work there.
    let more = transaction.key_value("b").apply(Work::new().add("other", 1)).await;
    let committed = transaction.commit().await;
    assert!(
        committed.is_err(),
        "committed though b had lost its first part; its second call was told {more:?}"
    );
    cluster.nothing_is_left().await;
    let nothing =
        ["a", "b"].map(|name| (name, Work::new().expect_absent("count").expect_absent("other")));
    Oracle::new().execute(&cluster.client(), "look", nothing).await.committed();
}
