//! The files of the repository, as the next commit would hold them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// A text file of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFile {
    /// From the root of the repository, with `/` between the parts.
    pub path: String,
    /// All of it.
    pub text: String,
}

impl TextFile {
    /// Whether this is Rust source.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether this is a manifest of a crate or of the workspace.
    pub fn is_manifest(&self) -> bool {
        self.path == "Cargo.toml" || self.path.ends_with("/Cargo.toml")
    }
}

/// The root of the repository: of the one that cargo runs the tests of, since two checkouts may share what was
/// compiled.
pub fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    package.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).join("../..")
}

/// Every text file of the repository, tracked or about to be, in the order of their paths.
///
/// What git ignores is left out, and so is what is not text.
///
/// # Panics
///
/// When the tree cannot be read: a check that sees nothing would pass.
pub fn text_files() -> Vec<TextFile> {
    let root = root();
    let mut files: Vec<TextFile> = paths(&root)
        .into_iter()
        .filter_map(|path| match fs::read_to_string(root.join(&path)) {
            Ok(text) => Some(TextFile { path, text }),
            // Not text, or deleted and not yet committed.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::NotFound) =>
            {
                None
            }
            Err(error) => panic!("{path} cannot be read: {error}"),
        })
        .collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(
        files.iter().any(|file| file.path == "Cargo.toml"),
        "no Cargo.toml in {}",
        root.display()
    );
    files
}

/// Every file of the repository that exists, text or not, in the order of their paths.
///
/// # Panics
///
/// When the tree cannot be read.
pub fn paths(root: &Path) -> Vec<String> {
    let mut paths = listed_by_git(root).unwrap_or_else(|| walked(root));
    paths.retain(|path| root.join(path).exists());
    paths.sort();
    paths.dedup();
    paths
}

/// `None` where git is absent or this is not a clone, as in a source archive.
fn listed_by_git(root: &Path) -> Option<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        // Set when a test runs inside a git hook, and then about another folder.
        .env_remove("GIT_DIR")
        .env_remove("GIT_INDEX_FILE")
        .output()
        .ok()?;
    if !output.status.success() {
        return None;
    }
    let listing = String::from_utf8(output.stdout).ok()?;
    Some(listing.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
}

fn walked(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(root.join(&folder))
            .unwrap_or_else(|error| panic!("{folder:?} cannot be read: {error}"));
        for entry in entries {
            let entry = entry.unwrap_or_else(|error| panic!("{folder:?} cannot be read: {error}"));
            let name = entry.file_name().to_string_lossy().into_owned();
            // What .gitignore holds, and git's own folder.
            if folder.is_empty() && ["bin", "target", ".git"].contains(&name.as_str()) {
                continue;
            }
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            let kind =
                entry.file_type().unwrap_or_else(|error| panic!("{path} cannot be read: {error}"));
            if kind.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found
}

/// Ends the calling test with every complaint, if there is one.
///
/// # Panics
///
/// When there is a complaint.
pub fn demand_none(complaints: &[String]) {
    assert!(
        complaints.is_empty(),
        "{} to put right:\n  {}\n",
        complaints.len(),
        complaints.join("\n  ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_and_the_walk_agree_on_the_sources() {
        let root = root();
        let sources = |paths: Vec<String>| -> Vec<String> {
            let mut sources: Vec<String> = paths
                .into_iter()
                .filter(|path| path.starts_with("tests/tidy/") && root.join(path).exists())
                .collect();
            sources.sort();
            sources
        };
        let walk = sources(walked(&root));
        assert!(walk.contains(&"tests/tidy/src/tree.rs".to_owned()));
        if let Some(git) = listed_by_git(&root) {
            assert_eq!(sources(git), walk);
        }
    }

    #[test]
    #[should_panic(expected = "2 to put right")]
    fn complaints_end_a_test() {
        demand_none(&["one".to_owned(), "other".to_owned()]);
    }
}
