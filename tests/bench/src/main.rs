//! `handfast-skeleton`: what the product's speed is measured against.
//!
//! A coordinator and participants that are processes as the product's are, speak the product's messages over
//! the same transport, force the writes that two-phase commit forces, and do nothing else: no protocol, no
//! checks, no data. No coordinator of this architecture can be faster than it by much; how much slower the
//! product is, is the price of what the product does. Beside it are the floors under the skeleton itself:
//! the disk and the wire alone.
//!
//! `handfast bench` starts it, and it is of no other use.

mod coordinator;
mod coordinator_service;
mod floors;
mod log;
mod outbox;
mod participant;
mod participant_service;
mod serve;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use serde_json::json;

/// A coordinator and participants without protocol and data, to measure the real ones against.
#[derive(Debug, Parser)]
#[command(name = "handfast-skeleton", version)]
struct Options {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Serve transactions.
    Coordinator {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// The folder of its log.
        #[arg(long)]
        data: PathBuf,
        /// A participant; may be repeated.
        #[arg(long = "participant", value_name = "NAME=URL", value_parser = parse_participant)]
        participants: Vec<(String, String)>,
    },
    /// Serve branches.
    Participant {
        /// Its name.
        #[arg(long)]
        name: String,
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// The folder of its log.
        #[arg(long)]
        data: PathBuf,
        /// Where it joins transactions.
        #[arg(long, value_name = "URL")]
        coordinator: String,
    },
    /// Measure the disk or the wire alone, and print one line of JSON.
    Floor {
        /// What to measure.
        what: Floor,
        /// How many are in flight at a time.
        #[arg(long, default_value_t = 64, value_parser = parse_in_flight)]
        in_flight: usize,
        /// How long to measure, in milliseconds.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
        milliseconds: u64,
        /// A folder on the disk to be measured.
        #[arg(long)]
        data: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Floor {
    /// Append to a file and fdatasync, one writer that gathers.
    Fdatasync,
    /// The same through RocksDB.
    Rocksdb,
    /// Small messages over one gRPC stream, echoed.
    Echo,
}

fn parse_participant(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, url)) if !name.is_empty() && !url.is_empty() => {
            Ok((name.to_owned(), url.to_owned()))
        }
        _ => Err("a participant is NAME=URL".to_owned()),
    }
}

fn parse_in_flight(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=100_000) => Ok(count),
        _ => Err("it takes a number from 1 to 100000".to_owned()),
    }
}

fn main() -> ExitCode {
    match run(Options::parse().role) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("handfast-skeleton: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(role: Role) -> anyhow::Result<()> {
    let runtime = serve::runtime()?;
    match role {
        Role::Coordinator { listen, data, participants } => {
            runtime.block_on(serve::coordinator(listen, &data, participants))
        }
        Role::Participant { name, listen, data, coordinator } => {
            runtime.block_on(serve::participant(listen, &data, name, coordinator))
        }
        Role::Floor { what, in_flight, milliseconds, data } => {
            let time = Duration::from_millis(milliseconds);
            let per_second = match what {
                Floor::Fdatasync => floors::fdatasync(&data, in_flight, time)?,
                Floor::Rocksdb => floors::rocksdb(&data, in_flight, time)?,
                Floor::Echo => runtime.block_on(floors::echo(&data, in_flight, time))?,
            };
            println!("{}", json!({ "in_flight": in_flight, "per_second": per_second }));
            Ok(())
        }
    }
}
