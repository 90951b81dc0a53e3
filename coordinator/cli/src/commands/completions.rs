//! `handfast completions`: a script that teaches a shell the command line.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::failure::Failure;
use crate::options::Options;
use crate::output::Output;

/// Writes the script.
pub fn write(shell: Shell, output: &mut Output) -> Result<(), Failure> {
    // Into memory first: the generator panics when it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Options::command(), "handfast", &mut script);
    output.bytes(&script)
}
