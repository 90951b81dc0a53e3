//! What calls are answered with, and in which order.

use handfast_wire::v1;
use handfast_wire::v1::transaction_answer::Answer;
use handfast_wire::v1::transaction_service_client::TransactionServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::caller::{Asked, Caller, call};
use crate::{World, execute, execute_at, until};

/// The two ways that a call can take.
struct Both {
    unary: TransactionServiceClient<Channel>,
    stream: Caller,
}

impl Both {
    async fn open(world: &World) -> Self {
        let stream = Caller::open(world.client()).await.expect("open");
        Self { unary: world.client(), stream }
    }
}

/// Has a call made by itself and over the stream, and compares the answers.
macro_rules! same {
    ($both:expr, $kind:ident, $method:ident, $request:expr) => {{
        let (first, second) = $request;
        let alone = $both.unary.$method(first).await;
        let alone = alone.map(|response| Answer::$kind(response.into_inner()));
        let shared = $both.stream.ask(7, Asked::from(second)).await;
        assert_same(stringify!($method), alone, shared)
    }};
}

fn assert_same(
    what: &str,
    alone: Result<Answer, Status>,
    shared: Result<Answer, Status>,
) -> Result<Answer, Status> {
    match (&alone, &shared) {
        (Ok(alone), Ok(shared)) => assert_eq!(comparable(alone), comparable(shared), "{what}"),
        (Err(alone), Err(shared)) => {
            let parts = |status: &Status| {
                let text = without_ids(status.message());
                let details = handfast_wire::convert::status_message(status).details;
                let details: Vec<_> =
                    details.iter().map(|detail| detail.type_url.clone()).collect();
                (status.code(), text, details)
            };
            assert_eq!(parts(alone), parts(shared), "{what}");
        }
        _ => panic!("{what}: {alone:?} by itself, {shared:?} over the stream"),
    }
    shared
}

/// Transactions have ids and times of their own.
fn comparable(answer: &Answer) -> Answer {
    let mut answer = answer.clone();
    let outcome = |outcome: &mut Option<v1::Outcome>| {
        outcome.as_mut().expect("an outcome").transaction_id.clear();
    };
    match &mut answer {
        Answer::Execute(response) => outcome(&mut response.outcome),
        Answer::Commit(response) => outcome(&mut response.outcome),
        Answer::Abort(response) => outcome(&mut response.outcome),
        Answer::Begin(response) => response.transaction_id.clear(),
        Answer::Get(response) => {
            let transaction = response.transaction.as_mut().expect("a transaction");
            transaction.transaction_id.clear();
            transaction.request_id.clear();
            (transaction.started_at, transaction.finished_at) = (None, None);
        }
        Answer::Status(status) => panic!("{status:?}"),
    }
    answer
}

fn without_ids(text: &str) -> String {
    let words = text.split(' ').filter(|word| !word.starts_with("0000-02-"));
    words.collect::<Vec<_>>().join(" ")
}

fn twice<T: Clone>(request: T) -> (T, T) {
    (request.clone(), request)
}

fn commit(transaction_id: &str) -> v1::CommitTransactionRequest {
    v1::CommitTransactionRequest { transaction_id: transaction_id.to_owned(), ..Default::default() }
}

fn abort(transaction_id: &str) -> v1::AbortTransactionRequest {
    v1::AbortTransactionRequest {
        transaction_id: transaction_id.to_owned(),
        reason: "a change of mind".to_owned(),
    }
}

fn get(transaction_id: &str) -> v1::GetTransactionRequest {
    let transaction_id = transaction_id.to_owned();
    v1::GetTransactionRequest { transaction_id, request_id: String::new() }
}

fn code(answer: Result<Answer, Status>) -> Code {
    match answer {
        Ok(answer) => panic!("it was to fail: {answer:?}"),
        Err(status) => status.code(),
    }
}

