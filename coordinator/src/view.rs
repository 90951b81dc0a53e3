//! Transactions as people and programs are shown them.

use handfast_commit_core::id::{ParticipantName, Protocol, TransactionId};
use handfast_commit_core::record::{
    AbortReason, Commit, Decision, Ended, Info, Request, VotingCoordinator,
};
use handfast_commit_core::two_phase::coordinator::{
    BranchState, Event, Outcome, PhaseView, TransactionView,
};
use handfast_wire::record::cause_number;
use handfast_wire::{site, v1};
use prost::Message;
use prost_types::{Duration, Timestamp};

use crate::store::Found;

/// Most bytes of an answer. What the participants returned is left out of one that would have more.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;
/// What is around an outcome or a transaction in its answer, at most.
const ENVELOPE_BYTES: usize = 64;
/// Results of fewer bytes than this fit with whatever is beside them.
const RESULTS_BYTES_SAFE: usize = ANSWER_BYTES_MAX / 2;

fn timestamp(ms: u64) -> Option<Timestamp> {
    (ms > 0).then(|| Timestamp {
        seconds: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
        nanos: (ms % 1000) as i32 * 1_000_000,
    })
}

/// A wall-clock time of the core.
#[must_use]
pub fn at(ms: u64) -> Option<Timestamp> {
    timestamp(ms)
}

/// A length of time.
#[must_use]
pub fn duration(us: u64) -> Option<Duration> {
    (us > 0).then(|| Duration {
        seconds: i64::try_from(us / 1_000_000).unwrap_or(i64::MAX),
        nanos: (us % 1_000_000) as i32 * 1000,
    })
}

fn protocol(id: TransactionId) -> v1::Protocol {
    match id.protocol() {
        Protocol::TwoPhase => v1::Protocol::TwoPhase,
        Protocol::ThreePhase => v1::Protocol::ThreePhase,
        Protocol::PaxosCommit => v1::Protocol::PaxosCommit,
    }
}

fn abort_reason(reason: &AbortReason) -> v1::AbortReason {
    v1::AbortReason {
        // The numbers are the same by definition.
        cause: i32::try_from(cause_number(reason.cause)).unwrap_or(0),
        participant: reason.participant.as_ref().map(ToString::to_string).unwrap_or_default(),
        message: reason.message.clone(),
    }
}

fn base(id: TransactionId, info: &Info) -> v1::Transaction {
    v1::Transaction {
        transaction_id: id.to_string(),
        protocol: protocol(id).into(),
        summary: info.summary.clone(),
        labels: info.labels.iter().cloned().collect(),
        traceparent: info.traceparent.clone(),
        ..Default::default()
    }
}

/// The state that a running transaction is in.
#[must_use]
pub fn running_state(phase: PhaseView) -> v1::TransactionState {
    match phase {
        PhaseView::Active => v1::TransactionState::Active,
        PhaseView::Preparing | PhaseView::OnePhase => v1::TransactionState::Preparing,
        PhaseView::PreCommitted => v1::TransactionState::PreCommitted,
        PhaseView::Committing => v1::TransactionState::Committing,
        PhaseView::Aborting => v1::TransactionState::Aborted,
    }
}

/// A running transaction.
#[must_use]
pub fn running(view: &TransactionView) -> v1::Transaction {
    let branches = view
        .branches
        .iter()
        .map(|branch| v1::BranchStatus {
            participant: branch.participant.to_string(),
            state: match branch.state {
                BranchState::Enlisted => v1::BranchState::Enlisted,
                BranchState::Preparing => v1::BranchState::Preparing,
                BranchState::Prepared | BranchState::Aborting => v1::BranchState::Prepared,
                BranchState::ReadOnly => v1::BranchState::ReadOnly,
                BranchState::OnePhase => v1::BranchState::OnePhase,
                BranchState::Committing => v1::BranchState::Committing,
                BranchState::Committed => v1::BranchState::Committed,
                BranchState::Aborted => v1::BranchState::Aborted,
            }
            .into(),
            result: branch.result.clone(),
        })
        .collect();
    let mut transaction = v1::Transaction {
        state: running_state(view.phase).into(),
        abort_reason: view.abort.as_ref().map(abort_reason),
        request_id: request_id(&view.request),
        branches,
        site: view.site.as_ref().map(site::status_message).map(Box::new),
        started_at: timestamp(view.started_ms),
        decided_at: timestamp(view.decided_ms),
        timeout: duration(view.timeout_us),
        ..base(view.id, &view.info)
    };
    let returned = transaction.branches.iter().map(|branch| branch.result.len()).sum();
    if !fits(returned, &transaction) {
        transaction.branches.iter_mut().for_each(|branch| branch.result.clear());
        transaction.results_left_out = true;
    }
    transaction
}

