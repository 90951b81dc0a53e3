//! One form for participants that differ in nothing but how long they wait, for model checking.

use super::branch::{Before, Branch};
use super::{Participant, Via};
use crate::step::Position;
use crate::three_phase::participant::Waits;

impl<W: Ord> Participant<W> {
    /// Forgets how often things were tried, the state of the jitter, and what is only for people. The
    /// machine goes on as before but for how long it waits, so that a model checker, which tries every
    /// length, sees one state where there would be one for every number of attempts. Positions are counted
    /// from `durable`, how far the log has come, from now on. `once` says that whoever waits for the same
    /// answer more than once is one waiter.
    pub fn canonical(&mut self, durable: Position, once: bool) {
        self.jitter = self.config.jitter_seed;
        self.out.rebase(durable);
        self.forgotten_at = self.forgotten_at.since(durable);
        for seen in self.slots.values_mut() {
            seen.endpoint = "".into();
            seen.recorded_at = seen.recorded_at.map(|at| at.since(durable));
        }
        for branch in self.branches.values_mut() {
            match branch {
                Branch::Prepared(in_doubt) => {
                    in_doubt.at = in_doubt.at.since(durable);
                    in_doubt.inquiries = 0;
                    // Nothing asks for more.
                    in_doubt.unanswered = in_doubt.unanswered.min(3);
                    in_doubt.waiting_for = "".into();
                }
                Branch::Preparing(preparing) => {
                    each_once(&mut preparing.vias, once);
                    if let Some(doomed) = &mut preparing.doomed {
                        each_once(&mut doomed.vias, once);
                        doomed.at = doomed.at.map(|at| at.since(durable));
                    }
                }
                Branch::Following { vias, .. } => each_once(vias, once),
                Branch::Committing(finishing) | Branch::Aborting(finishing) => {
                    finishing.attempts = 0;
                    each_once(&mut finishing.vias, once);
                    each_once(&mut finishing.leaders, once);
                    finishing.at = finishing.at.map(|at| at.since(durable));
                    if let Before::Voted(told) = &mut finishing.before {
                        told.at = told.at.since(durable);
                    }
                }
                Branch::Voted(voted) => {
                    voted.seat.at = voted.seat.at.since(durable);
                    voted.attempts = 0;
                    // One more wait, in which the question is asked again.
                    voted.unanswered = false;
                    voted.waits = Waits::SinceRestart;
                }
                Branch::Decided(decided) => {
                    decided.at = decided.at.since(durable);
                    decided.attempts = 0;
                }
                Branch::OnePhase { at, .. } => *at = at.since(durable),
                Branch::Changing => {}
                Branch::Finished { at, .. } => *at = at.map(|at| at.since(durable)),
                Branch::Session { .. } => {}
            }
        }
    }
}

fn each_once<W: Ord>(vias: &mut Vec<Via<W>>, wanted: bool) {
    if wanted {
        vias.sort();
        vias.dedup();
    }
}
