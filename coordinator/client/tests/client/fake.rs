//! A coordinator and key-value participants in memory, for tests of the client library and of the
//! command line: it does what it is asked for, unless a script says otherwise.
//!
//! Absent on purpose: locks, timeouts and everything else that a transaction needs to be one.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use handfast_wire::convert;
use handfast_wire::v1;
use handfast_wire::v1::coordinator_service_server::{CoordinatorService, CoordinatorServiceServer};
use handfast_wire::v1::key_value_operation::Operation;
use handfast_wire::v1::key_value_service_server::{KeyValueService, KeyValueServiceServer};
use handfast_wire::v1::transaction_answer::Answer as Told;
use handfast_wire::v1::transaction_call::Request as Call;
use handfast_wire::v1::transaction_service_server::{TransactionService, TransactionServiceServer};
use prost::Message;
use prost::bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

type Answer<T> = Result<Response<T>, Status>;

/// What the next call that commits or applies work does instead of what it is asked for.
pub enum Step {
    /// Answers with this outcome.
    Outcome(v1::TransactionState, v1::AbortReason),
    /// Fails.
    Fail(Status),
    /// Never answers.
    Hang,
}

/// A running server. Ends with its runtime.
#[derive(Clone)]
pub struct Fake {
    /// Where it is served.
    pub endpoint: String,
    /// While it is there, streams of calls are refused with it, and those that are open end with it.
    pub streams: Arc<watch::Sender<Option<Status>>>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    script: VecDeque<Step>,
    /// The request_id of every ExecuteTransaction that arrived.
    request_ids: Vec<String>,
    /// The transaction of every Apply that arrived.
    applied: usize,
    /// How many streams of calls were opened.
    opened: usize,
    sequence: u64,
    /// By participant and key. What a transaction writes is seen at once by all: there are no locks.
    data: BTreeMap<(String, Bytes), Bytes>,
    transactions: Vec<v1::Transaction>,
}

/// A status as Handfast's servers make them.
pub fn status(code: Code, reason: &str, message: &str, retry_after: Option<Duration>) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, "handfast", HashMap::new());
    details.set_retry_info(retry_after);
    Status::with_error_details(code, message, details)
}

