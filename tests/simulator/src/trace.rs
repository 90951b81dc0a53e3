//! What happened in a simulated run, event by event: the record that the log, the digest and the
//! space-time diagram are made of.
//!
//! The world records into a [`Recorder`], which is off in all runs but those that somebody wants to
//! look at; when it is off, a recording call is one branch and no label is ever composed. A [`Trace`]
//! holds nothing but what it was told: simulated time, the simulator's own process numbers, text. Equal
//! runs therefore have equal logs, byte for byte, which is how the simulator shows that a seed decides
//! everything.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use handfast_commit_core::id::TransactionId;

/// A process of the world, by its index: its lane in the diagram. A restart keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u32);

/// What a process is. Lanes are drawn in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Begins transactions and is told outcomes.
    Client,
    /// Decides.
    Coordinator,
    /// Votes.
    Participant,
}

/// A lane: what a process is and is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// What it is.
    pub role: Role,
    /// What people call it.
    pub name: String,
}

/// A short text: what is drawn. A constant costs no allocation.
pub type Label = Cow<'static, str>;

/// An event of the trace, to add to it later what was not known at its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventRef(usize);

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceEvent {
    /// Simulated time, in microseconds since the run began. Of what takes time, the beginning.
    pub at: u64,
    /// Where; `None` for what happens to the world as a whole.
    pub process: Option<ProcessId>,
    /// The transactions that it concerns; none for what concerns all.
    pub about: Vec<TransactionId>,
    /// What happened.
    pub kind: EventKind,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// A message left [`TraceEvent::process`].
    Message {
        /// Where it goes.
        to: ProcessId,
        /// What it says.
        label: Label,
        /// What became of it.
        fate: Fate,
        /// A second arrival of a message that arrived before.
        copy: bool,
    },
    /// The journal wrote and synced.
    Sync {
        /// When it ended, in microseconds; `None` while it runs.
        ended: Option<u64>,
        /// How it ended.
        end: SyncEnd,
        /// The records in it.
        label: Label,
    },
    /// The process died.
    Crash(Label),
    /// The process serves again.
    Restart(Label),
    /// The process handles nothing for a while.
    Pause {
        /// When it goes on, in microseconds.
        until: u64,
    },
    /// The wall clock of the process was set.
    ClockJump {
        /// By how many milliseconds it went forward.
        by_ms: i64,
    },
    /// Some other fault was injected.
    Fault(Label),
    /// A state machine handled an input.
    Step(Label),
    /// A client was told an outcome.
    Told {
        /// The outcome.
        outcome: Told,
        /// More about it.
        label: Label,
    },
    /// Something to know when reading the rest.
    Note(Label),
    /// An invariant does not hold.
    Violation(Label),
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Not arrived so far.
    Underway,
    /// Arrived.
    Delivered {
        /// When, in microseconds.
        at: u64,
    },
    /// Never arrives.
    Lost {
        /// When it was lost, in microseconds.
        at: u64,
        /// Why.
        why: Label,
    },
}

/// How a sync ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncEnd {
    /// It has not.
    Running,
    /// Everything is on the disk.
    Durable,
    /// The disk reported an error.
    Failed,
    /// The process died under it.
    Cut,
}

/// What a client was told of its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Committed.
    Committed,
    /// Aborted.
    Aborted,
    /// Outcome unknown, which is an answer of its own.
    Unknown,
}

/// Where the world records: a trace, or nowhere.
#[derive(Debug, Default)]
pub struct Recorder(Option<Box<Trace>>);

impl Recorder {
    /// Records nothing.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Records everything.
    #[must_use]
    pub fn on() -> Self {
        Self(Some(Box::default()))
    }

    /// Whether anything is recorded.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Records. When the recorder is off, `record` is never called, so labels are composed inside it.
    #[inline]
    pub fn record<T>(&mut self, record: impl FnOnce(&mut Trace) -> T) -> Option<T> {
        self.0.as_deref_mut().map(record)
    }

