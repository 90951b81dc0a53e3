//! A participant's process: the production shard, driver, log writer, recovery and key-value store on a
//! simulated disk. Calls of the store are futures that the world polls by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use handfast_commit_core::id::{Epoch, Incarnation, TransactionId};
use handfast_commit_core::message::{FromParticipant, FromSite, Inquired};
use handfast_commit_core::step::Now;
use handfast_commit_core::two_phase::coordinator::OnePhaseReport;
use handfast_commit_core::two_phase::participant::{
    Config, Input, Origin, ResourceCall, ResourceResult, SessionRefusal,
};
use handfast_journal::{
    Flush, Journal, JournalError, Kind, LogHandle, LogWriter, MemoryDisk, MemoryJournal, Mutation,
    Reader, Submission, Table, Turn, WriterOptions,
};
use handfast_participant::resources::key_value::{
    Enlist, EnlistError, EnlistErrorCode, KeyValueConfig, KeyValueGrpc, KeyValueStore,
};
use handfast_participant::simulation::{
    AnyResource, ParticipantShard, ShardAction, ShardInput, Waiter, call, claim, in_doubt, restore,
    tell,
};
use handfast_runtime::driver::{Driver, Gated};
use handfast_wire::v1::key_value_service_server::KeyValueService;
use handfast_wire::v1::{ApplyRequest, KeyValueResult, KeyValueWork};
use tokio::sync::{mpsc, oneshot};
use tonic::{Code, Request};

use crate::client::CallId;
use crate::coordinator::{LocalClock, name};
use crate::event::{Life, Site, WorkError};
use crate::outbox::Outbox;
use crate::swarm::Swarm;

/// What an account holds at first.
pub const FIRST_BALANCE: i64 = 1000;

/// The key in the store of the library where a key of the key-value store is.
#[must_use]
pub fn data_key(key: &str) -> Vec<u8> {
    [b"d", key.as_bytes()].concat()
}

/// The name of an account.
#[must_use]
pub fn account(index: u64) -> String {
    format!("account-{index}")
}

/// The name of a register.
#[must_use]
pub fn register(index: u64) -> String {
    format!("register-{index}")
}

/// What a session of the key-value store wants of its library: `EnlistBranch` in slow motion.
pub enum Wanted {
    /// May work be done?
    Touch(TransactionId, oneshot::Sender<Result<(), SessionRefusal>>),
    /// Tell the coordinator.
    Enlist(TransactionId, oneshot::Sender<Result<(), WorkError>>),
}

/// The library as the key-value store's sessions see it.
#[derive(Clone, Default)]
pub struct SimulatedEnlist(Arc<Mutex<Vec<Wanted>>>);

impl SimulatedEnlist {
    fn want(&self, wanted: Wanted) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(wanted);
    }

    /// What has been asked for since the last time.
    #[must_use]
    pub fn take(&self) -> Vec<Wanted> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn touch(&self, id: TransactionId) -> Result<Result<(), SessionRefusal>, EnlistError> {
        let (tell, told) = oneshot::channel();
        self.want(Wanted::Touch(id, tell));
        told.await.map_err(|_| error(EnlistErrorCode::Unavailable))
    }
}

fn error(code: EnlistErrorCode) -> EnlistError {
    EnlistError { code, message: format!("{code:?}") }
}

impl Enlist for SimulatedEnlist {
    /// As `handfast_participant::Handle::enlist`.
    async fn enlist(&self, id: TransactionId) -> Result<(), EnlistError> {
        match self.touch(id).await? {
            Ok(()) => return Ok(()),
            Err(SessionRefusal::Over) => return Err(error(EnlistErrorCode::WrongState)),
            Err(SessionRefusal::NotEnlisted) => {}
        }
        let (tell, told) = oneshot::channel();
        self.want(Wanted::Enlist(id, tell));
        let enlisted = told.await.map_err(|_| error(EnlistErrorCode::Unavailable))?;
        enlisted.map_err(|why| match why {
            WorkError::TryAgain => error(EnlistErrorCode::Unavailable),
            WorkError::Over => error(EnlistErrorCode::WrongState),
        })?;
        match self.touch(id).await? {
            Ok(()) => Ok(()),
            Err(SessionRefusal::Over) => Err(error(EnlistErrorCode::WrongState)),
            Err(SessionRefusal::NotEnlisted) => Err(error(EnlistErrorCode::Unavailable)),
        }
    }
}

