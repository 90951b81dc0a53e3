//! Where labels go, so that they can be read: every label has a few places where it may stand, and takes
//! the one that covers the least of what is there already.

use std::collections::BTreeMap;

/// The width of a character of the labels' font, which is a monospaced one, so that this is known.
pub(super) const CHARACTER: f64 = 6.3;
/// The height of a label.
pub(super) const HEIGHT: f64 = 13.0;

/// Things are looked up by the stripe of the picture that they are in.
const STRIPE: f64 = 64.0;

/// The width that a text takes.
pub(super) fn width(text: &str) -> f64 {
    text.chars().count() as f64 * CHARACTER + 4.0
}

/// A text and its suffix, of which the text is cut to fit, with a sign that it was.
pub(super) fn cut(text: &str, suffix: &str, width_max: f64) -> String {
    let length = |text: &str| text.chars().count();
    let suffix = if text.is_empty() { suffix.trim_start() } else { suffix };
    let room = (((width_max - 4.0) / CHARACTER) as usize).saturating_sub(length(suffix)).max(2);
    // Every character has its cell; one without a shape is a blank.
    let mut shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    if length(text) <= room {
        return shown.chain(suffix.chars()).collect();
    }
    let kept: String = shown.by_ref().take(room - 1).collect();
    format!("{}…{suffix}", kept.trim_end())
}

/// A part of the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Area {
    /// Left edge.
    pub x: f64,
    /// Upper edge.
    pub y: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

impl Area {
    /// The area of a label around a point.
    pub(super) fn around(x: f64, y: f64, width: f64) -> Self {
        Self { x: x - width / 2.0, y: y - HEIGHT / 2.0, width, height: HEIGHT }
    }

    fn covered(&self, other: &Area) -> f64 {
        let across = (self.x + self.width).min(other.x + other.width) - self.x.max(other.x);
        let down = (self.y + self.height).min(other.y + other.height) - self.y.max(other.y);
        if across > 0.0 && down > 0.0 { across * down } else { 0.0 }
    }

    /// Whether a line goes through it: Liang and Barsky's clipping.
    fn is_crossed(&self, line: &Line) -> bool {
        let (dx, dy) = (line.x2 - line.x1, line.y2 - line.y1);
        let (mut enters, mut leaves) = (0.0_f64, 1.0_f64);
        for (direction, distance) in [
            (-dx, line.x1 - self.x),
            (dx, self.x + self.width - line.x1),
            (-dy, line.y1 - self.y),
            (dy, self.y + self.height - line.y1),
        ] {
            if direction == 0.0 {
                if distance < 0.0 {
                    return false;
                }
            } else if direction < 0.0 {
                enters = enters.max(distance / direction);
            } else {
                leaves = leaves.min(distance / direction);
            }
        }
        enters <= leaves
    }
}

/// The line of an arrow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Line {
    /// Where it begins.
    pub x1: f64,
    /// Where it begins.
    pub y1: f64,
    /// Where it ends.
    pub x2: f64,
    /// Where it ends.
    pub y2: f64,
}

impl Line {
    /// The point that is `part` of the way along.
    pub(super) fn at(&self, part: f64) -> (f64, f64) {
        (self.x1 + (self.x2 - self.x1) * part, self.y1 + (self.y2 - self.y1) * part)
    }
}

/// What is on the picture already.
#[derive(Debug, Default)]
pub(super) struct Labels {
    areas: BTreeMap<i64, Vec<Area>>,
    lines: BTreeMap<i64, Vec<(usize, Line)>>,
    lanes: Vec<f64>,
    width: f64,
}

/// A place where a label may stand, and how gladly: 0 is the best.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Its area.
    pub area: Area,
    /// What this place costs by itself.
    pub cost: f64,
}

impl Labels {
    pub(super) fn new(lanes: Vec<f64>, width: f64) -> Self {
        Self { lanes, width, ..Self::default() }
    }

    /// Something that labels should not cover.
    pub(super) fn occupy(&mut self, area: Area) {
        for stripe in stripes(area.y, area.y + area.height) {
            self.areas.entry(stripe).or_default().push(area);
        }
    }

    /// An arrow, by the number of its event.
    pub(super) fn line(&mut self, event: usize, line: Line) {
        for stripe in stripes(line.y1.min(line.y2), line.y1.max(line.y2)) {
            self.lines.entry(stripe).or_default().push((event, line));
        }
    }

    /// Takes the best of the places for a label of an event. On equal costs, the first.
    pub(super) fn place(&mut self, event: usize, places: &[Place]) -> Option<Area> {
        let mut best: Option<(f64, Area)> = None;
        for place in places {
            let cost = place.cost + self.cost(event, &place.area);
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, place.area));
            }
        }
        let (_, area) = best?;
        self.occupy(area);
        Some(area)
    }

    fn cost(&self, event: usize, area: &Area) -> f64 {
        // Two texts over each other cannot be read at all; a line through the plate merely looks cut.
        let mut cost = 0.0;
        for stripe in stripes(area.y, area.y + area.height) {
            for other in self.areas.get(&stripe).into_iter().flatten() {
                cost += area.covered(other) * 20.0;
            }
            for (owner, line) in self.lines.get(&stripe).into_iter().flatten() {
                if *owner != event && area.is_crossed(line) {
                    cost += 30.0;
                }
            }
        }
        let lanes =
            self.lanes.iter().filter(|x| area.x - 5.0 < **x && **x < area.x + area.width + 5.0);
        cost += 60.0 * lanes.count() as f64;
        let outside = (2.0 - area.x).max(area.x + area.width - self.width + 2.0).max(0.0);
        cost + outside * 100.0
    }
}

fn stripes(from: f64, to: f64) -> std::ops::RangeInclusive<i64> {
    (from / STRIPE).floor() as i64..=(to / STRIPE).floor() as i64
}
