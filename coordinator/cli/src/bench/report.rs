//! What was measured, for people and for programs.
//!
//! `runs` in the JSON is the contract: whole transactions in one call that all commit, in closed loops, with
//! ten fields and no other. Everything else that was measured is in `details`, and may grow.

use serde_json::{Map, Value, json};

use crate::bench::floors::{Floor, Floors};
use crate::bench::measure::{Measured, Numbers};
use crate::bench::phases::Part;
use crate::bench::plan::{Load, Plan, ProtocolName};
use crate::bench::workload::Workload;
use crate::failure::Failure;
use crate::output::{Output, shown};

/// All of it.
#[derive(Debug)]
pub struct Results {
    pub plan: Plan,
    /// Whether the servers were started here.
    pub spawned: bool,
    pub measured: Vec<Measured>,
    pub floors: Vec<Floors>,
    /// Protocols that were to be measured, and that the coordinator does not serve.
    pub not_served: Vec<ProtocolName>,
}

fn rounded(number: f64, digits: i32) -> f64 {
    let unit = 10_f64.powi(digits);
    (number * unit).round() / unit
}

fn maybe(number: Option<f64>, digits: i32) -> Value {
    number.map_or(Value::Null, |number| rounded(number, digits).into())
}

impl Results {
    /// For programs.
    pub fn json(&self) -> Value {
        let is_run = |measured: &&Measured| {
            measured.case.workload == Workload::Commit
                && matches!(measured.case.load, Load::Closed { .. })
        };
        let runs: Vec<_> = self.measured.iter().filter(is_run).map(run).collect();
        let details: Vec<_> = self.measured.iter().map(|measured| self.detail(measured)).collect();
        let floors: Vec<_> = self.floors.iter().map(floor).collect();
        let not_served: Vec<_> = self.not_served.iter().map(|protocol| protocol.word()).collect();
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        json!({
            "runs": runs,
            "details": details,
            "floors": floors,
            "not_served": not_served,
            "settings": {
                "spawned": self.spawned,
                "seconds": self.plan.window.measured.as_secs_f64(),
                "warm_up_seconds": self.plan.window.warm_up.as_secs_f64(),
                "rounds": self.plan.rounds,
                "processors": processors,
            },
        })
    }

    fn floors_of(&self, measured: &Measured) -> Option<&Floors> {
        let Load::Closed { clients } = measured.case.load else { return None };
        self.floors.iter().find(|floors| floors.in_flight == clients)
    }

    fn detail(&self, measured: &Measured) -> Value {
        let Measured { case, product, skeleton } = measured;
        let (clients, rate) = match case.load {
            Load::Closed { clients } => (Value::from(clients), Value::Null),
            Load::Open { rate } => (Value::Null, Value::from(rate)),
        };
        let floors = self.floors_of(measured);
        let to_floor = |at: usize| {
            floors.map(|floors| product.transactions_per_second / floors.per_second[at].max(1e-9))
        };
        let ratios: Map<String, Value> = Floor::ALL
            .into_iter()
            .enumerate()
            .map(|(at, floor)| (format!("ratio_to_{}", floor.word()), maybe(to_floor(at), 4)))
            .collect();
        let mut detail = json!({
            "protocol": case.protocol.word(),
            "workload": case.workload.word(),
            "clients": clients,
            "offered_per_second": rate,
            "participants": case.participants,
            "client_mode": case.mode.word(),
            "reply": case.reply.word(),
            "product": numbers(product),
            "skeleton": skeleton.as_ref().map_or(Value::Null, numbers),
            "ratio_to_skeleton": maybe(measured.ratio(), 3),
            "p50_ratio_to_skeleton": maybe(measured.p50_ratio(), 3),
        });
        if let Some(detail) = detail.as_object_mut() {
            detail.extend(ratios);
        }
        detail
    }

