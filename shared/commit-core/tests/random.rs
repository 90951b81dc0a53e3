//! A coordinator that restarts and three participants, under schedules that nobody has thought of.
//!
//! Every schedule is drawn from a seed: what is delivered, lost, repeated, synced, crashed, restarted,
//! and what clients ask. Then everything heals, and every promise is checked. A failure prints its
//! seed and the command that tells its story.

mod oracle;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use bytes::Bytes;
use handfast_commit_core::id::{Incarnation, ParticipantName, TransactionId};
use handfast_commit_core::record::Request;
use handfast_commit_core::step::{Time, TimerKey};
use handfast_commit_core::two_phase::coordinator::{
    self, Execute, Input, ReplyTime, Terms, Waiter,
};
use handfast_commit_core::two_phase::participant::{self, ResourceResult};

use oracle::{Oracle, Planned};
use world::participant_host::ParticipantHost;
use world::resource::Verdict;
use world::{Body, Envelope, Pending, Who, World};

/// Schedules per run; `HANDFAST_SEEDS=100000` for a longer one.
const SEEDS: u64 = 4000;
const OPERATIONS: u64 = 220;
/// Rounds of healing: more than the longest wait needs.
const ROUNDS_MAX: usize = 3000;
const REQUESTS: u64 = 4;

#[test]
fn random_schedules_keep_every_promise() {
    if let Ok(seed) = std::env::var("HANDFAST_SEED") {
        let seed = seed.parse().expect("HANDFAST_SEED is a number");
        if let Err(failure) = story(seed) {
            panic!("{failure}");
        }
        return;
    }
    let seeds = std::env::var("HANDFAST_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let seeds = seeds.unwrap_or(SEEDS);
    let mut seen = Coverage::default();
    for seed in 0..seeds {
        match story(seed) {
            Ok(coverage) => seen.add(&coverage),
            Err(failure) => panic!("{failure}"),
        }
    }
    if seeds < SEEDS {
        return;
    }
    // A checker that has seen nothing has proved nothing.
    assert!(seen.committed > SEEDS, "{seen:?}");
    assert!(seen.aborted > SEEDS, "{seen:?}");
    assert!(seen.repeated > 50, "{seen:?}");
    assert!(seen.one_phase > 500, "{seen:?}");
    assert!(seen.restored > 30, "{seen:?}");
    assert!(seen.inquired > 300, "{seen:?}");
    assert!(seen.by_peers > 20, "{seen:?}");
}

/// What the schedules have reached, taken together.
#[derive(Debug, Default)]
struct Coverage {
    committed: u64,
    aborted: u64,
    repeated: u64,
    one_phase: u64,
    restored: u64,
    inquired: u64,
    by_peers: u64,
}

impl Coverage {
    fn of(run: &Run) -> Self {
        let said =
            |text: &str| run.world.lines.iter().filter(|line| line.contains(text)).count() as u64;
        let told = |ok: bool| {
            run.world.told.iter().filter(|told| told.outcome.result.is_ok() == ok).count() as u64
        };
        Self {
            committed: told(true),
            aborted: told(false),
            repeated: run.world.told.iter().filter(|told| told.outcome.repeated).count() as u64,
            one_phase: said("in one phase"),
            restored: said("decisions to deliver: t"),
            inquired: said("> C → p1: ANSWER"),
            by_peers: said("⇢ p2: ANSWER") + said("⇢ p1: ANSWER"),
        }
    }

    fn add(&mut self, other: &Self) {
        self.committed += other.committed;
        self.aborted += other.aborted;
        self.repeated += other.repeated;
        self.one_phase += other.one_phase;
        self.restored += other.restored;
        self.inquired += other.inquired;
        self.by_peers += other.by_peers;
    }
}

/// One schedule; an error tells how to see it again.
fn story(seed: u64) -> Result<Coverage, String> {
    let mut run = Run::new(seed);
    // The core's own assertions are promises as well.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.live()))
        .unwrap_or_else(|_| Err("an assertion of the core failed".to_owned()));
    result.map(|()| Coverage::of(&run)).map_err(|failure| {
        let mut text = run.world.lines.iter().fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{line}");
            text
        });
        let _ = write!(
            text,
            "\n{failure}\nseed {seed}; again: HANDFAST_SEED={seed} cargo test -p \
             handfast-commit-core --test random"
        );
        text
    })
}

