//! No panic on any bytes: targets that are fed anything, and what feeds them.
//!
//! | part | what it is |
//! | --- | --- |
//! | [`TARGETS`] | functions of bytes: everything that parses what comes from outside or from a disk |
//! | `corpus/` | examples of every message, record and format, and inputs that once were findings |
//! | [`Feeder`] | the corpus, random well-formed inputs, and changes of both, from a seed |
//! | [`try_input`] | one input; a panic becomes an error that says how to have it again |
//! | `handfast-libfuzzer` | the same targets under libFuzzer, which is guided by coverage (`make fuzz`) |
//!
//! A target claims more than that nothing panics: what is decoded, encoded and decoded again is the same;
//! what is refused is refused with a reason; a refused folder is left as it was; a state machine keeps its
//! invariants whatever it is sent.
//!
//! One test calls a participant over a real connection, which is slow and cannot be guided. Absent on
//! purpose: timing, and the frames of HTTP/2, which are the business of the RPC library.

mod corpus;
mod events;
mod feeder;
mod finding;
mod messages;
mod mutate;
mod protobuf;
mod random;
mod sample;
mod scratch;
#[cfg(test)]
mod served;
mod targets;

/// How a journal frames its values: private to the journal, and parsed from whatever a disk returns.
#[path = "../../../shared/journal/src/frame.rs"]
mod frame;

/// The reference participant's settings: private to its program.
#[path = "../../../participant/src/bin/handfast-participant/settings.rs"]
mod participant_settings;

pub use corpus::{inputs, write_examples};
pub use feeder::Feeder;
pub use finding::{Finding, try_input};
// For `frame`, which knows it by this path.
use handfast_journal::LogSequence;
use random::Random;
use targets::{
    command_line, configuration, coordinator, folder, key_value, participant, records, recovery,
    services, wire,
};

/// A function of bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its folder in the corpus.
    pub name: &'static str,
    /// How many inputs the short run feeds it: about a second of them.
    pub executions: u64,
    run: fn(&[u8]),
    generate: fn(&mut Random) -> Vec<u8>,
    examples: fn(&mut Random) -> Vec<Example>,
}

/// A named input for the corpus.
struct Example {
    name: String,
    input: Vec<u8>,
}

/// One row per target: its module, and the inputs of the short run.
macro_rules! targets {
    ($($module:ident: $executions:literal),* $(,)?) => {
        /// All of them.
        pub const TARGETS: &[Target] = &[$(Target {
            name: stringify!($module),
            executions: $executions,
            run: $module::run,
            generate: $module::generate,
            examples: $module::examples,
        }),*];
    };
}

targets! {
    wire: 100_000,
    records: 100_000,
    recovery: 30_000,
    folder: 2_000,
    configuration: 2_000,
    command_line: 2_000,
    key_value: 20_000,
    participant: 30_000,
    coordinator: 30_000,
    services: 200,
}

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

impl Target {
    /// Feeds it an input.
    ///
    /// # Panics
    /// When the input is a finding.
    pub fn run(&self, input: &[u8]) {
        (self.run)(input);
    }
}
