//! The commands of a script.

mod sites;
mod words;

use handfast_commit_core::id::{Epoch, Incarnation, Sequence, Slot, TransactionId};
use handfast_commit_core::message::{FromParticipant, Inquired, ToParticipant, Vote};
use handfast_commit_core::record::Request;
use handfast_commit_core::step::{Time, TimerKey};
use handfast_commit_core::two_phase::coordinator::{
    self, Execute, Input, Inquiry, ReplyTime, Terms, Waiter,
};
use handfast_commit_core::two_phase::participant;

use crate::world::participant_host::ParticipantHost;
use crate::world::resource::{Verdict, effects};
use crate::world::{Body, Envelope, Who, World, narrate};
use words::{Words, name};

/// A transaction's timeout unless a script says otherwise.
const TIMEOUT_US: u64 = 30_000_000;
/// Most messages that one `deliver all` may move: more are an endless conversation.
const DELIVERIES_MAX: usize = 500;

const ANSWERS: [Inquired; 6] = [
    Inquired::Commit,
    Inquired::Abort,
    Inquired::Pending,
    Inquired::Retry,
    Inquired::NotOwner,
    Inquired::NoInformation,
];

type Result<T = ()> = std::result::Result<T, String>;

pub struct Script {
    world: World,
}

impl Script {
    pub fn new() -> Self {
        Self { world: World::new(Self::config()) }
    }

    fn config() -> coordinator::Config {
        // Repetitions are rare enough to be asked for.
        coordinator::Config {
            resend_after_us: 3_600_000_000,
            resend_after_us_max: 3_600_000_000,
            ..coordinator::Config::default()
        }
    }

    pub fn block(&mut self, directive: &str, input: &str) -> Result<String> {
        for line in input.lines() {
            self.command(line).map_err(|error| format!("{line}: {error}"))?;
        }
        let lines = std::mem::take(&mut self.world.lines);
        match directive {
            "setup" => Ok(String::new()),
            "run" => Ok(lines.into_iter().map(|line| line + "\n").collect()),
            other => Err(format!("a block is setup or run, not {other}")),
        }
    }

