//! A load whose total never changes: transfers between accounts at several stores, and audits that see
//! all of them at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use handfast_client::key_value::{Results, Work};
use handfast_client::{Client, ClientMode, Protocol, Request};
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::oracle::{Oracle, read};
use crate::random::Random;

const ACCOUNTS: u64 = 8;
const OPENING: i64 = 1000;
/// How long a teller waits for one answer: every second one is too impatient for an outage, so that some
/// answers stay unknown.
const PATIENT: Duration = Duration::from_secs(3);
const IMPATIENT: Duration = Duration::from_millis(150);

/// A bank with accounts at every participant of a cluster.
#[derive(Debug)]
pub struct Bank {
    participants: Vec<String>,
    protocols: Vec<Protocol>,
    oracle: Arc<Oracle>,
}

/// Tellers at work.
#[derive(Debug)]
pub struct Tellers {
    stop: Arc<AtomicBool>,
    audits: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

fn account(number: u64) -> String {
    format!("account/{number}")
}

impl Bank {
    /// Opens all accounts.
    pub async fn open(cluster: &Cluster, oracle: Arc<Oracle>) -> Self {
        let participants = cluster.names();
        let opening = (0..ACCOUNTS)
            .fold(Work::new(), |work, number| work.put(account(number), OPENING.to_string()));
        let work = participants.iter().map(|name| (name.clone(), opening.clone()));
        oracle.execute(&cluster.client(), "opening", work).await.committed();
        Self { participants, protocols: vec![Protocol::TwoPhase], oracle }
    }

    /// Its transfers are committed under these protocols, each under one of them at random.
    #[must_use]
    pub fn under(mut self, protocols: &[Protocol]) -> Self {
        self.protocols = protocols.to_vec();
        self
    }

    /// What all accounts hold together, always.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.participants.len() as i64 * ACCOUNTS as i64 * OPENING
    }

    /// So many tellers begin to transfer, and one auditor to look.
    #[must_use]
    pub fn work(&self, cluster: &Cluster, tellers: u64, random: &Random) -> Tellers {
        let stop = Arc::new(AtomicBool::new(false));
        let audits = Arc::new(AtomicUsize::new(0));
        let mut tasks = Vec::new();
        // Tellers of a kind share a connection, and with it their stream.
        let mut clients = BTreeMap::new();
        for teller in 0..tellers {
            let deadline = if teller % 2 == 0 { PATIENT } else { IMPATIENT };
            // Both ways that a call can take, each for the patient and for the others.
            let mode = if teller / 2 % 2 == 0 { ClientMode::Stream } else { ClientMode::Unary };
            let client = clients.entry((mode == ClientMode::Stream, deadline));
            let client = client.or_insert_with(|| cluster.client_in(mode, deadline)).clone();
            let (participants, oracle) = (self.participants.clone(), Arc::clone(&self.oracle));
            let protocols = self.protocols.clone();
            let (stop, mut random) = (Arc::clone(&stop), random.fork(teller + 1));
            tasks.push(tokio::spawn(async move {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    let work = transfer(&participants, &mut random);
                    let protocol = *random.one_of(&protocols);
                    let request_id = format!("teller-{teller}-{number}");
                    number += 1;
                    oracle.execute_under(protocol, &client, &request_id, work).await;
                }
            }));
        }
        let client = cluster.client_with(PATIENT);
        let (participants, total) = (self.participants.clone(), self.total());
        let (stopped, seen) = (Arc::clone(&stop), Arc::clone(&audits));
        tasks.push(tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                if let Some(sum) = audit(&client, &participants).await {
                    assert_eq!(sum, total, "an audit has seen another total");
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
        Tellers { stop, audits, tasks }
    }

    /// The total, account by account, once everything has healed.
    ///
    /// # Panics
    /// When it is another one.
    pub async fn check(&self, cluster: &Cluster) {
        let client = cluster.client();
        let keys: Vec<String> = (0..ACCOUNTS).map(account).collect();
        let mut sum = 0;
        let mut all = BTreeMap::new();
        for name in &self.participants {
            for (key, value) in keys.iter().zip(read(&client, name, &keys).await) {
                let value: i64 = match value.as_deref().map(str::parse) {
                    Some(Ok(value)) => value,
                    other => panic!("{key} of {name} holds {other:?}"),
                };
                assert!(value >= 0, "{key} of {name} is overdrawn: {value}");
                sum += value;
                all.insert(format!("{name}/{key}"), value);
            }
        }
        assert_eq!(sum, self.total(), "money was made or lost: {all:?}");
    }
}

impl Tellers {
    /// Stops them, and returns how many audits were answered.
    ///
    /// # Panics
    /// When one of them has seen something wrong.
    pub async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            if let Err(error) = task.await {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        self.audits.load(Ordering::Relaxed)
    }
}

/// From one account to another, at the same store or at two; now and then over three.
fn transfer(participants: &[String], random: &mut Random) -> BTreeMap<String, Work> {
    let amount = 1 + random.below(50) as i64;
    let mut work: BTreeMap<String, Work> = BTreeMap::new();
    let mut add = |participant: &str, key: String, amount: i64, floor: bool| {
        let before = work.remove(participant).unwrap_or_default();
        let after = match floor {
            true => before.add_with_floor(key, amount, 0),
            false => before.add(key, amount),
        };
        work.insert(participant.to_owned(), after);
    };
    let from = account(random.below(ACCOUNTS));
    let payer = random.one_of(participants);
    match random.below(4) {
        0 => {
            let (first, second) = (random.one_of(participants), random.one_of(participants));
            add(payer, from, -2 * amount, true);
            add(first, account(random.below(ACCOUNTS)), amount, false);
            add(second, account(random.below(ACCOUNTS)), amount, false);
        }
        _ => {
            add(payer, from, -amount, true);
            let payee = random.one_of(participants);
            add(payee, account(random.below(ACCOUNTS)), amount, false);
        }
    }
    work
}

/// The sum of all accounts, in one transaction; nothing when it was not answered with results.
async fn audit(client: &Client, participants: &[String]) -> Option<i64> {
    let look = (0..ACCOUNTS).fold(Work::new(), |work, number| work.get(account(number)));
    let mut request = Request::new();
    for participant in participants {
        request = request.branch(participant, look.clone());
    }
    let committed = client.execute(request).await.ok()?;
    let mut sum = 0;
    for participant in participants {
        let results = Results::decode(committed.result(participant)?.clone()).ok()?;
        for index in 0..ACCOUNTS as usize {
            sum += results.integer(index)?;
        }
    }
    Some(sum)
}
