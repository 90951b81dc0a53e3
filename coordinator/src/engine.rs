//! The coordinator without its network: what the services call, and what an application embeds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use handfast_commit_core::id::{Incarnation, ParticipantName, TransactionId};
use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_commit_core::record::CoordinatorRecord;
use handfast_commit_core::two_phase::Coordinator;
use handfast_commit_core::two_phase::coordinator::{
    Config, Identity, Input, Inquiry, Reply, TransactionView,
};
use handfast_journal::{
    Journal, JournalError, JournalOptions, Kind, LogHandle, LogWriter, Mutation, RocksJournal,
    Submission, WriterObserver, WriterOptions,
};
use handfast_runtime::clock::{Clock, wall_ms};
use handfast_runtime::crash_point::{compiled_in, reached};
use handfast_runtime::driver::{Driver, Gated, HandedOver};
use handfast_runtime::shard::shard;
use handfast_wire::record::decode_live;
use tokio::sync::{Semaphore, oneshot};
use xxhash_rust::xxh3::xxh3_64;

use crate::config::CoordinatorConfig;
use crate::effects::{CoordinatorEffects, Shards};
use crate::links::{LinkContext, Links};
use crate::participant_registry::{ParticipantRegistry, Registration};
use crate::recovery::{Recovered, StartError, recover};
use crate::reply_to::ReplyTo;
use crate::requests::{hash_of, permits};
use crate::shard::{
    CoordinatorShard, SHARDS_MAX, Sequences, ShardAction, ShardInput, VotesElsewhere,
};
use crate::store::{Store, StoreError};
use crate::witness_links::WitnessLinks;

/// Inputs that may wait for a shard; more work is refused until it has caught up.
const SHARD_DEPTH_MAX: usize = 10_000;
/// Submissions that may wait for the log; more work is refused until it has caught up.
const LOG_DEPTH_MAX: usize = 200_000;

type Log = LogHandle<Gated<ShardAction, CoordinatorEffects>>;

/// A running coordinator.
#[derive(Debug)]
pub struct Engine {
    config: CoordinatorConfig,
    pub(crate) identity: Identity,
    pub(crate) clock: Clock,
    pub(crate) store: Store,
    registry: ParticipantRegistry,
    pub(crate) links: Arc<Links>,
    pub(crate) shards: Shards,
    log: Log,
    pub(crate) memory: Arc<Semaphore>,
    draining: AtomicBool,
    threads: std::sync::Mutex<Vec<JoinHandle<()>>>,
    /// Of the shards.
    handed_over: Vec<HandedOver>,
}

/// Three-phase commit, as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VotingCounts {
    /// Everybody has voted prepared, and the decision is not known here.
    pub transactions: usize,
    /// Of those, the ones that have waited for a quorum once already.
    pub waiting: usize,
    /// Transactions of other slots that are kept as a witness.
    pub witnessed: usize,
}

/// The engine cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The process is ending.
    #[error("the coordinator is stopping; nothing was done")]
    Stopped,
    /// The process is ending, and the request was taken before: it may have been done.
    #[error(
        "the coordinator has stopped before it could answer; ask again with the same request_id"
    )]
    ReplyLost,
    /// It takes no new transactions any more.
    #[error(
        "the coordinator is draining and takes no new transactions; try another, or this one when it is back"
    )]
    Draining,
    /// The processors do not keep up.
    #[error("the coordinator is asked for more than it can do; try again later")]
    Busy,
    /// The disk does not keep up.
    #[error("the log's disk does not keep up; try again later")]
    SlowLog,
    /// The work of one request is more than may be in flight at all.
    #[error(
        "the work has {bytes} bytes, more than may be in flight at a time ({bytes_max}); split it, or raise \
            in_flight_bytes_max"
    )]
    TooLarge {
        /// How much it has.
        bytes: usize,
        /// How much there may be.
        bytes_max: usize,
    },
    /// The work does not fit into memory.
    #[error(
        "the work of the transactions in flight takes up the memory set aside for it ({bytes} bytes); try again later"
    )]
    Memory {
        /// How much that is.
        bytes: usize,
    },
    /// The log cannot be read.
    #[error("the log cannot be read: {0}")]
    Store(#[from] StoreError),
}

struct Observer;

