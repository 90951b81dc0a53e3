//! One server that this program has started: a child process that is killed with kill -9 and started again.
//!
//! The law: only the process that was started here is ever killed, by the handle of its start and never
//! by a name; and it is reaped before the next one is started, so that the lock on its folder is free.
//! A child that outlives its handle is impossible: dropping the handle kills it.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What a server says on stdout when it is ready; its address follows.
const READY: &str = " listening on ";
/// Settings of the user's own servers, which must not reach ours; but for what is logged.
const ENVIRONMENT: &str = "HANDFAST_";
const LOG_FILTER: &str = "HANDFAST_LOG";
/// How much of a log is shown when its server did not start.
const TAIL_BYTES: usize = 2000;

/// How a server is started.
#[derive(Debug, Clone)]
pub struct Launch {
    pub name: &'static str,
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// Its stderr, all starts one after the other.
    pub log: PathBuf,
}

/// Whether a server can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It has been started and is not ready yet.
    Starting,
    /// It serves at this address (`host:port`).
    Up(String),
}

/// What can be seen of a server from outside.
#[derive(Debug)]
pub struct Vitals {
    pub name: &'static str,
    state: watch::Sender<State>,
    kills: AtomicU64,
    recoveries: AtomicU64,
    slowest_recovery: Mutex<Duration>,
}

impl Vitals {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            state: watch::Sender::new(State::Starting),
            kills: AtomicU64::new(0),
            recoveries: AtomicU64::new(0),
            slowest_recovery: Mutex::new(Duration::ZERO),
        }
    }

    /// Of a server that is served elsewhere.
    #[cfg(test)]
    pub fn up_at(name: &'static str, address: &str) -> Arc<Self> {
        let vitals = Self::new(name);
        vitals.state.send_replace(State::Up(address.to_owned()));
        Arc::new(vitals)
    }

    /// Whether it is ready, and where.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// How often it was killed.
    pub fn kills(&self) -> u64 {
        self.kills.load(Ordering::Relaxed)
    }

    /// How often it has come back.
    pub fn recoveries(&self) -> u64 {
        self.recoveries.load(Ordering::Relaxed)
    }

    /// The longest that it took to come back.
    pub fn slowest_recovery(&self) -> Duration {
        *self.slowest_recovery.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn up(&self, address: String, started: Instant, is_recovery: bool) {
        if is_recovery {
            self.recoveries.fetch_add(1, Ordering::Relaxed);
            let mut slowest = self.slowest_recovery.lock().unwrap_or_else(PoisonError::into_inner);
            *slowest = slowest.max(started.elapsed());
        }
        self.state.send_replace(State::Up(address));
    }
}

/// A server that is running, or was until a moment ago.
#[derive(Debug)]
pub struct Process {
    launch: Launch,
    vitals: Arc<Vitals>,
    child: Child,
    reader: JoinHandle<()>,
}

impl Process {
    /// Starts a server. It is not ready yet.
    ///
    /// # Errors
    /// One sentence that names the program or the file.
    pub fn start(launch: Launch) -> Result<Self, String> {
        let vitals = Arc::new(Vitals::new(launch.name));
        let (child, reader) = spawn(&launch, &vitals, false)?;
        Ok(Self { launch, vitals, child, reader })
    }

    /// What can be seen of it from outside.
    pub fn vitals(&self) -> &Arc<Vitals> {
        &self.vitals
    }

    /// Kills it with kill -9 and starts it again. `Some` when it had ended by itself before.
    ///
    /// # Errors
    /// When it cannot be started again.
    pub async fn kill_and_restart(&mut self) -> Result<Option<ExitStatus>, String> {
        let by_itself = self.ended()?;
        if by_itself.is_none() {
            self.vitals.kills.fetch_add(1, Ordering::Relaxed);
        }
        self.stop().await?;
        self.restart()?;
        Ok(by_itself)
    }

    /// Starts it again if it has ended by itself.
    ///
    /// # Errors
    /// When it cannot be started again.
    pub async fn restart_if_ended(&mut self) -> Result<Option<ExitStatus>, String> {
        let by_itself = self.ended()?;
        if by_itself.is_some() {
            self.stop().await?;
            self.restart()?;
        }
        Ok(by_itself)
    }

