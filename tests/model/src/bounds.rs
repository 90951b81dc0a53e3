//! What one run of the checker may do, and how often.

use handfast_commit_core::id::Protocol;

use crate::marks::Mark;
use crate::network::Who;

/// What the network may do to messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Calls, with everything ever said deliverable for ever: each message arrives any number of times,
    /// in any order, or never. No bound is needed: it is the union of all losses, repetitions and delays.
    Ever,
    /// Calls, in any order, each delivered once but for the losses and repetitions that the budget allows.
    Once,
    /// Links between the coordinator and its participants: in order, or not at all when the session is cut.
    /// Peers ask each other by calls, delivered once.
    Links,
}

/// When records become durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// One at a time, whenever the disk likes: a crash may lose any suffix.
    Slow,
    /// Forced records, and those before them, at once; the others whenever the disk likes. What a forced
    /// step does waits for its record, so that a crash between the two is the crash before the step.
    Prompt,
    /// The coordinator's like [`Prompt`](Self::Prompt), those of participants like [`Slow`](Self::Slow).
    PromptCoordinator,
}

impl Disk {
    /// Forced records of this process are durable at once.
    #[must_use]
    pub fn is_prompt(self, who: Who) -> bool {
        match self {
            Self::Slow => false,
            Self::Prompt => true,
            Self::PromptCoordinator => who == Who::C,
        }
    }
}

/// What a participant's resource may answer to a prepare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Prepared.
    Yes,
    /// Nothing to commit.
    ReadOnly,
    /// Refused.
    No,
}

/// One participant.
#[derive(Debug, Clone, Copy)]
pub struct Party {
    /// What its resource may answer; one of them is chosen.
    pub verdicts: &'static [Verdict],
    /// It may commit alone.
    pub one_phase: bool,
    /// Its resource is a database of its own, which keeps prepared branches when the process dies.
    pub external: bool,
    /// Its resource takes its time: other things happen while it works.
    pub slow: bool,
    /// How often its process may die.
    pub crashes: u8,
    /// Three-phase commit: how many elections it may lead.
    pub elections: u8,
}

impl Party {
    /// One that votes prepared and never dies.
    pub const YES: Party = Party {
        verdicts: &[Verdict::Yes],
        one_phase: false,
        external: false,
        slow: false,
        crashes: 0,
        elections: 0,
    };
}

/// How often each thing may go wrong that does not belong to one participant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    /// Crashes of the coordinator.
    pub crashes: u8,
    /// Messages lost ([`Network::Once`], and the calls beside links).
    pub losses: u8,
    /// Messages repeated ([`Network::Once`], and the calls beside links).
    pub repeats: u8,
    /// Sessions cut.
    pub cuts: u8,
    /// Timers that run out while something else could still happen.
    pub early: u8,
    /// Requests repeated by the client.
    pub retries: u8,
    /// Requests to abort, by the client.
    pub aborts: u8,
    /// Three-phase commit: elections that the coordinator may lead.
    pub elections: u8,
    /// Times that the outcome window passes for all that has ended. Nobody repeats a request after that.
    pub expiries: u8,
}

/// How much a configuration asks of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// Seconds: always checked.
    Quick,
    /// A minute or so: checked when asked for.
    Full,
    /// Longer, and with some gigabytes of memory: checked by its name.
    Long,
}

impl Effort {
    /// By its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [("quick", Self::Quick), ("full", Self::Full), ("long", Self::Long)]
            .into_iter()
            .find(|(known, _)| *known == name)
            .map(|(_, effort)| effort)
    }
}

/// One configuration: everything that can happen within it is tried.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub what: &'static str,
    /// Of the client's transactions.
    pub protocol: Protocol,
    /// Three-phase commit: everything begins when all have voted prepared and the coordinator has moved.
    pub voted: bool,
    /// The coordinator is gone when everything begins. What it has said may still arrive.
    pub gone: bool,
    /// The participants.
    pub parties: Vec<Party>,
    /// Three-phase commit: how many witnesses there are.
    pub witnesses: usize,
    /// How messages travel.
    pub network: Network,
    /// When records become durable.
    pub disk: Disk,
    /// What may go wrong.
    pub budget: Budget,
    /// The work is done in sessions before the client commits, and PREPARE brings none.
    pub interactive: bool,
    /// The coordinator comes back after a crash.
    pub returns: bool,
    /// Nothing goes wrong: whatever happens, it must commit.
    pub must_commit: bool,
    /// What must be seen.
    pub marks: &'static [Mark],
    /// How many different states there are.
    pub states: usize,
    /// When it is checked.
    pub effort: Effort,
}

impl Bounds {
    /// The bounds in a line.
    #[must_use]
    pub fn describe(&self) -> String {
        let network = match self.network {
            Network::Ever => "calls: every message lost, repeated and delayed without bound",
            Network::Once => "calls: messages in any order",
            Network::Links => "links: messages in order",
        };
        let disk = match self.disk {
            Disk::Slow => "records durable one by one, whenever the disk likes",
            Disk::Prompt => "forced records durable at once, others whenever the disk likes",
            Disk::PromptCoordinator => {
                "a participant's records durable one by one, whenever the disk likes"
            }
        };
        let crashing = self.parties.iter().filter(|party| party.crashes > 0).count();
        let mut parts = vec![format!("{} participants", self.parties.len()), network.to_owned()];
        if self.protocol == Protocol::ThreePhase {
            parts.insert(0, "three-phase commit".to_owned());
        }
        if self.witnesses > 0 {
            parts.push(format!("witnesses: {}", self.witnesses));
        }
        if self.voted {
            parts.push("everybody has voted".to_owned());
        }
        if self.gone {
            parts.push("the coordinator is gone".to_owned());
        }
        if self.interactive {
            parts.push("work done in sessions".to_owned());
        }
        parts.push(disk.to_owned());
        let Budget { crashes, losses, repeats, cuts, early, retries, aborts, elections, expiries } =
            self.budget;
        let leading: u8 = self.parties.iter().map(|party| party.elections).sum();
        let returns = if self.returns { "" } else { ", for good" };
        for (count, text) in [
            (crashes, format!("crashes of the coordinator{returns}")),
            (u8::try_from(crashing).unwrap_or(u8::MAX), "participants that crash".to_owned()),
            (losses, "messages lost".to_owned()),
            (repeats, "messages repeated".to_owned()),
            (cuts, "sessions cut".to_owned()),
            (early, "early timers".to_owned()),
            (retries, "requests repeated".to_owned()),
            (aborts, "requests to abort".to_owned()),
            (elections, "elections led by the coordinator".to_owned()),
            (leading, "elections led by participants".to_owned()),
            (expiries, "outcome windows passed".to_owned()),
        ] {
            if count > 0 {
                parts.push(format!("{text}: {count}"));
            }
        }
        parts.join("; ")
    }
}
