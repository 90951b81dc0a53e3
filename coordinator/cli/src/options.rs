//! What the command line accepts. The texts here are the reference (`--help`).

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use handfast_client::{ClientMode, Protocol, RequestId, TransactionId};

use crate::bench::options::Bench;
use crate::duration::parse_duration;
use crate::operation::{BranchOperations, parse_branch};

/// Atomic transactions across several systems, from the command line.
#[derive(Debug, Parser)]
#[command(
    name = "handfast",
    version,
    after_help = "\
Exit codes: 0 ok, 1 failed (aborted, for instance), 2 usage, 3 not found, 4 unreachable,
5 outcome unknown.
Errors go to stderr; with --output json they are JSON there. Values that are not UTF-8
are escaped (\\xff) in tables and base64 (\"value_base64\") in JSON."
)]
pub struct Options {
    #[command(flatten)]
    pub global: GlobalOptions,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command. Each is looked for on the command line, then in the environment, then in
/// the configuration file.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalOptions {
    /// Address of the coordinator [env: HANDFAST_COORDINATOR] [default: http://127.0.0.1:7420]
    #[arg(long, global = true, value_name = "URL")]
    pub coordinator: Option<String>,
    /// Format of the output [env: HANDFAST_OUTPUT] [default: table]
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    pub output: Option<OutputFormat>,
    /// How long to wait for an answer, as in 500ms, 40s, 5m [env: HANDFAST_TIMEOUT] [default: 40s]
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// How calls reach the coordinator [env: HANDFAST_CLIENT_MODE] [default: stream]
    #[arg(long, global = true, value_enum, value_name = "MODE")]
    pub client_mode: Option<CallMode>,
    /// The configuration file [env: HANDFAST_CONFIG] [default: $XDG_CONFIG_HOME/handfast/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// How calls reach the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CallMode {
    /// Over one stream that they share.
    Stream,
    /// Each by itself.
    Unary,
}

impl CallMode {
    /// As on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Unary => "unary",
        }
    }
}

impl From<CallMode> for ClientMode {
    fn from(mode: CallMode) -> Self {
        match mode {
            CallMode::Stream => Self::Stream,
            CallMode::Unary => Self::Unary,
        }
    }
}

/// How answers and errors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Execute, begin, end and inspect transactions.
    #[command(subcommand)]
    Txn(TxnCommand),
    /// Work at a key-value participant: each command is a transaction of its own, or part of --txn ID.
    #[command(subcommand)]
    Kv(KvCommand),
    /// List the registered participants.
    Participants,
    /// List what participants cannot end by themselves: asked of themselves, also when no coordinator is there.
    InDoubt {
        /// Whom to ask, and where; by default all that the coordinator knows.
        #[arg(value_name = "NAME=URL")]
        participants: Vec<ParticipantAt>,
    },
    /// Show the configuration in effect.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show a whole system at work while its processes are killed, and check every promise.
    Demo(Demo),
    /// Measure throughput and latency, beside what no coordinator could do without.
    Bench(Box<Bench>),
    /// Write a completion script for a shell to stdout.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// A participant, and where it is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParticipantAt {
    /// Its name.
    pub participant: String,
    /// Its address.
    pub endpoint: String,
}

impl FromStr for ParticipantAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((participant, endpoint)) = text.split_once('=') else {
            return Err(
                "it takes a name and an address, as in orders=http://127.0.0.1:7431".to_owned()
            );
        };
        if participant.is_empty() {
            return Err("the name of the participant is missing in front of the =".to_owned());
        }
        if !endpoint.starts_with("http://") {
            return Err(format!(
                "{endpoint:?} is no address; one looks like http://127.0.0.1:7431"
            ));
        }
        Ok(Self { participant: participant.to_owned(), endpoint: endpoint.to_owned() })
    }
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print each setting, and where it came from.
    Show,
}

