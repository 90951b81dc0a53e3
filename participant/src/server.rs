//! The participant's server: open from its first moment, serving once the log is read, and leaving in
//! good order.
//!
//! While the log is being read, everything but health is answered with UNAVAILABLE, which says more
//! than a refused connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use handfast_runtime::site_service::SiteApi;
use handfast_runtime::{connections, listen};
use handfast_wire::frames::participant_service_server::ParticipantServiceServer;
use handfast_wire::v1::peer_service_server::PeerServiceServer;
use handfast_wire::v1::site_service_server::SiteServiceServer;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::engine::{Engine, Parts};
use crate::enlistment::{Handle, Stage};
use crate::observe::OpenCounts;
use crate::outgoing::MESSAGE_BYTES_MAX;
use crate::participant_service::{ParticipantApi, Ready};
use crate::recovery::StartError;
use crate::registration;
use crate::resource_manager::ResourceManager;
use crate::voting::VotingSite;

/// How dead coordinators are noticed.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How long idle connections may hold up the end.
const CLOSE_FOR: Duration = Duration::from_secs(1);
const GAUGES_EVERY: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);

const PARTICIPANT_SERVICE: &str = "handfast.v1.ParticipantService";
const PEER_SERVICE: &str = "handfast.v1.PeerService";
const SITE_SERVICE: &str = "handfast.v1.SiteService";

/// Where and how to serve.
#[derive(Debug)]
pub(crate) struct ServeOptions {
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: Option<String>,
    pub(crate) services: Vec<String>,
    pub(crate) handle: Handle,
}

/// A participant that is served. Dropping it ends it at once, as a crash would.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    engine: Arc<Engine>,
    handle: Handle,
    ready: Ready,
    health: Health,
    close: Option<oneshot::Sender<()>>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    tasks: Vec<JoinHandle<()>>,
}

/// What was left when a participant was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Branches in doubt; the next start takes them over.
    pub in_doubt: usize,
    /// Calls of the resource manager that were still running.
    pub calls: usize,
}

#[derive(Debug, Clone)]
struct Health {
    reporter: HealthReporter,
    services: Vec<String>,
}

impl Health {
    async fn report(&self, status: ServingStatus) {
        for service in &self.services {
            self.reporter.set_service_status(service.clone(), status).await;
        }
    }
}

pub(crate) async fn serve<R: ResourceManager>(
    options: ServeOptions,
    mut parts: Parts,
    resource: Arc<R>,
    extra: Routes,
) -> Result<Running, StartError> {
    let ServeOptions { listen, advertise, services, handle } = options;
    let listener = listen::bind(listen).await?;
    let address = listener.local_addr()?;
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let own = ["", PARTICIPANT_SERVICE, PEER_SERVICE, SITE_SERVICE].map(str::to_owned);
    let health = Health { reporter, services: own.into_iter().chain(services).collect() };
    health.report(ServingStatus::NotServing).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(handfast_wire::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| std::io::Error::other(error.to_string()))?;
    let ready = Ready::default();
    let api = ParticipantApi::new(ready.clone());
    let participant = ParticipantServiceServer::new(api.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let peers = PeerServiceServer::new(api);
    let voting = SiteApi::new(Arc::new(VotingSite::new(ready.clone())));
    let (close, closed) = oneshot::channel::<()>();
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_routes(extra)
        .add_service(health_service)
        .add_service(reflection)
        .add_service(participant)
        .add_service(peers)
        .add_service(SiteServiceServer::new(voting))
        .serve_with_incoming_shutdown(connections::incoming(listener), async {
            let _ = closed.await;
        });
    let server = tokio::spawn(server);

    let endpoint = advertise.unwrap_or_else(|| format!("http://{address}"));
    parts.endpoint.clone_from(&endpoint);
    let engine = match Engine::start(parts, resource).await {
        Ok(engine) => Arc::new(engine),
        Err(error) => {
            server.abort();
            return Err(error);
        }
    };
    // The first scrape of a participant that says it is ready shows what it has found.
    let _ = engine.show_counts().await;
    ready.set(Some(Arc::clone(&engine)));
    handle.set_stage(Stage::Serving);
    health.report(ServingStatus::Serving).await;
    let tasks = vec![
        tokio::spawn(registration::keep_registered(
            Arc::clone(&engine),
            endpoint,
            handle.unknown(),
        )),
        tokio::spawn(show_gauges(Arc::clone(&engine))),
    ];
    Ok(Running { address, engine, handle, ready, health, close: Some(close), server, tasks })
}

async fn show_gauges(engine: Arc<Engine>) {
    let mut ticks = tokio::time::interval(GAUGES_EVERY);
    loop {
        ticks.tick().await;
        if engine.show_counts().await.is_err() {
            return;
        }
    }
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For the resource's own services: joins transactions.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// True while it answers: the log is writable and it is not stopping.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.engine.is_poisoned() && !self.engine.is_draining()
    }

    /// Calls of the resource manager that are running.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.engine.calls()
    }

    /// A check for readiness that outlives any borrow, for status pages.
    pub fn readiness(&self) -> impl Fn() -> Result<(), String> + Send + Sync + 'static {
        let engine = Arc::downgrade(&self.engine);
        move || match engine.upgrade() {
            None => Err("stopped".to_owned()),
            Some(engine) if engine.is_poisoned() => Err("the log has failed".to_owned()),
            Some(engine) if engine.is_draining() => Err("stopping".to_owned()),
            Some(_) => Ok(()),
        }
    }

    /// Returns when the server has ended by itself, which it does only when something has failed.
    pub async fn ended(&mut self) -> String {
        match (&mut self.server).await {
            Ok(Ok(())) => "the server has ended".to_owned(),
            Ok(Err(error)) => format!("the server has failed: {error}"),
            Err(error) => format!("the server has failed: {error}"),
        }
    }

    /// Takes no new work, lets running calls of the resource end for at most `drain_for`, and stops.
    /// Decisions that arrive meanwhile are carried out and answered.
    pub async fn shutdown(mut self, drain_for: Duration) -> Stopped {
        self.health.report(ServingStatus::NotServing).await;
        self.handle.set_stage(Stage::Stopping);
        self.engine.drain();
        let deadline = tokio::time::Instant::now() + drain_for;
        while self.engine.calls() > 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        // What is on its way to the log is answered still.
        let flushed = tokio::time::timeout_at(deadline, self.engine.flushed());
        let _ = flushed.await;
        let calls = self.engine.calls();
        let OpenCounts { in_doubt, .. } = self.engine.open_counts().await.unwrap_or_default();
        self.engine.sessions().end_all("the participant is stopping");
        if let Some(close) = self.close.take() {
            let _ = close.send(());
        }
        // Idle connections may stay open as long as their clients like.
        if !self.server.is_finished() {
            let _ = tokio::time::timeout(CLOSE_FOR, &mut self.server).await;
        }
        let engine = Arc::clone(&self.engine);
        let _ = tokio::task::spawn_blocking(move || engine.stop()).await;
        tracing::info!(
            participant = %self.engine.name(),
            in_doubt,
            calls,
            "stopped: {in_doubt} branches are left in doubt and are taken over at the next start"
        );
        Stopped { in_doubt, calls }
    }
}

/// Nothing of it is left running; what is durable is on disk.
impl Drop for Running {
    fn drop(&mut self) {
        self.handle.set_stage(Stage::Stopping);
        self.ready.set(None);
        for task in &self.tasks {
            task.abort();
        }
        self.engine.sessions().end_all("the participant has stopped");
        self.server.abort();
    }
}
