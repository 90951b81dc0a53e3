//! One setting: its names, its kind and its default, and the command line that a table of them makes.
//!
//! A program has one table. The flags, the variables, the keys of the file, the help and `config show`
//! are all made from it, so that none of them can know a setting that another does not.

use clap::{Arg, ArgAction, ArgMatches};
use std::path::PathBuf;

use super::CONFIG_VARIABLE;

/// A setting of a program.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name in the file, and in [`get`](super::Settings::get): words joined by `_`. A dot stands for
    /// a table of the file.
    pub key: &'static str,
    /// Its flag, without the two dashes: the words of the key joined by `-`.
    pub flag: &'static str,
    /// Its environment variable.
    pub env: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// The value when nobody sets it, written as in the file. `None`: there is none.
    pub default: Option<&'static str>,
    /// One line for the help.
    pub help: &'static str,
}

/// What a setting's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A time span with its unit, as in `500ms`, `30s`, `5m`, `24h`, `7d`. Read as `Duration`.
    Duration,
    /// A number of bytes with its unit, as in `512B`, `64KiB`, `64MiB`, `2GiB`. Read as `u64`, in bytes.
    Size,
    /// A whole number. Read as `u64`, `u32`, `u16` or `usize`.
    Integer {
        /// The smallest that is allowed.
        min: u64,
        /// The largest that is allowed.
        max: u64,
    },
    /// `true` or `false`; a flag without a value says `true`. Read as `bool`.
    Boolean,
    /// Any text that is not empty. Read as `String`.
    Text,
    /// A text that is never shown. Read as `String`.
    Secret,
    /// One of a few words. Read as `String`.
    Choice(&'static [&'static str]),
    /// An IP address and a port, as in `127.0.0.1:7420` or `[::1]:7420`. Read as `SocketAddr`.
    Address,
    /// A file or a folder; a relative one starts at the folder the program was started in. Read as
    /// `PathBuf`.
    Path,
}

impl Kind {
    /// What a value should have been, with an example; completes "… is not".
    #[must_use]
    pub fn wanted(self) -> String {
        match self {
            Self::Duration => "a duration such as 500ms, 30s, 5m, 24h or 7d".to_owned(),
            Self::Size => "a size such as 512B, 64KiB, 64MiB or 2GiB".to_owned(),
            Self::Integer { min, max: u64::MAX } => {
                format!("a whole number from {min} on, such as {min}")
            }
            Self::Integer { min, max } => {
                format!("a whole number from {min} to {max}, such as {max}")
            }
            Self::Boolean => "true or false".to_owned(),
            Self::Text | Self::Secret => "a text of at least one character".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Address => {
                "an IP address and a port such as 127.0.0.1:7420 or [::1]:7420".to_owned()
            }
            Self::Path => "a path such as ./handfast-data".to_owned(),
        }
    }

    fn value_name(self) -> &'static str {
        match self {
            Self::Duration => "DURATION",
            Self::Size => "SIZE",
            Self::Integer { .. } => "NUMBER",
            Self::Boolean => "BOOL",
            Self::Text | Self::Secret => "TEXT",
            Self::Choice(_) => "WORD",
            Self::Address => "ADDRESS",
            Self::Path => "PATH",
        }
    }
}

impl Setting {
    fn argument(&self) -> Arg {
        let mut help = format!("{} [env: {}]", self.help, self.env);
        if let Kind::Choice(words) = self.kind {
            help.push_str(&format!(" [one of: {}]", words.join(", ")));
        }
        if let Some(default) = self.default {
            help.push_str(&format!(" [default: {default}]"));
        }
        let argument = Arg::new(self.key)
            .long(self.flag)
            .value_name(self.kind.value_name())
            .action(ArgAction::Set)
            .global(true)
            .help(help);
        if self.kind == Kind::Boolean {
            // `--insecure serve` must not take `serve` for the value.
            argument.num_args(0..=1).require_equals(true).default_missing_value("true")
        } else {
            argument.allow_hyphen_values(matches!(self.kind, Kind::Integer { .. }))
        }
    }
}

