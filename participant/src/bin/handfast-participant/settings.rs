//! The reference participant's table of settings: flags, environment, file and help are all made from
//! it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use handfast_runtime::config::{ConfigError, Kind, Setting, Settings};
use handfast_runtime::telemetry::LogFormat;

const fn setting(
    key: &'static str,
    flag: &'static str,
    env: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    help: &'static str,
) -> Setting {
    Setting { key, flag, env, kind, default, help }
}

/// Every setting.
pub(crate) const SETTINGS: &[Setting] = &[
    setting(
        "name",
        "name",
        "HANDFAST_NAME",
        Kind::Text,
        None,
        "The stable name of the resource (not of the host): 1 to 64 of a-z 0-9 - _ .",
    ),
    setting(
        "data",
        "data",
        "HANDFAST_DATA",
        Kind::Path,
        Some("handfast-participant-data"),
        "The folder of the log and the data; made when it is not there",
    ),
    setting(
        "listen",
        "listen",
        "HANDFAST_LISTEN",
        Kind::Address,
        Some("127.0.0.1:0"),
        "Where coordinators, peers and clients are served; port 0 takes a free one",
    ),
    setting(
        "coordinator",
        "coordinator",
        "HANDFAST_COORDINATOR",
        Kind::Text,
        Some("http://127.0.0.1:7420"),
        "Where the coordinator is, as http://host:port",
    ),
    setting(
        "advertise",
        "advertise",
        "HANDFAST_ADVERTISE",
        Kind::Text,
        None,
        "Where others reach this participant, as http://host:port, when that is not --listen",
    ),
    setting(
        "insecure",
        "insecure",
        "HANDFAST_INSECURE",
        Kind::Boolean,
        Some("false"),
        "Serve other machines in clear text",
    ),
    setting(
        "metrics_listen",
        "metrics-listen",
        "HANDFAST_METRICS_LISTEN",
        Kind::Address,
        None,
        "Where /metrics, /healthz and /readyz are served; nowhere when not set",
    ),
    setting(
        "io_threads",
        "io-threads",
        "HANDFAST_IO_THREADS",
        Kind::Integer { min: 1, max: 1024 },
        None,
        "Threads that serve connections; one for each two cores when not set",
    ),
    setting(
        "lock_wait",
        "lock-wait",
        "HANDFAST_LOCK_WAIT",
        Kind::Duration,
        Some("5s"),
        "How long one call may wait for locks, all together",
    ),
    setting(
        "inquire_after",
        "inquire-after",
        "HANDFAST_INQUIRE_AFTER",
        Kind::Duration,
        Some("1s"),
        "How long a branch in doubt waits before it asks; the wait doubles up to inquire_after_max",
    ),
    setting(
        "inquire_after_max",
        "inquire-after-max",
        "HANDFAST_INQUIRE_AFTER_MAX",
        Kind::Duration,
        Some("10s"),
        "The longest wait between two questions of a branch in doubt",
    ),
    setting(
        "drain",
        "drain",
        "HANDFAST_DRAIN",
        Kind::Duration,
        Some("10s"),
        "How long running calls may hold up the end after SIGTERM",
    ),
    setting(
        "log_level",
        "log-level",
        "HANDFAST_LOG_LEVEL",
        Kind::Text,
        Some("info"),
        "error, warn, info, debug, trace, or a filter such as info,handfast_participant=debug",
    ),
    setting(
        "log_format",
        "log-format",
        "HANDFAST_LOG_FORMAT",
        Kind::Choice(LogFormat::WORDS),
        Some("auto"),
        "How log lines look; auto: pretty on a terminal, JSON elsewhere",
    ),
];

/// The settings as they are used.
#[derive(Debug, Clone)]
pub(crate) struct ServerSettings {
    pub(crate) name: String,
    pub(crate) data: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) coordinator: String,
    pub(crate) advertise: Option<String>,
    pub(crate) insecure: bool,
    pub(crate) metrics_listen: Option<SocketAddr>,
    pub(crate) lock_wait: Duration,
    pub(crate) inquire_after: Duration,
    pub(crate) inquire_after_max: Duration,
    pub(crate) drain: Duration,
    pub(crate) io_threads: Option<usize>,
}

impl ServerSettings {
    /// Reads them.
    ///
    /// # Errors
    /// When one is missing, or two do not fit together.
    pub(crate) fn read(settings: &Settings) -> Result<Self, ConfigError> {
        let inquire_after: Duration = settings.get("inquire_after")?;
        let inquire_after_max: Duration = settings.get("inquire_after_max")?;
        if inquire_after.is_zero() || inquire_after > inquire_after_max {
            let wanted = "above 0 and at most inquire_after_max";
            return Err(settings.refuse("inquire_after", wanted));
        }
        let listen: SocketAddr = settings.get("listen")?;
        let advertise: Option<String> = settings.find("advertise")?;
        if listen.ip().is_unspecified() && advertise.is_none() {
            let wanted = "one address, which others need to know: name it, or set advertise";
            return Err(settings.refuse("listen", wanted));
        }
        Ok(Self {
            name: settings.get("name")?,
            data: settings.get("data")?,
            listen,
            coordinator: settings.get("coordinator")?,
            advertise,
            insecure: settings.get("insecure")?,
            metrics_listen: settings.find("metrics_listen")?,
            lock_wait: settings.get("lock_wait")?,
            inquire_after,
            inquire_after_max,
            drain: settings.get("drain")?,
            io_threads: settings.find("io_threads")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use handfast_runtime::config::Flags;

    use super::*;

    fn read(values: &[(&str, &str)]) -> Result<ServerSettings, ConfigError> {
        let values = values.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let flags = Flags { config: None, values };
        ServerSettings::read(&Settings::load(SETTINGS, &flags, &|_| None)?)
    }

    #[test]
    fn only_the_name_has_to_be_given() {
        let settings = read(&[("name", "orders")]).expect("complete");
        assert_eq!(settings.name, "orders");
        assert_eq!(settings.lock_wait, Duration::from_secs(5));
        let missing = read(&[]).expect_err("no name").to_string();
        assert!(missing.contains("--name") && missing.contains("HANDFAST_NAME"), "{missing}");
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for (values, part) in [
            ([("name", "a"), ("inquire_after", "1m")], "at most inquire_after_max"),
            ([("name", "a"), ("listen", "0.0.0.0:7501")], "set advertise"),
        ] {
            let error = read(&values).expect_err(part).to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
