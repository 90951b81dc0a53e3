//! Links between sites that are cut, blocked one way, or slow.

use std::sync::Arc;
use std::time::Duration;

use handfast_chaos::{Answer, Flow, Oracle, Plan};
use handfast_client::Protocol;
use handfast_client::TransactionState;
use handfast_client::key_value::Work;

use crate::{
    DECIDED, ONE_TOLD, all_end, comes_to_its_end, coordinator_killed_at, execute_once,
    nothing_ends, one_waits_for, puts,
};

const ALL: &[&str] = &["a", "b", "c"];

/// The coordinator is gone, and nobody reaches anybody: nobody decides, everybody says for whom it waits, and
/// all end when the links are there again.
#[tokio::test]
async fn sites_that_are_cut_off_from_each_other_wait_and_go_on() {
    let mut cluster = Plan::new(ALL).proxied().start().await;
    let oracle = Oracle::new();
    let id = coordinator_killed_at(&mut cluster, &oracle, DECIDED, ALL).await;
    for name in ALL {
        cluster.proxy(name).refuse();
    }
    one_waits_for(&cluster, &["a"], "not heard of: the coordinator, b, c").await;
    nothing_ends(&cluster, ALL).await;
    for name in ALL {
        cluster.proxy(name).heal();
    }
    all_end(&cluster, ALL).await;
    cluster.coordinator.start().await;
    comes_to_its_end(&cluster, &oracle, ALL, &id, true).await;
}

/// One of three cannot be reached, and can reach the others: it is in the quorum when it leads.
#[tokio::test]
async fn a_site_that_can_only_speak_ends_it_with_the_others() {
    let mut cluster = Plan::new(ALL).proxied().start().await;
    let oracle = Oracle::new();
    let id = coordinator_killed_at(&mut cluster, &oracle, ONE_TOLD, ALL).await;
    cluster.proxy("c").refuse();
    all_end(&cluster, ALL).await;
    cluster.proxy("c").heal();
    cluster.coordinator.start().await;
    comes_to_its_end(&cluster, &oracle, ALL, &id, true).await;
}

/// Acknowledgements do not come back: whoever leads says everything again, and nothing is done twice.
#[tokio::test]
async fn a_link_that_is_blocked_one_way_ends_it_later() {
    let mut cluster = Plan::new(ALL).proxied().start().await;
    let oracle = Oracle::new();
    let id = coordinator_killed_at(&mut cluster, &oracle, DECIDED, ALL).await;
    for name in ALL {
        cluster.proxy(name).to_client(Flow::Blocked);
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    for name in ALL {
        cluster.proxy(name).heal();
    }
    all_end(&cluster, ALL).await;
    cluster.coordinator.start().await;
    comes_to_its_end(&cluster, &oracle, ALL, &id, true).await;
}

/// The coordinator lives, and cannot reach its participants, who can ask it: while it says that nothing is
/// decided nobody leads against it, and what it wanted comes about when it reaches them again.
#[tokio::test]
async fn while_the_coordinator_answers_nobody_leads_against_it() {
    const PLACE: &str = "coordinator.before-pre-commit-sent";
    let mut cluster = Plan::new(ALL).proxied().start().await;
    let hold = cluster.hold(PLACE);
    cluster.restart_coordinator_at(&hold.point()).await;
    let oracle = Oracle::new();
    let answer = execute_once(&cluster, &oracle, "order-1", puts(ALL, "key"));
    cluster.coordinator.comes_by(PLACE).await;
    for name in ALL {
        cluster.proxy(name).refuse();
    }
    hold.release();
    // As long as some elections take, if there were any.
    tokio::time::sleep(Duration::from_secs(6)).await;
    for name in ALL {
        assert!(!cluster.participant(name).has_said("leads an election"), "{name} has");
    }
    for name in ALL {
        cluster.proxy(name).heal();
    }
    let outcome = answer.await.expect("no panic").expect("an outcome");
    assert_eq!(outcome.state(), TransactionState::Committed);
    let id = outcome.transaction_id.parse().expect("an id");
    oracle.record(&"order-1".parse().expect("a request_id"), Answer::Committed(id));
    oracle.check(&cluster).await;
}

/// Links that are cut again and again under load lose nothing, repeat nothing and split nothing.
#[tokio::test]
async fn links_that_are_cut_under_load_split_nothing() {
    let cluster = Plan::new(ALL).proxied().start().await;
    let oracle = Arc::new(Oracle::new());
    let client = cluster.client();
    let load = tokio::spawn({
        let oracle = Arc::clone(&oracle);
        async move {
            for number in 0..60 {
                let add = Work::new().add(format!("count/{}", number % 7), 1);
                let work = ["a", "b", "c"].map(|name| (name, add.clone()));
                let request_id = format!("order-{number}");
                oracle.execute_under(Protocol::ThreePhase, &client, &request_id, work).await;
            }
        }
    });
    let mut cuts = 0;
    while !load.is_finished() {
        for name in ALL {
            cluster.proxy(name).cut();
            tokio::time::sleep(Duration::from_millis(40)).await;
            cuts += 1;
        }
    }
    load.await.expect("the load is done");
    assert!(cuts > 2, "nothing was cut");
    oracle.check(&cluster).await;
}
