#![doc = include_str!("../docs/rules.md")]

/// How a mark can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// By correct processes, with the failures that the protocol tolerates.
    Ordinary,
    /// Only when a peer breaks the protocol, or a disk is lost or put back from a copy. Each says how.
    Misbehaviour,
}

macro_rules! marks {
    ($($variant:ident, $name:literal, $rule:literal $(, only: $how:literal)?;)*) => {
        /// A rule of the protocol, where the code takes its branch.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mark {
            $(
                #[doc = $rule]
                $(#[doc = ""] #[doc = concat!("Only reached when ", $how, ".")])?
                $variant,
            )*
        }

        impl Mark {
            /// All of them, in the order of the table.
            pub const ALL: &'static [Mark] = &[$(Mark::$variant),*];

            /// Its name, as reports print it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Mark::$variant => $name),* }
            }

            /// The rule that it stands for.
            #[must_use]
            pub const fn rule(self) -> &'static str {
                match self { $(Mark::$variant => $rule),* }
            }

            /// What has to go wrong for it to be reached; `None`: nothing that the protocol does not tolerate.
            #[must_use]
            pub const fn misbehaviour(self) -> Option<&'static str> {
                match self { $(Mark::$variant => marks!(@how $($how)?)),* }
            }
        }
    };
    (@how) => { None };
    (@how $how:literal) => { Some($how) };
}

