//! The space-time diagram of a recorded run, as one SVG file: a vertical lane per process, time running
//! down, an arrow per message.
//!
//! Time is drawn in order but not to scale: moments at which something happens get the room that their
//! labels need, and a long time without events is cut short and says so. Equal traces and views give equal
//! files. Nothing outside the file is needed to show it: no fonts, no scripts, and colours for light
//! and dark backgrounds. Everything drawn has a tooltip with its full text.
//!
//! Absent on purpose: a picture of a whole long run, which nobody can read. A [`View`] chooses one
//! transaction, a stretch of time, or what led to the violation.

mod arrows;
mod draw;
mod labels;
mod layout;
mod legend;
mod marks;
mod svg;
mod window;

use handfast_commit_core::id::TransactionId;

use crate::trace::Trace;

/// What of a trace to draw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The first line of the picture.
    pub title: String,
    /// Only what concerns this transaction and the processes that it touches.
    pub transaction: Option<TransactionId>,
    /// Nothing that was over before, in microseconds of simulated time.
    pub from: Option<u64>,
    /// Nothing that began after, in microseconds of simulated time.
    pub to: Option<u64>,
    /// At most so many events: the first, or, where there is a violation, those that lead to it.
    pub events_max: usize,
}

impl Default for View {
    /// What led to the first violation (of its transaction, if it concerns one); without a violation,
    /// the first 400 events.
    fn default() -> Self {
        Self { title: String::new(), transaction: None, from: None, to: None, events_max: 400 }
    }
}

/// Draws a trace.
#[must_use]
pub fn render(trace: &Trace, view: &View) -> String {
    let window = window::choose(trace, view);
    let layout = layout::Layout::new(trace, &window);
    draw::draw(trace, view, &window, &layout)
}
