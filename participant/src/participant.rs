//! A participant from its settings to its log: what comes before it is served.
//!
//! It takes two steps, because the two halves need each other: [`ParticipantBuilder::open`] opens the
//! log, which a resource that keeps its data there reads at its own start; [`Opened::serve`] takes the
//! resource.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use handfast_commit_core::id::{Incarnation, ParticipantName};
use handfast_commit_core::two_phase::participant::Config;
use handfast_journal::{Journal, JournalError, JournalOptions, Kind, RocksJournal};
use handfast_runtime::clock::Clock;
use handfast_runtime::shard::{ShardHandle, ShardQueue, shard};
use tonic::service::Routes;
use tonic::transport::Endpoint;

use crate::engine::{OnPoison, Parts};
use crate::enlistment::Handle;
use crate::outgoing::Outgoing;
use crate::recovery::{self, StartError};
use crate::resource_manager::ResourceManager;
use crate::server::{self, Running, ServeOptions};
use crate::shard::ParticipantShard;
use crate::store::Store;

/// Where the way to a participant begins: [`Participant::builder`].
#[derive(Debug)]
pub enum Participant {}

impl Participant {
    /// A participant of this name: the stable name of the resource, not of a process or a host. 1 to 64
    /// of `a-z 0-9 - _ .`.
    #[must_use]
    pub fn builder(name: &str) -> ParticipantBuilder {
        ParticipantBuilder {
            name: name.to_owned(),
            folder: PathBuf::from("handfast-participant-data"),
            coordinator: "http://127.0.0.1:7420".to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            insecure: false,
            services: Vec::new(),
            on_poison: Box::new(end_process),
        }
    }
}

/// The settings of a participant.
pub struct ParticipantBuilder {
    name: String,
    folder: PathBuf,
    coordinator: String,
    listen: SocketAddr,
    advertise: Option<String>,
    insecure: bool,
    services: Vec<String>,
    on_poison: OnPoison,
}

impl std::fmt::Debug for ParticipantBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParticipantBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What is on disk after a failed write is not known, so this process says nothing more. The next one
/// reads it.
fn end_process(error: &JournalError) {
    tracing::error!("the log has failed; this process ends and answers nothing more: {error}");
    eprintln!("the log has failed; this process ends: {error}");
    std::process::exit(1);
}

impl ParticipantBuilder {
    /// The folder of its log; made when it is not there. `handfast-participant-data` unless set.
    #[must_use]
    pub fn folder(mut self, folder: impl AsRef<Path>) -> Self {
        self.folder = folder.as_ref().to_owned();
        self
    }

    /// Where its coordinator is, as `http://host:port`. `http://127.0.0.1:7420` unless set.
    #[must_use]
    pub fn coordinator(mut self, endpoint: &str) -> Self {
        self.coordinator = endpoint.to_owned();
        self
    }

    /// Where it listens; port 0 is any free one, and the default.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// Where others reach it, as `http://host:port`, if that is not where it listens.
    #[must_use]
    pub fn advertise(mut self, endpoint: &str) -> Self {
        self.advertise = Some(endpoint.to_owned());
        self
    }

    /// Lets it listen where other machines reach it, without encryption.
    #[must_use]
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.insecure = insecure;
        self
    }

    /// A service among the extra routes, by its full name, so that its health is told as well.
    #[must_use]
    pub fn service(mut self, name: &str) -> Self {
        self.services.push(name.to_owned());
        self
    }

    /// What to do when the log has failed. The default ends the process, and whatever is done instead
    /// must do so soon: nobody is answered any more.
    #[must_use]
    pub fn on_poison(mut self, act: impl FnOnce(&JournalError) + Send + 'static) -> Self {
        self.on_poison = Box::new(act);
        self
    }

    /// Opens its log.
    ///
    /// # Errors
    /// When a setting is wrong or the log cannot be opened; each says what to do.
    pub fn open(self) -> Result<Opened, StartError> {
        self.check()?;
        let journal =
            RocksJournal::open(&self.folder, Kind::Participant, JournalOptions::default())?;
        let folder = self.folder.display().to_string();
        self.open_on(Box::new(journal), &folder)
    }

    fn check(&self) -> Result<ParticipantName, StartError> {
        let setting = |setting, problem: String| StartError::Setting { setting, problem };
        handfast_runtime::listen::check_address(self.listen, self.insecure)?;
        for (name, endpoint) in
            [("coordinator", Some(&self.coordinator)), ("advertise", self.advertise.as_ref())]
        {
            if let Some(endpoint) = endpoint {
                check_endpoint(endpoint).map_err(|problem| setting(name, problem))?;
            }
        }
        self.name.parse().map_err(|error| setting("name", format!("{:?}: {error}", self.name)))
    }

    /// The same on any journal, which `place` describes.
    ///
    /// # Errors
    /// When a setting is wrong, or the journal is another participant's.
    pub fn open_on(self, mut journal: Box<dyn Journal>, place: &str) -> Result<Opened, StartError> {
        let name = self.check()?;
        recovery::claim(&mut *journal, &name, place)?;
        let store = Store::new(journal.reader());
        let incarnation = Incarnation(store.reader().incarnation());
        let clock = Clock::start();
        let (shard, queue) = shard::<ParticipantShard>();
        let outgoing = Arc::new(Outgoing::new(name.clone(), self.coordinator.clone()));
        let handle = Handle::new(shard.clone(), clock, Arc::clone(&outgoing), incarnation);
        Ok(Opened {
            name,
            journal,
            store,
            clock,
            shard,
            queue,
            outgoing,
            handle,
            config: Config::default(),
            builder: self,
        })
    }
}

fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let sound = endpoint.starts_with("http://")
        && Endpoint::from_shared(endpoint.to_owned())
            .is_ok_and(|parsed| parsed.uri().host().is_some_and(|host| !host.is_empty()));
    if sound {
        Ok(())
    } else {
        Err(format!("{endpoint:?} is no endpoint; one looks like http://127.0.0.1:7420"))
    }
}

/// A participant with its log open, and nothing served.
pub struct Opened {
    name: ParticipantName,
    journal: Box<dyn Journal>,
    store: Store,
    clock: Clock,
    shard: ShardHandle<ParticipantShard>,
    queue: ShardQueue<ParticipantShard>,
    outgoing: Arc<Outgoing>,
    handle: Handle,
    config: Config,
    builder: ParticipantBuilder,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Opened {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &ParticipantName {
        &self.name
    }

    /// The library's store, for a resource that keeps its data there.
    #[must_use]
    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// For the resource's own services: joins transactions.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// How long a branch in doubt waits before it asks, first and at most. 1 s and 10 s unless set. In a
    /// three-phase transaction the second wait without an answer ends in an election.
    #[must_use]
    pub fn inquire_after(mut self, first: std::time::Duration, max: std::time::Duration) -> Self {
        let micros =
            |wait: std::time::Duration| u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        self.config.inquire_after_us = micros(first);
        self.config.inquire_after_us_max = micros(max);
        self
    }

    /// Takes over what an earlier process left, and serves the resource, with `extra` routes for its own
    /// services. Returns when everything is served. Must be called on a tokio runtime of several threads,
    /// or of one that does not block.
    ///
    /// # Errors
    /// When the log cannot be read or the address not be listened on.
    pub async fn serve<R: ResourceManager>(
        self,
        resource: Arc<R>,
        extra: Routes,
    ) -> Result<Running, StartError> {
        let (options, parts) = self.into_parts();
        server::serve(options, parts, resource, extra).await
    }

    pub(crate) fn into_parts(self) -> (ServeOptions, Parts) {
        let Self { name, journal, store, clock, shard, queue, outgoing, handle, config, builder } =
            self;
        let options = ServeOptions {
            listen: builder.listen,
            advertise: builder.advertise,
            services: builder.services,
            handle,
        };
        let parts = Parts {
            name,
            journal,
            reader: store.reader(),
            clock,
            handle: shard,
            queue,
            outgoing,
            endpoint: String::new(),
            on_poison: builder.on_poison,
            config,
        };
        (options, parts)
    }
}

#[cfg(test)]
mod tests {
    use handfast_journal::{MemoryDisk, MemoryJournal};

    use super::*;

    fn refusal(builder: ParticipantBuilder) -> String {
        let journal = MemoryJournal::open(&MemoryDisk::new(1), Kind::Participant);
        let journal = Box::new(journal.expect("an empty disk"));
        builder.open_on(journal, "memory").expect_err("a wrong setting").to_string()
    }

    #[test]
    fn wrong_settings_are_named() {
        let builder = || Participant::builder("a");
        for (builder, parts) in [
            (Participant::builder("A"), ["name", "a-z"]),
            (builder().coordinator("127.0.0.1:7420"), ["coordinator", "http://127.0.0.1:7420"]),
            (builder().coordinator("https://localhost:1"), ["coordinator", "http://"]),
            (builder().advertise("http://"), ["advertise", "http://127.0.0.1:7420"]),
            (builder().listen(SocketAddr::from(([0, 0, 0, 0], 7421))), ["0.0.0.0", "--insecure"]),
        ] {
            let message = refusal(builder);
            for part in parts {
                assert!(message.contains(part), "{part}: {message}");
            }
        }
    }
}
