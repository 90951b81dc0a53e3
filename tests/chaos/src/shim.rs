//! Failing syncs, a full disk and a jumping clock, by a library that is loaded into the processes.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::server::text;

const SOURCE: &str = include_str!("../shim/shim.c");

/// The library, compiled for one test, and the files that set it off.
#[derive(Debug)]
pub struct Shim {
    folder: TempDir,
}

impl Shim {
    /// Compiles it.
    ///
    /// # Panics
    /// When there is no C compiler.
    #[must_use]
    pub fn build() -> Self {
        let folder = match tempfile::Builder::new().prefix("handfast-shim-").tempdir() {
            Ok(folder) => folder,
            Err(error) => panic!("cannot make a temporary folder: {error}"),
        };
        let shim = Self { folder };
        let (library, source) = (shim.path("shim.so"), shim.path("shim.c"));
        if let Err(error) = std::fs::write(&source, SOURCE) {
            panic!("{} cannot be written: {error}", source.display());
        }
        let compiled = Command::new("cc")
            .args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(&source)
            .output();
        match compiled {
            Ok(output) if output.status.success() => shim,
            Ok(output) => {
                panic!("cc did not compile shim.c:\n{}", String::from_utf8_lossy(&output.stderr))
            }
            Err(error) => panic!("cannot run cc, the C compiler: {error}"),
        }
    }

    /// What loads it into a process. Only files below `data` are affected.
    #[must_use]
    pub fn environment(&self, data: &Path) -> Vec<(String, String)> {
        [
            ("LD_PRELOAD", self.path("shim.so")),
            ("HANDFAST_SHIM_FOLDER", data.to_owned()),
            ("HANDFAST_SHIM_FAIL_SYNC", self.path("fail-sync")),
            ("HANDFAST_SHIM_NO_SPACE", self.path("no-space")),
            ("HANDFAST_SHIM_CLOCK", self.path("clock")),
        ]
        .map(|(name, path)| (name.to_owned(), text(&path)))
        .to_vec()
    }

    /// Every sync fails, or none does.
    pub fn fail_syncs(&self, fail: bool) {
        self.switch("fail-sync", fail);
    }

    /// The disk is full, or it is not.
    pub fn fill_disk(&self, full: bool) {
        self.switch("no-space", full);
    }

    /// Moves the wall clock by so many seconds from the truth.
    pub fn move_clock(&self, seconds: i64) {
        // At once, and never half written: a clock is read at any time.
        let new = self.path("clock.new");
        let moved = std::fs::write(&new, seconds.to_string())
            .and_then(|()| std::fs::rename(&new, self.path("clock")));
        if let Err(error) = moved {
            panic!("cannot set the clock: {error}");
        }
    }

    fn switch(&self, name: &str, on: bool) {
        let path = self.path(name);
        let switched = if on { std::fs::write(&path, "") } else { std::fs::remove_file(&path) };
        if let Err(error) = switched {
            panic!("{}: {error}", text(&path));
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}
