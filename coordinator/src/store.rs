//! What the coordinator keeps in its journal, and how it finds it again.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `Meta` | `epoch`, `expired-through` | the epoch of the running process; the end of the outcome window |
//! | `Live` | transaction id | a decision that somebody has not acknowledged |
//! | `Outcomes` | transaction id | how it ended, for the outcome window |
//! | `Requests` | request id | the transaction that has committed under this name of a client's, or will |
//! | `Requests` | request id, 0 | the last one under this name that was aborted |
//! | `Registry` | participant name | where it is served |
//!
//! A start reads `Live` and `Registry` only. Outcomes are looked up one at a time, so that the window
//! costs disk and no memory.

use std::ops::ControlFlow;
use std::sync::Arc;

use handfast_commit_core::id::{RequestId, TransactionId};
use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_commit_core::record::{Commit, CoordinatorRecord, Ended, Request};
use handfast_commit_core::two_phase::coordinator::Stored;
use handfast_journal::{JournalError, Mutation, Reader, Table};
use handfast_wire::record::{self, DamagedRecord};

/// The journal cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What it says makes no sense.
    #[error(transparent)]
    Damaged(#[from] DamagedRecord),
}

/// What the journal says of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Decided, not acknowledged by everybody.
    Live(Commit),
    /// Over.
    Ended(Ended),
}

