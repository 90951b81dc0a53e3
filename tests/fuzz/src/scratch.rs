//! Files for what can only be read from files: one folder per thread, in memory where there is such a place.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

thread_local! {
    static FOLDER: RefCell<Option<TempDir>> = const { RefCell::new(None) };
}

/// This thread's folder.
///
/// # Panics
/// When there can be none.
pub(crate) fn folder() -> PathBuf {
    FOLDER.with_borrow_mut(|folder| folder.get_or_insert_with(create).path().to_owned())
}

fn create() -> TempDir {
    let memory = Path::new("/dev/shm");
    let builder = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix("handfast-fuzz-");
        builder
    };
    let made = if memory.is_dir() { builder().tempdir_in(memory).ok() } else { None };
    made.unwrap_or_else(|| builder().tempdir().expect("a folder for temporary files"))
}

/// A file of this thread's folder with this content.
pub(crate) fn file(name: &str, content: &[u8]) -> PathBuf {
    let path = folder().join(name);
    std::fs::write(&path, content).expect("a file in a folder of our own");
    path
}
