//! Draws the lanes, the time and the bands, and composes the picture.

use std::collections::{BTreeMap, BTreeSet};

use handfast_commit_core::id::TransactionId;

use super::View;
use super::arrows::{self, Arrow};
use super::labels::{self, Area, Labels};
use super::layout::{BAND, GUTTER, LaneAt, Layout, is_band};
use super::legend;
use super::marks;
use super::svg::{COLOURS, Svg};
use super::window::Window;
use crate::trace::{EventKind, Millis, ProcessId, Trace, TraceEvent};

/// What drawing an event needs to know of the rest.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    /// The names.
    pub trace: &'a Trace,
    /// What is drawn.
    pub window: &'a Window<'a>,
    /// Where.
    pub layout: &'a Layout,
    /// A number for every transaction that is drawn, from which its colour comes.
    numbers: BTreeMap<TransactionId, usize>,
    slots: usize,
}

impl Scene<'_> {
    /// The y of the beginning of an event of the window.
    pub(super) fn begin_y(&self, index: usize) -> f64 {
        self.layout.y(self.window.events[index].at) + self.layout.offsets[index].begin
    }

    /// The y of the end of an event of the window, which is at a moment.
    pub(super) fn end_y(&self, index: usize, at: u64) -> f64 {
        self.layout.y(at) + self.layout.offsets[index].end
    }

    /// How a transaction is written on a label: nothing, when all labels are about the same one.
    pub(super) fn suffix(&self, event: &TraceEvent) -> String {
        match (self.window.transaction, event.about.first()) {
            (None, Some(id)) => format!(" {}", self.short(*id)),
            _ => String::new(),
        }
    }

    /// A transaction's id as people can tell it apart: epoch and sequence, and the slot if there are more.
    pub(super) fn short(&self, id: TransactionId) -> String {
        let (epoch, sequence) = (id.epoch().0, id.sequence().0);
        if self.slots > 1 {
            format!("{}.{epoch}.{sequence}", id.slot().0)
        } else {
            format!("{epoch}.{sequence}")
        }
    }

    /// The colour of a message: its transaction's, or, when there is only one, what it says.
    pub(super) fn colour(&self, event: &TraceEvent, label: &str) -> String {
        if self.window.transaction.is_some() {
            return tone(label).to_owned();
        }
        match event.about.first().and_then(|id| self.numbers.get(id)) {
            Some(number) => format!("t{}", number % COLOURS),
            None => "off".to_owned(),
        }
    }

    /// The tooltip of an event.
    pub(super) fn tooltip(&self, event: &TraceEvent) -> String {
        let place = match event.process {
            Some(process) => self.trace.name(process).into_owned(),
            None => "world".to_owned(),
        };
        let mut text = format!("{}  {place} {}", Millis(event.at), self.trace.what(event));
        for id in &event.about {
            text.push('\n');
            text.push_str(&id.to_string());
        }
        text
    }
}

/// The colour class for what a message says about the outcome.
fn tone(label: &str) -> &'static str {
    let label = label.to_ascii_lowercase();
    let says =
        |word: &str| label.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| part == word);
    if ["abort", "aborted", "no", "refused"].into_iter().any(says) {
        "bad"
    } else if ["commit", "committed"].into_iter().any(says) {
        "good"
    } else {
        "plain"
    }
}

