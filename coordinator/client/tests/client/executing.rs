//! Transactions in one call, and asking what became of them.

use std::time::Duration;

use handfast_client::key_value::{Results, Work};
use handfast_client::{
    AbortCause, Cause, Client, ClientMode, ClientOptions, Error, ListFilter, Request, RequestId,
    Resolution, TransactionState,
};
use handfast_wire::v1::AbortReason;
use tonic::{Code, Status};

use crate::fake::{Fake, Step, status};
use crate::proxy::Proxy;
use crate::{client, until};

const LONG: Duration = Duration::from_secs(60);

fn put() -> Request {
    Request::new().branch("orders", Work::new().put("order-1", "shipped"))
}

pub async fn a_commit_brings_the_results(mode: ClientMode) {
    let fake = Fake::start().await;
    let client = client(mode, &fake.endpoint, LONG);
    let request = put().branch("accounts", Work::new().add("alice", 7).get("alice").get("bob"));
    let committed = client.execute(request).await.expect("committed");
    assert!(committed.is_applied());
    let results = committed.result("accounts").cloned().map(Results::decode);
    let results = results.expect("present").expect("a result");
    assert_eq!(
        (results.integer(0), results.integer(1), results.value(2)),
        (Some(7), Some(7), None)
    );
    assert!(committed.result("nobody").is_none());
}

pub async fn retries_keep_the_request_id(mode: ClientMode) {
    let fake = Fake::start().await;
    fake.script([
        Step::Fail(status(Code::Unavailable, "STARTING", "starting", None)),
        Step::Fail(status(Code::Unavailable, "OUTCOME_UNKNOWN", "ask again", None)),
        Step::Fail(status(
            Code::ResourceExhausted,
            "TOO_MANY_IN_FLIGHT",
            "full",
            Some(Duration::from_millis(30)),
        )),
        Step::Fail(Status::unavailable("a proxy")),
        Step::Outcome(TransactionState::Unknown, AbortReason::default()),
    ]);
    let committed =
        client(mode, &fake.endpoint, LONG).execute(put()).await.expect("committed in the end");
    let seen = fake.request_ids();
    assert_eq!(seen.len(), 6);
    let drawn = committed.request_id.expect("one is drawn").to_string();
    assert!(seen.iter().all(|request_id| *request_id == drawn), "{seen:?}");
    assert_eq!(drawn.len(), 32);
}

pub async fn a_request_id_that_is_given_is_kept_and_one_that_is_drawn_is_used_once(
    mode: ClientMode,
) {
    let fake = Fake::start().await;
    let client = client(mode, &fake.endpoint, LONG);
    let given: RequestId = "order-1".parse().expect("a request_id");
    client.execute(put().request_id(given)).await.expect("committed");
    client.execute(put()).await.expect("committed");
    client.execute(put()).await.expect("committed");
    let seen = fake.request_ids();
    assert_eq!(seen[0], "order-1");
    assert_ne!(seen[1], seen[2]);
}

pub async fn a_broken_connection_is_mended_and_the_request_repeated(mode: ClientMode) {
    let fake = Fake::start().await;
    let proxy = Proxy::start(&fake.endpoint).await;
    fake.script([Step::Hang]);
    let client = client(mode, &proxy.endpoint, LONG);
    let executing = tokio::spawn(async move { client.execute(put()).await });
    until("the first attempt has arrived", || fake.request_ids().len() == 1).await;
    proxy.cut();
    executing.await.expect("no panic").expect("committed");
    let seen = fake.request_ids();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0], seen[1]);
}

