//! The coordinator's process: the production shards, driver, log writer and recovery on a simulated disk. A witness
//! is such a process, too.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use handfast_commit_core::id::{ParticipantName, Slot};
use handfast_commit_core::message::FromSite;
use handfast_commit_core::step::{Now, Time};
use handfast_commit_core::three_phase::Witness;
use handfast_commit_core::two_phase::Coordinator as Core;
use handfast_commit_core::two_phase::coordinator::{Config, Identity, Reply};
use handfast_commit_core::two_phase::participant::Origin;
use handfast_coordinator::recovery::{Recovered, recover};
use handfast_coordinator::reply_to::ReplyTo;
use handfast_coordinator::shard::{CoordinatorShard, Sequences, ShardAction, ShardInput};
use handfast_coordinator::store::{Store, StoreError};
use handfast_journal::{
    Flush, Journal, JournalError, Kind, LogHandle, LogWriter, MemoryDisk, MemoryJournal, Reader,
    Submission, Turn, WriterOptions,
};
use handfast_runtime::driver::{Driver, Gated, Machine};
use handfast_runtime::site_service::ReportTo;
use tokio::sync::{mpsc, oneshot};

use crate::client::CallId;
use crate::event::{Life, Site};
use crate::outbox::Outbox;
use crate::swarm::Swarm;

/// The slot of all transactions.
pub const SLOT: Slot = Slot(7);

/// A clock: runs at its own rate, and its wall face may be set.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalClock {
    /// Faster than the world by so many millionths.
    pub drift_ppm: i64,
    /// The wall face is off by so much.
    pub wall_offset_ms: i64,
}

/// When the world began, on its own wall.
const WORLD_BEGAN_MS: u64 = 1_700_000_000_000;

impl LocalClock {
    /// What it shows at a moment of the world.
    #[must_use]
    pub fn now(&self, world_us: u64) -> Now {
        let drift = i128::from(world_us) * i128::from(self.drift_ppm) / 1_000_000;
        let local = u64::try_from(i128::from(world_us) + drift).unwrap_or(0);
        let wall_ms = WORLD_BEGAN_MS.saturating_add_signed(self.wall_offset_ms) + world_us / 1000;
        Now { at: Time(local), wall_ms }
    }

    /// The moment of the world at which it shows at least `time`.
    #[must_use]
    pub fn world(&self, time: Time) -> u64 {
        let rate = 1_000_000 + i128::from(self.drift_ppm);
        let world = (i128::from(time.0) * 1_000_000 + rate - 1) / rate;
        // Rounding of the two conversions must not make a timer a microsecond early for ever.
        u64::try_from(world).map_or(u64::MAX, |world| world.saturating_add(1))
    }
}

/// The link to one participant.
#[derive(Debug, Default)]
pub struct Link {
    /// The number of the session that is open or being opened.
    pub session: u64,
    /// The core has been told that the participant can be reached.
    pub connected: bool,
    /// Has been connected since this process began, and its one-phase commits have been heard.
    pub reported: bool,
    /// Between two tries, doubled with each.
    pub wait_us: u64,
    /// What must have been done before the next try: see `ShardInput::Settle`.
    pub settling: Vec<oneshot::Receiver<()>>,
    /// When the last message of each direction arrives: a session keeps the order.
    pub last_down: u64,
    /// The same upwards.
    pub last_up: u64,
}

/// A question of a client about a transaction that waits for the log.
#[derive(Debug)]
pub struct Look {
    /// Whose.
    pub call: CallId,
    /// About which request.
    pub ask: crate::client::Ask,
    /// Somebody has not been heard of yet who may know.
    pub unheard: bool,
    /// Comes true when everything that has left the shards is in the log.
    pub flushed: oneshot::Receiver<()>,
}

/// A waiting caller.
#[derive(Debug)]
#[allow(missing_docs)] // fields: who, in which life, about what
pub enum Caller {
    /// A client.
    Client(CallId),
    /// A participant in doubt.
    Inquiry { from: usize, life: Life, id: handfast_commit_core::id::TransactionId },
    /// A participant that enlists a branch.
    Enlist { from: usize, life: Life, id: handfast_commit_core::id::TransactionId },
}

