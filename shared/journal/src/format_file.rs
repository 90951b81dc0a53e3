//! The FORMAT file: whose journal a folder holds, in which format, in which life.
//!
//! Three lines of text, so that `cat` tells an operator what a folder is:
//!
//! ```text
//! handfast coordinator
//! format 1
//! incarnation 9f86d081884c7d65
//! ```
//!
//! Law: it is written once, complete (a temporary file, synced, renamed, the folder synced), before the
//! log is created; a folder either has a whole one or none. It is never written again.

use std::cmp::Ordering;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

/// The newest format of any kind.
const FORMAT_NEWEST: u32 = 2;

/// The file's name, and that of its unfinished form.
pub(crate) const FILE_NAME: &str = "FORMAT";
pub(crate) const UNFINISHED_NAME: &str = "FORMAT.new";

/// Whose journal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A coordinator's.
    Coordinator,
    /// A participant's.
    Participant,
}

impl Kind {
    /// The format of such a journal's folder and records that this program reads and writes, and no other.
    ///
    /// Since 2 a participant's prepared branches have what their resource has staged in their own entries, or in
    /// the table that is for it. A program that looked for it elsewhere would take none of their locks.
    #[must_use]
    pub const fn format(self) -> u32 {
        match self {
            Kind::Coordinator => 1,
            Kind::Participant => FORMAT_NEWEST,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Coordinator => "coordinator",
            Kind::Participant => "participant",
        })
    }
}

/// The content of a FORMAT file of a known version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FormatFile {
    pub(crate) kind: Kind,
    pub(crate) incarnation: u64,
}

/// What was wrong with a FORMAT file.
#[derive(Debug)]
pub(crate) enum FormatProblem {
    Io(io::Error),
    /// The reason.
    Malformed(String),
    /// The version found, and the one that can be read.
    Newer(u32, u32),
    /// The version found, and the one that can be read.
    Older(u32, u32),
}

impl FormatFile {
    /// Draws an incarnation and writes the file into `folder`.
    pub(crate) fn create(folder: &Path, kind: Kind) -> io::Result<FormatFile> {
        let format = FormatFile { kind, incarnation: draw_incarnation()? };
        let unfinished = folder.join(UNFINISHED_NAME);
        let mut file = File::create(&unfinished)?;
        file.write_all(format.render().as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, folder.join(FILE_NAME))?;
        sync_folder(folder)?;
        Ok(format)
    }

    /// Reads `folder`'s file; `None` if there is none.
    pub(crate) fn read(folder: &Path) -> Result<Option<FormatFile>, FormatProblem> {
        match fs::read(folder.join(FILE_NAME)) {
            Ok(bytes) => FormatFile::parse(&bytes).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FormatProblem::Io(error)),
        }
    }

    fn render(&self) -> String {
        format!(
            "handfast {}\nformat {}\nincarnation {:016x}\n",
            self.kind,
            self.kind.format(),
            self.incarnation
        )
    }

    fn parse(bytes: &[u8]) -> Result<FormatFile, FormatProblem> {
        let malformed = |what: &str| FormatProblem::Malformed(format!("its FORMAT file {what}"));
        let text = std::str::from_utf8(bytes).map_err(|_| malformed("is not text"))?;
        let mut lines = text.lines();
        let mut field = |name: &str| {
            lines
                .next()
                .and_then(|line| line.strip_prefix(name))
                .and_then(|rest| rest.strip_prefix(' '))
        };
        let kind = field("handfast").ok_or_else(|| malformed("has no line \"handfast <kind>\""))?;
        let version = field("format")
            .and_then(|text| text.parse::<u32>().ok())
            .ok_or_else(|| malformed("has no line \"format <number>\""))?;
        // Before the rest is understood: a later format may say it otherwise.
        if version > FORMAT_NEWEST {
            return Err(FormatProblem::Newer(version, FORMAT_NEWEST));
        }
        if version == 0 {
            return Err(malformed("names format 0, which never was"));
        }
        let kind = match kind {
            "coordinator" => Kind::Coordinator,
            "participant" => Kind::Participant,
            _ => return Err(malformed("names a kind that this program does not know")),
        };
        match version.cmp(&kind.format()) {
            Ordering::Equal => {}
            Ordering::Greater => return Err(FormatProblem::Newer(version, kind.format())),
            Ordering::Less => return Err(FormatProblem::Older(version, kind.format())),
        }
        let incarnation = field("incarnation")
            .filter(|text| text.len() == 16)
            .and_then(|text| u64::from_str_radix(text, 16).ok())
            .filter(|incarnation| *incarnation != 0)
            .ok_or_else(|| malformed("has no line \"incarnation <16 hexadecimal digits>\""))?;
        Ok(FormatFile { kind, incarnation })
    }
}

/// Makes a folder's names durable: files that were created in it or renamed within it.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A number that no other journal has, and never 0.
fn draw_incarnation() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rendered_is_parsed() {
        for kind in [Kind::Coordinator, Kind::Participant] {
            let format = FormatFile { kind, incarnation: 0x1234 };
            assert_eq!(FormatFile::parse(format.render().as_bytes()).unwrap(), format);
        }
    }

    /// The text is part of the format, so it is pinned here.
    #[test]
    fn the_text_is_pinned() {
        for (kind, text) in [
            (Kind::Coordinator, "handfast coordinator\nformat 1\nincarnation 9f86d081884c7d65\n"),
            (Kind::Participant, "handfast participant\nformat 2\nincarnation 9f86d081884c7d65\n"),
        ] {
            assert_eq!(FormatFile { kind, incarnation: 0x9f86_d081_884c_7d65 }.render(), text);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "handfast coordinator\n",
            "handfast coordinator\nformat one\nincarnation 9f86d081884c7d65\n",
            "handfast coordinator\nformat 0\nincarnation 9f86d081884c7d65\n",
            "handfast coordinator\nformat 1\nincarnation 0000000000000000\n",
            "handfast coordinator\nformat 1\nincarnation 9f86d081884c7d6\n",
            "handfast coordinator\nformat 1\nincarnation 9f86d081884c7d6x\n",
            "handfast console\nformat 1\nincarnation 9f86d081884c7d65\n",
            "something coordinator\nformat 1\nincarnation 9f86d081884c7d65\n",
        ] {
            let parsed = FormatFile::parse(text.as_bytes());
            assert!(matches!(parsed, Err(FormatProblem::Malformed(_))), "{text:?}: {parsed:?}");
        }
        assert!(matches!(FormatFile::parse(b"\xff\xfe"), Err(FormatProblem::Malformed(_))));
    }

    #[test]
    fn a_later_format_is_told_apart_whatever_else_it_says() {
        let parsed = FormatFile::parse(b"handfast console\nformat 3\nquorum 3\n");
        assert!(matches!(parsed, Err(FormatProblem::Newer(3, 2))), "{parsed:?}");
    }

    #[test]
    fn no_other_format_of_a_kind_is_taken_for_its_own() {
        let parse = |text: &str| FormatFile::parse(format!("{text}\nincarnation 1").as_bytes());
        let newer = parse("handfast coordinator\nformat 2");
        assert!(matches!(newer, Err(FormatProblem::Newer(2, 1))), "{newer:?}");
        let older = parse("handfast participant\nformat 1");
        assert!(matches!(older, Err(FormatProblem::Older(1, 2))), "{older:?}");
    }

    #[test]
    fn incarnations_differ() {
        assert_ne!(draw_incarnation().unwrap(), draw_incarnation().unwrap());
    }
}
