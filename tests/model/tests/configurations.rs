//! Every configuration, checked to the end: no property is broken, everything that should be seen is seen, and
//! there are as many states as are written down.
//!
//! `HANDFAST_MODEL=full` checks those of a minute as well, `HANDFAST_MODEL=long` all of them.

use handfast_model::bounds::Effort;
use handfast_model::check::check;
use handfast_model::configurations;

fn holds(name: &str) {
    let Some(bounds) = configurations::named(name) else {
        panic!("no configuration has the name {name}");
    };
    let wanted = std::env::var("HANDFAST_MODEL").ok().and_then(|name| Effort::named(&name));
    if bounds.effort > wanted.unwrap_or(Effort::Quick) {
        println!("{name} is not checked without HANDFAST_MODEL=full, or long");
        return;
    }
    if let Some(failure) = check(&bounds, None, 1).failure(&bounds) {
        panic!("{failure}");
    }
}

macro_rules! configurations {
    ($($test:ident = $name:literal,)*) => {
        $(
            #[test]
            fn $test() {
                holds($name);
            }
        )*

        #[test]
        fn every_configuration_has_its_test() {
            let tested = [$($name),*];
            for bounds in configurations::all() {
                assert!(tested.contains(&bounds.name), "{} has no test", bounds.name);
            }
        }
    };
}

configurations! {
    fault_free = "fault-free",
    coordinator_crash = "coordinator-crash",
    one_participant_crash = "one-participant-crash",
    everybody_crashes = "everybody-crashes",
    everybody_crashes_three = "everybody-crashes-three",
    everybody_crashes_slowly = "everybody-crashes-slowly",
    votes = "votes",
    coordinator_gone = "coordinator-gone",
    retry = "retry",
    retry_crash = "retry-crash",
    sessions = "sessions",
    client_aborts = "client-aborts",
    expiry = "expiry",
    database = "database",
    lossy = "lossy",
    lossy_crash = "lossy-crash",
    links = "links",
    one_phase = "one-phase",
    one_phase_stop = "one-phase-stop",
    one_phase_declined = "one-phase-declined",
    three_phase = "three-phase",
    three_phase_one_leader = "three-phase-one-leader",
    three_phase_two_leaders = "three-phase-two-leaders",
    three_phase_coordinator_crash = "three-phase-coordinator-crash",
    three_phase_promise = "three-phase-promise",
    three_phase_votes = "three-phase-votes",
    three_phase_retry = "three-phase-retry",
    three_phase_witness = "three-phase-witness",
    three_phase_alone = "three-phase-alone",
    three_phase_gone = "three-phase-gone",
    three_phase_participant_crash = "three-phase-participant-crash",
    three_phase_five_sites = "three-phase-five-sites",
    three_phase_three_leaders = "three-phase-three-leaders",
}
