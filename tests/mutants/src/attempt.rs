//! One run of one program, with or without a bug in it, and what came of it.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use handfast_commit_core::mutants::{Mutant, VARIABLE};
use tempfile::tempdir;

use crate::programs::Program;

/// What to run.
#[derive(Debug, Clone)]
pub struct Run {
    /// For people.
    pub name: String,
    /// The program.
    pub program: Program,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment, beside the mutant.
    pub environment: Vec<(&'static str, String)>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Result {
    /// Everything passed.
    Passed,
    /// What failed, for people.
    Failed(String),
}

impl Run {
    /// Runs it, for as long as `limit` allows, and tells how long it took.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(
        &self,
        mutant: Option<Mutant>,
        limit: Duration,
    ) -> anyhow::Result<(Result, Duration)> {
        let folder = tempdir()?;
        let output = folder.path().join("output");
        let file = File::create(&output)?;
        let began = Instant::now();
        let mut command = Command::new(&self.program.executable);
        match mutant {
            Some(mutant) => command.env(VARIABLE, mutant.name()),
            None => command.env_remove(VARIABLE),
        };
        let mut child = command
            .args(&self.arguments)
            .current_dir(&self.program.folder)
            // As cargo does; what this process has is about its own package.
            .env("CARGO_MANIFEST_DIR", &self.program.folder)
            // What it leaves behind goes with it.
            .env("TMPDIR", folder.path())
            .env("RUST_BACKTRACE", "0")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // With all that it starts, so that none of it is left.
            .process_group(0)
            .spawn()
            .with_context(|| format!("{} cannot be started", self.program.executable.display()))?;
        let group = format!("-{}", child.id());
        let (ended, end) = channel();
        let waiter = thread::spawn(move || {
            let _ = ended.send(child.wait());
        });
        let status = match end.recv_timeout(limit) {
            Ok(status) => Some(status?),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        };
        // Also what a test that failed has left running.
        let kill = Command::new("kill")
            .args(["-s", "KILL", "--", &group])
            .stderr(Stdio::null())
            .status()
            .context("kill cannot be started")?;
        let _ = (kill, waiter.join());
        let took = began.elapsed();
        let result = match status {
            None => Result::Failed(format!("{}: hung", self.name)),
            Some(status) if status.success() => Result::Passed,
            Some(status) => Result::Failed(format!("{}: {}", self.name, said(status, &output)?)),
        };
        Ok((result, took))
    }
}

fn said(status: ExitStatus, output: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::read(output).context("its output")?;
    let output = String::from_utf8_lossy(&bytes);
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    };
    Ok(failed_tests(&output).or_else(|| violation(&output)).unwrap_or(how))
}

/// The tests that failed, of the output of a test program, with the scripts that they name.
fn failed_tests(output: &str) -> Option<String> {
    const SHOWN: usize = 1;
    let failed = output.lines().filter_map(|line| line.strip_prefix("test "));
    let failed: Vec<&str> = failed
        .filter_map(|line| line.strip_suffix(" ... FAILED"))
        .map(|name| name.trim_end_matches(" - should panic"))
        .collect();
    let mut text = failed.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if let Some(script) = script(output) {
        text = format!("{text} ({script})");
    }
    match failed.len() {
        0 => None,
        count if count > SHOWN => Some(format!("{text} and {} more", count - SHOWN)),
        _ => Some(text),
    }
}

/// What the simulator has found: `seed 8: VIOLATION: …`.
fn violation(output: &str) -> Option<String> {
    const SHOWN: usize = 100;
    let line = output.lines().find(|line| line.contains("VIOLATION: "))?;
    Some(line.trim().replacen("VIOLATION: ", "", 1).chars().take(SHOWN).collect())
}

/// The first scenario script that a failure names: `…/scenarios/NAME.txt`.
fn script(output: &str) -> Option<&str> {
    let rest = output.split("/scenarios/").nth(1)?;
    rest.split(".txt")
        .next()
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Run {
        Run {
            name: "sh".to_owned(),
            program: Program { executable: "/bin/sh".into(), folder: "/".into() },
            arguments: vec!["-c".to_owned(), script.to_owned()],
            environment: vec![("WORD", "yes".to_owned())],
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_fails_is_told() {
        let run = |script| shell(script).run(None, LONG).expect("a shell").0;
        assert_eq!(run("exit 0"), Result::Passed);
        assert_eq!(run("exit 3"), Result::Failed("sh: exit code 3".to_owned()));
        assert_eq!(run("kill -9 $$"), Result::Failed("sh: signal 9".to_owned()));
        assert_eq!(
            run("echo test a::b ... ok; echo test a::c ... FAILED; exit 101"),
            Result::Failed("sh: a::c".to_owned())
        );
    }

    #[test]
    fn the_mutant_is_in_the_environment() {
        let mutant = Mutant::ALL[0];
        let script = format!("[ \"$HANDFAST_MUTANT$WORD\" = {}yes ]", mutant.name());
        let run = |mutant| shell(&script).run(mutant, LONG).expect("a shell").0;
        assert_eq!(run(Some(mutant)), Result::Passed);
        assert_ne!(run(None), Result::Passed);
    }

    #[test]
    fn what_hangs_is_ended_with_all_that_it_has_started() {
        let (result, _) =
            shell("sleep 1000 & sleep 1000").run(None, Duration::from_millis(50)).expect("a shell");
        assert_eq!(result, Result::Failed("sh: hung".to_owned()));
    }

    #[test]
    fn the_failed_tests_are_found() {
        assert_eq!(failed_tests("running 1 test\ntest a ... ok\n"), None);
        let output =
            "test a ... FAILED\ntest b - should panic ... FAILED\nx/scenarios/vote_lost.txt:3\n";
        assert_eq!(failed_tests(output).as_deref(), Some("a (vote_lost) and 1 more"));
        assert_eq!(violation("a\nseed 8: VIOLATION: b\n").as_deref(), Some("seed 8: b"));
    }
}
