//! `handfast`, the command-line tool: see the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    handfast_cli::main()
}