impl WriterObserver for Observer {
    fn batch(&self, submissions: usize, mutations: usize, bytes: usize, sync: Duration) {
        metrics::histogram!("handfast_log_batch_submissions").record(submissions as f64);
        metrics::histogram!("handfast_log_sync_seconds").record(sync);
        metrics::counter!("handfast_log_bytes_total").increment(bytes as u64);
        metrics::counter!("handfast_log_mutations_total").increment(mutations as u64);
        reached("coordinator.after-sync");
    }
}

/// A journal with crash points before and after its forced writes.
struct CrashPoints(Box<dyn Journal>);

impl Journal for CrashPoints {
    fn append(
        &mut self,
        batch: &[Mutation],
    ) -> Result<handfast_journal::LogSequence, JournalError> {
        let points = points(batch);
        points.iter().for_each(|point| reached(point.0));
        let sequence = self.0.append(batch)?;
        points.iter().for_each(|point| reached(point.1));
        Ok(sequence)
    }

    fn reader(&self) -> Arc<dyn handfast_journal::Reader> {
        self.0.reader()
    }
}

/// The crash points before and after a batch is on the disk, by what is in it.
fn points(batch: &[Mutation]) -> BTreeSet<(&'static str, &'static str)> {
    let mut points = BTreeSet::new();
    if !compiled_in() {
        return points;
    }
    let live = |mutation: &&Mutation| mutation.table == handfast_journal::Table::Live;
    for mutation in batch.iter().filter(live) {
        let Some(value) = &mutation.value else { continue };
        points.insert(match decode_live(&mutation.key, value) {
            Ok(CoordinatorRecord::Voting(_)) => {
                ("coordinator.before-voting-sync", "coordinator.after-voting-sync")
            }
            Ok(CoordinatorRecord::Witness(_)) => {
                ("coordinator.before-witness-sync", "coordinator.after-witness-sync")
            }
            _ => ("coordinator.before-decision-sync", "coordinator.after-decision-sync"),
        });
    }
    points
}

/// Ends the process: what the log holds is not known any more, so nothing may be answered from it.
fn poisoned(error: &JournalError) -> ! {
    tracing::error!("the log has failed; this process ends and answers nothing more: {error}");
    eprintln!("handfast-coordinator: the log has failed: {error}");
    std::process::exit(1);
}

fn unreadable(error: &StoreError) {
    tracing::error!("the log cannot be read; this process ends: {error}");
    eprintln!("handfast-coordinator: the log cannot be read: {error}");
    std::process::exit(1);
}

impl Engine {
    /// Opens the log in its folder and takes over. `endpoint` is where participants ask. Must be called
    /// on a tokio runtime.
    ///
    /// # Errors
    /// When the log cannot be opened, or is not this coordinator's.
    pub fn start(config: CoordinatorConfig, endpoint: String) -> Result<Arc<Self>, StartError> {
        let journal =
            RocksJournal::open(&config.data, Kind::Coordinator, JournalOptions::default())?;
        Self::start_on(Box::new(journal), config, endpoint)
    }

