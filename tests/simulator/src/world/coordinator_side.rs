//! The coordinator's side: what its links and services do around the shards.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use handfast_commit_core::id::{Incarnation, ParticipantName, Protocol, RequestId, TransactionId};
use handfast_commit_core::message::{FromParticipant, Inquired, ToParticipant};
use handfast_commit_core::record::{Info, Request};
use handfast_commit_core::step::Now;
use handfast_commit_core::two_phase::coordinator::{
    Action, Event as Note, Input, Inquiry, OnePhaseReport, PhaseView, Reply, ReplyTime, Stored,
    Terms, Waiter,
};
use handfast_commit_core::two_phase::participant::Via;
use handfast_coordinator::reply_to::ReplyTo;
use handfast_coordinator::shard::{ShardAction, ShardInput};
use handfast_coordinator::store::Found;
use handfast_journal::{Journal, Kind, MemoryJournal};
use prost::Message;
use tokio::sync::oneshot;
use xxhash_rust::xxh3::xxh3_64;

use super::World;
use crate::client::{Ask, CallId, Known, Said};
use crate::coordinator::{Caller, Look, name, take_unreadable};
use crate::event::{Event, Letter, Life, Site};
use crate::faults::Fault;
use crate::participant::{Kept, kept};

/// How long a link waits for a welcome.
const WELCOME_US: u64 = 300_000;
/// How often a participant with unary calls is asked what it holds.
const LIST_EVERY_US: u64 = 400_000;
const RECONNECT_US: u64 = 2_000;
const RECONNECT_US_MAX: u64 = 100_000;

/// Whether there is a unary call for it, as in the coordinator's links.
fn has_a_call(message: &ToParticipant) -> bool {
    match message {
        ToParticipant::Prepare(_) | ToParticipant::Commit { .. } | ToParticipant::Abort { .. } => {
            true
        }
        ToParticipant::Answer { outcome, .. } => *outcome == Inquired::Abort,
        ToParticipant::Forget { .. } => false,
    }
}

impl World {
    pub(crate) fn coordinator_now(&self) -> Now {
        self.coordinator.clock.now(self.now)
    }

    pub(crate) fn shard_of(&self, id: TransactionId) -> usize {
        self.coordinator.running.as_ref().map_or(0, |running| running.sequences.shard_of(id))
    }

    pub(crate) fn coordinator_input(&mut self, shard: usize, input: ShardInput) {
        let now = self.coordinator_now();
        if let Some(running) = &mut self.coordinator.running {
            running.input(shard, now, input);
        }
    }

    fn all_shards_hear(&mut self, input: impl Fn() -> Input<ReplyTo>) {
        for shard in 0..self.swarm.shards {
            self.coordinator_input(shard, ShardInput::Core(input()));
        }
    }

    // ---- what the shards want ---------------------------------------------------------------------