/// Whether an answer holds this, of which so many bytes are what the participants returned.
fn fits(returned: usize, message: &impl Message) -> bool {
    returned <= RESULTS_BYTES_SAFE || message.encoded_len() + ENVELOPE_BYTES <= ANSWER_BYTES_MAX
}

fn request_id(request: &Option<Request>) -> String {
    request.as_ref().map(|request| request.id.to_string()).unwrap_or_default()
}

fn branches<'a>(
    names: impl Iterator<Item = &'a ParticipantName>,
    state: v1::BranchState,
) -> Vec<v1::BranchStatus> {
    names
        .map(|name| v1::BranchStatus {
            participant: name.to_string(),
            state: state.into(),
            ..Default::default()
        })
        .collect()
}

/// A decision in the log.
#[must_use]
pub fn decided(commit: &Commit) -> v1::Transaction {
    v1::Transaction {
        state: v1::TransactionState::Committing.into(),
        request_id: request_id(&commit.request),
        branches: branches(commit.voters.iter().map(|(name, _)| name), v1::BranchState::Committing),
        started_at: timestamp(commit.started_ms),
        decided_at: timestamp(commit.decided_ms),
        ..base(commit.id, &commit.info)
    }
}

/// A decision of three-phase commit in the log.
#[must_use]
pub fn decided_by_sites(decision: &Decision) -> v1::Transaction {
    let (state, branch_state) = match &decision.outcome {
        Ok(()) => (v1::TransactionState::Committing, v1::BranchState::Committing),
        Err(_) => (v1::TransactionState::Aborted, v1::BranchState::Aborted),
    };
    let names = decision.sites.participants().iter().map(|(name, _)| name);
    v1::Transaction {
        state: state.into(),
        abort_reason: decision.outcome.as_ref().err().map(abort_reason),
        request_id: request_id(&decision.request),
        branches: branches(names, branch_state),
        started_at: timestamp(decision.started_ms),
        decided_at: timestamp(decision.decided_ms),
        ..base(decision.id, &decision.info)
    }
}

/// A transaction of three-phase commit whose decision is not in the log.
#[must_use]
pub fn voting(voting: &VotingCoordinator) -> v1::Transaction {
    let names = voting.sites.participants().iter().map(|(name, _)| name);
    v1::Transaction {
        state: v1::TransactionState::PreCommitted.into(),
        request_id: request_id(&voting.request),
        branches: branches(names, v1::BranchState::Prepared),
        started_at: timestamp(voting.started_ms),
        ..base(voting.id, &voting.info)
    }
}

/// An end in the log.
#[must_use]
pub fn ended(ended: &Ended) -> v1::Transaction {
    let (state, branch_state) = match &ended.outcome {
        Ok(()) => (v1::TransactionState::Committed, v1::BranchState::Committed),
        Err(_) => (v1::TransactionState::Aborted, v1::BranchState::Aborted),
    };
    v1::Transaction {
        state: state.into(),
        abort_reason: ended.outcome.as_ref().err().map(abort_reason),
        request_id: request_id(&ended.request),
        branches: branches(ended.participants.iter(), branch_state),
        started_at: timestamp(ended.started_ms),
        finished_at: timestamp(ended.ended_ms),
        ..base(ended.id, &ended.info)
    }
}

/// Whatever was found in the log.
#[must_use]
pub fn found(found: &Found) -> v1::Transaction {
    match found {
        Found::Live(commit) => decided(commit),
        Found::Decided(decision) => decided_by_sites(decision),
        Found::Voting(record) => voting(record),
        Found::Ended(end) => ended(end),
    }
}

/// A transaction of which only the state is known.
#[must_use]
pub fn bare(id: TransactionId, state: v1::TransactionState) -> v1::Transaction {
    v1::Transaction { state: state.into(), ..base(id, &Info::default()) }
}

/// A presumed abort.
#[must_use]
pub fn presumed_aborted(id: TransactionId) -> v1::Transaction {
    v1::Transaction { abort_reason: Some(presumed()), ..bare(id, v1::TransactionState::Aborted) }
}

fn presumed() -> v1::AbortReason {
    v1::AbortReason {
        cause: v1::AbortCause::Presumed.into(),
        participant: String::new(),
        message: "nobody remembers a decision, so there was none".to_owned(),
    }
}

