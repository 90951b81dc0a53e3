//! `TransactionService`: each call has the engine do what is asked, and says what came of it. What a request may
//! say and what an answer says is in `calls`.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use handfast_commit_core::id::{Epoch, ParticipantName, Sequence};
use handfast_commit_core::two_phase::coordinator::TransactionView;
use handfast_runtime::clock::wall_ms;
use handfast_wire::frames::StreamTransactionsRequest;
use handfast_wire::frames::transaction_service_server::TransactionService;
use handfast_wire::v1;
use prost::Message;
use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::call_stream;
pub use crate::call_stream::AnswerStream;
use crate::calls::{self, AbortRequest};
use crate::engine::Engine;
use crate::ready::Ready;
use crate::status::{self, StatusOf};
use crate::store::age;
use crate::view::{self, ANSWER_BYTES_MAX};

/// What is in a page besides its transactions, at most, and around each of them.
const PAGE_ENVELOPE_BYTES: usize = 128;
const ITEM_ENVELOPE_BYTES: usize = 8;

/// Serves transactions once the engine is there.
#[derive(Debug, Clone)]
pub struct TransactionApi {
    ready: Ready,
    closing: Arc<watch::Sender<bool>>,
}

impl TransactionApi {
    /// Before the engine has read its log, calls are answered with UNAVAILABLE.
    #[must_use]
    pub fn new(ready: Ready) -> Self {
        Self { ready, closing: Arc::default() }
    }

    /// Ends the streams of calls: what is in flight is still answered, and no call is read any more.
    pub fn close_streams(&self) {
        self.closing.send_replace(true);
    }

    /// What [`stream_transactions`](TransactionService::stream_transactions) does, for frames from anywhere.
    ///
    /// # Errors
    /// When it is too early or too late for it.
    pub fn open_stream(
        &self,
        frames: impl Stream<Item = Result<StreamTransactionsRequest, Status>> + Send + 'static,
    ) -> Result<AnswerStream, Status> {
        let engine = Arc::clone(self.engine()?);
        let closing = self.closing.subscribe();
        if *closing.borrow() {
            return Err(status::draining());
        }
        Ok(call_stream::open(engine, frames, closing))
    }

    fn engine(&self) -> Result<&Arc<Engine>, Status> {
        self.ready.get().ok_or_else(status::starting)
    }
}

/// How long the caller waits, by its own word (`grpc-timeout`).
fn asked<T>(request: &Request<T>) -> Option<Duration> {
    let header = request.metadata().get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = header.split_at_checked(header.len().saturating_sub(1))?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.checked_mul(3600)?),
        "M" => Duration::from_secs(number.checked_mul(60)?),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[tonic::async_trait]
impl TransactionService for TransactionApi {
    async fn begin_transaction(
        &self,
        request: Request<v1::BeginTransactionRequest>,
    ) -> Result<Response<v1::BeginTransactionResponse>, Status> {
        let engine = self.engine()?;
        let request = calls::begin(engine, request.into_inner())?;
        let reply = engine.begin(request).await.map_err(StatusOf::from)?;
        Ok(Response::new(calls::begun(reply)?))
    }

    async fn commit_transaction(
        &self,
        request: Request<v1::CommitTransactionRequest>,
    ) -> Result<Response<v1::CommitTransactionResponse>, Status> {
        let engine = self.engine()?;
        let started = Instant::now();
        let request = calls::commit(engine, request.get_ref(), asked(&request))?;
        let id = request.id;
        let outcome = if engine.may_run(id) {
            let reply = engine.commit(request).await.map_err(StatusOf::from)?;
            calls::outcome(engine, reply).await?
        } else {
            calls::outcome_of_ended(engine, id).await?
        };
        Ok(Response::new(calls::committed(outcome, started)?))
    }

    async fn abort_transaction(
        &self,
        request: Request<v1::AbortTransactionRequest>,
    ) -> Result<Response<v1::AbortTransactionResponse>, Status> {
        let engine = self.engine()?;
        let AbortRequest { id, message } = calls::abort(request.into_inner())?;
        let outcome = if engine.may_run(id) {
            let reply = engine.abort(id, message).await.map_err(StatusOf::from)?;
            calls::outcome(engine, reply).await?
        } else {
            calls::outcome_of_ended(engine, id).await?
        };
        Ok(Response::new(calls::aborted(outcome)?))
    }

