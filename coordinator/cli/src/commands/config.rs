//! `handfast config show`: the settings in effect, and where each came from.

use clap::ValueEnum;
use serde_json::{Map, Value, json};

use crate::config::Settings;
use crate::duration::show_duration;
use crate::failure::Failure;
use crate::output::Output;

/// Prints the settings.
pub fn show(settings: &Settings, output: &mut Output) -> Result<(), Failure> {
    let rows = [
        (
            "coordinator",
            settings.coordinator.value.clone(),
            settings.coordinator.source.to_string(),
        ),
        ("output", word(&settings.output.value), settings.output.source.to_string()),
        ("timeout", show_duration(settings.timeout.value), settings.timeout.source.to_string()),
        ("client_mode", word(&settings.client_mode.value), settings.client_mode.source.to_string()),
    ];
    if output.is_json() {
        let settings: Map<String, Value> = rows
            .into_iter()
            .map(|(key, value, source)| {
                (key.to_owned(), json!({ "value": value, "source": source }))
            })
            .collect();
        return output.json(&Value::Object(settings));
    }
    let rows = rows.into_iter().map(|(key, value, source)| [key.to_owned(), value, source]);
    output.table(["KEY", "VALUE", "SOURCE"], rows.collect())?;
    if settings.file.is_none() {
        output.line("\nThere is no configuration file; see --config in `handfast --help`.")?;
    }
    Ok(())
}

/// A choice as it is written on the command line.
fn word(choice: &impl ValueEnum) -> String {
    choice.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}
