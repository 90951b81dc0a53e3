//! What `handfast bench` can be told. The texts here are the reference (`--help`).

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};

use crate::bench::plan::{Chosen, Plan, ProtocolName, Reply};
use crate::bench::workload::Workload;
use crate::options::CallMode;

/// Most participants of a transaction that is measured.
pub const PARTICIPANTS_MAX: usize = 8;
/// Most callers of a closed loop. All of them share one connection.
const CLIENTS_MAX: usize = 100_000;
const RATE_MAX: f64 = 1_000_000.0;

/// See [`crate::bench`].
#[derive(Debug, Clone, Default, Args)]
#[command(
    group = ArgGroup::new("plan").args(["quick", "full"]),
    group = ArgGroup::new("scale")
        .args(["in_doubt", "registered", "branches", "overload", "stalled_participant"]),
    after_help = "\
With --spawn it starts a coordinator and key-value participants on free ports, with their data in a
temporary folder (TMPDIR chooses the disk), and beside them the skeleton: the same processes, messages
and synced writes without protocol or data. Each case is measured at both in turn; a result is the median
of the rounds, and its ratio to the skeleton's, which sends the messages of two-phase commit whatever the
protocol. The floors are the disk and the wire alone.

Without --spawn it loads the coordinator of --coordinator, which must have key-value participants; keys
begin with caller/ and contended/. There is then no skeleton to compare with.

Without --quick, --full or a choice of cases, the usual transaction (two-phase, two participants, 64 clients
over a stream, answered when decided) is varied in one respect at a time, which takes a few minutes.
A choice (--clients, --rate, --participants, --workload, --mode, --reply, --protocol; each a list with
commas) measures all combinations of what is given.

Examples:
  handfast bench --spawn --quick --output json
  handfast bench --spawn --clients 1,64 --mode stream,unary --plots plots
  handfast bench --coordinator http://127.0.0.1:7420 --rate 2000 --seconds 10
  handfast bench --spawn --in-doubt 1000000"
)]
pub struct Bench {
    /// Start the servers, and the skeleton to compare with
    #[arg(long)]
    pub spawn: bool,
    /// Only the core of it, in under a minute
    #[arg(long)]
    pub quick: bool,
    /// Every protocol and variation at every load, in most of an hour
    #[arg(long)]
    pub full: bool,
    /// Callers that work side by side, each with one transaction open
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = parse_clients,
          conflicts_with = "plan", help_heading = "Cases")]
    pub clients: Vec<usize>,
    /// Transactions that come each second, whether those before are answered or not
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = parse_rate,
          conflicts_with = "plan", help_heading = "Cases")]
    pub rate: Vec<f64>,
    /// Participants of each transaction
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = parse_participants,
          conflicts_with = "plan", help_heading = "Cases")]
    pub participants: Vec<usize>,
    /// What the callers do
    #[arg(
        long,
        value_enum,
        value_name = "NAME,…",
        value_delimiter = ',',
        conflicts_with = "plan",
        help_heading = "Cases"
    )]
    pub workload: Vec<Workload>,
    /// How their calls reach the coordinator [default: --client-mode where it is given, or else stream]
    #[arg(
        long,
        value_enum,
        value_name = "MODE,…",
        value_delimiter = ',',
        conflicts_with = "plan",
        help_heading = "Cases"
    )]
    pub mode: Vec<CallMode>,
    /// When they are answered
    #[arg(
        long,
        value_enum,
        value_name = "WHEN,…",
        value_delimiter = ',',
        conflicts_with = "plan",
        help_heading = "Cases"
    )]
    pub reply: Vec<Reply>,
    /// The commit protocol
    #[arg(
        long,
        value_enum,
        value_name = "NAME,…",
        value_delimiter = ',',
        conflicts_with = "plan",
        help_heading = "Cases"
    )]
    pub protocol: Vec<ProtocolName>,
    /// How long each measurement takes [default: 1 to 2, by the plan]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub seconds: Option<f64>,
    /// How long each one runs before that, uncounted [default: 0.3 to 0.5, by the plan]
    #[arg(long, value_name = "SECONDS", value_parser = parse_warm_up)]
    pub warm_up: Option<f64>,
    /// How often each case is measured [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw the result, as SVG files in this folder
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,
    /// N transactions are decided and never acknowledged: what they cost the others, in memory, and at a
    /// restart
    #[arg(long, value_name = "N", requires = "spawn", conflicts_with = "plan",
          value_parser = clap::value_parser!(u64).range(1..=100_000_000), help_heading = "Scale")]
    pub in_doubt: Option<u64>,
    /// N participants are registered and connected: what they cost the others
    #[arg(long, value_name = "N", requires = "spawn", conflicts_with = "plan",
          value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = "Scale")]
    pub registered: Option<u32>,
    /// Transactions with 2, 16 and so on up to N branches
    #[arg(long, value_name = "N", requires = "spawn", conflicts_with = "plan",
          value_parser = clap::value_parser!(u32).range(2..=256), help_heading = "Scale")]
    pub branches: Option<u32>,
    /// FACTOR times as much is offered as there is room for
    #[arg(long, value_name = "FACTOR", requires = "spawn", conflicts_with = "plan",
          num_args = 0..=1, default_missing_value = "2", value_parser = parse_factor,
          help_heading = "Scale")]
    pub overload: Option<f64>,
    /// One participant stands still: what that costs those who do not need it
    #[arg(long, requires = "spawn", conflicts_with = "plan", help_heading = "Scale")]
    pub stalled_participant: bool,
}

