//! This participant as a voting site of three-phase commit: what its leaders ask, how it asks when it leads
//! itself, and the crash points of both.
//!
//! The rules are the core's. Absent on purpose: anything that decides, counts or waits.

use std::sync::Arc;

use handfast_commit_core::id::ParticipantName;
use handfast_commit_core::message::{Order, Report};
use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_commit_core::record::{ParticipantRecord, VotedBranch};
use handfast_commit_core::three_phase::{Ballot, SiteName};
use handfast_commit_core::two_phase::participant::{Input, Via};
use handfast_runtime::shard::ShardHandle;
use handfast_runtime::site_links::SiteLinks;
use handfast_runtime::site_service::{Led, SiteHost};
use handfast_wire::convert::InvalidField;
use handfast_wire::site::Lead;
use tonic::Status;

use crate::participant_service::{Ready, served};
use crate::shard::{ParticipantShard, ShardInput, Waiter};
use crate::status;

/// `SiteService`, for the sites that lead.
#[derive(Debug)]
pub(crate) struct VotingSite {
    ready: Ready,
}

impl VotingSite {
    pub(crate) fn new(ready: Ready) -> Self {
        Self { ready }
    }
}

impl SiteHost for VotingSite {
    fn admit(&self, lead: &Lead) -> Result<(), Status> {
        let engine = self.ready.get()?;
        let meant = lead.to == SiteName::Participant(engine.name().clone());
        if !meant && !mutant(Mutant::AnswersForAnotherParticipant) {
            return Err(status::wrong_site(engine.name(), &lead.to));
        }
        // Those of coordinators come over sessions, where an older epoch is not heard.
        if lead.from == SiteName::Coordinator {
            return Err(status::refused("a coordinator gives its orders over its session"));
        }
        engine.outgoing().heard_site(&lead.from, &lead.from_endpoint);
        Ok(())
    }

    fn invalid(&self, error: &InvalidField) -> Status {
        status::invalid(error)
    }

    fn led(&self, from: SiteName, orders: Vec<Led>) {
        let Ok(engine) = self.ready.get() else { return };
        let inputs = orders.into_iter().filter(|(order, _)| served(order.id)).map(|led| {
            let (message, report_to) = led;
            let (from, via) = (from.clone(), Via::Call(Waiter::Site(report_to)));
            ShardInput::Core(Input::Led { from, message, via })
        });
        engine.inputs_before_turn(inputs.collect());
        engine.turn();
    }
}

/// The links to the other sites, whose reports go to the shard.
pub(crate) fn links(
    participant: &ParticipantName,
    endpoint: String,
    shard: ShardHandle<ParticipantShard>,
) -> Arc<SiteLinks> {
    let own = SiteName::Participant(participant.clone());
    let runtime = tokio::runtime::Handle::current();
    Arc::new(SiteLinks::new(own, endpoint, runtime, move |from, reports| {
        let reported = reports.into_iter().map(|message| {
            let from = from.clone();
            ShardInput::Core(Input::Reported { from, message })
        });
        shard.inputs_before_turn(reported.collect());
        shard.turn();
    }))
}

// ---- crash points -------------------------------------------------------------------------------

/// Before a record of a voting site goes to the log.
pub(crate) fn record_point(record: &ParticipantRecord) -> Option<&'static str> {
    Some(match record {
        ParticipantRecord::Voted(VotedBranch { site, .. }) if site.promised == Ballot::FIRST => {
            match site.accepted {
                Ballot::NONE => "participant.three-phase.before-voted-record",
                _ => "participant.three-phase.before-move-record",
            }
        }
        ParticipantRecord::Voted(VotedBranch { site, .. }) if site.promised == site.accepted => {
            "participant.three-phase.before-move-record"
        }
        ParticipantRecord::Voted(_) => "participant.three-phase.before-promise-record",
        ParticipantRecord::Decided(_) => "participant.three-phase.before-decided-record",
        _ => return None,
    })
}

/// Before and after an order leaves for another site.
pub(crate) fn order_points(order: &Order) -> (&'static str, &'static str) {
    match order {
        Order::Join { .. } => {
            ("participant.three-phase.before-join-sent", "participant.three-phase.after-join-sent")
        }
        Order::PreCommit { .. } | Order::PreAbort { .. } => {
            ("participant.three-phase.before-move-sent", "participant.three-phase.after-move-sent")
        }
        Order::Decided { .. } => (
            "participant.three-phase.before-decision-sent",
            "participant.three-phase.after-decision-sent",
        ),
        Order::Forget => (
            "participant.three-phase.before-forget-sent",
            "participant.three-phase.after-forget-sent",
        ),
    }
}

/// Between the record that a report speaks of and the report, and after the report has left.
pub(crate) fn report_points(report: &Report) -> Option<(&'static str, &'static str)> {
    Some(match report {
        Report::Joined { .. } => (
            "participant.three-phase.after-promise-record",
            "participant.three-phase.after-promise-sent",
        ),
        Report::Moved { .. } => (
            "participant.three-phase.after-move-record",
            "participant.three-phase.after-moved-sent",
        ),
        Report::Acknowledged { .. } => (
            "participant.three-phase.after-decided-record",
            "participant.three-phase.after-acknowledgement-sent",
        ),
        _ => return None,
    })
}
