//! Every deliberate fault is caught by the property that is there for it: a checker that has never complained
//! proves nothing.

use handfast_model::check::check;
use handfast_model::configurations;
use handfast_model::lies::Lie;
use handfast_model::properties::{ATOMIC, ENDLESS, ENDS, KEPT, ONCE, STABLE, TOLD, VALID};

const CAUGHT: &[(Lie, &str, &[&str])] = &[
    (Lie::CoordinatorActsEarly, "fault-free", &[TOLD]),
    (Lie::ParticipantActsEarly, "fault-free", &[VALID, KEPT]),
    (Lie::ForgetsEarly, "fault-free", &[KEPT]),
    (Lie::PresumesUndecided, "coordinator-crash", &[VALID, ATOMIC, STABLE]),
    (Lie::StartsWithoutLog, "coordinator-crash", &[ENDS, ENDLESS]),
    (Lie::KeepsEpoch, "retry", &[STABLE]),
    (Lie::LooksNothingUp, "coordinator-crash", &[STABLE]),
    (Lie::DoubtAborts, "coordinator-crash", &[STABLE, VALID, ATOMIC]),
    (Lie::PeerInDoubtAnswersAbort, "coordinator-crash", &[VALID, ATOMIC, STABLE]),
    (Lie::StrangerAnswersAbort, "coordinator-crash", &[VALID, ATOMIC, STABLE]),
    (Lie::PeerPromisesNothing, "votes", &[VALID, ATOMIC, STABLE]),
    (Lie::ForgetsPrepared, "one-participant-crash", &[ENDS, VALID]),
    (Lie::RetryWithoutName, "retry", &[ONCE]),
    (Lie::ReportWithoutName, "one-phase", &[ONCE]),
    (Lie::ReportsEarly, "one-phase", &[TOLD]),
    (Lie::ReportsNothing, "one-phase", &[ENDS, ENDLESS]),
    (Lie::ForgetsBeforeLogged, "one-phase", &[ONCE, TOLD]),
];

#[test]
fn every_fault_is_caught_by_its_property() {
    for lie in Lie::ALL {
        let Some((_, name, properties)) = CAUGHT.iter().find(|(known, ..)| known == lie) else {
            panic!("nothing is said to catch {lie:?}");
        };
        let Some(bounds) = configurations::named(name) else {
            panic!("no configuration has the name {name}");
        };
        let found: Vec<_> = check(&bounds, Some(*lie), 1).violations.into_keys().collect();
        assert!(
            found.iter().any(|property| properties.contains(property)),
            "{lie:?} in {name} breaks {found:?}, and should break one of {properties:?}"
        );
    }
}
