//! A participant's side: what its sessions, services and resource calls do around the shard.

use handfast_commit_core::id::{Incarnation, TransactionId};
use handfast_commit_core::message::{FromParticipant, Inquired, ToParticipant, Vote};
use handfast_commit_core::step::Now;
use handfast_commit_core::two_phase::coordinator::{OnePhaseReport, Reply};
use handfast_commit_core::two_phase::participant::{
    Action, Ending, Event as Note, Input, Origin, ResourceCall, ResourceResult, Via,
};
use handfast_participant::simulation::{ShardAction, Waiter};
use tokio::sync::oneshot;

use super::World;
use crate::coordinator::name;
use crate::event::{Event, Letter, Life, Site, WorkError};
use crate::faults::Fault;
use crate::participant::{Done, Kept, List, UnaryCaller, Wanted, kept};

/// How long an enlistment waits for its answer.
const ENLIST_US: u64 = 400_000;
/// How soon a report looks again.
const REPORT_AGAIN_US: u64 = 2_000;

impl World {
    pub(crate) fn participant_now(&self, index: usize) -> Now {
        self.participants[index].clock.now(self.now)
    }

    pub(crate) fn participant_input(&mut self, index: usize, input: Input<Waiter>) {
        let now = self.participant_now(index);
        if let Some(running) = &mut self.participants[index].running {
            running.input(now, input);
        }
    }

    // ---- what the shard wants ---------------------------------------------------------------------

    pub(crate) fn settle_participant(&mut self, index: usize) {
        loop {
            let Some(running) = &mut self.participants[index].running else { return };
            let actions = running.outbox.take();
            let idle = actions.is_empty();
            for action in actions {
                self.participant_does(index, action);
            }
            let went_on = self.poll(index);
            if idle && !went_on {
                break;
            }
        }
        self.answer_coordinator(index);
    }

    fn participant_does(&mut self, index: usize, action: ShardAction) {
        match action {
            Action::Respond { via, slot: _, message } => self.respond(index, via, message),
            Action::Resource { id, call } => self.call_resource(index, id, call),
            Action::Inquire { id, incarnation, endpoint: _ } => {
                self.inquire(index, id, incarnation)
            }
            Action::InquirePeers { id, incarnation: _, peers } => {
                let life = self.participants[index].life;
                for (peer, _) in peers {
                    if let Some(&to) = self.names.get(&peer) {
                        self.post(Letter::PeerAsk { from: index, life, to, id });
                    }
                }
            }
            Action::AnswerPeer { to, outcome } => {
                if let Waiter::Peer(peer) = to {
                    let _ = peer.send(outcome);
                }
            }
            Action::Lead { to, endpoint: _, message } => {
                self.lead(Site::Participant(index), &to, message);
            }
            Action::Report { via, message } => self.participant_reports(index, via, message),
            Action::AnswerTouch { to, allowed } => {
                if let Waiter::Touch(waiter) = to {
                    let _ = waiter.send(allowed);
                }
            }
            Action::Note(note) => self.participant_notes(index, &note),
        }
    }

    fn participant_notes(&mut self, index: usize, note: &Note) {
        match note {
            // One that was aborted before its vote may be asked, and prepared, once more.
            Note::Ended { id, ending, was_prepared: true } => {
                if *ending == Ending::Aborted {
                    self.said_aborted.insert((index, *id));
                }
                self.oracle.ended(index, *id, *ending);
            }
            Note::Alarm { id, alarm } if !self.oracle.excused => {
                self.oracle.violated(Some(*id), format!("ALARM at p{index}: {alarm}"));
            }
            Note::Elects { .. } => self.elects(Site::Participant(index)),
            Note::Ended { .. }
            | Note::Alarm { .. }
            | Note::Prepared { .. }
            | Note::Blocked { .. }
            | Note::Terminated { .. }
            | Note::ResourceFailed { .. } => {}
        }
    }

