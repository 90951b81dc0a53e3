//! `handfast`, the command-line tool: see the library beside it.

use std::process::ExitCode;

/// Messages are made on one thread and dropped on another, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    handfast_cli::main()
}
