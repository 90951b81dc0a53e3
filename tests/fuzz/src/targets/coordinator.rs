//! A coordinator's state machine, told whatever clients, participants and other voting sites may send in whatever
//! order, and with restarts from what it has written.
//!
//! An input is a list of events, each a byte that says what happens, two bytes with the length of the
//! message, and the message. Messages go through the same conversions as in the server.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use handfast_commit_core::id::{
    Epoch, Incarnation, ParticipantName, Protocol, RequestId, Sequence, Slot, TransactionId,
};
use handfast_commit_core::limits;
use handfast_commit_core::message::{
    FromParticipant, FromSite, Order, Report, ToParticipant, ToSite,
};
use handfast_commit_core::record::{CoordinatorRecord, Info, Request};
use handfast_commit_core::step::{Now, Step, Time, TimerKey};
use handfast_commit_core::three_phase::{Ballot, SiteName, Standing, Witness};
use handfast_commit_core::two_phase::Coordinator;
use handfast_commit_core::two_phase::coordinator::{
    Action, Config, Execute, Identity, Input, Inquiry, OnePhaseReport, Reply, ReplyTime, Stored,
    Terms, Waiter,
};
use handfast_commit_core::two_phase::participant::Via;
use handfast_coordinator::view;
use handfast_wire::convert::{self, FromSession};
use handfast_wire::{record, site, site_record, v1};
use prost::Message;

use crate::Example;
use crate::events::Events;
use crate::messages::Sample;
use crate::random::Random;

const NAMES: [&str; 3] = ["a", "b", "c"];

struct Host {
    core: Coordinator<u32>,
    now: Now,
    sequence: u64,
    timers: BTreeMap<TimerKey, Time>,
    live: BTreeMap<TransactionId, Vec<u8>>,
    outcomes: BTreeMap<TransactionId, Vec<u8>>,
    requests: BTreeSet<(RequestId, TransactionId)>,
    /// What was sent, the oldest first.
    sent: VecDeque<(ParticipantName, ToParticipant)>,
    /// Orders to voting sites, the oldest first.
    orders: VecDeque<(SiteName, ToSite)>,
    waiting: BTreeSet<u32>,
    waiters: u32,
}

fn core(epoch: u64) -> Coordinator<u32> {
    let identity = Identity { slot: Slot(0), epoch: Epoch(epoch), incarnation: Incarnation(1) };
    let config = Config {
        undecided_max: 6,
        undelivered_max: 4,
        delivery_window: 2,
        witness: true,
        ..Config::default()
    };
    let mut core = Coordinator::new(identity, config);
    if epoch.is_multiple_of(2) {
        let name = "w".parse().expect("a name");
        core.set_witnesses(vec![Witness { name, endpoint: "http://127.0.0.1:1".to_owned() }]);
    }
    core
}

pub(crate) fn run(input: &[u8]) {
    let mut host = Host {
        core: core(1),
        now: Now { at: Time(1), wall_ms: 1 },
        sequence: 0,
        timers: BTreeMap::new(),
        live: BTreeMap::new(),
        outcomes: BTreeMap::new(),
        requests: BTreeSet::new(),
        sent: VecDeque::new(),
        orders: VecDeque::new(),
        waiting: BTreeSet::new(),
        waiters: 0,
    };
    for (event, message) in Events::of(input) {
        host.happens(event, message);
        if let Some(violation) = host.core.invariant_violation() {
            panic!("{violation}");
        }
    }
}

