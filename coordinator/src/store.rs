//! What the coordinator keeps in its journal, and how it finds it again.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `Meta` | `epoch`, `expired-through`, `expired-through-3` | the epoch of the running process; the end of the outcome window, of each protocol |
//! | `Live` | transaction id | a decision that somebody has not acknowledged; ballots of a voting site or a witness |
//! | `Outcomes` | transaction id | how it ended, for the outcome window |
//! | `Requests` | request id | the last transaction that has committed under this name of a client's |
//! | `Requests` | request id, 0 | the last one under this name that was aborted |
//! | `Registry` | participant name | where it is served |
//!
//! A start reads `Live` and `Registry` only. Outcomes are looked up one at a time, so that the window
//! costs disk and no memory.

use std::ops::ControlFlow;
use std::sync::Arc;

use handfast_commit_core::id::{Epoch, Protocol, RequestId, Sequence, TransactionId};
use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_commit_core::record::{
    Commit, CoordinatorRecord, Decision, Ended, Request, VotingCoordinator,
};
use handfast_commit_core::two_phase::coordinator::Stored;
use handfast_journal::{JournalError, Mutation, Reader, Table};
use handfast_wire::record::{self, DamagedRecord};
use handfast_wire::site_record;

/// The journal cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What it says makes no sense.
    #[error(transparent)]
    Damaged(#[from] DamagedRecord),
    /// The process has forgotten what its own disk remembers: nothing that it says can be relied on.
    #[error("transaction {id} is undecided in the log, and not known to the process that wrote it")]
    Forgotten {
        /// Which one.
        id: TransactionId,
    },
}

/// What the journal says of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Decided, not acknowledged by everybody.
    Live(Commit),
    /// Three-phase commit: decided, not acknowledged by everybody.
    Decided(Decision),
    /// Three-phase commit: everybody has voted prepared. Its decision is on its way to the disk, unless the
    /// transaction is running.
    Voting(VotingCoordinator),
    /// Over.
    Ended(Ended),
}

impl Found {
    /// As the core wants it; `None` when it is not over.
    #[must_use]
    pub fn stored(&self) -> Option<Stored> {
        let committed = |id: TransactionId, request: &Option<Request>| Stored::Committed {
            id,
            request: request.clone(),
        };
        Some(match self {
            Self::Live(commit) => committed(commit.id, &commit.request),
            Self::Decided(decision) if decision.outcome.is_ok() => {
                committed(decision.id, &decision.request)
            }
            Self::Ended(ended) if ended.outcome.is_ok() => committed(ended.id, &ended.request),
            Self::Decided(_) | Self::Ended(_) => Stored::Aborted,
            Self::Voting(_) => return None,
        })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> TransactionId {
        match self {
            Self::Live(commit) => commit.id,
            Self::Decided(decision) => decision.id,
            Self::Voting(voting) => voting.id,
            Self::Ended(ended) => ended.id,
        }
    }
}

/// The end of the outcome window: ids sort by protocol before they sort by age.
fn expired_through(protocol: Protocol) -> &'static [u8] {
    match protocol {
        _ if mutant(Mutant::WindowOfAllProtocols) => b"expired-through",
        Protocol::ThreePhase => b"expired-through-3",
        Protocol::TwoPhase | Protocol::PaxosCommit => b"expired-through",
    }
}

