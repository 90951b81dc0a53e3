//! What the core wants done: answers, calls of the resource, questions, notes.
//!
//! Called by whoever turns the shard, one thread at a time, and by a task, or the log's thread, when an action had to
//! wait for a record. Nothing here blocks, and nothing here runs the resource manager's code, which gets tasks of its
//! own: unless it says that it never keeps a thread. A task costs more than what a store in memory does in it.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use handfast_commit_core::id::{ParticipantName, Slot, TransactionId};
use handfast_commit_core::message::{FromParticipant, Vote};
use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_commit_core::two_phase::participant::{
    Action, Ending, Event, Input, ResourceCall, Via,
};
use handfast_runtime::crash_point::{compiled_in, reached};
use handfast_runtime::driver::Effects;
use handfast_runtime::phases::Phases;
use handfast_runtime::shard::ShardHandle;
use handfast_runtime::site_links::SiteLinks;
use handfast_wire::convert;
use handfast_wire::v1;
use tokio::runtime::Handle;
use tokio::task::coop::unconstrained;

use crate::observe;
use crate::outgoing::Outgoing;
use crate::pre_commits::PreCommits;
use crate::resource_calls::{self, AnyResource};
use crate::sessions::{Asked, Sessions, ToCoordinator};
use crate::shard::{ParticipantShard, ShardAction, ShardInput, Waiter};
use crate::status::refusal_code;
use crate::voting;

/// How long a message may take to leave the process, where a crash point waits for it.
const LEAVES_WITHIN: Duration = Duration::from_millis(1);

/// Does what the shard wants done.
#[derive(Clone)]
pub(crate) struct ParticipantEffects {
    pub(crate) participant: ParticipantName,
    pub(crate) runtime: Handle,
    pub(crate) shard: ShardHandle<ParticipantShard>,
    pub(crate) resource: Arc<dyn AnyResource>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) outgoing: Arc<Outgoing>,
    /// To the other voting sites of three-phase commit.
    pub(crate) links: Arc<SiteLinks>,
    /// Calls of the resource that are running.
    pub(crate) calls: Arc<AtomicUsize>,
    /// How long branches take until they are voted for.
    pub(crate) phases: Arc<Phases>,
    /// Where `pre_commit` comes among the calls of a branch.
    pub(crate) pre_commits: Arc<PreCommits>,
    pub(crate) counters: Arc<observe::Counters>,
}

impl Effects<ShardAction> for ParticipantEffects {
    fn perform(&self, action: ShardAction) {
        match action {
            Action::Respond { via, slot, message } => {
                self.respond(via, slot, message);
            }
            Action::Resource { id, call } => self.call(id, call),
            Action::Inquire { id, incarnation, endpoint } => {
                let question = self.outgoing.inquiry_message(id, incarnation);
                if self.sessions.ask(id.slot(), question.into()) == Asked::OverSession {
                    return;
                }
                let (outgoing, shard) = (Arc::clone(&self.outgoing), self.shard.clone());
                self.runtime.spawn(async move {
                    if let Some(outcome) = outgoing.inquire(id, incarnation, &endpoint).await {
                        shard.input(ShardInput::Core(Input::Answer { id, outcome }));
                    }
                });
            }
            Action::InquirePeers { id, incarnation, peers } => {
                for (peer, endpoint) in peers {
                    let (outgoing, shard) = (Arc::clone(&self.outgoing), self.shard.clone());
                    self.runtime.spawn(async move {
                        let asked = outgoing.inquire_peer(id, incarnation, &peer, &endpoint);
                        if let Some(outcome) = asked.await {
                            let input = Input::PeerAnswer { id, peer, outcome };
                            shard.input(ShardInput::Core(input));
                        }
                    });
                }
            }
            Action::AnswerPeer { to, outcome } => {
                if let Waiter::Peer(peer) = to {
                    let _ = peer.send(outcome);
                }
            }
            Action::Lead { to, endpoint, message } => {
                let (before, after) = voting::order_points(&message.order);
                reached(before);
                let endpoints = self.outgoing.site_endpoints(message.id.slot(), &to, &endpoint);
                if !mutant(Mutant::OrdersNotSent) {
                    self.links.send(&to, &endpoints, message);
                }
                self.left(after);
            }
            Action::Report { via, message } => {
                let points = voting::report_points(&message.report);
                if let Some((before, _)) = points {
                    reached(before);
                }
                match via {
                    Via::Link if mutant(Mutant::ReportsNotSent) => {}
                    Via::Link => {
                        let slot = message.id.slot();
                        self.sessions.answer(slot, convert::report_message(&message).into());
                    }
                    Via::Call(Waiter::Site(leader)) => leader.send(message),
                    Via::Call(Waiter::Leader(leader)) => drop(leader.send(message)),
                    Via::Call(Waiter::Call(_) | Waiter::Peer(_) | Waiter::Touch(_)) => {
                        unreachable!("orders are answered to their leaders")
                    }
                }
                if let Some((_, after)) = points {
                    self.left(after);
                }
            }
            Action::AnswerTouch { to, allowed } => {
                if let Waiter::Touch(waiter) = to {
                    let _ = waiter.send(allowed);
                }
            }
            Action::Note(event) => {
                match &event {
                    // Noted behind the record that the vote waits for, as the vote is.
                    Event::Prepared { id }
                    | Event::Ended { id, ending: Ending::Committed, was_prepared: false } => {
                        self.phases.ended(*id, "sync");
                        self.phases.forget(*id);
                    }
                    Event::Ended { id, .. } => self.phases.forget(*id),
                    _ => {}
                }
                observe::note(&self.counters, &self.participant, &event);
            }
        }
    }
}

