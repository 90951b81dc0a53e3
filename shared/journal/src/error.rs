//! What can go wrong with a log, grouped by when: opening it (the operator acts) or using it (the process
//! ends, and the next one opens it).

use std::io;
use std::path::PathBuf;

use crate::{Kind, LogSequence, Table};

/// Why a journal in use did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// A batch was not written, or it is not known whether it was. The journal is poisoned from here on.
    #[error(
        "{place} did not take a batch: {detail}. Whether the batch is on disk is not known, so this process must end; \
         free space or repair the disk, then start again: what is on disk is read at the start"
    )]
    Write {
        /// The folder, or another name of the log.
        place: String,
        /// What the system said.
        detail: String,
    },
    /// An earlier append failed, so nothing more comes from this journal.
    #[error(
        "{place} gives nothing more since an earlier failure ({reason}); end this process and start it again"
    )]
    Poisoned {
        /// The folder, or another name of the log.
        place: String,
        /// The failure that poisoned it.
        reason: String,
    },
    /// The system failed to read.
    #[error("{place} could not be read: {detail}. Check the disk, then start again")]
    Read {
        /// The folder, or another name of the log.
        place: String,
        /// What the system said.
        detail: String,
    },
    /// A value on disk is not what was written there.
    #[error("a record of table {table} is damaged in {place} (key {key}): {advice}")]
    Corrupt {
        /// The folder, or another name of the log.
        place: String,
        /// The table of the damaged record.
        table: Table,
        /// Its key, in hexadecimal.
        key: String,
        /// What was found, and what to do.
        advice: String,
    },
}

/// Why a folder was not opened as a journal. Nothing in it has been changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder holds something, and it is not a journal.
    #[error(
        "{folder} is not empty and holds no journal (there is no FORMAT file, but there is {found:?}); \
         name an empty or a new folder, or the right one"
    )]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// One of the names found in it.
        found: String,
    },
    /// The folder holds the journal of another kind of process.
    #[error("{folder} holds the journal of a {found}, not of a {wanted}; name another folder")]
    WrongKind {
        /// The folder.
        folder: PathBuf,
        /// Whose journal is there.
        found: Kind,
        /// Whose journal was asked for.
        wanted: Kind,
    },
    /// The journal was written by a later version of the program.
    #[error(
        "{folder} holds a journal of format {found}, and this program reads format {supported}; start the \
         version that wrote it, or a later one"
    )]
    NewerFormat {
        /// The folder.
        folder: PathBuf,
        /// The format found.
        found: u32,
        /// The newest format that this program can read.
        supported: u32,
    },
    /// The journal was written by a version that came before the first release, and that is not read any more.
    #[error(
        "{folder} holds a journal of format {found}, and this program reads format {supported}; end what is in \
         doubt in it with the version that wrote it, and give this one a new folder"
    )]
    OlderFormat {
        /// The folder.
        folder: PathBuf,
        /// The format found.
        found: u32,
        /// The format that this program reads.
        supported: u32,
    },
    /// The folder, or a file of it, cannot be created, read or written by this process.
    #[error(
        "{path} cannot be used: {source}; give this user read and write access to it, or name another folder"
    )]
    Unwritable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has this journal open.
    #[error("{folder} is in use by {holder}; stop that process first, or name another folder")]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// The holder, as "process 123" where it is known.
        holder: String,
    },
    /// What is on disk contradicts itself.
    #[error("the journal in {folder} is damaged: {detail}. {advice}")]
    Corrupt {
        /// The folder.
        folder: PathBuf,
        /// What was found.
        detail: String,
        /// What to do.
        advice: String,
    },
    /// The log is sound, but it ends before records that this very folder has acknowledged.
    #[error(
        "{folder} has lost acknowledged records: its log ends at batch {log}, but batch {head} was \
         acknowledged. Was it restored from an old backup, or was a file of it cut or removed? Put the latest \
         complete folder back and start again. If it is gone for good, start with an empty folder: peers then \
         see a new incarnation and take nothing for forgotten that was lost"
    )]
    Behind {
        /// The folder.
        folder: PathBuf,
        /// The last batch that the log holds.
        log: LogSequence,
        /// The last batch that the HEAD file has seen acknowledged.
        head: LogSequence,
    },
}

/// What to do about a damaged log; the same sentence wherever damage is found.
pub(crate) const DAMAGE_ADVICE: &str = "Nothing was changed. Check the disk, keep a copy of the folder, and \
    put its latest complete copy back (an older one has forgotten decisions); do not delete single files: \
    decisions that others rely on may be among them";

/// `bytes` as hexadecimal digits, cut after 64 bytes so that a message stays readable.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    const SHOWN_BYTES: usize = 64;
    let mut text = String::with_capacity(2 * bytes.len().min(SHOWN_BYTES) + 3);
    for byte in bytes.iter().take(SHOWN_BYTES) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    if bytes.len() > SHOWN_BYTES {
        text.push_str("...");
    }
    text
}
