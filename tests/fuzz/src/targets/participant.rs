//! A participant's state machine, told whatever coordinators, peers and clients may send in whatever order,
//! and with restarts from what it has written.
//!
//! An input is a list of events, each a byte that says what happens, two bytes with the length of the
//! message, and the message. Messages go through the same conversions as in the server.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use handfast_commit_core::id::{
    Epoch, Incarnation, ParticipantName, Protocol, Sequence, Slot, TransactionId,
};
use handfast_commit_core::record::{ParticipantEntry, ParticipantRecord};
use handfast_commit_core::step::{Now, Step, Time, TimerKey};
use handfast_commit_core::three_phase::SiteName;
use handfast_commit_core::two_phase::Participant;
use handfast_commit_core::two_phase::participant::{
    Action, Config, Input, Origin, ResourceCall, ResourceResult, Via,
};
use handfast_journal::{Reader, Table};
use handfast_wire::record::{self, ParticipantWrite};
use handfast_wire::{convert, site, v1};
use prost::Message;

use crate::Example;
use crate::events::Events;
use crate::messages::Sample;
use crate::random::Random;

const INCARNATION: Incarnation = Incarnation(1);
const CONFIG: Config = Config {
    one_phase: true,
    inquire_after_us: 1_000,
    inquire_after_us_max: 10_000,
    retry_after_us: 1_000,
    jitter_seed: 1,
};

type Out = Step<ParticipantEntry, Action<u32>>;

struct Host {
    core: Participant<u32>,
    now: Now,
    /// The sender that the open session began with.
    session: Origin,
    /// What the resource is to do, the oldest first. Calls about one transaction follow each other.
    calls: Vec<(TransactionId, ResourceCall)>,
    timers: BTreeMap<TransactionId, Time>,
    entries: BTreeMap<TransactionId, Vec<u8>>,
    slots: BTreeMap<u16, Vec<u8>>,
    waiters: u32,
}

pub(crate) fn run(input: &[u8]) {
    let mut host = Host {
        core: Participant::new(INCARNATION, CONFIG),
        now: Now { at: Time(1), wall_ms: 1 },
        session: Origin {
            slot: Slot(0),
            epoch: Epoch(1),
            incarnation: INCARNATION,
            lowest_live: Sequence(0),
            endpoint: "".into(),
        },
        calls: Vec::new(),
        timers: BTreeMap::new(),
        entries: BTreeMap::new(),
        slots: BTreeMap::new(),
        waiters: 0,
    };
    for (event, message) in Events::of(input) {
        host.happens(event, message);
    }
    host.restart();
}

