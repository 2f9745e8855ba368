//! A report as an SVG chart, for light and dark pages.

use std::fmt::Write as _;

use super::report::{Report, Round, Spread, Subject, count};
use super::table::{SHARES, whole};

const WIDTH: f64 = 960.0;
/// Where a bar begins; its label is to the left.
const LEFT: f64 = 96.0;
/// The length of the longest possible bar of a panel in one of two columns.
const HALF: f64 = 270.0;
/// Same, in a panel of full width.
const FULL: f64 = 760.0;
const BAR: f64 = 26.0;
const STEP: f64 = 38.0;

const STYLE: &str = "
    .page { fill: #ffffff; stroke: #d0d7de; }
    .head { fill: #1f2328; font-size: 19px; font-weight: 600; }
    .name { fill: #1f2328; font-size: 15px; font-weight: 600; }
    .text { fill: #424a53; font-size: 13px; }
    .mid { text-anchor: middle; }
    .end { text-anchor: end; }
    .grid { stroke: #d0d7de; }
    .axis { stroke: #57606a; }
    .spread { stroke: #1f2328; stroke-width: 1.6; fill: none; }
    .s0 { fill: #0969da; } .s1 { fill: #9a6700; }
    .p0 { fill: #0969da; } .p1 { fill: #1a7f37; } .p2 { fill: #8250df; }
    .p3 { fill: #cf222e; } .p4 { fill: #6e7781; } .p5 { fill: #d8dee4; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117; stroke: #30363d; }
      .head, .name { fill: #f0f6fc; }
      .text { fill: #c9d1d9; }
      .grid { stroke: #30363d; }
      .axis { stroke: #8b949e; }
      .spread { stroke: #f0f6fc; }
      .s0 { fill: #4493f8; } .s1 { fill: #d29922; }
      .p0 { fill: #4493f8; } .p1 { fill: #3fb950; } .p2 { fill: #ab7df8; }
      .p3 { fill: #f85149; } .p4 { fill: #8b949e; } .p5 { fill: #2a313c; }
    }
";

/// A figure that is drawn as one bar per subject.
struct Panel {
    title: &'static str,
    unit: &'static str,
    decimals: usize,
    of: fn(&Round) -> f64,
}

const PANELS: [Panel; 4] = [
    Panel {
        title: "Throughput (more is better)",
        unit: "requests per second",
        decimals: 0,
        of: |round| round.answers.per_second,
    },
    Panel {
        title: "p99 of the answers (less is better)",
        unit: "milliseconds",
        decimals: 0,
        of: |round| round.answers.p99_ms,
    },
    Panel {
        title: "Processor time of the pods (less is better)",
        unit: "CPU-seconds per 1,000 requests",
        decimals: 3,
        of: |round| round.per_thousand(round.processors.pods),
    },
    Panel {
        title: "Resident memory of the pods (less is better)",
        unit: "MiB",
        decimals: 1,
        of: Round::resident_mib,
    },
];

/// The chart as SVG.
pub fn svg(report: &Report) -> String {
    let mut drawing = Drawing::default();
    drawing.text(
        24.0,
        38.0,
        "head",
        "The visits page and its Flask twin under the same load",
    );
    let load = &report.load;
    drawing.text(
        24.0,
        60.0,
        "text",
        &format!(
            "{} requests, {} at once, through the same ingress to {} pods each; bars are medians of {} rounds, lines reach from the least to the most",
            whole(count(load.requests)),
            load.concurrency,
            report.each.replicas,
            report.subjects.iter().map(|s| s.rounds.len()).max().unwrap_or_default(),
        ),
    );
    let height = 92.0 + STEP * count(report.subjects.len() as u64);
    let mut top = 96.0;
    for pair in PANELS.chunks(2) {
        for (panel, left) in pair.iter().zip([24.0, WIDTH / 2.0]) {
            bars(&mut drawing, panel, &report.subjects, left, top);
        }
        top += height;
    }
    shares(&mut drawing, report, top);
    drawing.page(top + height)
}

fn bars(drawing: &mut Drawing, panel: &Panel, subjects: &[Subject], left: f64, top: f64) {
    drawing.text(left, top, "name", panel.title);
    let spreads: Vec<Spread> = subjects.iter().map(|s| s.spread(panel.of)).collect();
    let most = spreads.iter().map(|spread| spread.most).fold(0.0, f64::max);
    let scale = Scale::to(most, HALF);
    let zero = left + LEFT;
    let bottom = scale.draw(drawing, zero, top + 14.0, subjects.len(), panel.unit);
    for (index, (subject, spread)) in subjects.iter().zip(&spreads).enumerate() {
        let y = top + 22.0 + STEP * count(index as u64);
        let middle = y + BAR / 2.0;
        drawing.text(zero - 10.0, middle + 5.0, "text end", &subject.name);
        drawing.bar(
            zero,
            y,
            scale.length(spread.median),
            &format!("s{index}"),
            &subject.name,
        );
        let (least, most) = (
            zero + scale.length(spread.least),
            zero + scale.length(spread.most),
        );
        let _ = writeln!(
            drawing.body,
            "  <path class=\"spread\" d=\"M{least:.1} {:.1}v8m0 -4H{most:.1}m0 -4v8\"/>",
            middle - 4.0
        );
        let value = match panel.decimals {
            0 => whole(spread.median),
            decimals => format!("{:.decimals$}", spread.median),
        };
        drawing.text(most + 8.0, middle + 5.0, "name", &value);
    }
    drawing.line(zero, top + 14.0, zero, bottom, "axis");
}

/// The processors' time by user, as one bar per subject.
fn shares(drawing: &mut Drawing, report: &Report, top: f64) {
    drawing.text(
        24.0,
        top,
        "name",
        &format!(
            "Who had the {} processors that all of it shared",
            report.machine.processors
        ),
    );
    let mut x = 24.0;
    for (index, share) in SHARES.iter().enumerate() {
        let _ = writeln!(
            drawing.body,
            "  <rect class=\"p{index}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"12\" height=\"12\" rx=\"2\"/>",
            top + 12.0
        );
        drawing.text(x + 18.0, top + 23.0, "text", share.label);
        // Wide enough for any letter of the usual fonts at this size.
        x += 44.0 + 7.0 * count(share.label.chars().count() as u64);
    }
    let medians = |subject: &Subject| -> Vec<f64> {
        let each = SHARES.iter().map(|share| {
            let figure = |round: &Round| round.per_thousand((share.of)(round));
            subject.spread(figure).median
        });
        each.collect()
    };
    let most = report
        .subjects
        .iter()
        .map(|subject| medians(subject).iter().sum())
        .fold(0.0, f64::max);
    let scale = Scale::to(most, FULL);
    let (zero, bars) = (24.0 + LEFT, top + 34.0);
    let unit = "CPU-seconds per 1,000 requests";
    let bottom = scale.draw(drawing, zero, bars, report.subjects.len(), unit);
    for (index, subject) in report.subjects.iter().enumerate() {
        let y = bars + 8.0 + STEP * count(index as u64);
        drawing.text(zero - 10.0, y + BAR / 2.0 + 5.0, "text end", &subject.name);
        let mut x = zero;
        for (share, (seconds, about)) in medians(subject).iter().zip(SHARES).enumerate() {
            let length = scale.length(*seconds);
            let title = format!("{}, {}: {seconds:.3}", subject.name, about.label);
            drawing.bar(x, y, length, &format!("p{share}"), &title);
            x += length;
        }
    }
    drawing.line(zero, bars, zero, bottom, "axis");
}

/// An axis from zero to a round number at or above the largest value.
struct Scale {
    step: f64,
    steps: u32,
    pixels: f64,
}

impl Scale {
    fn to(most: f64, pixels: f64) -> Self {
        let step = tick(most);
        let mut steps = 1;
        while step * f64::from(steps) < most {
            steps += 1;
        }
        // Room for the value next to the longest bar.
        let pixels = if pixels > HALF { pixels } else { pixels * 0.95 };
        Self {
            step,
            steps,
            pixels,
        }
    }

    fn length(&self, value: f64) -> f64 {
        value / (self.step * f64::from(self.steps)) * self.pixels
    }

    /// Grid, numbers and unit below `bars` bars; returns where the axis ends.
    fn draw(&self, drawing: &mut Drawing, zero: f64, top: f64, bars: usize, unit: &str) -> f64 {
        let bottom = top + 6.0 + STEP * count(bars as u64);
        for index in 0..=self.steps {
            let value = self.step * f64::from(index);
            let x = zero + self.length(value);
            drawing.line(x, top, x, bottom, "grid");
            let number = if self.step < 1.0 {
                // As many decimals as the step has.
                let decimals = format!("{}", self.step).len().saturating_sub(2);
                format!("{value:.decimals$}")
            } else {
                whole(value)
            };
            drawing.text(x, bottom + 16.0, "text mid", &number);
        }
        drawing.text(zero + self.pixels / 2.0, bottom + 34.0, "text mid", unit);
        bottom
    }
}

/// The distance between an axis's numbers: 1, 2 or 5 times a power of ten, for at most five of
/// them.
fn tick(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf((most / 5.0).log10().floor());
    let fits = |times: &f64| times * power * 5.0 >= most;
    let times = [1.0, 2.0, 5.0].into_iter().find(fits).unwrap_or(10.0);
    // Ten to a negative power is not exact; its shortest decimal is.
    format!("{:.9}", times * power).parse().unwrap_or(power)
}

#[derive(Default)]
struct Drawing {
    body: String,
}

impl Drawing {
    fn text(&mut self, x: f64, y: f64, class: &str, words: &str) {
        let words = escaped(words);
        let _ = writeln!(
            self.body,
            "  <text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{words}</text>"
        );
    }

    fn bar(&mut self, x: f64, y: f64, length: f64, class: &str, title: &str) {
        let _ = writeln!(
            self.body,
            "  <rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\"><title>{}</title></rect>",
            escaped(title)
        );
    }

    fn line(&mut self, x1: f64, y1: f64, x2: f64, y2: f64, class: &str) {
        let _ = writeln!(
            self.body,
            "  <line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    }

    fn page(&self, height: f64) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
             aria-labelledby=\"title\" font-family=\"system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif\">\n  \
             <title id=\"title\">Throughput, p99, processor time and memory of the visits page and of its Flask twin</title>\n  \
             <style>{STYLE}  </style>\n  \
             <rect class=\"page\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"10\"/>\n{}</svg>\n",
            WIDTH - 1.0,
            height - 1.0,
            self.body
        )
    }
}

fn escaped(words: &str) -> String {
    words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp)]

    use super::super::report::tests::example;
    use super::*;

    #[test]
    fn an_axis_ends_at_a_round_number_and_has_at_most_five_steps() {
        for (most, step, steps) in [
            (4100.0, 1000.0, 5),
            (3000.0, 1000.0, 3),
            (0.31, 0.1, 4),
            (5.0, 1.0, 5),
            (5.1, 2.0, 3),
            (0.0, 1.0, 1),
        ] {
            let scale = Scale::to(most, 100.0);
            assert_eq!((scale.step, scale.steps), (step, steps), "{most}");
        }
    }

    #[test]
    fn bars_are_as_long_as_their_figures() {
        let scale = Scale::to(4000.0, FULL);
        assert_eq!(scale.length(4000.0), FULL);
        assert_eq!(scale.length(1000.0), FULL / 4.0);
    }

    #[test]
    fn the_drawing_names_both_and_every_unit() {
        let drawing = svg(&example());
        for panel in PANELS {
            assert!(drawing.contains(panel.title), "{}", panel.title);
            assert!(drawing.contains(panel.unit), "{}", panel.unit);
        }
        for share in SHARES {
            assert!(drawing.contains(share.label), "{}", share.label);
        }
        assert!(drawing.contains(">visits</text>") && drawing.contains(">Flask</text>"));
        assert!(
            drawing.contains(">4,000</text>") && drawing.contains("prefers-color-scheme: dark")
        );
    }

    #[test]
    fn the_drawing_opens_and_closes_its_elements_and_fetches_nothing() {
        let mut report = example();
        report.subjects[0].name = "<script>&".to_owned();
        let drawing = svg(&report);
        assert!(!drawing.contains("<script"));
        for element in ["svg", "text", "title", "style"] {
            let opened = drawing.matches(&format!("<{element}")).count();
            let closed = drawing.matches(&format!("</{element}>")).count();
            assert_eq!(opened, closed, "{element}");
        }
        assert_eq!(
            drawing.matches("http").count(),
            1,
            "only the name of the format"
        );
    }
}
