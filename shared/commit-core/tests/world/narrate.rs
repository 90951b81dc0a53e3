//! What happens, in words.

use handfast_commit_core::id::{ParticipantName, TransactionId};
use handfast_commit_core::message::{
    FromParticipant, FromSite, Inquired, Order, Prepare, Report, ToParticipant, ToSite, Vote,
};
use handfast_commit_core::record::{
    AbortReason, CoordinatorRecord, ParticipantRecord, Request, WitnessState,
};
use handfast_commit_core::step::TimerKey;
use handfast_commit_core::three_phase::{Site, SiteName, SiteView, Sites, Standing};
use handfast_commit_core::two_phase::coordinator::{self, ClientRefusal, Outcome, Reply};
use handfast_commit_core::two_phase::participant::{self, Ending, ResourceCall, ResourceResult};

use super::{Body, Envelope, World};

/// Microseconds as seconds.
pub fn seconds(micros: u64) -> String {
    format!("{}.{:03} s", micros / 1_000_000, micros / 1000 % 1000)
}

fn list(names: &[ParticipantName]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn request(request: Option<&Request>) -> String {
    request.map(|request| format!(", request {}", request.id)).unwrap_or_default()
}

fn reason(reason: &AbortReason) -> String {
    format!("{:?}: {}", reason.cause, reason.message)
}

pub fn inquired(outcome: Inquired) -> &'static str {
    match outcome {
        Inquired::Commit => "COMMIT",
        Inquired::Abort => "ABORT",
        Inquired::Pending => "PENDING",
        Inquired::Retry => "RETRY",
        Inquired::NotOwner => "NOT_OWNER",
        Inquired::NoInformation => "NO_INFORMATION",
    }
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Waiting => "waiting",
        Standing::PreCommitted => "pre-committed",
        Standing::PreAborted => "pre-aborted",
    }
}

fn site(site: &Site) -> String {
    let Site { promised, accepted, standing: stands } = site;
    format!("{}, promised {promised}, accepted {accepted}", standing(*stands))
}

fn site_name(name: &SiteName) -> String {
    super::Who::of(name.clone()).to_string()
}

fn sites(sites: &Sites) -> String {
    let names: Vec<_> = sites.numbers().map(|number| site_name(&sites.name(number))).collect();
    names.join(",")
}

fn decided(committed: bool) -> &'static str {
    if committed { "committed" } else { "aborted" }
}

/// Where a voting site stands, for `show`.
pub fn site_view(view: &SiteView) -> String {
    let stands = Site { promised: view.promised, accepted: view.accepted, standing: view.standing };
    let mut text = format!("{}, led by {}", site(&stands), site_name(&view.leader));
    if view.wanted > 0 {
        let missing: Vec<_> = view.missing.iter().map(site_name).collect();
        let doing = if view.moving { "moving" } else { "asking" };
        text += &format!(", {doing}, wants {} of {}", view.wanted, missing.join(" "));
    }
    text
}

fn ending(ending: Ending) -> &'static str {
    match ending {
        Ending::Committed => "committed",
        Ending::Aborted => "aborted",
        Ending::ReadOnly => "read-only",
    }
}

impl World {
    pub fn name(&self, id: TransactionId) -> String {
        self.names.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }

    pub fn envelope(&self, envelope: &Envelope) -> String {
        let Envelope { from, to, session, body, .. } = envelope;
        let arrow = if session.is_some() { "→" } else { "⇢" };
        let text = match body {
            Body::Hello => {
                let origin = envelope.origin.as_ref();
                let epoch = origin.map_or(0, |origin| origin.epoch.0);
                format!("HELLO epoch {epoch}")
            }
            Body::Welcome(reports) if reports.is_empty() => "WELCOME".to_owned(),
            Body::Welcome(reports) => {
                let ids: Vec<_> = reports.iter().map(|report| self.name(report.id)).collect();
                format!("WELCOME, committed in one phase: {}", ids.join(" "))
            }
            Body::Command(message) => self.command_text(message),
            Body::Joined { id, .. } => format!("JOINED {}", self.name(*id)),
            Body::Answer(message) => self.answer_text(message),
            Body::Inquiry { id, .. } | Body::PeerInquiry { id } => {
                format!("INQUIRE {}", self.name(*id))
            }
            Body::InquiryAnswered { id, outcome } | Body::PeerAnswered { id, outcome } => {
                format!("ANSWER {} {}", self.name(*id), inquired(*outcome))
            }
            Body::Order(message) => self.order(message),
            Body::Report(message) => self.report(message),
        };
        format!("{from} {arrow} {to}: {text}")
    }