impl Host {
    fn happens(&mut self, event: u8, message: &[u8]) {
        self.now.at = self.now.at.plus(u64::from(event) * 1000);
        let from: ParticipantName = NAMES[usize::from(event) % 3].parse().expect("a name");
        match event / 3 % 12 {
            0 | 1 => {
                let Ok(request) = v1::ExecuteTransactionRequest::decode(message) else { return };
                self.execute(request);
            }
            2 => {
                let Ok(request) = v1::BeginTransactionRequest::decode(message) else { return };
                let Some((protocol, terms)) = terms(request.options.unwrap_or_default()) else {
                    return;
                };
                let (id, waiter) = (self.draw(protocol), self.wait());
                self.told(Input::Begin { id, terms, waiter });
            }
            3 => {
                let Ok(request) = v1::CommitTransactionRequest::decode(message) else { return };
                let Some(id) = self.mine(&request.transaction_id) else { return };
                let Ok(request_id) = convert::request_id(&request.request_id) else { return };
                let request = request_id.map(|id| Request { id, fingerprint: 1 });
                let waiter = self.waiter(request_time(request_time_of(message)));
                self.told(Input::Commit { id, request, waiter });
            }
            4 => {
                let Ok(request) = v1::AbortTransactionRequest::decode(message) else { return };
                let Some(id) = self.mine(&request.transaction_id) else { return };
                let waiter = self.wait();
                self.told(Input::Abort { id, message: request.reason, waiter });
            }
            5 => {
                let Ok(request) = v1::EnlistBranchRequest::decode(message) else { return };
                let Some(id) = self.mine(&request.transaction_id) else { return };
                let waiter = self.wait();
                self.told(Input::Enlist {
                    id,
                    participant: from,
                    incarnation: Incarnation(request.participant_incarnation),
                    enlistment: request.enlistment,
                    waiter,
                });
            }
            6 => {
                let Ok(request) = v1::InquireRequest::decode(message) else { return };
                let Ok(id) = convert::transaction_id(&request.transaction_id) else { return };
                let incarnation = Incarnation(request.coordinator_incarnation);
                let inquiry = Inquiry { id, incarnation, participant: from };
                let (stored, waiter) = (self.stored(id), self.wait());
                self.told(Input::Inquire { inquiry, stored, waiter });
            }
            7 | 8 => self.frame(from, message),
            9 => self.answers(event, message),
            10 => match message.first().copied().unwrap_or(0) % 5 {
                0 => self.restart(),
                1 => self.told(Input::Disconnected { participant: from }),
                2 => {
                    if let Some((to, message)) = self.sent.pop_back() {
                        self.told(Input::NotSent { to, id: id_of(&message) });
                    }
                }
                _ => self.runs_out(),
            },
            _ if self.lead(message) => {}
            _ if self.obeyed(event) => {}
            _ => self.answers(event, &[1]),
        }
    }

    /// Another site leads. False: that is no such call.
    fn lead(&mut self, message: &[u8]) -> bool {
        let Ok(Ok(lead)) = v1::LeadRequest::decode(message).map(|request| site::lead(&request))
        else {
            return false;
        };
        for message in lead.orders.into_iter().take(4) {
            let (from, stored) = (lead.from.clone(), self.stored(message.id));
            let via = Via::Call(self.wait());
            self.told(Input::Led { from, message, stored, via });
        }
        true
    }

    /// A site does what it was told first. False: nobody was told anything.
    fn obeyed(&mut self, event: u8) -> bool {
        let Some((from, ToSite { id, order, .. })) = self.orders.pop_front() else { return false };
        let report = match order {
            Order::Join { ballot } if event.is_multiple_of(2) => {
                Report::Joined { ballot, accepted: Ballot::NONE, standing: Standing::Waiting }
            }
            Order::Join { ballot } => {
                let (accepted, standing) = (Ballot::FIRST, Standing::PreCommitted);
                Report::Joined { ballot, accepted, standing }
            }
            Order::PreCommit { ballot } | Order::PreAbort { ballot } => Report::Moved { ballot },
            Order::Decided { committed } => Report::Acknowledged { committed },
            Order::Forget => Report::Forgotten,
        };
        self.told(Input::Reported { from, message: FromSite { id, report } });
        true
    }

    fn draw(&mut self, protocol: Protocol) -> TransactionId {
        self.sequence += 1;
        let Identity { slot, epoch, .. } = self.core.identity();
        TransactionId::new(slot, protocol, epoch, Sequence(self.sequence))
    }

    fn mine(&self, text: &str) -> Option<TransactionId> {
        let Identity { slot, epoch, .. } = self.core.identity();
        let id = convert::transaction_id(text).ok()?;
        (id.slot() == slot && id.epoch() == epoch).then_some(id)
    }

    fn wait(&mut self) -> u32 {
        self.waiters += 1;
        self.waiting.insert(self.waiters);
        self.waiters
    }

    fn waiter(&mut self, reply_time: ReplyTime) -> Waiter<u32> {
        Waiter { to: self.wait(), reply_time, until: self.now.at.plus(20_000) }
    }

