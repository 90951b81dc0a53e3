//! `ParticipantService` and `PeerService`: from requests to the engine and back.
//!
//! Everything that comes in is checked here, once. What goes to the engine is whole.

use std::sync::{Arc, RwLock};

use bytes::Bytes;
use handfast_commit_core::id::{Incarnation, ParticipantName, Protocol, TransactionId};
use handfast_commit_core::message::{FromParticipant, Report, Vote};
use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_commit_core::three_phase::SiteName;
use handfast_commit_core::two_phase::participant::{OpenBranch, Origin};
use handfast_wire::frames::SessionRequest;
use handfast_wire::frames::participant_service_server::ParticipantService;
use handfast_wire::v1;
use handfast_wire::v1::peer_service_server::PeerService;
use handfast_wire::{convert, site};
use tonic::{Request, Response, Status, Streaming};

use crate::engine::{Engine, Stopped};
use crate::session;
use crate::session_frames::SessionFrames;
use crate::status;

/// The engine, once it is ready, and until it stops.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ready(Arc<RwLock<Option<Arc<Engine>>>>);

impl Ready {
    /// From here on the services answer.
    pub(crate) fn set(&self, engine: Option<Arc<Engine>>) {
        *self.0.write().unwrap_or_else(|error| error.into_inner()) = engine;
    }

    /// The engine, or what to tell a caller.
    pub(crate) fn get(&self) -> Result<Arc<Engine>, Status> {
        let engine = self.0.read().unwrap_or_else(|error| error.into_inner()).clone();
        let engine = engine.ok_or_else(status::starting)?;
        if engine.is_poisoned() {
            return Err(status::draining());
        }
        Ok(engine)
    }
}

/// Both services.
#[derive(Debug, Clone)]
pub(crate) struct ParticipantApi {
    ready: Ready,
}

impl ParticipantApi {
    pub(crate) fn new(ready: Ready) -> Self {
        Self { ready }
    }
}

/// Refuses what is meant for another participant.
pub(crate) fn check_name(ours: &ParticipantName, asked: &str) -> Result<(), Status> {
    if asked == ours.as_str() { Ok(()) } else { Err(status::wrong_participant(ours, asked)) }
}

/// Reads the id of a transaction that is served.
pub(crate) fn served_id(text: &str) -> Result<TransactionId, Status> {
    let id = convert::transaction_id(text).map_err(|error| status::invalid(&error))?;
    check_served(id).map(|()| id)
}

/// Refuses a transaction that is not served.
pub(crate) fn check_served(id: TransactionId) -> Result<(), Status> {
    if served(id) { Ok(()) } else { Err(status::unserved(id)) }
}

/// Refuses a coordinator that speaks of another one's transaction.
pub(crate) fn check_slot(id: TransactionId, origin: &Origin) -> Result<(), Status> {
    if id.slot() == origin.slot || mutant(Mutant::OrdersOfAnySlot) {
        return Ok(());
    }
    Err(status::refused(format!(
        "transaction {id} belongs to slot {}, the sender speaks for slot {}",
        id.slot().0,
        origin.slot.0
    )))
}

/// Whether transactions like this one are served.
pub(crate) fn served(id: TransactionId) -> bool {
    matches!(id.protocol(), Protocol::TwoPhase | Protocol::ThreePhase)
}

fn stopped(_: Stopped) -> Status {
    status::draining()
}

fn origin_of(engine: &Engine, origin: Option<&v1::Origin>) -> Result<Origin, Status> {
    let origin = convert::origin(origin).map_err(|error| status::invalid(&error))?;
    engine.outgoing().heard(origin.slot, &origin.endpoint);
    Ok(origin)
}

fn unexpected(answer: &FromParticipant) -> Status {
    Status::internal(format!("the engine has answered another question: {answer:?}"))
}

/// A branch that somebody else ends, as a message.
pub(crate) fn branch_message(branch: OpenBranch) -> v1::InDoubtBranch {
    let seconds = i64::try_from(branch.since_ms / 1000).unwrap_or(i64::MAX);
    let nanos = (branch.since_ms % 1000) as i32 * 1_000_000;
    let request_id = branch.one_phase.as_ref().and_then(Option::as_ref);
    v1::InDoubtBranch {
        transaction_id: branch.id.to_string(),
        one_phase_committed: branch.one_phase.is_some(),
        request_id: request_id.map(ToString::to_string).unwrap_or_default(),
        since: Some(prost_types::Timestamp { seconds, nanos }),
        waiting_for: branch.waiting_for,
        site: branch.site.as_ref().map(site::status_message),
    }
}

#[tonic::async_trait]
impl ParticipantService for ParticipantApi {
    async fn prepare(
        &self,
        request: Request<v1::PrepareRequest>,
    ) -> Result<Response<v1::PrepareResponse>, Status> {
        let engine = self.ready.get()?;
        let request = request.into_inner();
        check_name(engine.name(), &request.participant)?;
        let id = served_id(&request.transaction_id)?;
        let origin = origin_of(&engine, request.origin.as_ref())?;
        let order = convert::prepare(request).map_err(|error| status::invalid(&error))?;
        match engine.prepare(order, origin).await.map_err(stopped)? {
            FromParticipant::Voted { vote, incarnation, result, .. } => {
                Ok(Response::new(convert::vote_message(vote, incarnation, result)))
            }
            FromParticipant::Refused { .. } if engine.is_draining() => Err(status::draining()),
            FromParticipant::Refused { reason, .. } => Err(status::refused(reason)),
            // The branch was given up while it was being prepared.
            FromParticipant::Aborted { .. } => {
                let reason = format!("transaction {id} was aborted while it was being prepared");
                let vote = Vote::No { reason };
                let vote = convert::vote_message(vote, engine.incarnation(), Bytes::new());
                Ok(Response::new(vote))
            }
            answer @ FromParticipant::Committed { .. } => Err(unexpected(&answer)),
        }
    }

