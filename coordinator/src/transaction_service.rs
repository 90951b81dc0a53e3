//! `TransactionService`: checks what comes in, has the engine do it, and says what came of it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use handfast_commit_core::id::{ParticipantName, RequestId, TransactionId};
use handfast_commit_core::limits;
use handfast_commit_core::record::Info;
use handfast_commit_core::two_phase::coordinator::{
    ClientRefusal, Reply, ReplyTime, Terms, TransactionView,
};
use handfast_runtime::clock::wall_ms;
use handfast_wire::convert;
use handfast_wire::v1;
use handfast_wire::v1::transaction_service_server::TransactionService;
use tokio_stream::Stream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request, Response, Status};

use crate::engine::{Engine, ExecuteRequest};
use crate::queries::Known;
use crate::ready::Ready;
use crate::status::{self, StatusOf};
use crate::view;

/// Serves transactions once the engine is there.
#[derive(Debug, Clone)]
pub struct TransactionApi {
    ready: Ready,
}

impl TransactionApi {
    /// Before the engine has read its log, calls are answered with UNAVAILABLE.
    #[must_use]
    pub fn new(ready: Ready) -> Self {
        Self { ready }
    }

    fn engine(&self) -> Result<&Arc<Engine>, Status> {
        self.ready.get().ok_or_else(status::starting)
    }
}

/// What a caller without a deadline of its own waits beyond the end of its transaction's time: long
/// enough for the only participant of a one-phase commit to say that it has stopped.
const GRACE: Duration = Duration::from_secs(2);

/// How long the caller waits, by its own word (`grpc-timeout`): the answer has to be on its way a
/// little before.
fn patience<T>(request: &Request<T>, timeout: Duration) -> Duration {
    let timeout = timeout.saturating_add(GRACE);
    let Some(header) = request.metadata().get("grpc-timeout").and_then(|v| v.to_str().ok()) else {
        return timeout;
    };
    let parsed = header.split_at_checked(header.len().saturating_sub(1)).and_then(|(n, unit)| {
        let n: u64 = n.parse().ok()?;
        Some(match unit {
            "H" => Duration::from_secs(n.checked_mul(3600)?),
            "M" => Duration::from_secs(n.checked_mul(60)?),
            "S" => Duration::from_secs(n),
            "m" => Duration::from_millis(n),
            "u" => Duration::from_micros(n),
            "n" => Duration::from_nanos(n),
            _ => return None,
        })
    });
    match parsed {
        Some(asked) => timeout.min(asked.mul_f64(0.9)),
        None => timeout,
    }
}

fn reply_time(value: i32) -> Result<ReplyTime, Status> {
    match v1::ReplyTime::try_from(value) {
        Ok(v1::ReplyTime::Unspecified | v1::ReplyTime::Applied) => Ok(ReplyTime::Applied),
        Ok(v1::ReplyTime::Decided) => Ok(ReplyTime::Decided),
        Err(_) => Err(status::invalid_field("reply_time", format!("has no value {value}"))),
    }
}

fn transaction_id(text: &str) -> Result<TransactionId, Status> {
    convert::transaction_id(text).map_err(|error| status::invalid(&error))
}

fn request_id(text: &str) -> Result<Option<RequestId>, Status> {
    convert::request_id(text).map_err(|error| status::invalid(&error))
}

fn participant(text: &str) -> Result<ParticipantName, Status> {
    convert::participant_name(text).map_err(|error| status::invalid(&error))
}

fn at_most(field: &'static str, text: &str, bytes_max: usize) -> Result<(), Status> {
    if text.len() <= bytes_max {
        return Ok(());
    }
    let problem = format!("has {} bytes, at most {bytes_max} are accepted", text.len());
    Err(status::invalid_field(field, problem))
}

fn positive(field: &'static str, given: &prost_types::Duration) -> Result<Duration, Status> {
    convert::duration(field, given).map_err(|error| status::invalid(&error))
}

