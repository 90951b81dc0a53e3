//! Layered configuration: flags over `HANDFAST_…` environment over a TOML file over defaults.
//!
//! A program has a table of [`Setting`]s. [`Settings::load`] finds the value of each, checks all of them
//! before anything is started, and remembers where each came from for `config show`. The law kept here:
//! nothing that a person wrote is passed over in silence. A key of the file that is not in the table is
//! an error, and so is a value that does not fit its kind.
//!
//! Absent on purpose: unknown `HANDFAST_…` variables are not errors (several programs share one
//! environment), and nothing is read again while the program runs.

mod setting;
mod value;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

pub use self::setting::{Flags, Kind, Setting, arguments};
pub use self::value::{FromValue, Value};

/// The variable that names the file when `--config` does not.
pub const CONFIG_VARIABLE: &str = "HANDFAST_CONFIG";

/// Most near misses that an error lists.
const NEAR_MAX: usize = 3;

/// What is shown of a [`Kind::Secret`].
const MASK: &str = "********";

/// Looks up an environment variable; [`std::env::var_os`] in a program.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Why the configuration cannot be used. All but [`Table`](Self::Table) are the operator's to put right.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file has a key that no setting has.
    #[error("configuration file {}: unknown key `{key}`{}", .file.display(), hint(.near))]
    UnknownKey {
        /// The key, with the names of the tables around it.
        key: String,
        /// The file.
        file: PathBuf,
        /// Keys that are spelt alike, the nearest first.
        near: Vec<&'static str>,
    },
    /// A value does not fit its setting.
    #[error("setting `{key}`: {value:?} (from {origin}) is not {wanted}")]
    BadValue {
        /// The setting.
        key: &'static str,
        /// The value, as it was written.
        value: String,
        /// Where it was written.
        origin: Origin,
        /// What would fit, with an example.
        wanted: String,
    },
    /// A setting without a default was not set.
    #[error(
        "setting `{key}` has no value: give {wanted} with --{flag}, {env}, or `{key} = …` in the configuration file"
    )]
    Missing {
        /// The setting.
        key: &'static str,
        /// Its flag, without dashes.
        flag: &'static str,
        /// Its environment variable.
        env: &'static str,
        /// What would fit, with an example.
        wanted: String,
    },
    /// The file cannot be read.
    #[error(
        "configuration file {}: {source}; correct --config or {CONFIG_VARIABLE}, or create the file",
        .file.display()
    )]
    ReadFile {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("configuration file {}: {message}", .file.display())]
    ParseFile {
        /// The file.
        file: PathBuf,
        /// What the parser says, with the line.
        message: String,
    },
    /// A variable's value is no text.
    #[error("environment variable {env} is not UTF-8: set it anew, or unset it")]
    NotUtf8 {
        /// The variable.
        env: &'static str,
    },
    /// A mistake in the program: the table, or the use of it.
    #[error("the program's own table of settings is wrong: {0}")]
    Table(String),
}

fn hint(near: &[&str]) -> String {
    match near {
        [] => "; `config show` lists every key".to_owned(),
        near => format!(
            "; did you mean {}?",
            near.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(" or ")
        ),
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line; the flag without its dashes.
    Flag(&'static str),
    /// The environment variable of this name.
    Environment(&'static str),
    /// The configuration file at this path.
    File(PathBuf),
    /// The program.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag --{flag}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One setting as it is in effect.
#[derive(Debug, Clone)]
pub struct Effective {
    setting: Setting,
    found: Option<Found>,
}

#[derive(Debug, Clone)]
struct Found {
    text: String,
    value: Value,
    origin: Origin,
}

impl Effective {
    /// Its name.
    #[must_use]
    pub fn key(&self) -> &'static str {
        self.setting.key
    }

    /// The value as it was written, `None` when there is none. A [`Kind::Secret`] is masked.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        let found = self.found.as_ref()?;
        Some(if self.setting.kind == Kind::Secret { MASK } else { &found.text })
    }

    /// Where the value came from, `None` when there is none.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        self.found.as_ref().map(|found| &found.origin)
    }

    /// The value as TOML.
    fn toml(&self) -> Option<String> {
        let text = self.text()?;
        Some(match self.found.as_ref()?.value {
            Value::Integer(number) if self.setting.kind != Kind::Size => number.to_string(),
            Value::Boolean(boolean) => boolean.to_string(),
            _ => toml::Value::String(text.to_owned()).to_string(),
        })
    }
}

/// Every setting of a program, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    effective: Vec<Effective>,
    file: Option<PathBuf>,
}

