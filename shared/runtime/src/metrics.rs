//! Prometheus metrics, and the pages that say whether a server lives and is ready.
//!
//! A process has one recorder. Several servers in one process share it, and so do their tests; an
//! application that has installed a recorder of its own keeps it, and its own way to show it.
//!
//! Memory is bounded: histograms have fixed buckets instead of kept samples. What is recorded waits in a
//! queue until it is counted into them, which [`Metrics::run_upkeep`] does every second and each scrape
//! does too; [`serve`] runs the upkeep along, so that a server cannot forget it.
//!
//! Names decide buckets: a histogram whose name ends in `_seconds` gets those of latencies, one in `_bytes`
//! those of sizes, and any other is a count, such as the messages of a batch.
//!
//! Absent on purpose: whatever needs TLS or a login. The pages are for the machine itself, or for a
//! network that the operator calls trusted (see [`listen`](crate::listen)).

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;

/// Upper bounds for latencies, in seconds: 100 µs to 30 s.
const LATENCY_SECONDS: &[f64] = &[
    0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
    10.0, 30.0,
];
/// Upper bounds for sizes, in bytes: 64 B to 64 MiB.
const SIZE_BYTES: &[f64] = &[
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];
/// Upper bounds for counts: batches, frames, queues.
const COUNT: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0, 2_048.0, 4_096.0, 8_192.0,
    16_384.0,
];

/// How often samples are counted into their buckets.
const UPKEEP: Duration = Duration::from_secs(1);
/// The content type of what Prometheus scrapes.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The application has a recorder of its own.
    #[error(
        "this process has a metrics recorder already, installed by something else than Handfast: show Handfast's \
         metrics through that one"
    )]
    AnotherRecorder,
    /// The recorder cannot be built.
    #[error("the metrics recorder cannot be built: {0}")]
    Recorder(#[from] BuildError),
}

/// The process's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// Installs the process's recorder, or finds the one that an earlier call has installed.
    ///
    /// # Errors
    /// [`MetricsError::AnotherRecorder`] when the process has one of another make.
    pub fn install() -> Result<Self, MetricsError> {
        static INSTALLED: Mutex<Option<Metrics>> = Mutex::new(None);
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(metrics) = &*installed {
            return Ok(metrics.clone());
        }
        let recorder = recorder()?;
        let metrics = Self { handle: recorder.handle() };
        metrics::set_global_recorder(recorder).map_err(|_| MetricsError::AnotherRecorder)?;
        *installed = Some(metrics.clone());
        Ok(metrics)
    }

    /// All metrics in Prometheus's text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Keeps memory bounded, for ever; drop it to stop. For an embedded server, which does not
    /// [`serve`] pages. A second one beside it does no harm.
    pub async fn run_upkeep(&self) {
        let mut ticks = tokio::time::interval(UPKEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.handle.run_upkeep();
        }
    }
}

fn recorder() -> Result<PrometheusRecorder, BuildError> {
    Ok(PrometheusBuilder::new()
        .set_buckets(COUNT)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), LATENCY_SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), SIZE_BYTES)?
        .build_recorder())
}

/// Answers whether something holds; if it does not, why not, in a few words for the operator. Must not
/// block.
pub type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the pages show.
#[derive(Clone)]
pub struct Pages {
    /// `/metrics`.
    pub metrics: Metrics,
    /// `/healthz`: the event loops turn. A supervisor restarts a server that says no.
    pub live: Check,
    /// `/readyz`: the log is open and writable, and the recovery scan has finished. A load balancer
    /// passes by a server that says no.
    pub ready: Check,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pages").finish_non_exhaustive()
    }
}

impl Pages {
    /// The pages as routes, for a server that has more of them.
    pub fn routes(self) -> Router {
        let Self { metrics, live, ready } = self;
        Router::new()
            .route(
                "/metrics",
                get(
                    move || async move { ([(header::CONTENT_TYPE, EXPOSITION)], metrics.render()) },
                ),
            )
            .route("/healthz", get(move || async move { answer("live", &live) }))
            .route("/readyz", get(move || async move { answer("ready", &ready) }))
    }
}

fn answer(what: &str, check: &Check) -> Response {
    match check() {
        Ok(()) => (StatusCode::OK, format!("{what}\n")).into_response(),
        Err(why) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not {what}: {why}\n")).into_response()
        }
    }
}

