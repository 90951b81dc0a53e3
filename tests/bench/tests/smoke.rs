//! `handfast bench` with the real programs, for the blink of an eye: that it measures, tells what it promises
//! to tell, and leaves nothing behind. What it measures here is worth nothing.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const LONG: Duration = Duration::from_secs(60);

/// The folder of the programs: `HANDFAST_BIN_DIR`, or the test's own build.
fn programs() -> PathBuf {
    let folder = match std::env::var_os("HANDFAST_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        // target/debug/deps/smoke-0123456789abcdef
        None => {
            let test = std::env::current_exe().expect("this test is a program");
            test.ancestors().nth(2).map(PathBuf::from).unwrap_or_default()
        }
    };
    for name in ["handfast", "handfast-coordinator", "handfast-participant", "handfast-skeleton"] {
        assert!(
            folder.join(name).is_file(),
            "{name} is not in {}: build it with `cargo build --workspace --bins`",
            folder.display()
        );
    }
    folder
}

/// The benchmark, with a temporary folder of its own.
fn bench(temporary: &Path, arguments: &str) -> Command {
    let mut command = Command::new(programs().join("handfast"));
    command
        .arg("bench")
        .args(arguments.split_whitespace())
        .env("HANDFAST_BIN_DIR", programs())
        .env("TMPDIR", temporary)
        .stdin(Stdio::null());
    command
}

fn json(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).expect("one JSON object on standard output")
}

/// Processes that name the folder on their command lines, as all those do that the benchmark starts.
fn processes_of(folder: &Path) -> Vec<String> {
    let own = std::process::id().to_string();
    let all = std::fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    let lines = all.filter(|entry| entry.file_name().to_str() != Some(&own)).filter_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(&folder.display().to_string())).collect()
}

