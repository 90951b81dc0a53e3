//! `handfast demo` against the real programs: the first thing that a newcomer runs has to hold.

use std::process::Command;

use handfast_chaos::programs;

#[test]
fn the_demo_holds_every_promise() {
    promises_hold("two-phase");
}

#[test]
fn the_demo_holds_every_promise_under_two_protocols_at_a_time() {
    promises_hold("mixed");
}

fn promises_hold(protocol: &str) {
    let demo = Command::new(programs::program("handfast"))
        .args(["demo", "--seconds", "6", "--clients", "16", "--kill-every", "1", "--seed", "5"])
        .args(["--partition-every", "1.5", "--protocol", protocol, "--output", "json"])
        .output()
        .expect("handfast can be started");
    let said = String::from_utf8_lossy(&demo.stderr);
    assert!(demo.status.success(), "{said}\n{}", String::from_utf8_lossy(&demo.stdout));
    let result: serde_json::Value =
        serde_json::from_slice(&demo.stdout).expect("one JSON object on standard output");
    let number = |key: &str| result[key].as_u64().unwrap_or_else(|| panic!("{key} in {result}"));
    assert_eq!(number("total_before"), number("total_after"), "{result}");
    assert_eq!(number("in_doubt_after_healing"), 0, "{result}");
    assert_eq!(number("unknown"), number("unknown_resolved"), "{result}");
    assert!(number("kills") > 0 && number("committed") > 0, "{result}");
    assert!(number("partitions") > 0, "{result}");
    for key in ["aborted", "transactions_per_second", "latency_ms"] {
        assert!(!result[key].is_null(), "{key} in {result}");
    }
    assert!(result["latency_ms"]["p50"].is_number() && result["latency_ms"]["p99"].is_number());
}
