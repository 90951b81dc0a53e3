//! A resource under test behind a production engine, with a journal whose power can be cut.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use handfast_commit_core::id::{
    Epoch, Incarnation, Protocol, RequestId, Sequence, Slot, TransactionId,
};
use handfast_commit_core::message::{
    FromParticipant, Order, Prepare, Report, ToSite, Vote, Voting,
};
use handfast_commit_core::three_phase::{SiteName, SiteNumber, Sites};
use handfast_commit_core::two_phase::participant::Origin;
use handfast_journal::{Kind, MemoryDisk, MemoryJournal, Unsynced};
use handfast_wire::convert::PrepareOrder;

use super::Subject;
use crate::engine::Engine;
use crate::participant::Participant;
use crate::resource_manager::ResourceManager;

/// Longest wait for what must happen.
const MUST_WITHIN: Duration = Duration::from_secs(60);
/// A port that nobody listens on: the branches' questions go nowhere.
const NOWHERE: &str = "http://127.0.0.1:1";
/// Nobody answers questions here, so that few are asked.
const ASK_AFTER: Duration = Duration::from_secs(3600);

/// What a rule says when it is broken.
pub(super) type Seen = String;

/// One life of a resource, and the processes in it.
pub(super) struct Site<'a, S: Subject> {
    subject: &'a S,
    folder: PathBuf,
    disk: MemoryDisk,
    protocol: Protocol,
    process: Option<Process<S::Resource>>,
}

struct Process<R> {
    engine: Arc<Engine>,
    resource: Arc<R>,
}

/// A two-phase transaction by its number; they get older in this order.
pub(super) fn id(number: u64) -> TransactionId {
    TransactionId::new(Slot(0), Protocol::TwoPhase, Epoch(1), Sequence(number))
}

fn origin() -> Origin {
    Origin {
        slot: Slot(0),
        epoch: Epoch(1),
        incarnation: Incarnation(1),
        lowest_live: Sequence(1),
        endpoint: "".into(),
    }
}

/// Waits for what must happen.
pub(super) async fn must<T>(what: &str, happen: impl Future<Output = T>) -> Result<T, Seen> {
    tokio::time::timeout(MUST_WITHIN, happen)
        .await
        .map_err(|_| format!("{what} has not come within {} s", MUST_WITHIN.as_secs()))
}

impl<'a, S: Subject> Site<'a, S> {
    pub(super) async fn new(subject: &'a S, folder: &Path) -> Result<Self, Seen> {
        std::fs::create_dir_all(folder)
            .map_err(|error| format!("{} cannot be made: {error}", folder.display()))?;
        let disk = MemoryDisk::new(1);
        let (folder, protocol) = (folder.to_owned(), Protocol::TwoPhase);
        let mut site = Self { subject, folder, disk, protocol, process: None };
        site.start().await?;
        Ok(site)
    }

    /// From here on its transactions are those of three-phase commit, with this participant as the only one.
    pub(super) fn three_phase(&mut self) {
        self.protocol = Protocol::ThreePhase;
    }

    fn id(&self, number: u64) -> TransactionId {
        TransactionId::new(Slot(0), self.protocol, Epoch(1), Sequence(number))
    }

    async fn start(&mut self) -> Result<(), Seen> {
        let journal = MemoryJournal::open(&self.disk, Kind::Participant)
            .map_err(|error| format!("the journal in memory: {error}"))?;
        let opened = Participant::builder("conformance")
            .coordinator(NOWHERE)
            .on_poison(|_| {})
            .open_on(Box::new(journal), "memory")
            .map_err(|error| error.to_string())?
            .inquire_after(ASK_AFTER, ASK_AFTER);
        let resource = self.subject.open(&self.folder, opened.store()).await?;
        let (_, parts) = opened.into_parts();
        let starting = Engine::start(parts, resource.clone());
        let engine = must("a start", starting).await?.map_err(|error| error.to_string())?;
        self.process = Some(Process { engine: Arc::new(engine), resource });
        Ok(())
    }

    /// Kills the process: what is not durable is lost. Then starts another one.
    pub(super) async fn crash(&mut self) -> Result<(), Seen> {
        self.disk.crash(Unsynced::Lost);
        self.process = None;
        self.start().await
    }

    /// The next write fails, and is not on the disk.
    pub(super) fn fail_next_write(&self) {
        self.disk.fail_next_sync();
    }

    fn process(&self) -> &Process<S::Resource> {
        self.process.as_ref().expect("start() has set it")
    }

    pub(super) fn resource(&self) -> &S::Resource {
        &self.process().resource
    }

    pub(super) fn subject(&self) -> &S {
        self.subject
    }