    /// Its number at the system, while it has not been waited for.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// How it ended; nothing while it runs.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, String> {
        self.child.try_wait().map_err(|error| self.lost(&error))
    }

    /// Kills it and waits for its end.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn stop(&mut self) -> Result<(), String> {
        self.child.kill().await.map_err(|error| self.lost(&error))?;
        // A line that the dead process has left in the pipe must not be taken for its successor's.
        self.reader.abort();
        let _ = (&mut self.reader).await;
        self.vitals.state.send_replace(State::Starting);
        Ok(())
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let bytes = std::fs::read(&self.launch.log).unwrap_or_default();
        let tail = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
        String::from_utf8_lossy(tail).trim().to_owned()
    }

    fn restart(&mut self) -> Result<(), String> {
        (self.child, self.reader) = spawn(&self.launch, &self.vitals, true)?;
        Ok(())
    }

    fn lost(&self, error: &std::io::Error) -> String {
        format!("{} (pid {:?}) cannot be waited for: {error}", self.launch.name, self.child.id())
    }
}

fn spawn(
    launch: &Launch,
    vitals: &Arc<Vitals>,
    is_recovery: bool,
) -> Result<(Child, JoinHandle<()>), String> {
    let log = OpenOptions::new().create(true).append(true).open(&launch.log);
    let log =
        log.map_err(|error| format!("{} cannot be written: {error}", launch.log.display()))?;
    let mut command = Command::new(&launch.program);
    command.args(&launch.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    for (name, _) in std::env::vars_os() {
        let settings = |name: &str| name.starts_with(ENVIRONMENT) && name != LOG_FILTER;
        if name.to_str().is_some_and(settings) {
            command.env_remove(name);
        }
    }
    let started = Instant::now();
    let child = command.kill_on_drop(true).spawn();
    let mut child = child
        .map_err(|error| format!("{} cannot be started: {error}", launch.program.display()))?;
    let stdout = child.stdout.take();
    let vitals = Arc::clone(vitals);
    let reader = tokio::spawn(async move {
        if let Some(stdout) = stdout {
            read(stdout, |address| vitals.up(address, started, is_recovery)).await;
        }
    });
    Ok((child, reader))
}

/// Reads to the end, so that the server never writes into a closed pipe.
async fn read(stdout: ChildStdout, on_ready: impl Fn(String)) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some((_, address)) = line.split_once(READY) {
            on_ready(address.trim().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// The address of a server, once it is ready.
    async fn ready(vitals: &Vitals) -> String {
        let up = async {
            let mut state = vitals.state.subscribe();
            let up = state.wait_for(|state| matches!(state, State::Up(_))).await;
            up.expect("the sender is there").clone()
        };
        match tokio::time::timeout(LONG, up).await.expect("ready in time") {
            State::Up(address) => address,
            State::Starting => unreachable!("waited for the other"),
        }
    }

    /// A shell that says that it is ready and then waits to be killed.
    fn shell(folder: &tempfile::TempDir, script: &str) -> Process {
        Process::start(Launch {
            name: "shell",
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            log: folder.path().join("shell.log"),
        })
        .expect("a shell")
    }

    #[tokio::test]
    async fn a_killed_server_comes_back_and_is_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut process = shell(&folder, "echo shell listening on 127.0.0.1:$$; exec sleep 600");
        let vitals = Arc::clone(process.vitals());
        let first = ready(&vitals).await;
        assert_eq!(process.kill_and_restart().await, Ok(None));
        let second = ready(&vitals).await;
        assert_ne!(first, second, "another process");
        assert_eq!((vitals.kills(), vitals.recoveries()), (1, 1));
        process.stop().await.expect("stopped");
        assert_eq!(vitals.state(), State::Starting);
    }

    #[tokio::test]
    async fn a_server_that_ends_by_itself_is_told_from_one_that_was_killed() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut process = shell(&folder, "echo out of order >&2; exit 7");
        let waited = async {
            loop {
                if let Some(status) = process.restart_if_ended().await.expect("restarted") {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let status = tokio::time::timeout(LONG, waited).await.expect("ended");
        assert_eq!(status.code(), Some(7));
        let late = async {
            while process.ended().expect("it can be waited for").is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            process.kill_and_restart().await.expect("restarted")
        };
        let status = tokio::time::timeout(LONG, late).await.expect("ended again");
        assert_eq!(status.and_then(|status| status.code()), Some(7), "the killer came too late");
        assert_eq!(process.vitals().kills(), 0);
        assert!(process.log_tail().contains("out of order"));
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("handfast-nobody");
        let launch = Launch {
            name: "nobody",
            program: missing.clone(),
            arguments: Vec::new(),
            log: folder.path().join("nobody.log"),
        };
        let error = Process::start(launch).expect_err("no such program");
        assert!(error.contains(&missing.display().to_string()), "{error}");
    }
}
