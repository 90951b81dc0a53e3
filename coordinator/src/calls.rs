//! What the calls of `TransactionService` mean: a request is checked here, and what the engine replies is
//! said here, once, whether the call came by itself or over a stream.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use handfast_commit_core::id::{ParticipantName, Protocol, RequestId, TransactionId};
use handfast_commit_core::limits;
use handfast_commit_core::record::Info;
use handfast_commit_core::two_phase::coordinator::{
    ClientRefusal, Outcome, PhaseView, Reply, ReplyTime, Terms,
};
use handfast_wire::convert;
use handfast_wire::frames::ExecuteCall;
use handfast_wire::v1;
use tonic::{Code, Status};

use crate::engine::Engine;
use crate::queries::Known;
use crate::requests::{BeginRequest, CommitRequest, ExecuteRequest};
use crate::status::{self, StatusOf};
use crate::view;

/// What a caller without a deadline of its own waits beyond the end of its transaction's time: long
/// enough for the only participant of a one-phase commit to say that it has stopped.
const GRACE: Duration = Duration::from_secs(2);

// ---- requests -----------------------------------------------------------------------------------

/// What an abort asks for.
#[derive(Debug)]
pub(crate) struct AbortRequest {
    pub(crate) id: TransactionId,
    pub(crate) message: String,
}

/// Checks a request to begin.
pub(crate) fn begin(
    engine: &Engine,
    request: v1::BeginTransactionRequest,
) -> Result<BeginRequest, Status> {
    let (protocol, terms) = terms(engine, request.options)?;
    Ok(BeginRequest { protocol, terms })
}

/// Checks a whole transaction. `asked` is how long the caller waits by its own word.
pub(crate) fn execute(
    engine: &Engine,
    request: v1::ExecuteTransactionRequest,
    asked: Option<Duration>,
) -> Result<ExecuteRequest, Status> {
    let v1::ExecuteTransactionRequest { request_id: id, branches, reply_time, options } = request;
    let id = request_id(&id)?;
    let named = branches.into_iter().map(|branch| {
        let name = participant(&branch.participant)?;
        Ok((name, branch.payload))
    });
    checked(engine, id, reply_time, options, named, asked)
}

/// The same, of one whose ids and names are right.
pub(crate) fn execute_call(
    engine: &Engine,
    call: ExecuteCall,
    asked: Option<Duration>,
) -> Result<ExecuteRequest, Status> {
    let ExecuteCall { request_id, branches, reply_time, options } = call;
    checked(engine, request_id, reply_time, options, branches.into_iter().map(Ok), asked)
}

fn checked(
    engine: &Engine,
    request_id: Option<RequestId>,
    reply_time: i32,
    options: Option<v1::TransactionOptions>,
    named: impl ExactSizeIterator<Item = Result<(ParticipantName, Bytes), Status>>,
    asked: Option<Duration>,
) -> Result<ExecuteRequest, Status> {
    let reply_time = self::reply_time(reply_time)?;
    let (protocol, terms) = terms(engine, options)?;
    if named.len() == 0 {
        return Err(status::invalid_field("branches", "are at least 1"));
    }
    if named.len() > limits::BRANCHES_MAX {
        let problem = format!("are {}, at most 256 are accepted", named.len());
        return Err(status::invalid_field("branches", problem));
    }
    let mut branches = BTreeMap::new();
    for branch in named {
        let (name, payload) = branch?;
        if payload.len() > limits::PAYLOAD_BYTES_MAX {
            let problem =
                format!("of {name} has {} bytes, at most 1048576 are accepted", payload.len());
            return Err(status::invalid_field("branches.payload", problem));
        }
        if !engine.registry().contains(&name) {
            return Err(status::unknown_participant(name.as_str()));
        }
        if branches.contains_key(&name) {
            let problem = format!("{name} appears twice; one branch holds all its work");
            return Err(status::invalid_field("branches.participant", problem));
        }
        branches.insert(name, payload);
    }
    let patience = patience(asked, Duration::from_micros(terms.timeout_us));
    Ok(ExecuteRequest { branches, protocol, terms, request_id, reply_time, patience })
}

/// Checks a commit. `asked` is how long the caller waits by its own word.
pub(crate) fn commit(
    engine: &Engine,
    request: &v1::CommitTransactionRequest,
    asked: Option<Duration>,
) -> Result<CommitRequest, Status> {
    Ok(CommitRequest {
        id: transaction_id(&request.transaction_id)?,
        reply_time: reply_time(request.reply_time)?,
        request_id: request_id(&request.request_id)?,
        patience: patience(asked, engine.config().timeout),
    })
}