    /// Carries out one line of a script.
    ///
    /// * Setting up: `coordinator [undecided=N] [undelivered=N] [window=N] [resend=S]`,
    ///   `participant p1 [one-phase] [external] [unary]`, `connect p1…`, `cut p1`, `queue p1 full|free`,
    ///   `by-hand C p1…` (their logs are durable only as far as `sync` says).
    /// * Clients: `execute t1 at p1 p2 [request=R] [like=N] [for=A] [reply=decided] [patience=S]
    ///   [timeout=S]`, `begin t1 [timeout=S]`, `enlist t1 at p1 [as=N]`,
    ///   `commit t1 [request=R] [for=A] [reply=decided] [patience=S]`, `abort t1 [for=A]`.
    /// * Messages: `deliver all|WORDS`, `drop WORDS`, `repeat WORDS`: the first message that has all
    ///   these words. `pool` shows what is on its way.
    /// * Time: `advance S [C|p1…]` (whose timers run; everybody's), `fire C|p1 KEY`,
    ///   `late-timer p1 t1` (it had run out before it was set anew).
    /// * Crashes: `crash C|p1`, `restart C|p1 [new-log]`, `sync C|p1 [N]`.
    /// * Resources: `prepares p1 yes|no|read-only`, `resource p1 waits|answers`,
    ///   `resource p1 carries out|fails|unknown` (the call that waits longest).
    /// * Made up: `name t9 [slot=N] [epoch=N] [sequence=N]`, `ask t1 as p1 [log=N]`,
    ///   `tell p1 prepare|commit|abort|forget t1 [epoch=N] [log=N] [lowest=N] [work]`,
    ///   `say p1 prepared|read-only|no|committed|ack|aborted|refused t1 [log=N]`, `heard p1 [epoch=N] [lowest=N]`,
    ///   `answer p1 t1 from C|p2 ANSWER`, `touch p1 t1`, `give-up p1 t1`, `holds p1 t1…`, `stop p1`
    ///   (it takes no new work).
    /// * Three-phase commit: `execute t1 three-phase at p1…`, `begin t1 three-phase`, `witness w1`,
    ///   `split C p1 / p2 p3` (messages between the parts are lost), `heal`,
    ///   `order WHO join|pre-commit|pre-abort t1 ballot=R.S from=WHO [log=N]`,
    ///   `order WHO committed|aborted|forget t1 from=WHO [log=N]`,
    ///   `report WHO moved|joined|refused t1 ballot=R.S from=WHO [promised=R.S]`,
    ///   `report WHO known|acknowledged t1 committed|aborted from=WHO`.
    /// * `expire`: the outcome window passes. `show`: what everybody holds.
    pub fn command(&mut self, line: &str) -> Result {
        let mut words = Words::new(line);
        let verb = words.next("a command")?;
        match verb.as_str() {
            "coordinator" => self.new_coordinator(&mut words)?,
            "participant" => self.new_participant(&mut words)?,
            "connect" => {
                for name in words.names()? {
                    self.world.open(&name);
                    if !self.world.participants[&name].unary {
                        self.deliver_first(&["HELLO", &format!("C->{name}")])?;
                        self.deliver_first(&["WELCOME", &format!("{name}->C")])?;
                    }
                }
            }
            "cut" => {
                for name in words.names()? {
                    self.world.cut(&name);
                    self.world.notice(&name);
                }
            }
            "queue" => {
                let name = words.name()?;
                let full = words.next("full or free")? == "full";
                self.world.links.get_mut(&name).ok_or("no such participant")?.full = full;
            }
            "by-hand" => {
                for who in words.rest() {
                    match self.who(&who)? {
                        Who::Coordinator => self.world.coordinator.log.auto = false,
                        Who::Participant(name) => self.world.host(&name).log.auto = false,
                        Who::Witness(name) => self.by_hand(&name),
                    }
                }
            }
            "execute" => self.execute(&mut words)?,
            "begin" => self.begin(&mut words)?,
            "enlist" => {
                let id = self.id(&words.next("a transaction")?)?;
                let enlistment = words.number("as")?.unwrap_or(1);
                words.skip("at");
                for participant in words.names()? {
                    self.world.enlist(id, participant.clone(), enlistment);
                    let joined = ["JOINED", participant.as_str()];
                    if self.find(&joined).is_some() {
                        self.deliver_first(&joined)?;
                    }
                }
            }
            "commit" => {
                let id = self.id(&words.next("a transaction")?)?;
                let request = self.request(&mut words)?;
                let waiter = self.waiter(&mut words)?;
                self.world.input(Input::Commit { id, request, waiter });
            }
            "abort" => {
                let id = self.id(&words.next("a transaction")?)?;
                let waiter = words.value("for").unwrap_or_else(|| "client".to_owned());
                let message = "the client asked for it".to_owned();
                self.world.input(Input::Abort { id, message, waiter });
            }
            "deliver" | "drop" | "repeat" => self.message(&verb, words.rest())?,
            "pool" => {
                let lines: Vec<_> =
                    self.world.pool.iter().map(|envelope| self.world.envelope(envelope)).collect();
                let lines = if lines.is_empty() { vec!["nothing".to_owned()] } else { lines };
                lines.into_iter().for_each(|line| self.world.say(format!("on its way: {line}")));
            }
            "advance" => {
                let by = words::micros(&words.next("seconds")?)?;
                let whose: Result<Vec<_>> =
                    words.rest().iter().map(|word| self.who(word)).collect();
                self.advance(self.world.now_us + by, &whose?);
            }
            "fire" => self.fire(&mut words)?,
            "late-timer" => {
                let name = words.name()?;
                let id = self.id(&words.next("a transaction")?)?;
                self.world.fire_participant(&name, id);
            }
            "sync" => {
                let who = self.who(&words.next("C or a participant")?)?;
                let count = words.next("a count").ok().and_then(|count| count.parse().ok());
                let count = count.unwrap_or(usize::MAX);
                match who {
                    Who::Coordinator => self.world.sync_coordinator(count),
                    Who::Participant(name) => self.world.sync_participant(&name, count),
                    Who::Witness(name) => self.world.sync_witness(&name, count),
                }
            }
            "crash" => match self.who(&words.next("C or a participant")?)? {
                Who::Coordinator => self.world.crash_coordinator(),
                Who::Participant(name) => {
                    self.world.crash_participant(&name);
                    self.world.notice(&name);
                }
                Who::Witness(name) => self.world.crash_witness(&name),
            },
            "restart" => match self.who(&words.next("C or a participant")?)? {
                Who::Coordinator => self.world.restart_coordinator(),
                Who::Participant(name) => {
                    let lost = words.flag("new-log");
                    self.world.restart_participant(&name, lost);
                    self.world.notice(&name);
                }
                Who::Witness(name) => self.world.restart_witness(&name),
            },
            "prepares" => {
                let name = words.name()?;
                let verdict = match words.next("a verdict")?.as_str() {
                    "yes" => Verdict::Yes,
                    "read-only" => Verdict::ReadOnly,
                    "no" => Verdict::No("not enough money".to_owned()),
                    other => return Err(format!("no verdict: {other}")),
                };
                self.world.host(&name).resource.verdict = verdict;
            }
            "resource" => self.resource(&mut words)?,
            "name" => {
                let text = words.next("a name")?;
                let slot = words.number("slot")?.unwrap_or(u64::from(World::SLOT.0));
                let epoch = words.number("epoch")?.unwrap_or(self.world.coordinator.epoch().0);
                let sequence = words.number("sequence")?.unwrap_or(999);
                let slot = Slot(u16::try_from(slot).map_err(|error| error.to_string())?);
                let protocol = Self::protocol(&mut words);
                let id = TransactionId::new(slot, protocol, Epoch(epoch), Sequence(sequence));
                self.world.names.insert(id, text);
            }
            "ask" => {
                let id = self.id(&words.next("a transaction")?)?;
                words.skip("as");
                let participant = words.name()?;
                let incarnation = Incarnation(words.number("log")?.unwrap_or(World::LOG.0));
                let stored = self.world.coordinator.stored(id);
                let inquiry = Inquiry { id, incarnation, participant: participant.clone() };
                let waiter = participant.to_string();
                self.world.input(Input::Inquire { inquiry, stored, waiter });
            }
            "tell" => self.tell(&mut words)?,
            "say" => self.say(&mut words)?,
            "heard" => {
                let name = words.name()?;
                let epoch = words.number("epoch")?.unwrap_or(self.world.coordinator.epoch().0);
                let origin = origin(epoch, words.number("lowest")?.unwrap_or(1));
                let input = participant::Input::Heard { origin, opened: false };
                self.world.participant_input(&name, input);
            }
            "answer" => {
                let name = words.name()?;
                let id = self.id(&words.next("a transaction")?)?;
                words.skip("from");
                let from = self.who(&words.next("C or a participant")?)?;
                let word = words.next("an answer")?;
                let outcome = ANSWERS
                    .into_iter()
                    .find(|outcome| narrate::inquired(*outcome) == word)
                    .ok_or_else(|| format!("no such answer: {word}"))?;
                self.world.say(format!("{from} ⇢ {name}: ANSWER {} {word}", self.world.name(id)));
                let input = match from {
                    Who::Coordinator => participant::Input::Answer { id, outcome },
                    Who::Participant(peer) | Who::Witness(peer) => {
                        participant::Input::PeerAnswer { id, peer, outcome }
                    }
                };
                self.world.participant_input(&name, input);
            }
            "touch" => {
                let name = words.name()?;
                let id = self.id(&words.next("a transaction")?)?;
                let waiter = "session".to_owned();
                self.world.participant_input(&name, participant::Input::Touched { id, waiter });
            }
            "give-up" => {
                let name = words.name()?;
                let id = self.id(&words.next("a transaction")?)?;
                self.world.participant_input(&name, participant::Input::GivenUp { id });
            }
            "stop" => {
                let name = words.name()?;
                self.world.participant_input(&name, participant::Input::Stopping);
            }
            "holds" => {
                let name = words.name()?;
                let ids: Result<Vec<_>> = words.rest().iter().map(|word| self.id(word)).collect();
                let input = participant::Input::ResourceHolds { ids: ids? };
                self.world.participant_input(&name, input);
            }
            "expire" => {
                self.world.coordinator.expired = self.world.coordinator.log.durable();
                self.world.say("C: the outcome window of all that has ended has passed".to_owned());
            }
            "show" => self.show(),
            "witness" => {
                for name in words.names()? {
                    self.world.add_witness(name);
                }
            }
            "split" => self.split(&mut words)?,
            "heal" => self.world.split(std::collections::BTreeMap::new()),
            "order" => self.order(&mut words)?,
            "report" => self.report(&mut words)?,
            other => return Err(format!("no such command: {other}")),
        }
        words.end()
    }

