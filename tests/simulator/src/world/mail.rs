//! Messages: how they travel, and where they arrive.
//!
//! Messages of a session keep their order and are lost only with the session; all others are calls of their
//! own, which overtake each other, get lost with or without a sign, and may arrive twice.

use handfast_commit_core::id::TransactionId;
use handfast_commit_core::message::{
    FromParticipant, Inquired, Order, Report, ToParticipant, Vote,
};
use handfast_commit_core::two_phase::coordinator::Reply;
use handfast_commit_core::two_phase::participant::Input;

use super::{World, client_lane};
use crate::client::{Ask, CallId, Said};
use crate::event::{Event, Letter, Mail, Site};
use crate::faults::Fault;
use crate::trace::{EventRef, ProcessId};

/// How soon somebody notices that a peer cannot be reached any more.
const SILENCE_US: u64 = 150_000;

impl Letter {
    /// The site that it goes to; `None`: a client.
    pub(crate) fn to(&self) -> Option<Site> {
        Some(match self {
            Self::Ask { .. }
            | Self::Welcome { .. }
            | Self::Unwelcome { .. }
            | Self::Up { .. }
            | Self::UpInquiry { .. }
            | Self::Called { .. }
            | Self::Listed { .. }
            | Self::Inquiry { .. }
            | Self::UpReport { .. }
            | Self::Enlist { .. } => Site::Coordinator,
            Self::Order { to, .. } | Self::Report { to, .. } => *to,
            Self::Work { to, .. }
            | Self::Hello { to, .. }
            | Self::Down { to, .. }
            | Self::DownOrder { to, .. }
            | Self::Call { to, .. }
            | Self::List { to, .. }
            | Self::Inquired { to, .. }
            | Self::PeerAsk { to, .. }
            | Self::PeerAnswer { to, .. }
            | Self::Enlisted { to, .. } => Site::Participant(*to),
            Self::Answer { .. } | Self::Worked { .. } => return None,
        })
    }

    /// The site that it comes from; `None`: a client.
    fn from(&self) -> Option<Site> {
        Some(match self {
            Self::Welcome { from, .. }
            | Self::Unwelcome { from, .. }
            | Self::Up { from, .. }
            | Self::UpInquiry { from, .. }
            | Self::Called { from, .. }
            | Self::Listed { from, .. }
            | Self::Inquiry { from, .. }
            | Self::PeerAsk { from, .. }
            | Self::PeerAnswer { from, .. }
            | Self::UpReport { from, .. }
            | Self::Enlist { from, .. } => Site::Participant(*from),
            Self::Order { from, .. } | Self::Report { from, .. } => *from,
            Self::Hello { .. }
            | Self::Down { .. }
            | Self::DownOrder { .. }
            | Self::Call { .. }
            | Self::List { .. }
            | Self::Inquired { .. }
            | Self::Enlisted { .. }
            | Self::Answer { .. } => Site::Coordinator,
            // Who has worked does not matter: clients are cut off from nobody.
            Self::Ask { .. } | Self::Work { .. } | Self::Worked { .. } => return None,
        })
    }

    /// The session that it belongs to, and whether it goes down, to the participant.
    fn session(&self) -> Option<(u64, usize, bool)> {
        match self {
            Self::Down { session, to, .. }
            | Self::DownOrder { session, to, .. }
            | Self::Hello { session, to, .. } => Some((*session, *to, true)),
            Self::Up { session, from, .. }
            | Self::UpReport { session, from, .. }
            | Self::UpInquiry { session, from, .. }
            | Self::Welcome { session, from, .. }
            | Self::Unwelcome { session, from } => Some((*session, *from, false)),
            _ => None,
        }
    }

    /// The connection whose loss would be noticed if it were lost.
    fn connection(&self) -> Option<(usize, u64)> {
        match self {
            Self::Call { to, session, .. } | Self::List { to, session, .. } => {
                Some((*to, *session))
            }
            Self::Called { from, session, .. } | Self::Listed { from, session, .. } => {
                Some((*from, *session))
            }
            _ => None,
        }
    }

