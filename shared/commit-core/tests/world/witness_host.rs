//! Runs a production coordinator that is only a witness, as a driver would.

use handfast_commit_core::id::{Epoch, Incarnation, ParticipantName, Slot};
use handfast_commit_core::record::CoordinatorRecord;
use handfast_commit_core::step::Step;
use handfast_commit_core::two_phase::Coordinator;
use handfast_commit_core::two_phase::coordinator::{Action, Config, Event, Identity, Input};
use handfast_commit_core::two_phase::participant::Via;

use super::coordinator_host::live;
use super::log::{Held, Log};
use super::{CallAnswer, World};

pub struct WitnessHost {
    pub core: Option<Coordinator<String>>,
    pub log: Log<CoordinatorRecord>,
    held: Vec<Held<Action<String>>>,
}

impl WitnessHost {
    pub fn new() -> Self {
        Self { core: Some(Self::start()), log: Log::new(), held: Vec::new() }
    }

    fn start() -> Coordinator<String> {
        let identity = Identity { slot: Slot(99), epoch: Epoch(1), incarnation: Incarnation(500) };
        Coordinator::new(identity, Config { witness: true, ..Config::default() })
    }
}

impl World {
    pub fn step_witness(&mut self, name: &ParticipantName, input: Input<String>) {
        let now = self.now();
        let Some(core) = self.witnesses.get_mut(name).and_then(|host| host.core.as_mut()) else {
            return;
        };
        let step = core.step(now, input);
        self.perform_witness(name, step);
    }

    fn witness(&mut self, name: &ParticipantName) -> &mut WitnessHost {
        self.witnesses.get_mut(name).expect("the world knows its witnesses")
    }

    fn perform_witness(
        &mut self,
        name: &ParticipantName,
        step: Step<CoordinatorRecord, Action<String>>,
    ) {
        let Step { records, forced, gate, then, .. } = step;
        let how = if forced { "force" } else { "write" };
        for record in records {
            let text = self.coordinator_record(&record);
            let number = self.witness(name).log.append(record);
            self.say(format!("{name}: {how} #{number} {text}"));
        }
        let host = self.witness(name);
        if host.log.auto {
            host.log.sync(usize::MAX);
        }
        let gate = host.log.number(gate);
        for held in then.into_iter().map(|action| Held { gate, action }) {
            if self.witness(name).log.is_durable(held.gate) {
                self.act_for_witness(name, held);
            } else {
                let text = match &held.action {
                    Action::Report { message, .. } => self.report(message),
                    action => self.coordinator_action(action),
                };
                self.say(format!("{name} waits for #{}: {text}", held.gate));
                self.witness(name).held.push(held);
            }
        }
    }

    fn act_for_witness(&mut self, name: &ParticipantName, held: Held<Action<String>>) {
        self.waited_for = held.gate;
        match held.action {
            Action::Report { via: Via::Call(label), message, .. } => {
                self.answer_call(&label, CallAnswer::Report(message));
            }
            Action::Note(event) => {
                let text = self.event(&event);
                if let Event::Alarm { .. } = event {
                    self.alarms.push(format!("{name}: {text}"));
                }
                self.say(format!("{name}: {text}"));
            }
            action => unreachable!("a witness does not {action:?}"),
        }
        self.waited_for = 0;
    }

    /// Makes up to `count` more records of a witness's log durable, and does what waited for it.
    pub fn sync_witness(&mut self, name: &ParticipantName, count: usize) {
        let host = self.witness(name);
        if host.log.unsynced() == 0 {
            return;
        }
        let number = host.log.sync(count);
        let held = std::mem::take(&mut host.held);
        let (ready, waiting) = held.into_iter().partition(|held| host.log.is_durable(held.gate));
        host.held = waiting;
        let ready: Vec<_> = ready;
        self.say(format!("{name}: the log is durable up to #{number}"));
        for held in ready {
            self.act_for_witness(name, held);
        }
        self.settle();
    }

    pub fn crash_witness(&mut self, name: &ParticipantName) {
        let host = self.witness(name);
        host.core = None;
        host.held.clear();
        let lost = host.log.crash();
        self.say(format!("{name} crashes; {lost} records are lost"));
    }

    /// Starts again from the log.
    pub fn restart_witness(&mut self, name: &ParticipantName) {
        if self.witnesses[name].core.is_some() {
            self.crash_witness(name);
        }
        let host = self.witness(name);
        host.log.reopen();
        let mut core = WitnessHost::start();
        let live = live(host.log.records());
        for record in live.values() {
            core.restore_record(record.clone());
        }
        host.core = Some(core);
        self.say(format!("{name} starts; a witness of {} transactions", live.len()));
    }
}