    fn new_coordinator(&mut self, words: &mut Words) -> Result {
        let mut config = Self::config();
        if let Some(max) = words.number("undecided")? {
            config.undecided_max = usize::try_from(max).map_err(|error| error.to_string())?;
        }
        if let Some(max) = words.number("voting")? {
            config.voting_max = usize::try_from(max).map_err(|error| error.to_string())?;
        }
        if let Some(max) = words.number("undelivered")? {
            config.undelivered_max = usize::try_from(max).map_err(|error| error.to_string())?;
        }
        if let Some(window) = words.number("window")? {
            config.delivery_window = usize::try_from(window).map_err(|error| error.to_string())?;
        }
        if let Some(wait) = words.micros("resend")? {
            config.resend_after_us = wait;
            config.resend_after_us_max = wait * 4;
        }
        self.world = World::new(config);
        Ok(())
    }

    fn new_participant(&mut self, words: &mut Words) -> Result {
        let one_phase = words.flag("one-phase");
        let (external, unary) = (words.flag("external"), words.flag("unary"));
        for name in words.names()? {
            let config = participant::Config { one_phase, ..participant::Config::default() };
            let incarnation = Incarnation(10 * (1 + self.world.participants.len() as u64));
            let mut host = ParticipantHost::new(incarnation, config);
            host.resource.external = external;
            host.unary = unary;
            self.world.add_participant(name, host);
        }
        Ok(())
    }

