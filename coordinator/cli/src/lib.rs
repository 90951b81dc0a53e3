//! `handfast`: transactions, key-value work and participants from the command line.
//!
//! The law: what is printed to stdout is the answer and nothing else; what went wrong is on stderr, in
//! one or two lines that say what to do; the exit code tells them apart (0 ok, 1 failed, 2 usage,
//! 3 not found, 4 unreachable, 5 outcome unknown).
//!
//! The binary is thin; this library is for it and for whoever checks what it makes of a command line.

mod bench;
mod commands;
mod config;
mod demo;
mod duration;
mod failure;
mod operation;
mod options;
mod output;
mod process;
mod programs;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use handfast_client::key_value::Work;

use crate::config::{Environment, Settings};
use crate::failure::Failure;
use crate::options::{Command, Options, OutputFormat, TxnCommand};
use crate::output::Output;

/// The program: reads its command line and environment, does what they say, and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let options = match Options::try_parse_from(&arguments) {
        Ok(options) => options,
        Err(error) => return not_understood(&error, &arguments),
    };
    let environment = |name: &str| std::env::var_os(name);
    let settings = match Settings::resolve(&options.global, &environment) {
        Ok(settings) => settings,
        Err(failure) => return failure.report(options::wanted_format(&arguments, &environment)),
    };
    let format = settings.output.value;
    let mut output = Output::stdout(format);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return Failure::Failed(format!("the runtime did not start: {error}")).report(format);
        }
    };
    let done = runtime.block_on(commands::run(options.command, &settings, &mut output));
    let done = done.and_then(|()| output.finish());
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has read enough.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report(format),
    }
}

/// What a command line and its surroundings come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Understood {
    /// Where the coordinator is.
    pub coordinator: String,
    /// How long to wait for an answer.
    pub timeout: Duration,
    /// Key-value work that is written out on the command line, by participant.
    pub work: Vec<(String, Work)>,
}

/// Reads a command line, the environment and the configuration file, and does nothing.
///
/// # Errors
/// What the program would print.
pub fn understand(
    arguments: &[OsString],
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Understood, String> {
    let environment: Environment<'_> = environment;
    // Whoever is told of an error is told in some format.
    let _ = options::wanted_format(arguments, environment);
    let options = Options::try_parse_from(arguments).map_err(|error| error.render().to_string())?;
    let settings =
        Settings::resolve(&options.global, environment).map_err(|failure| failure.to_string())?;
    let work = match options.command {
        Command::Txn(TxnCommand::Execute(execute)) => {
            let branches = execute.key_values.into_iter();
            branches
                .map(|branch| (branch.participant, operation::work(&branch.operations)))
                .collect()
        }
        _ => Vec::new(),
    };
    let (coordinator, timeout) = (settings.coordinator.value, settings.timeout.value);
    Ok(Understood { coordinator, timeout, work })
}

/// Help and version are answers; anything else is a usage error.
fn not_understood(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let format = options::wanted_format(arguments, &|name| std::env::var_os(name));
    match (error.use_stderr(), format) {
        (true, OutputFormat::Json) => {
            let text = error.render().to_string();
            let message = text.trim().trim_start_matches("error: ").to_owned();
            Failure::Usage(message).report(format)
        }
        (true, OutputFormat::Table) => {
            // Nobody is left to tell when stderr is closed.
            let _ = error.print();
            ExitCode::from(failure::USAGE)
        }
        (false, _) => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
    }
}
