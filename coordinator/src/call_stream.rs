//! One stream of calls: a task reads frames and gives their calls to the engine, and the answers form
//! frames by themselves.
//!
//! The outgoing side is a stream that the connection polls when it can send: it takes whatever has been
//! answered since it last did. Between the engine's thread and the connection there is no other task.

use std::collections::VecDeque;
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use handfast_commit_core::id::TransactionId;
use handfast_commit_core::two_phase::coordinator::{Outcome, Reply};
use handfast_wire::convert;
use handfast_wire::frames::{
    self, CallRequest, Names, StreamTransactionsRequest, StreamTransactionsResponse,
    StreamTransactionsResponseWriter,
};
use handfast_wire::v1;
use handfast_wire::v1::transaction_answer::Answer;
use handfast_wire::v1::transaction_call::Request;
use tokio::sync::watch;
use tokio::time::Sleep;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use crate::calls::{self, AbortRequest, Told};
use crate::engine::{Engine, EngineError};
use crate::outbox::{Call, Next, OpenCall, Outbox, OutboxLimits, Said, Verb};
use crate::reply_to::ReplyTo;
use crate::requests::{ExecuteRequest, Order};
use crate::status::{self, StatusOf};
use crate::view;

/// Calls of one frame that are given to the engine together, at most: it is to begin before a long frame is
/// read to its end.
const ORDERS_MAX: usize = 128;
/// Answers in one frame at most, and bytes after which it is sent. One answer alone may have more.
const FRAME_ANSWERS_MAX: usize = 1024;
const FRAME_BYTES: usize = 1 << 20;

type Frame = Result<StreamTransactionsRequest, Status>;

/// Opens a stream. It ends some time after `closing` has become true.
pub(crate) fn open(
    engine: Arc<Engine>,
    frames: impl Stream<Item = Frame> + Send + 'static,
    closing: watch::Receiver<bool>,
) -> AnswerStream {
    let config = engine.config();
    let outbox = Arc::new(Outbox::new(OutboxLimits {
        calls_max: config.stream_calls_max,
        results_bytes_max: config.stream_bytes_max,
    }));
    let reader = Reader { engine: Arc::clone(&engine), outbox: Arc::clone(&outbox) };
    tokio::spawn(async move {
        let why = reader.read(frames, closing).await;
        reader.outbox.end(why);
    });
    metrics::gauge!("handfast_client_streams").increment(1.0);
    let (batch, held, timer, armed, ended) = (VecDeque::new(), None, None, None, false);
    AnswerStream { engine, outbox, batch, held, timer, armed, ended }
}

// ---- calls --------------------------------------------------------------------------------------

struct Reader {
    engine: Arc<Engine>,
    outbox: Arc<Outbox>,
}

