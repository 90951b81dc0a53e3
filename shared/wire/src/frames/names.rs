//! Names that have been read lately.

use std::fmt;

use handfast_commit_core::id::ParticipantName;

/// A power of two, for the remainder.
const SLOTS: usize = 64;

/// The names of participants that have been read lately, of which the same few come with every transaction: they
/// are found instead of being made. Bounded: of two names that belong in one slot the later one is remembered.
pub struct Names(Vec<Option<ParticipantName>>);

impl Default for Names {
    fn default() -> Self {
        Self(vec![None; SLOTS])
    }
}

impl Names {
    /// Reads a name; `None` when it is none.
    pub(super) fn read(&mut self, text: &[u8]) -> Option<ParticipantName> {
        let slot = &mut self.0[slot_of(text)];
        if let Some(name) = slot
            && name.as_str().as_bytes() == text
        {
            return Some(name.clone());
        }
        let name: ParticipantName = std::str::from_utf8(text).ok()?.parse().ok()?;
        *slot = Some(name.clone());
        Some(name)
    }
}

fn slot_of(text: &[u8]) -> usize {
    let sum = text
        .iter()
        .fold(text.len(), |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    sum % SLOTS
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().flatten()).finish()
    }
}
