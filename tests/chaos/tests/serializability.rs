//! The key-value participants are strictly serializable, while any process is killed: what concurrent
//! clients read and wrote is explained by one order, in which every answer comes before what began after it.
//!
//! Values are numbers that are written once. Whoever writes a key has read it in the same transaction, so
//! that the history names each version's predecessor; see [`handfast_history`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use handfast_chaos::{Cluster, Plan, Random, patience, read};
use handfast_client::key_value::{Results, Work};
use handfast_client::{
    Bytes, Client, Error, Request, RequestId, Resolution, TransactionKey, TransactionOptions,
};
use handfast_history::{History, Outcome, Ticket, Value, check};
use tokio::task::JoinHandle;

const PARTICIPANTS: &[&str] = &["a", "b", "c"];
const KEYS: u64 = 16;
const CLIENTS: u64 = 16;
/// How long a client waits for one answer: every fourth one is too impatient for an outage, so that some
/// answers stay unknown.
const PATIENT: Duration = Duration::from_secs(3);
const IMPATIENT: Duration = Duration::from_millis(100);

/// Where a process that is restarted may die next, and how often it comes by before it does.
const COORDINATOR: &[&str] = &[
    "coordinator.before-prepare-sent",
    "coordinator.before-decision-sync",
    "coordinator.after-decision-sync",
    "coordinator.before-commit-sent",
    "coordinator.before-reply",
];
const PARTICIPANT: &[&str] = &[
    "participant.before-prepared-record",
    "participant.after-prepared-record",
    "participant.after-vote-sent",
    "participant.before-commit-record",
    "participant.after-commit-record",
    "participant.one-phase.after-record",
];

/// How many transactions are to commit: `HANDFAST_TRANSACTIONS`, for a run by hand with more.
fn how_many() -> u64 {
    let given = std::env::var("HANDFAST_TRANSACTIONS").ok();
    given.map_or(4000, |text| text.parse().expect("HANDFAST_TRANSACTIONS is a number"))
}