    fn terms(words: &mut Words) -> Result<Terms> {
        let timeout_us = words.micros("timeout")?.unwrap_or(TIMEOUT_US);
        Ok(Terms { timeout_us, ..Terms::default() })
    }

    fn waiter(&self, words: &mut Words) -> Result<Waiter<String>> {
        let to = words.value("for").unwrap_or_else(|| "client".to_owned());
        let reply_time = match words.value("reply").as_deref() {
            Some("decided") => ReplyTime::Decided,
            _ => ReplyTime::Applied,
        };
        let patience = words.micros("patience")?.unwrap_or(TIMEOUT_US);
        Ok(Waiter { to, reply_time, until: Time(self.world.now_us).plus(patience) })
    }

    /// `request=R`, and `like=N` for its digest: another number is another request.
    fn request(&mut self, words: &mut Words) -> Result<Option<Request>> {
        let fingerprint = words.number("like")?.unwrap_or(77);
        let Some(id) = words.value("request") else {
            return Ok(None);
        };
        let id = id.parse().map_err(|error| format!("{error}"))?;
        Ok(Some(Request { id, fingerprint }))
    }

    fn execute(&mut self, words: &mut Words) -> Result {
        let protocol = Self::protocol(words);
        let text = words.next("a transaction")?;
        let terms = Self::terms(words)?;
        let request = self.request(words)?;
        let waiter = self.waiter(words)?;
        words.skip("at");
        let branches =
            words.names()?.into_iter().map(|name| (name, bytes::Bytes::from("w"))).collect();
        let stored =
            request.as_ref().and_then(|request| self.world.coordinator.stored_request(&request.id));
        let id = self.world.draw(&text, protocol);
        let execute = Execute { id, branches, terms, request, stored, waiter };
        self.world.input(Input::Execute(execute));
        Ok(())
    }