/// Serves the pages on a listener of [`listen::bind`](crate::listen::bind), and keeps the metrics'
/// memory bounded, until `end`. Requests that are being answered then are not waited for.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    pages: Pages,
    end: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let metrics = pages.metrics.clone();
    let routes = pages.routes();
    tokio::select! {
        served = async { axum::serve(listener, routes).await } => served,
        () = metrics.run_upkeep() => Ok(()),
        () = end => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::*;

    fn rendered(name: &'static str, samples: &[f64]) -> String {
        let recorder = recorder().expect("a recorder");
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            for sample in samples {
                metrics::histogram!(name).record(*sample);
            }
        });
        handle.render()
    }

    #[track_caller]
    fn check_buckets(name: &'static str, samples: &[f64], lines: &[&str]) {
        let text = rendered(name, samples);
        for line in lines {
            assert!(
                text.lines().any(|found| found == format!("{name}{line}")),
                "{name}{line}: {text}"
            );
        }
    }

    #[test]
    fn names_decide_buckets() {
        check_buckets(
            "commit_seconds",
            &[0.000_05, 0.000_15, 40.0],
            &[
                "_bucket{le=\"0.0001\"} 1",
                "_bucket{le=\"0.0002\"} 2",
                "_bucket{le=\"30\"} 2",
                "_bucket{le=\"+Inf\"} 3",
                "_count 3",
            ],
        );
        check_buckets(
            "frame_messages",
            &[1.0, 3.0],
            &["_bucket{le=\"1\"} 1", "_bucket{le=\"4\"} 2"],
        );
        check_buckets(
            "batch_bytes",
            &[100_000.0],
            &["_bucket{le=\"65536\"} 0", "_bucket{le=\"262144\"} 1"],
        );
    }

    #[test]
    fn every_list_of_buckets_rises() {
        for buckets in [LATENCY_SECONDS, SIZE_BYTES, COUNT] {
            assert!(buckets.is_sorted_by(|a, b| a < b), "{buckets:?}");
        }
    }

    #[test]
    fn what_is_shown_does_not_grow_with_samples() {
        let few = rendered("commit_seconds", &[0.001; 10]);
        let many = rendered("commit_seconds", &[0.001; 10_000]);
        assert_eq!(few.lines().count(), many.lines().count());
        assert!(many.contains("commit_seconds_count 10000"), "{many}");
    }

    #[test]
    fn a_second_installation_shares_the_first() {
        let first = Metrics::install().expect("the only recorder of these tests");
        let second = Metrics::install().expect("shared");
        metrics::counter!("handfast_test_shared_total").increment(2);
        for metrics in [first, second] {
            assert!(
                metrics.render().contains("handfast_test_shared_total 2"),
                "{}",
                metrics.render()
            );
        }
    }

    async fn fetch(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let request = format!("{request} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("text");
        answer
    }

    #[tokio::test]
    async fn the_pages_say_what_holds() {
        let recorder = recorder().expect("a recorder");
        let metrics = Metrics { handle: recorder.handle() };
        metrics::with_local_recorder(&recorder, || {
            metrics::counter!("handfast_test_total").increment(7)
        });
        let ready = Arc::new(Mutex::new(Err("replaying the log".to_owned())));
        let pages = Pages {
            metrics,
            live: Arc::new(|| Ok(())),
            ready: Arc::new({
                let ready = Arc::clone(&ready);
                move || ready.lock().expect("not poisoned").clone()
            }),
        };
        let listener =
            crate::listen::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (end, ended) = oneshot::channel::<()>();
        let serving = tokio::spawn(serve(listener, pages, async {
            let _ = ended.await;
        }));

        let check = async |request: &str, status: &str, body: &str| {
            let answer = fetch(address, request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
            assert!(answer.ends_with(body), "{request}: {answer}");
        };
        let scraped = fetch(address, "GET /metrics").await;
        assert!(scraped.contains("handfast_test_total 7\n"), "{scraped}");
        assert!(scraped.contains("content-type: text/plain; version=0.0.4"), "{scraped}");
        check("GET /healthz", "200", "\r\n\r\nlive\n").await;
        check("GET /readyz", "503", "\r\n\r\nnot ready: replaying the log\n").await;
        *ready.lock().expect("not poisoned") = Ok(());
        check("GET /readyz", "200", "\r\n\r\nready\n").await;
        check("GET /nothing", "404", "").await;
        check("POST /readyz", "405", "").await;

        end.send(()).expect("serving");
        serving.await.expect("no panic").expect("no error");
        assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
    }
}
