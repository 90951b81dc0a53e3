//! Random executions: those that are serializable are accepted, and every fault is found.

mod generator;

use generator::{FAULTS, Fault, Size, World};
use handfast_history::{Anomaly, check};

const SEEDS: u64 = 150;

fn sizes() -> [Size; 4] {
    let size = Size { transactions: 120, clients: 6, keys: 5, blind_percent: 0 };
    [
        size,
        Size { clients: 1, ..size },
        Size { clients: 20, keys: 2, ..size },
        Size { keys: 60, blind_percent: 10, ..size },
    ]
}

/// What a fault may be called: several, where more was broken than the fault itself.
fn names(fault: Fault) -> &'static [Anomaly] {
    use Anomaly::*;
    match fault {
        Fault::StaleUpdate => &[LostUpdate],
        Fault::HalfSeen => &[ReadSkew],
        Fault::StaleRead => &[RealTime],
        Fault::Skew => &[WriteSkew],
        Fault::Dirty => &[AbortedRead],
        Fault::Intermediate => &[IntermediateRead],
        Fault::Circle => &[CircularInformation],
        Fault::Crossed => &[DirtyWrite],
        Fault::Garbage => &[Phantom],
        // Whoever uses the key next decides how it shows.
        Fault::HalfApplied | Fault::NotApplied => {
            &[LostUpdate, LostWrite, ReadSkew, WriteSkew, RealTime]
        }
        Fault::RolledBack => &[LostWrite],
        Fault::Forgetful => &[Internal],
    }
}

fn may_be_hidden(fault: Fault) -> bool {
    matches!(fault, Fault::HalfApplied | Fault::NotApplied)
}

#[test]
fn what_is_serializable_is_accepted() {
    for size in sizes() {
        for seed in 0..SEEDS {
            let history = World::new(seed, size).run();
            match check(&history) {
                Ok(stats) => {
                    assert!(stats.committed > 50 && stats.aborted > 0, "seed {seed}: {stats:?}");
                    assert!(
                        size.blind_percent > 0 || stats.unplaced == 0,
                        "seed {seed}: {stats:?}"
                    );
                }
                Err(violation) => panic!("seed {seed}, {size:?}: {violation}"),
            }
        }
    }
}

#[test]
fn every_fault_is_found_and_named() {
    for fault in FAULTS {
        for size in sizes() {
            for seed in 0..SEEDS {
                let history = World::new(seed, size).run_with(*fault);
                match check(&history) {
                    // Whoever wrote over the loss without a read recorded hides it: nobody could have told.
                    Ok(_) if size.blind_percent > 0 && may_be_hidden(*fault) => {}
                    Ok(stats) => panic!("seed {seed}, {size:?}: {fault:?} was accepted: {stats:?}"),
                    Err(violation) if size.blind_percent == 0 => assert!(
                        names(*fault).contains(&violation.anomaly),
                        "seed {seed}, {size:?}: {fault:?} was called {violation}"
                    ),
                    // A write that nobody saw may have to be placed around the fault.
                    Err(_) => {}
                }
            }
        }
    }
}

#[test]
fn a_long_history_is_checked() {
    let size = Size { transactions: 100_000, clients: 32, keys: 1000, blind_percent: 0 };
    let stats = match check(&World::new(7, size).run()) {
        Ok(stats) => stats,
        Err(violation) => panic!("{violation}"),
    };
    assert!(stats.committed > 80_000 && stats.dependencies > 200_000, "{stats:?}");
    assert_eq!((stats.unplaced, stats.keys), (0, 1000));
    // And one with a fault in it.
    for fault in [Fault::Skew, Fault::StaleRead, Fault::HalfApplied] {
        assert!(check(&World::new(7, size).run_with(fault)).is_err(), "{fault:?}");
    }
}
