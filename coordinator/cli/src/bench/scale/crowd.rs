//! Any number of participants in this process, which hold nothing and vote prepared at once.
//!
//! They take the place of real ones where the subject is the coordinator and how many there are of something.
//! They serve sessions only, all on one port; which of them is meant stands in the coordinator's hello.

use std::net::Ipv4Addr;
use std::pin::Pin;
use std::time::Duration;

use handfast_client::v1;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use v1::coordinator_message::Message;
use v1::coordinator_service_client::CoordinatorServiceClient;
use v1::participant_message::Message as Answer;
use v1::participant_service_server::{ParticipantService, ParticipantServiceServer};

use crate::bench::system::System;
use crate::options::CallMode;

/// The identity of the log that they do not have.
const INCARNATION: u64 = 0xc0de_c0de_c0de_c0de;
/// Registrations at a time.
const REGISTER_AT_ONCE: usize = 64;
const CONNECTED_WITHIN: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(50);
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// What they do after their vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// They acknowledge at once.
    Prompt,
    /// They acknowledge nothing: what is decided stays undelivered.
    Silent,
}

/// Participants that are served, until they are dropped.
#[derive(Debug)]
pub struct Crowd {
    names: Vec<String>,
    endpoint: String,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Crowd {
    /// Serves so many.
    ///
    /// # Errors
    /// A sentence, when there is no port.
    pub async fn start(count: usize, manner: Manner) -> Result<Self, String> {
        let no_port = |error: std::io::Error| format!("participants cannot be served: {error}");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(no_port)?;
        let endpoint = format!("http://{}", listener.local_addr().map_err(no_port)?);
        let service = ParticipantServiceServer::new(Member { manner })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = Server::builder().add_service(service).serve_with_incoming(incoming);
        let prefix = match manner {
            Manner::Prompt => "prompt",
            Manner::Silent => "silent",
        };
        let names = (1..=count).map(|number| format!("{prefix}-{number}")).collect();
        Ok(Self { names, endpoint, server: tokio::spawn(server) })
    }

    /// What they are called.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Registers all of them, and waits until the coordinator is connected to all.
    ///
    /// # Errors
    /// A sentence, when that does not happen.
    pub async fn join(&self, system: &System) -> Result<(), String> {
        let endpoint = Endpoint::from_shared(system.endpoint().to_owned());
        let channel = endpoint.map_err(|error| error.to_string())?.connect_lazy();
        let service = CoordinatorServiceClient::new(channel);
        for names in self.names.chunks(REGISTER_AT_ONCE) {
            let mut registering: JoinSet<Result<_, Status>> = JoinSet::new();
            for name in names {
                let request = v1::RegisterParticipantRequest {
                    participant: name.clone(),
                    endpoint: self.endpoint.clone(),
                    participant_incarnation: INCARNATION,
                };
                let mut service = service.clone();
                registering.spawn(async move { service.register_participant(request).await });
            }
            while let Some(registered) = registering.join_next().await {
                if let Ok(Err(status)) = registered {
                    return Err(format!("a participant was not registered: {status}"));
                }
            }
        }
        let client = system.client(CallMode::Unary)?;
        let deadline = Instant::now() + CONNECTED_WITHIN;
        loop {
            let listed = client.participants().await.map_err(|error| error.to_string())?;
            let found = listed.iter().filter(|found| found.endpoint == self.endpoint);
            let connected = found.filter(|found| found.connected).count();
            if connected >= self.names.len() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(format!(
                    "the coordinator is connected to {connected} of {} participants; each takes a \
                     connection (`ulimit -n` limits them)",
                    self.names.len()
                ));
            }
            sleep(POLL).await;
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Any of them.
#[derive(Debug, Clone, Copy)]
struct Member {
    manner: Manner,
}

impl Member {
    fn answer(self, message: v1::CoordinatorMessage) -> Option<v1::ParticipantMessage> {
        let (transaction_id, answer) = match message.message? {
            Message::Prepare(prepare) => {
                let vote = v1::PrepareResponse {
                    vote: v1::Vote::Prepared.into(),
                    participant_incarnation: INCARNATION,
                    ..Default::default()
                };
                (prepare.transaction_id, Answer::Vote(vote))
            }
            Message::Commit(commit) if self.manner == Manner::Prompt => {
                (commit.transaction_id, Answer::Committed(v1::CommitResponse {}))
            }
            Message::Abort(abort) => (abort.transaction_id, Answer::Aborted(v1::AbortResponse {})),
            _ => return None,
        };
        Some(v1::ParticipantMessage { transaction_id, message: Some(answer) })
    }
}

type Frames = Pin<Box<dyn Stream<Item = Result<v1::SessionResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ParticipantService for Member {
    type SessionStream = Frames;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Frames>, Status> {
        let member = *self;
        let mut incoming = request.into_inner();
        let hello = incoming.message().await?.and_then(|first| first.hello);
        let hello = hello.ok_or_else(|| Status::invalid_argument("hello: is required"))?;
        let welcome = v1::SessionWelcome {
            participant: hello.participant,
            participant_incarnation: INCARNATION,
            one_phase_commits: Vec::new(),
        };
        let welcome = v1::SessionResponse { welcome: Some(welcome), messages: Vec::new() };
        let frames = incoming.map(move |frame| {
            let messages = frame?.messages.into_iter().filter_map(|m| member.answer(m)).collect();
            Ok(v1::SessionResponse { welcome: None, messages })
        });
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
    Status::invalid_argument("these participants are for the benchmark, and serve sessions only")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(message: Message) -> v1::CoordinatorMessage {
        v1::CoordinatorMessage { message: Some(message) }
    }

    #[test]
    fn the_silent_vote_and_acknowledge_nothing() {
        let answers = |manner| {
            let member = Member { manner };
            let prepare = message(Message::Prepare(v1::PrepareRequest::default()));
            let commit = message(Message::Commit(v1::CommitRequest::default()));
            let vote = member.answer(prepare).and_then(|answer| answer.message);
            assert!(matches!(vote, Some(Answer::Vote(vote)) if vote.vote() == v1::Vote::Prepared));
            member.answer(commit).and_then(|answer| answer.message)
        };
        assert_eq!(answers(Manner::Silent), None);
        assert_eq!(answers(Manner::Prompt), Some(Answer::Committed(v1::CommitResponse {})));
    }
}
