//! Inputs that are lists of events: a byte that says what, two with the length of the rest, and the rest.

/// Most events of one input.
const EVENTS_MAX: usize = 200;

/// Reads and writes such an input.
#[derive(Debug, Default)]
pub(crate) struct Events {
    input: Vec<u8>,
}

impl Events {
    /// The events of an input. The last one may have been cut short.
    pub(crate) fn of(mut input: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
        std::iter::from_fn(move || {
            let (&[what, low, high], rest) = input.split_first_chunk()?;
            let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
            let (message, rest) = rest.split_at(length);
            input = rest;
            Some((what, message))
        })
        .take(EVENTS_MAX)
    }

    /// Adds an event, unless its message is too long to be one.
    pub(crate) fn push(&mut self, what: u8, message: &[u8]) {
        let Ok(length) = u16::try_from(message.len()) else { return };
        self.input.push(what);
        self.input.extend(length.to_le_bytes());
        self.input.extend_from_slice(message);
    }

    /// The input.
    pub(crate) fn into_input(self) -> Vec<u8> {
        self.input
    }
}
