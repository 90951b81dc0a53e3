//! A start on a journal whose entries are anything: what passes the checksums, and makes no sense.
//!
//! An input is a byte that says whose journal it is (even: a coordinator's), and entries: the number of a
//! table (from 128 on the entry is damaged as well), the length of the key, the key, two bytes with the
//! length of the value, and the value.

use std::path::Path;
use std::time::Duration;

use handfast_commit_core::id::{Incarnation, RequestId, Slot};
use handfast_commit_core::record::CoordinatorRecord;
use handfast_commit_core::step::{Now, Time};
use handfast_commit_core::two_phase::coordinator::{Config, Coordinator, Input, Inquiry, Waiter};
use handfast_coordinator::recovery::{Recovered, StartError, recover};
use handfast_coordinator::view;
use handfast_journal::{Journal, Kind, MemoryDisk, MemoryJournal, Mutation, Table};
use handfast_participant::Participant;
use handfast_participant::resources::key_value::{KeyValueConfig, KeyValueStore};
use handfast_wire::{storage, v1};
use prost::Message;

use crate::Example;
use crate::messages::Sample;
use crate::random::Random;
use crate::sample;

/// Most entries of one input.
const ENTRIES_MAX: usize = 64;

pub(crate) fn run(input: &[u8]) {
    let Some((whose, mut rest)) = input.split_first() else { return };
    let kind = if whose % 2 == 0 { Kind::Coordinator } else { Kind::Participant };
    let disk = MemoryDisk::new(1);
    let mut journal = MemoryJournal::open(&disk, kind).expect("an empty disk");
    let mut damaged = Vec::new();
    for _ in 0..ENTRIES_MAX {
        let [table, key_length, after @ ..] = rest else { break };
        let (key, after) = after.split_at(usize::from(*key_length).min(after.len()));
        let Some((length, after)) = after.split_first_chunk() else { break };
        let (value, after) =
            after.split_at(usize::from(u16::from_le_bytes(*length)).min(after.len()));
        rest = after;
        let number = usize::from(*table & 0x7f) % Table::ALL.len();
        let table_of_it = Table::ALL[number];
        journal.append(&[Mutation::put(table_of_it, key, value)]).expect("a good disk");
        if *table >= 0x80 {
            damaged.push((table_of_it, key));
        }
    }
    for (table, key) in damaged {
        disk.damage(table, key);
    }
    match kind {
        Kind::Coordinator => coordinator(&mut journal),
        Kind::Participant => participant(journal),
    }
}

fn coordinator(journal: &mut MemoryJournal) {
    let Recovered { identity, store, registry } = match recover(journal, Slot(0), Path::new("F")) {
        Ok(recovered) => recovered,
        Err(error) => return refused(&error),
    };
    let mut core = Coordinator::<u8>::new(identity, Config::default());
    let mut live = Vec::new();
    match store.live(|record| live.push(record)) {
        Ok(()) => {}
        Err(error) => return refused(&error),
    }
    for record in &live {
        let _ = match record {
            CoordinatorRecord::Commit(commit) => view::decided(commit),
            CoordinatorRecord::Decision(decision) => view::decided_by_sites(decision),
            CoordinatorRecord::Voting(voting) => view::voting(voting),
            _ => v1::Transaction::default(),
        };
        core.restore_record(record.clone());
    }
    // What the shards do first: tell everybody, and answer whoever is in doubt.
    let now = Now { at: Time(1), wall_ms: 1 };
    for (participant, _) in registry.list(None, usize::MAX) {
        let _ = core.step(
            now,
            Input::Connected {
                participant,
                incarnation: Incarnation(0),
                one_phase_commits: Vec::new(),
            },
        );
    }
    for record in live {
        let CoordinatorRecord::Commit(commit) = record else { continue };
        assert!(core.knows(commit.id));
        for (participant, incarnation) in &commit.voters {
            let participant = participant.clone();
            let _ = core.step(
                now,
                Input::Connected {
                    participant: participant.clone(),
                    incarnation: *incarnation,
                    one_phase_commits: Vec::new(),
                },
            );
            let inquiry = Inquiry { id: commit.id, incarnation: *incarnation, participant };
            let _ = core.step(now, Input::Inquire { inquiry, stored: None, waiter: 0 });
        }
        if let Some(request) = &commit.request {
            let waiter = Waiter {
                to: 1,
                reply_time: handfast_commit_core::two_phase::coordinator::ReplyTime::Applied,
                until: Time(2),
            };
            let request = Some(request.clone());
            let _ = core.step(now, Input::Commit { id: commit.id, request, waiter });
        }
        let found = store.find(commit.id).map(|found| found.is_some());
        assert!(found.is_ok_and(|found| found), "what a scan has found is found by its key");
    }
    let mut outcomes = Vec::new();
    let _ = store.outcomes(None, |ended| {
        outcomes.push(ended);
        std::ops::ControlFlow::Continue(())
    });
    for ended in outcomes {
        let _ = view::ended(&ended);
        let _ = store.outcomes(Some(ended.id), |_| std::ops::ControlFlow::Break(()));
        let _ = store.may_have_expired(ended.id);
        if let Some(request) = &ended.request {
            let _ = store.find_request(&request.id);
        }
    }
    let _ = store.find_request(&"r-1".parse::<RequestId>().expect("a request id"));
    for most in [0, 1, usize::MAX] {
        if let Ok(mutations) = store.expire(u64::MAX, most) {
            journal.append(&mutations).expect("a good disk");
        }
    }
}

