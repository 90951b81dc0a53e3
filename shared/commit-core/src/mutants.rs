//! Deliberate bugs, each switched on by itself, that the tests must catch: a test that has never failed proves
//! nothing. `tests/mutants` tries them one after the other.
//!
//! Without the feature `mutants` [`mutant`] is the constant `false` and the compiler removes the bugs. With it, the
//! environment variable `HANDFAST_MUTANT` names the one that this process has; unset or empty, it has none. Released
//! programs are built without the feature.
//!
//! This is the one place of the core that looks at the world around it. The bugs of the other crates are listed
//! here as well, so that there is one list.

/// The checks that a mutant is tried on, from the cheapest to the dearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// The scenario scripts of the core, and every crate's own tests.
    Tests,
    /// Random schedules of the core.
    Random,
    /// The model, which tries every schedule of small worlds.
    Model,
    /// The simulator, which runs the driver, the journal's contract and the key-value store as well.
    Simulator,
    /// Real processes that are killed.
    Chaos,
}

impl Layer {
    /// All of them, in their order.
    pub const ALL: [Layer; 5] =
        [Layer::Tests, Layer::Random, Layer::Model, Layer::Simulator, Layer::Chaos];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tests => "tests",
            Self::Random => "random",
            Self::Model => "model",
            Self::Simulator => "simulator",
            Self::Chaos => "chaos",
        }
    }
}

macro_rules! mutants {
    ($($variant:ident, $name:literal, $layer:ident, $broken:literal;)*) => {
        /// A deliberate bug.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mutant {
            $(
                #[doc = $broken]
                $variant,
            )*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Mutant] = &[$(Mutant::$variant),*];

            /// Its name, as `HANDFAST_MUTANT` takes it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Mutant::$variant => $name),* }
            }

            /// What is wrong in it.
            #[must_use]
            pub const fn broken(self) -> &'static str {
                match self { $(Mutant::$variant => $broken),* }
            }

            /// The cheapest layer that is known to catch it: where to begin.
            #[must_use]
            pub const fn expected(self) -> Layer {
                match self { $(Mutant::$variant => Layer::$layer),* }
            }
        }
    };
}

