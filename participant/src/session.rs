//! One session: frames from a coordinator, frames to it.
//!
//! A session begins with the coordinator's hello and our welcome, which names the one-phase commits that
//! we still keep. Only then is anything asked or done in it. It ends when the coordinator leaves, when a
//! newer one begins, or when a queue overflows; nothing is lost by that but time.

use std::sync::Arc;
use std::time::Duration;

use handfast_commit_core::id::{Incarnation, TransactionId};
use handfast_commit_core::three_phase::SiteName;
use handfast_commit_core::two_phase::participant::{Input, Origin, Via};
use handfast_wire::convert::{self, InvalidField, PrepareOrder};
use handfast_wire::frames::{self, Names, Order, SessionRequest};
use handfast_wire::v1::coordinator_message::Message;
use handfast_wire::{site, v1};
use prost::DecodeError;
use tokio::sync::watch;
use tonic::{Status, Streaming};

use crate::engine::Engine;
use crate::participant_service::{check_name, check_served, check_slot, served_id};
use crate::session_frames::{Said, SessionFrames};
use crate::sessions::{SessionEnds, SessionNumber};
use crate::shard::{OnePhaseCommitted, ShardInput};
use crate::status;

/// Longest wait for the hello.
const HELLO_MAX: Duration = Duration::from_secs(10);

/// Opens a session and serves it in a task of its own.
pub(crate) async fn open(
    engine: Arc<Engine>,
    mut incoming: Streaming<SessionRequest>,
) -> Result<SessionFrames, Status> {
    let first = tokio::time::timeout(HELLO_MAX, incoming.message()).await;
    let first = match first {
        Ok(first) => first?.ok_or_else(|| invalid("hello", "is required"))?,
        Err(_) => return Err(Status::deadline_exceeded("no hello in time")),
    };
    let (hello, origin) = {
        let around = first.read().map_err(|error| frames::unreadable(&error))?;
        (around.hello, around.origin)
    };
    let Some(hello) = hello else {
        return Err(invalid("hello", "is required on the first frame"));
    };
    check_name(engine.name(), &hello.participant)?;
    let origin = convert::origin(origin.as_ref()).map_err(|error| status::invalid(&error))?;
    let stopped = |_| status::draining();
    engine.check_epoch(&origin).await.map_err(stopped)?.map_err(status::refused)?;
    let number = SessionNumber { epoch: origin.epoch, session: hello.session };
    let ends = engine
        .sessions()
        .open(origin.slot, number)
        .map_err(|error| status::refused(error.to_string()))?;
    let SessionEnds { queue, ended } = ends;
    let (said, outgoing) = SessionFrames::new(queue);
    let session = Session { engine, number, origin };
    tokio::spawn(async move {
        let why = session.serve(first, incoming, &said, ended).await;
        session.engine.sessions().close(session.origin.slot, session.number);
        tracing::info!(
            participant = %session.engine.name(),
            slot = session.origin.slot.0,
            epoch = session.number.epoch.0,
            session = session.number.session,
            "session ended: {}",
            why.message()
        );
        // The transport may be gone.
        let _ = said.send(Err(why));
    });
    Ok(outgoing)
}

struct Session {
    engine: Arc<Engine>,
    number: SessionNumber,
    origin: Origin,
}

impl Session {
    /// Returns why the session is over.
    async fn serve(
        &self,
        first: SessionRequest,
        mut incoming: Streaming<SessionRequest>,
        said: &Said,
        mut ended: watch::Receiver<Option<String>>,
    ) -> Status {
        let superseded = async {
            match ended.wait_for(Option::is_some).await {
                Ok(why) => status::refused(why.clone().unwrap_or_default()),
                Err(_) => status::draining(),
            }
        };
        tokio::pin!(superseded);
        // What has queued up already goes out behind the welcome.
        tokio::select! {
            why = &mut superseded => return why,
            welcomed = self.welcome(said) => if let Err(why) = welcomed {
                return why;
            },
        }
        let receive = async {
            let mut frame = first;
            let mut names = Names::default();
            loop {
                if let Err(why) = self.receive(&frame, &mut names) {
                    return why;
                }
                if self.engine.room().await.is_err() {
                    return status::draining();
                }
                match incoming.message().await {
                    Ok(Some(next)) => frame = next,
                    Ok(None) => return Status::cancelled("the coordinator has closed it"),
                    Err(status) => return status,
                }
            }
        };
        tokio::select! {
            // With the session's end goes its queue: why it ended is the better reason.
            biased;
            why = &mut superseded => why,
            why = receive => why,
            () = said.closed() => Status::cancelled("the coordinator has gone"),
        }
    }

