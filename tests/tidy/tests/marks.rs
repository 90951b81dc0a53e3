//! Every rule of the protocol has its mark, in the table of the documentation and in the code.

use std::collections::BTreeMap;

use handfast_commit_core::marks::{Mark, Reach};
use handfast_tidy::source::{code, has_word, without_tests};
use handfast_tidy::tree::{demand_none, text_files};

const TABLE: &str = "shared/commit-core/docs/rules.md";
const CORE_CODE: &str = "shared/commit-core/src/";

/// The row that a mark must have.
fn row(mark: Mark) -> String {
    let emphasis = match mark.reach() {
        Reach::Ordinary => "",
        Reach::Misbehaviour => "*",
    };
    format!("| {emphasis}{}{emphasis} | `{}` |", mark.rule(), mark.name())
}

fn check_table(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with('|') && line.contains('`')) {
        *rows.entry(line).or_default() += 1;
    }
    for mark in Mark::ALL {
        if rows.remove(row(*mark).as_str()) != Some(1) {
            complaints.push(format!("{TABLE}: demands once, as it stands: {}", row(*mark)));
        }
    }
    let strangers = rows.keys().map(|line| format!("{TABLE}: no mark has this row: {line}"));
    complaints.extend(strangers);
    complaints
}

fn check_use<'a>(sources: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let sources: Vec<String> = sources
        .filter(|(path, _)| path.starts_with(CORE_CODE) && path.ends_with(".rs"))
        .filter(|(path, _)| !path.ends_with("/marks.rs"))
        .map(|(_, text)| without_tests(&code(text)))
        .collect();
    let used =
        |name: &str| sources.iter().any(|text| text.lines().any(|line| has_word(line, name)));
    let unused = Mark::ALL.iter().filter(|mark| !used(&format!("Mark::{mark:?}")));
    unused
        .map(|mark| {
            format!(
                "{CORE_CODE}: nothing reaches Mark::{mark:?}: put mark(Mark::{mark:?}) where the rule \
                 is carried out, or remove it"
            )
        })
        .collect()
}

#[test]
fn every_mark_is_in_the_table() {
    let files = text_files();
    let table = files.iter().find(|file| file.path == TABLE);
    demand_none(&check_table(table.map_or("", |file| file.text.as_str())));
}

#[test]
fn every_mark_is_in_the_code() {
    let files = text_files();
    demand_none(&check_use(files.iter().map(|file| (file.path.as_str(), file.text.as_str()))));
}

#[test]
fn rows_that_are_missing_or_wrong_are_seen() {
    let table: Vec<String> = Mark::ALL.iter().map(|mark| row(*mark)).collect();
    assert_eq!(check_table(&table.join("\n")), Vec::<String>::new());
    assert_eq!(check_table(&table[1..].join("\n")).len(), 1);
    assert_eq!(check_table(&[table.join("\n"), table[0].clone()].join("\n")).len(), 1);
    let other = table.join("\n").replacen(Mark::ALL[0].rule(), "Something else.", 1);
    assert_eq!(check_table(&other).len(), 2, "the row is missing, and a strange one is there");
}

#[test]
fn marks_that_nobody_reaches_are_seen() {
    let text: String = Mark::ALL.iter().map(|mark| format!("mark(Mark::{mark:?});\n")).collect();
    let path = "shared/commit-core/src/two_phase.rs";
    let check = |path, text: &str| check_use([(path, text)].into_iter()).len();
    assert_eq!(check(path, &text), 0);
    let first = format!("mark(Mark::{:?});\n", Mark::ALL[0]);
    assert_eq!(check(path, text.strip_prefix(&first).expect("the first")), 1);
    assert_eq!(check(path, &text.replacen("mark(", "// mark(", 1)), 1, "a comment is not the code");
    assert_eq!(check("shared/commit-core/src/marks.rs", &text), Mark::COUNT);
}
