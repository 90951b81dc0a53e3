//! `handfast kv`: one operation at one key-value participant, as a transaction of its own or as a part
//! of one that was begun.

use std::os::unix::ffi::OsStringExt;

use handfast_client::{Bytes, Committed, Request};
use serde_json::{Map, Value};

use crate::commands::execute::{decode, operation_fields, outcome_fields};
use crate::commands::{connect, read_input};
use crate::config::Settings;
use crate::failure::Failure;
use crate::operation::{Kind, Operation, work};
use crate::options::{KvAt, KvCommand};
use crate::output::{Output, shown_bytes};

/// Does one operation.
pub async fn run(
    command: KvCommand,
    settings: &Settings,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut raw_wanted = false;
    let (at, kind) = match command {
        KvCommand::Get { at, raw } => {
            raw_wanted = raw;
            (at, Kind::Get)
        }
        KvCommand::Put { at, value, file } => {
            let value = match file {
                Some(path) => read_input(&path)?,
                None => value.unwrap_or_default().into_vec(),
            };
            (at, Kind::Put(value.into()))
        }
        KvCommand::Delete { at } => (at, Kind::Delete),
        KvCommand::Add { at, amount, floor } => (at, Kind::Add { amount, floor }),
        KvCommand::Expect { at, value, absent: _ } => {
            (at, Kind::Expect(value.map(|value| value.into_vec().into())))
        }
    };
    let KvAt { participant, key, txn, request_id } = at;
    let operation = Operation { key: key.into_vec().into(), kind };
    let work = work(std::slice::from_ref(&operation));
    let client = connect(settings).await?;
    let done = match txn {
        Some(id) => {
            let results = client.attach(id).key_value(participant.as_str()).apply(work).await?;
            let transaction_id = Value::from(id.to_string());
            let fields = [
                ("transaction_id".to_owned(), transaction_id),
                ("outcome".to_owned(), "open".into()),
            ];
            Done {
                value: results.value(0).cloned(),
                fields: fields.into_iter().collect(),
                line: format!("done in {id}, which is still open"),
            }
        }
        None => {
            let mut request = Request::new().branch(participant.as_str(), work);
            if let Some(request_id) = request_id {
                request = request.request_id(request_id);
            }
            let committed = client.execute(request).await?;
            Done {
                value: value(&committed, &participant)?,
                fields: outcome_fields(&committed),
                line: format!("committed {}", committed.transaction_id),
            }
        }
    };
    done.print(&participant, &operation, raw_wanted, output)
}

/// The value that the one operation returned.
fn value(committed: &Committed, participant: &str) -> Result<Option<Bytes>, Failure> {
    match committed.result(participant) {
        Some(payload) => Ok(decode(participant, payload.clone())?.value(0).cloned()),
        // After a restart of the coordinator a repeated request is answered without results.
        None => Err(Failure::Failed(format!(
            "transaction {} committed, but its answer carries no value any more; run the command again to read it",
            committed.transaction_id
        ))),
    }
}

/// An operation that was done.
struct Done {
    /// The value after it.
    value: Option<Bytes>,
    /// For programs.
    fields: Map<String, Value>,
    /// For people.
    line: String,
}

impl Done {
    fn print(
        mut self,
        participant: &str,
        operation: &Operation,
        raw: bool,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let is_read = matches!(operation.kind, Kind::Get | Kind::Add { .. });
        match &self.value {
            None if operation.kind == Kind::Get => {
                let key = shown_bytes(&operation.key);
                return Err(Failure::NotFound(format!(
                    "key {key:?} is absent at participant {participant}"
                )));
            }
            Some(value) if raw => return output.bytes(value),
            _ => {}
        }
        if output.is_json() {
            self.fields.insert("participant".into(), participant.into());
            self.fields.extend(operation_fields(operation, self.value.as_deref()));
            return output.json(&Value::Object(self.fields));
        }
        match self.value {
            Some(value) if is_read => output.line(&shown_bytes(&value)),
            _ => output.line(&self.line),
        }
    }
}
