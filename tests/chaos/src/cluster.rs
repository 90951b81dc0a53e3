//! A coordinator and its participants.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use handfast_client::{Client, ClientMode, ClientOptions, RetryOptions};
use tempfile::TempDir;

use crate::ask;
use crate::eventually::{eventually, eventually_ok};
use crate::hold::Hold;
use crate::log_files::LogFiles;
use crate::programs::program;
use crate::proxy::Proxy;
use crate::server::{Server, text};

/// What to start.
#[derive(Debug)]
pub struct Plan {
    participants: Vec<String>,
    witnesses: Vec<String>,
    coordinator_arguments: Vec<String>,
    participant_arguments: Vec<String>,
    environment: Vec<(String, String)>,
    proxied: bool,
}

impl Plan {
    /// A coordinator, and key-value participants of these names.
    #[must_use]
    pub fn new(participants: &[&str]) -> Self {
        Self {
            participants: participants.iter().map(|name| (*name).to_owned()).collect(),
            witnesses: Vec::new(),
            coordinator_arguments: Vec::new(),
            participant_arguments: Vec::new(),
            environment: Vec::new(),
            proxied: false,
        }
    }

    /// More arguments for the coordinator.
    #[must_use]
    pub fn coordinator(mut self, arguments: &[&str]) -> Self {
        self.coordinator_arguments.extend(arguments.iter().map(|text| (*text).to_owned()));
        self
    }

    /// More arguments for every participant.
    #[must_use]
    pub fn each_participant(mut self, arguments: &[&str]) -> Self {
        self.participant_arguments.extend(arguments.iter().map(|text| (*text).to_owned()));
        self
    }

    /// Variables of every process.
    #[must_use]
    pub fn environment(mut self, variables: &[(String, String)]) -> Self {
        self.environment.extend_from_slice(variables);
        self
    }

    /// Witnesses of its three-phase transactions, of these names.
    #[must_use]
    pub fn witnesses(mut self, names: &[&str]) -> Self {
        self.witnesses = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// The coordinator, and every other participant, reaches each participant through a [`Proxy`].
    #[must_use]
    pub fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// Starts everything, and waits until the coordinator has reached everybody.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start(self) -> Cluster {
        let folder = match tempfile::Builder::new().prefix("handfast-chaos-").tempdir() {
            Ok(folder) => folder,
            Err(error) => panic!("cannot make a temporary folder: {error}"),
        };
        let data = |name: &str| text(&folder.path().join(name));
        let mut witnesses = BTreeMap::new();
        // More than one, however few cores there are: what belongs to which is a thing to get wrong.
        let mut arguments: Vec<_> =
            ["--shards", "2", "--data", &data("coordinator")].map(str::to_owned).to_vec();
        arguments.extend(self.coordinator_arguments);
        for (number, name) in self.witnesses.iter().enumerate() {
            let slot = (1000 + number).to_string();
            let own = ["--witness-name", name, "--slot", &slot, "--data", &data(name)];
            let mut server = Server::new(
                &format!("witness {name}"),
                program("handfast-coordinator"),
                own.map(str::to_owned).to_vec(),
            );
            server.set_environment(&self.environment);
            witnesses.insert(name.clone(), server);
        }
        if !witnesses.is_empty() {
            let place =
                |(name, server): (&String, &Server)| format!("{name}={}", server.endpoint());
            let places: Vec<_> = witnesses.iter().map(place).collect();
            arguments.extend(["--witnesses".to_owned(), places.join(",")]);
        }
        let mut coordinator =
            Server::new("coordinator", program("handfast-coordinator"), arguments);
        coordinator.set_environment(&self.environment);
        let mut participants = BTreeMap::new();
        let mut proxies = BTreeMap::new();
        for name in &self.participants {
            let mut arguments: Vec<String> =
                ["key-value", "--name", name, "--data", &data(name)].map(str::to_owned).to_vec();
            arguments.extend(["--coordinator".to_owned(), coordinator.endpoint()]);
            arguments.extend(self.participant_arguments.clone());
            let mut server = Server::new(
                &format!("participant {name}"),
                program("handfast-participant"),
                arguments,
            );
            server.set_environment(&self.environment);
            if self.proxied {
                let proxy = Proxy::start(server.address()).await;
                server.set_argument("--advertise", &proxy.endpoint());
                proxies.insert(name.clone(), proxy);
            }
            participants.insert(name.clone(), server);
        }
        let mut cluster = Cluster { coordinator, participants, witnesses, proxies, folder };
        cluster.start_all().await;
        cluster
    }
}

