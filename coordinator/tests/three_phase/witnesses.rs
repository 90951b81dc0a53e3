//! Witnesses: another coordinator's process keeps ballots, so that fewer sites can be missing.

use handfast_commit_core::three_phase::Witness;
use handfast_wire::v1;
use handfast_wire::v1::SiteOrderKind as Kind;
use handfast_wire::v1::SiteReportKind as Said;

use crate::{FIRST, LONG, World, order, participant, slot, until, witness};

async fn start_witness() -> World {
    let mut config = slot(9);
    config.witness_name = Some("w".parse().expect("a name"));
    World::start(config).await
}

/// Two participants, of which one does not move, and one witness: three of four sites.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_makes_up_for_a_participant_that_is_silent() {
    let keeper = start_witness().await;
    let mut config = slot(0);
    let name = "w".parse().expect("a name");
    config.witnesses = vec![Witness { name, endpoint: keeper.endpoint.clone() }];
    let (world, sites) = World::with_sites(config, &["a", "b"]).await;
    sites[1].mute(true);
    let outcome = world.execute("r", &["a", "b"], LONG).await.expect("decided without b");
    assert_eq!(outcome.state(), v1::TransactionState::Committed);
    assert_eq!(sites[0].sites().witnesses[0].witness, "w");
    until("they may forget", || sites.iter().all(|site| site.was_told("FORGET"))).await;
    let mut left = usize::MAX;
    for _ in 0..500 {
        left = keeper.engine.voting().await.expect("it runs").witnessed;
        if left == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(left, 0, "the witness may forget as well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_witness_has_promised_outlives_it() {
    let keeper = start_witness().await;
    let id = "0000-03-0000000001-0000000000000040";
    let second = (2 << 16) + 1;
    let pre_commit = order(id, 0, Kind::PreCommit, FIRST);
    let moved = keeper.lead(crate::coordinator(), witness("w"), pre_commit).await.expect("moved");
    assert_eq!(moved.kind(), Said::Moved);
    let join = order(id, 0, Kind::Join, second);
    let joined = keeper.lead(participant("a"), witness("w"), join).await.expect("joined");
    assert_eq!((joined.kind(), joined.accepted), (Said::Joined, FIRST));
    let keeper = keeper.restart().await;
    let late = order(id, 0, Kind::PreCommit, FIRST);
    let refused = keeper.lead(crate::coordinator(), witness("w"), late).await.expect("an answer");
    assert_eq!((refused.kind(), refused.promised), (Said::Refused, second));
}
