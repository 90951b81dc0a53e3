//! Witnesses: sites that vote about nothing, and remember ballots so that others can be missing.

use handfast_chaos::{Oracle, Plan};
use handfast_wire::v1::SiteStanding;

use crate::{
    ALL_VOTED, ONE_TOLD, all_end, comes_to_its_end, coordinator_killed_at, nothing_ends,
    one_waits_for, standings,
};

/// One participant and its coordinator need each other; with a witness, the participant survives it.
#[tokio::test]
async fn with_a_witness_one_participant_survives_its_coordinator() {
    const ONLY: &[&str] = &["a"];
    let mut cluster = Plan::new(ONLY).witnesses(&["w"]).start().await;
    let oracle = Oracle::new();
    let id = coordinator_killed_at(&mut cluster, &oracle, ALL_VOTED, ONLY).await;
    all_end(&cluster, ONLY).await;
    cluster.coordinator.start().await;
    comes_to_its_end(&cluster, &oracle, ONLY, &id, false).await;
}

/// Two participants and two witnesses: any two sites may be missing, the coordinator and a participant too.
#[tokio::test]
async fn with_two_witnesses_one_of_two_participants_is_enough() {
    const BOTH: &[&str] = &["a", "b"];
    let mut cluster = Plan::new(BOTH).witnesses(&["v", "w"]).start().await;
    let oracle = Oracle::new();
    let id = coordinator_killed_at(&mut cluster, &oracle, ONE_TOLD, BOTH).await;
    // Only what the remaining ones know counts: if b alone has moved, nobody will ever know of it.
    let moved = Some(SiteStanding::PreCommitted);
    let committed = standings(&cluster, &["a"]).await.contains(&moved);
    cluster.participant("b").kill();
    all_end(&cluster, &["a"]).await;
    // b comes back to a transaction that has ended, and the coordinator as well.
    cluster.participant("b").start().await;
    all_end(&cluster, BOTH).await;
    cluster.coordinator.start().await;
    comes_to_its_end(&cluster, &oracle, BOTH, &id, committed).await;
}

/// A witness that is killed and comes back keeps its promises; without it there is no quorum.
#[tokio::test]
async fn a_witness_that_is_away_is_waited_for_and_named() {
    const ONLY: &[&str] = &["a"];
    let mut cluster = Plan::new(ONLY).witnesses(&["w"]).start().await;
    let oracle = Oracle::new();
    let id = coordinator_killed_at(&mut cluster, &oracle, ALL_VOTED, ONLY).await;
    cluster.witness("w").kill();
    one_waits_for(&cluster, ONLY, "witness w").await;
    nothing_ends(&cluster, ONLY).await;
    cluster.witness("w").start().await;
    all_end(&cluster, ONLY).await;
    cluster.witness("w").kill_and_start().await;
    cluster.coordinator.start().await;
    comes_to_its_end(&cluster, &oracle, ONLY, &id, false).await;
}
