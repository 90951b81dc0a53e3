//! Between messages of the interface and messages of the core.
//!
//! One function a direction and message. What comes in is checked here and nowhere else; what goes
//! out cannot fail.

use std::time::Duration;

use bytes::Bytes;
use handfast_commit_core::id::{
    Epoch, Incarnation, ParticipantName, RequestId, Sequence, Slot, TransactionId,
};
use handfast_commit_core::limits;
use handfast_commit_core::message::{
    FromParticipant, FromSite, Inquired, Prepare, ToParticipant, ToSite, Vote,
};
use handfast_commit_core::two_phase::participant::Origin;
use prost::Message as _;
use tonic_types::{RetryInfo, pb};

use crate::{site, v1};

/// A field of a request that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidField {
    /// Its name in the request.
    pub field: &'static str,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl InvalidField {
    /// Names a field and what is wrong with it.
    pub fn new(field: &'static str, problem: impl ToString) -> Self {
        Self { field, problem: problem.to_string() }
    }
}

/// Reads a printed transaction id.
///
/// # Errors
/// When it is not one.
pub fn transaction_id(text: &str) -> Result<TransactionId, InvalidField> {
    text.parse().map_err(|error| InvalidField::new("transaction_id", error))
}

/// Reads a participant's name.
///
/// # Errors
/// When it is not one.
pub fn participant_name(text: &str) -> Result<ParticipantName, InvalidField> {
    text.parse().map_err(|error| InvalidField::new("participant", error))
}

/// Reads a request id; empty means none.
///
/// # Errors
/// When it is too long or not printable.
pub fn request_id(text: &str) -> Result<Option<RequestId>, InvalidField> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error| InvalidField::new("request_id", error))
}

/// Reads a duration.
///
/// The conversion that comes with the type negates a negative one, and the most negative number of seconds
/// has no negation: where overflow is checked it would panic.
///
/// # Errors
/// When it is negative or out of range.
pub fn duration(
    field: &'static str,
    given: &prost_types::Duration,
) -> Result<Duration, InvalidField> {
    let given = given.normalized();
    match (u64::try_from(given.seconds), u32::try_from(given.nanos)) {
        (Ok(seconds), Ok(nanos)) => Ok(Duration::new(seconds, nanos)),
        _ => Err(InvalidField::new(field, "is negative or out of range")),
    }
}

/// How long a server asks its client to wait before the next attempt; `None` when it does not say, or says
/// something that makes no sense.
#[must_use]
pub fn retry_delay(status: &tonic::Status) -> Option<Duration> {
    let details = pb::Status::decode(status.details()).ok()?.details;
    let info = details.iter().find(|detail| detail.type_url == RetryInfo::TYPE_URL)?;
    let delay = pb::RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay?;
    duration("retry_delay", &delay).ok()
}

/// Writes a status as a message, for an answer that shares a stream with others: what a unary call has in
/// its headers.
#[must_use]
pub fn status_message(status: &tonic::Status) -> pb::Status {
    // The details of a status are this very message, encoded; what else may be there says nothing to anybody.
    let details = pb::Status::decode(status.details()).unwrap_or_default().details;
    pb::Status { code: status.code().into(), message: status.message().to_owned(), details }
}

/// Reads a status that came as a message.
#[must_use]
pub fn status(message: &pb::Status) -> tonic::Status {
    let details = match message.details.is_empty() {
        true => Bytes::new(),
        false => message.encode_to_vec().into(),
    };
    tonic::Status::with_details(message.code.into(), message.message.as_str(), details)
}

/// Reads the sender of a coordinator's message.
///
/// # Errors
/// When it is absent or out of range.
pub fn origin(origin: Option<&v1::Origin>) -> Result<Origin, InvalidField> {
    let Some(origin) = origin else {
        return Err(InvalidField::new("origin", "is required"));
    };
    let slot = u16::try_from(origin.slot)
        .map_err(|_| InvalidField::new("origin.slot", "is at most 65535"))?;
    if origin.epoch > Epoch::MAX.0 {
        return Err(InvalidField::new("origin.epoch", "has at most 40 bits"));
    }
    Ok(Origin {
        slot: Slot(slot),
        epoch: Epoch(origin.epoch),
        incarnation: Incarnation(origin.coordinator_incarnation),
        lowest_live: Sequence(origin.lowest_live_sequence),
        endpoint: origin.coordinator_endpoint.as_str().into(),
    })
}