    fn begin(&mut self, words: &mut Words) -> Result {
        let protocol = Self::protocol(words);
        let text = words.next("a transaction")?;
        let terms = Self::terms(words)?;
        let id = self.world.draw(&text, protocol);
        self.world.input(Input::Begin { id, terms, waiter: "client".to_owned() });
        Ok(())
    }

    // ---- messages -------------------------------------------------------------------------------

    fn find(&self, wanted: &[&str]) -> Option<usize> {
        self.world.pool.iter().position(|envelope| {
            let text = self.world.envelope(envelope);
            let words: Vec<&str> =
                text.split([' ', ':']).map(|word| word.trim_end_matches(',')).collect();
            wanted.iter().all(|wanted| match wanted.split_once("->") {
                Some((from, to)) => {
                    envelope.from.to_string() == from && envelope.to.to_string() == to
                }
                None => words.contains(wanted),
            })
        })
    }

    fn deliver_first(&mut self, wanted: &[&str]) -> Result {
        let index = self.find(wanted).ok_or("no such message is on its way")?;
        self.world.deliver(index);
        Ok(())
    }

    fn message(&mut self, verb: &str, words: Vec<String>) -> Result {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if let Some((&"all", wanted)) = words.split_first() {
            for _ in 0..DELIVERIES_MAX {
                let Some(index) = self.find(wanted) else {
                    return Ok(());
                };
                match verb {
                    "deliver" => self.world.deliver(index),
                    "drop" => self.lose(index),
                    _ => return Err("only one message is repeated at a time".to_owned()),
                }
            }
            return Err(format!("more than {DELIVERIES_MAX} messages"));
        }
        let index = self.find(&words).ok_or("no such message is on its way")?;
        match verb {
            "deliver" => self.world.deliver(index),
            "drop" => self.lose(index),
            _ => {
                let again = self.world.pool[index].clone();
                let line = format!("repeated: {}", self.world.envelope(&again));
                self.world.say(line);
                self.world.pool.push_back(again);
            }
        }
        Ok(())
    }

    fn lose(&mut self, index: usize) {
        if let Some(envelope) = self.world.pool.remove(index) {
            let line = format!("lost: {}", self.world.envelope(&envelope));
            self.world.say(line);
        }
    }

    fn tell(&mut self, words: &mut Words) -> Result {
        let name = words.name()?;
        let what = words.next("a message")?;
        let id = self.id(&words.next("a transaction")?)?;
        let epoch = words.number("epoch")?.unwrap_or(self.world.coordinator.epoch().0);
        let origin = origin(epoch, words.number("lowest")?.unwrap_or(1));
        let incarnation = match words.number("log")? {
            Some(log) => Incarnation(log),
            None => self.world.participants.get(&name).ok_or("no such participant")?.incarnation,
        };
        let message = match what.as_str() {
            "prepare" => {
                let work = words.flag("work").then(|| bytes::Bytes::from("w"));
                let peers = Vec::new();
                ToParticipant::Prepare(handfast_commit_core::message::Prepare {
                    id,
                    work,
                    peers,
                    one_phase: words.flag("one-phase"),
                    request_id: None,
                    voting: self.voting_of(id, &name, words)?.map(Box::new),
                })
            }
            "commit" => ToParticipant::Commit { id, incarnation },
            "abort" => ToParticipant::Abort { id },
            "forget" => ToParticipant::Forget { id },
            other => return Err(format!("no such message: {other}")),
        };
        let session = Some(self.world.links[&name].session);
        let (from, to) = (Who::Coordinator, Who::Participant(name));
        let body = Body::Command(message);
        self.world.pool.push_front(Envelope { from, to, session, origin: Some(origin), body });
        self.world.deliver(0);
        Ok(())
    }

