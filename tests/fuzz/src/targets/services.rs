//! The coordinator's services over a whole engine: any requests, with any deadline in their headers.
//!
//! An input is a list of events, each a byte that says which call it is, two bytes with the length of the
//! request, and the request. From 128 on the request's first bytes are the `grpc-timeout` header: one with
//! its length, and the header. 255 is a frame of a stream of calls. Nobody waits for an answer for long; what
//! counts is that the engine lives, and that each call of a stream is answered once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use handfast_commit_core::id::Incarnation;
use handfast_coordinator::config::CoordinatorConfig;
use handfast_coordinator::coordinator_service::CoordinatorApi;
use handfast_coordinator::engine::Engine;
use handfast_coordinator::ready::Ready;
use handfast_coordinator::transaction_service::TransactionApi;
use handfast_journal::{Kind, MemoryDisk, MemoryJournal};
use handfast_wire::convert;
use handfast_wire::frames::StreamTransactionsRequest;
use handfast_wire::frames::transaction_service_server::TransactionService;
use handfast_wire::v1;
use handfast_wire::v1::coordinator_service_server::CoordinatorService;
use handfast_wire::v1::transaction_answer::Answer;
use handfast_wire::v1::transaction_call::Request as Call;
use prost::Message;
use tokio_stream::StreamExt;
use tonic::metadata::MetadataValue;
use tonic::transport::Uri;
use tonic::{Code, Request, Status};

use crate::Example;
use crate::events::Events;
use crate::messages::Sample;
use crate::random::Random;
use crate::sample;

/// Nothing listens there.
const NOWHERE: &str = "http://127.0.0.1:1";
/// The event that is a frame of a stream.
const FRAME: u8 = 0xff;
/// Most calls of one input.
const CALLS_MAX: usize = 12;
/// A call that the engine has not answered by then is given up, as by a client that goes away.
const PATIENCE: Duration = Duration::from_millis(2);

struct Server {
    transactions: TransactionApi,
    participants: CoordinatorApi,
}

pub(crate) fn run(input: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime of this thread").block_on(async {
        let journal =
            MemoryJournal::open(&MemoryDisk::new(1), Kind::Coordinator).expect("an empty disk");
        let config = CoordinatorConfig {
            shards: 1,
            in_flight_max: 8,
            timeout: Duration::from_millis(20),
            ..CoordinatorConfig::default()
        };
        let engine = Engine::start_on(Box::new(journal), config, NOWHERE.to_owned());
        let engine = engine.expect("an empty journal");
        let name = "a".parse().expect("a name");
        engine.register(name, NOWHERE.to_owned(), Incarnation(1)).await.expect("a good disk");
        let ready = Ready::default();
        ready.set(Arc::clone(&engine));
        let server = Server {
            transactions: TransactionApi::new(ready.clone()),
            participants: CoordinatorApi::new(ready),
        };
        for (event, message) in Events::of(input).take(CALLS_MAX) {
            server.call(event, message).await;
        }
        engine.phases().await.expect("no shard has ended");
        engine.expire_outcomes().await.expect("the log can be read");
    });
}

/// Decodes the request and makes the call.
macro_rules! call {
    ($server:expr, $method:ident, $request:expr) => {{
        if let Some(request) = $request {
            let call = $server.$method(request);
            match tokio::time::timeout(PATIENCE, call).await {
                Ok(Ok(response)) => drop(response),
                Ok(Err(status)) => refused(stringify!($method), &status),
                Err(_) => {}
            }
        }
    }};
}

impl Server {
    async fn call(&self, event: u8, message: &[u8]) {
        if event == FRAME {
            return self.stream(message).await;
        }
        let (header, message) = match (event >= 0x80, message.split_first()) {
            (true, Some((length, rest))) => rest.split_at(usize::from(*length).min(rest.len())),
            _ => (&[][..], message),
        };
        match event % 12 {
            0 | 1 => call!(self.transactions, execute_transaction, request(header, message)),
            2 => call!(self.transactions, begin_transaction, request(header, message)),
            3 => call!(self.transactions, commit_transaction, request(header, message)),
            4 => call!(self.transactions, abort_transaction, request(header, message)),
            5 => call!(self.transactions, get_transaction, request(header, message)),
            6 => call!(self.transactions, list_transactions, request(header, message)),
            7 => call!(self.transactions, watch_transaction, request(header, message)),
            8 => {
                let request =
                    request(header, message).filter(|request| stays_here(request.get_ref()));
                call!(self.participants, register_participant, request);
            }
            9 => call!(self.participants, list_participants, request(header, message)),
            10 => call!(self.participants, enlist_branch, request(header, message)),
            _ => call!(self.participants, inquire, request(header, message)),
        }
    }
}

