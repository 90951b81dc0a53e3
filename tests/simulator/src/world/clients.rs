//! The clients' side: one transaction after the other, with retries, impatience and disappearances.

use handfast_commit_core::id::Protocol;
use handfast_commit_core::two_phase::coordinator::{ClientRefusal, Outcome as CoreOutcome, Reply};
use handfast_history::Outcome;
use handfast_wire::v1::KeyValueResult;
use prost::Message;

use super::{Job, World, client_lane};
use crate::client::{Ask, CallId, Known, Plan, Said, Stage, look};
use crate::coordinator::name;
use crate::event::{Event, Letter, WorkError};
use crate::faults::Fault;
use crate::trace::Told;

/// How often a step of an interactive transaction is tried.
const TRIES_MAX: u32 = 4;

impl World {
    /// A client does its next thing.
    pub(crate) fn client_goes_on(&mut self, c: usize) {
        if self.clients[c].waiting.is_some() {
            return;
        }
        match &self.clients[c].stage {
            Stage::Idle => self.begin(c),
            Stage::Executing { .. } => self.execute(c),
            Stage::Beginning => self.ask_to_begin(c),
            Stage::Working { .. } => self.work(c),
            Stage::Committing { id } => {
                let ask = Ask::Look { id: *id };
                self.ask(c, ask);
            }
            Stage::Aborting { id } => {
                let ask = Ask::Abort { id: *id };
                self.ask(c, ask);
            }
        }
    }

    fn begin(&mut self, c: usize) {
        if self.healed || self.begun >= u64::from(self.swarm.transactions) {
            self.clients[c].finished = true;
            return;
        }
        let last_seen = &self.last_seen;
        let known =
            |participant, register| last_seen.get(&(participant, register)).copied().flatten();
        let mut plan = Plan::draw(&self.swarm, &mut self.random, &mut self.values, known);
        if plan.work().is_empty() {
            plan = Plan { moves: vec![(0, 0, 0)], ..plan };
        }
        self.begun += 1;
        let client = &mut self.clients[c];
        client.begun += 1;
        client.first_call = client.calls + 1;
        let request = format!("c{c}-{}", client.begun);
        let ticket = self.history.begin(u32::try_from(c).unwrap_or(u32::MAX), request.clone());
        client.ticket = Some(ticket);
        client.seen = vec![None; plan.registers.len()];
        client.plan = plan.clone();
        if plan.interactive {
            client.stage = Stage::Beginning;
            return self.ask_to_begin(c);
        }
        client.stage = Stage::Executing { request: request.clone(), unanswered: 0, sent: 0 };
        self.requests.insert(request, Job { plan, ticket, concluded: false });
        self.execute(c);
    }

    fn ask_to_begin(&mut self, c: usize) {
        let protocol = self.clients[c].plan.protocol();
        self.ask(c, Ask::Begin { protocol });
    }

    /// Sends the whole transaction, for the first time or again.
    fn execute(&mut self, c: usize) {
        let applied = self.random.one_in(2);
        let impatient = self.random.chance(self.rates.impatient);
        let branches = self.clients[c].plan.work();
        let protocol = self.clients[c].plan.protocol();
        let Stage::Executing { request, unanswered, sent } = &mut self.clients[c].stage else {
            return;
        };
        *sent += 1;
        let ask = Ask::Execute { request: request.clone(), protocol, branches, applied };
        if impatient {
            *unanswered += 1;
            self.faults.add(Fault::ImpatientClient);
            let call = self.next_call(c);
            self.post(Letter::Ask { call, ask: ask.clone() });
        }
        self.ask(c, ask);
    }

    fn next_call(&mut self, c: usize) -> CallId {
        let client = &mut self.clients[c];
        client.calls += 1;
        CallId { client: c, number: client.calls }
    }

    fn ask(&mut self, c: usize, ask: Ask) {
        let call = self.next_call(c);
        self.wait(c, call);
        self.post(Letter::Ask { call, ask });
    }

    fn wait(&mut self, c: usize, call: CallId) {
        self.clients[c].waiting = Some(call);
        if self.random.chance(self.rates.client_gone) {
            self.faults.add(Fault::ClientGone);
            // Another one takes its place; what this one has begun is left as it is.
            return self.conclude(c, Outcome::Unknown);
        }
        let (low, high) = self.swarm.patience_us;
        let patience = self.random.between(low, high) + 2 * self.swarm.delay_us.1;
        self.agenda.plan(self.now + patience, Event::OutOfPatience(call));
    }

    fn work(&mut self, c: usize) {
        let Stage::Working { id, left, .. } = &self.clients[c].stage else { return };
        let id = *id;
        let Some((to, work, _)) = left.first().cloned() else { return self.commit(c) };
        let call = self.next_call(c);
        self.wait(c, call);
        self.post(Letter::Work { call, to, id, work });
    }

