//! What clients were told, compared with what the stores hold.
//!
//! Every transaction that goes through the oracle adds one to a marker key of its own in each of its
//! branches. So the stores themselves say which transactions took effect, where, and how often, and no
//! answer of the coordinator has to be believed.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use handfast_client::key_value::{Results, Work};
use handfast_client::{
    Bytes, Client, Error, Protocol, Request, RequestId, Resolution, TransactionId,
};

use crate::cluster::Cluster;
use crate::eventually::eventually_ok;

/// Most keys of one question to a store.
const KEYS_AT_ONCE: usize = 200;

/// What a client was told of its transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It committed.
    Committed(TransactionId),
    /// It aborted.
    Aborted(String),
    /// Nothing was done.
    NothingDone(String),
    /// The outcome is unknown: neither of the above, and no guess.
    Unknown(String),
}

impl Answer {
    /// The transaction that committed.
    ///
    /// # Panics
    /// When it is another answer.
    pub fn committed(&self) -> TransactionId {
        match self {
            Self::Committed(id) => *id,
            other => panic!("expected a commit, was told {other:?}"),
        }
    }
}

/// One request of one client.
#[derive(Debug, Clone)]
struct Entry {
    work: BTreeMap<String, Work>,
    /// A repetition has to name the same one.
    protocol: Protocol,
    answer: Answer,
}

/// The record of everything that clients asked for and were told.
#[derive(Debug, Default)]
pub struct Oracle {
    entries: Mutex<BTreeMap<RequestId, Entry>>,
}

impl Oracle {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<RequestId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Executes a transaction, and keeps the answer. Each branch gets its marker besides its work.
    pub async fn execute(
        &self,
        client: &Client,
        request_id: &str,
        work: impl IntoIterator<Item = (impl Into<String>, Work)>,
    ) -> Answer {
        let work = work.into_iter().map(|(name, work)| (name.into(), work)).collect();
        self.execute_request(client, request_id, work, |request| request).await
    }

    /// The same, to be committed under this protocol.
    pub async fn execute_under(
        &self,
        protocol: Protocol,
        client: &Client,
        request_id: &str,
        work: impl IntoIterator<Item = (impl Into<String>, Work)>,
    ) -> Answer {
        let work: BTreeMap<_, _> =
            work.into_iter().map(|(name, work)| (name.into(), work)).collect();
        let request_id = self.expect_under(protocol, request_id, work.clone());
        let answer =
            attempt(client, &request_id, &work, |request| request.protocol(protocol)).await;
        self.record(&request_id, answer.clone());
        answer
    }

    /// Executes a two-phase transaction with more said in the request.
    pub async fn execute_request(
        &self,
        client: &Client,
        request_id: &str,
        work: BTreeMap<String, Work>,
        more: impl FnOnce(Request) -> Request,
    ) -> Answer {
        let request_id = self.expect(request_id, work.clone());
        let answer = attempt(client, &request_id, &work, more).await;
        self.record(&request_id, answer.clone());
        answer
    }

    /// Notes a request that the test makes by itself, with `marked` work. Its answer is unknown until
    /// [`record`](Self::record)ed.
    ///
    /// # Panics
    /// When the request_id cannot be one.
    pub fn expect(&self, request_id: &str, work: BTreeMap<String, Work>) -> RequestId {
        self.expect_under(Protocol::TwoPhase, request_id, work)
    }

    /// The same, of a request under this protocol.
    ///
    /// # Panics
    /// When the request_id cannot be one.
    pub fn expect_under(
        &self,
        protocol: Protocol,
        request_id: &str,
        work: BTreeMap<String, Work>,
    ) -> RequestId {
        let request_id = name(request_id);
        let answer = Answer::Unknown("it was not answered".to_owned());
        self.entries().insert(request_id.clone(), Entry { work, protocol, answer });
        request_id
    }

    /// Notes what a client was told in the end.
    ///
    /// # Panics
    /// When the request was never made, or was answered otherwise before.
    pub fn record(&self, request_id: &RequestId, answer: Answer) {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(request_id) else {
            panic!("an answer to {request_id}, which nobody asked for")
        };
        if let Answer::Committed(before) = &entry.answer {
            assert_eq!(
                answer,
                Answer::Committed(*before),
                "{request_id} was told that it has committed before"
            );
        }
        entry.answer = answer;
    }

    /// How many requests were answered with a commit, an abort or nothing done, and not at all.
    pub fn counts(&self) -> (usize, usize, usize) {
        let entries = self.entries();
        let count = |wanted: fn(&Answer) -> bool| {
            entries.values().filter(|entry| wanted(&entry.answer)).count()
        };
        (
            count(|answer| matches!(answer, Answer::Committed(_))),
            count(|answer| matches!(answer, Answer::Aborted(_) | Answer::NothingDone(_))),
            count(|answer| matches!(answer, Answer::Unknown(_))),
        )
    }

    /// Compares everything, once faults are over and everybody runs: nothing may be left in doubt, and
    /// the stores must hold exactly what clients were told. Unknown answers are resolved first, half of
    /// them by asking and half by trying again.
    ///
    /// # Panics
    /// When they differ; the message says in what.
    pub async fn check(&self, cluster: &Cluster) {
        cluster.connected().await;
        cluster.nothing_is_left().await;
        let mut wrong = self.resolve_unknowns(cluster).await;
        cluster.nothing_is_left().await;
        let entries = self.entries().clone();
        let markers = markers(cluster, entries.keys()).await;
        for (request_id, entry) in &entries {
            let found: BTreeMap<&str, &str> = markers
                .iter()
                .filter_map(|(name, held)| Some((name.as_str(), held.get(request_id)?.as_str())))
                .collect();
            let expected: BTreeMap<&str, &str> = match &entry.answer {
                Answer::Committed(_) => {
                    entry.work.keys().map(|name| (name.as_str(), "1")).collect()
                }
                _ => BTreeMap::new(),
            };
            if found != expected {
                wrong.push(format!(
                    "{request_id} was told {:?}; its markers should be {expected:?} and are {found:?}",
                    entry.answer
                ));
            }
        }
        assert!(wrong.is_empty(), "{} violations:\n{}", wrong.len(), wrong.join("\n"));
    }