    fn execute(&mut self, request: v1::ExecuteTransactionRequest) {
        let Ok(request_id) = convert::request_id(&request.request_id) else { return };
        let Some((protocol, terms)) = terms(request.options.unwrap_or_default()) else { return };
        let branches: BTreeMap<_, _> = request
            .branches
            .into_iter()
            .filter(|branch| NAMES.contains(&branch.participant.as_str()))
            .filter_map(|branch| Some((branch.participant.parse().ok()?, branch.payload)))
            .collect();
        if branches.is_empty() {
            return;
        }
        let request_ = request_id.map(|id| Request { id, fingerprint: 1 + branches.len() as u64 });
        let stored = match &request_ {
            Some(request) if self.core.running_request(&request.id).is_none() => {
                self.stored_request(&request.id)
            }
            _ => None,
        };
        let (id, waiter) = (self.draw(protocol), self.waiter(request_time(request.reply_time)));
        self.told(Input::Execute(Execute {
            id,
            branches,
            terms,
            request: request_,
            stored,
            waiter,
        }));
    }

    /// What a participant sends in a session; a welcome begins one.
    fn frame(&mut self, from: ParticipantName, message: &[u8]) {
        let Ok(frame) = v1::SessionResponse::decode(message) else { return };
        if let Some(welcome) = frame.welcome {
            let mut reports = Vec::new();
            for branch in
                welcome.one_phase_commits.iter().filter(|branch| branch.one_phase_committed)
            {
                let Ok(id) = convert::transaction_id(&branch.transaction_id) else { return };
                let Ok(request_id) = convert::request_id(&branch.request_id) else { return };
                if id.slot() == self.core.identity().slot {
                    reports.push((OnePhaseReport { id, request_id }, self.stored(id)));
                }
            }
            let incarnation = Incarnation(welcome.participant_incarnation);
            let participant = from.clone();
            self.told(Input::Connected { participant, incarnation, one_phase_commits: reports });
        }
        for message in frame.messages {
            match convert::participant_message(message) {
                Ok(FromSession::Message(message)) => self.received(from.clone(), message),
                Ok(FromSession::Inquiry { id, incarnation }) => {
                    let inquiry = Inquiry { id, incarnation, participant: from.clone() };
                    let stored = self.stored(id);
                    self.told(Input::InquireOverLink { inquiry, stored });
                }
                Ok(FromSession::Report(message)) => {
                    let from = SiteName::Participant(from.clone());
                    self.told(Input::Reported { from, message });
                }
                Err(_) => return,
            }
        }
    }

    /// A participant does what it was told last but so many.
    fn answers(&mut self, event: u8, message: &[u8]) {
        let back = usize::from(message.first().copied().unwrap_or(0)) % self.sent.len().max(1);
        let Some((from, order)) = self.sent.remove(back) else { return };
        let answer = match order {
            ToParticipant::Prepare(prepare) => {
                let mut response =
                    v1::PrepareResponse::decode(message.get(1..).unwrap_or_default())
                        .unwrap_or_default();
                if response.vote() == v1::Vote::Unspecified {
                    response.set_vote(match (prepare.one_phase, event % 4) {
                        (true, 0..=2) => v1::Vote::Committed,
                        (_, 0) => v1::Vote::ReadOnly,
                        (_, 3) => v1::Vote::No,
                        _ => v1::Vote::Prepared,
                    });
                }
                let Ok(voted) = convert::voted(prepare.id, response) else { return };
                voted
            }
            ToParticipant::Commit { id, .. } => FromParticipant::Committed { id },
            ToParticipant::Abort { id } => FromParticipant::Aborted { id },
            ToParticipant::Forget { .. } | ToParticipant::Answer { .. } => return,
        };
        self.received(from, answer);
    }

    fn received(&mut self, from: ParticipantName, message: FromParticipant) {
        let stored = match &message {
            FromParticipant::Voted { id, .. } => self.stored(*id),
            _ => None,
        };
        self.told(Input::Received { from, message, stored });
    }

    fn runs_out(&mut self) {
        let next = self.timers.iter().min_by_key(|(_, at)| **at);
        let Some((key, at)) = next.map(|(key, at)| (key.clone(), *at)) else { return };
        self.timers.remove(&key);
        self.now.at = self.now.at.max(at);
        self.told(Input::Timer(key));
    }

    fn stored(&self, id: TransactionId) -> Option<Stored> {
        if self.core.knows(id) {
            return None;
        }
        if let Some(bytes) = self.live.get(&id) {
            let found = record::decode_live(id.as_bytes(), bytes);
            assert!(!matches!(found, Ok(CoordinatorRecord::Voting(_))), "{id} is forgotten");
        }
        self.logged(id)
    }