pub async fn without_an_answer_the_outcome_is_unknown(mode: ClientMode) {
    let fake = Fake::start().await;
    fake.script([Step::Hang]);
    let client = client(mode, &fake.endpoint, LONG);
    let error =
        client.execute(put().deadline(Duration::from_millis(200))).await.expect_err("no answer");
    let Error::OutcomeUnknown { request_id: Some(request_id), .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(fake.request_ids(), [request_id.to_string()]);
    assert!(error.may_have_committed() && !error.nothing_was_done());
}

pub async fn a_refusal_after_a_doubtful_attempt_leaves_the_outcome_unknown(mode: ClientMode) {
    let fake = Fake::start().await;
    fake.script([
        Step::Fail(Status::unavailable("a proxy")),
        Step::Fail(status(Code::NotFound, "UNKNOWN_PARTICIPANT", "gone", None)),
    ]);
    let error = client(mode, &fake.endpoint, LONG).execute(put()).await.expect_err("refused");
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
}

pub async fn an_answer_that_settles_nothing_is_an_unknown_outcome(mode: ClientMode) {
    let fake = Fake::start().await;
    let client = client(mode, &fake.endpoint, LONG);
    let undecided = || Step::Outcome(TransactionState::Preparing, AbortReason::default());
    fake.script(std::iter::repeat_with(undecided).take(100));
    let error =
        client.execute(put().deadline(Duration::from_millis(300))).await.expect_err("undecided");
    let unknown = matches!(
        error,
        Error::OutcomeUnknown {
            source: Cause::Undecided | Cause::Deadline(_) | Cause::Status(_),
            ..
        }
    );
    assert!(unknown, "{error}");
    let internal = Fake::start().await;
    internal.script([Step::Fail(Status::internal("a bug"))]);
    let client = crate::client(mode, &internal.endpoint, LONG);
    let error = client.execute(put()).await.expect_err("a bug");
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    assert_eq!(internal.request_ids().len(), 1);
}

pub async fn an_abort_says_who_and_why(mode: ClientMode) {
    let fake = Fake::start().await;
    let reason = AbortReason {
        cause: AbortCause::VotedNo.into(),
        participant: "orders".into(),
        message: "out of stock".into(),
    };
    fake.script([Step::Outcome(TransactionState::Aborted, reason)]);
    let error = client(mode, &fake.endpoint, LONG).execute(put()).await.expect_err("aborted");
    let Error::Aborted { cause, participant, message, .. } = error else { panic!("{error}") };
    assert_eq!((cause, participant.as_deref()), (AbortCause::VotedNo, Some("orders")));
    assert_eq!(message, "out of stock");
    assert_eq!(fake.request_ids().len(), 1, "an abort is an answer, and not tried again");
}

pub async fn refusals_have_types_of_their_own(mode: ClientMode) {
    let fake = Fake::start().await;
    let client = client(mode, &fake.endpoint, Duration::from_millis(300));
    let refused = async |code, reason: &str, retry_after| {
        fake.script([Step::Fail(status(code, reason, "why", retry_after))]);
        client.execute(put()).await.expect_err("refused")
    };
    let error = refused(Code::InvalidArgument, "INVALID_FIELD", None).await;
    assert!(matches!(error, Error::InvalidRequest { .. }), "{error}");
    let error = refused(Code::NotFound, "UNKNOWN_PARTICIPANT", None).await;
    assert!(matches!(error, Error::UnknownParticipant { .. }), "{error}");
    let error = refused(Code::FailedPrecondition, "REQUEST_ID_REUSED", None).await;
    assert!(matches!(error, Error::RequestIdReused { .. }), "{error}");
    let error = refused(Code::FailedPrecondition, "NOT_OWNER", None).await;
    assert!(matches!(error, Error::NotOwner { .. }), "{error}");
    let error = refused(Code::Unimplemented, "", None).await;
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    // It asks for a longer pause than there is time.
    let error = refused(Code::ResourceExhausted, "TOO_MANY_IN_FLIGHT", Some(LONG)).await;
    assert!(matches!(error, Error::Overloaded { retry_after: Some(LONG), .. }), "{error}");
    let error = refused(Code::Unavailable, "DRAINING", Some(LONG)).await;
    assert!(matches!(error, Error::Unavailable { .. }) && error.nothing_was_done(), "{error}");
}

pub async fn a_participant_that_is_not_registered_is_named(mode: ClientMode) {
    let fake = Fake::start().await;
    let request = put().branch("nobody", Work::new().get("k"));
    let error =
        client(mode, &fake.endpoint, LONG).execute(request).await.expect_err("not registered");
    let Error::UnknownParticipant { participant, .. } = &error else { panic!("{error}") };
    assert_eq!(participant.as_deref(), Some("nobody"));
}

pub async fn where_nobody_listens_nothing_was_done(mode: ClientMode) {
    // A port that was free a moment ago and that nobody listens at.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", free.local_addr().expect("its address"));
    drop(free);
    let error = client(mode, &endpoint, Duration::from_millis(300))
        .execute(put())
        .await
        .expect_err("nobody is there");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains(&endpoint), "{error}");
    let error = Client::connect_now(&endpoint, ClientOptions { mode, ..ClientOptions::default() })
        .await
        .expect_err("nobody is there");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}