impl Fake {
    /// Starts a server with the participants "orders" and "accounts".
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
        let (streams, _) = watch::channel(None);
        let fake = Self { endpoint, streams: Arc::new(streams), state: Arc::default() };
        let server = tonic::transport::Server::builder()
            .add_service(TransactionServiceServer::new(fake.clone()))
            .add_service(CoordinatorServiceServer::new(fake.clone()))
            .add_service(KeyValueServiceServer::new(fake.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        fake
    }

    /// Makes the next calls that commit or apply work do this.
    pub fn script(&self, steps: impl IntoIterator<Item = Step>) {
        self.lock().script.extend(steps);
    }

    /// The request_id of every ExecuteTransaction that has arrived.
    pub fn request_ids(&self) -> Vec<String> {
        self.lock().request_ids.clone()
    }

    /// How many calls of Apply have arrived.
    pub fn applied(&self) -> usize {
        self.lock().applied
    }

    /// How many streams of calls have been opened.
    pub fn opened(&self) -> usize {
        self.lock().opened
    }

    /// The states of all transactions, in the order of their begin.
    pub fn states(&self) -> Vec<v1::TransactionState> {
        self.lock().transactions.iter().map(v1::Transaction::state).collect()
    }

    /// Answers one call of a stream.
    async fn answer(&self, call: v1::TransactionCall) -> v1::TransactionAnswer {
        let answer = match call.request.expect("a call asks for something") {
            Call::Execute(request) => {
                let response = self.execute_transaction(Request::new(request)).await;
                response.map(|response| Told::Execute(response.into_inner()))
            }
            Call::Begin(request) => {
                let response = self.begin_transaction(Request::new(request)).await;
                response.map(|response| Told::Begin(response.into_inner()))
            }
            Call::Commit(request) => {
                let response = self.commit_transaction(Request::new(request)).await;
                response.map(|response| Told::Commit(response.into_inner()))
            }
            Call::Abort(request) => {
                let response = self.abort_transaction(Request::new(request)).await;
                response.map(|response| Told::Abort(response.into_inner()))
            }
            Call::Get(request) => {
                let response = self.get_transaction(Request::new(request)).await;
                response.map(|response| Told::Get(response.into_inner()))
            }
        };
        let answer = answer.unwrap_or_else(|status| Told::Status(convert::status_message(&status)));
        v1::TransactionAnswer { call_id: call.call_id, answer: Some(answer) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with it")
    }

    /// Does what the script says next; nothing when it says nothing.
    async fn follow_script(&self) -> Result<Option<v1::Outcome>, Status> {
        let step = self.lock().script.pop_front();
        match step {
            None => Ok(None),
            Some(Step::Fail(status)) => Err(status),
            Some(Step::Hang) => std::future::pending().await,
            Some(Step::Outcome(state, reason)) => {
                let id = self.lock().begin(None, "");
                let transaction = self.lock().end(&id, state)?;
                let abort_reason = Some(reason);
                Ok(Some(v1::Outcome { abort_reason, ..outcome(&transaction) }))
            }
        }
    }
}

fn known(participant: &str) -> Result<(), Status> {
    if matches!(participant, "orders" | "accounts") {
        return Ok(());
    }
    let mut details =
        ErrorDetails::with_error_info("UNKNOWN_PARTICIPANT", "handfast", HashMap::new());
    details.set_resource_info("participant", participant, "", "not registered");
    let message = format!("no participant {participant:?} is registered");
    Err(Status::with_error_details(Code::NotFound, message, details))
}

fn outcome(transaction: &v1::Transaction) -> v1::Outcome {
    let result = |branch: &v1::BranchStatus| v1::BranchResult {
        participant: branch.participant.clone(),
        payload: branch.result.clone(),
    };
    v1::Outcome {
        transaction_id: transaction.transaction_id.clone(),
        state: transaction.state,
        results: transaction.branches.iter().map(result).collect(),
        ..Default::default()
    }
}

impl State {
    fn begin(&mut self, options: Option<v1::TransactionOptions>, request_id: &str) -> String {
        self.sequence += 1;
        let options = options.unwrap_or_default();
        let transaction_id = format!("0000-02-0000000001-{:016x}", self.sequence);
        self.transactions.push(v1::Transaction {
            transaction_id: transaction_id.clone(),
            protocol: v1::Protocol::TwoPhase.into(),
            state: v1::TransactionState::Active.into(),
            request_id: request_id.to_owned(),
            summary: options.summary,
            labels: options.labels,
            timeout: options.timeout,
            ..Default::default()
        });
        transaction_id
    }

    fn find(&mut self, id: &str, request_id: &str) -> Result<&mut v1::Transaction, Status> {
        let found = self.transactions.iter_mut().find(|transaction| match id {
            "" => transaction.request_id == request_id,
            _ => transaction.transaction_id == id,
        });
        let message = format!("no transaction {id}{request_id}");
        found.ok_or_else(|| status(Code::NotFound, "UNKNOWN_TRANSACTION", &message, None))
    }

    fn end(&mut self, id: &str, state: v1::TransactionState) -> Result<v1::Transaction, Status> {
        let transaction = self.find(id, "")?;
        if transaction.state() == v1::TransactionState::Active {
            transaction.set_state(state);
        }
        Ok(transaction.clone())
    }

    fn work(
        &mut self,
        id: &str,
        participant: &str,
        work: v1::KeyValueWork,
    ) -> Result<v1::KeyValueResult, Status> {
        known(participant)?;
        let mut result = v1::KeyValueResult::default();
        for operation in work.operations {
            let key = (participant.to_owned(), operation.key);
            match operation.operation {
                Some(Operation::Put(put)) => {
                    self.data.insert(key.clone(), put.value);
                }
                Some(Operation::Delete(_)) => {
                    self.data.remove(&key);
                }
                Some(Operation::Add(add)) => {
                    let value = self
                        .data
                        .get(&key)
                        .map(|value| String::from_utf8_lossy(value).into_owned());
                    let sum = value.map_or(0, |value| value.parse::<i64>().expect("a number"))
                        + add.amount;
                    self.data.insert(key.clone(), sum.to_string().into());
                }
                Some(Operation::Get(_) | Operation::Expect(_)) | None => {}
            }
            result
                .results
                .push(v1::KeyValueOperationResult { value: self.data.get(&key).cloned() });
        }
        let branch = v1::BranchStatus {
            participant: participant.to_owned(),
            state: v1::BranchState::Committed.into(),
            result: result.encode_to_vec().into(),
        };
        self.find(id, "")?.branches.push(branch);
        Ok(result)
    }
}

#[tonic::async_trait]
impl TransactionService for Fake {
    async fn begin_transaction(
        &self,
        request: Request<v1::BeginTransactionRequest>,
    ) -> Answer<v1::BeginTransactionResponse> {
        let transaction_id = self.lock().begin(request.into_inner().options, "");
        Ok(Response::new(v1::BeginTransactionResponse { transaction_id, timeout: None }))
    }

    async fn commit_transaction(
        &self,
        request: Request<v1::CommitTransactionRequest>,
    ) -> Answer<v1::CommitTransactionResponse> {
        let outcome = match self.follow_script().await? {
            Some(outcome) => outcome,
            None => {
                let id = request.into_inner().transaction_id;
                outcome(&self.lock().end(&id, v1::TransactionState::Committed)?)
            }
        };
        Ok(Response::new(v1::CommitTransactionResponse { outcome: Some(outcome) }))
    }

    async fn abort_transaction(
        &self,
        request: Request<v1::AbortTransactionRequest>,
    ) -> Answer<v1::AbortTransactionResponse> {
        let id = request.into_inner().transaction_id;
        let transaction = self.lock().end(&id, v1::TransactionState::Aborted)?;
        if transaction.state() != v1::TransactionState::Aborted {
            let message = format!("transaction {id} has committed");
            return Err(status(Code::FailedPrecondition, "WRONG_STATE", &message, None));
        }
        Ok(Response::new(v1::AbortTransactionResponse { outcome: Some(outcome(&transaction)) }))
    }

    async fn execute_transaction(
        &self,
        request: Request<v1::ExecuteTransactionRequest>,
    ) -> Answer<v1::ExecuteTransactionResponse> {
        let request = request.into_inner();
        self.lock().request_ids.push(request.request_id.clone());
        if let Some(outcome) = self.follow_script().await? {
            return Ok(Response::new(v1::ExecuteTransactionResponse { outcome: Some(outcome) }));
        }
        for branch in &request.branches {
            known(&branch.participant)?;
        }
        let mut state = self.lock();
        let id = state.begin(request.options, &request.request_id);
        for branch in request.branches {
            let work = v1::KeyValueWork::decode(branch.payload);
            let work = work.map_err(|error| Status::invalid_argument(error.to_string()))?;
            state.work(&id, &branch.participant, work)?;
        }
        let outcome = outcome(&state.end(&id, v1::TransactionState::Committed)?);
        Ok(Response::new(v1::ExecuteTransactionResponse { outcome: Some(outcome) }))
    }

    async fn get_transaction(
        &self,
        request: Request<v1::GetTransactionRequest>,
    ) -> Answer<v1::GetTransactionResponse> {
        let request = request.into_inner();
        let transaction = self.lock().find(&request.transaction_id, &request.request_id)?.clone();
        Ok(Response::new(v1::GetTransactionResponse { transaction: Some(transaction) }))
    }

    async fn list_transactions(
        &self,
        request: Request<v1::ListTransactionsRequest>,
    ) -> Answer<v1::ListTransactionsResponse> {
        // One to a page, so that paging is always tried.
        let request = request.into_inner();
        let from: usize = request.page_token.parse().unwrap_or(0);
        let wanted = |transaction: &&v1::Transaction| {
            request.states.is_empty() || request.states.contains(&transaction.state)
        };
        let state = self.lock();
        let mut transactions = state.transactions.iter().filter(wanted).skip(from);
        let transactions_of_page = transactions.next().cloned().into_iter().collect();
        let next_page_token =
            transactions.next().map(|_| (from + 1).to_string()).unwrap_or_default();
        Ok(Response::new(v1::ListTransactionsResponse {
            transactions: transactions_of_page,
            next_page_token,
        }))
    }

    type WatchTransactionStream =
        tokio_stream::Iter<std::vec::IntoIter<Result<v1::WatchTransactionResponse, Status>>>;

    async fn watch_transaction(
        &self,
        request: Request<v1::WatchTransactionRequest>,
    ) -> Answer<Self::WatchTransactionStream> {
        let transaction = self.lock().find(&request.into_inner().transaction_id, "")?.clone();
        let event = |text: &str| {
            Ok(v1::WatchTransactionResponse {
                at: None,
                transaction: Some(transaction.clone()),
                event: text.to_owned(),
            })
        };
        let events = vec![event("watching"), event("ended")];
        Ok(Response::new(tokio_stream::iter(events)))
    }

    type StreamTransactionsStream =
        UnboundedReceiverStream<Result<v1::StreamTransactionsResponse, Status>>;

    async fn stream_transactions(
        &self,
        request: Request<Streaming<v1::StreamTransactionsRequest>>,
    ) -> Answer<Self::StreamTransactionsStream> {
        let mut streams = self.streams.subscribe();
        if let Some(status) = streams.borrow().clone() {
            return Err(status);
        }
        self.lock().opened += 1;
        let mut frames = request.into_inner();
        let (answers, outgoing) = mpsc::unbounded_channel();
        let fake = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    frame = frames.message() => match frame {
                        Ok(Some(frame)) => for call in frame.calls {
                            let (fake, answers) = (fake.clone(), answers.clone());
                            tokio::spawn(async move {
                                let answers_of_one = vec![fake.answer(call).await];
                                let frame =
                                    v1::StreamTransactionsResponse { answers: answers_of_one };
                                // The client may have gone.
                                let _ = answers.send(Ok(frame));
                            });
                        },
                        _ => return,
                    },
                    end = streams.wait_for(Option::is_some) => {
                        if let Ok(Some(status)) = end.as_deref() {
                            let _ = answers.send(Err(status.clone()));
                        }
                        return;
                    }
                }
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(outgoing)))
    }
}

