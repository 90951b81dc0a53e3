//! What does not appear in finished code.

use handfast_tidy::source::{code, has_word, is_test_file, without_tests};
use handfast_tidy::tree::{demand_none, text_files};

/// In any Rust file.
const NOWHERE: &[(&str, &str)] = &[
    ("todo!", "write it, or leave it out"),
    ("unimplemented!", "write it, or leave it out"),
    ("dbg!", "log it with tracing, or remove it"),
    ("#[ignore", "make the test pass, or remove it: a test that does not run proves nothing"),
    ("allow(dead_code)", "remove what nobody uses"),
    (
        "thread::sleep",
        "wait for the condition itself: a channel, a condition variable, tokio's time",
    ),
];

/// In Rust files, outside tests.
const NOT_SHIPPED: &[(&str, &str)] = &[
    (".unwrap()", "return an error, or say with expect() why it cannot fail"),
    (".unwrap_err()", "return an error, or say with expect_err() why it cannot fail"),
    ("expect(\"\")", "say why it cannot fail"),
];

/// Notes to oneself, put together here so that this file holds none.
fn notes() -> [String; 3] {
    ["TO", "FIX", "XX"].map(|start| {
        let end = match start {
            "TO" => "DO",
            "FIX" => "ME",
            _ => "X",
        };
        format!("{start}{end}")
    })
}

/// Where something of the above is right: the path, what it is, and why. Each is needed, or a test
/// below complains.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

fn check_code(path: &str, text: &str) -> Vec<String> {
    let code = code(text);
    let shipped = if is_test_file(path) { String::new() } else { without_tests(&code) };
    let mut complaints = find(path, &code, NOWHERE);
    complaints.extend(find(path, &shipped, NOT_SHIPPED));
    complaints
}

fn find(path: &str, code: &str, forbidden: &[(&str, &str)]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (index, line) in code.lines().enumerate() {
        for (what, cure) in forbidden {
            let excepted =
                EXCEPTIONS.iter().any(|(place, thing, _)| place == &path && thing == what);
            if line.contains(what) && !excepted {
                complaints.push(format!("{path}:{}: {what}: {cure}", index + 1));
            }
        }
    }
    complaints
}

fn check_notes(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for note in notes() {
            if has_word(line, &note) {
                complaints.push(format!(
                    "{path}:{}: {note}: do it, or write down as a fact what is absent",
                    index + 1
                ));
            }
        }
    }
    complaints
}

#[test]
fn code_is_finished() {
    let files = text_files();
    let rust = files.iter().filter(|file| file.is_rust());
    demand_none(&rust.flat_map(|file| check_code(&file.path, &file.text)).collect::<Vec<_>>());
}

#[test]
fn no_notes_are_left() {
    let files = text_files();
    let written = files.iter().filter(|file| file.path != "Cargo.lock");
    demand_none(&written.flat_map(|file| check_notes(&file.path, &file.text)).collect::<Vec<_>>());
}

#[test]
fn every_exception_is_needed() {
    let files = text_files();
    let unneeded = EXCEPTIONS.iter().filter(|(path, what, _)| {
        !files.iter().any(|file| file.path == *path && code(&file.text).contains(what))
    });
    let complaints = unneeded.map(|(path, what, why)| {
        format!("{path} has no {what} ({why}): remove the exception from tests/tidy/tests/code.rs")
    });
    demand_none(&complaints.collect::<Vec<_>>());
}

#[test]
fn unfinished_code_is_seen_everywhere() {
    for line in [
        "fn f() { todo!() }",
        "fn f() { unimplemented!(\"later\") }",
        "dbg!(x);",
        "#[ignore = \"slow\"]",
        "#[allow(dead_code)]",
        "std::thread::sleep(pause);",
    ] {
        for path in ["shared/wire/src/lib.rs", "tests/chaos/tests/bank.rs"] {
            assert_eq!(check_code(path, line).len(), 1, "{path}: {line}");
        }
    }
}

#[test]
fn unwrap_is_seen_where_it_ships() {
    let text = "fn f() { lock.lock().unwrap(); }\n";
    assert_eq!(check_code("shared/wire/src/lib.rs", text).len(), 1);
    assert_eq!(check_code("shared/wire/src/lib.rs", "x.expect(\"\");").len(), 1);
    assert!(check_code("shared/wire/tests/frames.rs", text).is_empty());
    assert!(
        check_code("shared/wire/src/lib.rs", &format!("#[cfg(test)]\nmod tests {{\n{text}}}\n"))
            .is_empty()
    );
}

#[test]
fn talk_of_it_passes() {
    let text = "// never todo!() nor x.unwrap()\nfn f() { x.unwrap_or(1); log(\"thread::sleep\"); \
     y.expect(\"checked above\"); }\n";
    assert_eq!(check_code("shared/wire/src/lib.rs", text), Vec::<String>::new());
}

#[test]
fn notes_are_seen() {
    for note in notes() {
        assert_eq!(check_notes("a.md", &format!("# {note}: more\n")).len(), 1, "{note}");
        assert!(check_notes("a.md", &format!("a{note}b\n")).is_empty());
    }
}
