//! The line to a coordinator: one stream that carries the calls of a client and all its clones.
//!
//! It is opened by the first call, and by the next one after it broke. Calls form frames by themselves: the
//! connection takes whatever has gathered since it last could send. Laws:
//! - A call that was taken into a frame may have been done, however the stream ends and whatever its last
//!   word is: that word is about the stream. One that was not has never left this process.
//! - A caller that goes away leaves nothing behind.
//!
//! Absent on purpose: attempts. A call that fails is the caller's to repeat, over the next stream.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use handfast_wire::convert;
use handfast_wire::v1;
use handfast_wire::v1::transaction_answer::Answer;
use handfast_wire::v1::transaction_call::Request;
use handfast_wire::v1::transaction_service_client::TransactionServiceClient;
use tokio::sync::oneshot;
use tokio_stream::Stream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::client::MESSAGE_BYTES_MAX;
use crate::error::Cause;
use crate::options::duration;
use crate::status::{Effect, Failure};

/// Calls in one frame at most, and bytes after which it is sent.
const FRAME_CALLS_MAX: usize = 1024;
const FRAME_BYTES: usize = 1 << 20;
/// So many queued calls may be without a caller, besides as many as there are callers.
const QUEUE_SLACK: usize = 1024;
/// How long a server that does not know streams is not asked for one: it may be replaced meanwhile.
const UNSERVED_FOR: Duration = Duration::from_secs(60);

/// Why the line did not bring an answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// The server has no such stream, and has done nothing. It may serve the call by itself.
    Unserved,
    /// The call failed.
    Failed(Failure),
}

type Told = Result<Answer, Unanswered>;

/// See the module. When it is dropped the stream ends.
#[derive(Debug, Default)]
pub(crate) struct Line {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The present stream is this one, and calls may be queued for it.
    open: Option<u64>,
    streams: u64,
    last_call: u64,
    calls: HashMap<u64, Waiting>,
    /// The calls that no frame has taken yet, and some whose callers have gone away.
    queue: VecDeque<u64>,
    /// Whoever takes frames waits for calls.
    taker: Option<Waker>,
    unserved_until: Option<Instant>,
    /// The line is gone.
    closed: bool,
}

/// Whoever waits for an answer.
struct Waiting {
    to: oneshot::Sender<Told>,
    /// The call, until a frame takes it.
    unsent: Option<Unsent>,
}

struct Unsent {
    call: v1::TransactionCall,
    bytes: usize,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Shared")
            .field("open", &state.open)
            .field("in_flight", &state.calls.len())
            .finish_non_exhaustive()
    }
}

/// How a stream ended.
enum End {
    /// The server, or something on the way to it, did not let us begin.
    Refused(Status),
    /// It broke, or the server ended it.
    Broken(Status),
}

impl Line {
    /// Makes a call, and waits for the answer. `bytes` is about how long the request is.
    pub(crate) async fn call(
        &self,
        channel: &Channel,
        timeout: Duration,
        request: Request,
        bytes: usize,
    ) -> Told {
        let (to, told) = oneshot::channel();
        let mut place = {
            let mut state = self.shared.lock();
            if state.unserved_until.is_some_and(|until| Instant::now() < until) {
                return Err(Unanswered::Unserved);
            }
            if state.open.is_none() {
                state.streams += 1;
                state.open = Some(state.streams);
                let stream = Running { shared: Arc::clone(&self.shared), number: state.streams };
                tokio::spawn(run(stream, channel.clone()));
            }
            state.last_call += 1;
            let call_id = state.last_call;
            let timeout = Some(duration(timeout));
            let call = v1::TransactionCall { call_id, timeout, request: Some(request) };
            state.calls.insert(call_id, Waiting { to, unsent: Some(Unsent { call, bytes }) });
            state.queue.push_back(call_id);
            let taker = state.taker.take();
            drop(state);
            // Only the first of several that come together has somebody to wake.
            if let Some(taker) = taker {
                taker.wake();
            }
            Place { shared: &self.shared, call_id, taken: true }
        };
        let told = told.await;
        // Whoever told has cleared the place.
        place.taken = false;
        told.unwrap_or_else(|_| Err(Unanswered::Failed(Failure::malformed("it was lost"))))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        let taker = state.taker.take();
        drop(state);
        if let Some(taker) = taker {
            taker.wake();
        }
    }
}

