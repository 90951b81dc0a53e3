//! The calls that a client makes often: over the line that all its clones share, or each by itself.
//!
//! Which way a call took cannot be told from what comes of it.

use handfast_wire::v1;
use handfast_wire::v1::transaction_answer::Answer;
use handfast_wire::v1::transaction_call::Request;
use handfast_wire::v1::transaction_service_client::TransactionServiceClient;
use tonic::transport::Channel;

use crate::client::{Client, MESSAGE_BYTES_MAX};
use crate::line::Unanswered;
use crate::retry::Budget;
use crate::status::Failure;

/// A larger request is a call of its own: on the line it would hold up those behind it.
const LARGE_BYTES: usize = 1 << 20;

impl Client {
    /// Makes a call, once.
    async fn call(&self, budget: Budget, request: &Request) -> Result<Answer, Failure> {
        let bytes = request.encoded_len();
        if let Some(line) = self.line()
            && bytes <= LARGE_BYTES
        {
            match line.call(&self.channel(), budget.left(), request.clone(), bytes).await {
                Ok(answer) => return Ok(answer),
                Err(Unanswered::Failed(failure)) => return Err(failure),
                Err(Unanswered::Unserved) => {}
            }
        }
        let mut service = self.transactions();
        Ok(match request.clone() {
            Request::Execute(request) => {
                let response = service.execute_transaction(budget.request(request)).await?;
                Answer::Execute(response.into_inner())
            }
            Request::Begin(request) => {
                let response = service.begin_transaction(budget.request(request)).await?;
                Answer::Begin(response.into_inner())
            }
            Request::Commit(request) => {
                let response = service.commit_transaction(budget.request(request)).await?;
                Answer::Commit(response.into_inner())
            }
            Request::Abort(request) => {
                let response = service.abort_transaction(budget.request(request)).await?;
                Answer::Abort(response.into_inner())
            }
            Request::Get(request) => {
                let response = service.get_transaction(budget.request(request)).await?;
                Answer::Get(response.into_inner())
            }
        })
    }

    /// Makes a call whose answer is an outcome.
    pub(crate) async fn ask_outcome(
        &self,
        budget: Budget,
        request: &Request,
    ) -> Result<Option<v1::Outcome>, Failure> {
        match (request, self.call(budget, request).await?) {
            (Request::Execute(_), Answer::Execute(response)) => Ok(response.outcome),
            (Request::Commit(_), Answer::Commit(response)) => Ok(response.outcome),
            (Request::Abort(_), Answer::Abort(response)) => Ok(response.outcome),
            _ => Err(another_question()),
        }
    }

    /// Begins a transaction.
    pub(crate) async fn ask_begin(
        &self,
        budget: Budget,
        request: &Request,
    ) -> Result<v1::BeginTransactionResponse, Failure> {
        match self.call(budget, request).await? {
            Answer::Begin(response) => Ok(response),
            _ => Err(another_question()),
        }
    }

    /// Asks what is known of a transaction.
    pub(crate) async fn ask_get(
        &self,
        budget: Budget,
        request: &Request,
    ) -> Result<v1::GetTransactionResponse, Failure> {
        match self.call(budget, request).await? {
            Answer::Get(response) => Ok(response),
            _ => Err(another_question()),
        }
    }

    /// The service, for calls of their own.
    pub(crate) fn transactions(&self) -> TransactionServiceClient<Channel> {
        TransactionServiceClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

fn another_question() -> Failure {
    Failure::malformed("it answers another question")
}
