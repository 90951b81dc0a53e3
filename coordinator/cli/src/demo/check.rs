//! After the chaos: wait until nothing is in doubt, look at all the money, and say what does not hold.
//!
//! The law: what the stores hold is compared with what the clients were told, account by account and
//! counter by counter; the total alone would not notice a transfer that was done twice.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use handfast_client::key_value::{Results, Work};
use handfast_client::{Bytes, Client, ListFilter, Request, TransactionState, v1};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Endpoint;
use v1::participant_service_client::ParticipantServiceClient;

use crate::demo::bank::{Account, Ledger, OPENING_BALANCE, STORES, counter_key};

/// Operations in one branch; far below what a branch may carry.
const BATCH: usize = 500;
/// How long what is in doubt may take to end once everything is up.
const SETTLE_WITHIN: Duration = Duration::from_secs(30);
/// How long one question to a participant may take.
const ASK_WITHIN: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);
/// How long a batch may be tried for. Locks of dead clients are held until their transactions time out.
const BATCH_WITHIN: Duration = Duration::from_secs(30);
/// Most differences of one kind that are told.
const TOLD_MAX: usize = 5;

/// What is undecided or not yet applied, by transaction id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InDoubt {
    /// Transactions of which a participant holds a branch whose end it does not know.
    pub branches: BTreeSet<String>,
    /// Transactions that the coordinator has yet to decide or to deliver.
    pub transactions: BTreeSet<String>,
}

impl InDoubt {
    /// How many transactions.
    pub fn count(&self) -> usize {
        self.branches.union(&self.transactions).count()
    }
}

/// The branches that one participant has in doubt.
///
/// # Errors
/// When it does not answer; that is not an empty list.
pub async fn held_by(participant: &str, address: &str) -> Result<BTreeSet<String>, String> {
    let ask = async {
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let channel = endpoint.map_err(|error| error.to_string())?.connect().await;
        let channel = channel.map_err(|error| error.to_string())?;
        let request = v1::ListInDoubtRequest {
            transaction_id: String::new(),
            participant: participant.to_owned(),
        };
        let listed = ParticipantServiceClient::new(channel).list_in_doubt(request).await;
        let branches = listed.map_err(|status| status.to_string())?.into_inner().branches;
        Ok(branches.into_iter().map(|branch| branch.transaction_id).collect())
    };
    let answer: Result<_, String> =
        timeout(ASK_WITHIN, ask).await.unwrap_or_else(|_| Err("no answer in time".into()));
    answer.map_err(|error| format!("{participant} does not list what it has in doubt: {error}"))
}

/// Everything that is in doubt now, anywhere.
async fn in_doubt(client: &Client, stores: &[(&str, String)]) -> Result<InDoubt, String> {
    let mut found = InDoubt::default();
    for (participant, address) in stores {
        found.branches.extend(held_by(participant, address).await?);
    }
    let states = vec![TransactionState::Preparing, TransactionState::Committing];
    let filter = ListFilter { states, page_size: 1000, ..ListFilter::default() };
    let page = client.list(&filter, None).await;
    let page = page.map_err(|error| format!("the coordinator lists no transactions: {error}"))?;
    found.transactions.extend(page.transactions.into_iter().map(|found| found.transaction_id));
    Ok(found)
}

/// Waits until nothing is in doubt, for a bounded time, and returns what still is.
///
/// # Errors
/// When somebody would not say.
pub async fn settled(client: &Client, stores: &[(&str, String)]) -> Result<InDoubt, String> {
    let deadline = Instant::now() + SETTLE_WITHIN;
    loop {
        let found = in_doubt(client, stores).await;
        let done = found.as_ref().is_ok_and(|found| found.count() == 0);
        if done || Instant::now() >= deadline {
            return found;
        }
        sleep(POLL).await;
    }
}