type Completion = Gated<ShardAction, Outbox<ShardAction>>;

/// A coordinator that runs.
pub struct Running {
    /// Who it is.
    pub identity: Identity,
    /// Its shards.
    pub shards: Vec<Driver<CoordinatorShard, Outbox<ShardAction>>>,
    /// What it wants done.
    pub outbox: Outbox<ShardAction>,
    /// Its log, to write.
    pub writer: LogWriter<Completion>,
    /// Its log, to submit to.
    pub log: LogHandle<Completion>,
    /// Its log, to read.
    pub store: Store,
    /// The same, record by record.
    pub reader: Arc<dyn Reader>,
    /// The ids it gives out.
    pub sequences: Arc<Sequences>,
    /// Its links, by participant.
    pub links: Vec<Link>,
    /// Who waits for an answer.
    pub callers: Vec<(Caller, oneshot::Receiver<Reply>)>,
    /// Questions that wait for the log.
    pub looks: Vec<Look>,
    /// Orders of sites that lead: who, its life, and what they are answered with.
    pub led: Vec<(Site, Life, mpsc::UnboundedReceiver<FromSite>)>,
    /// A sync is planned.
    pub syncing: bool,
    /// The writing of lazy records is planned.
    pub idling: bool,
    /// For each shard, when its timer event is planned.
    pub armed: Option<u64>,
}

/// The coordinator, alive or dead.
pub struct CoordinatorProcess {
    /// Its slot.
    pub slot: Slot,
    /// The witness that it is.
    pub witness: Option<ParticipantName>,
    /// Its disk.
    pub disk: MemoryDisk,
    /// Its clock.
    pub clock: LocalClock,
    /// Its present life.
    pub life: Life,
    /// `None` while it is dead.
    pub running: Option<Running>,
    /// Handles nothing before.
    pub paused_until: u64,
}

thread_local! {
    static UNREADABLE: Cell<bool> = const { Cell::new(false) };
}

fn unreadable(_: &StoreError) {
    UNREADABLE.with(|seen| seen.set(true));
}

/// True once after a journal could not be read: the process ends.
pub fn take_unreadable() -> bool {
    UNREADABLE.with(|seen| seen.replace(false))
}

impl CoordinatorProcess {
    /// A new one on a new disk.
    #[must_use]
    pub fn new(slot: Slot, incarnation: u64) -> Self {
        Self {
            slot,
            witness: None,
            disk: MemoryDisk::new(incarnation),
            clock: LocalClock::default(),
            life: 0,
            running: None,
            paused_until: 0,
        }
    }

    /// A new one that is a witness, and has a slot of its own, in which nothing is begun.
    #[must_use]
    pub fn witness(index: usize, incarnation: u64) -> Self {
        let after = u16::try_from(1 + index).unwrap_or(u16::MAX);
        let slot = Slot(SLOT.0.saturating_add(after));
        Self { witness: Some(witness_name(index)), ..Self::new(slot, incarnation) }
    }

