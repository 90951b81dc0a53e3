//! Serves the skeleton's participant with the product's own messages: sessions and interactive work.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use handfast_wire::v1;
use handfast_wire::v1::coordinator_service_client::CoordinatorServiceClient;
use handfast_wire::v1::key_value_service_server::KeyValueService;
use handfast_wire::v1::participant_service_server::ParticipantService;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::coordinator::INCARNATION;
use crate::outbox::Outbox;
use crate::participant::Participant;

/// A value of the size that the benchmark writes.
const VALUE: [u8; 100] = [b'v'; 100];

/// Both services of a participant.
#[derive(Debug, Clone)]
pub struct ParticipantApi {
    participant: Arc<Participant>,
    coordinator: CoordinatorServiceClient<Channel>,
}

impl ParticipantApi {
    /// Of this participant, which joins transactions at `coordinator`.
    pub fn new(participant: Participant, coordinator: Channel) -> Self {
        let coordinator = CoordinatorServiceClient::new(coordinator);
        Self { participant: Arc::new(participant), coordinator }
    }
}

type Frames = Pin<Box<dyn Stream<Item = Result<v1::SessionResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ParticipantService for ParticipantApi {
    type SessionStream = Frames;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Frames>, Status> {
        let mut incoming = request.into_inner();
        let welcome = v1::SessionWelcome {
            participant: self.participant.name.clone(),
            participant_incarnation: INCARNATION,
            one_phase_commits: Vec::new(),
        };
        let welcome = v1::SessionResponse { welcome: Some(welcome), messages: Vec::new() };
        let (outbox, frames) = Outbox::new();
        let participant = Arc::clone(&self.participant);
        tokio::spawn(async move {
            while let Ok(Some(frame)) = incoming.message().await {
                participant.heard(&outbox, frame.messages);
            }
        });
        let frames = frames.map(|messages| Ok(v1::SessionResponse { welcome: None, messages }));
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(welcome)).chain(frames))))
    }

    async fn prepare(
        &self,
        _: Request<v1::PrepareRequest>,
    ) -> Result<Response<v1::PrepareResponse>, Status> {
        Err(only_sessions())
    }

    async fn pre_commit(
        &self,
        _: Request<v1::PreCommitRequest>,
    ) -> Result<Response<v1::PreCommitResponse>, Status> {
        Err(only_sessions())
    }

    async fn commit(
        &self,
        _: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::CommitResponse>, Status> {
        Err(only_sessions())
    }

    async fn abort(
        &self,
        _: Request<v1::AbortRequest>,
    ) -> Result<Response<v1::AbortResponse>, Status> {
        Err(only_sessions())
    }

    async fn list_in_doubt(
        &self,
        _: Request<v1::ListInDoubtRequest>,
    ) -> Result<Response<v1::ListInDoubtResponse>, Status> {
        Ok(Response::new(v1::ListInDoubtResponse::default()))
    }
}

fn only_sessions() -> Status {
    Status::unimplemented("the skeleton serves sessions only")
}

#[tonic::async_trait]
impl KeyValueService for ParticipantApi {
    /// Joins, as the product does before the first work in a transaction, and does nothing.
    async fn apply(
        &self,
        request: Request<v1::ApplyRequest>,
    ) -> Result<Response<v1::ApplyResponse>, Status> {
        let v1::ApplyRequest { transaction_id, work } = request.into_inner();
        let enlist = v1::EnlistBranchRequest {
            transaction_id,
            participant: self.participant.name.clone(),
            participant_incarnation: INCARNATION,
            enlistment: INCARNATION,
        };
        self.coordinator.clone().enlist_branch(enlist).await?;
        let done = work.unwrap_or_default().operations.into_iter();
        let results =
            done.map(|_| v1::KeyValueOperationResult { value: Some(Bytes::from_static(&VALUE)) });
        let result = v1::KeyValueResult { results: results.collect() };
        Ok(Response::new(v1::ApplyResponse { result: Some(result) }))
    }
}
