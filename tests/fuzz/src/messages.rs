//! A random value of every message of the interface and of every stored one.

use handfast_wire::v1::key_value_operation::Operation;
use handfast_wire::{storage, v1};
use prost::Message;
use tonic_types::{RetryInfo, pb};

use crate::random::Random;
use crate::sample::{
    duration, endpoint, enumeration, id_text, maybe, name, payload, request_id, some, text,
    timestamp,
};

/// Messages that can be made at random.
pub trait Sample: Message + Default + PartialEq + Clone {
    /// One of them.
    fn sample(random: &mut Random) -> Self;
}

/// A sample for each message whose fields are made one by one.
macro_rules! samples {
    ($($module:ident::$message:ident { $($field:ident: $value:expr),* $(,)? })*) => {$(
        impl Sample for $module::$message {
            fn sample(random: &mut Random) -> Self {
                let make = |random: &mut Random| Self { $($field: ($value)(random)),* };
                make(random)
            }
        }
    )*};
}

fn number(random: &mut Random) -> u64 {
    random.number()
}

/// An epoch or a sequence that is likely to be the present one.
fn small(random: &mut Random) -> u64 {
    if random.one_in(6) { random.number() } else { random.next() % 4 }
}

/// A ballot of a low round, or any number.
fn ballot(random: &mut Random) -> u64 {
    match random.below(6) {
        0 => 0,
        1 => random.number(),
        _ => ((1 + random.next() % 3) << 16) | (random.next() % 4),
    }
}

fn flag(random: &mut Random) -> bool {
    random.one_in(2)
}

fn vote(random: &mut Random) -> i32 {
    random.below(6) as i32
}

fn page_token(random: &mut Random) -> String {
    if random.one_in(2) { id_text(random) } else { name(random) }
}

fn opt<M: Sample>(random: &mut Random) -> Option<M> {
    maybe(random, M::sample)
}

fn list<M: Sample>(random: &mut Random) -> Vec<M> {
    some(random, M::sample)
}

/// One at most: of several the order, and with it the encoded message, would be another every time.
fn labels(random: &mut Random) -> std::collections::HashMap<String, String> {
    maybe(random, |random| (text(random), text(random))).into_iter().collect()
}

