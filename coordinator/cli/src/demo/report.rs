//! What the demo found, for people and for programs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde_json::{Map, Value, json};

use crate::demo::tally::Counts;
use crate::failure::Failure;
use crate::options::Demo;
use crate::output::{Output, shown};
use crate::process::Vitals;

/// The result of a run.
#[derive(Debug)]
pub struct Report {
    pub options: Demo,
    pub seed: u64,
    pub counts: Counts,
    /// Requests whose outcome nobody could say, even with everything up.
    pub unresolved: u64,
    /// `None` when somebody would not say.
    pub in_doubt_after_healing: Option<usize>,
    pub vitals: Vec<Arc<Vitals>>,
    /// How often each process was cut off, in the order of `vitals`.
    pub cuts: Vec<u64>,
    pub total_before: i64,
    /// `None` when the stores could not be read.
    pub total_after: Option<i64>,
    /// How long the load ran, with the last transfers.
    pub load: Duration,
    /// From the end of the load until nothing was in doubt.
    pub healing: Duration,
    /// What did not hold, one sentence each.
    pub broken: Vec<String>,
    /// The folder with data and logs, when it is kept.
    pub kept: Option<PathBuf>,
}

impl Report {
    /// Writes it to stdout.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn write(&self, output: &mut Output) -> Result<(), Failure> {
        if output.is_json() {
            return output.json(&self.json());
        }
        output.line(&self.table())
    }

    fn transactions_per_second(&self) -> f64 {
        let rate = self.counts.committed as f64 / self.load.as_secs_f64().max(0.001);
        (rate * 10.0).round() / 10.0
    }

    fn kills(&self) -> u64 {
        self.vitals.iter().map(|vitals| vitals.kills()).sum()
    }

    fn cuts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.vitals.iter().zip(&self.cuts).map(|(vitals, count)| (vitals.name, *count))
    }

    fn recoveries(&self) -> u64 {
        self.vitals.iter().map(|vitals| vitals.recoveries()).sum()
    }

    fn slowest_recovery(&self) -> Duration {
        let slowest = self.vitals.iter().map(|vitals| vitals.slowest_recovery()).max();
        slowest.unwrap_or_default()
    }

    fn json(&self) -> Value {
        let counts = &self.counts;
        let by_reason: Map<String, Value> = counts
            .aborted
            .iter()
            .map(|(kind, count)| (kind.word().to_owned(), (*count).into()))
            .collect();
        let examples: Map<String, Value> = counts
            .samples
            .iter()
            .map(|(kind, message)| (kind.word().to_owned(), message.as_str().into()))
            .collect();
        let by_process: Map<String, Value> = self
            .vitals
            .iter()
            .map(|vitals| (vitals.name.to_owned(), vitals.kills().into()))
            .collect();
        json!({
            "committed": counts.committed,
            "committed_told_to_a_retry": counts.repeated,
            "aborted": counts.aborted_total(),
            "aborted_by_reason": by_reason,
            "aborted_examples": examples,
            "unknown": counts.unknown,
            "unknown_resolved": counts.resolved,
            "unknown_unresolved": self.unresolved,
            "unknown_example": counts.unknown_sample,
            "in_doubt_after_healing": self.in_doubt_after_healing,
            "kills": self.kills(),
            "kills_by_process": by_process,
            "partitions": self.cuts.iter().sum::<u64>(),
            "partitions_by_process": self.cuts().collect::<std::collections::BTreeMap<_, _>>(),
            "recoveries": self.recoveries(),
            "recovery_ms_max": milliseconds(self.slowest_recovery()),
            "healing_ms": milliseconds(self.healing),
            "total_before": self.total_before,
            "total_after": self.total_after,
            "transactions_per_second": self.transactions_per_second(),
            "latency_ms": {
                "p50": counts.latency_p50_ms,
                "p99": counts.latency_p99_ms,
                "max": counts.latency_max_ms,
            },
            "slowest_transaction": counts.slowest.map(|id| id.to_string()),
            "seconds": self.options.seconds,
            "clients": self.options.clients,
            "accounts": self.options.accounts,
            "protocol": self.options.protocol.word(),
            "kill_every_s": self.options.kill_every,
            "partition_every_s": self.options.partition_every,
            "seed": self.seed,
            "promises_broken": self.broken,
            "folder": self.kept.as_ref().map(|folder| folder.display().to_string()),
        })
    }

    fn table(&self) -> String {
        let counts = &self.counts;
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        table.set_content_arrangement(ContentArrangement::Disabled);
        let mut row = |name: &str, value: String, remark: String| {
            let value = Cell::new(value).set_alignment(CellAlignment::Right);
            table.add_row(vec![Cell::new(name), value, Cell::new(remark)]);
        };
        let rate = format!(
            "{} a second\n{} were told to a retry of their request",
            self.transactions_per_second(),
            counts.repeated
        );
        row("committed", counts.committed.to_string(), rate);
        let reasons: Vec<_> = counts
            .aborted
            .iter()
            .map(|(kind, count)| format!("{count} {}", kind.sentence()))
            .collect();
        row("aborted", counts.aborted_total().to_string(), reasons.join("\n"));
        let resolved = match counts.unknown {
            0 => "every client was told in its time".to_owned(),
            _ => format!("{} resolved by asking again afterwards", counts.resolved),
        };
        row("unknown", counts.unknown.to_string(), resolved);
        let kills: Vec<_> = self
            .vitals
            .iter()
            .map(|vitals| format!("{} {}", vitals.name, vitals.kills()))
            .collect();
        row("kills", self.kills().to_string(), kills.join(", "));
        let cuts: Vec<_> = self.cuts().map(|(name, count)| format!("{name} {count}")).collect();
        row("cut off", self.cuts.iter().sum::<u64>().to_string(), cuts.join(", "));
        let slowest = match self.recoveries() {
            0 => String::new(),
            _ => format!("the slowest took {:.1} s", self.slowest_recovery().as_secs_f64()),
        };
        row("recoveries", self.recoveries().to_string(), slowest);
        row("money before", self.total_before.to_string(), String::new());
        let (after, difference) = match self.total_after {
            None => ("?".to_owned(), "the stores could not be read".to_owned()),
            Some(after) if after == self.total_before => (after.to_string(), "the same".to_owned()),
            Some(after) => (after.to_string(), format!("{:+}", after - self.total_before)),
        };
        row("money after", after, difference);
        let healed = format!("{:.1} s after the last transfer", self.healing.as_secs_f64());
        let in_doubt = self.in_doubt_after_healing.map(|count| count.to_string());
        row("in doubt", in_doubt.unwrap_or_else(|| "?".to_owned()), healed);
        let latency = format!("{:.1} ms", counts.latency_p50_ms);
        let tail = format!("99 of 100 within {:.1} ms", counts.latency_p99_ms);
        row("latency", latency, tail);
        row("seed", self.seed.to_string(), "fixes amounts, victims and times".to_owned());
        format!("{table}\n{}", self.verdict())
    }

    /// In plain words.
    pub fn verdict(&self) -> String {
        let kept = match &self.kept {
            Some(folder) => format!("\ndata and logs: {}", folder.display()),
            None => String::new(),
        };
        if self.broken.is_empty() {
            return format!("every promise held{kept}");
        }
        let broken: Vec<_> =
            self.broken.iter().map(|broken| format!("BROKEN: {}", shown(broken))).collect();
        format!("{}{kept}", broken.join("\n"))
    }
}