#[derive(Debug, Subcommand)]
pub enum TxnCommand {
    /// Carry work to several participants and commit it everywhere or nowhere.
    Execute(Execute),
    /// Begin a transaction and print its id.
    Begin(TransactionArguments),
    /// Commit a transaction that was begun.
    Commit(Commit),
    /// Abort a transaction that was begun.
    Abort(Abort),
    /// Show what is known of one transaction.
    Show(Show),
    /// List transactions, oldest first.
    List(List),
    /// Print the events of a transaction until it has ended.
    Watch {
        /// The transaction.
        id: TransactionId,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Key-value operations (--kv 'NAME: OPERATION; OPERATION; …'), done in order:
  get KEY               read a value
  put KEY VALUE         set a value
  delete KEY            remove a key
  add KEY N [floor M]   add to a number; abort if the sum is below M
  expect KEY VALUE      abort unless the key has this value
  absent KEY            abort unless the key is absent
Keys and values with blanks or semicolons are quoted: 'single' as it is,
\"double\" with \\n \\t \\\\ \\\" \\xHH.

Examples:
  handfast txn execute --kv 'accounts: add alice -5 floor 0' --kv 'orders: put order-1 \"two books\"'
  handfast txn execute --kv 'a: expect lock free; put lock taken' --branch invoices=work.bin
  make-work | handfast txn execute --branch orders=- --request-id order-1 --reply decided

The same --request-id makes it safe to run the command again after any failure:
the work is never done twice.")]
pub struct Execute {
    /// Work in the participant's own format, from a file or from stdin (-)
    #[arg(long = "branch", value_name = "NAME=FILE|-", value_parser = parse_branch_file)]
    pub branches: Vec<BranchFile>,
    /// Key-value work; may be repeated (see below)
    #[arg(long = "kv", value_name = "NAME: OPERATIONS", value_parser = parse_branch)]
    pub key_values: Vec<BranchOperations>,
    /// Your own name for the request; drawn at random without
    #[arg(long, value_name = "ID")]
    pub request_id: Option<RequestId>,
    /// When to answer
    #[arg(long, value_enum, value_name = "WHEN", default_value = "applied")]
    pub reply: Reply,
    #[command(flatten)]
    pub transaction: TransactionArguments,
}

/// What a transaction carries.
#[derive(Debug, Default, Args)]
pub struct TransactionArguments {
    /// How it is committed
    #[arg(long, value_enum, value_name = "PROTOCOL", default_value = "two-phase")]
    pub protocol: ProtocolChoice,
    /// Abort the transaction if it is undecided after this long [default: the coordinator's]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub transaction_timeout: Option<Duration>,
    /// What it is about, for people
    #[arg(long, value_name = "TEXT")]
    pub summary: Option<String>,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// W3C trace context
    #[arg(long, value_name = "TRACEPARENT")]
    pub traceparent: Option<String>,
}

/// How a transaction is committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ProtocolChoice {
    /// Waits for its coordinator.
    #[default]
    TwoPhase,
    /// Ended by any majority of its voting sites.
    ThreePhase,
}

impl From<ProtocolChoice> for Protocol {
    fn from(choice: ProtocolChoice) -> Self {
        match choice {
            ProtocolChoice::TwoPhase => Self::TwoPhase,
            ProtocolChoice::ThreePhase => Self::ThreePhase,
        }
    }
}

/// When a commit answers.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Reply {
    /// When every participant has applied it.
    Applied,
    /// As soon as the decision is durable.
    Decided,
}

#[derive(Debug, Args)]
pub struct Commit {
    /// The transaction.
    pub id: TransactionId,
    /// Your own name for the request, remembered with the outcome
    #[arg(long, value_name = "ID")]
    pub request_id: Option<RequestId>,
    /// When to answer
    #[arg(long, value_enum, value_name = "WHEN", default_value = "applied")]
    pub reply: Reply,
}

