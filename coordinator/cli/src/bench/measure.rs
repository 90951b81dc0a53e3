//! Measures a case: at the product and at the skeleton in turn, and the median of each.
//!
//! The law: what is compared is measured in turn, round by round, so that whatever else the machine does hits
//! both.

use std::sync::Arc;

use crate::bench::closed_loop;
use crate::bench::open_loop::{self, Offered};
use crate::bench::phases::{Seen, Split};
use crate::bench::plan::{Case, Load, Reply};
use crate::bench::system::{System, Usage};
use crate::bench::target::{Moment, Tally, Window};
use crate::bench::workload::Transactions;

/// Transactions that an open loop has open at a time.
const OPEN_MAX: usize = 100_000;
/// How long the last transactions of an open loop are waited for.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// One case at one system, in numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Numbers {
    /// Those that ended as their workload wants it.
    pub transactions_per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub aborted_per_second: f64,
    /// Why the first of them aborted.
    pub abort: Option<String>,
    pub refused_per_second: f64,
    /// Transactions that failed in a way that no workload asks for.
    pub failed: u64,
    pub failure: Option<String>,
    /// Open loops: due, and not answered in time.
    pub unanswered: u64,
    /// Processor time of each transaction, in microseconds.
    pub client_cpu_us: f64,
    pub coordinator_cpu_us: f64,
    pub participants_cpu_us: f64,
    pub split_us: Option<Split>,
}

/// A case, measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    pub case: Case,
    pub product: Numbers,
    /// Nothing where there is no skeleton.
    pub skeleton: Option<Numbers>,
}

impl Numbers {
    /// Processor time of each transaction in all processes, in microseconds.
    pub fn cpu_us(&self) -> f64 {
        self.client_cpu_us + self.coordinator_cpu_us + self.participants_cpu_us
    }

    fn new(case: &Case, tally: &Tally, used: Usage, split_us: Option<Split>) -> Self {
        let ended = match case.workload.wants_aborts() {
            true => tally.committed + tally.aborted,
            false => tally.committed,
        };
        let each = |used: std::time::Duration| used.as_secs_f64() * 1e6 / ended.max(1) as f64;
        Self {
            transactions_per_second: tally.rate(ended),
            p50_ms: tally.percentile_ms(50.0),
            p99_ms: tally.percentile_ms(99.0),
            p999_ms: tally.percentile_ms(99.9),
            aborted_per_second: tally.rate(tally.aborted),
            abort: tally.abort.clone(),
            refused_per_second: tally.rate(tally.refused),
            failed: tally.failed,
            failure: tally.failure.clone(),
            unanswered: tally.unanswered,
            client_cpu_us: each(used.client),
            coordinator_cpu_us: each(used.coordinator),
            participants_cpu_us: each(used.participants),
            split_us,
        }
    }

    /// The median of each number. Failures are added up: none may be lost.
    fn median(rounds: &[Self]) -> Self {
        let of = |number: fn(&Self) -> f64| median(rounds.iter().map(number).collect());
        let splits: Vec<_> = rounds.iter().filter_map(|round| round.split_us).collect();
        let split_us = (!splits.is_empty()).then(|| {
            std::array::from_fn(|part| median(splits.iter().map(|split| split[part]).collect()))
        });
        Self {
            transactions_per_second: of(|round| round.transactions_per_second),
            p50_ms: of(|round| round.p50_ms),
            p99_ms: of(|round| round.p99_ms),
            p999_ms: of(|round| round.p999_ms),
            aborted_per_second: of(|round| round.aborted_per_second),
            abort: rounds.iter().find_map(|round| round.abort.clone()),
            refused_per_second: of(|round| round.refused_per_second),
            failed: rounds.iter().map(|round| round.failed).sum(),
            failure: rounds.iter().find_map(|round| round.failure.clone()),
            unanswered: rounds.iter().map(|round| round.unanswered).sum(),
            client_cpu_us: of(|round| round.client_cpu_us),
            coordinator_cpu_us: of(|round| round.coordinator_cpu_us),
            participants_cpu_us: of(|round| round.participants_cpu_us),
            split_us,
        }
    }
}

