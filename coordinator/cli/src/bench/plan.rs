//! What is measured: the cases, and how often and how long.

use std::time::Duration;

use clap::ValueEnum;
use handfast_client::{Protocol, ReplyTime};

use crate::bench::target::Window;
use crate::bench::workload::Workload;
use crate::options::CallMode;

/// The commit protocol of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum ProtocolName {
    /// Two-phase commit.
    TwoPhase,
    /// Three-phase commit.
    ThreePhase,
    /// Paxos Commit.
    PaxosCommit,
}

impl ProtocolName {
    /// As in results.
    pub fn word(self) -> &'static str {
        match self {
            Self::TwoPhase => "two_phase",
            Self::ThreePhase => "three_phase",
            Self::PaxosCommit => "paxos_commit",
        }
    }

    /// As in messages.
    pub fn protocol(self) -> Protocol {
        match self {
            Self::TwoPhase => Protocol::TwoPhase,
            Self::ThreePhase => Protocol::ThreePhase,
            Self::PaxosCommit => Protocol::PaxosCommit,
        }
    }
}

/// When a commit is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Reply {
    /// As soon as the decision is durable.
    Decided,
    /// When every participant has applied it.
    Applied,
}

impl Reply {
    /// As in results.
    pub fn word(self) -> &'static str {
        match self {
            Self::Decided => "decided",
            Self::Applied => "applied",
        }
    }

    /// As in messages.
    pub fn time(self) -> ReplyTime {
        match self {
            Self::Decided => ReplyTime::Decided,
            Self::Applied => ReplyTime::Applied,
        }
    }
}

/// Who calls, and when.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// So many callers, each with one transaction open.
    Closed { clients: usize },
    /// So many transactions a second.
    Open { rate: f64 },
}

/// One thing that is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    pub protocol: ProtocolName,
    pub workload: Workload,
    pub participants: usize,
    pub mode: CallMode,
    pub reply: Reply,
    pub load: Load,
}

/// All of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub cases: Vec<Case>,
    /// How many are in flight at the floors.
    pub floors: Vec<usize>,
    pub floor_time: Duration,
    /// How often each case is measured, at the product and at the skeleton in turn.
    pub rounds: u32,
    pub window: Window,
}

/// Choices of the command line; what is empty is as usual.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chosen {
    pub protocols: Vec<ProtocolName>,
    pub workloads: Vec<Workload>,
    pub participants: Vec<usize>,
    pub modes: Vec<CallMode>,
    pub replies: Vec<Reply>,
    pub clients: Vec<usize>,
    pub rates: Vec<f64>,
}

fn or<T: Copy>(chosen: &[T], usual: T) -> Vec<T> {
    if chosen.is_empty() { vec![usual] } else { chosen.to_vec() }
}

/// The usual transaction: everything that is measured is this but for one thing.
const USUAL: Case = Case {
    protocol: ProtocolName::TwoPhase,
    workload: Workload::Commit,
    participants: 2,
    mode: CallMode::Stream,
    reply: Reply::Decided,
    load: Load::Closed { clients: 64 },
};

fn closed(clients: usize) -> Load {
    Load::Closed { clients }
}

impl Plan {
    /// The core of it, in under a minute.
    pub fn quick() -> Self {
        let cases = vec![
            Case { load: closed(1), ..USUAL },
            Case { load: closed(64), ..USUAL },
            Case { load: closed(256), ..USUAL },
            Case { reply: Reply::Applied, ..USUAL },
            Case { mode: CallMode::Unary, ..USUAL },
        ];
        let millis = Duration::from_millis;
        let window = Window { warm_up: millis(300), measured: millis(1000) };
        Self { cases, floors: vec![1, 64, 256], floor_time: millis(500), rounds: 3, window }
    }

    /// One thing at a time is changed from the usual transaction: a few minutes.
    pub fn usual() -> Self {
        let mut cases = Vec::new();
        for clients in CLIENTS {
            cases.push(Case { load: closed(clients), ..USUAL });
        }
        for clients in [64, 256] {
            cases.push(Case { mode: CallMode::Unary, load: closed(clients), ..USUAL });
            cases.push(Case { reply: Reply::Applied, load: closed(clients), ..USUAL });
        }
        for participants in [1, 3, 5] {
            cases.push(Case { participants, ..USUAL });
        }
        for workload in
            [Workload::Aborts, Workload::Reads, Workload::Conflicts, Workload::Interactive]
        {
            cases.push(Case { workload, ..USUAL });
        }
        cases.push(Case { load: Load::Open { rate: OPEN_RATE }, ..USUAL });
        let millis = Duration::from_millis;
        let window = Window { warm_up: millis(500), measured: millis(1500) };
        Self { cases, floors: CLIENTS.to_vec(), floor_time: millis(1000), rounds: 3, window }
    }