    fn say(&mut self, words: &mut Words) -> Result {
        let name = words.name()?;
        let what = words.next("a message")?;
        let id = self.id(&words.next("a transaction")?)?;
        let incarnation = match words.number("log")? {
            Some(log) => Incarnation(log),
            None => self.world.participants.get(&name).ok_or("no such participant")?.incarnation,
        };
        let vote =
            |vote| FromParticipant::Voted { id, vote, incarnation, result: bytes::Bytes::new() };
        let message = match what.as_str() {
            "prepared" => vote(Vote::Prepared),
            "read-only" => vote(Vote::ReadOnly),
            "no" => vote(Vote::No { reason: "not enough money".to_owned() }),
            "committed" => vote(Vote::Committed { earlier: None }),
            "ack" => FromParticipant::Committed { id },
            "aborted" => FromParticipant::Aborted { id },
            "refused" => FromParticipant::Refused { id, reason: "I will not".to_owned() },
            other => return Err(format!("no such message: {other}")),
        };
        let session = Some(self.world.links[&name].session);
        let (from, to) = (Who::Participant(name), Who::Coordinator);
        let body = Body::Answer(message);
        self.world.pool.push_front(Envelope { from, to, session, origin: None, body });
        self.world.deliver(0);
        Ok(())
    }

    // ---- time and resources ---------------------------------------------------------------------

    /// Timers run out in their order until `to`: everybody's, or only those of `whose`.
    fn advance(&mut self, to: u64, whose: &[Who]) {
        while let Some((at, who, key)) = self.next_timer(whose).filter(|(at, ..)| *at <= to) {
            self.world.now_us = self.world.now_us.max(at);
            self.run_out(&who, key);
        }
        self.world.now_us = to;
    }

    fn next_timer(&self, whose: &[Who]) -> Option<(u64, Who, TimerKey)> {
        let mut timers: Vec<_> = self
            .world
            .coordinator
            .timers
            .iter()
            .map(|(key, at)| (at.0, Who::Coordinator, key.clone()))
            .collect();
        for (name, host) in &self.world.participants {
            timers.extend(host.timers.iter().map(|(id, at)| {
                (at.0, Who::Participant(name.clone()), TimerKey::Transaction(*id))
            }));
        }
        timers.retain(|(_, who, _)| whose.is_empty() || whose.contains(who));
        timers.into_iter().min()
    }

    fn run_out(&mut self, who: &Who, key: TimerKey) {
        match (who, key) {
            (Who::Coordinator, key) => self.world.fire_coordinator(key),
            (Who::Participant(name), TimerKey::Transaction(id)) => {
                self.world.fire_participant(name, id);
            }
            (Who::Participant(_) | Who::Witness(_), _) => {}
        }
    }

    /// Moves the clock to a timer's moment and lets it run out.
    fn fire(&mut self, words: &mut Words) -> Result {
        let who = self.who(&words.next("C or a participant")?)?;
        let text = words.next("whose timer")?;
        let key = match self.id(&text) {
            Ok(id) => TimerKey::Transaction(id),
            Err(_) => TimerKey::Participant(name(&text)?),
        };
        let at = match (&who, &key) {
            (Who::Coordinator, key) => self.world.coordinator.timers.get(key),
            (Who::Participant(name), TimerKey::Transaction(id)) => {
                self.world.participants[name].timers.get(id)
            }
            _ => None,
        };
        let at = at.ok_or("no such timer is set")?.0;
        self.world.now_us = self.world.now_us.max(at);
        self.run_out(&who, key);
        Ok(())
    }

