//! Limits, time, and clients that do not read.

use std::time::Duration;

use handfast_coordinator::config::CoordinatorConfig;
use handfast_wire::convert;
use handfast_wire::v1;
use handfast_wire::v1::transaction_answer::Answer;
use tonic::Code;

use crate::caller::{Caller, call, call_within};
use crate::{LONG, World, execute, execute_at, until};

#[tokio::test]
async fn more_calls_than_may_be_in_flight_are_refused_and_told_when_to_come_back() {
    let config = CoordinatorConfig { stream_calls_max: 3, ..CoordinatorConfig::default() };
    let world = World::start_with(config, &["a", "b"]).await;
    let mut caller = Caller::open(world.client()).await.expect("open");
    caller.send((1..=4).map(|n| call(n, execute(&format!("r-{n}"), "hold")))).await;
    let refused = caller.failure(4).await;
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(convert::retry_delay(&refused).is_some(), "{refused:?}");
    // Another stream has its own.
    let mut other = Caller::open(world.client()).await.expect("open");
    assert!(other.ask(1, execute("", "yes")).await.is_ok());
    world.participant.release();
    for _ in 1..=3 {
        let (call_id, answer) = caller.answer().await;
        assert!(call_id < 4 && matches!(answer, Answer::Execute(_)), "{answer:?}");
    }
    assert!(caller.ask(4, execute("r-4", "yes")).await.is_ok(), "there is room again");
}

#[tokio::test]
async fn a_call_whose_time_is_over_is_told_so_once_and_goes_on() {
    let world = World::start().await;
    let mut caller = Caller::open(world.client()).await.expect("open");
    let soon = Duration::from_millis(50);
    // One that is waited for longer comes first, so that the timer has to be set anew.
    caller.send([call_within(1, LONG, execute("first", "hold"))]).await;
    caller.send([call_within(2, soon, execute("second", "hold"))]).await;
    let late = caller.failure(2).await;
    assert_eq!(late.code(), Code::DeadlineExceeded);
    // Its number may be used again, and its own answer is never taken for the new call's.
    caller.send([call_within(2, LONG, execute("third", "hold"))]).await;
    until("all three are in flight", || world.participant.held() == 6).await;
    world.participant.release();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let (call_id, answer) = caller.answer().await;
        let Answer::Execute(response) = answer else { panic!("{answer:?}") };
        ids.push((call_id, response.outcome.expect("an outcome").transaction_id));
    }
    ids.sort();
    for (request_id, told) in [("first", ids.first()), ("second", None), ("third", ids.last())] {
        let get = v1::GetTransactionRequest { request_id: request_id.into(), ..Default::default() };
        let found = caller.ask(9, get).await.expect("it was executed");
        let Answer::Get(response) = found else { panic!("{found:?}") };
        let found = response.transaction.expect("a transaction");
        assert!(matches!(found.state(), v1::TransactionState::Committed), "{found:?}");
        assert!(told.is_none_or(|(_, id)| *id == found.transaction_id), "{request_id}: {ids:?}");
    }
}

#[tokio::test]
async fn any_time_can_be_given() {
    let world = World::start().await;
    let mut caller = Caller::open(world.client()).await.expect("open");
    caller.send([call_within(1, Duration::ZERO, execute("never", "yes"))]).await;
    assert_eq!(caller.failure(1).await.code(), Code::DeadlineExceeded);
    let get = v1::GetTransactionRequest { request_id: "never".into(), ..Default::default() };
    assert_eq!(caller.ask(1, get).await.expect_err("never begun").code(), Code::NotFound);
    let seconds = |seconds| {
        let timeout = Some(prost_types::Duration { seconds, nanos: 0 });
        v1::TransactionCall { timeout, ..call(2, execute("", "yes")) }
    };
    for negative in [i64::MIN, -1] {
        caller.send([seconds(negative)]).await;
        let refused = caller.failure(2).await;
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("timeout"), "{refused:?}");
    }
    caller.send([seconds(i64::MAX)]).await;
    assert_eq!(caller.outcome(2).await.state(), v1::TransactionState::Committed);
}

/// A commit whose participant does not apply it is answered in time with what is known.
#[tokio::test]
async fn an_impatient_commit_is_told_its_decision_in_time() {
    let world = World::start().await;
    world.participant.stop_applying();
    let mut caller = Caller::open(world.client()).await.expect("open");
    caller.send([call_within(1, Duration::from_secs(2), execute("", "yes"))]).await;
    let outcome = caller.outcome(1).await;
    assert_eq!(outcome.state(), v1::TransactionState::Committing);
    assert_eq!(outcome.pending, ["a", "b"]);
}