    /// The same over any journal.
    ///
    /// # Errors
    /// When the journal cannot be read or written, or is not this coordinator's.
    pub fn start_on(
        journal: Box<dyn Journal>,
        config: CoordinatorConfig,
        endpoint: String,
    ) -> Result<Arc<Self>, StartError> {
        let mut journal = CrashPoints(journal);
        let clock = Clock::start();
        reached("coordinator.recovery.before-epoch");
        let Recovered { identity, store, registry } =
            recover(&mut journal, config.slot, &config.data)?;
        reached("coordinator.recovery.after-epoch");

        let count = config.shards.clamp(1, SHARDS_MAX);
        let sequences = Arc::new(Sequences::new(count));
        let context = LinkContext::new(identity, endpoint, config.link_queue_max);
        let links = Arc::new(Links::new(context));
        let late_shards = Arc::new(OnceLock::new());
        let witnesses = WitnessLinks::new(
            &config.witnesses,
            links.context().endpoint.clone(),
            Arc::clone(&late_shards),
        );
        let witnesses = Arc::new(witnesses);
        let effects = CoordinatorEffects::new(
            Arc::clone(&links),
            Arc::clone(&witnesses),
            Arc::clone(&late_shards),
        );

        let (handles, queues): (Vec<_>, Vec<_>) = (0..count).map(|_| shard()).unzip();
        let shards = Shards::new(handles, Arc::clone(&sequences));
        let _ = late_shards.set(shards.clone());

        let seed = clock_seed();
        let core_config = |index: usize| Config {
            undecided_max: config.in_flight_max.div_ceil(count),
            // The rest of a queue is for what speaks of transactions that run.
            voting_max: (config.link_queue_max / 5 / count).max(1),
            undelivered_max: config.undelivered_max.div_ceil(count),
            delivery_window: (config.link_queue_max / 4 / count).max(1),
            jitter_seed: seed ^ index as u64,
            witness: config.witness_name.is_some(),
            ..Config::default()
        };
        let mut cores: Vec<_> =
            (0..count).map(|index| Coordinator::new(identity, core_config(index))).collect();
        cores.iter_mut().for_each(|core| core.set_witnesses(config.witnesses.clone()));
        let mut undelivered = 0_u64;
        let mut voting = 0_u64;
        let mut votes_elsewhere = VotesElsewhere::new();
        store.live(|record| {
            match &record {
                CoordinatorRecord::Voting(record) => {
                    voting += 1;
                    if let Some(request) = &record.request
                        && shards.by_hash(hash_of(&request.id)) != sequences.shard_of(record.id)
                    {
                        votes_elsewhere.insert(request.id.clone(), record.id);
                    }
                    witnesses.remember(&record.sites);
                }
                CoordinatorRecord::Decision(record) => {
                    undelivered += 1;
                    witnesses.remember(&record.sites);
                }
                CoordinatorRecord::Commit(_) => undelivered += 1,
                _ => {}
            }
            let own = sequences.shard_of(record.id());
            cores[if mutant(Mutant::RestoredInFirstShard) { 0 } else { own }]
                .restore_record(record);
        })?;

        let (writer, log) =
            LogWriter::new(Box::new(journal), WriterOptions::default(), Box::new(Observer));
        let mut threads = vec![writer.spawn(|error| poisoned(&error))?];
        let votes_elsewhere = Arc::new(votes_elsewhere);
        let runtime = tokio::runtime::Handle::current();
        let mut handed_over = Vec::new();
        for (index, (core, queue)) in cores.into_iter().zip(queues).enumerate() {
            let mut machine = CoordinatorShard::new(
                index,
                core,
                store.clone(),
                Arc::clone(&sequences),
                unreadable,
            );
            machine.set_votes_elsewhere(Arc::clone(&votes_elsewhere));
            let mut driver = Driver::new(machine, log.clone(), effects.clone());
            if !mutant(Mutant::RestartLeadsNobody) {
                let resumed = driver.machine_mut().resume(clock.now());
                driver.apply(resumed);
            }
            handed_over.push(driver.hand_over(&runtime));
            threads.push(queue.spawn(&index.to_string(), clock, driver)?);
        }
        let memory = Arc::new(Semaphore::new(permits(config.in_flight_bytes_max)));
        let engine = Arc::new(Self {
            config,
            identity,
            clock,
            store,
            registry,
            links,
            shards,
            log,
            memory,
            draining: AtomicBool::new(false),
            threads: std::sync::Mutex::new(threads),
            handed_over,
        });
        for (name, registration) in engine.registry.list(None, usize::MAX) {
            engine.links.open(&name, &registration.endpoint, &engine.shards);
        }
        tracing::info!(
            slot = identity.slot.0,
            epoch = identity.epoch.0,
            undelivered,
            voting,
            participants = engine.registry.list(None, usize::MAX).len(),
            "recovered: the log is read, epoch {} has begun",
            identity.epoch.0
        );
        Ok(engine)
    }

