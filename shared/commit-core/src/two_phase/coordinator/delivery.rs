//! What one participant is owed: decisions that it has to acknowledge, a window at a time. Those are commits, and the
//! aborts of three-phase commit.
//!
//! A participant that comes back after a night may be owed a hundred thousand of them. They are not
//! poured into its queue: a window's worth is on the way, each acknowledgement lets the next one go,
//! and transactions that do not concern it notice nothing.

use std::collections::BTreeSet;

use crate::id::{Incarnation, TransactionId};
use crate::marks::{Mark, mark};
use crate::step::Time;

/// How many refused commits are tried again in one round.
const REFUSED_AGAIN: usize = 16;

/// Most aborts that a participant is told of when it is back. Beyond them its branches end by themselves,
/// at their timeouts.
const MISSED_ABORTS_MAX: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Link {
    pub(crate) connected: bool,
    /// Has been connected since this process began, and has said which one-phase commits it keeps.
    pub(crate) heard: bool,
    /// Of its log, when it has had a session.
    pub(crate) incarnation: Option<Incarnation>,
    /// Undecided transactions that wait for this participant's vote, or for what it says as a voting site.
    pub(crate) voting: BTreeSet<TransactionId>,
    /// Decisions to be sent, oldest first.
    waiting: BTreeSet<TransactionId>,
    /// Decisions that were sent and are not acknowledged.
    on_the_way: BTreeSet<TransactionId>,
    /// Decided commits that it refuses. They take no place in the window.
    refused: BTreeSet<TransactionId>,
    /// Those of `on_the_way` that were refused before.
    tried_again: BTreeSet<TransactionId>,
    /// Aborted while it could not be told. It may hold locks for them until their timeouts: a session of
    /// work that it joined, unlike a vote, is nothing that it asks about.
    missed_aborts: BTreeSet<TransactionId>,
    /// When those on the way are sent again, and how often that has happened without any answer.
    pub(crate) redeliver_at: Option<Time>,
    pub(crate) silent_rounds: u32,
}

impl Link {
    pub(crate) fn undelivered(&self) -> usize {
        self.waiting.len() + self.on_the_way.len() + self.refused.len()
    }

    /// Is owed this decision from now on.
    pub(crate) fn wait(&mut self, id: TransactionId) {
        self.waiting.insert(id);
    }

    /// Moves as much as the window allows from waiting to on-the-way, and returns it.
    pub(crate) fn send_more(&mut self, window: usize) -> Vec<TransactionId> {
        let mut sent = Vec::new();
        while self.connected && self.on_the_way.len() < window {
            let Some(id) = self.waiting.pop_first() else {
                break;
            };
            self.on_the_way.insert(id);
            sent.push(id);
        }
        if self.connected && !self.waiting.is_empty() {
            mark(Mark::WindowFull);
        }
        sent
    }

    /// A round of repetition: what is on its way, and a few of those that were refused.
    pub(crate) fn again(&mut self) -> Vec<TransactionId> {
        for _ in 0..REFUSED_AGAIN {
            let Some(id) = self.refused.pop_first() else {
                break;
            };
            self.on_the_way.insert(id);
            self.tried_again.insert(id);
        }
        self.on_the_way.iter().copied().collect()
    }

    /// It will not have this one now.
    pub(crate) fn refused(&mut self, id: TransactionId) {
        self.tried_again.remove(&id);
        if self.on_the_way.remove(&id) {
            self.refused.insert(id);
        }
    }

    /// Nothing is left to be repeated.
    pub(crate) fn is_quiet(&self) -> bool {
        self.on_the_way.is_empty() && self.refused.is_empty()
    }

    /// Returns false when it was not owed.
    pub(crate) fn acknowledged(&mut self, id: TransactionId) -> bool {
        self.silent_rounds = 0;
        if self.tried_again.remove(&id) {
            // It has thought better of it, so the others are no hopeless cases either.
            self.waiting.append(&mut self.refused);
        }
        self.on_the_way.remove(&id) || self.waiting.remove(&id) || self.refused.remove(&id)
    }

    /// Is to be told of this abort when it is back. Kept in memory only: nothing depends on it but how
    /// soon locks are free.
    pub(crate) fn miss_abort(&mut self, id: TransactionId) {
        if self.missed_aborts.len() < MISSED_ABORTS_MAX {
            self.missed_aborts.insert(id);
        }
    }

    /// The aborts that it has missed, to be told now.
    pub(crate) fn take_missed_aborts(&mut self) -> BTreeSet<TransactionId> {
        std::mem::take(&mut self.missed_aborts)
    }

    pub(crate) fn connected(&mut self) {
        self.disconnected();
        self.connected = true;
        self.heard = true;
    }

    /// What was on its way may be lost: it is sent again after the next connect.
    pub(crate) fn disconnected(&mut self) {
        self.connected = false;
        self.waiting.append(&mut self.on_the_way);
        self.waiting.append(&mut self.refused);
        self.tried_again.clear();
        self.redeliver_at = None;
        self.silent_rounds = 0;
    }
}