#[derive(Debug, Args)]
pub struct Abort {
    /// The transaction.
    pub id: TransactionId,
    /// Why, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
With --wait the exit code is the outcome: 0 committed, 1 aborted, 5 still unknown when --timeout has passed.")]
pub struct Show {
    /// The transaction.
    #[arg(required_unless_present = "request_id", conflicts_with = "request_id")]
    pub id: Option<TransactionId>,
    /// Look for the client's own name of the request instead
    #[arg(long, value_name = "ID")]
    pub request_id: Option<RequestId>,
    /// Ask again until the outcome is known
    #[arg(long)]
    pub wait: bool,
}

#[derive(Debug, Args)]
pub struct List {
    /// Only this state; may be repeated
    #[arg(long = "state", value_enum, value_name = "STATE")]
    pub states: Vec<State>,
    /// Only transactions with a branch at this participant
    #[arg(long, value_name = "NAME")]
    pub participant: Option<String>,
    /// Only transactions that are at least this old
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub older_than: Option<Duration>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum State {
    Active,
    Preparing,
    /// Three-phase commit: everybody has voted, and a quorum has not ended it yet.
    PreCommitted,
    Committing,
    Committed,
    Aborted,
    Unknown,
}

#[derive(Debug, Subcommand)]
pub enum KvCommand {
    /// Print a value; exit code 3 if the key is absent.
    Get {
        #[command(flatten)]
        at: KvAt,
        /// Write the bytes as they are, without a line break, whatever --output says
        #[arg(long)]
        raw: bool,
    },
    /// Set a value.
    Put {
        #[command(flatten)]
        at: KvAt,
        /// The value.
        #[arg(required_unless_present = "file", conflicts_with = "file")]
        value: Option<OsString>,
        /// Take the value from a file or from stdin (-)
        #[arg(long, value_name = "FILE|-")]
        file: Option<PathBuf>,
    },
    /// Remove a key; an absent one is no error.
    Delete {
        #[command(flatten)]
        at: KvAt,
    },
    /// Add to a decimal integer and print the sum; an absent key counts as 0.
    Add {
        #[command(flatten)]
        at: KvAt,
        /// What to add; may be negative.
        #[arg(allow_negative_numbers = true)]
        amount: i64,
        /// Abort if the sum is below this
        #[arg(long, value_name = "N", allow_negative_numbers = true)]
        floor: Option<i64>,
    },
    /// Abort unless a key has a value, or is absent.
    Expect {
        #[command(flatten)]
        at: KvAt,
        /// The expected value.
        #[arg(required_unless_present = "absent", conflicts_with = "absent")]
        value: Option<OsString>,
        /// Expect the key to be absent
        #[arg(long)]
        absent: bool,
    },
}

#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "\
It starts a coordinator and three key-value participants on free ports of this machine, with
their data in a temporary folder. Clients move money between accounts while random processes are
killed with kill -9 and started again. Afterwards the money is compared, account by account, with
what the clients were told. Exit code 0: every promise held; 1: one was broken, and the folder with
the logs is kept.

The programs are looked for beside this one, or in $HANDFAST_BIN_DIR. --coordinator is not used.")]
pub struct Demo {
    /// How long the clients work
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,
    /// Clients that work side by side
    #[arg(long, value_name = "N", default_value = "32", value_parser = parse_clients)]
    pub clients: usize,
    /// Accounts, spread over the three participants
    #[arg(long, value_name = "N", default_value_t = 300,
          value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub accounts: u32,
    /// Mean time between two kills, as in 2, 0.5 or 500ms; 0 kills nobody
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = parse_kill_every)]
    pub kill_every: f64,
    /// Mean time between two moments when a process is cut off from the others for a while; 0 cuts nobody off
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = parse_partition_every)]
    pub partition_every: f64,
    /// How the transfers are committed
    #[arg(long, value_enum, value_name = "PROTOCOL", default_value = "two-phase")]
    pub protocol: DemoProtocol,
    /// Fixes every random choice: amounts, victims, times [default: drawn, and printed]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Keep the folder with data and logs even when every promise held
    #[arg(long)]
    pub keep: bool,
}

/// How the demo's transfers are committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum DemoProtocol {
    #[default]
    TwoPhase,
    ThreePhase,
    /// Each by one of the two, at random.
    Mixed,
}

impl DemoProtocol {
    /// For programs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::TwoPhase => "two_phase",
            Self::ThreePhase => "three_phase",
            Self::Mixed => "mixed",
        }
    }
}

/// Most clients of the demo. All of them share one connection.
const DEMO_CLIENTS_MAX: usize = 2000;
/// A server needs some time to come up; killing faster than this shows nothing.
const KILL_EVERY_MIN_S: f64 = 0.05;
/// A cut takes its time as well.
const PARTITION_EVERY_MIN_S: f64 = 0.5;

fn parse_clients(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(clients @ 1..=DEMO_CLIENTS_MAX) => Ok(clients),
        _ => Err(format!("it takes a number from 1 to {DEMO_CLIENTS_MAX}")),
    }
}

