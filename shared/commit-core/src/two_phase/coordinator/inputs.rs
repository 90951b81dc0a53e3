//! What a coordinator is told, and what it wants done.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::id::{Incarnation, ParticipantName, RequestId, TransactionId};
use crate::message::{FromParticipant, FromSite, Inquired, ToParticipant, ToSite};
use crate::record::{AbortReason, Info, Request};
use crate::step::{Time, TimerKey};
use crate::three_phase::{Ballot, SiteName};
use crate::two_phase::participant::Via;

/// One thing that happened. Checked at the edge: names are registered, limits are kept, ids are of
/// this shard.
#[derive(Debug)]
pub enum Input<W> {
    /// A client begins an interactive transaction.
    Begin {
        /// Drawn by the driver: this slot, this epoch, a sequence never used before.
        id: TransactionId,
        /// What it may cost and what people know it by.
        terms: Terms,
        /// Is told [`Reply::Begun`].
        waiter: W,
    },
    /// A client sends the work of all branches at once.
    Execute(Execute<W>),
    /// A participant joins a transaction, before it does any work.
    Enlist {
        /// Which transaction.
        id: TransactionId,
        /// Who joins.
        participant: ParticipantName,
        /// Of the participant's log.
        incarnation: Incarnation,
        /// The same whenever the participant repeats this; another one if it has lost its work.
        enlistment: u64,
        /// Is told [`Reply::Enlisted`].
        waiter: W,
    },
    /// A client commits an interactive transaction.
    Commit {
        /// Which transaction; of this epoch.
        id: TransactionId,
        /// To be remembered with the outcome.
        request: Option<Request>,
        /// Is told the outcome.
        waiter: Waiter<W>,
    },
    /// A client aborts a transaction.
    Abort {
        /// Which transaction; of this epoch.
        id: TransactionId,
        /// For people.
        message: String,
        /// Is told the outcome.
        waiter: W,
    },
    /// A participant in doubt asks by a call of its own.
    Inquire {
        /// The question.
        inquiry: Inquiry,
        /// What the log says, unless [`knows`](super::Coordinator::knows) is true.
        stored: Option<Stored>,
        /// Is told [`Reply::Inquired`].
        waiter: W,
    },
    /// A participant in doubt asks over its link.
    InquireOverLink {
        /// The question.
        inquiry: Inquiry,
        /// What the log says, unless [`knows`](super::Coordinator::knows) is true.
        stored: Option<Stored>,
    },
    /// A participant's message.
    Received {
        /// Whose.
        from: ParticipantName,
        /// The message.
        message: FromParticipant,
        /// What the log says, unless [`knows`](super::Coordinator::knows) is true.
        stored: Option<Stored>,
    },
    /// A participant can be reached. Everything it owes an answer for is sent (again).
    Connected {
        /// Who.
        participant: ParticipantName,
        /// Of its log, as its session has said; 0 for one that is only called, which cannot take part in
        /// three-phase commit.
        incarnation: Incarnation,
        /// One-phase commits that it has not been told to forget and that belong to this shard, with
        /// what the log says of each.
        one_phase_commits: Vec<(OnePhaseReport, Option<Stored>)>,
    },
    /// A participant cannot be reached, and what was queued for it is lost.
    Disconnected {
        /// Who.
        participant: ParticipantName,
    },
    /// A message was not sent, and will not be: the queue is full.
    NotSent {
        /// To whom.
        to: ParticipantName,
        /// About which transaction.
        id: TransactionId,
    },
    /// [`Action::EndDurable`] has come true: the end of a one-phase commit is in the log.
    EndDurable {
        /// Whose commit it was.
        participant: ParticipantName,
        /// Which transaction.
        id: TransactionId,
    },
    /// A voting site leads a three-phase transaction: a participant one of this slot; and when this process is the
    /// witness, a participant or the coordinator one of another slot.
    Led {
        /// Who leads.
        from: SiteName,
        /// What is wanted.
        message: ToSite,
        /// What the log says, unless [`knows`](super::Coordinator::knows) is true.
        stored: Option<Stored>,
        /// Is told [`Action::Report`], once: its link, or a call.
        via: Via<W>,
    },
    /// The answer of a voting site to [`Action::Lead`].
    Reported {
        /// Who answers.
        from: SiteName,
        /// What it says.
        message: FromSite,
    },
    /// [`Action::Recorded`] has come true: the decision of a three-phase transaction is in the log.
    Recorded {
        /// Which transaction.
        id: TransactionId,
    },
    /// A timer that was set has run out.
    Timer(TimerKey),
}

