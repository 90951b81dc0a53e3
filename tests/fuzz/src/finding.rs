//! One input, and what is said when it is a finding.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use crate::Target;

/// An input that a target panicked at.
#[derive(Debug, Clone)]
pub struct Finding {
    target: &'static str,
    message: String,
    file: Option<PathBuf>,
}

impl std::error::Error for Finding {}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, message, file } = self;
        writeln!(f, "{target}: {message}")?;
        match file {
            Some(file) => write!(
                f,
                "the input is in {file}; to have it again: cargo run -p handfast-fuzz -- replay {target} {file}\n\
                 when it is put right, keep it: cp {file} tests/fuzz/corpus/{target}/WHAT-IT-WAS.bin",
                file = file.display()
            ),
            None => write!(f, "the input could not be written to a file"),
        }
    }
}

/// Feeds a target an input. A panic is a finding, and the input is written to a file.
///
/// # Errors
/// The finding.
pub fn try_input(target: &Target, input: &[u8]) -> Result<(), Finding> {
    catch_unwind(AssertUnwindSafe(|| target.run(input))).map_err(|panic| Finding {
        target: target.name,
        message: text_of(&*panic),
        file: keep(target, input).ok(),
    })
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// Writes the input beside the running program, below the build folder.
fn keep(target: &Target, input: &[u8]) -> std::io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let build = program.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
    let folder = build.unwrap_or(&program).join("fuzz-findings");
    std::fs::create_dir_all(&folder)?;
    // FNV-1a: the same input, the same file.
    let digest = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |digest, byte| {
        (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let file = folder.join(format!("{}-{digest:016x}.bin", target.name));
    std::fs::write(&file, input)?;
    Ok(file)
}