    /// Reports what the coordinator has to know before anything else, then asks about what is in doubt.
    async fn welcome(&self, said: &Said) -> Result<(), Status> {
        let commits = self.engine.report(&self.origin).await.map_err(|_| status::draining())?;
        let welcome = v1::SessionWelcome {
            participant: self.engine.name().to_string(),
            participant_incarnation: self.engine.incarnation().0,
            one_phase_commits: commits.into_iter().map(one_phase_message).collect(),
        };
        let frame = v1::SessionResponse { welcome: Some(welcome), messages: Vec::new() };
        said.send(Ok(frames::SessionResponse::of(&frame)))
            .map_err(|_| Status::cancelled("the coordinator has gone"))?;
        self.engine.outgoing().heard(self.origin.slot, &self.origin.endpoint);
        let heard = Input::Heard { origin: self.origin.clone(), opened: true };
        self.hear(vec![ShardInput::Core(heard)])?;
        tracing::info!(
            participant = %self.engine.name(),
            slot = self.origin.slot.0,
            epoch = self.number.epoch.0,
            session = self.number.session,
            coordinator = &*self.origin.endpoint,
            "session opened"
        );
        Ok(())
    }

    /// Hands inputs to the engine, unless the session has been succeeded.
    fn hear(&self, inputs: Vec<ShardInput>) -> Result<(), Status> {
        let latest = self
            .engine
            .sessions()
            .while_latest(self.origin.slot, self.number, || self.engine.inputs_before_turn(inputs));
        // Answers go through the same lock.
        self.engine.turn();
        if latest { Ok(()) } else { Err(status::refused("a newer session is open")) }
    }

    fn receive(&self, frame: &SessionRequest, names: &mut Names) -> Result<(), Status> {
        let unreadable = |error: DecodeError| frames::unreadable(&error);
        let mut messages = frame.read().map_err(unreadable)?;
        let origin = match messages.origin.take() {
            Some(origin) => {
                convert::origin(Some(&origin)).map_err(|error| status::invalid(&error))?
            }
            None => self.origin.clone(),
        };
        if origin.slot != self.origin.slot || origin.epoch != self.origin.epoch {
            return Err(invalid("origin", "is not the one that the session was opened with"));
        }
        let heard = Input::Heard { origin: origin.clone(), opened: false };
        let mut inputs = Vec::with_capacity(messages.remaining() + 1);
        inputs.push(ShardInput::Core(heard));
        let mut refusals = Vec::new();
        let origin = || origin.clone();
        // Of a frame that cannot be read to its end nothing is done.
        while let Some(order) = messages.next(self.engine.name(), names) {
            match order.map_err(unreadable)? {
                Order::Prepare(PrepareOrder { prepare, peers }) => {
                    let id = prepare.id;
                    match check_served(id) {
                        Ok(()) => {
                            let (origin, via) = (origin(), Via::Link);
                            let prepare = Input::Prepare { prepare, peers, origin, via };
                            inputs.push(ShardInput::Core(prepare));
                        }
                        Err(refusal) => refusals.push((Some(id), refusal)),
                    }
                }
                Order::Commit { id, incarnation } => match check_served(id) {
                    Ok(()) => {
                        let (origin, via) = (origin(), Via::Link);
                        let commit = Input::Commit { id, incarnation, origin, via };
                        inputs.push(ShardInput::Core(commit));
                    }
                    Err(refusal) => refusals.push((Some(id), refusal)),
                },
                Order::Other(message) => {
                    let Some(message) = message.message else { continue };
                    // A refusal needs it, and is rare.
                    let about = id_of(&message).parse::<TransactionId>().ok();
                    match self.input_of(message, origin()) {
                        Ok(input) => inputs.extend(input),
                        Err(refusal) => refusals.push((about, refusal)),
                    }
                }
            }
        }
        for (about, refusal) in refusals {
            self.refuse(about, &refusal);
        }
        self.hear(inputs)
    }

