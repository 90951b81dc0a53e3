//! What this participant asks others outside of sessions: the coordinator, when it has no session, and
//! the peers of a branch in doubt.
//!
//! Nothing that is asked here is waited for. A question that fails, or that finds too many others on
//! their way, is asked again by the branch's own timer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use handfast_commit_core::id::{Incarnation, ParticipantName, Slot, TransactionId};
use handfast_commit_core::message::Inquired;
use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_commit_core::three_phase::SiteName;
use handfast_wire::convert;
use handfast_wire::v1;
use handfast_wire::v1::coordinator_service_client::CoordinatorServiceClient;
use handfast_wire::v1::peer_service_client::PeerServiceClient;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Longest wait for a connection, and for an answer.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Longest wait for the coordinator's log, which a registration and an enlistment need.
const REGISTER_MAX: Duration = Duration::from_secs(5);
/// Most questions on their way.
const QUESTIONS_MAX: usize = 64;
/// Most connections that are kept for the next question.
const CHANNELS_MAX: usize = 64;
/// The largest message that is taken or sent, in bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Asks.
#[derive(Debug)]
pub(crate) struct Outgoing {
    participant: ParticipantName,
    /// Where the configuration says that the coordinator is.
    configured: String,
    /// Where each slot's coordinator says that it is.
    heard: Mutex<BTreeMap<Slot, String>>,
    /// Where voting sites that lead say that they are: they may have moved since PREPARE named them.
    heard_sites: Mutex<BTreeMap<SiteName, String>>,
    channels: Mutex<BTreeMap<String, Channel>>,
    questions: Arc<Semaphore>,
}

impl Outgoing {
    pub(crate) fn new(participant: ParticipantName, configured: String) -> Self {
        Self {
            participant,
            configured,
            heard: Mutex::default(),
            heard_sites: Mutex::default(),
            channels: Mutex::default(),
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
        }
    }

    /// A coordinator has said where it answers.
    pub(crate) fn heard(&self, slot: Slot, endpoint: &str) {
        if endpoint.is_empty() {
            return;
        }
        let mut heard = lock(&self.heard);
        if heard.get(&slot).is_none_or(|known| known != endpoint) {
            heard.insert(slot, endpoint.to_owned());
        }
    }

    /// A voting site that leads has said where it answers.
    pub(crate) fn heard_site(&self, site: &SiteName, endpoint: &str) {
        let mut heard = lock(&self.heard_sites);
        let known = heard.get(site).is_some_and(|known| known == endpoint);
        if endpoint.is_empty() || known || mutant(Mutant::MovedSiteNotHeard) {
            return;
        }
        if heard.len() >= CHANNELS_MAX {
            heard.clear();
        }
        heard.insert(site.clone(), endpoint.to_owned());
    }

    /// Where a voting site of a transaction may be, the likeliest place first. `remembered` is what PREPARE
    /// said, or what has been heard since.
    pub(crate) fn site_endpoints(
        &self,
        slot: Slot,
        to: &SiteName,
        remembered: &str,
    ) -> Vec<String> {
        if *to == SiteName::Coordinator {
            return self.coordinator_endpoints(slot, remembered);
        }
        let heard = lock(&self.heard_sites).get(to).cloned();
        let mut endpoints: Vec<String> = heard.into_iter().collect();
        if !remembered.is_empty() && !endpoints.iter().any(|known| known == remembered) {
            endpoints.push(remembered.to_owned());
        }
        endpoints
    }

    /// Where the configuration says that the coordinator is.
    pub(crate) fn configured(&self) -> &str {
        &self.configured
    }

    /// Where the coordinator of a slot may be, the likeliest place first. `remembered` is what the log
    /// says, and may be empty.
    pub(crate) fn coordinator_endpoints(&self, slot: Slot, remembered: &str) -> Vec<String> {
        let heard = lock(&self.heard).get(&slot).cloned().unwrap_or_default();
        let mut endpoints: Vec<String> = Vec::with_capacity(3);
        for endpoint in [heard.as_str(), remembered, self.configured.as_str()] {
            if !endpoint.is_empty() && !endpoints.iter().any(|known| known == endpoint) {
                endpoints.push(endpoint.to_owned());
            }
        }
        endpoints
    }

    /// Asks the coordinator what became of a transaction. `None`: nobody has said anything.
    pub(crate) async fn inquire(
        &self,
        id: TransactionId,
        incarnation: Incarnation,
        remembered: &str,
    ) -> Option<Inquired> {
        let _permit = Arc::clone(&self.questions).try_acquire_owned().ok()?;
        for endpoint in self.coordinator_endpoints(id.slot(), remembered) {
            let mut request = tonic::Request::new(self.inquiry(id, incarnation));
            request.set_timeout(ANSWER_MAX);
            let asked = async {
                let mut client = CoordinatorServiceClient::new(self.channel(&endpoint)?);
                let answer = client.inquire(request).await?.into_inner().answer;
                understood(id, answer.as_ref())
            };
            match asked.await {
                Ok(outcome) => return Some(outcome),
                Err(error) => {
                    tracing::debug!(transaction = %id, endpoint, "inquiry: {}", error.message());
                }
            }
        }
        None
    }

