//! What one caller of the benchmark does: a transaction over the first so many participants.
//!
//! Every workload writes values of a hundred bytes under keys of its callers' own, a thousand each, so that
//! nobody waits for anybody's lock, not even for that of its own last transaction, which is applied after
//! its caller has been answered. The one that is about conflicts has eight keys for everybody.
//!
//! The skeleton answers the same requests. It tells reads and refusals by how the work ends: with a get, and
//! with the expectation of the value "never".

use std::sync::Arc;

use clap::ValueEnum;
use handfast_client::key_value::Work;
use handfast_client::{
    Client, CommitOptions, Committed, Error, Protocol, ReplyTime, Request, TransactionOptions,
};

use crate::bench::target::{Answer, Target};

/// What the callers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Workload {
    /// One call for a whole transaction, which puts one value at each participant.
    Commit,
    /// The same, and every tenth transaction is refused by its last participant.
    Aborts,
    /// Nine of ten transactions read one value at each participant, and commit without a decision.
    Reads,
    /// One call for a transaction that puts one of eight values at each participant: callers wait for each
    /// other's locks, and some have to give way.
    Conflicts,
    /// Begin, work at each participant in turn, commit: a call each.
    Interactive,
}

impl Workload {
    /// As on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Aborts => "aborts",
            Self::Reads => "reads",
            Self::Conflicts => "conflicts",
            Self::Interactive => "interactive",
        }
    }

    /// Whether an abort is what was asked for, and as good as a commit.
    pub fn wants_aborts(self) -> bool {
        self == Self::Aborts
    }
}

const VALUE: [u8; 100] = [b'v'; 100];
/// What nobody writes.
const NEVER: &str = "never";
/// As many keys has each caller; in an open loop nobody makes more calls, so that none meets itself.
pub const CALLS_IN_A_ROW: u64 = 1000;
const CONTENDED_KEYS: u64 = 8;
const ABORT_EVERY: u64 = 10;
const WRITE_EVERY: u64 = 10;

/// Transactions against a coordinator.
#[derive(Debug, Clone)]
pub struct Transactions {
    pub client: Client,
    /// The participants of each transaction.
    pub participants: Arc<[String]>,
    pub workload: Workload,
    pub protocol: Protocol,
    pub reply: ReplyTime,
}

impl Transactions {
    fn options(&self) -> TransactionOptions {
        match self.protocol {
            // The default needs no options.
            Protocol::Unspecified | Protocol::TwoPhase => TransactionOptions::new(),
            other => TransactionOptions::new().protocol(other),
        }
    }

    fn work(&self, key: String, at: usize, caller: usize, number: u64) -> Work {
        let work = Work::new();
        // So that callers in step with each other do not all do the rare thing at once.
        let number = number.wrapping_add(caller as u64);
        let is_last = at + 1 == self.participants.len();
        match self.workload {
            Workload::Aborts if is_last && number % ABORT_EVERY == ABORT_EVERY - 1 => {
                work.expect(key, NEVER)
            }
            Workload::Reads if number % WRITE_EVERY != WRITE_EVERY - 1 => work.get(key),
            _ => work.put(key, &VALUE[..]),
        }
    }

    fn key(&self, caller: usize, number: u64) -> String {
        match self.workload {
            Workload::Conflicts => {
                // A multiplier without a common factor: callers meet at all of them, in no fixed order.
                let key = (caller as u64).wrapping_mul(5).wrapping_add(number.wrapping_mul(3));
                format!("contended/{}", key % CONTENDED_KEYS)
            }
            _ => format!("caller/{caller}/{:03}", number % CALLS_IN_A_ROW),
        }
    }

    async fn execute(&self, caller: usize, number: u64) -> Result<Committed, Error> {
        let key = self.key(caller, number);
        let mut request = Request::new().reply_time(self.reply).options(self.options());
        for (at, participant) in self.participants.iter().enumerate() {
            request =
                request.branch(participant.as_str(), self.work(key.clone(), at, caller, number));
        }
        self.client.execute(request).await
    }

    async fn interactive(&self, caller: usize, number: u64) -> Result<Committed, Error> {
        let key = self.key(caller, number);
        let transaction = self.client.begin(self.options()).await?;
        for (at, participant) in self.participants.iter().enumerate() {
            let work = self.work(key.clone(), at, caller, number);
            transaction.key_value(participant.as_str()).apply(work).await?;
        }
        let options = CommitOptions { reply_time: self.reply, ..CommitOptions::default() };
        transaction.commit_with(options).await
    }
}

impl Target for Transactions {
    async fn call(&self, caller: usize, number: u64) -> Answer {
        let done = match self.workload {
            Workload::Interactive => self.interactive(caller, number).await,
            _ => self.execute(caller, number).await,
        };
        match done {
            Ok(_) => Answer::Committed,
            Err(Error::Aborted { message, .. }) => Answer::Aborted(message),
            Err(Error::Overloaded { .. }) => Answer::Refused,
            Err(other) => Answer::Failed(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use handfast_client::v1::key_value_operation::Operation;

    use super::*;

    fn transactions(workload: Workload) -> Transactions {
        Transactions {
            client: Client::connect("http://127.0.0.1:1").expect("an endpoint"),
            participants: ["a", "b"].map(str::to_owned).into(),
            workload,
            protocol: Protocol::TwoPhase,
            reply: ReplyTime::Decided,
        }
    }

    /// Of ten transactions of one caller, those that end in this way at the last participant.
    fn count(workload: Workload, is: impl Fn(&Operation) -> bool) -> usize {
        let transactions = transactions(workload);
        let numbers = 0..10;
        let works = numbers.map(|number| transactions.work("key".into(), 1, 7, number).message());
        let mut last = works.filter_map(|work| work.operations.into_iter().next_back()?.operation);
        last.by_ref().filter(is).count()
    }

    #[tokio::test]
    async fn the_mixes_are_as_they_are_described() {
        let is_put = |operation: &Operation| matches!(operation, Operation::Put(_));
        let is_get = |operation: &Operation| matches!(operation, Operation::Get(_));
        let is_expect = |operation: &Operation| matches!(operation, Operation::Expect(_));
        assert_eq!(count(Workload::Commit, is_put), 10);
        assert_eq!((count(Workload::Reads, is_get), count(Workload::Reads, is_put)), (9, 1));
        assert_eq!((count(Workload::Aborts, is_expect), count(Workload::Aborts, is_put)), (1, 9));
        assert_eq!(count(Workload::Conflicts, is_put), 10);
    }

    #[tokio::test]
    async fn callers_meet_only_where_that_is_the_point() {
        let keys = |workload| {
            let transactions = transactions(workload);
            let keys = (0..40_u64).map(|n| transactions.key(n as usize % 4, n / 4));
            keys.collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!(keys(Workload::Commit), 40);
        // An open loop, with all calls open at once.
        let open = transactions(Workload::Commit);
        let open = (0..5000_u64).map(|n| open.key((n / CALLS_IN_A_ROW) as usize, n));
        assert_eq!(open.collect::<std::collections::BTreeSet<_>>().len(), 5000);
        assert_eq!(keys(Workload::Conflicts), 8);
    }
}
