//! Deliberate faults in the hosts. Each breaks one rule of the protocol, and each must be caught: a checker
//! that has never complained proves nothing.

macro_rules! lies {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// One fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Lie { $($(#[doc = $doc])* $name,)* }

        impl Lie {
            /// All of them.
            pub const ALL: &'static [Lie] = &[$(Lie::$name,)*];
        }
    };
}

lies! {
    /// The coordinator acts before its record is durable.
    CoordinatorActsEarly,
    /// A participant acts before its record is durable.
    ParticipantActsEarly,
    /// The coordinator takes the first acknowledgement for the last.
    ForgetsEarly,
    /// The coordinator presumes the abort of what it has not decided.
    PresumesUndecided,
    /// The coordinator starts again without looking into its log.
    StartsWithoutLog,
    /// The coordinator starts again without raising its epoch.
    KeepsEpoch,
    /// The log's answers are left out: what has ended is not found.
    LooksNothingUp,
    /// A branch in doubt takes a time-out for an abort.
    DoubtAborts,
    /// A peer in doubt itself answers that it has aborted.
    PeerInDoubtAnswersAbort,
    /// A peer that knows nothing of a transaction answers that it has aborted.
    StrangerAnswersAbort,
    /// A peer that has not voted answers that it has aborted, and votes.
    PeerPromisesNothing,
    /// A participant starts again without its prepared records.
    ForgetsPrepared,
    /// A repeated request comes without its name.
    RetryWithoutName,
    /// A one-phase commit is reported without the name of its request.
    ReportWithoutName,
    /// One-phase commits are reported before they are durable.
    ReportsEarly,
    /// A one-phase commit is not reported at all.
    ReportsNothing,
    /// The coordinator says forget before its own record is durable.
    ForgetsBeforeLogged,
}
