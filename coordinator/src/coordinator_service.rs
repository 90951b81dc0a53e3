//! `CoordinatorService`: what participants call.

use std::sync::Arc;

use handfast_commit_core::id::{Incarnation, ParticipantName};
use handfast_commit_core::message::Inquired;
use handfast_commit_core::two_phase::coordinator::{ClientRefusal, Inquiry, Reply};
use handfast_wire::convert;
use handfast_wire::v1;
use handfast_wire::v1::coordinator_service_server::CoordinatorService;
use tonic::transport::Uri;
use tonic::{Request, Response, Status};

use crate::engine::Engine;
use crate::ready::Ready;
use crate::status::{self, StatusOf};
use crate::transaction_service::page_size;
use crate::view;

/// Most bytes of an endpoint.
const ENDPOINT_BYTES_MAX: usize = 256;

/// Serves participants once the engine is there.
#[derive(Debug, Clone)]
pub struct CoordinatorApi {
    ready: Ready,
}

impl CoordinatorApi {
    /// Before the engine has read its log, inquiries are answered with RETRY, and everything else with
    /// UNAVAILABLE.
    #[must_use]
    pub fn new(ready: Ready) -> Self {
        Self { ready }
    }

    fn engine(&self) -> Result<&Arc<Engine>, Status> {
        self.ready.get().ok_or_else(status::starting)
    }
}

fn participant(text: &str) -> Result<ParticipantName, Status> {
    convert::participant_name(text).map_err(|error| status::invalid(&error))
}

/// Checks an endpoint: `http://host:port`.
pub(crate) fn endpoint(text: String) -> Result<String, Status> {
    let problem = if text.len() > ENDPOINT_BYTES_MAX {
        Some("has more than 256 bytes".to_owned())
    } else {
        match text.parse::<Uri>() {
            Ok(uri) if uri.scheme_str() == Some("http") && uri.port_u16().is_some() => None,
            _ => Some(format!("{text:?} is no endpoint; one looks like http://127.0.0.1:7501")),
        }
    };
    match problem {
        Some(problem) => Err(status::invalid_field("endpoint", problem)),
        None => Ok(text),
    }
}

#[tonic::async_trait]
impl CoordinatorService for CoordinatorApi {
    async fn register_participant(
        &self,
        request: Request<v1::RegisterParticipantRequest>,
    ) -> Result<Response<v1::RegisterParticipantResponse>, Status> {
        let engine = self.engine()?;
        let request = request.into_inner();
        let name = participant(&request.participant)?;
        let endpoint = endpoint(request.endpoint)?;
        let incarnation = Incarnation(request.participant_incarnation);
        engine.register(name, endpoint, incarnation).await.map_err(StatusOf::from)?;
        let identity = engine.identity();
        Ok(Response::new(v1::RegisterParticipantResponse {
            slot: u32::from(identity.slot.0),
            epoch: identity.epoch.0,
            coordinator_incarnation: identity.incarnation.0,
        }))
    }

    async fn list_participants(
        &self,
        request: Request<v1::ListParticipantsRequest>,
    ) -> Result<Response<v1::ListParticipantsResponse>, Status> {
        let engine = self.engine()?;
        let request = request.into_inner();
        let size = page_size(request.page_size)?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(|_| {
                status::invalid_field("page_token", "is not one that this service gave out")
            })?),
        };
        let page = engine.registry().list(after.as_ref(), size + 1);
        let next_page_token = match page.get(size.wrapping_sub(1)) {
            Some((name, _)) if page.len() > size => name.to_string(),
            _ => String::new(),
        };
        let mut participants = Vec::with_capacity(page.len().min(size));
        for (name, registration) in page.into_iter().take(size) {
            let undelivered = engine.undelivered_to(&name).await.map_err(StatusOf::from)?;
            participants.push(v1::RegisteredParticipant {
                participant: name.to_string(),
                endpoint: registration.endpoint,
                registered_at: view::at(registration.registered_ms),
                connected: engine.links().is_connected(&name),
                undelivered: undelivered as u64,
            });
        }
        Ok(Response::new(v1::ListParticipantsResponse { participants, next_page_token }))
    }

    async fn enlist_branch(
        &self,
        request: Request<v1::EnlistBranchRequest>,
    ) -> Result<Response<v1::EnlistBranchResponse>, Status> {
        let engine = self.engine()?;
        let request = request.into_inner();
        let name = participant(&request.participant)?;
        let id = convert::transaction_id(&request.transaction_id)
            .map_err(|error| status::invalid(&error))?;
        if !engine.registry().contains(&name) {
            return Err(status::unknown_participant(name.as_str()));
        }
        let identity = engine.identity();
        if id.slot() != identity.slot {
            let message = format!("transaction {id} belongs to another coordinator");
            return Err(status::status(tonic::Code::FailedPrecondition, "NOT_OWNER", message));
        }
        if id.epoch() != identity.epoch {
            return Err(status::refused(&ClientRefusal::Over { id }));
        }
        let incarnation = Incarnation(request.participant_incarnation);
        let reply = engine
            .enlist(id, name, incarnation, request.enlistment)
            .await
            .map_err(StatusOf::from)?;
        match reply {
            Reply::Enlisted { time_left_us } => Ok(Response::new(v1::EnlistBranchResponse {
                origin: Some(engine.origin()),
                time_left: view::duration(time_left_us.max(1)),
            })),
            Reply::Refused(refusal) => Err(status::refused(&refusal)),
            _ => Err(Status::internal("the engine has answered another question")),
        }
    }

    async fn inquire(
        &self,
        request: Request<v1::InquireRequest>,
    ) -> Result<Response<v1::InquireResponse>, Status> {
        let request = request.into_inner();
        let id = convert::transaction_id(&request.transaction_id)
            .map_err(|error| status::invalid(&error))?;
        let participant = participant(&request.participant)?;
        let outcome = match self.ready.get() {
            // The log is being read: whatever it will say, nothing may be presumed now.
            None => Inquired::Retry,
            Some(engine) => {
                let incarnation = Incarnation(request.coordinator_incarnation);
                let inquiry = Inquiry { id, incarnation, participant };
                match engine.inquire(inquiry).await.map_err(StatusOf::from)? {
                    Reply::Inquired(outcome) => outcome,
                    _ => return Err(Status::internal("the engine has answered another question")),
                }
            }
        };
        Ok(Response::new(v1::InquireResponse {
            answer: Some(v1::InquiryAnswer {
                transaction_id: id.to_string(),
                outcome: convert::inquiry_outcome(outcome).into(),
            }),
        }))
    }
}
