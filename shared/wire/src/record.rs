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

use crate::fields::Fields;
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

fn request_id(key: &[u8], text: &str) -> Result<Option<RequestId>, DamagedRecord> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error| damaged(key, error))
}

pub(crate) fn request(
    key: &[u8],
    text: &str,
    fingerprint: u64,
) -> Result<Option<Request>, DamagedRecord> {
    Ok(request_id(key, text)?.map(|id| Request { id, fingerprint }))
}

/// A client's request, as records keep it: its name, empty when there is none, and its digest.
pub(crate) fn request_fields(request: Option<&Request>) -> (String, u64) {
    request.map(|request| (request.id.to_string(), request.fingerprint)).unwrap_or_default()
}

/// Participants, and the log that each votes under.
pub(crate) fn voter_messages(voters: &[(ParticipantName, Incarnation)]) -> Vec<storage::Voter> {
    let message = |(name, incarnation): &(ParticipantName, Incarnation)| storage::Voter {
        participant: name.to_string(),
        incarnation: incarnation.0,
    };
    voters.iter().map(message).collect()
}

pub(crate) fn voters(
    key: &[u8],
    voters: &[storage::Voter],
) -> Result<Vec<(ParticipantName, Incarnation)>, DamagedRecord> {
    let voter = |voter: &storage::Voter| {
        Ok((name(key, &voter.participant)?, Incarnation(voter.incarnation)))
    };
    voters.iter().map(voter).collect()
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

/// About what a record of a transaction takes, so that its bytes are allocated once.
const RECORD_BYTES: usize = 192;

fn write_request(fields: &mut Fields, number: u32, request: Option<&Request>) {
    if let Some(request) = request {
        fields.bytes(number, request.id.as_str());
        fields.fixed(number + 1, request.fingerprint);
    }
}

fn write_info(fields: &mut Fields, info: &Info, started_ms: u64, decided_ms: u64) {
    fields.bytes(1, &info.summary);
    for (key, value) in &info.labels {
        fields.message(2, |label| {
            label.bytes(1, key);
            label.bytes(2, value);
        });
    }
    fields.bytes(3, &info.traceparent);
    fields.number(4, started_ms);
    fields.number(5, decided_ms);
}

/// The bytes of a decision; its key is the transaction's id.
#[must_use]
pub fn encode_commit(commit: &Commit) -> Vec<u8> {
    let mut record = Fields::with_capacity(RECORD_BYTES);
    record.message(1, |decision| {
        for (name, incarnation) in &commit.voters {
            decision.message(1, |voter| {
                voter.bytes(1, name.as_str());
                voter.fixed(2, incarnation.0);
            });
        }
        write_request(decision, 2, commit.request.as_ref());
        decision.message(4, |info| {
            write_info(info, &commit.info, commit.started_ms, commit.decided_ms);
        });
    });
    record.into_bytes()
}

/// The bytes of an end; its key is the transaction's id.
#[must_use]
pub fn encode_ended(ended: &Ended) -> Vec<u8> {
    let mut record = Fields::with_capacity(RECORD_BYTES);
    record.message(2, |fields| {
        fields.number(1, ended.outcome.is_ok());
        if let Err(reason) = &ended.outcome {
            fields.number(2, cause_number(reason.cause));
            fields.bytes(3, reason.participant.as_ref().map_or("", |name| name.as_str()));
            fields.bytes(4, &reason.message);
        }
        write_request(fields, 5, ended.request.as_ref());
        for name in &ended.participants {
            fields.repeated(7, name.as_str());
        }
        fields.message(8, |info| write_info(info, &ended.info, ended.started_ms, 0));
        fields.number(9, ended.ended_ms);
    });
    record.into_bytes()
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
    let voters = voters(key, &commit.voters)?;
    if voters.is_empty() {
        return Err(damaged(key, "it names no voter"));
    }
    let message = commit.info.unwrap_or_default();
    Ok(Commit {
        id,
        voters,
        request: request(key, &commit.request_id, commit.fingerprint)?,
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
    let message = ended.info.unwrap_or_default();
    Ok(Ended {
        id,
        outcome,
        request: request(key, &ended.request_id, ended.fingerprint)?,
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
        ParticipantRecord::Prepared(branch) => {
            return ParticipantWrite::Put(branch.id, encode_prepared(branch, &[]));
        }
        ParticipantRecord::Finished { id, committed } => {
            let mut record = Fields::default();
            record.message(2, |finished| finished.number(1, *committed));
            return ParticipantWrite::Put(*id, record.into_bytes());
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

/// The bytes of a prepared branch with what its resource has staged, which goes with this entry when the branch
/// ends; its key is the transaction's id.
#[must_use]
pub fn encode_prepared(branch: &PreparedBranch, staged: &[u8]) -> Vec<u8> {
    let mut record = Fields::with_capacity(RECORD_BYTES + branch.result.len() + staged.len());
    record.message(1, |fields| {
        fields.number(1, branch.id.epoch().0);
        fields.fixed(2, branch.coordinator_incarnation.0);
        fields.bytes(3, branch.coordinator_endpoint.as_bytes());
        for (name, endpoint) in &branch.peers {
            fields.message(4, |peer| {
                peer.bytes(1, name.as_str());
                peer.bytes(2, endpoint);
            });
        }
        fields.bytes(5, &branch.result);
        fields.number(6, branch.since_ms);
        fields.bytes(7, staged);
    });
    record.into_bytes()
}

/// What the resource has staged, in a participant's entry of a transaction. Empty: nothing, or not here.
///
/// # Errors
/// When the entry is none.
pub fn staged_in(key: &[u8], value: &[u8]) -> Result<Vec<u8>, DamagedRecord> {
    use storage::participant_record::Record;
    let record = storage::ParticipantRecord::decode(value).map_err(|error| damaged(key, error))?;
    Ok(match record.record {
        Some(Record::Prepared(branch)) => branch.staged,
        _ => Vec::new(),
    })
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
        Some(Record::Prepared(branch)) => ParticipantRecord::Prepared(Arc::new(PreparedBranch {
            id,
            coordinator_incarnation: Incarnation(branch.coordinator_incarnation),
            coordinator_endpoint: branch.coordinator_endpoint.into(),
            peers: peers(key, branch.peers)?,
            result: branch.result.into(),
            since_ms: branch.since_ms,
        })),
        Some(Record::Finished(finished)) => {
            ParticipantRecord::Finished { id, committed: finished.committed }
        }
        Some(Record::OnePhase(commit)) => ParticipantRecord::OnePhase(OnePhaseCommit {
            id,
            request_id: request_id(key, &commit.request_id)?,
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

    /// What is written field by field is what the types would write, to the byte; and it is read again.
    #[test]
    fn records_are_those_of_their_types() {
        fn same<M: Message + Default>(bytes: &[u8]) -> bool {
            M::decode(bytes).is_ok_and(|message| message.encode_to_vec() == bytes)
        }
        let key = id();
        for length in [0, 1, 40, 90, 126, 127, 128, 129, 300, 16_300, 16_400, 70_000] {
            let text = "x".repeat(length);
            let voters =
                (0..length.min(200)).map(|n| (a_name(&format!("v{n}")), Incarnation(n as u64)));
            let voters: Vec<_> = voters.collect();
            let info = Info {
                summary: text.clone(),
                labels: vec![(text.clone(), String::new()), (String::new(), "v".into())],
                traceparent: text.clone(),
            };
            let info = if length == 0 { Arc::default() } else { Arc::new(info) };
            let request = a_request().filter(|_| length > 1);
            let commit = Commit {
                id: key,
                voters: [(a_name("a"), Incarnation(0))].into_iter().chain(voters.clone()).collect(),
                request: request.clone(),
                info: Arc::clone(&info),
                started_ms: length as u64,
                decided_ms: u64::MAX - length as u64,
            };
            let bytes = encode_commit(&commit);
            assert!(same::<storage::CoordinatorRecord>(&bytes), "a commit of {length}");
            assert_eq!(decode_commit(key.as_bytes(), &bytes), Ok(commit));
            let reason = AbortReason {
                cause: AbortCause::Timeout,
                participant: Some(a_name("a")).filter(|_| length % 2 == 0),
                message: text.clone(),
            };
            for outcome in [Ok(()), Err(reason)] {
                let ended = Ended {
                    id: key,
                    outcome,
                    request: request.clone(),
                    participants: voters.iter().map(|(name, _)| name.clone()).collect(),
                    info: Arc::clone(&info),
                    started_ms: length as u64,
                    ended_ms: 7,
                    decision_logged: true,
                };
                let bytes = encode_ended(&ended);
                assert!(same::<storage::CoordinatorRecord>(&bytes), "an end of {length}");
                assert_eq!(decode_ended(key.as_bytes(), &bytes), Ok(ended));
            }
            let prepared = PreparedBranch {
                id: key,
                coordinator_incarnation: Incarnation(length as u64),
                coordinator_endpoint: text.as_str().into(),
                peers: voters.into_iter().map(|(name, _)| (name, text.clone())).take(3).collect(),
                result: text.into(),
                since_ms: length as u64,
            };
            let prepared = ParticipantRecord::Prepared(Arc::new(prepared));
            for record in [prepared, ParticipantRecord::Finished { id: key, committed: length > 0 }]
            {
                let ParticipantWrite::Put(_, bytes) = encode_participant(&record) else {
                    panic!("an entry");
                };
                assert!(same::<storage::ParticipantRecord>(&bytes), "{length}");
                assert_eq!(decode_participant(key.as_bytes(), &bytes), Ok(record));
            }
        }
    }

    #[test]
    fn a_participants_records_survive_the_disk() {
        let prepared = ParticipantRecord::Prepared(Arc::new(PreparedBranch {
            id: id(),
            coordinator_incarnation: Incarnation(3),
            coordinator_endpoint: "http://c".into(),
            peers: vec![(a_name("b"), "http://b".into())],
            result: "r".into(),
            since_ms: 8,
        }));
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
    fn what_is_staged_is_kept_with_the_vote() {
        let branch = PreparedBranch {
            id: id(),
            coordinator_incarnation: Incarnation(3),
            coordinator_endpoint: "http://c".into(),
            peers: vec![(a_name("b"), "http://b".into())],
            result: "r".into(),
            since_ms: 8,
        };
        let key = id();
        let key = key.as_bytes();
        for staged in [&b""[..], b"s", &[7; 300], &[7; 70_000]] {
            let bytes = encode_prepared(&branch, staged);
            let message = storage::ParticipantRecord::decode(&bytes[..]).expect("an entry");
            assert_eq!(message.encode_to_vec(), bytes);
            assert_eq!(staged_in(key, &bytes).as_deref(), Ok(staged));
            let record = ParticipantRecord::Prepared(Arc::new(branch.clone()));
            assert_eq!(decode_participant(key, &bytes), Ok(record));
        }
        let over = ParticipantRecord::Finished { id: id(), committed: true };
        let ParticipantWrite::Put(_, bytes) = encode_participant(&over) else { panic!("an entry") };
        assert_eq!(staged_in(key, &bytes), Ok(Vec::new()));
        assert!(staged_in(key, b"\xff").is_err());
    }

    #[test]
    fn damage_is_named() {
        let error = decode_commit(id().as_bytes(), b"\xff").expect_err("garbage");
        assert!(error.to_string().contains("0007-02-0000000012-00000000000004d2"), "{error}");
        assert!(decode_participant(b"short", b"").is_err());
    }
}
