//! Where a transaction's time goes, from the histograms that the servers serve.
//!
//! The coordinator and the participants measure a part of their transactions, phase by phase
//! (`handfast_phase_seconds`, `handfast_participant_phase_seconds`). What is left of a client's latency has gone
//! by on the wire, in the clients, and waiting for a processor.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const COORDINATOR: &str = "handfast_phase_seconds";
/// From a call's arrival to its answer.
const ANSWERED: &str = "handfast_commit_seconds";
const PARTICIPANT: &str = "handfast_participant_phase_seconds";
/// How long a page may take.
const PAGE_WITHIN: Duration = Duration::from_secs(10);

/// The parts of a transaction's time, in the order in which they are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Between client and coordinator, and in the client.
    ClientNetwork,
    /// In the coordinator, before participants are asked and before the client is answered.
    Queue,
    /// Between coordinator and participants: what is left of the wait for their votes.
    Network,
    /// At the participant, before its record goes to the log.
    Work,
    /// At the participant, until its record is durable.
    ParticipantSync,
    /// At the coordinator, until the decision is durable.
    DecisionSync,
    /// Until every participant has applied it, where the client waits for that.
    Apply,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::ClientNetwork,
        Self::Queue,
        Self::Network,
        Self::Work,
        Self::ParticipantSync,
        Self::DecisionSync,
        Self::Apply,
    ];

    /// For programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::ClientNetwork => "client_network",
            Self::Queue => "queue",
            Self::Network => "participant_network",
            Self::Work => "participant_work",
            Self::ParticipantSync => "participant_sync",
            Self::DecisionSync => "decision_sync",
            Self::Apply => "apply",
        }
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::ClientNetwork => "client and its network",
            Self::Queue => "coordinator's queue",
            Self::Network => "network to participants",
            Self::Work => "participant's work",
            Self::ParticipantSync => "participant's sync",
            Self::DecisionSync => "decision's sync",
            Self::Apply => "applying",
        }
    }
}

/// Mean times of the parts of [`Part::ALL`], in microseconds.
pub type Split = [f64; Part::ALL.len()];

/// What histograms have seen so far: count and sum by name and phase, all servers together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen(BTreeMap<String, (f64, f64)>);

impl Seen {
    /// Reads the pages at these addresses. A server that does not answer has seen nothing.
    pub async fn read(addresses: &[String]) -> Self {
        let mut seen = Self::default();
        for address in addresses {
            let page = tokio::time::timeout(PAGE_WITHIN, page(address)).await;
            if let Ok(Ok(page)) = page {
                seen.add(&page);
            }
        }
        seen
    }

    fn add(&mut self, page: &str) {
        for line in page.lines() {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (base, labels) = name.split_once('{').unwrap_or((name, ""));
            let (family, is_sum) = match (base.strip_suffix("_sum"), base.strip_suffix("_count")) {
                (Some(family), _) => (family, true),
                (_, Some(family)) => (family, false),
                _ => continue,
            };
            if ![COORDINATOR, PARTICIPANT, ANSWERED].contains(&family) {
                continue;
            }
            let phase = labels.trim_end_matches('}').trim_start_matches("phase=").trim_matches('"');
            let (count, sum) = self.0.entry(format!("{family}/{phase}")).or_default();
            *(if is_sum { sum } else { count }) += value;
        }
    }

    /// The mean of what was seen since, in microseconds.
    fn mean_us(&self, before: &Self, family: &str, phase: &str) -> Option<f64> {
        let name = format!("{family}/{phase}");
        let (count, sum) = self.0.get(&name)?;
        let (count_before, sum_before) = before.0.get(&name).copied().unwrap_or_default();
        let count = count - count_before;
        (count > 0.0).then(|| (sum - sum_before) / count * 1e6)
    }

    /// Splits a client's mean latency. `None` when the servers have not measured anything.
    pub fn split(&self, before: &Self, latency_us: f64, is_applied: bool) -> Option<Split> {
        let coordinator = |phase| self.mean_us(before, COORDINATOR, phase);
        let participant = |phase| self.mean_us(before, PARTICIPANT, phase);
        let prepare = coordinator("prepare")?;
        // Three-phase commit is decided by a quorum of moves.
        let decide = coordinator("decide").or_else(|| coordinator("pre_commit")).unwrap_or(0.0);
        let apply = if is_applied { coordinator("apply").unwrap_or(0.0) } else { 0.0 };
        let phases = prepare + decide + apply;
        let answered = self.mean_us(before, ANSWERED, "").unwrap_or(phases).min(latency_us);
        let (work, sync) = (participant("work").unwrap_or(0.0), participant("sync").unwrap_or(0.0));
        // The slowest participant's vote is waited for, and these are means: the difference between the two
        // is counted with the network.
        let network = (prepare - work - sync).max(0.0);
        let queue = (answered - phases).max(0.0);
        let client = latency_us - answered;
        Some([client, queue, network, work.min(prepare), sync.min(prepare), decide, apply])
    }
}

/// Fetches `/metrics`.
async fn page(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(pages: &[&str]) -> Seen {
        let mut seen = Seen::default();
        pages.iter().for_each(|page| seen.add(page));
        seen
    }

    #[test]
    fn a_latency_is_split_by_what_was_seen_meanwhile() {
        let before = seen(&["# HELP\nhandfast_phase_seconds_sum{phase=\"prepare\"} 5\n\
            handfast_phase_seconds_count{phase=\"prepare\"} 10\n"]);
        let coordinator = "handfast_phase_seconds_sum{phase=\"prepare\"} 5.1\n\
            handfast_phase_seconds_count{phase=\"prepare\"} 110\n\
            handfast_commit_seconds_sum 0.16\n\
            handfast_commit_seconds_count 100\n\
            handfast_phase_seconds_sum{phase=\"decide\"} 0.05\n\
            handfast_phase_seconds_count{phase=\"decide\"} 100\n\
            handfast_phase_seconds_bucket{phase=\"decide\",le=\"+Inf\"} 100\n";
        let store = "handfast_participant_phase_seconds_sum{phase=\"work\"} 0.01\n\
            handfast_participant_phase_seconds_count{phase=\"work\"} 50\n\
            handfast_participant_phase_seconds_sum{phase=\"sync\"} 0.02\n\
            handfast_participant_phase_seconds_count{phase=\"sync\"} 50\n";
        let split =
            seen(&[coordinator, store, store]).split(&before, 2000.0, false).expect("measured");
        // prepare 1000, decide 500, answered after 1600; participants: work 200, sync 400.
        let expected = [400.0, 100.0, 400.0, 200.0, 400.0, 500.0, 0.0];
        for ((part, mean), expected) in Part::ALL.iter().zip(split).zip(expected) {
            assert!((mean - expected).abs() < 0.01, "{part:?}: {mean}");
        }
        assert!((split.iter().sum::<f64>() - 2000.0).abs() < 0.01);
    }

    #[test]
    fn what_was_not_measured_is_not_split() {
        assert_eq!(seen(&[]).split(&seen(&[]), 100.0, true), None);
        let page = "handfast_phase_seconds_sum{phase=\"prepare\"} 5\n\
            handfast_phase_seconds_count{phase=\"prepare\"} 10\n";
        assert_eq!(seen(&[page]).split(&seen(&[page]), 100.0, true), None, "nothing since");
    }
}
