//! What the tests of journals on folders share.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Copies a folder as it is at one moment, while a database is open on it and may be flushing: what a
/// process that is killed at that moment leaves.
pub fn copy_folder(from: &Path, to: &Path) {
    const ATTEMPTS: usize = 100;
    for _ in 0..ATTEMPTS {
        let before = listing(from);
        copy_once(from, to, &before);
        if listing(from) == before {
            return;
        }
        fs::remove_dir_all(to).expect("the mixed copy goes");
    }
    panic!("{from:?} never rests");
}

/// Every file of a folder, by its path within it, with what shows that it has changed.
type Listing = BTreeMap<PathBuf, (u64, SystemTime)>;

fn listing(folder: &Path) -> Listing {
    let mut files = Listing::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(within) = folders.pop() {
        for entry in fs::read_dir(folder.join(&within)).expect("the folder's names") {
            let entry = entry.expect("a name");
            let path = within.join(entry.file_name());
            // A file that vanishes here is missing from the other listing too, or makes it differ.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                folders.push(path);
            } else {
                let modified = metadata.modified().expect("a time of change");
                files.insert(path, (metadata.len(), modified));
            }
        }
    }
    files
}

fn copy_once(from: &Path, to: &Path, files: &Listing) {
    fs::create_dir_all(to).expect("the copy's folder");
    for path in files.keys() {
        let target = to.join(path);
        let parent = target.parent().expect("a file is in a folder");
        fs::create_dir_all(parent).expect("the copy's inner folder");
        if let Err(error) = fs::copy(from.join(path), &target) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{target:?}");
        }
    }
}