mutants! {
    // ---- the ordering law: core and driver ----
    PerformBeforeDurable, "perform-before-durable", Tests,
        "The driver performs gated actions without waiting for the log.";
    BarrierSkipped, "barrier-skipped", Tests,
        "The driver does not wait when a step speaks of an earlier step's record.";
    AnsweredUnsubmitted, "answered-unsubmitted", Tests,
        "A question is answered before the log has been given what the answer speaks of.";
    LaterAtOnce, "later-at-once", Tests,
        "The driver performs at once what is due when the step's own records are durable.";
    DecisionNotForced, "decision-not-forced", Tests, "COMMIT is told to everybody while it is on its way to the disk.";
    VoteBeforeDurable, "vote-before-durable", Tests, "The vote leaves while PREPARED is on its way to the disk.";
    AckBeforeDurable, "ack-before-durable", Tests,
        "A commit is acknowledged while the participant's record of it is on its way to the disk.";
    InquiryBeforeDurable, "inquiry-before-durable", Tests,
        "An inquiry is answered COMMIT while the decision is on its way to the disk.";
    RepeatedVoteBeforeDurable, "repeated-vote-before-durable", Tests,
        "A repeated PREPARE is answered with a vote that is not durable yet.";
    ConnectBeforeDurable, "connect-before-durable", Tests,
        "A participant that connects is sent a commit that is not durable yet.";
    RetryBeforeDurable, "retry-before-durable", Tests,
        "A repeated request is told of a decision that is not durable yet.";
    PeerAnswerWithoutRecord, "peer-answer-without-record", Tests,
        "A peer that has not voted answers ABORT without forcing it.";
    ForgottenBeforeDurable, "forgotten-before-durable", Tests,
        "A forgotten branch is acknowledged while the record of its end is on its way to the disk.";
    ForgottenAtLowered, "forgotten-at-lowered", Simulator,
        "Of several forgotten branches only the last one's record is waited for.";

    // ---- the coordinator's core ----
    MissingVoteCounted, "missing-vote-counted", Tests, "The last missing vote is taken for prepared.";
    NoCountedReadOnly, "no-counted-read-only", Tests, "A no is counted as if it were read-only.";
    VoteTimeoutCommits, "vote-timeout-commits", Tests, "At the deadline missing votes are taken for prepared.";
    ForgetBeforeLastAck, "forget-before-last-ack", Tests,
        "A decision is forgotten at the first acknowledgement, not at the last.";
    AckCountedTwice, "ack-counted-twice", Tests, "A repeated acknowledgement is counted as another's.";
    PresumeAbortUndecided, "presume-abort-undecided", Tests, "An inquiry about what is undecided is answered ABORT.";
    PresumeAbortAboveEpoch, "presume-abort-above-epoch", Tests,
        "An inquiry about an epoch above the coordinator's own is answered ABORT.";
    ForeignLogPresumed, "foreign-log-presumed", Tests,
        "An inquiry about what was prepared under another log is answered ABORT.";
    OnePhasePresumed, "one-phase-presumed", Tests,
        "A one-phase commit that is not answered in time is taken for aborted.";
    OnePhaseRefusalIsNo, "one-phase-refusal-is-no", Tests,
        "Any refusal of a one-phase commit is taken for a no, also that of a second message.";
    ForgetBeforeLogged, "forget-before-logged", Tests,
        "FORGET is said before outcome and request_id are in the coordinator's log.";
    RetryWhileRunning, "retry-while-running", Tests,
        "A request that is repeated while it runs starts a second transaction.";
    RetryWhileEnding, "retry-while-ending", Tests,
        "A request whose one-phase end is on its way to the log starts a second transaction.";
    RequestNotRecorded, "request-not-recorded", Tests, "The decision is written without its request_id.";
    ReportWithoutRequest, "report-without-request", Tests,
        "The end of a one-phase commit that was reported is written without its request_id.";
    AbortToldAfterDecision, "abort-told-after-decision", Tests,
        "A client that aborts what is committed is told: aborted.";
    EnlistmentIgnored, "enlistment-ignored", Tests,
        "A participant that has lost its work joins again, and half of its work is committed.";
    RestartForgetsDelivery, "restart-forgets-delivery", Tests,
        "A decision that is found in the log at the start is not delivered.";
    RestartForgetsRequest, "restart-forgets-request", Tests,
        "After a restart the coordinator does not know the running request of a decision.";
    RefusedCommitDropped, "refused-commit-dropped", Tests, "A decided commit that was refused is given up.";
    WindowStuck, "window-stuck", Tests, "An acknowledgement does not let the next commit of a full window go.";
    LateVoteUnanswered, "late-vote-unanswered", Tests, "A vote that comes after the end is not answered.";
    LateEnlistment, "late-enlistment", Tests,
        "A participant is told that it has joined what is being prepared already.";
    ChangedLogCounted, "changed-log-counted", Tests,
        "A vote under another log than the branch joined under is counted: its work is lost.";

    // ---- the coordinator around its core ----
    EpochNotRaised, "epoch-not-raised", Tests, "A coordinator starts again in the epoch of its predecessor.";
    RestoredInFirstShard, "restored-in-first-shard", Chaos,
        "A decision found in the log is given to the first shard, whatever its own is.";
    WrongTableCleared, "wrong-table-cleared", Tests, "The end of a transaction does not take its decision away.";
    LogNotAsked, "log-not-asked", Simulator, "An id that is not running is taken for unknown: the log is not asked.";
    RequestNotAsked, "request-not-asked", Simulator,
        "A request_id that is not running is taken for new: the log is not asked.";
    FloorAhead, "floor-ahead", Tests, "Participants are told to forget ids that may still be asked to prepare.";
    RequestInAnyShard, "request-in-any-shard", Tests,
        "A request and its repetition may be handled by different shards at once.";

    // ---- the participant's core ----
    InDoubtTimeout, "in-doubt-timeout", Tests, "A branch in doubt aborts when it has waited long enough.";
    DoomedVotesPrepared, "doomed-votes-prepared", Tests,
        "A branch that was doomed while its resource prepared votes prepared all the same.";
    DoomedVotesReadOnly, "doomed-votes-read-only", Tests,
        "A branch that has promised a peer to abort votes read-only.";
    UnknownPeerAborts, "unknown-peer-aborts", Tests, "A peer that does not know the id answers ABORT.";
    PreparedPeerAborts, "prepared-peer-aborts", Tests, "A peer that is prepared itself answers ABORT.";
    StaleEpochAccepted, "stale-epoch-accepted", Tests, "Messages of an epoch that is over are obeyed.";
    StoppingRefusesAll, "stopping-refuses-all", Tests,
        "A participant that is stopping refuses a repeated PREPARE of what it has prepared.";
    FinishedForgotten, "finished-forgotten", Tests, "A finished id is forgotten before its coordinator has passed it.";
    FloorNotChecked, "floor-not-checked", Tests, "A PREPARE below lowest_live does its work again.";
    AbortNotRemembered, "abort-not-remembered", Tests,
        "A PREPARE that comes after the ABORT that overtook it begins the branch.";
    LostBranchAcknowledged, "lost-branch-acknowledged", Tests,
        "COMMIT for a branch that another incarnation voted for is acknowledged.";
    UnpreparedAcknowledged, "unprepared-acknowledged", Tests, "COMMIT for an unprepared branch is acknowledged.";
    RestartForgetsEpoch, "restart-forgets-epoch", Tests,
        "After a restart a participant does not know which epochs are over.";
    RestartForgetsFinished, "restart-forgets-finished", Tests,
        "After a restart a participant does not know which ids are finished.";
    RestartForgetsAttempt, "restart-forgets-attempt", Tests,
        "After a restart a participant does not know which requests it has committed in one phase.";
    EarlierAttemptIgnored, "earlier-attempt-ignored", Tests,
        "A one-phase request whose earlier attempt is here is carried out again.";
    StopObeyedTooLate, "stop-obeyed-too-late", Tests,
        "A one-phase commit that is done answers the order to stop with: aborted.";
    UnvotedKept, "unvoted-kept", Tests,
        "After a restart the participant keeps what its resource holds prepared and the log does not know.";
    ReadOnlyPeerAborts, "read-only-peer-aborts", Tests, "A peer that has only read answers ABORT.";
    StrangerBelieved, "stranger-believed", Tests, "The answer of one that PREPARE did not name is believed.";
    DoomedFollowed, "doomed-followed", Tests, "A repeated request follows an attempt that is doomed.";
    OnePhaseWritesLost, "one-phase-writes-lost", Tests, "A one-phase commit is written without its changes.";
    PeersNotRecorded, "peers-not-recorded", Tests, "PREPARED is written without the peers that could be asked.";

    // ---- three-phase commit ----
    DecidesOnTimeout, "decides-on-timeout", Tests,
        "A site that has pre-committed commits when its patience ends.";
    AbortsOnTimeout, "aborts-on-timeout", Tests, "A site that is waiting aborts when its patience ends.";
    PromiseNotForced, "promise-not-forced", Tests,
        "A site says that it has joined a ballot while that is on its way to the disk.";
    AcceptedNotMoved, "accepted-not-moved", Tests, "A site that moves does not keep in which ballot.";
    OldBallotObeyed, "old-ballot-obeyed", Tests, "A site moves in a ballot below the one that it has joined.";
    AbortsForLackOfAnswers, "aborts-for-lack-of-answers", Tests,
        "A leader that does not hear of a quorum in time moves towards abort.";
    QuorumIsAll, "quorum-is-all", Tests, "A quorum is everybody.";
    QuorumLacksOne, "quorum-lacks-one", Tests, "One acknowledgement less than a quorum decides.";
    AnswersNotHeard, "answers-not-heard", Tests, "A leader moves towards abort, whatever the sites have answered.";
    AnyPreCommitCounts, "any-pre-commit-counts", Tests,
        "A leader that hears of any pre-commit moves towards commit, in whatever ballot that was.";
    WitnessAborts, "witness-aborts", Tests, "A witness that has never heard of the id answers: aborted.";
    ReadOnlySiteForgets, "read-only-site-forgets", Tests, "A read-only voter keeps nothing of its vote.";
    UnknownSiteSilent, "unknown-site-silent", Tests,
        "A site that has never heard of the id gives no information, and does not abort.";
    AnotherLogPassesForInitial, "another-log-passes-for-initial", Tests,
        "A participant that has lost its disk aborts what it is asked about, as if it had not voted.";
    InitialNotForced, "initial-not-forced", Tests,
        "A coordinator that does not remember answers ABORT without forcing it.";
    PreCommitNotForced, "pre-commit-not-forced", Tests,
        "PRE_COMMIT is sent while the coordinator's own move is on its way to the disk.";
    RestartForgetsBallots, "restart-forgets-ballots", Tests,
        "After a restart a voting site stands where it stood when it voted.";
    CoordinatorStaysSilent, "coordinator-stays-silent", Tests,
        "A coordinator that finds itself pre-committed leads no election.";
    CoordinatorNotTold, "coordinator-not-told", Tests, "Who leads a termination tells its end to participants only.";
    ForgetAtQuorum, "forget-at-quorum", Tests,
        "A decision may be forgotten when a quorum has it on the disk, and not everybody.";

    // ---- three-phase commit around the core ----
    AnswersForAnotherSite, "answers-for-another-site", Tests,
        "A coordinator answers orders that are meant for another coordinator or another witness.";
    RestartLeadsNobody, "restart-leads-nobody", Tests,
        "A coordinator that finds a vote in its log sets no timer for it.";
    UndecidedNotTold, "undecided-not-told", Tests, "A caller waits for as long as a quorum is missing.";
    WindowOfAllProtocols, "window-of-all-protocols", Tests,
        "What has left the outcome window in one protocol has left it in the others.";
    RequestOfAnyProtocol, "request-of-any-protocol", Tests, "The same work by another protocol is the same request.";
    OnlyFirstPlace, "only-first-place", Tests, "A site is looked for in the likeliest place only.";
    WitnessesNotTold, "witnesses-not-told", Tests, "Orders to witnesses are not sent.";

    // ---- the participant around its core ----
    StaleAnswerHeard, "stale-answer-heard", Tests, "An answer of a coordinator whose epoch is over is heard.";
    StaleSessionHeard, "stale-session-heard", Tests, "What comes over an older session is heard.";
    ReportNotDurable, "report-not-durable", Tests,
        "A one-phase commit is reported to a new session while it is on its way to the disk.";
    ReportIncomplete, "report-incomplete", Tests,
        "A new coordinator gets the report while an earlier one's one-phase commits are at work.";
    LocksNotReleased, "locks-not-released", Tests, "The key-value store keeps the locks of a branch that is over.";
    UpgradeIgnored, "upgrade-ignored", Tests, "Whoever has read a key may write it without the exclusive lock.";
    PreparedWithoutWrites, "prepared-without-writes", Tests, "PREPARED is written without the branch's staged writes.";
    VotedWithoutWrites, "voted-without-writes", Tests, "VOTED is written without the branch's staged writes.";
    OrdersNotSent, "orders-not-sent", Tests, "A participant that leads tells nobody what to do.";
    ReportsNotSent, "reports-not-sent", Tests, "The coordinator is not told what became of its orders.";
    EndBesidePreCommit, "end-beside-pre-commit", Tests, "A branch is ended while its pre_commit runs.";
    PreCommitUntold, "pre-commit-untold", Tests, "The resource manager never hears of a pre-commit.";
    OrdersOfAnySlot, "orders-of-any-slot", Tests,
        "A coordinator's orders about another coordinator's transactions are obeyed.";
    AnswersForAnotherParticipant, "answers-for-another-participant", Tests,
        "A participant answers orders that are meant for another site.";
    MovedSiteNotHeard, "moved-site-not-heard", Tests,
        "Where a site that leads says that it is reached is not remembered.";
    LockReleasedAtVote, "lock-released-at-vote", Tests, "The key-value store gives its locks back at the vote.";
    LocksNotRestored, "locks-not-restored", Tests, "After a restart a branch in doubt holds no locks.";
    ReadLocksNotStaged, "read-locks-not-staged", Tests, "After a restart a branch in doubt has lost its read locks.";
    ReadOnlyReleasedEarly, "read-only-released-early", Tests,
        "A branch that has only read gives its locks back while others still take theirs.";
    StageKeptAfterCommit, "stage-kept-after-commit", Tests,
        "What a branch of three-phase commit has staged stays when it ends.";
    PreparedWounded, "prepared-wounded", Tests, "An older transaction takes the locks of one that has prepared.";

    // ---- the journal ----
    NoSync, "no-sync", Tests, "Batches are written and not synced.";
    CompletedBeforeWritten, "completed-before-written", Tests,
        "The log writer completes a batch before it has written it.";
    FailureCompleted, "failure-completed", Tests, "The log writer completes a batch that could not be written.";
    SubmissionsReordered, "submissions-reordered", Tests,
        "What is queued while others wait is written before them.";
    LazyNeverWritten, "lazy-never-written", Tests, "Records that nobody forces wait for one that somebody does.";
    OldTimerKept, "old-timer-kept", Tests, "A timer that is set anew runs out at its old time as well.";
    LastMutationDropped, "last-mutation-dropped", Tests,
        "The log writer loses the last mutation of a batch of several.";
    BatchInTwoWrites, "batch-in-two-writes", Tests, "A batch is written in two halves, each synced by itself.";
    PoisonIgnored, "poison-ignored", Tests, "A journal goes on after a failed write.";
    HeadNotChecked, "head-not-checked", Tests, "A log that has lost acknowledged batches is opened.";
    ChecksumNotChecked, "checksum-not-checked", Tests, "A damaged value is read as if it were sound.";
    CorruptionSkipped, "corruption-skipped", Tests, "Damaged records in the middle of a log are skipped.";
}

