//! What clients ask of the engine: to begin, execute, commit and abort.
//!
//! Each comes in steps, for those who answer many callers at once: new work is admitted, which says at once
//! why it cannot be done, an order for its shard is made of it with whoever is to be answered, and orders
//! that have come together are given to their shards together. The engine does the work; if a caller goes
//! away, only the waiting ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use handfast_commit_core::id::{ParticipantName, Protocol, RequestId, TransactionId};
use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_commit_core::record::Request;
use handfast_commit_core::step::Time;
use handfast_commit_core::two_phase::coordinator::{Input, Reply, ReplyTime, Terms, Waiter};
use handfast_runtime::clock::wall_ms;
use handfast_runtime::shard::ShardHandle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;
use xxhash_rust::xxh3::xxh3_64;

use crate::engine::{Engine, EngineError};
use crate::reply_to::ReplyTo;
use crate::shard::{CoordinatorShard, ShardInput};

/// A whole transaction in one request.
#[derive(Debug)]
pub struct ExecuteRequest {
    /// Who does what.
    pub branches: BTreeMap<ParticipantName, Bytes>,
    /// How it is committed.
    pub protocol: Protocol,
    /// What it may cost.
    pub terms: Terms,
    /// The client's name for it.
    pub request_id: Option<RequestId>,
    /// When it is answered.
    pub reply_time: ReplyTime,
    /// How long the caller waits.
    pub patience: Duration,
}

/// The beginning of an interactive transaction.
#[derive(Debug)]
pub struct BeginRequest {
    /// How it will be committed.
    pub protocol: Protocol,
    /// What it may cost.
    pub terms: Terms,
}

/// The end of an interactive transaction, as its client wants it.
#[derive(Debug)]
pub struct CommitRequest {
    /// Which one.
    pub id: TransactionId,
    /// The client's name for it.
    pub request_id: Option<RequestId>,
    /// When it is answered.
    pub reply_time: ReplyTime,
    /// How long the caller waits.
    pub patience: Duration,
}

/// New work that has been let in, and what it holds of the memory for payloads.
#[derive(Debug)]
pub(crate) struct Admitted {
    memory: Option<OwnedSemaphorePermit>,
}

/// What one shard is to be told.
#[derive(Debug)]
pub(crate) struct Order {
    shard: usize,
    input: ShardInput,
}

/// Orders that have come together. Those that are never submitted are answered as by an engine that ends.
#[derive(Debug)]
pub(crate) struct Orders {
    /// By shard.
    inputs: Vec<Vec<ShardInput>>,
    count: usize,
}

impl Orders {
    pub(crate) fn push(&mut self, order: Order) {
        self.inputs[order.shard].push(order.input);
        self.count += 1;
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }
}

/// Turns a shard when it is dropped: an order that has been left is handled although its caller goes away.
struct TurnsAtTheEnd<'a>(&'a ShardHandle<CoordinatorShard>);

impl Drop for TurnsAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.turn();
    }
}

impl Engine {
    /// Begins an interactive transaction.
    ///
    /// # Errors
    /// When the coordinator is draining or has stopped.
    pub async fn begin(&self, request: BeginRequest) -> Result<Reply, EngineError> {
        let admitted = self.admit_begin()?;
        let (to, reply) = ReplyTo::new(None);
        self.submit(self.order_begin(request, admitted, to)).await;
        reply.await.map_err(|_| EngineError::Stopped)
    }

    /// Executes a whole transaction.
    ///
    /// # Errors
    /// When nothing was done (the coordinator is draining, or has no memory for the work), or, as
    /// [`EngineError::ReplyLost`], when it has stopped and nothing can be said.
    pub async fn execute(&self, request: ExecuteRequest) -> Result<Reply, EngineError> {
        let admitted = self.admit_execute(&request)?;
        let (to, reply) = ReplyTo::new(None);
        self.submit(self.order_execute(request, admitted, to)).await;
        reply.await.map_err(|_| EngineError::ReplyLost)
    }

    /// Commits an interactive transaction.
    ///
    /// # Errors
    /// When the coordinator has stopped.
    pub async fn commit(&self, request: CommitRequest) -> Result<Reply, EngineError> {
        let (to, reply) = ReplyTo::new(None);
        self.submit(self.order_commit(request, to)).await;
        reply.await.map_err(|_| EngineError::ReplyLost)
    }

    /// Aborts a transaction.
    ///
    /// # Errors
    /// When the coordinator has stopped.
    pub async fn abort(&self, id: TransactionId, message: String) -> Result<Reply, EngineError> {
        let (to, reply) = ReplyTo::new(None);
        self.submit(self.order_abort(id, message, to)).await;
        reply.await.map_err(|_| EngineError::ReplyLost)
    }

    /// Gives an order to its shard, together with those of all other calls that have arrived just now: each
    /// leaves its own and lets the others run, and the first that is back turns the shard for all of them. What
    /// comes of it shares frames and syncs.
    async fn submit(&self, order: Order) {
        let shard = &self.shards.all()[order.shard];
        shard.input_before_turn(order.input);
        let turns = TurnsAtTheEnd(shard);
        yield_now().await;
        drop(turns);
    }