samples! {
    v1::Origin {
        slot: |random: &mut Random| if random.one_in(8) { random.number() as u32 } else { 0 },
        epoch: small,
        coordinator_incarnation: small,
        lowest_live_sequence: small,
        coordinator_endpoint: endpoint,
    }
    v1::Peer { participant: name, endpoint: endpoint }
    v1::PrepareRequest {
        transaction_id: id_text,
        origin: opt,
        carries_work: flag,
        payload: |random: &mut Random| match random.below(3) {
            0 => payload(random),
            _ => v1::KeyValueWork::sample(random).encode_to_vec().into(),
        },
        peers: list,
        one_phase: flag,
        request_id: request_id,
        participant: name,
        voting: opt,
    }
    v1::VotingSites { participants: list, witnesses: list }
    v1::VotingParticipant { participant: name, participant_incarnation: small }
    v1::VotingWitness { witness: name, endpoint: endpoint }
    v1::SiteName { role: enumeration, name: name }
    v1::SiteOrder {
        transaction_id: id_text,
        incarnation: small,
        kind: enumeration,
        ballot: ballot,
        committed: flag,
    }
    v1::SiteReport {
        transaction_id: id_text,
        kind: enumeration,
        ballot: ballot,
        accepted: ballot,
        standing: enumeration,
        promised: ballot,
        committed: flag,
    }
    v1::LeadRequest { from: opt, from_endpoint: endpoint, to: opt, orders: list }
    v1::LeadResponse { reports: list }
    v1::PrepareResponse {
        vote: vote,
        reason: text,
        result: payload,
        participant_incarnation: small,
        committed_transaction_id: |random: &mut Random| maybe(random, id_text).unwrap_or_default(),
    }
    v1::PreCommitRequest {
        transaction_id: id_text,
        origin: opt,
        ballot: ballot,
        participant: name,
        participant_incarnation: small,
    }
    v1::PreCommitResponse { accepted: flag, promised: number }
    v1::CommitRequest {
        transaction_id: id_text,
        origin: opt,
        participant_incarnation: small,
        participant: name,
    }
    v1::AbortRequest { transaction_id: id_text, origin: opt, participant: name }
    v1::ListInDoubtRequest { transaction_id: id_text, participant: name }
    v1::ListInDoubtResponse { branches: list }
    v1::InDoubtBranch {
        transaction_id: id_text,
        one_phase_committed: flag,
        request_id: request_id,
        since: |random: &mut Random| maybe(random, timestamp),
        waiting_for: text,
        site: opt,
    }
    v1::SiteStatus {
        standing: enumeration,
        promised: text,
        accepted: text,
        leader: text,
        missing: |random: &mut Random| some(random, text),
        wanted: |random: &mut Random| random.number() as u32,
        moving: flag,
    }
    v1::SessionHello { participant: name, session: number }
    v1::SessionRequest { hello: opt, messages: list, origin: opt }
    v1::ForgetRequest { transaction_id: id_text, participant: name }
    v1::InquiryAnswer { transaction_id: id_text, outcome: enumeration }
    v1::SessionWelcome { participant: name, participant_incarnation: small, one_phase_commits: list }
    v1::SessionResponse { welcome: opt, messages: list }
    v1::Refusal { code: enumeration, reason: text }
    v1::InquireRequest { transaction_id: id_text, participant: name, coordinator_incarnation: small }
    v1::InquireResponse { answer: opt }
    v1::InquirePeerRequest { inquiry: opt, peer: name }
    v1::InquirePeerResponse { answer: opt }
    v1::RegisterParticipantRequest {
        participant: name,
        endpoint: endpoint,
        participant_incarnation: small,
    }
    v1::RegisterParticipantResponse { slot: |random: &mut Random| random.number() as u32,
        epoch: number, coordinator_incarnation: number }
    v1::ListParticipantsRequest { page_size: enumeration, page_token: page_token }
    v1::EnlistBranchRequest {
        transaction_id: id_text,
        participant: name,
        participant_incarnation: small,
        enlistment: small,
    }
    v1::EnlistBranchResponse { origin: opt, time_left: |random: &mut Random| maybe(random, duration) }
    v1::TransactionOptions {
        protocol: |random: &mut Random| if random.one_in(4) { enumeration(random) } else { 0 },
        timeout: |random: &mut Random| maybe(random, duration),
        summary: text,
        labels: labels,
        traceparent: text,
    }
    v1::BeginTransactionRequest { options: opt }
    v1::CommitTransactionRequest {
        transaction_id: id_text,
        reply_time: enumeration,
        request_id: request_id,
    }
    v1::AbortTransactionRequest { transaction_id: id_text, reason: text }
    v1::BranchWork { participant: name, payload: payload }
    v1::ExecuteTransactionRequest {
        request_id: request_id,
        branches: list,
        reply_time: enumeration,
        options: opt,
    }
    v1::ExecuteTransactionResponse { outcome: opt }
    v1::AbortReason { cause: enumeration, participant: name, message: text }
    v1::BranchResult { participant: name, payload: payload }
    v1::Outcome {
        transaction_id: id_text,
        state: enumeration,
        abort_reason: opt,
        pending: |random: &mut Random| some(random, name),
        results: list,
        repeated_request: flag,
        results_left_out: flag,
    }
    v1::GetTransactionRequest {
        transaction_id: |random: &mut Random| maybe(random, id_text).unwrap_or_default(),
        request_id: |random: &mut Random| if random.one_in(2) { request_id(random) } else { String::new() },
    }
    v1::ListTransactionsRequest {
        page_size: enumeration,
        page_token: page_token,
        states: |random: &mut Random| some(random, enumeration),
        participant: name,
        older_than: |random: &mut Random| maybe(random, duration),
    }
    v1::WatchTransactionRequest { transaction_id: id_text }
    v1::BranchStatus { participant: name, state: enumeration, result: payload }
    v1::Transaction {
        transaction_id: id_text,
        protocol: enumeration,
        state: enumeration,
        abort_reason: opt,
        request_id: request_id,
        branches: list,
        summary: text,
        labels: labels,
        started_at: |random: &mut Random| maybe(random, timestamp),
        decided_at: |random: &mut Random| maybe(random, timestamp),
        finished_at: |random: &mut Random| maybe(random, timestamp),
        timeout: |random: &mut Random| maybe(random, duration),
        traceparent: text,
        results_left_out: flag,
        site: |random: &mut Random| opt(random).map(Box::new),
    }
    v1::WatchTransactionResponse {
        at: |random: &mut Random| maybe(random, timestamp),
        transaction: opt,
        event: text,
    }
    v1::BeginTransactionResponse {
        transaction_id: id_text,
        timeout: |random: &mut Random| maybe(random, duration),
    }
    v1::CommitTransactionResponse { outcome: opt }
    v1::AbortTransactionResponse { outcome: opt }
    v1::GetTransactionResponse { transaction: opt }
    v1::StreamTransactionsRequest { calls: list }
    v1::StreamTransactionsResponse { answers: list }
    pb::Status { code: enumeration, message: text, details: |random: &mut Random| some(random, any) }
    v1::KeyValueWork { operations: list }
    v1::ApplyRequest { transaction_id: id_text, work: opt }
    v1::KeyValueResult { results: list }
    v1::KeyValueOperationResult { value: |random: &mut Random| maybe(random, payload) }

    storage::Voter { participant: name, incarnation: small }
    storage::Label { key: text, value: text }
    storage::TransactionInfo {
        summary: text,
        labels: list,
        traceparent: text,
        started_at_ms: number,
        decided_at_ms: number,
    }
    storage::CommitDecision { voters: list, request_id: request_id, fingerprint: number, info: opt }
    storage::Ended {
        committed: flag,
        abort_cause: |random: &mut Random| enumeration(random) as u32,
        abort_participant: name,
        abort_message: text,
        request_id: request_id,
        fingerprint: number,
        participants: |random: &mut Random| some(random, name),
        info: opt,
        ended_at_ms: number,
    }
    storage::Registration { endpoint: endpoint, incarnation: number, registered_at_ms: number }
    storage::CoordinatorMeta { epoch: small }
    storage::PeerAddress { participant: name, endpoint: endpoint }
    storage::PreparedBranch {
        epoch: small,
        coordinator_incarnation: small,
        coordinator_endpoint: endpoint,
        peers: list,
        result: |random: &mut Random| payload(random).to_vec(),
        since_ms: number,
        staged: |random: &mut Random| payload(random).to_vec(),
    }
    storage::FinishedBranch { committed: flag }
    storage::OnePhaseCommit {
        request_id: request_id,
        result: |random: &mut Random| payload(random).to_vec(),
        since_ms: number,
    }
    storage::SiteBallots {
        promised: ballot,
        accepted: ballot,
        standing: |random: &mut Random| enumeration(random) as u32,
    }
    storage::WitnessAddress { witness: name, endpoint: endpoint }
    storage::Sites { participants: list, witnesses: list }
    storage::VotingCoordinator {
        site: opt,
        sites: opt,
        request_id: request_id,
        fingerprint: number,
        info: opt,
    }
    storage::SiteDecision {
        committed: flag,
        abort_cause: |random: &mut Random| enumeration(random) as u32,
        abort_participant: name,
        abort_message: text,
        sites: opt,
        request_id: request_id,
        fingerprint: number,
        info: opt,
    }
    storage::Witness {
        state: |random: &mut Random| {
            use storage::witness::State;
            let decided = |committed| State::Decided(storage::WitnessedDecision { committed });
            maybe(random, |random| match random.below(2) {
                0 => decided(flag(random)),
                _ => State::Undecided(Sample::sample(random)),
            })
        },
    }
    storage::Electorate {
        sites: opt,
        own: |random: &mut Random| random.below(5) as u32,
        coordinator_incarnation: small,
        coordinator_endpoint: endpoint,
        peers: list,
    }
    storage::VotedBranch {
        site: opt,
        electorate: opt,
        read_only: flag,
        result: |random: &mut Random| payload(random).to_vec(),
        since_ms: number,
    }
    storage::DecidedBranch { committed: flag, electorate: opt }
    storage::SlotMeta { epoch: small, lowest_live_sequence: small }
}

