//! `handfast-participant`: the reference participant, a transactional key-value store as a process of
//! its own.
//!
//! Standard output has one line, when everything is served; everything else is on standard error. Exit
//! codes: 0 drained, 1 cannot serve (or the log has failed), 2 usage; a second signal exits at once with
//! 128 and its number.

mod settings;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use anyhow::Context;
use clap::Command;
use handfast_participant::resources::key_value::{KeyValueConfig, KeyValueGrpc, KeyValueStore};
use handfast_participant::{Participant, Routes, Stopped};
use handfast_runtime::config::{Flags, Settings, arguments};
use handfast_runtime::metrics::{Check, Metrics, Pages};
use handfast_runtime::shutdown::Shutdown;
use handfast_runtime::{io_threads, listen, metrics, telemetry};
use handfast_wire::v1::key_value_service_server::KeyValueServiceServer;

use crate::settings::{SETTINGS, ServerSettings};

/// Messages are made on one thread and dropped on another, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAM: &str = "handfast-participant";
const KEY_VALUE_SERVICE: &str = "handfast.v1.KeyValueService";
/// The largest request and response, in bytes.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

fn command() -> Command {
    let show = Command::new("show")
        .about("Print every setting as it is in effect, and where it came from");
    Command::new(PROGRAM)
        .version(env!("CARGO_PKG_VERSION"))
        .about("A participant in atomic commitment, with a resource of its own")
        .args(arguments(SETTINGS))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("key-value").about("Serve a transactional key-value store on RocksDB"),
        )
        .subcommand(
            Command::new("config")
                .about("About the configuration")
                .subcommand_required(true)
                .subcommand(show),
        )
}

/// Takes the flags from wherever they stand: before the subcommand, or behind it.
fn flags(matches: &clap::ArgMatches) -> Flags {
    let mut flags = Flags::from_matches(SETTINGS, matches);
    if let Some((_, inner)) = matches.subcommand() {
        let inner = self::flags(inner);
        flags.config = inner.config.or(flags.config);
        flags.values.extend(inner.values);
    }
    flags
}

fn main() -> ExitCode {
    let matches = command().get_matches();
    let settings = Settings::load(SETTINGS, &flags(&matches), &|name| std::env::var_os(name));
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => return usage(&error),
    };
    if matches.subcommand_name() == Some("config") {
        print!("{settings}");
        return ExitCode::SUCCESS;
    }
    let server = match ServerSettings::read(&settings) {
        Ok(server) => server,
        Err(error) => return usage(&error),
    };
    match run(&settings, server) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{PROGRAM}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("{PROGRAM}: {error}");
    ExitCode::from(2)
}

fn run(settings: &Settings, server: ServerSettings) -> anyhow::Result<()> {
    let format: String = settings.get("log_format")?;
    let level: String = settings.get("log_level")?;
    telemetry::init(format.parse()?, &level)?;
    let shutdown = Shutdown::listen().context("cannot listen for signals")?;
    let recorder = Metrics::install()?;
    let threads = server.io_threads;
    io_threads::block_on(threads, serve(server, recorder, shutdown))
        .context("cannot start the threads")?
}

async fn serve(
    settings: ServerSettings,
    recorder: Metrics,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let name = settings.name.clone();
    let mut builder = Participant::builder(&settings.name)
        .folder(&settings.data)
        .coordinator(&settings.coordinator)
        .listen(settings.listen)
        .insecure(settings.insecure)
        .service(KEY_VALUE_SERVICE);
    if let Some(advertise) = &settings.advertise {
        builder = builder.advertise(advertise);
    }
    let ready = Arc::new(OnceLock::<Check>::new());
    serve_pages(&settings, recorder, &ready).await?;

    let opened = builder.open()?.inquire_after(settings.inquire_after, settings.inquire_after_max);
    let config = KeyValueConfig { lock_wait: settings.lock_wait };
    let store = Arc::new(KeyValueStore::open(opened.store().reader(), config)?);
    let service = KeyValueServiceServer::new(KeyValueGrpc::new(store.clone(), opened.handle()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let mut running = tokio::select! {
        running = opened.serve(store, Routes::new(service)) => running?,
        () = shutdown.wait() => return Ok(()),
    };
    let _ = ready.set(Arc::new(running.readiness()));
    println!("{PROGRAM} {name} listening on {}", running.address());
    tokio::select! {
        () = shutdown.wait() => {}
        why = running.ended() => anyhow::bail!(why),
    }
    let Stopped { in_doubt, calls } = running.shutdown(settings.drain).await;
    if in_doubt > 0 || calls > 0 {
        tracing::warn!(
            in_doubt,
            calls,
            "left behind: {in_doubt} branches in doubt, {calls} calls that had not ended"
        );
    }
    Ok(())
}

async fn serve_pages(
    settings: &ServerSettings,
    recorder: Metrics,
    ready: &Arc<OnceLock<Check>>,
) -> anyhow::Result<()> {
    let Some(address) = settings.metrics_listen else {
        tokio::spawn(async move { recorder.run_upkeep().await });
        return Ok(());
    };
    listen::check_address(address, settings.insecure)?;
    let listener = listen::bind(address).await?;
    eprintln!("{PROGRAM} metrics on http://{}/metrics", listener.local_addr()?);
    let ready = Arc::clone(ready);
    let pages = Pages {
        metrics: recorder,
        live: Arc::new(|| Ok(())),
        ready: Arc::new(move || match ready.get() {
            Some(ready) => ready(),
            None => Err("the log is being read".to_owned()),
        }),
    };
    tokio::spawn(metrics::serve(listener, pages, std::future::pending()));
    Ok(())
}