/// Draws everything.
pub(super) fn draw(trace: &Trace, view: &View, window: &Window<'_>, layout: &Layout) -> String {
    let scene = scene(trace, window, layout);
    let mut svg = Svg::default();
    let mut labels = Labels::new(layout.lanes.iter().map(|lane| lane.x).collect(), layout.width);

    let title = if view.title.is_empty() { "A simulated run" } else { &view.title };
    let subtitle = subtitle(&scene);
    svg.text(16.0, 26.0, "h1 ink", title);
    svg.text(16.0, 45.0, "faint", &subtitle);
    let mut above = Svg::default();
    time(&scene, &mut svg, &mut above, &mut labels);
    lanes(&scene, &mut svg, &mut labels);
    bands(&scene, &mut svg, &mut above, &mut labels);

    let arrows: Vec<Arrow> =
        (0..window.events.len()).filter_map(|index| arrows::arrow(&scene, index)).collect();
    for arrow in &arrows {
        arrow.occupy(&mut labels);
    }
    // Bars and pills stay where they are, so all of them come before the first label that moves.
    for index in 0..window.events.len() {
        marks::fixed(&scene, index, &mut labels);
    }
    for index in 0..window.events.len() {
        marks::draw(&scene, index, &mut svg, &mut above, &mut labels);
    }
    for arrow in &arrows {
        arrow.draw(&scene, &mut svg, &mut above, &mut labels);
    }
    for row in &layout.headers {
        names(&layout.lanes, *row, &mut above);
    }
    svg.append(above);
    let height = legend::draw(&scene, &mut svg, layout.bottom + 24.0);
    svg.finish(layout.width, height, title, &subtitle)
}

fn scene<'a>(trace: &'a Trace, window: &'a Window<'a>, layout: &'a Layout) -> Scene<'a> {
    let mut numbers = BTreeMap::new();
    for id in window.events.iter().flat_map(|event| &event.about) {
        let next = numbers.len();
        numbers.entry(*id).or_insert(next);
    }
    let slots = numbers.keys().map(TransactionId::slot).collect::<BTreeSet<_>>().len();
    Scene { trace, window, layout, numbers, slots }
}

fn subtitle(scene: &Scene<'_>) -> String {
    let window = scene.window;
    let mut parts = Vec::new();
    if let Some(id) = window.transaction {
        parts.push(format!("transaction {id}"));
    }
    parts.push(format!("{} to {}", Millis(window.from), Millis(window.to)));
    parts.push(match (window.events.len(), window.left_out) {
        (count, 0) => format!("{count} events"),
        (count, left_out) => format!("{count} events, {left_out} more are not drawn"),
    });
    parts.join(" · ")
}

/// The moments in the gutter, and the times that are cut short.
fn time(scene: &Scene<'_>, svg: &mut Svg, above: &mut Svg, labels: &mut Labels) {
    let layout = scene.layout;
    let mut free = 0.0;
    for (at, y) in &layout.moments {
        if *y >= free {
            svg.line((GUTTER - 6.0, *y), (layout.width - 12.0, *y), "grid");
            svg.text(GUTTER - 12.0, y + 3.5, "faint end", &millis(*at));
            free = y + 13.0;
        }
    }
    for gap in &layout.breaks {
        let text = match gap.left_out {
            0 => format!("nothing for {}", Millis(gap.micros)),
            count => format!("{count} events in {} are not drawn", Millis(gap.micros)),
        };
        svg.open(&text);
        svg.line((GUTTER - 6.0, gap.y), (layout.width - 12.0, gap.y), "s-off dot");
        svg.close();
        if gap.left_out > 0 {
            let (x, y, width) = (GUTTER, gap.y - labels::HEIGHT / 2.0, labels::width(&text));
            above.rect((x, y), (width, labels::HEIGHT), 2.0, "plate");
            above.text(x + 2.0, y + 10.0, "faint", &text);
            labels.occupy(Area { x, y, width, height: labels::HEIGHT });
        }
    }
    svg.text(GUTTER - 12.0, layout.headers[0] + 4.0, "faint end", "ms");
}

fn millis(micros: u64) -> String {
    format!("{}.{:03}", micros / 1000, micros % 1000)
}

