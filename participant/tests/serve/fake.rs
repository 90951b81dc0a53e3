//! A coordinator that answers as it is told, and notes what it was asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use handfast_wire::v1;
use handfast_wire::v1::coordinator_service_server::{CoordinatorService, CoordinatorServiceServer};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

#[derive(Default)]
pub struct Told {
    pub registrations: Vec<v1::RegisterParticipantRequest>,
    pub inquiries: Vec<v1::InquireRequest>,
    pub enlistments: Vec<v1::EnlistBranchRequest>,
    /// By transaction.
    pub outcomes: BTreeMap<String, v1::InquiryOutcome>,
    /// Of the other transactions; UNAVAILABLE when there is none.
    pub outcome: Option<v1::InquiryOutcome>,
    /// What the next enlistments are answered, before they are accepted.
    pub refusals: Vec<Status>,
    /// Every enlistment is accepted and its answer lost while this is set.
    pub loses_answers: bool,
    pub time_left_ms: i32,
}

#[derive(Clone, Default)]
struct Service(Arc<Mutex<Told>>);

impl Service {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().expect("no test panics here")
    }
}

pub struct FakeCoordinator {
    service: Service,
    pub endpoint: String,
    server: JoinHandle<()>,
}

impl FakeCoordinator {
    pub async fn start() -> Self {
        let service = Service::default();
        service.told().time_left_ms = 60_000;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let serve = tonic::transport::Server::builder()
            .add_service(CoordinatorServiceServer::new(service.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move {
            let _ = serve.await;
        });
        Self { service, endpoint, server }
    }

    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.service.told()
    }

    /// Waits until something holds of what it was told.
    pub async fn until(&self, what: &str, holds: impl Fn(&Told) -> bool) {
        for _ in 0..3000 {
            if holds(&self.told()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what}: not within 30 s");
    }
}

impl Drop for FakeCoordinator {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub fn unknown_participant() -> Status {
    let details = ErrorDetails::with_error_info(
        "UNKNOWN_PARTICIPANT",
        "handfast",
        BTreeMap::new().into_iter().collect::<std::collections::HashMap<String, String>>(),
    );
    Status::with_error_details(tonic::Code::NotFound, "nobody of that name", details)
}

#[tonic::async_trait]
impl CoordinatorService for Service {
    async fn register_participant(
        &self,
        request: Request<v1::RegisterParticipantRequest>,
    ) -> Result<Response<v1::RegisterParticipantResponse>, Status> {
        self.told().registrations.push(request.into_inner());
        Ok(Response::new(v1::RegisterParticipantResponse {
            slot: 0,
            epoch: 1,
            coordinator_incarnation: 77,
        }))
    }

    async fn list_participants(
        &self,
        _: Request<v1::ListParticipantsRequest>,
    ) -> Result<Response<v1::ListParticipantsResponse>, Status> {
        Err(Status::unimplemented("a fake"))
    }

    async fn enlist_branch(
        &self,
        request: Request<v1::EnlistBranchRequest>,
    ) -> Result<Response<v1::EnlistBranchResponse>, Status> {
        let mut told = self.told();
        told.enlistments.push(request.into_inner());
        if told.loses_answers {
            return Err(Status::unavailable("the answer was lost"));
        }
        if !told.refusals.is_empty() {
            return Err(told.refusals.remove(0));
        }
        Ok(Response::new(v1::EnlistBranchResponse {
            origin: Some(crate::site::origin(1)),
            time_left: Some(prost_types::Duration {
                seconds: i64::from(told.time_left_ms / 1000),
                nanos: told.time_left_ms % 1000 * 1_000_000,
            }),
        }))
    }

    async fn inquire(
        &self,
        request: Request<v1::InquireRequest>,
    ) -> Result<Response<v1::InquireResponse>, Status> {
        let request = request.into_inner();
        let mut told = self.told();
        let outcome = told.outcomes.get(&request.transaction_id).copied().or(told.outcome);
        let transaction_id = request.transaction_id.clone();
        told.inquiries.push(request);
        let outcome = outcome.ok_or_else(|| Status::unavailable("silent"))?;
        let answer = v1::InquiryAnswer { transaction_id, outcome: outcome.into() };
        Ok(Response::new(v1::InquireResponse { answer: Some(answer) }))
    }
}