impl Server {
    /// The only frame of a stream, and what comes back.
    async fn stream(&self, frame: &[u8]) {
        let frame = StreamTransactionsRequest::new(Bytes::copy_from_slice(frame));
        let Ok(v1::StreamTransactionsRequest { calls }) = frame.decode() else { return };
        let calls = calls.len();
        let frames = tokio_stream::once(Ok(frame));
        let mut answers = self.transactions.open_stream(frames).expect("it serves");
        let mut answered = 0;
        let all = async {
            while let Some(frame) = answers.next().await {
                let frame = frame.expect("it could be read").decode().expect("it is a frame");
                for answer in frame.answers {
                    answered += 1;
                    match answer.answer.expect("it says something") {
                        Answer::Status(status) => refused("a call", &convert::status(&status)),
                        other => drop(other),
                    }
                }
            }
        };
        match tokio::time::timeout(PATIENCE, all).await {
            Ok(()) => assert_eq!(answered, calls, "each call is answered once"),
            Err(_) => assert!(answered <= calls, "a call is answered twice"),
        }
    }
}

fn request<M: Message + Default>(header: &[u8], message: &[u8]) -> Option<Request<M>> {
    let mut request = Request::new(M::decode(message).ok()?);
    if !header.is_empty()
        && let Ok(value) = MetadataValue::try_from(header)
    {
        request.metadata_mut().insert("grpc-timeout", value);
    }
    Some(request)
}

/// A link is opened to whoever registers; a test connects to nobody but its own machine.
fn stays_here(request: &v1::RegisterParticipantRequest) -> bool {
    match request.endpoint.parse::<Uri>() {
        Ok(uri) => uri.scheme_str() != Some("http") || uri.host() == Some("127.0.0.1"),
        Err(_) => true,
    }
}

/// Whatever is wrong with a request is the caller's fault, and is said so.
fn refused(method: &str, status: &Status) {
    let ours = matches!(status.code(), Code::Internal | Code::Unknown | Code::DataLoss);
    assert!(!ours && !status.message().is_empty(), "{method}: {status:?}");
}

pub(crate) fn generate(random: &mut Random) -> Vec<u8> {
    let mut events = Events::default();
    for _ in 0..=random.below(8) {
        let what = random.below(12);
        let mut event = (what + 12 * random.below(10)) as u8;
        let mut message = match what {
            0 | 1 => sound_execute(random).encode_to_vec(),
            2 => v1::BeginTransactionRequest::sample(random).encode_to_vec(),
            3 => v1::CommitTransactionRequest::sample(random).encode_to_vec(),
            4 => v1::AbortTransactionRequest::sample(random).encode_to_vec(),
            5 => v1::GetTransactionRequest::sample(random).encode_to_vec(),
            6 => v1::ListTransactionsRequest::sample(random).encode_to_vec(),
            7 => v1::WatchTransactionRequest::sample(random).encode_to_vec(),
            8 => v1::RegisterParticipantRequest::sample(random).encode_to_vec(),
            9 => v1::ListParticipantsRequest::sample(random).encode_to_vec(),
            10 => v1::EnlistBranchRequest::sample(random).encode_to_vec(),
            _ => v1::InquireRequest::sample(random).encode_to_vec(),
        };
        if random.one_in(4) {
            // 132 and 0 are the same call.
            event = (what + 132) as u8;
            let units = ["n", "u", "m", "S", "M", "H", "x", ""];
            let header = format!("{}{}", random.number(), random.pick(&units));
            message = [&[header.len() as u8], header.as_bytes(), &message].concat();
        }
        events.push(event, &message);
        if random.one_in(4) {
            events.push(FRAME, &frame(random).encode_to_vec());
        }
    }
    events.into_input()
}

fn frame(random: &mut Random) -> v1::StreamTransactionsRequest {
    let mut frame = v1::StreamTransactionsRequest::sample(random);
    for call in &mut frame.calls {
        if let Some(Call::Execute(request)) = &mut call.request {
            *request = sound_execute(random);
        }
    }
    frame
}

fn sound_execute(random: &mut Random) -> v1::ExecuteTransactionRequest {
    let mut request = v1::ExecuteTransactionRequest::sample(random);
    if random.one_in(2) {
        request.options = None;
        request.request_id = sample::request_id(random);
        request.branches =
            vec![v1::BranchWork { participant: "a".into(), payload: sample::payload(random) }];
    }
    request
}

pub(crate) fn examples(random: &mut Random) -> Vec<Example> {
    let mut examples: Vec<Example> =
        (0..10).map(|n| Example { name: format!("calls-{n}"), input: generate(random) }).collect();
    for n in 0..4 {
        let mut events = Events::default();
        events.push(FRAME, &frame(random).encode_to_vec());
        examples.push(Example { name: format!("frame-{n}"), input: events.into_input() });
    }
    // Once a finding: it has no negation.
    let shortest = Some(prost_types::Duration { seconds: i64::MIN, nanos: 0 });
    let options = Some(v1::TransactionOptions { timeout: shortest, ..Default::default() });
    let mut events = Events::default();
    let branches = vec![v1::BranchWork { participant: "a".into(), payload: "w".into() }];
    let execute =
        v1::ExecuteTransactionRequest { branches, options: options.clone(), ..Default::default() };
    events.push(0, &execute.encode_to_vec());
    events.push(2, &v1::BeginTransactionRequest { options }.encode_to_vec());
    let list = v1::ListTransactionsRequest { older_than: shortest, ..Default::default() };
    events.push(6, &list.encode_to_vec());
    let name = "most-negative-duration".to_owned();
    examples.push(Example { name, input: events.into_input() });
    examples
}
