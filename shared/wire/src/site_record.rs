//! The records of three-phase commit, between the core and the bytes that a journal keeps.
//!
//! A damaged ballot would be a broken promise, so that whatever does not go together is refused when it is
//! read.

use handfast_commit_core::id::{Incarnation, Protocol, TransactionId};
use handfast_commit_core::limits;
use handfast_commit_core::record::{
    DecidedBranch, Decision, Electorate, VotedBranch, VotingCoordinator, WitnessRecord,
    WitnessState,
};
use handfast_commit_core::three_phase::{Site, SiteName, SiteNumber, Sites, Witness};

use prost::Message;

use crate::record::{
    DamagedRecord, abort_fields, abort_reason, damaged, info, info_message, name, peer_messages,
    peers, request, request_fields, voter_messages, voters,
};
use crate::storage::coordinator_record::Record;
use crate::{site, storage, v1};

/// Only three-phase commit has such records.
fn three_phase(key: &[u8], id: TransactionId) -> Result<(), DamagedRecord> {
    match id.protocol() {
        Protocol::ThreePhase => Ok(()),
        Protocol::TwoPhase | Protocol::PaxosCommit => {
            Err(damaged(key, "its protocol has no voting sites"))
        }
    }
}

fn encode(record: Record) -> Vec<u8> {
    storage::CoordinatorRecord { record: Some(record) }.encode_to_vec()
}

fn site_message(site: &Site) -> storage::SiteBallots {
    storage::SiteBallots {
        promised: site.promised.to_number(),
        accepted: site.accepted.to_number(),
        standing: site::standing_number(site.standing) as u32,
    }
}

fn ballots(key: &[u8], message: Option<storage::SiteBallots>) -> Result<Site, DamagedRecord> {
    let message = message.ok_or_else(|| damaged(key, "it has no ballots"))?;
    let whole = || {
        let promised = site::ballot_or_none(message.promised)?;
        let accepted = site::ballot_or_none(message.accepted)?;
        let standing = i32::try_from(message.standing).ok()?;
        let standing = v1::SiteStanding::try_from(standing).ok()?;
        let standing = site::standing(standing, accepted)?;
        (accepted <= promised).then_some(Site { promised, accepted, standing })
    };
    whole().ok_or_else(|| damaged(key, "its ballots do not go together"))
}

fn sites_message(sites: &Sites) -> storage::Sites {
    storage::Sites {
        participants: voter_messages(sites.participants()),
        witnesses: sites
            .witnesses()
            .iter()
            .map(|witness| storage::WitnessAddress {
                witness: witness.name.to_string(),
                endpoint: witness.endpoint.clone(),
            })
            .collect(),
    }
}

fn sites(key: &[u8], message: Option<storage::Sites>) -> Result<Sites, DamagedRecord> {
    let message = message.ok_or_else(|| damaged(key, "it names no voting sites"))?;
    let count = 1 + message.participants.len() + message.witnesses.len();
    let participants = voters(key, &message.participants)?;
    let witnesses = message
        .witnesses
        .into_iter()
        .map(|site| Ok(Witness { name: name(key, &site.witness)?, endpoint: site.endpoint }))
        .collect::<Result<Vec<_>, DamagedRecord>>()?;
    let sites = Sites::new(participants, witnesses);
    if sites.participants().is_empty()
        || sites.count() != count
        || sites.participants().len() > limits::BRANCHES_MAX
        || sites.witnesses().len() > limits::WITNESSES_MAX
    {
        return Err(damaged(key, "its voting sites cannot be"));
    }
    Ok(sites)
}

/// The bytes of a coordinator's standing; its key is the transaction's id.
#[must_use]
pub fn encode_voting(voting: &VotingCoordinator) -> Vec<u8> {
    let (request_id, fingerprint) = request_fields(voting.request.as_ref());
    encode(Record::Voting(storage::VotingCoordinator {
        site: Some(site_message(&voting.site)),
        sites: Some(sites_message(&voting.sites)),
        request_id,
        fingerprint,
        info: Some(info_message(&voting.info, voting.started_ms, 0)),
    }))
}

