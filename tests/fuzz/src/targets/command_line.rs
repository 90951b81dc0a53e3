//! The command line of `handfast`, with its environment and its configuration file.
//!
//! An input is parts with zeros between them: the file, then variables (`NAME=VALUE`, the name in
//! capitals), then, from the first part that is none, the arguments.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use handfast_wire::v1;
use prost::Message;

use crate::Example;
use crate::random::Random;
use crate::{sample, scratch};

pub(crate) fn run(input: &[u8]) {
    let mut parts = input.split(|byte| *byte == 0).peekable();
    let file = scratch::file("handfast.toml", parts.next().unwrap_or_default());
    let mut variables = vec![(&b"HANDFAST_CONFIG"[..], file.as_os_str().as_bytes())];
    while let Some(variable) = parts.next_if(|part| variable(part).is_some()) {
        variables.extend(self::variable(variable));
    }
    let mut arguments: Vec<OsString> = vec!["handfast".into()];
    arguments.extend(parts.map(|part| OsStr::from_bytes(part).to_owned()));
    let environment = |name: &str| {
        let found = variables.iter().rev().find(|(known, _)| *known == name.as_bytes());
        found.map(|(_, value)| OsStr::from_bytes(value).to_owned())
    };
    match handfast_cli::understand(&arguments, &environment) {
        Ok(understood) => {
            assert!(!understood.timeout.is_zero());
            for (participant, work) in understood.work {
                assert!(!participant.trim().is_empty() && !work.is_empty());
                let sent =
                    v1::KeyValueWork::decode(work.encode()).expect("what the client encodes");
                assert_eq!(sent, work.message(), "other work than was written");
            }
        }
        Err(message) => assert!(!message.is_empty()),
    }
}

fn variable(part: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = part.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (&part[..at], &part[at + 1..]);
    let capitals = name.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'_');
    (capitals && !name.is_empty()).then_some((name, value))
}

const COMMANDS: &[&[&str]] = &[
    &["txn", "execute", "--kv", KV],
    &[
        "txn",
        "execute",
        "--branch",
        "a=work.bin",
        "--request-id",
        ID,
        "--label",
        "k=v",
        "--reply",
        "decided",
    ],
    &["txn", "begin", "--transaction-timeout", TIME, "--summary", TEXT, "--traceparent", TEXT],
    &["txn", "commit", ID, "--request-id", TEXT],
    &["txn", "abort", ID, "--reason", TEXT],
    &["txn", "show", ID, "--wait"],
    &["txn", "show", "--request-id", TEXT],
    &["txn", "list", "--state", "active", "--older-than", TIME, "--limit", NUMBER],
    &["txn", "watch", ID],
    &["kv", "get", "a", TEXT, "--raw"],
    &["kv", "put", "a", "k", TEXT, "--txn", ID],
    &["kv", "delete", "a", "k"],
    &["kv", "add", "a", "k", NUMBER, "--floor", NUMBER],
    &["kv", "expect", "a", "k", "--absent"],
    &["participants", "--coordinator", TEXT, "--output", "json", "--timeout", TIME],
    &["config", "show"],
    &["demo", "--seconds", NUMBER, "--clients", NUMBER, "--kill-every", TIME, "--seed", NUMBER],
    &["completions", "bash"],
    &["help", "txn", "execute"],
    &["--version"],
];
// Places in the table above that are filled in at random.
const KV: &str = "<kv>";
const ID: &str = "<id>";
const TIME: &str = "<time>";
const TEXT: &str = "<text>";
const NUMBER: &str = "<number>";

const OPERATIONS: &[&str] = &[
    "get k",
    "put k v",
    "put 'a;b' \"x \\\" \\x00\\xff\\n\"",
    "delete k",
    "add n -5 floor 0",
    "add n 9223372036854775807",
    "expect k ''",
    "absent k",
    "put k pre\"fix ed\"",
    "put \u{e9} \u{1f600}",
    "",
];

fn command(random: &mut Random, words: &[&str]) -> Vec<u8> {
    let mut input = Vec::new();
    if random.one_in(2) {
        input.extend(b"timeout = '7s'\noutput = 'json'\n");
    }
    if random.one_in(3) {
        let variable =
            *random.pick(&["HANDFAST_TIMEOUT", "HANDFAST_OUTPUT", "HANDFAST_COORDINATOR"]);
        input.extend(format!("\0{variable}={}", filled(random, TIME)).bytes());
    }
    for word in words {
        input.push(0);
        input.extend(filled(random, word).bytes());
    }
    input
}

fn filled(random: &mut Random, word: &str) -> String {
    match word {
        KV => {
            let count = 1 + random.below(4);
            let operations: Vec<&str> = (0..count).map(|_| *random.pick(OPERATIONS)).collect();
            format!("{}: {}", sample::name(random), operations.join("; "))
        }
        ID => sample::id_text(random),
        TIME => format!("{}{}", random.number(), random.pick(&["ms", "s", "m", "h", ""])),
        TEXT => sample::request_id(random).replace('\0', ""),
        NUMBER => (random.number() as i64).to_string(),
        word => word.to_owned(),
    }
}

pub(crate) fn generate(random: &mut Random) -> Vec<u8> {
    let words = *random.pick(COMMANDS);
    command(random, words)
}

pub(crate) fn examples(random: &mut Random) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    for words in COMMANDS {
        let name: Vec<&str> =
            words.iter().take(3).map(|word| word.trim_matches(['-', '<', '>'])).collect();
        let name = format!("{}-{}", name.join("-"), examples.len());
        examples.push(Example { name, input: command(random, words) });
    }
    examples
}
