//! Random values that are well formed, or nearly so: where mutation starts from.
//!
//! Ids, names and endpoints come from small sets, so that messages meet.

use bytes::Bytes;
use handfast_commit_core::id::{Epoch, Protocol, Sequence, Slot, TransactionId};
use prost_types::{Duration, Timestamp};

use crate::random::Random;

/// Names of participants; the last ones are none.
const NAMES: &[&str] = &["a", "b", "orders-db_1.eu", "c", "", "A", "a b", "\u{e9}"];
/// Names of requests; the last ones are none.
const REQUESTS: &[&str] = &["", "r-1", "r 2", "~", "\n", "\u{e9}"];
/// Nothing listens at port 1.
const ENDPOINTS: &[&str] = &[
    "http://127.0.0.1:1",
    "",
    "http://",
    "127.0.0.1:1",
    "http://[::1]:1",
    "https://127.0.0.1:1",
    "\0",
];

/// A transaction's id of this slot and epoch or of a neighbouring one.
pub fn id(random: &mut Random) -> TransactionId {
    let slot = if random.one_in(8) { random.number() as u16 } else { 0 };
    let protocol = match random.below(12) {
        0 => Protocol::ThreePhase,
        1 => Protocol::PaxosCommit,
        _ => Protocol::TwoPhase,
    };
    let epoch =
        if random.one_in(8) { random.number() & Epoch::MAX.0 } else { 1 + random.next() % 3 };
    let sequence = if random.one_in(8) { random.number() } else { 1 + random.next() % 4 };
    TransactionId::new(Slot(slot), protocol, Epoch(epoch), Sequence(sequence))
}

/// Its printed form, or something like it.
pub fn id_text(random: &mut Random) -> String {
    let text = id(random).to_string();
    match random.below(16) {
        0 => String::new(),
        1 => text.to_uppercase(),
        2 => text[..random.below(text.len())].to_owned(),
        _ => text,
    }
}

/// A participant's name, or something like it.
pub fn name(random: &mut Random) -> String {
    match random.below(16) {
        0 => "x".repeat(60 + random.below(10)),
        1 => (*random.pick(NAMES)).to_owned(),
        _ => (*random.pick(&NAMES[..4])).to_owned(),
    }
}

/// A request's id, or something like it.
pub fn request_id(random: &mut Random) -> String {
    match random.below(12) {
        0 => "r".repeat(60 + random.below(10)),
        1 => (*random.pick(REQUESTS)).to_owned(),
        _ => (*random.pick(&REQUESTS[..3])).to_owned(),
    }
}

/// An endpoint, or something like it. None that is one leads off this machine.
pub fn endpoint(random: &mut Random) -> String {
    match random.below(4) {
        0 => (*random.pick(ENDPOINTS)).to_owned(),
        _ => ENDPOINTS[0].to_owned(),
    }
}

/// Text for people.
pub fn text(random: &mut Random) -> String {
    let length = match random.below(8) {
        0 => 200 + random.below(100),
        1 => 1020 + random.below(8),
        _ => random.below(8),
    };
    let letter = *random.pick(&['a', ' ', '\u{e9}', '\u{1f600}', '\n']);
    std::iter::repeat_n(letter, length).collect()
}

/// Bytes that mean something to somebody else.
pub fn payload(random: &mut Random) -> Bytes {
    let length = random.below(12);
    random.bytes(length).into()
}

/// As many values as a list may well have.
pub fn some<T>(random: &mut Random, mut value: impl FnMut(&mut Random) -> T) -> Vec<T> {
    let count = if random.one_in(32) { 255 + random.below(4) } else { random.below(4) };
    (0..count).map(|_| value(random)).collect()
}

/// A value, or none.
pub fn maybe<T>(random: &mut Random, value: impl FnOnce(&mut Random) -> T) -> Option<T> {
    if random.one_in(5) { None } else { Some(value(random)) }
}

/// A number of an enumeration, or of none.
pub fn enumeration(random: &mut Random) -> i32 {
    if random.one_in(12) { random.number() as i32 } else { random.below(8) as i32 }
}

/// A duration, not always one that the type allows.
pub fn duration(random: &mut Random) -> Duration {
    Duration { seconds: random.number() as i64, nanos: nanos(random) }
}

/// A point in time, not always one that the type allows.
pub fn timestamp(random: &mut Random) -> Timestamp {
    Timestamp { seconds: random.number() as i64, nanos: nanos(random) }
}

fn nanos(random: &mut Random) -> i32 {
    if random.one_in(2) { 0 } else { random.number() as i32 }
}
