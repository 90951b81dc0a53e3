//! What can go wrong, grouped by who must act.
//!
//! The law: an error says "aborted" or "nothing was done" only when a coordinator said so, or when the
//! request cannot have left this process.

use std::fmt;
use std::time::Duration;

use handfast_commit_core::id::{RequestId, TransactionId};
use handfast_wire::v1::AbortCause;
use tonic::Status;

/// What a call of the client library may fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The transaction aborted, everywhere and for ever. Trying again is a new attempt.
    #[error("{} aborted: {message}", Named(Some(transaction_id), None))]
    Aborted {
        /// The transaction that aborted.
        transaction_id: TransactionId,
        /// Why; unspecified when the answer did not say.
        cause: AbortCause,
        /// The participant that caused it, when one did.
        participant: Option<String>,
        /// One sentence.
        message: String,
    },

    /// The transaction may have committed and may have aborted. Ask [`Client::resolve`], or execute
    /// again with the same `request_id`, which never does the work twice.
    ///
    /// [`Client::resolve`]: crate::Client::resolve
    #[error("the outcome of {} is unknown: {source}", Named(transaction_id.as_ref(), request_id.as_ref()))]
    OutcomeUnknown {
        /// The transaction, when its id became known.
        transaction_id: Option<TransactionId>,
        /// The request, when it had a name.
        request_id: Option<RequestId>,
        /// What kept the answer from us.
        source: Cause,
    },

    /// The outcome was known once and has left the coordinator's outcome window. It is not "aborted".
    #[error(
        "the outcome of {} is no longer known: it is older than the coordinator's outcome window",
        Named(transaction_id.as_ref(), request_id.as_ref())
    )]
    OutcomeExpired {
        /// The transaction, when its id is known.
        transaction_id: Option<TransactionId>,
        /// The request, when it had a name.
        request_id: Option<RequestId>,
    },

    /// Work inside an open transaction was sent and not answered: it may have been done. Abort the
    /// transaction; repeating the work could do it twice.
    #[error(
        "it is unknown whether participant {participant:?} did the work in transaction {transaction_id}: {source}"
    )]
    WorkUnknown {
        /// The transaction, which is still open.
        transaction_id: TransactionId,
        /// The participant that was asked.
        participant: String,
        /// What kept the answer from us.
        source: Cause,
    },

    /// The request is malformed or over a limit; nothing was done. The message names the field.
    #[error("the request is invalid: {message}")]
    InvalidRequest {
        /// The server's sentence.
        message: String,
    },

    /// No participant of that name is registered; nothing was done.
    #[error("no such participant: {message}")]
    UnknownParticipant {
        /// The name, when the answer gave it.
        participant: Option<String>,
        /// One sentence.
        message: String,
    },

    /// The coordinator does not know the transaction or the request.
    #[error("not found: {message}")]
    NotFound {
        /// One sentence.
        message: String,
    },

    /// The transaction is in a state that does not allow the call.
    #[error("not possible in the transaction's present state: {message}")]
    WrongState {
        /// One sentence.
        message: String,
    },

    /// The `request_id` was used for another request; nothing was done by this one.
    #[error("the request_id was used for a different request: {message}")]
    RequestIdReused {
        /// One sentence.
        message: String,
    },

    /// The transaction belongs to another coordinator.
    #[error("the transaction belongs to another coordinator: {message}")]
    NotOwner {
        /// One sentence.
        message: String,
    },

    /// The server does not offer this (a protocol of a later version, for instance).
    #[error("not supported by the server: {message}")]
    Unsupported {
        /// One sentence.
        message: String,
    },

    /// Too much is in flight; nothing was done, and there was no time left to try again.
    #[error("the server is overloaded: {message}")]
    Overloaded {
        /// How long the server asked to wait.
        retry_after: Option<Duration>,
        /// One sentence.
        message: String,
    },

    /// The server could not be reached or does not serve now; nothing was done.
    #[error("{endpoint} is unavailable: {source}")]
    Unavailable {
        /// Where it was looked for.
        endpoint: String,
        /// Why it did not answer.
        source: Cause,
    },

    /// An answer that this call cannot have, and that decides nothing.
    #[error("unexpected answer of {endpoint}: {source}")]
    Unexpected {
        /// Who answered.
        endpoint: String,
        /// The answer.
        source: Cause,
    },

    /// What a participant returned is no key-value result.
    #[error("participant {participant:?} returned no key-value result: {message}")]
    MalformedResult {
        /// Who returned it.
        participant: String,
        /// What is wrong with it.
        message: String,
    },

    /// Not an address of a server.
    #[error("{endpoint:?} is no endpoint: {message}; one looks like http://127.0.0.1:7420")]
    InvalidEndpoint {
        /// The text that was given.
        endpoint: String,
        /// What is wrong with it.
        message: String,
    },

    /// The operating system gave no random numbers, so no request_id could be drawn.
    #[error("the operating system gave no random numbers: {message}")]
    NoRandomness {
        /// Its error.
        message: String,
    },
}

