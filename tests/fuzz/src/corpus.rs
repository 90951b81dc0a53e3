//! The corpus in the tree: a folder per target, few and small files.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::Target;
use crate::random::Random;

/// The corpus is the same whenever it is made again.
const SEED: u64 = 0x5eed;
/// Larger examples are left to the generator.
const EXAMPLE_BYTES_MAX: usize = 4 << 10;

/// In the checkout that cargo runs something of, since two may share what was compiled.
fn folder(target: &Target) -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let package = package.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    package.join("corpus").join(target.name)
}

/// The inputs of a target's corpus by their paths, in the order of their names.
///
/// # Errors
/// When the folder cannot be read; there is one for every target.
pub fn inputs(target: &Target) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut paths = fs::read_dir(folder(target))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    paths.into_iter().map(|path| fs::read(&path).map(|input| (path, input))).collect()
}

/// Writes the examples of a target into its corpus, and leaves alone what else is there. Returns how many.
///
/// # Errors
/// When they cannot be written.
pub fn write_examples(target: &Target) -> io::Result<usize> {
    let folder = folder(target);
    fs::create_dir_all(&folder)?;
    let mut random = Random::new(SEED);
    let mut written = 0;
    for mut example in (target.examples)(&mut random) {
        example.input.truncate(EXAMPLE_BYTES_MAX);
        // The name says that it is no text, whatever its bytes are.
        fs::write(folder.join(format!("{}.bin", example.name)), example.input)?;
        written += 1;
    }
    Ok(written)
}