/// Checks an abort.
pub(crate) fn abort(request: v1::AbortTransactionRequest) -> Result<AbortRequest, Status> {
    let id = transaction_id(&request.transaction_id)?;
    at_most("reason", &request.reason, limits::SUMMARY_BYTES_MAX)?;
    let message = match request.reason.as_str() {
        "" => "aborted by the client".to_owned(),
        _ => request.reason,
    };
    Ok(AbortRequest { id, message })
}

/// How long the engine may take to answer: the answer has to be on its way a little before the caller's
/// time is over.
fn patience(asked: Option<Duration>, timeout: Duration) -> Duration {
    let timeout = timeout.saturating_add(GRACE);
    asked.map_or(timeout, |asked| timeout.min(asked.mul_f64(0.9)))
}

fn reply_time(value: i32) -> Result<ReplyTime, Status> {
    match v1::ReplyTime::try_from(value) {
        Ok(v1::ReplyTime::Unspecified | v1::ReplyTime::Applied) => Ok(ReplyTime::Applied),
        Ok(v1::ReplyTime::Decided) => Ok(ReplyTime::Decided),
        Err(_) => Err(status::invalid_field("reply_time", format!("has no value {value}"))),
    }
}

/// Reads an id.
pub(crate) fn transaction_id(text: &str) -> Result<TransactionId, Status> {
    convert::transaction_id(text).map_err(|error| status::invalid(&error))
}

fn request_id(text: &str) -> Result<Option<RequestId>, Status> {
    convert::request_id(text).map_err(|error| status::invalid(&error))
}

/// Reads a participant's name.
pub(crate) fn participant(text: &str) -> Result<ParticipantName, Status> {
    convert::participant_name(text).map_err(|error| status::invalid(&error))
}

/// Reads a length of time.
pub(crate) fn duration(
    field: &'static str,
    given: &prost_types::Duration,
) -> Result<Duration, Status> {
    convert::duration(field, given).map_err(|error| status::invalid(&error))
}

fn at_most(field: &'static str, text: &str, bytes_max: usize) -> Result<(), Status> {
    if text.len() <= bytes_max {
        return Ok(());
    }
    let problem = format!("has {} bytes, at most {bytes_max} are accepted", text.len());
    Err(status::invalid_field(field, problem))
}

fn terms(
    engine: &Engine,
    options: Option<v1::TransactionOptions>,
) -> Result<(Protocol, Terms), Status> {
    let options = options.unwrap_or_default();
    let protocol = match v1::Protocol::try_from(options.protocol) {
        Ok(v1::Protocol::Unspecified | v1::Protocol::TwoPhase) => Protocol::TwoPhase,
        Ok(v1::Protocol::ThreePhase) => Protocol::ThreePhase,
        Ok(other @ v1::Protocol::PaxosCommit) => {
            let message = format!(
                "protocol {} is not served by this version; PROTOCOL_TWO_PHASE and PROTOCOL_THREE_PHASE are",
                other.as_str_name()
            );
            return Err(status::status(Code::Unimplemented, "PROTOCOL_NOT_SERVED", message));
        }
        Err(_) => {
            let problem = format!("has no value {}", options.protocol);
            return Err(status::invalid_field("options.protocol", problem));
        }
    };
    let timeout = match &options.timeout {
        None => engine.config().timeout,
        Some(given) => duration("options.timeout", given)?,
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
    let terms = Terms {
        timeout_us: u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX),
        info: Arc::new(Info { summary: options.summary, labels, traceparent }),
    };
    Ok((protocol, terms))
}

// ---- answers ------------------------------------------------------------------------------------

/// What a reply tells a caller that wants an outcome.
pub(crate) enum Told {
    /// The outcome.
    Outcome(Outcome),
    /// The core does not run it any more: the log has to be asked, by [`outcome_of_ended`].
    Over(TransactionId),
}

/// Reads a reply to a request that ends a transaction.
pub(crate) fn told(reply: Reply) -> Result<Told, Status> {
    match reply {
        Reply::Outcome(outcome) => Ok(Told::Outcome(outcome)),
        Reply::Unknown { id, participant } => Err(status::outcome_unknown(format!(
            "the outcome of transaction {id} is {participant}'s to tell, which does not answer; ask again"
        ))),
        Reply::Undecided { id, waiting_for } => Err(status::outcome_unknown(format!(
            "the voting sites of transaction {id} have not ended it yet, which waits for {waiting_for}; ask again"
        ))),
        Reply::Refused(ClientRefusal::Over { id }) => Ok(Told::Over(id)),
        Reply::Refused(refusal) => Err(status::refused(&refusal)),
        Reply::Begun { .. } | Reply::Enlisted { .. } | Reply::Inquired(_) => {
            Err(another_question())
        }
    }
}

