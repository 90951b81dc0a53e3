//! The skeleton's participant: forces a record for each vote and for each commit, and holds no data.
//!
//! How it votes is read off the end of the work, so that one client drives the product and the skeleton
//! with the same requests: [`Kind`].

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use handfast_wire::v1;
use handfast_wire::v1::coordinator_message::Message;
use handfast_wire::v1::participant_message::Message as Answer;

use crate::coordinator::INCARNATION;
use crate::log::{Entry, Log, Rocks};
use crate::outbox::Outbox;

/// A get at the end of work: field 2 of an operation, empty.
const GET: &[u8] = &[0x12, 0];
/// What the benchmark expects to find when it wants a no.
const NEVER: &[u8] = b"never";
/// About what the product keeps of a prepared branch besides its work.
const PREPARED: [u8; 64] = [b'p'; 64];
const COMMITTED: [u8; 16] = [b'c'; 16];
/// A value of the size that the benchmark writes, as a result.
const RESULT: [u8; 104] = [b'r'; 104];

/// Where answers go: the coordinator's session.
type Session = Arc<Outbox<v1::ParticipantMessage>>;

/// A participant.
#[derive(Debug)]
pub struct Participant {
    pub name: String,
    log: Log<Done>,
}

/// A record is durable: what may be said then, and to whom.
#[derive(Debug)]
struct Done {
    session: Session,
    message: v1::ParticipantMessage,
}

/// What a branch is voted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Write,
    /// The work ends with a get.
    Read,
    /// The work ends with the expectation of a value that nobody writes.
    Refuse,
}

fn kind(work: &[u8]) -> Kind {
    if work.ends_with(GET) {
        Kind::Read
    } else if work.ends_with(NEVER) {
        Kind::Refuse
    } else {
        Kind::Write
    }
}

impl Participant {
    /// With its log in `folder`.
    ///
    /// # Errors
    /// When the log cannot be opened.
    pub fn open(name: String, folder: &Path) -> anyhow::Result<Self> {
        let log = Log::start(Rocks::open(folder)?, |done: Vec<Done>| {
            // One coordinator, one session: all of it goes to the same place, which is woken once.
            let Some(session) = done.first().map(|first| Arc::clone(&first.session)) else {
                return;
            };
            session.push_all(done.into_iter().map(|done| done.message).collect());
        })?;
        Ok(Self { name, log })
    }

    /// What a frame of the coordinator asks for.
    pub fn heard(&self, session: &Session, messages: Vec<v1::CoordinatorMessage>) {
        let mut entries = Vec::with_capacity(messages.len());
        let mut at_once = Vec::new();
        for message in messages {
            match message.message {
                Some(Message::Prepare(prepare)) => match kind(&prepare.payload) {
                    Kind::Write => {
                        let vote = match prepare.one_phase {
                            true => v1::Vote::Committed,
                            false => v1::Vote::Prepared,
                        };
                        let key = key(b'p', &prepare.transaction_id);
                        let value = [&prepare.payload[..], &PREPARED].concat().into();
                        let message = voted(prepare.transaction_id, vote);
                        let session = Arc::clone(session);
                        entries.push(Entry { key, value, then: Done { session, message } });
                    }
                    Kind::Read => at_once.push(voted(prepare.transaction_id, v1::Vote::ReadOnly)),
                    Kind::Refuse => at_once.push(voted(prepare.transaction_id, v1::Vote::No)),
                },
                Some(Message::Commit(commit)) => {
                    let key = key(b'c', &commit.transaction_id);
                    let value = Bytes::from_static(&COMMITTED);
                    let done = Answer::Committed(v1::CommitResponse {});
                    let message = answer(commit.transaction_id, done);
                    let session = Arc::clone(session);
                    entries.push(Entry { key, value, then: Done { session, message } });
                }
                Some(Message::Abort(abort)) => {
                    let done = Answer::Aborted(v1::AbortResponse {});
                    at_once.push(answer(abort.transaction_id, done));
                }
                _ => {}
            }
        }
        self.log.submit(entries);
        session.push_all(at_once);
    }
}

fn key(kind: u8, id: &str) -> [u8; 9] {
    let number = id.rsplit('-').next().and_then(|last| u64::from_str_radix(last, 16).ok());
    let mut key = [kind; 9];
    key[1..].copy_from_slice(&number.unwrap_or_default().to_be_bytes());
    key
}

fn answer(transaction_id: String, message: Answer) -> v1::ParticipantMessage {
    v1::ParticipantMessage { transaction_id, message: Some(message) }
}

fn voted(id: String, vote: v1::Vote) -> v1::ParticipantMessage {
    let refused = vote == v1::Vote::No;
    let vote = v1::PrepareResponse {
        vote: vote.into(),
        reason: if refused { "the skeleton was told to".to_owned() } else { String::new() },
        result: if refused { Bytes::new() } else { Bytes::from_static(&RESULT) },
        participant_incarnation: INCARNATION,
        committed_transaction_id: String::new(),
    };
    answer(id, Answer::Vote(vote))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use v1::key_value_operation::Operation;

    use super::*;

    fn work(operation: Operation) -> Vec<u8> {
        let operation = v1::KeyValueOperation { key: "key".into(), operation: Some(operation) };
        v1::KeyValueWork { operations: vec![operation] }.encode_to_vec()
    }

    #[test]
    fn the_vote_is_read_off_the_end_of_the_work() {
        let put = Operation::Put(v1::KeyValuePut { value: "value".into() });
        assert_eq!(kind(&work(put)), Kind::Write);
        assert_eq!(kind(&work(Operation::Get(v1::KeyValueGet {}))), Kind::Read);
        let never = v1::KeyValueExpect { value: Some(Bytes::from_static(NEVER)) };
        assert_eq!(kind(&work(Operation::Expect(never))), Kind::Refuse);
        assert_eq!(kind(&[]), Kind::Write, "work that was done before");
    }
}
