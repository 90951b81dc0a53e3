//! Makes this participant known to its coordinator, and keeps it known.
//!
//! A coordinator that starts with a new, empty log has forgotten us and will not call; and one that has
//! been out of reach may be that one. So the registration is repeated until it is accepted, and again
//! for as long as no session is open.

use std::sync::Arc;
use std::time::Duration;

use handfast_wire::v1;
use tokio::sync::Notify;

use crate::engine::Engine;

/// First wait after a failure; doubles up to [`AGAIN_AFTER_MAX`], and half of it is chance.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(5);
/// How often it is looked whether a coordinator has a session.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks without a session before the registration is repeated.
const LOOKS_WITHOUT_SESSION_MAX: u32 = 10;

/// Runs for ever; drop it to stop. `endpoint` is where we are served.
pub(crate) async fn keep_registered(engine: Arc<Engine>, endpoint: String, unknown: Arc<Notify>) {
    let mut known_to = None;
    loop {
        let accepted = register_until_accepted(&engine, &endpoint).await;
        let coordinator = engine.outgoing().configured();
        if known_to.as_ref() != Some(&accepted) {
            tracing::info!(
                participant = %engine.name(),
                coordinator,
                endpoint,
                slot = accepted.slot,
                epoch = accepted.epoch,
                "registered with the coordinator at {coordinator}"
            );
            known_to = Some(accepted);
        }
        let mut without = 0;
        while without < LOOKS_WITHOUT_SESSION_MAX {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = unknown.notified() => break,
            }
            without = if engine.sessions().any() { 0 } else { without + 1 };
        }
    }
}

async fn register_until_accepted(
    engine: &Engine,
    endpoint: &str,
) -> v1::RegisterParticipantResponse {
    let coordinator = engine.outgoing().configured();
    let mut wait = AGAIN_AFTER;
    let mut said = String::new();
    loop {
        match engine.outgoing().register(endpoint, engine.incarnation()).await {
            Ok(accepted) => return accepted,
            Err(status) => {
                let problem = format!("{}: {}", status.code(), status.message());
                // Once for each new problem: a coordinator that is down for the night fills no log.
                if problem != said {
                    tracing::warn!(
                        participant = %engine.name(),
                        coordinator,
                        "cannot register with the coordinator at {coordinator}, trying again: {problem}"
                    );
                    said = problem;
                }
            }
        }
        let chance = getrandom::u32().map_or(1.0, |drawn| f64::from(drawn) / f64::from(u32::MAX));
        tokio::time::sleep(wait.mul_f64(0.5 + chance / 2.0)).await;
        wait = (wait * 2).min(AGAIN_AFTER_MAX);
    }
}