    async fn resolve_unknowns(&self, cluster: &Cluster) -> Vec<String> {
        let client = cluster.client();
        let unknown: Vec<_> = self
            .entries()
            .iter()
            .filter(|(_, entry)| matches!(entry.answer, Answer::Unknown(_)))
            .map(|(request_id, entry)| (request_id.clone(), entry.clone()))
            .collect();
        let mut wrong = Vec::new();
        for (turn, (request_id, entry)) in unknown.into_iter().enumerate() {
            if turn % 2 == 0 {
                match client.resolve(request_id.clone(), crate::patience()).await {
                    Ok(Resolution::Committed(status)) => match status.transaction_id.parse() {
                        Ok(id) => self.record(&request_id, Answer::Committed(id)),
                        Err(error) => wrong.push(format!("{request_id}: {error}")),
                    },
                    Ok(Resolution::Aborted(_)) | Err(Error::NotFound { .. }) => {
                        self.record(&request_id, Answer::Aborted("as resolved".to_owned()));
                    }
                    Err(error) => wrong.push(format!("{request_id} cannot be resolved: {error}")),
                }
            } else {
                let under = |request: Request| request.protocol(entry.protocol);
                match attempt(&client, &request_id, &entry.work, under).await {
                    Answer::Unknown(why) => {
                        wrong.push(format!("{request_id} is unknown after healing: {why}"));
                    }
                    answer => self.record(&request_id, answer),
                }
            }
        }
        wrong
    }
}

/// A request's name.
///
/// # Panics
/// When it cannot be one.
#[must_use]
pub(crate) fn name(text: &str) -> RequestId {
    match text.parse() {
        Ok(request_id) => request_id,
        Err(error) => panic!("{text:?} is no request_id: {error}"),
    }
}

/// The key that counts how often a request took effect in one store.
fn marker(request_id: &RequestId) -> String {
    format!("marker/{request_id}")
}

impl Oracle {
    /// The branches of a request with their markers, for a test that makes the request by itself.
    #[must_use]
    pub fn marked(request_id: &str, work: &BTreeMap<String, Work>) -> Vec<(String, Bytes)> {
        let marker = marker(&name(request_id));
        work.iter()
            .map(|(name, work)| (name.clone(), work.clone().add(marker.clone(), 1).encode()))
            .collect()
    }
}

async fn attempt(
    client: &Client,
    request_id: &RequestId,
    work: &BTreeMap<String, Work>,
    more: impl FnOnce(Request) -> Request,
) -> Answer {
    let mut request = Request::new().request_id(request_id.clone());
    for (participant, payload) in Oracle::marked(request_id.as_str(), work) {
        request = request.branch(participant, payload);
    }
    match client.execute(more(request)).await {
        Ok(committed) => Answer::Committed(committed.transaction_id),
        Err(error @ Error::Aborted { .. }) => Answer::Aborted(error.to_string()),
        Err(error) if error.nothing_was_done() => Answer::NothingDone(error.to_string()),
        Err(error @ Error::OutcomeUnknown { .. }) => Answer::Unknown(error.to_string()),
        Err(error) => panic!("{request_id}: {error}"),
    }
}

/// The markers in every store, by participant.
async fn markers<'a>(
    cluster: &Cluster,
    requests: impl Iterator<Item = &'a RequestId>,
) -> BTreeMap<String, BTreeMap<RequestId, String>> {
    let requests: Vec<&RequestId> = requests.collect();
    let client = cluster.client();
    let mut all = BTreeMap::new();
    for participant in cluster.names() {
        let mut held = BTreeMap::new();
        for some in requests.chunks(KEYS_AT_ONCE) {
            let keys: Vec<String> = some.iter().map(|request_id| marker(request_id)).collect();
            let values = read(&client, &participant, &keys).await;
            for (request_id, value) in some.iter().zip(values) {
                if let Some(value) = value {
                    held.insert((*request_id).clone(), value);
                }
            }
        }
        all.insert(participant, held);
    }
    all
}

/// Reads keys of one store, in one transaction.
///
/// # Panics
/// When they cannot be read, or are no text.
pub async fn read(client: &Client, participant: &str, keys: &[String]) -> Vec<Option<String>> {
    let work = keys.iter().fold(Work::new(), |work, key| work.get(key.clone()));
    let what = format!("{} keys of {participant} are read", keys.len());
    let payload = eventually_ok(&what, || async {
        let request = Request::new().branch(participant, work.clone());
        let committed = client.execute(request).await.map_err(|error| error.to_string())?;
        committed.result(participant).cloned().ok_or_else(|| "it came without results".to_owned())
    })
    .await;
    let results = match Results::decode(payload) {
        Ok(results) if results.len() == keys.len() => results,
        other => panic!("{participant} was asked for {} keys and answered {other:?}", keys.len()),
    };
    let text = |value: &Bytes| match String::from_utf8(value.to_vec()) {
        Ok(text) => text,
        Err(error) => panic!("a value of {participant} is no text: {error}"),
    };
    results.iter().map(|value| value.map(text)).collect()
}