pub(crate) fn read_voting(
    key: &[u8],
    id: TransactionId,
    voting: storage::VotingCoordinator,
) -> Result<VotingCoordinator, DamagedRecord> {
    three_phase(key, id)?;
    let message = voting.info.unwrap_or_default();
    Ok(VotingCoordinator {
        id,
        site: ballots(key, voting.site)?,
        sites: sites(key, voting.sites)?,
        request: request(key, &voting.request_id, voting.fingerprint)?,
        info: info(&message),
        started_ms: message.started_at_ms,
    })
}

/// The bytes of a decision of three-phase commit; its key is the transaction's id.
#[must_use]
pub fn encode_decision(decision: &Decision) -> Vec<u8> {
    let (abort_cause, abort_participant, abort_message) = abort_fields(&decision.outcome);
    let (request_id, fingerprint) = request_fields(decision.request.as_ref());
    encode(Record::Decision(storage::SiteDecision {
        committed: decision.outcome.is_ok(),
        abort_cause,
        abort_participant,
        abort_message,
        sites: Some(sites_message(&decision.sites)),
        request_id,
        fingerprint,
        info: Some(info_message(&decision.info, decision.started_ms, decision.decided_ms)),
    }))
}

pub(crate) fn read_decision(
    key: &[u8],
    id: TransactionId,
    decision: storage::SiteDecision,
) -> Result<Decision, DamagedRecord> {
    three_phase(key, id)?;
    let outcome = match decision.committed {
        true => Ok(()),
        false => Err(abort_reason(
            key,
            decision.abort_cause,
            &decision.abort_participant,
            decision.abort_message,
        )?),
    };
    let message = decision.info.unwrap_or_default();
    Ok(Decision {
        id,
        outcome,
        sites: sites(key, decision.sites)?,
        request: request(key, &decision.request_id, decision.fingerprint)?,
        info: info(&message),
        started_ms: message.started_at_ms,
        decided_ms: message.decided_at_ms,
    })
}

/// The bytes of what a witness keeps; its key is the transaction's id.
#[must_use]
pub fn encode_witness(witness: &WitnessRecord) -> Vec<u8> {
    use storage::witness::State;
    let state = match witness.state {
        WitnessState::Undecided(site) => State::Undecided(site_message(&site)),
        WitnessState::Decided { committed } => {
            State::Decided(storage::WitnessedDecision { committed })
        }
    };
    encode(Record::Witness(storage::Witness { state: Some(state) }))
}

pub(crate) fn read_witness(
    key: &[u8],
    id: TransactionId,
    witness: storage::Witness,
) -> Result<WitnessRecord, DamagedRecord> {
    three_phase(key, id)?;
    use storage::witness::State;
    let state = match witness.state {
        Some(State::Undecided(site)) => WitnessState::Undecided(ballots(key, Some(site))?),
        Some(State::Decided(decided)) => WitnessState::Decided { committed: decided.committed },
        None => return Err(damaged(key, "it is of a kind that this version does not know")),
    };
    Ok(WitnessRecord { id, state })
}

fn electorate_message(electorate: &Electorate) -> storage::Electorate {
    storage::Electorate {
        sites: Some(sites_message(&electorate.sites)),
        own: u32::from(electorate.own.0),
        coordinator_incarnation: electorate.coordinator_incarnation.0,
        coordinator_endpoint: electorate.coordinator_endpoint.clone(),
        peers: peer_messages(&electorate.peers),
    }
}

fn electorate(
    key: &[u8],
    message: Option<storage::Electorate>,
) -> Result<Electorate, DamagedRecord> {
    let message = message.ok_or_else(|| damaged(key, "it does not say who votes"))?;
    let sites = sites(key, message.sites)?;
    let own = u16::try_from(message.own).ok().map(SiteNumber);
    let own = own.filter(|own| matches!(sites.name(*own), SiteName::Participant(_)));
    Ok(Electorate {
        own: own.ok_or_else(|| damaged(key, "its voting sites do not name this participant"))?,
        sites,
        coordinator_incarnation: Incarnation(message.coordinator_incarnation),
        coordinator_endpoint: message.coordinator_endpoint,
        peers: peers(key, message.peers)?,
    })
}

