//! The unary calls: the four that every participant serves, and PreCommit.

use handfast_wire::v1;
use tonic::Code;

use crate::site::{NAME, Site, abort, add, id, origin, prepare, put};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_prepared_is_seen_when_it_is_committed() {
    let site = Site::start().await;
    let one = id(1, 1);
    let vote = site.prepare(prepare(&one, 1, add("a", 5))).await;
    assert_eq!(vote.vote(), v1::Vote::Prepared);
    assert_eq!(vote.participant_incarnation, site.incarnation().await);
    assert_eq!(site.value("a"), None);
    assert_eq!(site.in_doubt().await, [one.as_str()]);
    site.commit(&one, 1).await.expect("committed");
    assert_eq!(site.value("a").as_deref(), Some("5"));
    assert!(site.in_doubt().await.is_empty());

    let two = id(1, 2);
    site.prepare(prepare(&two, 1, add("a", 6))).await;
    site.abort(&two, 1).await.expect("aborted");
    assert_eq!(site.value("a").as_deref(), Some("5"));
    assert!(site.in_doubt().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_repeated_is_done_once() {
    let site = Site::start().await;
    let one = id(1, 1);
    let request = prepare(&one, 1, add("a", 5));
    for _ in 0..2 {
        let vote = site.prepare(request.clone()).await;
        assert_eq!(vote.vote(), v1::Vote::Prepared);
        assert!(!vote.result.is_empty(), "the same vote has the same result");
    }
    for _ in 0..2 {
        site.commit(&one, 1).await.expect("committed");
    }
    // Late: long after the vote was counted.
    site.prepare(request).await;
    assert_eq!(site.value("a").as_deref(), Some("5"));
    assert!(site.in_doubt().await.is_empty());

    let two = id(1, 2);
    site.abort(&two, 1).await.expect("an unheard-of branch is aborted");
    let vote = site.prepare(prepare(&two, 1, add("a", 5))).await;
    assert_eq!(vote.vote(), v1::Vote::No, "its abort has overtaken it");
    assert_eq!(site.value("a").as_deref(), Some("5"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_for_another_participant_is_refused() {
    let site = Site::start().await;
    let other = || "other".to_owned();
    let mut client = site.client();
    let request = v1::PrepareRequest { participant: other(), ..prepare(&id(1, 1), 1, add("a", 1)) };
    let commit = v1::CommitRequest { participant: other(), ..Default::default() };
    let pre_commit = v1::PreCommitRequest { participant: other(), ..Default::default() };
    let list = v1::ListInDoubtRequest { participant: other(), ..Default::default() };
    for status in [
        client.prepare(request).await.map(drop),
        client.commit(commit).await.map(drop),
        client.abort(v1::AbortRequest { participant: other(), ..abort("", 1) }).await.map(drop),
        client.pre_commit(pre_commit).await.map(drop),
        client.list_in_doubt(list).await.map(drop),
    ] {
        let status = status.expect_err("another participant's");
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains(NAME) && status.message().contains("\"other\""));
    }
    assert!(site.in_doubt().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_malformed_is_named() {
    let site = Site::start().await;
    let sound = || prepare(&id(1, 1), 1, add("a", 1));
    for (request, field) in [
        (v1::PrepareRequest { transaction_id: "7".into(), ..sound() }, "transaction_id"),
        (v1::PrepareRequest { origin: None, ..sound() }, "origin"),
        (v1::PrepareRequest { payload: vec![0; (1 << 20) + 1].into(), ..sound() }, "payload"),
        (v1::PrepareRequest { request_id: "\n".into(), ..sound() }, "request_id"),
    ] {
        let status = site.client().prepare(request).await.expect_err(field);
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().starts_with(field), "{field}: {status:?}");
    }
    // The work itself is the resource's to judge.
    let request = v1::PrepareRequest { payload: vec![0xff; 3].into(), ..sound() };
    let vote = site.prepare(request).await;
    assert_eq!(vote.vote(), v1::Vote::No);
    assert!(vote.reason.contains("KeyValueWork"), "{}", vote.reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_epoch_is_over() {
    let mut site = Site::start().await;
    site.prepare(prepare(&id(3, 1), 3, add("a", 1))).await;
    for restarted in [false, true] {
        let status = site.client().prepare(prepare(&id(2, 1), 2, add("b", 1))).await;
        let status = status.expect_err("an older epoch");
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("epoch 3 has been seen"), "{status:?}");
        let status = site.abort(&id(2, 1), 2).await.expect_err("an older epoch");
        assert_eq!(status.code(), Code::FailedPrecondition);
        if !restarted {
            site.restart().await;
        }
    }
    assert_eq!(site.in_doubt().await, [id(3, 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_not_happen_is_refused_loudly() {
    let site = Site::start().await;
    let commit = v1::CommitRequest {
        transaction_id: id(1, 1),
        origin: Some(origin(1)),
        participant_incarnation: site.incarnation().await ^ 1,
        participant: NAME.into(),
    };
    let status = site.client().commit(commit).await.expect_err("another log voted");
    assert_eq!(status.code(), Code::DataLoss);
    assert!(status.message().starts_with("DATA LOSS"), "{status:?}");

    site.abort(&id(1, 2), 1).await.expect("aborted");
    let status = site.commit(&id(1, 2), 1).await.expect_err("it is aborted");
    assert_eq!(status.code(), Code::FailedPrecondition);

    site.prepare(prepare(&id(1, 3), 1, put("a", "x"))).await;
    site.commit(&id(1, 3), 1).await.expect("committed");
    let status = site.abort(&id(1, 3), 1).await.expect_err("it is committed");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(site.value("a").as_deref(), Some("x"), "never undone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_protocols_are_not_served() {
    let site = Site::start().await;
    let paxos = id(1, 1).replace("-02-", "-04-");
    let status = site.client().prepare(prepare(&paxos, 1, add("a", 1))).await;
    assert_eq!(status.expect_err("Paxos Commit").code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_changes_nothing() {
    let site = Site::start().await;
    site.prepare(prepare(&id(1, 1), 1, add("a", 5))).await;
    // It waits for the lock of the first one.
    let waiting = tokio::spawn({
        let mut client = site.client();
        async move { client.prepare(prepare(&id(1, 2), 1, add("a", 6))).await }
    });
    tokio::task::yield_now().await;
    waiting.abort();
    let _ = waiting.await;
    site.commit(&id(1, 1), 1).await.expect("committed");
    let vote = site.prepare(prepare(&id(1, 2), 1, add("a", 6))).await;
    assert_eq!(vote.vote(), v1::Vote::Prepared);
    site.commit(&id(1, 2), 1).await.expect("committed");
    assert_eq!(site.value("a").as_deref(), Some("11"));
}
