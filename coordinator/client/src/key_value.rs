//! The key-value participant's work and results: built here, encoded into a branch's payload, and read
//! from what it returns.
//!
//! Absent on purpose: limits and what an operation means; the participant checks and knows.

use bytes::Bytes;
use handfast_wire::v1;
use handfast_wire::v1::key_value_operation::Operation;
use prost::Message;

/// Operations on keys, done in order in one branch. Each returns the key's value after it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Work {
    operations: Vec<v1::KeyValueOperation>,
}

impl Work {
    /// No work.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a value.
    #[must_use]
    pub fn get(self, key: impl Into<Bytes>) -> Self {
        self.operation(key, Operation::Get(v1::KeyValueGet {}))
    }

    /// Sets a value.
    #[must_use]
    pub fn put(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.operation(key, Operation::Put(v1::KeyValuePut { value: value.into() }))
    }

    /// Removes a key; an absent one is no error.
    #[must_use]
    pub fn delete(self, key: impl Into<Bytes>) -> Self {
        self.operation(key, Operation::Delete(v1::KeyValueDelete {}))
    }

    /// Adds to a decimal integer; an absent one counts as 0.
    #[must_use]
    pub fn add(self, key: impl Into<Bytes>, amount: i64) -> Self {
        self.operation(key, Operation::Add(v1::KeyValueAdd { amount, floor: None }))
    }

    /// Adds to a decimal integer; the branch votes no if the sum is below `floor`.
    #[must_use]
    pub fn add_with_floor(self, key: impl Into<Bytes>, amount: i64, floor: i64) -> Self {
        self.operation(key, Operation::Add(v1::KeyValueAdd { amount, floor: Some(floor) }))
    }

    /// The branch votes no unless the key has this value.
    #[must_use]
    pub fn expect(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        let expect = v1::KeyValueExpect { value: Some(value.into()) };
        self.operation(key, Operation::Expect(expect))
    }

    /// The branch votes no unless the key is absent.
    #[must_use]
    pub fn expect_absent(self, key: impl Into<Bytes>) -> Self {
        self.operation(key, Operation::Expect(v1::KeyValueExpect { value: None }))
    }

    /// Adds the operations of other work after these.
    #[must_use]
    pub fn then(mut self, other: Work) -> Self {
        self.operations.extend(other.operations);
        self
    }

    /// How many operations there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// True without operations.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// The payload of a branch of [`Request`](crate::Request).
    #[must_use]
    pub fn encode(&self) -> Bytes {
        self.message().encode_to_vec().into()
    }

    /// The operations as they go over the wire.
    #[must_use]
    pub fn message(&self) -> v1::KeyValueWork {
        v1::KeyValueWork { operations: self.operations.clone() }
    }

    fn operation(mut self, key: impl Into<Bytes>, operation: Operation) -> Self {
        self.operations.push(v1::KeyValueOperation { key: key.into(), operation: Some(operation) });
        self
    }
}

impl From<Work> for Bytes {
    fn from(work: Work) -> Self {
        work.encode()
    }
}

/// The values after each operation, in the order of the operations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Results {
    values: Vec<Option<Bytes>>,
}

impl Results {
    /// Reads what a key-value branch returned.
    ///
    /// # Errors
    /// When it is no key-value result.
    pub fn decode(payload: Bytes) -> Result<Self, InvalidResults> {
        let result = v1::KeyValueResult::decode(payload);
        result.map(Self::from).map_err(|error| InvalidResults(error.to_string()))
    }

    /// The value after the operation at `index`; nothing when the key is absent then, or when there is
    /// no such operation.
    #[must_use]
    pub fn value(&self, index: usize) -> Option<&Bytes> {
        self.values.get(index)?.as_ref()
    }

    /// The value after the operation at `index` as the integer it is.
    #[must_use]
    pub fn integer(&self, index: usize) -> Option<i64> {
        std::str::from_utf8(self.value(index)?).ok()?.parse().ok()
    }

    /// How many results there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// True without results.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The values, in order.
    pub fn iter(&self) -> impl Iterator<Item = Option<&Bytes>> {
        self.values.iter().map(Option::as_ref)
    }
}

impl From<v1::KeyValueResult> for Results {
    fn from(result: v1::KeyValueResult) -> Self {
        Self { values: result.results.into_iter().map(|result| result.value).collect() }
    }
}

/// Bytes that are no key-value result.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no handfast.v1.KeyValueResult: {0}")]
pub struct InvalidResults(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_encoded_in_order() {
        let work =
            Work::new().get("a").put("b", "1").add_with_floor("c", -5, 0).then(
                Work::new().expect_absent("d").expect("e", vec![0xff]).delete("f").add("g", 2),
            );
        let message = v1::KeyValueWork::decode(work.encode()).expect("what was encoded");
        let keys: Vec<_> = message.operations.iter().map(|operation| &operation.key[..]).collect();
        assert_eq!(keys, [b"a", b"b", b"c", b"d", b"e", b"f", b"g"]);
        assert_eq!(
            message.operations[2].operation,
            Some(Operation::Add(v1::KeyValueAdd { amount: -5, floor: Some(0) }))
        );
        assert_eq!(
            message.operations[3].operation,
            Some(Operation::Expect(v1::KeyValueExpect { value: None }))
        );
        assert_eq!(work.len(), 7);
    }

    #[test]
    fn an_absent_value_is_not_an_empty_one() {
        let result = |value: Option<&'static str>| v1::KeyValueOperationResult {
            value: value.map(Bytes::from),
        };
        let message = v1::KeyValueResult {
            results: vec![result(None), result(Some("")), result(Some("-7"))],
        };
        let results = Results::decode(message.encode_to_vec().into()).expect("results");
        assert_eq!(results.value(0), None);
        assert_eq!(results.value(1), Some(&Bytes::new()));
        assert_eq!((results.integer(1), results.integer(2)), (None, Some(-7)));
        assert!(Results::decode(Bytes::from_static(&[0xff])).is_err());
    }
}