/// The lines of the lanes, and where their processes were dead.
fn lanes(scene: &Scene<'_>, svg: &mut Svg, labels: &mut Labels) {
    let layout = scene.layout;
    let top = layout.headers[0];
    for lane in &layout.lanes {
        let mut from = top;
        for (crashed, back) in down(scene, lane.process) {
            svg.line((lane.x, from), (lane.x, crashed), "lane");
            svg.open(&format!("{} is down", lane.name));
            let size = ((lane.width * 0.3).min(48.0), back - crashed);
            svg.rect((lane.x - size.0 / 2.0, crashed), size, 4.0, "down");
            svg.line((lane.x, crashed), (lane.x, back), "lane dead");
            svg.close();
            from = back;
        }
        svg.line((lane.x, from), (lane.x, layout.bottom), "lane");
        for row in &layout.headers {
            let width = lane.width - 14.0;
            let (x, y) = (lane.x - width / 2.0, row - 12.0);
            labels.occupy(Area { x, y, width, height: 24.0 });
        }
    }
}

/// From where to where a process is down, as far as it shows.
fn down(scene: &Scene<'_>, process: ProcessId) -> Vec<(f64, f64)> {
    let layout = scene.layout;
    let mut changes: Vec<&TraceEvent> = scene
        .trace
        .events()
        .iter()
        .filter(|event| event.process == Some(process))
        .filter(|event| matches!(event.kind, EventKind::Crash(_) | EventKind::Restart(_)))
        .collect();
    changes.sort_by_key(|event| event.at);
    let y = |event: &TraceEvent| {
        if event.at < scene.window.from {
            return layout.headers[0];
        }
        match scene.window.events.iter().position(|shown| std::ptr::eq(*shown, event)) {
            Some(index) => scene.begin_y(index),
            None => layout.y(event.at),
        }
    };
    let mut spans = Vec::new();
    let mut since: Option<f64> = None;
    for event in changes.into_iter().filter(|event| event.at <= scene.window.to) {
        match (&event.kind, since) {
            (EventKind::Crash(_), None) => since = Some(y(event)),
            (EventKind::Restart(_), Some(from)) => {
                spans.push((from, y(event)));
                since = None;
            }
            _ => {}
        }
    }
    spans.extend(since.map(|from| (from, layout.bottom)));
    spans.retain(|(from, to)| to > from);
    spans
}

/// A row of names.
fn names(lanes: &[LaneAt], y: f64, svg: &mut Svg) {
    for lane in lanes {
        let width = lane.width - 14.0;
        svg.open(&format!("{} ({:?})", lane.name, lane.role));
        svg.rect((lane.x - width / 2.0, y - 12.0), (width, 24.0), 5.0, "chip");
        let name = labels::cut(&lane.name, "", width / 1.15);
        svg.text(lane.x, y + 4.0, "name ink", &name);
        svg.close();
    }
}

/// What happens to the world goes across all lanes.
fn bands(scene: &Scene<'_>, svg: &mut Svg, above: &mut Svg, labels: &mut Labels) {
    let layout = scene.layout;
    for (index, event) in scene.window.events.iter().enumerate() {
        let (text, band, ink) = match &event.kind {
            EventKind::Violation(label) => {
                let place = match event.process {
                    Some(process) => format!(" at {}", scene.trace.name(process)),
                    None => String::new(),
                };
                (format!("VIOLATION{place}: {label}"), "band-bad", "f-bad bold")
            }
            _ if !is_band(event) => continue,
            EventKind::Note(label) => (label.to_string(), "down", "faint"),
            _ => (scene.trace.what(event), "band-warn", "f-warn"),
        };
        let y = scene.begin_y(index);
        let (x, width) = (GUTTER - 6.0, layout.width - GUTTER - 6.0);
        let text = labels::cut(&text, &scene.suffix(event), width - 12.0);
        let tooltip = scene.tooltip(event);
        svg.open(&tooltip);
        svg.rect((x, y - BAND / 2.0), (width, BAND), 3.0, band);
        svg.close();
        let area = Area {
            x: x + 4.0,
            y: y - labels::HEIGHT / 2.0,
            width: labels::width(&text),
            height: labels::HEIGHT,
        };
        labels.occupy(area);
        above.open(&tooltip);
        above.rect((area.x, area.y), (area.width, area.height), 2.0, "plate");
        above.text(area.x + 2.0, area.y + 10.0, ink, &text);
        above.close();
    }
}