/// A whole transaction in one request.
#[derive(Debug)]
pub struct Execute<W> {
    /// Drawn by the driver.
    pub id: TransactionId,
    /// Who does what; at least one.
    pub branches: BTreeMap<ParticipantName, Bytes>,
    /// What it may cost and what people know it by.
    pub terms: Terms,
    /// The client's name for it.
    pub request: Option<Request>,
    /// What the log says of `request`, unless it is running.
    pub stored: Option<Stored>,
    /// Is told the outcome.
    pub waiter: Waiter<W>,
}

/// What a transaction may cost, and what people know it by.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// Undecided for longer than this, it is aborted. Microseconds.
    pub timeout_us: u64,
    /// For people.
    pub info: Arc<Info>,
}

/// Who waits for an outcome, and how long for its application.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Waiter<W> {
    /// Through what it is answered.
    pub to: W,
    /// When.
    pub reply_time: ReplyTime,
    /// The caller's own end of patience. A decided outcome is told by then, applied or not.
    pub until: Time,
}

impl<W> Waiter<W> {
    /// Wants to know the decision, applied or not.
    pub(crate) fn is_content(&self) -> bool {
        self.reply_time == ReplyTime::Decided
    }
}

/// When a commit answers its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReplyTime {
    /// When everybody has applied it.
    Applied,
    /// When it is decided.
    Decided,
}

/// A question about a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Inquiry {
    /// Which one.
    pub id: TransactionId,
    /// Of the coordinator's log that the asker prepared under.
    pub incarnation: Incarnation,
    /// Who asks.
    pub participant: ParticipantName,
}

/// What the log says of a transaction that is over.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Stored {
    /// It committed.
    Committed {
        /// Its id.
        id: TransactionId,
        /// The client's request.
        request: Option<Request>,
    },
    /// It aborted.
    Aborted,
    /// It is not there, and may have been: it may have left the outcome window.
    Expired,
}

/// A participant says that it has committed in one phase.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OnePhaseReport {
    /// Which transaction.
    pub id: TransactionId,
    /// The client's name for it.
    pub request_id: Option<RequestId>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action<W> {
    /// Send a message. If the queue is full, say [`Input::NotSent`].
    Send {
        /// To whom.
        to: ParticipantName,
        /// What.
        message: ToParticipant,
    },
    /// Answer a caller.
    Reply {
        /// Through what.
        to: W,
        /// The answer.
        reply: Reply,
    },
    /// Say [`Input::EndDurable`] to the same state machine. It goes by way of the machine, so that the
    /// FORGET that follows is behind every PREPARE that was sent while the end was not durable.
    EndDurable {
        /// Whose commit it was.
        participant: ParticipantName,
        /// Which transaction.
        id: TransactionId,
    },
    /// Tell a voting site of a three-phase transaction what to do: a participant over its link, a witness where
    /// it is configured to be. Its answer is [`Input::Reported`].
    Lead {
        /// Which one.
        to: SiteName,
        /// What.
        message: ToSite,
    },
    /// Answer a voting site that leads.
    Report {
        /// Which one.
        to: SiteName,
        /// Through what.
        via: Via<W>,
        /// The answer.
        message: FromSite,
    },
    /// Say [`Input::Recorded`] to the same state machine.
    Recorded {
        /// Which transaction.
        id: TransactionId,
    },
    /// For logs, metrics and whoever watches.
    Note(Event),
}

