//! How a session of work becomes a branch: **the coordinator knows of it before it does anything.**
//!
//! Each branch has a random number that stays the same however often its enlistment is tried. A process
//! that restarts draws another one, which tells the coordinator that work has been lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use handfast_commit_core::id::{Incarnation, TransactionId};
use handfast_commit_core::two_phase::participant::{Input, SessionRefusal};
use handfast_runtime::clock::Clock;
use handfast_runtime::shard::ShardHandle;
use handfast_wire::convert;
use handfast_wire::v1;
use tokio::sync::{Notify, watch};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::engine::{after, touch};
use crate::outgoing::Outgoing;
use crate::participant_service::served;
use crate::shard::{ParticipantShard, ShardInput};

/// Most branches whose enlistment has failed and may be tried again. Beyond them the oldest is forgotten:
/// its transaction aborts if the failure was only one of the answer.
const UNFINISHED_MAX: usize = 10_000;

/// Why a branch may do no work. Nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnlistError {
    /// The coordinator knows no such transaction.
    #[error("{0}")]
    NotFound(String),
    /// The transaction takes no more branches, or this branch is over.
    #[error("{0}")]
    WrongState(String),
    /// It cannot be said now; it may be tried again.
    #[error("{0}")]
    Unavailable(String),
}

/// A participant, for the services of its resource: joins transactions, and gives branches up. Cheap to
/// clone.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

type Outcome = Result<(), EnlistError>;

#[derive(Debug)]
struct Shared {
    shard: ShardHandle<ParticipantShard>,
    clock: Clock,
    outgoing: Arc<Outgoing>,
    incarnation: Incarnation,
    /// The coordinator does not know us: register again.
    unknown: Arc<Notify>,
    stage: AtomicU8,
    unfinished: Mutex<Unfinished>,
}

#[derive(Debug, Default)]
struct Unfinished {
    /// The number of a branch, until its enlistment has succeeded or failed for good.
    numbers: BTreeMap<TransactionId, u64>,
    /// Those that are on their way, and what comes of them.
    running: BTreeMap<TransactionId, watch::Receiver<Option<Outcome>>>,
}

/// Where the participant stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    Starting,
    Serving,
    Stopping,
}

