//! The configurations that are checked, each to the end. What each is for, and why these are enough, is in
//! the README.

use handfast_commit_core::id::Protocol;

use crate::bounds::{Bounds, Budget, Disk, Effort, Network, Party, Verdict};
use crate::marks::Mark;

const NOTHING: Budget = Budget {
    crashes: 0,
    losses: 0,
    repeats: 0,
    cuts: 0,
    early: 0,
    retries: 0,
    aborts: 0,
    elections: 0,
    expiries: 0,
};

const CRASHES: Party = Party { crashes: 1, ..Party::YES };
const SLOW: Party = Party { slow: true, ..Party::YES };

fn bounds(name: &'static str, what: &'static str, parties: Vec<Party>, network: Network) -> Bounds {
    Bounds {
        name,
        what,
        protocol: Protocol::TwoPhase,
        voted: false,
        gone: false,
        parties,
        witnesses: 0,
        network,
        disk: Disk::Slow,
        budget: NOTHING,
        interactive: false,
        returns: true,
        must_commit: false,
        marks: &[],
        states: 0,
        effort: Effort::Quick,
    }
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Bounds> {
    let mut all = calls();
    all.append(&mut links());
    all.append(&mut three_phase());
    all
}

/// The one with this name.
#[must_use]
pub fn named(name: &str) -> Option<Bounds> {
    all().into_iter().find(|bounds| bounds.name == name)
}

/// Participants that are called: messages in any order.
fn calls() -> Vec<Bounds> {
    vec![
        Bounds {
            must_commit: true,
            marks: &[Mark::Committed],
            states: 138,
            ..bounds(
                "fault-free",
                "nothing goes wrong: it commits",
                vec![Party::YES; 3],
                Network::Once,
            )
        },
        Bounds {
            budget: Budget { crashes: 1, ..NOTHING },
            marks: &[
                Mark::Committed,
                Mark::Aborted,
                Mark::Deadline,
                Mark::CommitLost,
                Mark::RestartDelivers,
                Mark::RestartPresumes,
                Mark::InquiryCommit,
                Mark::InquiryAbort,
                Mark::InquiryPending,
                Mark::AcknowledgedAgain,
                Mark::VotedAgain,
                Mark::OldEpochRefused,
                Mark::PrepareTooLate,
                Mark::PeerCommit,
                Mark::PeerAbort,
            ],
            states: 5_580,
            ..bounds(
                "coordinator-crash",
                "three participants, and the coordinator dies at every moment",
                vec![Party::YES; 3],
                Network::Ever,
            )
        },
        Bounds {
            budget: Budget { crashes: 1, ..NOTHING },
            marks: &[
                Mark::DoubtSurvives,
                Mark::DoubtResolved,
                Mark::RestartDelivers,
                Mark::RestartPresumes,
            ],
            states: 47_323,
            ..bounds(
                "one-participant-crash",
                "three participants; the coordinator and one of them die at every moment",
                vec![CRASHES, Party::YES, Party::YES],
                Network::Ever,
            )
        },
        Bounds {
            budget: Budget { crashes: 1, ..NOTHING },
            marks: &[
                Mark::DoubtSurvives,
                Mark::DoubtResolved,
                Mark::RestartDelivers,
                Mark::RestartPresumes,
            ],
            states: 28_001,
            ..bounds(
                "everybody-crashes",
                "two participants; everybody dies at every moment",
                vec![CRASHES; 2],
                Network::Ever,
            )
        },
        Bounds {
            budget: Budget { crashes: 1, ..NOTHING },
            marks: &[
                Mark::DoubtSurvives,
                Mark::DoubtResolved,
                Mark::RestartDelivers,
                Mark::RestartPresumes,
            ],
            disk: Disk::Prompt,
            effort: Effort::Full,
            states: 882_904,
            ..bounds(
                "everybody-crashes-three",
                "three participants; everybody dies at every moment",
                vec![CRASHES; 3],
                Network::Ever,
            )
        },
        Bounds {
            budget: Budget { crashes: 1, ..NOTHING },
            marks: &[
                Mark::DoubtSurvives,
                Mark::DoubtResolved,
                Mark::RestartDelivers,
                Mark::RestartPresumes,
            ],
            effort: Effort::Long,
            states: 4_297_652,
            ..bounds(
                "everybody-crashes-slowly",
                "the same, and also between a record and what waits for it",
                vec![CRASHES; 3],
                Network::Ever,
            )
        },
        Bounds {
            budget: Budget { crashes: 1, ..NOTHING },
            marks: &[Mark::VotedNo, Mark::ReadOnly, Mark::Committed, Mark::Aborted],
            states: 47_705,
            ..bounds(
                "votes",
                "one that votes prepared, one that may say no, one that may have only read",
                vec![
                    Party::YES,
                    Party { verdicts: &[Verdict::Yes, Verdict::No], ..SLOW },
                    Party { verdicts: &[Verdict::Yes, Verdict::ReadOnly], ..SLOW },
                ],
                Network::Ever,
            )
        },
        Bounds {
            returns: false,
            budget: Budget { crashes: 1, ..NOTHING },
            marks: &[Mark::Blocked, Mark::PeerCommit, Mark::PeerAbort, Mark::PeerPromises],
            states: 20_013,
            ..bounds(
                "coordinator-gone",
                "the coordinator dies and stays away: the participants ask each other",
                vec![SLOW, SLOW, Party::YES],
                Network::Ever,
            )
        },
        Bounds {
            interactive: true,
            budget: Budget { crashes: 1, ..NOTHING },
            marks: &[Mark::SessionEnds, Mark::WorkLost, Mark::PeerPromises, Mark::Committed],
            states: 14_097,
            ..bounds(
                "sessions",
                "the work is done before the client commits, and may be lost or given up until the vote",
                vec![CRASHES, SLOW],
                Network::Ever,
            )
        },
        Bounds {
            budget: Budget { crashes: 1, retries: 1, ..NOTHING },
            marks: &[Mark::RetryJoins, Mark::RetryFromLog, Mark::RetryBegins],
            states: 42_409,
            ..bounds(
                "retry",
                "two participants; the coordinator dies and the client repeats its request",
                vec![Party::YES; 2],
                Network::Ever,
            )
        },
        Bounds {
            budget: Budget { crashes: 1, retries: 1, ..NOTHING },
            marks: &[Mark::RetryJoins, Mark::RetryFromLog, Mark::RetryBegins, Mark::DoubtResolved],
            effort: Effort::Full,
            states: 541_031,
            ..bounds(
                "retry-crash",
                "the same, and a participant dies as well",
                vec![CRASHES, Party::YES],
                Network::Ever,
            )
        },
        Bounds {
            budget: Budget { crashes: 1, aborts: 1, ..NOTHING },
            marks: &[Mark::Committed, Mark::Aborted, Mark::RestartPresumes],
            states: 1_156,
            ..bounds(
                "client-aborts",
                "the client changes its mind at every moment, and the coordinator dies",
                vec![Party::YES; 2],
                Network::Ever,
            )
        },
        Bounds {
            budget: Budget { crashes: 1, expiries: 1, ..NOTHING },
            marks: &[Mark::AcknowledgedAgain, Mark::RestartDelivers],
            states: 9_156,
            ..bounds(
                "expiry",
                "the coordinator dies, and forgets what has ended",
                vec![CRASHES, Party::YES],
                Network::Ever,
            )
        },
        Bounds {
            budget: Budget { crashes: 1, ..NOTHING },
            marks: &[Mark::DatabaseReleases, Mark::EffectRepeated],
            states: 8_535,
            ..bounds(
                "database",
                "a participant before a database of its own, which survives it",
                vec![Party { external: true, slow: true, ..CRASHES }, Party::YES],
                Network::Ever,
            )
        },
        Bounds {
            budget: Budget { losses: 1, repeats: 1, early: 1, ..NOTHING },
            marks: &[Mark::Committed, Mark::Aborted, Mark::Redelivered, Mark::InquiryCommit],
            states: 37_298,
            ..bounds(
                "lossy",
                "messages lost, repeated and late, one by one: only timers bring the lost ones back",
                vec![Party::YES; 2],
                Network::Once,
            )
        },
        Bounds {
            budget: Budget { crashes: 1, losses: 1, repeats: 1, early: 1, ..NOTHING },
            marks: &[Mark::Committed, Mark::Aborted, Mark::Redelivered, Mark::RestartDelivers],
            effort: Effort::Full,
            states: 340_189,
            ..bounds(
                "lossy-crash",
                "the same, and the coordinator dies",
                vec![Party::YES; 2],
                Network::Once,
            )
        },
    ]
}

/// Participants that keep a link: messages in order, or not at all.
fn links() -> Vec<Bounds> {
    let one_phase = Party { one_phase: true, ..CRASHES };
    let may_refuse = &[Verdict::Yes, Verdict::No];
    vec![
        Bounds {
            budget: Budget { crashes: 1, cuts: 1, ..NOTHING },
            marks: &[
                Mark::LateVote,
                Mark::DoubtResolved,
                Mark::InquiryCommit,
                Mark::InquiryAbort,
                Mark::AcknowledgedAgain,
            ],
            effort: Effort::Full,
            states: 1_221_636,
            ..bounds(
                "links",
                "sessions are cut, and everybody dies",
                vec![CRASHES; 2],
                Network::Links,
            )
        },
        Bounds {
            budget: Budget { crashes: 1, cuts: 1, early: 1, retries: 1, ..NOTHING },
            marks: &[
                Mark::OnePhase,
                Mark::OnePhaseReported,
                Mark::OnePhaseRetried,
                Mark::Forgotten,
                Mark::Unknown,
                Mark::VotedNo,
                Mark::RetryBegins,
            ],
            states: 144_388,
            ..bounds(
                "one-phase",
                "the only participant commits alone; everybody dies and the client repeats its request",
                vec![Party { verdicts: may_refuse, ..one_phase }],
                Network::Links,
            )
        },
        Bounds {
            budget: Budget { crashes: 1, cuts: 1, retries: 1, aborts: 1, ..NOTHING },
            marks: &[Mark::OnePhaseFollows, Mark::StopRefused, Mark::Stopped],
            states: 19_764,
            ..bounds(
                "one-phase-stop",
                "the only participant commits alone, takes its time, and the client changes its mind",
                vec![Party { slow: true, crashes: 0, ..one_phase }],
                Network::Links,
            )
        },
        Bounds {
            budget: Budget { crashes: 1, cuts: 1, early: 1, ..NOTHING },
            marks: &[Mark::Committed, Mark::Unknown, Mark::Stopped, Mark::RestartDelivers],
            states: 29_642,
            ..bounds(
                "one-phase-declined",
                "the only participant does not take the permission, and the decision is the coordinator's",
                vec![CRASHES],
                Network::Links,
            )
        },
    ]
}

/// Three-phase commit: participants lead, and so does the coordinator when it comes back.
fn three_phase() -> Vec<Bounds> {
    let leads = Party { elections: 1, ..Party::YES };
    let of = |bounds: Bounds| Bounds { protocol: Protocol::ThreePhase, ..bounds };
    vec![
        of(Bounds {
            must_commit: true,
            marks: &[Mark::Committed, Mark::Forgot],
            states: 2_773,
            ..bounds(
                "three-phase",
                "nothing goes wrong: it commits",
                vec![Party::YES; 3],
                Network::Once,
            )
        }),
        of(Bounds {
            marks: &[
                Mark::Led,
                Mark::LedToCommit,
                Mark::LedToAbort,
                Mark::Unvoted,
                Mark::ToldByLeader,
            ],
            states: 5_197,
            ..bounds(
                "three-phase-one-leader",
                "two participants, one of which leads at every moment",
                vec![leads, Party::YES],
                Network::Ever,
            )
        }),
        of(Bounds {
            disk: Disk::Prompt,
            marks: &[
                Mark::Committed,
                Mark::Aborted,
                Mark::LedToCommit,
                Mark::LedToAbort,
                Mark::Refused,
                Mark::ToldByLeader,
                Mark::Forgot,
            ],
            states: 36_326,
            ..bounds(
                "three-phase-two-leaders",
                "two participants, both of which lead at every moment",
                vec![leads; 2],
                Network::Ever,
            )
        }),
        of(Bounds {
            budget: Budget { crashes: 1, elections: 1, ..NOTHING },
            disk: Disk::Prompt,
            marks: &[
                Mark::Committed,
                Mark::Aborted,
                Mark::CoordinatorLed,
                Mark::LedToCommit,
                Mark::LedToAbort,
                Mark::RestartDelivers,
                Mark::RestartPresumes,
                Mark::Refused,
            ],
            states: 21_380,
            ..bounds(
                "three-phase-coordinator-crash",
                "the coordinator dies at every moment and leads when it is back, against a participant",
                vec![leads, Party::YES],
                Network::Ever,
            )
        }),
        of(Bounds {
            voted: true,
            disk: Disk::PromptCoordinator,
            marks: &[Mark::DoubtSurvives, Mark::LedToCommit, Mark::LedToAbort],
            states: 67_340,
            ..bounds(
                "three-phase-promise",
                "everybody has voted; one leads, and the other dies between its records and what waits for them",
                vec![leads, CRASHES],
                Network::Ever,
            )
        }),
        of(Bounds {
            disk: Disk::Prompt,
            marks: &[Mark::VotedNo, Mark::ReadOnly, Mark::Committed, Mark::Aborted],
            states: 5_430,
            ..bounds(
                "three-phase-votes",
                "one that leads, one that may say no or may have only read",
                vec![
                    leads,
                    Party { verdicts: &[Verdict::Yes, Verdict::No, Verdict::ReadOnly], ..SLOW },
                ],
                Network::Ever,
            )
        }),
        of(Bounds {
            budget: Budget { crashes: 1, elections: 1, retries: 1, ..NOTHING },
            disk: Disk::Prompt,
            voted: true,
            marks: &[Mark::RetryJoins],
            states: 2_645,
            ..bounds(
                "three-phase-retry",
                "everybody has voted; the coordinator dies and the client repeats its request",
                vec![Party::YES; 2],
                Network::Ever,
            )
        }),
        of(Bounds {
            witnesses: 1,
            disk: Disk::Prompt,
            marks: &[Mark::LedToCommit, Mark::LedToAbort, Mark::Committed, Mark::Forgot],
            states: 18_306,
            ..bounds(
                "three-phase-witness",
                "two participants and a witness; one participant leads at every moment",
                vec![leads, Party::YES],
                Network::Ever,
            )
        }),
        of(Bounds {
            budget: Budget { crashes: 1, ..NOTHING },
            returns: false,
            disk: Disk::Prompt,
            marks: &[Mark::Unvoted, Mark::LedToCommit, Mark::LedToAbort],
            states: 2_803,
            ..bounds(
                "three-phase-alone",
                "the coordinator dies at every moment and stays away: one of two participants leads",
                vec![leads, Party::YES],
                Network::Ever,
            )
        }),
        of(Bounds {
            voted: true,
            gone: true,
            returns: false,
            marks: &[Mark::LedToCommit, Mark::LedToAbort, Mark::Refused],
            states: 4_172,
            ..bounds(
                "three-phase-gone",
                "the coordinator is gone when all have voted: two of three participants lead",
                vec![leads, leads, Party::YES],
                Network::Ever,
            )
        }),
        of(Bounds {
            disk: Disk::Prompt,
            marks: &[Mark::DoubtSurvives, Mark::LedToCommit, Mark::LedToAbort, Mark::Refused],
            effort: Effort::Full,
            states: 149_766,
            ..bounds(
                "three-phase-participant-crash",
                "two leaders, one of which dies at every moment",
                vec![Party { crashes: 1, ..leads }, leads],
                Network::Ever,
            )
        }),
        of(Bounds {
            disk: Disk::Prompt,
            voted: true,
            gone: true,
            returns: false,
            marks: &[Mark::LedToCommit, Mark::LedToAbort, Mark::Refused],
            effort: Effort::Full,
            states: 312_290,
            ..bounds(
                "three-phase-five-sites",
                "the same with four participants: two sites can have moved, and a quorum not have heard of it",
                vec![leads, leads, Party::YES, Party::YES],
                Network::Ever,
            )
        }),
        of(Bounds {
            budget: Budget { crashes: 1, elections: 1, ..NOTHING },
            disk: Disk::Prompt,
            marks: &[Mark::Committed, Mark::Aborted, Mark::CoordinatorLed],
            effort: Effort::Long,
            states: 1_207_814,
            ..bounds(
                "three-phase-three-leaders",
                "two participants lead, and the coordinator, which dies at every moment",
                vec![leads; 2],
                Network::Ever,
            )
        }),
    ]
}
