//! What a resource manager hears of three-phase commit: `pre_commit`, once, before the call that ends the branch.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use handfast_journal::{Kind, MemoryDisk, MemoryJournal};
use handfast_participant::resource_manager::{
    Ending, Finished, Prepared, ResourceError, ResourceManager, TransactionId, Work,
};
use handfast_participant::{Participant, Routes, Running};
use handfast_wire::v1;
use handfast_wire::v1::participant_service_client::ParticipantServiceClient;
use tokio::sync::Semaphore;
use tonic::transport::{Channel, Endpoint};

use crate::site::{NAME, add, origin, prepare};
use crate::voting::{FIRST, three};

/// Notes its calls; its `pre_commit` waits until it is let.
struct Noted {
    calls: Mutex<Vec<&'static str>>,
    may_pre_commit: Semaphore,
    panics: bool,
}

impl Noted {
    fn note(&self, call: &'static str) {
        self.calls.lock().expect("no test panics here").push(call);
    }

    fn calls(&self) -> Vec<&'static str> {
        self.calls.lock().expect("no test panics here").clone()
    }

    async fn until(&self, calls: &[&str]) {
        for _ in 0..3000 {
            if self.calls() == calls {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not {calls:?} within 30 s, but {:?}", self.calls());
    }
}

impl ResourceManager for Noted {
    async fn prepare(&self, _: TransactionId, _: Work) -> Prepared {
        self.note("prepare");
        Prepared::Yes { result: Vec::new(), staged: Vec::new(), changes: Vec::new() }
    }

    async fn pre_commit(&self, _: TransactionId) {
        self.note("pre_commit");
        assert!(!self.panics, "told to panic");
        self.may_pre_commit.acquire().await.expect("open").forget();
        self.note("pre_committed");
    }

    async fn commit(&self, _: TransactionId) -> Result<Finished, ResourceError> {
        self.note("commit");
        Ok(Finished::AlreadyDone)
    }

    async fn abort(&self, _: TransactionId) -> Result<Finished, ResourceError> {
        self.note("abort");
        Ok(Finished::AlreadyDone)
    }

    fn finished(&self, _: TransactionId, _: Ending) {
        self.note("finished");
    }

    async fn in_doubt(&self) -> Result<Vec<TransactionId>, ResourceError> {
        Ok(Vec::new())
    }
}

async fn serve(panics: bool) -> (Running, Arc<Noted>, ParticipantServiceClient<Channel>) {
    let journal = MemoryJournal::open(&MemoryDisk::new(5), Kind::Participant).expect("sound");
    let opened = Participant::builder(NAME)
        .coordinator("http://127.0.0.1:1")
        .open_on(Box::new(journal), "memory")
        .expect("open");
    let may_pre_commit = Semaphore::new(0);
    let noted = Arc::new(Noted { calls: Mutex::default(), may_pre_commit, panics });
    let running = opened.serve(noted.clone(), Routes::default()).await.expect("serving");
    let endpoint = Endpoint::from_shared(format!("http://{}", running.address()));
    let client = ParticipantServiceClient::new(endpoint.expect("an endpoint").connect_lazy());
    (running, noted, client)
}

fn sites() -> v1::VotingSites {
    let site = v1::VotingParticipant { participant: NAME.to_owned(), participant_incarnation: 5 };
    v1::VotingSites { participants: vec![site], witnesses: Vec::new() }
}

async fn vote_and_move(client: &mut ParticipantServiceClient<Channel>, id: &str) {
    let request = v1::PrepareRequest { voting: Some(sites()), ..prepare(id, 1, add("a", 1)) };
    let vote = client.prepare(request).await.expect("a vote").into_inner();
    assert_eq!(vote.vote(), v1::Vote::Prepared);
    let request = v1::PreCommitRequest {
        transaction_id: id.to_owned(),
        origin: Some(origin(1)),
        ballot: FIRST,
        participant: NAME.to_owned(),
        participant_incarnation: 5,
    };
    // Its answer does not wait for the resource: nothing durable is asked of it.
    for _ in 0..2 {
        let moved = client.pre_commit(request.clone()).await.expect("moved").into_inner();
        assert!(moved.accepted);
    }
}

fn commit(id: &str) -> v1::CommitRequest {
    v1::CommitRequest {
        transaction_id: id.to_owned(),
        origin: Some(origin(1)),
        participant_incarnation: 5,
        participant: NAME.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_comes_once_and_the_end_waits_for_it() {
    let (_running, noted, mut client) = serve(false).await;
    vote_and_move(&mut client, &three(1)).await;
    noted.until(&["prepare", "pre_commit"]).await;
    let mut other = client.clone();
    let committing = tokio::spawn(async move { other.commit(commit(&three(1))).await });
    // A slow machine can make this miss a fault, and never see one that is not there.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(noted.calls(), ["prepare", "pre_commit"]);
    noted.may_pre_commit.add_permits(1);
    committing.await.expect("no panic").expect("committed");
    noted.until(&["prepare", "pre_commit", "pre_committed", "commit", "finished"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_panics_stands_in_nobodys_way() {
    let (_running, noted, mut client) = serve(true).await;
    vote_and_move(&mut client, &three(1)).await;
    client.commit(commit(&three(1))).await.expect("committed");
    noted.until(&["prepare", "pre_commit", "commit", "finished"]).await;
}