/// What came of a call of the store.
pub enum Done {
    /// For the library.
    Resource(TransactionId, ResourceResult),
    /// For a client.
    Worked(CallId, Result<KeyValueResult, WorkError>),
}

type Task = Pin<Box<dyn Future<Output = Done>>>;
type Completion = Gated<ShardAction, Outbox<ShardAction>>;

/// A list of what is in doubt that waits for the log.
#[derive(Debug)]
pub struct List {
    /// Who has asked.
    pub caller: UnaryCaller,
    /// The first of its connection.
    pub first: bool,
    /// In doubt.
    pub ids: Vec<TransactionId>,
    /// Committed in one phase and kept.
    pub kept: Vec<OnePhaseReport>,
    /// Comes true when all of that is durable.
    pub flushed: oneshot::Receiver<()>,
}

/// Who waits for an answer to a unary call.
#[derive(Debug, Clone, Copy)]
pub struct UnaryCaller {
    /// The coordinator's life that has called.
    pub life: Life,
    /// Over which connection.
    pub session: u64,
}

/// A participant that runs.
pub struct Running {
    /// Its state machine.
    pub driver: Driver<ParticipantShard, Outbox<ShardAction>>,
    /// What it wants done.
    pub outbox: Outbox<ShardAction>,
    /// Its log, to write.
    pub writer: LogWriter<Completion>,
    /// Its log, to submit to.
    pub log: LogHandle<Completion>,
    /// Its log, to read.
    pub reader: Arc<dyn Reader>,
    /// Of its log.
    pub incarnation: Incarnation,
    /// Its data.
    pub store: Arc<KeyValueStore>,
    grpc: Arc<KeyValueGrpc<SimulatedEnlist>>,
    enlist: SimulatedEnlist,
    tasks: Vec<Task>,
    /// The session that is open: its epoch and number.
    pub session: Option<(Epoch, u64)>,
    /// A welcome that waits for the log.
    pub welcome: Option<(u64, Vec<OnePhaseReport>, Origin, oneshot::Receiver<()>)>,
    /// Who has opened it.
    pub origin: Option<Origin>,
    /// A list that waits for the log.
    pub lists: Vec<List>,
    /// Unary calls that are being answered.
    pub calls: Vec<(UnaryCaller, oneshot::Receiver<FromParticipant>)>,
    /// Peers that are being answered: who, its life, and about what.
    pub peers: Vec<(usize, Life, TransactionId, oneshot::Receiver<Inquired>)>,
    /// Orders of sites that lead: who, its life, and what they are answered with.
    pub led: Vec<(Site, Life, mpsc::UnboundedReceiver<FromSite>)>,
    /// The numbers of branches whose enlistment has not succeeded.
    pub numbers: BTreeMap<TransactionId, u64>,
    /// Enlistments that are on their way.
    pub enlisting: BTreeMap<TransactionId, oneshot::Sender<Result<(), WorkError>>>,
    /// A sync is planned.
    pub syncing: bool,
    /// The writing of lazy records is planned.
    pub idling: bool,
    /// When the timer event is planned.
    pub armed: Option<u64>,
}

/// A participant, alive or dead.
pub struct ParticipantProcess {
    /// Which one.
    pub index: usize,
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
    /// The incarnations whose disk was lost.
    pub lost_disks: BTreeSet<u64>,
}

impl ParticipantProcess {
    /// A new one, with its accounts filled.
    ///
    /// # Errors
    /// When the new disk does not work.
    pub fn new(index: usize, incarnation: u64, accounts: u64) -> Result<Self, String> {
        let disk = MemoryDisk::new(incarnation);
        fill(&disk, accounts)?;
        Ok(Self {
            index,
            disk,
            clock: LocalClock::default(),
            life: 0,
            running: None,
            paused_until: 0,
            lost_disks: BTreeSet::new(),
        })
    }

