//! Attempts until one is answered or the caller's time is up.
//!
//! The law: once an attempt may have done something, "nothing was done" is never said again, whatever
//! the later attempts say. Absent on purpose: what an attempt does, and what its failure means to the
//! caller.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::error::Cause;
use crate::options::RetryOptions;
use crate::status::{Effect, Failure};

/// Thirty years. A longer time would fit neither into the clock nor into the header that tells the server.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 86_400);

/// The caller's time: how much there was, and when it is up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    whole: Duration,
    end: Instant,
}

impl Budget {
    pub(crate) fn start(whole: Duration) -> Self {
        let whole = whole.min(FOR_EVER);
        Self { whole, end: Instant::now() + whole }
    }

    /// What is left of it.
    pub(crate) fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// A request that tells the server how long its answer is waited for.
    pub(crate) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(self.left());
        request
    }
}

/// Why no attempt was answered.
#[derive(Debug)]
pub(crate) struct GaveUp {
    /// What ended the last attempt.
    pub(crate) cause: Cause,
    /// What all the attempts together may have done.
    pub(crate) effect: Effect,
}

/// Makes attempts until one is answered, one fails for good, or the time is up.
pub(crate) async fn attempts<T, F, A>(
    options: RetryOptions,
    budget: Budget,
    mut attempt: F,
) -> Result<T, GaveUp>
where
    F: FnMut() -> A,
    A: Future<Output = Result<T, Failure>>,
{
    let mut effect = Effect::Nothing;
    let mut pause = options.pause_min;
    loop {
        let failure = match timeout_at(budget.end, attempt()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(failure)) => failure,
            Err(_) => {
                return Err(GaveUp {
                    cause: Cause::Deadline(budget.whole),
                    effect: Effect::Perhaps,
                });
            }
        };
        if failure.effect == Effect::Perhaps {
            effect = Effect::Perhaps;
        }
        let wait = jittered(pause).max(failure.retry_after.unwrap_or_default());
        if !failure.again || wait >= budget.left() {
            // The transport notices the end of the time as well, and calls it something else.
            let cause = match budget.left().is_zero() {
                true => Cause::Deadline(budget.whole),
                false => failure.cause,
            };
            return Err(GaveUp { cause, effect });
        }
        tracing::debug!(cause = %failure.cause, ?wait, "attempt failed; trying again");
        tokio::time::sleep(wait).await;
        pause = pause.saturating_mul(2).min(options.pause_max);
    }
}

/// At least half of the pause, and the rest at random, so that clients that failed together do not
/// come back together.
fn jittered(pause: Duration) -> Duration {
    // Without random numbers the pause is the whole one: later, never wrong.
    let part = getrandom::u32().map_or(1.0, |drawn| f64::from(drawn) / f64::from(u32::MAX));
    pause / 2 + (pause / 2).mul_f64(part)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn nothing_done() -> Failure {
        Failure { cause: Cause::Undecided, effect: Effect::Nothing, again: true, retry_after: None }
    }

    #[tokio::test(start_paused = true)]
    async fn doubt_stays_once_it_is_there() {
        let made = Cell::new(0);
        let gave_up = attempts(RetryOptions::default(), Budget::start(SECOND), || {
            made.set(made.get() + 1);
            let first = made.get() == 1;
            async move {
                match first {
                    true => Err::<(), _>(Failure::open(Cause::CannotTell)),
                    false => Err(nothing_done()),
                }
            }
        })
        .await
        .expect_err("no attempt succeeds");
        assert!(made.get() > 2);
        assert_eq!(gave_up.effect, Effect::Perhaps);
        assert!(matches!(gave_up.cause, Cause::Undecided));
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_end_with_the_time_and_leave_no_doubt_of_their_own() {
        let began = Instant::now();
        let gave_up = attempts(RetryOptions::default(), Budget::start(SECOND), || async {
            Err::<(), _>(nothing_done())
        })
        .await
        .expect_err("no attempt succeeds");
        assert_eq!(gave_up.effect, Effect::Nothing);
        assert!(began.elapsed() <= SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_is_cut_off_may_have_done_something() {
        let gave_up = attempts(
            RetryOptions::default(),
            Budget::start(SECOND),
            std::future::pending::<Result<(), Failure>>,
        )
        .await
        .expect_err("never answered");
        assert_eq!(gave_up.effect, Effect::Perhaps);
        assert!(matches!(gave_up.cause, Cause::Deadline(SECOND)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_the_server_asks_for_is_kept() {
        let began = Instant::now();
        let made = Cell::new(0);
        let answer = attempts(RetryOptions::default(), Budget::start(10 * SECOND), || {
            made.set(made.get() + 1);
            let first = made.get() == 1;
            async move {
                match first {
                    true => Err(Failure { retry_after: Some(3 * SECOND), ..nothing_done() }),
                    false => Ok(()),
                }
            }
        })
        .await;
        assert!(answer.is_ok());
        assert!(began.elapsed() >= 3 * SECOND);
    }

    #[tokio::test]
    async fn any_time_can_be_told_to_the_server() {
        let request = Budget::start(Duration::MAX).request(());
        assert!(request.metadata().contains_key("grpc-timeout"));
    }

    #[test]
    fn a_pause_is_never_cut_by_more_than_its_half() {
        for _ in 0..100 {
            let wait = jittered(SECOND);
            assert!(SECOND / 2 <= wait && wait <= SECOND, "{wait:?}");
        }
    }
}