/// Writes the sender of a coordinator's message.
#[must_use]
pub fn origin_message(origin: &Origin) -> v1::Origin {
    v1::Origin {
        slot: u32::from(origin.slot.0),
        epoch: origin.epoch.0,
        coordinator_incarnation: origin.incarnation.0,
        lowest_live_sequence: origin.lowest_live.0,
        coordinator_endpoint: origin.endpoint.to_string(),
    }
}

/// What a participant is asked to prepare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrepareOrder {
    /// For the core.
    pub prepare: Prepare,
    /// Where the peers are.
    pub peers: Vec<(ParticipantName, String)>,
}

/// Reads a PREPARE.
///
/// # Errors
/// Names the field that cannot be accepted.
pub fn prepare(request: v1::PrepareRequest) -> Result<PrepareOrder, InvalidField> {
    let id = transaction_id(&request.transaction_id)?;
    let request_id = request_id(&request.request_id)?;
    if request.payload.len() > limits::PAYLOAD_BYTES_MAX {
        return Err(InvalidField::new(
            "payload",
            format!("has {} bytes, at most 1048576 are accepted", request.payload.len()),
        ));
    }
    if request.peers.len() >= limits::BRANCHES_MAX {
        return Err(InvalidField::new("peers", "are at most 255"));
    }
    let peers: Vec<_> = request
        .peers
        .into_iter()
        .map(|peer| Ok((participant_name(&peer.participant)?, peer.endpoint)))
        .collect::<Result<_, InvalidField>>()?;
    let voting = match &request.voting {
        Some(voting) => Some(Box::new(site::voting(voting, &request.participant)?)),
        None => None,
    };
    let prepare = Prepare {
        id,
        work: request.carries_work.then_some(request.payload),
        peers: peers.iter().map(|(name, _)| name.clone()).collect(),
        one_phase: request.one_phase,
        request_id,
        voting,
    };
    Ok(PrepareOrder { prepare, peers })
}

/// Writes a message to a participant. `endpoint_of` tells where a peer is.
#[must_use]
pub fn coordinator_message(
    to: &ParticipantName,
    message: ToParticipant,
    origin: Option<&v1::Origin>,
    endpoint_of: impl Fn(&ParticipantName) -> String,
) -> v1::CoordinatorMessage {
    use v1::coordinator_message::Message;
    let origin = origin.cloned();
    let participant = to.to_string();
    let message = match message {
        ToParticipant::Prepare(prepare) => Message::Prepare(v1::PrepareRequest {
            transaction_id: prepare.id.to_string(),
            origin,
            carries_work: prepare.work.is_some(),
            payload: prepare.work.unwrap_or_default(),
            peers: prepare
                .peers
                .iter()
                .map(|peer| v1::Peer { participant: peer.to_string(), endpoint: endpoint_of(peer) })
                .collect(),
            one_phase: prepare.one_phase,
            request_id: prepare.request_id.map(|id| id.to_string()).unwrap_or_default(),
            participant,
            voting: prepare.voting.as_ref().map(|voting| site::voting_message(&voting.sites)),
        }),
        ToParticipant::Commit { id, incarnation } => Message::Commit(v1::CommitRequest {
            transaction_id: id.to_string(),
            origin,
            participant_incarnation: incarnation.0,
            participant,
        }),
        ToParticipant::Abort { id } => {
            Message::Abort(v1::AbortRequest { transaction_id: id.to_string(), origin, participant })
        }
        ToParticipant::Forget { id } => {
            Message::Forget(v1::ForgetRequest { transaction_id: id.to_string(), participant })
        }
        ToParticipant::Answer { id, outcome } => Message::InquiryAnswer(v1::InquiryAnswer {
            transaction_id: id.to_string(),
            outcome: inquiry_outcome(outcome).into(),
        }),
    };
    v1::CoordinatorMessage { message: Some(message) }
}

/// Writes an order of the coordinator, as the leader of a three-phase transaction.
#[must_use]
pub fn order_message(order: &ToSite) -> v1::CoordinatorMessage {
    let message = v1::coordinator_message::Message::Order(site::order_message(order));
    v1::CoordinatorMessage { message: Some(message) }
}

