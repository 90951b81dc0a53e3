//! The pictures: throughput and latency over the number of clients, and where a transaction's time goes.

use std::path::Path;

use crate::bench::measure::{Measured, Numbers};
use crate::bench::phases::Part;
use crate::bench::plan::{Case, Load};
use crate::bench::report::{Results, load};
use crate::bench::svg::{Anchor, COLOURS, Svg};

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 90.0;
const BOTTOM: f64 = 60.0;
const BAR: f64 = 26.0;
/// Bars of the time split that are drawn at most.
const BARS_MAX: usize = 24;

/// Draws all of them into a folder, and returns the files.
///
/// # Errors
/// A sentence that names the file that cannot be written.
pub fn draw(results: &Results, folder: &Path) -> Result<Vec<String>, String> {
    let unwritable = |path: &Path, error: std::io::Error| {
        format!("{} cannot be written: {error}", path.display())
    };
    std::fs::create_dir_all(folder).map_err(|error| unwritable(folder, error))?;
    let pictures = [
        ("throughput-over-clients.svg", throughput(results)),
        ("latency-over-clients.svg", latency(results)),
        ("time-split.svg", time_split(results)),
    ];
    let mut written = Vec::new();
    for (name, picture) in pictures {
        let path = folder.join(name);
        std::fs::write(&path, picture).map_err(|error| unwritable(&path, error))?;
        written.push(path.display().to_string());
    }
    Ok(written)
}

/// A line of a chart.
struct Series {
    title: String,
    colour: &'static str,
    dashed: bool,
    /// Clients, and what was measured.
    points: Vec<(f64, f64)>,
}

/// Cases that differ in nothing but the number of clients.
struct Family<'a> {
    title: String,
    /// By the number of clients.
    members: Vec<(f64, &'a Measured)>,
}

/// The families with more than one member, the largest first; all of them when there is none.
fn families(results: &Results) -> Vec<Family<'_>> {
    let key = |case: &Case| Case { load: Load::Closed { clients: 0 }, ..*case };
    let mut families: Vec<(Case, Family<'_>)> = Vec::new();
    for measured in &results.measured {
        let Load::Closed { clients } = measured.case.load else { continue };
        let own = key(&measured.case);
        let member = (clients as f64, measured);
        match families.iter_mut().find(|(case, _)| *case == own) {
            Some((_, family)) => family.members.push(member),
            None => {
                let family = Family { title: title(&own), members: vec![member] };
                families.push((own, family));
            }
        }
    }
    let mut families: Vec<_> = families.into_iter().map(|(_, family)| family).collect();
    if families.iter().any(|family| family.members.len() > 1) {
        families.retain(|family| family.members.len() > 1);
    }
    families.sort_by_key(|family| std::cmp::Reverse(family.members.len()));
    for family in &mut families {
        family.members.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    families
}

fn title(case: &Case) -> String {
    format!(
        "{}, {}, {} participants, {}, {}",
        case.protocol.word().replace('_', "-"),
        case.workload.word(),
        case.participants,
        case.mode.word(),
        case.reply.word()
    )
}

fn throughput(results: &Results) -> String {
    let mut series = Vec::new();
    for (family, colour) in families(results).iter().zip(COLOURS) {
        let of = |numbers: fn(&Measured) -> Option<&Numbers>| {
            let members = family.members.iter();
            let points = members.filter_map(|(clients, measured)| {
                Some((*clients, numbers(measured)?.transactions_per_second))
            });
            points.collect::<Vec<_>>()
        };
        let title = family.title.clone();
        let points = of(|measured| Some(&measured.product));
        series.push(Series { title, colour, dashed: false, points });
        let points = of(|measured| measured.skeleton.as_ref());
        if !points.is_empty() {
            let title = "its skeleton".to_owned();
            series.push(Series { title, colour, dashed: true, points });
        }
    }
    chart("Transactions a second over clients", "transactions a second", &series)
}

fn latency(results: &Results) -> String {
    let families = families(results);
    let Some(family) = families.first() else {
        return chart("Latency over clients", "milliseconds", &[]);
    };
    let of = |number: fn(&Numbers) -> f64, numbers: fn(&Measured) -> Option<&Numbers>| {
        let members = family.members.iter();
        let points =
            members.filter_map(|(clients, measured)| Some((*clients, number(numbers(measured)?))));
        points.collect::<Vec<_>>()
    };
    let p50 = |numbers: &Numbers| numbers.p50_ms;
    let percentiles =
        [p50, |numbers: &Numbers| numbers.p99_ms, |numbers: &Numbers| numbers.p999_ms];
    let names = ["p50", "p99", "p99.9"];
    let mut series = Vec::new();
    for ((name, number), colour) in names.into_iter().zip(percentiles).zip(COLOURS) {
        let points = of(number, |measured| Some(&measured.product));
        series.push(Series { title: name.to_owned(), colour, dashed: false, points });
        let points = of(number, |measured| measured.skeleton.as_ref());
        if !points.is_empty() {
            let title = format!("{name}, skeleton");
            series.push(Series { title, colour, dashed: true, points });
        }
    }
    let heading = format!("Latency over clients: {}", family.title);
    chart(&heading, "milliseconds", &series)
}

/// A scale by powers: equal factors are equally far apart.
struct Scale {
    from: f64,
    to: f64,
    base: f64,
    start: f64,
    end: f64,
}

impl Scale {
    /// That reaches over these numbers, in whole powers of `base`.
    fn over(numbers: impl Iterator<Item = f64>, base: f64, start: f64, end: f64) -> Self {
        let positive = numbers.filter(|number| *number > 0.0 && number.is_finite());
        let (least, most) = positive
            .map(|number| number.ln() / base.ln())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), n| (a.min(n), b.max(n)));
        let (from, to) = match least.is_finite() {
            true => ((least + 1e-9).floor(), (most - 1e-9).ceil()),
            false => (0.0, 1.0),
        };
        Self { from, to: to.max(from + 1.0), base, start, end }
    }

    fn at(&self, number: f64) -> f64 {
        let power = number.max(f64::MIN_POSITIVE).ln() / self.base.ln();
        let part = ((power - self.from) / (self.to - self.from)).clamp(0.0, 1.0);
        self.start + part * (self.end - self.start)
    }

    fn marks(&self) -> impl Iterator<Item = f64> + '_ {
        let count = (self.to - self.from) as i32;
        (0..=count).map(|power| self.base.powf(self.from + f64::from(power)))
    }
}