    /// Starts it.
    ///
    /// # Errors
    /// Why the disk did not let it.
    pub fn start(&mut self, swarm: &Swarm, now: Now, jitter_seed: u64) -> Result<(), String> {
        let mut journal = MemoryJournal::open(&self.disk, Kind::Coordinator)
            .map_err(|error| error.to_string())?;
        let reader = journal.reader();
        let Recovered { identity, store, registry: _ } =
            recover(&mut journal, self.slot, Path::new("simulated"))
                .map_err(|error| error.to_string())?;
        let sequences = Arc::new(Sequences::new(swarm.shards));
        let config = |index: usize| Config {
            undecided_max: swarm.undecided_max,
            voting_max: swarm.undecided_max.div_ceil(2),
            undelivered_max: 1_000,
            delivery_window: swarm.delivery_window,
            resend_after_us: 100_000,
            resend_after_us_max: 1_000_000,
            jitter_seed: jitter_seed ^ index as u64,
            witness: self.witness.is_some(),
        };
        let mut cores: Vec<Core<ReplyTo>> =
            (0..swarm.shards).map(|index| Core::new(identity, config(index))).collect();
        if self.witness.is_none() {
            let witnesses: Vec<_> = (0..swarm.witnesses).map(witness).collect();
            cores.iter_mut().for_each(|core| core.set_witnesses(witnesses.clone()));
        }
        store
            .live(|record| cores[sequences.shard_of(record.id())].restore_record(record))
            .map_err(|error| error.to_string())?;
        let outbox = Outbox::default();
        let (writer, log) =
            LogWriter::new(Box::new(journal), WriterOptions::default(), Box::new(()));
        let shards = cores
            .into_iter()
            .enumerate()
            .map(|(index, core)| {
                let store = store.clone();
                let machine =
                    CoordinatorShard::new(index, core, store, Arc::clone(&sequences), unreadable);
                let mut driver = Driver::new(machine, log.clone(), outbox.clone());
                let resumed = driver.machine_mut().resume(now);
                driver.apply(resumed);
                driver
            })
            .collect();
        self.life += 1;
        self.running = Some(Running {
            identity,
            shards,
            outbox,
            writer,
            log,
            store,
            reader,
            sequences,
            links: (0..swarm.participants).map(|_| Link::default()).collect(),
            callers: Vec::new(),
            looks: Vec::new(),
            led: Vec::new(),
            syncing: false,
            idling: false,
            armed: None,
        });
        Ok(())
    }
}

impl Running {
    /// Who speaks.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin {
            slot: self.identity.slot,
            epoch: self.identity.epoch,
            incarnation: self.identity.incarnation,
            lowest_live: self.sequences.lowest_live(),
            endpoint: "coordinator".into(),
        }
    }

    /// Gives one shard an input.
    pub fn input(&mut self, shard: usize, now: Now, input: ShardInput) {
        self.shards[shard].handle(now, input);
        self.shards[shard].machine_mut().settled();
    }

    /// A way to be answered.
    pub fn reply_to(&mut self, caller: Caller) -> ReplyTo {
        let (to, reply) = ReplyTo::new(None);
        self.callers.push((caller, reply));
        to
    }

    /// Comes true when everything that was given to the log before is durable.
    pub fn flushed(&mut self) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        let completion = Some(Gated::standalone(tell));
        self.log.submit(Submission { mutations: Vec::new(), forced: true, completion });
        told
    }

    /// When the first timer of any shard runs out.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        self.shards.iter().filter_map(Driver::due).min()
    }

    /// A way for a site that leads to be answered.
    pub fn report_to(&mut self, leader: Site, life: Life) -> ReplyTo {
        let (to, reports) = ReportTo::channel();
        self.led.push((leader, life, reports));
        ReplyTo::site(to)
    }

    /// True when nothing is undecided or undelivered.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open() == [0; 3] && self.log.depth() == 0
    }

    /// How many transactions are undecided, voted for and undecided, and undelivered.
    #[must_use]
    pub fn open(&self) -> [usize; 3] {
        let cores = self.shards.iter().map(|shard| shard.machine().core());
        cores.fold([0; 3], |sum, core| {
            let more = [core.undecided(), core.voting(), core.undelivered()];
            std::array::from_fn(|index| sum[index] + more[index])
        })
    }

    /// Writes what waits for the disk.
    ///
    /// # Errors
    /// The journal's.
    pub fn write(&mut self, flush: Flush) -> Result<Turn, JournalError> {
        self.writer.run_once(flush)
    }
}

/// The names of the participants.
#[must_use]
pub fn name(index: usize) -> ParticipantName {
    match format!("p{index}").parse() {
        Ok(name) => name,
        Err(_) => unreachable!("a letter and digits are a name"),
    }
}

/// The name of a witness.
#[must_use]
pub fn witness_name(index: usize) -> ParticipantName {
    match format!("w{index}").parse() {
        Ok(name) => name,
        Err(_) => unreachable!("a letter and digits are a name"),
    }
}

fn witness(index: usize) -> Witness {
    let name = witness_name(index);
    Witness { endpoint: name.to_string(), name }
}

/// The participants by name.
#[must_use]
pub fn names(count: usize) -> BTreeMap<ParticipantName, usize> {
    (0..count).map(|index| (name(index), index)).collect()
}