/// Gives every account its first money.
///
/// # Errors
/// Why it could not be done.
pub async fn open_accounts(client: &Client, accounts: u32) -> Result<(), String> {
    let keys = account_keys(accounts);
    for batch in batches(&keys) {
        transact(client, &batch, |work, key| work.put(key, OPENING_BALANCE.to_string()))
            .await
            .map_err(|error| format!("the accounts could not be opened: {error}"))?;
    }
    Ok(())
}

/// What the stores hold.
#[derive(Debug, Default)]
pub struct Holdings {
    values: HashMap<(usize, String), i64>,
}

impl Holdings {
    fn value(&self, store: usize, key: String) -> i64 {
        self.values.get(&(store, key)).copied().unwrap_or_default()
    }

    /// All the money.
    pub fn total(&self, accounts: u32) -> i64 {
        (0..accounts).map(|number| self.balance(Account(number))).sum()
    }

    fn balance(&self, account: Account) -> i64 {
        self.value(account.store(), account.key())
    }
}

/// Reads every account, and the counters of so many clients.
///
/// # Errors
/// Why it could not be done.
pub async fn read_all(client: &Client, accounts: u32, clients: usize) -> Result<Holdings, String> {
    let mut keys = account_keys(accounts);
    for store in &mut keys {
        store.extend((0..clients).map(counter_key));
    }
    let mut holdings = Holdings::default();
    for batch in batches(&keys) {
        let results = transact(client, &batch, |work, key| work.get(key)).await;
        let results = results.map_err(|error| format!("the stores could not be read: {error}"))?;
        for (store, (keys, payload)) in batch.iter().zip(results).enumerate() {
            let Some(payload) = payload else { continue };
            let values = Results::decode(payload)
                .map_err(|error| format!("{} returned {error}", STORES[store]))?;
            for (index, key) in keys.iter().enumerate() {
                let value = values.integer(index).unwrap_or_default();
                holdings.values.insert((store, key.clone()), value);
            }
        }
    }
    Ok(holdings)
}

/// What does not hold, one sentence each.
pub fn differences(
    holdings: &Holdings,
    ledger: &Ledger,
    accounts: u32,
    clients: usize,
) -> Vec<String> {
    let mut wrong_balances = Vec::new();
    for account in (0..accounts).map(Account) {
        let (held, expected) = (holdings.balance(account), ledger.balance(account));
        if held != expected {
            wrong_balances.push(format!(
                "{} at {} holds {held}; what the clients were told makes {expected}",
                account.key(),
                STORES[account.store()]
            ));
        }
    }
    let mut wrong_counters = Vec::new();
    for client in 0..clients {
        for (store, name) in STORES.iter().enumerate() {
            let found = holdings.value(store, counter_key(client));
            let expected = ledger.counter(client, store);
            if found != expected {
                wrong_counters.push(format!(
                    "client {client} was told of {expected} committed transfers at {name}, where {found} took place"
                ));
            }
        }
    }
    let mut told = shortened(wrong_balances, "accounts");
    told.extend(shortened(wrong_counters, "counters"));
    told
}

fn shortened(mut sentences: Vec<String>, what: &str) -> Vec<String> {
    let more = sentences.len().saturating_sub(TOLD_MAX);
    sentences.truncate(TOLD_MAX);
    if more > 0 {
        sentences.push(format!("and {more} more {what} like these"));
    }
    sentences
}

/// Keys, by store.
type Keys = [Vec<String>; STORES.len()];

fn account_keys(accounts: u32) -> Keys {
    let mut keys = Keys::default();
    for account in (0..accounts).map(Account) {
        keys[account.store()].push(account.key());
    }
    keys
}

/// The keys in parts that fit into one transaction each.
fn batches(keys: &Keys) -> Vec<Keys> {
    let longest = keys.iter().map(Vec::len).max().unwrap_or_default();
    let part = |start: usize| {
        keys.each_ref().map(|keys| keys.iter().skip(start).take(BATCH).cloned().collect())
    };
    (0..longest).step_by(BATCH).map(part).collect()
}

