//! An interactive transaction: begun, worked in, then committed or aborted.
//!
//! The law: commit and abort take the handle, so that neither can be asked for after the other. A
//! handle that is dropped before either asks the coordinator to abort, so that a forgotten transaction
//! does not hold its locks until it times out.

use std::time::Duration;

use handfast_commit_core::id::{RequestId, TransactionId};
use handfast_wire::v1;
use handfast_wire::v1::transaction_call::Request as Call;

use crate::client::Client;
use crate::error::Error;
use crate::options::TransactionOptions;
use crate::participants::KeyValueSession;
use crate::request::{Committed, Settled};
use crate::retry::{Budget, GaveUp, attempts};
use crate::status::{Effect, Failure, aborted, refused};

/// How long an abort that nobody waits for is tried.
const ABORT_DEADLINE: Duration = Duration::from_secs(5);

/// A transaction that is open, and the duty to end it.
#[derive(Debug)]
#[must_use = "a transaction that is dropped is aborted"]
pub struct Transaction {
    session: Session,
    abort_on_drop: bool,
}

/// An open transaction as the work in it sees it. Cheap to clone; cannot end the transaction.
#[derive(Debug, Clone)]
pub struct Session {
    client: Client,
    id: TransactionId,
}

/// How to commit.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// When the answer comes; by default when every participant has applied the commit.
    pub reply_time: v1::ReplyTime,
    /// Remembered with the outcome.
    pub request_id: Option<RequestId>,
    /// How long the caller waits, retries included; the client's own deadline by default.
    pub deadline: Option<Duration>,
}

/// A transaction that aborted because it was asked to.
#[derive(Debug, Clone)]
pub struct Aborted {
    /// The transaction.
    pub transaction_id: TransactionId,
    /// Why it aborted: the request, or something that came before it.
    pub reason: v1::AbortReason,
}

impl Session {
    /// The transaction.
    #[must_use]
    pub fn id(&self) -> TransactionId {
        self.id
    }

    /// Work at a key-value participant.
    #[must_use]
    pub fn key_value(&self, participant: impl Into<String>) -> KeyValueSession {
        KeyValueSession::new(self.client.clone(), self.id, participant.into())
    }
}

impl Transaction {
    /// The transaction.
    #[must_use]
    pub fn id(&self) -> TransactionId {
        self.session.id
    }

    /// A handle for the work, to be cloned and handed about.
    #[must_use]
    pub fn session(&self) -> Session {
        self.session.clone()
    }

    /// Work at a key-value participant.
    #[must_use]
    pub fn key_value(&self, participant: impl Into<String>) -> KeyValueSession {
        self.session.key_value(participant)
    }

    /// Commits. The transaction is over for this handle, whatever the answer.
    ///
    /// # Errors
    /// [`Error::Aborted`], [`Error::OutcomeUnknown`], or what kept the coordinator from trying.
    pub async fn commit(self) -> Result<Committed, Error> {
        self.commit_with(CommitOptions::default()).await
    }

    /// Commits, and says how.
    ///
    /// # Errors
    /// As [`Transaction::commit`].
    pub async fn commit_with(mut self, options: CommitOptions) -> Result<Committed, Error> {
        // From here on an abort of ours could only race the commit.
        self.abort_on_drop = false;
        let Session { client, id } = &self.session;
        let request = Call::Commit(v1::CommitTransactionRequest {
            transaction_id: id.to_string(),
            reply_time: options.reply_time.into(),
            request_id: options.request_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        });
        let budget = Budget::start(options.deadline.unwrap_or(client.options().deadline));
        let request_id = &options.request_id;
        let settled = attempts(client.options().retry, budget, || async {
            Settled::read(client.ask_outcome(budget, &request).await?, request_id.clone())
        });
        match settled.await {
            Ok(settled) => settled.into_committed(options.request_id),
            Err(gave_up) => Err(self.session.open(gave_up, options.request_id)),
        }
    }

    /// Aborts. Safe at any time before the commit.
    ///
    /// # Errors
    /// [`Error::WrongState`] when a commit that somebody else asked for is decided;
    /// [`Error::OutcomeUnknown`] when the coordinator does not answer: the transaction then aborts by
    /// itself, at its timeout, unless somebody else has asked for its commit.
    pub async fn abort(mut self, reason: impl Into<String>) -> Result<Aborted, Error> {
        self.abort_on_drop = false;
        self.session.abort(reason.into(), self.session.client.options().deadline).await
    }

    /// Gives the duty to end the transaction to whoever has its id; see [`Client::attach`].
    pub fn leave(mut self) -> TransactionId {
        self.abort_on_drop = false;
        self.session.id
    }
}

impl Session {
    async fn abort(&self, reason: String, deadline: Duration) -> Result<Aborted, Error> {
        let Session { client, id } = self;
        let transaction_id = id.to_string();
        let request = Call::Abort(v1::AbortTransactionRequest { transaction_id, reason });
        let budget = Budget::start(deadline);
        let settled = attempts(client.options().retry, budget, || async {
            Settled::read(client.ask_outcome(budget, &request).await?, None)
        });
        match settled.await {
            Ok(Settled::Aborted { transaction_id, reason }) => {
                Ok(Aborted { transaction_id, reason })
            }
            Ok(Settled::Committed(_)) => {
                Err(Error::WrongState { message: format!("transaction {id} has committed") })
            }
            Ok(Settled::Expired { transaction_id }) => Err(Error::OutcomeExpired {
                transaction_id: Some(transaction_id),
                request_id: None,
            }),
            Err(gave_up) => match self.open(gave_up, None) {
                // Somebody was faster; it is what was asked for.
                Error::Aborted { transaction_id, cause, participant, message } => {
                    let participant = participant.unwrap_or_default();
                    let reason = v1::AbortReason { cause: cause.into(), participant, message };
                    Ok(Aborted { transaction_id, reason })
                }
                error => Err(error),
            },
        }
    }

