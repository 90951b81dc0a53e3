//! The coordinator's table of settings: flags, environment, file and help are all made from it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use handfast_commit_core::id::{ParticipantName, Slot};
use handfast_commit_core::limits;
use handfast_commit_core::three_phase::Witness;
use handfast_runtime::config::{ConfigError, Kind, Setting, Settings};
use handfast_runtime::telemetry::LogFormat;

use crate::config::CoordinatorConfig;

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

const fn integer(min: u64, max: u64) -> Kind {
    Kind::Integer { min, max }
}

/// Every setting.
pub const SETTINGS: &[Setting] = &[
    setting(
        "data",
        "data",
        "HANDFAST_DATA",
        Kind::Path,
        Some("handfast-coordinator-data"),
        "The folder of the decision log; made when it is not there",
    ),
    setting(
        "listen",
        "listen",
        "HANDFAST_LISTEN",
        Kind::Address,
        Some("127.0.0.1:7420"),
        "Where clients and participants are served; port 0 takes a free one",
    ),
    setting(
        "advertise",
        "advertise",
        "HANDFAST_ADVERTISE",
        Kind::Text,
        None,
        "Where participants reach this coordinator, as http://host:port, when that is not --listen",
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
        "slot",
        "slot",
        "HANDFAST_SLOT",
        integer(0, 65_535),
        Some("0"),
        "The slot of the transaction space that this coordinator owns",
    ),
    setting(
        "shards",
        "shards",
        "HANDFAST_SHARDS",
        integer(1, 64),
        None,
        "Single-threaded shards; one for each two cores, at most 8, when not set",
    ),
    setting(
        "io_threads",
        "io-threads",
        "HANDFAST_IO_THREADS",
        integer(1, 1024),
        None,
        "Threads that serve connections; one for each two cores when not set",
    ),
    setting(
        "timeout",
        "timeout",
        "HANDFAST_TRANSACTION_TIMEOUT",
        Kind::Duration,
        Some("30s"),
        "How long a transaction may stay undecided, unless its client says otherwise",
    ),
    setting(
        "timeout_max",
        "timeout-max",
        "HANDFAST_TRANSACTION_TIMEOUT_MAX",
        Kind::Duration,
        Some("1h"),
        "The longest that a client may ask for",
    ),
    setting(
        "witnesses",
        "witnesses",
        "HANDFAST_WITNESSES",
        Kind::Text,
        None,
        "Witnesses of three-phase transactions, as name=http://host:port, separated by commas",
    ),
    setting(
        "witness_name",
        "witness-name",
        "HANDFAST_WITNESS_NAME",
        Kind::Text,
        None,
        "Serve as a witness of other slots' transactions, under this name and always with the same data folder",
    ),
    setting(
        "outcome_retention",
        "outcome-retention",
        "HANDFAST_OUTCOME_RETENTION",
        Kind::Duration,
        Some("24h"),
        "How long an outcome is remembered after its transaction has ended",
    ),
    setting(
        "in_flight_max",
        "in-flight-max",
        "HANDFAST_IN_FLIGHT_MAX",
        integer(1, 10_000_000),
        Some("100000"),
        "Most undecided transactions; more are refused with RESOURCE_EXHAUSTED",
    ),
    setting(
        "in_flight_bytes_max",
        "in-flight-bytes-max",
        "HANDFAST_IN_FLIGHT_BYTES_MAX",
        Kind::Size,
        Some("1GiB"),
        "Most bytes of work in undecided transactions; more are refused with RESOURCE_EXHAUSTED",
    ),
    setting(
        "undelivered_max",
        "undelivered-max",
        "HANDFAST_UNDELIVERED_MAX",
        integer(1, 100_000_000),
        Some("2000000"),
        "Most decided transactions that some participant has not acknowledged",
    ),
    setting(
        "link_queue_max",
        "link-queue-max",
        "HANDFAST_LINK_QUEUE_MAX",
        integer(16, 1_000_000),
        Some("10000"),
        "Most messages in the queue to one participant; a fifth of it may wait for that participant's votes, more \
            are refused with RESOURCE_EXHAUSTED",
    ),
    setting(
        "stream_calls_max",
        "stream-calls-max",
        "HANDFAST_STREAM_CALLS_MAX",
        integer(1, 10_000_000),
        Some("100000"),
        "Most calls in flight on one client's stream; more are refused with RESOURCE_EXHAUSTED",
    ),
    setting(
        "stream_bytes_max",
        "stream-bytes-max",
        "HANDFAST_STREAM_BYTES_MAX",
        Kind::Size,
        Some("256MiB"),
        "Most bytes of results kept for a stream whose client does not read; more are left out of the answers",
    ),
    setting(
        "drain",
        "drain",
        "HANDFAST_DRAIN",
        Kind::Duration,
        Some("10s"),
        "How long running transactions may hold up the end after SIGTERM",
    ),
    setting(
        "log_level",
        "log-level",
        "HANDFAST_LOG_LEVEL",
        Kind::Text,
        Some("info"),
        "error, warn, info, debug, trace, or a filter such as info,handfast_coordinator=debug",
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

/// The settings that the server is started with, besides the engine's own.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// The engine's.
    pub engine: CoordinatorConfig,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where participants reach it; the listening address when `None`.
    pub advertise: Option<String>,
    /// Serve other machines in clear text.
    pub insecure: bool,
    /// Where to serve metrics.
    pub metrics_listen: Option<SocketAddr>,
    /// How long to drain.
    pub drain: Duration,
    /// Threads that serve connections, if somebody says how many.
    pub io_threads: Option<usize>,
}

impl ServerSettings {
    /// Reads them.
    ///
    /// # Errors
    /// When two of them do not fit together.
    pub fn read(settings: &Settings) -> Result<Self, ConfigError> {
        let defaults = CoordinatorConfig::default();
        let timeout: Duration = settings.get("timeout")?;
        let timeout_max: Duration = settings.get("timeout_max")?;
        if timeout.is_zero() || timeout > timeout_max {
            return Err(settings.refuse("timeout", "above 0 and at most timeout_max"));
        }
        let size =
            |key| settings.get(key).map(|bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX));
        let witnesses = match settings.find::<String>("witnesses")? {
            None => Vec::new(),
            Some(text) => witnesses(&text).ok_or_else(|| {
                let wanted = "names and places as in w1=http://10.0.0.7:7420,w2=http://10.0.0.8:7420, \
                              each name once and at most 16";
                settings.refuse("witnesses", wanted)
            })?,
        };
        let witness_name = match settings.find::<String>("witness_name")? {
            None => None,
            Some(text) => Some(
                text.parse::<ParticipantName>()
                    .map_err(|_| settings.refuse("witness_name", "1 to 64 of a-z 0-9 - _ ."))?,
            ),
        };
        if witness_name.as_ref().is_some_and(|own| witnesses.iter().any(|one| one.name == *own)) {
            return Err(settings.refuse("witness_name", "not one of its own witnesses"));
        }
        let engine = CoordinatorConfig {
            data: settings.get::<PathBuf>("data")?,
            slot: Slot(settings.get::<u16>("slot")?),
            shards: settings.find::<usize>("shards")?.unwrap_or(defaults.shards),
            in_flight_max: settings.get("in_flight_max")?,
            in_flight_bytes_max: size("in_flight_bytes_max")?,
            undelivered_max: settings.get("undelivered_max")?,
            link_queue_max: settings.get("link_queue_max")?,
            stream_calls_max: settings.get("stream_calls_max")?,
            stream_bytes_max: size("stream_bytes_max")?,
            timeout,
            timeout_max,
            witnesses,
            witness_name,
            outcome_retention: settings.get("outcome_retention")?,
        };
        Ok(Self {
            engine,
            listen: settings.get("listen")?,
            advertise: settings.find("advertise")?,
            insecure: settings.get("insecure")?,
            metrics_listen: settings.find("metrics_listen")?,
            drain: settings.get("drain")?,
            io_threads: settings.find("io_threads")?,
        })
    }
}

