//! Which crate may use which, and what the pure core may not know of.
//!
//! The law: the protocol is a pure function, and everything that touches the world is a thin driver
//! around it; a coordinator and a participant know only the messages between them; what is shipped
//! knows nothing of its tests.

use handfast_tidy::manifest;
use handfast_tidy::source::{code, has_word, without_tests};
use handfast_tidy::tree::{TextFile, demand_none, text_files};

const CORE: &str = "handfast-commit-core";
const WIRE: &str = "handfast-wire";
const JOURNAL: &str = "handfast-journal";
const RUNTIME: &str = "handfast-runtime";
const COORDINATOR: &str = "handfast-coordinator";
const CLIENT: &str = "handfast-client";
const CLI: &str = "handfast-cli";
const PARTICIPANT: &str = "handfast-participant";

/// Test crates that other tests may use: libraries without a process, a disk or a clock.
const SHARED_BY_TESTS: &[&str] = &["handfast-history"];

/// What each shipped crate may use of ours. A crate under `tests/` may use any of these.
const ARROWS: &[(&str, &[&str])] = &[
    (CORE, &[]),
    (WIRE, &[CORE]),
    (JOURNAL, &[CORE]),
    (RUNTIME, &[CORE, WIRE, JOURNAL]),
    (COORDINATOR, &[CORE, WIRE, JOURNAL, RUNTIME]),
    (PARTICIPANT, &[CORE, WIRE, JOURNAL, RUNTIME]),
    (CLIENT, &[CORE, WIRE]),
    (CLI, &[CORE, WIRE, CLIENT]),
];

/// All that the core needs of others: reference-counted payloads and the derivation of error types.
const CORE_USES: &[&str] = &["bytes", "thiserror"];

/// What of the standard library touches the world, or has no fixed order.
const IMPURE_STD: &[&str] =
    &["time", "net", "fs", "io", "env", "process", "thread", "os", "random"];
const IMPURE_WORDS: &[&str] = &[
    "HashMap",
    "HashSet",
    "RandomState",
    "Instant",
    "SystemTime",
    "rand",
    "tokio",
    "println",
    "eprintln",
    "async",
    "await",
];

/// Whether the crate of a manifest is one of the tests, and not shipped.
fn is_test_crate(path: &str) -> bool {
    path.starts_with("tests/")
}

fn check_arrows(path: &str, text: &str) -> Vec<String> {
    let manifest = manifest::parse(text);
    if manifest.package.is_empty() {
        return Vec::new();
    }
    let allowed =
        ARROWS.iter().find(|(name, _)| *name == manifest.package).map(|(_, allowed)| *allowed);
    if allowed.is_none() && !is_test_crate(path) {
        return vec![format!(
            "{path}: {} is not in the table of arrows: decide what it may use and add it to ARROWS \
             in tests/tidy/tests/arrows.rs",
            manifest.package
        )];
    }
    let mut complaints = Vec::new();
    for dependency in &manifest.dependencies {
        let (name, line) = (&dependency.name, dependency.line);
        let ours = name.starts_with("handfast");
        let shipped = ARROWS.iter().any(|(known, _)| known == name);
        match allowed {
            Some(allowed) if ours && !allowed.contains(&name.as_str()) => complaints.push(format!(
                "{path}:{line}: {} may not use {name}: move what both need to a crate that both may use",
                manifest.package
            )),
            None if ours && !shipped && !SHARED_BY_TESTS.contains(&name.as_str()) => complaints.push(format!(
                "{path}:{line}: {} uses the test crate {name}: tests share what is shipped, not each other",
                manifest.package
            )),
            _ => {}
        }
        if manifest.package == CORE
            && !ours
            && !dependency.for_tests
            && !CORE_USES.contains(&name.as_str())
        {
            complaints.push(format!(
                "{path}:{line}: the core may not use {name}: give it what it needs as input, or \
                 return what it wants as an action"
            ));
        }
    }
    complaints
}

/// Every dependency takes its version from the workspace, so that there is one place to look and to change.
fn check_versions(path: &str, text: &str) -> Vec<String> {
    let manifest = manifest::parse(text);
    let own = manifest.dependencies.iter().filter(|dependency| !dependency.from_workspace);
    own.map(|dependency| {
        let (name, line) = (&dependency.name, dependency.line);
        format!(
            "{path}:{line}: {name} has a version of its own: put it in [workspace.dependencies] \
         and write {name}.workspace = true"
        )
    })
    .collect()
}

