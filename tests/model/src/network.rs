//! What is said, and what becomes of it on the way.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use handfast_commit_core::id::{Incarnation, TransactionId};
use handfast_commit_core::message::{FromParticipant, FromSite, Inquired, ToParticipant, ToSite};
use handfast_commit_core::two_phase::coordinator::OnePhaseReport;
use handfast_commit_core::two_phase::participant::Origin;

/// Whom a message comes from or goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// The coordinator.
    C,
    /// A participant, by its number from 0.
    P(usize),
    /// A witness, by its number from 0.
    W(usize),
}

/// A message on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Envelope {
    /// Who says it.
    pub from: Who,
    /// To whom.
    pub to: Who,
    /// What.
    pub body: Body,
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Body {
    /// A session begins.
    Hello(Origin),
    /// The answer to that: the one-phase commits that have not been forgotten.
    Welcome(Vec<OnePhaseReport>),
    /// A coordinator's message.
    Command(Origin, ToParticipant),
    /// A participant's message.
    Answer(FromParticipant),
    /// A branch in doubt asks its coordinator.
    Inquiry(TransactionId, Incarnation),
    /// The answer to that.
    InquiryAnswered(TransactionId, Inquired),
    /// A branch in doubt asks a peer.
    PeerInquiry(TransactionId),
    /// The answer to that.
    PeerAnswered(TransactionId, Inquired),
    /// Of whoever leads a three-phase transaction.
    Order(ToSite),
    /// The answer to that.
    Report(FromSite),
}

/// A hash that is the same in every run.
pub fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Messages in no order, by their hashes, and how many there are of each.
#[derive(Debug, Clone, Default)]
pub struct Bag {
    messages: BTreeMap<u64, Message>,
}

#[derive(Debug, Clone)]
struct Message {
    envelope: Arc<Envelope>,
    count: u8,
    /// The receiver, by its hash, for which it is known whether it would change anything there.
    tried: u64,
    changes: bool,
}

impl Hash for Bag {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for (hash, message) in &self.messages {
            (hash, message.count).hash(state);
        }
    }
}

impl Bag {
    /// True when nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The different messages that there are.
    pub fn keys(&self) -> impl Iterator<Item = u64> + '_ {
        self.messages.keys().copied()
    }

    /// One of them.
    pub fn get(&self, key: u64) -> Option<&Arc<Envelope>> {
        self.messages.get(&key).map(|message| &message.envelope)
    }

    /// Those that would change their receivers, as far as that has been tried.
    pub fn effective(&self) -> impl Iterator<Item = u64> + '_ {
        self.messages.iter().filter(|(_, message)| message.changes).map(|(key, _)| *key)
    }

    /// One that has not been tried with its receiver as it is now; `hash` gives the receiver's hash.
    pub fn untried(&self, hash: impl Fn(Who) -> u64) -> Option<(u64, Arc<Envelope>)> {
        self.messages
            .iter()
            .find(|(_, message)| message.tried != hash(message.envelope.to))
            .map(|(key, message)| (*key, Arc::clone(&message.envelope)))
    }

    /// Remembers whether a message would change its receiver.
    pub fn tried(&mut self, key: u64, receiver: u64, changes: bool) {
        if let Some(message) = self.messages.get_mut(&key) {
            (message.tried, message.changes) = (receiver, changes);
        }
    }

    /// Whether there is one of these.
    pub fn any(&self, is_it: impl Fn(&Envelope) -> bool) -> bool {
        self.messages.values().any(|message| is_it(&message.envelope))
    }

    /// Drops what can have no effect any more.
    pub fn retain(&mut self, keep: impl Fn(&Envelope) -> bool) {
        self.messages.retain(|_, message| keep(&message.envelope));
    }

    /// Adds a message. `ever`: it can be delivered for ever, so that a second one adds nothing.
    pub fn add(&mut self, envelope: Envelope, ever: bool) {
        let message = self.messages.entry(hash_of(&envelope)).or_insert_with(|| Message {
            envelope: Arc::new(envelope),
            count: 0,
            tried: 0,
            changes: false,
        });
        message.count = if ever { 1 } else { message.count.saturating_add(1) };
    }

    /// Takes one message out.
    pub fn take(&mut self, key: u64) -> Option<Arc<Envelope>> {
        let message = self.messages.get_mut(&key)?;
        let envelope = Arc::clone(&message.envelope);
        message.count -= 1;
        if message.count == 0 {
            self.messages.remove(&key);
        }
        Some(envelope)
    }

    /// Puts a second one beside a message.
    pub fn repeat(&mut self, key: u64) {
        if let Some(message) = self.messages.get_mut(&key) {
            message.count = message.count.saturating_add(1);
        }
    }
}

/// The link between the coordinator and one participant: what travels in a session arrives in order, or
/// not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Link {
    /// There is a session.
    pub up: bool,
    /// The coordinator believes that there is.
    pub known: bool,
    /// To the participant, oldest first.
    pub down_queue: Vec<Arc<Envelope>>,
    /// To the coordinator, oldest first.
    pub up_queue: Vec<Arc<Envelope>>,
}

impl Link {
    /// The session is over, and what travelled in it is lost.
    pub fn cut(&mut self) {
        self.up = false;
        self.down_queue.clear();
        self.up_queue.clear();
    }

    /// Nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.down_queue.is_empty() && self.up_queue.is_empty()
    }
}
