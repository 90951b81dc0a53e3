//! Where things are drawn: an x for every process and a y for every moment.
//!
//! y rises with time, and equal times have equal y, so that whatever is higher up happened earlier. How
//! much it rises between two moments depends on the time between them only within bounds; beyond them
//! it is the room that labels need which decides.

use std::collections::{BTreeMap, BTreeSet};

use super::window::Window;
use crate::trace::{EventKind, Fate, ProcessId, Role, Trace, TraceEvent};

/// Room for the times, left of the first lane.
pub(super) const GUTTER: f64 = 84.0;
/// Where the first header row is, in which processes have their names.
pub(super) const HEADER_Y: f64 = 78.0;
/// The height of a row of small text.
pub(super) const ROW: f64 = 14.0;
/// The height of a band across all lanes.
pub(super) const BAND: f64 = 22.0;
/// The width of a client's lane, where there are many clients.
const CLIENT_WIDTH: f64 = 100.0;
/// Names are repeated after so many pixels.
const HEADER_EVERY: f64 = 1_000.0;
/// The least and the most that y rises from one moment to the next by time alone.
const RISE: (f64, f64) = (4.0, 34.0);
/// What y rises in the usual time between two moments.
const RISE_USUAL: f64 = 9.0;
/// What an arrow that takes time falls at least, and more for every lane that it reaches.
const DROP: (f64, f64) = (11.0, 9.0);
/// How far below the arrival of an answer stands what a client is told in it.
const TOLD_BELOW: f64 = 14.0;
/// A time without events that is this many times the usual one is drawn as a break.
const BREAK: u64 = 15;

/// Where the ends of an event are, below the y of their moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Offsets {
    /// Of the beginning.
    pub begin: f64,
    /// Of the end.
    pub end: f64,
}

/// A lane's place.
#[derive(Debug)]
pub(super) struct LaneAt {
    /// Whose it is.
    pub process: ProcessId,
    /// What people call it.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Its middle.
    pub x: f64,
    /// Half of it is left of the middle.
    pub width: f64,
}

/// A long time in which nothing happens, or nothing that is drawn.
#[derive(Debug)]
pub(super) struct Break {
    /// Its middle.
    pub y: f64,
    /// How long it is, in microseconds.
    pub micros: u64,
    /// How many events happen in it all the same.
    pub left_out: usize,
}

/// Where everything is.
#[derive(Debug)]
pub(super) struct Layout {
    /// From left to right.
    pub lanes: Vec<LaneAt>,
    /// Of each event of the window.
    pub offsets: Vec<Offsets>,
    /// Every moment at which something happens, with its y.
    pub moments: Vec<(u64, f64)>,
    /// Times that are cut short.
    pub breaks: Vec<Break>,
    /// The rows in which the names are repeated.
    pub headers: Vec<f64>,
    /// Of the picture.
    pub width: f64,
    /// Where the lanes end.
    pub bottom: f64,
}

/// What must not stand in the same row twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Row {
    /// Something written beside a lane.
    Mark(ProcessId),
    /// The end of a bar, which is below its beginning.
    Bar(usize),
    /// Departures on one way.
    Departure(ProcessId, ProcessId),
    /// Arrivals on one way.
    Arrival(ProcessId, ProcessId),
}

/// One end of an event.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    at: u64,
    event: usize,
    is_end: bool,
    row: Row,
    height: f64,
}

impl Layout {
    pub(super) fn new(trace: &Trace, window: &Window<'_>) -> Self {
        let lanes = lanes(trace, window);
        let width = GUTTER + lanes.iter().map(|lane| lane.width).sum::<f64>().max(240.0) + 24.0;
        let mut layout = Self {
            lanes,
            offsets: vec![Offsets::default(); window.events.len()],
            moments: Vec::new(),
            breaks: Vec::new(),
            headers: vec![HEADER_Y],
            width,
            bottom: HEADER_Y,
        };
        layout.place(window);
        layout
    }

    /// A process's lane.
    pub(super) fn lane(&self, process: ProcessId) -> Option<&LaneAt> {
        self.lanes.iter().find(|lane| lane.process == process)
    }

    /// The middle of a process's lane.
    pub(super) fn x(&self, process: ProcessId) -> Option<f64> {
        self.lane(process).map(|lane| lane.x)
    }

    /// The y of a moment; of one outside the window, the window's edge.
    pub(super) fn y(&self, at: u64) -> f64 {
        let next = self.moments.partition_point(|(moment, _)| *moment < at);
        match (self.moments.get(next), self.moments.last()) {
            (Some((_, y)), _) => *y,
            (None, Some(_)) => self.bottom,
            (None, None) => HEADER_Y,
        }
    }

