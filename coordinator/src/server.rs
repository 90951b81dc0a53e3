//! The coordinator's server: answers from its first moment, serves once the log is read, and leaves in
//! good order.
//!
//! While the log is being read the port is open already: inquiries are answered with RETRY and
//! everything else with UNAVAILABLE, which says more than a refused connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use handfast_runtime::connections;
use handfast_runtime::crash_point::reached;
use handfast_runtime::site_service::SiteApi;
use handfast_wire::frames::transaction_service_server::TransactionServiceServer;
use handfast_wire::v1::coordinator_service_server::CoordinatorServiceServer;
use handfast_wire::v1::site_service_server::SiteServiceServer;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::config::CoordinatorConfig;
use crate::coordinator_service::CoordinatorApi;
use crate::engine::Engine;
use crate::ready::Ready;
use crate::recovery::StartError;
use crate::site_host::CoordinatorSite;
use crate::transaction_service::TransactionApi;
use crate::view::ANSWER_BYTES_MAX;

/// Most bytes of one request: all branches together.
const REQUEST_BYTES_MAX: usize = 64 << 20;
/// Most calls at a time on one connection.
const STREAMS_MAX: u32 = 100_000;
/// How long idle connections may hold up the end.
const CLOSE_FOR: Duration = Duration::from_secs(1);
const EXPIRE_EVERY: Duration = Duration::from_secs(30);
const GAUGES_EVERY: Duration = Duration::from_secs(1);

const TRANSACTION_SERVICE: &str = "handfast.v1.TransactionService";
const COORDINATOR_SERVICE: &str = "handfast.v1.CoordinatorService";
const SITE_SERVICE: &str = "handfast.v1.SiteService";

/// Where and how to serve.
#[derive(Debug)]
pub struct ServeOptions {
    /// An open port.
    pub listener: TcpListener,
    /// Where participants reach it, as `http://host:port`.
    pub advertise: String,
    /// How long undecided transactions may hold up the end.
    pub drain_for: Duration,
}

/// The server has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Transactions that were undecided, and are aborted thereby.
    pub undecided: usize,
    /// Decided commits that somebody has not acknowledged, and three-phase transactions that their voting sites
    /// have not ended; the next start goes on with them.
    pub undelivered: usize,
}

/// The server cannot start, or has failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The engine cannot start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The network.
    #[error("cannot serve: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// Participants could not reach it.
    #[error("--advertise: {0}")]
    Advertise(String),
    /// Nothing that is expected.
    #[error("cannot serve: {0}")]
    Internal(String),
}

