//! What may be said before the log is durable, and when it has failed; and what is said at the start.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use handfast_journal::{
    Journal, JournalError, Kind, LogSequence, MemoryDisk, MemoryJournal, Mutation, Reader, Unsynced,
};
use handfast_participant::resource_manager::{
    Ending, Finished, Prepared, ResourceError, ResourceManager, TransactionId, Work,
};
use handfast_participant::resources::key_value::{KeyValueConfig, KeyValueStore};
use handfast_participant::{Opened, Participant, Routes, Running};
use handfast_wire::v1;
use handfast_wire::v1::participant_service_client::ParticipantServiceClient;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::site::{NAME, abort, add, id, origin, prepare};

/// A disk that takes nothing while it is held.
#[derive(Clone, Default)]
pub struct Held(Arc<(Mutex<bool>, Condvar)>);

impl Held {
    pub fn hold(&self, held: bool) {
        *self.0.0.lock().expect("no test panics here") = held;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let held = self.0.0.lock().expect("no test panics here");
        drop(self.0.1.wait_while(held, |held| *held).expect("no test panics here"));
    }
}

/// What was written, batch by batch.
pub type Batches = Arc<Mutex<Vec<Vec<Mutation>>>>;

struct SlowJournal {
    journal: MemoryJournal,
    held: Held,
    batches: Batches,
}

impl Journal for SlowJournal {
    fn append(&mut self, batch: &[Mutation]) -> Result<LogSequence, JournalError> {
        self.held.pass();
        self.batches.lock().expect("no test panics here").push(batch.to_vec());
        self.journal.append(batch)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.journal.reader()
    }
}

fn open(
    disk: &MemoryDisk,
    held: &Held,
    batches: &Batches,
    poisoned: mpsc::Sender<String>,
) -> Opened {
    let journal = MemoryJournal::open(disk, Kind::Participant).expect("sound");
    let (held, batches) = (held.clone(), Arc::clone(batches));
    Participant::builder(NAME)
        .coordinator("http://127.0.0.1:1")
        .on_poison(move |error| drop(poisoned.send(error.to_string())))
        .open_on(Box::new(SlowJournal { journal, held, batches }), "memory")
        .expect("open")
        // Nobody answers, and nobody leads.
        .inquire_after(Duration::from_secs(3600), Duration::from_secs(3600))
}

async fn serve(disk: &MemoryDisk, held: &Held, poisoned: mpsc::Sender<String>) -> Running {
    serve_noting(disk, held, &Batches::default(), poisoned).await
}

/// The same, and notes what is written.
pub async fn serve_noting(
    disk: &MemoryDisk,
    held: &Held,
    batches: &Batches,
    poisoned: mpsc::Sender<String>,
) -> Running {
    let opened = open(disk, held, batches, poisoned);
    let store = KeyValueStore::open(opened.store().reader(), KeyValueConfig::default());
    let store = Arc::new(store.expect("sound"));
    opened.serve(store, Routes::default()).await.expect("serving")
}

pub fn client(running: &Running) -> ParticipantServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", running.address()));
    ParticipantServiceClient::new(endpoint.expect("an endpoint").connect_lazy())
}

