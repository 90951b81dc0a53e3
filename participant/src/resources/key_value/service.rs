//! The store as a gRPC service: interactive work inside a transaction that the client has begun.
//!
//! **The coordinator knows of a branch before the branch has locks or work.** The first call of a
//! transaction enlists it; if that fails, nothing is left here.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use handfast_commit_core::id::TransactionId;
use handfast_wire::v1::key_value_service_server::KeyValueService;
use handfast_wire::v1::{ApplyRequest, ApplyResponse};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::branches::ApplyError;
use super::store::KeyValueStore;

const DOMAIN: &str = "handfast";

/// Tells the coordinator of a branch.
///
/// It is called when nothing of the transaction is here. So when an earlier call for the same transaction
/// has *succeeded*, the work done since then is lost, and the coordinator must be told so (by another
/// `enlistment` number), or it would commit without that work.
pub trait Enlist: Send + Sync + 'static {
    /// Enlists this participant in the transaction; from then on the library ends the branch.
    ///
    /// # Errors
    /// When the transaction takes no branch, or the coordinator cannot be asked.
    fn enlist(&self, id: TransactionId) -> impl Future<Output = Result<(), EnlistError>> + Send;
}

/// Why a branch could not be enlisted. Nothing was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnlistError {
    /// What kind of failure.
    pub code: EnlistErrorCode,
    /// One sentence for the client.
    pub message: String,
}

impl fmt::Display for EnlistError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for EnlistError {}

/// The kinds of [`EnlistError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnlistErrorCode {
    /// The coordinator knows no such transaction.
    NotFound,
    /// The transaction takes no more branches, or has lost this one's earlier work.
    WrongState,
    /// The coordinator cannot be asked now.
    Unavailable,
}

/// `KeyValueService` on a [`KeyValueStore`].
pub struct KeyValueGrpc<E> {
    store: Arc<KeyValueStore>,
    enlist: E,
}

impl<E: Enlist> KeyValueGrpc<E> {
    /// Serves a store whose branches are enlisted with `enlist`.
    pub fn new(store: Arc<KeyValueStore>, enlist: E) -> Self {
        Self { store, enlist }
    }

    async fn enlist_first(&self, id: TransactionId) -> Result<(), Status> {
        if self.store.has_branch(id) {
            return Ok(());
        }
        let opening = self.store.open_session(id).map_err(status_of)?;
        self.enlist.enlist(id).await.map_err(status_of_enlist)?;
        opening.enlisted().map_err(status_of)
    }
}

#[tonic::async_trait]
impl<E: Enlist> KeyValueService for KeyValueGrpc<E> {
    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        let request = request.into_inner();
        let id: TransactionId = request
            .transaction_id
            .parse()
            .map_err(|error| invalid(format!("transaction_id: {error}")))?;
        let work = request.work.ok_or_else(|| invalid("work is unset".into()))?;
        self.enlist_first(id).await?;
        let result = self.store.apply(id, work).await.map_err(status_of)?;
        Ok(Response::new(ApplyResponse { result: Some(result) }))
    }
}

fn invalid(message: String) -> Status {
    status(Code::InvalidArgument, "INVALID_FIELD", message)
}

fn status_of(error: ApplyError) -> Status {
    let (code, reason) = match &error {
        ApplyError::Invalid(_) => (Code::InvalidArgument, "INVALID_FIELD"),
        ApplyError::Refused(_) | ApplyError::Unknown(_) => (Code::Aborted, "TRANSACTION_ABORTED"),
        ApplyError::Busy(_) | ApplyError::Ending(_) => (Code::FailedPrecondition, "WRONG_STATE"),
    };
    status(code, reason, error.to_string())
}

fn status_of_enlist(error: EnlistError) -> Status {
    let (code, reason) = match error.code {
        EnlistErrorCode::NotFound => (Code::NotFound, "UNKNOWN_TRANSACTION"),
        EnlistErrorCode::WrongState => (Code::FailedPrecondition, "WRONG_STATE"),
        EnlistErrorCode::Unavailable => (Code::Unavailable, "STARTING"),
    };
    status(code, reason, error.message)
}

fn status(code: Code, reason: &str, message: String) -> Status {
    let info = ErrorDetails::with_error_info(reason, DOMAIN, [] as [(String, String); 0]);
    Status::with_error_details(code, message, info)
}
