//! Writing answers to stdout: as tables for people, as JSON for programs.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::options::OutputFormat;

/// Stdout, buffered.
pub struct Output {
    format: OutputFormat,
    out: io::BufWriter<io::Stdout>,
}

impl Output {
    /// Writes to stdout.
    pub fn stdout(format: OutputFormat) -> Self {
        Self { format, out: io::BufWriter::new(io::stdout()) }
    }

    /// True when programs read.
    pub fn is_json(&self) -> bool {
        self.format == OutputFormat::Json
    }

    /// Writes a line.
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(self.out, "{text}")?)
    }

    /// Writes bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.out.write_all(bytes)?)
    }

    /// Writes a document, on as many lines as it takes.
    pub fn json(&mut self, value: &Value) -> Result<(), Failure> {
        self.line(&format!("{value:#}"))
    }

    /// Writes a document on one line.
    pub fn json_line(&mut self, value: &Value) -> Result<(), Failure> {
        self.line(&value.to_string())?;
        self.flush()
    }

    /// Writes a table with a heading.
    pub fn table<const N: usize>(
        &mut self,
        heading: [&str; N],
        rows: Vec<[String; N]>,
    ) -> Result<(), Failure> {
        let mut table = plain_table();
        table.set_header(heading);
        table.add_rows(rows);
        self.columns(table)
    }

    /// Writes names and their values, passing over those without one.
    pub fn fields(&mut self, fields: Vec<(&str, String)>) -> Result<(), Failure> {
        let mut table = plain_table();
        for (name, value) in fields {
            if !value.is_empty() {
                table.add_row([name.to_owned(), value]);
            }
        }
        self.columns(table)
    }

    fn columns(&mut self, mut table: Table) -> Result<(), Failure> {
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.line(&table.trim_fmt())
    }

    /// Passes on what was written.
    pub fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }

    /// The last call: what could not be written is an error.
    pub fn finish(mut self) -> Result<(), Failure> {
        self.flush()
    }
}

/// Columns without lines, and never wrapped: it is read by `grep` as well.
fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// Text that others may have written, without control characters.
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// Bytes for people: as text, or escaped when they are no UTF-8.
pub fn shown_bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => shown(text),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

/// Bytes for programs: `name` when they are UTF-8, `name_base64` otherwise, null when there are none.
pub fn insert_bytes(fields: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    let (name, value) = match bytes.map(|bytes| (std::str::from_utf8(bytes), bytes)) {
        None => (name.to_owned(), Value::Null),
        Some((Ok(text), _)) => (name.to_owned(), text.into()),
        Some((Err(_), bytes)) => (format!("{name}_base64"), base64(bytes).into()),
    };
    fields.insert(name, value);
}

/// Base64 with padding (RFC 4648, section 4).
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            match digit <= chunk.len() {
                true => text.push(char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63])),
                false => text.push('='),
            }
        }
    }
    text
}

/// An enum's value as a word: `TRANSACTION_STATE_COMMITTED` without its prefix is "committed".
pub fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in vectors {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn bytes_that_are_no_text_are_named_so() {
        let mut fields = Map::new();
        insert_bytes(&mut fields, "key", Some(b"k"));
        insert_bytes(&mut fields, "value", Some(&[0xff]));
        insert_bytes(&mut fields, "other", None);
        assert_eq!(
            Value::Object(fields).to_string(),
            r#"{"key":"k","other":null,"value_base64":"/w=="}"#
        );
        assert_eq!(shown_bytes(&[b'a', 0xff]), r"a\xff");
        assert_eq!(shown_bytes("ä\n\u{1b}[0m".as_bytes()), r"ä\n\u{1b}[0m");
    }

    #[test]
    fn an_enum_is_a_word() {
        assert_eq!(word("TRANSACTION_STATE_COMMITTED", "TRANSACTION_STATE_"), "committed");
        assert_eq!(word("BRANCH_STATE_READ_ONLY", "BRANCH_STATE_"), "read_only");
    }
}