    /// For people.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn write(&self, output: &mut Output) -> Result<(), Failure> {
        if output.is_json() {
            return output.json(&self.json());
        }
        let heading = [
            "protocol",
            "workload",
            "participants",
            "client",
            "reply",
            "load",
            "txn/s",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "CPU µs/txn",
            "client+coordinator+participants",
            "skeleton txn/s",
            "ratio",
            "p50 ratio",
        ];
        output.table(heading, self.measured.iter().map(row).collect())?;
        if !self.floors.is_empty() {
            output.line("")?;
            let heading = [
                "in flight",
                "fdatasync/s",
                "RocksDB/s",
                "echo/s",
                "skeleton txn/s",
                "to fdatasync",
                "to RocksDB",
                "to echo",
                "product txn/s",
                "to fdatasync",
                "to RocksDB",
                "to echo",
            ];
            output.table(
                heading,
                self.floors.iter().map(|floors| self.floor_row(floors)).collect(),
            )?;
        }
        let splits: Vec<_> = self.measured.iter().filter_map(split_row).collect();
        if !splits.is_empty() {
            output.line("")?;
            let parts = Part::ALL.map(|part| format!("{} µs", part.title()));
            let [a, b, c, d, e, f, g] = parts.each_ref().map(String::as_str);
            output.table(["where the time goes", a, b, c, d, e, f, g], splits)?;
        }
        for protocol in &self.not_served {
            output.line(&format!("{}: not served by this coordinator", protocol.word()))?;
        }
        for measured in &self.measured {
            let Measured { case, product, skeleton } = measured;
            for (who, numbers) in [("product", Some(product)), ("skeleton", skeleton.as_ref())] {
                if let Some(Numbers { failed: failed @ 1.., failure, .. }) = numbers {
                    let why = shown(failure.as_deref().unwrap_or_default());
                    let name = name(measured);
                    output.line(&format!("FAILED: {failed} at the {who}, {name}: {why}"))?;
                }
                if let Some(Numbers { unanswered: unanswered @ 1.., .. }) = numbers {
                    let load = load(case.load);
                    output.line(&format!("UNANSWERED: {unanswered} at the {who}, {load}"))?;
                }
            }
        }
        Ok(())
    }

    fn floor_row(&self, floors: &Floors) -> [String; 12] {
        // The first case with as many in flight is the usual one.
        let is_usual =
            |measured: &&Measured| measured.case.load == Load::Closed { clients: floors.in_flight };
        let usual = self.measured.iter().find(is_usual);
        let product = usual.map(|usual| usual.product.transactions_per_second);
        let skeleton = usual.and_then(|usual| usual.skeleton.as_ref());
        let skeleton = skeleton.map(|skeleton| skeleton.transactions_per_second);
        let count = |number: Option<f64>| number.map_or("-".to_owned(), |n| format!("{n:.0}"));
        let [fdatasync, rocksdb, echo] = floors.per_second;
        let to = |number: Option<f64>, floor: f64| {
            number.map_or("-".to_owned(), |number| format!("{:.3}", number / floor.max(1e-9)))
        };
        [
            floors.in_flight.to_string(),
            count(Some(fdatasync)),
            count(Some(rocksdb)),
            count(Some(echo)),
            count(skeleton),
            to(skeleton, fdatasync),
            to(skeleton, rocksdb),
            to(skeleton, echo),
            count(product),
            to(product, fdatasync),
            to(product, rocksdb),
            to(product, echo),
        ]
    }
}

/// One entry of `runs`.
fn run(measured: &Measured) -> Value {
    let Measured { case, product, skeleton } = measured;
    let clients = match case.load {
        Load::Closed { clients } => clients,
        Load::Open { .. } => 0,
    };
    let skeleton = skeleton.as_ref().map(|skeleton| skeleton.transactions_per_second);
    json!({
        "protocol": case.protocol.word(),
        "clients": clients,
        "participants": case.participants,
        "client_mode": case.mode.word(),
        "reply": case.reply.word(),
        "transactions_per_second": rounded(product.transactions_per_second, 1),
        "p50_ms": rounded(product.p50_ms, 3),
        "p99_ms": rounded(product.p99_ms, 3),
        "skeleton_transactions_per_second": maybe(skeleton, 1),
        "ratio_to_skeleton": maybe(measured.ratio(), 3),
    })
}

