//! How the store's data lies in the journal's data table, and what a branch stages before it changes there.

use std::collections::BTreeSet;

use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_wire::fields::Fields;
use prost::Message;
use prost::bytes::Bytes;

use super::operations::Writes;
use crate::resource_manager::Change;

const DATA: u8 = b'd';

/// Where the value of a user's key is.
pub(super) fn data_key(key: &[u8]) -> Vec<u8> {
    prefixed(DATA, key)
}

fn prefixed(prefix: u8, key: &[u8]) -> Vec<u8> {
    let mut prefixed = Vec::with_capacity(1 + key.len());
    prefixed.push(prefix);
    prefixed.extend_from_slice(key);
    prefixed
}

/// A branch that can be committed and can be aborted: what it will write, and what it has read and
/// nobody else may write before it ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Staged {
    pub(super) writes: Writes,
    pub(super) read: BTreeSet<Bytes>,
}

impl Staged {
    /// What the commit makes durable.
    pub(super) fn changes(&self) -> Vec<Change> {
        let changes = self.writes.iter();
        changes
            .map(|(key, value)| (data_key(key), value.as_ref().map(|value| value.to_vec())))
            .collect()
    }

    /// What the vote makes durable: what [`StagedBranch`] would be, without a copy of it all. Not empty, but for a
    /// branch of nothing.
    pub(super) fn encode(&self) -> Vec<u8> {
        let size = |(key, value): (&Bytes, &Option<Bytes>)| {
            key.len() + value.as_ref().map_or(0, Bytes::len) + 16
        };
        let mut branch = Fields::with_capacity(self.writes.iter().map(size).sum());
        for (key, value) in &self.writes {
            branch.message(1, |write| {
                write.bytes(1, key);
                if let Some(value) = value {
                    write.repeated(2, value);
                }
            });
        }
        if !mutant(Mutant::ReadLocksNotStaged) {
            self.read.iter().for_each(|key| branch.repeated(2, key));
        }
        branch.into_bytes()
    }

    /// Reads what [`Staged::encode`] has written.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, prost::DecodeError> {
        let branch = StagedBranch::decode(bytes)?;
        Ok(Self {
            writes: branch.writes.into_iter().map(|write| (write.key, write.value)).collect(),
            read: branch.read.into_iter().collect(),
        })
    }
}

/// [`Staged`] on disk. Fields are only ever added.
#[derive(Clone, PartialEq, prost::Message)]
struct StagedBranch {
    #[prost(message, repeated, tag = "1")]
    writes: Vec<StagedWrite>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    read: Vec<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StagedWrite {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    // Unset: the key is deleted.
    #[prost(bytes = "bytes", optional, tag = "2")]
    value: Option<Bytes>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_staged_branch_is_read_as_it_was_written() {
        let staged = Staged {
            writes: Writes::from([
                ("deleted".into(), None),
                ("empty".into(), Some(Bytes::new())),
                ("put".into(), Some("value".into())),
                ("large".into(), Some(vec![7; 200].into())),
            ]),
            read: BTreeSet::from(["read".into()]),
        };
        let bytes = staged.encode();
        // As its type would write it, to the byte.
        let branch = StagedBranch::decode(&bytes[..]).expect("a staged branch");
        assert_eq!(branch.encode_to_vec(), bytes);
        assert_eq!(Staged::decode(&bytes), Ok(staged));
    }

    #[test]
    fn a_commit_does_what_was_staged() {
        let writes = Writes::from([("a".into(), Some("1".into())), ("b".into(), None)]);
        let staged = Staged { writes, read: BTreeSet::new() };
        assert_eq!(
            staged.changes(),
            [(b"da".to_vec(), Some(b"1".to_vec())), (b"db".to_vec(), None)]
        );
    }
}