/// An answer to a caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reply {
    /// To [`Input::Begin`].
    Begun {
        /// The transaction.
        id: TransactionId,
        /// How long it may stay undecided, microseconds.
        time_left_us: u64,
    },
    /// To [`Input::Enlist`].
    Enlisted {
        /// How long the transaction may still stay undecided, microseconds.
        time_left_us: u64,
    },
    /// To [`Input::Execute`], [`Input::Commit`] and [`Input::Abort`].
    Outcome(Outcome),
    /// To [`Input::Inquire`].
    Inquired(Inquired),
    /// The outcome is a participant's to tell, and it has not told it in time.
    Unknown {
        /// Which transaction.
        id: TransactionId,
        /// Who owns the outcome.
        participant: ParticipantName,
    },
    /// Three-phase commit: its voting sites have not ended it in the caller's time.
    Undecided {
        /// Which transaction.
        id: TransactionId,
        /// For people.
        waiting_for: String,
    },
    /// It will not be done.
    Refused(ClientRefusal),
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// Which one.
    pub id: TransactionId,
    /// `Ok`: committed.
    pub result: Result<(), AbortReason>,
    /// Who has yet to apply a commit.
    pub pending: Vec<ParticipantName>,
    /// What the participants returned.
    pub results: Vec<(ParticipantName, Bytes)>,
    /// An earlier attempt's.
    pub repeated: bool,
}

impl Outcome {
    /// Committed, applied everywhere.
    #[must_use]
    pub fn committed(id: TransactionId, repeated: bool) -> Self {
        Self { id, result: Ok(()), pending: Vec::new(), results: Vec::new(), repeated }
    }

    /// Aborted.
    #[must_use]
    pub fn aborted(id: TransactionId, reason: AbortReason) -> Self {
        Self { result: Err(reason), ..Self::committed(id, false) }
    }
}

/// Why a caller's request is refused. Nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ClientRefusal {
    /// Too many undecided transactions.
    #[error("{undecided} transactions are in flight, the most there may be; try again later")]
    TooManyInFlight {
        /// How many there are.
        undecided: usize,
    },
    /// Too many transactions that wait for a participant's vote.
    #[error(
        "{voting} transactions wait for the vote of {participant}, the most there may be; try again later"
    )]
    ParticipantBusy {
        /// Whose.
        participant: ParticipantName,
        /// How many there are.
        voting: usize,
    },
    /// Too many transactions that wait for others after their votes: decisions that are not acknowledged, and
    /// three-phase commits without a quorum.
    #[error(
        "{undelivered} transactions wait for participants or witnesses that do not answer, the most there may be; \
            bring them back"
    )]
    TooManyUndelivered {
        /// How many there are.
        undelivered: usize,
    },
    /// The name was used for something else.
    #[error("the request_id was used for a different request, transaction {id}")]
    RequestIdReused {
        /// The other one.
        id: TransactionId,
    },
    /// The transaction takes no more branches.
    #[error("transaction {id} has 256 branches, the most there may be")]
    TooManyBranches {
        /// Which one.
        id: TransactionId,
    },
    /// It is being committed or aborted.
    #[error("transaction {id} is past the point where work can be added")]
    NotActive {
        /// Which one.
        id: TransactionId,
    },
    /// It is decided.
    #[error("transaction {id} is committed and cannot be aborted")]
    Decided {
        /// Which one.
        id: TransactionId,
    },
    /// It is not running any more; the driver looks into the log.
    #[error("transaction {id} is over")]
    Over {
        /// Which one.
        id: TransactionId,
    },
}

