//! The skeleton's coordinator: the messages of two-phase commit and its forced writes, and nothing else.
//!
//! It asks everybody, waits for every vote, forces one record, answers its client, delivers the commit and
//! counts acknowledgements: that many frames and that many syncs no coordinator can do without. Everything
//! runs on the thread of its runtime but the log, which has one of its own and hands back all that one
//! sync has made durable at once.
//!
//! Absent on purpose, because it is what a coordinator is measured against: every rule of the protocol,
//! every check of what comes in, timers, recovery, retries, limits, and the record of a transaction's end.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use handfast_wire::v1;
use handfast_wire::v1::coordinator_message::Message;
use handfast_wire::v1::participant_message::Message as Answer;
use handfast_wire::v1::transaction_answer::Answer as To;
use tokio::sync::{mpsc, oneshot};

use crate::log::{Entry, Log, Rocks};
use crate::outbox::Outbox;

/// About what the product writes for a decision with two voters, keys not counted.
const DECISION: [u8; 160] = [b'd'; 160];

/// Through what a client is answered.
#[derive(Debug)]
pub enum ReplyTo {
    /// A unary call.
    Call(oneshot::Sender<v1::Outcome>),
    /// A call of a stream.
    Stream { answers: Answers, call_id: u64, is_commit: bool },
}

/// What waits to be sent over a client's stream.
pub type Answers = Arc<Outbox<v1::TransactionAnswer>>;

impl ReplyTo {
    fn send(self, outcome: v1::Outcome) {
        match self {
            // Whoever has gone away is not answered.
            Self::Call(caller) => drop(caller.send(outcome)),
            Self::Stream { answers, call_id, is_commit } => {
                let outcome = Some(outcome);
                let answer = match is_commit {
                    false => To::Execute(v1::ExecuteTransactionResponse { outcome }),
                    true => To::Commit(v1::CommitTransactionResponse { outcome }),
                };
                answers.push(v1::TransactionAnswer { call_id, answer: Some(answer) });
            }
        }
    }
}

/// A participant, and what waits to be sent to it.
#[derive(Debug)]
pub struct Link {
    pub name: String,
    pub endpoint: String,
    pub outbox: Arc<Outbox<v1::CoordinatorMessage>>,
}

/// The coordinator.
#[derive(Debug)]
pub struct Coordinator {
    /// Sorted by name.
    links: Vec<Link>,
    table: Mutex<Table>,
    log: Log<Decided>,
}

#[derive(Debug, Default)]
struct Table {
    last: u64,
    open: HashMap<u64, Open>,
}

/// A transaction that somebody still has to answer for. Participants are indexes into the links.
#[derive(Debug, Default)]
struct Open {
    asked: Vec<usize>,
    prepared: Vec<usize>,
    answers_missing: usize,
    results: Vec<v1::BranchResult>,
    reply: Option<ReplyTo>,
    is_applied_reply: bool,
}

/// A decision on its way to the disk.
#[derive(Debug)]
struct Decided {
    id: u64,
    prepared: Vec<usize>,
    /// The client that wants to hear of the decision, and the results for it.
    reply: Option<(ReplyTo, Vec<v1::BranchResult>)>,
}

/// What one frame of input causes: given away at its end, so that each peer is woken once.
#[derive(Debug)]
pub struct Batch<'a> {
    coordinator: &'a Coordinator,
    messages: Vec<Vec<v1::CoordinatorMessage>>,
    decisions: Vec<Entry<Decided>>,
}

impl Coordinator {
    /// With its log in `folder`, over these links. Must be called on the runtime that serves it.
    ///
    /// # Errors
    /// When the log cannot be opened.
    pub fn start(folder: &Path, links: Vec<Link>) -> anyhow::Result<Arc<Self>> {
        let (durable, mut decided) = mpsc::unbounded_channel();
        let disk = Rocks::open(folder)?;
        let log = Log::start(disk, move |batch: Vec<Decided>| drop(durable.send(batch)))?;
        let mut links = links;
        links.sort_by(|a, b| a.name.cmp(&b.name));
        let coordinator = Arc::new(Self { links, table: Mutex::default(), log });
        let served = Arc::clone(&coordinator);
        tokio::spawn(async move {
            while let Some(batch) = decided.recv().await {
                served.deliver(batch);
            }
        });
        Ok(coordinator)
    }

