//! A journal's folder: whether it is ours to open, and the lock that keeps it ours.
//!
//! | name | what |
//! | --- | --- |
//! | `LOCK` | locked by the process that has the journal open; its number |
//! | `FORMAT` | kind, format, incarnation: [`crate::format_file`] |
//! | `HEAD` | the last acknowledged batch: [`crate::head_file`] |
//! | `rocksdb/` | the log and its tables |
//!
//! Law: a folder that is refused is left as it was found. Creation can stop at any step and be taken up
//! again, since each step is recognised by what it leaves; a folder whose log has ever acknowledged a batch
//! is never taken for a half created one.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use handfast_commit_core::mutants::{Mutant, mutant};

use crate::error::DAMAGE_ADVICE;
use crate::format_file::{self, FormatFile, FormatProblem, sync_folder};
use crate::head_file::{self, HeadFile, HeadState};
use crate::{Kind, LogSequence, OpenError};

const LOCK_NAME: &str = "LOCK";
const LOG_NAME: &str = "rocksdb";

/// What a file system puts into the root of a fresh volume, and a creation that stopped half way leaves.
const NOT_FOREIGN: [&str; 3] = [LOCK_NAME, format_file::UNFINISHED_NAME, "lost+found"];

/// A locked folder of the right kind and format.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    incarnation: u64,
    /// Unlocked by closing it, also when the process is killed.
    _lock: File,
}

impl Folder {
    /// Locks `path`, creating the folder and its FORMAT file where they are missing.
    pub(crate) fn open(path: &Path, kind: Kind) -> Result<Folder, OpenError> {
        if !path.is_dir() {
            create(path).map_err(|source| unwritable(path, source))?;
        }
        // Before the lock, because a foreign folder must not even get a LOCK file of ours.
        if read_format(path)?.is_none() {
            refuse_foreign(path)?;
        }
        let lock = lock(path)?;
        // Again, because another process may have created the journal before we had the lock.
        let format = match read_format(path)? {
            Some(format) => format,
            None => {
                refuse_foreign(path)?;
                FormatFile::create(path, kind)
                    .map_err(|source| unwritable(&path.join(format_file::FILE_NAME), source))?
            }
        };
        if format.kind != kind {
            return Err(OpenError::WrongKind {
                folder: path.to_owned(),
                found: format.kind,
                wanted: kind,
            });
        }
        Ok(Folder { path: path.to_owned(), incarnation: format.incarnation, _lock: lock })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the log is.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.path.join(LOG_NAME)
    }

    /// The incarnation in its FORMAT file.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Whether there is a log; if there is none, whether one may be created.
    pub(crate) fn has_log(&self) -> Result<bool, OpenError> {
        let log = self.log_path();
        let names = match names_in(&log) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(unwritable(&log, source)),
        };
        if names.iter().any(|name| name == "CURRENT") {
            return Ok(true);
        }
        // RocksDB writes CURRENT before any log or table, so either of them without it is damage.
        if let Some(name) =
            names.iter().find(|name| name.ends_with(".log") || name.ends_with(".sst"))
        {
            return Err(
                self.corrupt(format!("{LOG_NAME}/{name} is there without {LOG_NAME}/CURRENT"))
            );
        }
        match self.head()? {
            HeadState::Absent | HeadState::At(LogSequence(0)) => Ok(false),
            HeadState::At(head) => {
                Err(OpenError::Behind { folder: self.path.clone(), log: LogSequence(0), head })
            }
            HeadState::Unreadable | HeadState::Other(_) => Err(self.corrupt(format!(
                "there is no log in {LOG_NAME}, though a {} file says that there was one",
                head_file::FILE_NAME
            ))),
        }
    }

    /// Refuses a log that ends at `log` if HEAD has seen more.
    pub(crate) fn refuse_behind(&self, log: LogSequence) -> Result<(), OpenError> {
        let folder = self.path.display();
        match self.head()? {
            HeadState::At(head) if head > log && !mutant(Mutant::HeadNotChecked) => Err(OpenError::Behind {
                folder: self.path.clone(),
                log,
                head,
            }),
            HeadState::At(_) => Ok(()),
            HeadState::Absent => {
                if log > LogSequence(0) {
                    tracing::warn!(%folder, %log, "no HEAD file: whether the log has lost its end cannot be \
                        checked this time");
                }
                Ok(())
            }
            HeadState::Unreadable => {
                tracing::warn!(%folder, %log, "the HEAD file is unreadable and is taken for absent: whether the \
                    log has lost its end cannot be checked this time");
                Ok(())
            }
            HeadState::Other(other) => Err(self.corrupt(format!(
                "its {} file belongs to incarnation {other:016x} and its FORMAT file to {:016x}, so files of \
                    two folders are mixed",
                head_file::FILE_NAME, self.incarnation
            ))),
        }
    }

    /// Opens the HEAD file, saying durably that the log ends at `log`.
    pub(crate) fn start_head(&self, log: LogSequence) -> Result<HeadFile, OpenError> {
        HeadFile::start(&self.path, self.incarnation, log)
            .and_then(|head| sync_folder(&self.path).map(|()| head))
            .map_err(|source| unwritable(&self.path.join(head_file::FILE_NAME), source))
    }

    /// The error for damage found in this folder.
    pub(crate) fn corrupt(&self, detail: String) -> OpenError {
        corrupt(&self.path, detail)
    }

    fn head(&self) -> Result<HeadState, OpenError> {
        HeadFile::read(&self.path, self.incarnation)
            .map_err(|source| unwritable(&self.path.join(head_file::FILE_NAME), source))
    }
}