    pub(crate) fn settle_coordinator(&mut self) {
        loop {
            let Some(running) = &self.coordinator.running else { return };
            let actions = running.outbox.take();
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.coordinator_does(action);
            }
        }
        if take_unreadable() {
            return self.kill(Site::Coordinator, Fault::CoordinatorCrash);
        }
        self.answer_callers();
        self.answer_looks();
        self.answer_leaders(Site::Coordinator);
    }

    fn coordinator_does(&mut self, action: ShardAction) {
        match action {
            ShardAction::Core(Action::Send { to, message }) => self.send_down(&to, message),
            ShardAction::Core(Action::Reply { to, reply }) => to.send(reply),
            ShardAction::Core(Action::EndDurable { participant, id }) => {
                let shard = self.shard_of(id);
                let input = Input::EndDurable { participant, id };
                self.coordinator_input(shard, ShardInput::Core(input));
            }
            ShardAction::Core(Action::Recorded { id }) => {
                let shard = self.shard_of(id);
                self.coordinator_input(shard, ShardInput::Core(Input::Recorded { id }));
            }
            ShardAction::Core(Action::Lead { to, message }) => self.coordinator_leads(&to, message),
            ShardAction::Core(Action::Report { via, message, .. }) => {
                self.reports(Site::Coordinator, message);
                if let Via::Call(to) = via {
                    to.report(message);
                }
            }
            ShardAction::Core(Action::Note(note)) => self.coordinator_notes(&note),
            ShardAction::Watched(..) => {}
            ShardAction::Durable(tell) => drop(tell.send(())),
        }
    }

    fn coordinator_notes(&mut self, note: &Note) {
        match note {
            Note::Alarm { id, participant, alarm } if !self.oracle.excused => {
                self.oracle.violated(Some(*id), format!("ALARM: {participant} {alarm}"));
            }
            Note::Elects { .. } => self.elects(Site::Coordinator),
            Note::Decided { id } if id.is_three_phase() => self.decides(),
            _ => {}
        }
    }

    fn send_down(&mut self, to: &ParticipantName, message: ToParticipant) {
        let Some(&index) = self.names.get(to) else { return };
        let id = match &message {
            ToParticipant::Prepare(prepare) => prepare.id,
            ToParticipant::Commit { id, .. }
            | ToParticipant::Abort { id }
            | ToParticipant::Forget { id }
            | ToParticipant::Answer { id, .. } => *id,
        };
        let commits = match message {
            ToParticipant::Commit { .. }
            | ToParticipant::Answer { outcome: Inquired::Commit, .. } => true,
            // Of a one-phase commit; the voting sites forget aborts as well.
            ToParticipant::Forget { .. } => id.protocol() == Protocol::TwoPhase,
            _ => false,
        };
        if let ToParticipant::Forget { id } = message {
            self.may_be_forgotten(id);
        }
        if commits && !self.is_fact(id) {
            let what = format!("{message:?} leaves before the decision is durable");
            self.oracle.violated(Some(id), what);
        }
        let aborts = matches!(
            message,
            ToParticipant::Abort { .. } | ToParticipant::Answer { outcome: Inquired::Abort, .. }
        );
        // Whoever has committed in one phase is asked to stop, and refuses.
        let stops = || self.kept_at(index, id) == Kept::OnePhase;
        if aborts && !self.oracle.excused && self.is_fact(id) && !stops() {
            self.oracle.violated(Some(id), format!("{message:?} leaves, and commit is decided"));
        }
        // FORGET is parked by the link.
        let parked = matches!(message, ToParticipant::Forget { .. });
        if !parked && self.random.chance(self.rates.queue_full) {
            self.faults.add(Fault::QueueFull);
            let shard = self.shard_of(id);
            let input = Input::NotSent { to: to.clone(), id };
            return self.coordinator_input(shard, ShardInput::Core(input));
        }
        let Some(running) = &self.coordinator.running else { return };
        let link = &running.links[index];
        if !link.connected {
            return;
        }
        let (session, origin, life) = (link.session, running.origin(), self.coordinator.life);
        if !self.swarm.unary[index] {
            return self.post(Letter::Down { to: index, session, origin, message });
        }
        if has_a_call(&message) {
            let mut message = message;
            if let ToParticipant::Prepare(prepare) = &mut message {
                prepare.one_phase = false;
                prepare.request_id = None;
            }
            self.post(Letter::Call { to: index, life, session, origin, message });
        }
    }

    /// Whether a commit is in the coordinator's log, durably.
    fn is_decided(&self, id: TransactionId) -> bool {
        let Some(running) = &self.coordinator.running else { return false };
        matches!(
            running.store.find(id).map(|found| found.and_then(|found| found.stored())),
            Ok(Some(Stored::Committed { .. }))
        )
    }

    /// Whether a commit is certain: it is in the coordinator's log, or a quorum has moved to it on its disks.
    fn is_fact(&self, id: TransactionId) -> bool {
        self.is_decided(id) || self.is_decided_by_quorum(id)
    }

    /// Whether a commit is durable anywhere: with the coordinator, or in one phase at a participant.
    pub(crate) fn is_durable(&self, id: TransactionId) -> bool {
        self.is_fact(id)
            || (0..self.participants.len()).any(|index| {
                let kept = self.kept_at(index, id);
                matches!(kept, Kept::OnePhase | Kept::Finished { committed: true })
            })
    }

    /// What a participant's disk keeps of a transaction.
    fn kept_at(&self, index: usize, id: TransactionId) -> Kept {
        let process = &self.participants[index];
        match &process.running {
            Some(running) => kept(&*running.reader, id),
            None => MemoryJournal::open(&process.disk.backup(), Kind::Participant)
                .map_or(Kept::Nothing, |journal| kept(&*journal.reader(), id)),
        }
    }

    fn answer_callers(&mut self) {
        let Some(running) = &mut self.coordinator.running else { return };
        let mut answers = Vec::new();
        let mut waiting = Vec::with_capacity(running.callers.len());
        for (caller, mut reply) in std::mem::take(&mut running.callers) {
            match reply.try_recv() {
                Ok(reply) => answers.push((caller, Some(reply))),
                Err(oneshot::error::TryRecvError::Empty) => waiting.push((caller, reply)),
                Err(oneshot::error::TryRecvError::Closed) => answers.push((caller, None)),
            }
        }
        running.callers = waiting;
        let origin = running.origin();
        for (caller, reply) in answers {
            match (caller, reply) {
                (Caller::Client(call), Some(reply)) => self.answer_client(call, reply),
                (Caller::Client(call), None) => {
                    self.post(Letter::Answer { call, said: Said::NotNow });
                }
                (Caller::Inquiry { from, life, id }, Some(Reply::Inquired(outcome))) => {
                    if outcome == Inquired::Commit && !self.is_fact(id) {
                        let what = "an inquiry is answered COMMIT before the decision is durable";
                        self.oracle.violated(Some(id), what);
                    }
                    self.post(Letter::Inquired { to: from, life, id, outcome });
                }
                (Caller::Enlist { from, life, id }, Some(reply)) => {
                    let reply = Some((reply, origin.clone()));
                    self.post(Letter::Enlisted { to: from, life, id, reply });
                }
                (Caller::Inquiry { .. } | Caller::Enlist { .. }, _) => {}
            }
        }
    }

    fn answer_client(&mut self, call: CallId, reply: Reply) {
        if let Reply::Outcome(outcome) = &reply {
            let committed = outcome.result.is_ok();
            if committed
                && self.writes(call)
                && !self.oracle.excused
                && !self.is_durable(outcome.id)
            {
                let what = "a client is told committed before that is durable anywhere";
                self.oracle.violated(Some(outcome.id), what);
            }
            self.oracle.told(outcome.id, committed);
        }
        self.post(Letter::Answer { call, said: Said::Reply(reply) });
    }

    // ---- what clients ask -------------------------------------------------------------------------

    pub(crate) fn asked(&mut self, call: CallId, ask: Ask) {
        let now = self.coordinator_now();
        let (low, high) = self.swarm.patience_us;
        let patience = self.random.between(low, high);
        let terms = Terms { timeout_us: self.swarm.timeout_us, info: Arc::new(Info::default()) };
        let any_shard = self.random.index(self.swarm.shards);
        let Some(running) = &mut self.coordinator.running else { return };
        let to = running.reply_to(Caller::Client(call));
        let waiter = |to: ReplyTo, applied: bool| Waiter {
            to,
            reply_time: if applied { ReplyTime::Applied } else { ReplyTime::Decided },
            until: now.at.plus(patience),
        };
        let (shard, input) = match ask {
            Ask::Execute { request, protocol, branches, applied } => {
                let shard = xxh3_64(request.as_bytes()) as usize % self.swarm.shards;
                let branches: BTreeMap<ParticipantName, Bytes> = branches
                    .iter()
                    .map(|(index, work)| (name(*index), Bytes::from(work.encode_to_vec())))
                    .collect();
                let Ok(id) = request.parse::<RequestId>() else { return };
                let request = Some(Request { id, fingerprint: fingerprint(protocol, &branches) });
                let waiter = waiter(to, applied);
                (shard, ShardInput::Execute { branches, protocol, terms, request, waiter })
            }
            Ask::Begin { protocol } => (any_shard, ShardInput::Begin { protocol, terms, to }),
            Ask::Commit { id, applied } => {
                let waiter = waiter(to, applied);
                let input = Input::Commit { id, request: None, waiter };
                (running.sequences.shard_of(id), ShardInput::Core(input))
            }
            Ask::Abort { id } => {
                let message = "the client says so".to_owned();
                let input = Input::Abort { id, message, waiter: to };
                (running.sequences.shard_of(id), ShardInput::Core(input))
            }
            Ask::Look { id } => {
                drop(to);
                running.callers.pop();
                return self.look(call, id);
            }
        };
        self.coordinator_input(shard, input);
        self.settle(Site::Coordinator);
    }

    /// As `Engine::get`.
    fn look(&mut self, call: CallId, id: TransactionId) {
        let Some(running) = &mut self.coordinator.running else { return };
        let shard = running.sequences.shard_of(id);
        let phase = running.shards[shard].machine().core().view(id).map(|view| view.phase);
        let decided = |phase| matches!(phase, PhaseView::Committing | PhaseView::Aborting);
        if phase.is_some_and(|phase| !decided(phase)) {
            return self.post(Letter::Answer { call, said: Said::Known(Known::Running) });
        }
        // Before the log is looked at: a report that comes in between would be missed by both.
        let unheard = id.protocol() == Protocol::TwoPhase
            && id.epoch() < running.identity.epoch
            && running.links.iter().any(|link| !link.reported);
        let flushed = running.flushed();
        running.looks.push(Look { call, ask: Ask::Look { id }, unheard, flushed });
        self.settle(Site::Coordinator);
    }

    fn answer_looks(&mut self) {
        let Some(running) = &mut self.coordinator.running else { return };
        let mut answers = Vec::new();
        let mut waiting = Vec::with_capacity(running.looks.len());
        for mut look in std::mem::take(&mut running.looks) {
            match look.flushed.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => waiting.push(look),
                Err(oneshot::error::TryRecvError::Closed) => {}
                Ok(()) => {
                    let Ask::Look { id } = look.ask else { continue };
                    let known = match running.store.find(id) {
                        Err(_) => continue,
                        Ok(Some(found)) => match found.stored() {
                            Some(Stored::Committed { .. }) => Known::Committed,
                            Some(Stored::Aborted | Stored::Expired) => Known::Aborted,
                            None => Known::Running,
                        },
                        Ok(None) if look.unheard => Known::Unknown,
                        Ok(None) => {
                            let shard = running.sequences.shard_of(id);
                            // Begun again since, as a one-phase commit that is reported late.
                            match running.shards[shard].machine().core().view(id) {
                                Some(_) => Known::Running,
                                None => Known::Aborted,
                            }
                        }
                    };
                    answers.push((look.call, id, known));
                }
            }
        }
        running.looks = waiting;
        for (call, id, known) in answers {
            match known {
                Known::Committed => self.oracle.told(id, true),
                // A transaction without anything to commit leaves nothing to be remembered by.
                Known::Aborted if self.writes(call) => self.oracle.told(id, false),
                Known::Aborted | Known::Running | Known::Unknown => {}
            }
            self.post(Letter::Answer { call, said: Said::Known(known) });
        }
    }

    // ---- what participants say --------------------------------------------------------------------

    pub(crate) fn has_session(&self, index: usize, session: u64) -> bool {
        self.coordinator.running.as_ref().is_some_and(|running| {
            let link = &running.links[index];
            link.connected && link.session == session
        })
    }

    fn received(&mut self, from: usize, message: FromParticipant) {
        let shard = self.shard_of(message.id());
        self.coordinator_input(shard, ShardInput::Received { from: name(from), message });
        self.settle(Site::Coordinator);
    }

    pub(crate) fn heard(&mut self, from: usize, session: u64, message: FromParticipant) {
        if self.has_session(from, session) {
            self.received(from, message);
        }
    }

    pub(crate) fn call_answered(
        &mut self,
        from: usize,
        life: Life,
        session: u64,
        message: FromParticipant,
    ) {
        if self.coordinator.life == life && self.has_session(from, session) {
            self.received(from, message);
        }
    }

    pub(crate) fn asked_over_session(
        &mut self,
        from: usize,
        session: u64,
        id: TransactionId,
        incarnation: Incarnation,
    ) {
        if self.has_session(from, session) {
            let inquiry = Inquiry { id, incarnation, participant: name(from) };
            let shard = self.shard_of(id);
            self.coordinator_input(shard, ShardInput::Inquire { inquiry, to: None });
            self.settle(Site::Coordinator);
        }
    }

    pub(crate) fn inquired(
        &mut self,
        from: usize,
        life: Life,
        id: TransactionId,
        incarnation: Incarnation,
    ) {
        let inquiry = Inquiry { id, incarnation, participant: name(from) };
        let shard = self.shard_of(id);
        let Some(running) = &mut self.coordinator.running else { return };
        let to = Some(running.reply_to(Caller::Inquiry { from, life, id }));
        self.coordinator_input(shard, ShardInput::Inquire { inquiry, to });
        self.settle(Site::Coordinator);
    }

    pub(crate) fn enlist(
        &mut self,
        from: usize,
        life: Life,
        id: TransactionId,
        incarnation: Incarnation,
        number: u64,
    ) {
        let shard = self.shard_of(id);
        let Some(running) = &mut self.coordinator.running else { return };
        let waiter = running.reply_to(Caller::Enlist { from, life, id });
        let participant = name(from);
        let input = Input::Enlist { id, participant, incarnation, enlistment: number, waiter };
        self.coordinator_input(shard, ShardInput::Core(input));
        self.settle(Site::Coordinator);
    }

    // ---- links ------------------------------------------------------------------------------------

    pub(crate) fn connect(&mut self, index: usize, life: Life) {
        if !self.is_alive(Site::Coordinator, life) {
            return;
        }
        let session = self.sessions + 1;
        let Some(running) = &mut self.coordinator.running else { return };
        let origin = running.origin();
        let link = &mut running.links[index];
        if link.session != 0 {
            return;
        }
        // When every shard has heard of the end of the last one, and what waited for its records has
        // been sent, what is sent is of the new one.
        link.settling.retain_mut(|settled| {
            matches!(settled.try_recv(), Err(oneshot::error::TryRecvError::Empty))
        });
        if !link.settling.is_empty() {
            return self.agenda.plan(self.now + 500, Event::Connect(index, life));
        }
        link.session = session;
        link.last_down = self.now;
        link.last_up = self.now;
        self.sessions = session;
        if self.swarm.unary[index] {
            self.post(Letter::List { to: index, life, session, first: true });
        } else {
            self.post(Letter::Hello { to: index, session, origin });
        }
        self.agenda.plan(self.now + WELCOME_US, Event::NoWelcome(index, session));
    }

    /// A session or connection is over; `opening`: if it was never opened.
    pub(crate) fn broken(&mut self, index: usize, session: u64, opening: bool) {
        let Some(running) = &mut self.coordinator.running else { return };
        let link = &mut running.links[index];
        if link.session != session || (opening && link.connected) {
            return;
        }
        let was_connected = std::mem::replace(&mut link.connected, false);
        link.session = 0;
        link.wait_us = if was_connected {
            RECONNECT_US
        } else {
            (link.wait_us * 2).clamp(RECONNECT_US, RECONNECT_US_MAX)
        };
        let wait = link.wait_us;
        // The participant may notice, or go on with a session that leads nowhere.
        if self.random.one_in(2)
            && let Some(running) = &mut self.participants[index].running
            && running.session.is_some_and(|(_, open)| open == session)
        {
            running.session = None;
            running.welcome = None;
        }
        self.dead_after.entry(session).or_insert(self.now + self.swarm.delay_us.1);
        self.all_shards_hear(|| Input::Disconnected { participant: name(index) });
        for shard in 0..self.swarm.shards {
            let (tell, told) = oneshot::channel();
            self.coordinator_input(shard, ShardInput::Settle(tell));
            if let Some(running) = &mut self.coordinator.running {
                running.links[index].settling.push(told);
            }
        }
        let at = self.now + self.random.between(wait, 2 * wait);
        self.agenda.plan(at, Event::Connect(index, self.coordinator.life));
        self.settle(Site::Coordinator);
    }

    /// A session or connection is open. `incarnation` names the participant's log; 0 for one that is only called.
    pub(crate) fn welcomed(
        &mut self,
        index: usize,
        session: u64,
        incarnation: Incarnation,
        reports: Vec<OnePhaseReport>,
    ) {
        let slot = crate::coordinator::SLOT;
        let Some(running) = &mut self.coordinator.running else { return };
        let link = &mut running.links[index];
        if link.session != session || link.connected {
            return;
        }
        link.connected = true;
        let mut by_shard: Vec<Vec<OnePhaseReport>> = vec![Vec::new(); self.swarm.shards];
        for report in reports.into_iter().filter(|report| report.id.slot() == slot) {
            by_shard[running.sequences.shard_of(report.id)].push(report);
        }
        for (shard, one_phase_commits) in by_shard.into_iter().enumerate() {
            let participant = name(index);
            let input = ShardInput::Connected { participant, incarnation, one_phase_commits };
            self.coordinator_input(shard, input);
        }
        if let Some(running) = &mut self.coordinator.running {
            running.links[index].reported = true;
        }
        self.settle(Site::Coordinator);
    }

    pub(crate) fn listed(
        &mut self,
        index: usize,
        life: Life,
        session: u64,
        first: bool,
        ids: &[TransactionId],
        kept: Vec<OnePhaseReport>,
    ) {
        if self.coordinator.life != life {
            return;
        }
        if first {
            self.welcomed(index, session, Incarnation(0), kept);
        }
        if !self.has_session(index, session) {
            return;
        }
        let Some(running) = &self.coordinator.running else { return };
        let identity = running.identity;
        for id in ids {
            if id.slot() == identity.slot && id.epoch() <= identity.epoch {
                let inquiry = Inquiry {
                    id: *id,
                    incarnation: identity.incarnation,
                    participant: name(index),
                };
                let shard = self.shard_of(*id);
                self.coordinator_input(shard, ShardInput::Inquire { inquiry, to: None });
            }
        }
        let at = self.now + LIST_EVERY_US;
        self.agenda.plan(at, Event::AskList(index, life, session));
        self.settle(Site::Coordinator);
    }

    pub(crate) fn ask_list(&mut self, index: usize, life: Life, session: u64) {
        if self.coordinator.life == life && self.has_session(index, session) {
            self.post(Letter::List { to: index, life, session, first: false });
        }
    }

    /// What the log says of every transaction that is over.
    pub(crate) fn all_outcomes(&self) -> Vec<Found> {
        let mut all = Vec::new();
        if let Some(running) = &self.coordinator.running {
            let _ = running.store.outcomes(None, |ended| {
                all.push(Found::Ended(ended));
                std::ops::ControlFlow::Continue(())
            });
        }
        all
    }
}

/// A digest of what is asked for, as the engine makes it.
fn fingerprint(protocol: Protocol, branches: &BTreeMap<ParticipantName, Bytes>) -> u64 {
    let mut all = vec![protocol as u8];
    for (name, work) in branches {
        all.extend_from_slice(name.as_str().as_bytes());
        all.push(0);
        all.extend_from_slice(work);
    }
    xxh3_64(&all).max(1)
}
