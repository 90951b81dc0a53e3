//! The client: frames of calls, frames of answers.

use std::ops::Range;

use anyhow::{Context, bail};
use bytes::Bytes;
use handfast_wire::v1;
use handfast_wire::v1::key_value_operation::Operation;
use handfast_wire::v1::transaction_answer::Answer;
use handfast_wire::v1::transaction_call::Request;
use prost::Message;

/// Bytes of a value that is put.
const VALUE_BYTES: usize = 64;
/// As many as a batch has transactions: no two of them want the same, and the store does not grow.
const KEYS: usize = crate::BATCH;

/// Calls, and counts what has committed.
pub struct Client {
    names: Vec<String>,
    committed: usize,
}

impl Client {
    /// Of a system with these participants.
    pub fn new(names: &[&str]) -> Self {
        Self { names: names.iter().map(ToString::to_string).collect(), committed: 0 }
    }

    /// The transactions that it was told have committed.
    pub fn committed(&self) -> usize {
        self.committed
    }

    /// One frame with the calls of these numbers.
    #[inline(never)]
    pub fn write_calls(&self, numbers: Range<usize>) -> Bytes {
        let calls = numbers.map(|number| self.call(number)).collect();
        Bytes::from(v1::StreamTransactionsRequest { calls }.encode_to_vec())
    }

    fn call(&self, number: usize) -> v1::TransactionCall {
        let branch = |name: &String| {
            let put = v1::KeyValuePut { value: vec![b'v'; VALUE_BYTES].into() };
            let key = format!("key-{:02}", number % KEYS).into_bytes().into();
            let operation = v1::KeyValueOperation { key, operation: Some(Operation::Put(put)) };
            let payload = v1::KeyValueWork { operations: vec![operation] }.encode_to_vec().into();
            v1::BranchWork { participant: name.clone(), payload }
        };
        let execute = v1::ExecuteTransactionRequest {
            // As long as those that the client library draws.
            request_id: format!("{number:032x}"),
            branches: self.names.iter().map(branch).collect(),
            ..Default::default()
        };
        v1::TransactionCall {
            call_id: number as u64,
            // The client library says how long each caller waits.
            timeout: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
            request: Some(Request::Execute(execute)),
        }
    }

    /// Reads a frame of answers: all of them are commits.
    #[inline(never)]
    pub fn read_answers(&mut self, frame: Bytes) -> anyhow::Result<()> {
        for answer in v1::StreamTransactionsResponse::decode(frame)?.answers {
            let Some(Answer::Execute(executed)) = answer.answer else {
                bail!("call {} is answered {:?}", answer.call_id, answer.answer)
            };
            let outcome = executed.outcome.context("an answer without an outcome")?;
            if outcome.state() != v1::TransactionState::Committed {
                bail!("call {} has the outcome {outcome:?}", answer.call_id);
            }
            self.committed += 1;
        }
        Ok(())
    }
}