/// It is stopped by flow control; what it has sent is kept, within bounds, and answered when it reads.
#[tokio::test]
async fn from_a_client_that_does_not_read_nothing_more_is_read() {
    const FRAME: u64 = 100;
    const MANY: u64 = 400_000;
    let world = World::start().await;
    let mut caller = Caller::open(world.client()).await.expect("open");
    // Refused at once, so that nothing but the reading of answers holds it up.
    let padded = execute_at(&["nobody"], "", &"x".repeat(1000));
    let mut sent = 0;
    while sent < MANY {
        let frame: Vec<_> = (sent..sent + FRAME).map(|n| call(n, padded.clone())).collect();
        let sending = tokio::time::timeout(Duration::from_secs(2), caller.send(frame)).await;
        // The frame has been given up with the wait for room.
        if sending.is_err() {
            break;
        }
        sent += FRAME;
    }
    assert!(sent < MANY / 4, "{sent} calls were read, and no answer");
    for _ in 0..sent {
        let (call_id, answer) = caller.answer().await;
        assert!(call_id < sent && matches!(answer, Answer::Status(_)), "{answer:?}");
    }
    assert!(caller.ask(MANY, execute("", "yes")).await.is_ok(), "it is read again");
}

#[tokio::test]
async fn what_was_returned_is_left_out_when_very_much_of_it_waits() {
    const CALLS: u64 = 60;
    let config = CoordinatorConfig { stream_bytes_max: 4 << 20, ..CoordinatorConfig::default() };
    let world = World::start_with(config, &["a", "b"]).await;
    let mut caller = Caller::open(world.client()).await.expect("open");
    caller.send((0..CALLS).map(|n| call(n, execute_at(&["a"], &format!("r-{n}"), "big")))).await;
    // Nothing is read until everything has been done.
    until("all of it is done", || world.participant.committed() >= 20).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut left_out = 0;
    for _ in 0..CALLS {
        let (_, answer) = caller.answer().await;
        let Answer::Execute(response) = answer else { panic!("{answer:?}") };
        let outcome = response.outcome.expect("an outcome");
        assert_eq!(outcome.state(), v1::TransactionState::Committed);
        assert_eq!(outcome.results.is_empty(), outcome.results_left_out);
        left_out += u64::from(outcome.results_left_out);
    }
    assert!(0 < left_out && left_out < CALLS, "{left_out} of {CALLS}");
}

/// Together they have more than a message may have, and so have those that are left when the first of them
/// have gone out; each by itself has not.
#[tokio::test]
async fn answers_that_are_too_much_for_one_frame_go_in_several() {
    // Given to the engine together: later calls would wait until some of these answers are taken.
    const CALLS: u64 = 100;
    let world = World::start().await;
    let mut caller = Caller::open(world.client()).await.expect("open");
    caller.send((0..CALLS).map(|n| call(n, execute_at(&["a"], "", "big")))).await;
    until("all of it is done", || world.participant.committed() == CALLS as usize).await;
    for _ in 0..CALLS {
        let (_, answer) = caller.answer().await;
        let Answer::Execute(response) = answer else { panic!("{answer:?}") };
        assert_eq!(response.outcome.expect("an outcome").results.len(), 1);
    }
}

/// The participants return more than an answer may have: it has committed all the same, and that is told.
#[tokio::test]
async fn a_commit_is_told_whatever_was_returned() {
    let names: Vec<String> = (0..70).map(|n| format!("p-{n}")).collect();
    let participants: Vec<&str> = names.iter().map(String::as_str).collect();
    let world = World::start_with(CoordinatorConfig::default(), &participants).await;
    let check = |outcome: Option<v1::Outcome>| {
        let outcome = outcome.expect("an outcome");
        assert_eq!(outcome.state(), v1::TransactionState::Committed);
        assert!(outcome.results_left_out && outcome.results.is_empty());
    };
    let unary = world.client().execute_transaction(execute_at(&participants, "", "big")).await;
    check(unary.expect("committed").into_inner().outcome);
    let mut caller = Caller::open(world.client()).await.expect("open");
    let shared = caller.ask(1, execute_at(&participants, "", "big")).await.expect("committed");
    let Answer::Execute(response) = shared else { panic!("{shared:?}") };
    check(response.outcome);
    // What fits is told, next to it.
    let fits = caller.ask(2, execute_at(&participants[..60], "", "big")).await.expect("committed");
    let Answer::Execute(response) = fits else { panic!("{fits:?}") };
    assert_eq!(response.outcome.expect("an outcome").results.len(), 60);
}
