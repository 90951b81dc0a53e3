//! Says what the signs mean, those that the picture has.

use super::draw::Scene;
use super::labels;
use super::layout::GUTTER;
use super::svg::Svg;
use crate::trace::{EventKind, Fate, SyncEnd, TraceEvent};

/// A sign: whether an event shows it, what it means, and how it is drawn around a point.
struct Sign {
    is_shown: fn(&TraceEvent) -> bool,
    text: &'static str,
    draw: fn(&mut Svg, f64, f64),
}

const SIGNS: &[Sign] = &[
    Sign {
        is_shown: |event| matches!(event.kind, EventKind::Message { .. }),
        text: "message",
        draw: |svg, x, y| {
            svg.line((x - 10.0, y), (x + 4.0, y), "s-plain");
            svg.polygon(&[(x + 10.0, y), (x + 3.0, y - 3.4), (x + 3.0, y + 3.4)], "f-plain");
        },
    },
    Sign {
        is_shown: |event| matches!(event.kind, EventKind::Message { fate: Fate::Lost { .. }, .. }),
        text: "lost",
        draw: |svg, x, y| {
            svg.line((x - 12.0, y), (x + 5.0, y), "s-plain");
            svg.cross((x + 6.0, y), 4.5, "s-bad thick");
        },
    },
    Sign {
        is_shown: |event| matches!(event.kind, EventKind::Message { fate: Fate::Underway, .. }),
        text: "never arrived",
        draw: |svg, x, y| {
            svg.line((x - 12.0, y), (x + 6.0, y), "s-plain dot");
            svg.circle((x + 8.0, y), 2.5, "f-plain");
        },
    },
    Sign {
        is_shown: |event| matches!(event.kind, EventKind::Message { copy: true, .. }),
        text: "arrives again",
        draw: |svg, x, y| {
            svg.line((x - 12.0, y), (x + 4.0, y), "s-plain dash");
            svg.polygon(&[(x + 10.0, y), (x + 3.0, y - 3.4), (x + 3.0, y + 3.4)], "f-plain");
        },
    },
    Sign {
        is_shown: |event| matches!(event.kind, EventKind::Sync { .. }),
        text: "write and sync",
        draw: |svg, x, y| svg.rect((x - 4.0, y - 7.0), (8.0, 14.0), 2.0, "sync"),
    },
    Sign {
        is_shown: |event| matches!(event.kind, EventKind::Sync { end: SyncEnd::Failed, .. }),
        text: "failed sync",
        draw: |svg, x, y| svg.rect((x - 4.0, y - 7.0), (8.0, 14.0), 2.0, "f-bad"),
    },
    Sign {
        is_shown: |event| matches!(event.kind, EventKind::Sync { end: SyncEnd::Cut, .. }),
        text: "sync cut by a crash",
        draw: |svg, x, y| svg.rect((x - 4.0, y - 7.0), (8.0, 14.0), 2.0, "f-warn"),
    },
    Sign {
        is_shown: |event| matches!(event.kind, EventKind::Crash(_)),
        text: "crash",
        draw: |svg, x, y| svg.cross((x, y), 5.0, "s-bad thick"),
    },
    Sign {
        is_shown: |event| matches!(event.kind, EventKind::Restart(_)),
        text: "restart",
        draw: |svg, x, y| svg.circle((x, y), 4.5, "f-good"),
    },
    Sign {
        is_shown: |event| matches!(event.kind, EventKind::Crash(_) | EventKind::Restart(_)),
        text: "down",
        draw: |svg, x, y| {
            svg.rect((x - 9.0, y - 8.0), (18.0, 16.0), 3.0, "down");
            svg.line((x, y - 8.0), (x, y + 8.0), "lane dead");
        },
    },
    Sign {
        is_shown: |event| matches!(event.kind, EventKind::Pause { .. }),
        text: "pause",
        draw: |svg, x, y| svg.rect((x - 6.0, y - 7.0), (12.0, 14.0), 2.0, "pause"),
    },
    Sign {
        is_shown: |event| matches!(event.kind, EventKind::Fault(_)),
        text: "fault",
        draw: |svg, x, y| {
            svg.polygon(&[(x, y - 6.0), (x + 6.0, y + 5.0), (x - 6.0, y + 5.0)], "f-warn");
        },
    },
    Sign {
        is_shown: |event| matches!(event.kind, EventKind::Step(_)),
        text: "input handled",
        draw: |svg, x, y| svg.circle((x, y), 2.2, "sync"),
    },
];

/// Draws it below the lanes. Returns the height of the picture.
pub(super) fn draw(scene: &Scene<'_>, svg: &mut Svg, top: f64) -> f64 {
    let (mut x, mut y) = (GUTTER, top);
    let mut put = |svg: &mut Svg, text: &str, draw: &dyn Fn(&mut Svg, f64, f64)| {
        let width = 28.0 + labels::width(text) + 14.0;
        if x + width > scene.layout.width && x > GUTTER {
            (x, y) = (GUTTER, y + 22.0);
        }
        draw(svg, x + 12.0, y);
        svg.text(x + 30.0, y + 3.8, "faint", text);
        x += width;
    };
    for sign in SIGNS {
        if scene.window.events.iter().any(|event| (sign.is_shown)(event)) {
            put(svg, sign.text, &sign.draw);
        }
    }
    if !scene.layout.breaks.is_empty() {
        put(svg, "time cut short", &|svg: &mut Svg, x, y| {
            svg.line((x - 12.0, y), (x + 12.0, y), "s-off dot");
        });
    }
    y + 22.0
}
