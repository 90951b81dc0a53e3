//! A resource whose answers are chosen, and that remembers what was really done.
//!
//! `External` is a database of its own: it keeps prepared branches and effects through a crash of
//! the participant. Otherwise everything is in the participant's log, as changes beside the records.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use handfast_commit_core::id::TransactionId;
use handfast_commit_core::record::{Change, ParticipantEntry};
use handfast_commit_core::two_phase::participant::{ResourceCall, ResourceResult};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Yes,
    ReadOnly,
    No(String),
}

#[derive(Debug)]
pub struct Resource {
    pub external: bool,
    /// Answers are given by the script, not at once.
    pub waits: bool,
    pub verdict: Verdict,
    /// What this resource answers about particular transactions.
    pub verdicts: BTreeMap<TransactionId, Verdict>,
    pub pending: VecDeque<(TransactionId, ResourceCall)>,
    /// Of an external resource: branches that are prepared, and how often each was committed.
    pub prepared: BTreeMap<TransactionId, Bytes>,
    pub committed: BTreeMap<TransactionId, (u32, Bytes)>,
    /// The work of prepares that are running or done, for the effects in the log.
    work: BTreeMap<TransactionId, Bytes>,
}

impl Resource {
    pub fn new() -> Self {
        Self {
            external: false,
            waits: false,
            verdict: Verdict::Yes,
            verdicts: BTreeMap::new(),
            pending: VecDeque::new(),
            prepared: BTreeMap::new(),
            committed: BTreeMap::new(),
            work: BTreeMap::new(),
        }
    }

    /// Does what it was asked to, and answers.
    pub fn carry_out(&mut self, id: TransactionId, call: &ResourceCall) -> Option<ResourceResult> {
        let key = |kind: &str| format!("{kind}/{id}").into_bytes();
        match call {
            ResourceCall::Prepare { work, .. } => {
                let verdict = self.verdicts.get(&id).unwrap_or(&self.verdict).clone();
                let work = work.clone().unwrap_or_else(|| Bytes::from(format!("session of {id}")));
                Some(match verdict {
                    Verdict::ReadOnly => ResourceResult::ReadOnly { result: Bytes::new() },
                    Verdict::No(reason) => ResourceResult::No { reason },
                    Verdict::Yes if self.external => {
                        self.prepared.insert(id, work);
                        ResourceResult::Prepared { result: Bytes::new(), changes: Vec::new() }
                    }
                    Verdict::Yes => {
                        self.work.insert(id, work.clone());
                        let changes = vec![(key("prepared"), Some(work.to_vec()))];
                        ResourceResult::Prepared { result: Bytes::new(), changes }
                    }
                })
            }
            ResourceCall::Commit if self.external => match self.prepared.remove(&id) {
                Some(work) => {
                    self.committed.entry(id).or_insert((0, work)).0 += 1;
                    Some(ResourceResult::Done { changes: Vec::new() })
                }
                None if self.committed.contains_key(&id) => {
                    Some(ResourceResult::Done { changes: Vec::new() })
                }
                None => Some(ResourceResult::Unknown),
            },
            ResourceCall::Commit => {
                let work = self.work.get(&id).map(|work| work.to_vec()).unwrap_or_default();
                let changes = vec![(key("prepared"), None), (key("effect"), Some(work))];
                Some(ResourceResult::Done { changes })
            }
            ResourceCall::Abort if self.external => {
                self.prepared.remove(&id);
                Some(ResourceResult::Done { changes: Vec::new() })
            }
            ResourceCall::Abort => {
                let prepared = self.work.remove(&id).is_some();
                let changes: Vec<Change> =
                    if prepared { vec![(key("prepared"), None)] } else { Vec::new() };
                Some(ResourceResult::Done { changes })
            }
            ResourceCall::Cancel | ResourceCall::PreCommit | ResourceCall::Finished(_) => None,
        }
    }

    /// The participant's process has died; what was kept in its log comes from there.
    pub fn restarted(&mut self, entries: &[ParticipantEntry]) {
        self.pending.clear();
        self.work.clear();
        for (key, value) in entries.iter().flat_map(|entry| &entry.changes) {
            let key = String::from_utf8_lossy(key);
            if let Some(id) = key.strip_prefix("prepared/").and_then(|id| id.parse().ok()) {
                match value {
                    Some(work) => self.work.insert(id, Bytes::from(work.clone())),
                    None => self.work.remove(&id),
                };
            }
        }
    }
}

/// What took effect, how often, and with which work.
pub fn effects(
    resource: &Resource,
    entries: &[ParticipantEntry],
) -> BTreeMap<TransactionId, (u32, Bytes)> {
    let mut effects = resource.committed.clone();
    for (key, value) in entries.iter().flat_map(|entry| &entry.changes) {
        let key = String::from_utf8_lossy(key);
        if let Some(id) = key.strip_prefix("effect/").and_then(|id| id.parse().ok())
            && let Some(work) = value
        {
            effects.entry(id).or_insert((0, Bytes::from(work.clone()))).0 += 1;
        }
    }
    effects
}
