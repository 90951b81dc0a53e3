//! What a process needs around the pure core: a driver, clocks and timers, and the ordinary things of
//! a server (configuration, logs, metrics, signals).
//!
//! The one law kept here is the core's ordering law: [`driver`] hands records to the log and performs
//! nothing before the log is as durable as the step demands. There is one driver, for coordinators and
//! participants, in production and in the simulator.

pub mod clock;
pub mod config;
pub mod connections;
pub mod crash_point;
pub mod driver;
mod hand_over;
pub mod io_threads;
pub mod listen;
pub mod metrics;
pub mod phases;
pub mod shard;
pub mod shutdown;
pub mod site_links;
pub mod site_service;
pub mod telemetry;
pub mod timers;
