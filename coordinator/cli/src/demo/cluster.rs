//! The system of the demo: a coordinator and three key-value participants, as processes of their own.
//!
//! The coordinator comes back on the port that it had, because that is where clients look for it. A
//! participant comes back on whatever port is free. Among each other they are reached through [`Network`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use handfast_client::Client;
use tokio::time::{Instant, sleep, timeout_at};

use crate::demo::bank::STORES;
use crate::demo::network::Network;
use crate::process::{Launch, Process, State, Vitals};
use crate::programs::free_port;

/// How long a server may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// The number of the coordinator among the processes.
const COORDINATOR: usize = 0;
const POLL: Duration = Duration::from_millis(20);

/// The processes, coordinator first.
#[derive(Debug)]
pub struct Cluster {
    processes: Vec<Process>,
    network: Arc<Network>,
    endpoint: String,
    /// Servers that ended though nobody killed them, and how often.
    deaths: BTreeMap<(&'static str, String), u32>,
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
        let (mut network, listeners) = Network::open(1 + STORES.len()).await?;
        let at = network.endpoint(COORDINATOR);
        let own = ["--listen", &listen, "--advertise", at];
        let mut launches = vec![launch("coordinator", coordinator, &own)];
        launches.extend(STORES.iter().enumerate().map(|(index, name)| {
            let own = ["key-value", "--name", *name, "--listen", "127.0.0.1:0"];
            let reached = ["--advertise", network.endpoint(1 + index), "--coordinator", at];
            launch(name, participant, &[&own[..], &reached].concat())
        }));
        let processes = launches.into_iter().map(Process::start).collect::<Result<Vec<_>, _>>()?;
        let vitals: Vec<_> = processes.iter().map(|process| Arc::clone(process.vitals())).collect();
        network.forward(listeners, &vitals);
        let network = Arc::new(network);
        let mut cluster = Self { processes, network, endpoint, deaths: BTreeMap::new() };
        cluster.tell_network();
        cluster.first_start().await?;
        Ok(cluster)
    }

    /// What is between the processes.
    pub fn network(&self) -> &Arc<Network> {
        &self.network
    }

    fn tell_network(&self) {
        for (index, process) in self.processes.iter().enumerate() {
            self.network.is_process(index, process.pid());
        }
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
        self.tell_network();
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
        self.tell_network();
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