    fn resource(&mut self, words: &mut Words) -> Result {
        let name = words.name()?;
        let how = words.next("what it does")?;
        let host = self.world.host(&name);
        let result = match how.as_str() {
            "waits" => {
                host.resource.waits = true;
                return Ok(());
            }
            "answers" => {
                host.resource.waits = false;
                return Ok(());
            }
            how => {
                let (id, call) =
                    host.resource.pending.pop_front().ok_or("the resource has nothing to do")?;
                let result = match how {
                    "carries" => {
                        words.skip("out");
                        host.resource.carry_out(id, &call)
                    }
                    "fails" => Some(participant::ResourceResult::Failed {
                        reason: "cannot be reached".to_owned(),
                    }),
                    "unknown" => Some(participant::ResourceResult::Unknown),
                    other => return Err(format!("no resource does that: {other}")),
                };
                (id, result)
            }
        };
        if let (id, Some(result)) = result {
            self.world.hand_in(&name, id, result);
        }
        self.world.settle();
        Ok(())
    }

    // ---- words ----------------------------------------------------------------------------------

    fn who(&self, word: &str) -> Result<Who> {
        if word == "C" {
            return Ok(Who::Coordinator);
        }
        let name = name(word)?;
        let witness = self.world.witnesses.contains_key(&name);
        Ok(if witness { Who::Witness(name) } else { Who::Participant(name) })
    }

    fn id(&self, word: &str) -> Result<TransactionId> {
        self.world
            .names
            .iter()
            .find(|(_, name)| *name == word)
            .map(|(id, _)| *id)
            .ok_or_else(|| format!("no transaction is called {word}"))
    }

    fn show(&mut self) {
        let mut lines = vec![format!("at {}", narrate::seconds(self.world.now_us))];
        match &self.world.coordinator.core {
            None => lines.push("C is not there".to_owned()),
            Some(core) => {
                lines.push(format!(
                    "C: {} undecided, {} undelivered",
                    core.undecided(),
                    core.undelivered()
                ));
                for view in core.running(None) {
                    let branches: Vec<_> = view
                        .branches
                        .iter()
                        .map(|branch| format!("{} {:?}", branch.participant, branch.state))
                        .collect();
                    let id = self.world.name(view.id);
                    let mut line = format!("C: {id} {:?}, {}", view.phase, branches.join(", "));
                    if let Some(site) = &view.site {
                        line += &format!(" ({})", narrate::site_view(site));
                    }
                    lines.push(line);
                }
            }
        }
        for (name, host) in &self.world.participants {
            let open = self.world.open_branches(name);
            let kept = host.core.as_ref().map_or(0, |core| core.unforgotten());
            lines.push(match kept {
                0 => format!("{name}: open branches: {open}"),
                kept => format!("{name}: open branches: {open}; {kept} not to be forgotten"),
            });
            for (id, (times, _)) in effects(&host.resource, host.log.records()) {
                lines.push(format!("{name}: {} took effect {times} time(s)", self.world.name(id)));
            }
        }
        for (name, host) in &self.world.witnesses {
            lines.push(match &host.core {
                None => format!("{name} is not there"),
                Some(core) => format!("{name}: a witness of {} transactions", core.witnessed()),
            });
        }
        lines.into_iter().for_each(|line| self.world.say(line));
    }
}

/// An epoch and what belongs to it, for messages that somebody makes up.
fn origin(epoch: u64, lowest_live: u64) -> participant::Origin {
    participant::Origin {
        slot: World::SLOT,
        epoch: Epoch(epoch),
        incarnation: World::LOG,
        lowest_live: Sequence(lowest_live),
        endpoint: "C".into(),
    }
}