/// The error for a file or folder that the system refuses.
pub(crate) fn unwritable(path: &Path, source: io::Error) -> OpenError {
    OpenError::Unwritable { path: path.to_owned(), source }
}

fn corrupt(folder: &Path, detail: String) -> OpenError {
    OpenError::Corrupt { folder: folder.to_owned(), detail, advice: DAMAGE_ADVICE.to_owned() }
}

/// Creates the folder, and makes its name durable.
fn create(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    sync_folder(parent)
}

fn read_format(path: &Path) -> Result<Option<FormatFile>, OpenError> {
    FormatFile::read(path).map_err(|problem| match problem {
        FormatProblem::Io(source) => unwritable(&path.join(format_file::FILE_NAME), source),
        FormatProblem::Malformed(detail) => corrupt(path, detail),
        FormatProblem::Newer(found, supported) => {
            OpenError::NewerFormat { folder: path.to_owned(), found, supported }
        }
        FormatProblem::Older(found, supported) => {
            OpenError::OlderFormat { folder: path.to_owned(), found, supported }
        }
    })
}

/// A folder without a FORMAT file may hold nothing but what a half done creation leaves.
fn refuse_foreign(path: &Path) -> Result<(), OpenError> {
    let names = names_in(path).map_err(|source| unwritable(path, source))?;
    match names.into_iter().find(|name| !NOT_FOREIGN.contains(&name.as_str())) {
        None => Ok(()),
        Some(found) => Err(OpenError::Foreign { folder: path.to_owned(), found }),
    }
}

/// The names in a folder, sorted.
fn names_in(path: &Path) -> io::Result<Vec<String>> {
    let mut names = fs::read_dir(path)?
        .map(|entry| entry.map(|entry| lossy(&entry.file_name())))
        .collect::<io::Result<Vec<String>>>()?;
    names.sort();
    Ok(names)
}

fn lossy(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}

/// Takes the lock and writes this process's number into it.
fn lock(path: &Path) -> Result<File, OpenError> {
    let lock_path = path.join(LOCK_NAME);
    let refused = |source| unwritable(&lock_path, source);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(refused)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // The number is a courtesy; without it the message is a little poorer.
            let holder = match (&file).take(20).read_to_string(&mut text) {
                Ok(_) => text.trim().parse::<u32>().ok(),
                Err(_) => None,
            };
            return Err(OpenError::Locked {
                folder: path.to_owned(),
                holder: match holder {
                    Some(own) if own == std::process::id() => "this very process".to_owned(),
                    Some(other) => format!("process {other}"),
                    None => "another process".to_owned(),
                },
            });
        }
        Err(TryLockError::Error(source)) => return Err(refused(source)),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(refused)?;
    Ok(file)
}