    async fn pre_commit(
        &self,
        request: Request<v1::PreCommitRequest>,
    ) -> Result<Response<v1::PreCommitResponse>, Status> {
        let engine = self.ready.get()?;
        let request = request.into_inner();
        check_name(engine.name(), &request.participant)?;
        let id = served_id(&request.transaction_id)?;
        if !id.is_three_phase() {
            return Err(status::refused(format!("transaction {id} has no PRE_COMMIT")));
        }
        let origin = origin_of(&engine, request.origin.as_ref())?;
        check_slot(id, &origin)?;
        engine.check_epoch(&origin).await.map_err(stopped)?.map_err(status::refused)?;
        let message = v1::SiteOrder {
            transaction_id: request.transaction_id,
            incarnation: request.participant_incarnation,
            kind: v1::SiteOrderKind::PreCommit.into(),
            ballot: request.ballot,
            committed: false,
        };
        let order = site::order(&message).map_err(|error| status::invalid(&error))?;
        match engine.led(SiteName::Coordinator, order).await.map_err(stopped)?.report {
            Report::Moved { ballot } => {
                let promised = ballot.to_number();
                Ok(Response::new(v1::PreCommitResponse { accepted: true, promised }))
            }
            Report::Refused { promised, .. } => {
                let promised = promised.to_number();
                Ok(Response::new(v1::PreCommitResponse { accepted: false, promised }))
            }
            Report::Known { committed } => {
                let outcome = if committed { "committed" } else { "aborted" };
                Err(status::refused(format!("transaction {id} is {outcome} here")))
            }
            _ => Err(status::refused(format!("transaction {id} has not voted here"))),
        }
    }

    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::CommitResponse>, Status> {
        let engine = self.ready.get()?;
        let request = request.into_inner();
        check_name(engine.name(), &request.participant)?;
        let id = served_id(&request.transaction_id)?;
        let origin = origin_of(&engine, request.origin.as_ref())?;
        let incarnation = Incarnation(request.participant_incarnation);
        match engine.commit(id, incarnation, origin).await.map_err(stopped)? {
            FromParticipant::Committed { .. } => Ok(Response::new(v1::CommitResponse {})),
            FromParticipant::Refused { reason, .. } => Err(status::refused(reason)),
            answer => Err(unexpected(&answer)),
        }
    }

    async fn abort(
        &self,
        request: Request<v1::AbortRequest>,
    ) -> Result<Response<v1::AbortResponse>, Status> {
        let engine = self.ready.get()?;
        let request = request.into_inner();
        check_name(engine.name(), &request.participant)?;
        let id = served_id(&request.transaction_id)?;
        let origin = origin_of(&engine, request.origin.as_ref())?;
        match engine.abort(id, origin).await.map_err(stopped)? {
            FromParticipant::Aborted { .. } => Ok(Response::new(v1::AbortResponse {})),
            FromParticipant::Refused { reason, .. } => Err(status::refused(reason)),
            answer => Err(unexpected(&answer)),
        }
    }

    async fn list_in_doubt(
        &self,
        request: Request<v1::ListInDoubtRequest>,
    ) -> Result<Response<v1::ListInDoubtResponse>, Status> {
        let engine = self.ready.get()?;
        let request = request.into_inner();
        check_name(engine.name(), &request.participant)?;
        let only = match request.transaction_id.as_str() {
            "" => None,
            text => Some(convert::transaction_id(text).map_err(|error| status::invalid(&error))?),
        };
        let open = engine.open_branches(only).await.map_err(stopped)?;
        let branches = open.into_iter().map(branch_message).collect();
        Ok(Response::new(v1::ListInDoubtResponse { branches }))
    }

    type SessionStream = SessionFrames;

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let engine = self.ready.get()?;
        if engine.is_draining() {
            return Err(status::draining());
        }
        let frames = session::open(engine, request.into_inner()).await?;
        Ok(Response::new(frames))
    }
}

#[tonic::async_trait]
impl PeerService for ParticipantApi {
    async fn inquire_peer(
        &self,
        request: Request<v1::InquirePeerRequest>,
    ) -> Result<Response<v1::InquirePeerResponse>, Status> {
        let engine = self.ready.get()?;
        let request = request.into_inner();
        check_name(engine.name(), &request.peer)?;
        let inquiry = request.inquiry.ok_or_else(|| {
            status::invalid(&convert::InvalidField::new("inquiry", "is required"))
        })?;
        let id = served_id(&inquiry.transaction_id)?;
        let outcome = engine.peer_asks(id).await.map_err(stopped)?;
        Ok(Response::new(v1::InquirePeerResponse {
            answer: Some(v1::InquiryAnswer {
                transaction_id: id.to_string(),
                outcome: convert::inquiry_outcome(outcome).into(),
            }),
        }))
    }
}