/// A caller's place among those that wait. A caller that goes away gives it up.
struct Place<'a> {
    shared: &'a Shared,
    call_id: u64,
    taken: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.taken {
            let mut state = self.shared.lock();
            let State { calls, queue, .. } = &mut *state;
            calls.remove(&self.call_id);
            if queue.len() > QUEUE_SLACK + 2 * calls.len() {
                queue.retain(|call_id| calls.contains_key(call_id));
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements, whoever panicked in between.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self, frame: v1::StreamTransactionsResponse) {
        let mut told = Vec::with_capacity(frame.answers.len());
        let mut state = self.lock();
        for v1::TransactionAnswer { call_id, answer } in frame.answers {
            // Nobody waits for it any more, or ever has.
            let Some(waiting) = state.calls.remove(&call_id) else { continue };
            told.push((waiting.to, read(answer)));
        }
        drop(state);
        for (to, answer) in told {
            let _ = to.send(answer);
        }
    }

    /// Tells everybody who still waits that the stream has ended.
    fn ended(&self, number: u64, end: &End) {
        let mut state = self.lock();
        if state.open != Some(number) {
            return;
        }
        state.open = None;
        state.taker = None;
        state.queue.clear();
        let calls = std::mem::take(&mut state.calls);
        let unserved = matches!(end, End::Refused(status)
            if status.code() == Code::Unimplemented && !by_transport(status));
        if unserved {
            state.unserved_until = Some(Instant::now() + UNSERVED_FOR);
        }
        drop(state);
        if unserved {
            tracing::debug!("the server has no stream for calls; each is made by itself");
        }
        for waiting in calls.into_values() {
            let _ = waiting.to.send(Err(match unserved {
                true => Unanswered::Unserved,
                false => Unanswered::Failed(end.failure(waiting.unsent.is_none())),
            }));
        }
    }
}

impl End {
    /// What it means for a call that was taken into a frame, or was not.
    fn failure(&self, sent: bool) -> Failure {
        let failure = match self {
            Self::Refused(status) => Failure::from(status.clone()),
            Self::Broken(status) => {
                let retry_after = Failure::from(status.clone()).retry_after;
                let status = match by_transport(status) {
                    true => status.clone(),
                    // What the server says of its stream it does not say of the call.
                    false => {
                        let why = status.message();
                        Status::unavailable(format!("the stream ended before the answer: {why}"))
                    }
                };
                Failure { retry_after, ..Failure::open(Cause::Status(Box::new(status))) }
            }
        };
        let effect = if sent { failure.effect } else { Effect::Nothing };
        Failure { effect, ..failure }
    }
}

/// Made on this side, by the transport.
fn by_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

fn read(answer: Option<Answer>) -> Told {
    match answer {
        Some(Answer::Status(status)) => {
            Err(Unanswered::Failed(Failure::from(convert::status(&status))))
        }
        Some(answer) => Ok(answer),
        None => Err(Unanswered::Failed(Failure::malformed("it says nothing"))),
    }
}

// ---- one stream ---------------------------------------------------------------------------------