    fn respond(&mut self, index: usize, via: Via<Waiter>, message: FromParticipant) {
        let Some(running) = &self.participants[index].running else { return };
        let id = message.id();
        let kept = kept(&*running.reader, id);
        let wrong = match &message {
            // Or it was, and has been aborted since: a vote that comes late changes nothing. A site that has led
            // everybody to the decision may even forget it with the same sync that the repeated vote waits for.
            FromParticipant::Voted { vote: Vote::Prepared, .. } => {
                !matches!(kept, Kept::Prepared | Kept::Finished { .. })
                    && !self.said_aborted.contains(&(index, id))
                    && !self.decisions.contains_key(&id)
            }
            FromParticipant::Voted { vote: Vote::Committed { earlier }, .. } => {
                earlier.is_none() && kept != Kept::OnePhase
            }
            FromParticipant::Committed { .. } => kept == Kept::Prepared,
            FromParticipant::Aborted { .. } => kept == (Kept::Finished { committed: true }),
            // It holds nothing, and must not forget that it has voted.
            FromParticipant::Voted { vote: Vote::ReadOnly, .. } => {
                id.is_three_phase() && kept == Kept::Nothing
            }
            FromParticipant::Voted { .. } | FromParticipant::Refused { .. } => false,
        };
        if wrong {
            let what = format!("p{index} says {message:?}, and its disk says {kept:?}");
            self.oracle.violated(Some(id), what);
        }
        if matches!(message, FromParticipant::Aborted { .. }) {
            self.said_aborted.insert((index, id));
        }
        match via {
            Via::Link => {
                if let Some((_, session)) = running.session {
                    self.post(Letter::Up { from: index, session, message });
                }
            }
            Via::Call(Waiter::Call(caller)) => drop(caller.send(message)),
            Via::Call(_) => {}
        }
    }

    fn call_resource(&mut self, index: usize, id: TransactionId, call: ResourceCall) {
        let told = matches!(
            call,
            ResourceCall::Cancel | ResourceCall::PreCommit | ResourceCall::Finished(_)
        );
        let ends = matches!(call, ResourceCall::Commit | ResourceCall::Abort);
        if ends && self.random.chance(self.rates.resource_failed) {
            self.faults.add(Fault::ResourceFailed);
            let at = self.now + self.random.between(100, 5_000);
            let life = self.participants[index].life;
            let result = ResourceResult::Failed { reason: "not now".to_owned() };
            return self.agenda.plan(at, Event::ResourceEnds(index, life, id, result));
        }
        if !told && self.random.chance(self.rates.slow_resource) {
            self.faults.add(Fault::SlowResource);
            let at = self.now + self.random.between(1_000, 400_000);
            let life = self.participants[index].life;
            return self.agenda.plan(at, Event::ResourceStarts(index, life, id, call));
        }
        let _time = self.runtime.enter();
        if let Some(running) = &mut self.participants[index].running {
            running.resource(id, call);
        }
    }

    fn inquire(&mut self, index: usize, id: TransactionId, incarnation: Incarnation) {
        let process = &self.participants[index];
        let Some(running) = &process.running else { return };
        match running.session {
            Some((_, session)) => {
                self.post(Letter::UpInquiry { from: index, session, id, incarnation });
            }
            None => {
                let life = process.life;
                self.post(Letter::Inquiry { from: index, life, id, incarnation });
            }
        }
    }

