//! Frames are read and written in two ways: as the generated types do, and straight between bytes and the core's
//! types. Whatever the bytes, both say the same.

use bytes::Bytes;
use handfast_commit_core::id::{Incarnation, ParticipantName};
use handfast_commit_core::message::{FromParticipant, ToParticipant};
use handfast_wire::convert::{self, FromSession};
use handfast_wire::frames::{
    Call, CallRequest, Names, Order, SessionRequest, SessionRequestWriter, SessionResponse,
    SessionResponseWriter, StreamTransactionsRequest,
};
use handfast_wire::v1;
use handfast_wire::v1::coordinator_message::Message as Told;
use handfast_wire::v1::transaction_call::Request;
use prost::Message;

/// How many of the messages of a frame were read, and how many of these without the generated types.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) read: usize,
    pub(crate) straight: usize,
}

/// Reads a frame in both ways, if this kind of message is one.
pub(crate) fn compare(kind: &str, bytes: &[u8]) -> Count {
    match kind {
        "SessionRequest" => session_request(bytes),
        "SessionResponse" => session_response(bytes),
        "StreamTransactionsRequest" => calls(bytes),
        _ => Count::default(),
    }
}

/// Read as the participant that the first message names, and written again.
fn session_request(bytes: &[u8]) -> Count {
    let frame = SessionRequest::new(Bytes::copy_from_slice(bytes));
    let expected = frame.decode();
    let asked = expected.iter().flat_map(|frame| &frame.messages).find_map(participant);
    let own: ParticipantName =
        asked.and_then(|name| name.parse().ok()).unwrap_or_else(|| "a".parse().expect("a name"));
    let mut names = Names::default();
    let read = frame.read().and_then(|mut messages| {
        let around = (messages.hello.take(), messages.origin.take());
        let mut orders = Vec::with_capacity(messages.remaining());
        while let Some(order) = messages.next(&own, &mut names) {
            orders.push(order?);
        }
        Ok((around, orders))
    });
    let (expected, ((hello, origin), orders)) = match (expected, read) {
        (Ok(expected), Ok(read)) => (expected, read),
        (Err(expected), Err(error)) => {
            assert_eq!(error.to_string(), expected.to_string());
            return Count::default();
        }
        (expected, read) => panic!("one of two can read it: {expected:?}, and straight: {read:?}"),
    };
    assert_eq!((&hello, &origin), (&expected.hello, &expected.origin));
    assert_eq!(orders.len(), expected.messages.len());
    let mut count = Count { read: orders.len(), straight: 0 };
    for (order, message) in orders.into_iter().zip(expected.messages) {
        if let Order::Other(other) = order {
            assert_eq!(*other, message);
            continue;
        }
        count.straight += 1;
        assert_eq!(participant(&message), Some(own.as_str()), "somebody else was meant");
        let (said, endpoints) = match (order, message.message) {
            (Order::Prepare(order), Some(Told::Prepare(request))) => {
                let expected = convert::prepare(request).expect("what was accepted");
                assert_eq!(order, expected);
                (ToParticipant::Prepare(order.prepare), order.peers)
            }
            (Order::Commit { id, incarnation }, Some(Told::Commit(request))) => {
                assert_eq!(id.to_string(), request.transaction_id);
                assert_eq!(incarnation, Incarnation(request.participant_incarnation));
                (ToParticipant::Commit { id, incarnation }, Vec::new())
            }
            (order, message) => panic!("{message:?} was read as {order:?}"),
        };
        let origin = origin.clone().unwrap_or_default();
        let endpoint_of = |name: &ParticipantName| {
            let found = endpoints.iter().find(|(peer, _)| peer == name);
            found.map(|(_, endpoint)| endpoint.as_str()).unwrap_or_default()
        };
        let generated = convert::coordinator_message(&own, said.clone(), None, |peer| {
            endpoint_of(peer).to_owned()
        });
        let generated =
            v1::SessionRequest { hello: None, messages: vec![generated], origin: Some(origin) };
        let mut writer = SessionRequestWriter::new(1, 0);
        writer.say(&own, said, |peer, to| to.push_str(endpoint_of(peer)));
        let origin = generated.origin.as_ref().expect("it has one");
        assert_eq!(writer.finish(origin).as_bytes(), &generated.encode_to_vec());
    }
    count
}