/// A stream from its begin to its end, which is told even if the runtime ends first.
struct Running {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Running {
    fn drop(&mut self) {
        let end = End::Broken(Status::cancelled("the runtime that it was on has ended"));
        self.shared.ended(self.number, &end);
    }
}

async fn run(stream: Running, channel: Channel) {
    let mut service =
        TransactionServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let frames = Frames { shared: Arc::clone(&stream.shared), number: stream.number };
    let end = match service.stream_transactions(frames).await {
        Err(status) => End::Refused(status),
        Ok(response) => {
            let mut answers = response.into_inner();
            loop {
                match answers.message().await {
                    Ok(Some(frame)) => stream.shared.answered(frame),
                    Ok(None) => break End::Broken(Status::unavailable("the server closed it")),
                    Err(status) => break End::Broken(status),
                }
            }
        }
    };
    stream.shared.ended(stream.number, &end);
}

/// The frames of one stream. The connection takes the next one when it can send it.
struct Frames {
    shared: Arc<Shared>,
    number: u64,
}

impl Stream for Frames {
    type Item = v1::StreamTransactionsRequest;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.shared.lock();
        let state = &mut *state;
        if state.open != Some(self.number) {
            return Poll::Ready(None);
        }
        let mut calls = Vec::with_capacity(state.queue.len().min(FRAME_CALLS_MAX));
        let mut frame_bytes = 0;
        while calls.len() < FRAME_CALLS_MAX
            && frame_bytes < FRAME_BYTES
            && let Some(call_id) = state.queue.pop_front()
        {
            // A caller that has gone away asks for nothing.
            let waiting = state.calls.get_mut(&call_id);
            let Some(unsent) = waiting.and_then(|waiting| waiting.unsent.take()) else { continue };
            frame_bytes += unsent.bytes;
            calls.push(unsent.call);
        }
        if !calls.is_empty() {
            return Poll::Ready(Some(v1::StreamTransactionsRequest { calls }));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        state.taker = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tonic::transport::Endpoint;
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn begin() -> Request {
        Request::Begin(v1::BeginTransactionRequest::default())
    }

    /// A connection to somebody who accepts it and says nothing, for as long as the first is kept.
    async fn silence() -> (tokio::net::TcpListener, Channel) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
        let endpoint = Endpoint::from_shared(endpoint).expect("an endpoint");
        (listener, endpoint.connect_lazy())
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_leaves_nothing_behind() {
        let (_listener, channel) = silence().await;
        let line = Line::default();
        for _ in 0..3 * QUEUE_SLACK {
            // It never waits, so that no frame takes anything.
            let mut call = pin!(line.call(&channel, LONG, begin(), 1));
            let mut context = Context::from_waker(Waker::noop());
            assert!(call.as_mut().poll(&mut context).is_pending());
        }
        let state = line.shared.lock();
        assert!(state.calls.is_empty(), "{} places are taken", state.calls.len());
        assert!(state.queue.len() <= QUEUE_SLACK, "{} calls are queued", state.queue.len());
        assert_eq!(state.streams, 1);
    }

    #[test]
    fn a_runtime_that_ends_takes_no_caller_with_it() {
        let line = Arc::new(Line::default());
        let (call, runtime) = {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            let (listener, channel) = runtime.block_on(silence());
            let line = Arc::clone(&line);
            let call = async move {
                let told = line.call(&channel, LONG, begin(), 1).await;
                drop(listener);
                told
            };
            (call, runtime)
        };
        let mut call = Box::pin(call);
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_millis(50), &mut call).await.expect_err("silence");
        });
        drop(runtime);
        let other = tokio::runtime::Runtime::new().expect("a runtime");
        let told = other.block_on(async { tokio::time::timeout(LONG, call).await });
        let failed = matches!(told, Ok(Err(Unanswered::Failed(Failure { again: true, .. }))));
        assert!(failed, "{told:?}");
        assert!(line.shared.lock().open.is_none(), "the next call opens another stream");
    }

    fn failure(end: End, sent: bool) -> (Effect, bool) {
        let failure = end.failure(sent);
        (failure.effect, failure.again)
    }

    #[test]
    fn what_is_said_of_a_stream_is_not_said_of_its_calls() {
        let nothing = || {
            let details = ErrorDetails::with_error_info("DRAINING", "handfast", HashMap::new());
            Status::with_error_details(Code::Unavailable, "going", details)
        };
        // It never began: the server says so.
        assert_eq!(failure(End::Refused(nothing()), true), (Effect::Nothing, true));
        // It has: of the calls that went with it nothing is known, of the others everything.
        assert_eq!(failure(End::Broken(nothing()), true), (Effect::Perhaps, true));
        assert_eq!(failure(End::Broken(nothing()), false), (Effect::Nothing, true));
        for code in [Code::OutOfRange, Code::Internal, Code::InvalidArgument, Code::Unimplemented] {
            let end = || End::Broken(Status::new(code, "why"));
            assert_eq!(failure(end(), true), (Effect::Perhaps, true), "{code:?}");
            assert_eq!(failure(end(), false), (Effect::Nothing, true), "{code:?}");
        }
        let broken = || {
            let mut broken = Status::unknown("transport error");
            let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
            broken.set_source(Arc::new(reset));
            broken
        };
        for end in [End::Refused, End::Broken] {
            assert_eq!(failure(end(broken()), true), (Effect::Perhaps, true));
            assert_eq!(failure(end(broken()), false), (Effect::Nothing, true));
        }
    }
}
