//! Questions about transactions: what is running, what the log says, and what may be presumed of the rest.
//!
//! The law kept here is the driver's, for readers: a decision is in the core before it is on the disk, so
//! whatever is shown of one waits for the log. And "nobody remembers it" is only then an abort when
//! everybody who might has been heard.

use std::ops::ControlFlow;

use handfast_commit_core::id::{ParticipantName, Protocol, RequestId, TransactionId};
use handfast_commit_core::record::Ended;
use handfast_commit_core::two_phase::coordinator::{PhaseView, TransactionView};
use tokio::sync::mpsc;

use crate::engine::{Engine, EngineError};
use crate::shard::{CoordinatorShard, ShardInput, Watched};
use crate::store::Found;

/// What is known of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// It is running here.
    Running(TransactionView),
    /// The log says.
    Found(Found),
    /// Presumed abort: nobody remembers it, and nobody can.
    PresumedAborted,
    /// It has left the outcome window.
    Expired,
    /// These participants may own its outcome, and have not been heard of since this process started.
    Unknown(Vec<ParticipantName>),
    /// This coordinator has never given it out.
    NeverBegun,
    /// It is another coordinator's.
    NotOwner,
}

impl Engine {
    /// What is known of a transaction.
    ///
    /// # Errors
    /// When the log cannot be read or the coordinator has stopped.
    pub async fn get(&self, id: TransactionId) -> Result<Known, EngineError> {
        if id.slot() != self.identity.slot {
            return Ok(Known::NotOwner);
        }
        if id.protocol() != Protocol::TwoPhase {
            return Ok(Known::NeverBegun);
        }
        if let Some(view) = self.view(id).await? {
            self.may_be_told(&view).await?;
            return Ok(Known::Running(view));
        }
        if id.epoch() > self.identity.epoch
            || (id.epoch() == self.identity.epoch
                && !self.shards.sequences().given_out(id.sequence()))
        {
            return Ok(Known::NeverBegun);
        }
        // Before the log is looked at: a report that comes in between would be missed by both.
        let unheard =
            if id.epoch() < self.identity.epoch { self.links.unheard() } else { Vec::new() };
        // Ends are written lazily; behind this, whatever has left the shard is in the log.
        self.flushed().await?;
        if let Some(found) = self.store.find(id)? {
            return Ok(Known::Found(found));
        }
        if self.store.may_have_expired(id)? {
            return Ok(Known::Expired);
        }
        Ok(if unheard.is_empty() { Known::PresumedAborted } else { Known::Unknown(unheard) })
    }

    /// What is known of a client's request; `None` when nothing is.
    ///
    /// # Errors
    /// When the log cannot be read or the coordinator has stopped.
    pub async fn get_request(&self, request: &RequestId) -> Result<Option<Known>, EngineError> {
        for shard in self.shards.all() {
            let wanted = request.clone();
            let view = shard
                .ask(move |shard: &mut CoordinatorShard| {
                    let id = shard.core().running_request(&wanted)?;
                    shard.core().view(id)
                })
                .await
                .ok_or(EngineError::Stopped)?;
            if let Some(view) = view {
                self.may_be_told(&view).await?;
                return Ok(Some(Known::Running(view)));
            }
        }
        let unheard = self.links.unheard();
        self.flushed().await?;
        match self.store.find_request(request)? {
            Some(found) => Ok(Some(Known::Found(found))),
            // A one-phase commit of an earlier process may be known to its participant only.
            None if !unheard.is_empty() => Ok(Some(Known::Unknown(unheard))),
            None => Ok(None),
        }
    }

    /// A decision is in the core before it is on the disk. Behind this it is on the disk, whoever asks.
    async fn may_be_told(&self, view: &TransactionView) -> Result<(), EngineError> {
        if view.phase == PhaseView::Committing { self.flushed().await } else { Ok(()) }
    }

    async fn view(&self, id: TransactionId) -> Result<Option<TransactionView>, EngineError> {
        self.shards
            .of(id)
            .ask(move |shard: &mut CoordinatorShard| shard.core().view(id))
            .await
            .ok_or(EngineError::Stopped)
    }

    /// Running transactions after `after`, oldest first, at most `most` that `wanted` accepts.
    ///
    /// # Errors
    /// When the coordinator has stopped.
    pub async fn running(
        &self,
        after: Option<TransactionId>,
        most: usize,
        wanted: impl Fn(&TransactionView) -> bool + Clone + Send + 'static,
    ) -> Result<Vec<TransactionView>, EngineError> {
        let mut all = Vec::new();
        for shard in self.shards.all() {
            let wanted = wanted.clone();
            let views = shard
                .ask(move |shard: &mut CoordinatorShard| {
                    shard.core().running(after).filter(wanted).take(most).collect::<Vec<_>>()
                })
                .await
                .ok_or(EngineError::Stopped)?;
            all.extend(views);
        }
        all.sort_by_key(|view| view.id);
        all.truncate(most);
        // The decisions among them are on the disk now, and so are the ends that were on their way.
        self.flushed().await?;
        Ok(all)
    }

    /// Ended transactions after `after`, oldest first, at most `most` that `wanted` accepts.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn ended(
        &self,
        after: Option<TransactionId>,
        most: usize,
        wanted: impl Fn(&Ended) -> bool,
    ) -> Result<Vec<Ended>, EngineError> {
        let mut all = Vec::new();
        self.store.outcomes(after, |ended| {
            if wanted(&ended) {
                all.push(ended);
            }
            if all.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(all)
    }

    /// The present state of a transaction, then its events until it has ended.
    #[must_use]
    pub fn watch(&self, id: TransactionId) -> mpsc::UnboundedReceiver<Watched> {
        let (watcher, watched) = mpsc::unbounded_channel();
        self.shards.of(id).input(ShardInput::Watch { id, watcher });
        watched
    }
}
