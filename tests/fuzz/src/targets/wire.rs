//! What comes over the network: every message is decoded, and converted as its receiver converts it.
//!
//! An input is the number of a kind of message and the message. The numbers stand in the corpus: a new
//! kind goes to the end of the table.

use std::fmt::Debug;

use bytes::Bytes;
use handfast_client::key_value::Results;
use handfast_commit_core::id::{Incarnation, ParticipantName, RequestId, TransactionId};
use handfast_commit_core::limits;
use handfast_commit_core::message::{FromParticipant, ToParticipant};
use handfast_wire::convert::{self, FromSession};
use handfast_wire::{site, v1};
use prost::Message;
use tonic_types::StatusExt;

use crate::Example;
use crate::messages::Sample;
use crate::random::Random;
use crate::sample;
use crate::targets::frames;

/// A kind of message and what its receiver does first.
struct Kind {
    name: &'static str,
    receive: fn(&[u8]),
    sample: fn(&mut Random) -> Vec<u8>,
}

/// The kinds that are messages of the interface, each with the conversion that comes after decoding.
macro_rules! kinds {
    ($($message:ident => $convert:expr),* $(,)?) => {
        &[$(Kind {
            name: stringify!($message),
            receive: |bytes| {
                frames::compare(stringify!($message), bytes);
                if let Some(message) = decoded::<v1::$message>(bytes) {
                    ($convert)(message);
                }
            },
            sample: |random| v1::$message::sample(random).encode_to_vec(),
        }),*]
    };
}

const MESSAGES: &[Kind] = kinds! {
    PrepareRequest => prepare,
    PrepareResponse => |response| voted(some_id(), response),
    CommitRequest => |request: v1::CommitRequest| {
        named(&request.transaction_id, &request.participant, request.origin.as_ref());
    },
    AbortRequest => |request: v1::AbortRequest| {
        named(&request.transaction_id, &request.participant, request.origin.as_ref());
    },
    PreCommitRequest => |request: v1::PreCommitRequest| {
        named(&request.transaction_id, &request.participant, request.origin.as_ref());
    },
    ListInDoubtRequest => |request: v1::ListInDoubtRequest| {
        named(&request.transaction_id, &request.participant, None);
    },
    ListInDoubtResponse => |response: v1::ListInDoubtResponse| in_doubt(&response.branches),
    SessionRequest => coordinator_frame,
    SessionResponse => participant_frame,
    InquireRequest => inquire,
    InquireResponse => |response: v1::InquireResponse| answer(response.answer.as_ref()),
    InquirePeerRequest => |request: v1::InquirePeerRequest| {
        let _ = convert::participant_name(&request.peer);
        request.inquiry.into_iter().for_each(inquire);
    },
    InquirePeerResponse => |response: v1::InquirePeerResponse| answer(response.answer.as_ref()),
    RegisterParticipantRequest => |request: v1::RegisterParticipantRequest| {
        let _ = convert::participant_name(&request.participant);
        let _ = request.endpoint.parse::<tonic::transport::Uri>();
    },
    RegisterParticipantResponse => |_| (),
    ListParticipantsRequest => |request: v1::ListParticipantsRequest| {
        let _ = request.page_token.parse::<ParticipantName>();
    },
    EnlistBranchRequest => |request: v1::EnlistBranchRequest| {
        named(&request.transaction_id, &request.participant, None);
    },
    EnlistBranchResponse => |response: v1::EnlistBranchResponse| {
        origin(response.origin.as_ref());
        let _ = response.time_left.map(|left| convert::duration("time_left", &left));
    },
    BeginTransactionRequest => |request: v1::BeginTransactionRequest| options(request.options),
    CommitTransactionRequest => |request: v1::CommitTransactionRequest| {
        let _ = convert::transaction_id(&request.transaction_id);
        let _ = convert::request_id(&request.request_id);
        let _ = v1::ReplyTime::try_from(request.reply_time);
    },
    AbortTransactionRequest => |request: v1::AbortTransactionRequest| {
        let _ = convert::transaction_id(&request.transaction_id);
    },
    ExecuteTransactionRequest => |request: v1::ExecuteTransactionRequest| {
        let _ = convert::request_id(&request.request_id);
        options(request.options);
    },
    ExecuteTransactionResponse => |_| (),
    GetTransactionRequest => |request: v1::GetTransactionRequest| {
        let _ = convert::transaction_id(&request.transaction_id);
        let _ = convert::request_id(&request.request_id);
    },
    ListTransactionsRequest => |request: v1::ListTransactionsRequest| {
        let _ = request.page_token.parse::<TransactionId>();
        let _ = request.older_than.map(|age| convert::duration("older_than", &age));
    },
    WatchTransactionRequest => |_| (),
    WatchTransactionResponse => |_| (),
    Transaction => |_| (),
    KeyValueWork => |_| (),
    ApplyRequest => |_| (),
    KeyValueResult => |result: v1::KeyValueResult| {
        let payload = Bytes::from(result.encode_to_vec());
        let results = Results::decode(payload).expect("it has just been decoded");
        assert_eq!(results.len(), result.results.len());
        let _ = (results.value(usize::MAX), results.integer(0));
    },
};

