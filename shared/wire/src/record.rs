//! Between the core's records and the bytes that a journal keeps.
//!
//! The keys are made here as well, so that every backend stores the same entries: a transaction's
//! under the 16 bytes of its id, a participant's registration under its name.

use std::sync::Arc;

use handfast_commit_core::id::{
    Epoch, Incarnation, ParticipantName, RequestId, Sequence, Slot, TransactionId,
};
use handfast_commit_core::record::{
    AbortCause, AbortReason, Commit, CoordinatorRecord, Ended, Info, OnePhaseCommit,
    ParticipantRecord, PreparedBranch, Request,
};
use prost::Message;

use crate::{site_record, storage};

/// An entry of a journal that cannot be what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the journal's entry {key} is damaged: {problem}; restore the folder from a copy, nothing else is safe"
)]
pub struct DamagedRecord {
    /// The entry's key: an id or a name, or its bytes in hexadecimal.
    pub key: String,
    /// What is wrong with it.
    pub problem: String,
}

pub(crate) fn damaged(key: &[u8], problem: impl ToString) -> DamagedRecord {
    let key = match TransactionId::from_bytes(key) {
        Ok(id) => id.to_string(),
        Err(_) => key.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    DamagedRecord { key, problem: problem.to_string() }
}

fn id_of(key: &[u8]) -> Result<TransactionId, DamagedRecord> {
    id_in(key, key)
}

/// Reads the id that is the value of an entry.
///
/// # Errors
/// When it is none.
pub fn id_in(key: &[u8], value: &[u8]) -> Result<TransactionId, DamagedRecord> {
    TransactionId::from_bytes(value).map_err(|error| damaged(key, error))
}

pub(crate) fn name(key: &[u8], text: &str) -> Result<ParticipantName, DamagedRecord> {
    text.parse().map_err(|error| damaged(key, error))
}

pub(crate) fn request(key: &[u8], text: &str) -> Result<Option<RequestId>, DamagedRecord> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error| damaged(key, error))
}

pub(crate) fn info_message(
    info: &Info,
    started_ms: u64,
    decided_ms: u64,
) -> storage::TransactionInfo {
    storage::TransactionInfo {
        summary: info.summary.clone(),
        labels: info
            .labels
            .iter()
            .map(|(key, value)| storage::Label { key: key.clone(), value: value.clone() })
            .collect(),
        traceparent: info.traceparent.clone(),
        started_at_ms: started_ms,
        decided_at_ms: decided_ms,
    }
}

pub(crate) fn info(message: &storage::TransactionInfo) -> Arc<Info> {
    Arc::new(Info {
        summary: message.summary.clone(),
        labels: message
            .labels
            .iter()
            .map(|label| (label.key.clone(), label.value.clone()))
            .collect(),
        traceparent: message.traceparent.clone(),
    })
}

/// The bytes of a decision; its key is the transaction's id.
#[must_use]
pub fn encode_commit(commit: &Commit) -> Vec<u8> {
    let record = storage::CommitDecision {
        voters: commit
            .voters
            .iter()
            .map(|(name, incarnation)| storage::Voter {
                participant: name.to_string(),
                incarnation: incarnation.0,
            })
            .collect(),
        request_id: commit.request.as_ref().map(|r| r.id.to_string()).unwrap_or_default(),
        fingerprint: commit.request.as_ref().map_or(0, |request| request.fingerprint),
        info: Some(info_message(&commit.info, commit.started_ms, commit.decided_ms)),
    };
    let record = storage::coordinator_record::Record::Commit(record);
    storage::CoordinatorRecord { record: Some(record) }.encode_to_vec()
}

/// The bytes of an end; its key is the transaction's id.
#[must_use]
pub fn encode_ended(ended: &Ended) -> Vec<u8> {
    let (abort_cause, abort_participant, abort_message) = abort_fields(&ended.outcome);
    let record = storage::Ended {
        committed: ended.outcome.is_ok(),
        abort_cause,
        abort_participant,
        abort_message,
        request_id: ended.request.as_ref().map(|r| r.id.to_string()).unwrap_or_default(),
        fingerprint: ended.request.as_ref().map_or(0, |request| request.fingerprint),
        participants: ended.participants.iter().map(ToString::to_string).collect(),
        info: Some(info_message(&ended.info, ended.started_ms, 0)),
        ended_at_ms: ended.ended_ms,
    };
    let record = storage::coordinator_record::Record::Ended(record);
    storage::CoordinatorRecord { record: Some(record) }.encode_to_vec()
}

