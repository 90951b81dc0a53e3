//! Runs the production coordinator in the role of a witness: it answers orders, and has nothing else to do.

use handfast_commit_core::id::{Epoch, Incarnation, Slot};
use handfast_commit_core::step::{Step, Time};
use handfast_commit_core::two_phase::Coordinator;
use handfast_commit_core::two_phase::coordinator::{Action, Config, Identity, Input};
use handfast_commit_core::two_phase::participant::Via;

use crate::network::{Body, Who};
use crate::state::{Caller, WitnessHost};
use crate::world::{Next, Run, SLOT, World};

impl WitnessHost {
    /// The one with this number, which has never heard of anything.
    #[must_use]
    pub fn new(number: usize) -> Self {
        let number = number as u64;
        let slot = Slot(SLOT.0 + 1);
        let identity = Identity { slot, epoch: Epoch(1), incarnation: Incarnation(200 + number) };
        let config = Config { witness: true, ..World::coordinator_config() };
        Self { core: Coordinator::new(identity, config), log: crate::log::Log::default() }
    }
}

impl Run<'_> {
    pub(crate) fn deliver_to_witness(&mut self, from: Who, number: usize, body: &Body) {
        let Body::Order(message) = body else { return };
        let via = Via::Call(Caller::Leader(from));
        let from = self.world.site(from);
        let input = Input::Led { from, message: *message, stored: None, via };
        let step = self.state.witnesses[number].change().core.step(Run::now(Time(0)), input);
        let Step { records, position, gate, then, later, .. } = step;
        for record in records {
            self.say(|run| {
                let record = run.world.coordinator_record(&run.state, &record);
                format!("   w{} forces {record}", number + 1)
            });
            self.state.witnesses[number].change().log.pending.push(record);
        }
        let all = then.into_iter().map(|action| (gate, action));
        let all = all.chain(later.into_iter().map(|action| (position, action)));
        let once = self.world.ever();
        for (gate, action) in all.collect::<Vec<_>>() {
            let ready = self.state.witnesses[number].change().log.hold(gate, action, once);
            self.act_for_witness(number, ready);
        }
        // It does not die: nothing is to be seen between its records.
        while let Some((_, ready)) = self.state.witnesses[number].change().log.sync() {
            for action in ready {
                self.act_for_witness(number, Some(action));
            }
        }
    }

    fn act_for_witness(&mut self, number: usize, action: Option<Action<Caller>>) {
        if let Some(Action::Report { via, message, .. }) = action {
            self.report(Who::W(number), via, message);
        }
    }

    /// A witness answers the coordinator.
    pub(crate) fn witness_reports(&mut self, number: usize, body: &Body) {
        if let Body::Report(message) = body {
            let from = self.world.site(Who::W(number));
            self.next.push_back(Next::Coordinator(Input::Reported { from, message: *message }));
        }
    }
}
