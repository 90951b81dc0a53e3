//! The Handfast coordinator: drives atomic commitment and keeps its decisions in a durable log.
//!
//! The binary `handfast-coordinator` is thin. An application that wants a coordinator of its own makes
//! an [`engine::Engine`] over a folder, or serves one with [`server::serve`].
//!
//! | module | what it is |
//! | --- | --- |
//! | [`engine`], [`requests`], [`queries`] | the coordinator without its network |
//! | [`shard`] | one thread's share of the transactions |
//! | [`effects`], [`links`] | what the shards want done, and the queues to the participants |
//! | [`recovery`], [`store`] | the start, and what is in the log |
//! | [`transaction_service`], [`coordinator_service`] | what clients and participants call |
//! | [`site_host`], [`witness_links`] | what voting sites of three-phase commit ask each other |
//! | `calls`, `call_stream`, `outbox` | what the calls of clients mean, and those that share a stream |
//!
//! The rules of the protocol are not here: they are in `handfast_commit_core`.

mod call_stream;
mod calls;
pub mod config;
pub mod coordinator_service;
pub mod effects;
pub mod engine;
mod link_frames;
mod link_task;
pub mod links;
mod outbox;
pub mod participant_registry;
pub mod queries;
pub mod ready;
pub mod recovery;
pub mod reply_to;
pub mod requests;
pub mod server;
pub mod settings;
pub mod shard;
pub mod site_host;
pub mod status;
pub mod store;
pub mod transaction_service;
pub mod view;
pub mod witness_links;
