//! The settings in effect and where each came from: flags over environment over a file over defaults.
//!
//! An unknown key in the file is an error that names it: a setting that is misspelt and passed over
//! would be one that silently does nothing.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;

use crate::duration::parse_duration;
use crate::failure::Failure;
use crate::options::{CallMode, GlobalOptions, OutputFormat};

const COORDINATOR: &str = "http://127.0.0.1:7420";
const TIMEOUT: Duration = Duration::from_secs(40);

/// Looks up an environment variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The settings in effect.
#[derive(Debug)]
pub struct Settings {
    pub coordinator: Setting<String>,
    pub output: Setting<OutputFormat>,
    pub timeout: Setting<Duration>,
    pub client_mode: Setting<CallMode>,
    /// The file that was read.
    pub file: Option<PathBuf>,
}

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting<T> {
    pub value: T,
    pub source: Source,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    Flag(&'static str),
    Environment(&'static str),
    File(PathBuf),
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// What the file may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    coordinator: Option<String>,
    output: Option<String>,
    timeout: Option<String>,
    client_mode: Option<String>,
}

impl Settings {
    /// Finds the value of each setting.
    ///
    /// # Errors
    /// A usage error that names the variable, or the file and the key.
    pub fn resolve(flags: &GlobalOptions, environment: Environment<'_>) -> Result<Self, Failure> {
        let (file, path) = read_file(flags, environment)?;
        let from = Layers { environment, path: path.clone() };
        Ok(Self {
            coordinator: from.find(
                Named {
                    flag: "--coordinator",
                    variable: "HANDFAST_COORDINATOR",
                    key: "coordinator",
                },
                flags.coordinator.clone(),
                file.coordinator,
                COORDINATOR.to_owned(),
                |text| Ok(text.to_owned()),
            )?,
            output: from.find(
                Named { flag: "--output", variable: "HANDFAST_OUTPUT", key: "output" },
                flags.output,
                file.output,
                OutputFormat::Table,
                |text| {
                    OutputFormat::from_str(text, false)
                        .map_err(|_| format!("{text:?} is neither table nor json"))
                },
            )?,
            timeout: from.find(
                Named { flag: "--timeout", variable: "HANDFAST_TIMEOUT", key: "timeout" },
                flags.timeout,
                file.timeout,
                TIMEOUT,
                parse_duration,
            )?,
            client_mode: from.find(
                Named {
                    flag: "--client-mode",
                    variable: "HANDFAST_CLIENT_MODE",
                    key: "client_mode",
                },
                flags.client_mode,
                file.client_mode,
                CallMode::Stream,
                |text| {
                    CallMode::from_str(text, false)
                        .map_err(|_| format!("{text:?} is neither stream nor unary"))
                },
            )?,
            file: path,
        })
    }
}

/// A setting's names.
struct Named {
    flag: &'static str,
    variable: &'static str,
    key: &'static str,
}

/// What there is below the flags.
struct Layers<'a> {
    environment: Environment<'a>,
    path: Option<PathBuf>,
}

impl Layers<'_> {
    fn find<T>(
        &self,
        named: Named,
        flag: Option<T>,
        file: Option<String>,
        default: T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Setting<T>, Failure> {
        if let Some(value) = flag {
            return Ok(Setting { value, source: Source::Flag(named.flag) });
        }
        if let Some(text) = variable(self.environment, named.variable)? {
            let value = parse(&text).map_err(|error| {
                Failure::Usage(format!("environment variable {}: {error}", named.variable))
            })?;
            return Ok(Setting { value, source: Source::Environment(named.variable) });
        }
        if let (Some(text), Some(path)) = (file, &self.path) {
            let value = parse(&text).map_err(|error| {
                Failure::Usage(format!("{}: key `{}`: {error}", path.display(), named.key))
            })?;
            return Ok(Setting { value, source: Source::File(path.clone()) });
        }
        Ok(Setting { value: default, source: Source::Default })
    }
}

/// A variable's text. An empty one counts as unset, as is the custom.
fn variable(environment: Environment<'_>, name: &str) -> Result<Option<String>, Failure> {
    match environment(name).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(Err(_)) => Err(Failure::Usage(format!("environment variable {name} is not UTF-8"))),
    }
}