/// How many may be begun for each one that is to commit: an end for a store that commits nothing.
const BEGUN_PER_COMMIT: u64 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_history_is_strictly_serializable_under_kills() {
    let mut random = Random::from_environment("every_history_is_strictly_serializable_under_kills");
    let mut cluster = Plan::new(PARTICIPANTS)
        .coordinator(&["--timeout", "2s"])
        .each_participant(&["--lock-wait", "500ms"])
        .start()
        .await;
    let record = Arc::new(Record::new(how_many()));
    let clients = start_clients(&cluster, &record, &random);
    let kills = disturb(&mut cluster, &record, &clients, &mut random).await;
    for client in clients {
        if let Err(error) = client.await {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    // Once more for everybody, so that nobody is left who is to die at a crash point.
    for server in cluster.servers() {
        server.kill();
    }
    cluster.start_all().await;
    cluster.nothing_is_left().await;
    let resolved = record.resolve(&cluster.client()).await;
    cluster.nothing_is_left().await;
    record.read_everything(&cluster).await;
    let stats = match check(&record.history()) {
        Ok(stats) => stats,
        Err(violation) => panic!("{violation}"),
    };
    println!("{kills} kills, {resolved} unknown outcomes resolved; {stats:?}");
    assert_eq!(stats.unknown, 0, "everything is known in the end");
    assert!(
        stats.committed as u64 >= how_many() && kills > 0,
        "{stats:?}, {kills} kills: the test has shown little"
    );
    assert!(stats.unplaced * 20 < stats.writes, "too much is unplaced: {stats:?}");
}

// ---- faults -------------------------------------------------------------------------------------

/// Kills processes until the clients are done: after so many commits each, not after so much time.
async fn disturb(
    cluster: &mut Cluster,
    record: &Record,
    clients: &[JoinHandle<()>],
    random: &mut Random,
) -> usize {
    let mut kills = 0;
    let mut next = 50;
    while clients.iter().any(|client| !client.is_finished()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
        // Whoever has died at a crash point comes back.
        for server in cluster.servers() {
            if !server.runs() {
                kills += 1;
                server.kill();
                server.launch(None);
            }
        }
        if record.committed() < next {
            continue;
        }
        next = record.committed() + 10 + random.below(140);
        let participant = (*random.one_of(PARTICIPANTS)).to_owned();
        let (coordinator_too, participant_too) = match random.below(10) {
            0..3 => (true, false),
            3..9 => (false, true),
            _ => (true, true),
        };
        if coordinator_too {
            cluster.coordinator.kill();
        }
        if participant_too {
            cluster.participant(&participant).kill();
        }
        tokio::time::sleep(Duration::from_millis(random.below(60))).await;
        if coordinator_too {
            kills += 1;
            cluster.coordinator.launch(crash_point(COORDINATOR, random).as_deref());
        }
        if participant_too {
            kills += 1;
            cluster.participant(&participant).launch(crash_point(PARTICIPANT, random).as_deref());
        }
    }
    kills
}

fn crash_point(points: &[&str], random: &mut Random) -> Option<String> {
    let point = *random.one_of(points);
    let times = 1 + random.below(60);
    (random.below(3) == 0).then(|| format!("{point}@{times}"))
}

// ---- clients ------------------------------------------------------------------------------------

/// One key at one participant, and what is to be done with it.
#[derive(Debug, Clone)]
struct Step {
    participant: String,
    key: String,
    write: Option<Value>,
}

impl Step {
    /// Reads the key, and writes it if so; what the read found is the first result.
    fn work(&self) -> Work {
        let work = Work::new().get(self.key.clone());
        match self.write {
            Some(value) => work.put(self.key.clone(), value.to_string()),
            None => work,
        }
    }

    /// Writes the key if it still holds what was read before.
    fn work_if(&self, found: Option<Value>) -> Work {
        let work = match found {
            Some(value) => Work::new().expect(self.key.clone(), value.to_string()),
            None => Work::new().expect_absent(self.key.clone()),
        };
        match self.write {
            Some(value) => work.put(self.key.clone(), value.to_string()),
            None => work,
        }
    }

    fn full_name(&self) -> String {
        format!("{}/{}", self.participant, self.key)
    }
}

fn number(value: Option<&Bytes>) -> Option<Value> {
    let value = value?;
    let text = std::str::from_utf8(value).ok();
    match text.and_then(|text| text.parse().ok()) {
        Some(value) => Some(value),
        None => panic!("a key holds {value:?}, which nobody wrote"),
    }
}

fn start_clients(cluster: &Cluster, record: &Arc<Record>, random: &Random) -> Vec<JoinHandle<()>> {
    let start = |client: u64| {
        let deadline = if client.is_multiple_of(4) { IMPATIENT } else { PATIENT };
        let connection = cluster.client_with(deadline);
        let (record, random) = (Arc::clone(record), random.fork(client + 1));
        tokio::spawn(async move {
            ClientTask { number: client as u32, connection, record, random }.run().await;
        })
    };
    (0..CLIENTS).map(start).collect()
}

struct ClientTask {
    number: u32,
    connection: Client,
    record: Arc<Record>,
    random: Random,
}

impl ClientTask {
    async fn run(mut self) {
        while self.record.begin_another() {
            // Not at once again: while somebody is down, everything that is begun aborts.
            tokio::time::sleep(Duration::from_millis(self.random.below(8))).await;
            match self.random.below(10) {
                0..5 => self.interactive().await,
                5..7 => self.at_once().await,
                7..9 => self.compare_and_set().await,
                _ => self.look().await,
            }
        }
    }

    /// Different keys in any order, at any of the participants; most transactions write some of them.
    fn steps(&mut self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for _ in 0..1 + self.random.below(5) {
            let participant = (*self.random.one_of(PARTICIPANTS)).to_owned();
            let key = format!("k{}", self.random.below(KEYS));
            let write = (self.random.below(5) < 3).then(|| self.record.fresh());
            let step = Step { participant, key, write };
            if steps.iter().all(|other| other.full_name() != step.full_name()) {
                steps.push(step);
            }
        }
        steps
    }

    /// Begun, worked in key by key, and committed; now and then aborted.
    async fn interactive(&mut self) {
        let steps = self.steps();
        let ticket = self.record.history().begin(self.number, "interactive");
        let Ok(transaction) = self.connection.begin(TransactionOptions::new()).await else {
            return self.record.end(ticket, Outcome::Aborted);
        };
        let id = transaction.id();
        self.record.history().rename(ticket, id.to_string());
        for step in &steps {
            let at = transaction.key_value(&step.participant);
            // In one call or in two, as with a computation in between.
            let halves = match step.write {
                Some(value) if self.random.below(2) == 0 => {
                    let put = Work::new().put(step.key.clone(), value.to_string());
                    (Work::new().get(step.key.clone()), Some(put))
                }
                _ => (step.work(), None),
            };
            let mut applied = at.apply(halves.0).await;
            if let Ok(results) = &applied {
                self.record.saw(ticket, step, number(results.value(0)));
                if let Some(put) = halves.1 {
                    applied = at.apply(put).await;
                }
            }
            self.record.wrote(ticket, step);
            if applied.is_err() {
                // Nobody has asked for its commit, and nobody will.
                let _ = transaction.abort("a step failed").await;
                return self.record.end(ticket, Outcome::Aborted);
            }
        }
        // Each key once more: what the transaction holds locks on cannot have changed.
        let again = self.random.below(steps.len() as u64) as usize;
        if let Some(step) = steps.get(again) {
            let work = Work::new().get(step.key.clone());
            match transaction.key_value(&step.participant).apply(work).await {
                Ok(results) => self.record.saw(ticket, step, number(results.value(0))),
                Err(_) => {
                    let _ = transaction.abort("a look failed").await;
                    return self.record.end(ticket, Outcome::Aborted);
                }
            }
        }
        if self.random.below(12) == 0 {
            let _ = transaction.abort("changed its mind").await;
            return self.record.end(ticket, Outcome::Aborted);
        }
        match transaction.commit().await {
            Ok(_) => self.record.end(ticket, Outcome::Committed),
            Err(error) => self.record.failed(ticket, id.into(), &error),
        }
    }

    /// In one request, which says what it has read only if it is answered at the first attempt.
    async fn at_once(&mut self) {
        let steps = self.steps();
        let ticket = self.record.history().begin(self.number, "at once");
        let work = steps.iter().map(|step| (step, step.work())).collect();
        let (ended, results) = self.execute(ticket, work).await;
        for step in &steps {
            if let Some(found) = results.get(&step.full_name()) {
                self.record.saw(ticket, step, *found);
            }
            self.record.wrote(ticket, step);
        }
        ended(&self.record);
    }

    /// Reads in one request, writes in another one if nothing has changed.
    async fn compare_and_set(&mut self) {
        let steps = self.steps();
        let Some(found) = self.look_at(&steps).await else { return };
        let ticket = self.record.history().begin(self.number, "compare and set");
        let work = |step: &Step| step.work_if(found[&step.full_name()]);
        let works = steps.iter().map(|step| (step, work(step))).collect();
        let (ended, _) = self.execute(ticket, works).await;
        for step in &steps {
            self.record.saw(ticket, step, found[&step.full_name()]);
            self.record.wrote(ticket, step);
        }
        ended(&self.record);
    }

    /// Many keys at once.
    async fn look(&mut self) {
        let mut steps = Vec::new();
        for participant in PARTICIPANTS {
            for key in 0..KEYS {
                if self.random.below(3) == 0 {
                    let (participant, key) = ((*participant).to_owned(), format!("k{key}"));
                    steps.push(Step { participant, key, write: None });
                }
            }
        }
        self.look_at(&steps).await;
    }

    async fn look_at(&mut self, steps: &[Step]) -> Option<BTreeMap<String, Option<Value>>> {
        let ticket = self.record.history().begin(self.number, "look");
        let work = steps.iter().map(|step| (step, Work::new().get(step.key.clone()))).collect();
        let (ended, results) = self.execute(ticket, work).await;
        for step in steps {
            if let Some(found) = results.get(&step.full_name()) {
                self.record.saw(ticket, step, *found);
            }
        }
        ended(&self.record);
        (results.len() == steps.len()).then_some(results)
    }

    /// Executes the work of all steps. Returns what is to be recorded as its end, after what it has seen,
    /// and the first result of each step by the name of its key, as far as there are any.
    async fn execute(
        &mut self,
        ticket: Ticket,
        steps: Vec<(&Step, Work)>,
    ) -> (impl FnOnce(&Record) + use<>, BTreeMap<String, Option<Value>>) {
        let mut branches: BTreeMap<&str, Vec<(&Step, Work)>> = BTreeMap::new();
        for (step, work) in steps {
            branches.entry(&step.participant).or_default().push((step, work));
        }
        let request_id = self.record.request_id();
        self.record.history().rename(ticket, request_id.to_string());
        let mut request = Request::new().request_id(request_id.clone());
        for (participant, steps) in &branches {
            let all = steps.iter().fold(Work::new(), |all, (_, work)| all.then(work.clone()));
            request = request.branch(*participant, all);
        }
        let mut found = BTreeMap::new();
        let answer = self.connection.execute(request).await;
        if let Ok(committed) = &answer {
            for (participant, steps) in &branches {
                let payload = committed.result(participant).filter(|payload| !payload.is_empty());
                let Some(payload) = payload else { continue };
                let results = Results::decode(payload.clone()).expect("results");
                let mut at = 0;
                for (step, work) in steps {
                    found.insert(step.full_name(), number(results.value(at)));
                    at += work.len();
                }
            }
        }
        let end = move |record: &Record| match answer {
            Ok(_) => record.end(ticket, Outcome::Committed),
            Err(error) => record.failed(ticket, request_id.into(), &error),
        };
        (end, found)
    }
}

// ---- the record ---------------------------------------------------------------------------------

/// What all clients did and were told.
struct Record {
    history: Mutex<History>,
    /// Whom to ask about later.
    unknown: Mutex<Vec<(Ticket, TransactionKey)>>,
    begun: AtomicU64,
    committed: AtomicU64,
    /// How many are to commit.
    wanted: u64,
    values: AtomicU64,
    requests: AtomicU64,
}

impl Record {
    fn new(wanted: u64) -> Self {
        Self {
            history: Mutex::default(),
            unknown: Mutex::default(),
            begun: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            wanted,
            values: AtomicU64::new(1),
            requests: AtomicU64::new(0),
        }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unknown(&self) -> MutexGuard<'_, Vec<(Ticket, TransactionKey)>> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    fn begin_another(&self) -> bool {
        let begun = self.begun.fetch_add(1, Ordering::Relaxed);
        self.committed() < self.wanted && begun < BEGUN_PER_COMMIT * self.wanted
    }

    fn fresh(&self) -> Value {
        self.values.fetch_add(1, Ordering::Relaxed)
    }

    fn request_id(&self) -> RequestId {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        format!("request-{number}").parse().expect("a request_id")
    }

    fn saw(&self, ticket: Ticket, step: &Step, found: Option<Value>) {
        let mut history = self.history();
        let key = history.key(&step.full_name());
        history.read(ticket, key, found);
    }

    fn wrote(&self, ticket: Ticket, step: &Step) {
        if let Some(value) = step.write {
            let mut history = self.history();
            let key = history.key(&step.full_name());
            history.write(ticket, key, value);
        }
    }

    fn end(&self, ticket: Ticket, outcome: Outcome) {
        self.history().finish(ticket, outcome);
        if outcome == Outcome::Committed {
            self.committed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Something other than a commit was answered.
    fn failed(&self, ticket: Ticket, key: TransactionKey, error: &Error) {
        match error {
            Error::Aborted { .. } => self.end(ticket, Outcome::Aborted),
            Error::OutcomeUnknown { .. } => {
                self.end(ticket, Outcome::Unknown);
                self.unknown().push((ticket, key));
            }
            error if error.nothing_was_done() => self.end(ticket, Outcome::Aborted),
            error => panic!("{key:?}: {error}"),
        }
    }

    /// Asks again for every outcome that a client could not be told; there is nobody left who cannot answer.
    async fn resolve(&self, client: &Client) -> usize {
        let unknown = std::mem::take(&mut *self.unknown());
        for (ticket, key) in &unknown {
            let outcome = match client.resolve(key.clone(), patience()).await {
                Ok(Resolution::Committed(_)) => Outcome::Committed,
                Ok(Resolution::Aborted(_)) | Err(Error::NotFound { .. }) => Outcome::Aborted,
                Err(error) => panic!("{key:?} cannot be resolved: {error}"),
            };
            self.end(*ticket, outcome);
        }
        unknown.len()
    }

    /// What every key holds in the end.
    async fn read_everything(&self, cluster: &Cluster) {
        let client = cluster.client();
        let keys: Vec<String> = (0..KEYS).map(|key| format!("k{key}")).collect();
        for participant in PARTICIPANTS {
            let values = read(&client, participant, &keys).await;
            let mut history = self.history();
            for (key, value) in keys.iter().zip(values) {
                let value = value.map(Bytes::from);
                let key = history.key(&format!("{participant}/{key}"));
                history.last(key, number(value.as_ref()));
            }
        }
    }
}
