//! What every transaction says is read straight from the bytes, and so is what other encoders write.

use handfast_commit_core::id::{Incarnation, ParticipantName};
use handfast_commit_core::message::{FromParticipant, Prepare, ToParticipant, Vote};

use super::*;
use crate::convert::FromSession;

const ID: &str = "0007-02-0000000012-00000000000004d2";

fn name(text: &str) -> ParticipantName {
    text.parse().expect("a name")
}

/// The orders of a frame, as the participant `a` reads them.
fn orders(frame: &SessionRequest) -> Result<Vec<Order>, DecodeError> {
    let mut names = Names::default();
    let mut messages = frame.read()?;
    std::iter::from_fn(|| messages.next(&name("a"), &mut names)).collect()
}

#[test]
fn what_is_written_is_read_without_the_generated_types() {
    let id = ID.parse().expect("an id");
    let prepare = Prepare {
        id,
        work: Some(Bytes::from(vec![7; 300])),
        peers: vec![name("b"), name("c")],
        one_phase: true,
        request_id: Some("r".parse().expect("a request id")),
        voting: None,
    };
    let mut writer = SessionRequestWriter::new(3, 300);
    let endpoint_of = |peer: &ParticipantName, to: &mut String| {
        if peer.as_str() == "b" {
            to.push_str("http://b");
        }
    };
    writer.say(&name("a"), ToParticipant::Prepare(prepare.clone()), endpoint_of);
    let incarnation = Incarnation(5);
    writer.say(&name("a"), ToParticipant::Commit { id, incarnation }, endpoint_of);
    writer.say(&name("a"), ToParticipant::Abort { id }, endpoint_of);
    assert_eq!(writer.messages(), 3);
    let frame = writer.finish(&v1::Origin { slot: 7, ..Default::default() });
    let orders = orders(&frame).expect("a frame");
    let [Order::Prepare(first), Order::Commit { id: committed, .. }, Order::Other(_)] = &orders[..]
    else {
        panic!("{orders:?}")
    };
    assert_eq!((&first.prepare, *committed), (&prepare, id));
    assert_eq!(first.peers, [(name("b"), "http://b".to_owned()), (name("c"), String::new())]);
    assert_eq!(frame.read().expect("a frame").origin.map(|origin| origin.slot), Some(7));

    let vote = |vote| FromParticipant::Voted { id, vote, incarnation, result: Bytes::new() };
    let said = [
        vote(Vote::Prepared),
        vote(Vote::ReadOnly),
        vote(Vote::No { reason: "no".into() }),
        FromParticipant::Committed { id },
        FromParticipant::Aborted { id },
    ];
    let mut writer = SessionResponseWriter::new(said.len());
    said.iter().for_each(|message| writer.say(message.clone()));
    assert_eq!(writer.messages(), said.len());
    let read = writer.finish();
    let read = read.read().expect("a frame").map(|message| message.expect("a message"));
    let said = said.map(|message| Ok(FromSession::Message(message)));
    assert_eq!(read.collect::<Vec<_>>(), said);
}

#[test]
fn what_is_not_usual_is_read_as_ever() {
    let commit = v1::CommitRequest {
        transaction_id: ID.into(),
        participant: "a".into(),
        ..Default::default()
    };
    let message = |commit: &v1::CommitRequest| v1::CoordinatorMessage {
        message: Some(v1::coordinator_message::Message::Commit(commit.clone())),
    };
    let frame = |commit: &v1::CommitRequest| {
        let messages = vec![message(commit)];
        SessionRequest::of(&v1::SessionRequest { hello: None, messages, origin: None })
    };
    let usual = orders(&frame(&commit)).expect("a frame");
    assert!(matches!(usual[..], [Order::Commit { .. }]), "{usual:?}");
    for other in [
        v1::CommitRequest { participant: "b".into(), ..commit.clone() },
        v1::CommitRequest { participant: String::new(), ..commit.clone() },
        v1::CommitRequest { transaction_id: ID.to_uppercase(), ..commit.clone() },
        v1::CommitRequest { origin: Some(v1::Origin::default()), ..commit.clone() },
    ] {
        let read = orders(&frame(&other)).expect("a frame");
        assert_eq!(read, [Order::Other(Box::new(message(&other)))]);
    }
    // A field that is not known here, and one that comes twice.
    let usual = frame(&commit);
    for more in [&[0x78, 1][..], &[0x1a, 0, 0x1a, 0], &[0x12, 0]] {
        let longer = SessionRequest::new([usual.as_bytes(), more].concat().into());
        let read = orders(&longer).expect("a frame");
        assert_eq!(read.len(), longer.decode().expect("a frame").messages.len());
    }
    let cut = SessionRequest::new(usual.as_bytes().slice(..usual.as_bytes().len() - 1));
    let (error, expected) = (orders(&cut), cut.decode());
    assert_eq!(error.map_err(|e| e.to_string()), Err(expected.expect_err("cut").to_string()));
}

#[test]
fn names_that_share_a_place_are_told_apart() {
    let mut names = Names::default();
    for round in 0..2 {
        for number in 0..200 {
            let text = format!("participant-{number}");
            let read = names.read(text.as_bytes()).expect("a name");
            assert_eq!(read.as_str(), text, "in round {round}");
        }
    }
    for wrong in [&b""[..], b"A", b"\xff", &[b'a'; 65]] {
        assert_eq!(names.read(wrong), None);
    }
}
