//! What the voting sites of three-phase commit say to each other, between messages of the interface and the
//! core's types.
//!
//! A report or an order that lacks what its kind needs is refused here, so that no ballot 0 and no site that
//! there is not gets any further.

use handfast_commit_core::id::{Incarnation, ParticipantName};
use handfast_commit_core::limits;
use handfast_commit_core::message::{FromSite, Order, Report, ToSite, Voting};
use handfast_commit_core::three_phase::{Ballot, SiteName, SiteView, Sites, Standing, Witness};

use crate::convert::{InvalidField, participant_name, transaction_id};
use crate::v1;

/// Most orders of one call.
pub const ORDERS_MAX: usize = 1000;

/// Reads a witness's name.
///
/// # Errors
/// When it is not one.
pub fn witness_name(text: &str) -> Result<ParticipantName, InvalidField> {
    text.parse().map_err(|error| InvalidField::new("witness", error))
}

/// Reads whom a site is known as.
///
/// # Errors
/// When it is absent, or no site has such a name.
pub fn site_name(
    field: &'static str,
    name: Option<&v1::SiteName>,
) -> Result<SiteName, InvalidField> {
    let Some(name) = name else {
        return Err(InvalidField::new(field, "is required"));
    };
    let text = || name.name.parse().map_err(|error| InvalidField::new(field, error));
    match name.role() {
        v1::SiteRole::Coordinator => Ok(SiteName::Coordinator),
        v1::SiteRole::Participant => Ok(SiteName::Participant(text()?)),
        v1::SiteRole::Witness => Ok(SiteName::Witness(text()?)),
        v1::SiteRole::Unspecified => Err(InvalidField::new(field, "has no role")),
    }
}

/// Writes whom a site is known as.
#[must_use]
pub fn site_name_message(name: &SiteName) -> v1::SiteName {
    let (role, name) = match name {
        SiteName::Coordinator => (v1::SiteRole::Coordinator, String::new()),
        SiteName::Participant(name) => (v1::SiteRole::Participant, name.to_string()),
        SiteName::Witness(name) => (v1::SiteRole::Witness, name.to_string()),
    };
    v1::SiteName { role: role.into(), name }
}

/// Reads who votes. `participant` is the one that is asked to prepare.
///
/// # Errors
/// Names the field that cannot be accepted: a name twice, too many names, or a participant that is told of a
/// vote that it has no part in.
pub fn voting(voting: &v1::VotingSites, participant: &str) -> Result<Voting, InvalidField> {
    let (participants, witnesses) = (voting.participants.len(), voting.witnesses.len());
    if participants > limits::BRANCHES_MAX {
        return Err(InvalidField::new("voting.participants", "are at most 256"));
    }
    if witnesses > limits::WITNESSES_MAX {
        return Err(InvalidField::new("voting.witnesses", "are at most 16"));
    }
    let named = voting.participants.iter().map(|site| {
        let name = participant_name(&site.participant)?;
        Ok((name, Incarnation(site.participant_incarnation)))
    });
    let witnessing = voting.witnesses.iter().map(|site| {
        Ok(Witness { name: witness_name(&site.witness)?, endpoint: site.endpoint.clone() })
    });
    let sites = Sites::new(
        named.collect::<Result<_, InvalidField>>()?,
        witnessing.collect::<Result<_, InvalidField>>()?,
    );
    if sites.count() != 1 + participants + witnesses {
        return Err(InvalidField::new("voting", "names a site twice"));
    }
    let own = sites.number(&SiteName::Participant(participant_name(participant)?));
    match own {
        Some(own) => Ok(Voting { sites, own }),
        None => Err(InvalidField::new("voting.participants", "do not name this participant")),
    }
}

/// Writes who votes.
#[must_use]
pub fn voting_message(sites: &Sites) -> v1::VotingSites {
    let participants = sites.participants().iter().map(|(name, incarnation)| {
        let (participant, participant_incarnation) = (name.to_string(), incarnation.0);
        v1::VotingParticipant { participant, participant_incarnation }
    });
    let witnesses = sites.witnesses().iter().map(|witness| v1::VotingWitness {
        witness: witness.name.to_string(),
        endpoint: witness.endpoint.clone(),
    });
    v1::VotingSites { participants: participants.collect(), witnesses: witnesses.collect() }
}

fn ballot(field: &'static str, number: u64) -> Result<Ballot, InvalidField> {
    let ballot = Ballot::from_number(number);
    match ballot.round() {
        0 => Err(InvalidField::new(field, "is no ballot: rounds begin with 1")),
        _ => Ok(ballot),
    }
}

