//! Bytes in the usual form of a message.

/// Fields of up to this number have a key of one byte.
const NUMBER_MAX: u8 = 15;
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH_DELIMITED: u8 = 2;

const fn key(number: u8, kind: u8) -> u8 {
    assert!(number > 0 && number <= NUMBER_MAX);
    number << 3 | kind
}

/// The key of a number.
pub(super) const fn varint(number: u8) -> u8 {
    key(number, VARINT)
}

/// The key of a number of eight bytes.
pub(super) const fn fixed64(number: u8) -> u8 {
    key(number, FIXED64)
}

/// The key of a text, of bytes or of a message.
pub(super) const fn bytes(number: u8) -> u8 {
    key(number, LENGTH_DELIMITED)
}

/// What is still to be read. `None` is always: not here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// The last key: fields come in the order of their numbers.
    last: u8,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, last: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The key of the next field, which comes behind all before.
    pub(super) fn key(&mut self) -> Option<u8> {
        let key = self.byte()?;
        let before = std::mem::replace(&mut self.last, key);
        (key > before).then_some(key)
    }

    /// Whether another field with this key follows the one that has just been read.
    pub(super) fn again(&mut self, key: u8) -> bool {
        match self.rest {
            [next, rest @ ..] if *next == key => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    /// A number of at most 63 bits: others are so rare that those who say what is too long may read them.
    pub(super) fn varint(&mut self) -> Option<u64> {
        let first = self.byte()?;
        if first < 0x80 {
            return Some(u64::from(first));
        }
        let mut value = u64::from(first & 0x7f);
        for shift in [7, 14, 21, 28, 35, 42, 49, 56] {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn fixed64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    /// As many bytes as stand in front of them.
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }

    /// The same, as text.
    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// The same, for the last field of all.
    pub(super) fn last_bytes(mut self) -> Option<&'a [u8]> {
        let bytes = self.bytes()?;
        self.is_empty().then_some(bytes)
    }

    /// The fields with this key that come next, one behind the other: each with its key and its length.
    pub(super) fn repeated(&mut self, key: u8) -> Option<Repeated<'a>> {
        let begin = self.rest;
        let mut count = 0;
        while self.again(key) {
            self.bytes()?;
            count += 1;
        }
        self.last = self.last.max(if count > 0 { key } else { 0 });
        let (fields, _) = begin.split_at(begin.len() - self.rest.len());
        Some(Repeated { fields: Reader::new(fields), count })
    }
}

/// Fields of one number, of which the lengths have been looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Repeated<'a> {
    fields: Reader<'a>,
    count: usize,
}

impl<'a> Repeated<'a> {
    pub(super) fn len(&self) -> usize {
        self.count
    }
}

impl<'a> Iterator for Repeated<'a> {
    /// What is in a field, and the field with its key and length.
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let begin = self.fields.rest;
        self.fields.byte()?;
        let content = self.fields.bytes()?;
        let (field, _) = begin.split_at(begin.len() - self.fields.rest.len());
        Some((content, field))
    }
}