fn terms(engine: &Engine, options: Option<v1::TransactionOptions>) -> Result<Terms, Status> {
    let options = options.unwrap_or_default();
    match v1::Protocol::try_from(options.protocol) {
        Ok(v1::Protocol::Unspecified | v1::Protocol::TwoPhase) => {}
        Ok(other) => {
            let message = format!(
                "protocol {} is not served by this version; PROTOCOL_TWO_PHASE is",
                other.as_str_name()
            );
            return Err(status::status(Code::Unimplemented, "PROTOCOL_NOT_SERVED", message));
        }
        Err(_) => {
            let problem = format!("has no value {}", options.protocol);
            return Err(status::invalid_field("options.protocol", problem));
        }
    }
    let timeout = match &options.timeout {
        None => engine.config().timeout,
        Some(given) => positive("options.timeout", given)?,
    };
    let longest = engine.config().timeout_max;
    if timeout.is_zero() || timeout > longest {
        let problem = format!("must be above 0 and at most {longest:?}");
        return Err(status::invalid_field("options.timeout", problem));
    }
    at_most("options.summary", &options.summary, limits::SUMMARY_BYTES_MAX)?;
    at_most("options.traceparent", &options.traceparent, limits::LABEL_BYTES_MAX)?;
    if options.labels.len() > limits::LABELS_MAX {
        let problem = format!("are {}, at most 16 are accepted", options.labels.len());
        return Err(status::invalid_field("options.labels", problem));
    }
    for (key, value) in &options.labels {
        at_most("options.labels", key, limits::LABEL_BYTES_MAX)?;
        at_most("options.labels", value, limits::LABEL_BYTES_MAX)?;
    }
    let mut labels: Vec<_> = options.labels.into_iter().collect();
    labels.sort();
    let traceparent = options.traceparent;
    Ok(Terms {
        timeout_us: u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX),
        info: Arc::new(Info { summary: options.summary, labels, traceparent }),
    })
}

/// What a reply means for a caller that wants an outcome.
fn outcome(reply: Reply) -> Result<v1::Outcome, Status> {
    match reply {
        Reply::Outcome(outcome) => Ok(view::outcome(outcome)),
        Reply::Unknown { id, participant } => Err(status::outcome_unknown(format!(
            "the outcome of transaction {id} is {participant}'s to tell, which does not answer; ask again"
        ))),
        Reply::Refused(refusal) => Err(status::refused(&refusal)),
        Reply::Begun { .. } | Reply::Enlisted { .. } | Reply::Inquired(_) => {
            Err(Status::internal("the engine has answered another question"))
        }
    }
}

/// A transaction that is not running, as far as it can be told.
fn known(id: TransactionId, known: Known) -> Result<v1::Transaction, Status> {
    Ok(match known {
        Known::Running(running) => view::running(&running),
        Known::Found(found) => view::found(&found),
        Known::PresumedAborted => view::presumed_aborted(id),
        Known::Expired => view::bare(id, v1::TransactionState::Expired),
        Known::Unknown(_) => view::bare(id, v1::TransactionState::Unknown),
        Known::NeverBegun => return Err(status::unknown_transaction(&id.to_string())),
        Known::NotOwner => {
            let message = format!(
                "transaction {id} belongs to slot {}, which this coordinator does not own",
                id.slot().0
            );
            return Err(status::status(Code::FailedPrecondition, "NOT_OWNER", message));
        }
    })
}

fn unknown_outcome(id: TransactionId, participants: &[ParticipantName]) -> Status {
    status::outcome_unknown(format!(
        "the outcome of transaction {id} may be known to {} only, not reached since this coordinator started; \
            ask again",
        some_names(participants)
    ))
}

/// A few names: a status travels in a header, which has its limits.
fn some_names(participants: &[ParticipantName]) -> String {
    const SHOWN: usize = 8;
    let mut names: Vec<_> = participants.iter().take(SHOWN).map(ToString::to_string).collect();
    if participants.len() > SHOWN {
        names.push(format!("{} others", participants.len() - SHOWN));
    }
    names.join(", ")
}

/// The outcome of a transaction that the core does not run any more.
async fn outcome_of_ended(engine: &Engine, id: TransactionId) -> Result<v1::Outcome, Status> {
    let found = engine.get(id).await.map_err(StatusOf::from)?;
    match &found {
        Known::Unknown(participants) => Err(unknown_outcome(id, participants)),
        Known::Expired => {
            let message = format!("transaction {id} is over, and its outcome is not kept any more");
            Err(status::status(Code::FailedPrecondition, "WRONG_STATE", message))
        }
        _ => Ok(view::outcome_of(&known(id, found)?)),
    }
}

