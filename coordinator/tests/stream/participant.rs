//! A participant that keeps nothing and does what its work says: `yes`, `no`, `hold` (votes when it is told
//! to), or `big` (returns as much as it may).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use handfast_wire::v1;
use handfast_wire::v1::participant_service_server::{ParticipantService, ParticipantServiceServer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

const RESULT_BYTES_MAX: usize = 1 << 20;

type Answer<T> = Result<Response<T>, Status>;

/// Serves under any name.
#[derive(Debug, Default)]
pub struct Participant {
    released: watch::Sender<bool>,
    held: AtomicUsize,
    committed: AtomicUsize,
    stopped: AtomicBool,
}

impl Participant {
    /// From now on whatever is held votes yes.
    pub fn release(&self) {
        self.released.send_replace(true);
    }

    /// From now on no commit is acknowledged.
    pub fn stop_applying(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// How many branches have been held.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    /// How many branches have committed.
    pub fn committed(&self) -> usize {
        self.committed.load(Ordering::SeqCst)
    }
}

/// Serves, and returns where.
pub async fn serve(participant: Arc<Participant>) -> String {
    let service = ParticipantServiceServer::from_arc(participant)
        .max_decoding_message_size(16 << 20)
        .max_encoding_message_size(16 << 20);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    endpoint
}

#[tonic::async_trait]
impl ParticipantService for Participant {
    async fn prepare(&self, request: Request<v1::PrepareRequest>) -> Answer<v1::PrepareResponse> {
        let request = request.into_inner();
        let mut response = v1::PrepareResponse { participant_incarnation: 1, ..Default::default() };
        response.set_vote(v1::Vote::Prepared);
        match &request.payload[..] {
            b"no" => {
                response.set_vote(v1::Vote::No);
                response.reason = "as it was told".to_owned();
            }
            b"hold" => {
                self.held.fetch_add(1, Ordering::SeqCst);
                let mut released = self.released.subscribe();
                let _ = released.wait_for(|released| *released).await;
            }
            b"big" => response.result = vec![b'x'; RESULT_BYTES_MAX].into(),
            _ => response.result = Bytes::from_static(b"done"),
        }
        Ok(Response::new(response))
    }

    async fn pre_commit(&self, _: Request<v1::PreCommitRequest>) -> Answer<v1::PreCommitResponse> {
        Err(Status::unimplemented("two-phase commit only"))
    }

    async fn commit(&self, _: Request<v1::CommitRequest>) -> Answer<v1::CommitResponse> {
        if self.stopped.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        self.committed.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(v1::CommitResponse {}))
    }

    async fn abort(&self, _: Request<v1::AbortRequest>) -> Answer<v1::AbortResponse> {
        Ok(Response::new(v1::AbortResponse {}))
    }

    async fn list_in_doubt(
        &self,
        _: Request<v1::ListInDoubtRequest>,
    ) -> Answer<v1::ListInDoubtResponse> {
        Ok(Response::new(v1::ListInDoubtResponse::default()))
    }

    type SessionStream = tokio_stream::Empty<Result<v1::SessionResponse, Status>>;

    async fn session(
        &self,
        _: Request<Streaming<v1::SessionRequest>>,
    ) -> Answer<Self::SessionStream> {
        Err(Status::unimplemented("unary calls only"))
    }
}
