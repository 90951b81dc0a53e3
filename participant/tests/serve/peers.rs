//! Cooperative termination: what participants ask each other.

use handfast_wire::v1;

use crate::site::{NAME, Site, add, id, prepare, put};

async fn ask(site: &Site, id: &str) -> v1::InquiryOutcome {
    let request = v1::InquirePeerRequest {
        inquiry: Some(v1::InquireRequest {
            transaction_id: id.to_owned(),
            participant: "other".into(),
            coordinator_incarnation: 77,
        }),
        peer: site.name.clone(),
    };
    let answer = site.peers().inquire_peer(request).await.expect("an answer").into_inner();
    let answer = answer.answer.expect("an answer");
    assert_eq!(answer.transaction_id, id);
    answer.outcome()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_says_what_it_knows_and_nothing_more() {
    let site = Site::start().await;
    assert_eq!(ask(&site, &id(1, 1)).await, v1::InquiryOutcome::NoInformation);
    site.prepare(prepare(&id(1, 1), 1, put("a", "x"))).await;
    assert_eq!(ask(&site, &id(1, 1)).await, v1::InquiryOutcome::NoInformation);
    site.commit(&id(1, 1), 1).await.expect("committed");
    assert_eq!(ask(&site, &id(1, 1)).await, v1::InquiryOutcome::Commit);
    site.abort(&id(1, 2), 1).await.expect("aborted");
    assert_eq!(ask(&site, &id(1, 2)).await, v1::InquiryOutcome::Abort);
    let mut request = v1::InquirePeerRequest { inquiry: None, peer: "other".into() };
    let refused = site.peers().inquire_peer(request.clone()).await.expect_err("not us");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    request.peer = NAME.into();
    let refused = site.peers().inquire_peer(request).await.expect_err("no question");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
}

/// The peer relies on the answer: it outlives the process, and the branch can never be prepared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_not_voted_aborts_for_good() {
    let mut site = Site::start().await;
    let work = v1::KeyValueWork { operations: vec![add("a", 5)] };
    let apply = v1::ApplyRequest { transaction_id: id(1, 1), work: Some(work) };
    site.key_value().apply(apply).await.expect("enlisted");
    assert_eq!(ask(&site, &id(1, 1)).await, v1::InquiryOutcome::Abort);
    site.restart().await;
    assert_eq!(ask(&site, &id(1, 1)).await, v1::InquiryOutcome::Abort);
    let vote = site.prepare(prepare(&id(1, 1), 1, add("a", 5))).await;
    assert_eq!(vote.vote(), v1::Vote::No);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_in_doubt_learns_from_a_peer_when_the_coordinator_is_silent() {
    let knows = Site::start_named("knows").await;
    let site = Site::start().await;
    let for_peer =
        |id: &str, work| v1::PrepareRequest { participant: "knows".into(), ..prepare(id, 1, work) };
    knows.prepare(for_peer(&id(1, 1), put("a", "x"))).await;
    knows.commit(&id(1, 1), 1).await.expect("committed");
    let peers = vec![v1::Peer { participant: "knows".into(), endpoint: knows.endpoint() }];
    let request = v1::PrepareRequest { peers, ..prepare(&id(1, 1), 1, put("a", "x")) };
    assert_eq!(site.prepare(request).await.vote(), v1::Vote::Prepared);
    site.until_value("a", "x").await;
    assert!(site.in_doubt().await.is_empty());
}