    /// Goes on with the calls of the store. True when one of them has got on.
    fn poll(&mut self, index: usize) -> bool {
        let (done, wanted, more) = {
            let _time = self.runtime.enter();
            let Some(running) = &mut self.participants[index].running else { return false };
            if !running.has_tasks() {
                return false;
            }
            let (done, wanted) = running.poll();
            (done, wanted, running.has_tasks())
        };
        let went_on = !done.is_empty() || !wanted.is_empty();
        for done in done {
            match done {
                Done::Resource(id, result) => {
                    if self.random.chance(self.rates.slow_resource) {
                        self.faults.add(Fault::SlowResource);
                        let at = self.now + self.random.between(1_000, 400_000);
                        let life = self.participants[index].life;
                        self.agenda.plan(at, Event::ResourceEnds(index, life, id, result));
                    } else {
                        self.participant_input(index, Input::Resource { id, result });
                    }
                }
                Done::Worked(call, result) => {
                    self.post(Letter::Worked { call, from: index, result });
                }
            }
        }
        for wanted in wanted {
            match wanted {
                Wanted::Touch(id, tell) => {
                    let input = Input::Touched { id, waiter: Waiter::Touch(tell) };
                    self.participant_input(index, input);
                }
                Wanted::Enlist(id, tell) => self.ask_to_enlist(index, id, tell),
            }
        }
        if more && !self.lock_looks[index] {
            self.lock_looks[index] = true;
            let at = self.now + self.swarm.lock_wait_us + 1_000;
            let life = self.participants[index].life;
            self.agenda.plan(at, Event::LockTimeout(index, life));
        }
        went_on
    }

    pub(crate) fn lock_timeout(&mut self, index: usize, life: Life) {
        self.lock_looks[index] = false;
        if self.is_alive(Site::Participant(index), life) {
            self.advance_runtime();
        }
        self.settle(Site::Participant(index));
    }

    pub(crate) fn resource_ended(
        &mut self,
        index: usize,
        life: Life,
        id: TransactionId,
        result: ResourceResult,
    ) {
        if self.is_alive(Site::Participant(index), life) {
            self.participant_input(index, Input::Resource { id, result });
            self.settle(Site::Participant(index));
        }
    }

    fn answer_coordinator(&mut self, index: usize) {
        let life = self.participants[index].life;
        let Some(running) = &mut self.participants[index].running else { return };
        let mut letters = Vec::new();
        running.calls.retain_mut(|(caller, answer)| match answer.try_recv() {
            Ok(message) => {
                let UnaryCaller { life, session } = *caller;
                letters.push(Letter::Called { from: index, life, session, message });
                false
            }
            Err(oneshot::error::TryRecvError::Empty) => true,
            Err(oneshot::error::TryRecvError::Closed) => false,
        });
        running.peers.retain_mut(|(peer, peer_life, id, answer)| match answer.try_recv() {
            Ok(outcome) => {
                let (to, life, id) = (*peer, *peer_life, *id);
                letters.push(Letter::PeerAnswer { to, life, from: index, id, outcome });
                false
            }
            Err(oneshot::error::TryRecvError::Empty) => true,
            Err(oneshot::error::TryRecvError::Closed) => false,
        });
        running.lists.retain_mut(|list| match list.flushed.try_recv() {
            Ok(()) => {
                let UnaryCaller { life, session } = list.caller;
                letters.push(Letter::Listed {
                    from: index,
                    life,
                    session,
                    first: list.first,
                    ids: std::mem::take(&mut list.ids),
                    kept: std::mem::take(&mut list.kept),
                });
                false
            }
            Err(oneshot::error::TryRecvError::Empty) => true,
            Err(oneshot::error::TryRecvError::Closed) => false,
        });
        let mut opened = None;
        if let Some((session, reports, origin, mut flushed)) = running.welcome.take() {
            match flushed.try_recv() {
                Ok(()) => {
                    let incarnation = running.incarnation;
                    letters.push(Letter::Welcome { from: index, session, incarnation, reports });
                    opened = Some(origin);
                }
                Err(oneshot::error::TryRecvError::Empty) => {
                    running.welcome = Some((session, reports, origin, flushed));
                }
                Err(oneshot::error::TryRecvError::Closed) => {}
            }
        }
        for letter in letters {
            self.post(letter);
        }
        self.answer_leaders(Site::Participant(index));
        if let Some(origin) = opened {
            debug_assert!(self.is_alive(Site::Participant(index), life));
            self.participant_input(index, Input::Heard { origin, opened: true });
            self.settle(Site::Participant(index));
        }
    }

    // ---- sessions ---------------------------------------------------------------------------------