impl Host {
    fn happens(&mut self, event: u8, message: &[u8]) {
        self.now.at = self.now.at.plus(u64::from(event) * 16);
        match event % 14 {
            0..=2 => self.frame(message),
            3 => {
                let Ok(request) = v1::PrepareRequest::decode(message) else { return };
                if served(&request.transaction_id).is_none() {
                    return;
                }
                let Ok(origin) = convert::origin(request.origin.as_ref()) else { return };
                self.prepare(request, origin, true);
            }
            4 => {
                let Ok(request) = v1::CommitRequest::decode(message) else { return };
                let origin = convert::origin(request.origin.as_ref());
                let (Some(id), Ok(origin)) = (served(&request.transaction_id), origin) else {
                    return;
                };
                let (incarnation, via) =
                    (Incarnation(request.participant_incarnation), self.call());
                self.told(Input::Commit { id, incarnation, origin, via });
            }
            5 => {
                let Ok(request) = v1::AbortRequest::decode(message) else { return };
                let origin = convert::origin(request.origin.as_ref());
                let (Some(id), Ok(origin)) = (served(&request.transaction_id), origin) else {
                    return;
                };
                let via = self.call();
                self.told(Input::Abort { id, origin, via });
            }
            6 => {
                let Ok(request) = v1::InquirePeerRequest::decode(message) else { return };
                let inquiry = request.inquiry.unwrap_or_default();
                let Some(id) = served(&inquiry.transaction_id) else { return };
                self.waiters += 1;
                self.told(Input::PeerAsks { id, waiter: self.waiters });
            }
            7 => {
                let Ok(response) = v1::InquirePeerResponse::decode(message) else { return };
                let Ok((id, outcome)) = convert::inquired(response.answer.as_ref()) else { return };
                let peer: ParticipantName =
                    if event < 128 { "b" } else { "c" }.parse().expect("a name");
                self.told(Input::PeerAnswer { id, peer, outcome });
            }
            8 => {
                let Ok(response) = v1::EnlistBranchResponse::decode(message) else { return };
                let Ok(origin) = convert::origin(response.origin.as_ref()) else { return };
                let id = TransactionId::new(
                    origin.slot,
                    Protocol::TwoPhase,
                    origin.epoch,
                    Sequence(u64::from(event) % 5),
                );
                let until = self.now.at.plus(100);
                self.told(Input::Joined { id, origin, until });
                self.waiters += 1;
                self.told(Input::Touched { id, waiter: self.waiters });
            }
            9 => self.resource(event, message),
            10 => match event % 3 {
                0 => self.restart(),
                1 => self.runs_out(),
                _ => {
                    let Ok(request) = v1::ListInDoubtRequest::decode(message) else { return };
                    let Some(id) = served(&request.transaction_id) else { return };
                    self.told(Input::GivenUp { id });
                }
            },
            11 => self.resource(event, &[0]),
            12 => {
                let Ok(request) = v1::LeadRequest::decode(message) else { return };
                let Ok(lead) = site::lead(&request) else { return };
                for message in lead.orders {
                    let (from, via) = (lead.from.clone(), self.call());
                    self.told(Input::Led { from, message, via });
                }
            }
            _ => {
                let Ok(response) = v1::LeadResponse::decode(message) else { return };
                let other = if event < 128 { "b" } else { "c" }.parse().expect("a name");
                for report in &response.reports {
                    let from = match event % 3 {
                        0 => SiteName::Coordinator,
                        1 => SiteName::Witness(ParticipantName::clone(&other)),
                        _ => SiteName::Participant(ParticipantName::clone(&other)),
                    };
                    let Ok(message) = site::report(report) else { continue };
                    self.told(Input::Reported { from, message });
                }
            }
        }
    }

    /// A frame of a session; one with a hello begins another session.
    fn frame(&mut self, message: &[u8]) {
        use v1::coordinator_message::Message as Order;
        let Ok(frame) = v1::SessionRequest::decode(message) else { return };
        let origin = match &frame.origin {
            Some(origin) => match convert::origin(Some(origin)) {
                Ok(origin) => origin,
                Err(_) => return,
            },
            None => self.session.clone(),
        };
        let opened = frame.hello.is_some();
        if opened {
            self.session = origin.clone();
        } else if (origin.slot, origin.epoch) != (self.session.slot, self.session.epoch) {
            return;
        }
        self.told(Input::Heard { origin: origin.clone(), opened });
        for message in frame.messages {
            let (origin, via) = (origin.clone(), Via::Link);
            match message.message {
                Some(Order::Prepare(request)) if served(&request.transaction_id).is_some() => {
                    self.prepare(request, origin, false);
                }
                Some(Order::Commit(request)) => {
                    let Some(id) = served(&request.transaction_id) else { continue };
                    let incarnation = Incarnation(request.participant_incarnation);
                    self.told(Input::Commit { id, incarnation, origin, via });
                }
                Some(Order::Abort(request)) => {
                    let Some(id) = served(&request.transaction_id) else { continue };
                    self.told(Input::Abort { id, origin, via });
                }
                Some(Order::Forget(request)) => {
                    let Some(id) = served(&request.transaction_id) else { continue };
                    self.told(Input::Forget { id, origin });
                }
                Some(Order::InquiryAnswer(answer)) => match convert::inquired(Some(&answer)) {
                    Ok((id, outcome)) if id.slot() == origin.slot => {
                        self.told(Input::Answer { id, outcome });
                    }
                    _ => {}
                },
                Some(Order::Order(order)) => {
                    if let (Ok(message), true) =
                        (site::order(&order), served(&order.transaction_id).is_some())
                    {
                        self.told(Input::Led { from: SiteName::Coordinator, message, via });
                    }
                }
                Some(Order::Prepare(_)) | None => {}
            }
        }
    }

