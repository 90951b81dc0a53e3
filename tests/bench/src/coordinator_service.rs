//! Serves the skeleton's coordinator with the product's own messages, so that the product's own client
//! library drives both; and the links to the participants.

use std::pin::Pin;
use std::sync::Arc;

use anyhow::Context;
use handfast_wire::v1;
use handfast_wire::v1::coordinator_service_server::CoordinatorService;
use handfast_wire::v1::participant_service_client::ParticipantServiceClient;
use handfast_wire::v1::transaction_answer::Answer;
use handfast_wire::v1::transaction_call::Request as Call;
use handfast_wire::v1::transaction_service_server::TransactionService;
use tokio::sync::oneshot;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status, Streaming};

use crate::coordinator::{Answers, Batch, Coordinator, Link, ReplyTo, origin};
use crate::outbox::{Frames, Outbox};

/// What a participant may send in one frame, as in the product.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A link that has nobody at its other end yet.
#[derive(Debug)]
pub struct NewLink {
    /// For the coordinator.
    pub link: Link,
    frames: Frames<v1::CoordinatorMessage>,
}

impl NewLink {
    /// To the participant of this name at this endpoint.
    pub fn new(name: &str, endpoint: &str) -> Self {
        let (outbox, frames) = Outbox::new();
        let link = Link { name: name.to_owned(), endpoint: endpoint.to_owned(), outbox };
        Self { link, frames }
    }
}

/// Opens the session of a link, and carries what comes back. A session that breaks ends the process: a
/// skeleton recovers nothing, and its numbers would be wrong.
///
/// # Errors
/// When nobody is there.
pub async fn connect(
    coordinator: Arc<Coordinator>,
    at: usize,
    frames: Frames<v1::CoordinatorMessage>,
    own_endpoint: String,
) -> anyhow::Result<()> {
    let Link { name, endpoint, .. } = &coordinator.links()[at];
    let target = Endpoint::from_shared(endpoint.clone())?.tcp_nodelay(true);
    let channel = target.connect().await.with_context(|| format!("{name} at {endpoint}"))?;
    let mut client = ParticipantServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let hello = v1::SessionRequest {
        hello: Some(v1::SessionHello { participant: name.clone(), session: 1 }),
        messages: Vec::new(),
        origin: Some(origin(&own_endpoint)),
    };
    let frames = frames.map(move |messages| v1::SessionRequest {
        hello: None,
        messages,
        origin: Some(origin(&own_endpoint)),
    });
    let outgoing = tokio_stream::once(hello).chain(frames);
    let mut incoming = client.session(outgoing).await?.into_inner();
    let welcome = incoming.message().await?.and_then(|first| first.welcome);
    let welcome = welcome.with_context(|| format!("{name} does not welcome anybody"))?;
    anyhow::ensure!(welcome.participant == *name, "{} is at {endpoint}", welcome.participant);
    tokio::spawn(async move {
        loop {
            match incoming.message().await {
                Ok(Some(frame)) => {
                    let mut batch = coordinator.batch();
                    for message in frame.messages {
                        batch.heard(at, message);
                    }
                    batch.flush();
                }
                ended => {
                    eprintln!("handfast-skeleton: a session has ended: {ended:?}");
                    std::process::exit(1);
                }
            }
        }
    });
    Ok(())
}

/// Splits links into what the coordinator gets and what [`connect`] gets, in the order of their names.
pub fn split(mut links: Vec<NewLink>) -> (Vec<Link>, Vec<Frames<v1::CoordinatorMessage>>) {
    links.sort_by(|a, b| a.link.name.cmp(&b.link.name));
    links.into_iter().map(|NewLink { link, frames }| (link, frames)).unzip()
}

/// Both services of a coordinator.
#[derive(Debug, Clone)]
pub struct CoordinatorApi {
    coordinator: Arc<Coordinator>,
}

impl CoordinatorApi {
    /// Of this coordinator.
    pub fn new(coordinator: Arc<Coordinator>) -> Self {
        Self { coordinator }
    }
}

fn lost<T>(_: T) -> Status {
    Status::internal("the skeleton has dropped a transaction")
}

fn no_such(what: &str) -> Status {
    Status::not_found(format!("the skeleton knows no {what}"))
}

/// One call of a stream. One that is answered at once has its answer here.
fn call(
    batch: &mut Batch<'_>,
    coordinator: &Coordinator,
    answers: &Answers,
    call: v1::TransactionCall,
) -> Option<Answer> {
    let v1::TransactionCall { call_id, request, .. } = call;
    let reply = |is_commit| ReplyTo::Stream { answers: Arc::clone(answers), call_id, is_commit };
    let failed = |what: &str| {
        let (code, message) = (tonic::Code::NotFound.into(), no_such(what).message().to_owned());
        Some(Answer::Status(tonic_types::pb::Status { code, message, details: Vec::new() }))
    };
    match request {
        Some(Call::Execute(request)) => match batch.execute(request, reply(false)) {
            Ok(()) => None,
            Err(name) => failed(&name),
        },
        Some(Call::Begin(_)) => Some(Answer::Begin(begun(coordinator))),
        Some(Call::Commit(request)) => match batch.commit(&request, reply(true)) {
            true => None,
            false => failed(&request.transaction_id),
        },
        Some(Call::Abort(request)) => {
            let outcome = Some(batch.abort(&request.transaction_id));
            Some(Answer::Abort(v1::AbortTransactionResponse { outcome }))
        }
        Some(Call::Get(_)) | None => failed("such call"),
    }
}

type AnswerFrames =
    Pin<Box<dyn Stream<Item = Result<v1::StreamTransactionsResponse, Status>> + Send>>;
