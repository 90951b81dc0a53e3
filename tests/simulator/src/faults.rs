//! The kinds of faults, and how often each has been injected.

macro_rules! faults {
    ($($variant:ident, $what:literal;)*) => {
        /// A kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Fault {
            $(#[doc = $what] $variant,)*
        }

        impl Fault {
            /// All kinds.
            pub const ALL: &'static [Fault] = &[$(Fault::$variant),*];

            /// What it is, in a few words.
            #[must_use]
            pub fn what(self) -> &'static str {
                match self { $(Fault::$variant => $what),* }
            }
        }
    };
}

faults! {
    CoordinatorCrash, "coordinator killed";
    ParticipantCrash, "participant killed";
    WitnessCrash, "witness killed";
    LeaderKilled, "killed as it leads an election or tells a decision";
    LongAway, "coordinator away for long";
    CrashAfterSync, "killed behind a sync, before a word of it";
    UnsyncedKept, "batch that was not synced kept by the disk";
    UnsyncedLost, "batch that was not synced lost";
    FailedSync, "sync failed";
    DiskFull, "disk full";
    SlowDisk, "disk slow";
    SessionCut, "session cut";
    MessageLost, "message lost";
    MessageDuplicated, "message duplicated";
    MessageLate, "message late, behind later ones";
    Partition, "processes cut off from each other";
    OneWayCut, "messages lost in one direction";
    Pause, "process stopped for a while";
    ClockJump, "wall clock set";
    QueueFull, "queue to a participant full";
    SlowResource, "resource slow";
    ClientGone, "client gone for good";
    ImpatientClient, "client asks again before it was answered";
    DiskReplaced, "participant's disk replaced by an empty one";
    Stopping, "participant takes no new work, and ends";
    ResourceFailed, "resource cannot do it now";
    GivenUp, "resource gives a branch up before its vote";
    ConfusedClient, "client asks for what it must not get";
}

/// How often each kind has been injected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults([u64; Fault::ALL.len()]);

impl Default for Faults {
    fn default() -> Self {
        Self([0; Fault::ALL.len()])
    }
}

impl Faults {
    /// One more.
    pub fn add(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }

    /// So many of a kind.
    #[must_use]
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// All kinds together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds another run's.
    pub fn merge(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }
}
