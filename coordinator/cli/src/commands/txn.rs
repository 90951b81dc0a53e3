//! `handfast txn`: begin, end and inspect transactions.

use std::time::{Duration, SystemTime};

use handfast_client::v1;
use handfast_client::{
    Client, CommitOptions, ListFilter, TransactionKey, TransactionState, TransactionStatus,
};
use handfast_wire::convert;
use serde_json::{Value, json};

use crate::commands::execute::{outcome_fields, outcome_rows, reply_time};
use crate::commands::{connect, execute, transaction_options};
use crate::config::Settings;
use crate::duration::show_duration;
use crate::failure::Failure;
use crate::options::{Abort, Commit, List, Show, State, TxnCommand};
use crate::output::{Output, base64, shown, word};

/// Most transactions in one page.
const PAGE_SIZE_MAX: u32 = 1000;

/// Runs one of the commands.
pub async fn run(
    command: TxnCommand,
    settings: &Settings,
    output: &mut Output,
) -> Result<(), Failure> {
    // Before connecting: its arguments may be wrong.
    if let TxnCommand::Execute(arguments) = command {
        return execute::run(arguments, settings, output).await;
    }
    let client = connect(settings).await?;
    match command {
        TxnCommand::Execute(_) => Ok(()),
        TxnCommand::Begin(arguments) => {
            let id = client.begin(transaction_options(arguments)).await?.leave();
            match output.is_json() {
                true => output.json(&json!({ "transaction_id": id.to_string() })),
                false => output.line(&id.to_string()),
            }
        }
        TxnCommand::Commit(arguments) => commit(&client, arguments, output).await,
        TxnCommand::Abort(arguments) => abort(&client, arguments, output).await,
        TxnCommand::Show(arguments) => {
            show(&client, arguments, settings.timeout.value, output).await
        }
        TxnCommand::List(arguments) => list(&client, arguments, output).await,
        TxnCommand::Watch { id } => {
            let mut watch = client.watch(id).await?;
            while let Some(event) = watch.next().await? {
                print_event(&event, output)?;
            }
            Ok(())
        }
    }
}

async fn commit(client: &Client, arguments: Commit, output: &mut Output) -> Result<(), Failure> {
    let options = CommitOptions {
        reply_time: reply_time(arguments.reply),
        request_id: arguments.request_id,
        deadline: None,
    };
    let committed = client.attach(arguments.id).commit_with(options).await?;
    match output.is_json() {
        true => output.json(&Value::Object(outcome_fields(&committed))),
        false => output.fields(outcome_rows(&committed)),
    }
}

async fn abort(client: &Client, arguments: Abort, output: &mut Output) -> Result<(), Failure> {
    let aborted = client.attach(arguments.id).abort(arguments.reason).await?;
    if output.is_json() {
        return output.json(&json!({
            "transaction_id": aborted.transaction_id.to_string(),
            "outcome": "aborted",
            "abort_reason": reason_json(&aborted.reason),
        }));
    }
    output.fields(vec![
        ("transaction", aborted.transaction_id.to_string()),
        ("outcome", "aborted".into()),
        ("reason", reason_text(&aborted.reason)),
    ])
}

async fn show(
    client: &Client,
    arguments: Show,
    patience: Duration,
    output: &mut Output,
) -> Result<(), Failure> {
    let key = match (arguments.id, arguments.request_id) {
        (Some(id), _) => TransactionKey::Id(id),
        (None, Some(request_id)) => TransactionKey::Request(request_id),
        (None, None) => {
            return Err(Failure::Usage("give a transaction's id or --request-id".into()));
        }
    };
    if arguments.wait {
        let status = client.resolve(key, patience).await?.into_committed()?;
        return print(&status, output);
    }
    print(&client.get(key).await?, output)
}

