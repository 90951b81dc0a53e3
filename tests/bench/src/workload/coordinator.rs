//! The coordinator: the production shard, driver, log writer and recovery, turned by hand.
//!
//! What stands around the shard is as in the product's links and stream of calls, message for message.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use handfast_commit_core::id::{Incarnation, ParticipantName, Protocol, Slot};
use handfast_commit_core::message::ToParticipant;
use handfast_commit_core::record::{Info, Request};
use handfast_commit_core::step::Now;
use handfast_commit_core::two_phase::Coordinator as Core;
use handfast_commit_core::two_phase::coordinator::{
    Action, Config, Event, Identity, Reply, ReplyTime, Terms, Waiter,
};
use handfast_commit_core::two_phase::participant::Origin;
use handfast_coordinator::recovery::{Recovered, recover};
use handfast_coordinator::reply_to::ReplyTo;
use handfast_coordinator::shard::{CoordinatorShard, Sequences, ShardAction, ShardInput};
use handfast_coordinator::store::StoreError;
use handfast_coordinator::view;
use handfast_journal::{Flush, Kind, LogWriter, MemoryDisk, MemoryJournal, WriterOptions};
use handfast_runtime::driver::{Driver, Gated, Machine};
use handfast_wire::convert::{self, FromSession};
use handfast_wire::frames::{
    Call, CallRequest, ExecuteCall, Names, SessionRequest, SessionRequestWriter, SessionResponse,
    StreamTransactionsRequest, StreamTransactionsResponse, StreamTransactionsResponseWriter,
};
use handfast_wire::v1;
use tokio::sync::oneshot;
use xxhash_rust::xxh3::Xxh3;

use crate::outbox::Outbox;

const SLOT: Slot = Slot(7);
const TIMEOUT_US: u64 = 30_000_000;

fn unreadable(error: &StoreError) {
    panic!("the log in memory cannot be read: {error}");
}

/// One shard and its log.
pub struct Coordinator {
    identity: Identity,
    sequences: Arc<Sequences>,
    driver: Driver<CoordinatorShard, Outbox<ShardAction>>,
    outbox: Outbox<ShardAction>,
    writer: LogWriter<Gated<ShardAction, Outbox<ShardAction>>>,
    names: Vec<ParticipantName>,
    /// For each participant, what goes into its next frame.
    queues: Vec<Vec<ToParticipant>>,
    /// Calls that have not been answered.
    calls: Vec<(u64, oneshot::Receiver<Reply>)>,
    /// Calls that have been answered since the last frame of answers.
    replies: usize,
    /// The names in calls.
    read_names: Names,
}

impl Coordinator {
    /// On a new disk, and connected with these participants.
    pub fn new(names: &[&str], now: Now) -> anyhow::Result<Self> {
        let disk = MemoryDisk::new(1);
        let mut journal = MemoryJournal::open(&disk, Kind::Coordinator)?;
        let Recovered { identity, store, registry: _ } =
            recover(&mut journal, SLOT, Path::new("memory"))?;
        let sequences = Arc::new(Sequences::new(1));
        let core = Core::new(identity, Config::default());
        let shard = CoordinatorShard::new(0, core, store, Arc::clone(&sequences), unreadable);
        let (writer, log) =
            LogWriter::new(Box::new(journal), WriterOptions::default(), Box::new(()));
        let outbox = Outbox::default();
        let driver = Driver::new(shard, log, outbox.clone());
        let names: Vec<ParticipantName> =
            names.iter().map(|name| name.parse::<ParticipantName>()).collect::<Result<_, _>>()?;
        let queues = names.iter().map(|_| Vec::new()).collect();
        let connected = names.iter().map(|name| ShardInput::Connected {
            participant: name.clone(),
            incarnation: Incarnation(0),
            one_phase_commits: Vec::new(),
        });
        let inputs: Vec<_> = connected.collect();
        let mut coordinator = Self {
            identity,
            sequences,
            driver,
            outbox,
            writer,
            names,
            queues,
            calls: Vec::new(),
            replies: 0,
            read_names: Names::default(),
        };
        coordinator.handle(now, inputs);
        Ok(coordinator)
    }

    /// Who speaks.
    pub fn origin(&self) -> Origin {
        Origin {
            slot: self.identity.slot,
            epoch: self.identity.epoch,
            incarnation: self.identity.incarnation,
            lowest_live: self.sequences.lowest_live(),
            endpoint: "http://127.0.0.1:7420".into(),
        }
    }

    // ---- the shard and its log --------------------------------------------------------------------

    /// The state machine, its driver and its look-ups: a batch of inputs, the timers that are due, and
    /// whatever is to be done, by these or since the log was written.
    #[inline(never)]
    pub fn handle(&mut self, now: Now, inputs: Vec<ShardInput>) {
        for input in inputs {
            self.driver.handle_without_submitting(now, input);
        }
        while self.driver.fire_without_submitting(now) {}
        self.driver.submit();
        self.driver.machine_mut().settled();
        self.perform();
    }

    /// Writes the log. False: nothing waited for that.
    #[inline(never)]
    pub fn sync(&mut self, flush: Flush) -> anyhow::Result<bool> {
        Ok(self.writer.run_once(flush)?.completed > 0)
    }