/// Reads a ballot that a site may have joined or moved in, or none yet; `None` for a number that is no ballot.
pub(crate) fn ballot_or_none(number: u64) -> Option<Ballot> {
    let ballot = Ballot::from_number(number);
    (ballot == Ballot::NONE || ballot.round() > 0).then_some(ballot)
}

/// Reads an order.
///
/// # Errors
/// Names the field that cannot be accepted.
pub fn order(message: &v1::SiteOrder) -> Result<ToSite, InvalidField> {
    let id = transaction_id(&message.transaction_id)?;
    let ballot = || ballot("order.ballot", message.ballot);
    let order = match message.kind() {
        v1::SiteOrderKind::Join => Order::Join { ballot: ballot()? },
        v1::SiteOrderKind::PreCommit => Order::PreCommit { ballot: ballot()? },
        v1::SiteOrderKind::PreAbort => Order::PreAbort { ballot: ballot()? },
        v1::SiteOrderKind::Decided => Order::Decided { committed: message.committed },
        v1::SiteOrderKind::Forget => Order::Forget,
        v1::SiteOrderKind::Unspecified => {
            return Err(InvalidField::new("order.kind", "is required"));
        }
    };
    Ok(ToSite { id, incarnation: Incarnation(message.incarnation), order })
}

/// Writes an order.
#[must_use]
pub fn order_message(order: &ToSite) -> v1::SiteOrder {
    let ToSite { id, incarnation, order } = order;
    let kind = match order {
        Order::Join { .. } => v1::SiteOrderKind::Join,
        Order::PreCommit { .. } => v1::SiteOrderKind::PreCommit,
        Order::PreAbort { .. } => v1::SiteOrderKind::PreAbort,
        Order::Decided { .. } => v1::SiteOrderKind::Decided,
        Order::Forget => v1::SiteOrderKind::Forget,
    };
    v1::SiteOrder {
        transaction_id: id.to_string(),
        incarnation: incarnation.0,
        kind: kind.into(),
        ballot: order.ballot().unwrap_or_default().to_number(),
        committed: matches!(order, Order::Decided { committed: true }),
    }
}

/// The number of a standing: that of `handfast.v1.SiteStanding`.
#[must_use]
pub fn standing_number(standing: Standing) -> v1::SiteStanding {
    match standing {
        Standing::Waiting => v1::SiteStanding::Waiting,
        Standing::PreCommitted => v1::SiteStanding::PreCommitted,
        Standing::PreAborted => v1::SiteStanding::PreAborted,
    }
}

/// Reads where a site stands, of which it says that it moved last in this ballot. `None`: it says nothing, or
/// something that cannot be: one that has moved is not waiting, and the other way round.
pub(crate) fn standing(standing: v1::SiteStanding, accepted: Ballot) -> Option<Standing> {
    let standing = match standing {
        v1::SiteStanding::Waiting => Standing::Waiting,
        v1::SiteStanding::PreCommitted => Standing::PreCommitted,
        v1::SiteStanding::PreAborted => Standing::PreAborted,
        v1::SiteStanding::Unspecified => return None,
    };
    ((standing == Standing::Waiting) == (accepted == Ballot::NONE)).then_some(standing)
}

/// Reads a report.
///
/// # Errors
/// Names the field that cannot be accepted.
pub fn report(message: &v1::SiteReport) -> Result<FromSite, InvalidField> {
    let id = transaction_id(&message.transaction_id)?;
    let joined = || ballot("report.ballot", message.ballot);
    let report = match message.kind() {
        v1::SiteReportKind::Joined => {
            let ballot = joined()?;
            let accepted = ballot_or_none(message.accepted).filter(|accepted| *accepted <= ballot);
            let accepted = accepted.ok_or_else(|| {
                InvalidField::new(
                    "report.accepted",
                    "is no ballot, or one above that which it joined",
                )
            })?;
            let standing = standing(message.standing(), accepted).ok_or_else(|| {
                InvalidField::new("report.standing", "does not go with the ballot it moved in")
            })?;
            Report::Joined { ballot, accepted, standing }
        }
        v1::SiteReportKind::Moved => Report::Moved { ballot: joined()? },
        v1::SiteReportKind::Refused => {
            let promised = ballot("report.promised", message.promised)?;
            Report::Refused { ballot: joined()?, promised }
        }
        v1::SiteReportKind::Unvoted => Report::Unvoted,
        v1::SiteReportKind::Known => Report::Known { committed: message.committed },
        v1::SiteReportKind::Acknowledged => Report::Acknowledged { committed: message.committed },
        v1::SiteReportKind::Forgotten => Report::Forgotten,
        v1::SiteReportKind::NoInformation => Report::NoInformation,
        v1::SiteReportKind::Unspecified => {
            return Err(InvalidField::new("report.kind", "is required"));
        }
    };
    Ok(FromSite { id, report })
}

