//! One process of the system under test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::eventually::eventually;
use crate::programs::free_address;
use crate::transcript::Transcript;

/// A server as a process: how it is started, where it is served, and what it has said. It is killed when
/// this is dropped, and its last words are shown if the test failed.
#[derive(Debug)]
pub struct Server {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    address: SocketAddr,
    child: Option<Child>,
    transcript: Transcript,
}

impl Server {
    /// A server that is not started, on a port of its own. `arguments` are without `--listen`.
    #[must_use]
    pub fn new(name: &str, program: PathBuf, arguments: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            program,
            arguments,
            environment: Vec::new(),
            address: free_address(),
            child: None,
            transcript: Transcript::default(),
        }
    }

    /// What people call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is served, whether it runs or not.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as `http://host:port`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From the next start on, another port.
    pub fn move_away(&mut self) {
        self.address = free_address();
    }

    /// Sets an argument, as `--name value`, for the next starts.
    pub fn set_argument(&mut self, name: &str, value: &str) {
        match self.arguments.iter().position(|argument| argument == name) {
            Some(at) if at + 1 < self.arguments.len() => {
                value.clone_into(&mut self.arguments[at + 1])
            }
            _ => self.arguments.extend([name.to_owned(), value.to_owned()]),
        }
    }

    /// Adds to the environment of the next starts.
    pub fn set_environment(&mut self, variables: &[(String, String)]) {
        self.environment.extend_from_slice(variables);
    }

    // ---- starting -------------------------------------------------------------------------------

    /// Starts it, and waits until it is ready.
    pub async fn start(&mut self) {
        self.launch(None);
        self.ready().await;
    }

    /// Starts it with a crash point (or [`Hold::point`](crate::Hold::point)), and waits until it is ready.
    pub async fn start_at(&mut self, crash_point: &str) {
        self.launch(Some(crash_point));
        self.ready().await;
    }

    /// Starts it, and does not wait.
    ///
    /// # Panics
    /// When it runs already, or cannot be started.
    pub fn launch(&mut self, crash_point: Option<&str>) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        // A write beyond a limit on the size of files is to fail, not to kill: the shell's disregard for
        // the signal is inherited, and the process keeps the shell's number.
        let mut command = Command::new("sh");
        // What is set for the test, or on this machine, is no setting of the server's; the bug that the tests
        // are tried on is.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HANDFAST_") && name != "HANDFAST_MUTANT" {
                command.env_remove(name);
            }
        }
        command
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(&self.program)
            .args(&self.arguments)
            .args(["--listen", &self.address.to_string()])
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(point) = crash_point {
            command.env("HANDFAST_CRASH_POINT", point);
        }
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot start {}: {error}", self.program.display()),
        };
        self.transcript.begin(format!(
            "---- {} starts as process {}, crash point {}",
            self.name,
            child.id(),
            crash_point.unwrap_or("none")
        ));
        if let Some(pipe) = child.stdout.take() {
            self.transcript.follow(pipe);
        }
        if let Some(pipe) = child.stderr.take() {
            self.transcript.follow(pipe);
        }
        self.child = Some(child);
    }

    /// Waits until it says that it is ready.
    ///
    /// # Panics
    /// When it ends instead.
    pub async fn ready(&mut self) {
        let line = format!(" listening on {}", self.address);
        let name = self.name.clone();
        let transcript = self.transcript.clone();
        eventually(&format!("{name} says that it is ready"), || {
            let said = transcript.find(&line).is_some();
            let ended = if said { None } else { self.try_wait() };
            if let Some(status) = ended {
                panic!("{name} ended ({status}) before it was ready");
            }
            async move { said }
        })
        .await;
    }

    // ---- ending ---------------------------------------------------------------------------------

    /// Kills it, as by `kill -9`. Nothing when it does not run.
    ///
    /// # Panics
    /// When the system does not let us.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take()
            && let Err(error) = child.kill().and_then(|()| child.wait().map(|_| ()))
        {
            panic!("cannot kill {}: {error}", self.name);
        }
    }

    /// Kills it and starts it again.
    pub async fn kill_and_start(&mut self) {
        self.kill();
        self.start().await;
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it does not.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut ended = None;
        let name = self.name.clone();
        eventually(&format!("{name} ends"), || {
            ended = self.try_wait();
            let done = ended.is_some();
            async move { done }
        })
        .await;
        self.child = None;
        match ended {
            Some(status) => status,
            None => unreachable!("the wait is over when it is there"),
        }
    }

    /// Waits until it has died at a crash point.
    ///
    /// # Panics
    /// When it does not come by there, or ends otherwise.
    pub async fn dies_at(&mut self, crash_point: &str) {
        self.comes_by(crash_point).await;
        self.ended().await;
    }

    /// Waits until it has come by a crash point, and is held there.
    ///
    /// # Panics
    /// When it does not come by.
    pub async fn comes_by(&mut self, crash_point: &str) {
        let name = crash_point.split(['@', '=']).next().unwrap_or(crash_point);
        let line = format!("crash point {name} reached");
        eventually(
            &format!(
                "{} comes by crash point {name} (it never does when the programs are built without crash \
                 points: build them with `cargo build --workspace --bins`)",
                self.name
            ),
            || {
                let came = self.transcript.find(&line).is_some();
                async move { came }
            },
        )
        .await;
    }

    /// True while it runs.
    pub fn runs(&mut self) -> bool {
        self.child.is_some() && self.try_wait().is_none()
    }

    fn try_wait(&mut self) -> Option<ExitStatus> {
        match self.child.as_mut()?.try_wait() {
            Ok(status) => status,
            Err(error) => panic!("cannot wait for {}: {error}", self.name),
        }
    }

    // ---- while it runs --------------------------------------------------------------------------

    /// Sends a signal by name, as `STOP`, `CONT` or `TERM`.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, signal: &str) {
        self.system("kill", &["-s", signal], &[]);
    }

    /// From now on its files may not grow beyond so many bytes, as on a disk that is full.
    ///
    /// # Panics
    /// When it does not run.
    pub fn limit_files(&self, bytes: u64) {
        self.system("prlimit", &[&format!("--fsize={bytes}:")], &["--pid"]);
    }

    fn system(&self, program: &str, before: &[&str], pid_flag: &[&str]) {
        let Some(child) = &self.child else { panic!("{} does not run", self.name) };
        let mut command = Command::new(program);
        // prlimit takes `--pid N`, kill takes `N`.
        command.args(before).args(pid_flag).arg(child.id().to_string());
        match command.status() {
            Ok(status) if status.success() => {}
            Ok(status) => panic!("{program} for {}: {status}", self.name),
            Err(error) => panic!("{program} for {}: {error}", self.name),
        }
    }

    /// Whether the present process has said this.
    #[must_use]
    pub fn has_said(&self, text: &str) -> bool {
        self.transcript.find(text).is_some()
    }

    /// How many lines of all its processes have this in them.
    #[must_use]
    pub fn times_said(&self, text: &str) -> usize {
        self.transcript.count(text)
    }

    /// All that the present process has said.
    #[must_use]
    pub fn said(&self) -> String {
        self.transcript.present()
    }

    /// Runs it to its end, as a command: how it ended, and what it said.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn refuses(&mut self) -> (ExitStatus, String) {
        self.launch(None);
        let status = self.ended().await;
        // The threads that read its last words may be a little behind.
        let transcript = self.transcript.clone();
        eventually("the last words arrive", || {
            let said = !transcript.present().is_empty();
            async move { said }
        })
        .await;
        (status, self.said())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("==== last words of {} ====\n{}", self.name, self.transcript.tail());
        }
    }
}

/// The last bytes of a path, for messages and file names.
#[must_use]
pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}
