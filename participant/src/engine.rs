//! The participant without its network: one shard, its log, its resource.
//!
//! The services of [`crate::server`] and the suite of [`crate::conformance`] are two ways to speak to
//! it. Whoever calls it and goes away changes nothing: the work of a branch belongs to the engine, the
//! call only waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use handfast_commit_core::id::{Incarnation, ParticipantName, TransactionId};
use handfast_commit_core::message::{FromParticipant, FromSite, Inquired, ToSite};
use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_commit_core::step::Time;
use handfast_commit_core::three_phase::SiteName;
use handfast_commit_core::two_phase::participant::{
    Config, Input, OpenBranch, Origin, SessionRefusal, Via,
};
use handfast_journal::{
    Journal, JournalError, LogHandle, LogWriter, Reader, Submission, WriterOptions,
};
use handfast_runtime::clock::{Clock, wall_ms};
use handfast_runtime::crash_point::reached;
use handfast_runtime::driver::{Driver, Gated, HandedOver};
use handfast_runtime::phases::Phases;
use handfast_runtime::shard::{ShardHandle, ShardQueue};
use handfast_wire::convert::PrepareOrder;
use tokio::sync::oneshot;

use crate::effects::ParticipantEffects;
use crate::observe::{Counters, LogObserver, OpenCounts};
use crate::outgoing::Outgoing;
use crate::recovery::{self, StartError};
use crate::resource_calls::{self, AnyResource};
use crate::sessions::Sessions;
use crate::shard::{OnePhaseCommitted, ParticipantShard, ShardAction, ShardInput, Waiter};
use crate::voting;

/// First wait before the resource is asked again what it holds; doubles up to [`ASK_AGAIN_AFTER_MAX`].
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);
const ASK_AGAIN_AFTER_MAX: Duration = Duration::from_secs(2);
/// Inputs that may wait for the shard; nobody reads further in a session until it has caught up.
const SHARD_DEPTH_MAX: usize = 10_000;
/// How often a one-phase commit that is on its way is looked at.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// The engine has been stopped, or its log has failed: it answers nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the participant has stopped")]
pub(crate) struct Stopped;

/// Called when the log has failed.
pub(crate) type OnPoison = Box<dyn FnOnce(&JournalError) + Send>;

/// What an engine is made of.
pub(crate) struct Parts {
    pub(crate) name: ParticipantName,
    pub(crate) journal: Box<dyn Journal>,
    pub(crate) reader: Arc<dyn Reader>,
    pub(crate) clock: Clock,
    pub(crate) handle: ShardHandle<ParticipantShard>,
    pub(crate) queue: ShardQueue<ParticipantShard>,
    pub(crate) outgoing: Arc<Outgoing>,
    /// Where it is served; empty when it is not.
    pub(crate) endpoint: String,
    pub(crate) on_poison: OnPoison,
    /// Times, without `one_phase` and the seed.
    pub(crate) config: Config,
}

/// A running participant.
pub(crate) struct Engine {
    name: ParticipantName,
    incarnation: Incarnation,
    shard: ShardHandle<ParticipantShard>,
    log: LogHandle<Gated<ShardAction, ParticipantEffects>>,
    effects: ParticipantEffects,
    poisoned: Arc<AtomicBool>,
    draining: AtomicBool,
    threads: std::sync::Mutex<Vec<JoinHandle<()>>>,
    handed_over: HandedOver,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Engine {
    /// Reads the log, asks the resource what it holds, and takes over. Must be called on a tokio runtime.
    pub(crate) async fn start(
        parts: Parts,
        resource: Arc<dyn AnyResource>,
    ) -> Result<Self, StartError> {
        let Parts { name, journal, reader, clock, .. } = parts;
        let Parts { handle, queue, outgoing, endpoint, on_poison, config, .. } = parts;
        let incarnation = Incarnation(reader.incarnation());
        let jitter_seed =
            getrandom::u64().map_err(|error| std::io::Error::other(error.to_string()))?;
        let config = Config { one_phase: resource.keeps_all_in_store(), jitter_seed, ..config };
        let mut machine = ParticipantShard::new(incarnation, config);
        let found = recovery::restore(&*reader, &mut machine)?;
        let held = ask_until_answered(&*resource).await;

        let effects = ParticipantEffects {
            participant: name.clone(),
            runtime: tokio::runtime::Handle::current(),
            shard: handle.clone(),
            resource,
            sessions: Arc::new(Sessions::default()),
            outgoing,
            links: voting::links(&name, endpoint, handle.clone()),
            calls: Arc::new(AtomicUsize::new(0)),
            phases: Arc::new(Phases::new("handfast_participant_phase_seconds")),
            pre_commits: Arc::default(),
            counters: Arc::new(Counters::new()),
        };
        let (writer, log) =
            LogWriter::new(journal, WriterOptions::default(), Box::new(LogObserver));
        let poisoned = Arc::new(AtomicBool::new(false));
        let mark = Arc::clone(&poisoned);
        let writer = writer.spawn(move |error| {
            mark.store(true, Ordering::Release);
            on_poison(&error);
        })?;
        let mut driver = Driver::new(machine, log.clone(), effects.clone());
        // What the resource holds and the log does not know was never voted for.
        let unknown = held.len().saturating_sub(found.in_doubt);
        driver.handle(clock.now(), ShardInput::Core(Input::ResourceHolds { ids: held }));
        let resumed = driver.machine_mut().resume(clock.now());
        driver.apply(resumed);
        let handed_over = driver.hand_over(&effects.runtime);
        reached("participant.recovery.before-ready");
        let shard_thread = queue.spawn(name.as_str(), clock, driver)?;
        tracing::info!(
            participant = %name,
            in_doubt = found.in_doubt,
            one_phase_kept = found.one_phase,
            "recovered: {} branches are in doubt, {unknown} that the resource held were never voted for",
            found.in_doubt
        );
        Ok(Self {
            name,
            incarnation,
            shard: handle,
            log,
            effects,
            poisoned,
            draining: AtomicBool::new(false),
            threads: std::sync::Mutex::new(vec![shard_thread, writer]),
            handed_over,
        })
    }

    pub(crate) fn name(&self) -> &ParticipantName {
        &self.name
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.effects.sessions
    }

    pub(crate) fn outgoing(&self) -> &Outgoing {
        &self.effects.outgoing
    }

    /// True when the log has failed: nothing more comes from this process.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Takes no new work from here on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.input(Input::Stopping);
    }

