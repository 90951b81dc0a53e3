//! The server around it: registration, health, reflection, the end.

use std::time::Duration;

use handfast_wire::v1;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::site::{NAME, Site, add, id, prepare};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_registers_under_its_name_and_address() {
    let mut site = Site::start().await;
    site.coordinator.until("registered", |told| !told.registrations.is_empty()).await;
    let first = site.coordinator.told().registrations[0].clone();
    assert_eq!((first.participant.as_str(), first.endpoint), (NAME, site.endpoint()));
    assert_ne!(first.participant_incarnation, 0);
    site.restart().await;
    site.coordinator.until("registered again", |told| told.registrations.len() == 2).await;
    let second = site.coordinator.told().registrations[1].clone();
    assert_eq!(second.endpoint, site.endpoint());
    assert_eq!(second.participant_incarnation, first.participant_incarnation, "the same log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_told_by_service() {
    let site = Site::start().await;
    let mut health = HealthClient::new(site.channel());
    for service in [
        "",
        "handfast.v1.ParticipantService",
        "handfast.v1.PeerService",
        "handfast.v1.KeyValueService",
    ] {
        let request = HealthCheckRequest { service: service.into() };
        let status = health.check(request).await.expect(service).into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_says_what_is_left() {
    let mut site = Site::start().await;
    site.prepare(prepare(&id(1, 1), 1, add("a", 5))).await;
    site.prepare(prepare(&id(1, 2), 1, add("b", 5))).await;
    site.commit(&id(1, 2), 1).await.expect("committed");
    let stopped = site.shutdown().await;
    assert_eq!((stopped.in_doubt, stopped.calls), (1, 0));
    site.restart().await;
    assert_eq!(site.in_doubt().await, [id(1, 1)]);
    assert_eq!(site.value("b").as_deref(), Some("5"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_ends_it_takes_decisions_and_no_work() {
    let mut site = Site::start().await;
    site.prepare(prepare(&id(1, 1), 1, add("a", 5))).await;
    let mut client = site.client();
    let incarnation = site.incarnation().await;
    // A call of the resource is running: it waits for the first one's lock.
    let waiting = tokio::spawn({
        let mut client = client.clone();
        async move { client.prepare(prepare(&id(1, 2), 1, add("a", 1))).await }
    });
    for _ in 0..3000 {
        if site.running().calls() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let handle = site.running().handle();
    let ready = site.running().readiness();
    let ending = tokio::spawn(async move { site.shutdown().await });
    for _ in 0..3000 {
        if ready().is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(ready(), Err("stopping".to_owned()));
    let refused = client.prepare(prepare(&id(1, 3), 1, add("b", 1))).await;
    assert_eq!(refused.expect_err("new work").code(), Code::Unavailable);
    assert!(handle.enlist(id(1, 4).parse().expect("an id")).await.is_err());
    let commit = v1::CommitRequest {
        transaction_id: id(1, 1),
        origin: Some(crate::site::origin(1)),
        participant_incarnation: incarnation,
        participant: NAME.into(),
    };
    client.commit(commit).await.expect("a decision is carried out");
    let vote = waiting.await.expect("no panic").expect("what runs is not cut off");
    assert_eq!(vote.into_inner().vote(), v1::Vote::Prepared);
    assert_eq!(ending.await.expect("no panic").calls, 0);
}