/// The middle one; the mean of the two in the middle when they are even.
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match (numbers.len(), numbers.len() % 2) {
        (0, _) => 0.0,
        (_, 1) => numbers[middle],
        _ => f64::midpoint(numbers[middle - 1], numbers[middle]),
    }
}

impl Measured {
    /// Measures a case. `progress` is told before each measurement.
    ///
    /// # Errors
    /// A sentence, when it cannot be measured at all.
    pub async fn measure(
        case: Case,
        product: &System,
        skeleton: Option<&System>,
        rounds: u32,
        window: Window,
        progress: &impl Fn(&str),
    ) -> Result<Self, String> {
        let (mut at_product, mut at_skeleton) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            progress(&format!("round {round} of {rounds}: product"));
            at_product.push(once(&case, product, window).await?);
            if let Some(skeleton) = skeleton {
                progress(&format!("round {round} of {rounds}: skeleton"));
                at_skeleton.push(once(&case, skeleton, window).await?);
            }
        }
        Ok(Self {
            case,
            product: Numbers::median(&at_product),
            skeleton: skeleton.map(|_| Numbers::median(&at_skeleton)),
        })
    }

    /// Part of the skeleton's throughput.
    pub fn ratio(&self) -> Option<f64> {
        let skeleton = self.skeleton.as_ref()?.transactions_per_second;
        (skeleton > 0.0).then(|| self.product.transactions_per_second / skeleton)
    }

    /// How many times the skeleton's median latency.
    pub fn p50_ratio(&self) -> Option<f64> {
        let skeleton = self.skeleton.as_ref()?.p50_ms;
        (skeleton > 0.0).then(|| self.product.p50_ms / skeleton)
    }
}

/// One measurement, over a connection of its own.
async fn once(case: &Case, system: &System, window: Window) -> Result<Numbers, String> {
    let participants: Arc<[String]> =
        system.stores().iter().take(case.participants).cloned().collect();
    if participants.len() < case.participants {
        return Err(format!(
            "{} participants are wanted, and {} has {}",
            case.participants,
            system.endpoint(),
            participants.len()
        ));
    }
    let target = Transactions {
        client: system.client(case.mode)?,
        participants,
        workload: case.workload,
        protocol: case.protocol.protocol(),
        reply: case.reply.time(),
    };
    let pages = system.metrics_addresses();
    let mut seen = [Seen::default(), Seen::default()];
    let mut used = [Usage::default(); 2];
    let observe = async |moment| {
        let at = usize::from(moment == Moment::End);
        used[at] = system.usage();
        seen[at] = Seen::read(&pages).await;
    };
    let tally = match case.load {
        Load::Closed { clients } => closed_loop::run(&target, clients, window, observe).await,
        Load::Open { rate } => {
            let offered = Offered { rate, open_max: OPEN_MAX, patience: PATIENCE };
            let ran = open_loop::run(&target, offered, window, observe).await;
            ran.map_err(|error| format!("no thread for the time: {error}"))?
        }
    };
    let split = seen[1].split(&seen[0], tally.mean_us(), case.reply == Reply::Applied);
    let used = used[1].since(used[0]);
    Ok(Numbers::new(case, &tally, used, split))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_one() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(Vec::new()), 0.0);
    }

    #[test]
    fn failures_of_all_rounds_are_told() {
        let round = |rate, failed| Numbers {
            transactions_per_second: rate,
            failed,
            failure: (failed > 0).then(|| "why".to_owned()),
            ..Numbers::default()
        };
        let median = Numbers::median(&[round(10.0, 0), round(30.0, 2), round(20.0, 1)]);
        assert_eq!(median.transactions_per_second, 20.0);
        assert_eq!((median.failed, median.failure.as_deref()), (3, Some("why")));
    }
}