    /// No orders yet.
    pub(crate) fn orders(&self) -> Orders {
        Orders { inputs: self.shards.no_inputs(0), count: 0 }
    }

    /// Gives orders to their shards, and leaves none.
    pub(crate) fn submit_all(&self, orders: &mut Orders) {
        orders.count = 0;
        self.shards.submit(&mut orders.inputs);
    }

    pub(crate) fn admit_begin(&self) -> Result<Admitted, EngineError> {
        self.admit()?;
        Ok(Admitted { memory: None })
    }

    pub(crate) fn order_begin(
        &self,
        request: BeginRequest,
        admitted: Admitted,
        to: ReplyTo,
    ) -> Order {
        let BeginRequest { protocol, terms } = request;
        let turn = wall_ms() ^ u64::from(std::process::id());
        // Which shard does not matter; the clock spreads them well enough.
        let hash = xxh3_64(&[turn.to_be_bytes(), self.clock.time().0.to_be_bytes()].concat());
        let to = to.holding(admitted.memory);
        Order { shard: self.shards.by_hash(hash), input: ShardInput::Begin { protocol, terms, to } }
    }

    pub(crate) fn admit_execute(&self, request: &ExecuteRequest) -> Result<Admitted, EngineError> {
        self.admit()?;
        let bytes: usize = request.branches.values().map(Bytes::len).sum();
        let bytes_max = self.config().in_flight_bytes_max;
        if bytes > bytes_max {
            return Err(EngineError::TooLarge { bytes, bytes_max });
        }
        let memory = u32::try_from(permits(bytes))
            .ok()
            .and_then(|permits| Arc::clone(&self.memory).try_acquire_many_owned(permits).ok());
        match memory {
            Some(memory) => Ok(Admitted { memory: Some(memory) }),
            None => Err(EngineError::Memory { bytes: bytes_max }),
        }
    }

    pub(crate) fn order_execute(
        &self,
        request: ExecuteRequest,
        admitted: Admitted,
        to: ReplyTo,
    ) -> Order {
        let ExecuteRequest { branches, protocol, terms, request_id, reply_time, patience } =
            request;
        let request =
            request_id.map(|id| Request { id, fingerprint: fingerprint(protocol, &branches) });
        let hash = match &request {
            // A request and its repetition meet in the same shard.
            Some(request) if !mutant(Mutant::RequestInAnyShard) => hash_of(&request.id),
            _ => self.clock.time().0 / 7,
        };
        let waiter = self.waiter(to.holding(admitted.memory), reply_time, patience);
        let input = ShardInput::Execute { branches, protocol, terms, request, waiter };
        Order { shard: self.shards.by_hash(hash), input }
    }

    pub(crate) fn order_commit(&self, request: CommitRequest, to: ReplyTo) -> Order {
        let CommitRequest { id, request_id, reply_time, patience } = request;
        let waiter = self.waiter(to, reply_time, patience);
        let fingerprint = xxh3_64(id.as_bytes()).max(1);
        let request = request_id.map(|id| Request { id, fingerprint });
        self.order(id, Input::Commit { id, request, waiter })
    }

    pub(crate) fn order_abort(&self, id: TransactionId, message: String, waiter: ReplyTo) -> Order {
        self.order(id, Input::Abort { id, message, waiter })
    }

    fn order(&self, id: TransactionId, input: Input<ReplyTo>) -> Order {
        Order { shard: self.shards.sequences().shard_of(id), input: ShardInput::Core(input) }
    }

    /// Whether the shards may be asked to end a transaction. One of another slot or of an earlier epoch has
    /// ended for them, and was perhaps never theirs; but for three-phase commit, whose voting sites may still be
    /// ending one.
    pub(crate) fn may_run(&self, id: TransactionId) -> bool {
        id.slot() == self.identity.slot
            && (id.epoch() == self.identity.epoch || id.is_three_phase())
    }

    fn waiter(&self, to: ReplyTo, reply_time: ReplyTime, patience: Duration) -> Waiter<ReplyTo> {
        Waiter { to, reply_time, until: self.after(patience) }
    }

    fn after(&self, patience: Duration) -> Time {
        self.clock.time().plus(u64::try_from(patience.as_micros()).unwrap_or(u64::MAX))
    }
}

/// Which shard a request is done in.
pub(crate) fn hash_of(request: &RequestId) -> u64 {
    xxh3_64(request.as_str().as_bytes())
}

/// The memory for payloads is given out in KiB.
pub(crate) fn permits(bytes: usize) -> usize {
    bytes.div_ceil(1024).min(Semaphore::MAX_PERMITS)
}

/// A digest of a request's work; named and fixed, because it is stored.
fn fingerprint(protocol: Protocol, branches: &BTreeMap<ParticipantName, Bytes>) -> u64 {
    let mut digest = xxhash_rust::xxh3::Xxh3::new();
    // The same work by another protocol is another request.
    if protocol != Protocol::TwoPhase && !mutant(Mutant::RequestOfAnyProtocol) {
        digest.update(&[protocol as u8]);
    }
    for (name, work) in branches {
        digest.update(name.as_str().as_bytes());
        digest.update(&[0]);
        digest.update(&(work.len() as u64).to_be_bytes());
        digest.update(work);
    }
    // 0 stands for "not known".
    digest.digest().max(1)
}
