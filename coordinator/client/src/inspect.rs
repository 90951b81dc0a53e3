//! Questions about transactions: one, many, as they happen, and until the outcome is known.

use std::time::Duration;

use handfast_commit_core::id::{RequestId, TransactionId};
use handfast_wire::v1;
pub use handfast_wire::v1::Transaction as TransactionStatus;
use handfast_wire::v1::TransactionState;
use handfast_wire::v1::transaction_call::Request as Call;
use tonic::Streaming;

use crate::client::Client;
use crate::error::{Cause, Error};
use crate::options::duration;
use crate::request::aborted;
use crate::retry::{Budget, attempts};
use crate::status::{Failure, refused};

/// What a transaction is asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransactionKey {
    /// Its id.
    Id(TransactionId),
    /// The client's own name for the request.
    Request(RequestId),
}

impl From<TransactionId> for TransactionKey {
    fn from(id: TransactionId) -> Self {
        Self::Id(id)
    }
}

impl From<RequestId> for TransactionKey {
    fn from(request_id: RequestId) -> Self {
        Self::Request(request_id)
    }
}

/// Which transactions to list. Everything is optional.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    /// Only these states; all when empty.
    pub states: Vec<TransactionState>,
    /// Only transactions with a branch at this participant.
    pub participant: Option<String>,
    /// Only transactions that are at least this old.
    pub older_than: Option<Duration>,
    /// Most transactions in one page; the coordinator's default when 0.
    pub page_size: u16,
}

/// A page of a list, oldest first.
#[derive(Debug, Clone)]
pub struct Page {
    /// The transactions.
    pub transactions: Vec<TransactionStatus>,
    /// What asks for the next page; nothing on the last one.
    pub next: Option<String>,
}

/// What became of a transaction.
#[derive(Debug, Clone)]
pub enum Resolution {
    /// It committed.
    Committed(TransactionStatus),
    /// It aborted.
    Aborted(TransactionStatus),
}

/// The events of one transaction, as they happen.
#[derive(Debug)]
pub struct Watch {
    events: Streaming<v1::WatchTransactionResponse>,
    endpoint: String,
}

/// Something that happened to a transaction.
pub type Event = v1::WatchTransactionResponse;

impl Client {
    /// What the coordinator knows of one transaction.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it knows none by this key; [`Error::Unavailable`] when it does not
    /// answer in time.
    pub async fn get(&self, key: impl Into<TransactionKey>) -> Result<TransactionStatus, Error> {
        let request = question(key.into());
        let budget = Budget::start(self.options().deadline);
        let found = attempts(self.options().retry, budget, || self.ask(budget, &request)).await;
        found.map_err(|gave_up| refused(gave_up.cause, self.endpoint()))
    }

    /// A page of transactions, oldest first: the first one, or the one that [`Page::next`] asks for.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`], or [`Error::Unavailable`] when the coordinator does not answer in time.
    pub async fn list(&self, filter: &ListFilter, page: Option<String>) -> Result<Page, Error> {
        let request = v1::ListTransactionsRequest {
            page_size: filter.page_size.into(),
            page_token: page.unwrap_or_default(),
            states: filter.states.iter().map(|state| i32::from(*state)).collect(),
            participant: filter.participant.clone().unwrap_or_default(),
            older_than: filter.older_than.map(duration),
        };
        let budget = Budget::start(self.options().deadline);
        let listed = attempts(self.options().retry, budget, || async {
            let request = budget.request(request.clone());
            Ok(self.transactions().list_transactions(request).await?.into_inner())
        });
        match listed.await {
            Ok(page) => {
                let next = Some(page.next_page_token).filter(|token| !token.is_empty());
                Ok(Page { transactions: page.transactions, next })
            }
            Err(gave_up) => Err(refused(gave_up.cause, self.endpoint())),
        }
    }

