//! Identities: of transactions, participants, requests and logs.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

/// The shard of the transaction space that a transaction belongs to. One coordinator owns a slot at a
/// time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

/// The ownership number of a slot. It rises at every start or takeover and fences everything older.
/// At most [`Epoch::MAX`], which a restart every second reaches after 34,000 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The largest epoch that fits into a transaction id (40 bits).
    pub const MAX: Epoch = Epoch((1 << 40) - 1);

    /// The epoch after this one.
    ///
    /// # Errors
    /// When this is the last one.
    pub fn next(self) -> Result<Epoch, EpochsExhausted> {
        if self >= Self::MAX {
            return Err(EpochsExhausted);
        }
        Ok(Epoch(self.0 + 1))
    }
}

/// The slot has used up its 2^40 epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the slot has used up its epochs; give the coordinator another slot")]
pub struct EpochsExhausted;

/// The running number of a transaction within its slot and epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// The identity of one log's life, drawn at its creation. Tells "I have forgotten" from "I have lost
/// my disk". 0 stands for a participant that keeps none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// The commit protocol, as it stands in a transaction's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// Two-phase commit with presumed abort.
    TwoPhase = 2,
    /// Three-phase commit with quorums.
    ThreePhase = 3,
    /// Paxos Commit.
    PaxosCommit = 4,
}

impl Protocol {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            2 => Some(Self::TwoPhase),
            3 => Some(Self::ThreePhase),
            4 => Some(Self::PaxosCommit),
            _ => None,
        }
    }
}

/// The identity of a transaction: slot, protocol, epoch and sequence, in 16 bytes that sort by age
/// within a slot and protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransactionId([u8; 16]);

impl Hash for TransactionId {
    // As two numbers: every table of transactions is asked several times for each of them.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let number = u128::from_ne_bytes(self.0);
        state.write_u64((number >> 64) as u64);
        state.write_u64(number as u64);
    }
}

impl TransactionId {
    /// Composes an id.
    ///
    /// # Panics
    /// When `epoch` is above [`Epoch::MAX`]; epochs come from [`Epoch::next`], which never gives one.
    #[must_use]
    pub fn new(slot: Slot, protocol: Protocol, epoch: Epoch, sequence: Sequence) -> Self {
        assert!(epoch <= Epoch::MAX, "epoch {} does not fit into an id", epoch.0);
        let mut bytes = [0; 16];
        bytes[0..2].copy_from_slice(&slot.0.to_be_bytes());
        bytes[2] = protocol as u8;
        bytes[3..8].copy_from_slice(&epoch.0.to_be_bytes()[3..8]);
        bytes[8..16].copy_from_slice(&sequence.0.to_be_bytes());
        Self(bytes)
    }

    /// Reads an id from its 16 bytes.
    ///
    /// # Errors
    /// When the length or the protocol byte is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidId> {
        let bytes: [u8; 16] = bytes.try_into().map_err(|_| InvalidId::Length(bytes.len()))?;
        if Protocol::from_byte(bytes[2]).is_none() {
            return Err(InvalidId::Protocol(bytes[2]));
        }
        Ok(Self(bytes))
    }

    /// The 16 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The slot it belongs to.
    #[must_use]
    pub fn slot(&self) -> Slot {
        Slot(u16::from_be_bytes([self.0[0], self.0[1]]))
    }

    /// Its protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        match Protocol::from_byte(self.0[2]) {
            Some(protocol) => protocol,
            None => unreachable!("checked where the id was made"),
        }
    }

    /// True when its protocol is three-phase commit.
    #[must_use]
    pub fn is_three_phase(&self) -> bool {
        self.protocol() == Protocol::ThreePhase
    }

    /// The epoch it was begun in.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        let mut bytes = [0; 8];
        bytes[3..8].copy_from_slice(&self.0[3..8]);
        Epoch(u64::from_be_bytes(bytes))
    }

    /// Its running number within slot and epoch.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[8..16]);
        Sequence(u64::from_be_bytes(bytes))
    }
}

