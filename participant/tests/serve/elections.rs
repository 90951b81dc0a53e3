//! Participants that end a three-phase transaction without their coordinator, over real connections.

use handfast_wire::v1;
use handfast_wire::v1::SiteOrderKind as Order;

use crate::site::{Site, add};
use crate::voting::{
    all_vote, ask, ballot, everybody, peers, pre_commit, three, three_phase_prepare, until_waiting,
};

/// Two, whose coordinator has not decided.
async fn two() -> (Site, Site) {
    let (a, b) = (Site::start_named("a").await, Site::start_named("b").await);
    for site in [&a, &b] {
        site.coordinator.told().outcome = Some(v1::InquiryOutcome::Pending);
    }
    (a, b)
}

/// The coordinator answers nobody any more.
fn coordinator_gone(sites: &[&Site]) {
    for site in sites {
        site.coordinator.told().outcome = None;
    }
}

async fn until_ended(site: &Site) {
    for _ in 0..3000 {
        if site.in_doubt().await.is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{} is in doubt after 30 s: {:?}", site.name, site.listed().await);
}

/// Nobody has moved: nobody can have decided to commit, and nobody ever will.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_have_not_moved_abort() {
    let (a, b) = two().await;
    all_vote(&[&a, &b], &three(1), add("key", 5)).await;
    coordinator_gone(&[&a, &b]);
    for site in [&a, &b] {
        until_ended(site).await;
        assert_eq!(site.value("key"), None);
    }
}

/// One has moved: the coordinator may have told its client that the transaction has committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_has_moved_leads_the_other_to_commit() {
    for mover in ["a", "b"] {
        let (a, b) = two().await;
        all_vote(&[&a, &b], &three(1), add("key", 5)).await;
        let moved = pre_commit(if mover == "a" { &a } else { &b }, &three(1)).await;
        assert!(moved.expect("moved").accepted);
        coordinator_gone(&[&a, &b]);
        for site in [&a, &b] {
            until_ended(site).await;
            assert_eq!(site.value("key").as_deref(), Some("5"), "{mover} had moved: {}", site.name);
        }
    }
}

/// The coordinator and one of two participants are gone: the other one waits, says for whom, and ends when
/// that one is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_alone_waits_and_says_for_whom() {
    let (a, mut b) = two().await;
    all_vote(&[&a, &b], &three(1), add("key", 5)).await;
    let address = b.kill();
    coordinator_gone(&[&a, &b]);
    let waiting = until_waiting(&a, "a says for whom it waits", |branch| {
        branch.waiting_for.contains("not heard of: the coordinator, b")
    })
    .await;
    assert!(waiting.waiting_for.contains("a quorum of 2 of 3 sites"), "{}", waiting.waiting_for);
    let stands = waiting.site.expect("it is undecided");
    assert_eq!(stands.missing, ["the coordinator", "b"]);
    assert_eq!((stands.leader.as_str(), stands.wanted, stands.moving), ("a", 1, false));
    assert_eq!(a.value("key"), None);
    b.start_at(address).await;
    for site in [&a, &b] {
        until_ended(site).await;
        assert_eq!(site.value("key"), None);
    }
}

/// One that has not voted is asked, and aborts: that ends it for the others, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_never_asked_to_prepare_ends_it() {
    let (a, b) = two().await;
    let sites = [&a, &b];
    let voting = everybody(&sites, None).await;
    let request =
        three_phase_prepare(&a, &three(1), add("key", 5), voting.clone(), peers(&a, &sites));
    assert_eq!(a.prepare(request).await.vote(), v1::Vote::Prepared);
    coordinator_gone(&sites);
    until_ended(&a).await;
    assert_eq!(a.value("key"), None);
    let request = three_phase_prepare(&b, &three(1), add("key", 5), voting, peers(&b, &sites));
    assert_eq!(b.prepare(request).await.vote(), v1::Vote::No, "it has promised the abort");
}

/// One comes back at another address: whoever leads says where it is reached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_has_moved_house_is_found_when_it_leads() {
    let (a, mut b) = two().await;
    all_vote(&[&a, &b], &three(1), add("key", 5)).await;
    assert!(pre_commit(&a, &three(1)).await.expect("moved").accepted);
    b.restart().await;
    coordinator_gone(&[&a, &b]);
    for site in [&a, &b] {
        until_ended(site).await;
        assert_eq!(site.value("key").as_deref(), Some("5"));
    }
}

/// Only when every site has the decision on its disk may anybody forget it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coordinators_silence_keeps_the_decision() {
    let (a, b) = two().await;
    all_vote(&[&a, &b], &three(1), add("key", 5)).await;
    coordinator_gone(&[&a, &b]);
    for site in [&a, &b] {
        until_ended(site).await;
    }
    // The coordinator has not acknowledged it: nobody may forget.
    let known = ask(&a, "b", &three(1), Order::Join, ballot(1 << 20, 2)).await;
    assert_eq!((known.kind(), known.committed), (v1::SiteReportKind::Known, false));
}