impl Sample for v1::CoordinatorMessage {
    fn sample(random: &mut Random) -> Self {
        use v1::coordinator_message::Message;
        let message = maybe(random, |random| match random.below(6) {
            0 => Message::Commit(Sample::sample(random)),
            1 => Message::Abort(Sample::sample(random)),
            2 => Message::Forget(Sample::sample(random)),
            3 => Message::Order(Sample::sample(random)),
            4 => Message::InquiryAnswer(Sample::sample(random)),
            _ => Message::Prepare(Sample::sample(random)),
        });
        Self { message }
    }
}

impl Sample for v1::ParticipantMessage {
    fn sample(random: &mut Random) -> Self {
        use v1::participant_message::Message;
        let message = maybe(random, |random| match random.below(6) {
            0 => Message::Committed(v1::CommitResponse {}),
            1 => Message::Aborted(v1::AbortResponse {}),
            2 => Message::Report(Sample::sample(random)),
            3 => Message::Refusal(Sample::sample(random)),
            4 => Message::Inquire(Sample::sample(random)),
            _ => Message::Vote(Sample::sample(random)),
        });
        Self { transaction_id: id_text(random), message }
    }
}

impl Sample for v1::TransactionCall {
    fn sample(random: &mut Random) -> Self {
        use v1::transaction_call::Request;
        let request = maybe(random, |random| match random.below(8) {
            0 => Request::Begin(Sample::sample(random)),
            1 => Request::Commit(Sample::sample(random)),
            2 => Request::Abort(Sample::sample(random)),
            3 => Request::Get(Sample::sample(random)),
            _ => Request::Execute(Sample::sample(random)),
        });
        let timeout = if random.one_in(2) { None } else { Some(duration(random)) };
        Self { call_id: small(random), timeout, request }
    }
}