    pub(crate) fn greeted(&mut self, index: usize, session: u64, origin: Origin) {
        let Some(running) = &mut self.participants[index].running else { return };
        let number = (origin.epoch, session);
        let stale = running.driver.machine().epoch(origin.slot) > Some(origin.epoch)
            || running.session.is_some_and(|open| open >= number);
        if stale {
            return self.post(Letter::Unwelcome { from: index, session });
        }
        running.session = Some(number);
        running.welcome = None;
        running.origin = Some(origin);
        let life = self.participants[index].life;
        self.report(index, life, session);
    }

    /// Reports the one-phase commits, as soon as no earlier one can still happen.
    pub(crate) fn report(&mut self, index: usize, life: Life, session: u64) {
        if !self.is_alive(Site::Participant(index), life) {
            return;
        }
        let Some(running) = &mut self.participants[index].running else { return };
        if running.session.is_none_or(|(_, open)| open != session) {
            return;
        }
        let Some(origin) = running.origin.clone() else { return };
        match running.report(&origin) {
            Ok(reports) => {
                let flushed = running.flushed();
                running.welcome = Some((session, reports, origin, flushed));
            }
            Err(unreported) => {
                for id in unreported {
                    let (tell, _) = oneshot::channel();
                    let via = Via::Call(Waiter::Call(tell));
                    let origin = origin.clone();
                    self.participant_input(index, Input::Abort { id, origin, via });
                }
                let at = self.now + REPORT_AGAIN_US;
                self.agenda.plan(at, Event::Report(index, life, session));
            }
        }
        self.settle(Site::Participant(index));
    }

    pub(crate) fn told(
        &mut self,
        index: usize,
        session: u64,
        origin: Origin,
        message: ToParticipant,
    ) {
        let now = self.participant_now(index);
        let stopping = self.random.chance(self.rates.stopping);
        let life = self.participants[index].life;
        let Some(running) = &mut self.participants[index].running else { return };
        if running.session != Some((origin.epoch, session)) {
            // The other end of the connection is gone.
            let soon = self.now + self.swarm.delay_us.1;
            return self.agenda.plan(soon, Event::Broken(index, session));
        }
        running.input(now, Input::Heard { origin: origin.clone(), opened: false });
        if stopping {
            running.input(now, Input::Stopping);
            let site = Site::Participant(index);
            let at = self.now + self.random.between(1_000, 50_000);
            self.agenda.plan(at, Event::Stopped(site, life));
        }
        let input = match message {
            ToParticipant::Answer { id, outcome } => {
                running.answered(now, origin.epoch, id, outcome);
                return self.settle(Site::Participant(index));
            }
            message => input_of(message, origin, || Via::Link),
        };
        if let Some(input) = input {
            running.input(now, input);
        }
        self.settle(Site::Participant(index));
    }

    // ---- unary calls ------------------------------------------------------------------------------

    pub(crate) fn called(
        &mut self,
        index: usize,
        life: Life,
        session: u64,
        origin: Origin,
        message: ToParticipant,
    ) {
        let now = self.participant_now(index);
        let Some(running) = &mut self.participants[index].running else { return };
        let message = match message {
            // There is no call for an answer: that it aborted is told as an abort.
            ToParticipant::Answer { id, .. } => ToParticipant::Abort { id },
            message => message,
        };
        let (tell, answer) = oneshot::channel();
        if let Some(input) = input_of(message, origin, || Via::Call(Waiter::Call(tell))) {
            running.calls.push((UnaryCaller { life, session }, answer));
            running.input(now, input);
        }
        self.settle(Site::Participant(index));
    }

    pub(crate) fn list(&mut self, index: usize, life: Life, session: u64, first: bool) {
        let Some(running) = &mut self.participants[index].running else { return };
        let (mut ids, mut kept) = (Vec::new(), Vec::new());
        for branch in running.driver.machine().open_branches() {
            match branch.one_phase {
                Some(request_id) => kept.push(OnePhaseReport { id: branch.id, request_id }),
                None => ids.push(branch.id),
            }
        }
        let flushed = running.flushed();
        let caller = UnaryCaller { life, session };
        running.lists.push(List { caller, first, ids, kept, flushed });
        self.settle(Site::Participant(index));
    }

