//! How a client behaves, and what a transaction carries.

use std::collections::BTreeMap;
use std::time::Duration;

use handfast_wire::v1;

/// How the calls that are made often (execute, begin, commit, abort, get) travel. What comes of them is the
/// same either way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientMode {
    /// Over one stream that all clones of a client share, many in a frame: a fraction of the cost. A server
    /// that has no such stream is called as under [`ClientMode::Unary`].
    #[default]
    Stream,
    /// Each call by itself.
    Unary,
}

/// How a [`Client`](crate::Client) behaves.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// How calls travel. [`ClientMode::Stream`].
    pub mode: ClientMode,
    /// How long a call may take, retries included, unless it says otherwise. 40 s: longer than a
    /// transaction may stay undecided by default (30 s), so that a slow transaction is answered with
    /// its outcome instead of "unknown".
    pub deadline: Duration,
    /// How long one attempt to connect may take. 5 s.
    pub connect_timeout: Duration,
    /// How attempts follow each other.
    pub retry: RetryOptions,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            mode: ClientMode::default(),
            deadline: Duration::from_secs(40),
            connect_timeout: Duration::from_secs(5),
            retry: RetryOptions::default(),
        }
    }
}

/// How attempts follow each other: the pause doubles from `pause_min` to `pause_max`, each one is cut
/// by a random part of up to its half, and a longer pause that the server asks for is honoured.
#[derive(Debug, Clone, Copy)]
pub struct RetryOptions {
    /// The pause after the first failed attempt. 20 ms.
    pub pause_min: Duration,
    /// The longest pause of our own. 2 s.
    pub pause_max: Duration,
}

impl Default for RetryOptions {
    fn default() -> Self {
        Self { pause_min: Duration::from_millis(20), pause_max: Duration::from_secs(2) }
    }
}

/// What a transaction may carry from its first call on. Everything is optional; the coordinator checks
/// the limits.
#[derive(Debug, Clone, Default)]
pub struct TransactionOptions {
    protocol: v1::Protocol,
    timeout: Option<Duration>,
    summary: String,
    labels: BTreeMap<String, String>,
    traceparent: String,
}

impl TransactionOptions {
    /// The coordinator's defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The commit protocol; two-phase commit by default.
    #[must_use]
    pub fn protocol(mut self, protocol: v1::Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// How long the transaction may stay undecided before the coordinator aborts it.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// What the transaction is about, for people.
    #[must_use]
    pub fn summary(mut self, summary: impl Into<String>) -> Self {
        self.summary = summary.into();
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// W3C trace context.
    #[must_use]
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = traceparent.into();
        self
    }

    pub(crate) fn to_message(&self) -> v1::TransactionOptions {
        v1::TransactionOptions {
            protocol: self.protocol.into(),
            timeout: self.timeout.map(duration),
            summary: self.summary.clone(),
            labels: self.labels.clone().into_iter().collect(),
            traceparent: self.traceparent.clone(),
        }
    }
}

/// A duration for the wire. One that does not fit is over every limit anyway, and refused there.
pub(crate) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}