    /// The participants.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// For the work of one frame.
    pub fn batch(&self) -> Batch<'_> {
        let messages = self.links.iter().map(|_| Vec::new()).collect();
        Batch { coordinator: self, messages, decisions: Vec::new() }
    }

    /// Opens a transaction that participants will join.
    pub fn begin(&self) -> String {
        let mut table = self.lock();
        table.last += 1;
        let id = table.last;
        table.open.insert(id, Open::default());
        printed(id)
    }

    /// A participant joins. False: there is no such transaction or participant.
    pub fn enlist(&self, id: &str, participant: &str) -> bool {
        let (Some(id), Some(link)) = (parsed(id), self.link(participant)) else { return false };
        match self.lock().open.get_mut(&id) {
            Some(open) => {
                open.asked.push(link);
                true
            }
            None => false,
        }
    }

    fn link(&self, name: &str) -> Option<usize> {
        self.links.binary_search_by(|link| link.name.as_str().cmp(name)).ok()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // The table is whole between any two statements, whoever panicked in between.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decisions are durable: clients are answered, participants are told.
    fn deliver(&self, decided: Vec<Decided>) {
        let mut batch = self.batch();
        for Decided { id, prepared, reply } in decided {
            let id = printed(id);
            let pending = |link: &usize| self.links[*link].name.clone();
            if let Some((reply, results)) = reply {
                let state = v1::TransactionState::Committing.into();
                let pending = prepared.iter().map(pending).collect();
                let transaction_id = id.clone();
                let outcome =
                    v1::Outcome { transaction_id, state, pending, results, ..Default::default() };
                reply.send(outcome);
            }
            for link in prepared {
                let commit = v1::CommitRequest {
                    transaction_id: id.clone(),
                    origin: None,
                    participant_incarnation: INCARNATION,
                    participant: self.links[link].name.clone(),
                };
                batch.send(link, Message::Commit(commit));
            }
        }
        batch.flush();
    }
}

/// Stands for the identity of a log, which the skeleton's messages carry as the product's do.
pub const INCARNATION: u64 = 0x5ea1_5ea1_5ea1_5ea1;

/// Who speaks, as it stands in every frame.
pub fn origin(endpoint: &str) -> v1::Origin {
    v1::Origin {
        slot: 0,
        epoch: 1,
        coordinator_incarnation: INCARNATION,
        lowest_live_sequence: 1,
        coordinator_endpoint: endpoint.to_owned(),
    }
}

/// As long as the product's ids, and of their form: slot 0, two-phase, epoch 1.
fn printed(id: u64) -> String {
    format!("0000-02-0000000001-{id:016x}")
}

fn parsed(id: &str) -> Option<u64> {
    u64::from_str_radix(id.rsplit('-').next()?, 16).ok()
}