impl Mutant {
    /// Its bug is one of three-phase commit, and of nothing else.
    #[must_use]
    pub fn is_of_three_phase(self) -> bool {
        (Self::DecidesOnTimeout..=Self::ForgetAtQuorum).contains(&self)
    }

    /// The mutant of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Mutant> {
        Self::ALL.iter().copied().find(|mutant| mutant.name() == name)
    }
}

/// Where the name of this process's mutant is.
pub const VARIABLE: &str = "HANDFAST_MUTANT";

/// True when this process has this bug.
#[inline]
#[must_use]
pub fn mutant(mutant: Mutant) -> bool {
    #[cfg(feature = "mutants")]
    return selected::get() == Some(mutant);
    #[cfg(not(feature = "mutants"))]
    {
        let _ = mutant;
        false
    }
}

#[cfg(feature = "mutants")]
mod selected {
    use std::sync::OnceLock;

    use super::{Mutant, VARIABLE};

    static SELECTED: OnceLock<Option<Mutant>> = OnceLock::new();

    pub(super) fn get() -> Option<Mutant> {
        *SELECTED.get_or_init(|| {
            let name = std::env::var(VARIABLE).ok().filter(|name| !name.is_empty())?;
            let selected = Mutant::named(&name);
            if selected.is_none() {
                // A process without the bug would pass for one that nobody catches.
                eprintln!("{VARIABLE}={name}: there is no such mutant; `make mutants ARGS=--list` names them");
                std::process::exit(64);
            }
            selected
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_one_mutant_s() {
        for mutant in Mutant::ALL {
            assert_eq!(Mutant::named(mutant.name()), Some(*mutant));
            assert!(mutant.broken().ends_with('.'), "{mutant:?}");
        }
        assert_eq!(Mutant::named(""), None);
    }
}
