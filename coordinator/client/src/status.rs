//! What a failed attempt says about what was done.
//!
//! The law: an attempt has done nothing only if the server says so or if the request cannot have left
//! this process. Everything else may have been done, however unlikely it looks.

use std::time::Duration;

use handfast_commit_core::id::TransactionId;
use handfast_wire::convert;
use handfast_wire::v1::AbortCause;
use tonic::{Code, ConnectError, Status};
use tonic_types::StatusExt;

use crate::error::{Cause, Error};

/// The domain of the reasons that Handfast's servers give.
const DOMAIN: &str = "handfast";

/// What an attempt may have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Certainly nothing.
    Nothing,
    /// Everything, nothing or a part.
    Perhaps,
}

/// A failed attempt.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    pub(crate) effect: Effect,
    /// Whether another attempt can help.
    pub(crate) again: bool,
    /// How long the server asked to wait.
    pub(crate) retry_after: Option<Duration>,
}

impl Failure {
    /// An answer that leaves the outcome open; asking again may bring it.
    pub(crate) fn open(cause: Cause) -> Self {
        Self { cause, effect: Effect::Perhaps, again: true, retry_after: None }
    }

    /// An answer that makes no sense; asking again will not help.
    pub(crate) fn malformed(what: impl Into<String>) -> Self {
        let cause = Cause::Malformed(what.into());
        Self { cause, effect: Effect::Perhaps, again: false, retry_after: None }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let (effect, again) = judge(&status);
        let retry_after = convert::retry_delay(&status);
        Self { cause: Cause::Status(Box::new(status)), effect, again, retry_after }
    }
}

/// What the attempt may have done, and whether another one can help.
fn judge(status: &Status) -> (Effect, bool) {
    if std::error::Error::source(status).is_some() {
        // Made on this side, by the transport.
        return match never_connected(status) {
            true => (Effect::Nothing, true),
            false => (Effect::Perhaps, true),
        };
    }
    let reason = reason(status);
    match status.code() {
        // Without a reason it comes from something in between, which may have passed the request on.
        Code::Unavailable | Code::ResourceExhausted => match reason.as_deref() {
            None | Some("OUTCOME_UNKNOWN") => (Effect::Perhaps, true),
            Some(_) => (Effect::Nothing, true),
        },
        Code::DeadlineExceeded => (Effect::Perhaps, true),
        Code::Aborted if reason.as_deref() == Some("TRANSACTION_ABORTED") => {
            (Effect::Nothing, false)
        }
        Code::InvalidArgument
        | Code::NotFound
        | Code::FailedPrecondition
        | Code::AlreadyExists
        | Code::OutOfRange
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => (Effect::Nothing, false),
        Code::Ok
        | Code::Aborted
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal
        | Code::DataLoss => (Effect::Perhaps, false),
    }
}

fn never_connected(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The reason, when it is one of Handfast's.
fn reason(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == DOMAIN).then_some(info.reason)
}

/// The transaction that the server says has aborted, as an error; otherwise the cause as it came.
///
/// It holds whatever earlier attempts may have done: an id aborts for ever.
pub(crate) fn aborted(
    cause: Cause,
    id: TransactionId,
    participant: Option<&str>,
) -> Result<Error, Cause> {
    match cause {
        Cause::Status(status)
            if status.code() == Code::Aborted
                && reason(&status).as_deref() == Some("TRANSACTION_ABORTED") =>
        {
            Ok(Error::Aborted {
                transaction_id: id,
                cause: AbortCause::Unspecified,
                participant: participant.map(str::to_owned),
                message: status.message().to_owned(),
            })
        }
        other => Err(other),
    }
}

/// The error for a call that has done nothing.
pub(crate) fn refused(cause: Cause, endpoint: &str) -> Error {
    let endpoint = endpoint.to_owned();
    let status = match cause {
        Cause::Status(status) => status,
        source @ (Cause::Deadline(_) | Cause::Undecided | Cause::CannotTell) => {
            return Error::Unavailable { endpoint, source };
        }
        source @ Cause::Malformed(_) => return Error::Unexpected { endpoint, source },
    };
    let message = status.message().to_owned();
    if std::error::Error::source(status.as_ref()).is_some() {
        return Error::Unavailable { endpoint, source: Cause::Status(status) };
    }
    match (status.code(), reason(&status).as_deref()) {
        (Code::InvalidArgument, _) => Error::InvalidRequest { message },
        (Code::NotFound, Some("UNKNOWN_PARTICIPANT")) => {
            let resource = status.get_details_resource_info();
            let participant = resource.map(|resource| resource.resource_name);
            Error::UnknownParticipant { participant, message }
        }
        (Code::NotFound, _) => Error::NotFound { message },
        (Code::FailedPrecondition, Some("REQUEST_ID_REUSED")) => Error::RequestIdReused { message },
        (Code::FailedPrecondition, Some("NOT_OWNER")) => Error::NotOwner { message },
        (Code::FailedPrecondition, _) => Error::WrongState { message },
        (Code::Unimplemented, _) => Error::Unsupported { message },
        (Code::ResourceExhausted, _) => {
            let retry_after = convert::retry_delay(&status);
            Error::Overloaded { retry_after, message }
        }
        (Code::Unavailable | Code::DeadlineExceeded, _) => {
            Error::Unavailable { endpoint, source: Cause::Status(status) }
        }
        _ => Error::Unexpected { endpoint, source: Cause::Status(status) },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use tonic_types::ErrorDetails;

    use super::*;

    fn status(code: Code, reason: &str) -> Status {
        let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
        Status::with_error_details(code, "why", details)
    }

    fn check(status: Status, effect: Effect, again: bool) {
        assert_eq!(judge(&status), (effect, again), "{status:?}");
    }

    #[test]
    fn nothing_was_done_only_if_the_server_says_so() {
        check(status(Code::Unavailable, "STARTING"), Effect::Nothing, true);
        check(status(Code::Unavailable, "DRAINING"), Effect::Nothing, true);
        check(status(Code::ResourceExhausted, "TOO_MANY_IN_FLIGHT"), Effect::Nothing, true);
        check(status(Code::InvalidArgument, "INVALID_FIELD"), Effect::Nothing, false);
        check(status(Code::Aborted, "TRANSACTION_ABORTED"), Effect::Nothing, false);

        check(status(Code::Unavailable, "OUTCOME_UNKNOWN"), Effect::Perhaps, true);
        check(Status::unavailable("a proxy"), Effect::Perhaps, true);
        check(Status::resource_exhausted("a proxy"), Effect::Perhaps, true);
        check(Status::deadline_exceeded(""), Effect::Perhaps, true);
        check(Status::internal("a bug"), Effect::Perhaps, false);
        check(Status::aborted("not one of ours"), Effect::Perhaps, false);
        check(Status::cancelled("Timeout expired"), Effect::Perhaps, false);
    }

    #[test]
    fn a_reason_of_another_domain_counts_for_nothing() {
        let details = ErrorDetails::with_error_info("STARTING", "example.com", HashMap::new());
        let foreign = Status::with_error_details(Code::Unavailable, "", details);
        check(foreign, Effect::Perhaps, true);
    }

    #[test]
    fn a_broken_connection_may_have_carried_the_request() {
        let mut broken = Status::unknown("transport error");
        broken.set_source(Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        check(broken, Effect::Perhaps, true);
        let mut refused = Status::unavailable("tcp connect error");
        refused.set_source(Arc::new(ConnectError("refused".into())));
        check(refused, Effect::Nothing, true);
    }
}
