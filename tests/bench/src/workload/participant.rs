//! A participant: the production shard, driver, log writer, recovery and key-value store, turned by hand.
//!
//! What stands around the shard is as in the product's sessions and effects, message for message. Calls of the
//! store are polled where they are made, as the product does with a resource that never keeps a thread; no
//! two transactions of a batch want the same key, so that none of them waits.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use handfast_commit_core::id::{Incarnation, ParticipantName, TransactionId};
use handfast_commit_core::message::FromParticipant;
use handfast_commit_core::step::Now;
use handfast_commit_core::two_phase::participant::{
    Action, Config, Event, Input, Origin, ResourceCall, ResourceResult, Via,
};
use handfast_journal::{Flush, Journal, Kind, LogWriter, MemoryDisk, MemoryJournal, WriterOptions};
use handfast_participant::resources::key_value::{KeyValueConfig, KeyValueStore};
use handfast_participant::simulation::{
    AnyResource, ParticipantShard, ShardAction, ShardInput, call, claim, restore, tell,
};
use handfast_runtime::driver::{Driver, Gated};
use handfast_wire::convert::{self, PrepareOrder};
use handfast_wire::frames::{Names, Order, SessionRequest, SessionResponse, SessionResponseWriter};

use crate::outbox::Outbox;

/// One shard, its log and its store.
pub struct Participant {
    driver: Driver<ParticipantShard, Outbox<ShardAction>>,
    outbox: Outbox<ShardAction>,
    writer: LogWriter<Gated<ShardAction, Outbox<ShardAction>>>,
    store: Arc<dyn AnyResource>,
    name: ParticipantName,
    names: Names,
    /// What goes into the next frame.
    queue: Vec<FromParticipant>,
    /// What the store has said, until the shard hears it.
    results: VecDeque<(TransactionId, ResourceResult)>,
}

impl Participant {
    /// On a new disk, in a session with the coordinator.
    pub fn new(name: &str, origin: Origin, now: Now) -> anyhow::Result<Self> {
        let name: ParticipantName = name.parse()?;
        let disk = MemoryDisk::new(2);
        let mut journal = MemoryJournal::open(&disk, Kind::Participant)?;
        claim(&mut journal, &name, "memory")?;
        let reader = journal.reader();
        let lock_wait = Duration::from_secs(1);
        let store = KeyValueStore::open(Arc::clone(&reader), KeyValueConfig { lock_wait })?;
        let store: Arc<dyn AnyResource> = Arc::new(store);
        let config = Config { one_phase: store.keeps_all_in_store(), ..Config::default() };
        let mut shard = ParticipantShard::new(Incarnation(reader.incarnation()), config);
        restore(&*reader, &mut shard)?;
        let (writer, log) =
            LogWriter::new(Box::new(journal), WriterOptions::default(), Box::new(()));
        let outbox = Outbox::default();
        let driver = Driver::new(shard, log, outbox.clone());
        let (names, queue, results) = (Names::default(), Vec::new(), VecDeque::new());
        let mut participant = Self { driver, outbox, writer, store, name, names, queue, results };
        let heard = ShardInput::Core(Input::Heard { origin, opened: true });
        participant.handle(now, vec![heard])?;
        participant.sync(Flush::Everything)?;
        participant.handle(now, Vec::new())?;
        Ok(participant)
    }

    // ---- the shard, the store and the log ---------------------------------------------------------

    /// The state machine, its driver and the store: a batch of inputs, what the store says to them, the
    /// timers that are due, and whatever is to be done, by these or since the log was written.
    #[inline(never)]
    pub fn handle(&mut self, now: Now, inputs: Vec<ShardInput>) -> anyhow::Result<()> {
        for input in inputs {
            self.driver.handle_without_submitting(now, input);
            self.perform()?;
        }
        while self.driver.fire_without_submitting(now) {}
        loop {
            self.perform()?;
            let Some((id, result)) = self.results.pop_front() else { break };
            let input = ShardInput::Core(Input::Resource { id, result });
            self.driver.handle_without_submitting(now, input);
        }
        self.driver.submit();
        Ok(())
    }

    /// Writes the log. False: nothing waited for that.
    #[inline(never)]
    pub fn sync(&mut self, flush: Flush) -> anyhow::Result<bool> {
        Ok(self.writer.run_once(flush)?.completed > 0)
    }

    /// Does what the shard wants done: answers are queued, the store is called.
    fn perform(&mut self) -> anyhow::Result<()> {
        for action in self.outbox.take() {
            match action {
                Action::Respond { message, .. } => self.queue.push(message),
                Action::Resource { id, call } => self.call(id, call)?,
                Action::Note(Event::Alarm { id, alarm }) => bail!("ALARM: {id}: {alarm}"),
                Action::Note(_) => {}
                Action::Inquire { .. }
                | Action::InquirePeers { .. }
                | Action::AnswerPeer { .. }
                | Action::AnswerTouch { .. }
                | Action::Lead { .. }
                | Action::Report { .. } => bail!("nobody is in doubt, or has a session"),
            }
        }
        Ok(())
    }

    fn call(&mut self, id: TransactionId, what: ResourceCall) -> anyhow::Result<()> {
        if matches!(what, ResourceCall::Cancel | ResourceCall::Finished(_)) {
            tell(&*self.store, id, &what);
            return Ok(());
        }
        let called = pin!(call(Arc::clone(&self.store), id, what));
        match called.poll(&mut TaskContext::from_waker(Waker::noop())) {
            Poll::Ready(result) => self.results.push_back((id, result)),
            Poll::Pending => bail!("{id} waits for a lock that nobody should have"),
        }
        Ok(())
    }

    // ---- the session ------------------------------------------------------------------------------

    /// Reads a frame of the coordinator.
    #[inline(never)]
    pub fn read_frame(&mut self, frame: Bytes) -> anyhow::Result<Vec<ShardInput>> {
        let frame = SessionRequest::new(frame);
        let mut messages = frame.read()?;
        let origin = convert::origin(messages.origin.as_ref())?;
        let mut inputs = Vec::with_capacity(messages.remaining() + 1);
        let heard = Input::Heard { origin: origin.clone(), opened: false };
        inputs.push(ShardInput::Core(heard));
        while let Some(order) = messages.next(&self.name, &mut self.names) {
            let (origin, via) = (origin.clone(), Via::Link);
            inputs.push(ShardInput::Core(match order? {
                Order::Prepare(PrepareOrder { prepare, peers }) => {
                    Input::Prepare { prepare, peers, origin, via }
                }
                Order::Commit { id, incarnation } => Input::Commit { id, incarnation, origin, via },
                Order::Other(message) => bail!("this is said in another way: {message:?}"),
            }));
        }
        Ok(inputs)
    }

    /// A frame of what has queued up for the coordinator.
    #[inline(never)]
    pub fn write_frame(&mut self) -> Option<SessionResponse> {
        if self.queue.is_empty() {
            return None;
        }
        let mut frame = SessionResponseWriter::new(self.queue.len());
        for message in self.queue.drain(..) {
            frame.say(message);
        }
        Some(frame.finish())
    }
}
