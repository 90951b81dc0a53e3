//! The task of one link: connects, carries, and starts again when it breaks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use handfast_commit_core::id::{Incarnation, ParticipantName, TransactionId};
use handfast_commit_core::message::{FromParticipant, Inquired};
use handfast_commit_core::three_phase::SiteName;
use handfast_commit_core::two_phase::coordinator::{Input, Inquiry, OnePhaseReport};
use handfast_wire::convert::{self, FromSession};
use handfast_wire::frames::participant_service_client::ParticipantServiceClient;
use handfast_wire::frames::{self, ParticipantMessages, SessionRequest};
use handfast_wire::v1;
use handfast_wire::v1::coordinator_message::Message;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::effects::Shards;
use crate::link_frames::{LinkFrames, LinkQueue};
use crate::links::{Link, Links, Outbound, work_bytes};
use crate::shard::ShardInput;

/// A frame may exceed what it is cut at by one message.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);
const UNARY_TIMEOUT: Duration = Duration::from_secs(60);
const UNARY_CALLS_MAX: usize = 64;
/// How often a participant with unary calls only is asked what it holds.
const UNARY_LIST_EVERY: Duration = Duration::from_secs(5);
const RECONNECT_AFTER_MS: u64 = 20;
const RECONNECT_AFTER_MS_MAX: u64 = 1000;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0:?} is no endpoint; one looks like http://127.0.0.1:7501")]
    Endpoint(String),
    #[error("cannot connect: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("{} ({})", .0.message(), .0.code())]
    Status(Box<Status>),
    #[error("no welcome in time")]
    NoWelcome,
    #[error("the participant there is called {0:?}")]
    WrongName(String),
    #[error("the participant has ended the session")]
    Ended,
    #[error("the participant is registered somewhere else now")]
    Moved,
    #[error("sent what cannot be understood: {0}")]
    Garbage(#[from] convert::InvalidField),
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// Serves a link until the process ends.
pub(crate) async fn run(
    link: Arc<Link>,
    queue: mpsc::Receiver<Outbound>,
    links: Arc<Links>,
    shards: Shards,
) {
    let queue = Arc::new(LinkQueue::new(queue));
    let mut moved = link.endpoint.subscribe();
    let mut wait_ms = RECONNECT_AFTER_MS;
    let mut said = String::new();
    loop {
        let endpoint = moved.borrow_and_update().clone();
        let task = Task { link: &link, queue: &queue, links: &links, shards: &shards };
        let error = tokio::select! {
            error = task.connection(&endpoint) => error,
            _ = moved.changed() => Broken::Moved,
        };
        queue.close();
        let was_connected = link.connected.swap(false, Ordering::Relaxed);
        let error = error.to_string();
        // Once for each new reason: a participant that is down for the night fills no log.
        if was_connected || error != said {
            tracing::info!(participant = %link.name, endpoint, "link broken: {error}");
            said = error;
        }
        for shard in shards.all() {
            let participant = link.name.clone();
            shard.input(ShardInput::Core(Input::Disconnected { participant }));
        }
        // When every shard has heard it, and what waited for its records has been sent, nothing new is
        // queued, and what is queued is of the past.
        for shard in shards.all() {
            let (tell, told) = oneshot::channel();
            shard.input(ShardInput::Settle(tell));
            if told.await.is_err() {
                return;
            }
        }
        while let Some(message) = queue.take() {
            link.queued_bytes.fetch_sub(work_bytes(&message), Ordering::Relaxed);
        }
        drop(link.take_parked(usize::MAX));
        if was_connected {
            wait_ms = RECONNECT_AFTER_MS;
        }
        let jitter = u64::from(std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.subsec_nanos()));
        let wait = Duration::from_millis(wait_ms + jitter % (wait_ms / 2 + 1));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = moved.changed() => {}
        }
        wait_ms = (wait_ms * 2).min(RECONNECT_AFTER_MS_MAX);
    }
}

struct Task<'a> {
    link: &'a Arc<Link>,
    queue: &'a Arc<LinkQueue>,
    links: &'a Arc<Links>,
    shards: &'a Shards,
}

