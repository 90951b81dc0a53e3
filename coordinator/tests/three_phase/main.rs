//! Three-phase commit at the coordinator, over real connections: participants that obey and participants that do
//! not, elections that others lead, restarts, and witnesses.

mod site;

mod first_ballot;
mod led;
mod witnesses;

use std::sync::Arc;
use std::time::Duration;

use handfast_commit_core::id::{Incarnation, ParticipantName, Slot};
use handfast_coordinator::config::CoordinatorConfig;
use handfast_coordinator::engine::Engine;
use handfast_coordinator::ready::Ready;
use handfast_coordinator::site_host::CoordinatorSite;
use handfast_coordinator::transaction_service::TransactionApi;
use handfast_journal::{Kind, MemoryDisk, MemoryJournal, Unsynced};
use handfast_runtime::site_service::SiteApi;
use handfast_wire::frames::transaction_service_server::TransactionServiceServer;
use handfast_wire::v1;
use handfast_wire::v1::site_service_client::SiteServiceClient;
use handfast_wire::v1::site_service_server::SiteServiceServer;
use handfast_wire::v1::transaction_service_client::TransactionServiceClient;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Server};

use crate::site::{LOG, Site};

/// Ballot 1 of site 0.
const FIRST: u64 = 1 << 16;

/// A coordinator's process, and its disk.
struct World {
    disk: MemoryDisk,
    config: CoordinatorConfig,
    engine: Arc<Engine>,
    endpoint: String,
    server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

impl World {
    async fn start(config: CoordinatorConfig) -> Self {
        let disk = MemoryDisk::new(7 + u64::from(config.slot.0));
        Self::start_on(disk, config).await
    }

    async fn start_on(disk: MemoryDisk, config: CoordinatorConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
        let journal = MemoryJournal::open(&disk, Kind::Coordinator).expect("a good disk");
        let engine = Engine::start_on(Box::new(journal), config.clone(), endpoint.clone());
        let engine = engine.expect("starts");
        let ready = Ready::default();
        ready.set(Arc::clone(&engine));
        let sites = SiteApi::new(Arc::new(CoordinatorSite::new(ready.clone())));
        let server = Server::builder()
            .add_service(TransactionServiceServer::new(TransactionApi::new(ready)))
            .add_service(SiteServiceServer::new(sites))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(server);
        Self { disk, config, engine, endpoint, server }
    }

    /// With these participants.
    async fn with_sites(config: CoordinatorConfig, names: &[&str]) -> (Self, Vec<Arc<Site>>) {
        let world = Self::start(config).await;
        let mut sites = Vec::new();
        for name in names {
            sites.push(world.join(name, |_| {}).await);
        }
        (world, sites)
    }

    /// Registers a participant, and returns when it is connected.
    async fn join(&self, name: &str, prepare: impl Fn(&Site)) -> Arc<Site> {
        let (site, endpoint) = Site::serve(name).await;
        prepare(&site);
        let name: ParticipantName = name.parse().expect("a name");
        self.engine.register(name.clone(), endpoint, Incarnation(LOG)).await.expect("written");
        until("the participant is reached", || self.engine.links().is_connected(&name)).await;
        site
    }

    /// As after a power cut: what was not synced is gone.
    async fn restart(self) -> Self {
        let Self { disk, config, engine, server, .. } = self;
        server.abort();
        let _ = server.await;
        engine.stop();
        drop(engine);
        disk.crash(Unsynced::Lost);
        Self::start_on(disk, config).await
    }

    fn client(&self) -> TransactionServiceClient<Channel> {
        TransactionServiceClient::new(channel(&self.endpoint))
    }

    /// Executes a transaction at these participants, and waits at most so long.
    async fn execute(
        &self,
        request_id: &str,
        participants: &[&str],
        patience: Duration,
    ) -> Result<v1::Outcome, Status> {
        let mut request = tonic::Request::new(execute(request_id, participants));
        request.metadata_mut().insert("grpc-timeout", timeout(patience));
        let response = self.client().execute_transaction(request).await?;
        Ok(response.into_inner().outcome.expect("an outcome"))
    }

    async fn get(&self, request_id: &str) -> v1::Transaction {
        let request =
            v1::GetTransactionRequest { request_id: request_id.to_owned(), ..Default::default() };
        let response = self.client().get_transaction(request).await.expect("it is known");
        response.into_inner().transaction.expect("a transaction")
    }

    /// Gives an order as another site, and waits for the report.
    async fn lead(
        &self,
        from: v1::SiteName,
        to: v1::SiteName,
        order: v1::SiteOrder,
    ) -> Result<v1::SiteReport, Status> {
        let request = v1::LeadRequest {
            from: Some(from),
            from_endpoint: String::new(),
            to: Some(to),
            orders: vec![order],
        };
        let mut client = SiteServiceClient::new(channel(&self.endpoint));
        let mut reports = client.lead(request).await?.into_inner();
        let response = reports.message().await?.expect("a report");
        assert_eq!(reports.message().await?, None, "one report for one order");
        Ok(response.reports.into_iter().next().expect("a report"))
    }
}

fn timeout(patience: Duration) -> tonic::metadata::MetadataValue<tonic::metadata::Ascii> {
    format!("{}m", patience.as_millis()).parse().expect("a number")
}

fn channel(endpoint: &str) -> Channel {
    Endpoint::from_shared(endpoint.to_owned()).expect("an endpoint").connect_lazy()
}

fn execute(request_id: &str, participants: &[&str]) -> v1::ExecuteTransactionRequest {
    let branch =
        |name: &&str| v1::BranchWork { participant: (*name).to_owned(), payload: "work".into() };
    let options =
        v1::TransactionOptions { protocol: v1::Protocol::ThreePhase.into(), ..Default::default() };
    v1::ExecuteTransactionRequest {
        request_id: request_id.to_owned(),
        branches: participants.iter().map(branch).collect(),
        reply_time: 0,
        options: Some(options),
    }
}

fn coordinator() -> v1::SiteName {
    v1::SiteName { role: v1::SiteRole::Coordinator.into(), name: String::new() }
}

fn participant(name: &str) -> v1::SiteName {
    v1::SiteName { role: v1::SiteRole::Participant.into(), name: name.to_owned() }
}

fn witness(name: &str) -> v1::SiteName {
    v1::SiteName { role: v1::SiteRole::Witness.into(), name: name.to_owned() }
}

/// An order about a transaction, to the log with this number.
fn order(id: &str, incarnation: u64, kind: v1::SiteOrderKind, ballot: u64) -> v1::SiteOrder {
    let mut order = v1::SiteOrder {
        transaction_id: id.to_owned(),
        incarnation,
        ballot,
        committed: true,
        ..Default::default()
    };
    order.set_kind(kind);
    order
}

fn slot(slot: u16) -> CoordinatorConfig {
    CoordinatorConfig { slot: Slot(slot), ..CoordinatorConfig::default() }
}

/// Long enough for a loaded machine.
const LONG: Duration = Duration::from_secs(60);

/// Waits until it is so, for at most half a minute.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..3000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited 30 s in vain until {what}");
}
