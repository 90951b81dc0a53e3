//! In doubt: across restarts, and until somebody knows.

use std::time::Duration;

use handfast_participant::{Participant, StartError};
use handfast_wire::v1;

use crate::site::{Site, add, id, prepare};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_the_locks_and_learns_the_outcome() {
    for (outcome, value) in [(v1::InquiryOutcome::Commit, "8"), (v1::InquiryOutcome::Abort, "3")] {
        let mut site = Site::start().await;
        site.prepare(prepare(&id(1, 1), 1, add("a", 5))).await;
        site.restart().await;
        assert_eq!(site.in_doubt().await, [id(1, 1)]);
        assert_eq!(site.value("a"), None);
        // Conflicting work waits for the branch in doubt.
        let waiting = tokio::spawn({
            let mut client = site.client();
            async move { client.prepare(prepare(&id(1, 2), 1, add("a", 3))).await }
        });
        site.coordinator.until("it asks", |told| !told.inquiries.is_empty()).await;
        assert!(!waiting.is_finished(), "the lock is held");
        let asked = site.coordinator.told().inquiries[0].clone();
        assert_eq!((asked.transaction_id, asked.coordinator_incarnation), (id(1, 1), 77));
        site.coordinator.told().outcomes.insert(id(1, 1), outcome);
        let vote = waiting.await.expect("no panic").expect("a vote").into_inner();
        assert_eq!(vote.vote(), v1::Vote::Prepared);
        site.commit(&id(1, 2), 1).await.expect("committed");
        assert_eq!(site.value("a").as_deref(), Some(value));
        assert!(site.in_doubt().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_never_an_abort() {
    let site = Site::start().await;
    site.prepare(prepare(&id(1, 1), 1, add("a", 5))).await;
    for outcome in [
        v1::InquiryOutcome::Pending,
        v1::InquiryOutcome::Retry,
        v1::InquiryOutcome::NotOwner,
        v1::InquiryOutcome::NoInformation,
    ] {
        site.coordinator.told().outcomes.insert(id(1, 1), outcome);
        let asked = site.coordinator.told().inquiries.len();
        site.coordinator.until("it asks again", |told| told.inquiries.len() > asked + 1).await;
        let listed = site.listed().await;
        assert_eq!(listed.len(), 1, "{outcome:?}");
        assert!(!listed[0].waiting_for.is_empty());
    }
    site.commit(&id(1, 1), 1).await.expect("committed");
    assert_eq!(site.value("a").as_deref(), Some("5"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_belongs_to_its_name() {
    let mut site = Site::start().await;
    site.shutdown().await;
    let mut refusal = None;
    for _ in 0..1000 {
        match Participant::builder("other").folder(site.folder.path()).open() {
            Err(StartError::Open(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
            other => {
                refusal = Some(other.expect_err("another participant's folder").to_string());
                break;
            }
        }
    }
    let refusal = refusal.expect("the folder is free at some time");
    assert!(refusal.contains("participant kv") && refusal.contains("not of other"), "{refusal}");
}