    /// Who we are.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &CoordinatorConfig {
        &self.config
    }

    /// The registered participants.
    #[must_use]
    pub fn registry(&self) -> &ParticipantRegistry {
        &self.registry
    }

    /// The links to them.
    #[must_use]
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Who speaks, for a participant that enlists.
    #[must_use]
    pub fn origin(&self) -> handfast_wire::v1::Origin {
        self.links.context().origin(self.shards.sequences().lowest_live())
    }

    /// Lets new work in, or says why not.
    pub(crate) fn admit(&self) -> Result<(), EngineError> {
        if self.draining.load(Ordering::Relaxed) {
            Err(EngineError::Draining)
        } else if self.log.depth() > LOG_DEPTH_MAX {
            Err(EngineError::SlowLog)
        } else if self.shards.all().iter().any(|shard| shard.depth() > SHARD_DEPTH_MAX) {
            Err(EngineError::Busy)
        } else {
            Ok(())
        }
    }

    // ---- participants ---------------------------------------------------------------------------

    /// Registers a participant, durably.
    ///
    /// # Errors
    /// When the coordinator has stopped.
    pub async fn register(
        &self,
        name: ParticipantName,
        endpoint: String,
        incarnation: Incarnation,
    ) -> Result<(), EngineError> {
        let registration =
            Registration { endpoint: endpoint.clone(), incarnation, registered_ms: wall_ms() };
        let before = self.registry.get(&name);
        let same = before
            .as_ref()
            .is_some_and(|before| before.endpoint == endpoint && before.incarnation == incarnation);
        if !same {
            let mutation = ParticipantRegistry::mutation(&name, &registration);
            self.written(vec![mutation], true).await?;
            self.registry.insert(name.clone(), registration);
            match before {
                Some(before) if before.incarnation != incarnation => tracing::warn!(
                    participant = %name,
                    "registered with another log than before: what it had promised may be lost"
                ),
                _ => tracing::info!(participant = %name, endpoint, "registered"),
            }
        }
        self.links.open(&name, &endpoint, &self.shards);
        Ok(())
    }

    /// Joins a participant to a transaction.
    ///
    /// # Errors
    /// When the coordinator has stopped.
    pub async fn enlist(
        &self,
        id: TransactionId,
        participant: ParticipantName,
        incarnation: Incarnation,
        enlistment: u64,
    ) -> Result<Reply, EngineError> {
        let (waiter, reply) = ReplyTo::new(None);
        let input = Input::Enlist { id, participant, incarnation, enlistment, waiter };
        self.shards.of(id).input(ShardInput::Core(input));
        reply.await.map_err(|_| EngineError::Stopped)
    }

    /// Answers a participant in doubt.
    ///
    /// # Errors
    /// When the coordinator has stopped.
    pub async fn inquire(&self, inquiry: Inquiry) -> Result<Reply, EngineError> {
        let (to, reply) = ReplyTo::new(None);
        let shard = self.shards.of(inquiry.id);
        shard.input(ShardInput::Inquire { inquiry, to: Some(to) });
        reply.await.map_err(|_| EngineError::Stopped)
    }

    /// Decided commits that a participant has not acknowledged.
    ///
    /// # Errors
    /// When the coordinator has stopped.
    pub async fn undelivered_to(&self, name: &ParticipantName) -> Result<usize, EngineError> {
        let mut sum = 0;
        for shard in self.shards.all() {
            let name = name.clone();
            sum += shard
                .ask(move |shard: &mut CoordinatorShard| shard.core().undelivered_to(&name))
                .await
                .ok_or(EngineError::Stopped)?;
        }
        Ok(sum)
    }

    // ---- the log --------------------------------------------------------------------------------

    async fn written(&self, mutations: Vec<Mutation>, forced: bool) -> Result<(), EngineError> {
        let (tell, told) = oneshot::channel();
        let completion = Some(Gated::standalone(tell));
        self.log.submit(Submission { mutations, forced, completion });
        told.await.map_err(|_| EngineError::Stopped)
    }

    /// Returns when everything that was given to the log before is durable. What a shard's step has for it is there
    /// when the shard has answered a question.
    pub(crate) async fn flushed(&self) -> Result<(), EngineError> {
        self.written(Vec::new(), true).await
    }

    /// Takes outcomes out of the window that have been in it for long enough. Called now and then.
    ///
    /// # Errors
    /// When the log cannot be read or the coordinator has stopped.
    pub async fn expire_outcomes(&self) -> Result<usize, EngineError> {
        const AT_A_TIME: usize = 1000;
        let retention =
            u64::try_from(self.config.outcome_retention.as_millis()).unwrap_or(u64::MAX);
        let before_ms = wall_ms().saturating_sub(retention);
        let mutations = self.store.expire(before_ms, AT_A_TIME)?;
        let count = mutations.len();
        if count > 0 {
            self.written(mutations, false).await?;
        }
        Ok(count)
    }

    /// Counts for metrics and for the drain: active, preparing, committing.
    ///
    /// # Errors
    /// When the coordinator has stopped.
    pub async fn phases(&self) -> Result<[usize; 3], EngineError> {
        let mut sums = [0; 3];
        for shard in self.shards.all() {
            let counts = shard
                .ask(|shard: &mut CoordinatorShard| shard.core().phases())
                .await
                .ok_or(EngineError::Stopped)?;
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum += count;
            }
        }
        Ok(sums)
    }

    /// Counts of three-phase commit, for metrics.
    ///
    /// # Errors
    /// When the coordinator has stopped.
    pub async fn voting(&self) -> Result<VotingCounts, EngineError> {
        let mut sums = VotingCounts::default();
        for shard in self.shards.all() {
            let counts = shard
                .ask(|shard: &mut CoordinatorShard| {
                    let core = shard.core();
                    (core.voting(), core.waiting_for_quorum(), core.witnessed())
                })
                .await
                .ok_or(EngineError::Stopped)?;
            sums.transactions += counts.0;
            sums.waiting += counts.1;
            sums.witnessed += counts.2;
        }
        Ok(sums)
    }

    /// When the oldest decided commit was decided that somebody has not acknowledged: wall clock,
    /// milliseconds since 1970.
    ///
    /// # Errors
    /// When the coordinator has stopped.
    pub async fn oldest_undelivered_ms(&self) -> Result<Option<u64>, EngineError> {
        let committing = |view: &TransactionView| view.decided_ms > 0;
        let oldest = self.running(None, 1, committing).await?;
        Ok(oldest.first().map(|view| view.decided_ms))
    }

    /// Messages in the queues to participants, and submissions in the log's queue.
    #[must_use]
    pub fn depths(&self) -> (usize, usize) {
        (self.links.gauges().2, self.log.depth())
    }

    /// Takes no new transactions from here on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// True when it takes no new transactions.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Ends the shards and the log: everything that was given to the log is written.
    pub fn stop(&self) {
        for shard in self.shards.all() {
            shard.stop();
        }
        let threads = {
            let mut threads =
                self.threads.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            std::mem::take(&mut *threads)
        };
        let mut threads = threads.into_iter();
        let writer = threads.next();
        threads.for_each(join);
        self.log.close();
        writer.into_iter().for_each(join);
        self.handed_over.iter().for_each(HandedOver::finish);
    }
}