impl Reader {
    /// Returns when there is nothing more to read, with what is wrong, if something is.
    async fn read(
        &self,
        frames: impl Stream<Item = Frame>,
        mut closing: watch::Receiver<bool>,
    ) -> Option<Status> {
        // Its sender lives as long as the service; without one nothing is ever closed.
        let mut closed = pin!(async {
            if closing.wait_for(|closing| *closing).await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        let mut frames = pin!(frames);
        let mut orders = self.engine.orders();
        let mut names = Names::default();
        loop {
            let frame = tokio::select! {
                frame = frames.next() => frame,
                () = &mut closed => return Some(status::draining()),
                () = self.outbox.gone() => return None,
            };
            let frame = match frame {
                Some(Ok(frame)) => frame,
                Some(Err(status)) => return Some(status),
                None => return None,
            };
            // Of a frame that cannot be read to its end nothing is begun.
            let calls = match frame.read(&mut names) {
                Ok(calls) => calls,
                Err(error) => return Some(frames::unreadable(&error)),
            };
            for call in calls {
                if orders.len() >= ORDERS_MAX || !self.outbox.has_room() {
                    self.engine.submit_all(&mut orders);
                }
                let end = tokio::select! {
                    biased;
                    room = self.outbox.room() => if room { None } else { Some(None) },
                    () = &mut closed => Some(Some(status::draining())),
                };
                if let Some(why) = end {
                    self.engine.submit_all(&mut orders);
                    return why;
                }
                let call_id = call.call_id;
                match self.begin(call) {
                    Ok(order) => order.into_iter().for_each(|order| orders.push(order)),
                    Err(status) => self.outbox.refuse(call_id, status),
                }
            }
            self.engine.submit_all(&mut orders);
        }
    }

    /// Begins a call, or says why not: with what the engine is to be told, unless it is asked in another way.
    fn begin(&self, call: frames::Call) -> Result<Option<Order>, Status> {
        let frames::Call { call_id, timeout, request } = call;
        let started = Instant::now();
        let asked = timeout.map(|given| calls::duration("timeout", &given)).transpose()?;
        if asked == Some(Duration::ZERO) {
            return Err(status::deadline_exceeded());
        }
        // One that the clock cannot hold is never reached.
        let deadline = asked.and_then(|asked| started.checked_add(asked));
        let engine = &self.engine;
        let open = |verb| self.outbox.open(call_id, verb, started, deadline);
        let execute = |request: ExecuteRequest| {
            let admitted = engine.admit_execute(&request).map_err(StatusOf::from)?;
            let to = ReplyTo::stream(open(Verb::Execute)?);
            Ok::<_, Status>(Some(engine.order_execute(request, admitted, to)))
        };
        let request = match request {
            CallRequest::Execute(call) => {
                return execute(calls::execute_call(engine, call, asked)?);
            }
            CallRequest::Other(request) => request,
        };
        Ok(match request.map(|request| *request) {
            None => return Err(status::invalid_field("request", "is required")),
            Some(Request::Execute(request)) => execute(calls::execute(engine, request, asked)?)?,
            Some(Request::Begin(request)) => {
                let request = calls::begin(engine, request)?;
                let admitted = engine.admit_begin().map_err(StatusOf::from)?;
                Some(engine.order_begin(request, admitted, ReplyTo::stream(open(Verb::Begin)?)))
            }
            Some(Request::Commit(request)) => {
                let request = calls::commit(engine, &request, asked)?;
                let call = open(Verb::Commit)?;
                if engine.may_run(request.id) {
                    Some(engine.order_commit(request, ReplyTo::stream(call)))
                } else {
                    look_up(engine, call, request.id, Verb::Commit, started);
                    None
                }
            }
            Some(Request::Abort(request)) => {
                let AbortRequest { id, message } = calls::abort(request)?;
                let call = open(Verb::Abort)?;
                if engine.may_run(id) {
                    Some(engine.order_abort(id, message, ReplyTo::stream(call)))
                } else {
                    look_up(engine, call, id, Verb::Abort, started);
                    None
                }
            }
            Some(Request::Get(request)) => {
                let call = open(Verb::Get)?;
                let engine = Arc::clone(engine);
                tokio::spawn(async move {
                    let found = calls::get(&engine, request).await;
                    call.answered(found.map(Answer::Get));
                });
                None
            }
        })
    }
}

/// Has the log asked for the outcome of a transaction that the core does not run any more. It is rare
/// enough for a task of its own.
fn look_up(engine: &Arc<Engine>, call: OpenCall, id: TransactionId, verb: Verb, started: Instant) {
    let engine = Arc::clone(engine);
    tokio::spawn(async move {
        let outcome = calls::outcome_of_ended(&engine, id).await;
        call.answered(outcome.and_then(|outcome| settled(verb, outcome, started)));
    });
}

/// The answer to a call that ends a transaction.
fn settled(verb: Verb, outcome: v1::Outcome, started: Instant) -> Result<Answer, Status> {
    match verb {
        Verb::Execute => calls::executed(outcome, started).map(Answer::Execute),
        Verb::Commit => calls::committed(outcome, started).map(Answer::Commit),
        Verb::Abort => calls::aborted(outcome).map(Answer::Abort),
        Verb::Begin | Verb::Get => {
            Err(Status::internal("an outcome answers another question than was asked"))
        }
    }
}

// ---- answers ------------------------------------------------------------------------------------

/// The frames of answers. When it is dropped the client has gone; its calls go on without it.
pub struct AnswerStream {
    engine: Arc<Engine>,
    outbox: Arc<Outbox>,
    /// Taken from the outbox, and in no frame yet.
    batch: VecDeque<Said>,
    /// Did not fit into the last frame.
    held: Option<Vec<u8>>,
    /// Runs out when the time of some call may be over.
    timer: Option<Pin<Box<Sleep>>>,
    /// For when it is set, while it runs.
    armed: Option<Instant>,
    ended: bool,
}

impl fmt::Debug for AnswerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerStream").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Stream for AnswerStream {
    type Item = Result<StreamTransactionsResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while !this.ended {
            let mut frame = StreamTransactionsResponseWriter::default();
            this.poll_deadlines(context, &mut frame);
            this.fill(&mut frame);
            if frame.answers() > 0 {
                metrics::histogram!("handfast_client_frame_answers").record(frame.answers() as f64);
                return Poll::Ready(Some(Ok(frame.finish())));
            }
            match this.outbox.poll_next(context, this.armed) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Next::Again) => {}
                Poll::Ready(Next::Over(why)) => {
                    this.ended = true;
                    return Poll::Ready(why.map(Err));
                }
            }
        }
        Poll::Ready(None)
    }
}