    fn commit(&mut self, c: usize) {
        let Stage::Working { id, .. } = &self.clients[c].stage else { return };
        let id = *id;
        if self.random.one_in(12) {
            return self.abort(c);
        }
        let applied = self.random.one_in(2);
        self.clients[c].stage = Stage::Committing { id };
        self.ask(c, Ask::Commit { id, applied });
    }

    fn abort(&mut self, c: usize) {
        let Stage::Working { id, .. } = &self.clients[c].stage else { return };
        let id = *id;
        self.clients[c].stage = Stage::Aborting { id };
        self.ask(c, Ask::Abort { id });
    }

    fn later(&mut self, c: usize) {
        let wait = self.random.between(500, 20_000);
        self.agenda.plan(self.now + wait, Event::Client(c));
    }

    /// Whether the transaction that a call is about changes anything; false when that is not known.
    pub(crate) fn writes(&self, call: CallId) -> bool {
        let client = &self.clients[call.client];
        client.first_call <= call.number
            && !matches!(client.stage, Stage::Idle)
            && client.plan.writes()
    }

    // ---- answers ----------------------------------------------------------------------------------

    pub(crate) fn out_of_patience(&mut self, call: CallId) {
        let c = call.client;
        if self.clients[c].waiting != Some(call) {
            return;
        }
        self.clients[c].waiting = None;
        match &mut self.clients[c].stage {
            Stage::Idle => {}
            Stage::Executing { unanswered, .. } => {
                *unanswered += 1;
                self.execute(c);
            }
            // Whatever was begun has no branches, and ends by itself.
            Stage::Beginning => self.conclude(c, Outcome::Aborted),
            Stage::Working { .. } => self.abort(c),
            Stage::Committing { id } => {
                // Half of the clients ask again, the others ask what became of it.
                let id = *id;
                if self.random.chance(self.rates.confused) {
                    self.faults.add(Fault::ConfusedClient);
                    let call = self.next_call(c);
                    self.post(Letter::Ask { call, ask: Ask::Abort { id } });
                }
                let applied = self.random.one_in(2);
                let ask = if self.random.one_in(2) {
                    Ask::Commit { id, applied }
                } else {
                    Ask::Look { id }
                };
                self.ask(c, ask);
            }
            // Nobody has asked for a commit.
            Stage::Aborting { .. } => self.conclude(c, Outcome::Aborted),
        }
    }

    pub(crate) fn answered(&mut self, call: CallId, said: Said) {
        let c = call.client;
        if self.clients[c].waiting != Some(call) {
            return;
        }
        self.clients[c].waiting = None;
        match said {
            Said::NotNow => match self.clients[c].stage {
                Stage::Beginning => self.conclude(c, Outcome::Aborted),
                _ => self.later(c),
            },
            Said::Known(known) => self.known(c, known),
            Said::Reply(Reply::Begun { id, .. }) => self.has_begun(c, id),
            Said::Reply(Reply::Outcome(outcome)) => self.outcome(c, &outcome),
            Said::Reply(Reply::Refused(refusal)) => self.refused(c, &refusal),
            Said::Reply(Reply::Unknown { .. } | Reply::Undecided { .. }) => self.later(c),
            Said::Reply(Reply::Enlisted { .. } | Reply::Inquired(_)) => {
                self.oracle.violated(None, "a client got an answer that is for participants");
            }
        }
    }

    fn has_begun(&mut self, c: usize, id: handfast_commit_core::id::TransactionId) {
        let client = &mut self.clients[c];
        let Some(ticket) = client.ticket else { return };
        let plan = client.plan.clone();
        client.stage = Stage::Working { id, left: plan.steps(&mut self.random), tried: 0 };
        self.interactive.insert(id, Job { plan, ticket, concluded: false });
        self.client_goes_on(c);
    }

    fn outcome(&mut self, c: usize, outcome: &CoreOutcome) {
        let (now, lane, id) = (self.now, client_lane(c), outcome.id);
        let committed = outcome.result.is_ok();
        let told = if committed { Told::Committed } else { Told::Aborted };
        self.recorder.record(|trace| trace.told(now, lane, Some(id), told, ""));
        match &self.clients[c].stage {
            Stage::Executing { unanswered, .. } => {
                let unanswered = *unanswered;
                if committed {
                    self.read_results(c, outcome);
                    return self.conclude(c, Outcome::Committed);
                }
                if self.random.one_in(4) && !self.healed {
                    return self.later(c);
                }
                // An earlier call that is still on its way would be another attempt.
                let told = if unanswered == 0 { Outcome::Aborted } else { Outcome::Unknown };
                self.conclude(c, told);
            }
            Stage::Committing { .. } if committed => self.conclude(c, Outcome::Committed),
            _ => self.conclude(c, Outcome::Aborted),
        }
    }

    fn known(&mut self, c: usize, known: Known) {
        match known {
            Known::Committed => self.conclude(c, Outcome::Committed),
            // A transaction that only reads leaves no trace, committed or not.
            Known::Aborted if !self.clients[c].plan.writes() => self.conclude(c, Outcome::Unknown),
            Known::Aborted => self.conclude(c, Outcome::Aborted),
            Known::Running | Known::Unknown => self.later(c),
        }
    }

