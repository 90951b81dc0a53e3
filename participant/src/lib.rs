//! A participant in atomic commitment: everything but the resource itself.
//!
//! Whoever holds data that can be changed in a transaction implements
//! [`ResourceManager`](resource_manager::ResourceManager), and this library does the rest: the
//! protocol, the journal, time-outs, recovery, termination, and the server that a coordinator calls.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use std::sync::Arc;
//! use handfast_participant::resource_manager::{
//!     Ending, Finished, Prepared, ResourceError, ResourceManager, TransactionId, Work,
//! };
//! use handfast_participant::{Participant, Routes, Store};
//!
//! /// A notebook in the library's own store: a branch adds a line, and lines never conflict.
//! struct Notebook {
//!     store: Store,
//! }
//!
//! fn key(prefix: &str, id: TransactionId) -> Vec<u8> {
//!     [prefix.as_bytes(), &id.as_bytes()[..]].concat()
//! }
//!
//! impl Notebook {
//!     fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ResourceError> {
//!         self.store.get(key).map_err(|error| ResourceError(error.to_string()))
//!     }
//! }
//!
//! impl ResourceManager for Notebook {
//!     async fn prepare(&self, id: TransactionId, work: Work) -> Prepared {
//!         match work {
//!             Work::Carried { payload, .. } => {
//!                 let changes = vec![(key("draft/", id), Some(payload))];
//!                 Prepared::Yes { result: Vec::new(), staged: Vec::new(), changes }
//!             }
//!             Work::Joined => Prepared::No { reason: "a notebook has no sessions".into() },
//!         }
//!     }
//!
//!     async fn commit(&self, id: TransactionId) -> Result<Finished, ResourceError> {
//!         if let Some(line) = self.read(&key("draft/", id))? {
//!             let changes = vec![(key("draft/", id), None), (key("line/", id), Some(line))];
//!             return Ok(Finished::Done { changes });
//!         }
//!         let done = self.read(&key("line/", id))?.is_some();
//!         Ok(if done { Finished::AlreadyDone } else { Finished::Unknown })
//!     }
//!
//!     async fn abort(&self, id: TransactionId) -> Result<Finished, ResourceError> {
//!         Ok(Finished::Done { changes: vec![(key("draft/", id), None)] })
//!     }
//!
//!     fn finished(&self, _id: TransactionId, _ending: Ending) {}
//!
//!     async fn in_doubt(&self) -> Result<Vec<TransactionId>, ResourceError> {
//!         let mut ids = Vec::new();
//!         self.store
//!             .scan(b"draft/", |key, _| {
//!                 ids.extend(TransactionId::from_bytes(&key[b"draft/".len()..]));
//!                 ControlFlow::Continue(())
//!             })
//!             .map_err(|error| ResourceError(error.to_string()))?;
//!         Ok(ids)
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let opened = Participant::builder("notebook")
//!         .folder("notebook-data")
//!         .coordinator("http://127.0.0.1:7420")
//!         .listen("127.0.0.1:7430".parse()?)
//!         .open()?;
//!     let notebook = Arc::new(Notebook { store: opened.store() });
//!     let mut running = opened.serve(notebook, Routes::default()).await?;
//!     println!("listening on {}", running.address());
//!     Err(running.ended().await.into())
//! }
//! ```
//!
//! An implementation proves itself with the suite in [`conformance`].
//!
//! # Two-phase and three-phase commit
//!
//! Each transaction says by which of the two it is committed, and a participant serves both. For three-phase
//! commit there is nothing more to write: a participant is a *voting site*, and the library keeps its ballots in
//! the journal, in the same forced write as the changes of the resource (a branch takes three of them: the
//! vote, the move, the end), leads an election when the coordinator is silent, answers those of the others, and
//! forgets when every site has the decision on its disk. A resource manager may implement
//! [`pre_commit`](resource_manager::ResourceManager::pre_commit), which is a notice and nothing more.
//!
//! Who operates it has to know three things. Participants reach each other, and the witnesses, where they
//! are registered: an address that only the coordinator can reach ([`advertise`](ParticipantBuilder::advertise))
//! makes them wait for it. One that starts at another address while its coordinator is away is found when it
//! leads, and not before. And a journal that is lost is not replaced by an empty one under the same name:
//! what it had voted for is then nobody's to say.
//!
//! What a branch in doubt waits for is told by `ListInDoubt` (and `handfast in-doubt`), in the log, and by
//! these metrics beside those of every participant:
//!
//! | metric | what it counts |
//! | --- | --- |
//! | `handfast_participant_pre_committed`, `…_pre_aborted` | branches in doubt that have moved, either way |
//! | `handfast_participant_terminations_led` | branches in doubt that this participant leads, and lacks a quorum for |
//! | `handfast_participant_decisions_kept` | decisions that not every site is known to have |
//! | `handfast_participant_elections_total` | elections begun here |
//! | `handfast_participant_terminations_total` | transactions that were ended by an election led here |
//!
//! # Inside
//!
//! | module | what it is |
//! | --- | --- |
//! | `shard`, `effects` | the pure core as the driver turns it, and what it wants done |
//! | `engine`, `recovery` | the participant without its network, and its start |
//! | `server`, `participant_service`, `session`, `sessions` | what coordinators and peers call |
//! | `voting` | this participant among the voting sites of three-phase commit |
//! | `outgoing`, `registration`, [`enlistment`] | what is asked of them |
//! | `resource_calls`, `pre_commits` | the resource manager, and what its mistakes may not break |
//!
//! The rules of the protocol are not here: they are in `handfast_commit_core`.

pub mod conformance;
pub mod enlistment;
pub mod resource_manager;
pub mod resources;

mod effects;
mod engine;
mod observe;
mod outgoing;
mod participant;
mod participant_service;
mod pre_commits;
mod recovery;
mod registration;
mod resource_calls;
mod server;
mod session;
mod session_frames;
mod sessions;
mod shard;
mod status;
mod store;
mod voting;

#[doc(hidden)]
pub mod simulation;

pub use enlistment::Handle;
pub use participant::{Opened, Participant, ParticipantBuilder};
pub use recovery::StartError;
pub use server::{Running, Stopped};
pub use store::{StagedError, Store};
pub use tonic::service::Routes;
