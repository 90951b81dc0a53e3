//! What a configuration must have shown: a model in which it never happens proves nothing.

use std::sync::atomic::{AtomicU8, Ordering};

macro_rules! marks {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Something that happens in some run.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs)] // each has its text
        pub enum Mark { $($name,)* }

        impl Mark {
            /// All of them.
            pub const ALL: &'static [Mark] = &[$(Mark::$name,)*];

            /// What it is.
            pub fn text(self) -> &'static str {
                match self { $(Mark::$name => $text,)* }
            }
        }
    };
}

marks! {
    Committed = "a client is told committed",
    Aborted = "a client is told aborted",
    Unknown = "a client is told that the outcome is unknown",
    VotedNo = "a participant votes no",
    ReadOnly = "a participant votes read-only",
    Deadline = "a deadline aborts what is undecided",
    CommitLost = "a crash loses a decision that was not durable",
    RestartDelivers = "a restarted coordinator sends the commit that it finds in its log",
    RestartPresumes = "a restarted coordinator answers an inquiry with a presumed abort",
    InquiryCommit = "a branch in doubt asks its coordinator and commits",
    InquiryAbort = "a branch in doubt asks its coordinator and aborts",
    InquiryPending = "a branch in doubt asks while the vote is still out",
    DoubtSurvives = "a participant comes back in doubt",
    DoubtResolved = "a participant that came back in doubt learns the outcome by asking",
    Redelivered = "a commit that was not acknowledged is sent again",
    AcknowledgedAgain = "a repeated commit is acknowledged from the log",
    VotedAgain = "a repeated prepare gets the same vote",
    PrepareTooLate = "a prepare that comes too late is refused",
    OldEpochRefused = "a message of a former coordinator is refused",
    LateVote = "a vote arrives after the end",
    PeerCommit = "a peer tells that it has committed",
    PeerAbort = "a peer tells that it has aborted",
    PeerPromises = "a peer that has not voted aborts first and then answers",
    Blocked = "a branch in doubt finds nobody who knows",
    RetryJoins = "a repeated request waits for the first",
    RetryFromLog = "a repeated request is answered from the log",
    RetryBegins = "a repeated request begins anew after an abort",
    OnePhase = "a participant commits in one phase",
    OnePhaseReported = "a one-phase commit whose answer was lost is reported at the connect",
    OnePhaseRetried = "the answer to a repeated request is an earlier one-phase commit",
    OnePhaseFollows = "an attempt follows an earlier one that is at work",
    StopRefused = "a one-phase commit that is under way refuses to be stopped",
    Stopped = "a one-phase commit is stopped before it began",
    Forgotten = "a one-phase commit is forgotten when the coordinator has it in its log",
    SessionEnds = "a branch that has not been asked for its vote ends by itself",
    WorkLost = "a prepare finds that the work is gone, and the vote is no",
    DatabaseReleases = "a database's branch without a vote is aborted after a restart",
    EffectRepeated = "a database is asked to commit what it has committed",
    Led = "a participant leads an election",
    CoordinatorLed = "the coordinator leads an election",
    LedToCommit = "a participant leads a transaction to its commit",
    LedToAbort = "a participant leads a transaction to its abort",
    Refused = "a site refuses a ballot below the one that it has joined",
    Unvoted = "a site that does not know the transaction says that it will never vote",
    ToldByLeader = "the coordinator is told the decision by a participant",
    Forgot = "everybody may forget a decision that is on every disk",
}

/// Which marks have been reached.
#[derive(Debug)]
pub struct Reached {
    flags: Vec<AtomicU8>,
}

impl Default for Reached {
    fn default() -> Self {
        Self { flags: Mark::ALL.iter().map(|_| AtomicU8::new(0)).collect() }
    }
}

impl Reached {
    /// It has happened.
    pub fn set(&self, mark: Mark) {
        let _ =
            self.flags[mark as usize].compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether it has happened.
    pub fn is_set(&self, mark: Mark) -> bool {
        self.flags[mark as usize].load(Ordering::Relaxed) != 0
    }

    /// True once, after it has happened: a checker that is told again at every state repeats itself.
    pub fn tell(&self, mark: Mark) -> bool {
        self.flags[mark as usize]
            .compare_exchange(1, 2, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }
}