type Events = Pin<Box<dyn Stream<Item = Result<v1::WatchTransactionResponse, Status>> + Send>>;

#[tonic::async_trait]
impl TransactionService for CoordinatorApi {
    type WatchTransactionStream = Events;
    type StreamTransactionsStream = AnswerFrames;

    async fn stream_transactions(
        &self,
        request: Request<Streaming<v1::StreamTransactionsRequest>>,
    ) -> Result<Response<AnswerFrames>, Status> {
        let mut incoming = request.into_inner();
        let (answers, frames) = Outbox::new();
        let coordinator = Arc::clone(&self.coordinator);
        tokio::spawn(async move {
            while let Ok(Some(frame)) = incoming.message().await {
                let mut batch = coordinator.batch();
                for one in frame.calls {
                    let call_id = one.call_id;
                    if let Some(answer) = call(&mut batch, &coordinator, &answers, one) {
                        answers.push(v1::TransactionAnswer { call_id, answer: Some(answer) });
                    }
                }
                batch.flush();
            }
        });
        let frames = frames.map(|answers| Ok(v1::StreamTransactionsResponse { answers }));
        Ok(Response::new(Box::pin(frames)))
    }

    async fn execute_transaction(
        &self,
        request: Request<v1::ExecuteTransactionRequest>,
    ) -> Result<Response<v1::ExecuteTransactionResponse>, Status> {
        let (reply, outcome) = oneshot::channel();
        let mut batch = self.coordinator.batch();
        batch.execute(request.into_inner(), ReplyTo::Call(reply)).map_err(|name| no_such(&name))?;
        batch.flush();
        let outcome = Some(outcome.await.map_err(lost)?);
        Ok(Response::new(v1::ExecuteTransactionResponse { outcome }))
    }

    async fn begin_transaction(
        &self,
        _: Request<v1::BeginTransactionRequest>,
    ) -> Result<Response<v1::BeginTransactionResponse>, Status> {
        Ok(Response::new(begun(&self.coordinator)))
    }

    async fn commit_transaction(
        &self,
        request: Request<v1::CommitTransactionRequest>,
    ) -> Result<Response<v1::CommitTransactionResponse>, Status> {
        let request = request.into_inner();
        let (reply, outcome) = oneshot::channel();
        let mut batch = self.coordinator.batch();
        if !batch.commit(&request, ReplyTo::Call(reply)) {
            return Err(no_such(&request.transaction_id));
        }
        batch.flush();
        let outcome = Some(outcome.await.map_err(lost)?);
        Ok(Response::new(v1::CommitTransactionResponse { outcome }))
    }

    async fn abort_transaction(
        &self,
        request: Request<v1::AbortTransactionRequest>,
    ) -> Result<Response<v1::AbortTransactionResponse>, Status> {
        let mut batch = self.coordinator.batch();
        let outcome = Some(batch.abort(&request.into_inner().transaction_id));
        batch.flush();
        Ok(Response::new(v1::AbortTransactionResponse { outcome }))
    }

    async fn get_transaction(
        &self,
        _: Request<v1::GetTransactionRequest>,
    ) -> Result<Response<v1::GetTransactionResponse>, Status> {
        Err(remembers_nothing())
    }

    async fn list_transactions(
        &self,
        _: Request<v1::ListTransactionsRequest>,
    ) -> Result<Response<v1::ListTransactionsResponse>, Status> {
        Err(remembers_nothing())
    }

    async fn watch_transaction(
        &self,
        _: Request<v1::WatchTransactionRequest>,
    ) -> Result<Response<Events>, Status> {
        Err(remembers_nothing())
    }
}

fn remembers_nothing() -> Status {
    Status::unimplemented("the skeleton remembers nothing")
}

fn begun(coordinator: &Coordinator) -> v1::BeginTransactionResponse {
    let timeout = prost_types::Duration { seconds: 30, nanos: 0 };
    v1::BeginTransactionResponse { transaction_id: coordinator.begin(), timeout: Some(timeout) }
}

#[tonic::async_trait]
impl CoordinatorService for CoordinatorApi {
    async fn register_participant(
        &self,
        _: Request<v1::RegisterParticipantRequest>,
    ) -> Result<Response<v1::RegisterParticipantResponse>, Status> {
        Err(Status::unimplemented("the skeleton is told of its participants when it is started"))
    }

    async fn list_participants(
        &self,
        _: Request<v1::ListParticipantsRequest>,
    ) -> Result<Response<v1::ListParticipantsResponse>, Status> {
        let links = self.coordinator.links().iter();
        let participants = links.map(|link| v1::RegisteredParticipant {
            participant: link.name.clone(),
            endpoint: link.endpoint.clone(),
            connected: true,
            ..Default::default()
        });
        let participants = participants.collect();
        Ok(Response::new(v1::ListParticipantsResponse {
            participants,
            next_page_token: String::new(),
        }))
    }

    async fn enlist_branch(
        &self,
        request: Request<v1::EnlistBranchRequest>,
    ) -> Result<Response<v1::EnlistBranchResponse>, Status> {
        let request = request.into_inner();
        if !self.coordinator.enlist(&request.transaction_id, &request.participant) {
            return Err(no_such(&request.transaction_id));
        }
        let time_left = Some(prost_types::Duration { seconds: 30, nanos: 0 });
        Ok(Response::new(v1::EnlistBranchResponse { origin: Some(origin("")), time_left }))
    }

    async fn inquire(
        &self,
        _: Request<v1::InquireRequest>,
    ) -> Result<Response<v1::InquireResponse>, Status> {
        Err(remembers_nothing())
    }
}
