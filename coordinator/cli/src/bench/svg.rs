//! Drawing in SVG, by hand: text, lines and boxes, readable on light and dark paper.
//!
//! Colours are chosen to be told apart on both; text and axes take the viewer's preference.

use std::fmt::{Display, Write};

/// Colours of series, in order.
pub const COLOURS: [&str; 7] =
    ["#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#a855f7", "#64748b", "#ec4899"];

const STYLE: &str = "\
    .paper { fill: #ffffff } .text { fill: #1f2937 } .faint { fill: #6b7280 }\n\
    .grid { stroke: #d1d5db; stroke-width: 1 } .axis { stroke: #6b7280; stroke-width: 1 }\n\
    text { font-family: system-ui, sans-serif; font-size: 12px }\n\
    .title { font-size: 16px; font-weight: 600 }\n\
    @media (prefers-color-scheme: dark) {\n\
      .paper { fill: #111827 } .text { fill: #e5e7eb } .faint { fill: #9ca3af }\n\
      .grid { stroke: #374151 } .axis { stroke: #9ca3af }\n\
    }\n";

/// Where a text stands at its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Middle => "middle",
            Self::End => "end",
        }
    }
}

/// A picture that grows.
#[derive(Debug)]
pub struct Svg {
    width: f64,
    height: f64,
    body: String,
}

impl Svg {
    /// An empty one, in pixels.
    pub fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        // A string takes everything.
        let _ = writeln!(self.body, "{element}");
    }

    /// Text of a class.
    pub fn text(&mut self, x: f64, y: f64, class: &str, anchor: Anchor, text: impl Display) {
        let (text, anchor) = (escaped(&text.to_string()), anchor.word());
        self.add(format_args!(
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
        ));
    }

    /// Text that is read from below.
    pub fn upright_text(&mut self, x: f64, y: f64, class: &str, text: impl Display) {
        let text = escaped(&text.to_string());
        let place = format!(r#"x="{x:.1}" y="{y:.1}" transform="rotate(-90 {x:.1} {y:.1})""#);
        self.add(format_args!(
            r#"<text class="{class}" {place} text-anchor="middle">{text}</text>"#
        ));
    }

    /// A straight line of a class.
    pub fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.add(format_args!(
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        ));
    }

    /// A line through points, with a dot at each; dashed where it is a comparison.
    pub fn series(&mut self, colour: &str, dashed: bool, points: &[(f64, f64)]) {
        let dash = if dashed { r#" stroke-dasharray="6 4""# } else { "" };
        let path: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let path = path.join(" ");
        self.add(format_args!(
            r#"<polyline fill="none" stroke="{colour}" stroke-width="2"{dash} points="{path}"/>"#
        ));
        for (x, y) in points {
            self.add(format_args!(r#"<circle fill="{colour}" cx="{x:.1}" cy="{y:.1}" r="3"/>"#));
        }
    }

    /// A box, with a text that shows when it is pointed at.
    pub fn area(&mut self, colour: &str, corner: (f64, f64), size: (f64, f64), hint: &str) {
        let ((x, y), (width, height)) = (corner, size);
        let hint = escaped(hint);
        let place = format!(r#"x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}""#);
        self.add(format_args!(r#"<rect fill="{colour}" {place}><title>{hint}</title></rect>"#));
    }

    /// The file.
    pub fn finish(self) -> String {
        let Self { width, height, body } = self;
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\">\n<style>\n{STYLE}</style>\n\
             <rect class=\"paper\" x=\"0\" y=\"0\" width=\"{width:.0}\" height=\"{height:.0}\"/>\n{body}</svg>\n"
        )
    }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Whether a text is well-formed XML, as far as we write it: every element is closed in its order,
    /// attributes are quoted, and nothing is bare that has a meaning.
    pub fn check_xml(text: &str) -> Result<usize, String> {
        let mut open: Vec<&str> = Vec::new();
        let mut elements = 0;
        let mut rest =
            text.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n").ok_or("no head")?;
        while let Some((before, after)) = rest.split_once('<') {
            check_text(before)?;
            let (tag, after) = after.split_once('>').ok_or("a tag does not end")?;
            rest = after;
            if let Some(name) = tag.strip_prefix('/') {
                if open.pop() != Some(name) {
                    return Err(format!("</{name}> closes nothing"));
                }
                continue;
            }
            elements += 1;
            let closed = tag.strip_suffix('/');
            let tag = closed.unwrap_or(tag);
            let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
            if attributes.matches('"').count() % 2 == 1 || attributes.contains('<') {
                return Err(format!("{name}: {attributes}"));
            }
            check_text(attributes)?;
            if closed.is_none() {
                open.push(name);
            }
        }
        check_text(rest)?;
        if open.is_empty() { Ok(elements) } else { Err(format!("{open:?} are not closed")) }
    }

    fn check_text(text: &str) -> Result<(), String> {
        for (at, _) in text.match_indices('&') {
            let known = ["&amp;", "&lt;", "&gt;", "&quot;"];
            if !known.iter().any(|entity| text[at..].starts_with(entity)) {
                return Err(format!("a bare & in {text:?}"));
            }
        }
        if text.contains('\0') { Err("a control character".to_owned()) } else { Ok(()) }
    }

    #[test]
    fn whatever_is_drawn_is_well_formed() {
        let mut svg = Svg::new(100.0, 50.0);
        svg.text(1.0, 2.0, "text", Anchor::Middle, "a < b & \"c\" > \u{1b}d");
        svg.upright_text(1.0, 2.0, "text", "up");
        svg.series(COLOURS[0], true, &[(0.0, 1.0), (2.0, 3.0)]);
        svg.area(COLOURS[1], (0.0, 0.0), (5.0, 5.0), "x < y");
        svg.line("axis", (0.0, 0.0), (1.0, 1.0));
        let text = svg.finish();
        assert_eq!(check_xml(&text), Ok(11), "{text}");
        assert!(text.contains("a &lt; b &amp; &quot;c&quot; &gt; ?d"));
    }

    #[test]
    fn what_is_not_well_formed_is_seen() {
        let head = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
        for wrong in ["<a>", "<a></b>", "<a x=\"1/>", "a & b", "<a", "</a>"] {
            assert!(check_xml(&format!("{head}{wrong}")).is_err(), "{wrong}");
        }
        assert!(check_xml("<a/>").is_err(), "no head");
    }
}