impl Found {
    /// As the core wants it.
    #[must_use]
    pub fn stored(&self) -> Stored {
        let committed = |id: TransactionId, request: &Option<Request>| Stored::Committed {
            id,
            request: request.clone(),
        };
        match self {
            Self::Live(commit) => committed(commit.id, &commit.request),
            Self::Ended(ended) if ended.outcome.is_ok() => committed(ended.id, &ended.request),
            Self::Ended(_) => Stored::Aborted,
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> TransactionId {
        match self {
            Self::Live(commit) => commit.id,
            Self::Ended(ended) => ended.id,
        }
    }
}

const EXPIRED_THROUGH: &[u8] = b"expired-through";
pub(crate) const EPOCH: &[u8] = b"epoch";

/// Reads the coordinator's journal.
#[derive(Clone)]
pub struct Store {
    reader: Arc<dyn Reader>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Over a journal's reader.
    #[must_use]
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }

    /// A transaction that has been decided or is over.
    ///
    /// # Errors
    /// When the journal cannot answer, which is not the same as "nothing".
    pub fn find(&self, id: TransactionId) -> Result<Option<Found>, StoreError> {
        let key = id.as_bytes();
        if let Some(value) = self.reader.get(Table::Live, key)? {
            return Ok(Some(Found::Live(record::decode_commit(key, &value)?)));
        }
        // Between the two reads the end may have been written: it takes the decision's place in one
        // batch, so it is here now.
        match self.reader.get(Table::Outcomes, key)? {
            Some(value) => Ok(Some(Found::Ended(record::decode_ended(key, &value)?))),
            None => Ok(None),
        }
    }

    /// What became of a client's request: the attempt that committed, or else the latest one.
    ///
    /// Every new transaction asks this, and nearly always there is nothing: so these are look-ups of whole
    /// keys, which a filter answers.
    ///
    /// # Errors
    /// When the journal cannot answer.
    pub fn find_request(&self, request: &RequestId) -> Result<Option<Found>, StoreError> {
        let found = self.find_under(committed_key(request))?;
        if let Some(Found::Live(_)) | Some(Found::Ended(Ended { outcome: Ok(()), .. })) = &found {
            return Ok(found);
        }
        Ok(self.find_under(&aborted_key(request))?.or(found))
    }

    fn find_under(&self, key: &[u8]) -> Result<Option<Found>, StoreError> {
        match self.reader.get(Table::Requests, key)? {
            Some(id) => self.find(record::id_in(key, &id)?),
            None => Ok(None),
        }
    }

    /// Visits the decisions that somebody has not acknowledged, oldest first.
    ///
    /// # Errors
    /// When the journal cannot be read or an entry is damaged.
    pub fn live(&self, mut visit: impl FnMut(Commit)) -> Result<(), StoreError> {
        let mut damaged = None;
        self.reader.scan(Table::Live, &[], &mut |key, value| match record::decode_commit(
            key, value,
        ) {
            Ok(commit) => {
                visit(commit);
                ControlFlow::Continue(())
            }
            Err(error) => {
                damaged = Some(error);
                ControlFlow::Break(())
            }
        })?;
        damaged.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Outcomes after `after`, oldest first, until `visit` breaks.
    ///
    /// # Errors
    /// When the journal cannot be read or an entry is damaged.
    pub fn outcomes(
        &self,
        after: Option<TransactionId>,
        mut visit: impl FnMut(Ended) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let from = after.map_or(Vec::new(), |id| {
            let mut from = id.as_bytes().to_vec();
            from.push(0);
            from
        });
        let mut damaged = None;
        self.reader.scan(Table::Outcomes, &from, &mut |key, value| match record::decode_ended(
            key, value,
        ) {
            Ok(ended) => visit(ended),
            Err(error) => {
                damaged = Some(error);
                ControlFlow::Break(())
            }
        })?;
        damaged.map_or(Ok(()), |error| Err(error.into()))
    }

    /// True when an outcome with this id may have left the outcome window.
    ///
    /// # Errors
    /// When the journal cannot answer.
    pub fn may_have_expired(&self, id: TransactionId) -> Result<bool, StoreError> {
        let through = self.reader.get(Table::Meta, EXPIRED_THROUGH)?;
        Ok(through.is_some_and(|through| id.as_bytes().as_slice() <= through.as_slice()))
    }

    /// What takes outcomes that ended before `before_ms` out of the window, at most `most` of them.
    /// Stops at the first that is younger: ids are in the order of their beginnings.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn expire(&self, before_ms: u64, most: usize) -> Result<Vec<Mutation>, StoreError> {
        let mut expired = Vec::new();
        self.outcomes(None, |ended| {
            if ended.ended_ms >= before_ms || expired.len() == most {
                return ControlFlow::Break(());
            }
            expired.push(ended);
            ControlFlow::Continue(())
        })?;
        let last = expired.last().map(|ended| ended.id);
        let mut mutations = Vec::with_capacity(2 * expired.len() + 1);
        for Ended { id, outcome, request, .. } in expired {
            mutations.push(Mutation::delete(Table::Outcomes, *id.as_bytes()));
            let Some(Request { id: request, .. }) = request else { continue };
            if outcome.is_ok() {
                // Nothing else has committed under this name while it was known that this one has.
                mutations.push(Mutation::delete(Table::Requests, committed_key(&request)));
                continue;
            }
            for key in [committed_key(&request).to_vec(), aborted_key(&request)] {
                // It may be a later one's by now.
                if self.reader.get(Table::Requests, &key)?.as_deref() == Some(id.as_bytes()) {
                    mutations.push(Mutation::delete(Table::Requests, key));
                }
            }
        }
        if let Some(last) = last {
            let before = self.reader.get(Table::Meta, EXPIRED_THROUGH)?.unwrap_or_default();
            if last.as_bytes().as_slice() > before.as_slice() {
                mutations.push(Mutation::put(Table::Meta, EXPIRED_THROUGH, *last.as_bytes()));
            }
        }
        Ok(mutations)
    }
}

fn committed_key(request: &RequestId) -> &[u8] {
    request.as_str().as_bytes()
}

fn aborted_key(request: &RequestId) -> Vec<u8> {
    // No character that a request id may have.
    [request.as_str().as_bytes(), &[0]].concat()
}

/// What a record of the core changes in the journal.
pub fn write(record: &CoordinatorRecord, mutations: &mut Vec<Mutation>) {
    match record {
        CoordinatorRecord::Commit(commit) => {
            let value = record::encode_commit(commit);
            mutations.push(Mutation::put(Table::Live, *commit.id.as_bytes(), value));
            if let Some(request) = &commit.request {
                let key = committed_key(&request.id);
                mutations.push(Mutation::put(Table::Requests, key, *commit.id.as_bytes()));
            }
        }
        CoordinatorRecord::Ended(ended) => {
            let key = *ended.id.as_bytes();
            if ended.decision_logged && !mutant(Mutant::WrongTableCleared) {
                mutations.push(Mutation::delete(Table::Live, key));
            }
            mutations.push(Mutation::put(Table::Outcomes, key, record::encode_ended(ended)));
            match &ended.request {
                Some(request) if ended.outcome.is_err() => {
                    mutations.push(Mutation::put(Table::Requests, aborted_key(&request.id), key));
                }
                Some(request) if !ended.decision_logged => {
                    mutations.push(Mutation::put(Table::Requests, committed_key(&request.id), key));
                }
                // The decision has brought it along.
                _ => {}
            }
        }
        CoordinatorRecord::Voting(_)
        | CoordinatorRecord::Decision(_)
        | CoordinatorRecord::Witness(_)
        | CoordinatorRecord::WitnessForgotten { .. } => {
            unreachable!("shards draw ids of two-phase commit, and none is a witness")
        }
    }
}

#[cfg(test)]
mod tests {
    use handfast_commit_core::record::{AbortCause, AbortReason};
    use handfast_journal::{Journal, Kind, MemoryDisk, MemoryJournal};