impl Task<'_> {
    fn name(&self) -> &ParticipantName {
        &self.link.name
    }

    fn origin(&self) -> v1::Origin {
        self.links.context().origin(self.shards.sequences().lowest_live())
    }

    async fn connection(&self, endpoint: &str) -> Broken {
        let channel = match connect(endpoint).await {
            Ok(channel) => channel,
            Err(error) => return error,
        };
        let client = ParticipantServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        match self.session(client.clone()).await {
            Broken::Status(status) if status.code() == Code::Unimplemented => {
                self.link.unary.store(true, Ordering::Relaxed);
                let error = self.unary(client).await;
                self.link.unary.store(false, Ordering::Relaxed);
                error
            }
            error => error,
        }
    }

    // ---- a session ------------------------------------------------------------------------------

    async fn session(&self, mut client: ParticipantServiceClient<Channel>) -> Broken {
        let session = self.links.context().next_session();
        let participant = self.name().to_string();
        let hello = v1::SessionRequest {
            hello: Some(v1::SessionHello { participant, session }),
            messages: Vec::new(),
            origin: Some(self.origin()),
        };
        let frames = LinkFrames::new(
            SessionRequest::of(&hello),
            session,
            Arc::clone(self.queue),
            Arc::clone(self.link),
            Arc::clone(self.links),
            self.shards.clone(),
        );
        let opened = tokio::time::timeout(WELCOME_TIMEOUT, async {
            let mut incoming = client.session(frames).await?.into_inner();
            let first = incoming.message().await?;
            Ok::<_, Status>((incoming, first))
        });
        let (mut incoming, first) = match opened.await {
            Ok(Ok(opened)) => opened,
            Ok(Err(status)) => return status.into(),
            Err(_) => return Broken::NoWelcome,
        };
        let mut messages = match first.as_ref().map(frames::SessionResponse::read).transpose() {
            Ok(Some(messages)) => messages,
            Ok(None) => return Broken::NoWelcome,
            Err(error) => return frames::unreadable(&error).into(),
        };
        let Some(welcome) = messages.welcome.take() else { return Broken::NoWelcome };
        if welcome.participant != self.name().as_str() {
            return Broken::WrongName(welcome.participant);
        }
        let incarnation = Incarnation(welcome.participant_incarnation);
        if let Err(error) = self.connected(incarnation, &welcome.one_phase_commits).await {
            return error;
        }
        let receive = async {
            if let Err(error) = self.receive(messages) {
                return error;
            }
            loop {
                match incoming.message().await {
                    Ok(Some(frame)) => {
                        let messages = frame.read().map_err(|error| frames::unreadable(&error));
                        let received = messages
                            .map_err(Broken::from)
                            .and_then(|messages| self.receive(messages));
                        if let Err(error) = received {
                            return error;
                        }
                    }
                    Ok(None) => return Broken::Ended,
                    Err(status) => return status.into(),
                }
            }
        };
        self.queue.open(session);
        receive.await
    }

    fn receive(&self, mut messages: ParticipantMessages<'_>) -> Result<(), Broken> {
        let sequences = self.shards.sequences();
        let mut inputs = self.shards.no_inputs(messages.remaining());
        let mut garbage = None;
        for message in messages.by_ref() {
            match message.map_err(|error| frames::unreadable(&error))? {
                Ok(FromSession::Message(message)) => {
                    self.measure(&message);
                    let from = self.name().clone();
                    let shard = sequences.shard_of(message.id());
                    inputs[shard].push(ShardInput::Received { from, message });
                }
                Ok(FromSession::Inquiry { id, incarnation }) => {
                    let participant = self.name().clone();
                    let inquiry = Inquiry { id, incarnation, participant };
                    let shard = sequences.shard_of(id);
                    inputs[shard].push(ShardInput::Inquire { inquiry, to: None });
                }
                Ok(FromSession::Report(message)) => {
                    let from = SiteName::Participant(self.name().clone());
                    let shard = sequences.shard_of(message.id);
                    inputs[shard].push(ShardInput::Core(Input::Reported { from, message }));
                }
                Err(error) => {
                    garbage = Some(error);
                    break;
                }
            }
        }
        // A frame is read to its end, or nothing of it counts.
        if let Some(error) = messages.find_map(Result::err) {
            return Err(frames::unreadable(&error).into());
        }
        // What came before it was understood.
        self.shards.submit(&mut inputs);
        garbage.map_or(Ok(()), |error| Err(error.into()))
    }

    /// The last vote that arrives ends the first phase.
    fn measure(&self, message: &FromParticipant) {
        if let FromParticipant::Voted { id, .. } = message {
            self.links.phases().mark(*id);
        }
    }

    fn deliver(&self, message: FromParticipant) {
        self.measure(&message);
        let from = self.name().clone();
        let shard = self.shards.of(message.id());
        shard.input_before_turn(ShardInput::Received { from, message });
        shard.turn();
    }

    /// Tells every shard, and returns when all have heard it.
    async fn connected(
        &self,
        incarnation: Incarnation,
        branches: &[v1::InDoubtBranch],
    ) -> Result<(), Broken> {
        let mut reports: Vec<Vec<OnePhaseReport>> =
            self.shards.all().iter().map(|_| Vec::new()).collect();
        for branch in branches.iter().filter(|branch| branch.one_phase_committed) {
            let id = convert::transaction_id(&branch.transaction_id)?;
            if id.slot() != self.links.context().identity.slot {
                continue;
            }
            let request_id = convert::request_id(&branch.request_id)?;
            let shard = self.shards.sequences().shard_of(id);
            reports[shard].push(OnePhaseReport { id, request_id });
        }
        self.link.connected.store(true, Ordering::Relaxed);
        for (shard, one_phase_commits) in self.shards.all().iter().zip(reports) {
            let participant = self.name().clone();
            shard.input(ShardInput::Connected { participant, incarnation, one_phase_commits });
        }
        for shard in self.shards.all() {
            if shard.ask(|_| ()).await.is_none() {
                return Err(Broken::Ended);
            }
        }
        self.link.reported.store(true, Ordering::Release);
        tracing::info!(participant = %self.name(), "link connected");
        Ok(())
    }

    // ---- unary calls ----------------------------------------------------------------------------

    /// For a participant without sessions. Calls of different transactions overlap.
    async fn unary(&self, client: ParticipantServiceClient<Channel>) -> Broken {
        let first = match self.list_in_doubt(client.clone()).await {
            Ok(branches) => branches,
            Err(status) => return status.into(),
        };
        // Whoever is only called is no voting site, whatever its log.
        if let Err(error) = self.connected(Incarnation(0), &first).await {
            return error;
        }
        self.resolve(&first);
        let mut calls: JoinSet<Called> = JoinSet::new();
        // Only those are limited: a commit or an abort may be what they wait for.
        let mut preparing = 0;
        let mut list_again = Box::pin(tokio::time::sleep(list_after(&first)));
        loop {
            tokio::select! {
                Some(done) = calls.join_next() => {
                    let Ok(Called { id, prepares, answer }) = done else { continue };
                    preparing -= usize::from(prepares);
                    match answer {
                        // Too slow: it is asked again.
                        None | Some(Ok(None)) => {}
                        Some(Ok(Some(message))) => self.deliver(message),
                        // The connection is gone; what the participant itself says has no such source.
                        Some(Err(status)) if std::error::Error::source(&status).is_some() => {
                            return status.into();
                        }
                        // Not now: it is asked again.
                        Some(Err(status)) if is_not_now(status.code()) => {
                            tracing::debug!(participant = %self.name(), transaction = %id, "not now: {status}");
                        }
                        Some(Err(status)) => {
                            let reason = format!("{}: {}", status.code(), status.message());
                            self.deliver(FromParticipant::Refused { id, reason });
                        }
                    }
                }
                message = self.queue.next(), if preparing < UNARY_CALLS_MAX => {
                    let Some(message) = message else { return Broken::Ended };
                    self.link.queued_bytes.fetch_sub(work_bytes(&message), Ordering::Relaxed);
                    // There is no call for an order.
                    let Outbound::Say(message) = message else { continue };
                    let endpoint_of = |peer: &ParticipantName| self.links.endpoint_of(peer);
                    let origin = self.origin();
                    let request = convert::coordinator_message(
                        self.name(),
                        message,
                        Some(&origin),
                        endpoint_of,
                    );
                    if let Some(mut request) = request.message {
                        if let Message::Prepare(prepare) = &mut request {
                            // There is no call for FORGET, and a call may be late by a restart: only a
                            // session lets a participant own an outcome.
                            prepare.one_phase = false;
                            prepare.request_id.clear();
                        }
                        preparing += usize::from(matches!(request, Message::Prepare(_)));
                        calls.spawn(call(client.clone(), self.name().clone(), origin, request));
                    }
                }
                () = &mut list_again => match self.list_in_doubt(client.clone()).await {
                    Ok(branches) => {
                        self.resolve(&branches);
                        list_again = Box::pin(tokio::time::sleep(list_after(&branches)));
                    }
                    Err(status) => return status.into(),
                },
            }
        }
    }

    async fn list_in_doubt(
        &self,
        mut client: ParticipantServiceClient<Channel>,
    ) -> Result<Vec<v1::InDoubtBranch>, Status> {
        let mut request = tonic::Request::new(v1::ListInDoubtRequest {
            transaction_id: String::new(),
            participant: self.name().to_string(),
        });
        request.set_timeout(WELCOME_TIMEOUT);
        Ok(client.list_in_doubt(request).await?.into_inner().branches)
    }

    /// A participant with unary calls only does not have to ask: its own list is the question.
    fn resolve(&self, branches: &[v1::InDoubtBranch]) {
        let identity = self.links.context().identity;
        for branch in branches.iter().filter(|branch| !branch.one_phase_committed) {
            match convert::transaction_id(&branch.transaction_id) {
                Ok(id) if id.slot() == identity.slot && id.epoch() <= identity.epoch => {
                    let participant = self.name().clone();
                    let incarnation = identity.incarnation;
                    let inquiry = Inquiry { id, incarnation, participant };
                    self.shards.of(id).input(ShardInput::Inquire { inquiry, to: None });
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(participant = %self.name(), "lists a branch with a bad id: {error}");
                }
            }
        }
    }
}