/// Reads a decision.
///
/// # Errors
/// When the entry is none.
pub fn decode_commit(key: &[u8], value: &[u8]) -> Result<Commit, DamagedRecord> {
    let id = id_of(key)?;
    let record = storage::CoordinatorRecord::decode(value).map_err(|error| damaged(key, error))?;
    match record.record {
        Some(storage::coordinator_record::Record::Commit(commit)) => read_commit(key, id, commit),
        _ => Err(damaged(key, "it is no decision")),
    }
}

fn read_commit(
    key: &[u8],
    id: TransactionId,
    commit: storage::CommitDecision,
) -> Result<Commit, DamagedRecord> {
    let voters = commit
        .voters
        .iter()
        .map(|voter| Ok((name(key, &voter.participant)?, Incarnation(voter.incarnation))))
        .collect::<Result<Vec<_>, _>>()?;
    if voters.is_empty() {
        return Err(damaged(key, "it names no voter"));
    }
    let fingerprint = commit.fingerprint;
    let message = commit.info.unwrap_or_default();
    Ok(Commit {
        id,
        voters,
        request: request(key, &commit.request_id)?.map(|id| Request { id, fingerprint }),
        info: info(&message),
        started_ms: message.started_at_ms,
        decided_ms: message.decided_at_ms,
    })
}

/// Reads an end.
///
/// # Errors
/// When the entry is none.
pub fn decode_ended(key: &[u8], value: &[u8]) -> Result<Ended, DamagedRecord> {
    let id = id_of(key)?;
    let record = storage::CoordinatorRecord::decode(value).map_err(|error| damaged(key, error))?;
    let Some(storage::coordinator_record::Record::Ended(ended)) = record.record else {
        return Err(damaged(key, "it is no end of a transaction"));
    };
    let outcome = if ended.committed {
        Ok(())
    } else {
        Err(abort_reason(key, ended.abort_cause, &ended.abort_participant, ended.abort_message)?)
    };
    let fingerprint = ended.fingerprint;
    let message = ended.info.unwrap_or_default();
    Ok(Ended {
        id,
        outcome,
        request: request(key, &ended.request_id)?.map(|id| Request { id, fingerprint }),
        participants: ended
            .participants
            .iter()
            .map(|text| name(key, text))
            .collect::<Result<_, _>>()?,
        info: info(&message),
        started_ms: message.started_at_ms,
        ended_ms: ended.ended_at_ms,
        decision_logged: true,
    })
}

/// Why a transaction aborted, as records keep it: cause, participant, sentence.
pub(crate) fn abort_fields(outcome: &Result<(), AbortReason>) -> (u32, String, String) {
    let Err(reason) = outcome else {
        return Default::default();
    };
    let participant = reason.participant.as_ref().map(ToString::to_string).unwrap_or_default();
    (cause_number(reason.cause), participant, reason.message.clone())
}

pub(crate) fn abort_reason(
    key: &[u8],
    cause: u32,
    participant: &str,
    message: String,
) -> Result<AbortReason, DamagedRecord> {
    Ok(AbortReason {
        cause: self::cause(cause).ok_or_else(|| damaged(key, "no abort has this cause"))?,
        participant: match participant {
            "" => None,
            text => Some(name(key, text)?),
        },
        message,
    })
}

/// Reads a coordinator's entry of a transaction that is not over, or that it is a witness of.
///
/// # Errors
/// When the entry is none.
pub fn decode_live(key: &[u8], value: &[u8]) -> Result<CoordinatorRecord, DamagedRecord> {
    use storage::coordinator_record::Record;
    let id = id_of(key)?;
    let record = storage::CoordinatorRecord::decode(value).map_err(|error| damaged(key, error))?;
    Ok(match record.record {
        Some(Record::Voting(voting)) => {
            CoordinatorRecord::Voting(site_record::read_voting(key, id, voting)?)
        }
        Some(Record::Decision(decision)) => {
            CoordinatorRecord::Decision(site_record::read_decision(key, id, decision)?)
        }
        Some(Record::Witness(witness)) => {
            CoordinatorRecord::Witness(site_record::read_witness(key, id, witness)?)
        }
        Some(Record::Commit(commit)) => CoordinatorRecord::Commit(read_commit(key, id, commit)?),
        Some(Record::Ended(_)) | None => {
            return Err(damaged(key, "it is of a kind that this version does not know here"));
        }
    })
}