/// In front of which digits of an id its printed form has a dash.
const DASHES: [usize; 3] = [4, 6, 16];

impl TransactionId {
    /// The length of a printed id.
    pub const TEXT_BYTES: usize = 35;

    /// The printed form, all of it ASCII.
    // Every message has an id as text: eight digits are made at a time.
    #[must_use]
    pub fn text(&self) -> [u8; Self::TEXT_BYTES] {
        let mut digits = [0; 32];
        for (eight, bytes) in digits.chunks_exact_mut(8).zip(self.0.chunks_exact(4)) {
            let number = bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
            eight.copy_from_slice(&hex_digits(number).to_be_bytes());
        }
        let [first, second, third] = DASHES;
        let mut text = [b'-'; Self::TEXT_BYTES];
        text[..first].copy_from_slice(&digits[..first]);
        text[first + 1..second + 1].copy_from_slice(&digits[first..second]);
        text[second + 2..third + 2].copy_from_slice(&digits[second..third]);
        text[third + 3..].copy_from_slice(&digits[third..]);
        text
    }

    /// Reads the printed form; `None` when it is anything else.
    #[must_use]
    pub fn from_text(text: &[u8]) -> Option<Self> {
        Self::from_bytes(&Self::bytes_of(text)?).ok()
    }

    /// What is printed like this, be it an id or not.
    fn bytes_of(text: &[u8]) -> Option<[u8; 16]> {
        // Only the printed form: a second spelling of an id would be a second identity somewhere.
        let text: &[u8; Self::TEXT_BYTES] = text.try_into().ok()?;
        let [first, second, third] = DASHES;
        let mut digits = [0; 32];
        digits[..first].copy_from_slice(&text[..first]);
        digits[first..second].copy_from_slice(&text[first + 1..second + 1]);
        digits[second..third].copy_from_slice(&text[second + 2..third + 2]);
        digits[third..].copy_from_slice(&text[third + 3..]);
        let mut sound = text[first] & text[second + 1] & text[third + 2] == b'-';
        sound &= text[first] | text[second + 1] | text[third + 2] == b'-';
        let mut wrong = 0;
        for digit in &mut digits {
            let (decimal, letter) = (digit.wrapping_sub(b'0'), digit.wrapping_sub(b'a'));
            wrong |= u8::from(decimal > 9) & u8::from(letter > 5);
            *digit = if decimal <= 9 { decimal } else { letter.wrapping_add(10) };
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1] & 15;
        }
        (sound && wrong == 0).then_some(bytes)
    }
}

/// The eight digits of a number, one in each byte.
fn hex_digits(number: u32) -> u64 {
    let mut digits = u64::from(number);
    digits = (digits | digits << 16) & 0x0000_ffff_0000_ffff;
    digits = (digits | digits << 8) & 0x00ff_00ff_00ff_00ff;
    digits = (digits | digits << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    // With six more, a digit from ten on has the bit behind the four: it is a letter.
    let letters = (digits + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    digits + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'0' - 10)
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TransactionId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let Some(bytes) = Self::bytes_of(text.as_bytes()) else {
            return Err(InvalidId::Text(text.chars().take(64).collect()));
        };
        Self::from_bytes(&bytes)
    }
}

/// Bytes or text that are no transaction id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Not 16 bytes.
    #[error("a transaction id has 16 bytes, not {0}")]
    Length(usize),
    /// No protocol has this number.
    #[error("no protocol has the number {0}")]
    Protocol(u8),
    /// Not the printed form.
    #[error("{0:?} is no transaction id; one looks like 0007-02-0000000012-00000000000004d2")]
    Text(String),
}

/// The stable name of a participant: the resource's identity, not the process's or the host's. 1 to 64
/// of `a-z 0-9 - _ .`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParticipantName(Arc<str>);

