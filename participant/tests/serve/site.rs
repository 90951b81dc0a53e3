//! One participant with the key-value store, in a folder that outlives its processes.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use handfast_journal::OpenError;
use handfast_participant::resources::key_value::{KeyValueConfig, KeyValueGrpc, KeyValueStore};
use handfast_participant::{Participant, Routes, Running, StartError, Store};
use handfast_wire::v1;
use handfast_wire::v1::coordinator_message::Message;
use handfast_wire::v1::key_value_operation::Operation;
use handfast_wire::v1::key_value_service_client::KeyValueServiceClient;
use handfast_wire::v1::key_value_service_server::KeyValueServiceServer;
use handfast_wire::v1::participant_service_client::ParticipantServiceClient;
use handfast_wire::v1::peer_service_client::PeerServiceClient;
use handfast_wire::v1::site_service_client::SiteServiceClient;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::fake::FakeCoordinator;

pub const NAME: &str = "kv";
pub const WITHIN: Duration = Duration::from_secs(30);

pub struct Site {
    pub folder: tempfile::TempDir,
    pub coordinator: FakeCoordinator,
    pub name: String,
    ask_after: Duration,
    process: Option<Process>,
}

struct Process {
    running: Running,
    store: Store,
}

impl Site {
    pub async fn start() -> Self {
        Self::start_named(NAME).await
    }

    pub async fn start_named(name: &str) -> Self {
        Self::start_with(name, Duration::from_millis(50)).await
    }

    /// One that asks nobody what has become of its branches, and leads nothing.
    pub async fn start_patient() -> Self {
        Self::start_with(NAME, Duration::from_secs(3600)).await
    }