impl AnswerStream {
    /// The answers to calls whose time is over; otherwise the timer is set for the next of them.
    fn poll_deadlines(
        &mut self,
        context: &mut Context<'_>,
        frame: &mut StreamTransactionsResponseWriter,
    ) {
        let late = status::deadline_exceeded;
        self.armed = None;
        while frame.answers() < FRAME_ANSWERS_MAX
            && let Some(due) = self.outbox.due()
        {
            let at = tokio::time::Instant::from_std(due);
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            if timer.as_mut().poll(context).is_pending() {
                self.armed = Some(due);
                break;
            }
            for call_id in self.outbox.overdue(Instant::now(), FRAME_ANSWERS_MAX) {
                frame.message(&failed(call_id, &late()));
            }
        }
    }

    /// Takes what has been answered into a frame, as much as fits.
    fn fill(&mut self, frame: &mut StreamTransactionsResponseWriter) {
        if let Some(answer) = self.held.take() {
            frame.put_again(&answer);
        }
        self.outbox.take(&mut self.batch);
        let any = !self.batch.is_empty();
        frame.reserve(self.batch.len().min(FRAME_ANSWERS_MAX));
        while frame.answers() < FRAME_ANSWERS_MAX
            && frame.bytes() < FRAME_BYTES
            && let Some(said) = self.batch.pop_front()
        {
            self.outbox.read(&said);
            let before = frame.bytes();
            self.answer(said, frame);
            if before > 0 && frame.bytes() > FRAME_BYTES {
                self.held = Some(frame.take_back(before));
                break;
            }
        }
        if any {
            self.outbox.tell_of_room();
        }
    }

    /// Writes what goes to the client; nothing when it was told something else before, or is told later.
    fn answer(&self, said: Said, frame: &mut StreamTransactionsResponseWriter) {
        let (key, answer) = match said {
            Said::Refused { call_id, status } => return frame.message(&failed(call_id, &status)),
            Said::Answered { key, answer } => (key, *answer),
            Said::Lost { key } => {
                let Some(call) = self.outbox.find(key) else { return };
                (key, Err(self.lost(call)))
            }
            Said::Replied { key, reply, results_left_out } => {
                let Some(Call { verb, started, .. }) = self.outbox.find(key) else { return };
                let answer = match self.replied(verb, reply) {
                    Ok(Replied::Begun(begun)) => Ok(Answer::Begin(begun)),
                    Ok(Replied::Outcome(outcome)) => {
                        if verb == Verb::Execute && view::is_plain(&outcome) {
                            if self.outbox.close(key).is_some() {
                                calls::ended_after(started);
                                frame.committed(key.call_id, &outcome, results_left_out);
                            }
                            return;
                        }
                        let mut outcome = view::outcome(outcome);
                        outcome.results_left_out |= results_left_out;
                        settled(verb, outcome, started)
                    }
                    Ok(Replied::Over(id)) => {
                        let call = self.outbox.reopen(key);
                        look_up(&self.engine, call, id, verb, started);
                        return;
                    }
                    Err(status) => Err(status),
                };
                (key, answer)
            }
        };
        if self.outbox.close(key).is_none() {
            return;
        }
        frame.message(&match answer {
            Ok(answer) => v1::TransactionAnswer { call_id: key.call_id, answer: Some(answer) },
            Err(status) => failed(key.call_id, &status),
        });
    }

    fn replied(&self, verb: Verb, reply: Reply) -> Result<Replied, Status> {
        if verb == Verb::Begin {
            return calls::begun(reply).map(Replied::Begun);
        }
        Ok(match calls::told(reply)? {
            Told::Outcome(outcome) => Replied::Outcome(outcome),
            Told::Over(id) => Replied::Over(id),
        })
    }

    /// What is said of a call when the engine has ended.
    fn lost(&self, call: Call) -> Status {
        let error = match call.verb {
            Verb::Begin | Verb::Get => EngineError::Stopped,
            Verb::Execute | Verb::Commit | Verb::Abort => EngineError::ReplyLost,
        };
        StatusOf::from(error).into()
    }
}

/// What a reply comes to.
enum Replied {
    Begun(v1::BeginTransactionResponse),
    Outcome(Outcome),
    Over(TransactionId),
}

impl Drop for AnswerStream {
    fn drop(&mut self) {
        self.outbox.leave();
        metrics::gauge!("handfast_client_streams").decrement(1.0);
    }
}

fn failed(call_id: u64, status: &Status) -> v1::TransactionAnswer {
    let status = convert::status_message(status);
    v1::TransactionAnswer { call_id, answer: Some(Answer::Status(status)) }
}