fn chart(heading: &str, unit: &str, series: &[Series]) -> String {
    let rows = series.len().div_ceil(2) as f64;
    let top = TOP - 20.0 + rows * 18.0;
    let height = HEIGHT + top - TOP;
    let mut svg = Svg::new(WIDTH, height);
    svg.text(LEFT, 28.0, "text title", Anchor::Start, heading);
    let all = || series.iter().flat_map(|series| series.points.iter());
    let x = Scale::over(all().map(|point| point.0), 2.0, LEFT, WIDTH - RIGHT);
    let y = Scale::over(all().map(|point| point.1), 10.0, height - BOTTOM, top);
    for mark in y.marks() {
        let at = y.at(mark);
        svg.line("grid", (LEFT, at), (WIDTH - RIGHT, at));
        svg.text(LEFT - 8.0, at + 4.0, "faint", Anchor::End, number(mark));
        // Between two powers of ten.
        for part in
            [2.0, 5.0].map(|part| part * mark).into_iter().filter(|at| *at < 10_f64.powf(y.to))
        {
            svg.text(LEFT - 8.0, y.at(part) + 4.0, "faint", Anchor::End, number(part));
            svg.line("grid", (LEFT, y.at(part)), (WIDTH - RIGHT, y.at(part)));
        }
    }
    for mark in x.marks() {
        let at = x.at(mark);
        svg.line("axis", (at, height - BOTTOM), (at, height - BOTTOM + 5.0));
        svg.text(at, height - BOTTOM + 20.0, "faint", Anchor::Middle, number(mark));
    }
    svg.line("axis", (LEFT, height - BOTTOM), (WIDTH - RIGHT, height - BOTTOM));
    svg.line("axis", (LEFT, top), (LEFT, height - BOTTOM));
    let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
    svg.text(middle, height - 16.0, "faint", Anchor::Middle, "clients");
    svg.upright_text(18.0, f64::midpoint(top, height - BOTTOM), "faint", unit);
    for (at, series) in series.iter().enumerate() {
        let points: Vec<_> = series.points.iter().map(|(a, b)| (x.at(*a), y.at(*b))).collect();
        svg.series(series.colour, series.dashed, &points);
        let column = LEFT + (at % 2) as f64 * (WIDTH - LEFT - RIGHT) * 0.6;
        let line = 50.0 + (at / 2) as f64 * 18.0;
        svg.series(
            series.colour,
            series.dashed,
            &[(column, line - 4.0), (column + 28.0, line - 4.0)],
        );
        svg.text(column + 36.0, line, "text", Anchor::Start, &series.title);
    }
    svg.finish()
}