marks! {
    // ---- the coordinator: requests ----
    RequestRunning, "request-running", "A repeated request waits for the transaction that runs for it.";
    RequestEnding, "request-ending",
        "A request that was committed in one phase is answered when its end is in the log, not before.";
    RequestLogged, "request-logged", "A request that the log says is committed is not carried out again.";
    RequestReused, "request-reused", "A request_id under which something else was asked for is refused.";
    CommitRepeated, "commit-repeated", "A repeated commit call waits for the same outcome.";
    EnlistedAgain, "enlisted-again", "A repeated enlistment changes nothing.";
    EnlistedAnew, "enlisted-anew",
        "A participant that joins again without what it did before aborts the transaction.";
    EnlistedTooLate, "enlisted-too-late", "Nobody joins a transaction that is being prepared or is over.";

    // ---- the coordinator: votes and the decision ----
    PrepareAgain, "prepare-again", "PREPARE is repeated to those who have not answered.";
    Decided, "decided", "COMMIT is forced before it is told to anybody.";
    ReadOnlyLeftOut, "read-only-left-out", "A read-only voter is left out of the second phase.";
    AllReadOnly, "all-read-only", "If nobody has anything to commit there is no decision record.";
    VotedNo, "voted-no", "One no aborts the transaction.";
    VoteRepeated, "vote-repeated", "A repeated vote is not counted twice.";
    VoteAfterAbort, "vote-after-abort", "A vote after the abort is answered with ABORT again.";
    VoteAfterEnd, "vote-after-end", "A vote after the end of a commit is answered with COMMIT.";
    VoteAfterDecision, "vote-after-decision", "A late vote changes nothing.";
    VoteOfAnotherLog, "vote-of-another-log",
        "A branch that votes under another log than it joined under has lost its work: abort.",
        only: "a participant loses its disk between joining and voting";
    VoteOfAStranger, "vote-of-a-stranger", "A vote that was not asked for raises an alarm and counts for nothing.",
        only: "a participant votes in a transaction that it was not asked to prepare";
    ActiveTimeout, "active-timeout", "What is not committed in time is aborted.";
    VoteTimeout, "vote-timeout", "What is undecided at its deadline is aborted.";
    NotSent, "not-sent", "A PREPARE that never left the process is a no.";
    Unreachable, "unreachable", "A participant that is away does not use up what all participants share.";
    GaveUp, "gave-up", "A participant that aborts on its own before its vote has voted no.",
        only: "a participant of another make answers PREPARE with ABORTED and not with a no";
    PrepareRefused, "prepare-refused", "A refused PREPARE is a no.",
        only: "a participant refuses a PREPARE that is no different from any other";
    AbortedByClient, "aborted-by-client", "A client may abort what is undecided.";
    AbortTooLate, "abort-too-late", "A client cannot abort what is decided.";
    AbortMissed, "abort-missed", "An abort that a participant missed is told when it is back.";

    // ---- the coordinator: delivery ----
    RestoredDelivered, "restored-delivered", "A decision found in the log is delivered.";
    CommitAgain, "commit-again", "COMMIT is repeated until it is acknowledged.";
    WindowFull, "window-full", "A participant is owed any number of commits and sent a window of them.";
    AcknowledgedInPart, "acknowledged-in-part", "One acknowledgement is not the last: the decision is kept.";
    AcknowledgedByAll, "acknowledged-by-all", "END comes after the acknowledgements of all prepared voters.";
    AcknowledgedAgain, "acknowledged-again", "A repeated acknowledgement changes nothing.";
    ToldBeforeApplied, "told-before-applied",
        "A client whose patience ends after the decision is told it, and who has yet to apply it.";
    CommitRefused, "commit-refused", "A decided commit that is refused raises an alarm and is never given up.",
        only: "a participant has lost its disk after its vote, or refuses what it promised";
    AbortedCommitted, "aborted-committed",
        "A participant that says it aborted what is committed raises an alarm.",
        only: "a participant breaks its promise and says so";
    AcknowledgedUndecided, "acknowledged-undecided",
        "An acknowledgement of what is undecided raises an alarm and counts for nothing.",
        only: "a participant acknowledges a commit that it was not sent";

    // ---- the coordinator: one phase ----
    OnePhaseAsked, "one-phase-asked", "The only participant is permitted to commit, and then owns the outcome.";
    OnePhaseDecided, "one-phase-decided", "The only participant has committed: that is the outcome.";
    OnePhaseEarlier, "one-phase-earlier", "The only participant has committed an earlier attempt: that is the outcome.";
    OnePhaseStop, "one-phase-stop", "At the deadline the participant is asked to stop, and nothing is presumed.";
    OnePhaseStopped, "one-phase-stopped", "A participant that has stopped has aborted.";
    OnePhaseGoesOn, "one-phase-goes-on", "A participant that refuses to stop has committed; its vote will say so.";
    OnePhaseUnknown, "one-phase-unknown",
        "A client whose time is over before the participant answers is told: unknown.";
    OnePhaseNeverAsked, "one-phase-never-asked", "A permission that was never sent is aborted at once.";
    OnePhaseNeverHeard, "one-phase-never-heard",
        "Until its only participant is heard of, a repeated request's outcome is unknown.";
    OnePhaseRefused, "one-phase-refused", "A refusal of the first and only message about it is a no.";
    OnePhaseDeclined, "one-phase-declined",
        "A participant that does not take the permission votes, and the decision is the coordinator's.";
    OnePhaseReadOnly, "one-phase-read-only", "The only participant has only read: there is nothing to decide.";
    OnePhaseReported, "one-phase-reported", "A lost reply is found out at the next connect.";
    OnePhaseReportedLate, "one-phase-reported-late",
        "A one-phase commit that nobody remembers here is written, with its request_id.";
    OnePhaseReportedToRetry, "one-phase-reported-to-retry",
        "A report of an earlier attempt is the answer to its repetition.";
    OnePhaseReportedAgain, "one-phase-reported-again", "A report of what is in the log already leads to FORGET.";
    Forget, "forget", "FORGET is said when outcome and request_id are both in the coordinator's own log.";
    CommittedUnasked, "committed-unasked", "A commit in one phase without permission raises an alarm.",
        only: "a participant commits in one phase what it was asked to prepare in two";
    CommittedStrange, "committed-strange",
        "A report of a commit that this coordinator cannot have begun raises an alarm.",
        only: "a participant reports an id never given out, or the coordinator's disk was put back";
    CommittedAborted, "committed-aborted", "A report of a commit that the log says is aborted raises an alarm.",
        only: "a participant commits after it has said that it aborted";

    // ---- the coordinator: inquiries ----
    InquiryPending, "inquiry-pending", "An inquiry about what is undecided is answered PENDING.";
    InquiryDecided, "inquiry-decided", "An inquiry about a decision is answered COMMIT when that is durable.";
    InquiryEnded, "inquiry-ended", "An inquiry about what is over is answered from the log.";
    InquiryPresumed, "inquiry-presumed", "Unknown, of this slot, no epoch above mine, the same log: ABORT.";
    InquiryOfAnotherSlot, "inquiry-of-another-slot", "An inquiry about another slot is answered NOT_OWNER.",
        only: "a participant asks the coordinator of another slot, as when an address was given to another one";
    InquiryOfAnotherLog, "inquiry-of-another-log",
        "What was prepared under another log: NO_INFORMATION, and an alarm.",
        only: "the coordinator has lost its disk and begins with an empty one";
    InquiryAboveEpoch, "inquiry-above-epoch", "An inquiry about an epoch above mine is answered RETRY.",
        only: "the coordinator's disk was put back from a copy";

    // ---- the participant: fencing ----
    StaleEpoch, "stale-epoch", "A message of an epoch that is over is refused.";
    AnotherSlot, "another-slot", "A message about a transaction of another slot than its sender's is refused.",
        only: "a coordinator speaks for a slot that is not its own";
    AnotherEpoch, "another-epoch",
        "BEGIN and PREPARE are accepted only for the current epoch of the slot.",
        only: "a coordinator asks to prepare a transaction of an earlier epoch, or names one of a later epoch";
    EpochEndsSession, "epoch-ends-session", "A new epoch ends the sessions of earlier ones.";
    EpochDoomsPreparing, "epoch-dooms-preparing", "A new epoch dooms what is being prepared for an earlier one.";

    // ---- the participant: PREPARE ----
    Prepared, "prepared", "PREPARED is forced before the vote.";
    ReadOnly, "read-only", "A branch that has only read leaves no record and is released at once.";
    PrepareJoins, "prepare-joins", "A PREPARE that comes twice while the work is done is answered once it is.";
    PrepareOfPrepared, "prepare-of-prepared", "Duplicate PREPARE when prepared: the same vote again.";
    PrepareOfEnded, "prepare-of-ended", "PREPARE for a branch that is over does no work: the same vote, or no.";
    PrepareOfPassed, "prepare-of-passed", "PREPARE below lowest_live is answered no by its number alone.";
    PrepareWhileStopping, "prepare-while-stopping",
        "A participant that is stopping refuses new work, and answers what it knows as before.";
    PrepareWithoutWork, "prepare-without-work",
        "PREPARE that carries no work, for a transaction without work here: no.";
    DoomedPrepared, "doomed-prepared",
        "A branch that was doomed while its resource prepared votes no, and the resource aborts.";
    DoomedReadOnly, "doomed-read-only", "A branch that was doomed votes no even if it has only read.";
    FinishedForgotten, "finished-forgotten", "Finished ids are forgotten when lowest_live has passed them.";

    // ---- the participant: one phase ----
    OnePhaseCommit, "one-phase-commit", "Outcome, result and request_id of a one-phase commit are forced together.";
    OnePhaseRepeated, "one-phase-repeated", "PREPARE for what was committed in one phase: committed, again.";
    Followed, "followed", "An attempt whose request an earlier one is at work for, or has committed, follows it.",
        only: "a participant says what it has committed in one phase while an earlier attempt is still at work";
    FollowedToCommit, "followed-to-commit", "A follower is told that the earlier attempt committed.",
        only: "a participant says what it has committed in one phase while an earlier attempt is still at work";
    FollowedToAbort, "followed-to-abort", "A follower of an attempt that ended without a commit is a no.",
        only: "a participant refuses a one-phase request that it carries out all the same";
    DoomedReplaced, "doomed-replaced", "A doomed attempt stands in no later one's way.",
        only: "a participant says what it has committed in one phase while an earlier attempt is still at work";
    StopRefused, "stop-refused", "A one-phase commit that is under way or done refuses to stop.";
    StopOfFollower, "stop-of-follower", "Stopping a follower stops the attempt that it follows, if that can be.",
        only: "a participant says what it has committed in one phase while an earlier attempt is still at work";
    Forgotten, "forgotten", "A one-phase commit is kept until it is to be forgotten.";

    // ---- the participant: COMMIT ----
    CommitOfPrepared, "commit-of-prepared", "COMMIT for a prepared branch commits it.";
    CommitJoins, "commit-joins", "COMMIT that comes twice while the branch commits is acknowledged once it has.";
    CommitOfCommitted, "commit-of-committed", "COMMIT for a committed branch is acknowledged, when that is durable.";
    CommitOfForgotten, "commit-of-forgotten",
        "COMMIT for what may be a forgotten branch is acknowledged if the incarnation is the one that voted.";
    CommitOfLost, "commit-of-lost",
        "COMMIT for a branch that another incarnation voted for: DATA LOSS, refused.",
        only: "the participant has lost its disk after its vote";
    CommitOfUnprepared, "commit-of-unprepared",
        "COMMIT for an unprepared branch, or one that was never here, is refused, with an alarm.",
        only: "a coordinator commits without this participant's vote";
    CommitOfAborted, "commit-of-aborted", "COMMIT for an aborted branch is refused, with an alarm.",
        only: "a coordinator commits what this participant voted no to, or was told to abort";
    ResourceFailed, "resource-failed", "A decision that the resource cannot carry out now is tried again.";
    ResourceLost, "resource-lost", "A resource that does not know what it prepared raises an alarm.",
        only: "the resource loses a branch that it has prepared";

    // ---- the participant: ABORT ----
    AbortOfUnknown, "abort-of-unknown", "ABORT for an unknown branch is remembered: its PREPARE may still come.";
    AbortOfSession, "abort-of-session", "ABORT ends a session.";
    AbortOfPreparing, "abort-of-preparing", "ABORT dooms what is being prepared.";
    AbortOfPrepared, "abort-of-prepared", "ABORT for a prepared branch aborts it, and nothing is forced.";
    AbortOfAborted, "abort-of-aborted", "ABORT for an aborted branch is answered again.";
    AbortOfCommitted, "abort-of-committed", "ABORT for a committed branch raises an alarm and undoes nothing.",
        only: "a coordinator aborts what it has committed";
    SessionIdle, "session-idle", "A session whose transaction is out of time aborts on its own.";
    SessionGivenUp, "session-given-up", "Before its vote a branch may be aborted by its own participant.";

    // ---- the participant: in doubt ----
    RestoredInDoubt, "restored-in-doubt", "A prepared branch found in the log is in doubt, and asks.";
    ResourceUnvoted, "resource-unvoted",
        "What the resource holds prepared and the log does not know, or knows to be aborted, is aborted.",
        only: "the resource keeps its prepared branches in a storage of its own, which the simulated one does not";
    Inquired, "inquired", "A branch in doubt asks its coordinator.";
    InquiredAtConnect, "inquired-at-connect", "A branch in doubt asks at once when a session begins.";
    PeersInquired, "peers-inquired", "When the coordinator is silent the peers that PREPARE named are asked.";
    Blocked, "blocked", "In doubt with a silent coordinator: it waits, and says so.";
    AnsweredCommit, "answered-commit", "The coordinator's answer COMMIT is carried out.";
    AnsweredAbort, "answered-abort", "The coordinator's answer ABORT is carried out.";
    AnsweredPending, "answered-pending", "PENDING: it goes on waiting.";
    AnsweredRetry, "answered-retry", "RETRY: it asks again.";
    AnsweredNothing, "answered-nothing", "NOT_OWNER and NO_INFORMATION end nothing: it is blocked, and says so.",
        only: "the coordinator has lost its disk, or its address was given to another one";
    AnsweredLate, "answered-late", "An answer for a branch that is not in doubt any more changes nothing.";
    PeerAnsweredCommit, "peer-answered-commit", "A peer that has committed is believed.";
    PeerAnsweredAbort, "peer-answered-abort", "A peer that has aborted is believed.";
    PeerAnsweredNothing, "peer-answered-nothing", "A peer that gives no information changes nothing.";
    PeerOfAnother, "peer-of-another", "The answer of one that PREPARE did not name is not heard.",
        only: "somebody answers an inquiry that he was not asked";

    // ---- the participant: asked by a peer ----
    PeerAsksUnknown, "peer-asks-unknown", "A peer that does not know the id gives no information.";
    PeerAsksSession, "peer-asks-session", "A peer in a session aborts durably, then answers ABORT.";
    PeerAsksPreparing, "peer-asks-preparing", "A peer that is preparing forces its abort, then answers ABORT.";
    PeerAsksPrepared, "peer-asks-prepared", "A peer that is prepared itself gives no information.";
    PeerAsksCommitted, "peer-asks-committed", "A peer that has committed, or is committing, answers COMMIT.";
    PeerAsksAborted, "peer-asks-aborted", "A peer that has aborted answers ABORT when that is durable.";
    PeerAsksReadOnly, "peer-asks-read-only", "A peer that has only read gives no information.";

    // ---- three-phase commit: the votes ----
    ThreeVoted, "three-voted",
        "A prepared vote is forced with its ballots: waiting, promised 1, accepted 0.";
    ThreeReadOnlyVoted, "three-read-only-voted",
        "A read-only voter releases its resources at once, and is a voting site like the others.";
    ThreeVotedAgain, "three-voted-again",
        "Duplicate PREPARE at a voting site: the same vote again, when that is durable.";
    ThreeVotedWhileAborting, "three-voted-while-aborting",
        "Duplicate PREPARE at a site that is carrying an abort out: the same vote; a no would acknowledge the abort.";
    ThreeNoForced, "three-no-forced", "A no is on the participant's disk before it is said.";
    ThreePrepareRefused, "three-prepare-refused",
        "A PREPARE that gives this participant no voice, or another's, is refused.",
        only: "a coordinator names the voting sites wrongly, or a participant loses its disk before the PREPARE comes";
    ThreeLogUnknown, "three-log-unknown",
        "Nobody is asked before the log of every participant is known: PREPARE names them.";
    ThreeOnlyCalled, "three-only-called",
        "A participant that serves no sessions cannot be a voting site: abort.",
        only: "a client names a participant that can only be called";

    // ---- three-phase commit: the first ballot ----
    ThreePreCommitted, "three-pre-committed",
        "All prepared: the coordinator's own move is forced, with the request_id, before PRE_COMMIT.";
    ThreePreCommitCalled, "three-pre-commit-called", "The resource hears of a move towards commit.";
    ThreeQuorumMoved, "three-quorum-moved",
        "Acknowledgements of a move from a quorum are the decision.";
    ThreeClientTold, "three-client-told",
        "The client is answered when a quorum has moved, whatever the coordinator's own disk does.";
    ThreeClientNotTold, "three-client-not-told",
        "A client whose time is over while a quorum is missing is told that nothing is known, never more.";
    ThreeLedAgain, "three-led-again",
        "Without a quorum of acknowledgements the coordinator repeats its order, waits, and says for whom.";
    ThreeAbortForced, "three-abort-forced",
        "Any no, and every other end of undecided votes: aborted is forced before ABORT is said.";
    ThreeAbortWaits, "three-abort-waits",
        "A client that wants to abort what has been pre-committed is told how it ends.";
    ThreeAskedWhilePreparing, "three-asked-while-preparing",
        "A coordinator that is asked to join while votes are missing aborts for good.";
    ThreeCoordinatorInitial, "three-coordinator-initial",
        "A coordinator that does not remember has not moved: it forces aborted and says so.";
    ThreeYetToBe, "three-yet-to-be",
        "An order about an id that has not been given out leads to nothing.",
        only: "somebody makes an id up, or the coordinator's disk was put back from a copy";
    ThreeOfAnotherLog, "three-of-another-log",
        "An order that is meant for another log of the coordinator leads to nothing.",
        only: "the coordinator has lost its disk and begins with an empty one";

    // ---- three-phase commit: a site is led ----
    ThreeJoined, "three-joined",
        "A site joins a ballot that is not below the one it has joined, and says where it stands.";
    ThreeRefused, "three-refused",
        "An order of a ballot below the one that was joined is refused, with the higher one.";
    ThreeInitialAborts, "three-initial-aborts",
        "A site that has not voted forces aborted when somebody leads.";
    ThreeUnknownAborts, "three-unknown-aborts",
        "A site that has never heard of the id has not voted: it forces aborted.";
    ThreePassedAborts, "three-passed-aborts",
        "One that can never be asked for its vote any more is aborted by its number alone.";
    ThreeAbortForcedHere, "three-abort-forced-here",
        "ABORT for a branch that has not voted is acknowledged when it is on the disk.";
    ThreeMoveOfForgotten, "three-move-of-forgotten",
        "PRE_COMMIT for an unknown transaction leads to nothing: everybody had been told.";
    ThreeMoveOfUnvoted, "three-move-of-unvoted",
        "PRE_COMMIT for a branch that has not voted raises an alarm.",
        only: "a leader moves sites towards commit without every vote";
    ThreeAnotherLog, "three-another-log",
        "An order that is meant for another log of the participant leads to nothing, and raises an alarm.",
        only: "the participant has lost its disk after its vote";
    ThreeStranger, "three-stranger",
        "Whoever has no voice in a transaction, or leads a ballot that is not his own, is not heard.",
        only: "somebody speaks for a site that is not his own";

    // ---- three-phase commit: a site leads ----
    ThreeAsksCoordinator, "three-asks-coordinator",
        "A voting site whose patience ends asks its coordinator first.";
    ThreeAnswered, "three-answered", "The coordinator's answer is the decision.";
    ThreeAnsweredPending, "three-answered-pending",
        "PENDING and RETRY: the coordinator is there, and nobody leads an election.";
    ThreeAnsweredNothing, "three-answered-nothing",
        "NOT_OWNER and NO_INFORMATION: the next wait ends in an election.",
        only: "the coordinator has lost its disk, or its address was given to another one";
    ThreeElected, "three-elected",
        "A timeout begins an election, above every ballot that was seen, and decides nothing.";
    ThreeHighestCounts, "three-highest-counts",
        "Of moves in both directions the one in the highest ballot counts.";
    ThreeMovesToCommit, "three-moves-to-commit",
        "The highest ballot among a quorum of answers was a move towards commit: everybody is moved there.";
    ThreeMovesToAbort, "three-moves-to-abort",
        "Nobody in a quorum has moved, or the last has moved towards abort: everybody is moved there.";
    ThreeKnownCommitted, "three-known-committed", "Any site that knows of a commit: committed.";
    ThreeUnvoted, "three-unvoted",
        "Any site that does not know the transaction and never will: aborted.";
    ThreeKnownAborted, "three-known-aborted", "Any site that has aborted: aborted.";
    ThreePreempted, "three-preempted", "A leader that hears of a higher ballot waits for its end.";
    ThreeWaits, "three-waits",
        "With fewer answers than a quorum it waits, and says for whom. It never aborts for lack of answers.";
    ThreeNoBallotLeft, "three-no-ballot-left",
        "A site that has heard of the last ballot there is leads no more: it asks its coordinator, and says so.",
        only: "a voting site makes up the last ballot there is";
    ThreeReportPassed, "three-report-passed",
        "An answer to another ballot, or after the decision, changes nothing.";

    // ---- three-phase commit: the decision ----
    ThreeCommitted, "three-committed",
        "The coordinator decides commit with a quorum, or learns it from a site.";
    ThreeAborted, "three-aborted",
        "The coordinator decides abort with a quorum, or learns it from a site.";
    ThreeCommitTold, "three-commit-told",
        "COMMIT is carried out by a voting site, wherever it stands.";
    ThreeToldByLeader, "three-told-by-leader",
        "The decision of whoever led a termination is carried out, by the coordinator as well.";
    ThreeToldAgain, "three-told-again",
        "A decision that is told again is acknowledged again, when it is durable.";
    ThreeContradiction, "three-contradiction",
        "Two sites that know of different decisions raise an alarm, and nothing is undone.",
        only: "a site breaks the protocol, or a disk is put back from a copy";
    ThreeDelivers, "three-delivers",
        "Who has found the decision out, or is not permitted to forget it for long, tells everybody.";
    ThreeLearnedFromAcknowledgement, "three-learned-from-acknowledgement",
        "A coordinator that does not remember the decision learns it from an acknowledgement.";
    ThreeAcknowledged, "three-acknowledged", "A site that has the decision on its disk says so.";
    ThreeReleases, "three-releases",
        "Who has heard of every site that it has the decision permits all to forget it.";
    ThreeReleasedByOther, "three-released-by-other",
        "A coordinator takes the word of a leader that everybody has the decision.";
    ThreeForgotten, "three-forgotten",
        "A site forgets when it is permitted to; a late PREPARE finds the id until it is passed.";
    ThreeDecidedOfForgotten, "three-decided-of-forgotten",
        "The decision of what may be a forgotten commit is acknowledged if the log is the one that voted.";

    // ---- three-phase commit: restarts ----
    ThreeRestoredVoted, "three-restored-voted",
        "A voting site found in the participant's log asks, and then leads, with the ballots it had joined.";
    ThreeRestoredDecided, "three-restored-decided",
        "A decision found in the participant's log is kept until it is permitted to go.";
    ThreeRestoredVoting, "three-restored-voting",
        "A coordinator that finds itself pre-committed runs an election like anybody else.";
    ThreeRestoredDecision, "three-restored-decision",
        "A decision found in the coordinator's log, commit or abort, is delivered.";

    // ---- three-phase commit: witnesses ----
    ThreeWitnessUnasked, "three-witness-unasked",
        "A witness that has never heard of the id is waiting, in no ballot, and never initial.";
    ThreeWitnessDecided, "three-witness-decided",
        "A witness keeps the decision until everybody has it.";
    ThreeWitnessForgets, "three-witness-forgets", "A witness forgets when it is permitted to.";
    ThreeNoWitness, "three-no-witness",
        "A coordinator that is not configured as a witness gives no information.",
        only: "somebody names a coordinator as a witness that is none";
}

