//! Histories written as text: one step of one transaction in each sentence.

use std::collections::BTreeMap;

use handfast_history::{Anomaly, History, Outcome, Stats, Ticket, Violation, check};

/// Reads a history. Sentences end with `;`. Transactions are named by any word and begin with their first
/// sentence:
///
/// `a begins` · `a reads x` (nothing) · `a reads x 1` · `a writes x 2` · `a commits` · `a aborts` ·
/// `a is-lost` (outcome unknown) · `x ends 2`
#[must_use]
pub fn history(text: &str) -> History {
    let mut history = History::new();
    let mut tickets: BTreeMap<String, Ticket> = BTreeMap::new();
    for sentence in text.split(';').map(str::trim).filter(|sentence| !sentence.is_empty()) {
        let words: Vec<&str> = sentence.split_whitespace().collect();
        let value = |index: usize| words.get(index).map(|word| word.parse().expect("a number"));
        if words[1] == "ends" {
            let key = history.key(words[0]);
            history.last(key, value(2));
            continue;
        }
        let client = tickets.len() as u32;
        let ticket =
            *tickets.entry(words[0].to_owned()).or_insert_with(|| history.begin(client, words[0]));
        match words[1] {
            "begins" => {}
            "reads" => {
                let key = history.key(words[2]);
                history.read(ticket, key, value(3));
            }
            "writes" => {
                let key = history.key(words[2]);
                history.write(ticket, key, value(3).expect("a value"));
            }
            "commits" => history.finish(ticket, Outcome::Committed),
            "aborts" => history.finish(ticket, Outcome::Aborted),
            "is-lost" => history.finish(ticket, Outcome::Unknown),
            other => panic!("nobody knows how a transaction {other}"),
        }
    }
    history
}

/// What is wrong with a history, and between whom.
#[must_use]
pub fn violation(text: &str) -> Violation {
    match check(&history(text)) {
        Err(violation) => violation,
        Ok(stats) => panic!("accepted: {text}\n{stats:?}"),
    }
}

/// It shows this anomaly between these transactions.
pub fn shows(anomaly: Anomaly, transactions: &str, text: &str) {
    let history = history(text);
    let violation = violation(text);
    let mut names: Vec<String> =
        violation.transactions.iter().map(|ticket| history.name(*ticket).to_owned()).collect();
    names.sort();
    let mut expected: Vec<&str> = transactions.split_whitespace().collect();
    expected.sort_unstable();
    assert_eq!(
        (violation.anomaly, names),
        (anomaly, expected.iter().map(|name| (*name).to_owned()).collect()),
        "{text}\n{violation}"
    );
}

/// It is strictly serializable.
pub fn holds(text: &str) -> Stats {
    match check(&history(text)) {
        Ok(stats) => stats,
        Err(violation) => panic!("{text}\n{violation}"),
    }
}