/// One transaction over all stores, tried until it commits with its results or the time is up.
async fn transact(
    client: &Client,
    keys: &Keys,
    operation: impl Fn(Work, String) -> Work,
) -> Result<[Option<Bytes>; STORES.len()], String> {
    let mut request = Request::new();
    for (store, keys) in keys.iter().enumerate().filter(|(_, keys)| !keys.is_empty()) {
        let work = keys.iter().cloned().fold(Work::new(), &operation);
        request = request.branch(STORES[store], work);
    }
    let deadline = Instant::now() + BATCH_WITHIN;
    loop {
        // Each attempt is a request of its own: to read twice or to put twice changes nothing, and the
        // answer to a repeated request may come without its results.
        let failed = match client.execute(request.clone()).await {
            Ok(committed) => {
                let results = STORES.map(|store| committed.result(store).cloned());
                let mut pairs = keys.iter().zip(&results);
                if pairs.all(|(keys, result)| keys.is_empty() || result.is_some()) {
                    return Ok(results);
                }
                format!("transaction {} was answered without results", committed.transaction_id)
            }
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            return Err(failed);
        }
        sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::bank::{Manner, Transfer};

    const ACCOUNTS: u32 = 7;

    fn transfer() -> Transfer {
        let (manner, protocol) = (Manner::Execute, handfast_client::Protocol::TwoPhase);
        Transfer { from: Account(0), to: Account(1), amount: 10, glance: None, manner, protocol }
    }

    /// What the stores hold when everything is as it was told.
    fn as_told(ledger: &Ledger) -> Holdings {
        let accounts = (0..ACCOUNTS).map(Account);
        let balances = accounts.map(|a| ((a.store(), a.key()), ledger.balance(a)));
        let counters = [(0, 0), (0, 1), (1, 0)]
            .map(|(client, store)| ((store, counter_key(client)), ledger.counter(client, store)));
        Holdings { values: balances.chain(counters).collect() }
    }

    fn check(change: impl FnOnce(&mut Holdings), said: &[&str]) {
        let mut ledger = Ledger::default();
        ledger.record(0, &transfer());
        let mut holdings = as_told(&ledger);
        change(&mut holdings);
        let told = differences(&holdings, &ledger, ACCOUNTS, 2);
        assert_eq!(told.len(), said.len(), "{told:?}");
        for (told, said) in told.iter().zip(said) {
            assert!(told.contains(said), "{told}");
        }
    }

    #[test]
    fn what_is_as_it_was_told_holds() {
        check(|_| {}, &[]);
    }

    #[test]
    fn a_transfer_that_was_done_at_one_store_only_shows() {
        check(
            |holdings| {
                *holdings.values.get_mut(&(1, Account(1).key())).expect("an account") -= 10;
                *holdings.values.get_mut(&(1, counter_key(0))).expect("a counter") -= 1;
            },
            &[
                "account/000001 at store-b holds 1000",
                "client 0 was told of 1 committed transfers at store-b, where 0",
            ],
        );
    }

    #[test]
    fn a_transfer_that_was_done_twice_shows_though_the_total_is_right() {
        check(
            |holdings| {
                *holdings.values.get_mut(&(0, Account(0).key())).expect("an account") -= 10;
                *holdings.values.get_mut(&(1, Account(1).key())).expect("an account") += 10;
                assert_eq!(holdings.total(ACCOUNTS), i64::from(ACCOUNTS) * OPENING_BALANCE);
            },
            &["account/000000", "account/000001"],
        );
    }

    #[test]
    fn a_long_list_of_differences_is_cut() {
        let told = differences(&Holdings::default(), &Ledger::default(), 100, 1);
        assert_eq!(told.len(), TOLD_MAX + 1);
        assert!(told[TOLD_MAX].contains("95 more accounts"), "{told:?}");
    }

    #[test]
    fn every_key_is_in_one_batch() {
        let keys = account_keys(4000);
        let parts = batches(&keys);
        assert!(parts.iter().flatten().all(|part| part.len() <= BATCH));
        let joined: usize = parts.iter().flatten().map(Vec::len).sum();
        assert_eq!(joined, 4000);
        assert_eq!(parts.len(), 3);
    }
}
