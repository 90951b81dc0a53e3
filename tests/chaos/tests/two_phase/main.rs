//! Two-phase commit on real processes: each test is one failure, and what an outside observer sees.
//!
//! | number | situation |
//! | --- | --- |
//! | 1, 2, 3 | the coordinator is killed before its decision is durable, just after, after half the COMMITs |
//! | 4 | a bank under random kills of any process |
//! | 5, 6, 7 | a participant is killed before its vote, after it (in doubt, its locks held), after its commit record |
//! | 8 | a participant is stopped past the vote and goes on |
//! | 9 | an inquiry while a vote is outstanding, and while the log is being read |
//! | 12 | a client is cut off before the reply |
//! | 13 | the coordinator restarts with a session open that nobody has asked to prepare |
//! | 16, 17 | a full disk and a failing sync, at the coordinator and at a participant |
//! | 18 | a log that was cut or has changed |
//! | 21 | a wall clock that moves by an hour |
//!
//! Tests without a number are further situations: one-phase commits, every crash point in turn, broken
//! links, broken client streams, other ports, the drain, very many undelivered commits.

mod bank;
mod client_stream;
mod clock;
mod coordinator_killed;
mod crash_points;
mod disk;
mod drain;
mod inquiries;
mod log_damage;
mod network;
mod one_phase;
mod participant_killed;
mod ports;
mod sessions;
mod undelivered;

use std::collections::BTreeMap;

use handfast_chaos::{Oracle, ask};
use handfast_client::key_value::Work;
use handfast_wire::v1;
use tokio::task::JoinHandle;

/// Long enough that no time-out has a part in a test.
const LONG: std::time::Duration = std::time::Duration::from_secs(60);

/// The same work at each of these participants: one put.
fn puts(participants: &[&str], key: &str) -> BTreeMap<String, Work> {
    participants
        .iter()
        .map(|name| ((*name).to_owned(), Work::new().put(key.to_owned(), "x")))
        .collect()
}

/// Begins to execute a request of the oracle's in one attempt, whose answer is awaited later or never.
fn execute_once(
    cluster: &handfast_chaos::Cluster,
    oracle: &Oracle,
    request_id: &str,
    work: BTreeMap<String, Work>,
) -> JoinHandle<Result<v1::Outcome, tonic::Status>> {
    let request = request(oracle, request_id, work, LONG);
    tokio::spawn(ask::execute_once(cluster.coordinator.address(), request))
}

/// A request of the oracle's as a message.
fn request(
    oracle: &Oracle,
    request_id: &str,
    work: BTreeMap<String, Work>,
    timeout: std::time::Duration,
) -> v1::ExecuteTransactionRequest {
    let marked = Oracle::marked(request_id, &work);
    oracle.expect(request_id, work);
    ask::execute_request(request_id, marked, Some(timeout))
}

/// The same request once more, as a client would send it that has lost the answer.
fn again(request_id: &str, work: &BTreeMap<String, Work>) -> v1::ExecuteTransactionRequest {
    ask::execute_request(request_id, Oracle::marked(request_id, work), Some(LONG))
}