/// The number of a cause: that of `handfast.v1.AbortCause`.
#[must_use]
pub fn cause_number(cause: AbortCause) -> u32 {
    match cause {
        AbortCause::Client => 1,
        AbortCause::VotedNo => 2,
        AbortCause::Timeout => 3,
        AbortCause::Presumed => 4,
        AbortCause::Unreachable => 5,
    }
}

fn cause(number: u32) -> Option<AbortCause> {
    Some(match number {
        1 => AbortCause::Client,
        2 => AbortCause::VotedNo,
        3 => AbortCause::Timeout,
        4 => AbortCause::Presumed,
        5 => AbortCause::Unreachable,
        _ => return None,
    })
}

/// What a participant's record does to its journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParticipantWrite {
    /// An entry of a transaction, under its id.
    Put(TransactionId, Vec<u8>),
    /// The entry of a transaction goes.
    Delete(TransactionId),
    /// What is known of a slot.
    Slot(Slot, Vec<u8>),
}

/// The bytes of a participant's record.
#[must_use]
pub fn encode_participant(record: &ParticipantRecord) -> ParticipantWrite {
    use storage::participant_record::Record;
    let (id, record) = match record {
        ParticipantRecord::Prepared(branch) => (
            branch.id,
            Record::Prepared(storage::PreparedBranch {
                epoch: branch.id.epoch().0,
                coordinator_incarnation: branch.coordinator_incarnation.0,
                coordinator_endpoint: branch.coordinator_endpoint.to_string(),
                peers: peer_messages(&branch.peers),
                result: branch.result.to_vec(),
                since_ms: branch.since_ms,
            }),
        ),
        ParticipantRecord::Finished { id, committed } => {
            (*id, Record::Finished(storage::FinishedBranch { committed: *committed }))
        }
        ParticipantRecord::OnePhase(commit) => (
            commit.id,
            Record::OnePhase(storage::OnePhaseCommit {
                request_id: commit.request_id.as_ref().map(ToString::to_string).unwrap_or_default(),
                result: commit.result.to_vec(),
                since_ms: commit.since_ms,
            }),
        ),
        ParticipantRecord::Voted(branch) => (branch.id, site_record::voted_record(branch)),
        ParticipantRecord::Decided(branch) => (branch.id, site_record::decided_record(branch)),
        ParticipantRecord::Forgotten { id } => return ParticipantWrite::Delete(*id),
        ParticipantRecord::SlotSeen { slot, epoch, lowest_live } => {
            let meta = storage::SlotMeta { epoch: epoch.0, lowest_live_sequence: lowest_live.0 };
            return ParticipantWrite::Slot(*slot, meta.encode_to_vec());
        }
    };
    let record = storage::ParticipantRecord { record: Some(record) };
    ParticipantWrite::Put(id, record.encode_to_vec())
}

/// Reads a participant's entry of a transaction.
///
/// # Errors
/// When the entry is none.
pub fn decode_participant(key: &[u8], value: &[u8]) -> Result<ParticipantRecord, DamagedRecord> {
    use storage::participant_record::Record;
    let id = id_of(key)?;
    let record = storage::ParticipantRecord::decode(value).map_err(|error| damaged(key, error))?;
    Ok(match record.record {
        Some(Record::Prepared(branch)) => ParticipantRecord::Prepared(PreparedBranch {
            id,
            coordinator_incarnation: Incarnation(branch.coordinator_incarnation),
            coordinator_endpoint: branch.coordinator_endpoint.into(),
            peers: peers(key, branch.peers)?,
            result: branch.result.into(),
            since_ms: branch.since_ms,
        }),
        Some(Record::Finished(finished)) => {
            ParticipantRecord::Finished { id, committed: finished.committed }
        }
        Some(Record::OnePhase(commit)) => ParticipantRecord::OnePhase(OnePhaseCommit {
            id,
            request_id: request(key, &commit.request_id)?,
            result: commit.result.into(),
            since_ms: commit.since_ms,
        }),
        Some(Record::Voted(branch)) => {
            ParticipantRecord::Voted(site_record::read_voted(key, id, branch)?)
        }
        Some(Record::Decided(branch)) => {
            ParticipantRecord::Decided(site_record::read_decided(key, id, branch)?)
        }
        None => return Err(damaged(key, "it is of a kind that this version does not know")),
    })
}

