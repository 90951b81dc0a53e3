//! A client of the bank: one transfer after the other, and a ledger of those that it was told committed.
//!
//! The law: a transfer is recorded when, and only when, the client was told that it committed. One whose
//! outcome the client was not told is kept, with its request_id, until it is known.

use std::sync::Arc;
use std::time::Duration;

use handfast_client::{
    AbortCause, Client, ClientMode, ClientOptions, CommitOptions, Committed, Error, Request,
    RequestId, RetryOptions, TransactionId, TransactionOptions,
};
use tokio::time::Instant;

use crate::demo::bank::{Ledger, Manner, STORES, Transfer};
use crate::demo::random::Random;
use crate::demo::tally::{AbortKind, Tally};
use crate::options::DemoProtocol;

/// How long a transfer may stay undecided.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client waits for an answer: longer, so that it hears of an abort by timeout.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long an impatient client waits: less than a killed coordinator is away, so that some transfers
/// commit without their clients being told.
const IMPATIENT_DEADLINE: Duration = Duration::from_millis(150);
/// How many of a hundred transfers are sent by impatient clients.
const IMPATIENT_PERCENT: u64 = 10;
/// How much of an error is told to the coordinator as the reason of an abort.
const REASON_CHARS: usize = 200;
/// How long a client asks what became of a transfer, once everything is up again.
const RESOLVE_WITHIN: Duration = Duration::from_secs(30);

/// How the demo's clients behave: they ask again soon, because what is killed comes back soon.
pub fn client_options(mode: ClientMode) -> ClientOptions {
    ClientOptions {
        mode,
        deadline: DEADLINE,
        connect_timeout: Duration::from_secs(1),
        retry: RetryOptions {
            pause_min: Duration::from_millis(10),
            pause_max: Duration::from_millis(200),
        },
    }
}

/// A transfer whose client was not told what became of it.
#[derive(Debug)]
struct Untold {
    transfer: Transfer,
    request_id: RequestId,
    /// Set for an interactive transfer, whose work cannot be sent again.
    begun: Option<TransactionId>,
}

/// One client, and what it knows.
#[derive(Debug)]
pub struct Teller {
    number: usize,
    client: Client,
    accounts: u32,
    protocol: DemoProtocol,
    random: Random,
    sent: u64,
    tally: Arc<Tally>,
    untold: Vec<Untold>,
    ledger: Ledger,
}

impl Teller {
    /// A client that has done nothing.
    pub fn new(
        number: usize,
        client: Client,
        (accounts, protocol): (u32, DemoProtocol),
        random: Random,
        tally: Arc<Tally>,
    ) -> Self {
        let (untold, ledger) = (Vec::new(), Ledger::default());
        Self { number, client, accounts, protocol, random, sent: 0, tally, untold, ledger }
    }

    /// The transfers that it was told committed.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The requests whose outcome it does not know.
    pub fn untold(&self) -> impl Iterator<Item = &RequestId> {
        self.untold.iter().map(|untold| &untold.request_id)
    }

    /// Moves money until the end. The last transfer is waited for.
    pub async fn work_until(mut self, end: Instant) -> Self {
        while Instant::now() < end {
            let transfer = Transfer::draw(&mut self.random, self.accounts, self.protocol);
            let deadline = match self.random.percent(IMPATIENT_PERCENT) {
                true => IMPATIENT_DEADLINE,
                false => DEADLINE,
            };
            let request_id = format!("client-{}-transfer-{}", self.number, self.sent);
            self.sent += 1;
            match request_id.parse() {
                Ok(request_id) => match transfer.manner {
                    Manner::Execute => self.execute(transfer, request_id, deadline).await,
                    Manner::Interactive => self.interact(transfer, request_id, deadline).await,
                },
                // A short name of letters and digits is always accepted.
                Err(_) => return self,
            }
        }
        self
    }

