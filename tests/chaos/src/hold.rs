//! Stopping a process at a crash point, until the test lets it go on.

use std::path::{Path, PathBuf};

/// A crash point at which the thread that comes by waits, for a minute at most.
#[derive(Debug)]
pub struct Hold {
    place: String,
    file: PathBuf,
}

impl Hold {
    /// At `place`, the name of a crash point, or `name@3` for the third time it is come by. The file
    /// that ends the wait will be in `folder`.
    #[must_use]
    pub fn new(folder: &Path, place: &str) -> Self {
        let file = folder.join(format!("release.{place}"));
        Self { place: place.to_owned(), file }
    }

    /// What [`Server::start_at`](crate::Server::start_at) takes.
    #[must_use]
    pub fn point(&self) -> String {
        format!("{}=wait:{}", self.place, self.file.display())
    }

    /// Lets the thread go on.
    ///
    /// # Panics
    /// When the file cannot be made.
    pub fn release(&self) {
        if let Err(error) = std::fs::write(&self.file, "") {
            panic!("cannot make {}: {error}", self.file.display());
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // A later hold at the same place must not find it open.
        let _ = std::fs::remove_file(&self.file);
    }
}
