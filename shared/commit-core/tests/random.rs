//! A coordinator that restarts, participants and a witness, under schedules that nobody has thought of.
//!
//! Every schedule is drawn from a seed: the protocol of each transaction, what is delivered, lost, repeated,
//! synced, crashed, restarted and cut off from whom, and what clients ask. Then everything heals, and every
//! promise is checked. A failure prints its seed and the command that tells its story.

mod oracle;
mod terminations;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use bytes::Bytes;
use handfast_commit_core::id::{Incarnation, ParticipantName, Protocol, TransactionId};
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
const ROUNDS_MAX: usize = 12_000;
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
    assert!(seen.led > 500, "{seen:?}");
    assert!(seen.ended_both_ways.0 > 20 && seen.ended_both_ways.1 > 200, "{seen:?}");
    assert!(seen.duels > 20, "{seen:?}");
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
    /// Elections, transactions that a participant led to commit and to abort, and leaders that were refused.
    led: u64,
    ended_both_ways: (u64, u64),
    duels: u64,
}

impl Coverage {
    fn of(run: &Run) -> Self {
        let said =
            |text: &str| run.world.lines.iter().filter(|line| line.contains(text)).count() as u64;
        Self {
            committed: told(&run.world, true),
            aborted: told(&run.world, false),
            repeated: run.world.told.iter().filter(|told| told.outcome.repeated).count() as u64,
            one_phase: said("in one phase"),
            restored: said("decisions to deliver: t"),
            inquired: said("> C → p1: ANSWER"),
            by_peers: said("⇢ p2: ANSWER") + said("⇢ p1: ANSWER"),
            led: said("leads ballot"),
            ended_both_ways: (said("terminated: committed"), said("terminated: aborted")),
            duels: said("> p1 ⇢ p2: REFUSED") + said("> p2 ⇢ p1: REFUSED"),
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
        self.led += other.led;
        self.ended_both_ways.0 += other.ended_both_ways.0;
        self.ended_both_ways.1 += other.ended_both_ways.1;
        self.duels += other.duels;
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
            // and one that is only called, unless it has to be a voting site.
            host.resource.external = index == 1;
            host.unary = index == 2 && seed.is_multiple_of(3);
            world.add_participant(name.clone(), host);
            names.push(name);
        }
        if seed.is_multiple_of(4) {
            let name: ParticipantName = "w".parse().expect("a name");
            world.add_witness(name.clone());
            if let Some(host) = world.witnesses.get_mut(&name) {
                host.log.auto = false;
            }
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
            90 if self.below(2) == 0 => self.split_or_heal(),
            90..=91 => self.crash_or_restart_coordinator(),
            92..=93 => {
                let name = self.some_name();
                self.crash_or_restart(&name);
            }
            94 if self.below(3) == 0 => {
                for name in self.world.witnesses.keys().cloned().collect::<Vec<_>>() {
                    if self.world.witnesses[&name].core.is_some() && self.below(2) == 0 {
                        self.world.crash_witness(&name);
                    } else {
                        self.world.restart_witness(&name);
                    }
                }
            }
            _ => {
                fire_next(&mut self.world);
            }
        }
    }

    /// The protocol is part of a request, as its branches are.
    fn draw(&mut self, key: u64) -> TransactionId {
        let name = format!("t{}", self.drawn);
        let three = mix(self.seed ^ key.wrapping_mul(0x3_c0_de)).is_multiple_of(2);
        self.world.draw(&name, if three { Protocol::ThreePhase } else { Protocol::TwoPhase })
    }

    /// The network falls into two parts, or is whole again.
    fn split_or_heal(&mut self) {
        if !self.world.groups.is_empty() {
            self.world.say("* the network heals".to_owned());
            return self.world.split(BTreeMap::new());
        }
        let mut groups = BTreeMap::new();
        let names = self.names.iter().map(|name| Who::Participant(name.clone()));
        let witnesses = self.world.witnesses.keys().map(|name| Who::Witness(name.clone()));
        let everybody: Vec<_> = names.chain(witnesses).chain([Who::Coordinator]).collect();
        for who in everybody {
            groups.insert(who, usize::from(self.below(2) == 0));
        }
        self.world.say(format!("* the network splits: {groups:?}"));
        self.world.split(groups);
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
        self.drawn += 1;
        let request = (self.below(3) > 0).then(|| self.below(REQUESTS));
        let key = request.unwrap_or(1000 + self.drawn);
        let id = self.draw(key);
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
        self.drawn += 1;
        let id = self.draw(1000 + self.drawn);
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
            let may_wait = again.from == Who::Coordinator || matches!(again.body, Body::Order(_));
            if may_wait && self.below(2) == 0 {
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
            0 if self.below(3) == 0 => {
                for name in self.world.witnesses.keys().cloned().collect::<Vec<_>>() {
                    self.world.sync_witness(&name, count);
                }
            }
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

    // ---- the end --------------------------------------------------------------------------------

    /// Everybody comes back, and nothing is lost any more: everything must come to its end.
    fn heal(&mut self) -> Result<(), String> {
        self.world.say("* everything heals".to_owned());
        self.world.pool.extend(std::mem::take(&mut self.delayed));
        self.world.split(BTreeMap::new());
        for name in self.world.witnesses.keys().cloned().collect::<Vec<_>>() {
            if self.world.witnesses[&name].core.is_none() {
                self.world.restart_witness(&name);
            }
            self.world.sync_witness(&name, usize::MAX);
            if let Some(host) = self.world.witnesses.get_mut(&name) {
                host.log.auto = true;
            }
        }
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
                    self.world.push(Pending::Participant(name.clone(), input));
                }
            }
            self.world.settle();
            self.world.notice(&name);
            self.world.open(&name);
        }
        run_to_the_end(&mut self.world)?;
        // What a participant has not been told in this session, it is told in the next.
        for name in self.names.clone() {
            self.world.open(&name);
        }
        run_to_the_end(&mut self.world)
    }
}

/// How often clients were told this outcome.
fn told(world: &World, committed: bool) -> u64 {
    world.told.iter().filter(|told| told.outcome.result.is_ok() == committed).count() as u64
}

/// Moves the clock to the next timer. False when there is none.
fn fire_next(world: &mut World) -> bool {
    let timers = world.coordinator.timers.iter();
    let mut timers: Vec<(Time, Who, TimerKey)> =
        timers.map(|(key, at)| (*at, Who::Coordinator, key.clone())).collect();
    for (name, host) in &world.participants {
        timers.extend(
            host.timers
                .iter()
                .map(|(id, at)| (*at, Who::Participant(name.clone()), TimerKey::Transaction(*id))),
        );
    }
    let Some((at, who, key)) = timers.into_iter().min() else {
        return false;
    };
    world.now_us = world.now_us.max(at.0);
    match (who, key) {
        (Who::Coordinator, key) => world.fire_coordinator(key),
        (Who::Participant(name), TimerKey::Transaction(id)) => world.fire_participant(&name, id),
        (Who::Participant(_) | Who::Witness(_), _) => {}
    }
    true
}

/// Everything arrives, and timers run out in their order, until nothing happens any more.
fn run_to_the_end(world: &mut World) -> Result<(), String> {
    for _ in 0..ROUNDS_MAX {
        if !world.pool.is_empty() {
            world.deliver(0);
        } else if !fire_next(world) {
            return Ok(());
        }
    }
    Err("it never comes to an end".to_owned())
}

fn mix(seed: u64) -> u64 {
    let mut z = seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
