//! What a participant is told, and what it wants done.

use std::sync::Arc;

use bytes::Bytes;

use crate::id::{Epoch, Incarnation, ParticipantName, Sequence, Slot, TransactionId};
use crate::message::{FromParticipant, FromSite, Inquired, Prepare, ToSite};
use crate::record::Change;
use crate::step::Time;
use crate::three_phase::{Ballot, SiteName};

/// Who speaks for a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The slot it speaks for.
    pub slot: Slot,
    /// The epoch of its ownership.
    pub epoch: Epoch,
    /// Of its log.
    pub incarnation: Incarnation,
    /// No transaction with a lower sequence will be asked to prepare any more.
    pub lowest_live: Sequence,
    /// Where it answers inquiries. Every request has it, and few are the reason to look.
    pub endpoint: Arc<str>,
}

/// Through what a request is answered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via<W> {
    /// The coordinator's link.
    Link,
    /// A call of its own.
    Call(W),
}

/// One thing that happened.
#[derive(Debug)]
pub enum Input<W> {
    /// A coordinator wants a vote.
    Prepare {
        /// The request.
        prepare: Prepare,
        /// Where the peers are.
        peers: Vec<(ParticipantName, String)>,
        /// Who asks.
        origin: Origin,
        /// Is told the vote.
        via: Via<W>,
    },
    /// The decision is commit.
    Commit {
        /// Which transaction.
        id: TransactionId,
        /// Of the log that voted.
        incarnation: Incarnation,
        /// Who says so.
        origin: Origin,
        /// Is told when the commit is durable.
        via: Via<W>,
    },
    /// The decision is abort.
    Abort {
        /// Which transaction.
        id: TransactionId,
        /// Who says so.
        origin: Origin,
        /// Is told when the branch is gone.
        via: Via<W>,
    },
    /// The outcome of a one-phase commit is in the coordinator's log.
    Forget {
        /// Which transaction.
        id: TransactionId,
        /// Who says so.
        origin: Origin,
    },
    /// A coordinator has opened a session, or sent a frame: it is there.
    Heard {
        /// Who.
        origin: Origin,
        /// A session has just begun: whatever is in doubt is asked about.
        opened: bool,
    },
    /// The library has enlisted a branch with the coordinator: work may begin.
    Joined {
        /// Which transaction.
        id: TransactionId,
        /// Who leads it.
        origin: Origin,
        /// The branch ends on its own when the transaction is older than this.
        until: Time,
    },
    /// Work is about to be done in a session.
    Touched {
        /// Which transaction.
        id: TransactionId,
        /// Is told whether it may.
        waiter: W,
    },
    /// The resource gives a branch up before it has voted.
    GivenUp {
        /// Which transaction.
        id: TransactionId,
    },
    /// The answer of the coordinator to an inquiry.
    Answer {
        /// Which transaction.
        id: TransactionId,
        /// What became of it.
        outcome: Inquired,
    },
    /// The answer of a peer to an inquiry.
    PeerAnswer {
        /// Which transaction.
        id: TransactionId,
        /// Who answers.
        peer: ParticipantName,
        /// What became of it.
        outcome: Inquired,
    },
    /// A peer in doubt asks.
    PeerAsks {
        /// Which transaction.
        id: TransactionId,
        /// Is told [`Action::AnswerPeer`].
        waiter: W,
    },
    /// Whoever leads a three-phase transaction wants something: its coordinator, over its link, or another
    /// voting site, by a call.
    Led {
        /// Who leads.
        from: SiteName,
        /// What is wanted.
        message: ToSite,
        /// Is told [`Action::Report`], once.
        via: Via<W>,
    },
    /// The answer of a voting site to [`Action::Lead`].
    Reported {
        /// Who answers.
        from: SiteName,
        /// What it says.
        message: FromSite,
    },
    /// The resource has done what it was asked to.
    Resource {
        /// Which transaction.
        id: TransactionId,
        /// What came of it.
        result: ResourceResult,
    },
    /// The resource holds these branches prepared; said once, after the log has been restored.
    ResourceHolds {
        /// Which transactions.
        ids: Vec<TransactionId>,
    },
    /// The process is about to end: from here on PREPARE brings no new work. What is there already goes on,
    /// and a PREPARE that is repeated is answered as before.
    Stopping,
    /// The transaction's timer has run out.
    Timer(TransactionId),
}