async fn list(client: &Client, arguments: List, output: &mut Output) -> Result<(), Failure> {
    let mut left = arguments.limit;
    let mut filter = ListFilter {
        states: arguments.states.into_iter().map(state).collect(),
        participant: arguments.participant,
        older_than: arguments.older_than,
        page_size: 0,
    };
    let mut transactions = Vec::new();
    let mut page = None;
    while left > 0 {
        filter.page_size = u16::try_from(left.min(PAGE_SIZE_MAX)).unwrap_or(u16::MAX);
        let found = client.list(&filter, page).await?;
        let count = u32::try_from(found.transactions.len()).unwrap_or(u32::MAX);
        transactions.extend(found.transactions);
        left = left.saturating_sub(count);
        page = found.next;
        // An empty page that promises more would be asked for without end.
        if page.is_none() || count == 0 {
            break;
        }
    }
    let more = page.is_some();
    if output.is_json() {
        let transactions: Vec<Value> = transactions.iter().map(transaction_json).collect();
        return output.json(&json!({ "transactions": transactions, "more": more }));
    }
    let now = SystemTime::now();
    let rows = transactions.iter().map(|found| {
        let participants: Vec<_> =
            found.branches.iter().map(|branch| branch.participant.as_str()).collect();
        [
            shown(&found.transaction_id),
            state_word(found.state()),
            age(found, now),
            shown(&participants.join(",")),
            shown(&found.summary),
        ]
    });
    output.table(["TRANSACTION", "STATE", "AGE", "PARTICIPANTS", "SUMMARY"], rows.collect())?;
    if more {
        output.line("\nThere are more; --limit N shows more of them.")?;
    }
    Ok(())
}

fn print_event(event: &v1::WatchTransactionResponse, output: &mut Output) -> Result<(), Failure> {
    let at = event.at.as_ref().map(ToString::to_string);
    let transaction = event.transaction.as_ref();
    if output.is_json() {
        return output.json_line(&json!({
            "at": at,
            "event": event.event,
            "transaction": transaction.map(transaction_json),
        }));
    }
    let state = transaction.map_or_else(|| "-".into(), |found| state_word(found.state()));
    let at = at.unwrap_or_else(|| "-".into());
    output.line(&format!("{at}  {state:<10}  {}", shown(&event.event)))?;
    output.flush()
}

fn print(found: &TransactionStatus, output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(&transaction_json(found));
    }
    let time = |at: &Option<_>| at.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut labels: Vec<_> =
        found.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.sort();
    output.fields(vec![
        ("transaction", shown(&found.transaction_id)),
        ("state", state_word(found.state())),
        ("reason", found.abort_reason.as_ref().map(reason_text).unwrap_or_default()),
        ("protocol", word(found.protocol().as_str_name(), "PROTOCOL_")),
        ("ballot", found.site.as_deref().map(ballot_text).unwrap_or_default()),
        ("waits for", found.site.as_deref().map(quorum_text).unwrap_or_default()),
        ("request id", shown(&found.request_id)),
        ("summary", shown(&found.summary)),
        ("labels", shown(&labels.join(" "))),
        ("started", time(&found.started_at)),
        ("decided", time(&found.decided_at)),
        ("finished", time(&found.finished_at)),
        (
            "timeout",
            milliseconds(found.timeout.as_ref())
                .map(Duration::from_millis)
                .map(show_duration)
                .unwrap_or_default(),
        ),
        ("traceparent", shown(&found.traceparent)),
    ])?;
    if found.branches.is_empty() {
        return Ok(());
    }
    let rows = found
        .branches
        .iter()
        .map(|branch| [shown(&branch.participant), branch_word(branch.state())]);
    output.line("")?;
    output.table(["PARTICIPANT", "BRANCH"], rows.collect())
}

fn transaction_json(found: &TransactionStatus) -> Value {
    let time = |at: &Option<_>| at.as_ref().map(ToString::to_string);
    let branches = found.branches.iter().map(|branch| {
        json!({
            "participant": branch.participant,
            "state": branch_word(branch.state()),
            "result_base64": base64(&branch.result),
        })
    });
    json!({
        "transaction_id": found.transaction_id,
        "protocol": word(found.protocol().as_str_name(), "PROTOCOL_"),
        "state": state_word(found.state()),
        "abort_reason": found.abort_reason.as_ref().map(reason_json),
        "site": found.site.as_deref().map(site_json),
        "request_id": found.request_id,
        "branches": branches.collect::<Vec<Value>>(),
        "summary": found.summary,
        "labels": found.labels,
        "started_at": time(&found.started_at),
        "decided_at": time(&found.decided_at),
        "finished_at": time(&found.finished_at),
        "timeout_ms": milliseconds(found.timeout.as_ref()),
        "traceparent": found.traceparent,
    })
}