fn participant(message: &v1::CoordinatorMessage) -> Option<&str> {
    match message.message.as_ref()? {
        Told::Prepare(request) => Some(&request.participant),
        Told::Commit(request) => Some(&request.participant),
        _ => None,
    }
}

/// Read, and written again.
fn session_response(bytes: &[u8]) -> Count {
    let frame = SessionResponse::new(Bytes::copy_from_slice(bytes));
    let read = frame.read().and_then(|mut messages| {
        let (welcome, count) = (messages.welcome.take(), messages.remaining());
        let messages = messages.collect::<Result<Vec<_>, _>>()?;
        assert_eq!(messages.len(), count);
        Ok((welcome, messages))
    });
    let (expected, (welcome, messages)) = match (frame.decode(), read) {
        (Ok(expected), Ok(read)) => (expected, read),
        (Err(expected), Err(error)) => {
            assert_eq!(error.to_string(), expected.to_string());
            return Count::default();
        }
        (expected, read) => panic!("one of two can read it: {expected:?}, and straight: {read:?}"),
    };
    assert_eq!(welcome, expected.welcome);
    assert_eq!(messages.len(), expected.messages.len());
    let read = messages.len();
    for (message, expected) in messages.into_iter().zip(expected.messages) {
        assert_eq!(message, convert::participant_message(expected));
        if let Ok(FromSession::Message(message)) = message {
            written(message);
        }
    }
    Count { read, straight: 0 }
}

/// What a participant says is written as the generated types write it.
fn written(message: FromParticipant) {
    let generated = v1::SessionResponse {
        welcome: None,
        messages: vec![convert::session_message(message.clone())],
    };
    let mut writer = SessionResponseWriter::new(1);
    writer.say(message);
    assert_eq!(writer.bytes(), generated.encoded_len());
    assert_eq!(writer.finish().as_bytes(), &generated.encode_to_vec());
}

