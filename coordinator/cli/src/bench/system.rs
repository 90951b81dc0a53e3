//! A system to be measured: the product or the skeleton, as processes of their own, or one that somebody
//! else has started.
//!
//! The law: what was started here is stopped here, by its handle; see [`Process`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use handfast_client::{Client, ClientOptions, RetryOptions};
use tokio::time::{Instant, sleep, timeout_at};

use crate::bench::cpu;
use crate::options::CallMode;
use crate::process::{Launch, Process, State};
use crate::programs::free_port;

/// The names of the participants of systems that are started here.
pub const STORES: [&str; 8] =
    ["store-1", "store-2", "store-3", "store-4", "store-5", "store-6", "store-7", "store-8"];
/// How long a server may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);
/// What a server says in its log when it serves metrics; the address follows.
const METRICS: &str = " metrics on http://";
/// Longer than any pause, so that what is refused is counted and not tried again.
const NEVER_AGAIN: Duration = Duration::from_secs(3600);

/// Which system it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Product,
    Skeleton,
}

/// The programs of both.
#[derive(Debug, Clone)]
pub struct Programs {
    pub coordinator: PathBuf,
    pub participant: PathBuf,
    pub skeleton: PathBuf,
}

/// A running system.
#[derive(Debug)]
pub struct System {
    endpoint: String,
    /// The coordinator first; none when somebody else has started them.
    processes: Vec<Process>,
    logs: Vec<PathBuf>,
    stores: Vec<String>,
}

/// Processor time that was used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// By this process.
    pub client: Duration,
    pub coordinator: Duration,
    /// By all participants together.
    pub participants: Duration,
}

impl Usage {
    /// What was used since.
    pub fn since(self, before: Self) -> Self {
        Self {
            client: self.client.saturating_sub(before.client),
            coordinator: self.coordinator.saturating_sub(before.coordinator),
            participants: self.participants.saturating_sub(before.participants),
        }
    }
}

/// How the client library speaks in this mode.
fn options(mode: CallMode) -> ClientOptions {
    ClientOptions { mode: mode.into(), ..ClientOptions::default() }
}

fn launch(name: &'static str, program: &Path, folder: &Path, arguments: &[&str]) -> Launch {
    let mut arguments: Vec<OsString> = arguments.iter().map(Into::into).collect();
    arguments.extend(["--data".into(), folder.join(name).into_os_string()]);
    let log = folder.join(format!("{name}.log"));
    Launch { name, program: program.to_path_buf(), arguments, log }
}

impl System {
    /// Starts one with so many participants, and waits until they are connected. The product's coordinator
    /// gets these flags as well.
    ///
    /// # Errors
    /// A sentence that says who did not start, and the end of its log.
    pub async fn start(
        kind: Kind,
        programs: &Programs,
        folder: &Path,
        participants: usize,
        coordinator_flags: &[String],
    ) -> Result<Self, String> {
        std::fs::create_dir_all(folder)
            .map_err(|error| format!("{} cannot be made: {error}", folder.display()))?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let endpoint = format!("http://{address}");
        let stores = &STORES[..participants.min(STORES.len())];
        let mut system = Self {
            endpoint: endpoint.clone(),
            processes: Vec::new(),
            logs: Vec::new(),
            stores: stores.iter().map(|&name| name.to_owned()).collect(),
        };
        match kind {
            Kind::Product => {
                let metrics = ["--metrics-listen", "127.0.0.1:0"];
                let flags = coordinator_flags.iter().map(String::as_str);
                let own: Vec<_> =
                    ["--listen", &address].into_iter().chain(metrics).chain(flags).collect();
                system.run(launch("coordinator", &programs.coordinator, folder, &own))?;
                for name in stores {
                    let own = ["key-value", "--name", name, "--listen", "127.0.0.1:0"];
                    let own = [&own[..], &["--coordinator", &endpoint], &metrics].concat();
                    system.run(launch(name, &programs.participant, folder, &own))?;
                }
                system.up().await?;
            }
            Kind::Skeleton => {
                for name in stores {
                    let own = ["participant", "--name", name, "--coordinator", &endpoint];
                    system.run(launch(name, &programs.skeleton, folder, &own))?;
                }
                let addresses = system.up().await?;
                let mut own = vec!["coordinator".to_owned(), "--listen".to_owned(), address];
                for (name, address) in stores.iter().zip(addresses) {
                    own.extend(["--participant".to_owned(), format!("{name}=http://{address}")]);
                }
                let own: Vec<_> = own.iter().map(String::as_str).collect();
                system.run(launch("coordinator", &programs.skeleton, folder, &own))?;
                system.processes.rotate_right(1);
                system.logs.rotate_right(1);
                system.up().await?;
            }
        }
        system.connected().await?;
        Ok(system)
    }

