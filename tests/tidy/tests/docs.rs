//! That the documents tell the truth: every link leads somewhere, every row of a crash matrix has its
//! script, and every script says which race it tells and is told of.

use std::collections::BTreeSet;

use handfast_tidy::tree::{TextFile, demand_none, paths, root, text_files};

const SCENARIOS: &str = "shared/commit-core/tests/scenarios/";
const CORE_DOCS: &str = "shared/commit-core/docs/";

/// `two_phase/lost_vote` for the script of that name.
fn scenario_name(path: &str) -> Option<&str> {
    path.strip_prefix(SCENARIOS)?.strip_suffix(".txt")
}

fn check_scenario(path: &str, text: &str) -> Vec<String> {
    let told = text.lines().next().and_then(|line| line.strip_prefix('#'));
    if told.is_some_and(|told| told.split_whitespace().count() >= 3) {
        return Vec::new();
    }
    vec![format!("{path}:1: begin with a line `# …` that says which race or failure this tells")]
}

/// A crash matrix is a table whose last column is headed `scenario`; its cells hold names in backticks.
fn check_matrix(path: &str, text: &str, scenarios: &BTreeSet<&str>) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut in_matrix = false;
    for (index, line) in text.lines().enumerate() {
        let Some(last) = last_cell(line) else {
            in_matrix = false;
            continue;
        };
        if last.eq_ignore_ascii_case("scenario") {
            in_matrix = true;
            continue;
        }
        if !in_matrix || last.chars().all(|c| "-: ".contains(c)) && !last.is_empty() {
            continue;
        }
        let names = backticked(last);
        if names.is_empty() {
            complaints.push(format!(
                "{path}:{}: this row of the crash matrix has no script: write \
             one and name it in the last column",
                index + 1
            ));
        }
        for name in names.into_iter().filter(|name| !scenarios.contains(name)) {
            complaints.push(format!(
                "{path}:{}: there is no script {SCENARIOS}{name}.txt: write it, \
             or put the name right",
                index + 1
            ));
        }
    }
    complaints
}

fn last_cell(line: &str) -> Option<&str> {
    let row = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(row.rsplit('|').next().unwrap_or_default().trim())
}

/// What stands between pairs of backticks.
fn backticked(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn check_told(scenarios: &BTreeSet<&str>, documents: &[&TextFile]) -> Vec<String> {
    let named: BTreeSet<&str> =
        documents.iter().flat_map(|document| document.text.lines().flat_map(backticked)).collect();
    scenarios
        .difference(&named)
        .map(|name| {
            format!(
                "{SCENARIOS}{name}.txt: no document in {CORE_DOCS} names `{name}`: add \
         its row to the crash matrix"
            )
        })
        .collect()
}

/// The targets of the links of a document, with their lines; code is left out.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for part in line.split("](").skip(1) {
            if let Some(target) = part.split([')', ' ']).next() {
                found.push((index + 1, target));
            }
        }
        // [name]: target
        if let Some((name, target)) = line.split_once("]: ")
            && name.starts_with('[')
            && !name.contains(' ')
        {
            found.push((index + 1, target.trim()));
        }
    }
    found
}

fn check_links(path: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut complaints = Vec::new();
    for (line, link) in links(text) {
        let target = link.split('#').next().unwrap_or_default();
        // Elsewhere, in this very document, or a name that rustdoc resolves and checks.
        if target.is_empty()
            || target.contains("://")
            || target.starts_with("mailto:")
            || target.contains("::")
        {
            continue;
        }
        if !resolve(folder, target).is_some_and(|resolved| exists(&resolved)) {
            complaints.push(format!(
                "{path}:{line}: the link to {link} leads nowhere: put it right, \
             relative to this file"
            ));
        }
    }
    complaints
}