fn calls(bytes: &[u8]) -> Count {
    let frame = StreamTransactionsRequest::new(Bytes::copy_from_slice(bytes));
    let (expected, calls) = match (frame.decode(), frame.read(&mut Names::default())) {
        (Ok(expected), Ok(calls)) => (expected.calls, calls),
        (Err(expected), Err(error)) => {
            assert_eq!(error.to_string(), expected.to_string());
            return Count::default();
        }
        (expected, read) => panic!("one of two can read it: {expected:?}, and straight: {read:?}"),
    };
    assert_eq!(calls.len(), expected.len());
    let mut count = Count { read: calls.len(), straight: 0 };
    for (Call { call_id, timeout, request }, expected) in calls.into_iter().zip(expected) {
        assert_eq!((call_id, timeout), (expected.call_id, expected.timeout));
        let call = match request {
            CallRequest::Execute(call) => call,
            CallRequest::Other(request) => {
                assert_eq!(request.map(|request| *request), expected.request);
                continue;
            }
        };
        count.straight += 1;
        let Some(Request::Execute(expected)) = expected.request else {
            panic!("{:?} was read as {call:?}", expected.request)
        };
        assert_eq!(Ok(call.request_id), convert::request_id(&expected.request_id));
        assert_eq!((call.reply_time, call.options), (expected.reply_time, expected.options));
        assert_eq!(call.branches.len(), expected.branches.len());
        for ((name, payload), expected) in call.branches.into_iter().zip(expected.branches) {
            assert_eq!((name.as_str(), &payload), (&*expected.participant, &expected.payload));
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use handfast_commit_core::two_phase::coordinator::Outcome;
    use handfast_coordinator::view;
    use handfast_wire::frames::StreamTransactionsResponseWriter;
    use handfast_wire::v1::transaction_answer::Answer;

    use super::*;
    use crate::messages::Sample;
    use crate::random::Random;
    use crate::{mutate, protobuf, sample};

    const ROUNDS: usize = 4_000;

    /// Samples as they are, and with something changed: a field, some bytes, the end.
    fn many<M: Sample>(kind: &str, seed: u64, sound: impl Fn(&mut Random, &mut M)) -> Count {
        let mut random = Random::new(seed);
        let mut total = Count::default();
        for _ in 0..ROUNDS {
            let mut message = M::sample(&mut random);
            compare(kind, &message.encode_to_vec());
            sound(&mut random, &mut message);
            let bytes = message.encode_to_vec();
            let Count { read, straight } = compare(kind, &bytes);
            total.read += read;
            total.straight += straight;
            let mut changed = bytes.clone();
            protobuf::mutate(&mut random, &mut changed);
            compare(kind, &changed);
            compare(kind, &mutate::mutated(&mut random, &bytes, &changed));
            compare(kind, &bytes[..random.below(bytes.len() + 1)]);
            if !bytes.is_empty() {
                let at = random.below(bytes.len());
                changed.clone_from(&bytes);
                changed[at] = random.byte();
                compare(kind, &changed);
            }
        }
        total
    }

    #[test]
    fn what_a_coordinator_says_is_read_in_two_ways() {
        // All of one participant, as in a session, and without what only a call of its own has.
        let total = many("SessionRequest", 1, |random, frame: &mut v1::SessionRequest| {
            for message in &mut frame.messages {
                match &mut message.message {
                    Some(Told::Prepare(request)) => {
                        request.transaction_id = sample::id(random).to_string();
                        request.participant = "a".to_owned();
                        request.origin = None;
                    }
                    Some(Told::Commit(request)) => {
                        request.transaction_id = sample::id(random).to_string();
                        request.participant = "a".to_owned();
                        request.origin = None;
                    }
                    _ => {}
                }
            }
        });
        assert!(total.straight > ROUNDS / 20, "{total:?}");
    }

    #[test]
    fn what_a_participant_says_is_read_in_two_ways() {
        let total = many("SessionResponse", 2, |random, frame: &mut v1::SessionResponse| {
            for message in &mut frame.messages {
                message.transaction_id = sample::id(random).to_string();
            }
        });
        assert!(total.read > ROUNDS / 20, "{total:?}");
    }

    #[test]
    fn calls_are_read_in_two_ways() {
        let total =
            many("StreamTransactionsRequest", 3, |_, _: &mut v1::StreamTransactionsRequest| {});
        assert!(total.straight > ROUNDS / 20, "{total:?}");
    }

    #[test]
    fn commits_are_answered_in_two_ways() {
        let mut random = Random::new(4);
        let mut writer = StreamTransactionsResponseWriter::default();
        let mut generated = v1::StreamTransactionsResponse::default();
        let name = |random: &mut Random| {
            let name = "n".repeat(1 + random.below(64));
            name.parse::<ParticipantName>().expect("a name")
        };
        for _ in 0..ROUNDS {
            let mut outcome = Outcome::committed(sample::id(&mut random), random.one_in(3));
            if random.one_in(3) {
                outcome.pending = (0..random.below(3)).map(|_| name(&mut random)).collect();
            }
            for _ in 0..random.below(4) {
                let bytes = *random.pick(&[0, 1, 100, 127, 128, 300, 20_000]);
                outcome.results.push((name(&mut random), vec![7; bytes].into()));
            }
            let (call_id, left_out) = (random.number(), random.one_in(5));
            assert!(view::is_plain(&outcome));
            assert!(writer.committed(call_id, &outcome, left_out));
            let mut outcome = view::outcome(outcome);
            outcome.results_left_out = left_out;
            let answer = v1::ExecuteTransactionResponse { outcome: Some(outcome) };
            let answer = v1::TransactionAnswer { call_id, answer: Some(Answer::Execute(answer)) };
            generated.answers.push(answer);
            if random.one_in(2) {
                let begin = generated.encoded_len();
                let other = v1::TransactionAnswer::sample(&mut random);
                writer.message(&other);
                let taken = writer.take_back(begin);
                assert_eq!((writer.bytes(), writer.answers()), (begin, generated.answers.len()));
                writer.put_again(&taken);
                generated.answers.push(other);
            }
            if generated.answers.len() > 20 {
                let written = std::mem::take(&mut writer).finish();
                assert_eq!(written.as_bytes(), &generated.encode_to_vec());
                generated.answers.clear();
            }
        }
    }
}
