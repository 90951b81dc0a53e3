//! The coordinator as a voting site that others lead: of its own slot's transactions, and, when it is a witness,
//! of any other slot's.
//!
//! The law kept here: it answers as the site that is meant, or not at all. Whoever looks for a coordinator that
//! has moved, and finds a witness at its old place, would count that one twice.

use handfast_commit_core::message::ToSite;
use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_commit_core::three_phase::SiteName;
use handfast_runtime::crash_point::reached;
use handfast_runtime::site_service::{Led, SiteHost};
use handfast_wire::convert::InvalidField;
use handfast_wire::site::Lead;
use tonic::{Code, Status};

use crate::engine::Engine;
use crate::ready::Ready;
use crate::reply_to::ReplyTo;
use crate::shard::ShardInput;
use crate::status;

/// Serves once the engine is there.
#[derive(Debug, Clone)]
pub struct CoordinatorSite {
    ready: Ready,
}

impl CoordinatorSite {
    /// Before the engine has read its log, orders are answered with UNAVAILABLE.
    #[must_use]
    pub fn new(ready: Ready) -> Self {
        Self { ready }
    }
}

fn another_site(message: String) -> Status {
    status::status(Code::FailedPrecondition, "ANOTHER_SITE", message)
}

fn admit(engine: &Engine, lead: &Lead) -> Result<(), Status> {
    let own_slot = engine.identity().slot;
    let own = |order: &ToSite| order.id.slot() == own_slot;
    match &lead.to {
        _ if mutant(Mutant::AnswersForAnotherSite) => Ok(()),
        SiteName::Coordinator => match lead.orders.iter().find(|order| !own(order)) {
            None => Ok(()),
            Some(order) => Err(another_site(format!(
                "transaction {} belongs to another slot than this coordinator's, {}",
                order.id, own_slot.0
            ))),
        },
        SiteName::Witness(name) if engine.config().witness_name.as_ref() == Some(name) => {
            match lead.orders.iter().find(|order| own(order)) {
                None => Ok(()),
                Some(order) => {
                    let message = format!(
                        "witness {name} and the coordinator of transaction {} have the same slot, {}: give the \
                         witness a --slot of its own",
                        order.id, own_slot.0
                    );
                    tracing::error!("{message}");
                    Err(another_site(message))
                }
            }
        }
        SiteName::Witness(name) => Err(another_site(match &engine.config().witness_name {
            None => format!(
                "this coordinator is no witness: start it with --witness-name {name} if it should be"
            ),
            Some(own) => format!("the witness here is called {own}, not {name}"),
        })),
        SiteName::Participant(name) => {
            Err(another_site(format!("this is a coordinator, and not participant {name}")))
        }
    }
}

impl SiteHost for CoordinatorSite {
    fn admit(&self, lead: &Lead) -> Result<(), Status> {
        admit(self.ready.get().ok_or_else(status::starting)?, lead)
    }

    fn invalid(&self, error: &InvalidField) -> Status {
        status::invalid(error)
    }

    fn led(&self, from: SiteName, orders: Vec<Led>) {
        reached("coordinator.order-received");
        let Some(engine) = self.ready.get() else { return };
        let sequences = engine.shards.sequences();
        let mut inputs = engine.shards.no_inputs(0);
        for (message, report_to) in orders {
            let (from, to) = (from.clone(), ReplyTo::site(report_to));
            inputs[sequences.shard_of(message.id)].push(ShardInput::Led { from, message, to });
        }
        engine.shards.submit(&mut inputs);
    }
}