/// The answer to a commit.
#[must_use]
pub fn outcome(outcome: Outcome) -> v1::Outcome {
    let state = match &outcome.result {
        Ok(()) if outcome.pending.is_empty() => v1::TransactionState::Committed,
        Ok(()) => v1::TransactionState::Committing,
        Err(_) => v1::TransactionState::Aborted,
    };
    let mut outcome = v1::Outcome {
        transaction_id: outcome.id.to_string(),
        state: state.into(),
        abort_reason: outcome.result.as_ref().err().map(abort_reason),
        pending: outcome.pending.iter().map(ToString::to_string).collect(),
        results: outcome
            .results
            .into_iter()
            .map(|(name, payload)| v1::BranchResult { participant: name.to_string(), payload })
            .collect(),
        repeated_request: outcome.repeated,
        results_left_out: false,
    };
    let returned = outcome.results.iter().map(|result| result.payload.len()).sum();
    if !fits(returned, &outcome) {
        leave_results_out(&mut outcome);
    }
    outcome
}

/// Whether this is a commit with results that fit with whatever is beside them: what most answers are, which are
/// written without the message that [`outcome`] makes.
#[must_use]
pub fn is_plain(outcome: &Outcome) -> bool {
    let returned: usize = outcome.results.iter().map(|(_, payload)| payload.len()).sum();
    outcome.result.is_ok() && returned <= RESULTS_BYTES_SAFE
}

/// Tells the outcome without what the participants returned, and says so.
pub fn leave_results_out(outcome: &mut v1::Outcome) {
    outcome.results_left_out |= !outcome.results.is_empty();
    outcome.results.clear();
}

/// The answer to a repeated commit or abort of a transaction that is over.
#[must_use]
pub fn outcome_of(transaction: &v1::Transaction) -> v1::Outcome {
    let pending = transaction
        .branches
        .iter()
        .filter(|branch| branch.state == i32::from(v1::BranchState::Committing));
    v1::Outcome {
        transaction_id: transaction.transaction_id.clone(),
        state: transaction.state,
        abort_reason: transaction.abort_reason.clone(),
        pending: pending.map(|branch| branch.participant.clone()).collect(),
        results: Vec::new(),
        repeated_request: true,
        results_left_out: false,
    }
}

/// An event in one sentence.
#[must_use]
pub fn sentence(event: &Event) -> String {
    match event {
        Event::Begun { .. } => "begun".to_owned(),
        Event::Enlisted { participant, .. } => format!("{participant} joined"),
        Event::Preparing { .. } => "the participants are asked to prepare".to_owned(),
        Event::Voted { participant, .. } => format!("{participant} voted yes"),
        Event::VotedNo { participant, reason, .. } => format!("{participant} voted no: {reason}"),
        Event::PreCommitted { .. } => {
            "everybody voted yes; the sites are told to pre-commit".to_owned()
        }
        Event::Elects { ballot, .. } => format!("the coordinator leads ballot {ballot}"),
        Event::Waits { waiting_for, .. } => format!("waits for {waiting_for}"),
        Event::Decided { .. } => "commit is decided".to_owned(),
        Event::Aborted { reason, .. } => format!("aborted: {}", reason.message),
        Event::Acknowledged { participant, .. } => format!("{participant} has committed"),
        Event::Ended { .. } => "every participant has committed".to_owned(),
        Event::Alarm { participant, alarm, .. } => format!("ALARM: {participant} {alarm}"),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use handfast_commit_core::limits::{BRANCHES_MAX, PAYLOAD_BYTES_MAX};

    use super::*;

    fn committed(branches: usize, bytes_each: usize) -> v1::Outcome {
        let id = "0007-02-0000000012-00000000000004d2".parse().expect("an id");
        let returned = Bytes::from(vec![0; bytes_each]);
        let mut found = Outcome::committed(id, false);
        let name = |n: usize| format!("{n:0>64}").parse().expect("a name");
        found.pending = (0..BRANCHES_MAX).map(name).collect();
        found.results = (0..branches).map(|n| (name(n), returned.clone())).collect();
        outcome(found)
    }

    #[test]
    fn an_answer_holds_what_it_can_and_says_when_it_cannot() {
        // 64 MiB, with names and lengths, is a little too much.
        for (branches, bytes_each, fits) in [
            (0, 0, true),
            (BRANCHES_MAX, 0, true),
            (63, PAYLOAD_BYTES_MAX, true),
            (64, PAYLOAD_BYTES_MAX, false),
            (64, PAYLOAD_BYTES_MAX - 1024, true),
            (BRANCHES_MAX, PAYLOAD_BYTES_MAX, false),
        ] {
            let outcome = committed(branches, bytes_each);
            assert_eq!(outcome.state(), v1::TransactionState::Committing);
            assert_eq!(outcome.results_left_out, !fits, "{branches} of {bytes_each}");
            assert_eq!(outcome.results.len(), if fits { branches } else { 0 });
            let answer = v1::ExecuteTransactionResponse { outcome: Some(outcome) };
            assert!(answer.encoded_len() <= ANSWER_BYTES_MAX);
        }
    }
}