    /// How many lanes a message passes on its way.
    fn lanes_between(&self, from: Option<ProcessId>, to: ProcessId) -> f64 {
        let at = |process| self.lanes.iter().position(|lane| Some(lane.process) == process);
        match (at(from), at(Some(to))) {
            (Some(from), Some(to)) => {
                f64::from(u32::try_from(from.abs_diff(to)).unwrap_or(u32::MAX))
            }
            _ => 0.0,
        }
    }

    fn place(&mut self, window: &Window<'_>) {
        let mut anchors = Vec::new();
        for (index, event) in window.events.iter().enumerate() {
            anchor(index, event, &mut anchors);
        }
        anchors.retain(|anchor| (window.from..=window.to).contains(&anchor.at));
        anchors.sort_by_key(|anchor| anchor.at);
        let usual = usual(&anchors);
        let mut free: BTreeMap<Row, f64> = BTreeMap::new();
        let mut departed: BTreeMap<usize, f64> = BTreeMap::new();
        let mut y = HEADER_Y + 8.0;
        let mut before: Option<u64> = None;
        let mut rest = anchors.as_slice();
        while let Some(first) = rest.first() {
            let at = first.at;
            let (now, later) = rest.split_at(rest.partition_point(|anchor| anchor.at <= at));
            rest = later;
            let micros = at - before.unwrap_or(at);
            let rise = if before.is_some() {
                (RISE_USUAL * micros as f64 / usual as f64).clamp(RISE.0, RISE.1)
            } else {
                22.0
            };
            if y - self.headers.last().copied().unwrap_or(HEADER_Y) > HEADER_EVERY {
                self.headers.push(y + 24.0);
                y += 42.0;
            }
            let left_out = match window.gap {
                Some((until, left_out)) if at >= until && before.is_some_and(|at| at < until) => {
                    left_out
                }
                _ => 0,
            };
            if left_out > 0 || micros > usual.saturating_mul(BREAK) {
                let room = if left_out > 0 { BAND } else { 6.0 };
                self.breaks.push(Break { y: y + (rise + room) / 2.0 - 1.0, micros, left_out });
                y += room;
            }
            y += rise;
            for anchor in now {
                // Only what was there before this moment: what belongs to it is stacked below.
                let row = free.get(&anchor.row).copied().unwrap_or(y);
                let departed = departed.get(&anchor.event).copied().unwrap_or(y);
                y = y.max(row).max(departed);
            }
            self.moments.push((at, y));
            let mut lowest = y;
            for anchor in now {
                let mut row = free.get(&anchor.row).copied().unwrap_or(y).max(y);
                if matches!(window.events[anchor.event].kind, EventKind::Told { .. }) {
                    row = row.max(y + TOLD_BELOW);
                }
                let offset = &mut self.offsets[anchor.event];
                *(if anchor.is_end { &mut offset.end } else { &mut offset.begin }) = row - y;
                free.insert(anchor.row, row + anchor.height);
                lowest = lowest.max(row);
                if anchor.is_end {
                    continue;
                }
                match &window.events[anchor.event].kind {
                    // A bar's end has a row that begins with the bar.
                    EventKind::Sync { .. } => {
                        free.insert(Row::Bar(anchor.event), row + 9.0);
                    }
                    EventKind::Message { to, .. } => {
                        let lanes = self.lanes_between(window.events[anchor.event].process, *to);
                        departed.insert(anchor.event, row + DROP.0 + DROP.1 * lanes);
                    }
                    _ => {}
                }
            }
            // A band goes across everything: below what happened in the same moment, above all else.
            for anchor in now {
                let event = window.events[anchor.event];
                if is_band(event) {
                    lowest += BAND / 2.0 + 8.0;
                    self.offsets[anchor.event].begin = lowest - y;
                    lowest += BAND / 2.0 + 2.0;
                }
            }
            y = y.max(lowest);
            before = Some(at);
        }
        let below = free.values().copied().fold(y, f64::max);
        self.bottom = below + 20.0;
    }
}

/// Whether an event is drawn across all lanes.
pub(super) fn is_band(event: &TraceEvent) -> bool {
    matches!(event.kind, EventKind::Violation(_)) || event.process.is_none()
}

