//! The system of the demo: a coordinator and three key-value participants, as processes of their own.
//!
//! The coordinator comes back on the port that it had, because that is where clients look for it. A
//! participant comes back on whatever port is free, and has to be found again.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use handfast_client::Client;
use tokio::time::{Instant, sleep, timeout_at};

use crate::demo::bank::STORES;
use crate::demo::process::{Launch, Process, State, Vitals};
use crate::demo::random::unseeded;

/// The names of the programs.
const COORDINATOR: &str = "handfast-coordinator";
const PARTICIPANT: &str = "handfast-participant";
/// Where the programs are looked for first.
const BIN_DIR: &str = "HANDFAST_BIN_DIR";
/// Ports that the system does not give to outgoing connections: while the coordinator is down nobody
/// else takes its port.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const PORT_ATTEMPTS: u32 = 100;
/// How long a server may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// The processes, coordinator first.
#[derive(Debug)]
pub struct Cluster {
    processes: Vec<Process>,
    endpoint: String,
    /// Servers that ended though nobody killed them, and how often.
    deaths: BTreeMap<(&'static str, String), u32>,
}

/// Where the programs are, the coordinator first.
///
/// # Errors
/// A sentence that names what is missing, and where it was looked for.
pub fn find_programs() -> Result<[PathBuf; 2], String> {
    let folder = match std::env::var_os(BIN_DIR).filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => {
            let own = std::env::current_exe();
            let own =
                own.map_err(|error| format!("where this program lies is unknown: {error}"))?;
            own.parent().map(Path::to_path_buf).unwrap_or_default()
        }
    };
    find_programs_in(&folder)
}

fn find_programs_in(folder: &Path) -> Result<[PathBuf; 2], String> {
    let programs = [COORDINATOR, PARTICIPANT].map(|name| folder.join(name));
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| !program.is_file())
        .map(|program| program.display().to_string())
        .collect();
    match missing.is_empty() {
        true => Ok(programs),
        false => Err(format!(
            "the demo starts real servers, and there is no {}; build them with `make build`, or name \
             their folder in {BIN_DIR}",
            missing.join(" and no ")
        )),
    }
}