    /// Calls of the resource that are running.
    pub(crate) fn calls(&self) -> usize {
        self.effects.calls.load(Ordering::Relaxed)
    }

    // ---- what a coordinator says ------------------------------------------------------------------

    pub(crate) fn input(&self, input: Input<Waiter>) {
        self.shard.input(ShardInput::Core(input));
    }

    /// Leaves inputs that the caller sees to with [`Engine::turn`], soon.
    pub(crate) fn inputs_before_turn(&self, inputs: Vec<ShardInput>) {
        self.shard.inputs_before_turn(inputs);
    }

    /// Does what has been left, here and now, unless somebody does so already. Under no lock.
    pub(crate) fn turn(&self) {
        self.shard.turn();
    }

    /// Waits while too much is left for the shard, until that has been done. A session that is not read on fills
    /// its sender's queue, which is an answer to those who begin transactions there.
    pub(crate) async fn room(&self) -> Result<(), Stopped> {
        if self.shard.depth() <= SHARD_DEPTH_MAX {
            return Ok(());
        }
        self.shard.ask(|_| ()).await.ok_or(Stopped)
    }

    async fn call(
        &self,
        make: impl FnOnce(Via<Waiter>) -> Input<Waiter>,
    ) -> Result<FromParticipant, Stopped> {
        let (caller, answer) = oneshot::channel();
        self.shard.input_before_turn(ShardInput::Core(make(Via::Call(Waiter::Call(caller)))));
        self.shard.turn();
        answer.await.map_err(|_| Stopped)
    }

    pub(crate) async fn prepare(
        &self,
        order: PrepareOrder,
        origin: Origin,
    ) -> Result<FromParticipant, Stopped> {
        let PrepareOrder { prepare, peers } = order;
        self.call(|via| Input::Prepare { prepare, peers, origin, via }).await
    }

    pub(crate) async fn commit(
        &self,
        id: TransactionId,
        incarnation: Incarnation,
        origin: Origin,
    ) -> Result<FromParticipant, Stopped> {
        self.call(|via| Input::Commit { id, incarnation, origin, via }).await
    }

    pub(crate) async fn abort(
        &self,
        id: TransactionId,
        origin: Origin,
    ) -> Result<FromParticipant, Stopped> {
        self.call(|via| Input::Abort { id, origin, via }).await
    }

    /// An order of whoever leads a three-phase transaction.
    pub(crate) async fn led(&self, from: SiteName, message: ToSite) -> Result<FromSite, Stopped> {
        let (leader, report) = oneshot::channel();
        let via = Via::Call(Waiter::Leader(leader));
        self.shard.input_before_turn(ShardInput::Core(Input::Led { from, message, via }));
        self.shard.turn();
        report.await.map_err(|_| Stopped)
    }

    /// What a peer in doubt may know.
    pub(crate) async fn peer_asks(&self, id: TransactionId) -> Result<Inquired, Stopped> {
        let (waiter, answer) = oneshot::channel();
        self.input(Input::PeerAsks { id, waiter: Waiter::Peer(waiter) });
        answer.await.map_err(|_| Stopped)
    }

