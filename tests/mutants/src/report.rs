//! The tables that are printed.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use handfast_commit_core::mutants::Mutant;

use crate::layers::Verdict;

/// What came of one mutant.
#[derive(Debug)]
pub struct Row {
    /// Which one.
    pub mutant: Mutant,
    /// Caught or not.
    pub verdict: Verdict,
}

/// What is broken, and who has caught it.
#[must_use]
pub fn rows(rows: &[Row]) -> Table {
    let mut table = table(&["mutant", "what is broken", "layer", "test", "after"]);
    for Row { mutant, verdict } in rows {
        let (layer, test, after) = match verdict {
            Verdict::Caught(caught) => (
                caught.layer.name(),
                caught.test.as_str(),
                format!("{:.1} s", caught.after.as_secs_f64()),
            ),
            Verdict::Survived => ("none", "SURVIVED", String::new()),
        };
        table.add_row([mutant.name(), mutant.broken(), layer, test, &after]);
    }
    table
}

/// What there is.
#[must_use]
pub fn list(mutants: &[Mutant]) -> Table {
    let mut table = table(&["mutant", "what is broken", "caught by"]);
    for mutant in mutants {
        table.add_row([mutant.name(), mutant.broken(), mutant.expected().name()]);
    }
    table
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header.iter().copied());
    // Where nobody watches, or the terminal is too narrow to hold it.
    if table.width().is_none_or(|width| width < 120) {
        table.set_width(160);
    }
    table
}
