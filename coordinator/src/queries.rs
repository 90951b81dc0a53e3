//! Questions about transactions: what is running, what the log says, and what may be presumed of the rest.
//!
//! The law kept here is the driver's, for readers: a decision is in the core before it is on the disk, so
//! whatever is shown of one waits for the log. And "nobody remembers it" is only then an abort when
//! everybody who might has been heard.

use std::ops::ControlFlow;

use handfast_commit_core::id::{
    Epoch, ParticipantName, Protocol, RequestId, Sequence, Slot, TransactionId,
};
use handfast_commit_core::record::Ended;
use handfast_commit_core::two_phase::coordinator::{PhaseView, TransactionView};
use tokio::sync::mpsc;

use crate::engine::{Engine, EngineError};
use crate::shard::{CoordinatorShard, ShardInput, Watched};
use crate::store::{Found, age};

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
        if id.protocol() == Protocol::PaxosCommit {
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
        // Three-phase commit has no outcome that is a participant's own: what this log does not know has not been
        // pre-committed by its coordinator, so that its voting sites can only abort it.
        let own = id.epoch() == self.identity.epoch || id.is_three_phase();
        let unheard = if own { Vec::new() } else { self.links.unheard() };
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
        match view.phase {
            PhaseView::Committing | PhaseView::Aborting => self.flushed().await,
            _ => Ok(()),
        }
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
        let slot = self.identity.slot;
        for shard in self.shards.all() {
            let wanted = wanted.clone();
            let views = shard
                .ask(move |shard: &mut CoordinatorShard| {
                    let mut views = Vec::new();
                    for (protocol, after) in each_protocol(slot, after) {
                        let of_it = |view: &TransactionView| view.id.protocol() == protocol;
                        let running = shard.core().running(after).take_while(of_it);
                        views.extend(running.filter(&wanted).take(most));
                    }
                    views
                })
                .await
                .ok_or(EngineError::Stopped)?;
            all.extend(views);
        }
        all.sort_by_key(|view| age(view.id));
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
        let slot = self.identity.slot;
        for (protocol, after) in each_protocol(slot, after) {
            let mut left = most;
            self.store.outcomes(after, |ended| {
                if left == 0 || ended.id.protocol() != protocol {
                    return ControlFlow::Break(());
                }
                if wanted(&ended) {
                    left -= 1;
                    all.push(ended);
                }
                ControlFlow::Continue(())
            })?;
        }
        all.sort_by_key(|ended| age(ended.id));
        all.truncate(most);
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

/// Where a list goes on after a transaction, for each protocol: ids sort by protocol before they sort by age, and
/// lists by age alone. Nothing has the first id of a protocol, because epochs begin with 1.
fn each_protocol(
    slot: Slot,
    after: Option<TransactionId>,
) -> impl Iterator<Item = (Protocol, Option<TransactionId>)> {
    let (epoch, sequence) = after.map_or((Epoch(0), Sequence(0)), age);
    [Protocol::TwoPhase, Protocol::ThreePhase]
        .into_iter()
        .map(move |protocol| (protocol, Some(TransactionId::new(slot, protocol, epoch, sequence))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_goes_on_at_the_same_age_in_every_protocol() {
        let id = |text: &str| Some(text.parse::<TransactionId>().expect("an id"));
        let all: Vec<_> =
            each_protocol(Slot(7), id("0007-03-0000000002-0000000000000009")).collect();
        let two = id("0007-02-0000000002-0000000000000009");
        let three = id("0007-03-0000000002-0000000000000009");
        assert_eq!(all, [(Protocol::TwoPhase, two), (Protocol::ThreePhase, three)]);
        let first: Vec<_> = each_protocol(Slot(7), None).map(|(_, after)| after).collect();
        assert!(first[1] < id("0007-03-0000000001-0000000000000000"));
    }
}