/// A number of an axis: short, and without an exponent.
fn number(number: f64) -> String {
    match number {
        n if n >= 999_999.5 => format!("{:.0}M", n / 1e6),
        n if n >= 999.5 => format!("{:.0}k", n / 1e3),
        n if n >= 0.9995 => format!("{n:.0}"),
        n => format!("{n:.3}").trim_end_matches('0').to_owned(),
    }
}

/// A stacked bar for each case: all are equally long, as the parts are the subject and the latencies differ by
/// factors of hundreds.
fn time_split(results: &Results) -> String {
    let bars: Vec<_> = results
        .measured
        .iter()
        .filter_map(|measured| Some((measured, measured.product.split_us?)))
        .take(BARS_MAX)
        .collect();
    let left = 330.0;
    let height = 130.0 + bars.len().max(1) as f64 * (BAR + 12.0);
    let mut svg = Svg::new(1000.0, height);
    svg.text(
        20.0,
        28.0,
        "text title",
        Anchor::Start,
        "Where a transaction's time goes (parts of the mean latency)",
    );
    for (at, (part, colour)) in Part::ALL.into_iter().zip(COLOURS).enumerate() {
        let (column, line) = (20.0 + (at % 4) as f64 * 220.0, 46.0 + (at / 4) as f64 * 20.0);
        svg.area(colour, (column, line), (14.0, 14.0), part.title());
        svg.text(column + 22.0, line + 12.0, "text", Anchor::Start, part.title());
    }
    let width = 1000.0 - left - 90.0;
    for (at, (measured, split)) in bars.iter().enumerate() {
        let y = 100.0 + at as f64 * (BAR + 12.0);
        let case = &measured.case;
        let label = format!(
            "{}, {} p., {}, {}, {}",
            case.workload.word(),
            case.participants,
            case.mode.word(),
            case.reply.word(),
            load(case.load)
        );
        svg.text(left - 10.0, y + BAR * 0.65, "text", Anchor::End, label);
        let sum_us = split.iter().sum::<f64>();
        let mut x = left;
        for ((part, us), colour) in Part::ALL.into_iter().zip(split).zip(COLOURS) {
            let length = us / sum_us.max(1.0) * width;
            svg.area(colour, (x, y), (length, BAR), &format!("{}: {us:.0} µs", part.title()));
            x += length;
        }
        let sum = format!("{:.2} ms", sum_us / 1000.0);
        svg.text(x + 8.0, y + BAR * 0.65, "faint", Anchor::Start, sum);
    }
    if bars.is_empty() {
        svg.text(20.0, 120.0, "faint", Anchor::Start, "the servers have measured nothing");
    }
    svg.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::results;
    use crate::bench::svg::tests::check_xml;

    #[test]
    fn every_picture_is_well_formed() {
        let folder = tempfile::tempdir().expect("a folder");
        let written = draw(&results(), folder.path()).expect("a folder");
        assert_eq!(written.len(), 3);
        for path in written {
            let text = std::fs::read_to_string(&path).expect("written");
            let elements = check_xml(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(elements > 40, "{path}: {elements} elements");
            assert!(!text.contains("NaN") && !text.contains("inf"), "{path}");
        }
    }

    #[test]
    fn nothing_measured_is_a_picture_too() {
        let results = Results { measured: Vec::new(), floors: Vec::new(), ..results() };
        for picture in [throughput(&results), latency(&results), time_split(&results)] {
            check_xml(&picture).expect("well-formed");
            assert!(!picture.contains("NaN"), "{picture}");
        }
    }

    #[test]
    fn lines_are_of_cases_that_differ_in_clients_only() {
        let results = results();
        let families = families(&results);
        assert_eq!(families[0].members.len(), 5);
        assert!(families.iter().all(|family| family.members.len() > 1));
        let clients: Vec<_> = families[0].members.iter().map(|member| member.0).collect();
        assert!(clients.is_sorted());
    }

    #[test]
    fn scales_hold_all_numbers() {
        let scale = Scale::over([3.0, 900.0].into_iter(), 10.0, 0.0, 300.0);
        assert_eq!(
            scale.marks().map(|mark| mark.round()).collect::<Vec<_>>(),
            [1.0, 10.0, 100.0, 1000.0]
        );
        assert!((scale.at(10.0) - 100.0).abs() < 1e-6);
        assert_eq!(number(1500.0 * 1000.0), "2M");
        assert_eq!([number(2000.0), number(50.0), number(0.05)], ["2k", "50", "0.05"]);
    }
}
