//! Killed at every crash point of three-phase commit in turn: while nothing else fails, and in elections.

use std::sync::Arc;
use std::time::Duration;

use handfast_chaos::{Answer, Cluster, Oracle, ask, killed_at_each, patience};
use handfast_client::key_value::Work;
use handfast_client::{Client, Protocol};

use crate::{ONE_TOLD, comes_to_its_end, coordinator_killed_at, puts};

const ALL: &[&str] = &["a", "b", "c"];

/// Those of a transaction that its coordinator leads.
const COORDINATOR: &[&str] = &[
    "coordinator.before-voting-sync",
    "coordinator.after-voting-sync",
    "coordinator.before-pre-commit-sent",
    "coordinator.after-pre-commit-sent",
    "coordinator.before-commit-sent",
    "coordinator.after-commit-sent",
    "coordinator.before-abort-sent",
    "coordinator.before-decision-sync",
    "coordinator.after-decision-sync",
    "coordinator.before-reply",
    "coordinator.before-forget-sent",
    "coordinator.after-forget-sent",
];
const PARTICIPANT: &[&str] = &[
    "participant.three-phase.before-voted-record",
    "participant.after-prepared-record",
    "participant.after-vote-sent",
    "participant.three-phase.before-move-record",
    "participant.three-phase.after-move-record",
    "participant.three-phase.after-moved-sent",
    "participant.three-phase.before-decided-record",
    "participant.after-commit-record",
    "participant.after-ack-sent",
];
/// Those of an election.
const ELECTION: &[&str] = &[
    "participant.three-phase.before-promise-record",
    "participant.three-phase.after-promise-record",
    "participant.three-phase.after-promise-sent",
    "participant.three-phase.before-join-sent",
    "participant.three-phase.after-join-sent",
    "participant.three-phase.before-move-sent",
    "participant.three-phase.after-move-sent",
    "participant.three-phase.before-decision-sent",
    "participant.three-phase.after-decision-sent",
    "participant.three-phase.after-decided-record",
    "participant.three-phase.after-acknowledgement-sent",
];

/// A commit at both, a commit at one, and an abort of what the other one has prepared.
async fn a_little_of_everything(client: Client, oracle: Arc<Oracle>, round: String) {
    let three = Protocol::ThreePhase;
    let (both, one) = (format!("{round}/both"), format!("{round}/one"));
    let both = oracle.execute_under(three, &client, &both, puts(&["a", "b"], &round));
    let one = oracle.execute_under(three, &client, &one, puts(&["b"], "one"));
    let never = Work::new().put("refused", "never");
    let work = [("a", never.clone().expect("never there", "x")), ("b", never)];
    let refused_id = format!("{round}/refused");
    let refused = oracle.execute_under(three, &client, &refused_id, work);
    let (both, one, refused) = tokio::join!(both, one, refused);
    assert!(!matches!(refused, Answer::Committed(_)), "{round}: {refused:?}");
    // Sites that wait too long for one that is away abort what it has not moved in.
    for answer in [both, one] {
        assert!(!matches!(answer, Answer::Unknown(_)), "{round}: {answer:?}");
    }
}

#[tokio::test]
async fn the_coordinator_is_killed_at_every_crash_point() {
    killed_at_each(COORDINATOR, None, a_little_of_everything).await;
}

#[tokio::test]
async fn a_participant_is_killed_at_every_crash_point() {
    killed_at_each(PARTICIPANT, Some("b"), a_little_of_everything).await;
}

/// The coordinator is gone, and whoever comes by the point first dies there: the election goes on when it is
/// back. A point that one has died at may kill the others, too.
#[tokio::test]
async fn participants_are_killed_at_every_crash_point_of_an_election() {
    for point in ELECTION {
        let mut cluster = Cluster::start(ALL).await;
        let oracle = Oracle::new();
        for name in ALL {
            cluster.restart_participant_at(name, point).await;
        }
        let id = coordinator_killed_at(&mut cluster, &oracle, ONE_TOLD, ALL).await;
        let reached = format!("crash point {point} reached");
        let until = tokio::time::Instant::now() + patience();
        loop {
            let (mut open, mut came_by) = (0, 0);
            for name in ALL {
                let server = cluster.participant(name);
                came_by += server.times_said(&reached);
                if server.runs() {
                    let held = ask::in_doubt(server.address(), name).await;
                    open += held.map_or(1, |held| held.len());
                } else {
                    server.kill();
                    server.start().await;
                    open += 1;
                }
            }
            if open == 0 && came_by > 0 {
                break;
            }
            let late = tokio::time::Instant::now() > until;
            assert!(!late, "{point}: {came_by} came by, and {open} are in doubt or away");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cluster.coordinator.start().await;
        // Points that nobody has come by since still wait for somebody.
        for server in cluster.servers() {
            server.kill();
        }
        cluster.start_all().await;
        comes_to_its_end(&cluster, &oracle, ALL, &id, true).await;
    }
}
