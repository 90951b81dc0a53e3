//! What a voting site writes, and that nothing is said of it before it is durable.

use std::sync::mpsc;

use handfast_journal::{MemoryDisk, Table, Unsynced};
use handfast_participant::Running;
use handfast_wire::v1;
use handfast_wire::v1::site_service_client::SiteServiceClient;
use handfast_wire::v1::{SiteOrderKind as Order, SiteReportKind as Report};
use tonic::Code;
use tonic::transport::Endpoint;

use crate::log::{Batches, Held, client, does_not_happen, serve_noting};
use crate::site::{NAME, add, origin, prepare};
use crate::voting::{FIRST, ballot, three};

/// Of the disk in memory.
const INCARNATION: u64 = 5;

fn voted(id: &str) -> v1::PrepareRequest {
    let site = |name: &str| v1::VotingParticipant {
        participant: name.to_owned(),
        participant_incarnation: INCARNATION,
    };
    let voting =
        v1::VotingSites { participants: vec![site(NAME), site("other")], witnesses: Vec::new() };
    v1::PrepareRequest { voting: Some(voting), ..prepare(id, 1, add(id, 5)) }
}

fn pre_commit(id: &str) -> v1::PreCommitRequest {
    v1::PreCommitRequest {
        transaction_id: id.to_owned(),
        origin: Some(origin(1)),
        ballot: FIRST,
        participant: NAME.to_owned(),
        participant_incarnation: INCARNATION,
    }
}

fn commit(id: &str) -> v1::CommitRequest {
    v1::CommitRequest {
        transaction_id: id.to_owned(),
        origin: Some(origin(1)),
        participant_incarnation: INCARNATION,
        participant: NAME.to_owned(),
    }
}

/// One report to one order of participant "other".
async fn lead(running: &Running, id: &str, kind: Order, ballot: u64) -> v1::SiteReport {
    let name = |name: &str| {
        Some(v1::SiteName { role: v1::SiteRole::Participant.into(), name: name.to_owned() })
    };
    let order = v1::SiteOrder {
        transaction_id: id.to_owned(),
        incarnation: INCARNATION,
        kind: kind.into(),
        ballot,
        committed: false,
    };
    let request = v1::LeadRequest {
        from: name("other"),
        from_endpoint: String::new(),
        to: name(NAME),
        orders: vec![order],
    };
    let endpoint = Endpoint::from_shared(format!("http://{}", running.address()));
    let mut client = SiteServiceClient::new(endpoint.expect("an endpoint").connect_lazy());
    let mut frames = client.lead(request).await.expect("led").into_inner();
    let frame = frames.message().await.expect("a frame").expect("a report");
    frame.reports[0].clone()
}

/// The store's own changes are in the same forced write as what the site says of itself, and there are three
/// of them in a transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_of_the_store_takes_three_forced_writes() {
    let (disk, held) = (MemoryDisk::new(INCARNATION), Held::default());
    let batches = Batches::default();
    let running = serve_noting(&disk, &held, &batches, mpsc::channel().0).await;
    let mut calls = client(&running);
    let id = three(1);
    // Into which tables, batch by batch.
    let written = || -> Vec<Vec<Table>> {
        let batches = std::mem::take(&mut *batches.lock().expect("no test panics here"));
        let tables = batches.iter().map(|batch| batch.iter().map(|mutation| mutation.table));
        // That a slot's coordinator was heard of may go along, or by itself.
        let tables = tables.map(|batch| batch.filter(|table| *table != Table::Meta).collect());
        tables.filter(|batch: &Vec<Table>| !batch.is_empty()).collect()
    };
    written();
    let vote = calls.prepare(voted(&id)).await.expect("a vote").into_inner();
    assert_eq!(vote.vote(), v1::Vote::Prepared);
    assert_eq!(written(), [vec![Table::Live, Table::Staged]], "the vote, and what it stages");
    assert!(calls.pre_commit(pre_commit(&id)).await.expect("moved").into_inner().accepted);
    assert_eq!(written(), [vec![Table::Live]], "the move");
    calls.commit(commit(&id)).await.expect("committed");
    let last = written();
    assert_eq!(last.len(), 1, "the end: {last:?}");
    assert_eq!(last[0], [Table::Live, Table::Staged, Table::Data], "and what was staged is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_says_nothing_of_itself_before_it_is_durable() {
    let (disk, held) = (MemoryDisk::new(INCARNATION), Held::default());
    let running = serve_noting(&disk, &held, &Batches::default(), mpsc::channel().0).await;
    let [moving, joining, ending] = [1, 2, 3].map(three);
    for id in [&moving, &joining, &ending] {
        client(&running).prepare(voted(id)).await.expect("a vote");
    }
    held.hold(true);
    let mut clients = [client(&running), client(&running), client(&running)];
    let [for_vote, for_move, for_end] = &mut clients;
    let mut vote = Box::pin(for_vote.prepare(voted(&three(4))));
    let mut moved = Box::pin(for_move.pre_commit(pre_commit(&moving)));
    let mut joined = Box::pin(lead(&running, &joining, Order::Join, ballot(2, 2)));
    let mut ended = Box::pin(for_end.commit(commit(&ending)));
    let unheard_of = three(5);
    let mut unvoted = Box::pin(lead(&running, &unheard_of, Order::Join, ballot(2, 2)));
    does_not_happen(&mut vote).await;
    does_not_happen(&mut moved).await;
    does_not_happen(&mut joined).await;
    does_not_happen(&mut ended).await;
    does_not_happen(&mut unvoted).await;
    // What speaks of a record on its way waits for it, too.
    let mut again = Box::pin(lead(&running, &joining, Order::Join, ballot(2, 2)));
    does_not_happen(&mut again).await;
    held.hold(false);
    assert_eq!(vote.await.expect("a vote").into_inner().vote(), v1::Vote::Prepared);
    assert!(moved.await.expect("moved").into_inner().accepted);
    assert_eq!(joined.await.kind(), Report::Joined);
    ended.await.expect("committed");
    assert_eq!(unvoted.await.kind(), Report::Unvoted);
    assert_eq!(again.await.kind(), Report::Joined);
}

/// A move whose record may not be on the disk is not reported, and after a restart it has not been made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_fails_is_not_reported() {
    let (disk, held) = (MemoryDisk::new(INCARNATION), Held::default());
    let (poisoned, news) = mpsc::channel();
    let running = serve_noting(&disk, &held, &Batches::default(), poisoned).await;
    client(&running).prepare(voted(&three(1))).await.expect("a vote");
    disk.fail_next_sync();
    let refused = client(&running).pre_commit(pre_commit(&three(1))).await;
    assert_eq!(refused.expect_err("no report").code(), Code::Unavailable);
    assert!(news.recv().expect("told").contains("did not take a batch"));
    drop(running);
    disk.crash(Unsynced::Lost);
    let running = serve_noting(&disk, &held, &Batches::default(), mpsc::channel().0).await;
    let joined = lead(&running, &three(1), Order::Join, ballot(2, 2)).await;
    assert_eq!((joined.kind(), joined.accepted), (Report::Joined, 0));
}