fn participant(journal: MemoryJournal) {
    let reader = journal.reader();
    let config = KeyValueConfig { lock_wait: Duration::ZERO };
    if let Err(error) = KeyValueStore::open(reader.clone(), config) {
        assert!(!error.to_string().is_empty());
    }
    crate::targets::participant::restored(&*reader, Incarnation(reader.incarnation()));
    drop(reader);
    match Participant::builder("a").open_on(Box::new(journal), "memory") {
        Ok(opened) => drop(opened),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn refused(error: &dyn std::error::Error) {
    assert!(!error.to_string().is_empty());
}

const _: fn(&StartError) = |error| refused(error);

fn entry(table: Table, damaged: bool, key: &[u8], value: &[u8], input: &mut Vec<u8>) {
    let number = Table::ALL.iter().position(|known| *known == table).unwrap_or_default();
    input.push(number as u8 | if damaged { 0x80 } else { 0 });
    input.push(u8::try_from(key.len()).unwrap_or(u8::MAX));
    input.extend_from_slice(&key[..key.len().min(255)]);
    input.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
    input.extend_from_slice(&value[..value.len().min(65_535)]);
}

pub(crate) fn generate(random: &mut Random) -> Vec<u8> {
    let whose = random.below(2);
    let mut input = vec![whose as u8];
    for _ in 0..random.below(8) {
        let damaged = random.one_in(40);
        let id = sample::id(random);
        let (table, key, value) =
            if whose == 0 { coordinators(random, &id) } else { participants(random, &id) };
        entry(table, damaged, &key, &value, &mut input);
    }
    input
}

fn coordinators(
    random: &mut Random,
    id: &handfast_commit_core::id::TransactionId,
) -> (Table, Vec<u8>, Vec<u8>) {
    use storage::coordinator_record::Record;
    let record = |record| storage::CoordinatorRecord { record: Some(record) }.encode_to_vec();
    let key = id.as_bytes().to_vec();
    match random.below(10) {
        0 => {
            let epoch = storage::CoordinatorMeta::sample(random).encode_to_vec();
            (Table::Meta, b"epoch".to_vec(), epoch)
        }
        1 => (Table::Meta, b"slot".to_vec(), vec![0; 1 + random.below(3)]),
        2 => (Table::Meta, b"expired-through".to_vec(), sample::id(random).as_bytes().to_vec()),
        3 => {
            let registration = storage::Registration::sample(random).encode_to_vec();
            (Table::Registry, sample::name(random).into_bytes(), registration)
        }
        4 => {
            let aborted: &[u8] = if random.below(2) == 0 { &[0] } else { &[] };
            let key = [sample::request_id(random).as_bytes(), aborted].concat();
            (Table::Requests, key, id.as_bytes().to_vec())
        }
        5 | 6 => (Table::Outcomes, key, record(Record::Ended(sound_end(random)))),
        _ => (Table::Live, key, record(Record::Commit(sound_commit(random)))),
    }
}

/// A decision that is accepted: else the first bad one would end every start.
fn sound_commit(random: &mut Random) -> storage::CommitDecision {
    let mut commit = storage::CommitDecision::sample(random);
    commit.voters.truncate(3);
    let voter = |name: &str| storage::Voter { participant: name.to_owned(), incarnation: 1 };
    commit.voters.retain(|voter| voter.participant.len() == 1 && voter.participant != "A");
    commit.voters.push(voter("a"));
    commit.request_id = "r-1".to_owned();
    commit
}

fn sound_end(random: &mut Random) -> storage::Ended {
    let mut ended = storage::Ended::sample(random);
    ended.abort_cause = 1 + ended.abort_cause % 5;
    ended.abort_participant = "a".to_owned();
    ended.participants = vec!["a".to_owned()];
    ended.request_id = "r-1".to_owned();
    ended
}

fn participants(
    random: &mut Random,
    id: &handfast_commit_core::id::TransactionId,
) -> (Table, Vec<u8>, Vec<u8>) {
    match random.below(6) {
        0 => (Table::Meta, b"name".to_vec(), sample::name(random).into_bytes()),
        1 => {
            let slot = storage::SlotMeta::sample(random).encode_to_vec();
            (Table::Meta, [&b"slot"[..], &[0, random.byte() % 2]].concat(), slot)
        }
        2 => {
            // The shape of a staged branch: writes of keys to values, and keys that were read.
            let staged = vec![10, 6, 10, 1, b'k', 18, 1, b'v', 18, 1, *random.pick(b"kr")];
            (Table::Staged, id.as_bytes().to_vec(), staged)
        }
        3 => (Table::Data, b"dk".to_vec(), b"v".to_vec()),
        _ => {
            let record = storage::ParticipantRecord::sample(random).encode_to_vec();
            (Table::Live, id.as_bytes().to_vec(), record)
        }
    }
}

pub(crate) fn examples(random: &mut Random) -> Vec<Example> {
    (0..10).map(|n| Example { name: format!("journal-{n}"), input: generate(random) }).collect()
}
