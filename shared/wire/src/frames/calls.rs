//! The frames of a stream of calls.

use bytes::Bytes;
use handfast_commit_core::id::{ParticipantName, RequestId};
use handfast_commit_core::two_phase::coordinator::Outcome;
use prost::{DecodeError, Message};
use v1::transaction_call::Request;

use super::reader::{self, Reader};
use super::writer::{ID_BYTES, put_bytes, put_id, put_length, put_message, put_number, put_some};
use super::writer::{field_len, varint_len};
use super::{Frame, Names, StreamTransactionsRequest, StreamTransactionsResponse, alone};
use crate::{convert, v1};

const CALLS: u8 = reader::bytes(1);
const ANSWERS: u8 = reader::bytes(1);

/// What is around an answer and its own fields in a frame, and names and short results: for a guess at the length
/// of one.
const ANSWER_BYTES: usize = 128;

// ---- calls --------------------------------------------------------------------------------------

/// A call.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Its number.
    pub call_id: u64,
    /// How long its caller waits.
    pub timeout: Option<prost_types::Duration>,
    /// What it asks for.
    pub request: CallRequest,
}

/// What a call asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum CallRequest {
    /// A whole transaction.
    Execute(ExecuteCall),
    /// Anything else, or in another form.
    Other(Option<Box<Request>>),
}

/// A whole transaction: ids and names are right, and nothing else has been looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecuteCall {
    /// The client's name for it.
    pub request_id: Option<RequestId>,
    /// Who does what, as they come.
    pub branches: Vec<(ParticipantName, Bytes)>,
    /// When it is answered.
    pub reply_time: i32,
    /// How it is done.
    pub options: Option<v1::TransactionOptions>,
}

impl StreamTransactionsRequest {
    /// Reads the calls, or nothing.
    ///
    /// # Errors
    /// When it is no such frame.
    pub fn read(&self, names: &mut Names) -> Result<Vec<Call>, DecodeError> {
        let frame = self.as_bytes();
        let mut fields = Reader::new(frame);
        let found = match fields.repeated(CALLS) {
            Some(found) if fields.is_empty() => found,
            _ => return Ok(self.decode()?.calls.into_iter().map(generated).collect()),
        };
        let mut calls = Vec::with_capacity(found.len());
        for (message, field) in found {
            calls.push(match call(frame, message, names) {
                Some(call) => call,
                None => other_call(frame, field)?,
            });
        }
        Ok(calls)
    }
}

/// A call by itself, read as in its frame.
#[cold]
fn other_call(frame: &Bytes, field: &[u8]) -> Result<Call, DecodeError> {
    let call = alone::<v1::StreamTransactionsRequest>(frame, field)?.calls.pop();
    Ok(generated(call.unwrap_or_default()))
}

fn generated(call: v1::TransactionCall) -> Call {
    let v1::TransactionCall { call_id, timeout, request } = call;
    Call { call_id, timeout, request: CallRequest::Other(request.map(Box::new)) }
}

const CALL_ID: u8 = reader::varint(1);
const CALL_TIMEOUT: u8 = reader::bytes(2);
const CALL_EXECUTE: u8 = reader::bytes(3);

fn call(frame: &Bytes, message: &[u8], names: &mut Names) -> Option<Call> {
    let mut fields = Reader::new(message);
    let (mut call_id, mut timeout) = (0, None);
    loop {
        match fields.key()? {
            CALL_ID => call_id = fields.varint()?,
            CALL_TIMEOUT => timeout = Some(duration(fields.bytes()?)?),
            CALL_EXECUTE => {
                let execute = execute(frame, fields.last_bytes()?, names)?;
                return Some(Call { call_id, timeout, request: CallRequest::Execute(execute) });
            }
            _ => return None,
        }
    }
}

const DURATION_SECONDS: u8 = reader::varint(1);
const DURATION_NANOS: u8 = reader::varint(2);

fn duration(message: &[u8]) -> Option<prost_types::Duration> {
    let mut fields = Reader::new(message);
    let mut duration = prost_types::Duration::default();
    while !fields.is_empty() {
        match fields.key()? {
            DURATION_SECONDS => duration.seconds = i64::try_from(fields.varint()?).ok()?,
            DURATION_NANOS => duration.nanos = i32::try_from(fields.varint()?).ok()?,
            _ => return None,
        }
    }
    Some(duration)
}

const EXECUTE_REQUEST_ID: u8 = reader::bytes(1);
const EXECUTE_BRANCHES: u8 = reader::bytes(2);
const EXECUTE_REPLY_TIME: u8 = reader::varint(3);
const EXECUTE_OPTIONS: u8 = reader::bytes(4);

fn execute(frame: &Bytes, request: &[u8], names: &mut Names) -> Option<ExecuteCall> {
    let mut fields = Reader::new(request);
    let (mut request_id, mut branches, mut reply_time, mut options) = (None, Vec::new(), 0, None);
    while !fields.is_empty() {
        match fields.key()? {
            EXECUTE_REQUEST_ID => request_id = convert::request_id(fields.text()?).ok()?,
            EXECUTE_BRANCHES => {
                branches.push(branch(frame, fields.bytes()?, names)?);
                while fields.again(EXECUTE_BRANCHES) {
                    branches.push(branch(frame, fields.bytes()?, names)?);
                }
            }
            EXECUTE_REPLY_TIME => reply_time = i32::try_from(fields.varint()?).ok()?,
            EXECUTE_OPTIONS => {
                options = Some(v1::TransactionOptions::decode(fields.bytes()?).ok()?);
            }
            _ => return None,
        }
    }
    Some(ExecuteCall { request_id, branches, reply_time, options })
}

