//! `handfast-coordinator`: the coordinator as a process of its own.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Command;
use handfast_coordinator::ready::Ready;
use handfast_coordinator::server::{ServeOptions, serve};
use handfast_coordinator::settings::{SETTINGS, ServerSettings};
use handfast_runtime::config::{Flags, Settings, arguments};
use handfast_runtime::metrics::{Metrics, Pages};
use handfast_runtime::shutdown::Shutdown;
use handfast_runtime::{io_threads, listen, metrics, telemetry};

/// Messages are made on one thread and dropped on another, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn command() -> Command {
    Command::new("handfast-coordinator")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Makes one change across several systems happen in all of them or in none")
        .args(arguments(SETTINGS))
        .subcommand(
            Command::new("config")
                .about("About the configuration")
                .subcommand_required(true)
                .subcommand(
                    Command::new("show")
                        .about("Print every setting as it is in effect, and where it came from"),
                ),
        )
}

fn main() -> ExitCode {
    let matches = command().get_matches();
    let flags = Flags::from_matches(SETTINGS, &matches);
    let settings = match Settings::load(SETTINGS, &flags, &|name| std::env::var_os(name)) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("handfast-coordinator: {error}");
            return ExitCode::from(2);
        }
    };
    if matches.subcommand_name() == Some("config") {
        print!("{settings}");
        return ExitCode::SUCCESS;
    }
    match run(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("handfast-coordinator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: &Settings) -> anyhow::Result<()> {
    let server = ServerSettings::read(settings)?;
    let format: String = settings.get("log_format")?;
    let level: String = settings.get("log_level")?;
    telemetry::init(format.parse()?, &level)?;
    let shutdown = Shutdown::listen().context("cannot listen for signals")?;
    let recorder = Metrics::install()?;
    let threads = server.io_threads;
    io_threads::block_on(threads, serve_all(server, recorder, shutdown))
        .context("cannot start the threads")?
}

async fn serve_all(
    server: ServerSettings,
    recorder: Metrics,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    listen::check_address(server.listen, server.insecure)?;
    let listener = listen::bind(server.listen).await?;
    let address = listener.local_addr()?;
    let advertise = match server.advertise {
        Some(advertise) => advertise,
        None if address.ip().is_unspecified() => {
            anyhow::bail!(
                "--listen {address} is every address: say with --advertise http://host:port at which one \
                    participants reach it"
            )
        }
        None => format!("http://{address}"),
    };
    let ready = Ready::default();
    if let Some(metrics_listen) = server.metrics_listen {
        listen::check_address(metrics_listen, server.insecure)?;
        let listener = listen::bind(metrics_listen).await?;
        eprintln!("handfast-coordinator metrics on http://{}/metrics", listener.local_addr()?);
        let (is_ready, draining) = (ready.clone(), shutdown.clone());
        let pages = Pages {
            metrics: recorder,
            live: Arc::new(|| Ok(())),
            ready: Arc::new(move || match is_ready.get() {
                _ if draining.draining() => Err("draining".to_owned()),
                Some(_) => Ok(()),
                None => Err("the log is being read".to_owned()),
            }),
        };
        tokio::spawn(metrics::serve(listener, pages, std::future::pending()));
    } else {
        tokio::spawn(async move { recorder.run_upkeep().await });
    }
    let options = ServeOptions { listener, advertise, drain_for: server.drain };
    let stop = async move { shutdown.wait().await };
    let on_ready = |address| println!("handfast-coordinator listening on {address}");
    serve(server.engine, options, ready, on_ready, stop).await?;
    Ok(())
}
