//! The operations of a branch: checked once, at the edge, then done in order on a workspace.
//!
//! Pure but for the function that reads a committed value. Nothing here takes locks; a
//! plan says which ones its operations need.

use std::collections::BTreeMap;
use std::fmt;

use handfast_journal::JournalError;
use handfast_wire::v1::key_value_operation::Operation;
use handfast_wire::v1::{KeyValueOperationResult, KeyValueResult, KeyValueWork};
use prost::Message;
use prost::bytes::Bytes;

use super::lock_table::Mode;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// The longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// The most operations in one call.
pub const OPERATIONS_MAX: usize = 10_000;
/// The most that one call may return, in bytes of values. Reading one large value over and over costs a
/// client nothing and would cost the participant its memory. Work that comes with a prepare returns at
/// most 1 MiB: the library votes no above that.
pub const RESULT_BYTES_MAX: usize = 2 * 1024 * 1024;

/// What a transaction would write: the new value of each key, `None` where it is deleted.
pub(super) type Writes = BTreeMap<Bytes, Option<Bytes>>;

/// Work that breaks a limit or makes no sense. Nothing of it was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWork {
    /// The bytes are something else.
    #[error("payload is no handfast.v1.KeyValueWork: {0}")]
    Garbage(String),
    /// More than [`OPERATIONS_MAX`].
    #[error("work.operations has {0} entries; the limit is {OPERATIONS_MAX}")]
    TooMany(usize),
    /// Empty or over [`KEY_BYTES_MAX`].
    #[error("work.operations[{index}].key has {bytes} bytes; a key has 1 to {KEY_BYTES_MAX}")]
    Key {
        /// Which operation, from 0.
        index: usize,
        /// The length of its key.
        bytes: usize,
    },
    /// Over [`VALUE_BYTES_MAX`].
    #[error(
        "work.operations[{index}] has a value of {bytes} bytes; the limit is {VALUE_BYTES_MAX}"
    )]
    Value {
        /// Which operation, from 0.
        index: usize,
        /// The length of its value.
        bytes: usize,
    },
    /// No operation, or one that this version does not know.
    #[error("work.operations[{index}].operation is unset, or unknown to this version")]
    Unset {
        /// Which operation, from 0.
        index: usize,
    },
}

/// Checked operations.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    operations: Vec<(Bytes, Operation)>,
    locks: BTreeMap<Bytes, Mode>,
}

impl Plan {
    /// Checks an encoded [`KeyValueWork`].
    pub(super) fn decode(payload: Vec<u8>) -> Result<Self, InvalidWork> {
        match KeyValueWork::decode(Bytes::from(payload)) {
            Ok(work) => Self::new(work),
            Err(error) => Err(InvalidWork::Garbage(error.to_string())),
        }
    }

    /// Checks work.
    pub(super) fn new(work: KeyValueWork) -> Result<Self, InvalidWork> {
        if work.operations.len() > OPERATIONS_MAX {
            return Err(InvalidWork::TooMany(work.operations.len()));
        }
        let mut operations = Vec::with_capacity(work.operations.len());
        let mut locks = BTreeMap::new();
        for (index, operation) in work.operations.into_iter().enumerate() {
            let key = operation.key;
            if key.is_empty() || key.len() > KEY_BYTES_MAX {
                let bytes = key.len();
                return Err(InvalidWork::Key { index, bytes });
            }
            let operation = operation.operation.ok_or(InvalidWork::Unset { index })?;
            let (mode, bytes) = match &operation {
                Operation::Get(_) => (Mode::Shared, 0),
                Operation::Expect(expect) => {
                    (Mode::Shared, expect.value.as_ref().map_or(0, Bytes::len))
                }
                Operation::Put(put) => (Mode::Exclusive, put.value.len()),
                Operation::Delete(_) | Operation::Add(_) => (Mode::Exclusive, 0),
            };
            if bytes > VALUE_BYTES_MAX {
                return Err(InvalidWork::Value { index, bytes });
            }
            // Exclusive at once where a later operation writes: two transactions that both read first
            // and want to write afterwards would be in each other's way for certain.
            let strongest = locks.entry(key.clone()).or_insert(mode);
            *strongest = (*strongest).max(mode);
            operations.push((key, operation));
        }
        Ok(Self { operations, locks })
    }