    /// The call whose loss a client would wait for.
    fn client(&self) -> Option<CallId> {
        match self {
            Self::Ask { call, .. }
            | Self::Answer { call, .. }
            | Self::Work { call, .. }
            | Self::Worked { call, .. } => Some(*call),
            _ => None,
        }
    }

    fn about(&self) -> Option<TransactionId> {
        match self {
            Self::Down { message, .. } | Self::Call { message, .. } => Some(about_down(message)),
            Self::Up { message, .. } | Self::Called { message, .. } => Some(message.id()),
            Self::DownOrder { message, .. } | Self::Order { message, .. } => Some(message.id),
            Self::UpReport { message, .. } | Self::Report { message, .. } => Some(message.id),
            Self::UpInquiry { id, .. }
            | Self::Inquiry { id, .. }
            | Self::Inquired { id, .. }
            | Self::PeerAsk { id, .. }
            | Self::PeerAnswer { id, .. }
            | Self::Enlist { id, .. }
            | Self::Enlisted { id, .. }
            | Self::Work { id, .. } => Some(*id),
            Self::Ask { ask, .. } => match ask {
                Ask::Commit { id, .. } | Ask::Abort { id } | Ask::Look { id } => Some(*id),
                Ask::Execute { .. } | Ask::Begin { .. } => None,
            },
            Self::Answer { said: Said::Reply(reply), .. } => about_reply(reply),
            _ => None,
        }
    }

    fn label(&self) -> String {
        match self {
            Self::Ask { ask, .. } => match ask {
                Ask::Execute { request, .. } => format!("execute {request}"),
                Ask::Begin { .. } => "begin".to_owned(),
                Ask::Commit { .. } => "commit".to_owned(),
                Ask::Abort { .. } => "abort".to_owned(),
                Ask::Look { .. } => "look".to_owned(),
            },
            Self::Answer { said, .. } => match said {
                Said::Reply(reply) => label_reply(reply),
                Said::Known(known) => short(&format!("{known:?}")).to_lowercase(),
                Said::NotNow => "not now".to_owned(),
            },
            Self::Work { .. } => "work".to_owned(),
            Self::Worked { result, .. } => match result {
                Ok(_) => "worked".to_owned(),
                Err(error) => format!("{error:?}"),
            },
            Self::Hello { session, .. } => format!("hello {session}"),
            Self::Welcome { session, reports, .. } => match reports.len() {
                0 => format!("welcome {session}"),
                count => format!("welcome {session}, {count} kept"),
            },
            Self::Unwelcome { session, .. } => format!("refused {session}"),
            Self::Down { message, .. } | Self::Call { message, .. } => label_down(message),
            Self::Up { message, .. } | Self::Called { message, .. } => label_up(message),
            Self::DownOrder { message, .. } | Self::Order { message, .. } => {
                label_order(message.order)
            }
            Self::UpReport { message, .. } | Self::Report { message, .. } => {
                label_report(message.report)
            }
            Self::UpInquiry { .. } | Self::Inquiry { .. } => "INQUIRE".to_owned(),
            Self::List { .. } => "list".to_owned(),
            Self::Listed { ids, .. } => format!("{} in doubt", ids.len()),
            Self::Inquired { outcome, .. } => label_inquired(*outcome),
            Self::PeerAsk { .. } => "INQUIRE (peer)".to_owned(),
            Self::PeerAnswer { outcome, .. } => label_inquired(*outcome),
            Self::Enlist { .. } => "ENLIST".to_owned(),
            Self::Enlisted { .. } => "enlisted".to_owned(),
        }
    }
}

fn about_down(message: &ToParticipant) -> TransactionId {
    match message {
        ToParticipant::Prepare(prepare) => prepare.id,
        ToParticipant::Commit { id, .. }
        | ToParticipant::Abort { id }
        | ToParticipant::Forget { id }
        | ToParticipant::Answer { id, .. } => *id,
    }
}

