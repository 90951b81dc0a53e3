//! Participants: who is registered, and work at a key-value participant inside an open transaction.
//!
//! The law: work is repeated only when the attempt before is known to have done nothing; an addition
//! done twice is a wrong balance.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use handfast_commit_core::id::TransactionId;
use handfast_wire::v1;
use handfast_wire::v1::coordinator_service_client::CoordinatorServiceClient;
use handfast_wire::v1::key_value_service_client::KeyValueServiceClient;
use tonic::transport::Channel;

use crate::client::{Client, MESSAGE_BYTES_MAX, channel};
use crate::error::{Cause, Error};
use crate::key_value::{Results, Work};
use crate::retry::{Budget, GaveUp, attempts};
use crate::status::{Effect, Failure, aborted, refused};

/// Most participants in one page of the list.
const PAGE_SIZE: i32 = 1000;

/// Where participants were served when we last asked. A wrong entry costs an attempt, never more.
#[derive(Debug, Clone, Default)]
pub(crate) struct Directory {
    channels: Arc<Mutex<HashMap<String, (String, Channel)>>>,
}

impl Directory {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (String, Channel)>> {
        // A cache is as good after a panic as before.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, participant: &str) -> Option<Channel> {
        self.lock().get(participant).map(|(_, channel)| channel.clone())
    }

    fn forget(&self, participant: &str) {
        self.lock().remove(participant);
    }

    /// Keeps the connection that is there when the endpoint has not changed.
    fn learn(
        &self,
        participant: &str,
        endpoint: &str,
        connect_timeout: Duration,
    ) -> Result<Channel, Error> {
        let mut channels = self.lock();
        if let Some((known, channel)) = channels.get(participant)
            && known == endpoint
        {
            return Ok(channel.clone());
        }
        let channel = channel(endpoint, connect_timeout)?.connect_lazy();
        channels.insert(participant.to_owned(), (endpoint.to_owned(), channel.clone()));
        Ok(channel)
    }
}

impl Client {
    /// The registered participants, by name.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the coordinator does not answer in time.
    pub async fn participants(&self) -> Result<Vec<v1::RegisteredParticipant>, Error> {
        let budget = Budget::start(self.options().deadline);
        let listed =
            attempts(self.options().retry, budget, || self.list_participants(budget)).await;
        listed.map_err(|gave_up| refused(gave_up.cause, self.endpoint()))
    }

    async fn list_participants(
        &self,
        budget: Budget,
    ) -> Result<Vec<v1::RegisteredParticipant>, Failure> {
        let mut service = CoordinatorServiceClient::new(self.channel());
        let mut participants = Vec::new();
        let mut page_token = String::new();
        loop {
            let page = v1::ListParticipantsRequest { page_size: PAGE_SIZE, page_token };
            let page = service.list_participants(budget.request(page)).await?.into_inner();
            // An empty page that promises more would be asked for without end.
            let done = page.next_page_token.is_empty() || page.participants.is_empty();
            participants.extend(page.participants);
            if done {
                return Ok(participants);
            }
            page_token = page.next_page_token;
        }
    }
}

/// Work at one key-value participant inside an open transaction.
#[derive(Debug, Clone)]
pub struct KeyValueSession {
    client: Client,
    transaction_id: TransactionId,
    participant: String,
}

impl KeyValueSession {
    pub(crate) fn new(client: Client, transaction_id: TransactionId, participant: String) -> Self {
        Self { client, transaction_id, participant }
    }

    /// Does operations, in order, under locks that are held until the transaction ends. Nobody else
    /// sees what they write before it has committed.
    ///
    /// # Errors
    /// [`Error::Aborted`] when the participant refused and gave the transaction up;
    /// [`Error::WorkUnknown`] when the work may have been done: abort the transaction;
    /// [`Error::UnknownParticipant`] when no such participant is registered.
    pub async fn apply(&self, work: Work) -> Result<Results, Error> {
        let client = &self.client;
        let budget = Budget::start(client.options().deadline);
        let request = v1::ApplyRequest {
            transaction_id: self.transaction_id.to_string(),
            work: Some(work.message()),
        };
        let applied =
            attempts(client.options().retry, budget, || self.attempt(budget, &request)).await;
        match applied {
            Ok(Ok(response)) => Ok(response.result.unwrap_or_default().into()),
            Ok(Err(error)) => Err(error),
            Err(gave_up) => Err(self.failed(gave_up)),
        }
    }

    async fn attempt(
        &self,
        budget: Budget,
        request: &v1::ApplyRequest,
    ) -> Result<Result<v1::ApplyResponse, Error>, Failure> {
        let directory = self.client.directory();
        let channel = match directory.get(&self.participant) {
            Some(channel) => channel,
            None => match self.find(budget).await? {
                Ok(channel) => channel,
                Err(error) => return Ok(Err(error)),
            },
        };
        let mut service =
            KeyValueServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        match service.apply(budget.request(request.clone())).await {
            Ok(response) => Ok(Ok(response.into_inner())),
            Err(status) => {
                let mut failure = Failure::from(status);
                if failure.again {
                    // It may be served elsewhere by now.
                    directory.forget(&self.participant);
                }
                failure.again &= failure.effect == Effect::Nothing;
                Err(failure)
            }
        }
    }

    /// Asks the coordinator where the participant is served.
    async fn find(&self, budget: Budget) -> Result<Result<Channel, Error>, Failure> {
        let participants = match self.client.list_participants(budget).await {
            Ok(participants) => participants,
            // A question has no effect, whatever became of it.
            Err(failure) => return Err(Failure { effect: Effect::Nothing, ..failure }),
        };
        let mut participants = participants.iter();
        let Some(found) = participants.find(|found| found.participant == self.participant) else {
            let participant = Some(self.participant.clone());
            let message = format!("{:?} is not registered at the coordinator", self.participant);
            return Ok(Err(Error::UnknownParticipant { participant, message }));
        };
        let connect_timeout = self.client.options().connect_timeout;
        Ok(self.client.directory().learn(&self.participant, &found.endpoint, connect_timeout))
    }

    fn failed(&self, gave_up: GaveUp) -> Error {
        let cause = match aborted(gave_up.cause, self.transaction_id, Some(&self.participant)) {
            Ok(error) => return error,
            Err(cause) => cause,
        };
        match (gave_up.effect, cause) {
            (Effect::Perhaps, source) => Error::WorkUnknown {
                transaction_id: self.transaction_id,
                participant: self.participant.clone(),
                source,
            },
            (Effect::Nothing, cause @ Cause::Status(_)) => {
                refused(cause, &format!("participant {}", self.participant))
            }
            (Effect::Nothing, cause) => refused(cause, self.client.endpoint()),
        }
    }
}