    fn input_of(&self, message: Message, origin: Origin) -> Result<Option<ShardInput>, Status> {
        let name = self.engine.name();
        Ok(Some(ShardInput::Core(match message {
            Message::Prepare(request) => {
                check_name(name, &request.participant)?;
                served_id(&request.transaction_id)?;
                let order = convert::prepare(request).map_err(|error| status::invalid(&error))?;
                let PrepareOrder { prepare, peers } = order;
                Input::Prepare { prepare, peers, origin, via: Via::Link }
            }
            Message::Commit(request) => {
                check_name(name, &request.participant)?;
                let id = served_id(&request.transaction_id)?;
                let incarnation = Incarnation(request.participant_incarnation);
                Input::Commit { id, incarnation, origin, via: Via::Link }
            }
            Message::Abort(request) => {
                check_name(name, &request.participant)?;
                let id = served_id(&request.transaction_id)?;
                Input::Abort { id, origin, via: Via::Link }
            }
            Message::Forget(request) => {
                check_name(name, &request.participant)?;
                let id = served_id(&request.transaction_id)?;
                Input::Forget { id, origin }
            }
            Message::Order(order) => {
                served_id(&order.transaction_id)?;
                let message = site::order(&order).map_err(|error| status::invalid(&error))?;
                check_slot(message.id, &origin)?;
                Input::Led { from: SiteName::Coordinator, message, via: Via::Link }
            }
            Message::InquiryAnswer(answer) => {
                let (id, outcome) = match convert::inquired(Some(&answer)) {
                    Ok((id, outcome)) if id.slot() == origin.slot => (id, outcome),
                    Ok((id, _)) => {
                        tracing::warn!(transaction = %id, "an answer about another slot is ignored");
                        return Ok(None);
                    }
                    Err(error) => {
                        tracing::warn!("an answer to an inquiry is ignored: {error}");
                        return Ok(None);
                    }
                };
                // One of an older session is dropped; the frame's next message ends it.
                return Ok(Some(ShardInput::Answer { epoch: origin.epoch, id, outcome }));
            }
        })))
    }

    fn refuse(&self, id: Option<TransactionId>, refusal: &Status) {
        let reason = refusal.message().to_owned();
        let Some(id) = id else {
            // The coordinator could not tell what the refusal is about.
            tracing::warn!(participant = %self.engine.name(), "a message is ignored: {reason}");
            return;
        };
        let refusal = v1::Refusal { code: refusal.code().into(), reason };
        let message = v1::ParticipantMessage {
            transaction_id: id.to_string(),
            message: Some(v1::participant_message::Message::Refusal(refusal)),
        };
        self.engine.sessions().answer(self.origin.slot, message.into());
    }
}

fn invalid(field: &'static str, problem: &str) -> Status {
    status::invalid(&InvalidField::new(field, problem))
}

fn id_of(message: &Message) -> &str {
    match message {
        Message::Prepare(request) => &request.transaction_id,
        Message::Commit(request) => &request.transaction_id,
        Message::Abort(request) => &request.transaction_id,
        Message::Forget(request) => &request.transaction_id,
        Message::Order(order) => &order.transaction_id,
        Message::InquiryAnswer(answer) => &answer.transaction_id,
    }
}

fn one_phase_message((id, request): OnePhaseCommitted) -> v1::InDoubtBranch {
    v1::InDoubtBranch {
        transaction_id: id.to_string(),
        one_phase_committed: true,
        request_id: request.map(|id| id.to_string()).unwrap_or_default(),
        since: None,
        waiting_for: String::new(),
        site: None,
    }
}