    /// Each protocol, each of its variations, at each load: most of an hour.
    pub fn full() -> Self {
        let mut variations = vec![USUAL];
        variations.extend([1, 3, 5].map(|participants| Case { participants, ..USUAL }));
        let workloads = Workload::value_variants().iter().skip(1);
        variations.extend(workloads.map(|&workload| Case { workload, ..USUAL }));
        variations.push(Case { mode: CallMode::Unary, ..USUAL });
        variations.push(Case { reply: Reply::Applied, ..USUAL });
        let loads = CLIENTS.map(closed).into_iter().chain([Load::Open { rate: OPEN_RATE }]);
        let mut cases = Vec::new();
        for &protocol in ProtocolName::value_variants() {
            for variation in &variations {
                cases.extend(loads.clone().map(|load| Case { protocol, load, ..*variation }));
            }
        }
        let millis = Duration::from_millis;
        let window = Window { warm_up: millis(500), measured: millis(2000) };
        Self { cases, floors: CLIENTS.to_vec(), floor_time: millis(2000), rounds: 3, window }
    }

    /// What was chosen on the command line, everything with everything.
    pub fn chosen(chosen: &Chosen) -> Self {
        let mut cases = Vec::new();
        let protocols = or(&chosen.protocols, USUAL.protocol);
        let clients = chosen.clients.iter().map(|clients| closed(*clients));
        let rates = chosen.rates.iter().map(|rate| Load::Open { rate: *rate });
        let loads: Vec<_> = clients.chain(rates).collect();
        for protocol in protocols {
            for workload in or(&chosen.workloads, USUAL.workload) {
                for participants in or(&chosen.participants, USUAL.participants) {
                    for mode in or(&chosen.modes, USUAL.mode) {
                        for reply in or(&chosen.replies, USUAL.reply) {
                            let case =
                                |load| Case { protocol, workload, participants, mode, reply, load };
                            cases.extend(or(&loads, USUAL.load).into_iter().map(case));
                        }
                    }
                }
            }
        }
        let mut floors: Vec<_> = match chosen.clients.is_empty() {
            true => vec![64],
            false => chosen.clients.clone(),
        };
        floors.sort_unstable();
        floors.dedup();
        Self { cases, floors, ..Self::usual() }
    }

    /// How many participants the largest case needs.
    pub fn participants_max(&self) -> usize {
        self.cases.iter().map(|case| case.participants).max().unwrap_or_default()
    }
}

/// The numbers of callers of closed loops.
const CLIENTS: [usize; 5] = [1, 16, 64, 256, 1024];
/// Transactions a second of the open loop: few enough for any machine to keep up with.
const OPEN_RATE: f64 = 1000.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn has(plan: &Plan, wanted: impl Fn(&Case) -> bool) -> bool {
        plan.cases.iter().any(wanted)
    }

    #[test]
    fn every_plan_measures_what_is_promised_of_the_product() {
        for plan in [Plan::quick(), Plan::usual(), Plan::full()] {
            for clients in [1, 64, 256] {
                let case = Case { load: closed(clients), ..USUAL };
                assert!(plan.cases.contains(&case), "{case:?}");
            }
            assert!(plan.cases.contains(&Case { mode: CallMode::Unary, ..USUAL }));
            assert!(plan.cases.contains(&Case { reply: Reply::Applied, ..USUAL }));
        }
    }

    #[test]
    fn the_usual_plan_changes_everything_once() {
        let plan = Plan::usual();
        for &workload in Workload::value_variants() {
            assert!(has(&plan, |case| case.workload == workload), "{workload:?}");
        }
        for participants in [1, 2, 3, 5] {
            assert!(has(&plan, |case| case.participants == participants));
        }
        for clients in CLIENTS {
            assert!(has(&plan, |case| case.load == closed(clients)));
        }
        assert!(has(&plan, |case| matches!(case.load, Load::Open { .. })));
        assert_eq!(plan.participants_max(), 5);
    }

    #[test]
    fn the_full_plan_has_every_protocol_and_load_and_ends_within_the_hour() {
        let plan = Plan::full();
        for &protocol in ProtocolName::value_variants() {
            for participants in [1, 2, 3, 5] {
                for load in CLIENTS.map(closed).into_iter().chain([Load::Open { rate: OPEN_RATE }])
                {
                    assert!(plan.cases.contains(&Case { protocol, participants, load, ..USUAL }));
                }
            }
        }
        let once = plan.window.warm_up + plan.window.measured;
        let cases = once * 2 * plan.rounds * plan.cases.len() as u32;
        assert!(cases < Duration::from_secs(3600), "{cases:?}");
    }

    #[test]
    fn what_is_chosen_is_crossed_and_the_rest_is_usual() {
        let chosen = Chosen {
            clients: vec![8, 4],
            rates: vec![100.0],
            modes: vec![CallMode::Unary, CallMode::Stream],
            ..Chosen::default()
        };
        let plan = Plan::chosen(&chosen);
        assert_eq!(plan.cases.len(), 6);
        assert!(plan.cases.iter().all(|case| case.participants == 2));
        assert!(plan.cases.contains(&Case { load: Load::Open { rate: 100.0 }, ..USUAL }));
        assert_eq!(plan.floors, [4, 8]);
        assert_eq!(Plan::chosen(&Chosen::default()).cases, [USUAL]);
    }

    #[test]
    fn the_quick_plan_takes_less_than_a_minute() {
        let plan = Plan::quick();
        let once = plan.window.warm_up + plan.window.measured;
        let cases = once * 2 * plan.rounds * plan.cases.len() as u32;
        // Each floor has a fifth more for its own warm-up.
        let floors = plan.floor_time * 6 / 5 * 3 * plan.floors.len() as u32;
        assert!(cases + floors < Duration::from_secs(50), "{:?}", cases + floors);
    }
}