/// Something that people or programs may want to see.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// A transaction began.
    Begun {
        /// Which one.
        id: TransactionId,
    },
    /// A participant joined.
    Enlisted {
        /// Which transaction.
        id: TransactionId,
        /// Who.
        participant: ParticipantName,
    },
    /// The participants are being asked to prepare.
    Preparing {
        /// Which transaction.
        id: TransactionId,
    },
    /// A participant voted prepared or read-only.
    Voted {
        /// Which transaction.
        id: TransactionId,
        /// Who.
        participant: ParticipantName,
    },
    /// A participant voted no.
    VotedNo {
        /// Which transaction.
        id: TransactionId,
        /// Who.
        participant: ParticipantName,
        /// Why.
        reason: String,
    },
    /// Three-phase commit: everybody has voted prepared, and is told to pre-commit.
    PreCommitted {
        /// Which transaction.
        id: TransactionId,
    },
    /// Three-phase commit: the coordinator leads an election.
    Elects {
        /// Which transaction.
        id: TransactionId,
        /// Its ballot.
        ballot: Ballot,
    },
    /// Three-phase commit: fewer sites than a quorum have answered.
    Waits {
        /// Which transaction.
        id: TransactionId,
        /// For people.
        waiting_for: String,
    },
    /// Commit is decided.
    Decided {
        /// Which transaction.
        id: TransactionId,
    },
    /// Abort is decided.
    Aborted {
        /// Which transaction.
        id: TransactionId,
        /// Why.
        reason: AbortReason,
    },
    /// A participant has durably committed.
    Acknowledged {
        /// Which transaction.
        id: TransactionId,
        /// Who.
        participant: ParticipantName,
    },
    /// Everybody has.
    Ended {
        /// Which transaction.
        id: TransactionId,
    },
    /// Something that must not happen has happened. It is never obeyed.
    Alarm {
        /// Which transaction.
        id: TransactionId,
        /// Who caused it.
        participant: ParticipantName,
        /// What it is.
        alarm: Alarm,
    },
}

impl Event {
    /// The transaction it is about.
    #[must_use]
    pub fn id(&self) -> TransactionId {
        match self {
            Self::Begun { id }
            | Self::Enlisted { id, .. }
            | Self::Preparing { id }
            | Self::Voted { id, .. }
            | Self::VotedNo { id, .. }
            | Self::PreCommitted { id }
            | Self::Elects { id, .. }
            | Self::Waits { id, .. }
            | Self::Decided { id }
            | Self::Aborted { id, .. }
            | Self::Acknowledged { id, .. }
            | Self::Ended { id }
            | Self::Alarm { id, .. } => *id,
        }
    }
}

/// What must not happen: an error in a participant, lost data, or an error in ourselves.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Alarm {
    /// A participant voted that was not asked.
    #[error("voted, but was not asked to")]
    VoteOfAStranger,
    /// A participant committed on its own.
    #[error("committed in one phase, but was not permitted to")]
    CommittedUnasked,
    /// A participant acknowledged a commit that was not decided.
    #[error("acknowledged a commit that has not been decided")]
    AcknowledgedUndecided,
    /// A participant says that it has aborted what is committed.
    #[error("says that it has aborted a transaction that is committed")]
    AbortedCommitted,
    /// The participant's log is not the one it had before.
    #[error("has another log than it had before: what it had promised is lost")]
    IncarnationChanged,
    /// A participant refuses a decided commit.
    #[error("refuses a decided commit: {reason}")]
    CommitRefused {
        /// In its own words.
        reason: String,
    },
    /// Somebody prepared under another log than this one.
    #[error(
        "asks about a transaction that was prepared under another log of this coordinator: nothing may be \
            presumed of it"
    )]
    ForeignLog,
    /// A participant says that it has committed a transaction that cannot be.
    #[error("says that it has committed {earlier}, which this coordinator cannot have begun")]
    CommittedStrange {
        /// The id it names.
        earlier: TransactionId,
    },
    /// A voting site broke the protocol, or has lost its disk.
    #[error("says that a transaction ended in the other way")]
    SitesDiffer,
    /// A voting site broke the protocol, or this coordinator has lost its disk.
    #[error("says that sites have moved in a transaction for which this coordinator has not")]
    MovedWithoutCoordinator,
    /// A participant says that it has committed in one phase what the log says is aborted.
    #[error("says that it has committed a transaction that is aborted")]
    CommittedAborted,
}
