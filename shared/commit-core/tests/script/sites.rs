//! The commands that three-phase commit needs beside the others: partitions, and what a leader or a site says.

use std::collections::BTreeMap;

use handfast_commit_core::id::{Incarnation, ParticipantName, Protocol, TransactionId};
use handfast_commit_core::message::{FromSite, Order, Report, ToSite, Voting};
use handfast_commit_core::three_phase::{Ballot, SiteName, SiteNumber, Sites, Standing};

use super::words::Words;
use super::{Result, Script};
use crate::world::{Body, Envelope, Who, World};

impl Script {
    pub(super) fn protocol(words: &mut Words) -> Protocol {
        if words.flag("three-phase") { Protocol::ThreePhase } else { Protocol::TwoPhase }
    }

    pub(super) fn by_hand(&mut self, witness: &ParticipantName) {
        if let Some(host) = self.world.witnesses.get_mut(witness) {
            host.log.auto = false;
        }
    }

    /// The sites of a PREPARE that somebody makes up: all participants there are, each with its log.
    /// `voting=none` names nobody, `voting=other` speaks to somebody else.
    pub(super) fn voting_of(
        &self,
        id: TransactionId,
        name: &ParticipantName,
        words: &mut Words,
    ) -> Result<Option<Voting>> {
        let how = words.value("voting").unwrap_or_default();
        if !id.is_three_phase() || how == "none" {
            return Ok(None);
        }
        let logs = self.world.participants.iter();
        let logs = logs.map(|(name, host)| (name.clone(), host.incarnation)).collect();
        let sites = Sites::new(logs, Vec::new());
        let own = sites.number(&SiteName::Participant(name.clone())).unwrap_or(SiteNumber(0));
        let own = if how == "other" { SiteNumber(0) } else { own };
        let logs = sites.participants().iter().cloned();
        let another = |(name, log): (ParticipantName, Incarnation)| (name, Incarnation(log.0 + 1));
        let sites = match how.as_str() {
            "log" => Sites::new(logs.map(another).collect(), Vec::new()),
            _ => sites,
        };
        Ok(Some(Voting { sites, own }))
    }

    /// `split C p1 / p2 p3`
    pub(super) fn split(&mut self, words: &mut Words) -> Result {
        let mut groups = BTreeMap::new();
        let mut group = 0;
        for word in words.rest() {
            if word == "/" {
                group += 1;
            } else {
                groups.insert(self.who(&word)?, group);
            }
        }
        self.world.split(groups);
        Ok(())
    }

    fn ballot(words: &mut Words, key: &str) -> Result<Option<Ballot>> {
        let Some(text) = words.value(key) else {
            return Ok(None);
        };
        let wrong = || format!("{text} is no ballot; one looks like 2.1");
        let (round, site) = text.split_once('.').ok_or_else(wrong)?;
        let round: u64 = round.parse().map_err(|_| wrong())?;
        let site: u64 = site.parse().map_err(|_| wrong())?;
        Ok(Some(Ballot::from_number(round << 16 | site)))
    }

    /// A leader that somebody makes up says something.
    pub(super) fn order(&mut self, words: &mut Words) -> Result {
        let to = self.who(&words.next("who is led")?)?;
        let what = words.next("an order")?;
        let id = self.id(&words.next("a transaction")?)?;
        let from = self.who(&words.value("from").ok_or("who leads?")?)?;
        let ballot = Self::ballot(words, "ballot")?;
        let wanted = || ballot.ok_or("in which ballot?");
        let order = match what.as_str() {
            "join" => Order::Join { ballot: wanted()? },
            "pre-commit" => Order::PreCommit { ballot: wanted()? },
            "pre-abort" => Order::PreAbort { ballot: wanted()? },
            "committed" => Order::Decided { committed: true },
            "aborted" => Order::Decided { committed: false },
            "forget" => Order::Forget,
            other => return Err(format!("no such order: {other}")),
        };
        let incarnation = match (words.number("log")?, &to) {
            (Some(log), _) => Incarnation(log),
            (None, Who::Coordinator) => World::LOG,
            (None, Who::Participant(name)) => self.world.participants[name].incarnation,
            (None, Who::Witness(_)) => Incarnation(0),
        };
        let body = Body::Order(ToSite { id, incarnation, order });
        self.say_at_once(from, to, body);
        Ok(())
    }

    /// A site that somebody makes up says something.
    pub(super) fn report(&mut self, words: &mut Words) -> Result {
        let to = self.who(&words.next("who is told")?)?;
        let what = words.next("a report")?;
        let id = self.id(&words.next("a transaction")?)?;
        let from = self.who(&words.value("from").ok_or("who reports?")?)?;
        let ballot = Self::ballot(words, "ballot")?;
        let wanted = || ballot.ok_or("in which ballot?");
        let report = match what.as_str() {
            "moved" => Report::Moved { ballot: wanted()? },
            "joined" => Report::Joined {
                ballot: wanted()?,
                accepted: Ballot::NONE,
                standing: Standing::Waiting,
            },
            "refused" => {
                let promised = Self::ballot(words, "promised")?.ok_or("what has it joined?")?;
                Report::Refused { ballot: wanted()?, promised }
            }
            "known" => Report::Known { committed: words.flag("committed") },
            "acknowledged" => Report::Acknowledged { committed: words.flag("committed") },
            other => return Err(format!("no such report: {other}")),
        };
        words.skip("aborted");
        self.say_at_once(from, to, Body::Report(FromSite { id, report }));
        Ok(())
    }

    fn say_at_once(&mut self, from: Who, to: Who, body: Body) {
        let session = match (&from, &to) {
            (Who::Coordinator, Who::Participant(name)) => Some(self.world.links[name].session),
            _ => None,
        };
        self.world.pool.push_front(Envelope { from, to, session, origin: None, body });
        self.world.deliver(0);
    }
}
