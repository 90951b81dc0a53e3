//! How files are written: their size, their blanks, and that they name no machine.

use handfast_tidy::tree::{TextFile, demand_none, text_files};

const LINES_MAX: usize = 700;
const COLUMNS_MAX: usize = 120;

/// Folders of the machines on which this was written, which mean nothing on any other.
const MACHINE_FOLDERS: &[&str] = &["work", "root", "home", "farm", "Users"];

/// What names a registry other than the public default, or how to reach it.
const REGISTRY_WORDS: &[&str] = &[
    "--index-url",
    "--extra-index-url",
    "--find-links",
    "replace-with",
    "[source.",
    "sparse+http",
];

const PUBLIC_REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Cargo writes this one, and no rule for people applies.
fn is_lock(path: &str) -> bool {
    path.ends_with("Cargo.lock")
}

fn check_size(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let lines = text.lines().count();
    if lines > LINES_MAX {
        complaints.push(format!(
            "{path}: {lines} lines, and {LINES_MAX} is the limit: find its \
         second subject and give that a file"
        ));
    }
    for (index, line) in text.lines().enumerate() {
        let columns = line.chars().count();
        // The row of a table in documentation has to be one line.
        let row = line.trim_start().starts_with("//! |") || line.trim_start().starts_with("/// |");
        if columns > COLUMNS_MAX && !row {
            complaints.push(format!(
                "{path}:{}: {columns} columns, and {COLUMNS_MAX} is the limit: break the line",
                index + 1
            ));
        }
    }
    complaints
}

fn check_blanks(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    // make and Go want tabs.
    let tabs_are_fine =
        path.ends_with("Makefile") || path.ends_with(".mk") || path.ends_with(".go");
    for (index, line) in text.split('\n').enumerate() {
        let mut complain = |what: &str| complaints.push(format!("{path}:{}: {what}", index + 1));
        if line.ends_with('\r') {
            complain("ends with CR LF: end lines with LF");
        } else if line.ends_with([' ', '\t']) {
            complain("blanks at the end of the line: remove them");
        }
        if line.contains('\t') && !tabs_are_fine {
            complain("a tab: use spaces");
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        complaints.push(format!("{path}: the last line does not end: add a newline"));
    }
    if text.ends_with("\n\n") {
        complaints.push(format!("{path}: empty lines at the end: remove them"));
    }
    complaints
}

fn check_machine(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for folder in MACHINE_FOLDERS {
            if names_folder(line, &format!("/{folder}/")) {
                complaints.push(format!(
                    "{path}:{}: /{folder}/… is a path of one machine: make it relative to the file, \
                     or take it from the environment",
                    index + 1
                ));
            }
        }
        if line.contains(&["..", "shared", "design"].join("/")) {
            complaints.push(format!(
                "{path}:{}: names a folder outside the repository: say here what it says",
                index + 1
            ));
        }
    }
    complaints
}

/// Whether an absolute path begins here, and not a relative one, a URL's or a variable's.
fn names_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "_-.~}])*".contains(c))
    })
}

fn check_registry(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let stranger = if is_lock(path) {
            line.starts_with("source = ") && line != format!("source = \"{PUBLIC_REGISTRY}\"")
        } else {
            REGISTRY_WORDS.iter().any(|word| line.contains(word))
        };
        if stranger {
            complaints.push(format!(
                "{path}:{}: names a registry: packages come from the public ones, and a mirror \
                 belongs in the machine's own settings",
                index + 1
            ));
        }
    }
    complaints
}

fn check_all(wanted: impl Fn(&TextFile) -> bool, check: fn(&str, &str) -> Vec<String>) {
    let files = text_files();
    demand_none(
        &files
            .iter()
            .filter(|file| wanted(file))
            .flat_map(|file| check(&file.path, &file.text))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn sources_are_of_a_size_to_read() {
    check_all(TextFile::is_rust, check_size);
}

#[test]
fn blanks_are_where_they_mean_something() {
    // What a fuzzer starts from is not text, even where it looks like it.
    let corpus = |path: &str| path.starts_with("tests/fuzz/corpus/");
    check_all(|file| !is_lock(&file.path) && !corpus(&file.path), check_blanks);
}

#[test]
fn no_file_names_a_machine() {
    check_all(|_| true, check_machine);
}

#[test]
fn no_file_names_a_registry() {
    // This file has to name what it forbids.
    check_all(|file| file.path != "tests/tidy/tests/text.rs", check_registry);
}

#[test]
fn size_is_seen() {
    assert_eq!(check_size("a.rs", &"x\n".repeat(LINES_MAX + 1)).len(), 1);
    assert_eq!(check_size("a.rs", &"é".repeat(COLUMNS_MAX + 1)).len(), 1);
    assert!(
        check_size("a.rs", &format!("{}\n", "é".repeat(COLUMNS_MAX)).repeat(LINES_MAX)).is_empty()
    );
}

#[test]
fn blanks_are_seen() {
    for text in ["a \n", "a\t\n", "a\r\n", "\ta\n", "a", "a\n\n"] {
        assert!(!check_blanks("a.rs", text).is_empty(), "{text:?}");
    }
    assert!(check_blanks("a.rs", "a\n\nb\n").is_empty());
    assert!(check_blanks("Makefile", "a:\n\tb\n").is_empty());
}

#[test]
fn machine_folders_are_seen() {
    for folder in MACHINE_FOLDERS {
        for text in [
            format!("see /{folder}/x"),
            format!("\"/{folder}/x\""),
            format!("file:///{folder}/x"),
            format!("/{folder}/x"),
        ] {
            assert_eq!(check_machine("a.md", &text).len(), 1, "{text}");
        }
        for text in [
            format!("tests/{folder}/x"),
            format!("${{DIR}}/{folder}/x"),
            format!("https://example.org/{folder}/x"),
        ] {
            assert!(check_machine("a.md", &text).is_empty(), "{text}");
        }
    }
    assert_eq!(
        check_machine("a.md", &format!("see {}", ["..", "shared", "design", "1.md"].join("/")))
            .len(),
        1
    );
}

#[test]
fn registries_are_seen() {
    assert_eq!(
        check_registry("requirements.txt", "--index-url https://mirror.example.org/simple\n").len(),
        1
    );
    assert_eq!(check_registry(".cargo/config.toml", "[source.mirror]\n").len(), 1);
    assert_eq!(
        check_registry("Cargo.lock", "source = \"sparse+https://mirror.example.org/\"\n").len(),
        1
    );
    assert!(check_registry("Cargo.lock", &format!("source = \"{PUBLIC_REGISTRY}\"\n")).is_empty());
}
