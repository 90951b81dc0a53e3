//! The codec of every service: prost's, with a bound on what a request is made of.
//!
//! A message of two bytes may take some hundred in memory: 64 MiB of empty calls would become several GiB before
//! anybody could look at them. So the *parts* of a request are counted before it is decoded: the messages in it,
//! at whatever depth, and the items of its lists. Each takes two bytes at least, so that only a request of more
//! bytes than that can have too many, and only such a one is read twice.
//!
//! Absent on purpose: a bound on the parts of an answer. Whoever asks has chosen whom.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use bytes::Buf;
use prost::{Message, Name};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use crate::DESCRIPTORS;

/// Most parts of a request.
pub const PARTS_MAX: usize = 1 << 18;
/// A key and a length.
const PART_BYTES_MIN: usize = 2;
/// As deep as prost reads.
const DEPTH_MAX: usize = 100;

/// See the module.
pub struct BoundedCodec<T, U>(ProstCodec<T, U>);

impl<T, U> fmt::Debug for BoundedCodec<T, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedCodec").finish_non_exhaustive()
    }
}

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(ProstCodec::default())
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        self.0.encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(self.0.decoder())
    }
}

/// Decodes what has no more than [`PARTS_MAX`] parts.
#[derive(Debug)]
pub struct BoundedDecoder<U>(ProstDecoder<U>);

impl<U: Message + Name + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // A message lies in one piece: it is gathered before it is decoded.
        count_parts::<U>(buf.chunk())?;
        self.0.decode(buf)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// Refuses a request of too many parts.
///
/// # Errors
/// When it is one.
pub(crate) fn count_parts<M: Name>(bytes: &[u8]) -> Result<(), Status> {
    if bytes.len() > PARTS_MAX * PART_BYTES_MIN && SCHEMA.has_too_many_parts(&M::full_name(), bytes)
    {
        return Err(Status::out_of_range(format!(
            "the request has more than {PARTS_MAX} parts (messages in messages, and items of lists); make \
             several of it"
        )));
    }
    Ok(())
}

/// What is a part of what, by the interface's own description.
static SCHEMA: LazyLock<Schema> = LazyLock::new(|| match FileDescriptorSet::decode(DESCRIPTORS) {
    Ok(files) => Schema::new(&files),
    Err(error) => unreachable!("it was compiled with this crate: {error}"),
});

struct Schema {
    /// The message that a request is, by its full name.
    requests: HashMap<String, usize>,
    messages: Vec<Vec<Part>>,
}

/// A field whose values are parts.
struct Part {
    number: u64,
    /// `None`: it has no parts of its own.
    message: Option<usize>,
}

impl Schema {
    fn new(files: &FileDescriptorSet) -> Self {
        let mut all = Vec::new();
        for file in &files.file {
            gather(&format!(".{}", file.package()), &file.message_type, &mut all);
        }
        let indexes: HashMap<&str, usize> =
            all.iter().enumerate().map(|(index, (name, _))| (name.as_str(), index)).collect();
        let part = |field: &FieldDescriptorProto| {
            let number = u64::try_from(field.number()).ok()?;
            match field.r#type() {
                Type::Message => {
                    Some(Part { number, message: indexes.get(field.type_name()).copied() })
                }
                Type::String | Type::Bytes if field.label() == Label::Repeated => {
                    Some(Part { number, message: None })
                }
                _ => None,
            }
        };
        let messages =
            all.iter().map(|(_, message)| message.field.iter().filter_map(part).collect());
        let methods = files.file.iter().flat_map(|file| &file.service).flat_map(|s| &s.method);
        let requests = methods.filter_map(|method| {
            let name = method.input_type();
            Some((name.strip_prefix('.')?.to_owned(), *indexes.get(name)?))
        });
        Self { requests: requests.collect(), messages: messages.collect() }
    }

    /// False for what is no request, and for what cannot be read: whoever decodes it says so.
    fn has_too_many_parts(&self, name: &str, bytes: &[u8]) -> bool {
        let request = self.requests.get(name);
        request.is_some_and(|request| !self.fits(*request, bytes, &mut PARTS_MAX.clone(), 0))
    }

    /// Counts the parts of a message off what is left, and says whether there was enough.
    fn fits(&self, message: usize, mut bytes: &[u8], left: &mut usize, depth: usize) -> bool {
        if depth > DEPTH_MAX {
            return true;
        }
        while let Some((number, content)) = field(&mut bytes) {
            let part = self.messages[message].iter().find(|part| part.number == number);
            let (Some(part), Some(content)) = (part, content) else { continue };
            if *left == 0 {
                return false;
            }
            *left -= 1;
            if let Some(inner) = part.message
                && !self.fits(inner, content, left, depth + 1)
            {
                return false;
            }
        }
        true
    }
}

