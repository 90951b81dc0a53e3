//! The first SIGTERM or SIGINT drains, the second ends.
//!
//! Signals have a thread of their own, so that the second one works when the rest of the process does
//! not: an operator who presses Ctrl-C twice is not kept waiting by whatever hangs. A server starts with
//! what the last one left, however that ended, so ending at once is always safe.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// What a shell reports for a program that SIGINT ended.
const INTERRUPTED: i32 = 130;
/// What a shell reports for a program that SIGTERM ended.
const TERMINATED: i32 = 143;

/// Says whether the process should drain: take no new transactions, finish what can be finished, and
/// exit. Cheap to clone; all clones say the same.
#[derive(Debug, Clone)]
pub struct Shutdown {
    draining: watch::Sender<bool>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// One that only [`begin`](Self::begin) sets off: for tests, and for an application that embeds a
    /// server and has its own way with signals.
    #[must_use]
    pub fn new() -> Self {
        Self { draining: watch::Sender::new(false) }
    }

    /// One that the process's first SIGTERM or SIGINT sets off. The second of either ends the process
    /// with 143 or 130. Two signals of one kind that come within the same moment may count as one.
    ///
    /// To be called once, as early as possible: from here on signals do nothing else.
    ///
    /// # Errors
    /// When the system does not let the process have a signal handler or a thread.
    pub fn listen() -> io::Result<Self> {
        let shutdown = Self::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut terminate, mut interrupt) = {
            let _entered = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        let told = shutdown.clone();
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                loop {
                    let (name, code) = tokio::select! {
                        _ = terminate.recv() => ("SIGTERM", TERMINATED),
                        _ = interrupt.recv() => ("SIGINT", INTERRUPTED),
                    };
                    if told.draining() {
                        tracing::warn!(signal = name, "second signal: exiting at once");
                        std::process::exit(code);
                    }
                    tracing::info!(signal = name, "draining; a second signal exits at once");
                    told.begin();
                }
            });
        })?;
        Ok(shutdown)
    }

    /// Sets off the drain.
    pub fn begin(&self) {
        self.draining.send_replace(true);
    }

    /// Whether the drain was set off.
    #[must_use]
    pub fn draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Returns when the drain is set off; at once when it was.
    pub async fn wait(&self) {
        let mut receiver = self.draining.subscribe();
        // The sender lives as long as `self`, so that the only way out is the news.
        let _ = receiver.wait_for(|draining| *draining).await;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[tokio::test]
    async fn every_clone_hears_of_it_before_and_after() {
        let shutdown = Shutdown::new();
        let waiting = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.wait().await }
        });
        tokio::task::yield_now().await;
        assert!(!shutdown.draining() && !waiting.is_finished());
        shutdown.clone().begin();
        waiting.await.expect("told");
        assert!(shutdown.draining());
        shutdown.wait().await;
    }

    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

    /// The process that the next tests send signals to; does nothing as a test of its own.
    #[test]
    fn server() {
        if std::env::var_os("HANDFAST_TEST_SIGNALS").is_none() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime");
        let shutdown = Shutdown::listen().expect("listening");
        eprintln!("up");
        let told =
            runtime.block_on(async { tokio::time::timeout(PATIENCE, shutdown.wait()).await });
        told.expect("the first signal came");
        eprintln!("draining");
        // Hangs, as a server would that cannot drain, but not so long that a failing test does too.
        let (_open, silence) = std::sync::mpsc::channel::<()>();
        let _ = silence.recv_timeout(PATIENCE);
    }

    struct Server {
        child: Child,
        lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
    }

    impl Server {
        fn start() -> Self {
            let mut child = Command::new(std::env::current_exe().expect("this program"))
                .args(["--exact", "shutdown::tests::server", "--nocapture"])
                .env("HANDFAST_TEST_SIGNALS", "1")
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("started");
            let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
            let mut server = Self { child, lines };
            server.says("up");
            server
        }

        fn says(&mut self, line: &str) {
            assert!(
                self.lines.any(|said| said.is_ok_and(|said| said == line)),
                "the server did not say {line}"
            );
        }

        fn signal(&self, signal: &str) {
            let pid = self.child.id().to_string();
            let status = Command::new("kill").args(["-s", signal, &pid]).status().expect("kill");
            assert!(status.success());
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn check(first: &str, second: &str, code: i32) {
        let mut server = Server::start();
        server.signal(first);
        server.says("draining");
        assert_eq!(
            server.child.try_wait().expect("a status"),
            None,
            "the first signal only drains"
        );
        server.signal(second);
        let status = server.child.wait().expect("a status");
        assert_eq!(status.code(), Some(code), "{first} {second}: {status}");
    }

    #[test]
    fn the_first_signal_drains_and_the_second_ends() {
        check("TERM", "TERM", 143);
        check("INT", "INT", 130);
        check("TERM", "INT", 130);
        check("INT", "TERM", 143);
    }
}