    /// Starts it. `Err`: its disk did not let it.
    ///
    /// # Errors
    /// Why not.
    pub fn start(&mut self, swarm: &Swarm, now: Now, jitter_seed: u64) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let mut journal =
            MemoryJournal::open(&self.disk, Kind::Participant).map_err(|error| text(&error))?;
        claim(&mut journal, &name(self.index), "simulated").map_err(|error| text(&error))?;
        let reader = journal.reader();
        let incarnation = Incarnation(reader.incarnation());
        let config = KeyValueConfig { lock_wait: Duration::from_micros(swarm.lock_wait_us) };
        let store =
            KeyValueStore::open(Arc::clone(&reader), config).map_err(|error| text(&error))?;
        let store = Arc::new(store);
        let config = Config {
            one_phase: AnyResource::keeps_all_in_store(&*store),
            inquire_after_us: 100_000,
            inquire_after_us_max: 1_000_000,
            retry_after_us: 20_000,
            jitter_seed,
        };
        let mut machine = ParticipantShard::new(incarnation, config);
        restore(&*reader, &mut machine).map_err(|error| text(&error))?;
        let held = match poll_once(&mut Box::pin(in_doubt(&*store))) {
            Poll::Ready(held) => held.map_err(|error| text(&error))?,
            Poll::Pending => return Err("the store waits for something at its start".to_owned()),
        };
        let outbox = Outbox::default();
        let (writer, log) =
            LogWriter::new(Box::new(journal), WriterOptions::default(), Box::new(()));
        let mut driver = Driver::new(machine, log.clone(), outbox.clone());
        driver.handle(now, ShardInput::Core(Input::ResourceHolds { ids: held }));
        let resumed = driver.machine_mut().resume(now);
        driver.apply(resumed);
        self.life += 1;
        let enlist = SimulatedEnlist::default();
        let grpc = Arc::new(KeyValueGrpc::new(Arc::clone(&store), enlist.clone()));
        self.running = Some(Running {
            driver,
            outbox,
            writer,
            log,
            reader,
            incarnation,
            store,
            grpc,
            enlist,
            tasks: Vec::new(),
            session: None,
            welcome: None,
            origin: None,
            lists: Vec::new(),
            calls: Vec::new(),
            peers: Vec::new(),
            led: Vec::new(),
            numbers: BTreeMap::new(),
            enlisting: BTreeMap::new(),
            syncing: false,
            idling: false,
            armed: None,
        });
        Ok(())
    }
}

/// Gives a new disk its accounts.
///
/// # Errors
/// When the disk does not work.
pub fn fill(disk: &MemoryDisk, accounts: u64) -> Result<(), String> {
    let mut journal =
        MemoryJournal::open(disk, Kind::Participant).map_err(|error| error.to_string())?;
    let balances: Vec<Mutation> = (0..accounts)
        .map(|index| {
            Mutation::put(Table::Data, data_key(&account(index)), FIRST_BALANCE.to_string())
        })
        .collect();
    journal.append(&balances).map_err(|error| error.to_string())?;
    Ok(())
}

fn poll_once<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    // Everybody is polled again whenever anything has happened: nobody has to be woken.
    let mut context = Context::from_waker(Waker::noop());
    future.as_mut().poll(&mut context)
}

impl Running {
    /// Gives the state machine an input.
    pub fn input(&mut self, now: Now, input: Input<Waiter>) {
        self.driver.handle(now, ShardInput::Core(input));
    }

    /// Hands an answer to an inquiry to the state machine.
    pub fn answered(&mut self, now: Now, epoch: Epoch, id: TransactionId, outcome: Inquired) {
        self.driver.handle(now, ShardInput::Answer { epoch, id, outcome });
    }