impl Handle {
    pub(crate) fn new(
        shard: ShardHandle<ParticipantShard>,
        clock: Clock,
        outgoing: Arc<Outgoing>,
        incarnation: Incarnation,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                shard,
                clock,
                outgoing,
                incarnation,
                unknown: Arc::default(),
                stage: AtomicU8::new(Stage::Starting as u8),
                unfinished: Mutex::default(),
            }),
        }
    }

    /// Makes sure that the coordinator knows of this participant's branch of the transaction. To be
    /// called before each piece of work that is done in a session; the first call asks the coordinator,
    /// the later ones only whether the branch is still open.
    ///
    /// # Errors
    /// [`EnlistError`]; then the work must not be done.
    pub async fn enlist(&self, id: TransactionId) -> Result<(), EnlistError> {
        self.check_stage()?;
        if !served(id) {
            let reason = format!("the protocol of transaction {id} is not served");
            return Err(EnlistError::WrongState(reason));
        }
        match self.touch(id).await? {
            Ok(()) => return Ok(()),
            Err(SessionRefusal::Over) => return Err(over(id)),
            Err(SessionRefusal::NotEnlisted) => {}
        }
        let mut outcome = self.running(id)?;
        // The task outlives its callers: one that goes away leaves the others, and the number.
        let done = match outcome.wait_for(Option::is_some).await {
            Ok(done) => done.clone(),
            Err(_) => None,
        };
        done.unwrap_or_else(|| {
            Err(EnlistError::Unavailable("the enlistment was lost".to_owned()))
        })?;
        match self.touch(id).await? {
            Ok(()) => Ok(()),
            Err(SessionRefusal::Over) => Err(over(id)),
            Err(SessionRefusal::NotEnlisted) => Err(EnlistError::Unavailable(format!(
                "the coordinator of transaction {id} has changed; try again"
            ))),
        }
    }

    /// The resource has given a branch up before its vote: whatever is left of it is aborted.
    pub fn give_up(&self, id: TransactionId) {
        self.shared.shard.input(ShardInput::Core(Input::GivenUp { id }));
    }

    pub(crate) fn set_stage(&self, stage: Stage) {
        self.shared.stage.store(stage as u8, Ordering::Release);
    }

    pub(crate) fn unknown(&self) -> Arc<Notify> {
        Arc::clone(&self.shared.unknown)
    }

    fn check_stage(&self) -> Result<(), EnlistError> {
        let stage = self.shared.stage.load(Ordering::Acquire);
        let reason = if stage == Stage::Starting as u8 {
            "the participant is reading its log; try again"
        } else if stage == Stage::Stopping as u8 {
            "the participant is stopping; try again when it is back"
        } else {
            return Ok(());
        };
        Err(EnlistError::Unavailable(reason.to_owned()))
    }

    async fn touch(&self, id: TransactionId) -> Result<Result<(), SessionRefusal>, EnlistError> {
        let touched = touch(&self.shared.shard, id).await;
        touched.map_err(|stopped| EnlistError::Unavailable(stopped.to_string()))
    }

    /// The enlistment of a branch, which is started unless it is on its way.
    fn running(&self, id: TransactionId) -> Result<watch::Receiver<Option<Outcome>>, EnlistError> {
        let mut unfinished = self.shared.lock();
        if let Some(running) = unfinished.running.get(&id) {
            return Ok(running.clone());
        }
        let number = match unfinished.numbers.get(&id) {
            Some(number) => *number,
            None => getrandom::u64().map_err(|error| {
                EnlistError::Unavailable(format!("the system has no random numbers: {error}"))
            })?,
        };
        if unfinished.numbers.len() >= UNFINISHED_MAX {
            unfinished.numbers.pop_first();
        }
        unfinished.numbers.insert(id, number);
        let (tell, told) = watch::channel(None);
        unfinished.running.insert(id, told.clone());
        drop(unfinished);
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let outcome = shared.ask_unless_enlisted(id, number).await;
            let mut unfinished = shared.lock();
            unfinished.running.remove(&id);
            if !matches!(outcome, Err(EnlistError::Unavailable(_))) {
                unfinished.numbers.remove(&id);
            }
            drop(unfinished);
            tell.send_replace(Some(outcome));
        });
        Ok(told)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Unfinished> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever found the branch missing may have looked before the last enlistment succeeded:
    ///
    /// ```text
    /// caller 1: not enlisted ──► EnlistBranch(number 7) ──► joined
    /// caller 2: not enlisted ─────────────────────────────────────► EnlistBranch(number 8)
    /// ```
    ///
    /// The second number would tell the coordinator that work was lost. Enlistments of one branch follow
    /// each other, and each hands `Joined` to the shard before it is over, so looking again is enough.
    async fn ask_unless_enlisted(&self, id: TransactionId, number: u64) -> Outcome {
        match touch(&self.shard, id).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(SessionRefusal::Over)) => Err(over(id)),
            Ok(Err(SessionRefusal::NotEnlisted)) => self.ask(id, number).await,
            Err(stopped) => Err(EnlistError::Unavailable(stopped.to_string())),
        }
    }

    async fn ask(&self, id: TransactionId, number: u64) -> Outcome {
        let response = self
            .outgoing
            .enlist(id, self.incarnation, number)
            .await
            .map_err(|status| self.refusal(&status))?;
        let v1::EnlistBranchResponse { origin, time_left } = response;
        let origin = convert::origin(origin.as_ref())
            .map_err(|error| EnlistError::Unavailable(format!("a malformed answer: {error}")))?;
        let left = time_left
            .and_then(|left| convert::duration("time_left", &left).ok())
            .unwrap_or_default();
        let until = after(&self.clock, left);
        self.outgoing.heard(origin.slot, &origin.endpoint);
        self.shard.input(ShardInput::Core(Input::Joined { id, origin, until }));
        Ok(())
    }

    fn refusal(&self, status: &Status) -> EnlistError {
        let message = status.message().to_owned();
        let info = status.get_details_error_info();
        let reason = info.as_ref().map_or("", |info| info.reason.as_str());
        match status.code() {
            _ if reason == "UNKNOWN_PARTICIPANT" => {
                self.unknown.notify_one();
                EnlistError::Unavailable(
                    "the coordinator does not know this participant yet; try again".to_owned(),
                )
            }
            Code::NotFound => EnlistError::NotFound(message),
            Code::FailedPrecondition | Code::Aborted | Code::InvalidArgument => {
                EnlistError::WrongState(message)
            }
            code => EnlistError::Unavailable(format!(
                "the coordinator cannot be asked: {code}: {message}"
            )),
        }
    }
}

fn over(id: TransactionId) -> EnlistError {
    EnlistError::WrongState(format!("the branch of transaction {id} is over here"))
}

impl crate::resources::key_value::Enlist for Handle {
    async fn enlist(
        &self,
        id: TransactionId,
    ) -> Result<(), crate::resources::key_value::EnlistError> {
        use crate::resources::key_value::{EnlistError as StoreError, EnlistErrorCode};
        Handle::enlist(self, id).await.map_err(|error| {
            let code = match &error {
                EnlistError::NotFound(_) => EnlistErrorCode::NotFound,
                EnlistError::WrongState(_) => EnlistErrorCode::WrongState,
                EnlistError::Unavailable(_) => EnlistErrorCode::Unavailable,
            };
            StoreError { code, message: error.to_string() }
        })
    }
}