/// The flags of a program with this table: `--config`, and one for each setting. They may stand before
/// and behind a subcommand.
#[must_use]
pub fn arguments(table: &[Setting]) -> Vec<Arg> {
    let file = Arg::new(CONFIG_KEY)
        .long(CONFIG_KEY)
        .value_name("FILE")
        .action(ArgAction::Set)
        .value_parser(clap::value_parser!(PathBuf))
        .global(true)
        .help(format!("The configuration file, in TOML [env: {CONFIG_VARIABLE}]"));
    std::iter::once(file).chain(table.iter().map(Setting::argument)).collect()
}

/// The name of the flag that names the file; no setting may have it.
pub(super) const CONFIG_KEY: &str = "config";

/// What the command line said.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// The file named by `--config`.
    pub config: Option<PathBuf>,
    /// Keys of settings and their values.
    pub values: Vec<(String, String)>,
}

impl Flags {
    /// Takes them from a command line that was read with [`arguments`] of the same table.
    #[must_use]
    pub fn from_matches(table: &[Setting], matches: &ArgMatches) -> Self {
        let values = table.iter().filter_map(|setting| {
            let value = matches.try_get_one::<String>(setting.key).ok().flatten()?;
            Some((setting.key.to_owned(), value.clone()))
        });
        Self {
            config: matches.try_get_one::<PathBuf>(CONFIG_KEY).ok().flatten().cloned(),
            values: values.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Setting] = &[
        Setting {
            key: "listen",
            flag: "listen",
            env: "HANDFAST_LISTEN",
            kind: Kind::Address,
            default: Some("127.0.0.1:7420"),
            help: "Where to listen",
        },
        Setting {
            key: "insecure",
            flag: "insecure",
            env: "HANDFAST_INSECURE",
            kind: Kind::Boolean,
            default: Some("false"),
            help: "Do",
        },
        Setting {
            key: "log.format",
            flag: "log-format",
            env: "HANDFAST_LOG_FORMAT",
            kind: Kind::Choice(&["auto", "json"]),
            default: None,
            help: "How to log",
        },
    ];

    fn flags(line: &[&str]) -> Flags {
        let command = clap::Command::new("server")
            .args(arguments(TABLE))
            .subcommand(clap::Command::new("serve"))
            .subcommand(clap::Command::new("show"));
        let matches =
            command.try_get_matches_from(line).expect("a command line that clap understands");
        Flags::from_matches(TABLE, &matches)
    }

    fn check(line: &[&str], config: Option<&str>, values: &[(&str, &str)]) {
        let flags = flags(line);
        assert_eq!(flags.config, config.map(PathBuf::from), "{line:?}");
        let values: Vec<_> =
            values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        assert_eq!(flags.values, values, "{line:?}");
    }

    #[test]
    fn only_what_was_written_counts_as_a_flag() {
        check(&["server"], None, &[]);
        check(&["server", "--listen", "[::1]:1"], None, &[("listen", "[::1]:1")]);
        check(
            &["server", "--config=a.toml", "--log-format", "json"],
            Some("a.toml"),
            &[("log.format", "json")],
        );
        check(&["server", "show", "--listen=x", "--config", "b"], Some("b"), &[("listen", "x")]);
    }

    #[test]
    fn a_boolean_needs_no_value() {
        check(&["server", "--insecure"], None, &[("insecure", "true")]);
        check(&["server", "--insecure=false"], None, &[("insecure", "false")]);
        check(&["server", "--insecure", "serve"], None, &[("insecure", "true")]);
    }

    #[test]
    fn the_help_names_variable_default_and_choices() {
        let help =
            clap::Command::new("server").args(arguments(TABLE)).render_long_help().to_string();
        for part in [
            "--listen <ADDRESS>",
            "Where to listen [env: HANDFAST_LISTEN] [default: 127.0.0.1:7420]",
            "--log-format <WORD>",
            "[one of: auto, json]",
            "[env: HANDFAST_CONFIG]",
        ] {
            let flat = help.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(flat.contains(part), "{part}: {help}");
        }
    }
}