    /// One that is running already, with the participants of these names; with all that it has when there are
    /// none.
    ///
    /// # Errors
    /// A sentence, when it does not answer or has no participant that is connected.
    pub async fn running(endpoint: &str) -> Result<Self, String> {
        let mut system = Self {
            endpoint: endpoint.to_owned(),
            processes: Vec::new(),
            logs: Vec::new(),
            stores: Vec::new(),
        };
        let client = system.client(CallMode::Unary)?;
        let listed = client.participants().await.map_err(|error| error.to_string())?;
        let connected = listed.into_iter().filter(|found| found.connected);
        system.stores = connected.map(|found| found.participant).collect();
        match system.stores.is_empty() {
            true => Err(format!("no participant is connected to {endpoint}")),
            false => Ok(system),
        }
    }

    fn run(&mut self, launch: Launch) -> Result<(), String> {
        self.logs.push(launch.log.clone());
        self.processes.push(Process::start(launch)?);
        Ok(())
    }

    /// Where everybody is, once all are ready.
    async fn up(&mut self) -> Result<Vec<String>, String> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let mut addresses = Vec::new();
            for process in &mut self.processes {
                let name = process.vitals().name;
                let ended = process.ended()?;
                match (ended, process.vitals().state()) {
                    (Some(status), _) => {
                        let tail = process.log_tail();
                        return Err(format!("{name} did not start ({status}):\n{tail}"));
                    }
                    (None, State::Up(address)) => addresses.push(address),
                    (None, State::Starting) if Instant::now() >= deadline => {
                        let tail = process.log_tail();
                        return Err(format!("{name} was not ready in time:\n{tail}"));
                    }
                    (None, State::Starting) => {}
                }
            }
            if addresses.len() == self.processes.len() {
                return Ok(addresses);
            }
            sleep(POLL).await;
        }
    }

    /// Waits until the coordinator has a connection to every participant.
    ///
    /// # Errors
    /// A sentence, when it has not in time.
    pub async fn connected(&self) -> Result<(), String> {
        let client = self.client(CallMode::Unary)?;
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let listed = timeout_at(deadline, client.participants()).await;
            let connected = match listed {
                Ok(Ok(found)) => self.stores.iter().all(|name| {
                    found.iter().any(|found| found.participant == *name && found.connected)
                }),
                _ => false,
            };
            if connected {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(format!("{} has not found its participants in time", self.endpoint));
            }
            sleep(POLL).await;
        }
    }

    /// A connection of its own to the coordinator.
    ///
    /// # Errors
    /// A sentence, when the endpoint is none.
    pub fn client(&self, mode: CallMode) -> Result<Client, String> {
        Client::connect_with(&self.endpoint, options(mode)).map_err(|error| error.to_string())
    }

    /// The same, and what is refused is not tried again.
    ///
    /// # Errors
    /// A sentence, when the endpoint is none.
    pub fn impatient_client(&self, mode: CallMode) -> Result<Client, String> {
        let retry = RetryOptions { pause_min: NEVER_AGAIN, pause_max: NEVER_AGAIN };
        let options = ClientOptions { retry, ..options(mode) };
        Client::connect_with(&self.endpoint, options).map_err(|error| error.to_string())
    }

    /// Where its coordinator is.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The names of its participants.
    pub fn stores(&self) -> &[String] {
        &self.stores
    }

    /// The process of a participant.
    pub fn store_pid(&self, store: usize) -> Option<u32> {
        self.processes.get(store + 1).and_then(Process::pid)
    }

    /// Processor time so far; of a system that was started elsewhere, this process's only.
    pub fn usage(&self) -> Usage {
        let used = |process: &Process| process.pid().and_then(cpu::used).unwrap_or_default();
        Usage {
            client: cpu::used(std::process::id()).unwrap_or_default(),
            coordinator: self.processes.first().map(used).unwrap_or_default(),
            participants: self.processes.iter().skip(1).map(used).sum(),
        }
    }

    /// Bytes of the coordinator that are in memory.
    pub fn coordinator_bytes(&self) -> Option<u64> {
        cpu::resident_bytes(self.processes.first()?.pid()?)
    }

    /// Where metrics are served, the coordinator's first; empty where there are none.
    pub fn metrics_addresses(&self) -> Vec<String> {
        let address = |log: &PathBuf| {
            let text = std::fs::read_to_string(log).ok()?;
            // The last start's.
            let (_, rest) = text.rsplit_once(METRICS)?;
            Some(rest.split_once('/')?.0.to_owned())
        };
        self.logs.iter().filter_map(address).collect()
    }

    /// Kills the coordinator, starts it again, and returns how long it took from its start until it was
    /// ready.
    ///
    /// # Errors
    /// A sentence, when it does not come back.
    pub async fn restart_coordinator(&mut self) -> Result<Duration, String> {
        let Some(coordinator) = self.processes.first_mut() else {
            return Err("the coordinator was not started here".to_owned());
        };
        coordinator.kill_and_restart().await?;
        let began = Instant::now();
        self.up().await?;
        Ok(began.elapsed())
    }

    /// Kills every process for good.
    pub async fn stop(&mut self) {
        for process in &mut self.processes {
            // One that cannot be waited for is killed when its handle goes.
            let _ = process.stop().await;
        }
    }
}