    pub fn order(&self, message: &ToSite) -> String {
        let ToSite { id, order, .. } = message;
        let id = self.name(*id);
        match order {
            Order::Join { ballot } => format!("JOIN {id} ballot {ballot}"),
            Order::PreCommit { ballot } => format!("PRE_COMMIT {id} ballot {ballot}"),
            Order::PreAbort { ballot } => format!("PRE_ABORT {id} ballot {ballot}"),
            Order::Decided { committed } => format!("DECIDED {id} {}", decided(*committed)),
            Order::Forget => format!("FORGET {id}"),
        }
    }

    pub fn report(&self, message: &FromSite) -> String {
        let FromSite { id, report } = message;
        let id = self.name(*id);
        match report {
            Report::Joined { ballot, accepted, standing: stands } => {
                format!("JOINED {id} ballot {ballot}: {}, accepted {accepted}", standing(*stands))
            }
            Report::Moved { ballot } => format!("MOVED {id} ballot {ballot}"),
            Report::Refused { ballot, promised } => {
                format!("REFUSED {id} ballot {ballot}: has joined {promised}")
            }
            Report::Unvoted => format!("UNVOTED {id}"),
            Report::Known { committed } => format!("KNOWN {id} {}", decided(*committed)),
            Report::Acknowledged { committed } => {
                format!("ACKNOWLEDGED {id} {}", decided(*committed))
            }
            Report::Forgotten => format!("FORGOTTEN {id}"),
            Report::NoInformation => format!("NO_INFORMATION {id}"),
        }
    }

    pub fn command_text(&self, message: &ToParticipant) -> String {
        match message {
            ToParticipant::Prepare(Prepare { id, work, peers, one_phase, request_id, voting }) => {
                let mut text = format!("PREPARE {}", self.name(*id));
                if let Some(work) = work {
                    text += &format!(" work={}", String::from_utf8_lossy(work));
                }
                if !peers.is_empty() {
                    text += &format!(" peers={}", list(peers).replace(' ', ","));
                }
                if *one_phase {
                    text += " one-phase";
                }
                if let Some(request) = request_id {
                    text += &format!(" request={request}");
                }
                if let Some(voting) = voting {
                    text += &format!(" sites={} own={}", sites(&voting.sites), voting.own.0);
                }
                text
            }
            ToParticipant::Commit { id, incarnation } => {
                format!("COMMIT {} of log {}", self.name(*id), incarnation.0)
            }
            ToParticipant::Abort { id } => format!("ABORT {}", self.name(*id)),
            ToParticipant::Forget { id } => format!("FORGET {}", self.name(*id)),
            ToParticipant::Answer { id, outcome } => {
                format!("ANSWER {} {}", self.name(*id), inquired(*outcome))
            }
        }
    }

    pub fn message_id(&self, message: &ToParticipant) -> TransactionId {
        match message {
            ToParticipant::Prepare(prepare) => prepare.id,
            ToParticipant::Commit { id, .. }
            | ToParticipant::Abort { id }
            | ToParticipant::Forget { id }
            | ToParticipant::Answer { id, .. } => *id,
        }
    }

