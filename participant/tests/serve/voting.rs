//! What the tests of three-phase commit say and ask.

use std::time::Duration;

use handfast_wire::v1;
use tonic::Status;

use crate::site::{Site, WITHIN, origin, prepare};

/// Ballot 1.0, the first coordinator's.
pub const FIRST: u64 = 1 << 16;

/// Another ballot.
pub fn ballot(round: u64, site: u64) -> u64 {
    (round << 16) | site
}

/// A three-phase transaction of epoch 1.
pub fn three(sequence: u64) -> String {
    format!("0000-03-0000000001-{sequence:016x}")
}

/// Who votes: the coordinator, these participants, and one that does not run, if it is named.
pub async fn everybody(sites: &[&Site], absent: Option<&str>) -> v1::VotingSites {
    let mut participants = Vec::new();
    for site in sites {
        participants.push(v1::VotingParticipant {
            participant: site.name.clone(),
            participant_incarnation: site.incarnation().await,
        });
    }
    participants.extend(absent.map(|name| v1::VotingParticipant {
        participant: name.to_owned(),
        participant_incarnation: 9,
    }));
    v1::VotingSites { participants, witnesses: Vec::new() }
}

/// Where the others of these are.
pub fn peers(site: &Site, sites: &[&Site]) -> Vec<v1::Peer> {
    let others = sites.iter().filter(|other| other.name != site.name);
    let peer =
        |other: &&Site| v1::Peer { participant: other.name.clone(), endpoint: other.endpoint() };
    others.map(peer).collect()
}

/// A PREPARE that carries one operation, for a site whose voters are `voting`.
pub fn three_phase_prepare(
    site: &Site,
    id: &str,
    work: v1::KeyValueOperation,
    voting: v1::VotingSites,
    peers: Vec<v1::Peer>,
) -> v1::PrepareRequest {
    let participant = site.name.clone();
    v1::PrepareRequest { participant, voting: Some(voting), peers, ..prepare(id, 1, work) }
}

/// Has all of these prepare the same operation, one vote after the other.
pub async fn all_vote(sites: &[&Site], id: &str, work: v1::KeyValueOperation) {
    let voting = everybody(sites, None).await;
    for site in sites {
        let peers = peers(site, sites);
        let request = three_phase_prepare(site, id, work.clone(), voting.clone(), peers);
        assert_eq!(site.prepare(request).await.vote(), v1::Vote::Prepared);
    }
}

/// PRE_COMMIT of the coordinator, as a call.
pub async fn pre_commit(site: &Site, id: &str) -> Result<v1::PreCommitResponse, Status> {
    let request = v1::PreCommitRequest {
        transaction_id: id.to_owned(),
        origin: Some(origin(1)),
        ballot: FIRST,
        participant: site.name.clone(),
        participant_incarnation: site.incarnation().await,
    };
    Ok(site.client().pre_commit(request).await?.into_inner())
}

/// An order to the log that `site` has now.
pub async fn order(site: &Site, id: &str, kind: v1::SiteOrderKind, ballot: u64) -> v1::SiteOrder {
    v1::SiteOrder {
        transaction_id: id.to_owned(),
        incarnation: site.incarnation().await,
        kind: kind.into(),
        ballot,
        committed: false,
    }
}

/// Leads `site` as the participant `from`, and returns all reports.
pub async fn lead(
    site: &Site,
    from: &str,
    orders: Vec<v1::SiteOrder>,
) -> Result<Vec<v1::SiteReport>, Status> {
    let name = |name: &str| {
        let role = v1::SiteRole::Participant.into();
        Some(v1::SiteName { role, name: name.to_owned() })
    };
    let request = v1::LeadRequest {
        from: name(from),
        from_endpoint: String::new(),
        to: name(&site.name),
        orders,
    };
    let mut frames = site.voting().lead(request).await?.into_inner();
    let mut reports = Vec::new();
    while let Some(frame) =
        tokio::time::timeout(WITHIN, frames.message()).await.expect("reports within 30 s")?
    {
        reports.extend(frame.reports);
    }
    Ok(reports)
}

/// One order, and its report.
pub async fn ask(
    site: &Site,
    from: &str,
    id: &str,
    kind: v1::SiteOrderKind,
    ballot: u64,
) -> v1::SiteReport {
    let order = order(site, id, kind, ballot).await;
    let reports = lead(site, from, vec![order]).await.expect("led");
    assert_eq!(reports.len(), 1, "one order has one report: {reports:?}");
    assert_eq!(reports[0].transaction_id, id);
    reports[0].clone()
}

/// Waits until `holds` of what a site lists as its only open branch.
pub async fn until_waiting(
    site: &Site,
    what: &str,
    holds: impl Fn(&v1::InDoubtBranch) -> bool,
) -> v1::InDoubtBranch {
    for _ in 0..3000 {
        if let [branch] = site.listed().await.as_slice()
            && holds(branch)
        {
            return branch.clone();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within 30 s, but {:?}", site.listed().await);
}
