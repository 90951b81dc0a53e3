//! What happens at a process: syncs, crashes, pauses, what clients are told.

use super::draw::Scene;
use super::labels::{self, Area, Labels, Place};
use super::layout::is_band;
use super::svg::Svg;
use crate::trace::{EventKind, Millis, SyncEnd, Told, TraceEvent};

/// Half the width of a sync's bar.
const BAR: f64 = 4.0;
const PILL_HEIGHT: f64 = 16.0;

/// Occupies what an event's mark covers, which does not depend on any label.
pub(super) fn fixed(scene: &Scene<'_>, index: usize, labels: &mut Labels) {
    let event = scene.window.events[index];
    let Some(x) = event.process.and_then(|process| scene.layout.x(process)) else { return };
    if is_band(event) {
        return;
    }
    let y = scene.begin_y(index);
    let around = |half_width: f64, half_height: f64| Area {
        x: x - half_width,
        y: y - half_height,
        width: 2.0 * half_width,
        height: 2.0 * half_height,
    };
    match &event.kind {
        EventKind::Message { .. } | EventKind::Note(_) | EventKind::Violation(_) => {}
        EventKind::Sync { ended, .. } => {
            let height = bar_end(scene, index, event, *ended) - y;
            labels.occupy(Area { x: x - BAR, y, width: 2.0 * BAR, height });
        }
        EventKind::Pause { until } => {
            let height = bar_end(scene, index, event, Some(*until)) - y;
            labels.occupy(Area { x: x - 6.0, y, width: 12.0, height });
        }
        EventKind::Told { outcome, .. } => {
            labels.occupy(around(pill_width(*outcome) / 2.0, PILL_HEIGHT / 2.0));
        }
        EventKind::Step(_) => labels.occupy(around(2.5, 2.5)),
        _ => labels.occupy(around(6.0, 6.0)),
    }
}

fn pill_width(outcome: Told) -> f64 {
    labels::width(&pill_text(outcome)) + 10.0
}

fn pill_text(outcome: Told) -> String {
    match outcome {
        Told::Unknown => "UNKNOWN".to_owned(),
        outcome => outcome.to_string(),
    }
}

/// Where a bar ends: with its event, else with the process, else with the picture.
fn bar_end(scene: &Scene<'_>, index: usize, event: &TraceEvent, ended: Option<u64>) -> f64 {
    let begin = scene.begin_y(index);
    let died = || {
        let crash = scene.window.events.iter().position(|other| {
            other.process == event.process
                && other.at >= event.at
                && matches!(other.kind, EventKind::Crash(_))
        })?;
        Some(scene.begin_y(crash))
    };
    let end = match ended {
        Some(at) if at <= scene.window.to => scene.end_y(index, at),
        Some(_) => scene.layout.bottom,
        None => died().unwrap_or(scene.layout.bottom),
    };
    end.max(begin + 5.0)
}