/// An engine that is dropped without being stopped leaves nothing running, and its database closed: a
/// process that ended meanwhile would pull RocksDB's own static data from under the closing thread.
impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits for the end of a thread, unless it is the very one that drops the engine. One that has panicked
/// has said so.
fn join(thread: JoinHandle<()>) {
    if thread.thread().id() != std::thread::current().id() {
        let _ = thread.join();
    }
}

fn clock_seed() -> u64 {
    let parts = [wall_ms(), u64::from(std::process::id())];
    xxh3_64(&parts.map(u64::to_be_bytes).concat())
}

#[cfg(test)]
mod tests {
    use handfast_journal::{MemoryDisk, MemoryJournal};

    use super::*;

    #[tokio::test]
    async fn a_shard_that_is_behind_is_given_no_more_work() {
        let journal = MemoryJournal::open(&MemoryDisk::new(1), Kind::Coordinator);
        let journal = Box::new(journal.expect("a new disk"));
        let config = CoordinatorConfig { shards: 1, ..CoordinatorConfig::default() };
        let engine = Engine::start_on(journal, config, "http://127.0.0.1:1".to_owned());
        let engine = engine.expect("a new log");
        let shard = engine.shards.all()[0].clone();
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let held = shard.clone();
        let held = tokio::spawn(async move {
            let hold = move |_: &mut CoordinatorShard| wait.recv().is_ok();
            held.ask(hold).await
        });
        tokio::task::yield_now().await;
        assert!(engine.admit().is_ok());
        let participant: ParticipantName = "a".parse().expect("a name");
        for _ in 0..=SHARD_DEPTH_MAX {
            let participant = participant.clone();
            shard.input(ShardInput::Core(Input::Disconnected { participant }));
        }
        assert!(matches!(engine.admit(), Err(EngineError::Busy)));
        drop(go_on);
        assert_eq!(held.await.expect("no panic"), Some(false));
        shard.ask(|_: &mut CoordinatorShard| ()).await.expect("it runs");
        assert!(engine.admit().is_ok());
    }
}