/// From the root; `None` when the target is absolute or above the root.
fn resolve(folder: &str, target: &str) -> Option<String> {
    if target.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[test]
fn every_scenario_says_what_it_tells() {
    let files = text_files();
    let scenarios = files.iter().filter(|file| scenario_name(&file.path).is_some());
    demand_none(
        &scenarios.flat_map(|file| check_scenario(&file.path, &file.text)).collect::<Vec<_>>(),
    );
}

#[test]
fn the_crash_matrix_and_the_scripts_agree() {
    let files = text_files();
    let scenarios: BTreeSet<&str> =
        files.iter().filter_map(|file| scenario_name(&file.path)).collect();
    let is_document =
        |file: &&TextFile| file.path.starts_with(CORE_DOCS) && file.path.ends_with(".md");
    let documents: Vec<&TextFile> = files.iter().filter(is_document).collect();
    if documents.is_empty() {
        return;
    }
    let mut complaints = check_told(&scenarios, &documents);
    complaints
        .extend(documents.iter().flat_map(|file| check_matrix(&file.path, &file.text, &scenarios)));
    demand_none(&complaints);
}

#[test]
fn every_link_leads_somewhere() {
    let all = paths(&root());
    let exists = |target: &str| {
        target.is_empty()
            || all.iter().any(|path| path == target || path.starts_with(&format!("{target}/")))
    };
    let files = text_files();
    let documents = files.iter().filter(|file| file.path.ends_with(".md"));
    demand_none(
        &documents.flat_map(|file| check_links(&file.path, &file.text, exists)).collect::<Vec<_>>(),
    );
}

#[test]
fn silent_scenarios_are_seen() {
    assert_eq!(check_scenario("a.txt", "begin\n----\nok\n").len(), 1);
    assert_eq!(check_scenario("a.txt", "#\nbegin\n").len(), 1);
    assert!(check_scenario("a.txt", "# The vote is lost on its way.\n").is_empty());
}

#[test]
fn rows_without_a_script_are_seen() {
    let scenarios = BTreeSet::from(["lost_vote"]);
    let matrix = |cell: &str| {
        format!(
            "| dies after | next lost | scenario |\n| --- | --- | --- |\n| PREPARED | vote | {cell} |\n"
        )
    };
    assert!(check_matrix("a.md", &matrix("`lost_vote`"), &scenarios).is_empty());
    assert_eq!(check_matrix("a.md", &matrix("`lost_commit`"), &scenarios).len(), 1);
    assert_eq!(check_matrix("a.md", &matrix("`lost_vote` and `lost_commit`"), &scenarios).len(), 1);
    assert_eq!(check_matrix("a.md", &matrix(""), &scenarios).len(), 1);
    assert!(
        check_matrix("a.md", "| word | meaning |\n| --- | --- |\n| vote | `no` |\n", &scenarios)
            .is_empty()
    );
}

#[test]
fn scripts_that_nobody_names_are_seen() {
    let document =
        TextFile { path: format!("{CORE_DOCS}a.md"), text: "Told in `lost_vote`.\n".to_owned() };
    assert_eq!(check_told(&BTreeSet::from(["lost_vote", "lost_commit"]), &[&document]).len(), 1);
    assert!(check_told(&BTreeSet::from(["lost_vote"]), &[&document]).is_empty());
}

#[test]
fn dead_links_are_seen() {
    let exists = |target: &str| ["shared/wire/build.rs", "README.md", "shared"].contains(&target);
    for link in [
        "build.rs",
        "./build.rs#fn",
        "../../README.md",
        "https://example.org/x",
        "#here",
        "crate::two_phase",
        "../",
    ] {
        assert!(
            check_links("shared/wire/a.md", &format!("see [it]({link}).\n"), exists).is_empty(),
            "{link}"
        );
    }
    for text in [
        "[it](lost.md)",
        "[it](../../../out.md)",
        "[it](/README.md)",
        "[it]: lost.md",
        "[a](build.rs) [b](lost.md)",
    ] {
        assert_eq!(check_links("shared/wire/a.md", text, exists).len(), 1, "{text}");
    }
    assert!(check_links("a.md", "```\n[it](lost.md)\n```\n", exists).is_empty());
}