/// Writes a site's answer to its coordinator as a frame's message.
#[must_use]
pub fn report_message(report: &FromSite) -> v1::ParticipantMessage {
    let message = v1::participant_message::Message::Report(site::report_message(report));
    v1::ParticipantMessage { transaction_id: report.id.to_string(), message: Some(message) }
}

/// What a participant says in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromSession {
    /// An answer.
    Message(FromParticipant),
    /// A question.
    Inquiry {
        /// About which transaction.
        id: TransactionId,
        /// Of the coordinator's log that it was prepared under.
        incarnation: Incarnation,
    },
    /// The answer of a voting site to the coordinator's order.
    Report(FromSite),
}

/// Reads a message of a participant.
///
/// # Errors
/// Names the field that cannot be accepted.
pub fn participant_message(message: v1::ParticipantMessage) -> Result<FromSession, InvalidField> {
    use v1::participant_message::Message;
    let id = transaction_id(&message.transaction_id)?;
    let message = match message.message {
        Some(Message::Vote(vote)) => return Ok(FromSession::Message(voted(id, vote)?)),
        Some(Message::Committed(_)) => FromParticipant::Committed { id },
        Some(Message::Aborted(_)) => FromParticipant::Aborted { id },
        Some(Message::Refusal(refusal)) => FromParticipant::Refused {
            id,
            reason: limits::cut(&refusal.reason, limits::REASON_BYTES_MAX).to_owned(),
        },
        Some(Message::Inquire(inquiry)) => {
            let incarnation = Incarnation(inquiry.coordinator_incarnation);
            return Ok(FromSession::Inquiry { id, incarnation });
        }
        Some(Message::Report(report)) => {
            return Ok(FromSession::Report(site::report(&report)?));
        }
        None => return Err(InvalidField::new("message", "is required")),
    };
    Ok(FromSession::Message(message))
}

/// Reads a vote.
///
/// # Errors
/// When the vote is unspecified or its id malformed.
pub fn voted(
    id: TransactionId,
    response: v1::PrepareResponse,
) -> Result<FromParticipant, InvalidField> {
    let vote = match response.vote() {
        v1::Vote::Prepared => Vote::Prepared,
        v1::Vote::ReadOnly => Vote::ReadOnly,
        v1::Vote::No => {
            Vote::No { reason: limits::cut(&response.reason, limits::REASON_BYTES_MAX).to_owned() }
        }
        v1::Vote::Committed => {
            let earlier = match response.committed_transaction_id.as_str() {
                "" => None,
                text => Some(transaction_id(text)?),
            };
            Vote::Committed { earlier }
        }
        v1::Vote::Unspecified => return Err(InvalidField::new("vote", "is required")),
    };
    let incarnation = Incarnation(response.participant_incarnation);
    if response.result.len() > limits::PAYLOAD_BYTES_MAX {
        return Err(InvalidField::new("result", "has more than 1048576 bytes"));
    }
    Ok(FromParticipant::Voted { id, vote, incarnation, result: response.result })
}

/// Writes a vote.
#[must_use]
pub fn vote_message(vote: Vote, incarnation: Incarnation, result: Bytes) -> v1::PrepareResponse {
    let mut response = v1::PrepareResponse {
        participant_incarnation: incarnation.0,
        result,
        ..Default::default()
    };
    let vote = match vote {
        Vote::Prepared => v1::Vote::Prepared,
        Vote::ReadOnly => v1::Vote::ReadOnly,
        Vote::No { reason } => {
            response.reason = reason;
            v1::Vote::No
        }
        Vote::Committed { earlier } => {
            response.committed_transaction_id =
                earlier.map(|id| id.to_string()).unwrap_or_default();
            v1::Vote::Committed
        }
    };
    response.set_vote(vote);
    response
}

/// Writes a participant's answer as a frame's message.
#[must_use]
pub fn session_message(message: FromParticipant) -> v1::ParticipantMessage {
    use v1::participant_message::Message;
    let transaction_id = message.id().to_string();
    let message = match message {
        FromParticipant::Voted { vote, incarnation, result, .. } => {
            Message::Vote(vote_message(vote, incarnation, result))
        }
        FromParticipant::Committed { .. } => Message::Committed(v1::CommitResponse {}),
        FromParticipant::Aborted { .. } => Message::Aborted(v1::AbortResponse {}),
        FromParticipant::Refused { reason, .. } => {
            Message::Refusal(v1::Refusal { code: tonic::Code::FailedPrecondition.into(), reason })
        }
    };
    v1::ParticipantMessage { transaction_id, message: Some(message) }
}