    /// The error for an end that was asked for and not answered.
    fn open(&self, gave_up: GaveUp, request_id: Option<RequestId>) -> Error {
        let cause = match aborted(gave_up.cause, self.id, None) {
            Ok(error) => return error,
            Err(cause) => cause,
        };
        match gave_up.effect {
            Effect::Nothing => refused(cause, self.client.endpoint()),
            Effect::Perhaps => {
                Error::OutcomeUnknown { transaction_id: Some(self.id), request_id, source: cause }
            }
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.abort_on_drop {
            return;
        }
        // Outside a runtime nobody is there to ask; the transaction aborts at its timeout.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let session = self.session.clone();
            runtime.spawn(async move {
                let reason = "the client dropped the transaction".to_owned();
                if let Err(error) = session.abort(reason, ABORT_DEADLINE).await {
                    tracing::debug!(%error, "a dropped transaction was not aborted");
                }
            });
        }
    }
}

impl Client {
    /// Begins an interactive transaction.
    ///
    /// # Errors
    /// What kept the coordinator from it. An answer that was lost leaves nothing but a transaction
    /// without work, which aborts at its timeout.
    pub async fn begin(&self, options: TransactionOptions) -> Result<Transaction, Error> {
        let options = Some(options.to_message());
        let request = Call::Begin(v1::BeginTransactionRequest { options });
        let budget = Budget::start(self.options().deadline);
        let begun = attempts(self.options().retry, budget, || async {
            let response = self.ask_begin(budget, &request).await?;
            let id = response.transaction_id.parse::<TransactionId>();
            id.map_err(|error| Failure::malformed(error.to_string()))
        });
        match begun.await {
            Ok(id) => Ok(Transaction {
                session: Session { client: self.clone(), id },
                abort_on_drop: true,
            }),
            Err(gave_up) => Err(refused(gave_up.cause, self.endpoint())),
        }
    }

    /// A handle for a transaction that somebody has begun. Dropping it does nothing. No question is
    /// asked: whether the transaction is open shows when it is used.
    pub fn attach(&self, id: TransactionId) -> Transaction {
        Transaction { session: Session { client: self.clone(), id }, abort_on_drop: false }
    }

    /// Begins a transaction, does the work, and commits if it succeeds; aborts if it fails or if this
    /// future is dropped.
    ///
    /// ```no_run
    /// # use handfast_client::{Client, Error, TransactionOptions, key_value::Work};
    /// # async fn run(client: Client) -> Result<(), Error> {
    /// let (_, committed) = client
    ///     .transaction(TransactionOptions::new().summary("a transfer"), |session| async move {
    ///         let alice = session.key_value("accounts").apply(Work::new().get("alice")).await?;
    ///         let amount = alice.integer(0).unwrap_or(0) / 2;
    ///         let work = Work::new().add_with_floor("alice", -amount, 0).add("bob", amount);
    ///         session.key_value("accounts").apply(work).await?;
    ///         Ok::<_, Error>(())
    ///     })
    ///     .await?;
    /// println!("committed {}", committed.transaction_id);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What the work failed with, or what beginning or committing did.
    pub async fn transaction<T, E, F, W>(
        &self,
        options: TransactionOptions,
        work: F,
    ) -> Result<(T, Committed), E>
    where
        F: FnOnce(Session) -> W,
        W: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        let transaction = self.begin(options).await?;
        match work(transaction.session()).await {
            Ok(value) => Ok((value, transaction.commit().await?)),
            Err(error) => {
                // The work's own error is the one to report; what the abort says changes nothing.
                if let Err(unanswered) = transaction.abort("the client's work failed").await {
                    tracing::debug!(error = %unanswered, "an abort was not answered");
                }
                Err(error)
            }
        }
    }

    /// What an outcome that was not told is called.
    pub(crate) fn unsettled(&self, gave_up: GaveUp, request_id: &RequestId) -> Error {
        match gave_up.effect {
            Effect::Nothing => refused(gave_up.cause, self.endpoint()),
            Effect::Perhaps => Error::OutcomeUnknown {
                transaction_id: None,
                request_id: Some(request_id.clone()),
                source: gave_up.cause,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Cause;

    #[test]
    fn an_unanswered_end_is_unknown_whatever_the_last_attempt_said() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let _inside = runtime.as_ref().map(tokio::runtime::Runtime::enter);
        let client = Client::connect("http://127.0.0.1:1").expect("an endpoint");
        let id = "0007-02-0000000012-00000000000004d2".parse().expect("an id");
        let session = Session { client, id };
        let last = || Cause::Status(Box::new(tonic::Status::not_found("never heard of it")));
        let error = session.open(GaveUp { cause: last(), effect: Effect::Perhaps }, None);
        assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
        let error = session.open(GaveUp { cause: last(), effect: Effect::Nothing }, None);
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    }
}
