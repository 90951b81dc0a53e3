//! Errors as callers see them: a code, a sentence, and details for programs.

use std::collections::HashMap;
use std::time::Duration;

use handfast_commit_core::id::{ParticipantName, Protocol, TransactionId};
use handfast_commit_core::three_phase::SiteName;
use handfast_wire::convert::InvalidField;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

const DOMAIN: &str = "handfast";
/// What a caller is told to wait when this participant cannot answer now.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How the core's alarms of lost data begin.
const DATA_LOSS: &str = "DATA LOSS";

fn status(code: Code, reason: &str, message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(code, message, details)
}

fn retryable(reason: &str, message: impl Into<String>) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    details.set_retry_info(Some(RETRY_AFTER));
    Status::with_error_details(Code::Unavailable, message, details)
}

/// A field that cannot be accepted.
pub(crate) fn invalid(error: &InvalidField) -> Status {
    let mut details = ErrorDetails::with_error_info("INVALID_FIELD", DOMAIN, HashMap::new());
    let violation = FieldViolation::new(error.field, error.problem.as_str());
    details.set_bad_request(vec![violation]);
    Status::with_error_details(Code::InvalidArgument, error.to_string(), details)
}

/// The core, or the session, will not do what it was told.
pub(crate) fn refused(reason: impl Into<String>) -> Status {
    let reason = reason.into();
    match refusal_code(&reason) {
        Code::DataLoss => status(Code::DataLoss, "DATA_LOSS", reason),
        code => status(code, "WRONG_STATE", reason),
    }
}

/// The code that goes with a refusal of the core.
pub(crate) fn refusal_code(reason: &str) -> Code {
    if reason.starts_with(DATA_LOSS) { Code::DataLoss } else { Code::FailedPrecondition }
}

/// Somebody else is meant.
pub(crate) fn wrong_participant(ours: &ParticipantName, asked: &str) -> Status {
    let message = format!(
        "this is participant {ours}, and the request is for participant {asked:?}: its registration \
         points to the wrong address"
    );
    status(Code::FailedPrecondition, "WRONG_PARTICIPANT", message)
}

/// Another voting site is meant.
pub(crate) fn wrong_site(ours: &ParticipantName, asked: &SiteName) -> Status {
    let message = format!(
        "this is participant {ours}, and the orders are for {asked}: it is served somewhere else now"
    );
    status(Code::FailedPrecondition, "WRONG_SITE", message)
}

/// Another protocol than the one that is served.
pub(crate) fn unserved(id: TransactionId) -> Status {
    let protocol = match id.protocol() {
        Protocol::TwoPhase => "two-phase commit",
        Protocol::ThreePhase => "three-phase commit",
        Protocol::PaxosCommit => "Paxos Commit",
    };
    let message = format!("transaction {id} uses {protocol}, of which this call is not served");
    status(Code::Unimplemented, "UNSERVED_PROTOCOL", message)
}

/// The participant has not read its log yet.
pub(crate) fn starting() -> Status {
    retryable("STARTING", "the participant is reading its log; try again")
}

/// The participant is ending.
pub(crate) fn draining() -> Status {
    retryable("DRAINING", "the participant is stopping; try again when it is back")
}
