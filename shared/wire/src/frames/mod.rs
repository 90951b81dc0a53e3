//! Frames of the streams that carry every transaction, as their bytes.
//!
//! A generated message has a string of its own for each id and each name, and is read into the core's types
//! after that. In a frame there are hundreds of them. So what every transaction says in a session or on a stream
//! of calls is read from the bytes into the core's types, and written from those to bytes, without a generated
//! message in between.
//!
//! The laws:
//! - Only the usual form is read here: each field once, in the order of their numbers, with a value that is
//!   accepted. Whatever is different is left to the generated types and to [`convert`](crate::convert), with
//!   what they say to it. So what is accepted, what it means, and why something is refused is said in one place.
//! - What is written is, byte for byte, what the generated types would have written.
//!
//! `tests/fuzz` compares the two, and so do the tests here.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use prost::{DecodeError, Message};
use tonic::Status;

use crate::v1;

mod calls;
mod codec;
mod names;
mod reader;
mod session;
#[cfg(test)]
mod tests;
mod writer;

/// The services whose streams have frames as their bytes. All other messages are those of [`v1`].
#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
mod services {
    include!(concat!(env!("OUT_DIR"), "/frames/handfast.v1.rs"));
}

pub use calls::{Call, CallRequest, ExecuteCall, StreamTransactionsResponseWriter};
pub use codec::{Carried, Codec};
pub use names::Names;
pub use services::*;
pub use session::{
    CoordinatorMessages, Order, ParticipantMessages, SessionRequestWriter, SessionResponseWriter,
};

/// A frame of a coordinator in a session.
pub type SessionRequest = Frame<v1::SessionRequest>;
/// A frame of a participant in a session.
pub type SessionResponse = Frame<v1::SessionResponse>;
/// A frame of calls.
pub type StreamTransactionsRequest = Frame<v1::StreamTransactionsRequest>;
/// A frame of answers.
pub type StreamTransactionsResponse = Frame<v1::StreamTransactionsResponse>;

/// The bytes of a message, which may not be one.
pub struct Frame<M> {
    bytes: Bytes,
    message: PhantomData<fn() -> M>,
}

impl<M> Frame<M> {
    /// Of bytes that are read later, or have been written.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes, message: PhantomData }
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl<M: Message + Default> Frame<M> {
    /// Writes a message.
    #[must_use]
    pub fn of(message: &M) -> Self {
        Self::new(message.encode_to_vec().into())
    }

    /// Reads it as any message is read.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(&self) -> Result<M, DecodeError> {
        M::decode(self.bytes.clone())
    }
}

impl<M> Clone for Frame<M> {
    fn clone(&self) -> Self {
        Self::new(self.bytes.clone())
    }
}

impl<M> fmt::Debug for Frame<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Frame").field(&self.bytes.len()).finish()
    }
}

/// Reads a frame as if it had this one of its fields only.
fn alone<M: Message + Default>(frame: &Bytes, field: &[u8]) -> Result<M, DecodeError> {
    let read = M::decode(frame.slice_ref(field));
    // What is wrong is said of the whole: where a field is too long, it depends on what comes behind.
    read.map_err(|error| M::decode(frame.clone()).err().unwrap_or(error))
}

/// What is said to a frame that cannot be read: what is said to any such message.
#[must_use]
pub fn unreadable(error: &DecodeError) -> Status {
    Status::internal(error.to_string())
}
