//! The client library of Handfast: one change across several systems, in all of them or in none.
//!
//! ```no_run
//! use handfast_client::{Client, Error, Request, key_value::Work};
//!
//! # async fn run() -> Result<(), Error> {
//! let client = Client::connect("http://127.0.0.1:7420")?;
//! let request = Request::new()
//!     .branch("accounts", Work::new().add_with_floor("alice", -5, 0))
//!     .branch("orders", Work::new().put("order-1", "shipped"));
//! match client.execute(request).await {
//!     Ok(committed) => println!("committed {}", committed.transaction_id),
//!     Err(Error::Aborted { message, .. }) => println!("aborted, everywhere: {message}"),
//!     // Its own answer. Executing again with the same request_id is safe.
//!     Err(Error::OutcomeUnknown { request_id, .. }) => println!("ask again for {request_id:?}"),
//!     Err(other) => return Err(other),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The laws it keeps:
//! - A retry carries the `request_id` of the first attempt, so the work is never done twice.
//! - What may have been decided and was not answered is [`Error::OutcomeUnknown`], never "aborted".
//! - Work inside an open transaction ([`KeyValueSession::apply`]) is repeated only when the first
//!   attempt is known to have done nothing.
//!
//! [`Client`] is cheap to clone; all clones share one connection, which carries any number of calls, and on
//! it one stream for those that are made often ([`ClientMode`]).
//! Everything here runs inside a tokio runtime.
//!
//! Absent on purpose: limits (the coordinator checks them, and its configuration may differ from ours)
//! and TLS.

mod calls;
mod client;
mod error;
mod inspect;
pub mod key_value;
mod line;
mod options;
mod participants;
mod request;
mod retry;
mod status;
mod transaction;

pub use bytes::Bytes;
pub use client::Client;
pub use error::{Cause, Error};
pub use handfast_commit_core::id::{RequestId, TransactionId};
pub use handfast_wire::v1;
pub use handfast_wire::v1::{
    AbortCause, BranchState, Protocol, RegisteredParticipant, ReplyTime, TransactionState,
};
pub use inspect::{Event, ListFilter, Page, Resolution, TransactionKey, TransactionStatus, Watch};
pub use options::{ClientMode, ClientOptions, RetryOptions, TransactionOptions};
pub use participants::KeyValueSession;
pub use request::{BranchResult, Committed, Request};
pub use transaction::{Aborted, CommitOptions, Session, Transaction};
