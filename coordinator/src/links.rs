//! The links to the participants: one queue and one task for each.
//!
//! A link carries frames over a session, or, to a participant that has none, plain unary calls; whoever
//! sends does not notice the difference. A queue belongs to one session: what was queued when it broke
//! is thrown away, never sent over the next one, because a request that arrives after its own answer
//! could do its work twice. The core says again what still has to be said when it hears "connected".

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use handfast_commit_core::id::{ParticipantName, Sequence};
use handfast_commit_core::message::{Inquired, ToParticipant, ToSite};
use handfast_commit_core::two_phase::coordinator::Identity;
use handfast_runtime::phases::Phases;
use handfast_wire::v1;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

use crate::effects::Shards;
use crate::link_task;

/// Most messages that are parked for one participant.
const PARKED_MAX: usize = 100_000;

/// What a link carries.
#[derive(Debug)]
pub(crate) enum Outbound {
    /// A message that is sent, or reported as not sent.
    Say(ToParticipant),
    /// An order to a voting site. It may be lost.
    Lead(ToSite),
}

/// What every link needs to know.
#[derive(Debug)]
pub struct LinkContext {
    /// Who we are.
    pub identity: Identity,
    /// Where participants ask.
    pub endpoint: String,
    /// Most messages in one queue.
    pub queue_max: usize,
    /// Most bytes of work in one queue.
    pub queue_bytes_max: usize,
    sessions: AtomicU64,
}

/// All links.
#[derive(Debug)]
pub struct Links {
    context: Arc<LinkContext>,
    links: RwLock<BTreeMap<ParticipantName, Arc<Link>>>,
    phases: Phases,
}

/// One link.
#[derive(Debug)]
pub struct Link {
    pub(crate) name: ParticipantName,
    pub(crate) endpoint: watch::Sender<String>,
    pub(crate) queue: mpsc::Sender<Outbound>,
    /// What found the queue full, and would not be said again in this session: FORGET. It goes with the
    /// next frames.
    parked: Mutex<VecDeque<ToParticipant>>,
    /// Bytes of work in the queue.
    pub(crate) queued_bytes: AtomicUsize,
    pub(crate) connected: AtomicBool,
    /// Is driven through unary calls.
    pub(crate) unary: AtomicBool,
    /// Has been connected since this process started, and every shard has heard of its one-phase commits.
    pub(crate) reported: AtomicBool,
}

impl LinkContext {
    /// For a coordinator that is served at `endpoint`.
    #[must_use]
    pub fn new(identity: Identity, endpoint: String, queue_max: usize) -> Self {
        let queue_bytes_max = 256 << 20;
        Self { identity, endpoint, queue_max, queue_bytes_max, sessions: AtomicU64::new(0) }
    }

    pub(crate) fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Who speaks, for a message or a frame.
    #[must_use]
    pub fn origin(&self, lowest_live: Sequence) -> v1::Origin {
        v1::Origin {
            slot: u32::from(self.identity.slot.0),
            epoch: self.identity.epoch.0,
            coordinator_incarnation: self.identity.incarnation.0,
            lowest_live_sequence: lowest_live.0,
            coordinator_endpoint: self.endpoint.clone(),
        }
    }
}

impl Links {
    /// No links yet.
    #[must_use]
    pub fn new(context: LinkContext) -> Self {
        let phases = Phases::new("handfast_phase_seconds");
        Self { context: Arc::new(context), links: RwLock::default(), phases }
    }

    /// How long transactions wait for votes, for the log and for acknowledgements.
    #[must_use]
    pub fn phases(&self) -> &Phases {
        &self.phases
    }