fn milliseconds(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::tally::{AbortKind, Tally};

    fn report(broken: &[&str]) -> Report {
        let tally = Tally::new();
        let id = "0007-02-0000000012-00000000000004d2".parse().expect("an id");
        tally.committed(Duration::from_millis(3), id, false);
        tally.aborted(AbortKind::NotEnoughMoney, "below the floor");
        Report {
            options: Demo::default(),
            seed: 42,
            counts: tally.read(),
            unresolved: 0,
            in_doubt_after_healing: Some(0),
            vitals: Vec::new(),
            cuts: Vec::new(),
            total_before: 300_000,
            total_after: Some(300_000),
            load: Duration::from_secs(10),
            healing: Duration::from_millis(120),
            broken: broken.iter().map(|broken| (*broken).to_owned()).collect(),
            kept: None,
        }
    }

    #[test]
    fn the_last_line_says_in_words_whether_it_held() {
        let table = report(&[]).table();
        assert_eq!(table.lines().last(), Some("every promise held"));
        assert!(table.contains("1 not enough money") && table.contains("the same"), "{table}");
        let broken = report(&["the money does not add up"]).table();
        assert_eq!(broken.lines().last(), Some("BROKEN: the money does not add up"));
        assert!(!broken.contains("every promise held"));
    }

    #[test]
    fn programs_find_every_number() {
        let json = report(&[]).json();
        for key in [
            "committed",
            "aborted",
            "unknown",
            "in_doubt_after_healing",
            "kills",
            "partitions",
            "total_before",
            "total_after",
            "transactions_per_second",
            "seed",
        ] {
            assert!(json[key].is_number(), "{key}: {json}");
        }
        assert!(json["latency_ms"]["p50"].is_number() && json["latency_ms"]["p99"].is_number());
        assert_eq!(json["promises_broken"], json!([]));
        assert_eq!(json["aborted_by_reason"]["not_enough_money"], 1);
    }
}