/// The file's contents and its path. One that was asked for must exist; the usual one need not.
fn read_file(
    flags: &GlobalOptions,
    environment: Environment<'_>,
) -> Result<(File, Option<PathBuf>), Failure> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let named = flags.config.clone().or_else(|| set("HANDFAST_CONFIG"));
    let usual = || {
        let folder =
            set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
        Some(folder.join("handfast/config.toml"))
    };
    let must_exist = named.is_some();
    let Some(path) = named.or_else(usual) else {
        return Ok((File::default(), None));
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => {
            return Ok((File::default(), None));
        }
        Err(error) => {
            return Err(Failure::Usage(format!("configuration file {}: {error}", path.display())));
        }
    };
    match toml::from_str(&text) {
        Ok(file) => Ok((file, Some(path))),
        Err(error) => {
            let message = error.to_string();
            Err(Failure::Usage(format!(
                "configuration file {}: {}",
                path.display(),
                message.trim_end()
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;

    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("written");
        file
    }

    fn resolve(
        coordinator: Option<&str>,
        config: Option<&Path>,
        environment: &[(&str, &str)],
    ) -> Result<Settings, String> {
        let flags = GlobalOptions {
            coordinator: coordinator.map(str::to_owned),
            config: config.map(Path::to_owned),
            ..GlobalOptions::default()
        };
        let lookup = |name: &str| {
            environment
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| OsString::from(value))
        };
        Settings::resolve(&flags, &lookup).map_err(|failure| failure.to_string())
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let file = file("coordinator = 'http://file:1'\ntimeout = '7s'\n");
        let variable = [("HANDFAST_COORDINATOR", "http://variable:1")];
        let check = |flag, config, environment: &[(&str, &str)], value: &str, source: Source| {
            let settings = resolve(flag, config, environment).expect("settings");
            assert_eq!(settings.coordinator, Setting { value: value.to_owned(), source });
        };
        let path = Some(file.path());
        check(
            Some("http://flag:1"),
            path,
            &variable,
            "http://flag:1",
            Source::Flag("--coordinator"),
        );
        check(
            None,
            path,
            &variable,
            "http://variable:1",
            Source::Environment("HANDFAST_COORDINATOR"),
        );
        check(None, path, &[], "http://file:1", Source::File(file.path().to_owned()));
        check(
            None,
            path,
            &[("HANDFAST_COORDINATOR", "")],
            "http://file:1",
            Source::File(file.path().to_owned()),
        );
        check(None, None, &[], COORDINATOR, Source::Default);
        let settings = resolve(None, path, &[]).expect("settings");
        assert_eq!(settings.timeout.value, Duration::from_secs(7));
        assert_eq!(settings.output.source, Source::Default);
        let unary = self::file("client_mode = 'unary'\n");
        let settings = resolve(None, Some(unary.path()), &[]).expect("settings");
        assert_eq!(settings.client_mode.value, CallMode::Unary);
        let variable = [("HANDFAST_CLIENT_MODE", "stream")];
        let settings = resolve(None, Some(unary.path()), &variable).expect("settings");
        assert_eq!(settings.client_mode.value, CallMode::Stream);
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let file = file("colour = 'red'\n");
        let error = resolve(None, Some(file.path()), &[]).expect_err("unknown key");
        assert!(error.contains("colour"), "{error}");
        assert!(error.contains(&file.path().display().to_string()), "{error}");
    }

    #[test]
    fn a_bad_value_is_an_error_that_names_where_it_stands() {
        let error = resolve(None, None, &[("HANDFAST_TIMEOUT", "soon")]).expect_err("no duration");
        assert!(error.contains("HANDFAST_TIMEOUT") && error.contains("soon"), "{error}");
        let error =
            resolve(None, None, &[("HANDFAST_CLIENT_MODE", "pigeon")]).expect_err("no mode");
        assert!(error.contains("stream") && error.contains("pigeon"), "{error}");
        let file = file("output = 'xml'\n");
        let error = resolve(None, Some(file.path()), &[]).expect_err("no format");
        assert!(error.contains("`output`") && error.contains("xml"), "{error}");
    }

    #[test]
    fn the_usual_file_need_not_exist_but_one_that_is_named_must() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let home = folder.path().to_str().expect("UTF-8");
        let settings = resolve(None, None, &[("XDG_CONFIG_HOME", home)]).expect("defaults");
        assert_eq!(settings.file, None);
        let missing = folder.path().join("missing.toml");
        let error = resolve(None, Some(&missing), &[]).expect_err("missing");
        assert!(error.contains("missing.toml"), "{error}");

        let usual = folder.path().join("handfast/config.toml");
        std::fs::create_dir_all(folder.path().join("handfast")).expect("a folder");
        std::fs::write(&usual, "output = 'json'").expect("written");
        let settings = resolve(None, None, &[("XDG_CONFIG_HOME", home)]).expect("settings");
        assert_eq!(
            settings.output,
            Setting { value: OutputFormat::Json, source: Source::File(usual) }
        );
    }
}
