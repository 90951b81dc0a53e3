//! Messages as arrows: from the lane and moment of departure to those of arrival.

use super::draw::Scene;
use super::labels::{self, Area, Labels, Line, Place};
use super::svg::Svg;
use crate::trace::{EventKind, Fate, ProcessId, Role};

/// How far beside the middle of a lane an arrow begins and ends.
const BESIDE: f64 = 4.0;
/// A label is not cut to less than this.
const LABEL_MIN: f64 = 60.0;
/// How much of its way a message that is lost goes.
const LOST_WAY: f64 = 0.58;

/// A message's arrow.
#[derive(Debug)]
pub(super) struct Arrow {
    event: usize,
    line: Line,
    tip: Tip,
    copy: bool,
    /// The lanes at its ends are the same.
    loops: bool,
    label: String,
    suffix: String,
    colour: String,
    /// Whether the label is wanted near the beginning.
    label_at_begin: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tip {
    Head,
    Cross,
    Open,
}

/// The arrow of an event of the window, if it is a message.
pub(super) fn arrow(scene: &Scene<'_>, index: usize) -> Option<Arrow> {
    let event = scene.window.events[index];
    let EventKind::Message { to, label, fate, copy } = &event.kind else { return None };
    let from = event.process?;
    let (x1, x2) = (scene.layout.x(from)?, scene.layout.x(*to)?);
    let y1 = scene.begin_y(index);
    let loops = from == *to;
    let side = if x2 < x1 { -1.0 } else { 1.0 };
    let (tip, x2, y2) = match fate {
        Fate::Delivered { at } => {
            let y2 = scene.end_y(index, *at).max(y1);
            (Tip::Head, x2 - side * BESIDE, if loops { y2.max(y1 + 12.0) } else { y2 })
        }
        Fate::Lost { at, .. } => {
            // The further it had to go, the lower: the lost ones of several that leave at once stay apart.
            let least = y1 + 4.0 + (x2 - x1).abs() / 25.0;
            let y2 = scene.layout.y(*at).clamp(least, least + 60.0);
            (Tip::Cross, x1 + (x2 - x1) * LOST_WAY, y2)
        }
        Fate::Underway => (Tip::Open, x1 + (x2 - x1) * LOST_WAY, y1 + 14.0),
    };
    let again = if *copy { " again" } else { "" };
    Some(Arrow {
        event: index,
        line: Line { x1: x1 + side * BESIDE, y1, x2, y2 },
        tip,
        copy: *copy,
        loops,
        label: format!("{label}{again}"),
        suffix: scene.suffix(event),
        colour: scene.colour(event, label),
        label_at_begin: is_nearer_the_edge(scene, from, *to),
    })
}

/// A coordinator's messages fan out, and meet again: labels are apart from each other at the outer ends.
fn is_nearer_the_edge(scene: &Scene<'_>, from: ProcessId, to: ProcessId) -> bool {
    let role = |process| {
        scene.layout.lanes.iter().find(|lane| lane.process == process).map(|lane| lane.role)
    };
    role(to) == Some(Role::Coordinator) && role(from) != Some(Role::Coordinator)
}

impl Arrow {
    /// Tells the labels where it runs.
    pub(super) fn occupy(&self, labels: &mut Labels) {
        if self.loops {
            let Line { x1, y1, y2, .. } = self.line;
            labels.occupy(Area { x: x1, y: y1, width: 20.0, height: y2 - y1 });
        } else {
            labels.line(self.event, self.line);
        }
        if self.tip != Tip::Head {
            let (x, y) = self.line.at(1.0);
            labels.occupy(Area { x: x - 6.0, y: y - 6.0, width: 12.0, height: 12.0 });
        }
    }

    /// Draws the line into one layer and the label into the one above it.
    pub(super) fn draw(
        &self,
        scene: &Scene<'_>,
        svg: &mut Svg,
        above: &mut Svg,
        labels: &mut Labels,
    ) {
        let tooltip = scene.tooltip(scene.window.events[self.event]);
        let stroke = match (self.tip, self.copy) {
            (Tip::Open, _) => format!("s-{} dot", self.colour),
            (_, true) => format!("s-{} dash", self.colour),
            _ => format!("s-{}", self.colour),
        };
        svg.open(&tooltip);
        self.shaft(svg, &stroke);
        svg.close();

        let room = self
            .gaps(scene)
            .iter()
            .fold(LABEL_MIN, |room, (from, to)| room.max((to - from).abs() - 2.0 * BESIDE - 14.0));
        let text = labels::cut(&self.label, &self.suffix, room);
        if let Some(area) = labels.place(self.event, &self.places(scene, labels::width(&text))) {
            above.open(&tooltip);
            above.rect((area.x, area.y), (area.width, area.height), 2.0, "plate");
            let classes = format!("mid f-{}", self.colour);
            above.text(area.x + area.width / 2.0, area.y + 10.0, &classes, &text);
            above.close();
        }
    }