    /// The locks that the operations need, in the order in which to take them.
    pub(super) fn locks(&self) -> &BTreeMap<Bytes, Mode> {
        &self.locks
    }

    /// The operations, in the order in which to do them.
    pub(super) fn operations(&self) -> &[(Bytes, Operation)] {
        &self.operations
    }
}

/// Why an operation could not be done: the branch aborts.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "key {0} has a value that is no decimal integer of 64 bits; only to such a value can be added"
    )]
    NoInteger(Shown),
    #[error("key {key}: {value} + {amount} does not fit into 64 bits")]
    Overflow { key: Shown, value: i64, amount: i64 },
    #[error("key {key}: {value} + {amount} is below the floor of {floor}")]
    Floor { key: Shown, value: i64, amount: i64, floor: i64 },
    #[error("key {0} is absent, and was expected to have a value")]
    Absent(Shown),
    #[error("key {0} has a value, and was expected to be absent")]
    Present(Shown),
    #[error("key {0} has another value than expected")]
    Different(Shown),
    #[error(
        "the values that the operations return are over the limit of {RESULT_BYTES_MAX} bytes together"
    )]
    Result,
    #[error("key {key} could not be read: {source}")]
    Read { key: Shown, source: JournalError },
}

/// Operations being done: what they have written and returned so far.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    writes: Writes,
    result: KeyValueResult,
    result_bytes: usize,
}

impl Workspace {
    /// A workspace that sees what the transaction wrote before.
    pub(super) fn new(written_before: Writes) -> Self {
        Self { writes: written_before, ..Self::default() }
    }

    /// Does one operation. `committed` reads what other transactions have left behind.
    pub(super) fn apply(
        &mut self,
        key: &Bytes,
        operation: &Operation,
        committed: impl FnOnce(&Bytes) -> Result<Option<Bytes>, JournalError>,
    ) -> Result<(), Refusal> {
        let before = || match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => {
                committed(key).map_err(|source| Refusal::Read { key: Shown(key.clone()), source })
            }
        };
        let after = match operation {
            Operation::Get(_) => before()?,
            Operation::Expect(expect) => {
                let found = before()?;
                expected(key, found.as_ref(), expect.value.as_ref())?;
                found
            }
            Operation::Put(put) => self.write(key, Some(put.value.clone())),
            Operation::Delete(_) => self.write(key, None),
            Operation::Add(add) => {
                let sum = sum(key, before()?.as_deref(), add.amount, add.floor)?;
                self.write(key, Some(sum.to_string().into()))
            }
        };
        self.result_bytes += after.as_ref().map_or(0, Bytes::len);
        if self.result_bytes > RESULT_BYTES_MAX {
            return Err(Refusal::Result);
        }
        self.result.results.push(KeyValueOperationResult { value: after });
        Ok(())
    }

    fn write(&mut self, key: &Bytes, value: Option<Bytes>) -> Option<Bytes> {
        self.writes.insert(key.clone(), value.clone());
        value
    }

    /// What the operations have written, together with what had been written before, and what they return.
    pub(super) fn into_parts(self) -> (Writes, KeyValueResult) {
        (self.writes, self.result)
    }
}

fn expected(key: &Bytes, found: Option<&Bytes>, expected: Option<&Bytes>) -> Result<(), Refusal> {
    let key = || Shown(key.clone());
    match (found, expected) {
        (None, None) => Ok(()),
        (Some(found), Some(expected)) if found == expected => Ok(()),
        (None, Some(_)) => Err(Refusal::Absent(key())),
        (Some(_), None) => Err(Refusal::Present(key())),
        (Some(_), Some(_)) => Err(Refusal::Different(key())),
    }
}