    /// A call that can run beside others.
    pub(super) fn preparing(
        &self,
        number: u64,
        payload: Vec<u8>,
        one_phase: Option<RequestId>,
    ) -> impl Future<Output = Result<Vote, Seen>> + Send + 'static {
        let engine = Arc::clone(&self.process().engine);
        let voting = (self.protocol == Protocol::ThreePhase).then(|| {
            let own = (engine.name().clone(), engine.incarnation());
            Box::new(Voting { sites: Sites::new(vec![own], Vec::new()), own: SiteNumber(1) })
        });
        let prepare = Prepare {
            id: self.id(number),
            work: Some(Bytes::from(payload)),
            peers: Vec::new(),
            one_phase: one_phase.is_some(),
            request_id: one_phase,
            voting,
        };
        let order = PrepareOrder { prepare, peers: Vec::new() };
        async move {
            let voted = must("the vote", engine.prepare(order, origin())).await?;
            match voted.map_err(|stopped| stopped.to_string())? {
                FromParticipant::Voted { vote, .. } => Ok(vote),
                other => Err(format!("instead of a vote: {other:?}")),
            }
        }
    }

    /// Has the branch add `amount` at `place`, up to the vote.
    pub(super) async fn prepare(&self, number: u64, place: u32, amount: u64) -> Result<Vote, Seen> {
        self.preparing(number, self.subject.work(place, amount), None).await
    }

    /// The same, where nothing stands against it.
    pub(super) async fn prepared(&self, number: u64, place: u32, amount: u64) -> Result<(), Seen> {
        match self.prepare(number, place, amount).await? {
            Vote::Prepared => Ok(()),
            other => Err(format!("branch {number} should have prepared, and voted {other:?}")),
        }
    }

    pub(super) fn committing(
        &self,
        number: u64,
    ) -> impl Future<Output = Result<FromParticipant, Seen>> + Send + 'static {
        let (engine, id) = (Arc::clone(&self.process().engine), self.id(number));
        async move {
            let incarnation = engine.incarnation();
            let commit = engine.commit(id, incarnation, origin());
            let what = format!("the acknowledgement of branch {number}'s commit");
            must(&what, commit).await?.map_err(|stopped| stopped.to_string())
        }
    }

    pub(super) async fn committed(&self, number: u64) -> Result<(), Seen> {
        match self.committing(number).await? {
            FromParticipant::Committed { .. } => Ok(()),
            other => Err(format!("the commit of branch {number} was answered with {other:?}")),
        }
    }

    pub(super) fn aborting(
        &self,
        number: u64,
    ) -> impl Future<Output = Result<FromParticipant, Seen>> + Send + 'static {
        let (engine, id) = (Arc::clone(&self.process().engine), self.id(number));
        async move {
            let abort = engine.abort(id, origin());
            let what = format!("the acknowledgement of branch {number}'s abort");
            must(&what, abort).await?.map_err(|stopped| stopped.to_string())
        }
    }

    pub(super) async fn aborted(&self, number: u64) -> Result<(), Seen> {
        match self.aborting(number).await? {
            FromParticipant::Aborted { .. } => {
                // Nobody waits for the record of an abort, but what it changes is looked at next.
                let flushed = must("the record", self.process().engine.flushed()).await?;
                flushed.map_err(|stopped| stopped.to_string())
            }
            other => Err(format!("the abort of branch {number} was answered with {other:?}")),
        }
    }

    /// An order of the coordinator, in its first ballot or in a later one.
    pub(super) async fn led(&self, number: u64, order: Order) -> Result<Report, Seen> {
        let engine = &self.process().engine;
        let order = ToSite { id: self.id(number), incarnation: engine.incarnation(), order };
        let what = format!("the report of branch {number}");
        let reported = must(&what, engine.led(SiteName::Coordinator, order)).await?;
        reported.map(|message| message.report).map_err(|stopped| stopped.to_string())
    }

    /// The number at a place is this one.
    pub(super) async fn shows(&self, place: u32, number: u64, when: &str) -> Result<(), Seen> {
        let found = must("the number", self.subject.probe(self.resource(), place)).await??;
        if found == number {
            return Ok(());
        }
        Err(format!("{when}, the number is {found} and not {number}"))
    }

    /// The resource's own list is this one. What has just ended may still be on its way out.
    pub(super) async fn holds(&self, numbers: &[u64], when: &str) -> Result<(), Seen> {
        let expected: BTreeSet<_> = numbers.iter().map(|number| self.id(*number)).collect();
        let mut found = BTreeSet::new();
        for _ in 0..200 {
            let listed = must("the list", self.resource().in_doubt()).await?;
            let listed = listed.map_err(|error| format!("in_doubt failed: {error}"))?;
            let count = listed.len();
            found = listed.into_iter().collect();
            if found.len() != count {
                return Err(format!("{when}, in_doubt lists a branch twice"));
            }
            if found == expected {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(format!("{when}, in_doubt lists {found:?} and not {expected:?}"))
    }
}
