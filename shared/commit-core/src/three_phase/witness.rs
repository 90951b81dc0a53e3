//! The role of a witness: a coordinator's process that keeps ballots for the transactions of another slot, so
//! that a quorum is left when one of few participants is missing.
//!
//! A witness has no vote to refuse, so it is never initial: asked about a transaction that it has never heard
//! of it is waiting, in no ballot (rule 8). It never leads, and it forgets when it is told that everybody has
//! the decision. A message that arrives later still leaves a record that means nothing to anybody.

use super::site::{Obeyed, Site};
use super::sites::SiteName;
use crate::id::TransactionId;
use crate::marks::{Mark, mark};
use crate::message::{Order, Report, ToSite};
use crate::mutants::{Mutant, mutant};
use crate::record::{CoordinatorRecord, WitnessRecord, WitnessState};
use crate::step::Position;
use crate::two_phase::Coordinator;
use crate::two_phase::coordinator::Alarm;

/// What a witness keeps of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Witnessed {
    pub(crate) state: WitnessState,
    /// Where the log says so.
    pub(crate) at: Position,
}

impl<W> Coordinator<W> {
    /// How many transactions of other slots this coordinator keeps as a witness.
    #[must_use]
    pub fn witnessed(&self) -> usize {
        self.witnessed.len()
    }

    pub(crate) fn restore_witness(&mut self, record: WitnessRecord) {
        let WitnessRecord { id, state } = record;
        self.witnessed.insert(id, Witnessed { state, at: Position(0) });
    }

    /// An order of whoever leads a transaction of another slot.
    pub(crate) fn witness_led(&mut self, from: &SiteName, message: &ToSite) -> Report {
        let ToSite { id, order, .. } = *message;
        if !self.config.witness || !id.is_three_phase() {
            mark(Mark::ThreeNoWitness);
            return Report::NoInformation;
        }
        let before = self.witnessed.get(&id).copied();
        if order == Order::Forget {
            if self.witnessed.remove(&id).is_some() {
                mark(Mark::ThreeWitnessForgets);
                self.out.lazily(CoordinatorRecord::WitnessForgotten { id });
            }
            return Report::Forgotten;
        }
        if before.is_none() {
            mark(Mark::ThreeWitnessUnasked);
            if mutant(Mutant::WitnessAborts) {
                self.witness(id, WitnessState::Decided { committed: false });
                return Report::Known { committed: false };
            }
        }
        let state = before.map_or(WitnessState::Undecided(Site::UNASKED), |known| known.state);
        let at = before.map_or(Position(0), |known| known.at);
        match (state, order) {
            (WitnessState::Decided { committed }, Order::Decided { committed: other }) => {
                self.out.speaks_of(at);
                if committed != other {
                    mark(Mark::ThreeContradiction);
                    self.site_alarm(id, from, Alarm::SitesDiffer);
                    return Report::NoInformation;
                }
                Report::Acknowledged { committed }
            }
            (WitnessState::Decided { committed }, _) => {
                self.out.speaks_of(at);
                Report::Known { committed }
            }
            (WitnessState::Undecided(_), Order::Decided { committed }) => {
                mark(Mark::ThreeWitnessDecided);
                self.witness(id, WitnessState::Decided { committed });
                Report::Acknowledged { committed }
            }
            (WitnessState::Undecided(mut site), order) => {
                let Some((obeyed, report)) = site.hear(order) else {
                    return Report::NoInformation;
                };
                if obeyed == Obeyed::Anew {
                    self.witness(id, WitnessState::Undecided(site));
                    if mutant(Mutant::PromiseNotForced) {
                        self.out.ungate();
                    }
                } else {
                    self.out.speaks_of(at);
                }
                report
            }
        }
    }

    fn witness(&mut self, id: TransactionId, state: WitnessState) {
        let record = WitnessRecord { id, state };
        let at = self.out.force(CoordinatorRecord::Witness(record));
        self.witnessed.insert(id, Witnessed { state, at });
    }
}