    async fn execute_transaction(
        &self,
        request: Request<v1::ExecuteTransactionRequest>,
    ) -> Result<Response<v1::ExecuteTransactionResponse>, Status> {
        let engine = self.engine()?;
        let started = Instant::now();
        let asked = asked(&request);
        let request = calls::execute(engine, request.into_inner(), asked)?;
        let reply = engine.execute(request).await.map_err(StatusOf::from)?;
        let outcome = calls::outcome(engine, reply).await?;
        Ok(Response::new(calls::executed(outcome, started)?))
    }

    async fn get_transaction(
        &self,
        request: Request<v1::GetTransactionRequest>,
    ) -> Result<Response<v1::GetTransactionResponse>, Status> {
        Ok(Response::new(calls::get(self.engine()?, request.into_inner()).await?))
    }

    async fn list_transactions(
        &self,
        request: Request<v1::ListTransactionsRequest>,
    ) -> Result<Response<v1::ListTransactionsResponse>, Status> {
        let engine = self.engine()?;
        let request = request.into_inner();
        let size = page_size(request.page_size)?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(|_| {
                status::invalid_field("page_token", "is not one that this service gave out")
            })?),
        };
        let filter = Filter::new(&request)?;
        let wanted = filter.clone();
        let running = engine
            .running(after, size + 1, move |view| wanted.running(view))
            .await
            .map_err(StatusOf::from)?;
        let ended = if filter.wants_ended() {
            // A scan of the log, which may be long, is no business of the threads that serve.
            let engine = Arc::clone(engine);
            let scan = tokio::task::spawn_blocking(move || {
                engine.ended(after, size + 1, |ended| {
                    let transaction = view::ended(ended);
                    filter.accepts(&transaction, ended.started_ms.max(1))
                })
            });
            let ended = scan.await.map_err(|error| Status::internal(error.to_string()))?;
            ended.map_err(StatusOf::from)?
        } else {
            Vec::new()
        };
        let mut all: BTreeMap<_, v1::Transaction> =
            running.iter().map(|running| (age(running.id), view::running(running))).collect();
        for end in ended {
            all.entry(age(end.id)).or_insert_with(|| view::ended(&end));
        }
        let count = all.len();
        let page = page(all, size, ANSWER_BYTES_MAX - PAGE_ENVELOPE_BYTES);
        let more = page.len() < count;
        let next_page_token = match page.last() {
            Some(last) if more => last.transaction_id.clone(),
            _ => String::new(),
        };
        Ok(Response::new(v1::ListTransactionsResponse { transactions: page, next_page_token }))
    }

    type WatchTransactionStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchTransactionResponse, Status>> + Send>>;

    async fn watch_transaction(
        &self,
        request: Request<v1::WatchTransactionRequest>,
    ) -> Result<Response<Self::WatchTransactionStream>, Status> {
        let engine = Arc::clone(self.engine()?);
        let id = calls::transaction_id(&request.into_inner().transaction_id)?;
        let before = calls::known(id, engine.get(id).await.map_err(StatusOf::from)?)?;
        let stream = UnboundedReceiverStream::new(engine.watch(id)).then(move |watched| {
            let engine = Arc::clone(&engine);
            let before = before.clone();
            async move {
                let transaction = match (&watched.view, &watched.event) {
                    // A decision that is seen here may not be on the disk yet; by way of get() it is.
                    (Some(_), None) => {
                        calls::known(id, engine.get(id).await.map_err(StatusOf::from)?)?
                    }
                    (Some(running), _) => view::running(running),
                    (None, None) if !is_running(before.state()) => before,
                    // It has ended: the log says how.
                    (None, _) => calls::known(id, engine.get(id).await.map_err(StatusOf::from)?)?,
                };
                Ok(v1::WatchTransactionResponse {
                    at: view::at(watched.at_ms),
                    transaction: Some(transaction),
                    event: watched.event.as_ref().map_or("watching".to_owned(), view::sentence),
                })
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    type StreamTransactionsStream = AnswerStream;

    async fn stream_transactions(
        &self,
        request: Request<Streaming<StreamTransactionsRequest>>,
    ) -> Result<Response<AnswerStream>, Status> {
        Ok(Response::new(self.open_stream(request.into_inner())?))
    }
}

/// Whether something is still to happen here to a transaction in this state.
fn is_running(state: v1::TransactionState) -> bool {
    use v1::TransactionState as State;
    match state {
        State::Active | State::Preparing | State::PreCommitted | State::Committing => true,
        State::Committed | State::Aborted | State::Unknown | State::Expired => false,
        State::Unspecified => true,
    }
}

/// The first transactions, at most so many, and at most so many bytes of them; one at least.
fn page(
    all: BTreeMap<(Epoch, Sequence), v1::Transaction>,
    size: usize,
    bytes_max: usize,
) -> Vec<v1::Transaction> {
    let mut bytes = 0;
    let mut page = Vec::with_capacity(all.len().min(size));
    for transaction in all.into_values().take(size) {
        bytes += transaction.encoded_len() + ITEM_ENVELOPE_BYTES;
        if bytes > bytes_max && !page.is_empty() {
            break;
        }
        page.push(transaction);
    }
    page
}

/// A page size as asked for, with its default and its limits.
pub(crate) fn page_size(asked: i32) -> Result<usize, Status> {
    match asked {
        0 => Ok(100),
        1..=1000 => Ok(asked.unsigned_abs() as usize),
        _ => Err(status::invalid_field("page_size", "is between 1 and 1000, or 0 for 100")),
    }
}

#[derive(Debug, Clone)]
struct Filter {
    states: Vec<i32>,
    participant: Option<ParticipantName>,
    begun_before_ms: Option<u64>,
}

impl Filter {
    fn new(request: &v1::ListTransactionsRequest) -> Result<Self, Status> {
        let participant = match request.participant.as_str() {
            "" => None,
            text => Some(calls::participant(text)?),
        };
        let begun_before_ms = match &request.older_than {
            None => None,
            Some(age) => {
                let age = calls::duration("older_than", age)?;
                let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                Some(wall_ms().saturating_sub(age_ms))
            }
        };
        for state in &request.states {
            if v1::TransactionState::try_from(*state).is_err() {
                return Err(status::invalid_field("states", format!("has no value {state}")));
            }
        }
        Ok(Self { states: request.states.clone(), participant, begun_before_ms })
    }

    fn wants_ended(&self) -> bool {
        let ended = [v1::TransactionState::Committed, v1::TransactionState::Aborted];
        self.states.is_empty() || ended.iter().any(|state| self.states.contains(&i32::from(*state)))
    }

    fn running(&self, view: &TransactionView) -> bool {
        let state = i32::from(view::running_state(view.phase));
        (self.states.is_empty() || self.states.contains(&state))
            && self.begun_before_ms.is_none_or(|before| view.started_ms <= before)
            && self
                .participant
                .as_ref()
                .is_none_or(|name| view.branches.iter().any(|branch| branch.participant == *name))
    }

    fn accepts(&self, transaction: &v1::Transaction, started_ms: u64) -> bool {
        (self.states.is_empty() || self.states.contains(&transaction.state))
            && self.begun_before_ms.is_none_or(|before| started_ms <= before)
            && self.participant.as_ref().is_none_or(|name| {
                transaction.branches.iter().any(|branch| branch.participant == name.as_str())
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_where_an_answer_is_full() {
        let all = |count: u64| -> BTreeMap<_, _> {
            let id = |n| format!("0000-02-0000000001-{n:016x}");
            let transaction =
                |n| v1::Transaction { transaction_id: id(n), ..v1::Transaction::default() };
            (0..count).map(|n| ((Epoch(1), Sequence(n)), transaction(n))).collect()
        };
        let each = all(1).values().map(Message::encoded_len).sum::<usize>() + ITEM_ENVELOPE_BYTES;
        assert_eq!(page(all(5), 3, usize::MAX).len(), 3);
        assert_eq!(page(all(5), 9, usize::MAX).len(), 5);
        assert_eq!(page(all(5), 9, 2 * each).len(), 2);
        assert_eq!(page(all(5), 9, 3 * each - 1).len(), 2);
        assert_eq!(page(all(5), 9, 0).len(), 1, "a list goes on whatever its items are like");
        assert_eq!(page(all(0), 9, 0).len(), 0);
    }
}
