//! A run as a readable story: each action, and what everybody does about it.

use handfast_commit_core::id::TransactionId;
use handfast_commit_core::message::{FromParticipant, Inquired, ToParticipant, Vote};
use handfast_commit_core::record::{CoordinatorRecord, ParticipantRecord};
use handfast_commit_core::step::TimerKey;
use handfast_commit_core::two_phase::coordinator::Reply;

use crate::action::{Action, Moment};
use crate::network::{Body, Envelope, Who};
use crate::state::State;
use crate::world::World;
use stateright::Model;

impl World {
    /// Tells what happens when these actions follow each other from the beginning.
    pub fn story(&self, actions: &[Action]) -> Vec<String> {
        let Some(mut state) = self.init_states().pop() else {
            return Vec::new();
        };
        let mut lines = vec!["C asks p1.. to prepare T1, which the client has sent".to_owned()];
        for action in actions {
            if let Some(next) = self.apply(&state, action, Some(&mut lines)) {
                state = next;
            }
        }
        lines.push(self.summary(&state));
        lines
    }

    fn summary(&self, state: &State) -> String {
        let mut text = "in the end:".to_owned();
        for (id, fact) in &state.facts {
            text += &format!(" {}: {fact:?};", name(state, *id));
        }
        for (number, host) in state.participants.iter().enumerate() {
            let resource = &host.get().resource;
            let list = |ids: &mut dyn Iterator<Item = &TransactionId>| {
                ids.map(|id| name(state, *id)).collect::<Vec<_>>().join(", ")
            };
            text += &format!(
                " p{}: took effect [{}], aborted [{}], holds [{}];",
                number + 1,
                list(&mut resource.effects.keys()),
                list(&mut resource.aborted.iter()),
                list(&mut resource.holds.iter())
            );
        }
        let told = state.client.told.iter().map(|(id, committed)| {
            format!("{} {}", name(state, *id), if *committed { "committed" } else { "aborted" })
        });
        text + &format!(" the client was told [{}]", told.collect::<Vec<_>>().join(", "))
    }

    pub(crate) fn action(&self, state: &State, action: &Action) -> String {
        let message = |key: u64| match state.bag.get(key) {
            Some(envelope) => self.envelope(state, envelope),
            None => "a message".to_owned(),
        };
        match action {
            Action::Deliver(key) => format!("> {}", message(*key)),
            Action::Lose(key) => format!("* lost: {}", message(*key)),
            Action::Repeat(key) => format!("* will come twice: {}", message(*key)),
            Action::DeliverDown(number) => match state.links[*number].down_queue.first() {
                Some(envelope) => format!("> {}", self.envelope(state, envelope)),
                None => "> nothing".to_owned(),
            },
            Action::DeliverUp(number) => match state.links[*number].up_queue.first() {
                Some(envelope) => format!("> {}", self.envelope(state, envelope)),
                None => "> nothing".to_owned(),
            },
            Action::Open(number) => format!("* a session with p{} begins", number + 1),
            Action::Cut(number) => format!("* the session with p{} is cut", number + 1),
            Action::Notice(number) => {
                format!("* C notices that the session with p{} is over", number + 1)
            }
            Action::Connect(number) => format!("* C can call p{}", number + 1),
            Action::SyncCoordinator => match state.coordinator.get().log.pending.first() {
                Some(record) => {
                    format!("+ durable at C: {}", self.coordinator_record(state, record))
                }
                None => "+ nothing to sync at C".to_owned(),
            },
            Action::Sync(number) => match state.participants[*number].get().log.pending.first() {
                Some(entry) => format!(
                    "+ durable at p{}: {}",
                    number + 1,
                    self.participant_record(state, &entry.record)
                ),
                None => format!("+ nothing to sync at p{}", number + 1),
            },
            Action::Resource(number, verdict) => {
                match state.participants[*number].get().resource.calls.first() {
                    Some((id, call)) => format!(
                        "+ p{}'s resource does {call:?} of {} ({verdict:?})",
                        number + 1,
                        name(state, *id)
                    ),
                    None => format!("+ p{}'s resource has nothing to do", number + 1),
                }
            }
            Action::CoordinatorTimer(key, moment) => {
                let whose = match key {
                    TimerKey::Transaction(id) => name(state, *id),
                    TimerKey::Participant(name) => name.to_string(),
                };
                let what = match moment {
                    Moment::Repeat => "a while has passed",
                    Moment::Late => "the deadline has passed",
                };
                format!("+ C's timer of {whose}: {what}")
            }
            Action::Timer(number, id) => {
                format!("+ p{}'s timer of {}", number + 1, name(state, *id))
            }
            Action::CrashCoordinator => "* C crashes".to_owned(),
            Action::RestartCoordinator => "* C starts again".to_owned(),
            Action::Crash(number) => format!("* p{} crashes", number + 1),
            Action::Restart(number) => format!("* p{} starts again", number + 1),
            Action::Retry => "* the client sends its request again".to_owned(),
            Action::Abort => "* the client wants T1 aborted".to_owned(),
            Action::Expire => "* the outcome window has passed for what has ended".to_owned(),
            Action::Renew(number) => format!("* a new session with p{} begins", number + 1),
            Action::Early(_) => "* early:".to_owned(),
        }
    }