/// Three-phase commit: the ballot that the coordinator has joined, who leads it, and where the coordinator stands.
fn ballot_text(site: &v1::SiteStatus) -> String {
    let standing = word(site.standing().as_str_name(), "SITE_STANDING_");
    let (promised, leader) = (shown(&site.promised), shown(&site.leader));
    match site.accepted.as_str() {
        "" => format!("{promised}, led by {leader}; the coordinator is {standing}"),
        accepted => format!(
            "{promised}, led by {leader}; the coordinator is {standing} since {}",
            shown(accepted)
        ),
    }
}

/// Three-phase commit: who is missing for a quorum, as far as the coordinator leads and can tell.
fn quorum_text(site: &v1::SiteStatus) -> String {
    if site.missing.is_empty() {
        return format!("{}, which leads", shown(&site.leader));
    }
    let wanted = site.wanted;
    let missing: Vec<_> = site.missing.iter().map(|name| shown(name)).collect();
    format!("{wanted} of: {}", missing.join(", "))
}

pub(super) fn site_json(site: &v1::SiteStatus) -> Value {
    json!({
        "standing": word(site.standing().as_str_name(), "SITE_STANDING_"),
        "promised": site.promised,
        "accepted": site.accepted,
        "leader": site.leader,
        "missing": site.missing,
        "wanted": site.wanted,
        "moving": site.moving,
    })
}

fn reason_json(reason: &v1::AbortReason) -> Value {
    json!({
        "cause": word(reason.cause().as_str_name(), "ABORT_CAUSE_"),
        "participant": reason.participant,
        "message": reason.message,
    })
}

fn reason_text(reason: &v1::AbortReason) -> String {
    match reason.message.as_str() {
        "" => word(reason.cause().as_str_name(), "ABORT_CAUSE_"),
        message => shown(message),
    }
}

fn state_word(state: TransactionState) -> String {
    word(state.as_str_name(), "TRANSACTION_STATE_")
}

fn branch_word(state: v1::BranchState) -> String {
    word(state.as_str_name(), "BRANCH_STATE_")
}

fn state(state: State) -> TransactionState {
    match state {
        State::Active => TransactionState::Active,
        State::Preparing => TransactionState::Preparing,
        State::PreCommitted => TransactionState::PreCommitted,
        State::Committing => TransactionState::Committing,
        State::Committed => TransactionState::Committed,
        State::Aborted => TransactionState::Aborted,
        State::Unknown => TransactionState::Unknown,
    }
}

/// How long ago it started, by this machine's clock; for people only.
fn age(found: &TransactionStatus, now: SystemTime) -> String {
    let Some(started) = found.started_at.and_then(|at| SystemTime::try_from(at).ok()) else {
        return "-".into();
    };
    match now.duration_since(started).unwrap_or_default().as_secs() {
        seconds if seconds < 120 => format!("{seconds}s"),
        seconds if seconds < 7200 => format!("{}m", seconds / 60),
        seconds => format!("{}h", seconds / 3600),
    }
}

fn milliseconds(duration: Option<&prost_types::Duration>) -> Option<u64> {
    let duration = convert::duration("duration", duration?).ok()?;
    u64::try_from(duration.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vote_without_a_quorum_says_who_leads_and_who_is_missing() {
        let mut site = v1::SiteStatus {
            promised: "2.1".into(),
            accepted: "1.0".into(),
            leader: "store-a".into(),
            ..Default::default()
        };
        site.set_standing(v1::SiteStanding::PreCommitted);
        let ballot = "2.1, led by store-a; the coordinator is pre_committed since 1.0";
        assert_eq!(ballot_text(&site), ballot);
        assert_eq!(quorum_text(&site), "store-a, which leads");
        site.missing = vec!["store-b".into(), "witness w".into()];
        site.wanted = 1;
        assert_eq!(quorum_text(&site), "1 of: store-b, witness w");
    }
}