fn floor(floors: &Floors) -> Value {
    let mut object = Map::new();
    object.insert("in_flight".to_owned(), floors.in_flight.into());
    for (floor, per_second) in Floor::ALL.into_iter().zip(floors.per_second) {
        object.insert(format!("{}_per_second", floor.word()), rounded(per_second, 1).into());
    }
    object.into()
}

fn numbers(numbers: &Numbers) -> Value {
    let split = numbers.split_us.map(|split| {
        let parts = Part::ALL.into_iter().zip(split);
        let parts = parts.map(|(part, us)| (part.word().to_owned(), rounded(us, 1).into()));
        Value::Object(parts.collect())
    });
    json!({
        "transactions_per_second": rounded(numbers.transactions_per_second, 1),
        "p50_ms": rounded(numbers.p50_ms, 3),
        "p99_ms": rounded(numbers.p99_ms, 3),
        "p999_ms": rounded(numbers.p999_ms, 3),
        "aborted_per_second": rounded(numbers.aborted_per_second, 1),
        "abort": numbers.abort,
        "refused_per_second": rounded(numbers.refused_per_second, 1),
        "failed": numbers.failed,
        "failure": numbers.failure,
        "unanswered": numbers.unanswered,
        "cpu_us_per_transaction": {
            "client": rounded(numbers.client_cpu_us, 1),
            "coordinator": rounded(numbers.coordinator_cpu_us, 1),
            "participants": rounded(numbers.participants_cpu_us, 1),
            "all": rounded(numbers.cpu_us(), 1),
        },
        "mean_us_by_part": split,
    })
}

/// The load of a case, for people.
pub fn load(load: Load) -> String {
    match load {
        Load::Closed { clients: 1 } => "1 client".to_owned(),
        Load::Closed { clients } => format!("{clients} clients"),
        Load::Open { rate } => format!("{rate}/s open"),
    }
}

/// A case, for people.
pub fn name(measured: &Measured) -> String {
    let case = &measured.case;
    format!(
        "{} {} over {} participants, {}, {}, {}",
        case.protocol.word(),
        case.workload.word(),
        case.participants,
        case.mode.word(),
        case.reply.word(),
        load(case.load)
    )
}

fn row(measured: &Measured) -> [String; 15] {
    let Measured { case, product, skeleton } = measured;
    let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    [
        case.protocol.word().to_owned(),
        case.workload.word().to_owned(),
        case.participants.to_string(),
        case.mode.word().to_owned(),
        case.reply.word().to_owned(),
        load(case.load),
        format!("{:.0}", product.transactions_per_second),
        format!("{:.2}", product.p50_ms),
        format!("{:.2}", product.p99_ms),
        format!("{:.2}", product.p999_ms),
        format!("{:.0}", product.cpu_us()),
        format!(
            "{:.0}+{:.0}+{:.0}",
            product.client_cpu_us, product.coordinator_cpu_us, product.participants_cpu_us
        ),
        skeleton.as_ref().map_or("-".to_owned(), |s| format!("{:.0}", s.transactions_per_second)),
        ratio(measured.ratio()),
        ratio(measured.p50_ratio()),
    ]
}

