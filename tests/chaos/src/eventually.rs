//! Waiting for a condition, with a bound. The bound is generous and only ever met by a failure: no test
//! passes or fails by how fast something was.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

/// How long a condition is waited for: half a minute, or `HANDFAST_PATIENCE` seconds for a run by hand with
/// more load than usual.
///
/// # Panics
/// When `HANDFAST_PATIENCE` is no number.
#[must_use]
pub fn patience() -> Duration {
    match std::env::var("HANDFAST_PATIENCE") {
        Ok(text) => match text.parse() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(error) => panic!("HANDFAST_PATIENCE={text} is no number of seconds: {error}"),
        },
        Err(_) => Duration::from_secs(30),
    }
}

const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Waits until `holds` says true.
///
/// # Panics
/// When it has not within [`patience`].
pub async fn eventually<F>(what: &str, mut holds: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    eventually_ok(what, || {
        let holds = holds();
        async move { if holds.await { Ok(()) } else { Err("it is not so") } }
    })
    .await;
}

/// Waits until `attempt` succeeds, and returns what it brought.
///
/// # Panics
/// When it has not within [`patience`]; the message has the last error.
pub async fn eventually_ok<T, E, F>(what: &str, mut attempt: impl FnMut() -> F) -> T
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    let patience = patience();
    let until = Instant::now() + patience;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) if Instant::now() >= until => {
                panic!("within {patience:?} it did not come to this: {what}; at last: {error}")
            }
            Err(_) => tokio::time::sleep(BETWEEN_LOOKS).await,
        }
    }
}