    /// Does what the shard wants done: messages are queued, callers answered.
    fn perform(&mut self) {
        for action in self.outbox.take() {
            match action {
                ShardAction::Core(Action::Send { to, message }) => {
                    if let Some(index) = self.names.iter().position(|name| *name == to) {
                        self.queues[index].push(message);
                    }
                }
                ShardAction::Core(Action::Reply { to, reply }) => {
                    self.replies += 1;
                    to.send(reply);
                }
                ShardAction::Core(Action::Note(Event::Alarm { id, participant, alarm })) => {
                    panic!("ALARM: {id}: {participant} {alarm}")
                }
                ShardAction::Core(Action::Note(_)) => {}
                ShardAction::Core(
                    Action::EndDurable { .. }
                    | Action::Lead { .. }
                    | Action::Report { .. }
                    | Action::Recorded { .. },
                )
                | ShardAction::Watched(..)
                | ShardAction::Durable(_) => {
                    unreachable!(
                        "nobody commits in one phase or three, watches or waits for a barrier"
                    )
                }
            }
        }
    }

    // ---- the client's stream ----------------------------------------------------------------------

    /// Reads a frame of calls.
    #[inline(never)]
    pub fn read_calls(&mut self, frame: Bytes, now: Now) -> anyhow::Result<Vec<ShardInput>> {
        let frame = StreamTransactionsRequest::new(frame);
        let calls = frame.read(&mut self.read_names)?;
        let mut inputs = Vec::with_capacity(calls.len());
        for Call { call_id, timeout: _, request } in calls {
            let CallRequest::Execute(request) = request else {
                bail!("call {call_id} is another one")
            };
            let (to, answered) = ReplyTo::new(None);
            self.calls.push((call_id, answered));
            let until = now.at.plus(TIMEOUT_US);
            inputs.push(execute(request, Waiter { to, reply_time: ReplyTime::Applied, until })?);
        }
        Ok(inputs)
    }

    /// A frame of what has been answered since the last one.
    #[inline(never)]
    pub fn write_answers(&mut self) -> Option<StreamTransactionsResponse> {
        let mut frame = StreamTransactionsResponseWriter::default();
        // As many as a frame of the product makes room for: those that have been answered.
        frame.reserve(self.replies);
        self.replies = 0;
        self.calls.retain_mut(|(call_id, answered)| {
            let Ok(reply) = answered.try_recv() else { return true };
            match reply {
                Reply::Outcome(outcome) if view::is_plain(&outcome) => {
                    frame.committed(*call_id, &outcome, false);
                }
                // The client says that it wanted something else.
                _ => frame.message(&v1::TransactionAnswer { call_id: *call_id, answer: None }),
            }
            false
        });
        (frame.answers() > 0).then(|| frame.finish())
    }

    // ---- the participants' sessions ---------------------------------------------------------------

    /// A frame of what has queued up for a participant.
    #[inline(never)]
    pub fn write_frame(&mut self, index: usize) -> Option<SessionRequest> {
        let queue = std::mem::take(&mut self.queues[index]);
        if queue.is_empty() {
            return None;
        }
        let name = &self.names[index];
        let endpoint_of =
            |_: &ParticipantName, to: &mut String| to.push_str("http://127.0.0.1:7430");
        let work = queue.iter().map(work_bytes).sum();
        let mut frame = SessionRequestWriter::new(queue.len(), work);
        for message in queue {
            frame.say(name, message, endpoint_of);
        }
        Some(frame.finish(&convert::origin_message(&self.origin())))
    }

    /// Reads a frame of a participant.
    #[inline(never)]
    pub fn read_frame(
        &self,
        index: usize,
        frame: &SessionResponse,
    ) -> anyhow::Result<Vec<ShardInput>> {
        let messages = frame.read()?;
        let mut inputs = Vec::with_capacity(messages.remaining());
        for message in messages {
            match message?? {
                FromSession::Message(message) => {
                    let from = self.names[index].clone();
                    inputs.push(ShardInput::Received { from, message });
                }
                FromSession::Inquiry { id, .. } => bail!("{id} is in doubt, and nothing was lost"),
                FromSession::Report(report) => bail!("nobody has led {}", report.id),
            }
        }
        Ok(inputs)
    }
}

/// What a message has of work.
fn work_bytes(message: &ToParticipant) -> usize {
    match message {
        ToParticipant::Prepare(prepare) => prepare.work.as_ref().map_or(0, Bytes::len),
        _ => 0,
    }
}

/// A call as the shard takes it.
fn execute(request: ExecuteCall, waiter: Waiter<ReplyTo>) -> anyhow::Result<ShardInput> {
    let id = request.request_id.context("a call without a request_id")?;
    let mut branches = BTreeMap::new();
    for (name, payload) in request.branches {
        branches.insert(name, payload);
    }
    let mut digest = Xxh3::new();
    for (name, work) in &branches {
        digest.update(name.as_str().as_bytes());
        digest.update(work);
    }
    let request = Some(Request { id, fingerprint: digest.digest().max(1) });
    let terms = Terms { timeout_us: TIMEOUT_US, info: Arc::new(Info::default()) };
    let protocol = Protocol::TwoPhase;
    Ok(ShardInput::Execute { branches, protocol, terms, request, waiter })
}