impl Cluster {
    /// Starts everything, with data and logs in `folder`, and waits until the coordinator has a
    /// connection to every participant.
    ///
    /// # Errors
    /// A sentence that says who did not start, and the end of its log.
    pub async fn start(programs: &[PathBuf; 2], folder: &Path) -> Result<Self, String> {
        let [coordinator, participant] = programs;
        let port = free_port()?;
        let endpoint = format!("http://127.0.0.1:{port}");
        let launch = |name: &'static str, program: &PathBuf, arguments: &[&str]| {
            let data = folder.join(name);
            let mut arguments: Vec<_> = arguments.iter().map(Into::into).collect();
            arguments.extend(["--data".into(), data.into_os_string()]);
            Launch {
                name,
                program: program.clone(),
                arguments,
                log: folder.join(format!("{name}.log")),
            }
        };
        let listen = format!("127.0.0.1:{port}");
        let mut launches = vec![launch("coordinator", coordinator, &["--listen", &listen])];
        launches.extend(STORES.map(|name| {
            let own = ["key-value", "--name", name, "--listen", "127.0.0.1:0"];
            launch(name, participant, &[&own[..], &["--coordinator", &endpoint]].concat())
        }));
        let processes = launches.into_iter().map(Process::start).collect::<Result<_, _>>()?;
        let mut cluster = Self { processes, endpoint, deaths: BTreeMap::new() };
        cluster.first_start().await?;
        Ok(cluster)
    }

    /// Where the coordinator is, for as long as the demo runs.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What can be seen of each process, coordinator first.
    pub fn vitals(&self) -> Vec<Arc<Vitals>> {
        self.processes.iter().map(|process| Arc::clone(process.vitals())).collect()
    }

    /// Who ended though nobody killed it, one sentence each.
    pub fn deaths(&self) -> impl Iterator<Item = String> {
        self.deaths.iter().map(|((name, status), count)| match count {
            1 => format!("{name} ended by itself ({status}); its log says why"),
            _ => format!("{name} ended by itself {count} times ({status}); its log says why"),
        })
    }

    /// How many processes there are to be killed.
    pub fn len(&self) -> u64 {
        self.processes.len() as u64
    }

    /// Kills one process with kill -9 and starts it again at once.
    ///
    /// # Errors
    /// When it cannot be started again.
    pub async fn kill(&mut self, victim: u64) -> Result<(), String> {
        let index = victim as usize % self.processes.len();
        let process = &mut self.processes[index];
        if let Some(status) = process.kill_and_restart().await? {
            *self.deaths.entry((process.vitals().name, status.to_string())).or_default() += 1;
        }
        Ok(())
    }

    /// Starts again whoever has ended by itself, and remembers that it did.
    ///
    /// # Errors
    /// When one cannot be started again.
    pub async fn watch_over(&mut self) -> Result<(), String> {
        for process in &mut self.processes {
            if let Some(status) = process.restart_if_ended().await? {
                *self.deaths.entry((process.vitals().name, status.to_string())).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Waits until every process is ready.
    ///
    /// # Errors
    /// A sentence that names who is not.
    pub async fn heal(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            self.watch_over().await?;
            let down = |process: &&Process| process.vitals().state() == State::Starting;
            let Some(process) = self.processes.iter().find(down) else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                return Err(format!(
                    "{} was not ready {} s after its start; the end of its log:\n{}",
                    process.vitals().name,
                    READY_WITHIN.as_secs(),
                    process.log_tail()
                ));
            }
            sleep(POLL).await;
        }
    }

    /// Waits until the coordinator has a connection to every participant.
    ///
    /// # Errors
    /// A sentence that names who is missing.
    pub async fn connected(&self, client: &Client) -> Result<(), String> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let listed = timeout_at(deadline, client.participants()).await;
            let (missing, why) = match listed {
                Ok(Ok(found)) => {
                    let connected = |name: &&str| {
                        found.iter().any(|found| found.participant == *name && found.connected)
                    };
                    let missing: Vec<_> =
                        STORES.into_iter().filter(|name| !connected(name)).collect();
                    (missing, "it is not connected".to_owned())
                }
                Ok(Err(error)) => (STORES.to_vec(), error.to_string()),
                Err(_) => (STORES.to_vec(), "the coordinator does not answer".to_owned()),
            };
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(format!(
                    "the coordinator has not found {} within {} s: {why}",
                    missing.join(", "),
                    READY_WITHIN.as_secs()
                ));
            }
            sleep(POLL).await;
        }
    }

    /// Kills every process for good.
    pub async fn stop(&mut self) {
        for process in &mut self.processes {
            // One that cannot be waited for is killed when its handle goes.
            let _ = process.stop().await;
        }
    }

    /// As [`Cluster::heal`], but nobody is started twice: a first start that fails is to be told.
    async fn first_start(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let mut waiting = false;
            for process in &mut self.processes {
                if let Some(status) = process.ended()? {
                    let (name, tail) = (process.vitals().name, process.log_tail());
                    return Err(format!("{name} did not start ({status}):\n{tail}"));
                }
                waiting |= process.vitals().state() == State::Starting;
            }
            if !waiting {
                return Ok(());
            }
            if Instant::now() >= deadline {
                // Says who it is.
                return self.heal().await;
            }
            sleep(POLL).await;
        }
    }
}

fn free_port() -> Result<u16, String> {
    for _ in 0..PORT_ATTEMPTS {
        let port = PORTS.start + (unseeded() % u64::from(PORTS.end - PORTS.start)) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(format!("there is no free port on 127.0.0.1 between {} and {}", PORTS.start, PORTS.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = find_programs_in(folder.path()).expect_err("an empty folder");
        for part in [COORDINATOR, PARTICIPANT, "make build", &folder.path().display().to_string()] {
            assert!(error.contains(part), "{error}");
        }
        std::fs::write(folder.path().join(COORDINATOR), "").expect("a file");
        let error = find_programs_in(folder.path()).expect_err("one is missing");
        assert!(!error.contains(COORDINATOR) && error.contains(PARTICIPANT), "{error}");
        std::fs::write(folder.path().join(PARTICIPANT), "").expect("a file");
        assert!(find_programs_in(folder.path()).is_ok());
    }

    #[test]
    fn a_free_port_can_be_had() {
        assert!(PORTS.contains(&free_port().expect("a port")));
    }
}