/// Reads names and places; `None` when they are none.
fn witnesses(text: &str) -> Option<Vec<Witness>> {
    let one = |text: &str| {
        let (name, endpoint) = text.trim().split_once('=')?;
        let endpoint = crate::coordinator_service::endpoint(endpoint.to_owned()).ok()?;
        Some(Witness { name: name.parse().ok()?, endpoint })
    };
    let mut all = text.split(',').map(one).collect::<Option<Vec<_>>>()?;
    let count = all.len();
    all.sort();
    all.dedup_by(|a, b| a.name == b.name);
    (all.len() == count && count <= limits::WITNESSES_MAX).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use handfast_runtime::config::Flags;

    #[test]
    fn the_defaults_are_in_order() {
        let settings = Settings::load(SETTINGS, &Flags::default(), &|_| None).expect("defaults");
        let server = ServerSettings::read(&settings).expect("defaults");
        assert_eq!(server.listen, "127.0.0.1:7420".parse().expect("an address"));
        let defaults = CoordinatorConfig::default();
        assert_eq!(server.engine.in_flight_bytes_max, defaults.in_flight_bytes_max);
        assert_eq!(server.engine.outcome_retention, defaults.outcome_retention);
        assert_eq!(server.engine.undelivered_max, defaults.undelivered_max);
        assert_eq!(server.engine.stream_calls_max, defaults.stream_calls_max);
        assert_eq!(server.engine.stream_bytes_max, defaults.stream_bytes_max);
        assert_eq!((server.engine.witnesses, server.engine.witness_name), (Vec::new(), None));
    }

    #[test]
    fn witnesses_have_a_name_and_a_place_each() {
        let read = witnesses("w2=http://h:2, w1=http://h:1").expect("two");
        let names: Vec<_> = read.iter().map(|one| one.name.as_str()).collect();
        assert_eq!((names, read[0].endpoint.as_str()), (vec!["w1", "w2"], "http://h:1"));
        for wrong in
            ["", "w1", "w1=h:1", "w1=http://h", "W=http://h:1", "w=http://h:1,w=http://h:2"]
        {
            assert_eq!(witnesses(wrong), None, "{wrong}");
        }
        let set = |name: &str| match name {
            "HANDFAST_WITNESSES" => Some("w1=http://h:1".into()),
            "HANDFAST_WITNESS_NAME" => Some("w1".into()),
            _ => None,
        };
        let settings = Settings::load(SETTINGS, &Flags::default(), &set).expect("texts");
        let error = ServerSettings::read(&settings).expect_err("its own witness").to_string();
        assert!(error.contains("not one of its own witnesses"), "{error}");
    }
}