    fn prepare(&mut self, request: v1::PrepareRequest, origin: Origin, by_call: bool) {
        let Ok(convert::PrepareOrder { prepare, peers }) = convert::prepare(request) else {
            return;
        };
        let via = if by_call { self.call() } else { Via::Link };
        self.told(Input::Prepare { prepare, peers, origin, via });
    }

    fn call(&mut self) -> Via<u32> {
        self.waiters += 1;
        Via::Call(self.waiters)
    }

    /// The resource answers one of its calls.
    fn resource(&mut self, event: u8, message: &[u8]) {
        // The first of each transaction.
        let at = usize::from(message.first().copied().unwrap_or(event)) % self.calls.len().max(1);
        let Some((id, _)) = self.calls.get(at).cloned() else { return };
        let Some(first) = self.calls.iter().position(|(other, _)| *other == id) else { return };
        let (_, call) = self.calls.remove(first);
        let how = message.get(1).copied().unwrap_or(event);
        let result = Bytes::copy_from_slice(message.get(2..).unwrap_or_default());
        let changes = vec![(b"k".to_vec(), None)];
        let reason = "why not".to_owned();
        let result = match call {
            ResourceCall::Prepare { .. } => match how % 8 {
                0 => ResourceResult::No { reason },
                1 => ResourceResult::ReadOnly { result },
                _ => ResourceResult::Prepared { result, changes },
            },
            ResourceCall::Commit => match how % 8 {
                0 => ResourceResult::Unknown,
                1 => ResourceResult::Failed { reason },
                _ => ResourceResult::Done { changes },
            },
            _ => match how % 8 {
                0 => ResourceResult::Failed { reason },
                _ => ResourceResult::Done { changes },
            },
        };
        self.told(Input::Resource { id, result });
    }

    fn runs_out(&mut self) {
        let Some((&id, &at)) = self.timers.iter().min_by_key(|(_, at)| **at) else { return };
        self.timers.remove(&id);
        self.now.at = self.now.at.max(at);
        self.told(Input::Timer(id));
    }

    fn told(&mut self, input: Input<u32>) {
        let step = self.core.step(self.now, input);
        self.follow(step);
    }

    fn follow(&mut self, step: Out) {
        for entry in &step.records {
            match record::encode_participant(&entry.record) {
                ParticipantWrite::Put(id, bytes) => drop(self.entries.insert(id, bytes)),
                ParticipantWrite::Delete(id) => drop(self.entries.remove(&id)),
                ParticipantWrite::Slot(slot, bytes) => drop(self.slots.insert(slot.0, bytes)),
            }
        }
        for (key, at) in step.timers {
            let TimerKey::Transaction(id) = key else {
                panic!("a participant sets no timer for {key:?}")
            };
            match at {
                Some(at) => drop(self.timers.insert(id, at)),
                None => drop(self.timers.remove(&id)),
            }
        }
        for action in step.then.into_iter().chain(step.later) {
            if let Action::Resource { id, call } = action {
                let has_result = matches!(
                    call,
                    ResourceCall::Prepare { .. } | ResourceCall::Commit | ResourceCall::Abort
                );
                if has_result {
                    self.calls.push((id, call));
                }
            }
        }
    }

    /// The process dies, and another reads what it has written.
    fn restart(&mut self) {
        self.core = Participant::new(INCARNATION, CONFIG);
        self.calls.clear();
        self.timers.clear();
        for (slot, bytes) in &self.slots {
            self.core.restore(record::decode_slot(Slot(*slot), bytes).expect("our own record"));
        }
        let mut prepared = Vec::new();
        for (id, bytes) in &self.entries {
            let found = record::decode_participant(id.as_bytes(), bytes).expect("our own record");
            if matches!(found, ParticipantRecord::Prepared(_) | ParticipantRecord::Voted(_)) {
                prepared.push(*id);
            }
            self.core.restore(found);
        }
        let step = self.core.resume(self.now);
        self.follow(step);
        self.told(Input::ResourceHolds { ids: prepared });
    }
}

/// The id of a transaction whose protocol is served.
fn served(text: &str) -> Option<TransactionId> {
    let served = |id: &TransactionId| id.protocol() != Protocol::PaxosCommit;
    convert::transaction_id(text).ok().filter(served)
}