#[tonic::async_trait]
impl TransactionService for TransactionApi {
    async fn begin_transaction(
        &self,
        request: Request<v1::BeginTransactionRequest>,
    ) -> Result<Response<v1::BeginTransactionResponse>, Status> {
        let engine = self.engine()?;
        let terms = terms(engine, request.into_inner().options)?;
        match engine.begin(terms).await.map_err(StatusOf::from)? {
            Reply::Begun { id, time_left_us } => Ok(Response::new(v1::BeginTransactionResponse {
                transaction_id: id.to_string(),
                timeout: view::duration(time_left_us),
            })),
            other => Err(outcome(other).err().unwrap_or_else(|| Status::internal("not begun"))),
        }
    }

    async fn commit_transaction(
        &self,
        request: Request<v1::CommitTransactionRequest>,
    ) -> Result<Response<v1::CommitTransactionResponse>, Status> {
        let engine = self.engine()?;
        let started = Instant::now();
        let patience = patience(&request, engine.config().timeout);
        let request = request.into_inner();
        let id = transaction_id(&request.transaction_id)?;
        let reply_time = reply_time(request.reply_time)?;
        let request_id = request_id(&request.request_id)?;
        let mine = id.slot() == engine.identity().slot && id.epoch() == engine.identity().epoch;
        let reply = if mine {
            engine.commit(id, request_id, reply_time, patience).await.map_err(StatusOf::from)?
        } else {
            Reply::Refused(ClientRefusal::Over { id })
        };
        let outcome = match reply {
            Reply::Refused(ClientRefusal::Over { .. }) => outcome_of_ended(engine, id).await?,
            other => outcome(other)?,
        };
        metrics::histogram!("handfast_commit_seconds").record(started.elapsed());
        Ok(Response::new(v1::CommitTransactionResponse { outcome: Some(outcome) }))
    }

    async fn abort_transaction(
        &self,
        request: Request<v1::AbortTransactionRequest>,
    ) -> Result<Response<v1::AbortTransactionResponse>, Status> {
        let engine = self.engine()?;
        let request = request.into_inner();
        let id = transaction_id(&request.transaction_id)?;
        at_most("reason", &request.reason, limits::SUMMARY_BYTES_MAX)?;
        let message = match request.reason.as_str() {
            "" => "aborted by the client".to_owned(),
            reason => reason.to_owned(),
        };
        let mine = id.slot() == engine.identity().slot && id.epoch() == engine.identity().epoch;
        let reply = if mine {
            engine.abort(id, message).await.map_err(StatusOf::from)?
        } else {
            Reply::Refused(ClientRefusal::Over { id })
        };
        let outcome = match reply {
            Reply::Refused(ClientRefusal::Over { .. }) => outcome_of_ended(engine, id).await?,
            other => outcome(other)?,
        };
        if outcome.state != i32::from(v1::TransactionState::Aborted) {
            let message = format!("transaction {id} is committed and cannot be aborted");
            return Err(status::status(Code::FailedPrecondition, "WRONG_STATE", message));
        }
        Ok(Response::new(v1::AbortTransactionResponse { outcome: Some(outcome) }))
    }

    async fn execute_transaction(
        &self,
        request: Request<v1::ExecuteTransactionRequest>,
    ) -> Result<Response<v1::ExecuteTransactionResponse>, Status> {
        let engine = self.engine()?;
        let started = Instant::now();
        let request_timeout = request.get_ref().options.as_ref().and_then(|o| o.timeout);
        let timeout = match &request_timeout {
            Some(timeout) => positive("options.timeout", timeout)?,
            None => engine.config().timeout,
        };
        let patience = patience(&request, timeout);
        let request = request.into_inner();
        let request_id = request_id(&request.request_id)?;
        let reply_time = reply_time(request.reply_time)?;
        let terms = terms(engine, request.options)?;
        if request.branches.is_empty() {
            return Err(status::invalid_field("branches", "are at least 1"));
        }
        if request.branches.len() > limits::BRANCHES_MAX {
            let problem = format!("are {}, at most 256 are accepted", request.branches.len());
            return Err(status::invalid_field("branches", problem));
        }
        let mut branches = BTreeMap::new();
        for branch in request.branches {
            let name = participant(&branch.participant)?;
            if branch.payload.len() > limits::PAYLOAD_BYTES_MAX {
                let problem = format!(
                    "of {name} has {} bytes, at most 1048576 are accepted",
                    branch.payload.len()
                );
                return Err(status::invalid_field("branches.payload", problem));
            }
            if !engine.registry().contains(&name) {
                return Err(status::unknown_participant(name.as_str()));
            }
            if branches.contains_key(&name) {
                let problem = format!("{name} appears twice; one branch holds all its work");
                return Err(status::invalid_field("branches.participant", problem));
            }
            branches.insert(name, branch.payload);
        }
        let request = ExecuteRequest { branches, terms, request_id, reply_time, patience };
        // The engine does the work; if the caller goes away, only the waiting ends.
        let reply = engine.execute(request).await.map_err(StatusOf::from)?;
        let outcome = outcome(reply)?;
        metrics::histogram!("handfast_commit_seconds").record(started.elapsed());
        Ok(Response::new(v1::ExecuteTransactionResponse { outcome: Some(outcome) }))
    }