impl ParticipantEffects {
    fn respond(&self, via: Via<Waiter>, slot: Slot, message: FromParticipant) {
        let after = match &message {
            FromParticipant::Voted { vote: Vote::Prepared, .. } => {
                reached("participant.after-prepared-record");
                Some("participant.after-vote-sent")
            }
            FromParticipant::Voted { vote: Vote::Committed { .. }, .. } => {
                reached("participant.one-phase.after-record");
                Some("participant.one-phase.after-vote-sent")
            }
            FromParticipant::Committed { .. } => {
                reached("participant.after-commit-record");
                Some("participant.after-ack-sent")
            }
            FromParticipant::Voted { .. }
            | FromParticipant::Aborted { .. }
            | FromParticipant::Refused { .. } => None,
        };
        match via {
            Via::Link => self.sessions.answer(slot, to_coordinator(message)),
            // Whoever has called and gone away asks again.
            Via::Call(Waiter::Call(caller)) => drop(caller.send(message)),
            Via::Call(_) => {
                unreachable!("commands are answered to their callers")
            }
        }
        if let Some(point) = after {
            self.left(point);
        }
    }

    /// A message is on its way out of the process.
    fn left(&self, point: &'static str) {
        if compiled_in() {
            self.runtime.spawn(async move {
                tokio::time::sleep(LEAVES_WITHIN).await;
                reached(point);
            });
        }
    }

    fn call(&self, id: TransactionId, call: ResourceCall) {
        let three_phase = id.is_three_phase();
        match call {
            ResourceCall::PreCommit => self.pre_commit(id),
            ResourceCall::Cancel | ResourceCall::Finished(_) => {
                if three_phase && call != ResourceCall::Cancel {
                    self.pre_commits.finished(id);
                }
                let resource = Arc::clone(&self.resource);
                if resource.never_keeps_a_thread() {
                    resource_calls::tell(&*resource, id, &call);
                } else {
                    self.runtime.spawn(async move { resource_calls::tell(&*resource, id, &call) });
                }
            }
            ResourceCall::Commit | ResourceCall::Abort if three_phase => {
                let effects = self.clone();
                self.pre_commits.end(id, Box::new(move || effects.call_for_result(id, call)));
            }
            ResourceCall::Prepare { .. } | ResourceCall::Commit | ResourceCall::Abort => {
                self.call_for_result(id, call);
            }
        }
    }

    fn call_for_result(&self, id: TransactionId, call: ResourceCall) {
        let running = Running::new(&self.calls);
        let phases = match &call {
            ResourceCall::Prepare { .. } => {
                self.phases.begin(id);
                Some(Arc::clone(&self.phases))
            }
            _ => None,
        };
        let (resource, shard) = (Arc::clone(&self.resource), self.shard.clone());
        self.run(async move {
            let result = resource_calls::call(resource, id, call).await;
            if let Some(phases) = phases {
                phases.ended(id, "work");
            }
            shard.input(ShardInput::Core(Input::Resource { id, result }));
            drop(running);
        });
    }

    fn pre_commit(&self, id: TransactionId) {
        if mutant(Mutant::PreCommitUntold) || !self.pre_commits.begin(id) {
            return;
        }
        let running = PreCommitRunning {
            id,
            pre_commits: Arc::clone(&self.pre_commits),
            _counted: Running::new(&self.calls),
        };
        let resource = Arc::clone(&self.resource);
        self.run(async move {
            resource_calls::pre_commit(&*resource, id).await;
            drop(running);
        });
    }

    /// Begins a call at once where that keeps no thread, and gives it a task if it has to wait.
    fn run(&self, call: impl Future<Output = ()> + Send + 'static) {
        let mut call = Box::pin(call);
        if self.resource.never_keeps_a_thread() {
            // Its timers are the runtime's.
            let _entered = self.runtime.enter();
            // It may be a task of the connection's that turns the shard, whose budget is not for this.
            let mut at_once = pin!(unconstrained(call.as_mut()));
            if at_once.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                return;
            }
            // The task polls it again, with a waker.
        }
        self.runtime.spawn(call);
    }
}

/// Lets the branch be ended when `pre_commit` has returned, and when its task is dropped, too.
struct PreCommitRunning {
    id: TransactionId,
    pre_commits: Arc<PreCommits>,
    _counted: Running,
}

impl Drop for PreCommitRunning {
    fn drop(&mut self) {
        self.pre_commits.done(self.id);
    }
}

/// Counts a call while it runs, and when its task is dropped, too.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(calls: &Arc<AtomicUsize>) -> Self {
        calls.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(calls))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer as it goes out; a refusal with the code that a unary call would have got.
fn to_coordinator(message: FromParticipant) -> ToCoordinator {
    let FromParticipant::Refused { reason, .. } = &message else {
        return ToCoordinator::Answer(message);
    };
    let code = refusal_code(reason);
    let mut message = convert::session_message(message);
    if let Some(v1::participant_message::Message::Refusal(refusal)) = message.message.as_mut() {
        refusal.code = code.into();
    }
    message.into()
}
