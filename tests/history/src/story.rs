//! Violations as people read them: what each transaction did to the keys concerned, and what ties them.

use std::fmt::Write;

use crate::graph::{Kind, Link};
use crate::history::{Action, History, Key, NEVER, Operation, Outcome, Ticket, Value};
use crate::versions::Versions;
use crate::violation::{Anomaly, Violation};

/// A value, or that there is none.
pub(crate) fn value(value: Option<Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), |value| value.to_string())
}

/// A violation without a cycle.
pub(crate) fn of_few(
    history: &History,
    anomaly: Anomaly,
    tickets: &[Ticket],
    keys: &[Key],
    what: &str,
) -> Violation {
    let mut transactions = tickets.to_vec();
    transactions.dedup();
    let mut story = format!("{what}\n");
    for ticket in &transactions {
        describe(&mut story, history, *ticket, keys);
    }
    Violation { anomaly, transactions, story }
}

/// A cycle: its transactions, then its dependencies in order.
pub(crate) fn of_cycle(
    history: &History,
    versions: &Versions,
    anomaly: Anomaly,
    cycle: &[Link],
) -> Violation {
    let transactions: Vec<Ticket> = cycle.iter().map(|link| link.from).collect();
    let version = |link: &Link| link.version.map(|version| &versions.all[version as usize]);
    let mut keys: Vec<Key> = cycle.iter().filter_map(version).map(|version| version.key).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut story = format!("no order of these {} transactions explains them\n", cycle.len());
    for ticket in &transactions {
        describe(&mut story, history, *ticket, &keys);
    }
    for (index, link) in cycle.iter().enumerate() {
        let next = cycle[(index + 1) % cycle.len()].from;
        let [from, to] = [link.from, next].map(|ticket| history.transaction(ticket).name.as_str());
        let _ = write!(story, "  {from} comes before {to}: ");
        let Some(version) = version(link) else {
            let _ = writeln!(story, "it was answered before {to} began (rt)");
            continue;
        };
        let key = &history.keys[version.key.0 as usize];
        let written = value(version.value);
        let before = version.previous.and_then(|previous| versions.all[previous as usize].value);
        let before = value(before);
        let concluded = if version.concluded { ", as the rest of the history shows" } else { "" };
        let _ = match link.kind {
            Kind::Wr => writeln!(story, "it wrote {key} = {written}, which {to} read (wr)"),
            Kind::Ww => writeln!(
                story,
                "it wrote {key} = {before}, which {to} overwrote with {written}{concluded} (ww)"
            ),
            Kind::Rw | Kind::Rt => writeln!(
                story,
                "it read {key} = {before}, which {to} overwrote with {written}{concluded} (rw)"
            ),
        };
    }
    Violation { anomaly, transactions, story }
}

/// One line: who, what became of it, what it did with these keys.
fn describe(story: &mut String, history: &History, ticket: Ticket, keys: &[Key]) {
    let transaction = history.transaction(ticket);
    let outcome = match transaction.outcome {
        Outcome::Committed => "committed",
        Outcome::Aborted => "aborted",
        Outcome::Unknown => "outcome unknown",
    };
    let ended = match transaction.ended {
        NEVER => "open".to_owned(),
        ended => ended.to_string(),
    };
    let _ = write!(
        story,
        "  {} of client {}, {outcome}, from {} to {ended}:",
        transaction.name, transaction.client, transaction.begun
    );
    let mut others = 0_usize;
    // Only a history that failed is searched like this.
    for Operation { key, action, .. } in
        history.operations.iter().filter(|operation| operation.ticket == ticket)
    {
        if !keys.contains(key) {
            others += 1;
            continue;
        }
        let name = &history.keys[key.0 as usize];
        let _ = match action {
            Action::Read(read) => write!(story, " read {name} = {};", value(*read)),
            Action::Write(written) => write!(story, " wrote {name} = {written};"),
        };
    }
    let _ = match others {
        0 => writeln!(story),
        _ => writeln!(story, " and {others} operations on other keys"),
    };
}