async fn connect(endpoint: &str) -> Result<Channel, Broken> {
    let target = Endpoint::from_shared(endpoint.to_owned())
        .map_err(|_| Broken::Endpoint(endpoint.to_owned()))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true);
    // A process that is stopped accepts connections by its kernel, and never answers.
    let patience = CONNECT_TIMEOUT + Duration::from_secs(1);
    match tokio::time::timeout(patience, target.connect()).await {
        Ok(channel) => Ok(channel?),
        Err(_) => Err(Broken::NoWelcome),
    }
}

/// When a participant is asked again what it holds: a long list is not asked for all the time.
fn list_after(branches: &[v1::InDoubtBranch]) -> Duration {
    UNARY_LIST_EVERY + Duration::from_millis(branches.len() as u64)
}

/// Whether a participant that says this may do the same thing later.
fn is_not_now(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::ResourceExhausted
    )
}

/// One unary call, and its answer as a message.
async fn call(
    mut client: ParticipantServiceClient<Channel>,
    name: ParticipantName,
    origin: v1::Origin,
    message: Message,
) -> Called {
    let prepares = matches!(message, Message::Prepare(_));
    let id_text = match &message {
        Message::Prepare(request) => request.transaction_id.clone(),
        Message::Commit(request) => request.transaction_id.clone(),
        Message::Abort(request) => request.transaction_id.clone(),
        Message::Forget(request) => request.transaction_id.clone(),
        Message::Order(order) => order.transaction_id.clone(),
        Message::InquiryAnswer(answer) => answer.transaction_id.clone(),
    };
    let id: TransactionId = match id_text.parse() {
        Ok(id) => id,
        Err(_) => unreachable!("we have printed it ourselves"),
    };
    let abort = |participant: String| v1::AbortRequest {
        transaction_id: id_text.clone(),
        origin: Some(origin.clone()),
        participant,
    };
    let answer = tokio::time::timeout(UNARY_TIMEOUT, async {
        match message {
            Message::Prepare(request) => match client.prepare(request).await {
                Ok(response) => convert::voted(id, response.into_inner())
                    .map(Some)
                    .map_err(|error| Status::internal(format!("its answer is not valid: {error}"))),
                Err(status) => Err(status),
            },
            Message::Commit(request) => {
                let done = client.commit(request).await;
                done.map(|_| Some(FromParticipant::Committed { id }))
            }
            Message::Abort(request) => {
                let done = client.abort(request).await;
                done.map(|_| Some(FromParticipant::Aborted { id }))
            }
            // It listed the branch as in doubt, or voted after the end.
            Message::InquiryAnswer(answer)
                if convert::inquired(Some(&answer)).is_ok_and(|(_, o)| o == Inquired::Abort) =>
            {
                client.abort(abort(name.to_string())).await.map(|_| None)
            }
            // A commit is delivered as such; what it did in one phase it may keep.
            Message::InquiryAnswer(_) | Message::Forget(_) | Message::Order(_) => Ok(None),
        }
    });
    let answer = answer.await.ok();
    Called { id, prepares, answer }
}

/// What came of a unary call.
struct Called {
    id: TransactionId,
    prepares: bool,
    /// `None`: it took too long.
    answer: Option<Result<Option<FromParticipant>, Status>>,
}