fn check_purity(path: &str, text: &str) -> Vec<String> {
    let code = without_tests(&code(text));
    let mut complaints = Vec::new();
    let mut complain = |line: usize, what: &str| {
        complaints.push(format!(
            "{path}:{line}: the core may not know of {what}: time and chance come in as input, what \
             touches the world goes out as an action"
        ));
    };
    for (index, line) in code.lines().enumerate() {
        for word in IMPURE_WORDS {
            if has_word(line, word) {
                complain(index + 1, word);
            }
        }
        for module in IMPURE_STD {
            if has_word(line, &format!("std::{module}")) {
                complain(index + 1, &format!("std::{module}"));
            }
        }
    }
    // use std::{fmt, fs};
    for (start, _) in code.match_indices("std::{") {
        let group = &code[start..];
        let group = &group[..group.find(';').unwrap_or(group.len())];
        for module in IMPURE_STD {
            if has_word(group, module) {
                complain(code[..start].lines().count().max(1), &format!("std::{module}"));
            }
        }
    }
    complaints
}

fn check_all(wanted: impl Fn(&TextFile) -> bool, check: fn(&str, &str) -> Vec<String>) {
    let files = text_files();
    let checked: Vec<&TextFile> = files.iter().filter(|file| wanted(file)).collect();
    assert!(!checked.is_empty(), "nothing to check: has a folder moved?");
    demand_none(&checked.iter().flat_map(|file| check(&file.path, &file.text)).collect::<Vec<_>>());
}

#[test]
fn crates_use_only_what_they_may() {
    check_all(TextFile::is_manifest, check_arrows);
}

#[test]
fn versions_are_the_workspace_s() {
    check_all(TextFile::is_manifest, check_versions);
}

#[test]
fn the_core_is_pure() {
    check_all(
        // Deliberate bugs are selected by the environment; no shipped program has them.
        |file| {
            file.is_rust()
                && file.path.starts_with("shared/commit-core/src/")
                && !file.path.ends_with("/mutants.rs")
        },
        check_purity,
    );
}

fn manifest_of(package: &str, dependencies: &str) -> String {
    format!("[package]\nname = \"{package}\"\n\n[dependencies]\n{dependencies}\n")
}

#[test]
fn forbidden_arrows_are_seen() {
    for (path, package, dependency) in [
        ("shared/commit-core/Cargo.toml", CORE, "tokio.workspace = true"),
        ("shared/commit-core/Cargo.toml", CORE, "handfast-wire.workspace = true"),
        ("coordinator/Cargo.toml", COORDINATOR, "handfast-participant.workspace = true"),
        ("participant/Cargo.toml", PARTICIPANT, "handfast-coordinator = { workspace = true }"),
        ("coordinator/client/Cargo.toml", CLIENT, "handfast-chaos.workspace = true"),
        ("tests/chaos/Cargo.toml", "handfast-chaos", "handfast-tidy.workspace = true"),
        (
            "shared/journal/Cargo.toml",
            JOURNAL,
            "\n[dev-dependencies]\nhandfast-runtime.workspace = true",
        ),
        ("shared/surprise/Cargo.toml", "handfast-surprise", ""),
    ] {
        assert_eq!(
            check_arrows(path, &manifest_of(package, dependency)).len(),
            1,
            "{package}: {dependency}"
        );
    }
}

#[test]
fn allowed_arrows_pass() {
    for (path, package, dependency) in [
        ("shared/commit-core/Cargo.toml", CORE, "thiserror.workspace = true"),
        (
            "shared/commit-core/Cargo.toml",
            CORE,
            "\n[dev-dependencies]\ndatadriven.workspace = true",
        ),
        (
            "coordinator/Cargo.toml",
            COORDINATOR,
            "handfast-runtime.workspace = true\ntokio.workspace = true",
        ),
        ("tests/chaos/Cargo.toml", "handfast-chaos", "handfast-participant.workspace = true"),
    ] {
        assert_eq!(check_arrows(path, &manifest_of(package, dependency)), Vec::<String>::new());
    }
}

#[test]
fn own_versions_are_seen() {
    assert_eq!(
        check_versions("a/Cargo.toml", &manifest_of("a", "b = \"1\"\nc = { path = \"../c\" }"))
            .len(),
        2
    );
    assert!(check_versions("a/Cargo.toml", &manifest_of("a", "b.workspace = true")).is_empty());
}

#[test]
fn impurity_is_seen() {
    for text in [
        "use std::time::Duration;",
        "use std::{\n    fmt,\n    fs,\n};",
        "let seen: HashMap<u8, u8> = HashMap::new();",
        "fn f() { rand::random() }",
        "async fn f() {}",
        "tokio::spawn(f());",
    ] {
        assert!(!check_purity("core.rs", text).is_empty(), "{text}");
    }
}

#[test]
fn purity_passes() {
    let text = "//! No HashMap, no tokio.\nuse std::collections::BTreeMap;\nuse std::{fmt, mem};\n\
                const WHY: &str = \"async\";\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
    assert_eq!(check_purity("core.rs", text), Vec::<String>::new());
}
