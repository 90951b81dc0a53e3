//! What a batch is made of: one change of one key of one table.

use std::fmt;

/// The ordered tables of a journal.
///
/// They live in one key space (one write-ahead log, one sync) and are told apart by the first byte of
/// the key on disk, so a batch over several of them is atomic for free. The bytes are part of the
/// format: they never change and are never used again for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// A few facts about the owner itself, such as its epochs.
    Meta,
    /// What is undecided or unacknowledged: all that a start has to read.
    Live,
    /// What is over and is kept for the outcome window.
    Outcomes,
    /// A client's request identifiers, to the transactions they became.
    Requests,
    /// The participants that have registered.
    Registry,
    /// The data of a resource that shares the journal with its participant.
    Data,
    /// What a resource keeps of branches whose entries among the live ones are written more than once.
    Staged,
}

impl Table {
    /// Every table, in the order of their keys on disk.
    pub const ALL: [Table; 7] = [
        Table::Meta,
        Table::Live,
        Table::Outcomes,
        Table::Requests,
        Table::Registry,
        Table::Data,
        Table::Staged,
    ];

    /// The first byte of this table's keys on disk. Zero is the journal's own.
    pub const fn prefix(self) -> u8 {
        match self {
            Table::Meta => 1,
            Table::Live => 2,
            Table::Outcomes => 3,
            Table::Requests => 4,
            Table::Registry => 5,
            Table::Data => 6,
            Table::Staged => 7,
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Table::Meta => "meta",
            Table::Live => "live",
            Table::Outcomes => "outcomes",
            Table::Requests => "requests",
            Table::Registry => "registry",
            Table::Data => "data",
            Table::Staged => "staged",
        })
    }
}

/// One change: a key gets a value, or loses it.
///
/// Within a batch the later mutation of a key wins. Deleting a key that is not there is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    /// The table.
    pub table: Table,
    /// The key; ordered as bytes.
    pub key: Vec<u8>,
    /// The new value (which may be empty), or `None` to delete the key.
    pub value: Option<Vec<u8>>,
}

impl Mutation {
    /// Sets `key` to `value`.
    pub fn put(table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Mutation { table, key: key.into(), value: Some(value.into()) }
    }

    /// Removes `key`.
    pub fn delete(table: Table, key: impl Into<Vec<u8>>) -> Self {
        Mutation { table, key: key.into(), value: None }
    }

    /// What this mutation adds to a batch, in bytes of key and value.
    pub fn size(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A changed byte would make every existing journal unreadable, so the bytes are pinned here.
    #[test]
    fn prefixes_are_part_of_the_format() {
        let prefixes: Vec<u8> = Table::ALL.iter().map(|table| table.prefix()).collect();
        assert_eq!(prefixes, [1, 2, 3, 4, 5, 6, 7]);
    }
}
