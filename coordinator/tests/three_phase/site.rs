//! A participant with sessions that keeps its ballots in memory and does what it is told, as far as the test lets
//! it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use handfast_wire::v1;
use handfast_wire::v1::coordinator_message::Message as To;
use handfast_wire::v1::participant_message::Message as From;
use handfast_wire::v1::participant_service_server::{ParticipantService, ParticipantServiceServer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};

type Answer<T> = Result<Response<T>, Status>;

/// The log that every one of them has.
pub const LOG: u64 = 7;

/// One participant.
#[derive(Debug, Default)]
pub struct Site {
    name: String,
    votes_no: AtomicBool,
    /// Answers no order.
    mute: AtomicBool,
    /// Serves no sessions.
    unary: AtomicBool,
    said: Mutex<Vec<String>>,
    sites: Mutex<Option<v1::VotingSites>>,
    /// Accepted ballot and standing, by transaction.
    moved: Mutex<HashMap<String, (u64, v1::SiteStanding)>>,
}

impl Site {
    /// Serves, and returns where.
    pub async fn serve(name: &str) -> (Arc<Self>, String) {
        let site = Arc::new(Self { name: name.to_owned(), ..Self::default() });
        let service = ParticipantServiceServer::new(Served(Arc::clone(&site)));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (site, endpoint)
    }

    pub fn vote_no(&self) {
        self.votes_no.store(true, Ordering::SeqCst);
    }

    pub fn mute(&self, mute: bool) {
        self.mute.store(mute, Ordering::SeqCst);
    }

    pub fn only_unary(&self) {
        self.unary.store(true, Ordering::SeqCst);
    }

    /// What it has been told, in order.
    pub fn told(&self) -> Vec<String> {
        self.said.lock().expect("whole").clone()
    }

    pub fn was_told(&self, what: &str) -> bool {
        self.told().iter().any(|told| told == what)
    }

    /// The voting sites that its PREPARE named.
    pub fn sites(&self) -> v1::VotingSites {
        self.sites.lock().expect("whole").clone().expect("a PREPARE of three-phase commit")
    }

    fn note(&self, what: &str) {
        self.said.lock().expect("whole").push(what.to_owned());
    }

    fn answer(&self, message: To) -> Option<(String, From)> {
        Some(match message {
            To::Prepare(prepare) => {
                self.note("PREPARE");
                self.sites.lock().expect("whole").clone_from(&prepare.voting);
                let mut vote =
                    v1::PrepareResponse { participant_incarnation: LOG, ..Default::default() };
                vote.set_vote(match self.votes_no.load(Ordering::SeqCst) {
                    true => v1::Vote::No,
                    false => v1::Vote::Prepared,
                });
                (prepare.transaction_id, From::Vote(vote))
            }
            To::Commit(commit) => {
                self.note("COMMIT");
                (commit.transaction_id, From::Committed(v1::CommitResponse {}))
            }
            To::Abort(abort) => {
                self.note("ABORT");
                (abort.transaction_id, From::Aborted(v1::AbortResponse {}))
            }
            To::Forget(_) => {
                self.note("FORGET");
                return None;
            }
            To::InquiryAnswer(_) => return None,
            To::Order(order) => {
                let id = order.transaction_id.clone();
                (id, From::Report(self.obey(&order)?))
            }
        })
    }

    fn obey(&self, order: &v1::SiteOrder) -> Option<v1::SiteReport> {
        self.note(&format!("{} {}", order.kind().as_str_name(), order.ballot));
        if self.mute.load(Ordering::SeqCst) {
            return None;
        }
        let id = order.transaction_id.clone();
        let mut moved = self.moved.lock().expect("whole");
        let mut report = v1::SiteReport { ballot: order.ballot, ..Default::default() };
        report.set_kind(v1::SiteReportKind::Moved);
        match order.kind() {
            v1::SiteOrderKind::Join => {
                let waiting = (0, v1::SiteStanding::Waiting);
                let (accepted, standing) = moved.get(&id).copied().unwrap_or(waiting);
                report.set_kind(v1::SiteReportKind::Joined);
                report.accepted = accepted;
                report.set_standing(standing);
            }
            v1::SiteOrderKind::PreCommit => {
                moved.insert(id.clone(), (order.ballot, v1::SiteStanding::PreCommitted));
            }
            v1::SiteOrderKind::PreAbort => {
                moved.insert(id.clone(), (order.ballot, v1::SiteStanding::PreAborted));
            }
            other => panic!("the coordinator says {other:?} by a message of its own"),
        }
        report.transaction_id = id;
        Some(report)
    }
}

/// What is served of it.
struct Served(Arc<Site>);

#[tonic::async_trait]
impl ParticipantService for Served {
    async fn prepare(&self, _: Request<v1::PrepareRequest>) -> Answer<v1::PrepareResponse> {
        panic!("nobody is asked to vote by a call in three-phase commit")
    }

    async fn pre_commit(&self, _: Request<v1::PreCommitRequest>) -> Answer<v1::PreCommitResponse> {
        Err(Status::unimplemented("over sessions"))
    }

    async fn commit(&self, _: Request<v1::CommitRequest>) -> Answer<v1::CommitResponse> {
        Err(Status::unimplemented("over sessions"))
    }

    async fn abort(&self, _: Request<v1::AbortRequest>) -> Answer<v1::AbortResponse> {
        Ok(Response::new(v1::AbortResponse {}))
    }

    async fn list_in_doubt(
        &self,
        _: Request<v1::ListInDoubtRequest>,
    ) -> Answer<v1::ListInDoubtResponse> {
        Ok(Response::new(v1::ListInDoubtResponse::default()))
    }

    type SessionStream = UnboundedReceiverStream<Result<v1::SessionResponse, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Answer<Self::SessionStream> {
        if self.0.unary.load(Ordering::SeqCst) {
            return Err(Status::unimplemented("unary calls only"));
        }
        let mut incoming = request.into_inner();
        let (tell, frames) = mpsc::unbounded_channel();
        let welcome = v1::SessionWelcome {
            participant: self.0.name.clone(),
            participant_incarnation: LOG,
            one_phase_commits: Vec::new(),
        };
        let first = v1::SessionResponse { welcome: Some(welcome), messages: Vec::new() };
        let _ = tell.send(Ok(first));
        let site = Arc::clone(&self.0);
        tokio::spawn(async move {
            while let Ok(Some(frame)) = incoming.message().await {
                let messages = frame.messages.into_iter().filter_map(|message| message.message);
                for (transaction_id, message) in messages.filter_map(|message| site.answer(message))
                {
                    let message = v1::ParticipantMessage { transaction_id, message: Some(message) };
                    let frame = v1::SessionResponse { welcome: None, messages: vec![message] };
                    let _ = tell.send(Ok(frame));
                }
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(frames)))
    }
}