#[tokio::test]
async fn executions_are_answered_as_if_they_came_alone() {
    let world = World::start().await;
    let mut both = Both::open(&world).await;
    let done = same!(both, Execute, execute_transaction, twice(execute("", "yes")));
    let Ok(Answer::Execute(response)) = done else { panic!("{done:?}") };
    let outcome = response.outcome.expect("an outcome");
    assert_eq!(outcome.state(), v1::TransactionState::Committed);
    assert_eq!(outcome.results.len(), 2);
    assert_eq!(&outcome.results[1].payload[..], b"done");

    let refused = same!(both, Execute, execute_transaction, twice(execute("", "no")));
    let Ok(Answer::Execute(response)) = refused else { panic!("{refused:?}") };
    let outcome = response.outcome.expect("an outcome");
    assert_eq!(outcome.state(), v1::TransactionState::Aborted);
    assert_eq!(outcome.abort_reason.expect("a reason").message, "as it was told");

    // The same request again is the same transaction, whichever way it comes.
    let once = both.unary.execute_transaction(execute("mine", "yes")).await.expect("committed");
    let once = once.into_inner().outcome.expect("an outcome");
    let again = both.stream.ask(8, execute("mine", "yes")).await.expect("committed");
    let Answer::Execute(response) = again else { panic!("{again:?}") };
    let again = response.outcome.expect("an outcome");
    assert_eq!(again.transaction_id, once.transaction_id);
    assert!(again.repeated_request && !once.repeated_request);
    let other = same!(both, Execute, execute_transaction, twice(execute("mine", "another")));
    assert_eq!(code(other), Code::FailedPrecondition);
}

#[tokio::test]
async fn what_is_wrong_with_a_call_is_said_as_if_it_came_alone() {
    let world = World::start().await;
    let mut both = Both::open(&world).await;
    let sound = || execute("", "yes");
    let nobody = execute_at(&["a", "nobody"], "", "yes");
    let failed = same!(both, Execute, execute_transaction, twice(nobody));
    assert_eq!(code(failed), Code::NotFound);
    let mut unserved = sound();
    unserved.options.as_mut().expect("options").set_protocol(v1::Protocol::PaxosCommit);
    let failed = same!(both, Execute, execute_transaction, twice(unserved));
    assert_eq!(code(failed), Code::Unimplemented);
    let no_time = prost_types::Duration { seconds: i64::MIN, nanos: 0 };
    let options = Some(v1::TransactionOptions { timeout: Some(no_time), ..Default::default() });
    for request in [
        v1::ExecuteTransactionRequest { branches: Vec::new(), ..sound() },
        v1::ExecuteTransactionRequest { reply_time: 99, ..sound() },
        v1::ExecuteTransactionRequest { request_id: "\n".into(), ..sound() },
        v1::ExecuteTransactionRequest { options, ..sound() },
        execute_at(&["a", "a"], "", "yes"),
        execute_at(&["A"], "", "yes"),
    ] {
        let failed = same!(both, Execute, execute_transaction, twice(request));
        assert_eq!(code(failed), Code::InvalidArgument);
    }
    let options = v1::TransactionOptions { summary: "x".repeat(257), ..Default::default() };
    let request = v1::BeginTransactionRequest { options: Some(options) };
    let failed = same!(both, Begin, begin_transaction, twice(request));
    assert_eq!(code(failed), Code::InvalidArgument);

    let never = format!("0000-02-{:010x}-00000000ffffffff", world.engine.identity().epoch.0);
    for (id, expected) in [
        ("x", Code::InvalidArgument),
        (&never[..], Code::NotFound),
        ("0007-02-0000000001-0000000000000001", Code::FailedPrecondition),
        ("0000-02-00000000ff-0000000000000001", Code::NotFound),
    ] {
        assert_eq!(code(same!(both, Commit, commit_transaction, twice(commit(id)))), expected);
        assert_eq!(code(same!(both, Abort, abort_transaction, twice(abort(id)))), expected);
        assert_eq!(code(same!(both, Get, get_transaction, twice(get(id)))), expected);
    }

    let failed = both.stream.ask(9, execute("", "yes")).await;
    assert!(failed.is_ok(), "the stream goes on: {failed:?}");
}