    /// Asks a peer.
    pub(crate) async fn inquire_peer(
        &self,
        id: TransactionId,
        incarnation: Incarnation,
        peer: &ParticipantName,
        endpoint: &str,
    ) -> Option<Inquired> {
        let _permit = Arc::clone(&self.questions).try_acquire_owned().ok()?;
        let mut request = tonic::Request::new(v1::InquirePeerRequest {
            inquiry: Some(self.inquiry(id, incarnation)),
            peer: peer.to_string(),
        });
        request.set_timeout(ANSWER_MAX);
        let asked = async {
            let mut client = PeerServiceClient::new(self.channel(endpoint)?);
            let answer = client.inquire_peer(request).await?.into_inner().answer;
            understood(id, answer.as_ref())
        };
        match asked.await {
            Ok(outcome) => Some(outcome),
            Err(error) => {
                tracing::debug!(transaction = %id, %peer, endpoint, "peer: {}", error.message());
                None
            }
        }
    }

    /// Registers this participant with the configured coordinator.
    pub(crate) async fn register(
        &self,
        endpoint: &str,
        incarnation: Incarnation,
    ) -> Result<v1::RegisterParticipantResponse, Status> {
        let mut request = tonic::Request::new(v1::RegisterParticipantRequest {
            participant: self.participant.to_string(),
            endpoint: endpoint.to_owned(),
            participant_incarnation: incarnation.0,
        });
        request.set_timeout(REGISTER_MAX);
        let mut client = CoordinatorServiceClient::new(self.channel(&self.configured)?);
        Ok(client.register_participant(request).await?.into_inner())
    }

    /// Enlists a branch with the coordinator of its slot.
    pub(crate) async fn enlist(
        &self,
        id: TransactionId,
        incarnation: Incarnation,
        enlistment: u64,
    ) -> Result<v1::EnlistBranchResponse, Status> {
        let mut last = Status::unavailable("no coordinator is known");
        for endpoint in self.coordinator_endpoints(id.slot(), "") {
            let mut request = tonic::Request::new(v1::EnlistBranchRequest {
                transaction_id: id.to_string(),
                participant: self.participant.to_string(),
                participant_incarnation: incarnation.0,
                enlistment,
            });
            request.set_timeout(REGISTER_MAX);
            let mut client = CoordinatorServiceClient::new(self.channel(&endpoint)?);
            match client.enlist_branch(request).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) if status.code() == tonic::Code::Unavailable => last = status,
                Err(status) => return Err(status),
            }
        }
        Err(last)
    }

    fn inquiry(&self, id: TransactionId, incarnation: Incarnation) -> v1::InquireRequest {
        v1::InquireRequest {
            transaction_id: id.to_string(),
            participant: self.participant.to_string(),
            coordinator_incarnation: incarnation.0,
        }
    }

    /// The same question as a message of a session.
    pub(crate) fn inquiry_message(
        &self,
        id: TransactionId,
        incarnation: Incarnation,
    ) -> v1::ParticipantMessage {
        let inquiry = v1::participant_message::Message::Inquire(self.inquiry(id, incarnation));
        v1::ParticipantMessage { transaction_id: id.to_string(), message: Some(inquiry) }
    }

    fn channel(&self, endpoint: &str) -> Result<Channel, Status> {
        let mut channels = lock(&self.channels);
        if let Some(channel) = channels.get(endpoint) {
            return Ok(channel.clone());
        }
        let target = Endpoint::from_shared(endpoint.to_owned()).map_err(|error| {
            Status::invalid_argument(format!("{endpoint:?} is no endpoint: {error}"))
        })?;
        let channel = target
            .connect_timeout(ANSWER_MAX)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .connect_lazy();
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        channels.insert(endpoint.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// The maps are whole between any two statements, so that a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn understood(id: TransactionId, answer: Option<&v1::InquiryAnswer>) -> Result<Inquired, Status> {
    let (about, outcome) =
        convert::inquired(answer).map_err(|error| Status::internal(error.to_string()))?;
    if about != id {
        return Err(Status::internal(format!("the answer is about transaction {about}")));
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coordinator_is_sought_where_it_was_heard_last() {
        let name = "a".parse().expect("a name");
        let outgoing = Outgoing::new(name, "http://configured".into());
        let of = |remembered| outgoing.coordinator_endpoints(Slot(1), remembered);
        assert_eq!(of(""), ["http://configured"]);
        assert_eq!(of("http://log"), ["http://log", "http://configured"]);
        outgoing.heard(Slot(1), "http://session");
        outgoing.heard(Slot(1), "");
        outgoing.heard(Slot(2), "http://another");
        assert_eq!(of("http://log"), ["http://session", "http://log", "http://configured"]);
        outgoing.heard(Slot(1), "http://configured");
        assert_eq!(of("http://configured"), ["http://configured"]);
    }

    #[test]
    fn a_voting_site_is_sought_where_it_was_heard_last() {
        let name = |text: &str| text.parse().expect("a name");
        let outgoing = Outgoing::new(name("a"), "http://configured".into());
        let of = |to: &SiteName| outgoing.site_endpoints(Slot(1), to, "http://log");
        assert_eq!(of(&SiteName::Coordinator), ["http://log", "http://configured"]);
        let peer = SiteName::Participant(name("b"));
        assert_eq!(of(&peer), ["http://log"]);
        outgoing.heard_site(&peer, "http://moved");
        outgoing.heard_site(&peer, "");
        assert_eq!(of(&peer), ["http://moved", "http://log"]);
        assert_eq!(of(&SiteName::Witness(name("b"))), ["http://log"], "another site's name");
        outgoing.heard_site(&peer, "http://log");
        assert_eq!(of(&peer), ["http://log"]);
    }
}
