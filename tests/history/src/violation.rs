//! What is wrong with a history: which anomaly, between which transactions, told as a story.

use std::fmt;

use crate::history::Ticket;

/// What no strictly serializable store shows. Named as by Adya (1999) and Elle where they have a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Anomaly {
    /// The history breaks a rule of its recording (a value was written twice); nothing was checked.
    Misrecorded,
    /// A client was told two outcomes of one transaction.
    Contradiction,
    /// A value was read that nobody wrote.
    Phantom,
    /// A transaction did not see its own write, or saw two values of a key without writing it.
    Internal,
    /// G1a: a value was read that an aborted transaction wrote.
    AbortedRead,
    /// G1b: a value was read that its own transaction had overwritten.
    IntermediateRead,
    /// Two transactions read the same version of a key and both overwrote it.
    LostUpdate,
    /// At the end a key does not hold what was written last: a committed write is gone.
    LostWrite,
    /// G0: two transactions overwrote each other's writes.
    DirtyWrite,
    /// G1c: transactions saw each other's effects, in a circle.
    CircularInformation,
    /// G-single: one transaction saw a part of another's effects, or the state before what it had seen.
    ReadSkew,
    /// G2: transactions overwrote what others had read, in a circle (write skew).
    WriteSkew,
    /// Serializable, but not in the order in which things happened: something was missed that had been
    /// answered before.
    RealTime,
}

impl Anomaly {
    /// In a few words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Misrecorded => "the history was not recorded as it has to be",
            Self::Contradiction => "two outcomes of one transaction",
            Self::Phantom => "a value that nobody wrote",
            Self::Internal => "a transaction that contradicts itself",
            Self::AbortedRead => "aborted read (G1a)",
            Self::IntermediateRead => "intermediate read (G1b)",
            Self::LostUpdate => "lost update",
            Self::LostWrite => "lost write",
            Self::DirtyWrite => "dirty write (G0)",
            Self::CircularInformation => "circular information flow (G1c)",
            Self::ReadSkew => "read skew (G-single)",
            Self::WriteSkew => "write skew (G2)",
            Self::RealTime => "real time violated",
        }
    }
}

/// A reason why no serial order explains a history.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which one.
    pub anomaly: Anomaly,
    /// The transactions concerned; of a cycle in its order.
    pub transactions: Vec<Ticket>,
    /// What each of them did and how they depend on each other.
    pub story: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.anomaly.words(), self.story)
    }
}

impl std::error::Error for Violation {}
