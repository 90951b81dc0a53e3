//! Calls that share a stream, over real connections: a coordinator with its journal in memory, and participants
//! that do what their work says.

mod caller;
mod participant;

mod answers;
mod bounds;
mod ends;

use std::sync::Arc;
use std::time::Duration;

use handfast_commit_core::id::{Incarnation, ParticipantName};
use handfast_coordinator::config::CoordinatorConfig;
use handfast_coordinator::engine::Engine;
use handfast_coordinator::ready::Ready;
use handfast_coordinator::transaction_service::TransactionApi;
use handfast_journal::{Kind, MemoryDisk, MemoryJournal};
use handfast_wire::frames::transaction_service_server::TransactionServiceServer;
use handfast_wire::v1;
use handfast_wire::v1::transaction_service_client::TransactionServiceClient;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};

use crate::participant::{Participant, serve};

/// Long enough that no time-out has a part in a test.
const LONG: Duration = Duration::from_secs(120);
/// What the server's message limits are in production.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A coordinator with participants.
struct World {
    engine: Arc<Engine>,
    api: TransactionApi,
    participant: Arc<Participant>,
    endpoint: String,
}

impl World {
    /// With the participants "a" and "b" and default settings.
    async fn start() -> Self {
        Self::start_with(CoordinatorConfig::default(), &["a", "b"]).await
    }

    async fn start_with(config: CoordinatorConfig, participants: &[&str]) -> Self {
        let participant = Arc::new(Participant::default());
        let served = serve(Arc::clone(&participant)).await;
        let journal = MemoryJournal::open(&MemoryDisk::new(7), Kind::Coordinator).expect("new");
        let engine = Engine::start_on(Box::new(journal), config, "http://127.0.0.1:1".to_owned());
        let engine = engine.expect("starts");
        for name in participants {
            let name: ParticipantName = name.parse().expect("a name");
            engine.register(name.clone(), served.clone(), Incarnation(1)).await.expect("written");
            until("the participant is reached", || engine.links().is_connected(&name)).await;
        }
        let ready = Ready::default();
        ready.set(Arc::clone(&engine));
        let api = TransactionApi::new(ready);
        let endpoint = serve_api(api.clone()).await;
        Self { engine, api, participant, endpoint }
    }

    /// A connection of its own.
    fn client(&self) -> TransactionServiceClient<Channel> {
        client(&self.endpoint)
    }
}

fn client(endpoint: &str) -> TransactionServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(endpoint.to_owned()).expect("an endpoint");
    TransactionServiceClient::new(endpoint.connect_lazy())
        .max_decoding_message_size(2 * MESSAGE_BYTES_MAX)
        .max_encoding_message_size(2 * MESSAGE_BYTES_MAX)
}

async fn serve_api(api: TransactionApi) -> String {
    let service = TransactionServiceServer::new(api)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    endpoint
}

/// Work for both participants.
fn execute(request_id: &str, work: &str) -> v1::ExecuteTransactionRequest {
    execute_at(&["a", "b"], request_id, work)
}

fn execute_at(
    participants: &[impl AsRef<str>],
    request_id: &str,
    work: &str,
) -> v1::ExecuteTransactionRequest {
    let branch = |name: &dyn AsRef<str>| v1::BranchWork {
        participant: name.as_ref().to_owned(),
        payload: work.to_owned().into(),
    };
    let mut options = v1::TransactionOptions::default();
    options.timeout.get_or_insert_default().seconds = LONG.as_secs().cast_signed();
    v1::ExecuteTransactionRequest {
        request_id: request_id.to_owned(),
        branches: participants.iter().map(|name| branch(name)).collect(),
        reply_time: 0,
        options: Some(options),
    }
}

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