/// Reads the answer to an inquiry.
///
/// # Errors
/// When it is absent or says nothing.
pub fn inquired(
    answer: Option<&v1::InquiryAnswer>,
) -> Result<(TransactionId, Inquired), InvalidField> {
    let Some(answer) = answer else {
        return Err(InvalidField::new("answer", "is required"));
    };
    let outcome = match answer.outcome() {
        v1::InquiryOutcome::Commit => Inquired::Commit,
        v1::InquiryOutcome::Abort => Inquired::Abort,
        v1::InquiryOutcome::Pending => Inquired::Pending,
        v1::InquiryOutcome::Retry => Inquired::Retry,
        v1::InquiryOutcome::NotOwner => Inquired::NotOwner,
        v1::InquiryOutcome::NoInformation => Inquired::NoInformation,
        v1::InquiryOutcome::Unspecified => {
            return Err(InvalidField::new("answer.outcome", "is required"));
        }
    };
    Ok((transaction_id(&answer.transaction_id)?, outcome))
}

/// Writes the answer to an inquiry.
#[must_use]
pub fn inquiry_outcome(outcome: Inquired) -> v1::InquiryOutcome {
    match outcome {
        Inquired::Commit => v1::InquiryOutcome::Commit,
        Inquired::Abort => v1::InquiryOutcome::Abort,
        Inquired::Pending => v1::InquiryOutcome::Pending,
        Inquired::Retry => v1::InquiryOutcome::Retry,
        Inquired::NotOwner => v1::InquiryOutcome::NotOwner,
        Inquired::NoInformation => v1::InquiryOutcome::NoInformation,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use handfast_commit_core::message::{Order, Report, Voting};
    use handfast_commit_core::three_phase::{Ballot, SiteNumber, Sites, Witness};
    use tonic::Code;
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    const ID: &str = "0007-02-0000000012-00000000000004d2";

    #[test]
    fn answers_survive_the_wire() {
        let id: TransactionId = ID.parse().expect("an id");
        let vote = |vote| FromParticipant::Voted {
            id,
            vote,
            incarnation: Incarnation(7),
            result: Bytes::from_static(b"result"),
        };
        for message in [
            vote(Vote::Prepared),
            vote(Vote::ReadOnly),
            vote(Vote::No { reason: "no".into() }),
            vote(Vote::Committed { earlier: None }),
            vote(Vote::Committed { earlier: Some(id) }),
            FromParticipant::Committed { id },
            FromParticipant::Aborted { id },
            FromParticipant::Refused { id, reason: "why".into() },
        ] {
            let back = participant_message(session_message(message.clone()));
            assert_eq!(back, Ok(FromSession::Message(message)));
        }
    }

    #[test]
    fn what_voting_sites_say_over_a_session_survives_it() {
        let id = ID.parse().expect("an id");
        let sent = FromSite { id, report: Report::Moved { ballot: Ballot::FIRST } };
        assert_eq!(participant_message(report_message(&sent)), Ok(FromSession::Report(sent)));
        let sent = ToSite { id, incarnation: Incarnation(7), order: Order::Forget };
        let Some(v1::coordinator_message::Message::Order(order)) = order_message(&sent).message
        else {
            panic!("not an order")
        };
        assert_eq!(site::order(&order), Ok(sent));
    }

    #[test]
    fn a_prepare_survives_the_wire() {
        let to: ParticipantName = "a".parse().expect("a name");
        let peer: ParticipantName = "b".parse().expect("a name");
        let participants = [&to, &peer].map(|name| (name.clone(), Incarnation(3))).to_vec();
        let witness = Witness { name: "w".parse().expect("a name"), endpoint: "http://w".into() };
        let sites = Sites::new(participants, vec![witness]);
        let voting = Voting { sites, own: SiteNumber(1) };
        let sent = Prepare {
            id: ID.parse().expect("an id"),
            work: Some(Bytes::new()),
            peers: vec![peer.clone()],
            one_phase: true,
            request_id: Some("r".parse().expect("a request id")),
            voting: Some(Box::new(voting)),
        };
        let endpoint = |name: &ParticipantName| format!("http://{name}");
        let message = ToParticipant::Prepare(sent.clone());
        let Some(v1::coordinator_message::Message::Prepare(request)) =
            coordinator_message(&to, message, None, endpoint).message
        else {
            panic!("not a prepare")
        };
        assert_eq!(request.participant, "a");
        let order = prepare(request).expect("valid");
        assert_eq!(order.prepare, sent);
        assert_eq!(order.peers, [(peer, "http://b".to_owned())]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let request = v1::PrepareRequest { transaction_id: ID.into(), ..Default::default() };
        let too_long = v1::PrepareRequest {
            payload: vec![0; limits::PAYLOAD_BYTES_MAX + 1].into(),
            carries_work: true,
            ..request.clone()
        };
        assert_eq!(prepare(too_long).map_err(|error| error.field), Err("payload"));
        let name = v1::PrepareRequest {
            peers: vec![v1::Peer { participant: "A".into(), endpoint: String::new() }],
            ..request
        };
        assert_eq!(prepare(name).map_err(|error| error.field), Err("participant"));
        assert_eq!(origin(None).map_err(|error| error.field), Err("origin"));
        let vote = v1::PrepareResponse::default();
        let id = ID.parse().expect("an id");
        assert_eq!(voted(id, vote).map_err(|error| error.field), Err("vote"));
    }

    #[test]
    fn a_status_survives_the_wire() {
        let mut details = ErrorDetails::with_error_info("STARTING", "handfast", HashMap::new());
        details.set_retry_info(Some(Duration::from_millis(100)));
        let sent = tonic::Status::with_error_details(Code::Unavailable, "not yet", details);
        let read = status(&status_message(&sent));
        assert_eq!((read.code(), read.message()), (Code::Unavailable, "not yet"));
        let reason =
            |status: &tonic::Status| status.get_details_error_info().map(|info| info.reason);
        assert_eq!(reason(&read).as_deref(), Some("STARTING"));
        assert_eq!(retry_delay(&read), Some(Duration::from_millis(100)));
        assert_eq!(read.details(), sent.details());
        let read = status(&status_message(&tonic::Status::internal("bare")));
        assert_eq!((read.code(), read.message()), (Code::Internal, "bare"));
        assert!(read.details().is_empty());
        let garbage =
            tonic::Status::with_details(Code::Aborted, "why", Bytes::from_static(b"\xff"));
        assert_eq!(status_message(&garbage).details, []);
        let strange = pb::Status { code: 99, ..Default::default() };
        assert_eq!(status(&strange).code(), Code::Unknown);
    }

    #[test]
    fn a_duration_of_any_size_is_read_or_refused() {
        let read = |seconds, nanos| {
            duration("timeout", &prost_types::Duration { seconds, nanos })
                .map_err(|error| error.field)
        };
        assert_eq!(read(0, 0), Ok(Duration::ZERO));
        assert_eq!(read(2, -1), Ok(Duration::new(1, 999_999_999)));
        assert_eq!(read(1, 1_500_000_000), Ok(Duration::new(2, 500_000_000)));
        assert_eq!(read(i64::MAX, i32::MAX), Ok(Duration::new(i64::MAX as u64, 999_999_999)));
        for (seconds, nanos) in
            [(-1, 0), (0, -1), (i64::MIN, 0), (i64::MIN, i32::MIN), (i64::MIN, 1)]
        {
            assert_eq!(read(seconds, nanos), Err("timeout"), "{seconds} {nanos}");
        }
    }

    #[test]
    fn a_delay_that_makes_no_sense_is_none() {
        let delay = |seconds| {
            let retry_delay = Some(prost_types::Duration { seconds, nanos: 0 });
            let info = prost_types::Any {
                type_url: RetryInfo::TYPE_URL.to_owned(),
                value: pb::RetryInfo { retry_delay }.encode_to_vec(),
            };
            let details = pb::Status { details: vec![info], ..Default::default() }.encode_to_vec();
            super::retry_delay(&tonic::Status::with_details(
                tonic::Code::Unavailable,
                "",
                details.into(),
            ))
        };
        assert_eq!(delay(3), Some(Duration::from_secs(3)));
        assert_eq!(delay(i64::MIN), None);
        assert_eq!(retry_delay(&tonic::Status::unavailable("no details")), None);
    }
}
