//! (4) A bank under hundreds of random kills of any process: its total never changes.

use handfast_chaos::storm::Storm;
use handfast_client::Protocol;

const STORM: Storm = Storm {
    coordinator_points: &[
        "coordinator.before-prepare-sent",
        "coordinator.before-decision-sync",
        "coordinator.after-decision-sync",
        "coordinator.before-commit-sent",
        "coordinator.after-commit-sent",
        "coordinator.before-reply",
        "coordinator.before-forget-sent",
    ],
    participant_points: &[
        "participant.before-prepared-record",
        "participant.after-prepared-record",
        "participant.after-vote-sent",
        "participant.before-commit-record",
        "participant.after-commit-record",
        "participant.one-phase.after-record",
    ],
    faults: 100,
    away_ms_max: 400,
};

#[tokio::test]
async fn s04_the_total_never_changes() {
    STORM.over_a_bank("s04_the_total_never_changes", &[Protocol::TwoPhase], &[]).await;
}
