//! One form for coordinators that differ in nothing but how long they wait, for model checking.

use super::Coordinator;
use super::transaction::Phase;
use crate::step::{Position, Time};

impl<W: Ord> Coordinator<W> {
    /// The moment at which everything that is to be repeated is due, once [`canonical`](Self::canonical)
    /// has been called.
    pub const REPEAT_AT: Time = Time(1);
    /// The moment at which every deadline and every caller's patience has passed.
    pub const LATE_AT: Time = Time(2);

    /// Forgets how often things were tried, the state of the jitter and the exact moments: a repetition
    /// is due at [`REPEAT_AT`](Self::REPEAT_AT), and a deadline at [`LATE_AT`](Self::LATE_AT). The machine
    /// goes on as before but for how long it waits, so that a model checker, which tries every length,
    /// sees one state where there would be one for every number of attempts. Positions are counted from
    /// `durable`, how far the log has come, from now on. `once` says that whoever waits under the same name
    /// more than once is one waiter.
    pub fn canonical(&mut self, durable: Position, once: bool) {
        self.jitter = self.config.jitter_seed;
        self.out.rebase(durable);
        for witnessed in self.witnessed.values_mut() {
            witnessed.at = witnessed.at.since(durable);
        }
        for ending in self.ending.values_mut() {
            ending.at = ending.at.since(durable);
        }
        for link in self.links.values_mut() {
            link.silent_rounds = 0;
            link.redeliver_at = link.redeliver_at.map(|_| Self::REPEAT_AT);
        }
        for transaction in self.transactions.values_mut() {
            transaction.attempts = 0;
            transaction.decided_at = transaction.decided_at.since(durable);
            for waiter in &mut transaction.waiters {
                waiter.until = Self::LATE_AT;
            }
            if once {
                transaction.waiters.sort_by(|a, b| a.to.cmp(&b.to));
                transaction.waiters.dedup_by(|a, b| a.to == b.to);
            }
            (transaction.deadline, transaction.resend_at) = match &mut transaction.phase {
                Phase::Active { .. } => (Self::LATE_AT, Time(u64::MAX)),
                Phase::Preparing { .. } => (Self::LATE_AT, Self::REPEAT_AT),
                Phase::Delegated { asked, .. } => {
                    // "Once" and "more often" is all that is ever asked of it.
                    *asked = (*asked).min(2);
                    (Self::LATE_AT, Self::REPEAT_AT)
                }
                Phase::Committing { .. } => (Time(0), Time(u64::MAX)),
                Phase::Voted(voted) => {
                    voted.seat.at = voted.seat.at.since(durable);
                    (Time(0), Self::REPEAT_AT)
                }
                Phase::Delivering(_) => (Time(0), Self::REPEAT_AT),
            };
            transaction.armed = transaction.armed.and(transaction.due());
        }
    }
}