impl Sample for v1::TransactionAnswer {
    fn sample(random: &mut Random) -> Self {
        use v1::transaction_answer::Answer;
        let answer = maybe(random, |random| match random.below(8) {
            0 => Answer::Begin(Sample::sample(random)),
            1 => Answer::Commit(Sample::sample(random)),
            2 => Answer::Abort(Sample::sample(random)),
            3 => Answer::Get(Sample::sample(random)),
            4 | 5 => Answer::Status(Sample::sample(random)),
            _ => Answer::Execute(Sample::sample(random)),
        });
        Self { call_id: small(random), answer }
    }
}

/// A detail of a status, which some reader knows.
fn any(random: &mut Random) -> prost_types::Any {
    let delay = pb::RetryInfo { retry_delay: maybe(random, duration) };
    let value = if random.one_in(4) { payload(random).to_vec() } else { delay.encode_to_vec() };
    prost_types::Any { type_url: RetryInfo::TYPE_URL.to_owned(), value }
}

impl Sample for v1::KeyValueOperation {
    fn sample(random: &mut Random) -> Self {
        let key = match random.below(12) {
            0 => vec![b'k'; 1020 + random.below(8)],
            1 => Vec::new(),
            _ => vec![*random.pick(b"abc")],
        };
        let operation = maybe(random, |random| match random.below(5) {
            0 => Operation::Get(v1::KeyValueGet {}),
            1 => Operation::Put(v1::KeyValuePut { value: value(random) }),
            2 => Operation::Delete(v1::KeyValueDelete {}),
            3 => Operation::Add(v1::KeyValueAdd {
                amount: random.number() as i64,
                floor: maybe(random, |random| random.number() as i64),
            }),
            _ => Operation::Expect(v1::KeyValueExpect { value: maybe(random, value) }),
        });
        Self { key: key.into(), operation }
    }
}

/// A value, often a number that can be added to.
fn value(random: &mut Random) -> bytes::Bytes {
    match random.below(4) {
        0 => payload(random),
        1 => (random.number() as i64).to_string().into(),
        2 => (random.next() % 3).to_string().into(),
        _ => (*random.pick(&["", "1.5", "-0", "+1", "9223372036854775807"])).into(),
    }
}

impl Sample for storage::CoordinatorRecord {
    fn sample(random: &mut Random) -> Self {
        use storage::coordinator_record::Record;
        let record = maybe(random, |random| match random.below(6) {
            0 => Record::Commit(Sample::sample(random)),
            1 => Record::Voting(Sample::sample(random)),
            2 => Record::Decision(Sample::sample(random)),
            3 => Record::Witness(Sample::sample(random)),
            _ => Record::Ended(Sample::sample(random)),
        });
        Self { record }
    }
}

impl Sample for storage::ParticipantRecord {
    fn sample(random: &mut Random) -> Self {
        use storage::participant_record::Record;
        let record = maybe(random, |random| match random.below(5) {
            0 => Record::Prepared(Sample::sample(random)),
            1 => Record::Finished(Sample::sample(random)),
            2 => Record::Voted(Sample::sample(random)),
            3 => Record::Decided(Sample::sample(random)),
            _ => Record::OnePhase(Sample::sample(random)),
        });
        Self { record }
    }
}
