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

use anyhow::{Context, bail};
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
    AnyResource, ParticipantShard, ShardAction, ShardInput, Waiter, call, claim, restore, tell,
};
use handfast_runtime::driver::{Driver, Gated};
use handfast_wire::convert::{self, PrepareOrder};
use handfast_wire::v1;
use handfast_wire::v1::coordinator_message::Message as Order;
use prost::Message;

use crate::outbox::Outbox;

/// One shard, its log and its store.
pub struct Participant {
    driver: Driver<ParticipantShard, Outbox<ShardAction>>,
    outbox: Outbox<ShardAction>,
    writer: LogWriter<Gated<ShardAction, Outbox<ShardAction>>>,
    store: Arc<dyn AnyResource>,
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
        let (queue, results) = (Vec::new(), VecDeque::new());
        let mut participant = Self { driver, outbox, writer, store, queue, results };
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
            self.driver.handle(now, input);
            self.perform()?;
        }
        while self.driver.fire(now) {}
        loop {
            self.perform()?;
            let Some((id, result)) = self.results.pop_front() else { break };
            self.driver.handle(now, ShardInput::Core(Input::Resource { id, result }));
        }
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
    pub fn read_frame(&self, frame: Bytes) -> anyhow::Result<Vec<ShardInput>> {
        let v1::SessionRequest { messages, origin, .. } = v1::SessionRequest::decode(frame)?;
        let origin = convert::origin(origin.as_ref())?;
        let mut inputs = Vec::with_capacity(messages.len() + 1);
        let heard = Input::Heard { origin: origin.clone(), opened: false };
        inputs.push(ShardInput::Core(heard));
        for message in messages {
            let message = message.message.context("a message without content")?;
            inputs.push(ShardInput::Core(input_of(message, origin.clone())?));
        }
        Ok(inputs)
    }

    /// A frame of what has queued up for the coordinator.
    #[inline(never)]
    pub fn write_frame(&mut self) -> Option<Vec<u8>> {
        let queue = std::mem::take(&mut self.queue);
        if queue.is_empty() {
            return None;
        }
        let messages = queue.into_iter().map(convert::session_message).collect();
        Some(v1::SessionResponse { welcome: None, messages }.encode_to_vec())
    }
}

fn input_of(message: Order, origin: Origin) -> anyhow::Result<Input<Waiter>> {
    Ok(match message {
        Order::Prepare(request) => {
            let PrepareOrder { prepare, peers } = convert::prepare(request)?;
            Input::Prepare { prepare, peers, origin, via: Via::Link }
        }
        Order::Commit(request) => {
            let id = convert::transaction_id(&request.transaction_id)?;
            let incarnation = Incarnation(request.participant_incarnation);
            Input::Commit { id, incarnation, origin, via: Via::Link }
        }
        message => bail!("nothing aborts, and nothing is in doubt: {message:?}"),
    })
}
