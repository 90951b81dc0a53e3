//! Work in sessions: the coordinator knows of a branch before it does anything.

use handfast_wire::v1;
use tonic::{Code, Status};

use crate::fake::unknown_participant;
use crate::site::{NAME, Site, add, id, prepare};

async fn apply(site: &Site, id: &str, work: v1::KeyValueOperation) -> Result<(), Status> {
    let work = Some(v1::KeyValueWork { operations: vec![work] });
    let request = v1::ApplyRequest { transaction_id: id.to_owned(), work };
    site.key_value().apply(request).await.map(drop)
}

fn joined(id: &str) -> v1::PrepareRequest {
    v1::PrepareRequest {
        carries_work: false,
        payload: Default::default(),
        ..prepare(id, 1, add("unused", 1))
    }
}

fn numbers(site: &Site) -> Vec<u64> {
    site.coordinator.told().enlistments.iter().map(|enlisted| enlisted.enlistment).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_enlisted_once_and_commits() {
    let site = Site::start().await;
    let one = id(1, 1);
    for _ in 0..3 {
        apply(&site, &one, add("a", 2)).await.expect("done");
    }
    let enlisted = site.coordinator.told().enlistments.clone();
    assert_eq!(enlisted.len(), 1);
    assert_eq!(
        (enlisted[0].transaction_id.as_str(), enlisted[0].participant.as_str()),
        (one.as_str(), NAME)
    );
    assert_eq!(enlisted[0].participant_incarnation, site.incarnation().await);
    assert_eq!(site.value("a"), None);
    assert_eq!(site.prepare(joined(&one)).await.vote(), v1::Vote::Prepared);
    let refused = apply(&site, &one, add("a", 2)).await.expect_err("too late");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    site.commit(&one, 1).await.expect("committed");
    assert_eq!(site.value("a").as_deref(), Some("6"));
    let refused = apply(&site, &one, add("a", 2)).await.expect_err("over");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(numbers(&site).len(), 1, "what is over here is not enlisted again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_at_once_share_one_enlistment() {
    let site = Site::start().await;
    let handle = site.running().handle();
    let branch = |sequence| -> handfast_participant::resource_manager::TransactionId {
        id(1, sequence).parse().expect("an id")
    };
    // Some come while it is on its way, some look before and ask after it has succeeded.
    for sequence in 1..=100 {
        let calls: Vec<_> = (0..10)
            .map(|_| {
                let handle = handle.clone();
                tokio::spawn(async move { handle.enlist(branch(sequence)).await })
            })
            .collect();
        for call in calls {
            call.await.expect("no panic").expect("enlisted");
        }
        assert_eq!(numbers(&site).len() as u64, sequence, "one for each branch");
    }
    handle.give_up(branch(1));
    handle.enlist(branch(1)).await.expect_err("a branch that was given up takes no work");
    handle.enlist(branch(2)).await.expect("another one does");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_say_what_the_coordinator_said() {
    let site = Site::start().await;
    for (refusal, code) in [
        (Status::not_found("never begun"), Code::NotFound),
        (Status::failed_precondition("decided"), Code::FailedPrecondition),
        (Status::aborted("aborted"), Code::FailedPrecondition),
        (Status::internal("broken"), Code::Unavailable),
    ] {
        let message = refusal.message().to_owned();
        site.coordinator.told().refusals.push(refusal);
        let refused = apply(&site, &id(1, 1), add("a", 1)).await.expect_err("refused");
        assert_eq!(refused.code(), code);
        assert!(refused.message().contains(&message), "{refused:?}");
    }
    apply(&site, &id(1, 1), add("a", 1)).await.expect("accepted at last");
    let malformed = apply(&site, &id(1, 2).replace("-02-", "-04-"), add("a", 1)).await;
    assert_eq!(malformed.expect_err("three-phase").code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_enlistment_whose_answer_is_lost_is_the_same_one_again() {
    let mut site = Site::start().await;
    let one = id(1, 1);
    site.coordinator.told().loses_answers = true;
    for _ in 0..2 {
        let refused = apply(&site, &one, add("a", 1)).await.expect_err("no answer");
        assert_eq!(refused.code(), Code::Unavailable);
    }
    site.coordinator.told().loses_answers = false;
    apply(&site, &one, add("a", 1)).await.expect("accepted");
    let before = numbers(&site);
    assert!(before.len() >= 3 && before.iter().all(|number| *number == before[0]), "{before:?}");
    // The work is gone with the process, and the coordinator can tell by the number.
    site.restart().await;
    apply(&site, &one, add("a", 1)).await.expect("accepted by this coordinator");
    let after = numbers(&site);
    assert_ne!(after.last(), before.last());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_does_not_know_us_is_told() {
    let site = Site::start().await;
    site.coordinator.until("registered", |told| told.registrations.len() == 1).await;
    site.coordinator.told().refusals.push(unknown_participant());
    let refused = apply(&site, &id(1, 1), add("a", 1)).await.expect_err("unknown");
    assert_eq!(refused.code(), Code::Unavailable);
    site.coordinator.until("registered again", |told| told.registrations.len() == 2).await;
    apply(&site, &id(1, 1), add("a", 1)).await.expect("accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_gives_itself_up() {
    let site = Site::start().await;
    site.coordinator.told().time_left_ms = 50;
    apply(&site, &id(1, 1), add("a", 1)).await.expect("done");
    site.coordinator.told().time_left_ms = 60_000;
    // Its lock is free again without anybody's word.
    let vote = site.prepare(prepare(&id(1, 2), 1, add("a", 2))).await;
    assert_eq!(vote.vote(), v1::Vote::Prepared);
    let vote = site.prepare(joined(&id(1, 1))).await;
    assert_eq!(vote.vote(), v1::Vote::No, "{vote:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_without_work_or_of_another_process_cannot_be_prepared() {
    let mut site = Site::start().await;
    assert_eq!(site.prepare(joined(&id(1, 1))).await.vote(), v1::Vote::No);
    apply(&site, &id(1, 2), add("a", 1)).await.expect("done");
    site.restart().await;
    let vote = site.prepare(joined(&id(1, 2))).await;
    assert_eq!(vote.vote(), v1::Vote::No);
    assert!(vote.reason.contains("restarted"), "{}", vote.reason);
}