    fn logged(&self, id: TransactionId) -> Option<Stored> {
        if let Some(bytes) = self.live.get(&id) {
            let committed = |request| Some(Stored::Committed { id, request });
            return match record::decode_live(id.as_bytes(), bytes).expect("our own record") {
                CoordinatorRecord::Commit(commit) => committed(commit.request),
                CoordinatorRecord::Decision(decision) if decision.outcome.is_ok() => {
                    committed(decision.request)
                }
                CoordinatorRecord::Decision(_) => Some(Stored::Aborted),
                _ => None,
            };
        }
        let ended =
            record::decode_ended(id.as_bytes(), self.outcomes.get(&id)?).expect("our own record");
        Some(match ended.outcome {
            Ok(()) => Stored::Committed { id, request: ended.request },
            Err(_) => Stored::Aborted,
        })
    }

    fn stored_request(&self, request: &RequestId) -> Option<Stored> {
        let attempts = self.requests.iter().rev().filter(|(known, _)| known == request);
        let mut found: Vec<Stored> = attempts.filter_map(|(_, id)| self.logged(*id)).collect();
        let committed = found.iter().position(|found| matches!(found, Stored::Committed { .. }));
        match (committed, found.is_empty()) {
            (_, true) => None,
            (at, false) => Some(found.swap_remove(at.unwrap_or(0))),
        }
    }

    fn told(&mut self, input: Input<u32>) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let step = self.core.step(self.now, input);
            self.follow(step, &mut inputs);
        }
    }

    fn follow(
        &mut self,
        step: Step<CoordinatorRecord, Action<u32>>,
        inputs: &mut VecDeque<Input<u32>>,
    ) {
        for entry in &step.records {
            let (id, request) = match entry {
                CoordinatorRecord::Commit(commit) => {
                    self.live.insert(commit.id, record::encode_commit(commit));
                    (commit.id, &commit.request)
                }
                CoordinatorRecord::Ended(ended) => {
                    self.live.remove(&ended.id);
                    self.outcomes.insert(ended.id, record::encode_ended(ended));
                    (ended.id, &ended.request)
                }
                CoordinatorRecord::Voting(voting) => {
                    self.live.insert(voting.id, site_record::encode_voting(voting));
                    (voting.id, &voting.request)
                }
                CoordinatorRecord::Decision(decision) => {
                    self.live.insert(decision.id, site_record::encode_decision(decision));
                    (decision.id, &decision.request)
                }
                CoordinatorRecord::Witness(witness) => {
                    self.live.insert(witness.id, site_record::encode_witness(witness));
                    (witness.id, &None)
                }
                CoordinatorRecord::WitnessForgotten { id } => {
                    self.live.remove(id);
                    (*id, &None)
                }
            };
            self.requests.extend(request.as_ref().map(|request| (request.id.clone(), id)));
        }
        for (key, at) in step.timers {
            match at {
                Some(at) => drop(self.timers.insert(key, at)),
                None => drop(self.timers.remove(&key)),
            }
        }
        for action in step.then.into_iter().chain(step.later) {
            match action {
                Action::Send { to, message } => {
                    let sent =
                        convert::coordinator_message(&to, message.clone(), None, |_| String::new());
                    assert!(sent.message.is_some());
                    self.sent.push_back((to, message));
                }
                Action::Reply { to, reply } => {
                    assert!(self.waiting.remove(&to), "a caller is answered twice: {reply:?}");
                    if let Reply::Outcome(outcome) = reply {
                        let _ = view::outcome(outcome);
                    }
                }
                Action::EndDurable { participant, id } => {
                    inputs.push_back(Input::EndDurable { participant, id });
                }
                Action::Recorded { id } => inputs.push_back(Input::Recorded { id }),
                Action::Lead { to, message } => self.orders.push_back((to, message)),
                Action::Report { via: Via::Call(to), .. } => {
                    assert!(self.waiting.remove(&to), "a leader is answered twice");
                }
                Action::Report { .. } => panic!("nobody leads over a link"),
                Action::Note(event) => assert!(!view::sentence(&event).is_empty()),
            }
        }
    }

    /// The process dies, and another begins the next epoch with what it has written.
    fn restart(&mut self) {
        self.core = core(self.core.identity().epoch.0 + 1);
        self.timers.clear();
        self.sent.clear();
        self.orders.clear();
        self.waiting.clear();
        for (id, bytes) in &self.live {
            let record = record::decode_live(id.as_bytes(), bytes).expect("our own record");
            self.core.restore_record(record);
        }
        let resumed = self.core.resume(self.now);
        let mut inputs = VecDeque::new();
        self.follow(resumed, &mut inputs);
        inputs.into_iter().for_each(|input| self.told(input));
    }
}