    /// The branches whose end this participant does not own, oldest first; all of it durable.
    pub(crate) async fn open_branches(
        &self,
        only: Option<TransactionId>,
    ) -> Result<Vec<OpenBranch>, Stopped> {
        let open = self.shard.ask(move |shard| {
            shard.open_branches().filter(|branch| only.is_none_or(|id| branch.id == id)).collect()
        });
        let open: Vec<OpenBranch> = open.await.ok_or(Stopped)?;
        self.flushed().await?;
        Ok(open)
    }

    /// How many there are.
    pub(crate) async fn open_counts(&self) -> Result<OpenCounts, Stopped> {
        let counted = self.shard.ask(|shard| {
            let unforgotten = shard.unforgotten();
            let mut counts = OpenCounts { unforgotten, ..OpenCounts::default() };
            shard.open_branches().for_each(|branch| counts.add(&branch));
            counts
        });
        counted.await.ok_or(Stopped)
    }

    pub(crate) async fn show_counts(&self) -> Result<(), Stopped> {
        self.open_counts().await?.show(wall_ms());
        Ok(())
    }

    // ---- sessions ---------------------------------------------------------------------------------

    /// Refuses a coordinator that has been succeeded.
    pub(crate) async fn check_epoch(&self, origin: &Origin) -> Result<Result<(), String>, Stopped> {
        let slot = origin.slot;
        let seen = self.shard.ask(move |shard| shard.epoch(slot)).await.ok_or(Stopped)?;
        Ok(match seen {
            Some(seen) if seen > origin.epoch => Err(format!(
                "epoch {} of slot {} is over: epoch {} has been seen",
                origin.epoch.0, slot.0, seen.0
            )),
            _ => Ok(()),
        })
    }

