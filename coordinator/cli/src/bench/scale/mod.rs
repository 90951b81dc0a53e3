//! What happens when there is much of something: decided transactions that nobody acknowledges, participants,
//! branches, load, or time that one participant does not answer.
//!
//! The product alone is measured, against itself: with and without.

mod branches;
mod crowd;
mod in_doubt;
mod overload;
mod registered;
mod stalled;

use std::path::Path;
use std::sync::Arc;

use handfast_client::{Client, Protocol, ReplyTime};
use indicatif::ProgressBar;
use serde_json::{Map, Value};

use crate::bench::closed_loop;
use crate::bench::measure::median;
use crate::bench::options::Bench;
use crate::bench::plan::Plan;
use crate::bench::system::{Kind, Programs, System};
use crate::bench::target::{Tally, Window};
use crate::bench::workload::{Transactions, Workload};
use crate::failure::Failure;
use crate::options::CallMode;
use crate::output::Output;

/// Callers of the load that is measured with and without.
const CALLERS: usize = 64;

/// What was found, in the order in which it is told.
#[derive(Debug)]
pub struct Scale {
    name: &'static str,
    findings: Vec<(&'static str, Finding)>,
}

/// A number, or several, or a sentence.
#[derive(Debug, Clone, PartialEq)]
enum Finding {
    One(f64),
    Series(Vec<f64>),
    Text(String),
}

impl Scale {
    fn new(name: &'static str) -> Self {
        Self { name, findings: Vec::new() }
    }

    /// Notes a number. The unit is the end of its name.
    fn note(&mut self, name: &'static str, value: f64) {
        self.findings.push((name, Finding::One(value)));
    }

    fn note_series(&mut self, name: &'static str, values: Vec<f64>) {
        self.findings.push((name, Finding::Series(values)));
    }

    fn note_text(&mut self, name: &'static str, text: Option<&str>) {
        self.findings.extend(text.map(|text| (name, Finding::Text(text.to_owned()))));
    }

    fn bytes(&mut self, name: &'static str, system: &System) {
        self.note(name, system.coordinator_bytes().unwrap_or_default() as f64);
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let value = |number: f64| Value::from((number * 1000.0).round() / 1000.0);
        let mut fields = Map::new();
        fields.insert("scale".to_owned(), self.name.into());
        for (name, finding) in &self.findings {
            let finding = match finding {
                Finding::One(number) => value(*number),
                Finding::Series(numbers) => numbers.iter().copied().map(value).collect(),
                Finding::Text(text) => text.as_str().into(),
            };
            fields.insert((*name).to_owned(), finding);
        }
        fields.into()
    }

    /// For people, or as JSON.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn write(&self, output: &mut Output) -> Result<(), Failure> {
        if output.is_json() {
            return output.json(&self.json());
        }
        let told = |finding: &Finding| match finding {
            Finding::One(number) => shown(*number),
            Finding::Series(numbers) => {
                numbers.iter().copied().map(shown).collect::<Vec<_>>().join(" ")
            }
            Finding::Text(text) => crate::output::shown(text),
        };
        let rows = self.findings.iter();
        let rows = rows.map(|(name, finding)| [name.replace('_', " "), told(finding)]).collect();
        output.table([&self.name.replace('_', " "), ""], rows)
    }
}

fn shown(number: f64) -> String {
    match number.abs() {
        n if n >= 1000.0 => format!("{number:.0}"),
        n if n >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.3}"),
    }
}

/// Runs what was asked for. The system is left to the caller, who stops it.
///
/// # Errors
/// A sentence, when it could not be measured.
pub async fn run(
    options: &Bench,
    plan: &Plan,
    programs: &Programs,
    folder: &Path,
    systems: &mut Vec<System>,
    bar: &ProgressBar,
) -> Result<Option<Scale>, String> {
    let stage = Stage { rounds: plan.rounds, window: plan.window, bar };
    let (stores, coordinator_flags) = if options.stalled_participant {
        (3, Vec::new())
    } else {
        (2, in_doubt::flags(options.in_doubt.unwrap_or_default()))
    };
    let wanted = options.in_doubt.is_some()
        || options.registered.is_some()
        || options.branches.is_some()
        || options.overload.is_some()
        || options.stalled_participant;
    if !wanted {
        return Ok(None);
    }
    stage.says("starting the coordinator and its participants");
    systems.push(System::start(Kind::Product, programs, folder, stores, &coordinator_flags).await?);
    let Some(system) = systems.last_mut() else { return Ok(None) };
    let scale = if let Some(count) = options.in_doubt {
        in_doubt::run(count, system, &stage).await?
    } else if let Some(count) = options.registered {
        registered::run(count, system, &stage).await?
    } else if let Some(most) = options.branches {
        branches::run(most, system, &stage).await?
    } else if let Some(factor) = options.overload {
        overload::run(factor, system, &stage).await?
    } else {
        stalled::run(system, &stage).await?
    };
    Ok(Some(scale))
}

/// What all of them have.
struct Stage<'a> {
    rounds: u32,
    window: Window,
    bar: &'a ProgressBar,
}

impl Stage<'_> {
    fn says(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// Transactions a second over these participants: the median of the rounds.
    async fn throughput(&self, system: &System, participants: &[String]) -> Result<f64, String> {
        let target = usual(system.client(CallMode::Stream)?, participants);
        let mut rates = Vec::new();
        for round in 1..=self.rounds {
            self.says(&format!("throughput, round {round} of {}", self.rounds));
            let tally = closed_loop::run(&target, CALLERS, self.window, async |_| {}).await;
            rates.push(answered(&tally)?);
        }
        Ok(median(rates))
    }
}

/// Transactions that put one value at each of these participants, and are answered when decided.
fn usual(client: Client, participants: &[String]) -> Transactions {
    Transactions {
        client,
        participants: Arc::from(participants),
        workload: Workload::Commit,
        protocol: Protocol::TwoPhase,
        reply: ReplyTime::Decided,
    }
}

/// Commits a second, unless something failed that should not.
fn answered(tally: &Tally) -> Result<f64, String> {
    match (&tally.failure, tally.committed) {
        (Some(failure), _) => Err(format!("{} transactions failed: {failure}", tally.failed)),
        (None, 0) => Err("not one transaction committed".to_owned()),
        (None, committed) => Ok(tally.rate(committed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_told_in_order_and_by_name() {
        let mut scale = Scale::new("overload");
        scale.note("offered_per_second", 12_345.678_9);
        scale.note_series("coordinator_bytes", vec![1.0, 2.0]);
        let json = scale.json();
        assert_eq!(json["scale"], "overload");
        assert_eq!(json["offered_per_second"], 12_345.679);
        assert_eq!(json["coordinator_bytes"], serde_json::json!([1.0, 2.0]));
        assert_eq!([shown(12_345.6), shown(12.34), shown(0.5)], ["12346", "12.3", "0.500"]);
    }

    #[test]
    fn a_load_that_fails_gives_no_number() {
        let mut tally = Tally::new();
        assert!(answered(&tally).is_err_and(|error| error.contains("not one")));
        tally.failed = 3;
        tally.failure = Some("the disk is on fire".to_owned());
        assert!(answered(&tally).is_err_and(|error| error.contains("on fire")));
    }
}
