//! Errors as callers see them: a code, a sentence, and details for programs.
//!
//! The reasons are listed in `proto/handfast/v1/transaction.proto`.

use std::collections::HashMap;
use std::time::Duration;

use handfast_commit_core::two_phase::coordinator::ClientRefusal;
use handfast_wire::convert::InvalidField;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::engine::EngineError;

const DOMAIN: &str = "handfast";
/// What a caller is told to wait when there is too much to do.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// A status with a reason for programs.
#[must_use]
pub fn status(code: Code, reason: &str, message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(code, message, details)
}

fn retryable(code: Code, reason: &str, message: impl Into<String>) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    details.set_retry_info(Some(RETRY_AFTER));
    Status::with_error_details(code, message, details)
}

/// A field that cannot be accepted.
#[must_use]
pub fn invalid(error: &InvalidField) -> Status {
    let mut details = ErrorDetails::with_error_info("INVALID_FIELD", DOMAIN, HashMap::new());
    details.set_bad_request(vec![tonic_types::FieldViolation::new(
        error.field,
        error.problem.as_str(),
    )]);
    Status::with_error_details(Code::InvalidArgument, error.to_string(), details)
}

/// A field that cannot be accepted.
#[must_use]
pub fn invalid_field(field: &'static str, problem: impl ToString) -> Status {
    invalid(&InvalidField::new(field, problem))
}

/// Somebody who is not registered.
#[must_use]
pub fn unknown_participant(name: &str) -> Status {
    let mut details = ErrorDetails::with_error_info("UNKNOWN_PARTICIPANT", DOMAIN, HashMap::new());
    details.set_resource_info("participant", name, "", "not registered");
    let message = format!(
        "no participant is registered under the name {name:?}; start it, with this coordinator's address"
    );
    Status::with_error_details(Code::NotFound, message, details)
}

/// A transaction that was never begun here.
#[must_use]
pub fn unknown_transaction(id: &str) -> Status {
    let mut details = ErrorDetails::with_error_info("UNKNOWN_TRANSACTION", DOMAIN, HashMap::new());
    details.set_resource_info("transaction", id, "", "never begun here");
    let message = format!("transaction {id} has never been begun by this coordinator");
    Status::with_error_details(Code::NotFound, message, details)
}

/// The outcome cannot be told now.
#[must_use]
pub fn outcome_unknown(message: impl Into<String>) -> Status {
    retryable(Code::Unavailable, "OUTCOME_UNKNOWN", message)
}

/// The coordinator has not read its log yet.
#[must_use]
pub fn starting() -> Status {
    retryable(Code::Unavailable, "STARTING", "the coordinator is reading its log; try again")
}

/// The server is about to end.
#[must_use]
pub fn draining() -> Status {
    StatusOf::from(EngineError::Draining).into()
}

/// One more call than a stream may have in flight.
#[must_use]
pub fn too_many_calls(calls_max: usize) -> Status {
    let message = format!("{calls_max} calls of this stream are in flight; try again later");
    retryable(Code::ResourceExhausted, "TOO_MANY_IN_FLIGHT", message)
}

/// The caller's time is over, and the call goes on.
#[must_use]
pub fn deadline_exceeded() -> Status {
    Status::deadline_exceeded(
        "there was no answer within the call's timeout; what it asked for may be done, so ask again",
    )
}

impl From<EngineError> for StatusOf {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        Self(match error {
            EngineError::Stopped | EngineError::Draining => {
                retryable(Code::Unavailable, "DRAINING", message)
            }
            EngineError::ReplyLost => outcome_unknown(message),
            EngineError::TooLarge { .. } => invalid_field("branches.payload", message),
            EngineError::Memory { .. } | EngineError::SlowLog | EngineError::Busy => {
                retryable(Code::ResourceExhausted, "TOO_MANY_IN_FLIGHT", message)
            }
            EngineError::Store(_) => status(Code::Internal, "LOG_UNREADABLE", message),
        })
    }
}

/// A status, so that `?` can make one.
#[derive(Debug)]
pub struct StatusOf(pub Status);

impl From<StatusOf> for Status {
    fn from(status: StatusOf) -> Self {
        status.0
    }
}

/// A refusal of the core.
#[must_use]
pub fn refused(refusal: &ClientRefusal) -> Status {
    let message = refusal.to_string();
    match refusal {
        ClientRefusal::TooManyInFlight { .. }
        | ClientRefusal::ParticipantBusy { .. }
        | ClientRefusal::TooManyUndelivered { .. } => {
            retryable(Code::ResourceExhausted, "TOO_MANY_IN_FLIGHT", message)
        }
        ClientRefusal::RequestIdReused { .. } => {
            status(Code::FailedPrecondition, "REQUEST_ID_REUSED", message)
        }
        ClientRefusal::TooManyBranches { .. } => invalid_field("participant", message),
        ClientRefusal::NotActive { .. }
        | ClientRefusal::Decided { .. }
        | ClientRefusal::Over { .. } => status(Code::FailedPrecondition, "WRONG_STATE", message),
    }
}
