//! How streams end, and what becomes of the calls that they carried.

use bytes::{Buf, BufMut};
use handfast_coordinator::ready::Ready;
use handfast_coordinator::transaction_service::TransactionApi;
use handfast_wire::codec::PARTS_MAX;
use handfast_wire::v1;
use handfast_wire::v1::transaction_answer::Answer;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;

use crate::caller::{Caller, call};
use crate::{World, client, execute, serve_api, until};

fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

async fn state_of(world: &World, request_id: &str) -> Result<v1::TransactionState, Status> {
    let request_id = request_id.to_owned();
    let get = v1::GetTransactionRequest { transaction_id: String::new(), request_id };
    let found = world.client().get_transaction(get).await?.into_inner();
    Ok(found.transaction.expect("a transaction").state())
}

#[tokio::test]
async fn a_client_that_has_said_everything_gets_every_answer() {
    let world = World::start().await;
    let mut caller = Caller::open(world.client()).await.expect("open");
    caller.send([call(1, execute("", "hold")), call(2, execute("", "yes"))]).await;
    caller.finish();
    caller.outcome(2).await;
    world.participant.release();
    caller.outcome(1).await;
    assert!(caller.next().await.expect("a good end").is_none());
}

#[tokio::test]
async fn a_client_that_goes_away_stops_nothing() {
    const CALLS: usize = 10;
    let world = World::start().await;
    let caller = Caller::open(world.client()).await.expect("open");
    caller.send((0..CALLS).map(|n| call(n as u64, execute(&format!("r-{n}"), "hold")))).await;
    until("all are in flight", || world.participant.held() == 2 * CALLS).await;
    drop(caller);
    world.participant.release();
    until("all have committed", || world.participant.committed() == 2 * CALLS).await;
    for n in 0..CALLS {
        // The last acknowledgement may be on its way.
        let state = state_of(&world, &format!("r-{n}")).await.expect("it is known");
        let committed = [v1::TransactionState::Committed, v1::TransactionState::Committing];
        assert!(committed.contains(&state), "{state:?}");
    }
}

#[tokio::test]
async fn a_server_that_drains_answers_what_it_has_and_then_ends_the_stream() {
    let world = World::start().await;
    let mut caller = Caller::open(world.client()).await.expect("open");
    let begun = caller.ask(1, v1::BeginTransactionRequest::default()).await.expect("begun");
    let Answer::Begin(begun) = begun else { panic!("{begun:?}") };
    caller.send([call(2, execute("", "hold"))]).await;
    until("it is in flight", || world.participant.held() == 2).await;

    world.engine.drain();
    let refused = caller.ask(3, execute("", "yes")).await.expect_err("nothing new");
    assert_eq!((refused.code(), &reason(&refused)[..]), (Code::Unavailable, "DRAINING"));
    let begin = v1::BeginTransactionRequest::default();
    let refused = caller.ask(3, begin).await.expect_err("nothing new");
    assert_eq!((refused.code(), &reason(&refused)[..]), (Code::Unavailable, "DRAINING"));
    // What was begun before may still be ended.
    let transaction_id = begun.transaction_id;
    let commit = v1::CommitTransactionRequest { transaction_id, ..Default::default() };
    caller.ask(3, commit).await.expect("committed");

    world.api.close_streams();
    let refused = Caller::open(world.client()).await.err().expect("too late");
    assert_eq!((refused.code(), &reason(&refused)[..]), (Code::Unavailable, "DRAINING"));
    world.participant.release();
    assert_eq!(caller.outcome(2).await.state(), v1::TransactionState::Committed);
    let end = caller.next().await.expect_err("the end says why");
    assert_eq!((end.code(), &reason(&end)[..]), (Code::Unavailable, "DRAINING"));
}

#[tokio::test]
async fn an_engine_that_ends_leaves_no_call_without_a_word() {
    let world = World::start().await;
    let mut caller = Caller::open(world.client()).await.expect("open");
    caller.send([call(1, execute("", "hold")), call(2, execute("", "hold"))]).await;
    until("they are in flight", || world.participant.held() == 4).await;
    let engine = std::sync::Arc::clone(&world.engine);
    tokio::task::spawn_blocking(move || engine.stop()).await.expect("no panic");
    let mut unknown = Vec::new();
    for _ in 0..2 {
        let (call_id, answer) = caller.answer().await;
        let Answer::Status(status) = answer else { panic!("{answer:?}") };
        let status = handfast_wire::convert::status(&status);
        assert_eq!((status.code(), &reason(&status)[..]), (Code::Unavailable, "OUTCOME_UNKNOWN"));
        unknown.push(call_id);
    }
    unknown.sort_unstable();
    assert_eq!(unknown, [1, 2]);
}

