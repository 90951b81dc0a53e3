//! `handfast participants`: who is registered, whether it is connected, what it has yet to be told.

use serde_json::{Value, json};

use crate::commands::connect;
use crate::config::Settings;
use crate::failure::Failure;
use crate::output::{Output, shown};

/// Lists the participants, by name.
pub async fn run(settings: &Settings, output: &mut Output) -> Result<(), Failure> {
    let participants = connect(settings).await?.participants().await?;
    let time = |at: &Option<_>| at.as_ref().map(ToString::to_string);
    if output.is_json() {
        let participants = participants.iter().map(|found| {
            json!({
                "participant": found.participant,
                "endpoint": found.endpoint,
                "connected": found.connected,
                "undelivered": found.undelivered,
                "registered_at": time(&found.registered_at),
            })
        });
        return output.json(&json!({ "participants": participants.collect::<Vec<Value>>() }));
    }
    let rows = participants.iter().map(|found| {
        [
            shown(&found.participant),
            shown(&found.endpoint),
            if found.connected { "yes" } else { "no" }.to_owned(),
            found.undelivered.to_string(),
            time(&found.registered_at).unwrap_or_default(),
        ]
    });
    output.table(
        ["PARTICIPANT", "ENDPOINT", "CONNECTED", "UNDELIVERED", "REGISTERED"],
        rows.collect(),
    )
}