impl Bench {
    /// What is to be measured. `mode` is that of `--client-mode`, where it was given.
    ///
    /// # Errors
    /// A sentence, when the two do not go together.
    pub fn plan(&self, mode: Option<CallMode>) -> Result<Plan, String> {
        if mode.is_some() && (self.quick || self.full) {
            return Err("--quick and --full measure both modes: leave out --client-mode".to_owned());
        }
        let modes = match mode {
            Some(mode) if self.mode.is_empty() => vec![mode],
            _ => self.mode.clone(),
        };
        let chosen = Chosen {
            protocols: self.protocol.clone(),
            workloads: self.workload.clone(),
            participants: self.participants.clone(),
            modes,
            replies: self.reply.clone(),
            clients: self.clients.clone(),
            rates: self.rate.clone(),
        };
        let mut plan = if self.quick {
            Plan::quick()
        } else if self.full {
            Plan::full()
        } else if chosen == Chosen::default() {
            Plan::usual()
        } else {
            Plan::chosen(&chosen)
        };
        if let Some(seconds) = self.seconds {
            plan.window.measured = Duration::from_secs_f64(seconds);
            plan.floor_time = plan.floor_time.min(plan.window.measured);
        }
        if let Some(seconds) = self.warm_up {
            plan.window.warm_up = Duration::from_secs_f64(seconds);
        }
        plan.rounds = self.rounds.unwrap_or(plan.rounds);
        Ok(plan)
    }
}

fn parse_clients(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(clients @ 1..=CLIENTS_MAX) => Ok(clients),
        _ => Err(format!("it takes numbers from 1 to {CLIENTS_MAX}")),
    }
}

fn parse_participants(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(participants @ 1..=PARTICIPANTS_MAX) => Ok(participants),
        _ => Err(format!("it takes numbers from 1 to {PARTICIPANTS_MAX}")),
    }
}

fn number(text: &str, min: f64, max: f64) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(format!("it takes a number from {min} to {max}")),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    number(text, 0.1, RATE_MAX)
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    number(text, 0.01, 86_400.0)
}

fn parse_warm_up(text: &str) -> Result<f64, String> {
    number(text, 0.0, 3600.0)
}

fn parse_factor(text: &str) -> Result<f64, String> {
    number(text, 0.1, 100.0)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::bench::plan::Load;
    use crate::options::{Command, Options};

    fn parse(arguments: &str) -> Result<Bench, String> {
        let words = ["handfast", "bench"].into_iter().chain(arguments.split_whitespace());
        match Options::try_parse_from(words) {
            Ok(Options { command: Command::Bench(bench), .. }) => Ok(*bench),
            Ok(_) => unreachable!("the command is bench"),
            Err(error) => Err(error.render().to_string()),
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_says_so() {
        for (wrong, said) in [
            ("--clients 0", "it takes numbers from 1 to 100000"),
            ("--clients 1,x", "'x'"),
            ("--participants 9", "from 1 to 8"),
            ("--rate 0", "from 0.1 to 1000000"),
            ("--rate NaN", "from 0.1 to 1000000"),
            ("--seconds 0", "from 0.01 to 86400"),
            ("--warm-up=-1", "from 0 to 3600"),
            ("--rounds 0", "--rounds"),
            ("--mode pigeon", "possible values: stream, unary"),
            ("--reply soon", "possible values: decided, applied"),
            ("--workload rest", "interactive"),
            ("--protocol four-phase", "two-phase"),
            ("--quick --full", "cannot be used with"),
            ("--quick --clients 1", "cannot be used with"),
            ("--in-doubt 10", "--spawn"),
            ("--spawn --in-doubt 10 --overload", "cannot be used with"),
            ("--spawn --branches 257", "257"),
            ("--spawn --overload 0", "from 0.1 to 100"),
        ] {
            let error = parse(wrong).expect_err(wrong);
            assert!(error.contains(said), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_choice_is_crossed_and_the_times_are_the_callers() {
        let plan = |arguments: &str, mode| parse(arguments).expect(arguments).plan(mode);
        let usual = |arguments: &str| plan(arguments, None).expect("a plan");
        let chosen = usual("--spawn --clients 1,8 --mode unary,stream --seconds 0.05");
        assert_eq!(chosen.cases.len(), 4);
        assert_eq!(chosen.window.measured, Duration::from_millis(50));
        let quick = usual("--spawn --quick --rounds 1 --warm-up 0");
        assert_eq!((quick.rounds, quick.window.warm_up), (1, Duration::ZERO));
        assert_eq!(quick.cases, Plan::quick().cases);
        assert_eq!(usual("--rate 2.5").cases[0].load, Load::Open { rate: 2.5 });
        let unary = plan("--clients 1", Some(CallMode::Unary)).expect("a plan");
        assert_eq!(unary.cases[0].mode, CallMode::Unary, "that of --client-mode");
        assert!(plan("--quick", Some(CallMode::Unary)).is_err());
        assert_eq!(parse("--spawn --overload").expect("a scale").overload, Some(2.0));
    }
}