impl Error {
    /// True when the same call may be tried again and nothing has been done so far.
    #[must_use]
    pub fn nothing_was_done(&self) -> bool {
        matches!(self, Error::Overloaded { .. } | Error::Unavailable { .. })
    }

    /// True when the transaction may have committed.
    #[must_use]
    pub fn may_have_committed(&self) -> bool {
        matches!(self, Error::OutcomeUnknown { .. } | Error::OutcomeExpired { .. })
    }
}

/// Why there was no usable answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The caller's time was up.
    #[error("no answer within {}", Seconds(*.0))]
    Deadline(Duration),
    /// The call failed with this status.
    #[error("{}", Shown(.0))]
    Status(Box<Status>),
    /// The coordinator answered that it cannot tell now.
    #[error(
        "the coordinator cannot tell now, because somebody who may own the outcome does not answer it"
    )]
    CannotTell,
    /// The transaction is not decided yet.
    #[error("it is not decided yet")]
    Undecided,
    /// The answer makes no sense to this version of the library.
    #[error("the answer makes no sense: {0}")]
    Malformed(String),
}

/// A transaction as an error names it: by all that is known of it.
struct Named<'a>(Option<&'a TransactionId>, Option<&'a RequestId>);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (Some(id), Some(request)) => write!(f, "transaction {id} (request_id {request})"),
            (Some(id), None) => write!(f, "transaction {id}"),
            (None, Some(request)) => write!(f, "the request with request_id {request}"),
            (None, None) => f.write_str("the transaction"),
        }
    }
}

/// A status in one line: its message and, when nothing else says why, what caused it.
struct Shown<'a>(&'a Status);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.0;
        match status.message() {
            "" => write!(f, "{}", status.code().description())?,
            message => f.write_str(message)?,
        }
        // The transport's own errors say little at the top ("transport error"); the last one says most.
        let mut deepest = std::error::Error::source(status);
        while let Some(next) = deepest.and_then(std::error::Error::source) {
            deepest = Some(next);
        }
        if let Some(source) = deepest.map(ToString::to_string)
            && !status.message().contains(&source)
        {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

/// A duration as people write it.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_outcome_names_what_to_ask_for() {
        let error = Error::OutcomeUnknown {
            transaction_id: None,
            request_id: "order-1".parse().ok(),
            source: Cause::Deadline(Duration::from_millis(1500)),
        };
        assert_eq!(
            error.to_string(),
            "the outcome of the request with request_id order-1 is unknown: no answer within 1.5 s"
        );
        assert!(error.may_have_committed() && !error.nothing_was_done());
    }

    #[test]
    fn an_abort_names_its_transaction() {
        let id: TransactionId = "0007-02-0000000012-00000000000004d2".parse().expect("an id");
        let error = Error::Aborted {
            transaction_id: id,
            cause: AbortCause::VotedNo,
            participant: Some("orders".into()),
            message: "out of stock".into(),
        };
        assert_eq!(error.to_string(), format!("transaction {id} aborted: out of stock"));
        assert!(!error.may_have_committed());
    }
}
