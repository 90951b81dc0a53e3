//! The participant's state machine as the driver turns it, with the little that is not a step.
//!
//! Beside the core it keeps two things that are about processes and not about transactions: the
//! highest epoch heard of each slot, so that a session or an answer of an older one is refused; and the
//! one-phase commits that are on their way, so that none of an older epoch is missing in the report that
//! a new coordinator gets (see [`ParticipantShard::unreported`]).

use std::collections::{BTreeMap, BTreeSet};

use handfast_commit_core::id::{Epoch, Incarnation, RequestId, Slot, TransactionId};
use handfast_commit_core::message::{FromParticipant, FromSite, Inquired};
use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_commit_core::record::{ParticipantEntry, ParticipantRecord};
use handfast_commit_core::step::{Now, Position, Step, TimerKey};
use handfast_commit_core::two_phase::Participant;
use handfast_commit_core::two_phase::participant::{
    Action, Config, Event, Input, OpenBranch, Origin, SessionRefusal,
};
use handfast_journal::{Mutation, Table};
use handfast_runtime::crash_point::reached;
use handfast_runtime::driver::Machine;
use handfast_runtime::site_service::ReportTo;
use handfast_wire::record::{ParticipantWrite, encode_participant, encode_prepared};
use tokio::sync::oneshot;

use crate::voting;

/// Where what is known of a slot is, in the table of facts about ourselves.
pub(crate) const SLOT_PREFIX: &[u8] = b"slot";

/// The key of the change that is what the resource has staged of the branch. No other change has it.
///
/// To the core it is a change like others. Here it becomes part of the vote's entry, so that whatever takes the
/// place of that entry ends both; but for three-phase commit, where each move writes the entry again, it has an
/// entry of its own. With a commit in one phase it is not written at all: what it says is done.
pub(crate) const STAGED: &[u8] = b"";

/// Whoever waits for an answer of the core.
#[derive(Debug)]
pub enum Waiter {
    /// A unary call of a coordinator.
    Call(oneshot::Sender<FromParticipant>),
    /// A peer in doubt.
    Peer(oneshot::Sender<Inquired>),
    /// Work that is about to be done in a session.
    Touch(oneshot::Sender<Result<(), SessionRefusal>>),
    /// Another voting site, which leads.
    Site(ReportTo),
    /// Whoever leads, by a call of his own.
    Leader(oneshot::Sender<FromSite>),
}

/// What the shard is told.
#[derive(Debug)]
pub enum ShardInput {
    /// Anything that the core hears as it is.
    Core(Input<Waiter>),
    /// A coordinator's answer to an inquiry, in a session of this epoch.
    Answer {
        /// The session's.
        epoch: Epoch,
        /// About which transaction.
        id: TransactionId,
        /// What became of it.
        outcome: Inquired,
    },
}

/// What the shard wants done.
pub type ShardAction = Action<Waiter>;

/// A one-phase commit that this participant answers for.
pub type OnePhaseCommitted = (TransactionId, Option<RequestId>);

/// The one shard of a participant.
#[derive(Debug)]
pub struct ParticipantShard {
    core: Participant<Waiter>,
    epochs: BTreeMap<Slot, Epoch>,
    /// Permitted to commit in one phase, and not ended.
    one_phase: BTreeSet<TransactionId>,
    one_phase_served: bool,
}

impl ParticipantShard {
    /// Without branches. `incarnation` is its log's.
    #[must_use]
    pub fn new(incarnation: Incarnation, config: Config) -> Self {
        Self {
            core: Participant::new(incarnation, config),
            epochs: BTreeMap::new(),
            one_phase: BTreeSet::new(),
            one_phase_served: config.one_phase,
        }
    }

    /// Takes over a record that was found in the log, before the first step.
    pub fn restore(&mut self, record: ParticipantRecord) {
        if let ParticipantRecord::SlotSeen { slot, epoch, .. } = &record {
            self.raise(*slot, *epoch);
        }
        self.core.restore(record);
    }

    /// Gives everything that is in doubt its first timer.
    pub fn resume(&mut self, now: Now) -> Step<ParticipantEntry, ShardAction> {
        self.core.resume(now)
    }