impl Settings {
    /// Finds and checks the value of every setting. The file is the one of `--config`, or else of
    /// [`CONFIG_VARIABLE`]; without either there is none. A variable that is empty counts as unset.
    ///
    /// # Errors
    /// The first [`ConfigError`] met.
    pub fn load(
        table: &[Setting],
        flags: &Flags,
        environment: Environment<'_>,
    ) -> Result<Self, ConfigError> {
        check_table(table)?;
        for (key, _) in &flags.values {
            if !table.iter().any(|setting| setting.key == key) {
                return Err(ConfigError::Table(format!(
                    "a flag for `{key}`, which is not in the table"
                )));
            }
        }
        let named = environment(CONFIG_VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from);
        let file = flags.config.clone().or(named);
        let entries = match &file {
            Some(path) => read_file(table, path)?,
            None => Vec::new(),
        };
        let effective = table.iter().map(|setting| {
            let written = if let Some((_, text)) =
                flags.values.iter().rev().find(|(key, _)| key == setting.key)
            {
                Some((text.clone(), Origin::Flag(setting.flag)))
            } else if let Some(text) = variable(environment, setting.env)? {
                Some((text, Origin::Environment(setting.env)))
            } else if let (Some((_, text)), Some(path)) =
                (entries.iter().find(|(key, _)| key == setting.key), &file)
            {
                Some((text.clone(), Origin::File(path.clone())))
            } else {
                setting.default.map(|text| (text.to_owned(), Origin::Default))
            };
            let found =
                written.map(|(text, origin)| check_value(setting, text, origin)).transpose()?;
            Ok(Effective { setting: *setting, found })
        });
        Ok(Self { effective: effective.collect::<Result<_, _>>()?, file })
    }

    /// The value of a setting that must have one.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] when it has none; [`ConfigError::Table`] when the table does not have the
    /// setting, or has it with another kind than `T`.
    pub fn get<T: FromValue>(&self, key: &str) -> Result<T, ConfigError> {
        let Effective { setting, .. } = self.effective(key)?;
        self.find(key)?.ok_or_else(|| ConfigError::Missing {
            key: setting.key,
            flag: setting.flag,
            env: setting.env,
            wanted: setting.kind.wanted(),
        })
    }

    /// The value of a setting that may have none.
    ///
    /// # Errors
    /// [`ConfigError::Table`] when the table does not have the setting, or has it with another kind than
    /// `T`.
    pub fn find<T: FromValue>(&self, key: &str) -> Result<Option<T>, ConfigError> {
        let effective = self.effective(key)?;
        let Some(found) = &effective.found else { return Ok(None) };
        match T::from_value(&found.value) {
            Some(value) => Ok(Some(value)),
            None => Err(ConfigError::Table(format!(
                "`{key}` is read as {}, which its kind {:?} does not fit",
                std::any::type_name::<T>(),
                effective.setting.kind
            ))),
        }
    }

    /// A complaint about the value of a setting, for checks that involve more than the value itself.
    ///
    /// `wanted` completes "… is not".
    #[must_use]
    pub fn refuse(&self, key: &str, wanted: &str) -> ConfigError {
        match self.effective(key) {
            Ok(effective) => ConfigError::BadValue {
                key: effective.key(),
                value: effective.text().unwrap_or_default().to_owned(),
                origin: effective.origin().cloned().unwrap_or(Origin::Default),
                wanted: wanted.to_owned(),
            },
            Err(error) => error,
        }
    }

    /// Every setting, in the order of the table.
    #[must_use]
    pub fn effective_settings(&self) -> &[Effective] {
        &self.effective
    }

    /// The file that was read.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    fn effective(&self, key: &str) -> Result<&Effective, ConfigError> {
        self.effective
            .iter()
            .find(|effective| effective.key() == key)
            .ok_or_else(|| ConfigError::Table(format!("`{key}` is not in the table")))
    }
}

/// What `config show` prints: each effective value and where it came from, in a form that is itself a
/// configuration file (but for secrets, which are masked).
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<(String, String)> = self
            .effective
            .iter()
            .map(|effective| match (effective.toml(), effective.origin()) {
                (Some(value), Some(origin)) => {
                    (format!("{} = {value}", effective.key()), origin.to_string())
                }
                _ => (format!("# {}", effective.key()), "not set".to_owned()),
            })
            .collect();
        let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0);
        for (line, origin) in lines {
            writeln!(f, "{line:width$}  # {origin}")?;
        }
        Ok(())
    }
}

