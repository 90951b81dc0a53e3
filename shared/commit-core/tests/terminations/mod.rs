//! Three-phase commit where it is hardest: everybody has voted, or nearly, and then nothing is left in peace.
//!
//! Few transactions, all of them of this protocol, between up to four participants with or without a witness, so
//! that most of what happens is elections: timers run out in any order, every process dies and comes back, the
//! network falls apart and heals, messages are lost, repeated and late. Then everything heals, and every promise
//! is checked.

use std::collections::BTreeMap;

use bytes::Bytes;
use handfast_commit_core::id::{Incarnation, ParticipantName, Protocol, TransactionId};
use handfast_commit_core::step::{Time, TimerKey};
use handfast_commit_core::two_phase::coordinator::{
    self, Execute, Input, ReplyTime, Terms, Waiter,
};
use handfast_commit_core::two_phase::participant;

use super::oracle::{Oracle, Planned};
use super::world::participant_host::ParticipantHost;
use super::world::resource::Verdict;
use super::world::{Envelope, Who, World};
use super::{mix, run_to_the_end, told};

/// Schedules per run; `HANDFAST_SEEDS=100000` for a longer one.
const SEEDS: u64 = 6000;
const OPERATIONS: u64 = 160;

#[test]
fn whatever_the_sites_are_put_through_they_agree() {
    if let Ok(seed) = std::env::var("HANDFAST_SEED") {
        let seed = seed.parse().expect("HANDFAST_SEED is a number");
        if let Err(failure) = story(seed) {
            panic!("{failure}");
        }
        return;
    }
    let seeds = std::env::var("HANDFAST_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let seeds = seeds.unwrap_or(SEEDS);
    let mut seen = [0; 6];
    for seed in 0..seeds {
        match story(seed) {
            Ok(coverage) => seen.iter_mut().zip(coverage).for_each(|(all, one)| *all += one),
            Err(failure) => panic!("{failure}"),
        }
    }
    // A checker that has seen nothing has proved nothing.
    let [committed, aborted, led, to_commit, to_abort, refused] = seen;
    assert!(seeds < SEEDS || committed > seeds / 4, "{seen:?}");
    assert!(seeds < SEEDS || aborted > seeds / 8, "{seen:?}");
    assert!(seeds < SEEDS || led > seeds, "{seen:?}");
    assert!(seeds < SEEDS || to_commit > seeds / 20, "{seen:?}");
    assert!(seeds < SEEDS || to_abort > seeds / 20, "{seen:?}");
    assert!(seeds < SEEDS || refused > seeds / 10, "{seen:?}");
}

/// One schedule; an error tells how to see it again. Otherwise how often something was seen: told committed, told
/// aborted, elections, ends by participants, refusals of old ballots.
fn story(seed: u64) -> Result<[u64; 6], String> {
    let mut storm = Storm::new(seed);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| storm.live()))
        .unwrap_or_else(|_| Err("an assertion of the core failed".to_owned()));
    let lines = &storm.world.lines;
    let said = |text: &str| lines.iter().filter(|line| line.contains(text)).count() as u64;
    result.map_err(|failure| {
        format!(
            "{}\n\n{failure}\nseed {seed}; again: HANDFAST_SEED={seed} cargo test -p \
             handfast-commit-core --test random terminations",
            lines.join("\n")
        )
    })?;
    Ok([
        told(&storm.world, true),
        told(&storm.world, false),
        said("leads ballot"),
        said("terminated: committed"),
        said("terminated: aborted"),
        said(": REFUSED"),
    ])
}