impl Batch<'_> {
    fn send(&mut self, link: usize, message: Message) {
        self.messages[link].push(v1::CoordinatorMessage { message: Some(message) });
    }

    /// Gives everything away.
    pub fn flush(self) {
        let Self { coordinator, messages, decisions } = self;
        for (link, messages) in coordinator.links.iter().zip(messages) {
            link.outbox.push_all(messages);
        }
        coordinator.log.submit(decisions);
    }

    /// A whole transaction in one call.
    ///
    /// # Errors
    /// The name of a participant that there is not.
    pub fn execute(
        &mut self,
        request: v1::ExecuteTransactionRequest,
        reply: ReplyTo,
    ) -> Result<(), String> {
        let mut branches = Vec::with_capacity(request.branches.len());
        for v1::BranchWork { participant, payload } in request.branches {
            match self.coordinator.link(&participant) {
                Some(link) => branches.push((link, payload)),
                None => return Err(participant),
            }
        }
        let is_applied_reply = request.reply_time != i32::from(v1::ReplyTime::Decided);
        let open = Open {
            asked: branches.iter().map(|(link, _)| *link).collect(),
            answers_missing: branches.len(),
            reply: Some(reply),
            is_applied_reply,
            ..Open::default()
        };
        let id = {
            let mut table = self.coordinator.lock();
            table.last += 1;
            let id = table.last;
            table.open.insert(id, open);
            id
        };
        let one_phase = branches.len() == 1;
        for at in 0..branches.len() {
            let peers = (0..branches.len()).filter(|peer| *peer != at);
            let peers = peers.map(|peer| self.peer(branches[peer].0)).collect();
            let (link, payload) = (branches[at].0, std::mem::take(&mut branches[at].1));
            let prepare = v1::PrepareRequest {
                transaction_id: printed(id),
                origin: None,
                carries_work: true,
                payload,
                peers,
                one_phase,
                request_id: if one_phase { request.request_id.clone() } else { String::new() },
                participant: self.coordinator.links[link].name.clone(),
                voting: None,
            };
            self.send(link, Message::Prepare(prepare));
        }
        Ok(())
    }

    /// Commits what participants have joined. False: there is no such transaction.
    pub fn commit(&mut self, request: &v1::CommitTransactionRequest, reply: ReplyTo) -> bool {
        let Some(id) = parsed(&request.transaction_id) else { return false };
        let asked = {
            let mut table = self.coordinator.lock();
            let Some(open) = table.open.get_mut(&id) else { return false };
            open.answers_missing = open.asked.len();
            open.is_applied_reply = request.reply_time != i32::from(v1::ReplyTime::Decided);
            if open.asked.is_empty() {
                table.open.remove(&id);
                drop(table);
                reply.send(committed(id, Vec::new()));
                return true;
            }
            open.reply = Some(reply);
            open.asked.clone()
        };
        for link in &asked {
            let peers = asked.iter().filter(|peer| *peer != link);
            let prepare = v1::PrepareRequest {
                transaction_id: printed(id),
                origin: None,
                carries_work: false,
                payload: Bytes::new(),
                peers: peers.map(|peer| self.peer(*peer)).collect(),
                one_phase: asked.len() == 1,
                request_id: String::new(),
                participant: self.coordinator.links[*link].name.clone(),
                voting: None,
            };
            self.send(*link, Message::Prepare(prepare));
        }
        true
    }

    /// Aborts what participants have joined.
    pub fn abort(&mut self, id: &str) -> v1::Outcome {
        let number = parsed(id).unwrap_or_default();
        let open = self.coordinator.lock().open.remove(&number).unwrap_or_default();
        self.send_aborts(number, &open.asked);
        aborted(number, "")
    }

    fn peer(&self, link: usize) -> v1::Peer {
        let Link { name, endpoint, .. } = &self.coordinator.links[link];
        v1::Peer { participant: name.clone(), endpoint: endpoint.clone() }
    }

    fn send_aborts(&mut self, id: u64, to: &[usize]) {
        for link in to {
            let abort = v1::AbortRequest {
                transaction_id: printed(id),
                origin: None,
                participant: self.coordinator.links[*link].name.clone(),
            };
            self.send(*link, Message::Abort(abort));
        }
    }

    /// An answer of the participant `from`.
    pub fn heard(&mut self, from: usize, message: v1::ParticipantMessage) {
        let Some(id) = parsed(&message.transaction_id) else { return };
        match message.message {
            Some(Answer::Vote(vote)) => self.voted(from, id, vote),
            Some(Answer::Committed(_)) => self.acknowledged(id),
            _ => {}
        }
    }

    fn voted(&mut self, from: usize, id: u64, vote: v1::PrepareResponse) {
        let coordinator = self.coordinator;
        let mut table = coordinator.lock();
        // One that has aborted meanwhile is not there any more.
        let Some(open) = table.open.get_mut(&id) else { return };
        open.answers_missing -= 1;
        match vote.vote() {
            v1::Vote::No | v1::Vote::Unspecified => {
                let open = table.open.remove(&id).unwrap_or_default();
                drop(table);
                let others: Vec<_> = open.asked.into_iter().filter(|link| *link != from).collect();
                self.send_aborts(id, &others);
                if let Some(reply) = open.reply {
                    reply.send(aborted(id, &coordinator.links[from].name));
                }
                return;
            }
            v1::Vote::Prepared => open.prepared.push(from),
            v1::Vote::ReadOnly | v1::Vote::Committed => {}
        }
        let participant = coordinator.links[from].name.clone();
        open.results.push(v1::BranchResult { participant, payload: vote.result });
        if open.answers_missing > 0 {
            return;
        }
        if open.prepared.is_empty() {
            let open = table.open.remove(&id).unwrap_or_default();
            drop(table);
            if let Some(reply) = open.reply {
                reply.send(committed(id, open.results));
            }
            return;
        }
        open.answers_missing = open.prepared.len();
        let reply = match open.is_applied_reply {
            true => None,
            false => open.reply.take().map(|reply| (reply, std::mem::take(&mut open.results))),
        };
        let decided = Decided { id, prepared: open.prepared.clone(), reply };
        let mut key = [b'd'; 9];
        key[1..].copy_from_slice(&id.to_be_bytes());
        let value = Bytes::from_static(&DECISION);
        self.decisions.push(Entry { key, value, then: decided });
    }

    fn acknowledged(&mut self, id: u64) {
        let mut table = self.coordinator.lock();
        let Some(open) = table.open.get_mut(&id) else { return };
        open.answers_missing -= 1;
        if open.answers_missing > 0 {
            return;
        }
        let open = table.open.remove(&id).unwrap_or_default();
        drop(table);
        if let Some(reply) = open.reply {
            reply.send(committed(id, open.results));
        }
    }
}

fn committed(id: u64, results: Vec<v1::BranchResult>) -> v1::Outcome {
    let state = v1::TransactionState::Committed.into();
    v1::Outcome { transaction_id: printed(id), state, results, ..Default::default() }
}

fn aborted(id: u64, participant: &str) -> v1::Outcome {
    let reason = v1::AbortReason {
        cause: v1::AbortCause::VotedNo.into(),
        participant: participant.to_owned(),
        message: "the skeleton was told to".to_owned(),
    };
    v1::Outcome {
        transaction_id: printed(id),
        state: v1::TransactionState::Aborted.into(),
        abort_reason: Some(reason),
        ..Default::default()
    }
}