    /// Asks what became of each transfer that it was not told of.
    pub async fn resolve(mut self) -> Self {
        for untold in std::mem::take(&mut self.untold) {
            let answer = match untold.begun {
                Some(id) => {
                    let resolved = self.client.resolve(id, RESOLVE_WITHIN).await;
                    resolved.and_then(|found| found.into_committed().map(drop))
                }
                None => {
                    let request = self.request(&untold.transfer, &untold.request_id);
                    self.client.execute(request.deadline(RESOLVE_WITHIN)).await.map(drop)
                }
            };
            match answer {
                Ok(()) => {
                    self.tally.resolved(true);
                    self.ledger.record(self.number, &untold.transfer);
                }
                Err(Error::Aborted { cause, message, .. }) => {
                    self.tally.resolved(false);
                    self.tally.aborted(AbortKind::of(cause, &message), &message);
                }
                Err(error) => {
                    self.tally.surprise("an outcome could not be learned", &error);
                    self.untold.push(untold);
                }
            }
        }
        self
    }

    fn request(&self, transfer: &Transfer, request_id: &RequestId) -> Request {
        let branches = transfer.branches(self.number).into_iter();
        branches
            .fold(Request::new(), |request, (store, work)| request.branch(STORES[store], work))
            .request_id(request_id.clone())
            .protocol(transfer.protocol)
            .timeout(TRANSACTION_TIMEOUT)
    }

    async fn execute(&mut self, transfer: Transfer, request_id: RequestId, deadline: Duration) {
        let began = Instant::now();
        let request = self.request(&transfer, &request_id).deadline(deadline);
        let answer = self.client.execute(request).await;
        self.settle(answer, began, Untold { transfer, request_id, begun: None });
    }

    async fn interact(&mut self, transfer: Transfer, request_id: RequestId, deadline: Duration) {
        let began = Instant::now();
        let options = TransactionOptions::new();
        let options = options.protocol(transfer.protocol).timeout(TRANSACTION_TIMEOUT);
        let transaction = match self.client.begin(options).await {
            Ok(transaction) => transaction,
            Err(error) => return self.not_asked_for(&error),
        };
        for (store, work) in transfer.branches(self.number) {
            if let Err(error) = transaction.key_value(STORES[store]).apply(work).await {
                self.not_asked_for(&error);
                // Commit was never asked for, so nothing but an abort can be the end of it.
                let reason: String = error.to_string().chars().take(REASON_CHARS).collect();
                if let Err(error @ Error::WrongState { .. }) = transaction.abort(reason).await {
                    self.tally.surprise("an abort without a commit was refused", &error);
                }
                return;
            }
        }
        let begun = Some(transaction.id());
        let options = CommitOptions {
            request_id: Some(request_id.clone()),
            deadline: Some(deadline),
            ..CommitOptions::default()
        };
        let answer = transaction.commit_with(options).await;
        self.settle(answer, began, Untold { transfer, request_id, begun });
    }

    /// A transfer has been answered, or not.
    fn settle(&mut self, answer: Result<Committed, Error>, began: Instant, asked: Untold) {
        match answer {
            Ok(committed) => {
                let (id, repeated) = (committed.transaction_id, committed.repeated_request);
                self.tally.committed(began.elapsed(), id, repeated);
                self.ledger.record(self.number, &asked.transfer);
            }
            Err(Error::Aborted { cause, message, .. }) => {
                self.tally.aborted(AbortKind::of(cause, &message), &message);
            }
            Err(error @ Error::OutcomeUnknown { .. }) => {
                self.tally.unknown(&error);
                self.untold.push(asked);
            }
            Err(error) if error.nothing_was_done() => {
                self.tally.aborted(AbortKind::NothingDone, &error.to_string());
            }
            Err(error) => {
                self.tally.surprise("a transfer was answered with what it cannot be", &error);
                self.tally.unknown(&error);
                self.untold.push(asked);
            }
        }
    }

    /// An open transaction failed before its commit was asked for.
    fn not_asked_for(&self, error: &Error) {
        let message = error.to_string();
        let kind = match error {
            Error::Aborted { cause: AbortCause::Unspecified, message, .. } => {
                match AbortKind::of(AbortCause::Unspecified, message) {
                    AbortKind::Other => AbortKind::Interrupted,
                    kind => kind,
                }
            }
            Error::Aborted { cause, message, .. } => AbortKind::of(*cause, message),
            Error::WorkUnknown { .. } | Error::NotFound { .. } | Error::WrongState { .. } => {
                AbortKind::Interrupted
            }
            error if error.nothing_was_done() => AbortKind::NothingDone,
            error => {
                self.tally.surprise("open work was answered with what it cannot be", error);
                AbortKind::Other
            }
        };
        self.tally.aborted(kind, &message);
    }
}
