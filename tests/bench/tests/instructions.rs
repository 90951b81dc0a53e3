//! What a transaction costs in instructions: speed that can be asserted on a machine that is not quiet.
//!
//! `handfast-workload` runs a fixed number of transactions on one thread; callgrind counts its instructions, by
//! part. Two runs of different length are subtracted, so that what it takes to start is not in the figure.
//!
//! The count is the same again for the same program but for the random seeds of hash maps. Another compiler or
//! C library makes another program; another processor may make the C library choose other copies of memory, of
//! those that valgrind emulates. The room is for these; a figure that moves with one of them is measured anew.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Long enough that start-up and the first growth of the maps are over in both.
const SHORT: u64 = 1_000;
const LONG: u64 = 3_000;

/// What a figure may rise by, in percent. From run to run it moves by a thousandth.
const ROOM_PERCENT: u64 = 10;

/// A part of the work: its functions in the workload, and its instructions for one transaction.
struct Part {
    name: &'static str,
    functions: &'static [&'static str],
    measured: u64,
}

/// Measured with rustc 1.95, glibc 2.36 and valgrind 3.19, in the build of `make test`: its marks and crash
/// points are in the figures. Whoever makes a part dearer on purpose says here what for, and what it has become.
const PARTS: &[Part] = &[
    Part {
        name: "coordinator",
        functions: &["coordinator::Coordinator::handle"],
        measured: 43_500,
    },
    Part {
        name: "participants",
        functions: &["participant::Participant::handle"],
        measured: 59_900,
    },
    Part {
        name: "logs",
        functions: &["coordinator::Coordinator::sync", "participant::Participant::sync"],
        measured: 25_500,
    },
    Part {
        name: "frames",
        functions: &[
            "coordinator::Coordinator::read_calls",
            "coordinator::Coordinator::write_frame",
            "coordinator::Coordinator::read_frame",
            "coordinator::Coordinator::write_answers",
            "participant::Participant::read_frame",
            "participant::Participant::write_frame",
        ],
        measured: 19_000,
    },
];

/// Inclusive instructions by function, as far as calls of it were seen.
type Costs = BTreeMap<String, u64>;

/// Runs the workload under callgrind.
fn count(transactions: u64, folder: &Path) -> Costs {
    let out = folder.join(format!("callgrind.{transactions}"));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--compress-strings=no"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(env!("CARGO_BIN_EXE_handfast-workload"))
        .arg(transactions.to_string())
        .output()
        .unwrap_or_else(|error| {
            panic!("valgrind cannot be run ({error}): `make test` installs it, as does `.ci/ensure valgrind`")
        });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{transactions} transactions: {said}");
    let said = String::from_utf8_lossy(&output.stdout);
    let expected = format!("{transactions} transactions have committed");
    assert_eq!(said.trim(), expected, "the workload does not do its work");
    inclusive(&std::fs::read_to_string(&out).expect("callgrind has written its counts"))
}

/// Reads callgrind's counts: behind `cfn=` and `calls=` is a line whose last number is what the calls cost.
fn inclusive(text: &str) -> Costs {
    let mut costs = Costs::new();
    let mut called = None;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(function) = line.strip_prefix("cfn=") {
            called = Some(function);
        } else if line.starts_with("calls=") {
            let cost = lines.next().and_then(|line| line.split_ascii_whitespace().last());
            let cost: u64 = cost.and_then(|cost| cost.parse().ok()).expect("the cost of the calls");
            let function = called.take().expect("calls of a function");
            *costs.entry(function.to_owned()).or_default() += cost;
        }
    }
    costs
}

/// All of these functions. One that is not there, because it was renamed or inlined, is no function that is free.
fn cost_of(costs: &Costs, functions: &[&str]) -> u64 {
    let cost = |wanted: &&str| {
        let own = costs.iter().filter(|(name, _)| is_function(name, wanted));
        let (names, costs): (Vec<_>, Vec<u64>) = own.unzip();
        assert_eq!(names.len(), 1, "{wanted} is {names:?} in callgrind's counts");
        costs.iter().sum::<u64>()
    };
    functions.iter().map(cost).sum()
}

/// Whether this is one of the workload's own functions, in either of the ways in which Rust writes its name.
fn is_function(name: &str, wanted: &str) -> bool {
    let name = name.replace(['<', '>'], "");
    let Some(rest) = name.strip_prefix("handfast_workload::") else { return false };
    let hash = rest.strip_prefix(wanted);
    hash.is_some_and(|hash| {
        let digits = hash.strip_prefix("::h").unwrap_or("-");
        hash.is_empty() || digits.chars().all(|digit| digit.is_ascii_hexdigit())
    })
}

/// Why a figure is not accepted.
fn complaint(name: &str, measured: u64, now: u64) -> Option<String> {
    if now > measured + measured * ROOM_PERCENT / 100 {
        return Some(format!(
            "{name}: {now} instructions for a transaction were {measured}, and at most {ROOM_PERCENT} % more \
             are accepted: find what has become dearer, or say in PARTS what it is good for"
        ));
    }
    (now < measured / 2).then(|| {
        format!(
            "{name}: {now} instructions for a transaction were {measured}: has it become that good, or does \
             the workload not do its work any more? Measure it anew"
        )
    })
}

#[test]
fn a_transaction_costs_no_more_instructions_than_it_did() {
    let folder = tempfile::tempdir().expect("a folder");
    let (short, long) = (count(SHORT, folder.path()), count(LONG, folder.path()));
    let mut complaints = Vec::new();
    for Part { name, functions, measured } in PARTS {
        let more = cost_of(&long, functions).saturating_sub(cost_of(&short, functions));
        let now = more / (LONG - SHORT);
        println!("{name}: {now} instructions for a transaction, {measured} when it was measured");
        complaints.extend(complaint(name, *measured, now));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn what_is_dearer_is_seen_and_so_is_what_is_not_done() {
    assert_eq!(complaint("a part", 1_000, 1_100), None);
    assert!(complaint("a part", 1_000, 1_101).is_some_and(|why| why.contains("dearer")));
    assert_eq!(complaint("a part", 1_000, 500), None);
    assert!(complaint("a part", 1_000, 499).is_some_and(|why| why.contains("its work")));
}

#[test]
fn calls_are_added_up_by_function() {
    let text = "fn=main\n10 5\ncfn=handfast_workload::a::B::c::h0123456789abcdef\ncalls=2 0\n+1 70\n12 3\n\
                cfn=<handfast_workload::d::E>::f\ncalls=1 0\n* 1\nfn=g\n\
                cfn=handfast_workload::a::B::c::h0123456789abcdef\ncalls=1 7\n+3 30\n\
                cfn=handfast_workload::a::B::c::{{closure}}\ncalls=1 7\n+3 500\n\
                cfn=another::a::B::c\ncalls=1 7\n+3 500\n";
    let costs = inclusive(text);
    assert_eq!(cost_of(&costs, &["a::B::c"]), 100);
    assert_eq!(cost_of(&costs, &["a::B::c", "d::E::f"]), 101);
}