    /// The one-phase commits for a coordinator that has just connected: durable, and complete for the
    /// epochs before its own.
    pub(crate) async fn report(&self, origin: &Origin) -> Result<Vec<OnePhaseCommitted>, Stopped> {
        loop {
            let about = origin.clone();
            let unreported = self.shard.ask(move |shard| shard.unreported(&about));
            let unreported = unreported.await.ok_or(Stopped)?;
            if unreported.is_empty() {
                break;
            }
            for id in unreported {
                // Nobody waits for these any more. One that cannot be aborted has committed.
                self.abort(id, origin.clone()).await?;
            }
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
        let commits = self.shard.ask(|shard| shard.one_phase_commits()).await.ok_or(Stopped)?;
        if mutant(Mutant::ReportNotDurable) {
            return Ok(commits);
        }
        self.flushed().await?;
        Ok(commits)
    }

    /// Returns when everything that has come of the shard's inputs so far is durable.
    pub(crate) async fn flushed(&self) -> Result<(), Stopped> {
        // What a step has for the log may not be there yet; before a question is answered it is.
        self.shard.ask(|_| ()).await.ok_or(Stopped)?;
        let (tell, durable) = oneshot::channel();
        let completion = Some(Gated::standalone(tell));
        self.log.submit(Submission { mutations: Vec::new(), forced: true, completion });
        durable.await.map_err(|_| Stopped)
    }

    // ---- the end ----------------------------------------------------------------------------------

    /// Writes what the log has been given, and ends the threads. Blocks for as long as that takes.
    pub(crate) fn stop(&self) {
        self.shard.stop();
        let mut threads = {
            let mut threads = self.threads.lock().unwrap_or_else(|error| error.into_inner());
            std::mem::take(&mut *threads)
        };
        // The shard first: it submits.
        if !threads.is_empty() {
            join(threads.remove(0));
        }
        self.log.close();
        threads.into_iter().for_each(join);
        self.handed_over.finish();
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

/// A failure to tell is not an empty list: nothing is served until the resource has answered.
async fn ask_until_answered(resource: &dyn AnyResource) -> Vec<TransactionId> {
    let mut wait = ASK_AGAIN_AFTER;
    loop {
        match resource_calls::in_doubt(resource).await {
            Ok(ids) => return ids,
            Err(error) => {
                tracing::warn!("not serving yet: the resource cannot say what it holds: {error}");
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(ASK_AGAIN_AFTER_MAX);
    }
}

/// Asks whether work may be done in a session.
pub(crate) async fn touch(
    shard: &ShardHandle<ParticipantShard>,
    id: TransactionId,
) -> Result<Result<(), SessionRefusal>, Stopped> {
    let (waiter, answer) = oneshot::channel();
    let input = Input::Touched { id, waiter: Waiter::Touch(waiter) };
    shard.input(ShardInput::Core(input));
    answer.await.map_err(|_| Stopped)
}

/// The moment on the engine's clock that is `left` from now.
pub(crate) fn after(clock: &Clock, left: Duration) -> Time {
    clock.time().plus(u64::try_from(left.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use handfast_journal::{Kind, MemoryDisk, MemoryJournal};
    use handfast_wire::frames::participant_service_server::ParticipantServiceServer;
    use handfast_wire::v1;
    use handfast_wire::v1::coordinator_message::Message;
    use handfast_wire::v1::participant_service_client::ParticipantServiceClient;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio_stream::StreamExt;
    use tokio_stream::wrappers::UnboundedReceiverStream;
    use tonic::transport::server::TcpIncoming;
    use tonic::transport::{Endpoint, Server};

    use super::*;
    use crate::participant::Participant;
    use crate::participant_service::{ParticipantApi, Ready};
    use crate::resource_manager::{
        Ending, Finished, Prepared, ResourceError, ResourceManager, Work,
    };

    /// Does nothing.
    struct Nothing;

    impl ResourceManager for Nothing {
        async fn prepare(&self, _: TransactionId, _: Work) -> Prepared {
            Prepared::No { reason: "it does nothing".to_owned() }
        }

        async fn commit(&self, _: TransactionId) -> Result<Finished, ResourceError> {
            Ok(Finished::Unknown)
        }

        async fn abort(&self, _: TransactionId) -> Result<Finished, ResourceError> {
            Ok(Finished::Unknown)
        }

        fn finished(&self, _: TransactionId, _: Ending) {}

        async fn in_doubt(&self) -> Result<Vec<TransactionId>, ResourceError> {
            Ok(Vec::new())
        }
    }

    const FRAMES: usize = 400;
    const FRAME_MESSAGES: usize = 512;

    fn frame(sequence: usize) -> v1::SessionRequest {
        let forget = v1::ForgetRequest {
            transaction_id: format!("0000-02-0000000001-{sequence:016x}"),
            participant: "a".to_owned(),
        };
        let message = v1::CoordinatorMessage { message: Some(Message::Forget(forget)) };
        v1::SessionRequest { messages: vec![message; FRAME_MESSAGES], ..Default::default() }
    }

    fn hello() -> v1::SessionRequest {
        v1::SessionRequest {
            hello: Some(v1::SessionHello { participant: "a".to_owned(), session: 1 }),
            messages: Vec::new(),
            origin: Some(v1::Origin {
                slot: 0,
                epoch: 1,
                coordinator_incarnation: 1,
                lowest_live_sequence: 0,
                coordinator_endpoint: "http://127.0.0.1:1".to_owned(),
            }),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_session_is_not_read_while_its_shard_is_behind() {
        let journal = MemoryJournal::open(&MemoryDisk::new(1), Kind::Participant);
        let journal = Box::new(journal.expect("a new disk"));
        let opened = Participant::builder("a").open_on(journal, "memory").expect("a new log");
        let engine = Engine::start(opened.into_parts().1, Arc::new(Nothing)).await;
        let engine = Arc::new(engine.expect("it starts"));
        let ready = Ready::default();
        ready.set(Some(Arc::clone(&engine)));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let service = ParticipantServiceServer::new(ParticipantApi::new(ready));
        let server = Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));

        let place = Endpoint::from_shared(format!("http://{address}")).expect("an endpoint");
        let mut client = ParticipantServiceClient::new(place.connect_lazy());
        let (say, said) = mpsc::unbounded_channel();
        say.send(hello()).expect("nobody has read it");
        let left = Arc::new(AtomicUsize::new(FRAMES + 1));
        let sent = Arc::clone(&left);
        let said = UnboundedReceiverStream::new(said).map(move |frame| {
            sent.fetch_sub(1, Ordering::Relaxed);
            frame
        });
        let answers = client.session(said).await.expect("a session");
        let mut answers = answers.into_inner();
        answers.message().await.expect("a welcome");

        // The shard's own thread stands still, which has begun before there is anything that the session would turn
        // the shard for.
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let (stands, stood) = oneshot::channel();
        let held = engine.shard.clone();
        let stand = move |_: &mut _| {
            let _ = stands.send(());
            wait.recv().is_ok()
        };
        let held = tokio::spawn(async move { held.ask(stand).await });
        stood.await.expect("the shard runs");
        (0..FRAMES).for_each(|sequence| say.send(frame(sequence)).expect("it is read"));
        let is_behind = async {
            while engine.shard.depth() < SHARD_DEPTH_MAX {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), is_behind).await.expect("it is read");
        // What would be read beyond that, if anything, has time to be.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let depth = engine.shard.depth();
        let most = SHARD_DEPTH_MAX + FRAME_MESSAGES + 1;
        assert!((SHARD_DEPTH_MAX..=most).contains(&depth), "{depth} inputs wait");
        drop(go_on);
        assert_eq!(held.await.expect("no panic"), Some(false));
        let caught_up = async {
            while left.load(Ordering::Relaxed) > 0 || engine.shard.depth() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), caught_up).await.expect("it goes on");
    }
}