/// What is no message: texts and bytes within messages and headers.
const OTHERS: &[Kind] = &[
    Kind {
        name: "text",
        receive: text,
        sample: |random| {
            match random.below(3) {
                0 => sample::id_text(random),
                1 => sample::name(random),
                _ => sample::request_id(random),
            }
            .into_bytes()
        },
    },
    Kind { name: "id", receive: id_bytes, sample: |random| sample::id(random).as_bytes().to_vec() },
    Kind { name: "status", receive: status, sample: status_sample },
];

/// Messages that came later.
const LATER: &[Kind] = kinds! {
    StreamTransactionsRequest => |frame: v1::StreamTransactionsRequest| {
        frame.calls.into_iter().for_each(transaction_call);
    },
    StreamTransactionsResponse => |frame: v1::StreamTransactionsResponse| {
        frame.answers.into_iter().for_each(transaction_answer);
    },
    LeadRequest => |request: v1::LeadRequest| {
        if let Ok(read) = site::lead(&request) {
            assert_eq!(site::lead(&site::lead_message(&read)), Ok(read));
        }
    },
    LeadResponse => |response: v1::LeadResponse| {
        for report in &response.reports {
            if let Ok(read) = site::report(report) {
                assert_eq!(site::report(&site::report_message(&read)), Ok(read));
            }
        }
    },
};

fn all_kinds() -> impl Iterator<Item = &'static Kind> {
    MESSAGES.iter().chain(OTHERS).chain(LATER)
}

fn kinds() -> impl ExactSizeIterator<Item = (u8, &'static Kind)> {
    let all: Vec<&Kind> = all_kinds().collect();
    all.into_iter().enumerate().map(|(number, kind)| (number as u8, kind))
}

pub(crate) fn run(input: &[u8]) {
    let Some((number, body)) = input.split_first() else { return };
    let number = usize::from(*number) % all_kinds().count();
    let kind = all_kinds().nth(number).expect("below their number");
    (kind.receive)(body);
}

pub(crate) fn generate(random: &mut Random) -> Vec<u8> {
    let number = random.below(all_kinds().count());
    let (number, kind) = kinds().nth(number).expect("below their number");
    with_number(number, (kind.sample)(random))
}

pub(crate) fn examples(random: &mut Random) -> Vec<Example> {
    let mut examples: Vec<Example> = kinds()
        .map(|(number, kind)| Example {
            name: kind.name.to_owned(),
            input: with_number(number, (kind.sample)(random)),
        })
        .collect();
    // Once a finding: it has no negation.
    let shortest = Some(prost_types::Duration { seconds: i64::MIN, nanos: 0 });
    let options = v1::TransactionOptions { timeout: shortest, ..Default::default() };
    let begin = v1::BeginTransactionRequest { options: Some(options) }.encode_to_vec();
    let number = kinds().find(|(_, kind)| kind.name == "BeginTransactionRequest");
    let (number, _) = number.expect("a kind of this name");
    examples.push(Example {
        name: "most-negative-duration".to_owned(),
        input: with_number(number, begin),
    });
    examples
}

fn with_number(number: u8, body: Vec<u8>) -> Vec<u8> {
    let mut input = vec![number];
    input.extend(body);
    input
}

