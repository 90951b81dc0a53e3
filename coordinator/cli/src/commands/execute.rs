//! `handfast txn execute`: the work of every branch, committed in one call.

use handfast_client::key_value::Results;
use handfast_client::{Committed, Error, ReplyTime, Request};
use serde_json::{Map, Value, json};

use crate::commands::{connect, read_input, transaction_options};
use crate::config::Settings;
use crate::failure::Failure;
use crate::operation::{BranchOperations, Operation, work};
use crate::options::{Execute, Reply};
use crate::output::{Output, base64, insert_bytes, shown, shown_bytes};

/// Executes, and prints what became of it.
pub async fn run(
    arguments: Execute,
    settings: &Settings,
    output: &mut Output,
) -> Result<(), Failure> {
    let key_values = merged(arguments.key_values);
    let mut request = Request::new()
        .reply_time(reply_time(arguments.reply))
        .options(transaction_options(arguments.transaction));
    if arguments.branches.is_empty() && key_values.is_empty() {
        return Err(Failure::Usage("there is no work: give --branch or --kv at least once".into()));
    }
    if arguments.branches.iter().filter(|branch| branch.path.as_os_str() == "-").count() > 1 {
        return Err(Failure::Usage("only one --branch can be read from stdin".into()));
    }
    for branch in arguments.branches {
        request = request.branch(branch.participant, read_input(&branch.path)?);
    }
    for branch in &key_values {
        request = request.branch(branch.participant.as_str(), work(&branch.operations));
    }
    if let Some(request_id) = arguments.request_id {
        request = request.request_id(request_id);
    }
    let committed = connect(settings).await?.execute(request).await?;
    print(&committed, &key_values, output)
}

/// When the answer is wanted.
pub fn reply_time(reply: Reply) -> ReplyTime {
    match reply {
        Reply::Applied => ReplyTime::Applied,
        Reply::Decided => ReplyTime::Decided,
    }
}

/// The operations of each participant in one branch, in the order in which they were given.
fn merged(given: Vec<BranchOperations>) -> Vec<BranchOperations> {
    let mut merged: Vec<BranchOperations> = Vec::new();
    for branch in given {
        match merged.iter_mut().find(|known| known.participant == branch.participant) {
            Some(known) => known.operations.extend(branch.operations),
            None => merged.push(branch),
        }
    }
    merged
}

/// Prints a commit and what the participants returned; `key_values` says which results can be read.
pub fn print(
    committed: &Committed,
    key_values: &[BranchOperations],
    output: &mut Output,
) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let mut results = Vec::new();
    for result in &committed.results {
        let participant = &result.participant;
        match key_values.iter().find(|branch| branch.participant == *participant) {
            Some(branch) => {
                let values = decode(participant, result.payload.clone())?;
                for (at, operation) in branch.operations.iter().enumerate() {
                    rows.push([
                        shown(participant),
                        operation.name().to_owned(),
                        shown_bytes(&operation.key),
                        values
                            .value(at)
                            .map_or_else(|| "(absent)".into(), |value| shown_bytes(value)),
                    ]);
                }
                let operations = branch.operations.iter().enumerate();
                let operations = operations.map(|(at, operation)| {
                    Value::Object(operation_fields(
                        operation,
                        values.value(at).map(|value| &value[..]),
                    ))
                });
                results.push(json!({
                    "participant": participant,
                    "operations": operations.collect::<Vec<Value>>(),
                }));
            }
            None => {
                let bytes = format!("{} bytes", result.payload.len());
                rows.push([shown(participant), "branch".into(), String::new(), bytes]);
                results.push(json!({
                    "participant": participant,
                    "payload_base64": base64(&result.payload),
                }));
            }
        }
    }
    if output.is_json() {
        let mut fields = outcome_fields(committed);
        fields.insert("results".into(), results.into());
        return output.json(&Value::Object(fields));
    }
    output.fields(outcome_rows(committed))?;
    if !rows.is_empty() {
        output.line("")?;
        output.table(["PARTICIPANT", "OPERATION", "KEY", "VALUE"], rows)?;
    }
    if committed.results_left_out {
        output
            .line("\nThe participants returned more than an answer can hold; it was left out.")?;
    }
    Ok(())
}

/// What a key-value participant returned.
pub fn decode(participant: &str, payload: handfast_client::Bytes) -> Result<Results, Failure> {
    Results::decode(payload).map_err(|error| {
        let message = error.to_string();
        Error::MalformedResult { participant: participant.to_owned(), message }.into()
    })
}

/// An operation and the value after it.
pub fn operation_fields(operation: &Operation, value: Option<&[u8]>) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("operation".into(), operation.name().into());
    insert_bytes(&mut fields, "key", Some(&operation.key));
    insert_bytes(&mut fields, "value", value);
    fields
}

/// A commit as programs read it.
pub fn outcome_fields(committed: &Committed) -> Map<String, Value> {
    let fields = json!({
        "transaction_id": committed.transaction_id.to_string(),
        "request_id": committed.request_id.as_ref().map(ToString::to_string),
        "outcome": "committed",
        "applied": committed.is_applied(),
        "pending": committed.pending,
        "repeated_request": committed.repeated_request,
        "results_left_out": committed.results_left_out,
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// A commit as people read it.
pub fn outcome_rows(committed: &Committed) -> Vec<(&'static str, String)> {
    let outcome = match (committed.is_applied(), committed.repeated_request) {
        (true, false) => "committed",
        (true, true) => "committed by an earlier attempt",
        (false, false) => "committed, not yet applied everywhere",
        (false, true) => "committed by an earlier attempt, not yet applied everywhere",
    };
    let request_id = committed.request_id.as_ref().map(ToString::to_string);
    vec![
        ("transaction", committed.transaction_id.to_string()),
        ("outcome", outcome.to_owned()),
        ("request id", request_id.unwrap_or_default()),
        ("pending at", shown(&committed.pending.join(", "))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::parse_branch;

    #[test]
    fn a_participant_has_one_branch_with_its_operations_in_order() {
        let given = ["a: put k 1", "b: get x", "a: put k 2"];
        let given = given.map(|text| parse_branch(text).expect(text)).to_vec();
        let merged = merged(given);
        assert_eq!(merged.len(), 2);
        assert_eq!(merged[0], parse_branch("a: put k 1; put k 2").expect("operations"));
        assert_eq!(merged[1].participant, "b");
    }
}
