//! The stream that a client and its clones share: how it begins, breaks and ends.

use std::time::Duration;

use handfast_client::key_value::{Results, Work};
use handfast_client::{Bytes, Client, ClientMode, Error, Request, TransactionOptions};
use tonic::{Code, Status};

use crate::fake::{Fake, Step, status};
use crate::proxy::Proxy;
use crate::until;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

fn client(fake: &Fake) -> Client {
    crate::client(ClientMode::Stream, &fake.endpoint, LONG)
}

fn add() -> Request {
    Request::new().branch("accounts", Work::new().add("n", 1))
}

/// How often something was added.
async fn sum(client: &Client) -> i64 {
    let get = Request::new().branch("accounts", Work::new().get("n"));
    let committed = client.execute(get).await.expect("committed");
    let result = committed.result("accounts").cloned().expect("a result");
    Results::decode(result).expect("results").integer(0).unwrap_or(0)
}

#[tokio::test]
async fn all_calls_share_one_stream() {
    let fake = Fake::start().await;
    let client = client(&fake);
    let calls = (0..100).map(|n| {
        let client = client.clone();
        tokio::spawn(async move {
            match n % 2 {
                0 => client.execute(add()).await.map(|_| ()),
                _ => client.begin(TransactionOptions::new()).await?.commit().await.map(|_| ()),
            }
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.expect("no panic").expect("committed");
    }
    assert_eq!(sum(&client).await, 50);
    assert_eq!(fake.opened(), 1);
}

#[tokio::test]
async fn a_stream_that_is_cut_is_opened_again_and_every_call_of_it_repeated() {
    const CALLS: usize = 50;
    let fake = Fake::start().await;
    let proxy = Proxy::start(&fake.endpoint).await;
    let client = crate::client(ClientMode::Stream, &proxy.endpoint, LONG);
    fake.script((0..CALLS).map(|_| Step::Hang));
    let calls: Vec<_> = (0..CALLS)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.execute(add()).await })
        })
        .collect();
    until("every first attempt has arrived", || fake.request_ids().len() == CALLS).await;
    proxy.cut();
    for call in calls {
        call.await.expect("no panic").expect("committed");
    }
    let mut seen = fake.request_ids();
    assert_eq!(seen.len(), 2 * CALLS);
    seen.sort();
    assert!(seen.chunks(2).all(|pair| pair[0] == pair[1]), "each has kept its request_id");
    assert_eq!(sum(&client).await, CALLS as i64);
    assert_eq!(fake.opened(), 2);
}

#[tokio::test]
async fn what_a_stream_leaves_unanswered_is_unknown_whatever_its_last_word_is() {
    for (code, reason) in [
        (Code::Unavailable, "DRAINING"),
        (Code::OutOfRange, ""),
        (Code::InvalidArgument, "INVALID_FIELD"),
        (Code::Ok, ""),
    ] {
        let fake = Fake::start().await;
        let client = crate::client(ClientMode::Stream, &fake.endpoint, SHORT);
        fake.script([Step::Hang]);
        let call = tokio::spawn(async move { client.execute(add()).await });
        until("it has arrived", || fake.request_ids().len() == 1).await;
        fake.streams.send_replace(Some(status(code, reason, "the end", None)));
        let error = call.await.expect("no panic").expect_err("nobody can tell");
        assert!(matches!(error, Error::OutcomeUnknown { .. }), "{code:?}: {error}");
    }
}

#[tokio::test]
async fn after_a_stream_that_the_server_ended_there_is_another() {
    let fake = Fake::start().await;
    let client = client(&fake);
    client.execute(add()).await.expect("committed");
    fake.streams.send_replace(Some(status(Code::Unavailable, "DRAINING", "going", None)));
    // Refused, and refused again, until it is back.
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.execute(add()).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!call.is_finished());
    fake.streams.send_replace(None);
    call.await.expect("no panic").expect("committed");
    assert_eq!(sum(&client).await, 2);
    assert_eq!(fake.opened(), 2);
}

#[tokio::test]
async fn a_stream_that_is_refused_has_done_nothing() {
    let fake = Fake::start().await;
    let client = crate::client(ClientMode::Stream, &fake.endpoint, SHORT);
    let wait = Some(LONG);
    fake.streams.send_replace(Some(status(Code::Unavailable, "STARTING", "reading", wait)));
    let error = client.execute(add()).await.expect_err("not served");
    assert!(matches!(error, Error::Unavailable { .. }) && error.nothing_was_done(), "{error}");
    assert!(error.to_string().contains("reading"), "{error}");
    assert!(fake.request_ids().is_empty());
}

#[tokio::test]
async fn a_server_without_streams_is_called_without_and_is_not_asked_again() {
    let fake = Fake::start().await;
    fake.streams.send_replace(Some(Status::unimplemented("an older version")));
    let client = client(&fake);
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.execute(add()).await })
        })
        .collect();
    for call in calls {
        call.await.expect("no panic").expect("committed");
    }
    let transaction = client.begin(TransactionOptions::new()).await.expect("begun");
    transaction.commit().await.expect("committed");
    let transaction = client.begin(TransactionOptions::new()).await.expect("begun");
    client.get(transaction.id()).await.expect("found");
    transaction.abort("no longer wanted").await.expect("aborted");
    // Each was made once.
    assert_eq!(fake.request_ids().len(), 20);
    // It would serve them by now.
    fake.streams.send_replace(None);
    assert_eq!(sum(&client).await, 20);
    assert_eq!(fake.opened(), 0);
}

#[tokio::test]
async fn what_one_call_says_of_itself_does_not_end_the_stream() {
    let fake = Fake::start().await;
    let client = client(&fake);
    fake.script([Step::Fail(Status::unimplemented("three-phase commit"))]);
    let error = client.execute(add()).await.expect_err("not served");
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    client.execute(add()).await.expect("committed");
    assert_eq!(fake.opened(), 1);
}

#[tokio::test]
async fn a_large_request_does_not_hold_up_the_others() {
    let fake = Fake::start().await;
    let client = client(&fake);
    let large = Bytes::from(vec![b'x'; 2 << 20]);
    client
        .execute(Request::new().branch("orders", Work::new().put("k", large.clone())))
        .await
        .expect("committed");
    assert_eq!(fake.opened(), 0, "it was a call of its own");
    let small = large.slice(..1000);
    client
        .execute(Request::new().branch("orders", Work::new().put("k", small)))
        .await
        .expect("committed");
    assert_eq!(fake.opened(), 1);
}

#[tokio::test]
async fn a_caller_that_goes_away_is_missed_by_nobody() {
    let fake = Fake::start().await;
    let client = client(&fake);
    fake.script([Step::Hang]);
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.execute(add()).await }
    });
    until("it has arrived", || fake.request_ids().len() == 1).await;
    call.abort();
    client.execute(add()).await.expect("committed");
    assert_eq!(fake.opened(), 1);
}

#[tokio::test]
async fn without_a_client_there_is_no_stream() {
    let fake = Fake::start().await;
    let client = client(&fake);
    client.execute(add()).await.expect("committed");
    assert_eq!(fake.streams.receiver_count(), 1);
    drop(client);
    until("the stream has ended", || fake.streams.receiver_count() == 0).await;
}

#[tokio::test]
async fn a_client_can_be_told_to_make_each_call_by_itself() {
    let fake = Fake::start().await;
    let client = crate::client(ClientMode::Unary, &fake.endpoint, LONG);
    client.execute(add()).await.expect("committed");
    assert_eq!((sum(&client).await, fake.opened()), (1, 0));
}
