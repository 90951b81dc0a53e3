//! The simulation as `make test` runs it: a fixed number of seeds, all promises kept, every rule reached.
//!
//! `HANDFAST_SEED` chooses the first seed, `HANDFAST_SEEDS` how many.

use handfast_simulator::report::{Budget, Plan, Totals, run};
use handfast_simulator::swarm::Swarm;
use handfast_simulator::trace::Recorder;
use handfast_simulator::world::World;

const TRANSACTIONS: u32 = 300;

fn variable(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is no number")),
        Err(_) => default,
    }
}

#[test]
fn every_promise_is_kept_and_every_rule_reached() {
    let plan = Plan {
        from: variable("HANDFAST_SEED", 1),
        budget: Budget::Seeds(variable("HANDFAST_SEEDS", 60_000)),
        threads: 2,
        transactions: TRANSACTIONS,
        progress: None,
    };
    let totals: Totals = run(plan);
    println!("{}{}", totals.table(), totals.line());
    if let Some((seed, violation)) = totals.violations.first() {
        panic!(
            "seed {seed}: {violation}\nreplay: handfast-simulate --seed {seed} --trace trace.svg --log"
        );
    }
    let missing: Vec<_> = totals.missing().into_iter().map(|mark| mark.name()).collect();
    assert!(missing.is_empty(), "rules that no run has followed: {missing:?}");
}

#[test]
fn equal_seeds_give_equal_runs_byte_for_byte() {
    // The last two have witnesses.
    for seed in [2, 3, 6, 53, 54, 67, 817, 1403] {
        let log = || {
            let swarm = Swarm::draw(seed, TRANSACTIONS);
            let mut world = World::new(swarm, Recorder::on()).expect("a world");
            world.run().expect("every promise is kept");
            world.into_recorder().into_trace().expect("recorded").log()
        };
        let (first, second) = (log(), log());
        assert!(first == second, "seed {seed}: two runs differ");
        assert!(first.lines().count() > 20, "seed {seed}: nothing happens");
    }
}