#[tonic::async_trait]
impl CoordinatorService for Fake {
    async fn register_participant(
        &self,
        _: Request<v1::RegisterParticipantRequest>,
    ) -> Answer<v1::RegisterParticipantResponse> {
        Err(Status::unimplemented("the participants of a fake are fixed"))
    }

    async fn list_participants(
        &self,
        request: Request<v1::ListParticipantsRequest>,
    ) -> Answer<v1::ListParticipantsResponse> {
        // One to a page, so that paging is always tried.
        let (name, next) = match request.into_inner().page_token.as_str() {
            "" => ("accounts", "orders"),
            _ => ("orders", ""),
        };
        let participant = v1::RegisteredParticipant {
            participant: name.to_owned(),
            endpoint: self.endpoint.clone(),
            connected: true,
            ..Default::default()
        };
        let next_page_token = next.to_owned();
        Ok(Response::new(v1::ListParticipantsResponse {
            participants: vec![participant],
            next_page_token,
        }))
    }

    async fn enlist_branch(
        &self,
        _: Request<v1::EnlistBranchRequest>,
    ) -> Answer<v1::EnlistBranchResponse> {
        Err(Status::unimplemented("the participants of a fake need not enlist"))
    }

    async fn inquire(&self, _: Request<v1::InquireRequest>) -> Answer<v1::InquireResponse> {
        Err(Status::unimplemented("the participants of a fake are never in doubt"))
    }
}

#[tonic::async_trait]
impl KeyValueService for Fake {
    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Answer<v1::ApplyResponse> {
        let request = request.into_inner();
        self.lock().applied += 1;
        self.follow_script().await?;
        // Which participant is meant cannot be told by the request; both are this process.
        let mut state = self.lock();
        let result =
            state.work(&request.transaction_id, "accounts", request.work.unwrap_or_default())?;
        Ok(Response::new(v1::ApplyResponse { result: Some(result) }))
    }
}