/// Reads a reply, and the log if need be.
pub(crate) async fn outcome(engine: &Engine, reply: Reply) -> Result<v1::Outcome, Status> {
    match told(reply)? {
        Told::Outcome(outcome) => Ok(view::outcome(outcome)),
        Told::Over(id) => outcome_of_ended(engine, id).await,
    }
}

/// The outcome of a transaction that the core does not run any more.
pub(crate) async fn outcome_of_ended(
    engine: &Engine,
    id: TransactionId,
) -> Result<v1::Outcome, Status> {
    let found = engine.get(id).await.map_err(StatusOf::from)?;
    match &found {
        Known::Unknown(participants) => Err(status::outcome_unknown(format!(
            "the outcome of transaction {id} may be known to {} only, not reached since this coordinator \
                started; ask again",
            some_names(participants)
        ))),
        Known::Expired => {
            let message = format!("transaction {id} is over, and its outcome is not kept any more");
            Err(status::status(Code::FailedPrecondition, "WRONG_STATE", message))
        }
        Known::Running(running) if running.phase == PhaseView::PreCommitted => {
            let message =
                format!("the voting sites of transaction {id} have not ended it yet; ask again");
            Err(status::outcome_unknown(message))
        }
        _ => Ok(view::outcome_of(&known(id, found)?)),
    }
}

/// Answers a begin.
pub(crate) fn begun(reply: Reply) -> Result<v1::BeginTransactionResponse, Status> {
    match reply {
        Reply::Begun { id, time_left_us } => Ok(v1::BeginTransactionResponse {
            transaction_id: id.to_string(),
            timeout: view::duration(time_left_us),
        }),
        Reply::Refused(refusal) => Err(status::refused(&refusal)),
        _ => Err(another_question()),
    }
}

/// Answers an execution.
pub(crate) fn executed(
    outcome: v1::Outcome,
    started: Instant,
) -> Result<v1::ExecuteTransactionResponse, Status> {
    ended_after(started);
    Ok(v1::ExecuteTransactionResponse { outcome: Some(outcome) })
}

/// Answers a commit.
pub(crate) fn committed(
    outcome: v1::Outcome,
    started: Instant,
) -> Result<v1::CommitTransactionResponse, Status> {
    ended_after(started);
    Ok(v1::CommitTransactionResponse { outcome: Some(outcome) })
}

/// Answers an abort.
pub(crate) fn aborted(outcome: v1::Outcome) -> Result<v1::AbortTransactionResponse, Status> {
    if outcome.state != i32::from(v1::TransactionState::Aborted) {
        let id = &outcome.transaction_id;
        let message = format!("transaction {id} is committed and cannot be aborted");
        return Err(status::status(Code::FailedPrecondition, "WRONG_STATE", message));
    }
    Ok(v1::AbortTransactionResponse { outcome: Some(outcome) })
}

/// Counts how long a transaction took.
pub(crate) fn ended_after(started: Instant) {
    // Looked up once, when the first transaction ends: the process has its recorder long since.
    static SECONDS: LazyLock<metrics::Histogram> =
        LazyLock::new(|| metrics::histogram!("handfast_commit_seconds"));
    SECONDS.record(started.elapsed());
}

fn another_question() -> Status {
    Status::internal("the engine has answered another question")
}

// ---- questions ----------------------------------------------------------------------------------

/// What is known of one transaction.
pub(crate) async fn get(
    engine: &Engine,
    request: v1::GetTransactionRequest,
) -> Result<v1::GetTransactionResponse, Status> {
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
                    return Err(status::status(Code::NotFound, "UNKNOWN_TRANSACTION", message));
                }
            }
        }
        _ => {
            let problem = "and transaction_id exclude each other; give one";
            return Err(status::invalid_field("request_id", problem));
        }
    };
    Ok(v1::GetTransactionResponse { transaction: Some(transaction) })
}

/// A transaction, as far as it can be told.
pub(crate) fn known(id: TransactionId, known: Known) -> Result<v1::Transaction, Status> {
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

/// A few names: a status travels in a header, which has its limits.
fn some_names(participants: &[ParticipantName]) -> String {
    const SHOWN: usize = 8;
    let mut names: Vec<_> = participants.iter().take(SHOWN).map(ToString::to_string).collect();
    if participants.len() > SHOWN {
        names.push(format!("{} others", participants.len() - SHOWN));
    }
    names.join(", ")
}