pub async fn a_client_and_its_clones_share_one_connection(mode: ClientMode) {
    let fake = Fake::start().await;
    let client = client(mode, &fake.endpoint, LONG);
    let calls: Vec<_> = (0..256)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                client.execute(Request::new().branch("accounts", Work::new().add("n", 1))).await
            })
        })
        .collect();
    for call in calls {
        call.await.expect("no panic").expect("committed");
    }
    let committed = client.execute(Request::new().branch("accounts", Work::new().get("n"))).await;
    let result = committed.expect("committed").result("accounts").cloned().expect("a result");
    assert_eq!(Results::decode(result).expect("results").integer(0), Some(256));
}

pub async fn transactions_are_found_listed_watched_and_resolved(mode: ClientMode) {
    let fake = Fake::start().await;
    let client = client(mode, &fake.endpoint, LONG);
    let request_id: RequestId = "order-1".parse().expect("a request_id");
    let request = put().request_id(request_id.clone()).summary("ship it").label("team", "blue");
    let committed = client.execute(request).await.expect("committed");
    let open = client.begin(Default::default()).await.expect("begun").leave();

    let found = client.get(request_id.clone()).await.expect("found");
    assert_eq!(found.transaction_id, committed.transaction_id.to_string());
    assert_eq!((found.summary.as_str(), found.labels["team"].as_str()), ("ship it", "blue"));

    let first = client.list(&ListFilter::default(), None).await.expect("a page");
    let second = client.list(&ListFilter::default(), first.next.clone()).await.expect("a page");
    assert_eq!(second.transactions[0].transaction_id, open.to_string());
    assert_eq!(second.next, None);
    let active = ListFilter { states: vec![TransactionState::Active], ..ListFilter::default() };
    let listed = client.list(&active, None).await.expect("a page");
    assert_eq!(listed.transactions[0].transaction_id, open.to_string());

    let mut watch = client.watch(committed.transaction_id).await.expect("watching");
    assert_eq!(watch.next().await.expect("an event").expect("not ended").event, "watching");
    assert!(watch.next().await.expect("an event").is_some());
    assert!(watch.next().await.expect("the end").is_none());

    let resolved = client.resolve(request_id, LONG).await.expect("known");
    assert!(matches!(resolved, Resolution::Committed(_)));
    let error = client.resolve(open, Duration::from_millis(200)).await.expect_err("never decided");
    assert!(matches!(error, Error::OutcomeUnknown { transaction_id: Some(_), .. }), "{error}");
    let nobody: RequestId = "nobody".parse().expect("a request_id");
    let error = client.resolve(nobody, LONG).await.expect_err("never asked for");
    assert!(matches!(error, Error::NotFound { .. }), "{error}");

    let names: Vec<_> = client.participants().await.expect("listed").into_iter().collect();
    assert_eq!(
        names.iter().map(|found| &found.participant[..]).collect::<Vec<_>>(),
        ["accounts", "orders"]
    );
}

pub async fn asking_again_brings_the_outcome_of_a_transaction_that_is_decided_later(
    mode: ClientMode,
) {
    let fake = Fake::start().await;
    let client = client(mode, &fake.endpoint, LONG);
    let transaction = client.begin(Default::default()).await.expect("begun");
    let id = transaction.id();
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.resolve(id, LONG).await }
    });
    transaction.abort("no longer wanted").await.expect("aborted");
    let resolved = asking.await.expect("no panic").expect("known");
    assert!(matches!(resolved, Resolution::Aborted(_)));
    let error = resolved.into_committed().expect_err("it aborted");
    assert!(
        matches!(error, Error::Aborted { transaction_id, .. } if transaction_id == id),
        "{error}"
    );
}