    async fn start_with(name: &str, ask_after: Duration) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let coordinator = FakeCoordinator::start().await;
        let name = name.to_owned();
        let mut site = Self { folder, coordinator, name, ask_after, process: None };
        site.run().await;
        site
    }

    async fn run(&mut self) {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        self.run_at(address).await;
    }

    async fn run_at(&mut self, address: SocketAddr) {
        for _ in 0..1000 {
            match self.serve(address).await {
                Ok(process) => {
                    self.process = Some(process);
                    return;
                }
                // The last process still holds it.
                Err(StartError::Open(OpenError::Locked { .. }) | StartError::Listen(_)) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the folder or the port is still taken");
    }

    async fn serve(&self, address: SocketAddr) -> Result<Process, StartError> {
        let opened = Participant::builder(&self.name)
            .folder(self.folder.path())
            .coordinator(&self.coordinator.endpoint)
            .listen(address)
            .service("handfast.v1.KeyValueService")
            .on_poison(|error| eprintln!("poisoned: {error}"))
            .open()?
            .inquire_after(self.ask_after, self.ask_after * 4);
        let store = opened.store();
        let config = KeyValueConfig { lock_wait: Duration::from_secs(20) };
        let resource = KeyValueStore::open(store.reader(), config).expect("sound");
        let resource = Arc::new(resource);
        let service = KeyValueGrpc::new(resource.clone(), opened.handle());
        let routes = Routes::new(KeyValueServiceServer::new(service));
        Ok(Process { running: opened.serve(resource, routes).await?, store })
    }

    /// Ends the process without any goodbye, and starts another one. Clients must have been dropped.
    pub async fn restart(&mut self) {
        self.process = None;
        self.run().await;
    }

    /// Ends the process without any goodbye.
    pub fn kill(&mut self) -> SocketAddr {
        self.process.take().expect("running").running.address()
    }

    /// Starts it where it was before.
    pub async fn start_at(&mut self, address: SocketAddr) {
        self.run_at(address).await;
    }

    /// Ends the process without any goodbye, and starts another one in its place.
    pub async fn restart_there(&mut self) {
        let address = self.kill();
        self.start_at(address).await;
    }

    pub fn running(&self) -> &Running {
        &self.process.as_ref().expect("running").running
    }

    pub async fn shutdown(&mut self) -> handfast_participant::Stopped {
        let process = self.process.take().expect("running");
        process.running.shutdown(Duration::from_secs(10)).await
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.running().address())
    }

    pub fn channel(&self) -> Channel {
        Endpoint::from_shared(self.endpoint()).expect("an endpoint").connect_lazy()
    }

    pub fn client(&self) -> ParticipantServiceClient<Channel> {
        ParticipantServiceClient::new(self.channel())
    }

    pub fn peers(&self) -> PeerServiceClient<Channel> {
        PeerServiceClient::new(self.channel())
    }

    pub fn voting(&self) -> SiteServiceClient<Channel> {
        SiteServiceClient::new(self.channel())
    }

    pub fn key_value(&self) -> KeyValueServiceClient<Channel> {
        KeyValueServiceClient::new(self.channel())
    }

    /// What is committed.
    pub fn value(&self, key: &str) -> Option<String> {
        let key = [b"d", key.as_bytes()].concat();
        let process = self.process.as_ref().expect("running");
        let value = process.store.get(&key).expect("a sound folder");
        value.map(|value| String::from_utf8(value).expect("text"))
    }

    pub async fn until_value(&self, key: &str, value: &str) {
        for _ in 0..3000 {
            if self.value(key).as_deref() == Some(value) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{key} has not become {value} within 30 s");
    }

    pub async fn listed(&self) -> Vec<v1::InDoubtBranch> {
        let request = v1::ListInDoubtRequest {
            transaction_id: String::new(),
            participant: self.name.clone(),
        };
        self.client().list_in_doubt(request).await.expect("a list").into_inner().branches
    }

    /// The transactions in doubt.
    pub async fn in_doubt(&self) -> Vec<String> {
        self.listed().await.into_iter().map(|branch| branch.transaction_id).collect()
    }

    pub async fn incarnation(&self) -> u64 {
        self.coordinator.until("registered", |told| !told.registrations.is_empty()).await;
        self.coordinator.told().registrations[0].participant_incarnation
    }

    pub async fn prepare(&self, request: v1::PrepareRequest) -> v1::PrepareResponse {
        self.client().prepare(request).await.expect("a vote").into_inner()
    }

    pub async fn commit(&self, id: &str, epoch: u64) -> Result<(), Status> {
        let request = v1::CommitRequest {
            transaction_id: id.to_owned(),
            origin: Some(origin(epoch)),
            participant_incarnation: self.incarnation().await,
            participant: self.name.clone(),
        };
        self.client().commit(request).await.map(|_| ())
    }

    pub async fn abort(&self, id: &str, epoch: u64) -> Result<(), Status> {
        self.client().abort(abort(id, epoch)).await.map(|_| ())
    }
}

pub fn id(epoch: u64, sequence: u64) -> String {
    format!("0000-02-{epoch:010x}-{sequence:016x}")
}

pub fn origin(epoch: u64) -> v1::Origin {
    v1::Origin {
        slot: 0,
        epoch,
        coordinator_incarnation: 77,
        lowest_live_sequence: 1,
        coordinator_endpoint: String::new(),
    }
}

fn operation(key: &str, operation: Operation) -> v1::KeyValueOperation {
    let key = Bytes::copy_from_slice(key.as_bytes());
    v1::KeyValueOperation { key, operation: Some(operation) }
}

pub fn add(key: &str, amount: i64) -> v1::KeyValueOperation {
    operation(key, Operation::Add(v1::KeyValueAdd { amount, floor: None }))
}

pub fn put(key: &str, value: &str) -> v1::KeyValueOperation {
    let value = Bytes::copy_from_slice(value.as_bytes());
    operation(key, Operation::Put(v1::KeyValuePut { value }))
}

/// A PREPARE that carries one operation, for a transaction with another branch.
pub fn prepare(id: &str, epoch: u64, work: v1::KeyValueOperation) -> v1::PrepareRequest {
    v1::PrepareRequest {
        transaction_id: id.to_owned(),
        origin: Some(origin(epoch)),
        carries_work: true,
        payload: v1::KeyValueWork { operations: vec![work] }.encode_to_vec().into(),
        peers: Vec::new(),
        one_phase: false,
        request_id: String::new(),
        participant: NAME.to_owned(),
        voting: None,
    }
}

pub fn abort(id: &str, epoch: u64) -> v1::AbortRequest {
    v1::AbortRequest {
        transaction_id: id.to_owned(),
        origin: Some(origin(epoch)),
        participant: NAME.to_owned(),
    }
}

/// A coordinator's end of a session.
pub struct Session {
    frames: mpsc::Sender<v1::SessionRequest>,
    incoming: Streaming<v1::SessionResponse>,
    pub welcome: v1::SessionWelcome,
    messages: VecDeque<v1::ParticipantMessage>,
}

impl Session {
    pub async fn open(site: &Site, epoch: u64, session: u64) -> Result<Self, Status> {
        let mut told = origin(epoch);
        told.coordinator_endpoint = site.coordinator.endpoint.clone();
        let hello = v1::SessionHello { participant: site.name.clone(), session };
        Self::open_with(site, Some(hello), Some(told)).await
    }

    pub async fn open_with(
        site: &Site,
        hello: Option<v1::SessionHello>,
        origin: Option<v1::Origin>,
    ) -> Result<Self, Status> {
        let (frames, outgoing) = mpsc::channel(16);
        let first = v1::SessionRequest { hello, messages: Vec::new(), origin };
        frames.send(first).await.expect("room");
        let opened = site.client().session(ReceiverStream::new(outgoing)).await?;
        let mut incoming = opened.into_inner();
        let first = tokio::time::timeout(WITHIN, incoming.message()).await.expect("a frame")?;
        let frame = first.expect("a frame");
        let welcome = frame.welcome.expect("the first frame welcomes");
        Ok(Self { frames, incoming, welcome, messages: frame.messages.into() })
    }

    pub async fn send(&self, epoch: u64, messages: Vec<Message>) {
        let messages = messages
            .into_iter()
            .map(|message| v1::CoordinatorMessage { message: Some(message) })
            .collect();
        let frame = v1::SessionRequest { hello: None, messages, origin: Some(origin(epoch)) };
        let _ = self.frames.send(frame).await;
    }

    /// The next message, or why there is none.
    pub async fn next(&mut self) -> Result<v1::ParticipantMessage, Status> {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Ok(message);
            }
            let frame = tokio::time::timeout(WITHIN, self.incoming.message());
            match frame.await.expect("a message within 30 s")? {
                Some(frame) => self.messages.extend(frame.messages),
                None => return Err(Status::ok("the stream has ended")),
            }
        }
    }

    /// The next answer. Whatever is in doubt for a while is asked about in between.
    pub async fn says(&mut self) -> (String, v1::participant_message::Message) {
        loop {
            let message = self.next().await.expect("a message");
            match message.message.expect("something") {
                v1::participant_message::Message::Inquire(_) => {}
                answer => return (message.transaction_id, answer),
            }
        }
    }

    /// Waits for the end of the session.
    pub async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}
