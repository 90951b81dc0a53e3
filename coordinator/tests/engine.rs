//! The coordinator without its network, over a journal in memory.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use handfast_commit_core::two_phase::coordinator::{ReplyTime, Terms};
use handfast_coordinator::config::CoordinatorConfig;
use handfast_coordinator::engine::Engine;
use handfast_coordinator::requests::ExecuteRequest;
use handfast_coordinator::shard::SHARDS_MAX;
use handfast_journal::{Kind, MemoryDisk, MemoryJournal};

const LONG: Duration = Duration::from_secs(3600);

fn engine(shards: usize) -> Arc<Engine> {
    let journal = MemoryJournal::open(&MemoryDisk::new(7), Kind::Coordinator).expect("new");
    let config = CoordinatorConfig { shards, ..CoordinatorConfig::default() };
    Engine::start_on(Box::new(journal), config, "http://127.0.0.1:1".to_owned()).expect("starts")
}

/// A request whose participants are nowhere: it runs until its time is over.
fn request(name: &str) -> ExecuteRequest {
    let branches = ["a", "b"].map(|name| (name.parse().expect("a name"), Bytes::from("work")));
    ExecuteRequest {
        protocol: handfast_commit_core::id::Protocol::TwoPhase,
        branches: BTreeMap::from(branches),
        terms: Terms { timeout_us: LONG.as_micros() as u64, ..Terms::default() },
        request_id: Some(name.parse().expect("a request id")),
        reply_time: ReplyTime::Decided,
        patience: LONG,
    }
}

/// Goes on with a call until it waits.
async fn begin<F: Future>(mut call: Pin<&mut F>) {
    poll_fn(|context| {
        assert!(call.as_mut().poll(context).is_pending(), "nobody votes");
        Poll::Ready(())
    })
    .await;
}

#[tokio::test]
async fn a_request_and_its_repetitions_are_one_transaction() {
    const REPETITIONS: usize = 64;
    let engine = engine(SHARDS_MAX);
    let mut calls = Vec::new();
    for _ in 0..REPETITIONS {
        let mut call = Box::pin(engine.execute(request("same")));
        begin(call.as_mut()).await;
        calls.push(call);
    }
    let mut other = Box::pin(engine.execute(request("other")));
    begin(other.as_mut()).await;
    let running = engine.running(None, usize::MAX, |_| true).await.expect("it runs");
    assert_eq!(running.len(), 2, "one for each request_id");
}