    /// Who we are and where.
    #[must_use]
    pub fn context(&self) -> &LinkContext {
        &self.context
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<ParticipantName, Arc<Link>>> {
        // A map is whole between any two of its calls, whoever panicked in between.
        self.links.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a link, or points it somewhere else. Called within the runtime that its task runs on.
    pub fn open(self: &Arc<Self>, name: &ParticipantName, endpoint: &str, shards: &Shards) {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(name) {
            link.endpoint.send_if_modified(|present| {
                let other = present != endpoint;
                if other {
                    endpoint.clone_into(present);
                }
                other
            });
            return;
        }
        let (link, messages) = Link::new(name, endpoint, self.context.queue_max);
        let link = Arc::new(link);
        links.insert(name.clone(), Arc::clone(&link));
        tokio::spawn(link_task::run(link, messages, Arc::clone(self), shards.clone()));
    }

    /// Queues a message. False when there is no room, or no such participant.
    #[must_use]
    pub fn send(&self, to: &ParticipantName, message: ToParticipant) -> bool {
        let links = self.read();
        let Some(link) = links.get(to) else { return false };
        if link.unary.load(Ordering::Relaxed) && !has_a_call(&message) {
            return true;
        }
        let message = Outbound::Say(message);
        let bytes = work_bytes(&message);
        let before = link.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let room = bytes == 0 || before + bytes <= self.context.queue_bytes_max;
        let refused = match room.then(|| link.queue.try_send(message)) {
            Some(Ok(())) => return true,
            Some(Err(TrySendError::Full(refused) | TrySendError::Closed(refused))) => Some(refused),
            None => None,
        };
        if let Some(Outbound::Say(forget @ ToParticipant::Forget { .. })) = refused {
            return link.park(forget);
        }
        link.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        metrics::counter!("handfast_link_queue_full_total").increment(1);
        false
    }

    /// Queues an order to a voting site, if it has a session and its queue has room.
    pub fn lead(&self, to: &ParticipantName, order: ToSite) {
        let links = self.read();
        let link = links.get(to).filter(|link| !link.unary.load(Ordering::Relaxed));
        if link.is_none_or(|link| link.queue.try_send(Outbound::Lead(order)).is_err()) {
            metrics::counter!("handfast_site_orders_lost_total", "why" => "queue_full")
                .increment(1);
        }
    }

    /// Where a participant is; empty when it is not known.
    #[must_use]
    pub fn endpoint_of(&self, name: &ParticipantName) -> String {
        self.read().get(name).map(|link| link.endpoint.borrow().clone()).unwrap_or_default()
    }

    /// Puts where a participant is behind what is there: nothing when it is not known.
    pub(crate) fn write_endpoint_of(&self, name: &ParticipantName, to: &mut String) {
        if let Some(link) = self.read().get(name) {
            to.push_str(&link.endpoint.borrow());
        }
    }

    /// True when a participant can be reached.
    #[must_use]
    pub fn is_connected(&self, name: &ParticipantName) -> bool {
        self.read().get(name).is_some_and(|link| link.connected.load(Ordering::Relaxed))
    }

    /// The participants that have not been heard of since this process started: one of them may own
    /// the outcome of a transaction of an earlier one.
    #[must_use]
    pub fn unheard(&self) -> Vec<ParticipantName> {
        self.read()
            .values()
            .filter(|link| !link.reported.load(Ordering::Acquire))
            .map(|link| link.name.clone())
            .collect()
    }

    /// For metrics: participants, connected ones, messages in all queues.
    #[must_use]
    pub fn gauges(&self) -> (usize, usize, usize) {
        let links = self.read();
        let connected = |link: &&Arc<Link>| link.connected.load(Ordering::Relaxed);
        let queued =
            |link: &Arc<Link>| self.context.queue_max.saturating_sub(link.queue.capacity());
        (links.len(), links.values().filter(connected).count(), links.values().map(queued).sum())
    }
}

impl Link {
    /// To a participant at `endpoint`, and where what is queued for it comes out.
    pub(crate) fn new(
        name: &ParticipantName,
        endpoint: &str,
        queue_max: usize,
    ) -> (Self, mpsc::Receiver<Outbound>) {
        let (queue, messages) = mpsc::channel(queue_max);
        let (endpoint, _) = watch::channel(endpoint.to_owned());
        let link = Self {
            name: name.clone(),
            endpoint,
            queue,
            parked: Mutex::default(),
            queued_bytes: AtomicUsize::new(0),
            connected: AtomicBool::new(false),
            unary: AtomicBool::new(false),
            reported: AtomicBool::new(false),
        };
        (link, messages)
    }

    /// Keeps a message for the next frames. False: too many wait there already; the report of the next
    /// session brings it up again.
    pub(crate) fn park(&self, message: ToParticipant) -> bool {
        let mut parked = self.parked();
        let room = parked.len() < PARKED_MAX;
        if room {
            parked.push_back(message);
        }
        room
    }

    /// Takes what has been parked, at most so many.
    pub(crate) fn take_parked(&self, most: usize) -> Vec<ToParticipant> {
        let mut parked = self.parked();
        let taken = parked.len().min(most);
        parked.drain(..taken).collect()
    }

    fn parked(&self) -> MutexGuard<'_, VecDeque<ToParticipant>> {
        // The queue is whole between any two of its calls, whoever panicked in between.
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether there is a unary call for it. A commit is delivered as such, not as an answer, and a pending
/// outcome is no news.
fn has_a_call(message: &ToParticipant) -> bool {
    match message {
        ToParticipant::Prepare(_) | ToParticipant::Commit { .. } | ToParticipant::Abort { .. } => {
            true
        }
        ToParticipant::Answer { outcome, .. } => *outcome == Inquired::Abort,
        ToParticipant::Forget { .. } => false,
    }
}

/// What a message takes of the queue's bytes.
pub(crate) fn work_bytes(message: &Outbound) -> usize {
    match message {
        Outbound::Say(ToParticipant::Prepare(prepare)) => {
            prepare.work.as_ref().map_or(0, bytes::Bytes::len)
        }
        _ => 0,
    }
}
