//! Fields as bytes.

use handfast_commit_core::id::TransactionId;
use prost::Message;

use crate::fields::put_varint;

/// The bytes that a number takes.
pub(super) fn varint_len(value: u64) -> usize {
    // Seven bits each; zero takes one as well.
    let bits = u64::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// The bytes of a field that has so many behind its key and its length.
pub(super) fn field_len(length: usize) -> usize {
    1 + varint_len(length as u64) + length
}

/// Writes a generated message.
pub(super) fn put_message(to: &mut Vec<u8>, key: u8, message: &impl Message) {
    put_length(to, key, message.encoded_len());
    message.encode_raw(to);
}

/// Writes a number that is not the default.
pub(super) fn put_number(to: &mut Vec<u8>, key: u8, value: u64) {
    if value != 0 {
        to.push(key);
        put_varint(to, value);
    }
}

/// Writes what follows its length.
pub(super) fn put_bytes(to: &mut Vec<u8>, key: u8, bytes: &[u8]) {
    put_length(to, key, bytes.len());
    to.extend_from_slice(bytes);
}

/// Writes the key and the length of what comes next.
pub(super) fn put_length(to: &mut Vec<u8>, key: u8, length: usize) {
    match u8::try_from(length) {
        Ok(length @ ..0x80) => to.extend_from_slice(&[key, length]),
        _ => {
            to.push(key);
            put_varint(to, length as u64);
        }
    }
}

/// Writes bytes that are not the default.
pub(super) fn put_some(to: &mut Vec<u8>, key: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_bytes(to, key, bytes);
    }
}

/// Writes a number of eight bytes that is not the default.
pub(super) fn put_fixed64(to: &mut Vec<u8>, key: u8, value: u64) {
    if value != 0 {
        let mut field = [key; 9];
        field[1..].copy_from_slice(&value.to_le_bytes());
        to.extend_from_slice(&field);
    }
}

/// Bytes of an id with its key and its length.
pub(super) const ID_BYTES: usize = TransactionId::TEXT_BYTES + 2;

/// Writes an id.
pub(super) fn put_id(to: &mut Vec<u8>, key: u8, id: TransactionId) {
    let mut field = [key; ID_BYTES];
    field[1] = TransactionId::TEXT_BYTES as u8;
    field[2..].copy_from_slice(&id.text());
    to.extend_from_slice(&field);
}
