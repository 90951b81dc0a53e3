//! Tries every mutant: a deliberate bug, switched on by itself, that some test must catch.
//!
//! The bugs and their list are in [`handfast_commit_core::mutants`], one line of code each, behind a feature.
//! This program builds the tests once with that feature, sees that all of them pass without a bug, and then runs
//! them with one bug at a time: first those of the layer that is known to catch it, then the others, until one
//! fails. A bug that survives all of them is a missing test.
//!
//! ```text
//! make mutants                              all of them
//! make mutants ARGS='forget-before-last-ack in-doubt-timeout'
//! make mutants ARGS=--list                  their names, and what is broken
//! make mutants ARGS='--from-cheapest'       all layers in their order, whatever is expected
//! ```

mod attempt;
mod layers;
mod programs;
mod report;

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use handfast_commit_core::mutants::{Layer, Mutant};

use layers::{Baselines, Verdict};
use programs::Programs;
use report::{Row, rows};

#[derive(Debug, Parser)]
#[command(about = "Switches on one deliberate bug at a time, and sees that the tests catch it.")]
struct Options {
    /// Which mutants; all when none is named.
    names: Vec<String>,

    /// Lists them, and tries none.
    #[arg(long)]
    list: bool,

    /// The layers to try, by name.
    #[arg(long, value_delimiter = ',', value_parser = layer)]
    layers: Vec<Layer>,

    /// Begins with the cheapest layer and not with the expected one.
    #[arg(long)]
    from_cheapest: bool,
}

fn layer(name: &str) -> Result<Layer, String> {
    let found = Layer::ALL.into_iter().find(|layer| layer.name() == name);
    found.ok_or_else(|| format!("one of {}", Layer::ALL.map(Layer::name).join(", ")))
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mutants: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all were caught.
fn run(options: &Options) -> anyhow::Result<bool> {
    let mutants = chosen(&options.names)?;
    if options.list {
        println!("{}", report::list(&mutants));
        return Ok(true);
    }
    let layers = match options.layers.as_slice() {
        [] => Layer::ALL.to_vec(),
        some => Layer::ALL.into_iter().filter(|layer| some.contains(layer)).collect(),
    };
    let programs = Programs::build(&layers)?;
    let mut baselines = Baselines::new(&programs);
    let mut tried = Vec::new();
    for (index, mutant) in mutants.iter().enumerate() {
        let order = order(&layers, (!options.from_cheapest).then(|| mutant.expected()));
        let verdict = baselines.attempt(*mutant, &order).context("refused")?;
        eprintln!("{:>3} of {}  {:28} {verdict}", index + 1, mutants.len(), mutant.name());
        tried.push(Row { mutant: *mutant, verdict });
    }
    println!("{}", rows(&tried));
    let caught = tried.iter().filter(|row| matches!(row.verdict, Verdict::Caught(_))).count();
    println!("{caught} of {} mutants caught", tried.len());
    Ok(caught == tried.len())
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<Mutant>> {
    if names.is_empty() {
        return Ok(Mutant::ALL.to_vec());
    }
    let mut mutants = Vec::new();
    for name in names {
        match Mutant::named(name) {
            Some(mutant) => mutants.push(mutant),
            None => bail!("there is no mutant {name}: --list names them"),
        }
    }
    Ok(mutants)
}

/// The expected layer goes first, to save time.
fn order(layers: &[Layer], first: Option<Layer>) -> Vec<Layer> {
    let mut order: Vec<Layer> = layers.to_vec();
    // Stable: the others stay in their order.
    order.sort_by_key(|layer| Some(*layer) != first);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expected_layer_goes_first() {
        let all = Layer::ALL;
        assert_eq!(order(&all, None), all);
        let expected = order(&all, Some(Layer::Simulator));
        assert_eq!(
            expected,
            [Layer::Simulator, Layer::Tests, Layer::Random, Layer::Model, Layer::Chaos]
        );
        assert_eq!(order(&[Layer::Tests], Some(Layer::Chaos)), [Layer::Tests]);
    }

    #[test]
    fn a_name_that_is_none_is_refused() {
        assert_eq!(chosen(&[]).expect("all").len(), Mutant::ALL.len());
        let name = Mutant::ALL[0].name().to_owned();
        assert_eq!(chosen(std::slice::from_ref(&name)).expect("one"), [Mutant::ALL[0]]);
        chosen(&[name, "no-such-bug".to_owned()]).expect_err("not a mutant");
    }
}