    pub fn answer_text(&self, message: &FromParticipant) -> String {
        match message {
            FromParticipant::Voted { id, vote, .. } => {
                let id = self.name(*id);
                match vote {
                    Vote::Prepared => format!("VOTE {id} prepared"),
                    Vote::ReadOnly => format!("VOTE {id} read-only"),
                    Vote::No { reason } => format!("VOTE {id} no: {}", self.readable(reason)),
                    Vote::Committed { earlier: None } => format!("VOTE {id} committed"),
                    Vote::Committed { earlier: Some(earlier) } => {
                        format!("VOTE {id} committed, by the earlier {}", self.name(*earlier))
                    }
                }
            }
            FromParticipant::Committed { id } => format!("COMMITTED {}", self.name(*id)),
            FromParticipant::Aborted { id } => format!("ABORTED {}", self.name(*id)),
            FromParticipant::Refused { id, reason } => {
                format!("REFUSED {}: {}", self.name(*id), self.readable(reason))
            }
        }
    }

    pub fn coordinator_record(&self, record: &CoordinatorRecord) -> String {
        match record {
            CoordinatorRecord::Commit(commit) => {
                let voters: Vec<_> = commit.voters.iter().map(|(name, _)| name.clone()).collect();
                let request = request(commit.request.as_ref());
                format!("COMMIT {}, voters {}{request}", self.name(commit.id), list(&voters))
            }
            CoordinatorRecord::Ended(ended) => {
                let outcome = match &ended.outcome {
                    Ok(()) => "committed".to_owned(),
                    Err(reason) => format!("aborted ({:?})", reason.cause),
                };
                let request = request(ended.request.as_ref());
                format!("ENDED {} {outcome}{request}", self.name(ended.id))
            }
            CoordinatorRecord::Voting(voting) => {
                let request = request(voting.request.as_ref());
                let (id, stands) = (self.name(voting.id), site(&voting.site));
                format!("VOTING {id}, {stands}; sites {}{request}", sites(&voting.sites))
            }
            CoordinatorRecord::Decision(decision) => {
                let outcome = match &decision.outcome {
                    Ok(()) => "commit".to_owned(),
                    Err(reason) => format!("abort ({:?})", reason.cause),
                };
                let request = request(decision.request.as_ref());
                let (id, told) = (self.name(decision.id), sites(&decision.sites));
                format!("DECISION {id} {outcome}, sites {told}{request}")
            }
            CoordinatorRecord::Witness(witness) => {
                let id = self.name(witness.id);
                match &witness.state {
                    WitnessState::Undecided(stands) => format!("WITNESS {id}, {}", site(stands)),
                    WitnessState::Decided { committed } => {
                        format!("WITNESS {id} {}", decided(*committed))
                    }
                }
            }
            CoordinatorRecord::WitnessForgotten { id } => format!("FORGOTTEN {}", self.name(*id)),
        }
    }

    pub fn participant_record(&self, record: &ParticipantRecord) -> String {
        match record {
            ParticipantRecord::Prepared(branch) => format!("PREPARED {}", self.name(branch.id)),
            ParticipantRecord::Finished { id, committed } => {
                let how = if *committed { "COMMITTED" } else { "ABORTED" };
                format!("{how} {}", self.name(*id))
            }
            ParticipantRecord::OnePhase(commit) => {
                let request = commit
                    .request_id
                    .as_ref()
                    .map(|id| format!(", request {id}"))
                    .unwrap_or_default();
                format!("COMMITTED {} in one phase{request}", self.name(commit.id))
            }
            ParticipantRecord::Voted(branch) => {
                let read_only = if branch.read_only { " read-only" } else { "" };
                format!("VOTED {}{read_only}, {}", self.name(branch.id), site(&branch.site))
            }
            ParticipantRecord::Decided(branch) => {
                format!("DECIDED {} {}", self.name(branch.id), decided(branch.committed))
            }
            ParticipantRecord::Forgotten { id } => format!("FORGOTTEN {}", self.name(*id)),
            ParticipantRecord::SlotSeen { epoch, lowest_live, .. } => {
                format!("SEEN epoch {} lowest live {}", epoch.0, lowest_live.0)
            }
        }
    }

