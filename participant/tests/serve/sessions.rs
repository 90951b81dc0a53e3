//! Sessions: the stream of frames.

use handfast_wire::v1;
use handfast_wire::v1::coordinator_message::Message as To;
use handfast_wire::v1::participant_message::Message as From;
use tonic::Code;

use crate::site::{NAME, Session, Site, abort, add, id, origin, prepare};
use crate::voting::three;

fn commit(site_incarnation: u64, id: &str, epoch: u64) -> To {
    To::Commit(v1::CommitRequest {
        transaction_id: id.to_owned(),
        origin: Some(origin(epoch)),
        participant_incarnation: site_incarnation,
        participant: NAME.to_owned(),
    })
}

fn one_phase(id: &str, epoch: u64, request_id: &str, work: v1::KeyValueOperation) -> To {
    To::Prepare(v1::PrepareRequest {
        one_phase: true,
        request_id: request_id.to_owned(),
        ..prepare(id, epoch, work)
    })
}

fn vote_of(message: From) -> v1::PrepareResponse {
    match message {
        From::Vote(vote) => vote,
        other => panic!("instead of a vote: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_does_what_the_calls_do() {
    let site = Site::start().await;
    let mut session = Session::open(&site, 1, 1).await.expect("open");
    assert_eq!(session.welcome.participant, NAME);
    let incarnation = session.welcome.participant_incarnation;
    assert_eq!(incarnation, site.incarnation().await);
    let ids: Vec<String> = (1..=20).map(|sequence| id(1, sequence)).collect();
    let prepares = ids.iter().map(|id| To::Prepare(prepare(id, 1, add(id, 1))));
    session.send(1, prepares.collect()).await;
    for _ in &ids {
        assert_eq!(vote_of(session.says().await.1).vote(), v1::Vote::Prepared);
    }
    session.send(1, ids[..10].iter().map(|id| commit(incarnation, id, 1)).collect()).await;
    session.send(1, ids[10..].iter().map(|id| To::Abort(abort(id, 1))).collect()).await;
    let (mut committed, mut aborted) = (0, 0);
    for _ in &ids {
        match session.says().await.1 {
            From::Committed(_) => committed += 1,
            From::Aborted(_) => aborted += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((committed, aborted), (10, 10));
    for (index, id) in ids.iter().enumerate() {
        assert_eq!(site.value(id).is_some(), index < 10, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_begins_with_who_is_who() {
    let site = Site::start().await;
    let hello = |name: &str| Some(v1::SessionHello { participant: name.into(), session: 1 });
    for (hello, origin, code, part) in [
        (None, Some(origin(1)), Code::InvalidArgument, "hello"),
        (hello(NAME), None, Code::InvalidArgument, "origin"),
        (hello("other"), Some(origin(1)), Code::FailedPrecondition, "\"other\""),
    ] {
        let refused = Session::open_with(&site, hello, origin).await;
        let status = refused.err().expect(part);
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(part), "{part}: {status:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_latest_session_counts() {
    let mut site = Site::start().await;
    let mut older = Session::open(&site, 2, 1).await.expect("open");
    let mut newer = Session::open(&site, 2, 2).await.expect("newer");
    let ended = older.end().await;
    assert_eq!(ended.code(), Code::FailedPrecondition);
    assert!(ended.message().contains("session 2 of epoch 2"), "{ended:?}");
    for (epoch, session) in [(2, 2), (2, 1), (1, 9)] {
        let refused = Session::open(&site, epoch, session).await.err().expect("not newer");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    }
    // What the older one still says is not heard.
    older.send(2, vec![To::Prepare(prepare(&id(2, 1), 2, add("a", 1)))]).await;
    newer.send(2, vec![To::Prepare(prepare(&id(2, 2), 2, add("b", 1)))]).await;
    assert_eq!(newer.says().await.0, id(2, 2));
    assert_eq!(site.in_doubt().await, [id(2, 2)]);
    let _newest = Session::open(&site, 3, 1).await.expect("a later epoch");
    assert_eq!(newer.end().await.code(), Code::FailedPrecondition);
    // Its epoch is remembered when nothing else of it is.
    drop((older, newer, _newest));
    site.prepare(prepare(&id(3, 1), 3, add("c", 1))).await;
    site.restart().await;
    let refused = Session::open(&site, 2, 7).await.err().expect("an older epoch");
    assert!(refused.message().contains("epoch 3 has been seen"), "{refused:?}");
    Session::open(&site, 3, 1).await.expect("session numbers begin anew with the process");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_message_is_refused_and_the_others_are_heard() {
    let site = Site::start().await;
    let mut session = Session::open(&site, 1, 1).await.expect("open");
    let stranger = v1::AbortRequest { participant: "other".into(), ..abort(&id(1, 1), 1) };
    let paxos = id(1, 2).replace("-02-", "-04-");
    let nothing = v1::SiteOrder { transaction_id: three(3), ..Default::default() };
    let oversized = v1::PrepareRequest {
        payload: vec![0; (1 << 20) + 1].into(),
        ..prepare(&id(1, 4), 1, add("a", 1))
    };
    let nameless = v1::AbortRequest { transaction_id: "?".into(), ..abort("", 1) };
    let lost = commit(session.welcome.participant_incarnation ^ 1, &id(1, 5), 1);
    session
        .send(
            1,
            vec![
                To::Abort(nameless),
                To::Abort(stranger),
                To::Abort(abort(&paxos, 1)),
                To::Order(nothing),
                To::Prepare(oversized),
                lost,
                To::Abort(abort(&id(1, 6), 1)),
            ],
        )
        .await;
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..6 {
        let (id, message) = session.says().await;
        let code = match message {
            From::Refusal(refusal) => Code::from(refusal.code),
            From::Aborted(_) => Code::Ok,
            other => panic!("{other:?}"),
        };
        seen.insert(id, code);
    }
    assert_eq!(seen[&id(1, 1)], Code::FailedPrecondition);
    assert_eq!(seen[&paxos], Code::Unimplemented);
    assert_eq!(seen[&three(3)], Code::InvalidArgument);
    assert_eq!(seen[&id(1, 4)], Code::InvalidArgument);
    assert_eq!(seen[&id(1, 5)], Code::DataLoss);
    assert_eq!(seen[&id(1, 6)], Code::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_of_another_origin_ends_the_session() {
    let site = Site::start().await;
    let mut session = Session::open(&site, 2, 1).await.expect("open");
    session.send(3, vec![To::Abort(abort(&id(3, 1), 3))]).await;
    assert_eq!(session.end().await.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_phase_commits_are_reported_until_they_are_forgotten() {
    let mut site = Site::start().await;
    let mut session = Session::open(&site, 1, 1).await.expect("open");
    assert!(session.welcome.one_phase_commits.is_empty());
    session.send(1, vec![one_phase(&id(1, 1), 1, "r-1", add("a", 5))]).await;
    assert_eq!(vote_of(session.says().await.1).vote(), v1::Vote::Committed);
    assert_eq!(site.value("a").as_deref(), Some("5"));
    drop(session);
    site.restart().await;
    let mut session = Session::open(&site, 2, 1).await.expect("open");
    let reported = &session.welcome.one_phase_commits;
    assert_eq!(reported.len(), 1);
    assert_eq!(reported[0].transaction_id, id(1, 1));
    assert_eq!(reported[0].request_id, "r-1");
    assert!(reported[0].one_phase_committed);
    assert_eq!(site.listed().await.len(), 1);
    // A retry under another id is the first attempt's commit.
    session.send(2, vec![one_phase(&id(2, 1), 2, "r-1", add("a", 5))]).await;
    let vote = vote_of(session.says().await.1);
    assert_eq!(vote.vote(), v1::Vote::Committed);
    assert_eq!(vote.committed_transaction_id, id(1, 1));
    assert_eq!(site.value("a").as_deref(), Some("5"));
    let forget = v1::ForgetRequest { transaction_id: id(1, 1), participant: NAME.into() };
    session.send(2, vec![To::Forget(forget), To::Abort(abort(&id(2, 9), 2))]).await;
    assert_eq!(session.says().await.0, id(2, 9), "everything before it is done");
    assert!(site.listed().await.is_empty());
    let session = Session::open(&site, 2, 2).await.expect("newer");
    assert!(session.welcome.one_phase_commits.is_empty());
}

/// A coordinator that restarts is told nothing of a transaction, and says "aborted". So must we.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_report_leaves_out_does_not_commit_later() {
    let site = Site::start().await;
    site.prepare(prepare(&id(1, 1), 1, add("a", 5))).await;
    let first = Session::open(&site, 1, 1).await.expect("open");
    // It waits for the lock of the other one.
    let waiting = one_phase(&id(1, 2), 1, "r-1", add("a", 7));
    first.send(1, vec![waiting, To::Abort(abort(&id(1, 9), 1))]).await;
    let mut first = first;
    assert_eq!(first.says().await.0, id(1, 9), "everything before it is heard");
    let second = Session::open(&site, 2, 1).await.expect("a coordinator that has restarted");
    assert!(second.welcome.one_phase_commits.is_empty());
    site.commit(&id(1, 1), 2).await.expect("the lock is free");
    site.prepare(prepare(&id(2, 1), 2, add("a", 1))).await;
    site.commit(&id(2, 1), 2).await.expect("committed");
    assert_eq!(site.value("a").as_deref(), Some("6"), "5 and 1; the 7 has been given up");
    assert!(site.listed().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_doubt_is_asked_about_when_a_session_opens() {
    let site = Site::start().await;
    site.prepare(prepare(&id(1, 1), 1, add("a", 5))).await;
    let mut session = Session::open(&site, 1, 1).await.expect("open");
    let question = session.next().await.expect("a question");
    let about = question.transaction_id;
    let Some(From::Inquire(inquiry)) = question.message else {
        panic!("instead of a question: {:?}", question.message)
    };
    assert_eq!((about, inquiry.coordinator_incarnation), (id(1, 1), 77));
    assert_eq!((inquiry.transaction_id, inquiry.participant), (id(1, 1), NAME.to_owned()));
    let answer = |sequence, outcome: v1::InquiryOutcome| {
        let transaction_id = id(1, sequence);
        To::InquiryAnswer(v1::InquiryAnswer { transaction_id, outcome: outcome.into() })
    };
    session.send(1, vec![answer(1, v1::InquiryOutcome::Commit)]).await;
    site.until_value("a", "5").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_carries_more_than_one_frame_holds() {
    let site = Site::start().await;
    let mut session = Session::open(&site, 1, 1).await.expect("open");
    let text = "x".repeat(700_000);
    let ids: Vec<String> = (1..=30).map(|sequence| id(1, sequence)).collect();
    for id in &ids {
        let request = prepare(id, 1, crate::site::put(id, &text));
        session.send(1, vec![To::Prepare(request)]).await;
    }
    for _ in &ids {
        let vote = vote_of(session.says().await.1);
        assert_eq!(vote.vote(), v1::Vote::Prepared);
        assert!(vote.result.len() > 700_000, "each brings its result along");
    }
}
