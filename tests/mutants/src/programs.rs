//! The programs that mutants are tried on, built once with the deliberate bugs in them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, bail};
use handfast_commit_core::mutants::Layer;
use serde_json::Value;
use tempfile::TempDir;

/// What is always built, so that its features are the same whatever else is: each set of them would compile
/// everything anew.
const PACKAGES: &[&str] = &[
    "handfast-commit-core",
    "handfast-journal",
    "handfast-runtime",
    "handfast-coordinator",
    "handfast-participant",
];
const FEATURES: &str = "handfast-commit-core/mutants,handfast-commit-core/marks,\
    handfast-coordinator/crash-points,handfast-participant/crash-points";

/// A test program.
#[derive(Debug, Clone)]
pub struct Program {
    /// What cargo has built.
    pub executable: PathBuf,
    /// Where cargo would run it.
    pub folder: PathBuf,
}

/// All of them.
#[derive(Debug)]
pub struct Programs {
    tests: BTreeMap<(String, String), Program>,
    copies: TempDir,
}

impl Programs {
    /// Builds those of these layers.
    ///
    /// # Errors
    /// When cargo does, or does not build what is expected.
    pub fn build(layers: &[Layer]) -> anyhow::Result<Self> {
        eprintln!("building the tests with the deliberate bugs in them");
        let of_layer = |layer: &Layer| match layer {
            Layer::Tests | Layer::Random => None,
            Layer::Model => Some("handfast-model"),
            Layer::Simulator => Some("handfast-simulator"),
            Layer::Chaos => Some("handfast-chaos"),
        };
        let packages: Vec<&str> =
            PACKAGES.iter().copied().chain(layers.iter().filter_map(of_layer)).collect();
        let mut tests = BTreeMap::new();
        for artifact in cargo(&["test", "--no-run"], &packages)? {
            if artifact.is_test {
                tests.insert((artifact.package, artifact.target), artifact.program);
            }
        }
        // Where the next build of anybody else does not put its own.
        let copies = tempfile::tempdir().context("a folder for the programs")?;
        if !packages.iter().all(|package| PACKAGES.contains(package)) {
            for artifact in cargo(&["build", "--bins"], &packages)? {
                let copy = copies.path().join(&artifact.target);
                fs::copy(&artifact.program.executable, copy).context("copying a program")?;
            }
        }
        Ok(Self { tests, copies })
    }

    /// A test program of a package: `lib` for the tests inside it.
    #[must_use]
    pub fn test(&self, package: &str, target: &str) -> Option<&Program> {
        let target = if target == "lib" { package.replace('-', "_") } else { target.to_owned() };
        self.tests.get(&(package.to_owned(), target))
    }

    /// All test programs of a package, by target.
    pub fn tests_of(&self, package: &str) -> impl Iterator<Item = (&str, &Program)> {
        self.tests
            .iter()
            .filter(move |((of, _), _)| of == package)
            .map(|((_, target), program)| (target.as_str(), program))
    }

    /// Another program.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<Program> {
        let executable = self.folder().join(name);
        executable.is_file().then(|| Program { executable, folder: self.folder().to_owned() })
    }

    /// Where the other programs are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.copies.path()
    }
}

/// Something that cargo has built and that can be run.
struct Artifact {
    package: String,
    target: String,
    is_test: bool,
    program: Program,
}

fn cargo(command: &[&str], packages: &[&str]) -> anyhow::Result<Vec<Artifact>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let packages = packages.iter().flat_map(|package| ["-p", package]);
    let built = Command::new(cargo)
        .args(command)
        .args(packages)
        .args(["--features", FEATURES, "--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be started")?;
    if !built.status.success() {
        bail!("the tests cannot be built ({})", built.status);
    }
    let lines = built.stdout.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(|line| artifact(&serde_json::from_slice(line).ok()?)).collect())
}

fn artifact(message: &Value) -> Option<Artifact> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let executable = PathBuf::from(message.get("executable")?.as_str()?);
    let folder = Path::new(message.get("manifest_path")?.as_str()?).parent()?.to_owned();
    let target = text(message.get("target")?.get("name")?)?;
    let is_test = message.get("profile")?.get("test")?.as_bool()?;
    // path+file:///…/tests/chaos#handfast-chaos@0.1.0
    let package = message.get("package_id")?.as_str()?.rsplit('#').next()?;
    let package = package.split('@').next()?.to_owned();
    Some(Artifact { package, target, is_test, program: Program { executable, folder } })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_can_be_run_is_taken_from_cargo_s_messages() {
        let message = json!({
            "reason": "compiler-artifact",
            "package_id": "path+file:///a/b#handfast-x@0.1.0",
            "manifest_path": "/a/b/Cargo.toml",
            "target": { "name": "all", "kind": ["test"] },
            "profile": { "test": true },
            "executable": "/t/all-1",
        });
        let found = artifact(&message).expect("a test program");
        assert_eq!((found.package.as_str(), found.target.as_str()), ("handfast-x", "all"));
        assert!(found.is_test);
        assert_eq!(found.program.folder, Path::new("/a/b"));
        let library = json!({ "package_id": "p#a@1", "manifest_path": "/a/Cargo.toml", "executable": null,
            "target": { "name": "a" }, "profile": { "test": false } });
        assert!(artifact(&library).is_none());
    }
}
