//! Plain questions to the programs, in one attempt each, on a connection of their own.
//!
//! The client library tries again and explains; here the answer is wanted as it came.

use std::net::SocketAddr;
use std::time::Duration;

use handfast_client::Bytes;
use handfast_wire::v1;
use handfast_wire::v1::coordinator_service_client::CoordinatorServiceClient;
use handfast_wire::v1::participant_service_client::ParticipantServiceClient;
use handfast_wire::v1::transaction_service_client::TransactionServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// How long one question may take.
const DEADLINE: Duration = Duration::from_secs(5);
const PAGE: i32 = 1000;

async fn connect(address: SocketAddr) -> Result<Channel, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let connected = tokio::time::timeout(DEADLINE, endpoint.connect()).await;
    match connected {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(Status::unavailable(format!("{address}: {error}"))),
        Err(_) => Err(Status::unavailable(format!("{address} does not answer"))),
    }
}

fn bounded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// The transaction service, for requests that a client library would not make.
///
/// # Errors
/// When nobody answers.
pub async fn transactions(
    address: SocketAddr,
) -> Result<TransactionServiceClient<Channel>, Status> {
    Ok(TransactionServiceClient::new(connect(address).await?).max_encoding_message_size(128 << 20))
}

/// The coordinator service.
///
/// # Errors
/// When nobody answers.
pub async fn coordinator(address: SocketAddr) -> Result<CoordinatorServiceClient<Channel>, Status> {
    Ok(CoordinatorServiceClient::new(connect(address).await?))
}

/// The participant service.
///
/// # Errors
/// When nobody answers.
pub async fn participant(address: SocketAddr) -> Result<ParticipantServiceClient<Channel>, Status> {
    Ok(ParticipantServiceClient::new(connect(address).await?).max_decoding_message_size(64 << 20))
}

/// A whole transaction as a message: the work of each branch by its participant.
pub fn execute_request<P: Into<Bytes>>(
    request_id: &str,
    branches: impl IntoIterator<Item = (impl Into<String>, P)>,
    timeout: Option<Duration>,
) -> v1::ExecuteTransactionRequest {
    let branches = branches.into_iter().map(|(participant, payload)| v1::BranchWork {
        participant: participant.into(),
        payload: payload.into(),
    });
    let mut request = v1::ExecuteTransactionRequest {
        request_id: request_id.to_owned(),
        branches: branches.collect(),
        ..Default::default()
    };
    if let Some(timeout) = timeout {
        let mut options = v1::TransactionOptions::default();
        options.timeout.get_or_insert_default().seconds = timeout.as_secs().cast_signed();
        options.timeout.get_or_insert_default().nanos = timeout.subsec_nanos().cast_signed();
        request.options = Some(options);
    }
    request
}

/// The same, to be committed under this protocol.
#[must_use]
pub fn under(
    protocol: v1::Protocol,
    mut request: v1::ExecuteTransactionRequest,
) -> v1::ExecuteTransactionRequest {
    request.options.get_or_insert_default().protocol = protocol.into();
    request
}

/// Executes a transaction, in one attempt without a deadline of its own.
///
/// # Errors
/// As they came.
pub async fn execute_once(
    address: SocketAddr,
    request: v1::ExecuteTransactionRequest,
) -> Result<v1::Outcome, Status> {
    let response = transactions(address).await?.execute_transaction(request).await?.into_inner();
    response.outcome.ok_or_else(|| Status::internal("an answer without an outcome"))
}

/// What is known of a transaction.
///
/// # Errors
/// As they came.
pub async fn get(address: SocketAddr, id: &str) -> Result<v1::Transaction, Status> {
    get_by(address, id, "").await
}

/// What is known of a client's request.
///
/// # Errors
/// As they came.
pub async fn get_request(address: SocketAddr, request_id: &str) -> Result<v1::Transaction, Status> {
    get_by(address, "", request_id).await
}

async fn get_by(
    address: SocketAddr,
    id: &str,
    request_id: &str,
) -> Result<v1::Transaction, Status> {
    let request = v1::GetTransactionRequest {
        transaction_id: id.to_owned(),
        request_id: request_id.to_owned(),
    };
    let response =
        transactions(address).await?.get_transaction(bounded(request)).await?.into_inner();
    response.transaction.ok_or_else(|| Status::internal("an answer without a transaction"))
}