    pub(crate) fn inquiry_answered(
        &mut self,
        index: usize,
        life: Life,
        id: TransactionId,
        outcome: Inquired,
    ) {
        if self.is_alive(Site::Participant(index), life) {
            self.participant_input(index, Input::Answer { id, outcome });
            self.settle(Site::Participant(index));
        }
    }

    // ---- peers ------------------------------------------------------------------------------------

    pub(crate) fn peer_asks(&mut self, from: usize, life: Life, index: usize, id: TransactionId) {
        let (tell, answer) = oneshot::channel();
        let Some(running) = &mut self.participants[index].running else { return };
        running.peers.push((from, life, id, answer));
        self.participant_input(index, Input::PeerAsks { id, waiter: Waiter::Peer(tell) });
        self.settle(Site::Participant(index));
    }

    pub(crate) fn peer_answered(
        &mut self,
        index: usize,
        life: Life,
        from: usize,
        id: TransactionId,
        outcome: Inquired,
    ) {
        if self.is_alive(Site::Participant(index), life) {
            let peer = name(from);
            self.participant_input(index, Input::PeerAnswer { id, peer, outcome });
            self.settle(Site::Participant(index));
        }
    }

    // ---- enlistment -------------------------------------------------------------------------------

    fn ask_to_enlist(
        &mut self,
        index: usize,
        id: TransactionId,
        tell: oneshot::Sender<Result<(), WorkError>>,
    ) {
        let drawn = self.random.next();
        let life = self.participants[index].life;
        let Some(running) = &mut self.participants[index].running else { return };
        let number = *running.numbers.entry(id).or_insert(drawn);
        running.enlisting.insert(id, tell);
        let incarnation = running.incarnation;
        self.post(Letter::Enlist { from: index, life, id, incarnation, number });
        self.agenda.plan(self.now + ENLIST_US, Event::EnlistTimeout(index, life, id));
    }

    pub(crate) fn enlist_timeout(&mut self, index: usize, life: Life, id: TransactionId) {
        if self.is_alive(Site::Participant(index), life)
            && let Some(running) = &mut self.participants[index].running
            && let Some(waiting) = running.enlisting.remove(&id)
        {
            let _ = waiting.send(Err(WorkError::TryAgain));
            self.settle(Site::Participant(index));
        }
    }

    pub(crate) fn enlisted(
        &mut self,
        index: usize,
        life: Life,
        id: TransactionId,
        reply: Option<(Reply, Origin)>,
    ) {
        if !self.is_alive(Site::Participant(index), life) {
            return;
        }
        let now = self.participant_now(index);
        let Some(running) = &mut self.participants[index].running else { return };
        // An answer that comes after the caller has given up was never read.
        let Some(waiting) = running.enlisting.remove(&id) else { return };
        let result = match reply {
            Some((Reply::Enlisted { time_left_us }, origin)) => {
                running.numbers.remove(&id);
                let until = now.at.plus(time_left_us);
                running.input(now, Input::Joined { id, origin, until });
                Ok(())
            }
            Some(_) => {
                running.numbers.remove(&id);
                Err(WorkError::Over)
            }
            None => Err(WorkError::TryAgain),
        };
        let _ = waiting.send(result);
        self.settle(Site::Participant(index));
    }
}

fn input_of(
    message: ToParticipant,
    origin: Origin,
    via: impl FnOnce() -> Via<Waiter>,
) -> Option<Input<Waiter>> {
    Some(match message {
        ToParticipant::Prepare(prepare) => {
            let peers = prepare.peers.iter().map(|peer| (peer.clone(), peer.to_string())).collect();
            Input::Prepare { prepare, peers, origin, via: via() }
        }
        ToParticipant::Commit { id, incarnation } => {
            Input::Commit { id, incarnation, origin, via: via() }
        }
        ToParticipant::Abort { id } => Input::Abort { id, origin, via: via() },
        ToParticipant::Forget { id } => Input::Forget { id, origin },
        ToParticipant::Answer { .. } => return None,
    })
}