    /// The present state of one transaction, then each of its events until it has ended.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Unavailable`] when the coordinator does not answer in time.
    pub async fn watch(&self, id: TransactionId) -> Result<Watch, Error> {
        let request = v1::WatchTransactionRequest { transaction_id: id.to_string() };
        let budget = Budget::start(self.options().deadline);
        let opened = attempts(self.options().retry, budget, || async {
            // Without a deadline of its own: the events may take as long as the transaction does.
            Ok(self.transactions().watch_transaction(request.clone()).await?.into_inner())
        });
        match opened.await {
            Ok(events) => Ok(Watch { events, endpoint: self.endpoint().to_owned() }),
            Err(gave_up) => Err(refused(gave_up.cause, self.endpoint())),
        }
    }

    /// Asks until the outcome is known, for at most `deadline`: what to do after
    /// [`Error::OutcomeUnknown`].
    ///
    /// By request_id, [`Error::NotFound`] means that no commit is known under it: the attempt never
    /// arrived, or it aborted and was forgotten. To execute again with the same request_id is safe.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] when it is not known in time; [`Error::OutcomeExpired`];
    /// [`Error::NotFound`].
    pub async fn resolve(
        &self,
        key: impl Into<TransactionKey>,
        deadline: Duration,
    ) -> Result<Resolution, Error> {
        let key = key.into();
        let request = question(key.clone());
        let (transaction_id, request_id) = match key {
            TransactionKey::Id(id) => (Some(id), None),
            TransactionKey::Request(request_id) => (None, Some(request_id)),
        };
        let budget = Budget::start(deadline);
        let resolved = attempts(self.options().retry, budget, || async {
            let found = self.ask(budget, &request).await?;
            match found.state() {
                TransactionState::Committing | TransactionState::Committed => {
                    Ok(Some(Resolution::Committed(found)))
                }
                TransactionState::Aborted => Ok(Some(Resolution::Aborted(found))),
                TransactionState::Expired => Ok(None),
                TransactionState::Active
                | TransactionState::Preparing
                | TransactionState::PreCommitted => Err(Failure::open(Cause::Undecided)),
                TransactionState::Unknown => Err(Failure::open(Cause::CannotTell)),
                TransactionState::Unspecified => Err(Failure::malformed("it has no known state")),
            }
        });
        match resolved.await {
            Ok(Some(resolution)) => Ok(resolution),
            Ok(None) => Err(Error::OutcomeExpired { transaction_id, request_id }),
            Err(gave_up) => match refused(gave_up.cause, self.endpoint()) {
                Error::Unavailable { source, .. } | Error::Unexpected { source, .. } => {
                    Err(Error::OutcomeUnknown { transaction_id, request_id, source })
                }
                error => Err(error),
            },
        }
    }

    async fn ask(&self, budget: Budget, request: &Call) -> Result<TransactionStatus, Failure> {
        let response = self.ask_get(budget, request).await?;
        response.transaction.ok_or_else(|| Failure::malformed("it carries no transaction"))
    }
}

impl Resolution {
    /// The commit's status, or the abort as the error it is to whoever wanted the commit.
    ///
    /// # Errors
    /// [`Error::Aborted`].
    pub fn into_committed(self) -> Result<TransactionStatus, Error> {
        match self {
            Self::Committed(status) => Ok(status),
            Self::Aborted(status) => match status.transaction_id.parse() {
                Ok(id) => Err(aborted(id, status.abort_reason.unwrap_or_default())),
                Err(error) => Err(Error::Unexpected {
                    endpoint: "the coordinator".into(),
                    source: Cause::Malformed(format!("{error}")),
                }),
            },
        }
    }
}

impl Watch {
    /// The next event; nothing when the transaction has ended.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the stream broke; watch again.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        let event = self.events.message().await;
        event.map_err(|status| refused(Failure::from(status).cause, &self.endpoint))
    }
}

fn question(key: TransactionKey) -> Call {
    Call::Get(match key {
        TransactionKey::Id(id) => {
            v1::GetTransactionRequest { transaction_id: id.to_string(), request_id: String::new() }
        }
        TransactionKey::Request(request_id) => v1::GetTransactionRequest {
            transaction_id: String::new(),
            request_id: request_id.to_string(),
        },
    })
}