struct Storm {
    world: World,
    random: u64,
    names: Vec<ParticipantName>,
    planned: BTreeMap<TransactionId, Planned>,
    late: Vec<Envelope>,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let config = coordinator::Config {
            resend_after_us: 700_000,
            resend_after_us_max: 3_000_000,
            jitter_seed: seed,
            ..coordinator::Config::default()
        };
        let mut world = World::new(config);
        world.coordinator.log.auto = false;
        let count = 1 + mix(seed) % 4;
        let mut names = Vec::new();
        for index in 0..count {
            let name: ParticipantName = format!("p{}", index + 1).parse().expect("a name");
            let config =
                participant::Config { jitter_seed: seed, ..participant::Config::default() };
            let mut host = ParticipantHost::new(Incarnation(10 + index), config);
            host.log.auto = false;
            host.resource.external = index == 1;
            world.add_participant(name.clone(), host);
            names.push(name);
        }
        if mix(seed ^ 77).is_multiple_of(3) {
            let name: ParticipantName = "w".parse().expect("a name");
            world.add_witness(name.clone());
            if let Some(host) = world.witnesses.get_mut(&name) {
                host.log.auto = false;
            }
        }
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { world, random, names, planned: BTreeMap::new(), late: Vec::new() }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.random) % bound
    }

    fn pick<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        if all.is_empty() {
            return None;
        }
        let index = self.below(all.len() as u64);
        all.get(usize::try_from(index).unwrap_or(0)).cloned()
    }

    fn everybody(&self) -> Vec<Who> {
        let names = self.names.iter().map(|name| Who::Participant(name.clone()));
        let witnesses = self.world.witnesses.keys().map(|name| Who::Witness(name.clone()));
        [Who::Coordinator].into_iter().chain(names).chain(witnesses).collect()
    }

    fn live(&mut self) -> Result<(), String> {
        for name in self.names.clone() {
            self.world.open(&name);
        }
        self.calm(usize::MAX);
        for _ in 0..1 + self.below(2) {
            self.begin();
        }
        // Up to here nothing goes wrong: the votes, and perhaps the first moves.
        let calm = self.below(6 * self.names.len() as u64 + 3);
        self.calm(usize::try_from(calm).unwrap_or(0));
        for _ in 0..OPERATIONS {
            self.operation();
        }
        self.heal()?;
        Oracle { world: &self.world, planned: &self.planned }.check()
    }

    fn begin(&mut self) {
        let number = self.planned.len() + 1;
        let id = self.world.draw(&format!("t{number}"), Protocol::ThreePhase);
        for name in self.names.clone() {
            let verdict = match self.below(20) {
                0 => Verdict::No("a rule".to_owned()),
                1 | 2 => Verdict::ReadOnly,
                _ => Verdict::Yes,
            };
            self.world.host(&name).resource.verdicts.insert(id, verdict);
        }
        let work = Bytes::from(self.world.name(id));
        let branches = self.names.iter().map(|name| (name.clone(), work.clone())).collect();
        let label = self.world.name(id);
        let until = Time(self.world.now_us).plus(8_000_000);
        let waiter = Waiter { to: label, reply_time: ReplyTime::Decided, until };
        let terms = Terms { timeout_us: 6_000_000, ..Terms::default() };
        let branches_planned = self.names.iter().cloned().collect();
        self.planned.insert(id, Planned { branches: branches_planned, request: None });
        let execute = Execute { id, branches, terms, request: None, stored: None, waiter };
        self.world.input(Input::Execute(execute));
    }

    /// Messages arrive and records become durable, in their order.
    fn calm(&mut self, steps: usize) {
        for _ in 0..steps {
            self.sync_all();
            if self.world.pool.is_empty() {
                return;
            }
            self.world.deliver(0);
        }
        self.sync_all();
    }

    fn sync_all(&mut self) {
        for who in self.everybody() {
            self.sync(&who, usize::MAX);
        }
    }

    fn sync(&mut self, who: &Who, count: usize) {
        match who {
            Who::Coordinator => self.world.sync_coordinator(count),
            Who::Participant(name) => self.world.sync_participant(name, count),
            Who::Witness(name) => self.world.sync_witness(name, count),
        }
    }

    fn operation(&mut self) {
        match self.below(100) {
            0..=39 => self.deliver(),
            40..=64 => {
                let all = self.everybody();
                if let Some(who) = self.pick(&all) {
                    let count = if self.below(3) == 0 { 1 } else { usize::MAX };
                    self.sync(&who, count);
                }
            }
            65..=79 => self.fire(),
            80..=84 => {
                let all = self.everybody();
                if let Some(who) = self.pick(&all) {
                    self.crash_or_restart(&who);
                }
            }
            85..=87 => self.split_or_heal(),
            88..=92 => {
                let names = self.names.clone();
                if let Some(name) = self.pick(&names) {
                    self.world.notice(&name);
                    if !self.world.links[&name].up {
                        self.world.open(&name);
                    }
                }
            }
            93..=96 => self.disturb(),
            _ => {
                if let Some(late) = self.late.pop() {
                    self.world.pool.push_back(late);
                }
            }
        }
    }

    /// The first message of some session, or any call.
    fn deliver(&mut self) {
        let mut sessions = std::collections::BTreeSet::new();
        let mut ready = Vec::new();
        for (index, envelope) in self.world.pool.iter().enumerate() {
            let first = envelope.session.is_none_or(|session| {
                sessions.insert((envelope.from.clone(), envelope.to.clone(), session))
            });
            if first {
                ready.push(index);
            }
        }
        if let Some(index) = self.pick(&ready) {
            self.world.deliver(index);
        }
    }

    /// Calls are lost, come twice, and come late.
    fn disturb(&mut self) {
        let calls: Vec<usize> = (0..self.world.pool.len())
            .filter(|index| self.world.pool[*index].session.is_none())
            .collect();
        let Some(index) = self.pick(&calls) else {
            return;
        };
        let line = self.world.envelope(&self.world.pool[index]);
        match self.below(3) {
            0 => {
                self.world.pool.remove(index);
                self.world.say(format!("lost: {line}"));
            }
            1 => {
                let again = self.world.pool[index].clone();
                self.world.pool.push_back(again);
                self.world.say(format!("repeated: {line}"));
            }
            _ => {
                self.late.extend(self.world.pool.remove(index));
                self.world.say(format!("late: {line}"));
            }
        }
    }

    /// Some timer, whosever: clocks go as they like.
    fn fire(&mut self) {
        let timers = self.world.coordinator.timers.iter();
        let mut all: Vec<_> =
            timers.map(|(key, at)| (*at, Who::Coordinator, key.clone())).collect();
        for (name, host) in &self.world.participants {
            all.extend(
                host.timers.iter().map(|(id, at)| {
                    (*at, Who::Participant(name.clone()), TimerKey::Transaction(*id))
                }),
            );
        }
        let Some((at, who, key)) = self.pick(&all) else {
            return;
        };
        self.world.now_us = self.world.now_us.max(at.0);
        match (who, key) {
            (Who::Coordinator, key) => self.world.fire_coordinator(key),
            (Who::Participant(name), TimerKey::Transaction(id)) => {
                self.world.fire_participant(&name, id);
            }
            (Who::Participant(_) | Who::Witness(_), _) => {}
        }
    }

    fn crash_or_restart(&mut self, who: &Who) {
        let up = self.world.is_up(who);
        let comes_back = !up || self.below(3) == 0;
        match who {
            Who::Coordinator => {
                if up {
                    self.world.crash_coordinator();
                }
                if comes_back {
                    self.world.restart_coordinator();
                }
            }
            Who::Participant(name) => {
                if up {
                    self.world.crash_participant(name);
                }
                if comes_back {
                    self.world.restart_participant(name, false);
                }
                self.world.notice(name);
            }
            Who::Witness(name) => {
                if up {
                    self.world.crash_witness(name);
                }
                if comes_back {
                    self.world.restart_witness(name);
                }
            }
        }
    }

    fn split_or_heal(&mut self) {
        let mut groups = BTreeMap::new();
        if self.world.groups.is_empty() {
            for who in self.everybody() {
                groups.insert(who, usize::from(self.below(2) == 0));
            }
        }
        self.world.say(format!("* the network: {groups:?}"));
        self.world.split(groups);
    }

    fn heal(&mut self) -> Result<(), String> {
        self.world.say("* everything heals".to_owned());
        self.world.split(BTreeMap::new());
        self.world.pool.extend(std::mem::take(&mut self.late));
        for who in self.everybody() {
            if !self.world.is_up(&who) {
                self.crash_or_restart(&who);
            }
        }
        self.sync_all();
        self.world.coordinator.log.auto = true;
        for host in self.world.participants.values_mut() {
            host.log.auto = true;
        }
        for host in self.world.witnesses.values_mut() {
            host.log.auto = true;
        }
        for name in self.names.clone() {
            self.world.notice(&name);
            if !self.world.links[&name].up {
                self.world.open(&name);
            }
        }
        run_to_the_end(&mut self.world)
    }
}