fn check_table(table: &[Setting]) -> Result<(), ConfigError> {
    for (index, setting) in table.iter().enumerate() {
        let earlier = &table[..index];
        let flag = setting.flag;
        let taken = flag == setting::CONFIG_KEY
            || setting.env == CONFIG_VARIABLE
            || earlier.iter().any(|other| {
                other.key == setting.key || other.flag == flag || other.env == setting.env
            });
        if taken {
            return Err(ConfigError::Table(format!("`{}` has a name that is taken", setting.key)));
        }
        if let Some(default) = setting.default
            && Value::parse(setting.kind, default).is_none()
        {
            let wanted = setting.kind.wanted();
            return Err(ConfigError::Table(format!(
                "`{}`: the default {default:?} is not {wanted}",
                setting.key
            )));
        }
    }
    Ok(())
}

fn check_value(setting: &Setting, text: String, origin: Origin) -> Result<Found, ConfigError> {
    match Value::parse(setting.kind, &text) {
        Some(value) => Ok(Found { text, value, origin }),
        None => Err(ConfigError::BadValue {
            key: setting.key,
            value: text,
            origin,
            wanted: setting.kind.wanted(),
        }),
    }
}

fn variable(
    environment: Environment<'_>,
    name: &'static str,
) -> Result<Option<String>, ConfigError> {
    match environment(name).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(Err(_)) => Err(ConfigError::NotUtf8 { env: name }),
    }
}

/// The keys and values of the file; every key is one of the table's.
fn read_file(table: &[Setting], file: &Path) -> Result<Vec<(String, String)>, ConfigError> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| ConfigError::ReadFile { file: file.to_owned(), source })?;
    let parsed: toml::Table = toml::from_str(&text).map_err(|error| ConfigError::ParseFile {
        file: file.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    })?;
    let mut entries = Vec::new();
    flatten("", parsed, &mut entries);
    let mut checked = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let Some(setting) = table.iter().find(|setting| setting.key == key) else {
            let near = near_misses(table, &key);
            return Err(ConfigError::UnknownKey { key, file: file.to_owned(), near });
        };
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(boolean) => boolean.to_string(),
            other => {
                let origin = Origin::File(file.to_owned());
                let value =
                    if setting.kind == Kind::Secret { MASK.to_owned() } else { other.to_string() };
                let wanted = setting.kind.wanted();
                return Err(ConfigError::BadValue { key: setting.key, value, origin, wanted });
            }
        };
        checked.push((key, text));
    }
    Ok(checked)
}

/// Tables within tables become keys with dots. An empty table is a key too, so that a misspelt one shows.
fn flatten(prefix: &str, table: toml::Table, entries: &mut Vec<(String, toml::Value)>) {
    for (key, value) in table {
        let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(inner) if !inner.is_empty() => flatten(&key, inner, entries),
            other => entries.push((key, other)),
        }
    }
}

/// The table's keys that look like a misspelt one, the nearest first.
fn near_misses(table: &[Setting], key: &str) -> Vec<&'static str> {
    // Someone who writes the flag's name in the file is off by no letter.
    let plain = |key: &str| key.to_lowercase().replace(['-', '.'], "_");
    let wanted = plain(key);
    let allowed = (wanted.chars().count() / 3).max(1);
    let mut near: Vec<_> = table
        .iter()
        .map(|setting| (distance(&wanted, &plain(setting.key)), setting.key))
        .filter(|(distance, _)| *distance <= allowed)
        .collect();
    near.sort();
    near.into_iter().take(NEAR_MAX).map(|(_, key)| key).collect()
}

/// How many letters to insert, remove or replace to make one text of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (row, letter) in a.chars().enumerate() {
        let mut left = row + 1;
        let mut diagonal = row;
        for (column, other) in b.iter().enumerate() {
            let here =
                (diagonal + usize::from(letter != *other)).min(left + 1).min(above[column + 1] + 1);
            diagonal = above[column + 1];
            above[column] = left;
            left = here;
        }
        above[b.len()] = left;
    }
    above[b.len()]
}

#[cfg(test)]
mod tests;