    pub(crate) fn envelope(&self, state: &State, envelope: &Envelope) -> String {
        let body = match &envelope.body {
            Body::Hello(origin) => format!("HELLO of epoch {}", origin.epoch.0),
            Body::Welcome(reports) => {
                let ids: Vec<_> = reports.iter().map(|report| name(state, report.id)).collect();
                format!("WELCOME, one-phase commits [{}]", ids.join(", "))
            }
            Body::Command(origin, command) => {
                let text = match command {
                    ToParticipant::Prepare(prepare) => {
                        let how = if prepare.one_phase { ", you may commit" } else { "" };
                        format!("PREPARE {}{how}", name(state, prepare.id))
                    }
                    ToParticipant::Commit { id, .. } => format!("COMMIT {}", name(state, *id)),
                    ToParticipant::Abort { id } => format!("ABORT {}", name(state, *id)),
                    ToParticipant::Forget { id } => format!("FORGET {}", name(state, *id)),
                    ToParticipant::Answer { id, outcome } => answer(state, *id, *outcome),
                };
                format!("{text} (epoch {}, from {} on)", origin.epoch.0, origin.lowest_live.0)
            }
            Body::Answer(message) => {
                let id = name(state, message.id());
                match message {
                    FromParticipant::Voted { vote, .. } => {
                        let vote = match vote {
                            Vote::Prepared => "prepared".to_owned(),
                            Vote::ReadOnly => "read-only".to_owned(),
                            Vote::No { reason } => format!("no: {reason}"),
                            Vote::Committed { earlier: None } => "committed".to_owned(),
                            Vote::Committed { earlier: Some(earlier) } => {
                                format!("committed as {}", name(state, *earlier))
                            }
                        };
                        format!("VOTE {id}: {vote}")
                    }
                    FromParticipant::Committed { .. } => format!("COMMITTED {id}"),
                    FromParticipant::Aborted { .. } => format!("ABORTED {id}"),
                    FromParticipant::Refused { reason, .. } => format!("REFUSED {id}: {reason}"),
                }
            }
            Body::Inquiry(id, _) | Body::PeerInquiry(id) => {
                format!("what became of {}?", name(state, *id))
            }
            Body::InquiryAnswered(id, outcome) | Body::PeerAnswered(id, outcome) => {
                answer(state, *id, *outcome)
            }
            Body::Order(message) => format!("{} {:?}", name(state, message.id), message.order),
            Body::Report(message) => format!("{} {:?}", name(state, message.id), message.report),
        };
        format!("{} → {}: {body}", who(envelope.from), who(envelope.to))
    }

    pub(crate) fn coordinator_record(&self, state: &State, record: &CoordinatorRecord) -> String {
        match record {
            CoordinatorRecord::Commit(commit) => {
                let voters: Vec<_> =
                    commit.voters.iter().map(|(name, _)| name.to_string()).collect();
                format!("COMMIT {} [{}]", name(state, commit.id), voters.join(", "))
            }
            CoordinatorRecord::Ended(ended) => {
                let outcome = if ended.outcome.is_ok() { "committed" } else { "aborted" };
                format!("ENDED {} {outcome}", name(state, ended.id))
            }
            CoordinatorRecord::Voting(voting) => {
                format!("VOTING {} {:?}", name(state, voting.id), voting.site)
            }
            CoordinatorRecord::Decision(decision) => {
                let outcome = if decision.outcome.is_ok() { "commit" } else { "abort" };
                format!("DECISION {} {outcome}", name(state, decision.id))
            }
            CoordinatorRecord::Witness(witness) => {
                format!("WITNESS {} {:?}", name(state, witness.id), witness.state)
            }
            CoordinatorRecord::WitnessForgotten { id } => format!("FORGOTTEN {}", name(state, *id)),
        }
    }

    pub(crate) fn participant_record(&self, state: &State, record: &ParticipantRecord) -> String {
        match record {
            ParticipantRecord::Prepared(branch) => format!("PREPARED {}", name(state, branch.id)),
            ParticipantRecord::Finished { id, committed: true } => {
                format!("COMMITTED {}", name(state, *id))
            }
            ParticipantRecord::Finished { id, committed: false } => {
                format!("ABORTED {}", name(state, *id))
            }
            ParticipantRecord::OnePhase(commit) => {
                format!("COMMITTED IN ONE PHASE {}", name(state, commit.id))
            }
            ParticipantRecord::Voted(branch) => {
                format!("VOTED {} {:?}", name(state, branch.id), branch.site)
            }
            ParticipantRecord::Decided(branch) => {
                let outcome = if branch.committed { "committed" } else { "aborted" };
                format!("DECIDED {} {outcome}", name(state, branch.id))
            }
            ParticipantRecord::Forgotten { id } => format!("FORGOTTEN {}", name(state, *id)),
            ParticipantRecord::SlotSeen { epoch, lowest_live, .. } => {
                format!("SEEN epoch {}, from {} on", epoch.0, lowest_live.0)
            }
        }
    }

    pub(crate) fn reply(&self, state: &State, reply: &Reply) -> String {
        match reply {
            Reply::Outcome(outcome) => {
                let what = if outcome.result.is_ok() { "committed" } else { "aborted" };
                format!("{} {what}", name(state, outcome.id))
            }
            Reply::Unknown { id, .. } => format!("{} unknown", name(state, *id)),
            Reply::Refused(refusal) => format!("refused: {refusal}"),
            other => format!("{other:?}"),
        }
    }
}

fn who(who: Who) -> String {
    match who {
        Who::C => "C".to_owned(),
        Who::P(number) => format!("p{}", number + 1),
        Who::W(number) => format!("w{}", number + 1),
    }
}

fn answer(state: &State, id: TransactionId, outcome: Inquired) -> String {
    format!("ANSWER {}: {outcome:?}", name(state, id))
}

/// T1 is the client's first attempt.
fn name(state: &State, id: TransactionId) -> String {
    match state.client.attempts.iter().position(|attempt| *attempt == id) {
        Some(attempt) => format!("T{}", attempt + 1),
        None => format!("T?({}.{})", id.epoch().0, id.sequence().0),
    }
}
