//! What each command does. One module per command, or per family of commands.

mod completions;
mod config;
mod execute;
mod in_doubt;
mod kv;
mod participants;
mod txn;

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use handfast_client::{Client, ClientOptions, TransactionOptions};

use crate::config::Settings;
use crate::failure::Failure;
use crate::options::{Command, ConfigCommand, ProtocolChoice, TransactionArguments};
use crate::output::Output;

/// Runs a command.
///
/// # Errors
/// Why it did not succeed; the exit code follows from it.
pub async fn run(
    command: Command,
    settings: &Settings,
    output: &mut Output,
) -> Result<(), Failure> {
    match command {
        Command::Txn(command) => txn::run(command, settings, output).await,
        Command::Kv(command) => kv::run(command, settings, output).await,
        Command::InDoubt { participants } => in_doubt::run(participants, settings, output).await,
        Command::Participants => participants::run(settings, output).await,
        Command::Config(ConfigCommand::Show) => config::show(settings, output),
        Command::Demo(options) => crate::demo::run(options, settings, output).await,
        Command::Bench(options) => crate::bench::run(&options, settings, output).await,
        Command::Completions { shell } => completions::write(shell, output),
    }
}

/// A client that is connected. A person would rather hear at once that nobody is there than wait.
async fn connect(settings: &Settings) -> Result<Client, Failure> {
    let deadline = settings.timeout.value;
    let connect_timeout = deadline.min(Duration::from_secs(5));
    let mode = settings.client_mode.value.into();
    let options = ClientOptions { mode, deadline, connect_timeout, ..ClientOptions::default() };
    Ok(Client::connect_now(&settings.coordinator.value, options).await?)
}

/// The contents of a file; of stdin when the path is `-`.
fn read_input(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut contents = Vec::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin().read_to_end(&mut contents).map(|_| contents),
        false => std::fs::read(path),
    };
    read.map_err(|error| Failure::Usage(format!("{} cannot be read: {error}", path.display())))
}

fn transaction_options(arguments: TransactionArguments) -> TransactionOptions {
    let mut options = TransactionOptions::new()
        .summary(arguments.summary.unwrap_or_default())
        .traceparent(arguments.traceparent.unwrap_or_default());
    if arguments.protocol != ProtocolChoice::default() {
        options = options.protocol(arguments.protocol.into());
    }
    if let Some(timeout) = arguments.transaction_timeout {
        options = options.timeout(timeout);
    }
    for (key, value) in arguments.labels {
        options = options.label(key, value);
    }
    options
}