struct Run {
    world: World,
    random: u64,
    seed: u64,
    names: Vec<ParticipantName>,
    planned: BTreeMap<TransactionId, Planned>,
    interactive: Vec<TransactionId>,
    drawn: u64,
    enlistments: u64,
    /// Calls that somebody on the way keeps for a while.
    delayed: Vec<Envelope>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let config = coordinator::Config {
            delivery_window: 2,
            resend_after_us: 700_000,
            resend_after_us_max: 3_000_000,
            jitter_seed: seed,
            ..coordinator::Config::default()
        };
        let mut world = World::new(config);
        world.coordinator.log.auto = false;
        let mut names = Vec::new();
        for (index, text) in ["p1", "p2", "p3"].into_iter().enumerate() {
            let name: ParticipantName = text.parse().expect("a name");
            let config = participant::Config {
                one_phase: index == 0,
                jitter_seed: seed + index as u64,
                ..participant::Config::default()
            };
            let mut host = ParticipantHost::new(Incarnation(10 + index as u64), config);
            host.log.auto = false;
            host.resource.waits = true;
            // One that keeps all in its log and may commit alone, one with a database of its own,
            // and one that is only called.
            host.resource.external = index == 1;
            host.unary = index == 2;
            world.add_participant(name.clone(), host);
            names.push(name);
        }
        Self {
            world,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            seed,
            names,
            planned: BTreeMap::new(),
            interactive: Vec::new(),
            drawn: 0,
            enlistments: 0,
            delayed: Vec::new(),
        }
    }

    fn live(&mut self) -> Result<(), String> {
        for name in self.names.clone() {
            self.world.open(&name);
        }
        for _ in 0..OPERATIONS {
            self.operation();
        }
        self.heal()?;
        Oracle { world: &self.world, planned: &self.planned }.check()
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.random) % bound
    }

    fn some_name(&mut self) -> ParticipantName {
        let index = self.below(self.names.len() as u64);
        self.names[usize::try_from(index).unwrap_or(0)].clone()
    }

    // ---- what may happen ------------------------------------------------------------------------

    fn operation(&mut self) {
        match self.below(100) {
            // Long after the end nobody may depend on the coordinator's memory.
            0 if self.below(4) == 0 => {
                self.world.coordinator.expired = self.world.coordinator.log.durable();
            }
            0..=6 => self.execute(),
            7..=9 => self.begin(),
            10..=12 => self.enlist(),
            13..=16 => self.commit(),
            17..=18 => self.abort(),
            19..=57 => self.deliver(),
            58..=60 => self.disturb_calls(),
            61..=70 => self.resource(),
            71..=82 => self.sync(),
            83..=84 => {
                let name = self.some_name();
                self.world.cut(&name);
            }
            85..=86 => {
                let name = self.some_name();
                self.world.notice(&name);
            }
            87 if !self.delayed.is_empty() => {
                let count = self.delayed.len() as u64;
                let index = usize::try_from(self.below(count)).unwrap_or(0);
                let late = self.delayed.swap_remove(index);
                self.world.pool.push_back(late);
            }
            87..=89 => {
                let name = self.some_name();
                if !self.world.links[&name].up {
                    self.world.open(&name);
                }
            }
            90..=91 => self.crash_or_restart_coordinator(),
            92..=93 => {
                let name = self.some_name();
                self.crash_or_restart(&name);
            }
            _ => {
                self.fire_next();
            }
        }
    }

    fn draw(&mut self) -> TransactionId {
        self.drawn += 1;
        let name = format!("t{}", self.drawn);
        self.world.draw(&name)
    }

    /// The same for every attempt of a request.
    fn plan(&mut self, id: TransactionId, key: u64, branches: &BTreeSet<ParticipantName>) {
        for (index, name) in branches.iter().enumerate() {
            let verdict = match mix(self.seed ^ key.wrapping_mul(31) ^ index as u64) % 10 {
                0 => Verdict::No("a rule".to_owned()),
                1 | 2 => Verdict::ReadOnly,
                _ => Verdict::Yes,
            };
            self.world.host(name).resource.verdicts.insert(id, verdict);
        }
    }

    fn branches(&self, key: u64) -> BTreeSet<ParticipantName> {
        let draw = mix(self.seed ^ key.wrapping_mul(0x51_7c_c1));
        match draw % 8 {
            0..=2 => BTreeSet::from([self.names[0].clone()]),
            3 => BTreeSet::from([self.names[(draw >> 8) as usize % 3].clone()]),
            4 | 5 => self.names[..2].iter().cloned().collect(),
            6 => self.names[1..].iter().cloned().collect(),
            _ => self.names.iter().cloned().collect(),
        }
    }

    fn waiter(&mut self, label: &str) -> Waiter<String> {
        let reply_time = if self.below(2) == 0 { ReplyTime::Applied } else { ReplyTime::Decided };
        let until = Time(self.world.now_us).plus(self.below(8_000_000));
        Waiter { to: label.to_owned(), reply_time, until }
    }

    fn terms(&mut self) -> Terms {
        Terms { timeout_us: 1_000_000 + self.below(9_000_000), ..Terms::default() }
    }

    fn execute(&mut self) {
        if self.world.coordinator.core.is_none() {
            return;
        }
        let id = self.draw();
        let request = (self.below(3) > 0).then(|| self.below(REQUESTS));
        let key = request.unwrap_or(1000 + self.drawn);
        let branches = self.branches(key);
        self.plan(id, key, &branches);
        let request = request.map(|number| Request {
            id: format!("R{number}").parse().expect("a request's name"),
            fingerprint: 1 + number,
        });
        let work = request.as_ref().map_or_else(|| self.world.name(id), |r| r.id.to_string());
        let request_id = request.as_ref().map(|request| request.id.clone());
        let stored =
            request_id.as_ref().and_then(|request| self.world.coordinator.stored_request(request));
        let planned = Planned { branches: branches.clone(), request: request_id };
        self.planned.insert(id, planned);
        let label = self.world.name(id);
        let (waiter, terms) = (self.waiter(&label), self.terms());
        let branches = branches.into_iter().map(|name| (name, Bytes::from(work.clone()))).collect();
        self.world.say(format!("* execute {label}"));
        self.world.input(Input::Execute(Execute { id, branches, terms, request, stored, waiter }));
    }

    fn begin(&mut self) {
        if self.world.coordinator.core.is_none() {
            return;
        }
        let id = self.draw();
        self.planned.insert(id, Planned { branches: BTreeSet::new(), request: None });
        self.interactive.push(id);
        let (terms, waiter) = (self.terms(), self.world.name(id));
        self.world.input(Input::Begin { id, terms, waiter });
    }

    fn some_interactive(&mut self) -> Option<TransactionId> {
        let epoch = self.world.coordinator.epoch();
        self.world.coordinator.core.as_ref()?;
        let mine: Vec<_> =
            self.interactive.iter().filter(|id| id.epoch() == epoch).copied().collect();
        let recent = &mine[mine.len().saturating_sub(4)..];
        let count = recent.len() as u64;
        if count == 0 {
            return None;
        }
        let index = usize::try_from(self.below(count)).unwrap_or(0);
        recent.get(index).copied()
    }

    fn enlist(&mut self) {
        let Some(id) = self.some_interactive() else {
            return;
        };
        let name = self.some_name();
        if self.world.participants[&name].core.is_none() {
            return;
        }
        let branches = &mut self.planned.get_mut(&id).expect("planned").branches;
        if !branches.insert(name.clone()) {
            return;
        }
        let key = mix(u64::from_be_bytes(id.as_bytes()[8..].try_into().expect("8 bytes")));
        self.plan(id, key, &BTreeSet::from([name.clone()]));
        self.enlistments += 1;
        self.world.enlist(id, name.clone(), self.enlistments);
        let to = Who::Participant(name.clone());
        let joined = self.world.pool.iter().any(|envelope| {
            envelope.to == to
                && matches!(envelope.body, Body::Joined { id: joined, .. } if joined == id)
        });
        if !joined && let Some(planned) = self.planned.get_mut(&id) {
            planned.branches.remove(&name);
        }
    }

    fn commit(&mut self) {
        let Some(id) = self.some_interactive() else {
            return;
        };
        // A client commits when its work is done.
        let joining = self.world.pool.iter().any(
            |envelope| matches!(envelope.body, Body::Joined { id: joining, .. } if joining == id),
        );
        if !joining {
            let label = self.world.name(id);
            let waiter = self.waiter(&label);
            self.world.say(format!("* commit {label}"));
            self.world.input(Input::Commit { id, request: None, waiter });
        }
    }

    fn abort(&mut self) {
        let epoch = self.world.coordinator.epoch();
        let ids: Vec<_> = self.planned.keys().filter(|id| id.epoch() == epoch).copied().collect();
        let recent = &ids[ids.len().saturating_sub(5)..];
        if recent.is_empty() || self.world.coordinator.core.is_none() {
            return;
        }
        let index = self.below(recent.len() as u64);
        let id = recent[usize::try_from(index).unwrap_or(0)];
        let waiter = self.world.name(id);
        self.world.say(format!("* abort {waiter}"));
        self.world.input(Input::Abort { id, message: "changed its mind".to_owned(), waiter });
    }

    /// The first message of some session, or any call.
    fn deliver(&mut self) {
        let mut sessions = BTreeSet::new();
        let mut ready = Vec::new();
        for (index, envelope) in self.world.pool.iter().enumerate() {
            let first = envelope.session.is_none_or(|session| {
                sessions.insert((envelope.from.clone(), envelope.to.clone(), session))
            });
            if first {
                ready.push(index);
            }
        }
        if !ready.is_empty() {
            let index = self.below(ready.len() as u64);
            self.world.deliver(ready[usize::try_from(index).unwrap_or(0)]);
        }
    }

    /// Calls are lost, and come twice.
    fn disturb_calls(&mut self) {
        let calls: Vec<usize> = self
            .world
            .pool
            .iter()
            .enumerate()
            .filter(|(_, envelope)| {
                envelope.session.is_none() && !matches!(envelope.body, Body::Joined { .. })
            })
            .map(|(index, _)| index)
            .collect();
        if calls.is_empty() {
            return;
        }
        let index = calls[usize::try_from(self.below(calls.len() as u64)).unwrap_or(0)];
        let line = self.world.envelope(&self.world.pool[index]);
        if self.below(3) == 0 {
            self.world.pool.remove(index);
            self.world.say(format!("lost: {line}"));
        } else {
            let again = self.world.pool[index].clone();
            if again.from == Who::Coordinator && self.below(2) == 0 {
                self.delayed.push(again);
            } else {
                self.world.pool.push_back(again);
            }
            self.world.say(format!("repeated: {line}"));
        }
    }

    fn resource(&mut self) {
        let name = self.some_name();
        let fails = self.below(6) == 0;
        let host = self.world.host(&name);
        let Some((id, call)) = host.resource.pending.pop_front() else {
            return;
        };
        let result = if fails {
            Some(ResourceResult::Failed { reason: "cannot be reached".to_owned() })
        } else {
            host.resource.carry_out(id, &call)
        };
        if let Some(result) = result {
            self.world.hand_in(&name, id, result);
        }
        self.world.settle();
    }

    fn sync(&mut self) {
        let count = if self.below(3) == 0 { usize::MAX } else { 1 };
        match self.below(4) {
            0 => self.world.sync_coordinator(count),
            index => {
                let name = self.names[usize::try_from(index).unwrap_or(1) - 1].clone();
                self.world.sync_participant(&name, count);
            }
        }
    }

    fn crash_or_restart_coordinator(&mut self) {
        if self.world.coordinator.core.is_none() {
            self.world.restart_coordinator();
        } else {
            self.world.crash_coordinator();
            if self.below(2) == 0 {
                self.world.restart_coordinator();
            }
        }
    }

    fn crash_or_restart(&mut self, name: &ParticipantName) {
        if self.world.participants[name].core.is_none() {
            return self.world.restart_participant(name, false);
        }
        // A database may have done what it was asked for before anybody was told.
        let done = self.below(2) == 0;
        let resource = &mut self.world.host(name).resource;
        if resource.external && done {
            while let Some((id, call)) = resource.pending.pop_front() {
                resource.carry_out(id, &call);
            }
        }
        self.world.crash_participant(name);
        if self.below(2) == 0 {
            self.world.restart_participant(name, false);
        }
    }

    /// Moves the clock to the next timer. False when there is none.
    fn fire_next(&mut self) -> bool {
        let mut timers: Vec<(Time, Who, TimerKey)> = self
            .world
            .coordinator
            .timers
            .iter()
            .map(|(key, at)| (*at, Who::Coordinator, key.clone()))
            .collect();
        for (name, host) in &self.world.participants {
            timers.extend(
                host.timers.iter().map(|(id, at)| {
                    (*at, Who::Participant(name.clone()), TimerKey::Transaction(*id))
                }),
            );
        }
        let Some((at, who, key)) = timers.into_iter().min() else {
            return false;
        };
        self.world.now_us = self.world.now_us.max(at.0);
        match (who, key) {
            (Who::Coordinator, key) => self.world.fire_coordinator(key),
            (Who::Participant(name), TimerKey::Transaction(id)) => {
                self.world.fire_participant(&name, id);
            }
            (Who::Participant(_), TimerKey::Participant(_)) => {}
        }
        true
    }

    // ---- the end --------------------------------------------------------------------------------

    /// Everybody comes back, and nothing is lost any more: everything must come to its end.
    fn heal(&mut self) -> Result<(), String> {
        self.world.say("* everything heals".to_owned());
        self.world.pool.extend(std::mem::take(&mut self.delayed));
        if self.world.coordinator.core.is_none() {
            self.world.restart_coordinator();
        }
        self.world.sync_coordinator(usize::MAX);
        self.world.coordinator.log.auto = true;
        for name in self.names.clone() {
            if self.world.participants[&name].core.is_none() {
                self.world.restart_participant(&name, false);
            }
            self.world.sync_participant(&name, usize::MAX);
            let host = self.world.host(&name);
            host.log.auto = true;
            host.resource.waits = false;
            let pending: Vec<_> = std::mem::take(&mut host.resource.pending).into();
            for (id, call) in pending {
                let result = self.world.host(&name).resource.carry_out(id, &call);
                if let Some(result) = result {
                    let input = participant::Input::Resource { id, result };
                    self.world.push(Pending::ToParticipant(name.clone(), input));
                }
            }
            self.world.settle();
            self.world.notice(&name);
            self.world.open(&name);
        }
        self.run_to_the_end()?;
        // What a participant has not been told in this session, it is told in the next.
        for name in self.names.clone() {
            self.world.open(&name);
        }
        self.run_to_the_end()
    }

    fn run_to_the_end(&mut self) -> Result<(), String> {
        for _ in 0..ROUNDS_MAX {
            if !self.world.pool.is_empty() {
                self.world.deliver(0);
            } else if !self.fire_next() {
                return Ok(());
            }
        }
        Err("it never comes to an end".to_owned())
    }
}

fn mix(seed: u64) -> u64 {
    let mut z = seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
