//! The way to the witnesses of three-phase transactions, and back.
//!
//! A witness is found where the configuration says that it is; one that the configuration does not name any
//! more, where the transaction's own record says. The others that a coordinator leads, the participants, have
//! sessions.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use handfast_commit_core::id::ParticipantName;
use handfast_commit_core::message::{FromSite, ToSite};
use handfast_commit_core::three_phase::{SiteName, Sites, Witness};
use handfast_commit_core::two_phase::coordinator::Input;
use handfast_runtime::site_links::SiteLinks;
use tokio::runtime::Handle;

use crate::effects::Shards;
use crate::shard::ShardInput;

/// See the module.
#[derive(Debug)]
pub struct WitnessLinks {
    links: SiteLinks,
    configured: BTreeMap<ParticipantName, String>,
    remembered: RwLock<BTreeMap<ParticipantName, String>>,
}

impl WitnessLinks {
    /// To these. `endpoint` is where this coordinator is reached; what they report goes to the shards. Must be
    /// called on a tokio runtime.
    #[must_use]
    pub fn new(configured: &[Witness], endpoint: String, shards: Arc<OnceLock<Shards>>) -> Self {
        let hear = move |from: &SiteName, reports: Vec<FromSite>| {
            let Some(shards) = shards.get() else { return };
            let mut inputs = shards.no_inputs(0);
            for message in reports {
                let shard = shards.sequences().shard_of(message.id);
                let from = from.clone();
                inputs[shard].push(ShardInput::Core(Input::Reported { from, message }));
            }
            shards.submit(&mut inputs);
        };
        let own = SiteName::Coordinator;
        Self {
            links: SiteLinks::new(own, endpoint, Handle::current(), hear),
            configured: configured
                .iter()
                .map(|witness| (witness.name.clone(), witness.endpoint.clone()))
                .collect(),
            remembered: RwLock::default(),
        }
    }

    /// Where the witnesses of a transaction were, that has been found in the log.
    pub fn remember(&self, sites: &Sites) {
        let mut remembered = self.remembered.write().unwrap_or_else(PoisonError::into_inner);
        for witness in sites.witnesses() {
            remembered.insert(witness.name.clone(), witness.endpoint.clone());
        }
    }

    /// Gives an order. It may be lost.
    pub fn lead(&self, name: &ParticipantName, order: ToSite) {
        let remembered = || {
            let remembered = self.remembered.read().unwrap_or_else(PoisonError::into_inner);
            remembered.get(name).cloned()
        };
        let endpoint = self.configured.get(name).cloned().or_else(remembered);
        let endpoints: Vec<_> = endpoint.into_iter().collect();
        self.links.send(&SiteName::Witness(name.clone()), &endpoints, order);
    }
}