    /// The branches that this participant cannot end by itself, oldest first.
    pub fn open_branches(&self) -> impl Iterator<Item = OpenBranch> + '_ {
        self.core.open_branches()
    }

    /// Three-phase commit: how many decisions are kept, because not every site is known to have them.
    pub fn unforgotten(&self) -> usize {
        self.core.unforgotten()
    }

    /// The highest epoch heard of a slot.
    pub fn epoch(&self, slot: Slot) -> Option<Epoch> {
        self.epochs.get(&slot).copied()
    }

    /// All one-phase commits, those included that are still on their way to the disk: whoever reports
    /// them waits for the log first.
    pub fn one_phase_commits(&self) -> Vec<OnePhaseCommitted> {
        let all = self.core.one_phase_commits(Position(u64::MAX));
        all.map(|(id, request)| (id, request.cloned())).collect()
    }

    /// Transactions of epochs below that of `origin` that may still be committed here in one phase.
    ///
    /// ```text
    /// coordinator, epoch 1: PREPARE (one phase) ──► the resource waits for a lock
    /// coordinator, epoch 2: session ──► report: nothing committed ──► tells its client "aborted"
    ///                                   the lock is free ──► committed
    /// ```
    ///
    /// So a report waits until there is none of them.
    pub fn unreported(&self, origin: &Origin) -> Vec<TransactionId> {
        if mutant(Mutant::ReportIncomplete) {
            return Vec::new();
        }
        let older = |id: &&TransactionId| id.slot() == origin.slot && id.epoch() < origin.epoch;
        self.one_phase.iter().filter(older).copied().collect()
    }

    fn raise(&mut self, slot: Slot, epoch: Epoch) {
        let seen = self.epochs.entry(slot).or_insert(epoch);
        *seen = (*seen).max(epoch);
    }

    fn observe(&mut self, input: &Input<Waiter>) {
        match input {
            Input::Prepare { origin, .. }
            | Input::Commit { origin, .. }
            | Input::Abort { origin, .. }
            | Input::Forget { origin, .. }
            | Input::Heard { origin, .. }
            | Input::Joined { origin, .. } => self.raise(origin.slot, origin.epoch),
            Input::Touched { .. }
            | Input::GivenUp { .. }
            | Input::Answer { .. }
            | Input::PeerAnswer { .. }
            | Input::PeerAsks { .. }
            | Input::Led { .. }
            | Input::Reported { .. }
            | Input::Resource { .. }
            | Input::ResourceHolds { .. }
            | Input::Stopping
            | Input::Timer(_) => {}
        }
    }
}

impl Machine for ParticipantShard {
    type Input = ShardInput;
    type Record = ParticipantEntry;
    type Action = ShardAction;

    fn step(&mut self, now: Now, input: ShardInput) -> Step<ParticipantEntry, ShardAction> {
        let input = match input {
            ShardInput::Core(input) => input,
            // Whoever owned the slot before may be wrong about what became of it since.
            ShardInput::Answer { epoch, id, .. }
                if self.epoch(id.slot()) > Some(epoch) && !mutant(Mutant::StaleAnswerHeard) =>
            {
                return nothing();
            }
            ShardInput::Answer { id, outcome, .. } => Input::Answer { id, outcome },
        };
        self.observe(&input);
        let permitted = match &input {
            Input::Prepare { prepare, .. } if prepare.one_phase && self.one_phase_served => {
                Some(prepare.id)
            }
            _ => None,
        };
        let step = self.core.step(now, input);
        let mut answered = false;
        for action in &step.then {
            match action {
                Action::Respond { message: FromParticipant::Voted { id, .. }, .. }
                | Action::Note(Event::Ended { id, .. }) => {
                    self.one_phase.remove(id);
                    answered = true;
                }
                Action::Respond { .. } => answered = true,
                _ => {}
            }
        }
        if let Some(id) = permitted
            && !answered
        {
            self.one_phase.insert(id);
        }
        step
    }

    fn reuse(&mut self, used: Step<ParticipantEntry, ShardAction>) {
        self.core.reuse(used);
    }

    fn timer(&self, key: TimerKey) -> ShardInput {
        match key {
            TimerKey::Transaction(id) => ShardInput::Core(Input::Timer(id)),
            TimerKey::Participant(name) => {
                unreachable!("a participant sets no timer for participant {name}")
            }
        }
    }

    fn write(&self, entry: ParticipantEntry, mutations: &mut Vec<Mutation>) {
        match &entry.record {
            ParticipantRecord::Prepared(_) => reached("participant.before-prepared-record"),
            ParticipantRecord::Finished { committed: true, .. } => {
                reached("participant.before-commit-record")
            }
            ParticipantRecord::Finished { committed: false, .. } => {
                reached("participant.before-abort-record")
            }
            ParticipantRecord::OnePhase(_) => reached("participant.one-phase.before-record"),
            record @ (ParticipantRecord::Voted(_) | ParticipantRecord::Decided(_)) => {
                if let Some(point) = voting::record_point(record) {
                    reached(point);
                }
            }
            ParticipantRecord::Forgotten { .. } | ParticipantRecord::SlotSeen { .. } => {}
        }
        let ParticipantEntry { record, mut changes } = entry;
        let writes_lost = match record {
            ParticipantRecord::Prepared(_) => mutant(Mutant::PreparedWithoutWrites),
            ParticipantRecord::Voted(_) => mutant(Mutant::VotedWithoutWrites),
            _ => false,
        };
        if writes_lost {
            changes.clear();
        }
        let staged = match changes.first_mut() {
            Some((key, staged)) if key == STAGED => staged.take(),
            _ => None,
        };
        let write = match &record {
            ParticipantRecord::Prepared(branch) => ParticipantWrite::Put(
                branch.id,
                encode_prepared(branch, staged.as_deref().unwrap_or_default()),
            ),
            record => encode_participant(record),
        };
        mutations.push(match write {
            ParticipantWrite::Put(id, value) => Mutation::put(Table::Live, *id.as_bytes(), value),
            ParticipantWrite::Delete(id) => Mutation::delete(Table::Live, *id.as_bytes()),
            ParticipantWrite::Slot(slot, value) => {
                Mutation::put(Table::Meta, slot_key(slot), value)
            }
        });
        match &record {
            ParticipantRecord::Voted(branch) => {
                let own = staged
                    .map(|staged| Mutation::put(Table::Staged, *branch.id.as_bytes(), staged));
                mutations.extend(own);
            }
            // Before it is forgotten, and before anything else that ends it.
            ParticipantRecord::Decided(branch) if !mutant(Mutant::StageKeptAfterCommit) => {
                mutations.push(Mutation::delete(Table::Staged, *branch.id.as_bytes()));
            }
            _ => {}
        }
        for (key, value) in changes.into_iter().filter(|(key, _)| key != STAGED) {
            mutations.push(Mutation { table: Table::Data, key, value });
        }
    }
}

