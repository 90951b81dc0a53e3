//! A table of transactions, ordered by their ids.
//!
//! Most ids come in order and go in nearly the same order, while the values are large and change all the time: so
//! each value has a place of its own, in which it changes, and the tree that finds it moves nothing but pointers.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::RangeBounds;

use crate::id::TransactionId;

/// Values by the ids of their transactions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ById<T>(BTreeMap<TransactionId, Box<T>>);

impl<T> ById<T> {
    pub(crate) fn new() -> Self {
        Self(BTreeMap::new())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn contains_key(&self, id: &TransactionId) -> bool {
        self.0.contains_key(id)
    }

    pub(crate) fn get(&self, id: &TransactionId) -> Option<&T> {
        self.0.get(id).map(|value| &**value)
    }

    pub(crate) fn get_mut(&mut self, id: &TransactionId) -> Option<&mut T> {
        self.0.get_mut(id).map(|value| &mut **value)
    }

    /// In the place of the value that was there before, which is returned.
    pub(crate) fn insert(&mut self, id: TransactionId, value: T) -> Option<T> {
        match self.0.entry(id) {
            Entry::Occupied(mut place) => Some(std::mem::replace(&mut **place.get_mut(), value)),
            Entry::Vacant(place) => {
                place.insert(Box::new(value));
                None
            }
        }
    }

    pub(crate) fn remove(&mut self, id: &TransactionId) -> Option<T> {
        self.0.remove(id).map(|value| *value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&TransactionId, &T)> {
        self.0.iter().map(|(id, value)| (id, &**value))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &TransactionId> {
        self.0.keys()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.values().map(|value| &**value)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.values_mut().map(|value| &mut **value)
    }

    pub(crate) fn range(
        &self,
        ids: impl RangeBounds<TransactionId>,
    ) -> impl Iterator<Item = (&TransactionId, &T)> {
        self.0.range(ids).map(|(id, value)| (id, &**value))
    }

    pub(crate) fn range_mut(
        &mut self,
        ids: impl RangeBounds<TransactionId>,
    ) -> impl Iterator<Item = (&TransactionId, &mut T)> {
        self.0.range_mut(ids).map(|(id, value)| (id, &mut **value))
    }
}
