//! A transaction in one call: the request and its answer.

use std::time::Duration;

use bytes::Bytes;
use handfast_commit_core::id::{RequestId, TransactionId};
use handfast_wire::v1;

use crate::error::{Cause, Error};
use crate::options::TransactionOptions;
use crate::status::Failure;

/// The work of every branch, to be committed in one call by [`Client::execute`](crate::Client::execute).
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub(crate) branches: Vec<v1::BranchWork>,
    pub(crate) request_id: Option<RequestId>,
    pub(crate) reply_time: v1::ReplyTime,
    pub(crate) options: TransactionOptions,
    pub(crate) deadline: Option<Duration>,
}

impl Request {
    /// A request without branches.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the work of one participant, in the participant's own format; for the key-value
    /// participant a [`Work`](crate::key_value::Work). Each participant may appear once.
    #[must_use]
    pub fn branch(mut self, participant: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        let (participant, payload) = (participant.into(), payload.into());
        self.branches.push(v1::BranchWork { participant, payload });
        self
    }

    /// The caller's own name for the request. Give one that outlives the calling process, and a retry
    /// is safe even across its restart; without one a random one is drawn for the attempts of this call.
    #[must_use]
    pub fn request_id(mut self, request_id: RequestId) -> Self {
        self.request_id = Some(request_id);
        self
    }

    /// When the answer comes; by default when every participant has applied the commit.
    #[must_use]
    pub fn reply_time(mut self, reply_time: v1::ReplyTime) -> Self {
        self.reply_time = reply_time;
        self
    }

    /// How long the caller waits, retries included; the client's own deadline by default. It never
    /// stops a commit half way.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// What the transaction carries, all at once; replaces what was set before.
    #[must_use]
    pub fn options(mut self, options: TransactionOptions) -> Self {
        self.options = options;
        self
    }

    /// How long the transaction may stay undecided before the coordinator aborts it.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options = self.options.timeout(timeout);
        self
    }

    /// The commit protocol; two-phase commit by default. A repetition has to name the same one.
    #[must_use]
    pub fn protocol(mut self, protocol: v1::Protocol) -> Self {
        self.options = self.options.protocol(protocol);
        self
    }

    /// What the transaction is about, for people.
    #[must_use]
    pub fn summary(mut self, summary: impl Into<String>) -> Self {
        self.options = self.options.summary(summary);
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.options = self.options.label(key, value);
        self
    }

    /// W3C trace context.
    #[must_use]
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.options = self.options.traceparent(traceparent);
        self
    }
}

/// A transaction that committed. The commit is durable, and every participant has applied it or will.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The transaction.
    pub transaction_id: TransactionId,
    /// The name under which the request is remembered, when it had one.
    pub request_id: Option<RequestId>,
    /// Participants that have yet to apply the commit.
    pub pending: Vec<String>,
    /// What the participants returned. A repeated request may be answered without.
    pub results: Vec<BranchResult>,
    /// True when this is the remembered outcome of an earlier attempt with the same request_id.
    pub repeated_request: bool,
    /// True when the participants returned more than an answer can hold: `results` is empty.
    pub results_left_out: bool,
}

impl Committed {
    /// True when every participant has applied the commit.
    #[must_use]
    pub fn is_applied(&self) -> bool {
        self.pending.is_empty()
    }

    /// What a participant returned; nothing when the answer carries none.
    #[must_use]
    pub fn result(&self, participant: &str) -> Option<&Bytes> {
        let mut results = self.results.iter();
        results.find(|result| result.participant == participant).map(|result| &result.payload)
    }
}

/// What one participant returned.
#[derive(Debug, Clone)]
pub struct BranchResult {
    /// Who returned it.
    pub participant: String,
    /// What it returned, in its own format.
    pub payload: Bytes,
}

/// What a coordinator's outcome says.
#[derive(Debug)]
pub(crate) enum Settled {
    Committed(Committed),
    Aborted { transaction_id: TransactionId, reason: v1::AbortReason },
    Expired { transaction_id: TransactionId },
}