fn split_row(measured: &Measured) -> Option<[String; 8]> {
    let [a, b, c, d, e, f, g] = measured.product.split_us?.map(|us| format!("{us:.0}"));
    Some([name(measured), a, b, c, d, e, f, g])
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::bench::plan::Case;
    use crate::options::CallMode;

    /// Results with every kind of case in them.
    pub fn results() -> Results {
        let plan = Plan::usual();
        let numbers = |case: &Case, part: f64| {
            let clients = match case.load {
                Load::Closed { clients } => clients as f64,
                Load::Open { .. } => 10.0,
            };
            Numbers {
                transactions_per_second: 1000.0 * clients.sqrt() * part,
                p50_ms: clients.sqrt() / part,
                p99_ms: 3.0 * clients.sqrt() / part,
                p999_ms: 9.0 * clients.sqrt() / part,
                client_cpu_us: 5.0,
                coordinator_cpu_us: 10.0,
                participants_cpu_us: 15.0,
                split_us: Some([100.0, 20.0, 150.0, 30.0, 200.0, 180.0, 0.0]),
                ..Numbers::default()
            }
        };
        let measured = plan.cases.iter().map(|case| Measured {
            case: *case,
            product: numbers(case, 0.6),
            skeleton: Some(Numbers { split_us: None, ..numbers(case, 1.0) }),
        });
        let measured = measured.collect();
        let floor = |in_flight: &usize| {
            let per_second = [8e3, 6e3, 20e3].map(|one| one * *in_flight as f64);
            Floors { in_flight: *in_flight, per_second }
        };
        let floors = plan.floors.iter().map(floor).collect();
        Results { plan, spawned: true, measured, floors, not_served: Vec::new() }
    }

    fn keys(value: &Value) -> Vec<&str> {
        let mut keys: Vec<_> = value.as_object().expect("an object").keys().collect();
        keys.sort();
        keys.into_iter().map(String::as_str).collect()
    }

    #[test]
    fn runs_have_these_fields_and_no_other() {
        let json = results().json();
        let runs = json["runs"].as_array().expect("runs");
        assert!(runs.len() >= 5);
        for run in runs {
            let expected = [
                "client_mode",
                "clients",
                "p50_ms",
                "p99_ms",
                "participants",
                "protocol",
                "ratio_to_skeleton",
                "reply",
                "skeleton_transactions_per_second",
                "transactions_per_second",
            ];
            assert_eq!(keys(run), expected);
            for number in ["clients", "p50_ms", "transactions_per_second", "ratio_to_skeleton"] {
                assert!(run[number].is_number(), "{number} in {run}");
            }
            assert_eq!(run["ratio_to_skeleton"], 0.6);
        }
        let is = |run: &&Value, clients, mode: &str, reply: &str| {
            run["clients"] == clients && run["client_mode"] == mode && run["reply"] == reply
        };
        for (clients, mode, reply) in
            [(64, "stream", "decided"), (256, "stream", "applied"), (64, "unary", "decided")]
        {
            assert!(runs.iter().any(|run| is(&run, clients, mode, reply)), "{clients} {mode}");
        }
    }

    #[test]
    fn only_commits_in_one_call_and_in_closed_loops_are_runs() {
        let json = results().json();
        let details = json["details"].as_array().expect("details");
        let runs = json["runs"].as_array().expect("runs");
        let others =
            |detail: &&Value| detail["workload"] != "commit" || detail["clients"].is_null();
        assert_eq!(runs.len() + details.iter().filter(others).count(), details.len());
        assert!(details.iter().any(|detail| detail["offered_per_second"] == 1000.0));
        assert!(details.iter().any(|detail| detail["ratio_to_rocksdb"].is_number()));
        assert!(details[0]["product"]["mean_us_by_part"]["decision_sync"].is_number());
    }

    #[test]
    fn without_a_skeleton_there_is_no_ratio() {
        let mut results = results();
        results.measured.iter_mut().for_each(|measured| measured.skeleton = None);
        let json = results.json();
        assert!(json["runs"][0]["ratio_to_skeleton"].is_null());
        assert!(json["runs"][0]["skeleton_transactions_per_second"].is_null());
        assert_eq!(keys(&json["runs"][0]).len(), 10);
        let row = row(&results.measured[0]);
        assert_eq!(row.iter().filter(|cell| *cell == "-").count(), 3);
    }

    #[test]
    fn cases_are_named() {
        let results = results();
        let is_unary = |measured: &&Measured| measured.case.mode == CallMode::Unary;
        let unary = results.measured.iter().find(is_unary).expect("a unary case");
        let expected = "two_phase commit over 2 participants, unary, decided, 64 clients";
        assert_eq!(name(unary), expected);
    }
}