    /// What has been recorded so far.
    #[must_use]
    pub fn trace(&self) -> Option<&Trace> {
        self.0.as_deref()
    }

    /// Hands over what was recorded.
    #[must_use]
    pub fn into_trace(self) -> Option<Trace> {
        self.0.map(|trace| *trace)
    }
}

/// A recorded run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    lanes: BTreeMap<ProcessId, Lane>,
    events: Vec<TraceEvent>,
}

impl Trace {
    /// Says who a process is. Once for each, before or after its events.
    pub fn lane(&mut self, process: ProcessId, role: Role, name: impl Into<String>) {
        self.lanes.insert(process, Lane { role, name: name.into() });
    }

    /// The processes that have a lane, by number.
    pub fn lanes(&self) -> impl Iterator<Item = (ProcessId, &Lane)> {
        self.lanes.iter().map(|(process, lane)| (*process, lane))
    }

    /// What a process is called; its number when nobody said.
    #[must_use]
    pub fn name(&self, process: ProcessId) -> Cow<'_, str> {
        match self.lanes.get(&process) {
            Some(lane) => Cow::Borrowed(&lane.name),
            None => Cow::Owned(format!("process {}", process.0)),
        }
    }

    /// Everything that happened, in the order in which it was recorded.
    #[must_use]
    pub fn events(&self) -> &[TraceEvent] {
        &self.events
    }

    /// A message left. Its fate may be told later, through what is returned.
    pub fn sent(
        &mut self,
        at: u64,
        from: ProcessId,
        to: ProcessId,
        about: Option<TransactionId>,
        label: impl Into<Label>,
    ) -> EventRef {
        let kind =
            EventKind::Message { to, label: label.into(), fate: Fate::Underway, copy: false };
        self.push(at, Some(from), about, kind)
    }

    /// A message arrived. A second time, it was a copy.
    pub fn delivered(&mut self, message: EventRef, at: u64) {
        let Some(event) = self.events.get_mut(message.0) else { return };
        if let EventKind::Message { to, label, fate, .. } = &mut event.kind {
            if !matches!(fate, Fate::Delivered { .. }) {
                *fate = Fate::Delivered { at };
                return;
            }
            let kind = EventKind::Message {
                to: *to,
                label: label.clone(),
                fate: Fate::Delivered { at },
                copy: true,
            };
            let second = TraceEvent { kind, ..event.clone() };
            self.events.push(second);
        }
    }

    /// A message will never arrive. Nothing changes for one that has.
    pub fn lost(&mut self, message: EventRef, at: u64, why: impl Into<Label>) {
        if let Some(event) = self.events.get_mut(message.0)
            && let EventKind::Message { fate: fate @ Fate::Underway, .. } = &mut event.kind
        {
            *fate = Fate::Lost { at, why: why.into() };
        }
    }

    /// A journal began to write and sync.
    pub fn sync_began(
        &mut self,
        at: u64,
        process: ProcessId,
        about: impl IntoIterator<Item = TransactionId>,
        label: impl Into<Label>,
    ) -> EventRef {
        let kind = EventKind::Sync { ended: None, end: SyncEnd::Running, label: label.into() };
        self.push(at, Some(process), about, kind)
    }

    /// A sync ended.
    pub fn sync_ended(&mut self, sync: EventRef, at: u64, how: SyncEnd) {
        if let Some(event) = self.events.get_mut(sync.0)
            && let EventKind::Sync { ended, end, .. } = &mut event.kind
        {
            (*ended, *end) = (Some(at), how);
        }
    }

    /// An event concerns a transaction whose id was not known when it happened.
    pub fn concerns(&mut self, event: EventRef, id: TransactionId) {
        if let Some(event) = self.events.get_mut(event.0)
            && !event.about.contains(&id)
        {
            event.about.push(id);
        }
    }

    /// A process died.
    pub fn crash(&mut self, at: u64, process: ProcessId, label: impl Into<Label>) {
        self.push(at, Some(process), None, EventKind::Crash(label.into()));
    }

    /// A process serves again.
    pub fn restart(&mut self, at: u64, process: ProcessId, label: impl Into<Label>) {
        self.push(at, Some(process), None, EventKind::Restart(label.into()));
    }

    /// A process handles nothing until `until`.
    pub fn pause(&mut self, at: u64, process: ProcessId, until: u64) {
        self.push(at, Some(process), None, EventKind::Pause { until });
    }

    /// A process's wall clock was set forward (or back).
    pub fn clock_jump(&mut self, at: u64, process: ProcessId, by_ms: i64) {
        self.push(at, Some(process), None, EventKind::ClockJump { by_ms });
    }

    /// Some other fault: of one process, or (`None`) of the world.
    pub fn fault(&mut self, at: u64, process: Option<ProcessId>, label: impl Into<Label>) {
        self.push(at, process, None, EventKind::Fault(label.into()));
    }

    /// A state machine handled an input.
    pub fn step(
        &mut self,
        at: u64,
        process: ProcessId,
        about: Option<TransactionId>,
        label: impl Into<Label>,
    ) -> EventRef {
        self.push(at, Some(process), about, EventKind::Step(label.into()))
    }

    /// A client was told an outcome.
    pub fn told(
        &mut self,
        at: u64,
        client: ProcessId,
        about: Option<TransactionId>,
        outcome: Told,
        label: impl Into<Label>,
    ) {
        self.push(at, Some(client), about, EventKind::Told { outcome, label: label.into() });
    }

    /// Something to know when reading the rest.
    pub fn note(
        &mut self,
        at: u64,
        process: Option<ProcessId>,
        about: Option<TransactionId>,
        label: impl Into<Label>,
    ) {
        self.push(at, process, about, EventKind::Note(label.into()));
    }

    /// An invariant does not hold.
    pub fn violation(
        &mut self,
        at: u64,
        process: Option<ProcessId>,
        about: Option<TransactionId>,
        label: impl Into<Label>,
    ) {
        self.push(at, process, about, EventKind::Violation(label.into()));
    }

    fn push(
        &mut self,
        at: u64,
        process: Option<ProcessId>,
        about: impl IntoIterator<Item = TransactionId>,
        kind: EventKind,
    ) -> EventRef {
        self.events.push(TraceEvent { at, process, about: about.into_iter().collect(), kind });
        EventRef(self.events.len() - 1)
    }

    /// The run as text, one line per event, sorted by time (events of one moment as they were recorded).
    #[must_use]
    pub fn log(&self) -> String {
        let mut order: Vec<&TraceEvent> = self.events.iter().collect();
        order.sort_by_key(|event| event.at);
        self.lines(order)
    }

    /// The last `events` events that concern a transaction, as [`Trace::log`] has them, with what
    /// happened to whole processes in between.
    #[must_use]
    pub fn story(&self, id: TransactionId, events: usize) -> String {
        let mut order: Vec<&TraceEvent> =
            self.events.iter().filter(|event| event.about.contains(&id)).collect();
        order.sort_by_key(|event| event.at);
        order.drain(..order.len().saturating_sub(events));
        let Some(first) = order.first().map(|event| event.at) else { return String::new() };
        let last = order.iter().map(|event| event.end()).max().unwrap_or(first);
        order = self
            .events
            .iter()
            .filter(|event| (first..=last).contains(&event.at))
            .filter(|event| event.about.contains(&id) || event.is_of_a_process())
            .collect();
        order.sort_by_key(|event| event.at);
        self.lines(order)
    }

    fn lines(&self, events: Vec<&TraceEvent>) -> String {
        let mut text = String::new();
        for event in events {
            self.line(event, &mut text);
        }
        text
    }

    fn line(&self, event: &TraceEvent, text: &mut String) {
        let place = event.process.map_or(Cow::Borrowed("world"), |process| self.name(process));
        let (at, place) = (Millis(event.at).to_string(), one_line(&place));
        // Writing to a String cannot fail.
        let _ = write!(text, "{at:>14}  {place:<14}  {}", self.what(event));
        for id in &event.about {
            let _ = write!(text, "  {id}");
        }
        text.push('\n');
    }

    /// An event in one line of words, without its time and place.
    #[must_use]
    pub fn what(&self, event: &TraceEvent) -> String {
        let text = match &event.kind {
            EventKind::Message { to, label, fate, copy } => {
                let copy = if *copy { " again" } else { "" };
                let to = self.name(*to);
                match fate {
                    Fate::Underway => format!("sends {label}{copy} to {to}, not arrived"),
                    Fate::Delivered { at } => {
                        format!("sends {label}{copy} to {to}, arrives {}", Millis(*at))
                    }
                    Fate::Lost { at, why } => {
                        format!("sends {label}{copy} to {to}, lost {}: {why}", Millis(*at))
                    }
                }
            }
            EventKind::Sync { ended, end, label } => {
                let end = match end {
                    SyncEnd::Running => "has not ended",
                    SyncEnd::Durable => "durable",
                    SyncEnd::Failed => "FAILED",
                    SyncEnd::Cut => "cut by a crash",
                };
                match ended {
                    Some(at) => format!("syncs {label}: {end} {}", Millis(*at)),
                    None => format!("syncs {label}: {end}"),
                }
            }
            EventKind::Crash(label) => titled("CRASH", label),
            EventKind::Restart(label) => titled("restart", label),
            EventKind::Pause { until } => format!("pauses until {}", Millis(*until)),
            EventKind::ClockJump { by_ms } => format!("clock jumps by {by_ms:+} ms"),
            EventKind::Fault(label) => titled("fault", label),
            EventKind::Step(label) => titled("step", label),
            EventKind::Told { outcome, label } => titled(&format!("is told {outcome}"), label),
            EventKind::Note(label) => titled("note", label),
            EventKind::Violation(label) => titled("VIOLATION", label),
        };
        // Labels may quote errors and keys; an event stays one line.
        one_line(&text)
    }

    /// 64 bits that differ for different runs: FNV-1a of [`Trace::log`] and the lanes.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut text = self.log();
        for (process, lane) in self.lanes() {
            let _ = writeln!(text, "{} {:?} {}", process.0, lane.role, lane.name);
        }
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn titled(title: &str, label: &str) -> String {
    if label.is_empty() { title.to_owned() } else { format!("{title}: {label}") }
}

impl TraceEvent {
    /// When it was over, in microseconds: its beginning, for what takes no time.
    #[must_use]
    pub fn end(&self) -> u64 {
        match &self.kind {
            EventKind::Message { fate: Fate::Delivered { at } | Fate::Lost { at, .. }, .. } => *at,
            EventKind::Sync { ended: Some(at), .. } => *at,
            EventKind::Pause { until } => *until,
            _ => self.at,
        }
    }

    /// Whether it happens to a whole process, and so to every transaction there.
    #[must_use]
    pub fn is_of_a_process(&self) -> bool {
        self.about.is_empty()
            && matches!(
                self.kind,
                EventKind::Crash(_)
                    | EventKind::Restart(_)
                    | EventKind::Pause { .. }
                    | EventKind::ClockJump { .. }
                    | EventKind::Fault(_)
                    | EventKind::Violation(_)
            )
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Committed => "COMMITTED",
            Self::Aborted => "ABORTED",
            Self::Unknown => "outcome unknown",
        })
    }
}

/// Microseconds, printed as milliseconds with all their digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Millis(pub u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} ms", self.0 / 1000, self.0 % 1000)
    }
}