fn about_reply(reply: &Reply) -> Option<TransactionId> {
    match reply {
        Reply::Begun { id, .. } | Reply::Unknown { id, .. } | Reply::Undecided { id, .. } => {
            Some(*id)
        }
        Reply::Outcome(outcome) => Some(outcome.id),
        Reply::Enlisted { .. } | Reply::Inquired(_) | Reply::Refused(_) => None,
    }
}

fn label_down(message: &ToParticipant) -> String {
    match message {
        ToParticipant::Prepare(prepare) if prepare.one_phase => "PREPARE, one phase".to_owned(),
        ToParticipant::Prepare(_) => "PREPARE".to_owned(),
        ToParticipant::Commit { .. } => "COMMIT".to_owned(),
        ToParticipant::Abort { .. } => "ABORT".to_owned(),
        ToParticipant::Forget { .. } => "FORGET".to_owned(),
        ToParticipant::Answer { outcome, .. } => label_inquired(*outcome),
    }
}

fn label_up(message: &FromParticipant) -> String {
    match message {
        FromParticipant::Voted { vote, .. } => match vote {
            Vote::Prepared => "prepared".to_owned(),
            Vote::ReadOnly => "read-only".to_owned(),
            Vote::No { .. } => "no".to_owned(),
            Vote::Committed { .. } => "committed in one phase".to_owned(),
        },
        FromParticipant::Committed { .. } => "committed".to_owned(),
        FromParticipant::Aborted { .. } => "aborted".to_owned(),
        FromParticipant::Refused { .. } => "refused".to_owned(),
    }
}

fn label_reply(reply: &Reply) -> String {
    match reply {
        Reply::Begun { .. } => "begun".to_owned(),
        Reply::Enlisted { .. } => "enlisted".to_owned(),
        Reply::Outcome(outcome) => match &outcome.result {
            Ok(()) if outcome.pending.is_empty() => "committed".to_owned(),
            Ok(()) => "committed, not applied everywhere".to_owned(),
            Err(reason) => format!("aborted: {}", short(&reason.message)),
        },
        Reply::Unknown { .. } | Reply::Undecided { .. } => "outcome unknown".to_owned(),
        Reply::Inquired(outcome) => label_inquired(*outcome),
        Reply::Refused(refusal) => format!("refused: {}", short(&format!("{refusal:?}"))),
    }
}

fn label_order(order: Order) -> String {
    match order {
        Order::Join { ballot } => format!("JOIN {ballot}"),
        Order::PreCommit { ballot } => format!("PRE_COMMIT {ballot}"),
        Order::PreAbort { ballot } => format!("PRE_ABORT {ballot}"),
        Order::Decided { committed: true } => "DECIDED: commit".to_owned(),
        Order::Decided { committed: false } => "DECIDED: abort".to_owned(),
        Order::Forget => "FORGET".to_owned(),
    }
}

fn label_report(report: Report) -> String {
    match report {
        Report::Joined { ballot, accepted, standing } => {
            format!("joined {ballot}: {standing:?}, {accepted}")
        }
        Report::Moved { ballot } => format!("moved {ballot}"),
        Report::Refused { promised, .. } => format!("refused: promised {promised}"),
        Report::Unvoted => "unvoted".to_owned(),
        Report::Known { committed: true } => "known: committed".to_owned(),
        Report::Known { committed: false } => "known: aborted".to_owned(),
        Report::Acknowledged { .. } => "acknowledged".to_owned(),
        Report::Forgotten => "forgotten".to_owned(),
        Report::NoInformation => "no information".to_owned(),
    }
}

fn label_inquired(outcome: Inquired) -> String {
    format!("answer: {outcome:?}")
}