    fn refused(&mut self, c: usize, refusal: &ClientRefusal) {
        let stage = &self.clients[c].stage;
        match refusal {
            ClientRefusal::TooManyInFlight { .. }
            | ClientRefusal::ParticipantBusy { .. }
            | ClientRefusal::TooManyUndelivered { .. } => {
                self.later(c);
            }
            ClientRefusal::RequestIdReused { id } => {
                let what = "a request that was not used for anything else is refused as reused";
                self.oracle.violated(Some(*id), what);
            }
            ClientRefusal::Over { .. }
            | ClientRefusal::NotActive { .. }
            | ClientRefusal::Decided { .. }
            | ClientRefusal::TooManyBranches { .. } => match stage {
                Stage::Aborting { .. } => self.conclude(c, Outcome::Aborted),
                _ => self.later(c),
            },
        }
    }

    pub(crate) fn worked(&mut self, call: CallId, result: Result<KeyValueResult, WorkError>) {
        let c = call.client;
        if self.clients[c].waiting != Some(call) {
            return;
        }
        self.clients[c].waiting = None;
        let Stage::Working { left, tried, .. } = &mut self.clients[c].stage else { return };
        match result {
            Ok(result) => {
                let (participant, _, planned) = left.remove(0);
                *tried = 0;
                if planned {
                    self.read(c, participant, &result);
                }
                self.client_goes_on(c);
            }
            Err(WorkError::TryAgain) if *tried < TRIES_MAX => {
                *tried += 1;
                self.later(c);
            }
            Err(_) => self.abort(c),
        }
    }

    fn read_results(&mut self, c: usize, outcome: &CoreOutcome) {
        for (from, payload) in &outcome.results {
            let Some(&participant) = self.names.get(from) else { continue };
            match KeyValueResult::decode(payload.clone()) {
                Ok(result) => self.read(c, participant, &result),
                Err(error) => {
                    let what =
                        format!("the result of {} is unreadable: {error}", name(participant));
                    self.oracle.violated(Some(outcome.id), what);
                }
            }
        }
    }

    fn read(&mut self, c: usize, participant: usize, result: &KeyValueResult) {
        let client = &mut self.clients[c];
        for (place, at) in client.plan.reads_of(participant) {
            if client.plan.registers[place].expect.is_some() {
                continue;
            }
            let Some(result) = result.results.get(at) else { continue };
            let value = result.value.as_ref().map(|value| number(value));
            client.seen[place] = Some(value);
        }
    }

    /// Asks for something else under the name of a request that has committed, of a participant that knows:
    /// another one, or a coordinator that has just started, may not have heard of a one-phase commit.
    fn use_again(&mut self, c: usize, request: String, to: usize) {
        self.faults.add(Fault::ConfusedClient);
        let call = self.next_call(c);
        let branches = vec![(to, look())];
        let protocol = Protocol::TwoPhase;
        let ask = Ask::Execute { request, protocol, branches, applied: false };
        self.post(Letter::Ask { call, ask });
    }

    /// The client is done with its transaction, and begins another one after a while.
    fn conclude(&mut self, c: usize, outcome: Outcome) {
        let client = &mut self.clients[c];
        let plan = std::mem::take(&mut client.plan);
        let seen = std::mem::take(&mut client.seen);
        let stage = std::mem::take(&mut client.stage);
        client.waiting = None;
        if let Some(ticket) = client.ticket.take() {
            for (place, register) in plan.registers.iter().enumerate() {
                let at = (register.participant, register.register);
                let key = self.history.key(&format!("p{}-{}", at.0, at.1));
                let seen = match register.expect {
                    Some(expected) => Some(expected),
                    None => seen.get(place).copied().flatten(),
                };
                if let Some(seen) = seen {
                    self.history.read(ticket, key, seen);
                }
                if let Some(value) = register.value {
                    self.history.write(ticket, key, value);
                }
                if outcome == Outcome::Committed {
                    let last = register.value.map(Some).or(seen);
                    if let Some(last) = last {
                        self.last_seen.insert(at, last);
                    }
                }
            }
            self.history.finish(ticket, outcome);
        }
        if let Stage::Executing { request, .. } = &stage
            && outcome == Outcome::Committed
            && self.random.chance(self.rates.confused)
        {
            let to = plan.work().first().map_or(0, |(participant, _)| *participant);
            self.use_again(c, request.clone(), to);
        }
        let job = match &stage {
            Stage::Executing { request, .. } => self.requests.get_mut(request),
            Stage::Working { id, .. } | Stage::Committing { id } | Stage::Aborting { id } => {
                self.interactive.get_mut(id)
            }
            Stage::Idle | Stage::Beginning => None,
        };
        if let Some(job) = job {
            job.concluded = outcome != Outcome::Unknown;
        }
        let think = 1 + self.random.below(2 * self.swarm.think_us);
        self.agenda.plan(self.now + think, Event::Client(c));
    }
}

fn number(text: &[u8]) -> u64 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}