fn check_nothing_is_left(folder: &Path) {
    assert_eq!(processes_of(folder), Vec::<String>::new());
    let left: Vec<_> = std::fs::read_dir(folder).expect("a folder").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_quick_plan_tells_what_it_promises() {
    let temporary = tempfile::tempdir().expect("a folder");
    let plots = tempfile::tempdir().expect("a folder");
    let short = "--spawn --quick --seconds 0.3 --warm-up 0.05 --rounds 1 --output json --plots";
    let mut command = bench(temporary.path(), short);
    let result = json(&command.arg(plots.path()).output().expect("it runs"));
    let runs = result["runs"].as_array().expect("runs");
    for (clients, mode, reply) in [
        (1, "stream", "decided"),
        (64, "stream", "decided"),
        (256, "stream", "decided"),
        (64, "stream", "applied"),
        (64, "unary", "decided"),
    ] {
        let is = |run: &&Value| {
            run["clients"] == clients && run["client_mode"] == mode && run["reply"] == reply
        };
        let run = runs.iter().find(is).unwrap_or_else(|| panic!("{clients} {mode} {reply}"));
        assert_eq!(run.as_object().map(serde_json::Map::len), Some(10), "{run}");
        assert_eq!((&run["protocol"], &run["participants"]), (&"two_phase".into(), &2.into()));
        for number in ["transactions_per_second", "p50_ms", "p99_ms", "ratio_to_skeleton"] {
            assert!(run[number].as_f64().is_some_and(|number| number > 0.0), "{number}: {run}");
        }
    }
    for detail in result["details"].as_array().expect("details") {
        for system in ["product", "skeleton"] {
            assert_eq!(detail[system]["failed"], 0, "{detail}");
        }
        // Each part has its own marks in the servers; one that is not set makes a part of nothing. No disk
        // forces a write and tells of it in less. One in sixteen is measured, and one client may not do so many.
        if detail["clients"] == 1 {
            continue;
        }
        let parts = &detail["product"]["mean_us_by_part"];
        for part in ["participant_work", "participant_sync", "decision_sync"] {
            let least = if part.ends_with("_sync") { 5.0 } else { 0.0 };
            assert!(parts[part].as_f64() > Some(least), "{part}: {detail}");
        }
    }
    let floors = result["floors"].as_array().expect("floors");
    assert!(floors.iter().all(|floor| floor["echo_per_second"].as_f64() > Some(0.0)));
    for name in ["throughput-over-clients.svg", "latency-over-clients.svg", "time-split.svg"] {
        let picture = std::fs::read_to_string(plots.path().join(name)).expect(name);
        assert!(picture.ends_with("</svg>\n"), "{name}");
    }
    check_nothing_is_left(temporary.path());
}

#[test]
fn every_workload_and_load_is_served_by_both() {
    let temporary = tempfile::tempdir().expect("a folder");
    let arguments = "--spawn --workload commit,aborts,reads,interactive --clients 4 --rate 200 \
        --participants 1,2 --seconds 0.2 --warm-up 0 --rounds 1 --output json";
    let result = json(&bench(temporary.path(), arguments).output().expect("it runs"));
    let details = result["details"].as_array().expect("details");
    assert_eq!(details.len(), 16);
    for detail in details {
        for system in ["product", "skeleton"] {
            let numbers = &detail[system];
            assert_eq!(numbers["failed"], 0, "{detail}");
            let rate = numbers["transactions_per_second"].as_f64();
            assert!(rate.is_some_and(|rate| rate > 0.0), "{system}: {detail}");
            let aborted = numbers["aborted_per_second"].as_f64() > Some(0.0);
            let wanted = detail["workload"] == "aborts";
            assert!(wanted || !aborted, "{system}: {detail}");
            // Forty are due, whatever the machine does meanwhile; every tenth is to abort.
            assert!(
                aborted || !wanted || detail["offered_per_second"].is_null(),
                "{system}: {detail}"
            );
        }
    }
    check_nothing_is_left(temporary.path());
}

/// Runs one of the scales, and returns its numbers.
fn scale(arguments: &str) -> Value {
    let temporary = tempfile::tempdir().expect("a folder");
    let arguments =
        format!("--spawn {arguments} --seconds 0.3 --warm-up 0.05 --rounds 1 --output json");
    let result = json(&bench(temporary.path(), &arguments).output().expect("it runs"));
    check_nothing_is_left(temporary.path());
    result
}

#[track_caller]
fn positive(result: &Value, names: &[&str]) {
    for name in names {
        let number = match &result[name] {
            Value::Array(numbers) => numbers.iter().filter_map(Value::as_f64).next(),
            number => number.as_f64(),
        };
        assert!(number.is_some_and(|number| number > 0.0), "{name}: {result}");
    }
}

#[test]
fn undelivered_decisions_survive_the_restart_that_is_measured() {
    let result = scale("--in-doubt 300");
    positive(&result, &["ratio_to_before", "coordinator_bytes", "restart_until_ready_seconds"]);
    assert_eq!(result["transactions_in_doubt"], 300.0);
    assert_eq!(result["undelivered_after_restart"], 600.0, "two branches each: {result}");
}

#[test]
fn many_participants_and_branches_are_measured() {
    positive(&scale("--registered 20"), &["ratio_to_before", "connecting_seconds"]);
    let result = scale("--branches 20");
    positive(&result, &["branches_per_second", "p99_ms"]);
    assert_eq!(result["branches"], serde_json::json!([2.0, 8.0, 20.0]));
}

#[test]
fn overload_and_a_stalled_participant_are_measured() {
    positive(&scale("--overload 1.5"), &["room_per_second", "ratio_to_room_afterwards"]);
    positive(&scale("--stalled-participant"), &["ratio", "p99_ms_one_stalled"]);
}

/// A server of the skeleton, and where it is.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(arguments: &[&str], data: &Path) -> Self {
        let mut child = Command::new(programs().join("handfast-skeleton"))
            .args(arguments)
            .arg("--data")
            .arg(data)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let address = line.rsplit(' ').next().unwrap_or_default().trim().to_owned();
        Self { child, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_system_that_runs_already_is_measured_without_a_skeleton() {
    let folder = tempfile::tempdir().expect("a folder");
    let nobody = "http://127.0.0.1:1";
    let own = ["participant", "--name", "only", "--coordinator", nobody];
    let participant = Server::start(&own, &folder.path().join("p"));
    let named = format!("only=http://{}", participant.address);
    let own = ["coordinator", "--participant", &named];
    let coordinator = Server::start(&own, &folder.path().join("c"));
    let temporary = tempfile::tempdir().expect("a folder");
    let arguments = format!(
        "--coordinator http://{} --clients 2 --seconds 0.1 --warm-up 0 --rounds 1 --output json",
        coordinator.address
    );
    let failed = bench(temporary.path(), &arguments).output().expect("it runs");
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(said.contains("2 participants are wanted"), "{said}");
    let arguments = format!("{arguments} --participants 1");
    let result = json(&bench(temporary.path(), &arguments).output().expect("it runs"));
    let run = &result["runs"][0];
    assert!(run["transactions_per_second"].as_f64() > Some(0.0), "{run}");
    assert!(run["ratio_to_skeleton"].is_null() && run["clients"] == 2, "{run}");
    assert_eq!(result["floors"], serde_json::json!([]));
}

#[test]
fn an_interrupted_benchmark_leaves_neither_processes_nor_files() {
    let temporary = tempfile::tempdir().expect("a folder");
    let running = bench(temporary.path(), "--spawn --clients 4 --seconds 600")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let began = Instant::now();
    // The coordinators and two participants of each.
    while processes_of(temporary.path()).len() < 6 {
        assert!(began.elapsed() < LONG, "{:?}", processes_of(temporary.path()));
        std::thread::yield_now();
    }
    let interrupted = Command::new("kill").args(["-INT", &running.id().to_string()]).status();
    assert!(interrupted.expect("kill runs").success());
    let output = running.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("interrupted"), "{said}");
    check_nothing_is_left(temporary.path());
}