pub(crate) fn voted_record(branch: &VotedBranch) -> storage::participant_record::Record {
    storage::participant_record::Record::Voted(storage::VotedBranch {
        site: Some(site_message(&branch.site)),
        electorate: Some(electorate_message(&branch.electorate)),
        read_only: branch.read_only,
        result: branch.result.to_vec(),
        since_ms: branch.since_ms,
    })
}

pub(crate) fn read_voted(
    key: &[u8],
    id: TransactionId,
    branch: storage::VotedBranch,
) -> Result<VotedBranch, DamagedRecord> {
    three_phase(key, id)?;
    Ok(VotedBranch {
        id,
        site: ballots(key, branch.site)?,
        electorate: electorate(key, branch.electorate)?,
        read_only: branch.read_only,
        result: branch.result.into(),
        since_ms: branch.since_ms,
    })
}

pub(crate) fn decided_record(branch: &DecidedBranch) -> storage::participant_record::Record {
    storage::participant_record::Record::Decided(storage::DecidedBranch {
        committed: branch.committed,
        electorate: Some(electorate_message(&branch.electorate)),
    })
}

pub(crate) fn read_decided(
    key: &[u8],
    id: TransactionId,
    branch: storage::DecidedBranch,
) -> Result<DecidedBranch, DamagedRecord> {
    three_phase(key, id)?;
    let electorate = electorate(key, branch.electorate)?;
    Ok(DecidedBranch { id, committed: branch.committed, electorate })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use handfast_commit_core::id::ParticipantName;
    use handfast_commit_core::record::{
        AbortCause, AbortReason, CoordinatorRecord, Info, ParticipantRecord, Request,
    };
    use handfast_commit_core::three_phase::{Ballot, Standing};

    use super::*;
    use crate::record::{
        ParticipantWrite, decode_commit, decode_live, decode_participant, encode_participant,
    };

    fn id() -> TransactionId {
        "0007-03-0000000012-00000000000004d2".parse().expect("an id")
    }

    fn a_name(text: &str) -> ParticipantName {
        text.parse().expect("a name")
    }

    fn all_sites() -> Sites {
        let witness = Witness { name: a_name("w"), endpoint: "http://w".into() };
        let participants = vec![(a_name("a"), Incarnation(1)), (a_name("b"), Incarnation(2))];
        Sites::new(participants, vec![witness])
    }

    fn a_site() -> Site {
        let promised = Ballot::FIRST.next(SiteNumber(2)).expect("a round is left");
        Site { promised, accepted: Ballot::FIRST, standing: Standing::PreCommitted }
    }

    fn a_request() -> Option<Request> {
        Some(Request { id: "r-1".parse().expect("a request id"), fingerprint: 9 })
    }

    fn an_info() -> Arc<Info> {
        Arc::new(Info { summary: "s".into(), ..Info::default() })
    }

    #[test]
    fn a_coordinators_records_survive_the_disk() {
        let voting = VotingCoordinator {
            id: id(),
            site: a_site(),
            sites: all_sites(),
            request: a_request(),
            info: an_info(),
            started_ms: 5,
        };
        let bytes = encode_voting(&voting);
        let read = decode_live(id().as_bytes(), &bytes);
        assert_eq!(read, Ok(CoordinatorRecord::Voting(voting)));
        assert!(decode_commit(id().as_bytes(), &bytes).is_err());
        let reason = AbortReason {
            cause: AbortCause::Timeout,
            participant: Some(a_name("a")),
            message: "late".into(),
        };
        for outcome in [Ok(()), Err(reason)] {
            let decision = Decision {
                id: id(),
                outcome,
                sites: all_sites(),
                request: a_request(),
                info: an_info(),
                started_ms: 5,
                decided_ms: 6,
            };
            let bytes = encode_decision(&decision);
            let read = decode_live(id().as_bytes(), &bytes);
            assert_eq!(read, Ok(CoordinatorRecord::Decision(decision)));
        }
        for state in [
            WitnessState::Undecided(Site::UNASKED),
            WitnessState::Undecided(a_site()),
            WitnessState::Decided { committed: true },
            WitnessState::Decided { committed: false },
        ] {
            let witness = WitnessRecord { id: id(), state };
            let read = decode_live(id().as_bytes(), &encode_witness(&witness));
            assert_eq!(read, Ok(CoordinatorRecord::Witness(witness)));
        }
    }

    #[test]
    fn a_participants_ballots_survive_the_disk() {
        let electorate = Electorate {
            sites: all_sites(),
            own: SiteNumber(2),
            coordinator_incarnation: Incarnation(3),
            coordinator_endpoint: "http://c".into(),
            peers: vec![(a_name("a"), "http://a".into())],
        };
        let voted = |site, read_only| {
            ParticipantRecord::Voted(VotedBranch {
                id: id(),
                site,
                electorate: electorate.clone(),
                read_only,
                result: "r".into(),
                since_ms: 8,
            })
        };
        let decided = |committed| {
            let electorate = electorate.clone();
            ParticipantRecord::Decided(DecidedBranch { id: id(), committed, electorate })
        };
        for record in
            [voted(Site::VOTED, false), voted(a_site(), true), decided(true), decided(false)]
        {
            let ParticipantWrite::Put(id, bytes) = encode_participant(&record) else {
                panic!("not an entry")
            };
            assert_eq!(decode_participant(id.as_bytes(), &bytes), Ok(record));
        }
    }

    #[test]
    fn ballots_that_do_not_go_together_are_damage() {
        let witness = |promised: u64, accepted: u64, standing: u32| {
            let site = storage::SiteBallots { promised, accepted, standing };
            let state = Some(storage::witness::State::Undecided(site));
            let bytes = encode(Record::Witness(storage::Witness { state }));
            decode_live(id().as_bytes(), &bytes).is_ok()
        };
        let waiting = v1::SiteStanding::Waiting as u32;
        let moved = v1::SiteStanding::PreCommitted as u32;
        assert!(witness(1 << 17, 1 << 16, moved) && witness(1 << 16, 0, waiting));
        for (promised, accepted, standing) in [
            (1 << 16, 1 << 17, moved),
            (1 << 16, 0, moved),
            (1 << 16, 1 << 16, waiting),
            (1 << 16, 0, 0),
            (1 << 16, 0, 9),
            // Of no round.
            (3, 0, waiting),
            (1 << 16, 3, moved),
            (3, 3, moved),
        ] {
            assert!(!witness(promised, accepted, standing), "{promised} {accepted} {standing}");
        }
        let two_phase = id().to_string().replace("-03-", "-02-");
        let two_phase = two_phase.parse::<TransactionId>().expect("an id");
        let decided =
            WitnessRecord { id: two_phase, state: WitnessState::Decided { committed: true } };
        assert!(decode_live(two_phase.as_bytes(), &encode_witness(&decided)).is_err());
        let bytes = encode(Record::Voting(storage::VotingCoordinator::default()));
        let error = decode_live(id().as_bytes(), &bytes).expect_err("nothing").to_string();
        assert!(error.contains(&id().to_string()) && error.contains("ballots"), "{error}");
    }

    #[test]
    fn a_crowd_of_witnesses_is_damage() {
        let crowd = |count: usize| {
            let name = |number| format!("w{number}");
            let witness =
                |number| storage::WitnessAddress { witness: name(number), ..Default::default() };
            let voter = storage::Voter { participant: "a".into(), incarnation: 1 };
            let sites = storage::Sites {
                participants: vec![voter],
                witnesses: (0..count).map(witness).collect(),
            };
            let decision =
                storage::SiteDecision { committed: true, sites: Some(sites), ..Default::default() };
            decode_live(id().as_bytes(), &encode(Record::Decision(decision))).is_ok()
        };
        assert!(crowd(limits::WITNESSES_MAX) && !crowd(limits::WITNESSES_MAX + 1));
    }
}