const BRANCH_PARTICIPANT: u8 = reader::bytes(1);
const BRANCH_PAYLOAD: u8 = reader::bytes(2);

fn branch(frame: &Bytes, message: &[u8], names: &mut Names) -> Option<(ParticipantName, Bytes)> {
    let mut fields = Reader::new(message);
    let (mut participant, mut payload) = (None, &[][..]);
    while !fields.is_empty() {
        match fields.key()? {
            BRANCH_PARTICIPANT => participant = Some(names.read(fields.bytes()?)?),
            BRANCH_PAYLOAD => payload = fields.bytes()?,
            _ => return None,
        }
    }
    Some((participant?, frame.slice_ref(payload)))
}

// ---- answers ------------------------------------------------------------------------------------

const ANSWER_CALL_ID: u8 = reader::varint(1);
const ANSWER_EXECUTE: u8 = reader::bytes(3);
const EXECUTED_OUTCOME: u8 = reader::bytes(1);
const OUTCOME_ID: u8 = reader::bytes(1);
const OUTCOME_STATE: u8 = reader::varint(2);
const OUTCOME_PENDING: u8 = reader::bytes(4);
const OUTCOME_RESULTS: u8 = reader::bytes(5);
const OUTCOME_REPEATED: u8 = reader::varint(6);
const OUTCOME_LEFT_OUT: u8 = reader::varint(7);
const RESULT_PARTICIPANT: u8 = reader::bytes(1);
const RESULT_PAYLOAD: u8 = reader::bytes(2);

/// Writes a frame of answers.
#[derive(Debug, Default)]
pub struct StreamTransactionsResponseWriter {
    frame: Vec<u8>,
    answers: usize,
}

impl StreamTransactionsResponseWriter {
    /// Makes room for about so many more answers.
    pub fn reserve(&mut self, answers: usize) {
        self.frame.reserve(answers * ANSWER_BYTES);
    }

    /// The answers so far.
    #[must_use]
    pub fn answers(&self) -> usize {
        self.answers
    }

    /// The bytes so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frame.len()
    }

    /// Tells that a whole transaction has committed. False, and nothing is written: it has not.
    pub fn committed(&mut self, call_id: u64, outcome: &Outcome, results_left_out: bool) -> bool {
        if outcome.result.is_err() {
            return false;
        }
        let state = match outcome.pending.as_slice() {
            [] => v1::TransactionState::Committed,
            _ => v1::TransactionState::Committing,
        };
        let text = |name: &ParticipantName| 2 + name.as_str().len();
        let result = |(name, payload): &(ParticipantName, Bytes)| {
            text(name) + if payload.is_empty() { 0 } else { field_len(payload.len()) }
        };
        let pending: usize = outcome.pending.iter().map(text).sum();
        let results: usize = outcome.results.iter().map(|each| field_len(result(each))).sum();
        let flags = 2 * (usize::from(outcome.repeated) + usize::from(results_left_out));
        let length = ID_BYTES + 2 + pending + results + flags;
        let number = if call_id == 0 { 0 } else { 1 + varint_len(call_id) };
        let frame = &mut self.frame;
        put_length(frame, ANSWERS, number + field_len(field_len(length)));
        put_number(frame, ANSWER_CALL_ID, call_id);
        put_length(frame, ANSWER_EXECUTE, field_len(length));
        put_length(frame, EXECUTED_OUTCOME, length);
        put_id(frame, OUTCOME_ID, outcome.id);
        put_number(frame, OUTCOME_STATE, state as u64);
        for name in &outcome.pending {
            put_bytes(frame, OUTCOME_PENDING, name.as_str().as_bytes());
        }
        for each @ (name, payload) in &outcome.results {
            put_length(frame, OUTCOME_RESULTS, result(each));
            put_bytes(frame, RESULT_PARTICIPANT, name.as_str().as_bytes());
            put_some(frame, RESULT_PAYLOAD, payload);
        }
        put_number(frame, OUTCOME_REPEATED, outcome.repeated.into());
        put_number(frame, OUTCOME_LEFT_OUT, results_left_out.into());
        self.answers += 1;
        true
    }

    /// Writes any answer.
    pub fn message(&mut self, answer: &v1::TransactionAnswer) {
        put_message(&mut self.frame, ANSWERS, answer);
        self.answers += 1;
    }

    /// Takes the last answer back, which began behind so many bytes.
    pub fn take_back(&mut self, begin: usize) -> Vec<u8> {
        self.answers -= 1;
        self.frame.split_off(begin)
    }

    /// Writes an answer that was taken back.
    pub fn put_again(&mut self, answer: &[u8]) {
        self.frame.extend_from_slice(answer);
        self.answers += 1;
    }

    /// The frame.
    #[must_use]
    pub fn finish(self) -> StreamTransactionsResponse {
        Frame::new(self.frame.into())
    }
}