/// The order in which transactions of all protocols were begun.
#[must_use]
pub fn age(id: TransactionId) -> (Epoch, Sequence) {
    (id.epoch(), id.sequence())
}

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
            match record::decode_live(key, &value)? {
                CoordinatorRecord::Commit(commit) => return Ok(Some(Found::Live(commit))),
                CoordinatorRecord::Decision(decision) => return Ok(Some(Found::Decided(decision))),
                CoordinatorRecord::Voting(voting) => return Ok(Some(Found::Voting(voting))),
                // Of another slot; and the others are no live records.
                CoordinatorRecord::Witness(_)
                | CoordinatorRecord::WitnessForgotten { .. }
                | CoordinatorRecord::Ended(_) => return Ok(None),
            }
        }
        // Between the two reads the end may have been written: it takes the decision's place in one
        // batch, so it is here now.
        match self.reader.get(Table::Outcomes, key)? {
            Some(value) => Ok(Some(Found::Ended(record::decode_ended(key, &value)?))),
            None => Ok(None),
        }
    }

    /// The attempt of a client's request that has committed.
    ///
    /// Every new transaction asks this, and nearly always there is nothing: so this is a look-up of a whole
    /// key, which a filter answers.
    ///
    /// # Errors
    /// When the journal cannot answer.
    pub fn find_committed(&self, request: &RequestId) -> Result<Option<Found>, StoreError> {
        self.find_under(committed_key(request))
    }

    /// What became of a client's request: the attempt that committed, or else the latest one.
    ///
    /// # Errors
    /// When the journal cannot answer.
    pub fn find_request(&self, request: &RequestId) -> Result<Option<Found>, StoreError> {
        let found = self.find_committed(request)?;
        let stored = found.as_ref().and_then(Found::stored);
        if matches!(stored, Some(Stored::Committed { .. })) {
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

    /// Visits everything that is not over: decisions that somebody has not acknowledged, and what voting sites
    /// and witnesses keep.
    ///
    /// # Errors
    /// When the journal cannot be read or an entry is damaged.
    pub fn live(&self, mut visit: impl FnMut(CoordinatorRecord)) -> Result<(), StoreError> {
        let mut damaged = None;
        self.reader.scan(
            Table::Live,
            &[],
            &mut |key, value| match record::decode_live(key, value) {
                Ok(record) => {
                    visit(record);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    damaged = Some(error);
                    ControlFlow::Break(())
                }
            },
        )?;
        damaged.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Outcomes with an id above `after`, in the order of their ids, until `visit` breaks.
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
        let through = self.reader.get(Table::Meta, expired_through(id.protocol()))?;
        Ok(through.is_some_and(|through| id.as_bytes().as_slice() <= through.as_slice()))
    }

    /// What takes outcomes that ended before `before_ms` out of the window, at most `most` of them.
    /// Stops at the first of each protocol that is younger: ids are in the order of their beginnings.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn expire(&self, before_ms: u64, most: usize) -> Result<Vec<Mutation>, StoreError> {
        let mut mutations = Vec::new();
        let mut next = self.expire_after(None, before_ms, most, &mut mutations)?;
        // Those of another protocol come behind all of these.
        while let Some(after) = next
            && mutations.len() < most
        {
            next = self.expire_after(Some(after), before_ms, most, &mut mutations)?;
        }
        Ok(mutations)
    }

    /// The same for the first protocol that has outcomes after this id. Returns where those of the next one may
    /// begin.
    fn expire_after(
        &self,
        after: Option<TransactionId>,
        before_ms: u64,
        most: usize,
        mutations: &mut Vec<Mutation>,
    ) -> Result<Option<TransactionId>, StoreError> {
        let mut protocol = None;
        let mut next = None;
        let mut expired: Vec<Ended> = Vec::new();
        self.outcomes(after, |ended| {
            let own = *protocol.get_or_insert(ended.id.protocol());
            if ended.id.protocol() != own {
                next = expired.last().map(|ended| ended.id);
                return ControlFlow::Break(());
            }
            if ended.ended_ms >= before_ms || expired.len() == most {
                let (slot, end) = (ended.id.slot(), (Epoch::MAX, Sequence(u64::MAX)));
                next = (expired.len() < most).then(|| TransactionId::new(slot, own, end.0, end.1));
                return ControlFlow::Break(());
            }
            expired.push(ended);
            ControlFlow::Continue(())
        })?;
        let last = expired.last().map(|ended| ended.id);
        mutations.reserve(2 * expired.len() + 1);
        for Ended { id, outcome, request, .. } in expired {
            mutations.push(Mutation::delete(Table::Outcomes, *id.as_bytes()));
            let Some(Request { id: request, .. }) = request else { continue };
            let key = match outcome {
                Ok(()) => committed_key(&request).to_vec(),
                Err(_) => aborted_key(&request),
            };
            // It may be a later one's by now.
            if self.reader.get(Table::Requests, &key)?.as_deref() == Some(id.as_bytes()) {
                mutations.push(Mutation::delete(Table::Requests, key));
            }
        }
        if let Some(last) = last {
            let key = expired_through(last.protocol());
            let before = self.reader.get(Table::Meta, key)?.unwrap_or_default();
            if last.as_bytes().as_slice() > before.as_slice() {
                mutations.push(Mutation::put(Table::Meta, key, *last.as_bytes()));
            }
        }
        Ok(next)
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
        CoordinatorRecord::Voting(voting) => {
            let value = site_record::encode_voting(voting);
            // Its request is found in the core for as long as it runs. Here it would hide what has committed.
            mutations.push(Mutation::put(Table::Live, *voting.id.as_bytes(), value));
        }
        CoordinatorRecord::Decision(decision) => {
            let key = *decision.id.as_bytes();
            mutations.push(Mutation::put(Table::Live, key, site_record::encode_decision(decision)));
            match &decision.request {
                Some(request) if decision.outcome.is_err() => {
                    mutations.push(Mutation::put(Table::Requests, aborted_key(&request.id), key));
                }
                Some(request) => {
                    mutations.push(Mutation::put(Table::Requests, committed_key(&request.id), key));
                }
                None => {}
            }
        }
        CoordinatorRecord::Witness(witness) => {
            let value = site_record::encode_witness(witness);
            mutations.push(Mutation::put(Table::Live, *witness.id.as_bytes(), value));
        }
        CoordinatorRecord::WitnessForgotten { id } => {
            mutations.push(Mutation::delete(Table::Live, *id.as_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use handfast_commit_core::record::{AbortCause, AbortReason};
    use handfast_commit_core::record::{WitnessRecord, WitnessState};
    use handfast_commit_core::three_phase::{Site, Sites};
    use handfast_journal::{Journal, Kind, MemoryDisk, MemoryJournal};

    use super::*;

    fn id(sequence: u64) -> TransactionId {
        use handfast_commit_core::id::Slot;
        TransactionId::new(Slot(0), Protocol::TwoPhase, Epoch(1), Sequence(sequence))
    }

    fn three(sequence: u64) -> TransactionId {
        use handfast_commit_core::id::Slot;
        TransactionId::new(Slot(0), Protocol::ThreePhase, Epoch(1), Sequence(sequence))
    }

    fn all_sites() -> Sites {
        let name = "a".parse().expect("a name");
        Sites::new(vec![(name, handfast_commit_core::id::Incarnation(1))], Vec::new())
    }

    fn voting(sequence: u64) -> CoordinatorRecord {
        CoordinatorRecord::Voting(VotingCoordinator {
            id: three(sequence),
            site: Site::ALL_VOTED,
            sites: all_sites(),
            request: Some(request(5)),
            info: Arc::default(),
            started_ms: 1,
        })
    }

    fn decision(sequence: u64, outcome: Result<(), AbortReason>) -> CoordinatorRecord {
        CoordinatorRecord::Decision(Decision {
            id: three(sequence),
            outcome,
            sites: all_sites(),
            request: Some(request(5)),
            info: Arc::default(),
            started_ms: 1,
            decided_ms: 2,
        })
    }

    fn late() -> AbortReason {
        let message = "late".to_owned();
        AbortReason { cause: AbortCause::Timeout, participant: None, message }
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
        CoordinatorRecord::Ended(Ended {
            id: id(sequence),
            outcome: if committed { Ok(()) } else { Err(late()) },
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
            found.map(|found| (found.id(), found.stored() == Some(Stored::Aborted)))
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

    fn live(bench: &Bench) -> Vec<CoordinatorRecord> {
        let mut live = Vec::new();
        bench.store.live(|record| live.push(record)).expect("readable");
        live
    }

    #[test]
    fn the_ballots_of_a_vote_are_replaced_until_it_is_over() {
        let mut bench = bench();
        let committed = |bench: &Bench| {
            let found = bench.store.find_request(&request(5).id).expect("readable");
            found.filter(|found| found.stored() != Some(Stored::Aborted)).map(|found| found.id())
        };
        bench.append(&commit(7));
        bench.append(&voting(1));
        assert_eq!(live(&bench), [commit(7), voting(1)]);
        assert_eq!(committed(&bench), Some(id(7)), "a vote hides nothing that has committed");
        bench.append(&ended(7, true, 9));
        let found = bench.store.find(three(1)).expect("readable").expect("a record");
        assert_eq!((found.id(), found.stored()), (three(1), None));
        bench.append(&decision(1, Ok(())));
        assert_eq!(live(&bench), [decision(1, Ok(()))]);
        let found = bench.store.find_request(&request(5).id).expect("readable");
        assert!(matches!(
            found.expect("its attempt").stored(),
            Some(Stored::Committed { id, .. }) if id == three(1)
        ));
        bench.append(&decision(2, Err(late())));
        let found = bench.store.find(three(2)).expect("readable");
        assert_eq!(found.and_then(|found| found.stored()), Some(Stored::Aborted));
        let CoordinatorRecord::Ended(end) = ended(1, true, 9) else { panic!("an end") };
        bench.append(&CoordinatorRecord::Ended(Ended { id: three(1), ..end }));
        assert_eq!(live(&bench), [decision(2, Err(late()))]);
    }

    #[test]
    fn what_a_witness_keeps_is_no_transaction_of_its_own() {
        let mut bench = bench();
        let state = WitnessState::Undecided(Site::UNASKED);
        let record = CoordinatorRecord::Witness(WitnessRecord { id: three(1), state });
        bench.append(&record);
        assert_eq!(live(&bench), [record]);
        assert_eq!(bench.store.find(three(1)).expect("readable"), None);
        bench.append(&CoordinatorRecord::WitnessForgotten { id: three(1) });
        assert!(live(&bench).is_empty());
    }

    /// Ids sort by protocol first: what is young in one protocol holds up no other one, and what has left the
    /// window in one says nothing of another.
    #[test]
    fn every_protocol_has_an_outcome_window() {
        let mut bench = bench();
        let CoordinatorRecord::Ended(end) = ended(9, false, 9) else { panic!("an end") };
        let at = |sequence, ended_ms| {
            CoordinatorRecord::Ended(Ended { id: three(sequence), ended_ms, ..end.clone() })
        };
        for record in [ended(1, true, 100), ended(2, false, 200), at(3, 100), at(4, 200)] {
            bench.append(&record);
        }
        let mutations = bench.store.expire(150, 10).expect("readable");
        bench.journal.append(&mutations).expect("a good disk");
        let all = [id(1), id(2), three(3), three(4)];
        assert_eq!(all.map(gone_from(&bench.store)), [true, false, true, false]);
        let expired = all.map(|id| bench.store.may_have_expired(id).expect("readable"));
        assert_eq!(expired, [true, false, true, false]);
        assert!(bench.store.expire(150, 10).expect("readable").is_empty());
        for most in [1, 2] {
            let mutations = bench.store.expire(u64::MAX, most).expect("readable");
            assert!(mutations.iter().any(|one| one.table == Table::Outcomes), "{most} at a time");
            bench.journal.append(&mutations).expect("a good disk");
        }
        assert_eq!([id(2), three(4)].map(gone_from(&bench.store)), [true, true]);
    }

    fn gone_from(store: &Store) -> impl Fn(TransactionId) -> bool + '_ {
        |id| store.find(id).expect("readable").is_none()
    }
}
