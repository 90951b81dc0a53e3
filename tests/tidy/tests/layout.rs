//! Where things are, and that each file says what it is.

use std::collections::BTreeSet;

use handfast_tidy::tree::{demand_none, paths, root, text_files};

/// The whole top level. Tools keep their settings in dotted files, or below.
const TOP_LEVEL: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "Makefile",
    "README.md",
    "coordinator",
    "participant",
    "proto",
    "shared",
    "tests",
];

fn check_top_level<'a>(paths: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let entries: BTreeSet<&str> =
        paths.into_iter().filter_map(|path| path.split('/').next()).collect();
    entries
        .into_iter()
        .filter(|entry| !entry.starts_with('.') && !TOP_LEVEL.contains(entry))
        .map(|entry| {
            format!(
                "{entry}: the top level is fixed: move it below one of {}, or give a \
         tool's file a dotted name",
                TOP_LEVEL.join(" ")
            )
        })
        .collect()
}

/// The header is the place to say what a file is; one that repeats the file's name says nothing.
fn check_header(path: &str, text: &str) -> Vec<String> {
    let first = text.lines().next().unwrap_or_default();
    // A document of its own is the best header.
    if first.starts_with("#![doc = include_str!(") {
        return Vec::new();
    }
    match first.strip_prefix("//!") {
        None => vec![format!("{path}:1: begin with a line `//! …` that says what this file is")],
        Some(header) if header.split_whitespace().count() < 3 => {
            vec![format!(
                "{path}:1: `{}` only names the file: say what it is, and which law it keeps",
                first.trim()
            )]
        }
        Some(_) => Vec::new(),
    }
}

/// Every crate is a member of the workspace, so that every check and test sees it.
fn check_members(workspace: &str, manifests: &[&str]) -> Vec<String> {
    manifests
        .iter()
        .filter_map(|path| path.strip_suffix("/Cargo.toml"))
        .filter(|folder| !workspace.contains(&format!("\"{folder}\"")))
        .map(|folder| {
            format!("{folder}: not a member of the workspace: add it to members in Cargo.toml")
        })
        .collect()
}

#[test]
fn the_top_level_is_fixed() {
    let all = paths(&root());
    demand_none(&check_top_level(all.iter().map(String::as_str)));
}

#[test]
fn every_source_file_says_what_it_is() {
    let complaints: Vec<String> = text_files()
        .iter()
        .filter(|file| file.is_rust())
        .flat_map(|file| check_header(&file.path, &file.text))
        .collect();
    demand_none(&complaints);
}

#[test]
fn every_crate_is_a_member() {
    let files = text_files();
    let manifests: Vec<&str> =
        files.iter().filter(|file| file.is_manifest()).map(|file| file.path.as_str()).collect();
    let workspace =
        files.iter().find(|file| file.path == "Cargo.toml").map(|file| file.text.as_str());
    demand_none(&check_members(workspace.unwrap_or_default(), &manifests));
}

#[test]
fn strangers_on_the_top_level_are_seen() {
    assert_eq!(
        check_top_level(["deny.toml", "docs/a.md", "docs/b.md", "tests/tidy/Cargo.toml"]).len(),
        2
    );
    assert!(
        check_top_level(["Cargo.toml", ".deny.toml", ".ci/run", "shared/wire/build.rs"]).is_empty()
    );
}

#[test]
fn missing_and_empty_headers_are_seen() {
    for text in
        ["use std::fmt;\n", "// What this is.\n", "//! engine\n", "//!\n//! What this is.\n", ""]
    {
        assert_eq!(check_header("a.rs", text).len(), 1, "{text:?}");
    }
    assert!(check_header("a.rs", "//! What this is.\n").is_empty());
    assert!(check_header("a.rs", "#![doc = include_str!(\"../docs/a.md\")]\n").is_empty());
}

#[test]
fn crates_outside_the_workspace_are_seen() {
    let workspace = "members = [\n    \"shared/wire\",\n]";
    assert_eq!(
        check_members(
            workspace,
            &["Cargo.toml", "shared/wire/Cargo.toml", "shared/lost/Cargo.toml"]
        )
        .len(),
        1
    );
}
