//! What is going on while the load runs: two lines on a terminal, otherwise a line every two seconds.
//!
//! It goes to stderr, because stdout belongs to the result.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::demo::check::held_by;
use crate::demo::tally::Tally;
use crate::process::{State, Vitals};

/// How often it is drawn on a terminal.
const DRAW_EVERY: Duration = Duration::from_millis(250);
/// How often a line is written elsewhere.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// The display.
pub struct Progress {
    tally: Arc<Tally>,
    vitals: Vec<Arc<Vitals>>,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A display of what these count.
    pub fn new(tally: Arc<Tally>, vitals: Vec<Arc<Vitals>>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            // Without the style it is drawn in the default one.
            let style = ProgressStyle::with_template("{bar:24} {prefix}\n{wide_msg}");
            let bar = ProgressBar::new(1000);
            match style {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Self { tally, vitals, bar }
    }

    /// Draws while the load runs, for so long; to be dropped when it has ended.
    pub async fn run(&self, length: Duration) {
        let began = Instant::now();
        let every = if self.bar.is_some() { DRAW_EVERY } else { LINE_EVERY };
        let mut ticks = tokio::time::interval_at(began + every, every);
        let (mut committed_before, mut before) = (0, began);
        loop {
            ticks.tick().await;
            let in_doubt = self.in_doubt().await;
            let (counts, now) = (self.tally.read(), Instant::now());
            let committed = counts.committed - committed_before;
            let rate = committed as f64 / (now - before).as_secs_f64();
            (committed_before, before) = (counts.committed, now);
            let kills: u64 = self.vitals.iter().map(|vitals| vitals.kills()).sum();
            let recoveries: u64 = self.vitals.iter().map(|vitals| vitals.recoveries()).sum();
            let down: Vec<_> =
                self.vitals.iter().filter(|v| v.state() == State::Starting).collect();
            let down: Vec<_> = down.iter().map(|vitals| vitals.name).collect();
            let down = match down.is_empty() {
                true => "everybody up".to_owned(),
                false => format!("down: {}", down.join(", ")),
            };
            let elapsed = (now - began).min(length);
            let prefix = format!(
                "{:>3} of {} s  {rate:.0} transactions/s  {} committed, {} aborted, {} unknown",
                elapsed.as_secs(),
                length.as_secs(),
                counts.committed,
                counts.aborted_total(),
                counts.unknown
            );
            let message =
                format!("{in_doubt} in doubt  {kills} kills, {recoveries} recoveries  {down}");
            match &self.bar {
                Some(bar) => {
                    bar.set_position(
                        (elapsed.as_secs_f64() / length.as_secs_f64() * 1000.0) as u64,
                    );
                    bar.set_prefix(prefix);
                    bar.set_message(message);
                }
                None => self.say(&format!("{prefix}; {message}")),
            }
        }
    }

    /// Writes a line, above the drawing where there is one.
    pub fn say(&self, text: &str) {
        use std::io::Write;
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            // Nobody is left to tell when stderr is closed.
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    /// Takes the drawing away.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// How many transactions some participant that is up has in doubt. One that does not answer now is
    /// passed over: this is for the eye, and the check at the end is strict.
    async fn in_doubt(&self) -> usize {
        let mut found = BTreeSet::new();
        for vitals in &self.vitals[1..] {
            if let State::Up(address) = vitals.state() {
                found.extend(held_by(vitals.name, &address).await.unwrap_or_default());
            }
        }
        found.len()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
