//! What each layer runs, and the attempts of a mutant on them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::bail;
use handfast_commit_core::mutants::{Layer, Mutant};

use crate::attempt::{Result, Run};
use crate::programs::Programs;

/// The test programs of the first layer, from the quickest to the slowest.
const TESTS: &[(&str, &str)] = &[
    ("handfast-commit-core", "scenarios"),
    ("handfast-commit-core", "lib"),
    ("handfast-runtime", "lib"),
    ("handfast-runtime", "sites"),
    ("handfast-journal", "lib"),
    ("handfast-journal", "memory_contract"),
    ("handfast-journal", "memory_faults"),
    ("handfast-journal", "log_writer"),
    ("handfast-coordinator", "lib"),
    ("handfast-coordinator", "engine"),
    ("handfast-coordinator", "three_phase"),
    ("handfast-participant", "lib"),
    ("handfast-journal", "rocks_contract"),
    ("handfast-journal", "rocks_folder"),
    ("handfast-journal", "rocks_damage"),
    ("handfast-journal", "rocks_write_error"),
    ("handfast-participant", "conformance"),
    ("handfast-participant", "serve"),
];

/// The tests on real processes that mutants are tried on: each kind of failure once.
const CHAOS: &[&str] = &[
    "s01_killed_before_its_decision_is_durable_all_abort",
    "s02_killed_after_its_decision_is_durable_all_commit_once",
    "s03_killed_after_half_the_commits_the_rest_are_delivered",
    "s04_the_total_never_changes",
    "s06_killed_after_its_vote_it_comes_back_in_doubt_with_its_locks",
    "s07_killed_after_its_commit_record_the_effect_is_there_once",
    "a_coordinator_with_a_new_log_presumes_nothing",
    "s17_failed_sync_at_the_decision",
    "links_that_are_cut_under_load_lose_and_repeat_nothing",
    "a_retry_under_a_new_coordinator_finds_the_first_attempt",
];

/// How many worlds of the simulator a mutant is tried in.
const SEEDS: u32 = 1500;

/// How long a run without a bug may take.
const BASELINE_MAX: Duration = Duration::from_secs(900);

/// What came of a mutant.
#[derive(Debug)]
pub enum Verdict {
    /// A test failed.
    Caught(Catch),
    /// None did.
    Survived,
}

/// How a mutant was caught.
#[derive(Debug)]
pub struct Catch {
    /// By what.
    pub layer: Layer,
    /// What failed.
    pub test: String,
    /// After how long, other layers included.
    pub after: Duration,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caught(Catch { layer, test, after }) => {
                write!(f, "{:>6.1} s  {:9}  {test}", after.as_secs_f64(), layer.name())
            }
            Self::Survived => f.write_str("SURVIVED"),
        }
    }
}

/// The runs of each layer, and how long each takes when there is no bug.
#[derive(Debug)]
pub struct Baselines<'a> {
    programs: &'a Programs,
    passed: BTreeMap<Layer, Vec<(Run, Duration)>>,
}

impl<'a> Baselines<'a> {
    /// Nothing has been run yet.
    #[must_use]
    pub fn new(programs: &'a Programs) -> Self {
        Self { programs, passed: BTreeMap::new() }
    }

    /// Tries a mutant on these layers, in this order, until one catches it.
    ///
    /// # Errors
    /// When something fails without any bug: then nothing that fails with one means anything.
    pub fn attempt(&mut self, mutant: Mutant, layers: &[Layer]) -> anyhow::Result<Verdict> {
        let mut after = Duration::ZERO;
        for layer in layers {
            for (run, baseline) in self.of(*layer)? {
                // Generous: other programs may want the processors as well.
                let limit = Duration::from_secs(20) + *baseline * 5;
                let (result, took) = run.run(Some(mutant), limit)?;
                after += took;
                if let Result::Failed(test) = result {
                    return Ok(Verdict::Caught(Catch { layer: *layer, test, after }));
                }
            }
        }
        Ok(Verdict::Survived)
    }

    /// The runs of a layer, which pass without a bug.
    fn of(&mut self, layer: Layer) -> anyhow::Result<&[(Run, Duration)]> {
        if !self.passed.contains_key(&layer) {
            let runs = runs(self.programs, layer)?;
            let mut passed = Vec::new();
            for run in runs {
                match run.run(None, BASELINE_MAX)? {
                    (Result::Passed, took) => passed.push((run, took)),
                    (Result::Failed(what), _) => bail!("fails without any mutant: {what}"),
                }
            }
            let all: Duration = passed.iter().map(|(_, took)| *took).sum();
            eprintln!(
                "{}: {} programs, {:.1} s without a mutant",
                layer.name(),
                passed.len(),
                all.as_secs_f64()
            );
            self.passed.insert(layer, passed);
        }
        Ok(self.passed.get(&layer).map_or(&[], Vec::as_slice))
    }
}

fn runs(programs: &Programs, layer: Layer) -> anyhow::Result<Vec<Run>> {
    let test = |package: &str, target: &str| match programs.test(package, target) {
        Some(program) => Ok(Run {
            name: format!("{} {target}", package.trim_start_matches("handfast-")),
            program: program.clone(),
            arguments: Vec::new(),
            environment: Vec::new(),
        }),
        None => bail!("{package} has no test program {target}"),
    };
    let all_of = |package: &str| -> anyhow::Result<Vec<Run>> {
        let targets: Vec<&str> = programs.tests_of(package).map(|(target, _)| target).collect();
        if targets.is_empty() {
            bail!("{package} has no test program");
        }
        targets.into_iter().map(|target| test(package, target)).collect()
    };
    match layer {
        Layer::Tests => TESTS.iter().map(|(package, target)| test(package, target)).collect(),
        Layer::Random => Ok(vec![test("handfast-commit-core", "random")?]),
        Layer::Model => {
            // Those of a minute as well: some bugs need a site more than the quick ones have.
            let mut runs = all_of("handfast-model")?;
            for run in &mut runs {
                run.environment.push(("HANDFAST_MODEL", "full".to_owned()));
            }
            Ok(runs)
        }
        Layer::Simulator => match programs.program("handfast-simulate") {
            Some(program) => Ok(vec![Run {
                name: "simulate".to_owned(),
                program,
                arguments: vec!["--seeds".to_owned(), SEEDS.to_string()],
                environment: Vec::new(),
            }]),
            None => bail!("there is no simulator"),
        },
        Layer::Chaos => {
            let mut run = test("handfast-chaos", "two_phase")?;
            run.arguments = CHAOS.iter().map(|name| (*name).to_owned()).collect();
            let folder = programs.folder().display().to_string();
            run.environment = vec![("HANDFAST_BIN_DIR", folder)];
            Ok(vec![run])
        }
    }
}
