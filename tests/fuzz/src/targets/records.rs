//! What lies in a journal, entry by entry: the bytes of every kind of record under every kind of key.
//!
//! An input is the number of a kind, the length of the key, the key and the value.

use handfast_commit_core::id::Slot;
use handfast_commit_core::record::{CoordinatorRecord, ParticipantRecord};
use handfast_journal::{LogSequence, Table};
use handfast_wire::record::{self, DamagedRecord, ParticipantWrite};
use handfast_wire::{site_record, storage};
use prost::Message;

use super::wire::decoded;
use crate::Example;
use crate::messages::Sample;
use crate::random::Random;
use crate::{frame, sample};

/// Reads a value under its key.
type Read = fn(&[u8], &[u8]);
/// Makes a value at random.
type Make = fn(&mut Random) -> Vec<u8>;

/// The kinds; the numbers stand in the corpus.
const KINDS: &[(&str, Read, Make)] = &[
    ("commit", commit, |random| coordinator_record(random, true)),
    ("ended", ended, |random| coordinator_record(random, false)),
    ("participant", participant, |random| {
        storage::ParticipantRecord::sample(random).encode_to_vec()
    }),
    ("slot", slot, |random| storage::SlotMeta::sample(random).encode_to_vec()),
    (
        "registration",
        |_, value| drop(decoded::<storage::Registration>(value)),
        |random| storage::Registration::sample(random).encode_to_vec(),
    ),
    (
        "meta",
        |_, value| {
            let _ = decoded::<storage::CoordinatorMeta>(value);
        },
        |random| storage::CoordinatorMeta::sample(random).encode_to_vec(),
    ),
    ("frame", framed, |random| sample::payload(random).to_vec()),
    ("live", live, |random| storage::CoordinatorRecord::sample(random).encode_to_vec()),
];

pub(crate) fn run(input: &[u8]) {
    let [kind, key_length, rest @ ..] = input else { return };
    let key_length = usize::from(*key_length).min(rest.len());
    let (key, value) = rest.split_at(key_length);
    let (_, read, _) = KINDS[usize::from(*kind) % KINDS.len()];
    read(key, value);
}

pub(crate) fn generate(random: &mut Random) -> Vec<u8> {
    let kind = random.below(KINDS.len());
    input(random, kind)
}

pub(crate) fn examples(random: &mut Random) -> Vec<Example> {
    (0..KINDS.len())
        .map(|kind| Example { name: KINDS[kind].0.to_owned(), input: input(random, kind) })
        .collect()
}

fn input(random: &mut Random, kind: usize) -> Vec<u8> {
    let (name, _, value) = KINDS[kind];
    let key = sample::id(random).as_bytes().to_vec();
    let value = value(random);
    let mut input = vec![kind as u8, key.len() as u8];
    input.extend_from_slice(&key);
    if name == "frame" {
        frame::encode(Table::Live.prefix(), &key, LogSequence(random.number()), &value, &mut input);
    } else {
        input.extend(value);
    }
    input
}

fn coordinator_record(random: &mut Random, commits: bool) -> Vec<u8> {
    use storage::coordinator_record::Record;
    let record = match commits {
        true => Record::Commit(storage::CommitDecision::sample(random)),
        false => Record::Ended(storage::Ended::sample(random)),
    };
    storage::CoordinatorRecord { record: Some(record) }.encode_to_vec()
}

/// A refusal names the entry.
fn says_what(damaged: &DamagedRecord) {
    assert!(!damaged.problem.is_empty() && damaged.to_string().contains(&damaged.key));
}

fn commit(key: &[u8], value: &[u8]) {
    match record::decode_commit(key, value) {
        Ok(commit) => {
            let bytes = record::encode_commit(&commit);
            assert_eq!(record::decode_commit(commit.id.as_bytes(), &bytes), Ok(commit.clone()));
            let mut mutations = Vec::new();
            handfast_coordinator::store::write(&CoordinatorRecord::Commit(commit), &mut mutations);
        }
        Err(damaged) => says_what(&damaged),
    }
}

fn ended(key: &[u8], value: &[u8]) {
    match record::decode_ended(key, value) {
        Ok(ended) => {
            let bytes = record::encode_ended(&ended);
            assert_eq!(record::decode_ended(ended.id.as_bytes(), &bytes), Ok(ended.clone()));
            let shown = handfast_coordinator::view::ended(&ended);
            assert_eq!(decoded(&shown.encode_to_vec()), Some(shown));
        }
        Err(damaged) => says_what(&damaged),
    }
}

fn live(key: &[u8], value: &[u8]) {
    match record::decode_live(key, value) {
        Ok(found) => {
            let bytes = match &found {
                CoordinatorRecord::Commit(commit) => record::encode_commit(commit),
                CoordinatorRecord::Voting(voting) => site_record::encode_voting(voting),
                CoordinatorRecord::Decision(decision) => site_record::encode_decision(decision),
                CoordinatorRecord::Witness(witness) => site_record::encode_witness(witness),
                other => panic!("{other:?} is not live"),
            };
            assert_eq!(record::decode_live(found.id().as_bytes(), &bytes), Ok(found));
        }
        Err(damaged) => says_what(&damaged),
    }
}

fn participant(key: &[u8], value: &[u8]) {
    match record::decode_participant(key, value) {
        Ok(found) => match record::encode_participant(&found) {
            ParticipantWrite::Put(id, bytes) => {
                assert_eq!(record::decode_participant(id.as_bytes(), &bytes), Ok(found));
            }
            other => panic!("{found:?} came from an entry and is written as {other:?}"),
        },
        Err(damaged) => says_what(&damaged),
    }
}

fn slot(key: &[u8], value: &[u8]) {
    let number = key.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes));
    match record::decode_slot(Slot(number), value) {
        Ok(found) => {
            let ParticipantWrite::Slot(slot, bytes) = record::encode_participant(&found) else {
                panic!("{found:?} is written as something else")
            };
            assert!(matches!(found, ParticipantRecord::SlotSeen { .. }));
            assert_eq!(record::decode_slot(slot, &bytes), Ok(found));
        }
        Err(damaged) => says_what(&damaged),
    }
}

/// A frame that is read is the very frame that is written for what was read.
fn framed(key: &[u8], value: &[u8]) {
    for table in Table::ALL {
        if let Ok((sequence, payload)) = frame::decode(table.prefix(), key, value) {
            let mut again = Vec::new();
            frame::encode(table.prefix(), key, sequence, payload, &mut again);
            assert_eq!(again, value);
        }
    }
}
