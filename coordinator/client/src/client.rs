//! The connection to a coordinator, and transactions in one call.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use handfast_commit_core::id::RequestId;
use handfast_commit_core::limits::{BRANCHES_MAX, PAYLOAD_BYTES_MAX};
use handfast_wire::v1;
use handfast_wire::v1::transaction_call::Request as Call;
use tonic::transport::{Channel, Endpoint};

use crate::error::{Cause, Error};
use crate::line::Line;
use crate::options::{ClientMode, ClientOptions};
use crate::participants::Directory;
use crate::request::{Committed, Request, Settled};
use crate::retry::{Budget, attempts};

/// The largest answer: every branch of the largest transaction returns twice the largest payload.
pub(crate) const MESSAGE_BYTES_MAX: usize = (BRANCHES_MAX + 1) * 2 * PAYLOAD_BYTES_MAX;

/// A silent server is asked for a sign of life this often while calls wait for it, and has this long
/// to give one.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A client of one coordinator. Cheap to clone; all clones share one connection.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    channel: Channel,
}

#[derive(Debug)]
struct Shared {
    endpoint: String,
    options: ClientOptions,
    directory: Directory,
    /// None: each call is made by itself.
    line: Option<Line>,
}

impl Client {
    /// A client of the coordinator at `endpoint`, as `http://host:port`. Connects when it is first
    /// used, and again whenever the connection is lost. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::InvalidEndpoint`].
    pub fn connect(endpoint: &str) -> Result<Self, Error> {
        Self::connect_with(endpoint, ClientOptions::default())
    }

    /// As [`Client::connect`], with options.
    ///
    /// # Errors
    /// [`Error::InvalidEndpoint`].
    pub fn connect_with(endpoint: &str, options: ClientOptions) -> Result<Self, Error> {
        let channel = channel(endpoint, options.connect_timeout)?.connect_lazy();
        Ok(Self::new(endpoint, options, channel))
    }

    /// Connects at once, in one attempt, for callers that would rather hear now than retry that nobody
    /// is there.
    ///
    /// # Errors
    /// [`Error::InvalidEndpoint`]; [`Error::Unavailable`] when nobody answers.
    pub async fn connect_now(endpoint: &str, options: ClientOptions) -> Result<Self, Error> {
        let connected = channel(endpoint, options.connect_timeout)?.connect().await;
        match connected {
            Ok(channel) => Ok(Self::new(endpoint, options, channel)),
            Err(error) => {
                let source = Cause::Status(Box::new(tonic::Status::from_error(error.into())));
                Err(Error::Unavailable { endpoint: endpoint.to_owned(), source })
            }
        }
    }

    fn new(endpoint: &str, options: ClientOptions, channel: Channel) -> Self {
        let endpoint = endpoint.to_owned();
        let line = match options.mode {
            ClientMode::Stream => Some(Line::default()),
            ClientMode::Unary => None,
        };
        let shared = Shared { endpoint, options, directory: Directory::default(), line };
        Self { shared: Arc::new(shared), channel }
    }

    /// Carries the work of every branch to its participant and commits it. Attempts that fail are
    /// repeated, with the same `request_id`, until the deadline.
    ///
    /// A future that is dropped stops nothing: the transaction belongs to the coordinator.
    ///
    /// # Errors
    /// [`Error::Aborted`] when the transaction aborted; [`Error::OutcomeUnknown`] when it may have been
    /// decided and no answer came; [`Error::Unavailable`] or [`Error::Overloaded`] when nothing was
    /// done; otherwise what the coordinator found wrong with the request.
    pub async fn execute(&self, request: Request) -> Result<Committed, Error> {
        let request_id = match request.request_id {
            Some(request_id) => request_id,
            None => draw_request_id()?,
        };
        let message = Call::Execute(v1::ExecuteTransactionRequest {
            request_id: request_id.to_string(),
            branches: request.branches,
            reply_time: request.reply_time.into(),
            options: Some(request.options.to_message()),
        });
        let budget = Budget::start(request.deadline.unwrap_or(self.options().deadline));
        let settled = attempts(self.options().retry, budget, || async {
            let outcome = self.ask_outcome(budget, &message).await?;
            Settled::read(outcome, Some(request_id.clone()))
        });
        match settled.await {
            Ok(settled) => settled.into_committed(Some(request_id)),
            Err(gave_up) => Err(self.unsettled(gave_up, &request_id)),
        }
    }

    /// Where the coordinator is looked for.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.shared.endpoint
    }

    pub(crate) fn options(&self) -> &ClientOptions {
        &self.shared.options
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.shared.directory
    }

    pub(crate) fn line(&self) -> Option<&Line> {
        self.shared.line.as_ref()
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }
}

/// How a server at `endpoint` is connected to.
pub(crate) fn channel(endpoint: &str, connect_timeout: Duration) -> Result<Endpoint, Error> {
    let invalid =
        |message: String| Error::InvalidEndpoint { endpoint: endpoint.to_owned(), message };
    let parsed =
        Endpoint::from_shared(endpoint.to_owned()).map_err(|error| invalid(error.to_string()))?;
    match parsed.uri().scheme_str() {
        Some("http") => {}
        Some("https") => return Err(invalid("TLS is not supported by this version".into())),
        _ => return Err(invalid("it does not begin with http://".into())),
    }
    Ok(parsed
        .connect_timeout(connect_timeout)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE))
}

/// A name for a request that nobody else draws: the time in milliseconds (48 bits), then 80 random bits.
///
/// The time only makes neighbours in the coordinator's log of what was begun together. The bits are the system's
/// every time: a process that was copied in the middle of its life must not draw what its copy draws.
fn draw_request_id() -> Result<RequestId, Error> {
    const TIME_BITS: u32 = 48;
    let no_randomness = |message: String| Error::NoRandomness { message };
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| no_randomness(error.to_string()))?;
    let random = u128::from_be_bytes(bytes) >> TIME_BITS;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let drawn = since.as_millis() << (u128::BITS - TIME_BITS) | random;
    format!("{drawn:032x}").parse().map_err(|error: handfast_commit_core::id::InvalidRequestId| {
        no_randomness(error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_http_address() {
        let check = |endpoint: &str, message: &str| {
            let error = channel(endpoint, Duration::from_secs(1)).expect_err(endpoint).to_string();
            assert!(error.contains(message) && error.contains(endpoint), "{error}");
        };
        check("127.0.0.1:7420", "http://127.0.0.1:7420");
        check("https://127.0.0.1:7420", "TLS is not supported");
        check("ftp://127.0.0.1", "does not begin with http://");
        check("", "no endpoint");
        assert!(channel("http://127.0.0.1:7420", Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn what_is_drawn_later_sorts_later_and_nothing_is_drawn_twice() {
        let draw = || draw_request_id().expect("a system with randomness").as_str().to_owned();
        let first = draw();
        // The next millisecond.
        while draw()[..12] == first[..12] {}
        let drawn: std::collections::BTreeSet<_> = (0..1_000).map(|_| draw()).collect();
        assert_eq!(drawn.len(), 1_000);
        assert!(drawn.iter().all(|later| later.len() == 32 && *later > first), "{first} {drawn:?}");
    }

    #[test]
    fn a_drawn_request_id_has_32_digits_and_is_drawn_anew() {
        let (first, second) =
            (draw_request_id().expect("random"), draw_request_id().expect("random"));
        assert_ne!(first, second);
        assert_eq!(first.as_str().len(), 32);
        assert!(first.as_str().bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
