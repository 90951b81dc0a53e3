//! A bank whose transfers are committed under both protocols, and random kills of any process: its total never
//! changes, and three-phase transfers do not wait for a coordinator that stays away.

use handfast_chaos::storm::Storm;
use handfast_client::Protocol;

const STORM: Storm = Storm {
    coordinator_points: &[
        "coordinator.before-prepare-sent",
        "coordinator.before-voting-sync",
        "coordinator.after-voting-sync",
        "coordinator.before-pre-commit-sent",
        "coordinator.after-pre-commit-sent",
        "coordinator.after-decision-sync",
        "coordinator.before-commit-sent",
        "coordinator.before-reply",
        "coordinator.before-forget-sent",
    ],
    participant_points: &[
        "participant.before-prepared-record",
        "participant.three-phase.before-voted-record",
        "participant.after-vote-sent",
        "participant.three-phase.before-move-record",
        "participant.three-phase.after-move-record",
        "participant.three-phase.before-promise-record",
        "participant.three-phase.after-join-sent",
        "participant.three-phase.before-decided-record",
        "participant.three-phase.after-decision-sent",
        "participant.before-commit-record",
    ],
    faults: 60,
    // Longer than the participants wait before they lead.
    away_ms_max: 6000,
};

#[tokio::test]
async fn the_total_never_changes_under_three_phase_commit() {
    STORM
        .over_a_bank(
            "the_total_never_changes_under_three_phase_commit",
            &[Protocol::ThreePhase],
            &[],
        )
        .await;
}

#[tokio::test]
async fn the_total_never_changes_under_both_protocols_and_with_witnesses() {
    let both = [Protocol::TwoPhase, Protocol::ThreePhase];
    STORM.over_a_bank("the_total_never_changes_under_both_protocols", &both, &["v", "w"]).await;
}
