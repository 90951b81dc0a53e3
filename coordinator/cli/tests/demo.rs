//! `handfast demo` when the system does not come up: what it says, and that it leaves nobody behind.
//!
//! The servers are shell scripts. That every promise holds is shown by the real ones.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(30);

/// A folder with these scripts as the coordinator and the participant.
fn programs(coordinator: &str, participant: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, script) in
        [("handfast-coordinator", coordinator), ("handfast-participant", participant)]
    {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, executable).expect("an executable script");
    }
    folder
}

/// The demo with these servers, and with a temporary folder of its own.
fn demo(programs: &Path, temporary: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handfast"));
    command
        .arg("demo")
        .args(arguments)
        .env("HANDFAST_BIN_DIR", programs)
        .env("TMPDIR", temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).expect("a folder").next().is_none()
}

/// Waits for a condition, for a bounded time.
async fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(began.elapsed() < LONG, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn options_that_make_no_sense_are_usage_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    for wrong in [["--clients", "0"], ["--seconds", "0"], ["--accounts", "1"]] {
        let output = demo(folder.path(), folder.path(), &wrong).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(stderr(&output).contains(wrong[0]), "{}", stderr(&output));
    }
}

#[test]
fn missing_programs_are_named_and_nothing_is_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = demo(folder.path(), folder.path(), &[]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    for part in ["handfast-coordinator", "handfast-participant", "make build"] {
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
    assert!(is_empty(folder.path()));
}

#[test]
fn a_server_that_does_not_start_is_named_with_the_end_of_its_log() {
    let ready = "echo handfast-coordinator listening on 127.0.0.1:1; exec sleep 600";
    let programs = programs(ready, "echo the disk is on fire >&2; exit 3");
    let temporary = tempfile::tempdir().expect("a folder");
    let output = demo(programs.path(), temporary.path(), &[]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    for part in ["store-", "did not start", "the disk is on fire", "data and logs: "] {
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
    assert!(!is_empty(temporary.path()), "the logs are kept");
    assert!(output.stdout.is_empty());
}

#[tokio::test]
async fn an_interrupted_demo_leaves_neither_processes_nor_files() {
    let never_ready = r#"echo $$ >> "$0.pids"; exec sleep 600"#;
    let programs = programs(never_ready, never_ready);
    let temporary = tempfile::tempdir().expect("a folder");
    let running = demo(programs.path(), temporary.path(), &[]).spawn().expect("it runs");
    let pids = wait_for("four servers are started", || {
        let names = ["handfast-coordinator.pids", "handfast-participant.pids"];
        let files = names.map(|name| std::fs::read_to_string(programs.path().join(name)));
        let text = files.into_iter().collect::<Result<String, _>>().ok()?;
        let pids: Vec<_> = text.lines().map(str::to_owned).collect();
        (pids.len() == 4).then_some(pids)
    })
    .await;
    let interrupted = Command::new("kill").args(["-INT", &running.id().to_string()]).status();
    assert!(interrupted.expect("kill runs").success());
    let output = running.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("interrupted"), "{}", stderr(&output));
    for pid in pids {
        let process = Path::new("/proc").join(&pid);
        wait_for("every server is gone", || (!process.exists()).then_some(())).await;
    }
    assert!(is_empty(temporary.path()));
}