/// Writes a report.
#[must_use]
pub fn report_message(report: &FromSite) -> v1::SiteReport {
    let mut message =
        v1::SiteReport { transaction_id: report.id.to_string(), ..Default::default() };
    let kind = match report.report {
        Report::Joined { ballot, accepted, standing } => {
            message.ballot = ballot.to_number();
            message.accepted = accepted.to_number();
            message.set_standing(standing_number(standing));
            v1::SiteReportKind::Joined
        }
        Report::Moved { ballot } => {
            message.ballot = ballot.to_number();
            v1::SiteReportKind::Moved
        }
        Report::Refused { ballot, promised } => {
            message.ballot = ballot.to_number();
            message.promised = promised.to_number();
            v1::SiteReportKind::Refused
        }
        Report::Unvoted => v1::SiteReportKind::Unvoted,
        Report::Known { committed } => {
            message.committed = committed;
            v1::SiteReportKind::Known
        }
        Report::Acknowledged { committed } => {
            message.committed = committed;
            v1::SiteReportKind::Acknowledged
        }
        Report::Forgotten => v1::SiteReportKind::Forgotten,
        Report::NoInformation => v1::SiteReportKind::NoInformation,
    };
    message.set_kind(kind);
    message
}

/// Writes where an undecided site stands, for people.
#[must_use]
pub fn status_message(view: &SiteView) -> v1::SiteStatus {
    let accepted = match view.accepted {
        Ballot::NONE => String::new(),
        accepted => accepted.to_string(),
    };
    v1::SiteStatus {
        standing: standing_number(view.standing).into(),
        promised: view.promised.to_string(),
        accepted,
        leader: view.leader.to_string(),
        missing: view.missing.iter().map(ToString::to_string).collect(),
        wanted: u32::try_from(view.wanted).unwrap_or(u32::MAX),
        moving: view.moving,
    }
}

/// One call of a leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lead {
    /// Who leads.
    pub from: SiteName,
    /// Where he is reached; empty when he does not say.
    pub from_endpoint: String,
    /// Who is meant.
    pub to: SiteName,
    /// What he is to do.
    pub orders: Vec<ToSite>,
}

/// Reads a call of a leader.
///
/// # Errors
/// Names the field that cannot be accepted; nothing of such a call is obeyed.
pub fn lead(request: &v1::LeadRequest) -> Result<Lead, InvalidField> {
    if request.orders.len() > ORDERS_MAX {
        return Err(InvalidField::new("orders", "are at most 1000"));
    }
    Ok(Lead {
        from: site_name("from", request.from.as_ref())?,
        from_endpoint: request.from_endpoint.clone(),
        to: site_name("to", request.to.as_ref())?,
        orders: request.orders.iter().map(order).collect::<Result<_, _>>()?,
    })
}