fn lanes(trace: &Trace, window: &Window<'_>) -> Vec<LaneAt> {
    let mut used = BTreeSet::new();
    for event in &window.events {
        used.extend(event.process);
        if let EventKind::Message { to, .. } = &event.kind {
            used.insert(*to);
        }
    }
    let roles: BTreeMap<ProcessId, Role> =
        trace.lanes().map(|(process, lane)| (process, lane.role)).collect();
    let role = |process: &ProcessId| roles.get(process).copied().unwrap_or(Role::Participant);
    let mut order: Vec<ProcessId> = used.into_iter().collect();
    order.sort_by_key(|process| (role(process), *process));
    let usual = match order.len() {
        0..=3 => 210.0,
        4..=6 => 168.0,
        _ => 150.0,
    };
    // Clients have little to say, and there may be many of them.
    let clients = order.iter().filter(|process| role(process) == Role::Client).count();
    let mut right = GUTTER;
    let mut place = |process: ProcessId| {
        let is_narrow = clients > 3 && role(&process) == Role::Client;
        let width = if is_narrow { CLIENT_WIDTH } else { usual };
        right += width;
        LaneAt {
            process,
            name: trace.name(process).into_owned(),
            role: role(&process),
            x: right - width / 2.0,
            width,
        }
    };
    order.into_iter().map(&mut place).collect()
}

fn anchor(index: usize, event: &TraceEvent, anchors: &mut Vec<Anchor>) {
    let process = event.process.unwrap_or(ProcessId(u32::MAX));
    let mut add = |at, is_end, row, height| {
        anchors.push(Anchor { at, event: index, is_end, row, height });
    };
    match &event.kind {
        EventKind::Message { to, fate, copy, .. } => {
            // A copy leaves where the message left.
            let row = if *copy { Row::Bar(index) } else { Row::Departure(process, *to) };
            add(event.at, false, row, ROW);
            if let Fate::Delivered { at } = fate {
                add(*at, true, Row::Arrival(process, *to), ROW);
            }
        }
        EventKind::Sync { ended, .. } => {
            add(event.at, false, Row::Mark(process), ROW);
            if let Some(at) = ended {
                add(*at, true, Row::Bar(index), 0.0);
            }
        }
        // A dot; it needs no room of its own.
        EventKind::Step(_) => add(event.at, false, Row::Bar(index), 0.0),
        EventKind::Told { .. } => add(event.at, false, Row::Mark(process), ROW + 6.0),
        _ if is_band(event) => add(event.at, false, Row::Bar(index), 0.0),
        EventKind::Pause { until } => {
            add(event.at, false, Row::Mark(process), ROW);
            add(*until, true, Row::Bar(index), 0.0);
        }
        _ => add(event.at, false, Row::Mark(process), ROW),
    }
}

/// The median of the times between moments, at least 1 µs.
fn usual(anchors: &[Anchor]) -> u64 {
    let mut times: Vec<u64> = anchors
        .windows(2)
        .map(|pair| pair[1].at - pair[0].at)
        .filter(|micros| *micros > 0)
        .collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagram::{View, window};

    #[test]
    fn what_is_later_is_lower() {
        let mut trace = Trace::default();
        for nth in 0..500_u64 {
            let (from, to) = (ProcessId((nth % 4) as u32), ProcessId((nth / 3 % 4) as u32));
            let at = nth * nth % 7919;
            let message = trace.sent(at, from, to, None, "");
            trace.delivered(message, at + nth % 13);
            let sync = trace.sync_began(at, to, None, "");
            trace.sync_ended(sync, at + nth % 7, crate::trace::SyncEnd::Durable);
            if nth % 50 == 0 {
                trace.fault(at, None, "");
            }
        }
        let window = window::choose(&trace, &View { events_max: 5_000, ..View::default() });
        let layout = Layout::new(&trace, &window);
        assert!(layout.moments.len() > 500);
        for pair in layout.moments.windows(2) {
            assert!(pair[0].0 < pair[1].0 && pair[0].1 + 1.0 < pair[1].1, "{pair:?}");
        }
        for (event, offsets) in window.events.iter().zip(&layout.offsets) {
            let (begin, end) = (layout.y(event.at), layout.y(event.end()));
            assert!(begin <= end && offsets.begin >= 0.0 && offsets.end >= 0.0);
            assert!(end + offsets.end <= layout.bottom);
        }
    }
    #[test]
    fn only_what_happens_at_once_is_below_its_moment() {
        let mut trace = Trace::default();
        for at in [1, 2, 3, 3, 4, 5] {
            trace.note(at, Some(ProcessId(0)), None, "");
        }
        let window = window::choose(&trace, &View::default());
        let offsets = Layout::new(&trace, &window).offsets;
        let begins: Vec<f64> = offsets.iter().map(|offsets| offsets.begin).collect();
        assert_eq!(begins, [0.0, 0.0, 0.0, ROW, 0.0, 0.0]);
    }
}
