//! The servers of the skeleton: the transport of the product, with the same settings, as it comes. That the product
//! gathers what it writes to its connections is the product's own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use handfast_wire::v1::coordinator_service_server::CoordinatorServiceServer;
use handfast_wire::v1::key_value_service_server::KeyValueServiceServer;
use handfast_wire::v1::participant_service_server::ParticipantServiceServer;
use handfast_wire::v1::transaction_service_server::TransactionServiceServer;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};

use crate::coordinator::Coordinator;
use crate::coordinator_service::{CoordinatorApi, NewLink, connect, split};
use crate::participant::Participant;
use crate::participant_service::ParticipantApi;

/// Most bytes of one request at a coordinator, as in the product.
const REQUEST_BYTES_MAX: usize = 64 << 20;
/// Most bytes of one message at a participant, as in the product.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
const STREAMS_MAX: u32 = 100_000;
const KEEPALIVE: Duration = Duration::from_secs(10);

/// One thread for everything but the log: few wake-ups beat many threads.
///
/// # Errors
/// When the system gives none.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")
}

async fn serve(
    listener: TcpListener,
    routes: Routes,
    end: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let mut server = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE));
    Ok(server.add_routes(routes).serve_with_incoming_shutdown(incoming, end).await?)
}

/// Serves a coordinator for ever. Says where on standard output when every participant is connected.
///
/// # Errors
/// When it cannot.
pub async fn coordinator(
    listen: SocketAddr,
    data: &Path,
    participants: Vec<(String, String)>,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let links = participants.iter().map(|(name, at)| NewLink::new(name, at)).collect();
    let (links, frames) = split(links);
    let coordinator = Coordinator::start(data, links)?;
    let api = CoordinatorApi::new(Arc::clone(&coordinator));
    let transactions = TransactionServiceServer::new(api.clone())
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(REQUEST_BYTES_MAX);
    let routes = Routes::new(transactions).add_service(CoordinatorServiceServer::new(api));
    let server = tokio::spawn(serve(listener, routes, std::future::pending()));
    for (at, frames) in frames.into_iter().enumerate() {
        let coordinator = Arc::clone(&coordinator);
        connect(coordinator, at, frames, format!("http://{address}")).await?;
    }
    println!("handfast-skeleton coordinator listening on {address}");
    server.await?
}

fn participant_routes(api: ParticipantApi) -> Routes {
    let sessions = ParticipantServiceServer::new(api.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Routes::new(sessions).add_service(KeyValueServiceServer::new(api))
}

/// Serves a participant for ever. Says where on standard output.
///
/// # Errors
/// When it cannot.
pub async fn participant(
    listen: SocketAddr,
    data: &Path,
    name: String,
    coordinator: String,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let coordinator = Endpoint::from_shared(coordinator)?.tcp_nodelay(true).connect_lazy();
    let api = ParticipantApi::new(Participant::open(name.clone(), data)?, coordinator);
    println!("handfast-skeleton {name} listening on {address}");
    serve(listener, participant_routes(api), std::future::pending()).await
}

/// A participant that is served by a thread of this process, until it is dropped.
pub struct Served {
    address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    /// On a free port, with its log in `folder`.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn on_a_thread(folder: &Path) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let participant = Participant::open("echo".to_owned(), folder)?;
        let runtime = runtime()?;
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("echo".to_owned()).spawn(move || {
            let served = runtime.block_on(async {
                let listener = TcpListener::from_std(listener)?;
                let nobody = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
                let routes = participant_routes(ParticipantApi::new(participant, nobody));
                tokio::select! {
                    served = serve(listener, routes, std::future::pending()) => served,
                    _ = ended => Ok(()),
                }
            });
            if let Err(error) = served {
                eprintln!("handfast-skeleton: the echo has failed: {error:#}");
            }
        })?;
        Ok(Self { address, end: Some(end), thread: Some(thread) })
    }

    /// A connection to it.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn connect(&self) -> anyhow::Result<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?;
        Ok(endpoint.tcp_nodelay(true).connect().await?)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
