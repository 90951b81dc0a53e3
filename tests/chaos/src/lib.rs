//! Tests on the real programs: what an outside observer sees when processes are killed, stopped, cut off
//! and starved of disk, and when their logs and clocks are tampered with.
//!
//! The programs are those that `cargo build --workspace --bins` makes (see [`programs`]), started as
//! processes of their own on loopback, each with a folder of its own. Nothing here knows anything of
//! their insides but the names of their crash points.
//!
//! | part | what it is |
//! | --- | --- |
//! | [`Cluster`], [`Server`] | a coordinator and its participants as processes; kill, stop, restart, hold at a crash point |
//! | [`Proxy`] | a connection that is delayed, blocked in one direction, or cut |
//! | [`Oracle`] | what clients were told, compared with what the stores hold |
//! | [`bank`] | a load whose total never changes |
//! | [`ask`] | plain questions to the programs, in one attempt each |
//! | [`Shim`] | syncs that fail, a disk that is full, a clock that jumps |
//!
//! Laws of every test:
//! - **Always**: no mixed outcome, everything acknowledged is there, every effect once, and after healing
//!   nothing is left prepared ([`Oracle::check`]).
//! - A wait is for a condition and has a bound ([`eventually`]); nothing else depends on how long anything takes.
//! - Every process ends with its test.

pub mod ask;
pub mod bank;
mod cluster;
mod crash_points;
mod eventually;
mod hold;
mod log_files;
mod oracle;
pub mod programs;
mod proxy;
mod random;
mod server;
mod shim;
pub mod storm;
mod transcript;

pub use cluster::{Cluster, Plan};
pub use crash_points::killed_at_each;
pub use eventually::{eventually, eventually_ok, patience};
pub use hold::Hold;
pub use log_files::LogFiles;
pub use oracle::{Answer, Oracle, read};
pub use proxy::{Flow, Proxy};
pub use random::Random;
pub use server::Server;
pub use shim::Shim;
