//! How a value lies on disk: version (1 byte), CRC-32C (4), the sequence of its batch (8), the payload.
//!
//! The checksum covers the table, the key, the sequence and the payload, so a sound value under the wrong
//! key is found out as well. It is checked at every read, also of what RocksDB serves from its cache.
//! Numbers are little-endian.

use handfast_commit_core::mutants::{Mutant, mutant};

use crate::LogSequence;

/// The only version so far.
const VERSION: u8 = 1;

/// The bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 1 + 4 + 8;

/// Appends the framed `payload` to `out`.
pub(crate) fn encode(
    prefix: u8,
    key: &[u8],
    sequence: LogSequence,
    payload: &[u8],
    out: &mut Vec<u8>,
) {
    let sequence_bytes = sequence.0.to_le_bytes();
    out.reserve(HEADER_BYTES + payload.len());
    out.push(VERSION);
    out.extend_from_slice(&checksum(prefix, key, &sequence_bytes, payload).to_le_bytes());
    out.extend_from_slice(&sequence_bytes);
    out.extend_from_slice(payload);
}

/// The sequence and the payload of a framed value, or what is wrong with it.
pub(crate) fn decode<'a>(
    prefix: u8,
    key: &[u8],
    framed: &'a [u8],
) -> Result<(LogSequence, &'a [u8]), &'static str> {
    let Some((header, payload)) = framed.split_first_chunk::<HEADER_BYTES>() else {
        return Err("it is shorter than a frame");
    };
    let [version, c0, c1, c2, c3, sequence_bytes @ ..] = header;
    if *version != VERSION {
        return Err("it has a version that this program does not know");
    }
    let sound =
        u32::from_le_bytes([*c0, *c1, *c2, *c3]) == checksum(prefix, key, sequence_bytes, payload);
    if !sound && !mutant(Mutant::ChecksumNotChecked) {
        return Err("its checksum does not match");
    }
    Ok((LogSequence(u64::from_le_bytes(*sequence_bytes)), payload))
}

/// The length of the key is covered too, so that no byte can move between key and payload.
fn checksum(prefix: u8, key: &[u8], sequence_bytes: &[u8; 8], payload: &[u8]) -> u32 {
    let mut sum = crc32c::crc32c(&[prefix]);
    sum = crc32c::crc32c_append(sum, &(key.len() as u64).to_le_bytes());
    sum = crc32c::crc32c_append(sum, key);
    sum = crc32c::crc32c_append(sum, sequence_bytes);
    crc32c::crc32c_append(sum, payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed() -> Vec<u8> {
        let mut out = Vec::new();
        encode(2, b"key", LogSequence(7), b"payload", &mut out);
        out
    }

    #[test]
    fn what_is_framed_is_read() {
        assert_eq!(decode(2, b"key", &framed()), Ok((LogSequence(7), &b"payload"[..])));
    }

    /// The layout is part of the format, so it is pinned here.
    #[test]
    fn the_layout_is_pinned() {
        let bytes = framed();
        assert_eq!(bytes[0], 1);
        assert_eq!(bytes[5..13], 7u64.to_le_bytes());
        assert_eq!(&bytes[13..], b"payload");
    }

    #[test]
    fn every_flipped_bit_is_found() {
        for bit in 0..framed().len() * 8 {
            let mut bytes = framed();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(2, b"key", &bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_cut_is_found() {
        for length in 0..framed().len() {
            assert!(decode(2, b"key", &framed()[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn a_value_under_another_key_or_table_is_found() {
        assert!(decode(2, b"kez", &framed()).is_err());
        assert!(decode(3, b"key", &framed()).is_err());
        assert!(decode(2, b"keypayload", &framed()).is_err());
    }
}