/// Writes a call of a leader.
#[must_use]
pub fn lead_message(lead: &Lead) -> v1::LeadRequest {
    v1::LeadRequest {
        from: Some(site_name_message(&lead.from)),
        from_endpoint: lead.from_endpoint.clone(),
        to: Some(site_name_message(&lead.to)),
        orders: lead.orders.iter().map(order_message).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use handfast_commit_core::three_phase::SiteNumber;

    const ID: &str = "0007-03-0000000012-00000000000004d2";

    fn a_ballot() -> Ballot {
        Ballot::FIRST.next(SiteNumber(2)).expect("a round is left")
    }

    #[test]
    fn orders_survive_the_wire() {
        let id = ID.parse().expect("an id");
        let ballot = a_ballot();
        for order in [
            Order::Join { ballot },
            Order::PreCommit { ballot },
            Order::PreAbort { ballot },
            Order::Decided { committed: true },
            Order::Decided { committed: false },
            Order::Forget,
        ] {
            let sent = ToSite { id, incarnation: Incarnation(7), order };
            assert_eq!(super::order(&order_message(&sent)), Ok(sent));
        }
    }

    #[test]
    fn reports_survive_the_wire() {
        let id = ID.parse().expect("an id");
        let ballot = a_ballot();
        let joined = |accepted, standing| Report::Joined { ballot, accepted, standing };
        for report in [
            joined(Ballot::NONE, Standing::Waiting),
            joined(Ballot::FIRST, Standing::PreCommitted),
            joined(ballot, Standing::PreAborted),
            Report::Moved { ballot },
            Report::Refused { ballot: Ballot::FIRST, promised: ballot },
            Report::Unvoted,
            Report::Known { committed: true },
            Report::Known { committed: false },
            Report::Acknowledged { committed: true },
            Report::Acknowledged { committed: false },
            Report::Forgotten,
            Report::NoInformation,
        ] {
            let sent = FromSite { id, report };
            assert_eq!(super::report(&report_message(&sent)), Ok(sent));
        }
    }

    #[test]
    fn a_call_of_a_leader_survives_the_wire() {
        let name = |text: &str| text.parse::<ParticipantName>().expect("a name");
        let id = ID.parse().expect("an id");
        let order = ToSite { id, incarnation: Incarnation(0), order: Order::Forget };
        for (from, to) in [
            (SiteName::Coordinator, SiteName::Witness(name("w"))),
            (SiteName::Participant(name("a")), SiteName::Coordinator),
        ] {
            let from_endpoint = "http://a".to_owned();
            let sent = Lead { from, from_endpoint, to, orders: vec![order, order] };
            assert_eq!(lead(&lead_message(&sent)), Ok(sent));
        }
        let nobody = v1::LeadRequest::default();
        assert_eq!(lead(&nobody).map_err(|error| error.field), Err("from"));
    }

    #[test]
    fn what_no_site_can_say_is_refused() {
        let sent = v1::SiteOrder { transaction_id: ID.into(), ..Default::default() };
        assert_eq!(order(&sent).map_err(|error| error.field), Err("order.kind"));
        let mut join = sent;
        join.set_kind(v1::SiteOrderKind::Join);
        assert_eq!(order(&join).map_err(|error| error.field), Err("order.ballot"));
        let said = v1::SiteReport { transaction_id: ID.into(), ..Default::default() };
        assert_eq!(report(&said).map_err(|error| error.field), Err("report.kind"));
        // Moved in a ballot of no round, or in one above that which was joined.
        for accepted in [2, 1 << 17 | 2] {
            let mut joined = v1::SiteReport { ballot: 1 << 17, accepted, ..said.clone() };
            joined.set_kind(v1::SiteReportKind::Joined);
            joined.set_standing(v1::SiteStanding::PreCommitted);
            assert_eq!(report(&joined).map_err(|error| error.field), Err("report.accepted"));
        }
        for kind in [v1::SiteReportKind::Moved, v1::SiteReportKind::Refused] {
            let mut no_round = v1::SiteReport { ballot: 2, promised: 1 << 17, ..said.clone() };
            no_round.set_kind(kind);
            assert_eq!(report(&no_round).map_err(|error| error.field), Err("report.ballot"));
        }
        // Moved, and in no ballot; not moved, and in one.
        for (standing, accepted) in
            [(v1::SiteStanding::PreCommitted, 0), (v1::SiteStanding::Waiting, 1 << 16)]
        {
            let mut joined = v1::SiteReport { ballot: 1 << 17, accepted, ..said.clone() };
            joined.set_kind(v1::SiteReportKind::Joined);
            joined.set_standing(standing);
            assert_eq!(report(&joined).map_err(|error| error.field), Err("report.standing"));
        }
    }

    #[test]
    fn a_vote_names_everybody_once_and_whoever_is_asked() {
        let site = |name: &str| v1::VotingParticipant {
            participant: name.into(),
            participant_incarnation: 1,
        };
        let witness = |name: &str| v1::VotingWitness { witness: name.into(), endpoint: "e".into() };
        let sites = v1::VotingSites {
            participants: vec![site("a"), site("b")],
            witnesses: vec![witness("w")],
        };
        let read = voting(&sites, "b").expect("valid");
        assert_eq!((read.own, read.sites.count()), (SiteNumber(2), 4));
        assert_eq!(voting_message(&read.sites), sites);
        let field = |sites: &v1::VotingSites, asked| {
            voting(sites, asked).map_err(|error| error.field).map(|voting| voting.own)
        };
        assert_eq!(field(&sites, "c"), Err("voting.participants"));
        let twice = v1::VotingSites { participants: vec![site("a"), site("a")], ..sites.clone() };
        assert_eq!(field(&twice, "a"), Err("voting"));
        let many = v1::VotingSites { participants: vec![site("a"); 257], ..sites.clone() };
        assert_eq!(field(&many, "a"), Err("voting.participants"));
        let crowd = v1::VotingSites { witnesses: vec![witness("w"); 17], ..sites };
        assert_eq!(field(&crowd, "a"), Err("voting.witnesses"));
    }
}
