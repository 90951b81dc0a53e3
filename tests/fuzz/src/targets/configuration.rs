//! Configuration of the two servers: a TOML file, environment variables and flags, as far as a program
//! goes before it opens anything.
//!
//! An input is a byte that says whose (even: the coordinator's), and parts with zeros between them: the
//! file, then flags (they begin with `-`) and variables (`NAME=VALUE`) in any order.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::Command;
use handfast_coordinator::settings as coordinator;
use handfast_journal::{Kind as Owner, MemoryDisk, MemoryJournal};
use handfast_participant::Participant;
use handfast_runtime::config::{Flags, Kind, Setting, Settings, Value, arguments};
use handfast_runtime::listen::check_address;
use handfast_runtime::telemetry::LogFormat;
use tracing_subscriber::EnvFilter;

use crate::Example;
use crate::participant_settings as participant;
use crate::random::Random;
use crate::scratch;

const TABLES: [&[Setting]; 2] = [coordinator::SETTINGS, participant::SETTINGS];

pub(crate) fn run(input: &[u8]) {
    let Some((whose, rest)) = input.split_first() else { return };
    let whose = usize::from(whose % 2);
    let mut parts = rest.split(|byte| *byte == 0);
    let file = scratch::file("config.toml", parts.next().unwrap_or_default());
    let (flags, variables): (Vec<_>, Vec<_>) = parts.partition(|part| part.starts_with(b"-"));

    let mut line: Vec<OsString> = vec!["server".into(), "--config".into(), file.clone().into()];
    line.extend(flags.into_iter().map(|flag| OsStr::from_bytes(flag).to_owned()));
    let command =
        Command::new("server").args(arguments(TABLES[whose])).subcommand(Command::new("show"));
    let matches = match command.try_get_matches_from(line) {
        Ok(matches) => matches,
        Err(error) => return drop(error.render().to_string()),
    };
    let flags = Flags::from_matches(TABLES[whose], &matches);
    let environment = |name: &str| {
        let found = variables
            .iter()
            .find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
        found.map(|value| OsStr::from_bytes(value).to_owned())
    };
    let settings = match Settings::load(TABLES[whose], &flags, &environment) {
        Ok(settings) => settings,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    shown_and_read(TABLES[whose], &settings);
    logged(&settings);
    match whose {
        0 => drop(coordinator::ServerSettings::read(&settings).map(begin_coordinator)),
        _ => drop(participant::ServerSettings::read(&settings).map(begin_participant)),
    }
}

/// What `config show` prints is itself a configuration file, of the same values.
fn shown_and_read(table: &[Setting], settings: &Settings) {
    let shown = settings.to_string();
    let file = scratch::file("shown.toml", shown.as_bytes());
    let flags = Flags { config: Some(file), values: Vec::new() };
    let again = Settings::load(table, &flags, &|_| None)
        .unwrap_or_else(|error| panic!("config show prints what cannot be read: {error}\n{shown}"));
    let before = settings.effective_settings().iter();
    for (before, after) in before.zip(again.effective_settings()) {
        // A number may be written in several ways.
        let setting = table.iter().find(|setting| setting.key == before.key());
        let kind = setting.map_or(Kind::Text, |setting| setting.kind);
        let value = |text: Option<&str>| text.map(|text| Value::parse(kind, text));
        let (was, is) = (value(before.text()), value(after.text()));
        assert_eq!(was, is, "{} is another after a round trip", before.key());
    }
}

fn logged(settings: &Settings) {
    let (format, level) =
        (settings.get::<String>("log_format"), settings.get::<String>("log_level"));
    if let (Ok(format), Ok(level)) = (format, level) {
        format.parse::<LogFormat>().expect("one of the words of its kind");
        let _ = EnvFilter::builder().parse(level).map_err(|error| error.to_string());
    }
}

fn begin_coordinator(settings: coordinator::ServerSettings) {
    assert!(settings.engine.timeout <= settings.engine.timeout_max);
    let _ = check_address(settings.listen, settings.insecure);
    let _ = settings.metrics_listen.map(|address| check_address(address, settings.insecure));
    let _ = tokio::time::Instant::now() + settings.drain;
}

fn begin_participant(settings: participant::ServerSettings) {
    let _ = settings.metrics_listen.map(|address| check_address(address, settings.insecure));
    let now = tokio::time::Instant::now();
    let _ = (now + settings.drain, now + settings.lock_wait, settings.data.components().count());
    assert_ne!(settings.io_threads, Some(0), "a runtime has at least one thread");
    let mut builder = Participant::builder(&settings.name)
        .folder(&settings.data)
        .coordinator(&settings.coordinator)
        .listen(settings.listen)
        .insecure(settings.insecure);
    if let Some(advertise) = &settings.advertise {
        builder = builder.advertise(advertise);
    }
    let journal =
        MemoryJournal::open(&MemoryDisk::new(1), Owner::Participant).expect("an empty disk");
    match builder.open_on(Box::new(journal), "memory") {
        Ok(opened) => {
            drop(opened.inquire_after(settings.inquire_after, settings.inquire_after_max))
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

pub(crate) fn generate(random: &mut Random) -> Vec<u8> {
    let whose = random.below(2);
    let table = TABLES[whose];
    let mut input = vec![whose as u8];
    for _ in 0..random.below(5) {
        let setting = random.pick(table);
        let value = value(random, setting.kind);
        let bare = random.one_in(2) && value.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let line = match bare {
            true => format!("{} = {value}\n", setting.key),
            false => format!("{} = {:?} # why\n", setting.key, value),
        };
        input.extend(line.bytes());
    }
    if whose == 1 && random.one_in(2) {
        input.extend(b"name = 'a'\n");
    }
    for _ in 0..random.below(4) {
        let setting = random.pick(table);
        let value = value(random, setting.kind);
        let part = match random.below(2) {
            0 => format!("--{}={value}", setting.flag),
            _ => format!("{}={value}", setting.env),
        };
        input.push(0);
        input.extend(part.bytes());
    }
    input
}

fn value(random: &mut Random, kind: Kind) -> String {
    let number = random.number();
    match kind {
        Kind::Duration => format!("{number}{}", random.pick(&["us", "ms", "s", "m", "h", "d", ""])),
        Kind::Size => format!("{number}{}", random.pick(&["B", "KiB", "MiB", "GiB", "TiB", ""])),
        Kind::Integer { .. } => number.to_string(),
        Kind::Boolean => (*random.pick(&["true", "false", "1"])).to_owned(),
        Kind::Choice(words) => (*random.pick(words)).to_owned(),
        Kind::Address => {
            (*random.pick(&["127.0.0.1:0", "0.0.0.0:1", "[::]:65535", "a:1"])).to_owned()
        }
        Kind::Text | Kind::Secret | Kind::Path => {
            let texts =
                ["a", "info", "a=debug,b[c{d=1}]=trace", "http://127.0.0.1:1", "x\ny", "\u{7f}'\""];
            (*random.pick(&texts)).to_owned()
        }
    }
}

pub(crate) fn examples(random: &mut Random) -> Vec<Example> {
    let mut examples = vec![
        Example {
            name: "coordinator".into(),
            input: b"\0slot = 7\ntimeout = '5s'\n[log]\n\0HANDFAST_DRAIN=1s\0--insecure".to_vec(),
        },
        Example {
            name: "participant".into(),
            input: b"\x01name = \"a\"\nlock_wait = \"1ms\"\n\0HANDFAST_LISTEN=[::1]:0".to_vec(),
        },
    ];
    for number in 0..4 {
        examples.push(Example { name: format!("random-{number}"), input: generate(random) });
    }
    examples
}