impl Mark {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// How it can be reached.
    #[must_use]
    pub const fn reach(self) -> Reach {
        match self.misbehaviour() {
            None => Reach::Ordinary,
            Some(_) => Reach::Misbehaviour,
        }
    }
}

/// How often each mark was reached, in the order of [`Mark::ALL`].
pub type Counts = [u64; Mark::COUNT];

/// True when this build counts.
pub const RECORDING: bool = cfg!(feature = "marks");

#[cfg(feature = "marks")]
thread_local! {
    static COUNTS: std::cell::Cell<Counts> = const { std::cell::Cell::new([0; Mark::COUNT]) };
}

/// Notes that the branch of a rule is taken. Nothing, unless the feature `marks` is on.
#[inline]
pub fn mark(mark: Mark) {
    #[cfg(feature = "marks")]
    COUNTS.with(|counts| {
        let cells: &std::cell::Cell<[u64]> = counts;
        let cell = &cells.as_slice_of_cells()[mark as usize];
        cell.set(cell.get() + 1);
    });
    #[cfg(not(feature = "marks"))]
    let _ = mark;
}

/// What this thread has reached since the last [`take`]; all 0 unless the feature `marks` is on.
#[must_use]
pub fn counts() -> Counts {
    #[cfg(feature = "marks")]
    return COUNTS.get();
    #[cfg(not(feature = "marks"))]
    [0; Mark::COUNT]
}

/// What this thread has reached since the last call, and begins anew.
pub fn take() -> Counts {
    #[cfg(feature = "marks")]
    return COUNTS.replace([0; Mark::COUNT]);
    #[cfg(not(feature = "marks"))]
    [0; Mark::COUNT]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ReadOnlyLeftOut` as `read-only-left-out`.
    fn kebab(variant: &str) -> String {
        let mut name = String::new();
        for letter in variant.chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.extend(letter.to_lowercase());
        }
        name
    }

    #[test]
    fn names_are_those_of_the_variants() {
        for (index, mark) in Mark::ALL.iter().enumerate() {
            assert_eq!(*mark as usize, index);
            assert_eq!(mark.name(), kebab(&format!("{mark:?}")));
        }
    }

    #[test]
    fn what_is_reached_is_counted_if_this_build_counts() {
        take();
        mark(Mark::Decided);
        mark(Mark::Decided);
        let once = u64::from(RECORDING);
        assert_eq!(counts()[Mark::Decided as usize], 2 * once);
        assert_eq!(take().iter().sum::<u64>(), 2 * once);
        assert_eq!(counts().iter().sum::<u64>(), 0);
    }
}
