//! Writes the fields of protobuf messages straight from what they are read off.
//!
//! The generated types own all that is in them: to write a record through one is to copy every name and every
//! address first. This is for the records that every transaction writes; the others go through their types, and
//! so does all reading. The tests of whoever writes with this compare the bytes with those of the types.
//!
//! As the types do, it leaves out what has its default: an empty text, a zero, a false.

/// The bytes of a message, while it is being written. Fields are to be written in the order of their numbers.
#[derive(Debug, Default)]
pub struct Fields(Vec<u8>);

const VARINT: u32 = 0;
const FIXED_64: u32 = 1;
const DELIMITED: u32 = 2;

impl Fields {
    /// A message of about so many bytes.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// `string` and `bytes`.
    pub fn bytes(&mut self, number: u32, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        if !bytes.is_empty() {
            self.repeated(number, bytes);
        }
    }

    /// One of a `repeated string` or `repeated bytes`.
    pub fn repeated(&mut self, number: u32, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.key(number, DELIMITED);
        put_varint(&mut self.0, bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// `uint32`, `uint64` and `bool`.
    pub fn number(&mut self, number: u32, value: impl Into<u64>) {
        let value = value.into();
        if value != 0 {
            self.key(number, VARINT);
            put_varint(&mut self.0, value);
        }
    }

    /// `fixed64`.
    pub fn fixed(&mut self, number: u32, value: u64) {
        if value != 0 {
            self.key(number, FIXED_64);
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// A message, which is there even if it is empty.
    pub fn message(&mut self, number: u32, write: impl FnOnce(&mut Self)) {
        self.key(number, DELIMITED);
        // Nearly always the length takes one byte; for one that takes more room is made behind.
        let at = self.0.len();
        self.0.push(0);
        write(self);
        let length = self.0.len() - at - 1;
        if length < 0x80 {
            self.0[at] = length as u8;
            return;
        }
        let mut prefix = Vec::new();
        put_varint(&mut prefix, length as u64);
        self.0.splice(at..=at, prefix);
    }

    fn key(&mut self, number: u32, kind: u32) {
        put_varint(&mut self.0, u64::from(number << 3 | kind));
    }
}

/// Writes a number as every length and most numbers are written.
pub(crate) fn put_varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}
