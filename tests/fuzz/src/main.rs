//! `handfast-fuzz`: makes the corpus, runs the targets for as long as one likes, and repeats a finding.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use handfast_fuzz::{Feeder, TARGETS, Target, target, try_input, write_examples};

/// Feeds anything to whatever parses.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the examples of every target into the corpus.
    Seed,
    /// Feed targets with the corpus, random inputs and changes of both.
    Run {
        /// Only this target.
        target: Option<String>,
        /// How long each is fed.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Fixes every input.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Feed a target with one file.
    Replay {
        /// The target.
        target: String,
        /// The file.
        file: PathBuf,
    },
}

fn named(name: &str) -> anyhow::Result<&'static Target> {
    target(name).with_context(|| {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        format!("there is no target {name:?}; there are {}", names.join(", "))
    })
}

fn main() -> anyhow::Result<()> {
    match Options::parse().command {
        Command::Seed => {
            for target in TARGETS {
                println!("{}: {} examples", target.name, write_examples(target)?);
            }
        }
        Command::Run { target, seconds, seed } => {
            let only = target.as_deref().map(named).transpose()?;
            let mut findings = 0;
            for target in only.map_or(TARGETS, std::slice::from_ref) {
                findings += u32::from(!run(target, seconds, seed)?);
            }
            if findings > 0 {
                bail!("{findings} targets with findings");
            }
        }
        Command::Replay { target, file } => {
            let input = std::fs::read(&file).with_context(|| file.display().to_string())?;
            named(&target)?.run(&input);
            println!("{target}: no finding");
        }
    }
    Ok(())
}

/// Returns whether there was no finding.
fn run(target: &Target, seconds: u64, seed: u64) -> anyhow::Result<bool> {
    let start = Instant::now();
    let mut executions: u64 = 0;
    for input in Feeder::new(target, seed)? {
        if let Err(finding) = try_input(target, &input) {
            println!("{finding}");
            return Ok(false);
        }
        executions += 1;
        if start.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
    }
    let per_second = executions as f64 / start.elapsed().as_secs_f64();
    println!("{}: {executions} inputs, {per_second:.0} a second, no finding", target.name);
    Ok(true)
}
