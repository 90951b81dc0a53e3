//! Three-phase commit on real processes: each test is one failure, and what an outside observer sees.
//!
//! | number | situation |
//! | --- | --- |
//! | 23 | PRE_COMMIT on a quorum, on one, on nobody, and the coordinator killed for good |
//! | 25 | a PRE_COMMIT of an old ballot after a newer promise; everybody killed in the middle and restarted |
//!
//! Tests without a number are further situations: the same failure under two-phase commit, fewer than a quorum
//! left, witnesses, cut links, every crash point in turn, a bank under both protocols.

mod bank;
mod coordinator_gone;
mod crash_points;
mod network;
mod old_ballots;
mod quorum;
mod witnesses;

use std::collections::BTreeMap;
use std::time::Duration;

use handfast_chaos::{Cluster, Oracle, ask, eventually, eventually_ok};
use handfast_client::Protocol;
use handfast_client::key_value::Work;
use handfast_wire::v1;
use tokio::task::JoinHandle;

/// Long enough that no time-out has a part in a test.
const LONG: Duration = Duration::from_secs(60);

/// The first phase is over: the vote is on the coordinator's disk, and nobody has been told to move.
const ALL_VOTED: &str = "coordinator.before-pre-commit-sent";
/// One site has been told to move.
const ONE_TOLD: &str = "coordinator.before-pre-commit-sent@2";
/// A quorum has moved: that is the decision, of which nobody has been told.
const DECIDED: &str = "coordinator.before-commit-sent";

/// The same work at each of these participants: one put.
fn puts(participants: &[&str], key: &str) -> BTreeMap<String, Work> {
    participants
        .iter()
        .map(|name| ((*name).to_owned(), Work::new().put(key.to_owned(), "x")))
        .collect()
}

/// Begins to execute a three-phase request of the oracle's in one attempt, whose answer is awaited later or
/// never.
fn execute_once(
    cluster: &Cluster,
    oracle: &Oracle,
    request_id: &str,
    work: BTreeMap<String, Work>,
) -> JoinHandle<Result<v1::Outcome, tonic::Status>> {
    execute_under(Protocol::ThreePhase, cluster, oracle, request_id, work)
}

fn execute_under(
    protocol: Protocol,
    cluster: &Cluster,
    oracle: &Oracle,
    request_id: &str,
    work: BTreeMap<String, Work>,
) -> JoinHandle<Result<v1::Outcome, tonic::Status>> {
    let request = ask::execute_request(request_id, Oracle::marked(request_id, &work), Some(LONG));
    oracle.expect_under(protocol, request_id, work);
    let request = ask::under(protocol, request);
    tokio::spawn(ask::execute_once(cluster.coordinator.address(), request))
}

/// Stops the coordinator at `place` in the request "order-1" at these participants, and kills it there. Returns
/// the transaction.
async fn coordinator_killed_at(
    cluster: &mut Cluster,
    oracle: &Oracle,
    place: &str,
    at: &[&str],
) -> String {
    let hold = cluster.hold(place);
    cluster.restart_coordinator_at(&hold.point()).await;
    let lost = execute_once(cluster, oracle, "order-1", puts(at, "key"));
    cluster.coordinator.comes_by(place).await;
    let mut voted = Vec::new();
    for name in at {
        voted = cluster.wait_in_doubt(name, 1).await;
    }
    if place == ONE_TOLD {
        eventually("one of them has moved", || async {
            standings(cluster, at).await.contains(&Some(v1::SiteStanding::PreCommitted))
        })
        .await;
    }
    cluster.coordinator.kill();
    drop(lost);
    voted.remove(0)
}

/// Everybody is back: the request "order-1" is made once more, and was carried out once. `first`: by the
/// transaction that was under way; otherwise that one has aborted, and this is the next attempt.
async fn comes_to_its_end(cluster: &Cluster, oracle: &Oracle, at: &[&str], id: &str, first: bool) {
    cluster.nothing_is_left().await;
    let work = puts(at, "key");
    let three = Protocol::ThreePhase;
    let answer = oracle.execute_under(three, &cluster.client(), "order-1", work).await;
    assert_eq!(answer.committed().to_string() == id, first, "{answer:?}, and {id} was under way");
    oracle.check(cluster).await;
}

/// What a participant lists as its only open branch.
async fn branch(cluster: &Cluster, name: &str) -> Option<v1::InDoubtBranch> {
    let held = ask::held(cluster.address(name), name).await.unwrap_or_default();
    if held.len() == 1 { held.into_iter().next() } else { None }
}

/// Where these participants stand.
async fn standings(cluster: &Cluster, names: &[&str]) -> Vec<Option<v1::SiteStanding>> {
    let mut all = Vec::new();
    for name in names {
        let site = branch(cluster, name).await.and_then(|branch| branch.site);
        all.push(site.map(|site| site.standing()));
    }
    all
}

/// Waits until one of these participants, whichever leads, says that it waits for these sites. Returns all that
/// it says.
async fn one_waits_for(cluster: &Cluster, names: &[&str], missing: &str) -> String {
    eventually_ok(&format!("one of {names:?} waits for {missing}"), || async move {
        let mut said = Vec::new();
        for name in names {
            let Some(branch) = branch(cluster, name).await else { continue };
            if branch.waiting_for.contains(missing) {
                return Ok(branch.waiting_for);
            }
            said.push(branch.waiting_for);
        }
        Err(format!("they wait for {said:?}"))
    })
    .await
}

/// Waits until none of these is in doubt, while the coordinator may be away. Returns how long it took.
async fn all_end(cluster: &Cluster, names: &[&str]) -> Duration {
    let begun = std::time::Instant::now();
    for name in names {
        cluster.wait_in_doubt(name, 0).await;
    }
    begun.elapsed()
}

/// Waits for a while in which nothing may be decided.
async fn nothing_ends(cluster: &Cluster, names: &[&str]) {
    // Several waits of the participants, which begin with a second.
    tokio::time::sleep(Duration::from_secs(5)).await;
    for name in names {
        assert_eq!(cluster.in_doubt(name).await.len(), 1, "{name} has ended it");
    }
}