/// Draws an event's mark, and its label into the layer above.
pub(super) fn draw(
    scene: &Scene<'_>,
    index: usize,
    svg: &mut Svg,
    above: &mut Svg,
    labels: &mut Labels,
) {
    let event = scene.window.events[index];
    let Some(lane) = event.process.and_then(|process| scene.layout.lane(process)) else { return };
    let x = lane.x;
    if is_band(event) || matches!(event.kind, EventKind::Message { .. }) {
        return;
    }
    let y = scene.begin_y(index);
    let tooltip = scene.tooltip(event);
    let suffix = if event.about.len() == 1 { scene.suffix(event) } else { String::new() };
    above.open(&tooltip);
    // What is beside it: how far beside, and what is written there.
    let beside = match &event.kind {
        EventKind::Sync { ended, end, label } => {
            let bottom = bar_end(scene, index, event, *ended);
            let (class, text, ink) = match end {
                SyncEnd::Durable | SyncEnd::Running => ("sync", label.to_string(), "faint"),
                SyncEnd::Failed => ("f-bad", format!("failed: {label}"), "f-bad"),
                SyncEnd::Cut => ("f-warn", format!("cut: {label}"), "f-warn"),
            };
            above.rect((x - BAR, y), (2.0 * BAR, bottom - y), 2.0, class);
            // A label at the bar's middle belongs to the bar; at a long one's, nobody would find it.
            Some((BAR, (bottom - y).min(26.0) / 2.0, text, ink))
        }
        EventKind::Pause { until } => {
            let bottom = bar_end(scene, index, event, Some(*until));
            svg.rect((x - 6.0, y), (12.0, bottom - y), 2.0, "pause");
            let micros = until.saturating_sub(event.at);
            Some((6.0, 6.0, format!("pauses {}", Millis(micros)), "f-warn"))
        }
        EventKind::Crash(label) => {
            above.cross((x, y), 6.0, "s-bad thick");
            Some((6.0, 0.0, titled("crash", label), "f-bad bold"))
        }
        EventKind::Restart(label) => {
            above.circle((x, y), 4.5, "f-good");
            Some((5.0, 0.0, titled("restart", label), "f-good"))
        }
        EventKind::ClockJump { by_ms } => {
            above.circle((x, y), 4.0, "f-warn");
            Some((5.0, 0.0, format!("clock {by_ms:+} ms"), "f-warn"))
        }
        EventKind::Fault(label) => {
            above.polygon(&[(x, y - 6.0), (x + 6.0, y + 5.0), (x - 6.0, y + 5.0)], "f-warn");
            Some((6.0, 0.0, label.to_string(), "f-warn"))
        }
        EventKind::Told { outcome, label } => {
            let class = match outcome {
                Told::Committed => "f-good",
                Told::Aborted => "f-bad",
                Told::Unknown => "f-off",
            };
            let width = pill_width(*outcome);
            above.rect((x - width / 2.0, y - PILL_HEIGHT / 2.0), (width, PILL_HEIGHT), 8.0, class);
            above.text(x, y + 3.8, "mid bold on-fill", &pill_text(*outcome));
            Some((width / 2.0, 0.0, label.to_string(), "faint"))
        }
        EventKind::Step(_) => {
            above.circle((x, y), 2.2, "sync");
            None
        }
        EventKind::Note(label) => {
            above.circle((x, y), 2.2, "f-off");
            Some((3.0, 0.0, label.to_string(), "faint"))
        }
        EventKind::Message { .. } | EventKind::Violation(_) => None,
    };
    above.close();
    if let Some((half, down, text, ink)) = beside {
        let room = lane.width - 2.0 * half - 12.0;
        let text = labels::cut(&text, &suffix, room.max(60.0));
        if text.is_empty() {
            return;
        }
        let width = labels::width(&text);
        if let Some(area) = labels.place(usize::MAX, &places(x, half + 3.0, y + down, width)) {
            above.open(&tooltip);
            above.rect((area.x, area.y), (area.width, area.height), 2.0, "plate");
            above.text(area.x + 2.0, area.y + 10.0, ink, &text);
            above.close();
        }
    }
}

fn titled(title: &str, label: &str) -> String {
    if label.is_empty() { title.to_owned() } else { format!("{title}: {label}") }
}

/// Beside the lane, on the right or on the left, as near to its row as possible.
fn places(x: f64, beside: f64, y: f64, width: f64) -> Vec<Place> {
    let mut places = Vec::new();
    for (off, dear) in [
        (0.0, 0.0),
        (5.0, 6.0),
        (-5.0, 6.0),
        (10.0, 14.0),
        (-10.0, 14.0),
        (16.0, 24.0),
        (-16.0, 24.0),
    ] {
        for (middle, side) in [(x + beside + width / 2.0, 0.0), (x - beside - width / 2.0, 5.0)] {
            places.push(Place { area: Area::around(middle, y + off, width), cost: dear + side });
        }
    }
    places
}
