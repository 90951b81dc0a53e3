//! Writing SVG: elements, escaped text, and the colours for light and dark backgrounds.

use std::fmt::Write as _;

/// Colours are classes, each with two values. The picture brings its own background, so that it can be
/// read wherever it is shown; a viewer that prefers dark gets dark.
const LIGHT: &str = "\
.bg,.plate{fill:#ffffff}.ink{fill:#1f2328}.faint{fill:#66707b}.chip{fill:#eef1f4;stroke:#8c959f}\
.lane{stroke:#8c959f}.down{fill:#6e7781;fill-opacity:.10}.grid{stroke:#d8dee4}\
.s-plain{stroke:#2f6fdb}.f-plain{fill:#2059b8}.s-good{stroke:#1a8040}.f-good{fill:#156b35}\
.s-bad{stroke:#cf2d37}.f-bad{fill:#b8232d}.s-warn{stroke:#b06a00}.f-warn{fill:#935800}\
.s-off{stroke:#7d8590}.f-off{fill:#5c646d}.sync{fill:#57606a}.band-bad{fill:#ff3b47;fill-opacity:.16}\
.band-warn{fill:#f0a020;fill-opacity:.16}.pause{fill:#d9a441;fill-opacity:.55}.on-fill{fill:#ffffff}";

const DARK: &str = "\
.bg,.plate{fill:#0d1117}.ink{fill:#e6edf3}.faint{fill:#8b949e}.chip{fill:#21262d;stroke:#6e7681}\
.lane{stroke:#6e7681}.down{fill:#8b949e;fill-opacity:.14}.grid{stroke:#262c34}\
.s-plain{stroke:#5b9bff}.f-plain{fill:#7fb2ff}.s-good{stroke:#3fb950}.f-good{fill:#56d364}\
.s-bad{stroke:#f85149}.f-bad{fill:#ff7b72}.s-warn{stroke:#d29922}.f-warn{fill:#e3b341}\
.s-off{stroke:#8b949e}.f-off{fill:#a3acb6}.sync{fill:#afb8c1}.band-bad{fill:#ff3b47;fill-opacity:.28}\
.band-warn{fill:#f0a020;fill-opacity:.20}.pause{fill:#d9a441;fill-opacity:.55}.on-fill{fill:#0d1117}";

/// Transactions are told apart by these, which can be seen on both backgrounds.
const TRANSACTIONS: [&str; 8] =
    ["#3b82f6", "#d97706", "#9061f0", "#0d9488", "#db2f86", "#6b9a12", "#b0722a", "#0891b2"];

const SHAPES: &str = "\
text{font-family:ui-monospace,SFMono-Regular,Menlo,'DejaVu Sans Mono','Liberation Mono',monospace;\
font-size:10.5px;white-space:pre}\
.h1{font-size:15px;font-weight:bold}.name{font-size:12px;font-weight:bold;text-anchor:middle}\
.mid{text-anchor:middle}.end{text-anchor:end}.bold{font-weight:bold}\
line,path{fill:none;stroke-width:1.4}.lane{stroke-width:1.6}.dead{stroke-dasharray:2 5}\
.dash{stroke-dasharray:5 3}.dot{stroke-dasharray:1 4;stroke-linecap:round}.thick{stroke-width:2.4}\
.plate{fill-opacity:.88}";

/// How many colours there are for transactions.
pub(super) const COLOURS: usize = TRANSACTIONS.len();

/// Builds the text of a picture.
#[derive(Debug, Default)]
pub(super) struct Svg {
    body: String,
}

impl Svg {
    /// Adds everything of another layer above this one.
    pub(super) fn append(&mut self, above: Svg) {
        self.body.push_str(&above.body);
    }

    /// Begins a group that has a tooltip.
    pub(super) fn open(&mut self, tooltip: &str) {
        let _ = writeln!(self.body, "<g><title>{}</title>", escape(tooltip));
    }

    /// Ends a group.
    pub(super) fn close(&mut self) {
        self.body.push_str("</g>\n");
    }

    /// A text whose baseline begins, ends or is centred at a point, depending on its classes.
    pub(super) fn text(&mut self, x: f64, y: f64, classes: &str, text: &str) {
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{classes}\">{}</text>",
            escape(text)
        );
    }

    /// A straight line.
    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), classes: &str) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" class=\"{classes}\"/>",
            from.0, from.1, to.0, to.1
        );
    }

    /// A rectangle with rounded corners.
    pub(super) fn rect(
        &mut self,
        corner: (f64, f64),
        size: (f64, f64),
        radius: f64,
        classes: &str,
    ) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"{radius:.1}\" \
             class=\"{classes}\"/>",
            corner.0, corner.1, size.0, size.1
        );
    }

    /// A filled shape.
    pub(super) fn polygon(&mut self, points: &[(f64, f64)], classes: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ =
            writeln!(self.body, "<polygon points=\"{}\" class=\"{classes}\"/>", points.join(" "));
    }

    /// A disk.
    pub(super) fn circle(&mut self, at: (f64, f64), radius: f64, classes: &str) {
        let _ = writeln!(
            self.body,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius:.1}\" class=\"{classes}\"/>",
            at.0, at.1
        );
    }

    /// A diagonal cross.
    pub(super) fn cross(&mut self, at: (f64, f64), radius: f64, classes: &str) {
        let (x, y) = at;
        self.line((x - radius, y - radius), (x + radius, y + radius), classes);
        self.line((x - radius, y + radius), (x + radius, y - radius), classes);
    }

    /// The whole file.
    pub(super) fn finish(self, width: f64, height: f64, title: &str, description: &str) -> String {
        let mut transactions = String::new();
        for (index, colour) in TRANSACTIONS.iter().enumerate() {
            let _ =
                write!(transactions, ".s-t{index}{{stroke:{colour}}}.f-t{index}{{fill:{colour}}}");
        }
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">\n\
             <title>{}</title>\n<desc>{}</desc>\n\
             <style>\n{SHAPES}\n{transactions}\n{LIGHT}\n\
             @media (prefers-color-scheme:dark){{\n{DARK}\n}}\n</style>\n\
             <rect width=\"{width:.0}\" height=\"{height:.0}\" class=\"bg\"/>\n{}</svg>\n",
            escape(title),
            escape(description),
            self.body
        )
    }
}

/// Text as XML can hold it. What XML cannot hold at all becomes U+FFFD.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' => escaped.push('\n'),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
