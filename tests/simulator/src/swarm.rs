//! What a seed draws before the run: how large the world is, and which faults happen how often.
//!
//! A run with every fault at its average rate looks like every other one. So each kind is off in many runs and
//! frequent in some (swarm testing: Groce, Zhang, Eide, Chen, Regehr 2012), and the shapes of the runs differ.

use crate::random::Random;

/// The settings of a run. Rates are per million; times are microseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swarm {
    /// The seed.
    pub seed: u64,
    /// Participants.
    pub participants: usize,
    /// Those of them that have unary calls only.
    pub unary: Vec<bool>,
    /// Witnesses of three-phase commit.
    pub witnesses: usize,
    /// How many of 100 transactions are committed in three phases.
    pub three_phase: u64,
    /// Shards of the coordinator.
    pub shards: usize,
    /// Clients.
    pub clients: usize,
    /// Transactions that all clients together begin.
    pub transactions: u32,
    /// Accounts at each participant.
    pub accounts: u64,
    /// Registers at each participant, read and written for the history.
    pub registers: u64,
    /// Longest wait for a lock.
    pub lock_wait_us: u64,
    /// How long a transaction may stay undecided.
    pub timeout_us: u64,
    /// How long a client waits for an answer.
    pub patience_us: (u64, u64),
    /// Between two transactions of a client.
    pub think_us: u64,
    /// Most undecided transactions of a shard.
    pub undecided_max: usize,
    /// Commits on their way to one participant.
    pub delivery_window: usize,
    /// Time of a message on its way.
    pub delay_us: (u64, u64),
    /// Time of a sync.
    pub sync_us: (u64, u64),
    /// How many of the transactions are of which kind, of 100: transfers, registers, reads, interactive.
    pub mix: [u64; 4],
    /// Faults until this time.
    pub storm_us: u64,
    /// The rates of the faults.
    pub rates: Rates,
}

/// How often each fault happens: per message, per sync, per call, or (`…_every_us`) about once in so long;
/// 0 is never.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // each is named as its fault
pub struct Rates {
    pub coordinator_crash_every_us: u64,
    pub participant_crash_every_us: u64,
    pub crash_after_sync: u32,
    pub failed_sync: u32,
    pub disk_full_every_us: u64,
    pub slow_disk: u32,
    pub session_cut: u32,
    pub lost: u32,
    pub duplicated: u32,
    pub late: u32,
    pub partition_every_us: u64,
    pub one_way_cut_every_us: u64,
    pub pause_every_us: u64,
    pub clock_jump_every_us: u64,
    pub clock_drift_ppm: u64,
    pub queue_full: u32,
    pub slow_resource: u32,
    pub client_gone: u32,
    pub impatient: u32,
    pub disk_replaced_every_us: u64,
    pub stopping: u32,
    pub resource_failed: u32,
    pub given_up: u32,
    pub confused: u32,
    pub witness_crash_every_us: u64,
    pub leader_killed: u32,
    pub long_away: u32,
}

impl Swarm {
    /// Draws the settings of a run.
    #[must_use]
    pub fn draw(seed: u64, transactions: u32) -> Self {
        let mut random = Random::new(seed ^ 0x5eed_0f57_a72d_0001);
        let r = &mut random;
        let participants = 1 + r.index(4) + usize::from(!r.one_in(4));
        let unary = (0..participants).map(|_| r.one_in(6)).collect();
        let clients = 1 + r.index(10);
        let slow = r.one_in(5);
        let delay_us = if slow { (200, 40_000) } else { (50, 50 + r.between(100, 3000)) };
        let sync_us = if r.one_in(6) { (500, 20_000) } else { (40, 400) };
        let mut mix = [40, 30, 10, 20];
        for share in &mut mix {
            if r.one_in(6) {
                *share = 0;
            } else if r.one_in(6) {
                *share *= 4;
            }
        }
        let storm_us = r.between(300_000, 4_000_000);
        let rates = Rates::draw(r);
        // In a third of the runs two-phase commit has the world for itself.
        let three_phase = [0, 0, 20, 50, 80, 100][r.index(6)];
        let witnesses = if three_phase > 0 && r.one_in(3) { 1 + r.index(2) } else { 0 };
        Self {
            seed,
            participants,
            unary,
            witnesses,
            three_phase,
            shards: 1 + r.index(3),
            clients,
            transactions,
            accounts: r.between(1, 12),
            registers: r.between(1, 10),
            lock_wait_us: if r.one_in(3) { 50_000 } else { 1_000_000 },
            timeout_us: r.between(300_000, 3_000_000),
            patience_us: if r.one_in(3) { (5_000, 60_000) } else { (200_000, 4_000_000) },
            think_us: if r.one_in(3) { 20_000 } else { 2_000 },
            undecided_max: if r.one_in(8) { 3 } else { 10_000 },
            delivery_window: if r.one_in(4) { 1 + r.index(3) } else { 256 },
            delay_us,
            sync_us,
            mix,
            storm_us,
            rates,
        }
    }
}

impl Rates {
    fn draw(r: &mut Random) -> Self {
        // One run in twelve has no faults at all, and must be fast and clean.
        if r.one_in(12) {
            return Self::default();
        }
        let mut rate = |one_in: u64, low: u64, high: u64| {
            if r.below(10) < one_in { r.between(low, high) } else { 0 }
        };
        // Mostly rare, so that there is something left to break.
        let mut per_million = |tenths: u64, low: u64, high: u64| {
            u32::try_from(rate(tenths, low, high)).unwrap_or(u32::MAX)
        };
        let crash_after_sync = per_million(4, 500, 20_000);
        let failed_sync = per_million(3, 200, 8_000);
        let slow_disk = per_million(3, 1_000, 50_000);
        let session_cut = per_million(5, 300, 10_000);
        let lost = per_million(5, 500, 40_000);
        let duplicated = per_million(5, 1_000, 60_000);
        let late = per_million(5, 1_000, 60_000);
        let queue_full = per_million(2, 200, 20_000);
        let slow_resource = per_million(4, 1_000, 80_000);
        let client_gone = per_million(4, 2_000, 60_000);
        let impatient = per_million(4, 5_000, 200_000);
        let stopping = per_million(3, 20, 2_000);
        let resource_failed = per_million(3, 1_000, 60_000);
        let given_up = per_million(3, 1_000, 60_000);
        let confused = per_million(4, 1_000, 60_000);
        let leader_killed = per_million(4, 20_000, 500_000);
        let long_away = per_million(3, 100_000, 1_000_000);
        Self {
            coordinator_crash_every_us: rate(6, 60_000, 1_500_000),
            participant_crash_every_us: rate(6, 40_000, 1_500_000),
            crash_after_sync,
            failed_sync,
            disk_full_every_us: rate(2, 400_000, 3_000_000),
            slow_disk,
            session_cut,
            lost,
            duplicated,
            late,
            partition_every_us: rate(4, 100_000, 1_500_000),
            one_way_cut_every_us: rate(4, 100_000, 1_500_000),
            pause_every_us: rate(4, 60_000, 1_000_000),
            clock_jump_every_us: rate(3, 100_000, 1_500_000),
            clock_drift_ppm: rate(4, 100, 50_000),
            queue_full,
            slow_resource,
            client_gone,
            impatient,
            disk_replaced_every_us: rate(1, 300_000, 2_000_000),
            stopping,
            resource_failed,
            given_up,
            confused,
            witness_crash_every_us: rate(5, 40_000, 1_500_000),
            leader_killed,
            long_away,
        }
    }

    /// No faults.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }
}