impl Settled {
    /// Reads an outcome. One that settles nothing is a failed attempt.
    pub(crate) fn read(
        outcome: Option<v1::Outcome>,
        request_id: Option<RequestId>,
    ) -> Result<Self, Failure> {
        let Some(outcome) = outcome else {
            return Err(Failure::malformed("it carries no outcome"));
        };
        let state = outcome.state();
        let transaction_id = match outcome.transaction_id.parse() {
            Ok(id) => id,
            Err(error) => {
                return Err(Failure::malformed(format!("{}: {error}", state.as_str_name())));
            }
        };
        match state {
            v1::TransactionState::Committing | v1::TransactionState::Committed => {
                let results = outcome.results.into_iter();
                let results = results.map(|v1::BranchResult { participant, payload }| {
                    BranchResult { participant, payload }
                });
                Ok(Self::Committed(Committed {
                    transaction_id,
                    request_id,
                    pending: outcome.pending,
                    results: results.collect(),
                    repeated_request: outcome.repeated_request,
                    results_left_out: outcome.results_left_out,
                }))
            }
            v1::TransactionState::Aborted => Ok(Self::Aborted {
                transaction_id,
                reason: outcome.abort_reason.unwrap_or_default(),
            }),
            v1::TransactionState::Expired => Ok(Self::Expired { transaction_id }),
            v1::TransactionState::Unknown => Err(Failure::open(Cause::CannotTell)),
            v1::TransactionState::Active
            | v1::TransactionState::Preparing
            | v1::TransactionState::PreCommitted => Err(Failure::open(Cause::Undecided)),
            v1::TransactionState::Unspecified => {
                Err(Failure::malformed(format!("transaction {transaction_id} has no known state")))
            }
        }
    }

    /// The commit, or the error that says what it is instead.
    pub(crate) fn into_committed(self, request_id: Option<RequestId>) -> Result<Committed, Error> {
        match self {
            Self::Committed(committed) => Ok(committed),
            Self::Aborted { transaction_id, reason } => Err(aborted(transaction_id, reason)),
            Self::Expired { transaction_id } => {
                Err(Error::OutcomeExpired { transaction_id: Some(transaction_id), request_id })
            }
        }
    }
}

/// An abort as an error.
pub(crate) fn aborted(transaction_id: TransactionId, reason: v1::AbortReason) -> Error {
    let cause = reason.cause();
    let message = match reason.message.as_str() {
        "" => "the coordinator gave no reason".to_owned(),
        _ => reason.message,
    };
    let participant = Some(reason.participant).filter(|name| !name.is_empty());
    Error::Aborted { transaction_id, cause, participant, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0007-02-0000000012-00000000000004d2";

    fn read(state: v1::TransactionState, id: &str) -> Result<Settled, Failure> {
        let outcome =
            v1::Outcome { transaction_id: id.into(), state: state.into(), ..Default::default() };
        Settled::read(Some(outcome), None)
    }

    #[test]
    fn only_three_states_are_settled() {
        use v1::TransactionState::*;
        assert!(matches!(read(Committed, ID), Ok(Settled::Committed(_))));
        assert!(matches!(read(Committing, ID), Ok(Settled::Committed(_))));
        assert!(matches!(read(Aborted, ID), Ok(Settled::Aborted { .. })));
        assert!(matches!(read(Expired, ID), Ok(Settled::Expired { .. })));
        for state in [Active, Preparing, PreCommitted, Unknown] {
            let failure = read(state, ID).expect_err("not settled");
            assert!(failure.again, "{state:?}");
        }
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_never_an_outcome() {
        use v1::TransactionState::*;
        for state in [Committed, Aborted, Unspecified] {
            let id = if state == Unspecified { ID } else { "t1" };
            let failure = read(state, id).expect_err("malformed");
            assert_eq!(failure.effect, crate::status::Effect::Perhaps);
            assert!(matches!(failure.cause, Cause::Malformed(_)));
        }
        assert!(Settled::read(None, None).is_err());
    }
}