    use super::*;

    fn id(sequence: u64) -> TransactionId {
        use handfast_commit_core::id::{Epoch, Protocol, Sequence, Slot};
        TransactionId::new(Slot(0), Protocol::TwoPhase, Epoch(1), Sequence(sequence))
    }

    fn request(fingerprint: u64) -> Request {
        Request { id: "r".parse().expect("a request id"), fingerprint }
    }

    fn commit(sequence: u64) -> CoordinatorRecord {
        CoordinatorRecord::Commit(Commit {
            id: id(sequence),
            voters: vec![("a".parse().expect("a name"), handfast_commit_core::id::Incarnation(1))],
            request: Some(request(5)),
            info: Arc::default(),
            started_ms: 1,
            decided_ms: 2,
        })
    }

    fn ended(sequence: u64, committed: bool, ended_ms: u64) -> CoordinatorRecord {
        let reason = AbortReason {
            cause: AbortCause::Timeout,
            participant: None,
            message: "late".to_owned(),
        };
        CoordinatorRecord::Ended(Ended {
            id: id(sequence),
            outcome: if committed { Ok(()) } else { Err(reason) },
            request: Some(request(5)),
            participants: Vec::new(),
            info: Arc::default(),
            started_ms: 1,
            ended_ms,
            decision_logged: true,
        })
    }

    struct Bench {
        journal: MemoryJournal,
        store: Store,
    }

    fn bench() -> Bench {
        let disk = MemoryDisk::new(1);
        let journal = MemoryJournal::open(&disk, Kind::Coordinator).expect("an empty disk");
        let store = Store::new(journal.reader());
        Bench { journal, store }
    }

    impl Bench {
        fn append(&mut self, record: &CoordinatorRecord) {
            let mut mutations = Vec::new();
            write(record, &mut mutations);
            self.journal.append(&mutations).expect("a good disk");
        }
    }

    #[test]
    fn an_end_takes_the_place_of_its_decision() {
        let mut bench = bench();
        bench.append(&commit(1));
        assert!(matches!(bench.store.find(id(1)), Ok(Some(Found::Live(_)))));
        bench.append(&ended(1, true, 9));
        assert!(matches!(bench.store.find(id(1)), Ok(Some(Found::Ended(_)))));
        let mut live = 0;
        bench.store.live(|_| live += 1).expect("readable");
        assert_eq!(live, 0);
    }

    #[test]
    fn the_attempt_that_committed_is_the_answer_to_its_request() {
        let mut bench = bench();
        let find = |bench: &Bench| {
            let found = bench.store.find_request(&request(5).id).expect("readable");
            found.map(|found| (found.id(), found.stored() == Stored::Aborted))
        };
        assert_eq!(find(&bench), None);
        bench.append(&ended(1, false, 9));
        assert_eq!(find(&bench), Some((id(1), true)));
        bench.append(&commit(2));
        assert_eq!(find(&bench), Some((id(2), false)));
        bench.append(&ended(3, false, 9));
        assert_eq!(find(&bench), Some((id(2), false)), "a later abort changes nothing");
    }

    #[test]
    fn what_expires_is_told_from_what_was_never_there() {
        let mut bench = bench();
        bench.append(&ended(1, true, 100));
        bench.append(&ended(2, false, 200));
        bench.append(&commit(3));
        let mutations = bench.store.expire(150, 10).expect("readable");
        bench.journal.append(&mutations).expect("a good disk");
        assert_eq!(bench.store.find(id(1)).expect("readable"), None);
        assert!(bench.store.may_have_expired(id(1)).expect("readable"));
        assert!(!bench.store.may_have_expired(id(2)).expect("readable"));
        assert!(matches!(bench.store.find(id(2)), Ok(Some(Found::Ended(_)))));
        // A decision that is not delivered never expires.
        assert!(bench.store.expire(u64::MAX, 10).is_ok_and(|all| !all.is_empty()));
        assert!(matches!(bench.store.find(id(3)), Ok(Some(Found::Live(_)))));
    }
}
