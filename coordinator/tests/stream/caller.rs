//! The client's end of a stream, with nothing in between: what is sent is what was given, and what comes is
//! what is returned.

use std::collections::VecDeque;
use std::time::Duration;

use handfast_wire::v1;
use handfast_wire::v1::transaction_answer::Answer;
use handfast_wire::v1::transaction_call::Request;
use handfast_wire::v1::transaction_service_client::TransactionServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Only a failed test waits for so long.
const WAIT: Duration = Duration::from_secs(60);

/// A stream of calls.
pub struct Caller {
    frames: Option<mpsc::Sender<v1::StreamTransactionsRequest>>,
    answers: Streaming<v1::StreamTransactionsResponse>,
    ready: VecDeque<v1::TransactionAnswer>,
}

/// A call without a timeout.
pub fn call(call_id: u64, request: impl Into<Asked>) -> v1::TransactionCall {
    v1::TransactionCall { call_id, timeout: None, request: Some(request.into().0) }
}

/// A call that is waited for so long.
pub fn call_within(
    call_id: u64,
    timeout: Duration,
    request: impl Into<Asked>,
) -> v1::TransactionCall {
    let timeout = prost_types::Duration {
        seconds: timeout.as_secs().cast_signed(),
        nanos: timeout.subsec_nanos().cast_signed(),
    };
    v1::TransactionCall { timeout: Some(timeout), ..call(call_id, request) }
}

/// A request of any kind.
pub struct Asked(Request);

macro_rules! asked {
    ($($request:ident: $kind:ident),* $(,)?) => {$(
        impl From<v1::$request> for Asked {
            fn from(request: v1::$request) -> Self {
                Self(Request::$kind(request))
            }
        }
    )*};
}

asked! {
    ExecuteTransactionRequest: Execute,
    BeginTransactionRequest: Begin,
    CommitTransactionRequest: Commit,
    AbortTransactionRequest: Abort,
    GetTransactionRequest: Get,
}

impl Caller {
    /// Opens a stream.
    pub async fn open(mut client: TransactionServiceClient<Channel>) -> Result<Self, Status> {
        let (frames, outgoing) = mpsc::channel(1);
        let opened = client.stream_transactions(ReceiverStream::new(outgoing)).await?;
        let (answers, ready) = (opened.into_inner(), VecDeque::new());
        Ok(Self { frames: Some(frames), answers, ready })
    }

    /// Sends a frame.
    pub async fn send(&self, calls: impl IntoIterator<Item = v1::TransactionCall>) {
        let calls = calls.into_iter().collect();
        let frames = self.frames.as_ref().expect("the sending side is open");
        let frame = v1::StreamTransactionsRequest { calls };
        frames.send(frame).await.expect("the stream is open");
    }

    /// There is nothing more to send.
    pub fn finish(&mut self) {
        self.frames = None;
    }

    /// The next answer, or the end.
    pub async fn next(&mut self) -> Result<Option<v1::TransactionAnswer>, Status> {
        loop {
            if let Some(answer) = self.ready.pop_front() {
                return Ok(Some(answer));
            }
            let frame = tokio::time::timeout(WAIT, self.answers.message()).await;
            match frame.expect("an answer or the end")? {
                Some(frame) => self.ready.extend(frame.answers),
                None => return Ok(None),
            }
        }
    }

    /// The next answer: to which call, and which.
    pub async fn answer(&mut self) -> (u64, Answer) {
        let answer = self.next().await.expect("the stream goes on").expect("the stream goes on");
        (answer.call_id, answer.answer.expect("an answer says something"))
    }

    /// The next answer, to this call, which has not failed.
    pub async fn outcome(&mut self, call_id: u64) -> v1::Outcome {
        let (answered, answer) = self.answer().await;
        assert_eq!(answered, call_id, "{answer:?}");
        match answer {
            Answer::Execute(response) => response.outcome.expect("an outcome"),
            Answer::Commit(response) => response.outcome.expect("an outcome"),
            Answer::Abort(response) => response.outcome.expect("an outcome"),
            other => panic!("no outcome: {other:?}"),
        }
    }

    /// The next answer, to this call, which has failed.
    pub async fn failure(&mut self, call_id: u64) -> Status {
        match self.answer().await {
            (answered, Answer::Status(status)) if answered == call_id => {
                handfast_wire::convert::status(&status)
            }
            (answered, other) => panic!("call {answered} is answered with {other:?}"),
        }
    }

    /// Sends one call, and returns the answer.
    pub async fn ask(&mut self, call_id: u64, request: impl Into<Asked>) -> Result<Answer, Status> {
        self.send([call(call_id, request)]).await;
        match self.answer().await {
            (answered, Answer::Status(status)) if answered == call_id => {
                Err(handfast_wire::convert::status(&status))
            }
            (answered, answer) => {
                assert_eq!(answered, call_id);
                Ok(answer)
            }
        }
    }
}