fn connect(endpoint: &str, deadline: Duration, mode: ClientMode) -> Client {
    let retry = RetryOptions { pause_max: Duration::from_millis(250), ..RetryOptions::default() };
    let options = ClientOptions { mode, deadline, retry, ..ClientOptions::default() };
    match Client::connect_with(endpoint, options) {
        Ok(client) => client,
        Err(error) => panic!("{error}"),
    }
}

/// A running system.
#[derive(Debug)]
pub struct Cluster {
    /// The coordinator.
    pub coordinator: Server,
    participants: BTreeMap<String, Server>,
    witnesses: BTreeMap<String, Server>,
    proxies: BTreeMap<String, Proxy>,
    // Last: the processes end before their folders go.
    folder: TempDir,
}

impl Cluster {
    /// A coordinator, and key-value participants of these names, with default settings.
    pub async fn start(participants: &[&str]) -> Self {
        Plan::new(participants).start().await
    }

    /// Where files of the test may be put.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The names of the participants.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.participants.keys().cloned().collect()
    }

    /// A participant.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn participant(&mut self, name: &str) -> &mut Server {
        match self.participants.get_mut(name) {
            Some(server) => server,
            None => panic!("this test has no participant {name}"),
        }
    }

    /// A witness.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn witness(&mut self, name: &str) -> &mut Server {
        match self.witnesses.get_mut(name) {
            Some(server) => server,
            None => panic!("this test has no witness {name}"),
        }
    }

    /// Where a participant is served.
    ///
    /// # Panics
    /// When there is none of that name.
    #[must_use]
    pub fn address(&self, name: &str) -> SocketAddr {
        match self.participants.get(name) {
            Some(server) => server.address(),
            None => panic!("this test has no participant {name}"),
        }
    }

    /// All processes: the coordinator, then the participants, then the witnesses.
    pub fn servers(&mut self) -> impl Iterator<Item = &mut Server> {
        std::iter::once(&mut self.coordinator)
            .chain(self.participants.values_mut())
            .chain(self.witnesses.values_mut())
    }

    /// The connection from the coordinator to a participant; see [`Plan::proxied`].
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn proxy(&self, name: &str) -> &Proxy {
        match self.proxies.get(name) {
            Some(proxy) => proxy,
            None => panic!("participant {name} is not behind a proxy in this test"),
        }
    }

    /// The coordinator's data folder.
    #[must_use]
    pub fn coordinator_data(&self) -> PathBuf {
        self.folder.path().join("coordinator")
    }

    /// A participant's data folder.
    #[must_use]
    pub fn participant_data(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The coordinator's log.
    #[must_use]
    pub fn coordinator_log(&self) -> LogFiles {
        LogFiles::new(&self.coordinator_data())
    }

    /// A place where a process will be held.
    #[must_use]
    pub fn hold(&self, place: &str) -> Hold {
        Hold::new(self.folder.path(), place)
    }

    // ---- clients --------------------------------------------------------------------------------

    /// A client that tries again until its call is answered or `deadline` has passed.
    ///
    /// # Panics
    /// Never: the endpoint is our own.
    #[must_use]
    pub fn client_with(&self, deadline: Duration) -> Client {
        connect(&self.coordinator.endpoint(), deadline, ClientMode::default())
    }

    /// The same, whose calls travel as one likes.
    ///
    /// # Panics
    /// Never: the endpoint is our own.
    #[must_use]
    pub fn client_in(&self, mode: ClientMode, deadline: Duration) -> Client {
        connect(&self.coordinator.endpoint(), deadline, mode)
    }

    /// The same, over its stream, by way of a proxy.
    ///
    /// # Panics
    /// Never: the endpoint is our own.
    #[must_use]
    pub fn client_through(&self, proxy: &Proxy, deadline: Duration) -> Client {
        connect(&proxy.endpoint(), deadline, ClientMode::Stream)
    }

    /// The same, with a deadline that only a failed test meets.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client_with(crate::patience())
    }

    // ---- everybody at once ----------------------------------------------------------------------

    /// Starts whoever does not run, and waits until the coordinator has reached everybody.
    pub async fn start_all(&mut self) {
        for server in self.servers() {
            if !server.runs() {
                // One that has ended by itself is still to be reaped.
                server.kill();
                server.launch(None);
            }
        }
        for server in self.servers() {
            server.ready().await;
        }
        self.connected().await;
    }

    /// Kills the coordinator and starts it with a crash point (or [`Hold::point`]).
    pub async fn restart_coordinator_at(&mut self, crash_point: &str) {
        self.coordinator.kill();
        self.coordinator.start_at(crash_point).await;
        self.connected().await;
    }

    /// Kills a participant and starts it with a crash point (or [`Hold::point`]).
    pub async fn restart_participant_at(&mut self, name: &str, crash_point: &str) {
        self.participant(name).kill();
        self.participant(name).start_at(crash_point).await;
        self.connected().await;
    }

    /// Waits until the coordinator has reached every participant.
    pub async fn connected(&self) {
        let names = self.names();
        eventually("the coordinator has reached every participant", || {
            let registered = ask::participants(self.coordinator.address());
            let names = names.clone();
            async move {
                registered.await.is_ok_and(|registered| {
                    names.iter().all(|name| {
                        registered.iter().any(|known| known.participant == *name && known.connected)
                    })
                })
            }
        })
        .await;
    }

    /// The transactions that a participant holds in doubt, by id.
    ///
    /// # Panics
    /// When the participant cannot be asked.
    pub async fn in_doubt(&self, name: &str) -> Vec<String> {
        let address = self.address(name);
        eventually_ok(&format!("participant {name} says what it holds"), || {
            ask::in_doubt(address, name)
        })
        .await
    }

    /// Waits until a participant holds so many transactions in doubt, and returns them.
    pub async fn wait_in_doubt(&self, name: &str, count: usize) -> Vec<String> {
        let address = self.address(name);
        eventually_ok(&format!("participant {name} holds {count} in doubt"), || async move {
            match ask::in_doubt(address, name).await {
                Ok(held) if held.len() == count => Ok(held),
                Ok(held) => Err(format!("it holds {}", held.len())),
                Err(status) => Err(status.to_string()),
            }
        })
        .await
    }

    /// Waits until nothing is left: no participant holds anything in doubt or unforgotten, and the
    /// coordinator runs nothing.
    pub async fn nothing_is_left(&self) {
        for name in self.names() {
            let address = self.address(&name);
            eventually_ok(&format!("participant {name} holds nothing any more"), || {
                let name = name.clone();
                async move {
                    let held =
                        ask::held(address, &name).await.map_err(|status| status.to_string())?;
                    if held.is_empty() { Ok(()) } else { Err(format!("it holds {held:?}")) }
                }
            })
            .await;
        }
        let coordinator = self.coordinator.address();
        eventually_ok("the coordinator runs nothing any more", || async move {
            let running = ask::running(coordinator).await.map_err(|status| status.to_string())?;
            if running.is_empty() { Ok(()) } else { Err(format!("it runs {running:?}")) }
        })
        .await;
    }
}