    async fn get_transaction(
        &self,
        request: Request<v1::GetTransactionRequest>,
    ) -> Result<Response<v1::GetTransactionResponse>, Status> {
        let engine = self.engine()?;
        let request = request.into_inner();
        let transaction = match (request.transaction_id.as_str(), request.request_id.as_str()) {
            ("", "") => {
                return Err(status::invalid_field("transaction_id", "or request_id is required"));
            }
            (text, "") => {
                let id = transaction_id(text)?;
                known(id, engine.get(id).await.map_err(StatusOf::from)?)?
            }
            ("", text) => {
                let Some(request) = request_id(text)? else {
                    return Err(status::invalid_field("request_id", "is empty"));
                };
                match engine.get_request(&request).await.map_err(StatusOf::from)? {
                    Some(Known::Running(running)) => view::running(&running),
                    Some(Known::Found(found)) => view::found(&found),
                    Some(Known::Unknown(names)) => {
                        return Err(status::outcome_unknown(format!(
                            "request {text:?} may be known to {} only, not reached since this coordinator \
                                started; ask again",
                            some_names(&names)
                        )));
                    }
                    _ => {
                        let message = format!("no transaction with request_id {text:?} is known");
                        let reason = "UNKNOWN_TRANSACTION";
                        return Err(status::status(Code::NotFound, reason, message));
                    }
                }
            }
            _ => {
                let problem = "and transaction_id exclude each other; give one";
                return Err(status::invalid_field("request_id", problem));
            }
        };
        Ok(Response::new(v1::GetTransactionResponse { transaction: Some(transaction) }))
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
        let mut all: BTreeMap<TransactionId, v1::Transaction> =
            running.iter().map(|running| (running.id, view::running(running))).collect();
        for end in ended {
            all.entry(end.id).or_insert_with(|| view::ended(&end));
        }
        let more = all.len() > size;
        let page: Vec<_> = all.into_iter().take(size).collect();
        let next_page_token = match page.last() {
            Some((id, _)) if more => id.to_string(),
            _ => String::new(),
        };
        let transactions = page.into_iter().map(|(_, transaction)| transaction).collect();
        Ok(Response::new(v1::ListTransactionsResponse { transactions, next_page_token }))
    }

    type WatchTransactionStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchTransactionResponse, Status>> + Send>>;

    async fn watch_transaction(
        &self,
        request: Request<v1::WatchTransactionRequest>,
    ) -> Result<Response<Self::WatchTransactionStream>, Status> {
        let engine = Arc::clone(self.engine()?);
        let id = transaction_id(&request.into_inner().transaction_id)?;
        let before = known(id, engine.get(id).await.map_err(StatusOf::from)?)?;
        let stream = UnboundedReceiverStream::new(engine.watch(id)).then(move |watched| {
            let engine = Arc::clone(&engine);
            let before = before.clone();
            async move {
                let transaction = match (&watched.view, &watched.event) {
                    // A decision that is seen here may not be on the disk yet; by way of get() it is.
                    (Some(_), None) => known(id, engine.get(id).await.map_err(StatusOf::from)?)?,
                    (Some(running), _) => view::running(running),
                    (None, None) if before.state > 3 => before,
                    // It has ended: the log says how.
                    (None, _) => known(id, engine.get(id).await.map_err(StatusOf::from)?)?,
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
            text => Some(participant(text)?),
        };
        let begun_before_ms = match &request.older_than {
            None => None,
            Some(age) => {
                let age = positive("older_than", age)?;
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
