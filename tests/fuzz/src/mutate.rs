//! Changes to inputs: blind ones (bits, cuts, splices), and ones that know what a protobuf message looks
//! like, so that damage gets past the outermost length.

use crate::protobuf;
use crate::random::Random;

/// The longest input that is tried.
pub const INPUT_BYTES_MAX: usize = 16 << 10;

/// Bytes that parsers treat specially.
const BYTES: &[u8] =
    &[0, 1, 0x7f, 0x80, 0xff, b'\n', b'"', b'\'', b'\\', b'-', b'=', b' ', b'0', b'9'];

/// Varints that lengths and counts are wrong with: too large, as large as can be, and longer than needed.
const VARINTS: &[&[u8]] = &[
    &[0],
    &[0x7f],
    &[0x80, 1],
    &[0x80, 0x80, 0x40],
    &[0xff, 0xff, 0xff, 0xff, 0x07],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80],
    &[0x81, 0x80, 0],
];

/// Text that means something somewhere.
const WORDS: &[&str] = &[
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775807",
    "-9223372036854775808",
    "213503982334601d",
    "584942417355y",
    "0000-02-0000000001-0000000000000001",
    "ffff-04-ffffffffff-ffffffffffffffff",
    "http://127.0.0.1:1",
    "http://[::1]:99999",
    "\u{e9}",
    "\u{202e}",
    "\"\"\"",
    "'''",
    "[[",
    "\\x",
    "NaN",
    "1e999",
    "--",
];

/// A changed copy of `input`; `other` is another input, to take parts from.
#[must_use]
pub fn mutated(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(4) {
        mutate_once(random, &mut bytes, other);
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

fn mutate_once(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = random.below(bytes.len() + 1);
    let end = (at + 1 + random.below(16)).min(bytes.len());
    match random.below(12) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = *random.pick(BYTES),
        2 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(*random.pick(&[1, 255, 16])),
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at..end)),
        5 => {
            let part = bytes[at..end].to_vec();
            for _ in 0..=random.below(3) {
                insert(bytes, at, &part);
            }
        }
        6 => insert(bytes, at, &[*random.pick(BYTES)]),
        7 => {
            let varint = *random.pick(VARINTS);
            if random.one_in(2) && at < bytes.len() {
                drop(bytes.drain(at..=at));
            }
            insert(bytes, at, varint);
        }
        8 => {
            let word = *random.pick(WORDS);
            if random.one_in(2) {
                drop(bytes.drain(at..end));
            }
            insert(bytes, at, word.as_bytes());
        }
        9 => {
            let from = random.below(other.len() + 1);
            let to = (from + random.below(64)).min(other.len());
            insert(bytes, at, &other[from..to]);
        }
        10 => {
            bytes.truncate(at);
            bytes.extend_from_slice(&other[at.min(other.len())..]);
        }
        _ => protobuf::mutate(random, bytes),
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, part: &[u8]) {
    bytes.splice(at..at, part.iter().copied());
}