impl ParticipantName {
    /// The longest name, in bytes.
    pub const BYTES_MAX: usize = 64;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ParticipantName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        if text.len() > Self::BYTES_MAX {
            return Err(InvalidName::TooLong(text.len()));
        }
        match text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-' | '_' | '.')) {
            Some(c) => Err(InvalidName::Character(c)),
            None => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for ParticipantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ParticipantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text that is no participant name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Empty.
    #[error("a participant name has at least 1 character")]
    Empty,
    /// Over the limit.
    #[error("a participant name has at most 64 bytes, not {0}")]
    TooLong(usize),
    /// A character that is not allowed.
    #[error("a participant name consists of a-z 0-9 - _ . and has no {0:?}")]
    Character(char),
}

/// The client's own name for a request: 1 to 64 bytes of printable ASCII.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// The longest request id, in bytes.
    pub const BYTES_MAX: usize = 64;

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RequestId {
    type Err = InvalidRequestId;

    fn from_str(text: &str) -> Result<Self, InvalidRequestId> {
        if text.is_empty() || text.len() > Self::BYTES_MAX {
            return Err(InvalidRequestId::Length(text.len()));
        }
        if !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            return Err(InvalidRequestId::Characters);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text that is no request id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequestId {
    /// Empty or over the limit.
    #[error("a request_id has 1 to 64 bytes, not {0}")]
    Length(usize),
    /// Something that is not printable ASCII.
    #[error("a request_id consists of printable ASCII characters")]
    Characters,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_prints_and_parses_to_itself() {
        let id = TransactionId::new(Slot(7), Protocol::TwoPhase, Epoch(0x12), Sequence(0x4d2));
        assert_eq!(id.to_string(), "0007-02-0000000012-00000000000004d2");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(TransactionId::from_bytes(id.as_bytes()), Ok(id));
        assert_eq!(TransactionId::from_text(&id.text()), Some(id));
        assert_eq!(
            (id.slot(), id.protocol(), id.epoch(), id.sequence()),
            (Slot(7), Protocol::TwoPhase, Epoch(0x12), Sequence(0x4d2))
        );
    }

    #[test]
    fn an_id_has_one_spelling() {
        for text in [
            "",
            "0007-02-0000000012-00000000000004D2",
            "0007-02-0000000012-00000000000004d",
            "0007-02-0000000012-00000000000004d2 ",
            "0007_02-0000000012-00000000000004d2",
            "0007-09-0000000012-00000000000004d2",
            "0007-02-0000000012-0000000000000\u{e9}d2",
        ] {
            assert!(text.parse::<TransactionId>().is_err(), "{text:?}");
            assert_eq!(TransactionId::from_text(text.as_bytes()), None, "{text:?}");
        }
        let text = "0007-02-0123456789-abcdef00000004d2";
        let id: TransactionId = text.parse().expect("an id");
        assert_eq!(id.to_string(), text);
        for at in 0..text.len() {
            for byte in 0..=u8::MAX {
                let mut changed = text.as_bytes().to_vec();
                changed[at] = byte;
                let read = TransactionId::from_text(&changed);
                assert!(
                    read.is_none_or(|read| read.text().as_slice() == changed),
                    "{byte} at {at}"
                );
            }
        }
    }

    #[test]
    fn ids_sort_by_age() {
        let id = |epoch, sequence| {
            TransactionId::new(Slot(0), Protocol::TwoPhase, Epoch(epoch), Sequence(sequence))
        };
        assert!(id(1, 500) < id(2, 1));
        assert!(id(2, 255) < id(2, 256));
        assert!(Epoch::MAX.next().is_err());
    }

    #[test]
    fn names_are_strict() {
        let long = "a".repeat(65);
        for text in ["", "A", "a b", "ä", "a/b", long.as_str()] {
            assert!(text.parse::<ParticipantName>().is_err(), "{text:?}");
        }
        assert!("orders-db_1.eu".parse::<ParticipantName>().is_ok());
        assert!("line\nbreak".parse::<RequestId>().is_err());
    }
}