    fn outcome(&self, outcome: &Outcome) -> String {
        let id = self.name(outcome.id);
        match &outcome.result {
            Err(why) => format!("{id} ABORTED, {}", reason(why)),
            Ok(()) => {
                let mut text = format!("{id} COMMITTED");
                if outcome.repeated {
                    text += " by an earlier attempt";
                }
                if !outcome.pending.is_empty() {
                    text += &format!(", still to apply: {}", list(&outcome.pending));
                }
                text
            }
        }
    }

    pub fn refusal(&self, refusal: &ClientRefusal) -> String {
        self.readable(&refusal.to_string())
    }

    /// Ids in a text become the names that a script uses.
    fn readable(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (id, name) in &self.names {
            text = text.replace(&id.to_string(), name);
        }
        text
    }

    pub fn reply_text(&self, reply: &Reply) -> String {
        match reply {
            Reply::Begun { id, time_left_us } => {
                format!("{} BEGUN, for {}", self.name(*id), seconds(*time_left_us))
            }
            Reply::Enlisted { time_left_us } => format!("ENLISTED, for {}", seconds(*time_left_us)),
            Reply::Outcome(outcome) => self.outcome(outcome),
            Reply::Inquired(outcome) => inquired(*outcome).to_owned(),
            Reply::Unknown { id, participant } => {
                format!("{} UNKNOWN, only {participant} can tell", self.name(*id))
            }
            Reply::Undecided { id, waiting_for } => {
                format!("{} UNDECIDED, waits for {waiting_for}", self.name(*id))
            }
            Reply::Refused(refusal) => format!("REFUSED, {}", self.refusal(refusal)),
        }
    }

    pub fn coordinator_action(&self, action: &coordinator::Action<String>) -> String {
        match action {
            coordinator::Action::Send { to, message } => {
                format!("C → {to}: {}", self.command_text(message))
            }
            coordinator::Action::Reply { to, reply } => {
                format!("C → {to}: {}", self.reply_text(reply))
            }
            coordinator::Action::EndDurable { id, .. } => {
                format!("C ⇢ C: the end of {} is durable", self.name(*id))
            }
            coordinator::Action::Lead { to, message } => {
                format!("C → {}: {}", site_name(to), self.order(message))
            }
            coordinator::Action::Report { to, message, .. } => {
                format!("C → {}: {}", site_name(to), self.report(message))
            }
            coordinator::Action::Recorded { id } => {
                format!("C ⇢ C: the decision of {} is durable", self.name(*id))
            }
            coordinator::Action::Note(event) => self.event(event),
        }
    }

    pub fn event(&self, event: &coordinator::Event) -> String {
        use coordinator::Event as E;
        let id = self.name(event.id());
        match event {
            E::Begun { .. } => format!("{id} begun"),
            E::Enlisted { participant, .. } => format!("{id} joined by {participant}"),
            E::Preparing { .. } => format!("{id} preparing"),
            E::Voted { participant, .. } => format!("{id} has the vote of {participant}"),
            E::VotedNo { participant, reason, .. } => {
                format!("{id} has a no from {participant}: {}", self.readable(reason))
            }
            E::PreCommitted { .. } => format!("{id} pre-committed"),
            E::Elects { ballot, .. } => format!("{id} leads ballot {ballot}"),
            E::Waits { waiting_for, .. } => format!("{id} WAITS for {waiting_for}"),
            E::Decided { .. } => format!("{id} decided: commit"),
            E::Aborted { reason: why, .. } => {
                format!("{id} aborted, {}", self.readable(&reason(why)))
            }
            E::Acknowledged { participant, .. } => format!("{id} acknowledged by {participant}"),
            E::Ended { .. } => format!("{id} ended"),
            E::Alarm { participant, alarm, .. } => {
                format!("ALARM {id}: {participant} {}", self.readable(&alarm.to_string()))
            }
        }
    }