/// Serves until `stop` comes true, then drains. `on_ready` is called when everything is served.
///
/// # Errors
/// When the log cannot be opened, or the network fails.
pub async fn serve(
    config: CoordinatorConfig,
    options: ServeOptions,
    ready: Ready,
    on_ready: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> Result<Ended, ServeError> {
    let ServeOptions { listener, advertise, drain_for } = options;
    let internal = |error: &dyn std::fmt::Display| ServeError::Internal(error.to_string());
    let address = listener.local_addr().map_err(|error| internal(&error))?;
    let advertise = crate::coordinator_service::endpoint(advertise)
        .map_err(|status| ServeError::Advertise(status.message().to_owned()))?;
    let (health, health_service) = tonic_health::server::health_reporter();
    report(&health, ServingStatus::NotServing).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(handfast_wire::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| internal(&error))?;
    let api = TransactionApi::new(ready.clone());
    let transactions = TransactionServiceServer::new(api.clone())
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(ANSWER_BYTES_MAX);
    let participants = CoordinatorServiceServer::new(CoordinatorApi::new(ready.clone()));
    let sites = SiteServiceServer::new(SiteApi::new(Arc::new(CoordinatorSite::new(ready.clone()))));
    let (close, closed) = tokio::sync::oneshot::channel::<()>();
    let server = Server::builder()
        // One client may have as much in flight as the engine takes; the usual 200 would queue the rest.
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(transactions)
        .add_service(participants)
        .add_service(sites)
        .serve_with_incoming_shutdown(connections::incoming(listener), async {
            let _ = closed.await;
        });
    let server = tokio::spawn(server);

    reached("coordinator.recovery.before-read");
    let start = tokio::task::spawn_blocking(move || {
        // Held up by tests that ask while the log is being read.
        reached("coordinator.recovery.reading");
        Engine::start(config, advertise)
    });
    let engine = start.await.map_err(|error| internal(&error))??;
    ready.set(Arc::clone(&engine));
    report(&health, ServingStatus::Serving).await;
    on_ready(address);

    let housekeeping = tokio::spawn(housekeeping(Arc::clone(&engine)));
    tokio::pin!(server);
    tokio::select! {
        () = stop => {}
        ended = &mut server => {
            let _ = ended.map_err(|error| internal(&error))?;
            return Err(ServeError::Internal("the server ended by itself".to_owned()));
        }
    }

    report(&health, ServingStatus::NotServing).await;
    engine.drain();
    tracing::info!("draining: no new transactions; the running ones have {drain_for:?}");
    let deadline = tokio::time::Instant::now() + drain_for;
    let mut left = engine.phases().await.unwrap_or_default();
    while left != [0; 3] && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
        left = engine.phases().await.unwrap_or_default();
    }
    api.close_streams();
    let _ = close.send(());
    // Idle connections may stay open as long as their clients like.
    if tokio::time::timeout(CLOSE_FOR, &mut server).await.is_err() {
        server.abort();
    }
    housekeeping.abort();
    let ended = Ended { undecided: left[0] + left[1], undelivered: left[2] };
    let stopping = tokio::task::spawn_blocking(move || engine.stop());
    stopping.await.map_err(|error| internal(&error))?;
    tracing::info!(
        undecided = ended.undecided,
        undelivered = ended.undelivered,
        "stopped: {} undecided transactions are aborted, the next start goes on with {}",
        ended.undecided,
        ended.undelivered
    );
    Ok(ended)
}

async fn report(health: &HealthReporter, status: ServingStatus) {
    for service in ["", TRANSACTION_SERVICE, COORDINATOR_SERVICE, SITE_SERVICE] {
        health.set_service_status(service, status).await;
    }
}

/// Keeps the outcome window and the gauges up to date.
async fn housekeeping(engine: Arc<Engine>) {
    let mut expire = tokio::time::interval(EXPIRE_EVERY);
    let mut gauges = tokio::time::interval(GAUGES_EVERY);
    loop {
        tokio::select! {
            _ = expire.tick() => loop {
                match engine.expire_outcomes().await {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!("outcomes are not taken out of the window: {error}");
                        break;
                    }
                }
            },
            _ = gauges.tick() => {
                if set_gauges(&engine).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn set_gauges(engine: &Engine) -> Result<(), crate::engine::EngineError> {
    let [active, preparing, committing] = engine.phases().await?;
    let by_state = |state: &'static str, count: usize| {
        metrics::gauge!("handfast_transactions", "state" => state).set(count as f64);
    };
    by_state("active", active);
    by_state("preparing", preparing);
    let voting = engine.voting().await?;
    by_state("pre_committed", voting.transactions);
    by_state("committing", committing.saturating_sub(voting.transactions));
    metrics::gauge!("handfast_transactions_waiting_for_quorum").set(voting.waiting as f64);
    metrics::gauge!("handfast_witnessed_transactions").set(voting.witnessed as f64);
    let oldest = engine.oldest_undelivered_ms().await?;
    let age_ms = oldest.map_or(0, |at| handfast_runtime::clock::wall_ms().saturating_sub(at));
    metrics::gauge!("handfast_undelivered_oldest_age_seconds").set(age_ms as f64 / 1000.0);
    let (participants, connected, queued) = engine.links().gauges();
    metrics::gauge!("handfast_participants").set(participants as f64);
    metrics::gauge!("handfast_participants_connected").set(connected as f64);
    metrics::gauge!("handfast_link_queue_messages").set(queued as f64);
    metrics::gauge!("handfast_log_queue_submissions").set(engine.depths().1 as f64);
    Ok(())
}
