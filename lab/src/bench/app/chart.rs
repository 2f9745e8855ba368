//! A report as an SVG chart, for light and dark pages.

use std::fmt::Write as _;

use super::report::{Report, Round, Subject};
use super::table::SHARES;
use crate::bench::drawing::{Drawing, Scale, WIDTH};
use crate::bench::figures::{Spread, count, whole};

/// Where a bar begins; its label is to the left.
const LEFT: f64 = 96.0;
/// The length of the longest possible bar of a panel in one of two columns.
const HALF: f64 = 270.0;
/// Same, in a panel of full width.
const FULL: f64 = 760.0;

/// The height of a bar, and from one to the next.
const BAR: f64 = 26.0;
const STEP: f64 = 38.0;

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
    drawing.page(
        top + height,
        "Throughput, p99, processor time and memory of the visits page and of its Flask twin",
    )
}

fn bars(drawing: &mut Drawing, panel: &Panel, subjects: &[Subject], left: f64, top: f64) {
    drawing.text(left, top, "name", panel.title);
    let spreads: Vec<Spread> = subjects.iter().map(|s| s.spread(panel.of)).collect();
    let most = spreads.iter().map(|spread| spread.most).fold(0.0, f64::max);
    // Room for the value next to the longest bar.
    let scale = Scale::to(most, HALF * 0.95);
    let zero = left + LEFT;
    let bottom = scale.draw(
        drawing,
        zero,
        (top + 14.0, bars_height(subjects.len())),
        panel.unit,
    );
    for (index, (subject, spread)) in subjects.iter().zip(&spreads).enumerate() {
        let y = top + 22.0 + STEP * count(index as u64);
        let middle = y + BAR / 2.0;
        drawing.text(zero - 10.0, middle + 5.0, "text end", &subject.name);
        let length = scale.length(spread.median);
        drawing.bar(
            (zero, y),
            (length, BAR),
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

/// The height of an axis for this number of bars.
fn bars_height(bars: usize) -> f64 {
    6.0 + STEP * count(bars as u64)
}

/// The processors' time by user, as one bar per subject.
fn shares(drawing: &mut Drawing, report: &Report, top: f64) {
    drawing.text(
        24.0,
        top,
        "name",
        &format!(
            "Who used the {} processors that everything shared",
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
    let bottom = scale.draw(
        drawing,
        zero,
        (bars, bars_height(report.subjects.len())),
        unit,
    );
    for (index, subject) in report.subjects.iter().enumerate() {
        let y = bars + 8.0 + STEP * count(index as u64);
        drawing.text(zero - 10.0, y + BAR / 2.0 + 5.0, "text end", &subject.name);
        let mut x = zero;
        for (share, (seconds, about)) in medians(subject).iter().zip(SHARES).enumerate() {
            let length = scale.length(*seconds);
            let title = format!("{}, {}: {seconds:.3}", subject.name, about.label);
            drawing.bar((x, y), (length, BAR), &format!("p{share}"), &title);
            x += length;
        }
    }
    drawing.line(zero, bars, zero, bottom, "axis");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp)]

    use super::super::report::tests::example;
    use super::*;

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