#[tokio::test]
async fn interactive_transactions_are_begun_and_ended_over_the_stream() {
    let world = World::start().await;
    let mut both = Both::open(&world).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        let request = v1::BeginTransactionRequest::default();
        let begun = same!(both, Begin, begin_transaction, twice(request));
        let Ok(Answer::Begin(response)) = begun else { panic!("{begun:?}") };
        ids.push(response.transaction_id);
    }
    let done = same!(both, Commit, commit_transaction, (commit(&ids[0]), commit(&ids[1])));
    let Ok(Answer::Commit(response)) = done else { panic!("{done:?}") };
    let outcome = response.outcome.expect("an outcome");
    assert_eq!(outcome.transaction_id, ids[1]);
    let done = same!(both, Abort, abort_transaction, (abort(&ids[2]), abort(&ids[3])));
    assert!(matches!(done, Ok(Answer::Abort(_))), "{done:?}");
    // Over: the log is asked.
    let again = same!(both, Commit, commit_transaction, (commit(&ids[2]), commit(&ids[3])));
    let Ok(Answer::Commit(response)) = again else { panic!("{again:?}") };
    let outcome = response.outcome.expect("an outcome");
    assert_eq!(outcome.state(), v1::TransactionState::Aborted);
    let found = same!(both, Get, get_transaction, (get(&ids[2]), get(&ids[3])));
    assert!(matches!(found, Ok(Answer::Get(_))), "{found:?}");

    let committed = both.stream.ask(8, execute("mine", "yes")).await.expect("committed");
    let Answer::Execute(response) = committed else { panic!("{committed:?}") };
    let id = response.outcome.expect("an outcome").transaction_id;
    let refused = same!(both, Abort, abort_transaction, twice(abort(&id)));
    assert_eq!(code(refused), Code::FailedPrecondition);
    let by_name = v1::GetTransactionRequest { request_id: "mine".into(), ..Default::default() };
    let found = same!(both, Get, get_transaction, twice(by_name));
    let Ok(Answer::Get(response)) = found else { panic!("{found:?}") };
    assert_eq!(response.transaction.expect("a transaction").transaction_id, id);
}

#[tokio::test]
async fn answers_come_as_they_are_ready() {
    let world = World::start().await;
    let mut caller = Caller::open(world.client()).await.expect("open");
    caller.send([call(1, execute("", "hold")), call(2, execute("", "yes"))]).await;
    assert_eq!(caller.outcome(2).await.state(), v1::TransactionState::Committed);
    caller.send([call(3, execute("", "yes"))]).await;
    assert_eq!(caller.outcome(3).await.state(), v1::TransactionState::Committed);
    world.participant.release();
    assert_eq!(caller.outcome(1).await.state(), v1::TransactionState::Committed);
}

#[tokio::test]
async fn many_calls_of_one_frame_are_answered_once_each() {
    const CALLS: u64 = 3000;
    let world = World::start().await;
    let mut caller = Caller::open(world.client()).await.expect("open");
    // Every third is refused at once, every third aborts.
    let request = |n: u64| match n % 3 {
        0 => execute_at(&["nobody"], "", "yes"),
        1 => execute("", "no"),
        _ => execute("", "yes"),
    };
    caller.send((0..CALLS).map(|n| call(n, request(n)))).await;
    let mut answered = vec![false; CALLS as usize];
    for _ in 0..CALLS {
        let (call_id, answer) = caller.answer().await;
        assert!(!std::mem::replace(&mut answered[call_id as usize], true), "{call_id} twice");
        match answer {
            Answer::Status(status) => assert_eq!((call_id % 3, status.code), (0, 5)),
            Answer::Execute(response) => {
                let state = response.outcome.expect("an outcome").state();
                assert_eq!(state == v1::TransactionState::Aborted, call_id % 3 == 1);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_number_that_is_in_flight_is_refused_and_its_call_goes_on() {
    let world = World::start().await;
    let mut caller = Caller::open(world.client()).await.expect("open");
    caller.send([call(1, execute("first", "hold"))]).await;
    until("it is in flight", || world.participant.held() == 2).await;
    caller.send([call(1, execute("second", "yes"))]).await;
    let refused = caller.failure(1).await;
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("call_id"), "{refused:?}");
    world.participant.release();
    let outcome = caller.outcome(1).await;
    assert_eq!(outcome.state(), v1::TransactionState::Committed);
    // The second was never begun, and the number is free again.
    let by_name = v1::GetTransactionRequest { request_id: "second".into(), ..Default::default() };
    let status = caller.ask(1, by_name).await.expect_err("it was never begun");
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn a_call_that_asks_for_nothing_is_refused() {
    let world = World::start().await;
    let mut caller = Caller::open(world.client()).await.expect("open");
    caller.send([v1::TransactionCall { call_id: 1, timeout: None, request: None }]).await;
    let refused = caller.failure(1).await;
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("request"), "{refused:?}");
    assert!(caller.ask(1, execute("", "yes")).await.is_ok());
}