fn parse_kill_every(text: &str) -> Result<f64, String> {
    parse_every(text, KILL_EVERY_MIN_S).map_err(|range| format!("{range}, or 0 to kill nobody"))
}

fn parse_partition_every(text: &str) -> Result<f64, String> {
    parse_every(text, PARTITION_EVERY_MIN_S)
        .map_err(|range| format!("{range}, or 0 to cut nobody off"))
}

fn parse_every(text: &str, least_s: f64) -> Result<f64, String> {
    let (number, unit_s) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 0.001),
        (None, Some(number)) => (number, 1.0),
        (None, None) => (text, 1.0),
    };
    match number.parse::<f64>().map(|number| number * unit_s) {
        Ok(0.0) => Ok(0.0),
        Ok(seconds) if (least_s..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err(format!("it takes seconds from {least_s} to 86400")),
    }
}

/// Where a key-value command works.
#[derive(Debug, Args)]
pub struct KvAt {
    /// The participant.
    pub participant: String,
    /// The key.
    pub key: OsString,
    /// Work inside this open transaction; `txn commit` or `txn abort` ends it
    #[arg(long, value_name = "ID")]
    pub txn: Option<TransactionId>,
    /// Your own name for the request; drawn at random without
    #[arg(long, value_name = "ID", conflicts_with = "txn")]
    pub request_id: Option<RequestId>,
}

/// The work of one participant, in a file.
#[derive(Debug, Clone)]
pub struct BranchFile {
    pub participant: String,
    /// `-` is stdin.
    pub path: PathBuf,
}

fn parse_branch_file(text: &str) -> Result<BranchFile, String> {
    match text.split_once('=') {
        Some((participant, path)) if !participant.is_empty() && !path.is_empty() => {
            Ok(BranchFile { participant: participant.to_owned(), path: path.into() })
        }
        _ => Err("a branch is NAME=FILE, or NAME=- for stdin".into()),
    }
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is KEY=VALUE".into()),
    }
}

/// The format that errors are wanted in when the command line or the configuration is in error itself.
pub fn wanted_format(
    arguments: &[OsString],
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> OutputFormat {
    let flag = arguments.iter().enumerate().find_map(|(at, argument)| {
        let argument = argument.to_str()?;
        match argument.strip_prefix("--output")? {
            "" => arguments.get(at + 1)?.to_str(),
            rest => rest.strip_prefix('='),
        }
    });
    let variable = || environment("HANDFAST_OUTPUT");
    let json = match flag {
        Some(format) => format == "json",
        None => variable().is_some_and(|format| format == "json"),
    };
    if json { OutputFormat::Json } else { OutputFormat::Table }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Options::command().debug_assert();
    }

    #[test]
    fn the_demo_refuses_what_makes_no_sense() {
        for wrong in [
            "--clients 0",
            "--clients 2001",
            "--seconds 0",
            "--accounts 1",
            "--kill-every 0.01",
            "--kill-every -1",
            "--kill-every NaN",
            "--kill-every inf",
            "--seed x",
        ] {
            let arguments = format!("handfast demo {wrong}");
            let parsed = Options::try_parse_from(arguments.split_whitespace());
            assert!(parsed.is_err(), "{wrong}");
        }
        for (text, seconds) in [("0", 0.0), ("2", 2.0), ("0.5", 0.5), ("500ms", 0.5), ("1s", 1.0)] {
            assert_eq!(parse_kill_every(text), Ok(seconds));
        }
    }

    #[test]
    fn errors_are_json_when_json_was_asked_for_anywhere() {
        let wanted = |arguments: &str, variable: Option<&str>| {
            let arguments: Vec<_> = arguments.split_whitespace().map(OsString::from).collect();
            wanted_format(&arguments, &|_| variable.map(OsString::from))
        };
        assert_eq!(wanted("handfast --output json nonsense", None), OutputFormat::Json);
        assert_eq!(wanted("handfast nonsense --output=json", None), OutputFormat::Json);
        assert_eq!(wanted("handfast nonsense", Some("json")), OutputFormat::Json);
        assert_eq!(wanted("handfast --output table nonsense", Some("json")), OutputFormat::Table);
        assert_eq!(wanted("handfast nonsense --output", None), OutputFormat::Table);
    }
}