/// The ids of the transactions in these states.
///
/// # Errors
/// As they came.
pub async fn list(
    address: SocketAddr,
    states: &[v1::TransactionState],
) -> Result<Vec<String>, Status> {
    let mut service = transactions(address).await?;
    let mut ids = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListTransactionsRequest {
            page_size: PAGE,
            page_token,
            states: states.iter().map(|state| i32::from(*state)).collect(),
            ..Default::default()
        };
        let page = service.list_transactions(bounded(request)).await?.into_inner();
        ids.extend(page.transactions.into_iter().map(|transaction| transaction.transaction_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(ids);
        }
    }
}

/// The ids of the transactions that are not over.
///
/// # Errors
/// As they came.
pub async fn running(address: SocketAddr) -> Result<Vec<String>, Status> {
    use v1::TransactionState::{Active, Committing, PreCommitted, Preparing};
    list(address, &[Active, Preparing, PreCommitted, Committing]).await
}

/// The registered participants.
///
/// # Errors
/// As they came.
pub async fn participants(address: SocketAddr) -> Result<Vec<v1::RegisteredParticipant>, Status> {
    let request = v1::ListParticipantsRequest { page_size: PAGE, page_token: String::new() };
    let mut service = coordinator(address).await?;
    Ok(service.list_participants(bounded(request)).await?.into_inner().participants)
}

/// Everything that a participant holds and does not own the end of.
///
/// # Errors
/// As they came.
pub async fn held(address: SocketAddr, name: &str) -> Result<Vec<v1::InDoubtBranch>, Status> {
    let request =
        v1::ListInDoubtRequest { transaction_id: String::new(), participant: name.to_owned() };
    let mut service = participant(address).await?;
    Ok(service.list_in_doubt(bounded(request)).await?.into_inner().branches)
}

/// The ids that a participant holds prepared.
///
/// # Errors
/// As they came.
pub async fn in_doubt(address: SocketAddr, name: &str) -> Result<Vec<String>, Status> {
    let held = held(address, name).await?.into_iter();
    let prepared = held.filter(|branch| !branch.one_phase_committed);
    Ok(prepared.map(|branch| branch.transaction_id).collect())
}

/// Who speaks for a coordinator: as a participant is told that joins a transaction.
///
/// # Errors
/// As they came.
pub async fn origin(address: SocketAddr, member: &str) -> Result<v1::Origin, Status> {
    let mut service = transactions(address).await?;
    let begun = service.begin_transaction(bounded(v1::BeginTransactionRequest::default())).await?;
    let transaction_id = begun.into_inner().transaction_id;
    let request = v1::EnlistBranchRequest {
        transaction_id: transaction_id.clone(),
        participant: member.to_owned(),
        participant_incarnation: 0,
        enlistment: 1,
    };
    let enlisted = coordinator(address).await?.enlist_branch(bounded(request)).await?.into_inner();
    let request = v1::AbortTransactionRequest { transaction_id, reason: "a question".to_owned() };
    service.abort_transaction(bounded(request)).await?;
    enlisted.origin.ok_or_else(|| Status::internal("an answer without an origin"))
}

/// What a participant in doubt would be told.
///
/// # Errors
/// As they came.
pub async fn inquire(
    address: SocketAddr,
    transaction_id: &str,
    participant: &str,
    coordinator_incarnation: u64,
) -> Result<v1::InquiryOutcome, Status> {
    let request = v1::InquireRequest {
        transaction_id: transaction_id.to_owned(),
        participant: participant.to_owned(),
        coordinator_incarnation,
    };
    let response = coordinator(address).await?.inquire(bounded(request)).await?.into_inner();
    response
        .answer
        .map(|answer| answer.outcome())
        .ok_or_else(|| Status::internal("an inquiry without an answer"))
}

/// Whether a server says that it serves.
///
/// # Errors
/// As they came.
pub async fn serves(address: SocketAddr) -> Result<bool, Status> {
    let mut service = HealthClient::new(connect(address).await?);
    let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
    let response = service.check(bounded(request)).await?.into_inner();
    Ok(response.status() == ServingStatus::Serving)
}