    /// Begins a call of the store that the library makes.
    pub fn resource(&mut self, id: TransactionId, what: ResourceCall) {
        if matches!(
            what,
            ResourceCall::Cancel | ResourceCall::PreCommit | ResourceCall::Finished(_)
        ) {
            return tell(&*self.store, id, &what);
        }
        let store: Arc<dyn AnyResource> = self.store.clone();
        self.tasks.push(Box::pin(async move { Done::Resource(id, call(store, id, what).await) }));
    }

    /// Begins a call of the store that a client makes.
    pub fn work(&mut self, client: CallId, id: TransactionId, work: KeyValueWork) {
        let grpc = Arc::clone(&self.grpc);
        self.tasks.push(Box::pin(async move {
            let request = ApplyRequest { transaction_id: id.to_string(), work: Some(work) };
            let applied = grpc.apply(Request::new(request)).await;
            let result = match applied {
                Ok(response) => response.into_inner().result.ok_or(WorkError::Over),
                Err(status) if status.code() == Code::Unavailable => Err(WorkError::TryAgain),
                Err(_) => Err(WorkError::Over),
            };
            Done::Worked(client, result)
        }));
    }

    /// True while a call of the store runs.
    #[must_use]
    pub fn has_tasks(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// Goes on with every call that can, and returns those that have ended, and what the others want.
    pub fn poll(&mut self) -> (Vec<Done>, Vec<Wanted>) {
        let mut done = Vec::new();
        let mut waiting = Vec::with_capacity(self.tasks.len());
        for mut task in std::mem::take(&mut self.tasks) {
            match poll_once(&mut task) {
                Poll::Ready(result) => done.push(result),
                Poll::Pending => waiting.push(task),
            }
        }
        self.tasks = waiting;
        (done, self.enlist.take())
    }

    /// Comes true when everything that was given to the log before is durable.
    pub fn flushed(&mut self) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        let completion = Some(Gated::standalone(tell));
        self.log.submit(Submission { mutations: Vec::new(), forced: true, completion });
        told
    }

    /// The one-phase commits for a session, or who must end first.
    ///
    /// # Errors
    /// The transactions that may still be committed for an earlier epoch.
    pub fn report(&self, origin: &Origin) -> Result<Vec<OnePhaseReport>, Vec<TransactionId>> {
        let shard = self.driver.machine();
        let unreported = shard.unreported(origin);
        if !unreported.is_empty() {
            return Err(unreported);
        }
        let commits = shard.one_phase_commits().into_iter();
        Ok(commits.map(|(id, request_id)| OnePhaseReport { id, request_id }).collect())
    }

    /// Writes what waits for the disk.
    ///
    /// # Errors
    /// The journal's.
    pub fn write(&mut self, flush: Flush) -> Result<Turn, JournalError> {
        self.writer.run_once(flush)
    }

    /// True when no branch is open, no decision is kept for others, and no call runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let shard = self.driver.machine();
        shard.open_branches().next().is_none()
            && shard.unforgotten() == 0
            && self.tasks.is_empty()
            && self.log.depth() == 0
    }
}

/// What a participant's journal keeps for a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Nothing.
    Nothing,
    /// In doubt.
    Prepared,
    /// Ended.
    Finished {
        /// Committed.
        committed: bool,
    },
    /// Committed in one phase.
    OnePhase,
}

/// Reads what is durable of a branch.
#[must_use]
pub fn kept(reader: &dyn Reader, id: TransactionId) -> Kept {
    use handfast_commit_core::record::ParticipantRecord;
    let Ok(Some(value)) = reader.get(Table::Live, id.as_bytes()) else { return Kept::Nothing };
    match handfast_wire::record::decode_participant(id.as_bytes(), &value) {
        Ok(ParticipantRecord::Prepared(_) | ParticipantRecord::Voted(_)) => Kept::Prepared,
        Ok(ParticipantRecord::Finished { committed, .. }) => Kept::Finished { committed },
        Ok(ParticipantRecord::Decided(branch)) => Kept::Finished { committed: branch.committed },
        Ok(ParticipantRecord::OnePhase(_)) => Kept::OnePhase,
        Ok(ParticipantRecord::Forgotten { .. } | ParticipantRecord::SlotSeen { .. }) | Err(_) => {
            Kept::Nothing
        }
    }
}