/// What the resource answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ResourceResult {
    /// To [`ResourceCall::Prepare`].
    Prepared {
        /// For the client.
        result: Bytes,
        /// To be written with the record.
        changes: Vec<Change>,
    },
    /// To [`ResourceCall::Prepare`]: released already.
    ReadOnly {
        /// For the client.
        result: Bytes,
    },
    /// To [`ResourceCall::Prepare`]: aborted already.
    No {
        /// One sentence.
        reason: String,
    },
    /// To [`ResourceCall::Commit`] and [`ResourceCall::Abort`]: done, now or before.
    Done {
        /// To be written with the record.
        changes: Vec<Change>,
    },
    /// To [`ResourceCall::Commit`]: no such branch.
    Unknown,
    /// Not now.
    Failed {
        /// One sentence.
        reason: String,
    },
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action<W> {
    /// Answer a coordinator.
    Respond {
        /// Through what.
        via: Via<W>,
        /// The slot whose coordinator asked.
        slot: Slot,
        /// The answer.
        message: FromParticipant,
    },
    /// Have the resource do something. Calls about one transaction follow each other: the next is
    /// made when the result of the one before has been handed in, but for `Cancel`.
    Resource {
        /// Which transaction.
        id: TransactionId,
        /// What.
        call: ResourceCall,
    },
    /// Ask the coordinator what became of a transaction.
    Inquire {
        /// Which one.
        id: TransactionId,
        /// Of the log that it was prepared under.
        incarnation: Incarnation,
        /// Where the coordinator was last heard of.
        endpoint: String,
    },
    /// Ask the peers.
    InquirePeers {
        /// About which transaction.
        id: TransactionId,
        /// Of the log that it was prepared under.
        incarnation: Incarnation,
        /// Whom, and where they were.
        peers: Vec<(ParticipantName, String)>,
    },
    /// Answer a peer.
    AnswerPeer {
        /// Through what.
        to: W,
        /// What became of it.
        outcome: Inquired,
    },
    /// Tell a voting site of a three-phase transaction what to do. Its answer is [`Input::Reported`].
    Lead {
        /// Which one.
        to: SiteName,
        /// Where it was last heard of.
        endpoint: String,
        /// What.
        message: ToSite,
    },
    /// Answer whoever leads: over the link of the coordinator of the transaction's slot, or a call.
    Report {
        /// Through what.
        via: Via<W>,
        /// The answer.
        message: FromSite,
    },
    /// Whether work may be done in a session.
    AnswerTouch {
        /// Through what.
        to: W,
        /// Or why not.
        allowed: Result<(), SessionRefusal>,
    },
    /// For logs, metrics and people.
    Note(Event),
}

/// What the resource is asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ResourceCall {
    /// Do the work, as far as it can still be undone.
    Prepare {
        /// The work, or `None` when it was done in a session.
        work: Option<Bytes>,
        /// There is no other branch.
        only_branch: bool,
    },
    /// The running `Prepare` will be aborted. No result.
    Cancel,
    /// Three-phase commit: everybody has voted prepared. No result; the next call is made after it.
    PreCommit,
    /// Commit.
    Commit,
    /// Abort.
    Abort,
    /// The end is durable. No result.
    Finished(Ending),
}

/// How a branch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// Committed.
    Committed,
    /// Aborted.
    Aborted,
    /// Voted read-only.
    ReadOnly,
}

/// Why no work may be done.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SessionRefusal {
    /// The branch has to be enlisted first.
    #[error("not enlisted")]
    NotEnlisted,
    /// It is over here, or about to be.
    #[error("the branch of this transaction is over here")]
    Over,
}

/// Something that people or programs may want to see.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// Voted prepared: in doubt from here on.
    Prepared {
        /// Which transaction.
        id: TransactionId,
    },
    /// Over here.
    Ended {
        /// Which transaction.
        id: TransactionId,
        /// How.
        ending: Ending,
        /// It was in doubt before.
        was_prepared: bool,
    },
    /// In doubt, and nobody who can be reached knows the decision.
    Blocked {
        /// Which transaction.
        id: TransactionId,
        /// For people.
        waiting_for: String,
    },
    /// Three-phase commit: nobody has ended the transaction in time, and this site leads an election.
    Elects {
        /// Which transaction.
        id: TransactionId,
        /// Its ballot.
        ballot: Ballot,
    },
    /// Three-phase commit: this site has led the transaction to its decision.
    Terminated {
        /// Which transaction.
        id: TransactionId,
        /// Or aborted.
        committed: bool,
    },
    /// The resource could not do what it must; it will be asked again.
    ResourceFailed {
        /// Which transaction.
        id: TransactionId,
        /// In its own words.
        reason: String,
    },
    /// Something that must not happen has happened. It is never obeyed.
    Alarm {
        /// Which transaction.
        id: TransactionId,
        /// What it is.
        alarm: Alarm,
    },
}

/// What must not happen: an error in a coordinator, lost data, or an error in ourselves.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Alarm {
    /// Data loss.
    #[error(
        "DATA LOSS: this log does not know a branch that another log of this participant voted to commit; \
            restore that log's folder, or repair the data by hand"
    )]
    CommitOfLostBranch,
    /// Data loss.
    #[error("DATA LOSS: the resource does not know a branch that it prepared and must commit")]
    ResourceLostBranch,
    /// A coordinator broke the protocol.
    #[error("told to commit a branch that has not voted prepared")]
    CommitOfUnprepared,
    /// A coordinator broke the protocol.
    #[error("told to commit a branch that is aborted")]
    CommitOfAborted,
    /// A coordinator broke the protocol.
    #[error("told to abort a branch that is committed")]
    AbortOfCommitted,
    /// Data loss.
    #[error(
        "asked about a transaction that another log of this participant took part in: it may have voted, so nothing is \
            concluded from its absence; restore that log's folder"
    )]
    LedUnderAnotherLog,
    /// A leader broke the protocol.
    #[error("told to pre-commit a branch that has not voted")]
    PreCommitOfUnvoted,
    /// A site broke the protocol.
    #[error("a voting site says that the transaction ended in the other way")]
    SitesDiffer,
}