#[tokio::test]
async fn a_stream_is_refused_while_the_log_is_read() {
    let endpoint = serve_api(TransactionApi::new(Ready::default())).await;
    let refused = Caller::open(client(&endpoint)).await.err().expect("too early");
    assert_eq!((refused.code(), &reason(&refused)[..]), (Code::Unavailable, "STARTING"));
}

// ---- frames that are none -----------------------------------------------------------------------

/// Messages are sent as the bytes that they are.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; from.remaining()];
        from.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}

async fn open_raw(world: &World) -> (mpsc::Sender<Vec<u8>>, Streaming<Vec<u8>>) {
    let endpoint = Endpoint::from_shared(world.endpoint.clone()).expect("an endpoint");
    let mut client =
        Grpc::new(endpoint.connect_lazy()).max_encoding_message_size(2 * crate::MESSAGE_BYTES_MAX);
    client.ready().await.expect("a connection");
    let path = "/handfast.v1.TransactionService/StreamTransactions".parse().expect("a path");
    let (frames, outgoing) = mpsc::channel(1);
    let request = Request::new(ReceiverStream::new(outgoing));
    let answers = client.streaming(request, path, Raw).await.expect("open").into_inner();
    (frames, answers)
}

async fn ends_after_its_answer(world: &World, last: Vec<u8>, code: Code) {
    let (frames, mut answers) = open_raw(world).await;
    let held = world.participant.held();
    let frame = v1::StreamTransactionsRequest { calls: vec![call(1, execute("", "hold"))] };
    frames.send(frame.encode_to_vec()).await.expect("open");
    until("it is in flight", || world.participant.held() == held + 2).await;
    frames.send(last).await.expect("open");
    world.participant.release();
    let answer = answers.message().await.expect("it is answered").expect("it is answered");
    let answer = v1::StreamTransactionsResponse::decode(&answer[..]).expect("a frame");
    assert!(matches!(answer.answers[0].answer, Some(Answer::Execute(_))), "{answer:?}");
    let end = answers.message().await.expect_err("it ends badly");
    assert_eq!(end.code(), code, "{end:?}");
    // Others are not concerned.
    let mut caller = Caller::open(world.client()).await.expect("open");
    assert!(caller.ask(1, execute("", "yes")).await.is_ok());
}

#[tokio::test]
async fn a_frame_that_is_none_ends_the_stream_behind_what_was_asked_before() {
    let world = World::start().await;
    ends_after_its_answer(&world, vec![0xff; 40], Code::Internal).await;
}

#[tokio::test]
async fn a_frame_that_is_too_large_ends_the_stream_behind_what_was_asked_before() {
    let world = World::start().await;
    let large = vec![0; crate::MESSAGE_BYTES_MAX + 1];
    ends_after_its_answer(&world, large, Code::OutOfRange).await;
}

/// Two bytes each, and some hundred in memory: 64 MiB of them would be several GiB.
#[tokio::test]
async fn a_frame_of_too_many_parts_ends_the_stream_behind_what_was_asked_before() {
    let world = World::start().await;
    let empty_calls = v1::StreamTransactionsRequest {
        calls: vec![v1::TransactionCall::default(); PARTS_MAX + 1],
    };
    ends_after_its_answer(&world, empty_calls.encode_to_vec(), Code::OutOfRange).await;
    let execute = v1::ExecuteTransactionRequest {
        branches: vec![v1::BranchWork::default(); PARTS_MAX],
        ..Default::default()
    };
    let one_call = v1::StreamTransactionsRequest { calls: vec![call(1, execute.clone())] };
    ends_after_its_answer(&world, one_call.encode_to_vec(), Code::OutOfRange).await;
    // As a call of its own it has one part less, and too many branches still.
    let refused = world.client().execute_transaction(execute.clone()).await;
    assert_eq!(refused.expect_err("so many branches").code(), Code::InvalidArgument);
    let mut execute = execute;
    execute.branches.push(v1::BranchWork::default());
    let refused = world.client().execute_transaction(execute).await;
    assert_eq!(refused.expect_err("too many parts").code(), Code::OutOfRange);
}

#[tokio::test]
async fn an_empty_frame_asks_nothing() {
    let world = World::start().await;
    let mut caller = Caller::open(world.client()).await.expect("open");
    caller.send([]).await;
    caller.finish();
    assert!(caller.next().await.expect("a good end").is_none());
}