fn sum(key: &Bytes, value: Option<&[u8]>, amount: i64, floor: Option<i64>) -> Result<i64, Refusal> {
    let key = || Shown(key.clone());
    let value = match value {
        None => 0,
        Some(value) => std::str::from_utf8(value)
            .ok()
            .and_then(|text| text.parse::<i64>().ok())
            .ok_or_else(|| Refusal::NoInteger(key()))?,
    };
    let sum =
        value.checked_add(amount).ok_or_else(|| Refusal::Overflow { key: key(), value, amount })?;
    match floor {
        Some(floor) if sum < floor => Err(Refusal::Floor { key: key(), value, amount, floor }),
        _ => Ok(sum),
    }
}

/// A key as people read it: quoted, escaped, and cut where it gets long.
#[derive(Debug, Clone)]
pub(super) struct Shown(pub(super) Bytes);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_BYTES_MAX: usize = 64;
        let end = self.0.len().min(SHOWN_BYTES_MAX);
        let rest = if end < self.0.len() { "…" } else { "" };
        write!(f, "\"{}\"{rest}", self.0[..end].escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use handfast_wire::v1::{
        KeyValueAdd, KeyValueDelete, KeyValueExpect, KeyValueGet, KeyValueOperation, KeyValuePut,
    };

    use super::*;

    fn get() -> Operation {
        Operation::Get(KeyValueGet {})
    }

    fn put(value: impl Into<Bytes>) -> Operation {
        Operation::Put(KeyValuePut { value: value.into() })
    }

    fn delete() -> Operation {
        Operation::Delete(KeyValueDelete {})
    }

    fn add(amount: i64, floor: Option<i64>) -> Operation {
        Operation::Add(KeyValueAdd { amount, floor })
    }

    fn expect(value: Option<&'static str>) -> Operation {
        Operation::Expect(KeyValueExpect { value: value.map(Bytes::from) })
    }

    fn plan(operations: Vec<(Bytes, Option<Operation>)>) -> Result<Plan, InvalidWork> {
        let operations = operations
            .into_iter()
            .map(|(key, operation)| KeyValueOperation { key, operation })
            .collect();
        Plan::decode(KeyValueWork { operations }.encode_to_vec())
    }

    /// Does the operations on key "k", of which `committed` is the value.
    fn run(committed: Option<&'static str>, operations: &[Operation]) -> Result<String, String> {
        let key = Bytes::from("k");
        let mut workspace = Workspace::default();
        for operation in operations {
            workspace
                .apply(&key, operation, |_| Ok(committed.map(Bytes::from)))
                .map_err(|refusal| refusal.to_string())?;
        }
        let (writes, result) = workspace.into_parts();
        assert_eq!(result.results.len(), operations.len());
        let show = |value: Option<Bytes>| match value {
            Some(value) => String::from_utf8_lossy(&value).into_owned(),
            None => "-".into(),
        };
        let results: Vec<_> = result.results.into_iter().map(|result| show(result.value)).collect();
        let writes: Vec<_> = writes.into_values().map(show).collect();
        Ok(format!("{} | {}", results.join(" "), writes.join(" ")))
    }

    fn check(committed: Option<&'static str>, operations: &[Operation], outcome: &str) {
        let found = run(committed, operations).unwrap_or_else(|reason| reason);
        assert_eq!(found, outcome);
    }

    #[test]
    fn operations_are_done_in_order_and_see_what_the_ones_before_wrote() {
        check(None, &[get()], "- | ");
        check(Some("a"), &[get()], "a | ");
        check(Some("a"), &[put("b"), get()], "b b | b");
        check(Some("a"), &[get(), put("b"), delete(), get()], "a b - - | -");
        check(Some("a"), &[delete(), expect(None), put("c"), expect(Some("c"))], "- - c c | c");
        check(Some("a"), &[expect(Some("a"))], "a | ");
    }

    #[test]
    fn adding_is_exact_or_refused() {
        check(None, &[add(5, None), add(-2, None)], "5 3 | 3");
        check(Some("-7"), &[add(7, Some(0))], "0 | 0");
        check(Some("5"), &[add(-10, Some(0))], "key \"k\": 5 + -10 is below the floor of 0");
        check(
            Some("9223372036854775807"),
            &[add(1, None)],
            "key \"k\": 9223372036854775807 + 1 does not fit into 64 bits",
        );
        for value in ["", "1.5", " 1", "one", "9223372036854775808"] {
            let reason = run(Some(value), &[add(1, None)]).expect_err(value);
            assert!(reason.starts_with("key \"k\" has a value that is no decimal"), "{reason}");
        }
    }

    #[test]
    fn what_was_expected_otherwise_is_refused() {
        check(None, &[expect(Some("a"))], "key \"k\" is absent, and was expected to have a value");
        check(Some("a"), &[expect(None)], "key \"k\" has a value, and was expected to be absent");
        check(Some("a"), &[expect(Some("b"))], "key \"k\" has another value than expected");
    }

    #[test]
    fn a_key_that_cannot_be_read_is_refused() {
        let poisoned =
            || JournalError::Poisoned { place: "a folder".into(), reason: "a test".into() };
        let refusal = Workspace::default()
            .apply(&Bytes::from("k"), &get(), |_| Err(poisoned()))
            .expect_err("a failed read is not an absent value");
        assert!(refusal.to_string().starts_with("key \"k\" could not be read: "));
    }

    #[test]
    fn what_is_returned_is_bounded() {
        let large = put(vec![0; VALUE_BYTES_MAX]);
        assert!(run(None, &[large.clone(), get()]).is_ok());
        let reason = run(None, &[large, get(), get()]).expect_err("3 MiB");
        assert!(reason.contains("limit of 2097152 bytes"), "{reason}");
    }

    #[test]
    fn a_key_that_is_written_anywhere_is_locked_exclusively_from_the_start() {
        let plan = plan(vec![
            ("b".into(), Some(get())),
            ("a".into(), Some(expect(None))),
            ("b".into(), Some(add(1, None))),
            ("b".into(), Some(get())),
        ])
        .expect("valid");
        let locks: Vec<_> = plan.locks().iter().map(|(key, mode)| (&key[..], *mode)).collect();
        assert_eq!(locks, [(&b"a"[..], Mode::Shared), (&b"b"[..], Mode::Exclusive)]);
        assert_eq!(plan.operations().len(), 4);
    }

    #[test]
    fn bad_work_is_refused_by_field_and_limit() {
        assert!(
            plan(vec![(vec![b'k'; KEY_BYTES_MAX].into(), Some(put(vec![0; VALUE_BYTES_MAX])))])
                .is_ok()
        );
        assert!(plan(vec![("k".into(), Some(get())); OPERATIONS_MAX]).is_ok());
        let check = |found: Result<Plan, InvalidWork>, message: &str| {
            assert_eq!(found.expect_err(message).to_string(), message);
        };
        check(
            plan(vec![("k".into(), Some(get())); OPERATIONS_MAX + 1]),
            "work.operations has 10001 entries; the limit is 10000",
        );
        check(
            plan(vec![("k".into(), Some(get())), (Bytes::new(), Some(get()))]),
            "work.operations[1].key has 0 bytes; a key has 1 to 1024",
        );
        check(
            plan(vec![(vec![b'k'; KEY_BYTES_MAX + 1].into(), Some(get()))]),
            "work.operations[0].key has 1025 bytes; a key has 1 to 1024",
        );
        check(
            plan(vec![("k".into(), Some(put(vec![0; VALUE_BYTES_MAX + 1])))]),
            "work.operations[0] has a value of 1048577 bytes; the limit is 1048576",
        );
        check(
            plan(vec![("k".into(), None)]),
            "work.operations[0].operation is unset, or unknown to this version",
        );
        let garbage = Plan::decode(vec![0xff; 3]).expect_err("no protobuf").to_string();
        assert!(garbage.starts_with("payload is no handfast.v1.KeyValueWork: "), "{garbage}");
    }

    #[test]
    fn a_key_is_shown_without_control_characters_and_not_at_length() {
        assert_eq!(Shown(Bytes::from_static(b"a\n\"\xff")).to_string(), r#""a\n\"\xff""#);
        assert_eq!(Shown(vec![b'k'; 100].into()).to_string(), format!("\"{}\"…", "k".repeat(64)));
    }
}
