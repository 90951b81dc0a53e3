//! A voting site of three-phase commit, as its coordinator and the others see it.

use handfast_wire::v1;
use handfast_wire::v1::coordinator_message::Message as To;
use handfast_wire::v1::participant_message::Message as From;
use handfast_wire::v1::{
    SiteOrderKind as Order, SiteReportKind as Report, SiteStanding as Standing,
};
use tonic::Code;

use crate::site::{NAME, Session, Site, abort, add, id, origin, prepare};
use crate::voting::{
    FIRST, ask, ballot, everybody, lead, order, pre_commit, three, three_phase_prepare,
};

/// A transaction with a second participant, which does not run.
async fn vote(site: &Site, id: &str, work: v1::KeyValueOperation) -> v1::PrepareResponse {
    let voting = everybody(&[site], Some("other")).await;
    site.prepare(three_phase_prepare(site, id, work, voting, Vec::new())).await
}

async fn commit(site: &Site, id: &str) {
    site.commit(id, 1).await.expect("committed");
}

fn report_of(message: From) -> v1::SiteReport {
    match message {
        From::Report(report) => report,
        other => panic!("instead of a report: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_votes_moves_commits_and_forgets_over_a_session() {
    let site = Site::start_patient().await;
    let mut session = Session::open(&site, 1, 1).await.expect("open");
    let one = three(1);
    let voting = everybody(&[&site], Some("other")).await;
    let request = three_phase_prepare(&site, &one, add("a", 5), voting, Vec::new());
    session.send(1, vec![To::Prepare(request)]).await;
    assert!(matches!(session.says().await, (id, From::Vote(vote))
        if id == one && vote.vote() == v1::Vote::Prepared));

    let move_to_commit = order(&site, &one, Order::PreCommit, FIRST).await;
    session.send(1, vec![To::Order(move_to_commit)]).await;
    let (about, report) = session.says().await;
    let report = report_of(report);
    assert_eq!((about, report.kind(), report.ballot), (one.clone(), Report::Moved, FIRST));
    assert_eq!(site.value("a"), None);

    let commit = To::Commit(v1::CommitRequest {
        transaction_id: one.clone(),
        origin: Some(origin(1)),
        participant_incarnation: session.welcome.participant_incarnation,
        participant: NAME.to_owned(),
    });
    session.send(1, vec![commit]).await;
    assert!(matches!(session.says().await.1, From::Committed(_)));
    assert_eq!(site.value("a").as_deref(), Some("5"));
    assert!(site.in_doubt().await.is_empty());

    let forget = v1::ForgetRequest { transaction_id: one.clone(), participant: NAME.to_owned() };
    session.send(1, vec![To::Forget(forget)]).await;
    let forget = order(&site, &one, Order::Forget, 0).await;
    session.send(1, vec![To::Order(forget)]).await;
    assert_eq!(report_of(session.says().await.1).kind(), Report::Forgotten);
    // A late PREPARE finds it all the same, and does not do the work again.
    vote(&site, &one, add("a", 5)).await;
    assert_eq!(site.value("a").as_deref(), Some("5"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_calls_do_the_same() {
    let site = Site::start_patient().await;
    let one = three(1);
    assert_eq!(vote(&site, &one, add("a", 5)).await.vote(), v1::Vote::Prepared);
    let moved = pre_commit(&site, &one).await.expect("moved");
    assert_eq!((moved.accepted, moved.promised), (true, FIRST));
    commit(&site, &one).await;
    assert_eq!(site.value("a").as_deref(), Some("5"));
    let known = pre_commit(&site, &one).await.expect_err("it is over");
    assert_eq!(known.code(), Code::FailedPrecondition);
    assert!(known.message().contains("committed here"), "{known:?}");

    let two = three(2);
    vote(&site, &two, add("a", 5)).await;
    let higher = ballot(2, 2);
    assert_eq!(ask(&site, "other", &two, Order::Join, higher).await.kind(), Report::Joined);
    let refused = pre_commit(&site, &two).await.expect("an answer");
    assert_eq!((refused.accepted, refused.promised), (false, higher));
    site.abort(&two, 1).await.expect("aborted");
    assert_eq!(site.value("a").as_deref(), Some("5"));

    let unvoted = pre_commit(&site, &three(3)).await.expect_err("it has not voted");
    assert_eq!(unvoted.code(), Code::FailedPrecondition);
    let two_phase = pre_commit(&site, &id(1, 9)).await.expect_err("two-phase commit has none");
    assert!(two_phase.message().contains("no PRE_COMMIT"), "{two_phase:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_in_a_session_votes_like_any_other() {
    let site = Site::start_patient().await;
    let one = three(1);
    let work = Some(v1::KeyValueWork { operations: vec![add("a", 2)] });
    let apply = v1::ApplyRequest { transaction_id: one.clone(), work };
    site.key_value().apply(apply).await.expect("done");
    let voting = everybody(&[&site], None).await;
    let joined = v1::PrepareRequest {
        carries_work: false,
        payload: Default::default(),
        ..three_phase_prepare(&site, &one, add("unused", 1), voting, Vec::new())
    };
    assert_eq!(site.prepare(joined).await.vote(), v1::Vote::Prepared);
    commit(&site, &one).await;
    assert_eq!(site.value("a").as_deref(), Some("2"));
}

/// Whatever it has said of itself, it says again after a restart, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_changes_nothing_in_any_state() {
    let mut site = Site::start_patient().await;
    let [waiting, joined, moved, aborting, decided] = [1, 2, 3, 4, 5].map(three);
    for (key, id) in
        ["a", "b", "c", "d", "e"].iter().zip([&waiting, &joined, &moved, &aborting, &decided])
    {
        assert_eq!(vote(&site, id, add(key, 5)).await.vote(), v1::Vote::Prepared);
    }
    assert_eq!(
        ask(&site, "other", &joined, Order::Join, ballot(7, 2)).await.kind(),
        Report::Joined
    );
    pre_commit(&site, &moved).await.expect("moved");
    ask(&site, "other", &aborting, Order::PreAbort, ballot(3, 2)).await;
    commit(&site, &decided).await;
    site.restart_there().await;

    let mut in_doubt = site.in_doubt().await;
    in_doubt.sort();
    assert_eq!(in_doubt, [&waiting, &joined, &moved, &aborting].map(String::clone));
    // The promise holds; a lower ballot is refused.
    let refused = ask(&site, "other", &joined, Order::PreCommit, ballot(6, 2)).await;
    assert_eq!((refused.kind(), refused.promised >= ballot(7, 2)), (Report::Refused, true));
    // So high that no election of its own is above.
    let high = ballot(1 << 20, 2);
    for (id, accepted, standing) in [
        (&waiting, 0, Standing::Waiting),
        (&joined, 0, Standing::Waiting),
        (&moved, FIRST, Standing::PreCommitted),
        (&aborting, ballot(3, 2), Standing::PreAborted),
    ] {
        let report = ask(&site, "other", id, Order::Join, high).await;
        assert_eq!(
            (report.kind(), report.accepted, report.standing()),
            (Report::Joined, accepted, standing),
            "{id}"
        );
    }
    let known = ask(&site, "other", &decided, Order::Join, high).await;
    assert_eq!((known.kind(), known.committed), (Report::Known, true));
    // The locks are held, and the decision is carried out as ever.
    assert_eq!(site.value("c"), None);
    commit(&site, &moved).await;
    site.abort(&aborting, 1).await.expect("aborted");
    assert_eq!((site.value("c").as_deref(), site.value("d")), (Some("5"), None));
    site.restart_there().await;
    assert_eq!((site.value("c").as_deref(), site.value("d")), (Some("5"), None));
}

/// It holds nothing, and votes for as long as the transaction is undecided.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_voter_stays_a_voting_site() {
    let mut site = Site::start_patient().await;
    let one = three(1);
    let get = v1::KeyValueOperation {
        operation: Some(v1::key_value_operation::Operation::Get(v1::KeyValueGet {})),
        ..add("a", 0)
    };
    // The only branch, so that the store may give up its locks at once.
    let voting = everybody(&[&site], None).await;
    let request = three_phase_prepare(&site, &one, get, voting, Vec::new());
    assert_eq!(site.prepare(request).await.vote(), v1::Vote::ReadOnly);
    site.prepare(prepare(&id(1, 2), 1, add("a", 1))).await;
    site.commit(&id(1, 2), 1).await.expect("nothing is locked");
    site.restart_there().await;
    let moved = pre_commit(&site, &one).await.expect("moved");
    assert!(moved.accepted);
    commit(&site, &one).await;
    assert!(site.in_doubt().await.is_empty());
}

/// A leader relies on the answer: it outlives the process, and the branch can never be prepared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_not_voted_aborts_for_good_when_it_is_asked() {
    let mut site = Site::start_patient().await;
    let [unheard_of, in_session] = [1, 2].map(three);
    let work = Some(v1::KeyValueWork { operations: vec![add("a", 2)] });
    let apply = v1::ApplyRequest { transaction_id: in_session.clone(), work };
    site.key_value().apply(apply).await.expect("done");
    let unvoted = ask(&site, "other", &unheard_of, Order::Join, ballot(2, 2)).await;
    assert_eq!(unvoted.kind(), Report::Unvoted);
    let known = ask(&site, "other", &in_session, Order::Join, ballot(2, 2)).await;
    assert_eq!((known.kind(), known.committed), (Report::Known, false));
    site.restart_there().await;
    for id in [&unheard_of, &in_session] {
        let known = ask(&site, "other", id, Order::Join, ballot(3, 2)).await;
        assert_eq!((known.kind(), known.committed), (Report::Known, false), "{id}");
        assert_eq!(vote(&site, id, add("a", 5)).await.vote(), v1::Vote::No, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_for_somebody_else_are_not_obeyed() {
    let site = Site::start_patient().await;
    let one = three(1);
    // Another log of this participant may have voted.
    let mut lost = order(&site, &one, Order::Join, ballot(2, 2)).await;
    lost.incarnation ^= 1;
    let reports = lead(&site, "other", vec![lost]).await.expect("answered");
    assert_eq!(reports[0].kind(), Report::NoInformation);
    // PREPARE for another log; for nobody; without voters.
    let mut voting = everybody(&[&site], None).await;
    voting.participants[0].participant_incarnation ^= 1;
    let prepare = |voting| three_phase_prepare(&site, &one, add("a", 1), voting, Vec::new());
    let another_log = site.client().prepare(prepare(voting.clone())).await;
    assert!(another_log.expect_err("refused").message().contains("another log"));
    voting.participants[0].participant = "other".to_owned();
    let stranger = site.client().prepare(prepare(voting)).await.expect_err("refused");
    assert_eq!(stranger.code(), Code::InvalidArgument);
    let nobody = v1::PrepareRequest { voting: None, ..prepare(v1::VotingSites::default()) };
    let nobody = site.client().prepare(nobody).await.expect_err("refused");
    assert!(nobody.message().contains("voting sites"), "{nobody:?}");

    // Whoever does not vote does not lead.
    vote(&site, &one, add("a", 5)).await;
    let stranger = ask(&site, "stranger", &one, Order::Join, ballot(2, 2)).await;
    assert_eq!(stranger.kind(), Report::NoInformation);
    let other_ballot = ask(&site, "other", &one, Order::Join, ballot(2, 1)).await;
    assert_eq!(other_ballot.kind(), Report::NoInformation, "a ballot is its own leader's");

    // Another site is meant; a coordinator has a session for what it wants.
    let name = |role: v1::SiteRole, name: &str| {
        Some(v1::SiteName { role: role.into(), name: name.to_owned() })
    };
    for (from, to, part) in [
        (name(v1::SiteRole::Participant, "other"), name(v1::SiteRole::Participant, "x"), "for x"),
        (name(v1::SiteRole::Participant, "other"), name(v1::SiteRole::Witness, NAME), "witness kv"),
        (name(v1::SiteRole::Coordinator, ""), name(v1::SiteRole::Participant, NAME), "session"),
    ] {
        let request = v1::LeadRequest { from, to, ..Default::default() };
        let refused = site.voting().lead(request).await.expect_err(part);
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains(part), "{part}: {refused:?}");
    }
    // A coordinator speaks for its own slot.
    let mut session = Session::open(&site, 1, 1).await.expect("open");
    let foreign = one.replacen("0000", "0007", 1);
    session.send(1, vec![To::Order(order(&site, &foreign, Order::PreCommit, FIRST).await)]).await;
    let (about, refusal) = session.says().await;
    assert!(matches!(refusal, From::Refusal(refusal) if refusal.reason.contains("slot 7")));
    assert_eq!(about, foreign);
}

/// A repeated decision is carried out once, and acknowledged as often as it is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_is_acknowledged_to_everybody_who_tells_it() {
    let mut site = Site::start_patient().await;
    let [one, two] = [1, 2].map(three);
    for id in [&one, &two] {
        vote(&site, id, add("a", 5)).await;
        let mut decided = order(&site, id, Order::Decided, 0).await;
        decided.committed = *id == one;
        for restarted in [false, true] {
            let reports = lead(&site, "other", vec![decided.clone()]).await.expect("answered");
            assert_eq!(
                (reports[0].kind(), reports[0].committed),
                (Report::Acknowledged, *id == one),
                "{id} {restarted}"
            );
            site.restart_there().await;
        }
        assert_eq!(site.value("a").as_deref(), Some("5"));
    }
    commit(&site, &one).await;
    site.client().abort(abort(&two, 1)).await.expect("aborted");
    assert_eq!(site.value("a").as_deref(), Some("5"));
    // What contradicts it is never obeyed.
    let refused = site.client().abort(abort(&one, 1)).await.expect_err("it has committed");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(site.value("a").as_deref(), Some("5"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_listed_says_where_a_site_stands() {
    let site = Site::start_patient().await;
    let one = three(1);
    vote(&site, &one, add("a", 5)).await;
    pre_commit(&site, &one).await.expect("moved");
    let [branch] = &site.listed().await[..] else { panic!("one branch") };
    let stands = branch.site.clone().expect("it is undecided");
    assert_eq!(stands.standing(), Standing::PreCommitted);
    assert_eq!((stands.promised.as_str(), stands.accepted.as_str()), ("1.0", "1.0"));
    assert_eq!((stands.leader.as_str(), stands.wanted), ("the coordinator", 0));
    ask(&site, "other", &one, Order::Join, ballot(2, 2)).await;
    let [branch] = &site.listed().await[..] else { panic!("one branch") };
    let stands = branch.site.clone().expect("it is undecided");
    assert_eq!((stands.leader.as_str(), stands.promised.as_str()), ("other", "2.2"));
    assert!(branch.waiting_for.contains("other, which leads ballot 2.2"), "{}", branch.waiting_for);
}
