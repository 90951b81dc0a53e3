//! Random faults at any process of a cluster, and a bank that is open all the while: its total never changes.

use std::sync::Arc;
use std::time::Duration;

use handfast_client::Protocol;

use crate::bank::Bank;
use crate::{Cluster, Flow, Oracle, Plan, Random};

/// Transfers side by side.
const TELLERS: u64 = 6;
/// A participant stands still for less than its session may be silent.
const PAUSE_MS_MAX: u64 = 400;
/// Fewer commits have shown little.
const COMMITTED_MIN: usize = 20;

/// What happens to a cluster.
#[derive(Debug, Clone, Copy)]
pub struct Storm {
    /// Where a coordinator that is restarted may die next.
    pub coordinator_points: &'static [&'static str],
    /// Where a participant that is restarted may die next.
    pub participant_points: &'static [&'static str],
    /// How many faults, unless `HANDFAST_KILLS` says otherwise, for a run by hand with more.
    pub faults: u64,
    /// The longest that a process or a link is away, in milliseconds.
    pub away_ms_max: u64,
}

impl Storm {
    /// Opens a bank at a, b and c, under protocols that each transfer is drawn from, and checks it when the storm
    /// is over. `name` is the test's, which a seed is replayed by.
    ///
    /// # Panics
    /// When a promise does not hold.
    pub async fn over_a_bank(self, name: &'static str, protocols: &[Protocol], witnesses: &[&str]) {
        let mut random = Random::from_environment(name);
        let mut cluster = Plan::new(&["a", "b", "c"])
            .witnesses(witnesses)
            .coordinator(&["--timeout", "2s"])
            .each_participant(&["--lock-wait", "1s"])
            .proxied()
            .start()
            .await;
        let oracle = Arc::new(Oracle::new());
        let bank = Bank::open(&cluster, Arc::clone(&oracle)).await.under(protocols);
        let tellers = bank.work(&cluster, TELLERS, &random);
        let given = std::env::var("HANDFAST_KILLS").ok();
        let faults =
            given.map_or(self.faults, |text| text.parse().expect("HANDFAST_KILLS is a number"));
        for _ in 0..faults {
            tokio::time::sleep(Duration::from_millis(20 + random.below(250))).await;
            self.one_fault(&mut cluster, &mut random).await;
        }
        // Once more for everybody, so that nobody is left who is to die at a crash point.
        for server in cluster.servers() {
            server.kill();
        }
        cluster.start_all().await;
        let audits = tellers.stop().await;
        let (committed, aborted, unknown) = oracle.counts();
        oracle.check(&cluster).await;
        bank.check(&cluster).await;
        let starts: usize =
            cluster.servers().map(|server| server.times_said("starts as process")).sum();
        println!(
            "{starts} starts; {committed} committed, {aborted} aborted, {unknown} unknown; {audits} audits"
        );
        assert!(committed > COMMITTED_MIN, "only {committed} transactions committed");
    }

    async fn one_fault(self, cluster: &mut Cluster, random: &mut Random) {
        // Whoever has died at a crash point has been away for long enough.
        for server in cluster.servers() {
            if !server.runs() {
                server.kill();
                server.launch(None);
            }
        }
        let names = cluster.names();
        let name = random.one_of(&names).clone();
        match random.below(12) {
            0..2 => self.restart(cluster, None, random),
            2..5 => self.restart(cluster, Some(&name), random),
            5 => {
                cluster.coordinator.kill();
                wait(self.away_ms_max / 2 + random.below(self.away_ms_max / 2)).await;
                self.restart(cluster, None, random);
            }
            6 => {
                // Both ends of a commit at once.
                cluster.participant(&name).kill();
                cluster.coordinator.kill();
                wait(random.below(self.away_ms_max)).await;
                self.restart(cluster, Some(&name), random);
                self.restart(cluster, None, random);
            }
            7 => {
                cluster.coordinator.signal("STOP");
                wait(random.below(self.away_ms_max)).await;
                cluster.coordinator.signal("CONT");
            }
            8 => {
                cluster.participant(&name).signal("STOP");
                wait(random.below(PAUSE_MS_MAX)).await;
                cluster.participant(&name).signal("CONT");
            }
            9 => cluster.proxy(&name).cut(),
            10 => {
                cluster.proxy(&name).to_client(Flow::Blocked);
                wait(random.below(self.away_ms_max)).await;
                cluster.proxy(&name).heal();
            }
            _ => {
                cluster.proxy(&name).refuse();
                wait(random.below(self.away_ms_max)).await;
                cluster.proxy(&name).heal();
            }
        }
    }

    /// Kills a process and starts it, sometimes so that it dies by itself at a crash point a little later. It may
    /// do so as soon as it is ready; so this does not wait for it.
    fn restart(self, cluster: &mut Cluster, participant: Option<&str>, random: &mut Random) {
        let points = match participant {
            Some(_) => self.participant_points,
            None => self.coordinator_points,
        };
        let point = match random.below(3) {
            0 => Some(format!("{}@{}", random.one_of(points), 1 + random.below(40))),
            _ => None,
        };
        let server = match participant {
            Some(name) => cluster.participant(name),
            None => &mut cluster.coordinator,
        };
        server.kill();
        server.launch(point.as_deref());
    }
}

async fn wait(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}