/// Appends messages and those that are declared in them, by their full names.
fn gather<'a>(
    within: &str,
    messages: &'a [DescriptorProto],
    all: &mut Vec<(String, &'a DescriptorProto)>,
) {
    for message in messages {
        let name = format!("{within}.{}", message.name());
        gather(&name, &message.nested_type, all);
        all.push((name, message));
    }
}

/// Takes a field off the front: its number, and its content if that has a length. `None` at the end, and where
/// nobody can read on.
fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Option<&'a [u8]>)> {
    let key = varint(bytes)?;
    let number = key >> 3;
    match key & 7 {
        0 => drop(varint(bytes)?),
        1 => drop(bytes.split_off(..8)?),
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            return Some((number, Some(bytes.split_off(..length)?)));
        }
        // A group begins or ends, which nobody sends. What is in it counts as if it stood beside it.
        3 | 4 => {}
        5 => drop(bytes.split_off(..4)?),
        _ => return None,
    }
    Some((number, None))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let byte = *bytes.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;
    use crate::v1::transaction_call::Request;

    fn has_too_many<M: Message + Name>(message: &M) -> bool {
        SCHEMA.has_too_many_parts(&M::full_name(), &message.encode_to_vec())
    }

    /// What has exactly as many as it may is let through, and one more is not.
    #[track_caller]
    fn check<M: Message + Name>(what: &str, with: impl Fn(usize) -> M) {
        assert!(!has_too_many(&with(PARTS_MAX)), "{what}");
        assert!(has_too_many(&with(PARTS_MAX + 1)), "{what}");
    }

    fn execute(branches: usize) -> v1::ExecuteTransactionRequest {
        let branches = vec![v1::BranchWork::default(); branches];
        v1::ExecuteTransactionRequest { branches, ..Default::default() }
    }

    fn call(request: Request) -> v1::TransactionCall {
        v1::TransactionCall { call_id: u64::MAX, timeout: None, request: Some(request) }
    }

    #[test]
    fn parts_count_at_every_depth() {
        check("calls", |n| v1::StreamTransactionsRequest {
            calls: vec![v1::TransactionCall::default(); n],
        });
        check("branches", execute);
        // Two calls, two requests, and the rest.
        check("branches of several calls", |n| v1::StreamTransactionsRequest {
            calls: vec![
                call(Request::Execute(execute(n - 1000 - 4))),
                call(Request::Execute(execute(1000))),
            ],
        });
        // Options, and the entries of a map.
        check("labels", |n| {
            let labels = (1..n).map(|n| (n.to_string(), String::new())).collect();
            let options = v1::TransactionOptions { labels, ..Default::default() };
            v1::BeginTransactionRequest { options: Some(options) }
        });
        check("messages", |n| v1::SessionRequest {
            messages: vec![v1::CoordinatorMessage::default(); n],
            ..Default::default()
        });
        check("peers", |n| v1::PrepareRequest {
            peers: vec![v1::Peer::default(); n],
            ..Default::default()
        });
    }

    #[test]
    fn long_content_is_one_part_and_answers_have_any_number() {
        let payload = vec![0x0a; 4 * PARTS_MAX].into();
        let branches = vec![v1::BranchWork { participant: "a".into(), payload }];
        assert!(!has_too_many(&v1::ExecuteTransactionRequest { branches, ..Default::default() }));
        let branches = vec![v1::InDoubtBranch::default(); PARTS_MAX + 1];
        assert!(!has_too_many(&v1::ListInDoubtResponse { branches }));
    }

    #[test]
    fn nothing_that_is_skipped_hides_what_comes_behind_it() {
        let name = v1::StreamTransactionsRequest::full_name();
        let empty_calls = [0x0a, 0].repeat(PARTS_MAX + 1);
        let number_15 = |wire_type: u8| 15 << 3 | wire_type;
        for (what, unknown) in [
            ("a number", vec![number_15(0), 0xff, 1]),
            ("eight bytes", [vec![number_15(1)], vec![0x0a; 8]].concat()),
            ("content", vec![number_15(2), 2, 0xff, 0xff]),
            ("a group", vec![number_15(3), number_15(4)]),
            ("four bytes", [vec![number_15(5)], vec![0x0a; 4]].concat()),
            ("a call that cannot be read", vec![0x0a, 1, 0xff]),
        ] {
            let message = [unknown, empty_calls.clone()].concat();
            assert!(SCHEMA.has_too_many_parts(&name, &message), "{what}");
        }
        // Here prost stops as well.
        for unreadable in [vec![0xff; 11], vec![number_15(6)], vec![0x0a, 0xff, 0xff, 0xff, 0x7f]] {
            let message = [unreadable, empty_calls.clone()].concat();
            assert!(!SCHEMA.has_too_many_parts(&name, &message));
            v1::StreamTransactionsRequest::decode(&message[..]).expect_err("it cannot be read");
        }
    }
}