/// Where what is known of a slot is.
pub(crate) fn slot_key(slot: Slot) -> Vec<u8> {
    [SLOT_PREFIX, &slot.0.to_be_bytes()].concat()
}

fn nothing() -> Step<ParticipantEntry, ShardAction> {
    Step {
        records: Vec::new(),
        position: Position(0),
        forced: false,
        gate: Position(0),
        then: Vec::new(),
        later: Vec::new(),
        timers: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use handfast_commit_core::id::Sequence;
    use handfast_commit_core::message::Prepare;
    use handfast_commit_core::two_phase::participant::{ResourceResult, Via};

    use super::*;

    fn id(epoch: u64, sequence: u64) -> TransactionId {
        format!("0000-02-{epoch:010x}-{sequence:016x}").parse().expect("an id")
    }

    fn origin(epoch: u64) -> Origin {
        Origin {
            slot: Slot(0),
            epoch: Epoch(epoch),
            incarnation: Incarnation(1),
            lowest_live: Sequence(0),
            endpoint: "".into(),
        }
    }

    fn shard() -> ParticipantShard {
        ParticipantShard::new(Incarnation(7), Config { one_phase: true, ..Config::default() })
    }

    fn tell(shard: &mut ParticipantShard, input: Input<Waiter>) -> Vec<ShardAction> {
        shard.step(Now::default(), ShardInput::Core(input)).then
    }

    fn prepare(shard: &mut ParticipantShard, id: TransactionId, one_phase: bool) {
        let prepare = Prepare {
            id,
            work: Some(bytes::Bytes::new()),
            peers: Vec::new(),
            one_phase,
            request_id: None,
            voting: None,
        };
        let origin = origin(id.epoch().0);
        tell(shard, Input::Prepare { prepare, peers: Vec::new(), origin, via: Via::Link });
    }

    fn prepared(shard: &mut ParticipantShard, id: TransactionId) {
        let (result, changes) = (bytes::Bytes::new(), Vec::new());
        tell(shard, Input::Resource { id, result: ResourceResult::Prepared { result, changes } });
    }

    #[test]
    fn an_answer_of_an_older_epoch_is_not_heard() {
        let mut shard = shard();
        prepare(&mut shard, id(1, 1), false);
        prepared(&mut shard, id(1, 1));
        tell(&mut shard, Input::Heard { origin: origin(3), opened: false });
        let mut answer = |epoch| {
            let (epoch, outcome) = (Epoch(epoch), Inquired::Commit);
            let input = ShardInput::Answer { epoch, id: id(1, 1), outcome };
            shard.step(Now::default(), input).then.len()
        };
        assert_eq!(answer(2), 0, "its owner may be wrong about what became of it since");
        assert!(answer(3) > 0);
    }

    #[test]
    fn what_may_commit_in_one_phase_is_known_until_it_ends() {
        let mut shard = shard();
        for sequence in [1, 2] {
            prepare(&mut shard, id(1, sequence), true);
        }
        prepare(&mut shard, id(1, 3), false);
        assert_eq!(shard.unreported(&origin(2)), [id(1, 1), id(1, 2)]);
        assert!(shard.unreported(&origin(1)).is_empty(), "its own coordinator asks again");
        prepared(&mut shard, id(1, 1));
        assert_eq!(shard.unreported(&origin(2)).len(), 2, "the resource is committing it");
        let result = ResourceResult::Done { changes: Vec::new() };
        tell(&mut shard, Input::Resource { id: id(1, 1), result });
        let result = ResourceResult::No { reason: "no".to_owned() };
        tell(&mut shard, Input::Resource { id: id(1, 2), result });
        assert!(shard.unreported(&origin(2)).is_empty());
        assert_eq!(shard.one_phase_commits(), [(id(1, 1), None)]);
        // A repetition is answered at once and is nothing new; so is one of an epoch that is over.
        prepare(&mut shard, id(1, 1), true);
        tell(&mut shard, Input::Heard { origin: origin(2), opened: false });
        prepare(&mut shard, id(1, 4), true);
        assert!(shard.unreported(&origin(9)).is_empty());
    }
}