/// The message, if it is one. What has been decoded is encoded and decoded to itself.
pub(crate) fn decoded<M: Message + Default + PartialEq + Debug>(bytes: &[u8]) -> Option<M> {
    let message = match M::decode(Bytes::copy_from_slice(bytes)) {
        Ok(message) => message,
        Err(error) => {
            let _ = error.to_string();
            return None;
        }
    };
    let encoded = message.encode_to_vec();
    assert_eq!(encoded.len(), message.encoded_len());
    assert_eq!(
        M::decode(&encoded[..]).as_ref(),
        Ok(&message),
        "another message after a round trip"
    );
    let _ = format!("{message:?}");
    Some(message)
}

fn some_id() -> TransactionId {
    TransactionId::from_bytes(&[0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]).expect("an id")
}

fn origin(message: Option<&v1::Origin>) {
    match convert::origin(message) {
        Ok(origin) => {
            let written = convert::origin_message(&origin);
            assert_eq!(Some(&written), message, "the sender is another one after a round trip");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn named(id: &str, participant: &str, sender: Option<&v1::Origin>) {
    if let Ok(read) = convert::transaction_id(id) {
        assert_eq!(read.to_string(), id, "a second spelling of an id");
    }
    if let Ok(read) = convert::participant_name(participant) {
        assert_eq!(read.as_str(), participant);
    }
    origin(sender);
}

/// Received, sent on, received again.
fn prepare(request: v1::PrepareRequest) {
    named(&request.transaction_id, &request.participant, request.origin.as_ref());
    let asked = request.participant.parse();
    let Ok(order) = convert::prepare(request) else { return };
    let endpoint_of = |name: &ParticipantName| {
        let found = order.peers.iter().find(|(peer, _)| peer == name);
        found.map(|(_, endpoint)| endpoint.clone()).unwrap_or_default()
    };
    // Whoever is asked is one of the voting sites, if there are any.
    let to: ParticipantName = asked.or_else(|_| "a".parse()).expect("a name");
    let message = ToParticipant::Prepare(order.prepare.clone());
    let sent = convert::coordinator_message(&to, message, None, endpoint_of);
    let Some(v1::coordinator_message::Message::Prepare(sent)) = sent.message else {
        panic!("a PREPARE is sent as something else")
    };
    let again = convert::prepare(sent).expect("what was sent is what was accepted");
    assert_eq!(again.prepare, order.prepare, "another PREPARE after a round trip");
}

fn voted(id: TransactionId, response: v1::PrepareResponse) {
    let Ok(message) = convert::voted(id, response) else { return };
    sent_and_received(message);
}

/// What a participant says reaches the coordinator as it was said.
fn sent_and_received(message: FromParticipant) {
    let id = message.id();
    if let FromParticipant::Refused { reason, .. } = &message {
        assert!(reason.len() <= limits::REASON_BYTES_MAX);
    }
    let sent = convert::session_message(message.clone());
    let received = convert::participant_message(sent).expect("what we send ourselves");
    assert_eq!(received, FromSession::Message(message), "of {id}");
}

fn coordinator_frame(frame: v1::SessionRequest) {
    use v1::coordinator_message::Message;
    if let Some(hello) = &frame.hello {
        let _ = convert::participant_name(&hello.participant);
    }
    origin(frame.origin.as_ref());
    for message in frame.messages {
        match message.message {
            Some(Message::Prepare(request)) => prepare(request),
            Some(Message::Commit(request)) => {
                named(&request.transaction_id, &request.participant, request.origin.as_ref());
            }
            Some(Message::Abort(request)) => {
                named(&request.transaction_id, &request.participant, request.origin.as_ref());
            }
            Some(Message::Forget(request)) => {
                named(&request.transaction_id, &request.participant, None);
            }
            Some(Message::Order(order)) => site_order(&order),
            Some(Message::InquiryAnswer(found)) => answer(Some(&found)),
            None => {}
        }
    }
}

fn participant_frame(frame: v1::SessionResponse) {
    if let Some(welcome) = &frame.welcome {
        let _ = convert::participant_name(&welcome.participant);
        in_doubt(&welcome.one_phase_commits);
    }
    for message in frame.messages {
        match convert::participant_message(message) {
            Ok(FromSession::Message(message)) => sent_and_received(message),
            Ok(FromSession::Report(report)) => {
                let sent = convert::report_message(&report);
                let received = convert::participant_message(sent).expect("what we send ourselves");
                assert_eq!(received, FromSession::Report(report));
            }
            Ok(FromSession::Inquiry { .. }) | Err(_) => {}
        }
    }
}

fn site_order(order: &v1::SiteOrder) {
    if let Ok(read) = site::order(order) {
        assert_eq!(site::order(&site::order_message(&read)), Ok(read));
    }
}

fn in_doubt(branches: &[v1::InDoubtBranch]) {
    for branch in branches {
        let _ = convert::transaction_id(&branch.transaction_id);
        let _ = convert::request_id(&branch.request_id);
    }
}

fn inquire(request: v1::InquireRequest) {
    named(&request.transaction_id, &request.participant, None);
    let _ = Incarnation(request.coordinator_incarnation);
}

fn answer(message: Option<&v1::InquiryAnswer>) {
    let Ok((id, outcome)) = convert::inquired(message) else { return };
    let written = v1::InquiryAnswer {
        transaction_id: id.to_string(),
        outcome: convert::inquiry_outcome(outcome).into(),
    };
    assert_eq!(Some(&written), message, "another answer after a round trip");
}

fn transaction_call(call: v1::TransactionCall) {
    use v1::transaction_call::Request;
    let _ = call.timeout.map(|timeout| convert::duration("timeout", &timeout));
    match call.request {
        Some(Request::Execute(request)) => options(request.options),
        Some(Request::Begin(request)) => options(request.options),
        Some(Request::Commit(request)) => named(&request.transaction_id, "", None),
        Some(Request::Abort(request)) => named(&request.transaction_id, "", None),
        Some(Request::Get(request)) => named(&request.transaction_id, "", None),
        None => {}
    }
}

/// A status is the same after it has been one of the RPC library's.
fn transaction_answer(answer: v1::TransactionAnswer) {
    if let Some(v1::transaction_answer::Answer::Status(message)) = answer.answer {
        let status = convert::status(&message);
        let _ = convert::retry_delay(&status);
        let again = convert::status_message(&status);
        assert_eq!((&again.message, &again.details), (&message.message, &message.details));
        assert_eq!(convert::status(&again).code(), status.code());
    }
}

fn options(options: Option<v1::TransactionOptions>) {
    let Some(options) = options else { return };
    let _ = v1::Protocol::try_from(options.protocol);
    let _ = options.timeout.map(|timeout| convert::duration("timeout", &timeout));
}

fn text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(id) = text.parse::<TransactionId>() {
        assert_eq!(id.to_string(), *text, "a second spelling of an id");
    }
    if let Ok(name) = text.parse::<ParticipantName>() {
        assert!(name.as_str() == text && text.len() <= ParticipantName::BYTES_MAX);
    }
    if let Ok(request) = text.parse::<RequestId>() {
        assert!(request.as_str() == text && text.len() <= RequestId::BYTES_MAX);
    }
    for bytes_max in [0, 1, 2, 3, 16, limits::REASON_BYTES_MAX] {
        assert!(limits::cut(&text, bytes_max).len() <= bytes_max);
    }
}

fn id_bytes(bytes: &[u8]) {
    let Ok(id) = TransactionId::from_bytes(bytes) else { return };
    assert_eq!(id.as_bytes(), bytes);
    assert_eq!(id.to_string().parse(), Ok(id));
    let made = TransactionId::new(id.slot(), id.protocol(), id.epoch(), id.sequence());
    assert_eq!(made, id, "the parts of an id make it up");
}

/// The details of a failure, as a client reads them.
fn status(bytes: &[u8]) {
    let details = Bytes::copy_from_slice(bytes);
    let status = tonic::Status::with_details(tonic::Code::Aborted, "why", details);
    let _ = status.get_details_error_info();
    let _ = status.get_details_resource_info();
    let _ = convert::retry_delay(&status);
}

fn status_sample(random: &mut Random) -> Vec<u8> {
    use tonic_types::ErrorDetails;
    let text = sample::text(random);
    let mut details = ErrorDetails::with_error_info(
        "TRANSACTION_ABORTED",
        "handfast",
        [("k".to_owned(), text.clone())],
    );
    let delay = std::time::Duration::from_secs(random.number() >> 1);
    details.set_retry_info(Some(delay));
    details.set_resource_info("participant", &text, "", "");
    let status = tonic::Status::with_error_details(tonic::Code::Aborted, "why", details);
    status.details().to_vec()
}
