//! Everything that a process has said, over all its starts.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const TAIL: usize = 60;

/// Lines of standard output and standard error, in the order in which they came. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transcript {
    lines: Arc<Mutex<Lines>>,
}

#[derive(Debug, Default)]
struct Lines {
    all: Vec<String>,
    /// Where the present start begins.
    start: usize,
}

impl Transcript {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        // Whole between any two calls, whoever panicked in between.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new start: what was said before no longer counts for [`find`](Self::find).
    pub(crate) fn begin(&self, how: String) {
        let mut lines = self.lines();
        lines.all.push(how);
        lines.start = lines.all.len();
    }

    /// Reads a pipe to its end on a thread of its own, so that the process never waits for us.
    pub(crate) fn follow(&self, pipe: impl Read + Send + 'static) {
        let transcript = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n') {
                let Ok(line) = line else { return };
                transcript.lines().all.push(String::from_utf8_lossy(&line).into_owned());
            }
        });
    }

    /// The first line of the present start that contains `text`.
    pub(crate) fn find(&self, text: &str) -> Option<String> {
        let lines = self.lines();
        lines.all[lines.start..].iter().find(|line| line.contains(text)).cloned()
    }

    /// How many lines of all starts contain `text`.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.lines().all.iter().filter(|line| line.contains(text)).count()
    }

    /// What the present start has said.
    pub(crate) fn present(&self) -> String {
        let lines = self.lines();
        lines.all[lines.start..].join("\n")
    }

    /// The last lines.
    pub(crate) fn tail(&self) -> String {
        let lines = self.lines();
        lines.all[lines.all.len().saturating_sub(TAIL)..].join("\n")
    }
}