pub(crate) fn peer_messages(peers: &[(ParticipantName, String)]) -> Vec<storage::PeerAddress> {
    let message = |(name, endpoint): &(ParticipantName, String)| storage::PeerAddress {
        participant: name.to_string(),
        endpoint: endpoint.clone(),
    };
    peers.iter().map(message).collect()
}

pub(crate) fn peers(
    key: &[u8],
    peers: Vec<storage::PeerAddress>,
) -> Result<Vec<(ParticipantName, String)>, DamagedRecord> {
    peers.into_iter().map(|peer| Ok((name(key, &peer.participant)?, peer.endpoint))).collect()
}

/// Reads what a participant knows of a slot.
///
/// # Errors
/// When the entry is none.
pub fn decode_slot(slot: Slot, value: &[u8]) -> Result<ParticipantRecord, DamagedRecord> {
    let meta =
        storage::SlotMeta::decode(value).map_err(|error| damaged(&slot.0.to_be_bytes(), error))?;
    Ok(ParticipantRecord::SlotSeen {
        slot,
        epoch: Epoch(meta.epoch),
        lowest_live: Sequence(meta.lowest_live_sequence),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> TransactionId {
        "0007-02-0000000012-00000000000004d2".parse().expect("an id")
    }

    fn a_name(text: &str) -> ParticipantName {
        text.parse().expect("a name")
    }

    fn a_request() -> Option<Request> {
        Some(Request { id: "r-1".parse().expect("a request id"), fingerprint: 9 })
    }

    fn an_info() -> Arc<Info> {
        Arc::new(Info {
            summary: "s".into(),
            labels: vec![("k".into(), "v".into())],
            traceparent: "t".into(),
        })
    }

    #[test]
    fn decisions_and_ends_survive_the_disk() {
        let commit = Commit {
            id: id(),
            voters: vec![(a_name("a"), Incarnation(1)), (a_name("b"), Incarnation(0))],
            request: a_request(),
            info: an_info(),
            started_ms: 5,
            decided_ms: 6,
        };
        let key = id();
        let key = key.as_bytes();
        assert_eq!(decode_commit(key, &encode_commit(&commit)), Ok(commit.clone()));
        let ended = |outcome| Ended {
            id: id(),
            outcome,
            request: a_request(),
            participants: vec![a_name("a")],
            info: an_info(),
            started_ms: 5,
            ended_ms: 7,
            decision_logged: true,
        };
        let reason = AbortReason {
            cause: AbortCause::Timeout,
            participant: Some(a_name("a")),
            message: "late".into(),
        };
        for ended in [ended(Ok(())), ended(Err(reason))] {
            assert_eq!(decode_ended(key, &encode_ended(&ended)), Ok(ended.clone()));
            assert!(decode_commit(key, &encode_ended(&ended)).is_err());
        }
    }

    #[test]
    fn a_participants_records_survive_the_disk() {
        let prepared = ParticipantRecord::Prepared(PreparedBranch {
            id: id(),
            coordinator_incarnation: Incarnation(3),
            coordinator_endpoint: "http://c".into(),
            peers: vec![(a_name("b"), "http://b".into())],
            result: "r".into(),
            since_ms: 8,
        });
        let one_phase = ParticipantRecord::OnePhase(OnePhaseCommit {
            id: id(),
            request_id: a_request().map(|request| request.id),
            result: "r".into(),
            since_ms: 8,
        });
        let finished = ParticipantRecord::Finished { id: id(), committed: true };
        for record in [prepared, one_phase, finished] {
            let ParticipantWrite::Put(id, bytes) = encode_participant(&record) else {
                panic!("not an entry")
            };
            assert_eq!(decode_participant(id.as_bytes(), &bytes), Ok(record));
        }
    }

    #[test]
    fn damage_is_named() {
        let error = decode_commit(id().as_bytes(), b"\xff").expect_err("garbage");
        assert!(error.to_string().contains("0007-02-0000000012-00000000000004d2"), "{error}");
        assert!(decode_participant(b"short", b"").is_err());
    }
}