/// A participant that starts on whatever a journal says, and is asked by everybody about everything.
pub(crate) fn restored(reader: &dyn Reader, incarnation: Incarnation) {
    let mut core = Participant::<u32>::new(incarnation, CONFIG);
    let now = Now { at: Time(1), wall_ms: 1 };
    let _ = reader.scan(Table::Meta, b"slot", &mut |key, value| {
        let slot = key.strip_prefix(b"slot").and_then(|slot| slot.try_into().ok());
        if let Some(slot) = slot
            && let Ok(found) = record::decode_slot(Slot(u16::from_be_bytes(slot)), value)
        {
            core.restore(found);
        }
        ControlFlow::Continue(())
    });
    let mut ids = Vec::new();
    let _ = reader.scan(Table::Live, &[], &mut |key, value| {
        if let Ok(found) = record::decode_participant(key, value) {
            ids.extend(TransactionId::from_bytes(key));
            core.restore(found);
        }
        ControlFlow::Continue(())
    });
    let _ = core.resume(now);
    let _ = core.step(now, Input::ResourceHolds { ids: ids.clone() });
    for id in ids {
        let origin = Origin {
            slot: id.slot(),
            epoch: id.epoch(),
            incarnation,
            lowest_live: id.sequence(),
            endpoint: "".into(),
        };
        let _ = core.step(now, Input::Timer(id));
        let _ = core.step(now, Input::Heard { origin: origin.clone(), opened: true });
        let _ = core.step(now, Input::PeerAsks { id, waiter: 1 });
        if id.protocol() != Protocol::PaxosCommit {
            let via = Via::Link;
            let _ = core.step(now, Input::Commit { id, incarnation, origin: origin.clone(), via });
            let _ = core.step(now, Input::Forget { id, origin });
        }
    }
    let _ = core.open_branches().count();
}

pub(crate) fn generate(random: &mut Random) -> Vec<u8> {
    let mut events = Events::default();
    for _ in 0..=random.below(12) {
        let what = match random.below(8) {
            0..=1 => 0,
            2 => 3,
            3 => 9,
            _ => random.below(14) as u8,
        };
        // Below 252 and of this kind.
        let event = what + 14 * random.below(18) as u8;
        let message = match what {
            0..=2 => sound_frame(random).encode_to_vec(),
            3 => sound_prepare(random).encode_to_vec(),
            4 => v1::CommitRequest::sample(random).encode_to_vec(),
            5 => v1::AbortRequest::sample(random).encode_to_vec(),
            6 => v1::InquirePeerRequest::sample(random).encode_to_vec(),
            7 => v1::InquirePeerResponse::sample(random).encode_to_vec(),
            8 => v1::EnlistBranchResponse::sample(random).encode_to_vec(),
            10 => v1::ListInDoubtRequest::sample(random).encode_to_vec(),
            12 => v1::LeadRequest::sample(random).encode_to_vec(),
            13 => v1::LeadResponse::sample(random).encode_to_vec(),
            _ => random.bytes(3),
        };
        events.push(event, &message);
    }
    events.into_input()
}

/// Few peers, so that a PREPARE is mostly taken.
fn sound_prepare(random: &mut Random) -> v1::PrepareRequest {
    let mut request = v1::PrepareRequest::sample(random);
    request.peers.truncate(2);
    request.peers.retain(|peer| ["a", "b", "c"].contains(&peer.participant.as_str()));
    if let Ok(id) = convert::transaction_id(&request.transaction_id)
        && id.is_three_phase()
    {
        let site = |name: &str| v1::VotingParticipant {
            participant: name.to_owned(),
            participant_incarnation: INCARNATION.0,
        };
        let participants = vec![site("a"), site("b")];
        request.voting = Some(v1::VotingSites { participants, witnesses: Vec::new() });
        "a".clone_into(&mut request.participant);
    }
    request
}

fn sound_frame(random: &mut Random) -> v1::SessionRequest {
    use v1::coordinator_message::Message as Order;
    let mut frame = v1::SessionRequest::sample(random);
    frame.messages.truncate(4);
    if random.one_in(2) {
        let message = Some(Order::Prepare(sound_prepare(random)));
        frame.messages.push(v1::CoordinatorMessage { message });
    }
    frame
}

pub(crate) fn examples(random: &mut Random) -> Vec<Example> {
    (0..10).map(|n| Example { name: format!("events-{n}"), input: generate(random) }).collect()
}
