//! Protobuf messages as trees, without their types: to change one deep inside and put all the lengths
//! around it right again.

use crate::random::Random;

/// How deep a tree goes; what lies deeper stays bytes.
const DEPTH_MAX: usize = 8;
/// How deep a message is put into itself: beyond the decoder's limit of 100.
const NESTED_MAX: usize = 120;

#[derive(Debug, Clone, PartialEq)]
struct Field {
    number: u64,
    value: Value,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    Bytes(Vec<u8>),
    Message(Vec<Field>),
}

/// Changes one field of the first message that `bytes` hold, behind whatever is before it.
pub(crate) fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    // Mostly the whole message, behind the few bytes that say which it is.
    let first = if random.one_in(3) { random.below(bytes.len().min(24) + 1) } else { 0 };
    let found = (first..bytes.len().min(first + 24)).find_map(|at| {
        let fields = parse(&bytes[at..], 0)?;
        (!fields.is_empty()).then_some((at, fields))
    });
    let Some((at, mut fields)) = found else { return };
    change(random, &mut fields);
    bytes.truncate(at);
    write(&fields, bytes);
}

fn change(random: &mut Random, fields: &mut Vec<Field>) {
    if fields.is_empty() {
        return;
    }
    let at = random.below(fields.len());
    if let Value::Message(inner) = &mut fields[at].value
        && !random.one_in(3)
    {
        return change(random, inner);
    }
    match random.below(8) {
        0 => drop(fields.remove(at)),
        1 => {
            let copy = fields[at].clone();
            for _ in 0..=random.below(3) {
                fields.push(copy.clone());
            }
        }
        2 => {
            let other = random.below(fields.len());
            fields.swap(at, other);
        }
        3 => fields[at].number = 1 + random.next() % 12,
        4 => fields[at].number = random.number().max(1) >> 3,
        5 => {
            // A message in itself, again and again.
            let mut message = fields.clone();
            for _ in 0..random.below(NESTED_MAX) {
                message = vec![Field { number: fields[at].number, value: Value::Message(message) }];
            }
            *fields = message;
        }
        6 => {
            let other = random.below(fields.len());
            fields[at].value = fields[other].value.clone();
        }
        _ => fields[at].value = other_value(random, &fields[at].value),
    }
}

/// Mostly one of the same type: another is no message any more.
fn other_value(random: &mut Random, value: &Value) -> Value {
    let kind = match value {
        _ if random.one_in(6) => random.below(4),
        Value::Varint(_) => 0,
        Value::Fixed64(_) => 1,
        Value::Fixed32(_) => 2,
        Value::Bytes(_) | Value::Message(_) => 3,
    };
    match kind {
        0 => Value::Varint(random.number()),
        1 => Value::Fixed64(random.number().to_le_bytes()),
        2 => Value::Fixed32([random.byte(); 4]),
        _ => {
            let count = *random.pick(&[0, 1, 15, 16, 17, 35, 64, 65, 255, 257, 1025]);
            let byte = *random.pick(b"a0-\xff\0");
            Value::Bytes(vec![byte; count])
        }
    }
}

fn parse(mut bytes: &[u8], depth: usize) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            0 => Value::Varint(varint(&mut bytes)?),
            1 => Value::Fixed64(*take(&mut bytes, 8)?.first_chunk()?),
            5 => Value::Fixed32(*take(&mut bytes, 4)?.first_chunk()?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let content = take(&mut bytes, length)?;
                match parse(content, depth + 1) {
                    Some(inner) if !inner.is_empty() && depth < DEPTH_MAX => Value::Message(inner),
                    _ => Value::Bytes(content.to_vec()),
                }
            }
            _ => return None,
        };
        if tag >> 3 == 0 {
            return None;
        }
        fields.push(Field { number: tag >> 3, value });
    }
    Some(fields)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn write(fields: &[Field], out: &mut Vec<u8>) {
    for field in fields {
        let tag = field.number << 3;
        match &field.value {
            Value::Varint(number) => {
                write_varint(tag, out);
                write_varint(*number, out);
            }
            Value::Fixed64(bytes) => {
                write_varint(tag | 1, out);
                out.extend_from_slice(bytes);
            }
            Value::Fixed32(bytes) => {
                write_varint(tag | 5, out);
                out.extend_from_slice(bytes);
            }
            Value::Bytes(bytes) => write_content(tag, bytes, out),
            Value::Message(inner) => {
                let mut bytes = Vec::new();
                write(inner, &mut bytes);
                write_content(tag, &bytes, out);
            }
        }
    }
}

fn write_content(tag: u64, bytes: &[u8], out: &mut Vec<u8>) {
    write_varint(tag | 2, out);
    write_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn write_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use handfast_wire::v1;
    use prost::Message;

    use super::*;

    fn frame() -> v1::SessionRequest {
        let commit = v1::CommitRequest {
            transaction_id: "0007-02-0000000012-00000000000004d2".into(),
            participant_incarnation: 300,
            ..Default::default()
        };
        let message = Some(v1::coordinator_message::Message::Commit(commit));
        v1::SessionRequest {
            hello: Some(v1::SessionHello { participant: "a".into(), session: 1 << 40 }),
            messages: vec![v1::CoordinatorMessage { message }],
            origin: None,
        }
    }

    #[test]
    fn a_message_is_written_as_it_was_read() {
        let bytes = frame().encode_to_vec();
        let fields = parse(&bytes, 0).expect("a message");
        let mut written = Vec::new();
        write(&fields, &mut written);
        assert_eq!(written, bytes);
    }

    /// Else the mutator would only ever try what the outermost length refuses.
    #[test]
    fn many_changes_leave_a_message_that_decodes_and_is_another() {
        let mut random = Random::new(1);
        let changed = (0..1000).filter(|_| {
            let mut bytes = frame().encode_to_vec();
            mutate(&mut random, &mut bytes);
            v1::SessionRequest::decode(&bytes[..]).is_ok_and(|changed| changed != frame())
        });
        let changed = changed.count();
        assert!(changed > 200, "{changed} of 1000");
    }
}