fn short(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

impl World {
    fn ends(&self, letter: &Letter) -> (ProcessId, ProcessId) {
        let client = letter.client().map(|call| client_lane(call.client));
        let unknown = ProcessId(u32::MAX);
        let from = match (letter.from(), letter) {
            (Some(site), _) => self.lane(site),
            (None, Letter::Worked { from, .. }) => self.lane(Site::Participant(*from)),
            (None, _) => client.unwrap_or(unknown),
        };
        let to = letter.to().map(|site| self.lane(site));
        (from, to.or(client).unwrap_or(unknown))
    }

    /// A request that begins a transaction concerns it, which its answer tells.
    fn name_asks(&mut self, letter: &Letter, traced: Option<EventRef>) {
        let Some(message) = traced else { return };
        match letter {
            Letter::Ask { call, ask: Ask::Execute { .. } | Ask::Begin { .. } } => {
                self.drawn_asks.insert(*call, message);
            }
            Letter::Answer { call, .. } => {
                if let (Some(asked), Some(id)) = (self.drawn_asks.remove(call), letter.about()) {
                    self.recorder.record(|trace| trace.concerns(asked, id));
                }
            }
            _ => {}
        }
    }

    /// Sends a message.
    pub(crate) fn post(&mut self, letter: Letter) {
        let now = self.now;
        let (from, to) = self.ends(&letter);
        let traced =
            self.recorder.record(|trace| trace.sent(now, from, to, letter.about(), letter.label()));
        self.name_asks(&letter, traced);
        let lose = |world: &mut Self, why: &'static str| {
            if let Some(message) = traced {
                world.recorder.record(|trace| trace.lost(message, now, why));
            }
        };
        let (low, high) = self.swarm.delay_us;
        let mut at = now + self.random.between(low, high);
        let cut = match (letter.from(), letter.to()) {
            (Some(from), Some(to)) => self.cut.get(&(from, to)).is_some_and(|until| *until > now),
            _ => false,
        };
        if let Some((session, index, down)) = letter.session() {
            if cut {
                lose(self, "cut off");
                let noticed = now + self.random.between(SILENCE_US / 2, SILENCE_US * 2);
                return self.agenda.plan(noticed, Event::Broken(index, session));
            }
            if self.random.chance(self.rates.session_cut) {
                self.faults.add(Fault::SessionCut);
                let lost_after = now + self.random.below(2 * high);
                self.dead_after.insert(session, lost_after);
                let noticed = now + self.random.below(4 * high);
                self.agenda.plan(noticed, Event::Broken(index, session));
            }
            let last = self.coordinator.running.as_mut().map(|running| {
                let link = &mut running.links[index];
                if down { &mut link.last_down } else { &mut link.last_up }
            });
            if let Some(last) = last {
                at = at.max(*last + 1);
                *last = at;
            }
            if self.dead_after.get(&session).is_some_and(|dead| at > *dead) {
                return lose(self, "the session is cut");
            }
            return self.agenda.plan(at, Event::Mail(Mail { letter, traced }));
        }
        if cut || self.random.chance(self.rates.lost) {
            if !cut {
                self.faults.add(Fault::MessageLost);
            }
            lose(self, if cut { "cut off" } else { "lost" });
            // A connection that breaks is noticed sooner or later; a call that was lost with it, too.
            if let Some((index, session)) = letter.connection()
                && (cut || self.random.one_in(2))
            {
                let noticed = now + self.random.between(high, SILENCE_US);
                self.agenda.plan(noticed, Event::Broken(index, session));
            }
            return;
        }
        if self.random.chance(self.rates.late) {
            self.faults.add(Fault::MessageLate);
            at += self.random.between(high, 20 * high + 50_000);
        }
        if self.random.chance(self.rates.duplicated) && may_arrive_twice(&letter) {
            self.faults.add(Fault::MessageDuplicated);
            let again = at + self.random.between(1, 10 * high);
            self.agenda.plan(again, Event::Mail(Mail { letter: letter.clone(), traced }));
        }
        self.agenda.plan(at, Event::Mail(Mail { letter, traced }));
    }

    /// A message arrives.
    pub(crate) fn arrived(&mut self, mail: Mail) {
        let Mail { letter, traced } = mail;
        let now = self.now;
        if let Some(site) = letter.to()
            && !self.is_up(site)
        {
            if let Some(message) = traced {
                self.recorder.record(|trace| trace.lost(message, now, "nobody is there"));
            }
            // One that is reading its log answers so.
            if let Letter::Inquiry { from, life, id, .. } = letter
                && self.random.one_in(3)
            {
                let outcome = Inquired::Retry;
                return self.post(Letter::Inquired { to: from, life, id, outcome });
            }
            // The connection is refused, and the sender knows it at once.
            if let Some((session, index, true)) = letter.session() {
                self.agenda.plan(now + 100, Event::Broken(index, session));
            } else if let Some((index, session)) = letter.connection() {
                self.agenda.plan(now + 100, Event::Broken(index, session));
            } else if let Some(call) = letter.client()
                && self.random.one_in(2)
            {
                self.agenda.plan(now + 1_000, Event::OutOfPatience(call));
            }
            return;
        }
        if let Some(message) = traced {
            self.recorder.record(|trace| trace.delivered(message, now));
        }
        match letter {
            Letter::Ask { call, ask } => self.asked(call, ask),
            Letter::Answer { call, said } => self.answered(call, said),
            Letter::Work { call, to, id, work } => {
                if let Some(running) = &mut self.participants[to].running {
                    running.work(call, id, work);
                }
                if self.random.chance(self.rates.given_up) {
                    self.settle(Site::Participant(to));
                    self.faults.add(Fault::GivenUp);
                    self.participant_input(to, Input::GivenUp { id });
                }
                self.settle(Site::Participant(to));
            }
            Letter::Worked { call, result, .. } => self.worked(call, result),
            Letter::Hello { to, session, origin } => self.greeted(to, session, origin),
            Letter::Welcome { from, session, incarnation, reports } => {
                self.welcomed(from, session, incarnation, reports);
            }
            Letter::Unwelcome { from, session } => self.broken(from, session, true),
            Letter::Down { to, session, origin, message } => {
                self.told(to, session, origin, message)
            }
            Letter::Up { from, session, message } => self.heard(from, session, message),
            Letter::DownOrder { to, session, origin, message } => {
                self.ordered_over_session(to, session, origin, message);
            }
            Letter::UpReport { from, session, message } => {
                self.reported_over_session(from, session, message);
            }
            Letter::Order { from, life, to, message } => self.ordered(from, life, to, message),
            Letter::Report { to, life, from, message } => self.reported(to, life, from, message),
            Letter::UpInquiry { from, session, id, incarnation } => {
                self.asked_over_session(from, session, id, incarnation);
            }
            Letter::Call { to, life, session, origin, message } => {
                self.called(to, life, session, origin, message);
            }
            Letter::Called { from, life, session, message } => {
                self.call_answered(from, life, session, message);
            }
            Letter::List { to, life, session, first } => self.list(to, life, session, first),
            Letter::Listed { from, life, session, first, ids, kept } => {
                self.listed(from, life, session, first, &ids, kept);
            }
            Letter::Inquiry { from, life, id, incarnation } => {
                self.inquired(from, life, id, incarnation);
            }
            Letter::Inquired { to, life, id, outcome } => {
                self.inquiry_answered(to, life, id, outcome)
            }
            Letter::PeerAsk { from, life, to, id } => self.peer_asks(from, life, to, id),
            Letter::PeerAnswer { to, life, from, id, outcome } => {
                self.peer_answered(to, life, from, id, outcome);
            }
            Letter::Enlist { from, life, id, incarnation, number } => {
                self.enlist(from, life, id, incarnation, number);
            }
            Letter::Enlisted { to, life, id, reply } => self.enlisted(to, life, id, reply),
        }
    }
}

/// What a careless network, or a client that repeats its calls, sends twice.
fn may_arrive_twice(letter: &Letter) -> bool {
    match letter {
        Letter::Call { .. }
        | Letter::Called { .. }
        | Letter::Inquiry { .. }
        | Letter::Inquired { .. }
        | Letter::PeerAsk { .. }
        | Letter::PeerAnswer { .. }
        | Letter::Order { .. }
        | Letter::Report { .. }
        | Letter::Enlist { .. } => true,
        // A second copy of the others would be another attempt that nobody knows of.
        Letter::Ask { ask, .. } => !matches!(ask, Ask::Begin { .. } | Ask::Execute { .. }),
        _ => false,
    }
}