fn id_of(message: &ToParticipant) -> TransactionId {
    match message {
        ToParticipant::Prepare(prepare) => prepare.id,
        ToParticipant::Commit { id, .. }
        | ToParticipant::Abort { id }
        | ToParticipant::Forget { id }
        | ToParticipant::Answer { id, .. } => *id,
    }
}

fn request_time_of(message: &[u8]) -> i32 {
    v1::CommitTransactionRequest::decode(message).map_or(0, |request| request.reply_time)
}

fn request_time(number: i32) -> ReplyTime {
    if number == v1::ReplyTime::Decided as i32 { ReplyTime::Decided } else { ReplyTime::Applied }
}

/// What the server makes of the options, but for what it refuses.
fn terms(options: v1::TransactionOptions) -> Option<(Protocol, Terms)> {
    let protocol = match options.protocol() {
        v1::Protocol::ThreePhase => Protocol::ThreePhase,
        v1::Protocol::Unspecified | v1::Protocol::TwoPhase => Protocol::TwoPhase,
        v1::Protocol::PaxosCommit => return None,
    };
    let asked = match options.timeout {
        Some(timeout) => convert::duration("timeout", &timeout).ok()?,
        None => std::time::Duration::from_millis(10),
    };
    let info = Info {
        summary: limits::cut(&options.summary, limits::SUMMARY_BYTES_MAX).to_owned(),
        labels: options.labels.into_iter().take(limits::LABELS_MAX).collect(),
        traceparent: options.traceparent,
    };
    let timeout_us = u64::try_from(asked.as_micros()).unwrap_or(u64::MAX).max(1);
    Some((protocol, Terms { timeout_us, info: Arc::new(info) }))
}

pub(crate) fn generate(random: &mut Random) -> Vec<u8> {
    let mut events = Events::default();
    for _ in 0..=random.below(16) {
        let what = match random.below(6) {
            0 | 1 => 0,
            2 | 3 => 9,
            _ => random.below(12),
        };
        let event = (what * 3 + random.below(3) + 36 * random.below(7)) as u8;
        let message = match what {
            0 | 1 => sound_execute(random).encode_to_vec(),
            2 => v1::BeginTransactionRequest::sample(random).encode_to_vec(),
            3 => v1::CommitTransactionRequest::sample(random).encode_to_vec(),
            4 => v1::AbortTransactionRequest::sample(random).encode_to_vec(),
            5 => v1::EnlistBranchRequest::sample(random).encode_to_vec(),
            6 => v1::InquireRequest::sample(random).encode_to_vec(),
            7 | 8 => sound_frame(random).encode_to_vec(),
            9 => {
                [vec![random.byte()], v1::PrepareResponse::sample(random).encode_to_vec()].concat()
            }
            11 if random.one_in(3) => v1::LeadRequest::sample(random).encode_to_vec(),
            _ => vec![random.byte()],
        };
        events.push(event, &message);
    }
    events.into_input()
}

fn sound_execute(random: &mut Random) -> v1::ExecuteTransactionRequest {
    let mut request = v1::ExecuteTransactionRequest::sample(random);
    if random.one_in(2) {
        let protocol =
            if random.one_in(2) { v1::Protocol::ThreePhase } else { v1::Protocol::TwoPhase };
        request.options =
            Some(v1::TransactionOptions { protocol: protocol.into(), ..Default::default() });
    }
    request.branches.truncate(3);
    request.branches.push(v1::BranchWork { participant: "a".into(), payload: "w".into() });
    request
}

fn sound_frame(random: &mut Random) -> v1::SessionResponse {
    let mut frame = v1::SessionResponse::sample(random);
    frame.messages.truncate(4);
    if let Some(welcome) = &mut frame.welcome {
        welcome.one_phase_commits.truncate(3);
    }
    frame
}

pub(crate) fn examples(random: &mut Random) -> Vec<Example> {
    (0..10).map(|n| Example { name: format!("events-{n}"), input: generate(random) }).collect()
}