/// Watches that something does not happen. A slow machine can make this miss a fault, and never see one
/// that is not there.
pub async fn does_not_happen<T>(what: &mut (impl Future<Output = T> + Unpin)) {
    assert!(tokio::time::timeout(Duration::from_millis(150), what).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_said_before_it_is_durable() {
    let (disk, held) = (MemoryDisk::new(5), Held::default());
    let running = serve(&disk, &held, mpsc::channel().0).await;
    // What is prepared and committed before the disk is slow.
    client(&running).prepare(prepare(&id(1, 1), 1, add("a", 5))).await.expect("a vote");
    held.hold(true);
    let one_phase = v1::PrepareRequest {
        one_phase: true,
        request_id: "r-1".into(),
        ..prepare(&id(1, 3), 1, add("c", 1))
    };
    let commit = v1::CommitRequest {
        transaction_id: id(1, 1),
        origin: Some(origin(1)),
        participant_incarnation: 5,
        participant: NAME.into(),
    };
    let mut clients = [client(&running), client(&running), client(&running), client(&running)];
    let [for_vote, for_ack, for_one_phase, for_session] = &mut clients;
    let mut vote = Box::pin(for_vote.prepare(prepare(&id(1, 2), 1, add("b", 5))));
    let mut ack = Box::pin(for_ack.commit(commit));
    let mut committed = Box::pin(for_one_phase.prepare(one_phase));
    does_not_happen(&mut vote).await;
    does_not_happen(&mut ack).await;
    does_not_happen(&mut committed).await;

    // A report that leaves it out, or that speaks of it too early, would both be wrong.
    let hello = v1::SessionHello { participant: NAME.into(), session: 1 };
    let first =
        v1::SessionRequest { hello: Some(hello), messages: Vec::new(), origin: Some(origin(2)) };
    let (frames, outgoing) = tokio::sync::mpsc::channel(1);
    frames.send(first).await.expect("room");
    let session = for_session.session(ReceiverStream::new(outgoing)).await;
    let mut session = session.expect("open").into_inner();
    let mut welcome = Box::pin(session.message());
    does_not_happen(&mut welcome).await;
    held.hold(false);
    let welcome = welcome.await.expect("a frame").expect("a frame").welcome.expect("a welcome");
    assert_eq!(welcome.one_phase_commits.len(), 1);
    assert_eq!(welcome.one_phase_commits[0].transaction_id, id(1, 3));
    assert_eq!(vote.await.expect("a vote").into_inner().vote(), v1::Vote::Prepared);
    ack.await.expect("committed");
    assert_eq!(committed.await.expect("a vote").into_inner().vote(), v1::Vote::Committed);
}

/// A vote whose record may not be on the disk is not given, and nothing else is said either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_fails_ends_everything() {
    let (disk, held) = (MemoryDisk::new(5), Held::default());
    let (poisoned, news) = mpsc::channel();
    let running = serve(&disk, &held, poisoned).await;
    disk.fail_next_sync();
    let refused = client(&running).prepare(prepare(&id(1, 1), 1, add("a", 5))).await;
    assert_eq!(refused.expect_err("no vote").code(), Code::Unavailable);
    assert!(news.recv().expect("told").contains("did not take a batch"));
    assert!(!running.is_ready() && running.readiness()().is_err());
    let refused = client(&running).abort(abort(&id(1, 2), 1)).await;
    assert_eq!(refused.expect_err("no answer").code(), Code::Unavailable);
    drop(running);

    // What is on the disk is what counts: here, nothing.
    disk.crash(Unsynced::Lost);
    let running = serve(&disk, &held, mpsc::channel().0).await;
    let vote = client(&running).prepare(prepare(&id(1, 1), 1, add("a", 5))).await;
    assert_eq!(vote.expect("a vote").into_inner().vote(), v1::Vote::Prepared);
}

/// Says what it holds when it is asked for the third time, and after it was let.
struct Late {
    asked: AtomicUsize,
    may_answer: tokio::sync::Semaphore,
}

impl ResourceManager for Late {
    async fn prepare(&self, _: TransactionId, _: Work) -> Prepared {
        Prepared::ReadOnly { result: Vec::new() }
    }

    async fn commit(&self, _: TransactionId) -> Result<Finished, ResourceError> {
        Ok(Finished::AlreadyDone)
    }

    async fn abort(&self, _: TransactionId) -> Result<Finished, ResourceError> {
        Ok(Finished::Unknown)
    }

    fn finished(&self, _: TransactionId, _: Ending) {}

    async fn in_doubt(&self) -> Result<Vec<TransactionId>, ResourceError> {
        match self.asked.fetch_add(1, Ordering::SeqCst) {
            0 => Err(ResourceError("starting up".into())),
            1 => panic!("a bad start"),
            _ => {
                self.may_answer.acquire().await.expect("open").forget();
                Ok(Vec::new())
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_served_before_the_resource_has_said_what_it_holds() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let journal = MemoryJournal::open(&MemoryDisk::new(5), Kind::Participant).expect("sound");
    let opened = Participant::builder(NAME)
        .coordinator("http://127.0.0.1:1")
        .listen(address)
        .open_on(Box::new(journal), "memory")
        .expect("open");
    let handle = opened.handle();
    let may_answer = tokio::sync::Semaphore::new(0);
    let late = Arc::new(Late { asked: AtomicUsize::new(0), may_answer });
    let starting = tokio::spawn(opened.serve(late.clone(), Routes::default()));
    while late.asked.load(Ordering::SeqCst) < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an endpoint");
    let channel = endpoint.connect_lazy();
    let mut participant = ParticipantServiceClient::new(channel.clone());
    let mut health = HealthClient::new(channel);
    let check = || HealthCheckRequest { service: "handfast.v1.ParticipantService".into() };
    let status = health.check(check()).await.expect("health is told").into_inner().status();
    assert_eq!(status, ServingStatus::NotServing);
    let refused = participant.abort(abort(&id(1, 1), 1)).await.expect_err("not yet");
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(handle.enlist(id(1, 1).parse().expect("an id")).await.is_err());
    assert!(!starting.is_finished());

    late.may_answer.add_permits(1);
    let running = starting.await.expect("no panic").expect("serving");
    let status = health.check(check()).await.expect("health is told").into_inner().status();
    assert_eq!(status, ServingStatus::Serving);
    participant.abort(abort(&id(1, 1), 1)).await.expect("served");
    drop(running);
}