    pub fn participant_event(&self, event: &participant::Event) -> String {
        use participant::Event as E;
        match event {
            E::Prepared { id } => format!("{} is in doubt", self.name(*id)),
            E::Ended { id, ending: how, was_prepared } => {
                let doubt = if *was_prepared { ", no longer in doubt" } else { "" };
                format!("{} ended: {}{doubt}", self.name(*id), ending(*how))
            }
            E::Blocked { id, waiting_for } => {
                format!("{} BLOCKED, waits for {waiting_for}", self.name(*id))
            }
            E::Elects { id, ballot } => format!("{} leads ballot {ballot}", self.name(*id)),
            E::Terminated { id, committed } => {
                format!("{} terminated: {}", self.name(*id), decided(*committed))
            }
            E::ResourceFailed { id, reason } => {
                format!("{}: the resource failed: {reason}", self.name(*id))
            }
            E::Alarm { id, alarm } => format!("ALARM {}: {alarm}", self.name(*id)),
        }
    }

    pub fn participant_action(&self, action: &participant::Action<String>) -> String {
        match action {
            participant::Action::Respond { message, .. } => self.answer_text(message),
            participant::Action::Resource { id, call } => self.resource_call(*id, call),
            participant::Action::Inquire { id, .. } => format!("INQUIRE {}", self.name(*id)),
            participant::Action::InquirePeers { id, peers, .. } => {
                let names: Vec<_> = peers.iter().map(|(name, _)| name.clone()).collect();
                format!("INQUIRE {} of {}", self.name(*id), list(&names))
            }
            participant::Action::AnswerPeer { outcome, .. } => {
                format!("the answer {}", inquired(*outcome))
            }
            participant::Action::Lead { to, message, .. } => {
                format!("to {}: {}", site_name(to), self.order(message))
            }
            participant::Action::Report { message, .. } => self.report(message),
            participant::Action::AnswerTouch { .. } => "the answer to a session".to_owned(),
            participant::Action::Note(event) => self.participant_event(event),
        }
    }

    pub fn resource_call(&self, id: TransactionId, call: &ResourceCall) -> String {
        let id = self.name(id);
        match call {
            ResourceCall::Prepare { work, only_branch } => {
                let mut text = format!("resource, prepare {id}");
                if work.is_none() {
                    text += ", done in a session";
                }
                if *only_branch {
                    text += ", the only branch";
                }
                text
            }
            ResourceCall::Cancel => format!("resource, cancel {id}"),
            ResourceCall::PreCommit => format!("resource, pre-commit {id}"),
            ResourceCall::Commit => format!("resource, commit {id}"),
            ResourceCall::Abort => format!("resource, abort {id}"),
            ResourceCall::Finished(how) => {
                format!("resource, {id} is finished: {}", ending(*how))
            }
        }
    }

    pub fn resource_result(&self, id: TransactionId, result: &ResourceResult) -> String {
        let id = self.name(id);
        match result {
            ResourceResult::Prepared { .. } => format!("resource says {id} prepared"),
            ResourceResult::ReadOnly { .. } => format!("resource says {id} read-only"),
            ResourceResult::No { reason } => format!("resource says {id} no: {reason}"),
            ResourceResult::Done { .. } => format!("resource says {id} done"),
            ResourceResult::Unknown => format!("resource says {id} unknown"),
            ResourceResult::Failed { reason } => format!("resource says {id} failed: {reason}"),
        }
    }

    pub fn timer_key(&self, key: &TimerKey) -> String {
        match key {
            TimerKey::Transaction(id) => self.name(*id),
            TimerKey::Participant(name) => name.to_string(),
        }
    }

    pub fn open_branches(&self, name: &ParticipantName) -> String {
        let Some(core) = self.participants.get(name).and_then(|host| host.core.as_ref()) else {
            return "none, it is not there".to_owned();
        };
        let open: Vec<_> = core
            .open_branches()
            .map(|open| {
                let kind =
                    if open.one_phase.is_some() { "one-phase, waits" } else { "in doubt, waits" };
                let id = self.name(open.id);
                let stands =
                    open.site.map(|view| format!(" ({})", site_view(&view))).unwrap_or_default();
                format!("{id} {kind} for {}{stands}", open.waiting_for)
            })
            .collect();
        if open.is_empty() { "none".to_owned() } else { open.join("; ") }
    }
}