    fn shaft(&self, svg: &mut Svg, stroke: &str) {
        let Line { x1, y1, x2, y2 } = self.line;
        let from = if self.loops {
            let right = x1 + 16.0;
            svg.line((x1, y1), (right, y1), stroke);
            svg.line((right, y1), (right, y2), stroke);
            svg.line((right, y2), (x1, y2), stroke);
            (right, y2)
        } else {
            svg.line((x1, y1), (x2, y2), stroke);
            (x1, y1)
        };
        let to = if self.loops { (x1, y2) } else { (x2, y2) };
        match self.tip {
            Tip::Head => svg.polygon(&head(from, to), &format!("f-{}", self.colour)),
            Tip::Cross => svg.cross(to, 5.0, "s-bad thick"),
            Tip::Open => svg.circle(to, 2.5, &format!("f-{}", self.colour)),
        }
    }

    /// Where the label may stand: on the line, in the middle between two lanes, best in the gap at its
    /// outer end; else a little along the line, or just off it.
    fn places(&self, scene: &Scene<'_>, width: f64) -> Vec<Place> {
        let Line { x1, y1, y2, .. } = self.line;
        let mut places = Vec::new();
        if self.loops {
            let (x, y) = (x1 + 22.0 + width / 2.0, (y1 + y2) / 2.0);
            for down in [0.0, 12.0, -12.0] {
                let area = Area::around(x, y + down, width);
                places.push(Place { area, cost: f64::abs(down) });
            }
            return places;
        }
        for (part, cost) in self.parts(scene) {
            let (x, y) = self.line.at(part);
            for (off, dear) in
                [(0.0, 0.0), (-10.0, 16.0), (10.0, 16.0), (-20.0, 50.0), (20.0, 50.0)]
            {
                let area = Area::around(x, y + off, width);
                places.push(Place { area, cost: cost + dear });
            }
        }
        places
    }

    /// Parts of the way at which the label may be, and what they cost.
    fn parts(&self, scene: &Scene<'_>) -> Vec<(f64, f64)> {
        if self.tip != Tip::Head {
            return [(0.45, 0.0), (0.35, 4.0), (0.55, 4.0), (0.25, 9.0), (0.65, 9.0), (0.8, 14.0)]
                .to_vec();
        }
        let length = self.line.x2 - self.line.x1;
        if length.abs() < 1.0 {
            return vec![(0.5, 0.0)];
        }
        let mut gaps = self.gaps(scene);
        if !self.label_at_begin {
            gaps.reverse();
        }
        let mut parts = Vec::new();
        for ((from, to), inner) in gaps.into_iter().zip(0_u32..) {
            let shifts = [0.0, -0.1, 0.1, -0.2, 0.2, -0.3, 0.3];
            for (shift, dear) in shifts.into_iter().zip([0.0, 3.0, 3.0, 7.0, 7.0, 12.0, 12.0]) {
                let x = (from + to) / 2.0 + (to - from) * shift;
                parts.push(((x - self.line.x1) / length, f64::from(inner) * 14.0 + dear));
            }
        }
        parts
    }

    /// Between which x there is no lane, along the way.
    fn gaps(&self, scene: &Scene<'_>) -> Vec<(f64, f64)> {
        let (x1, x2) = (self.line.x1, self.line.x2);
        let (left, right) = (x1.min(x2), x1.max(x2));
        let mut stops = vec![left];
        let lanes = scene.layout.lanes.iter().map(|lane| lane.x);
        stops.extend(lanes.filter(|x| left < *x && *x < right));
        stops.push(right);
        if x2 < x1 {
            stops.reverse();
        }
        stops.windows(2).map(|pair| (pair[0], pair[1])).collect()
    }
}

/// The head of an arrow that comes from one point and ends in another.
fn head(from: (f64, f64), to: (f64, f64)) -> [(f64, f64); 3] {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length = (dx * dx + dy * dy).sqrt().max(0.001);
    let (ux, uy) = (dx / length, dy / length);
    let back = (to.0 - ux * 8.0, to.1 - uy * 8.0);
    [to, (back.0 - uy * 3.4, back.1 + ux * 3.4), (back.0 + uy * 3.4, back.1 - ux * 3.4)]
}
