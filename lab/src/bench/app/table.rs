//! A report as text for people.

use std::fmt::Write as _;

use serde_json::Value;

use super::report::{Each, Report, Round, Subject, elsewhere};
use crate::bench::figures::{Spread, count, whole};

/// The text of an empty cell.
const NOTHING: &str = "-";

/// The whole text.
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{} requests, {} at once, time-out {} s; {} rounds of each in turn, median (least to most)",
        whole(count(report.load.requests)),
        report.load.concurrency,
        report.load.timeout_seconds,
        report
            .subjects
            .iter()
            .map(|s| s.rounds.len())
            .max()
            .unwrap_or_default(),
    );
    let _ = writeln!(text, "each: {}", equal(&report.each));
    let _ = writeln!(
        text,
        "ingress, Redis, control plane and load generator share the same {} processors ({})\n",
        report.machine.processors, report.machine.model
    );
    let mut rows = vec![header("", report, &["ratio", "elsewhere*"])];
    for measure in TIMES {
        rows.push(measure.row(&report.subjects));
    }
    rows.push(failures(&report.subjects));
    for measure in COSTS {
        rows.push(measure.row(&report.subjects));
    }
    text.push_str(&aligned(&rows));
    text.push_str(
        "* the original's Flask application on three c7i-flex.large, not on this machine\n\n",
    );

    let mut rows = vec![header("processor time, s per 1,000 requests", report, &[])];
    for share in SHARES {
        let mut row = vec![share.label.to_owned()];
        row.extend(report.subjects.iter().map(|subject| {
            let spread = subject.spread(|round| round.per_thousand((share.of)(round)));
            format!("{:.3}", spread.median)
        }));
        rows.push(row);
    }
    text.push_str(&aligned(&rows));
    text.push('\n');
    for subject in &report.subjects {
        let counted = &subject.count;
        let [before, answered, after] =
            [counted.before, counted.answered, counted.after].map(|number| whole(count(number)));
        let verdict = if counted.is_exact() { "exact" } else { "WRONG" };
        let _ = writeln!(
            text,
            "{}: {before} before + {answered} answered = {after} in Redis: {verdict}",
            subject.name
        );
    }
    text
}

/// A figure with its number of decimals, and its value in the published test.
struct Measure {
    label: &'static str,
    decimals: usize,
    of: fn(&Round) -> f64,
    elsewhere: Option<f64>,
}

/// The figures that a visitor notices.
const TIMES: &[Measure] = &[
    Measure {
        label: "requests/s",
        decimals: 0,
        of: |round| round.answers.per_second,
        elsewhere: Some(elsewhere::PER_SECOND),
    },
    Measure {
        label: "average, ms",
        decimals: 0,
        of: |round| round.answers.average_ms,
        elsewhere: Some(elsewhere::AVERAGE_MS),
    },
    Measure {
        label: "p50, ms",
        decimals: 0,
        of: |round| round.answers.p50_ms,
        elsewhere: Some(elsewhere::P50_MS),
    },
    Measure {
        label: "p90, ms",
        decimals: 0,
        of: |round| round.answers.p90_ms,
        elsewhere: Some(elsewhere::P90_MS),
    },
    Measure {
        label: "p99, ms",
        decimals: 0,
        of: |round| round.answers.p99_ms,
        elsewhere: Some(elsewhere::P99_MS),
    },
];

/// The figures of resource usage.
const COSTS: &[Measure] = &[
    Measure {
        label: "CPU-s per 1,000 requests",
        decimals: 3,
        of: |round| round.per_thousand(round.processors.pods),
        elsewhere: None,
    },
    Measure {
        label: "resident memory, MiB",
        decimals: 1,
        of: Round::resident_mib,
        elsewhere: None,
    },
    Measure {
        label: "page, bytes",
        decimals: 0,
        of: |round| count(round.answers.page_bytes),
        elsewhere: Some(elsewhere::PAGE_BYTES),
    },
];

impl Measure {
    fn row(&self, subjects: &[Subject]) -> Vec<String> {
        let spreads: Vec<Spread> = subjects.iter().map(|s| s.spread(self.of)).collect();
        let mut row = vec![self.label.to_owned()];
        row.extend(spreads.iter().map(|spread| self.cell(spread)));
        row.push(match spreads.as_slice() {
            [ours, theirs] => ratio(ours.median, theirs.median),
            _ => NOTHING.to_owned(),
        });
        row.push(
            self.elsewhere
                .map_or(NOTHING.to_owned(), |value| self.number(value)),
        );
        row
    }

    fn cell(&self, spread: &Spread) -> String {
        let [median, least, most] =
            [spread.median, spread.least, spread.most].map(|value| self.number(value));
        if least == most {
            return median;
        }
        format!("{median} ({least} to {most})")
    }

    fn number(&self, value: f64) -> String {
        match self.decimals {
            0 => whole(value),
            decimals => format!("{value:.decimals$}"),
        }
    }
}

/// A share of the processors' time.
pub struct Share {
    /// Who used it.
    pub label: &'static str,
    /// Seconds of a round.
    pub of: fn(&Round) -> f64,
}

/// All shares of the processors, the subject first.
pub const SHARES: &[Share] = &[
    Share {
        label: "the pods",
        of: |round| round.processors.pods,
    },
    Share {
        label: "ingress",
        of: |round| round.processors.ingress,
    },
    Share {
        label: "load generator",
        of: |round| round.processors.load,
    },
    Share {
        label: "Redis",
        of: |round| round.processors.redis,
    },
    Share {
        label: "the rest of the cluster",
        of: |round| round.processors.cluster,
    },
    Share {
        label: "idle",
        of: |round| round.processors.idle,
    },
];

fn header(first: &str, report: &Report, more: &[&str]) -> Vec<String> {
    let names = report.subjects.iter().map(|subject| subject.name.as_str());
    let titles = std::iter::once(first).chain(names);
    titles
        .chain(more.iter().copied())
        .map(str::to_owned)
        .collect()
}

fn failures(subjects: &[Subject]) -> Vec<String> {
    let mut row = vec!["failed, of all rounds".to_owned()];
    row.extend(subjects.iter().map(|subject| {
        let (failed, sent) = subject.failed();
        let timed_out: u64 = subject.rounds.iter().map(|r| r.answers.timed_out()).sum();
        let [failed, sent] = [failed, sent].map(|number| whole(count(number)));
        match timed_out {
            0 => format!("{failed} of {sent}"),
            late => format!("{failed} of {sent}, {late} timed out"),
        }
    }));
    row.push(NOTHING.to_owned());
    row.push(format!("{} timed out", elsewhere::TIMED_OUT));
    row
}

/// Replicas and resources of each application.
fn equal(each: &Each) -> String {
    let mut words = vec![format!("{} pods", each.replicas)];
    for kind in ["requests", "limits"] {
        let Some(amounts) = each.resources[kind].as_object() else {
            continue;
        };
        let amounts: Vec<String> = amounts
            .iter()
            .map(|(name, amount)| format!("{name} {}", amount.as_str().unwrap_or_default()))
            .collect();
        words.push(format!("{kind} {}", amounts.join(" ")));
    }
    if each.resources["limits"]["cpu"] == Value::Null {
        words.push("no limit on cpu".to_owned());
    }
    words.join(", ")
}

/// The first value as a multiple of the second, or as a fraction `1/x` of it.
fn ratio(ours: f64, theirs: f64) -> String {
    if ours <= 0.0 || theirs <= 0.0 {
        return NOTHING.to_owned();
    }
    // Rounded first, so that a value slightly below 1 does not become "1/1.0".
    match format!("{:.1}", theirs / ours) {
        more if ours < theirs && more != "1.0" => format!("1/{more}"),
        _ => format!("{:.1}", ours / theirs),
    }
}

/// Columns as wide as their widest cell; the first is left-aligned, numbers are right-aligned.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if column == 0 {
                line.push_str(&format!("{cell:<width$}"));
            } else {
                line.push_str(&format!("   {cell:>width$}"));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::example;
    use super::*;

    #[test]
    fn the_table_reads_like_this() {
        let expected = "\
50,000 requests, 500 at once, time-out 20 s; 3 rounds of each in turn, median (least to most)
each: 2 pods, requests cpu 100m memory 128Mi, limits memory 512Mi, no limit on cpu
ingress, Redis, control plane and load generator share the same 2 processors (Example CPU)

                                           visits                       Flask    ratio     elsewhere*
requests/s                 4,000 (3,900 to 4,100)            390 (380 to 400)     10.3            177
average, ms                      125 (122 to 128)      1,282 (1,250 to 1,316)   1/10.3          2,650
p50, ms                           100 (98 to 103)      1,026 (1,000 to 1,053)   1/10.3          1,185
p90, ms                          200 (195 to 205)      2,051 (2,000 to 2,105)   1/10.3          5,978
p99, ms                          300 (293 to 308)      3,077 (3,000 to 3,158)   1/10.3         18,785
failed, of all rounds                0 of 150,000   1 of 150,000, 1 timed out        -   48 timed out
CPU-s per 1,000 requests   0.100 (0.090 to 0.110)      2.250 (2.200 to 2.300)   1/22.5              -
resident memory, MiB          13.0 (12.0 to 14.0)      320.0 (310.0 to 330.0)   1/24.6              -
page, bytes                                 7,162                       7,162      1.0          7,228
* the original's Flask application on three c7i-flex.large, not on this machine

processor time, s per 1,000 requests   visits   Flask
the pods                                0.100   2.250
ingress                                 0.250   0.250
load generator                          0.200   0.200
Redis                                   0.010   0.010
the rest of the cluster                 0.050   0.050
idle                                    0.020   0.020

visits: 7 before + 150,000 answered = 150,007 in Redis: exact
Flask: 1 before + 149,999 answered = 150,000 in Redis: exact
";
        let text = text(&example());
        assert_eq!(text, expected);
    }

    #[test]
    fn a_wrong_count_is_marked() {
        let mut report = example();
        report.subjects[0].count.after -= 1;
        let text = text(&report);
        assert!(
            text.contains("visits: 7 before + 150,000 answered = 150,006 in Redis: WRONG"),
            "{text}"
        );
    }

    #[test]
    fn a_ratio_says_which_way() {
        assert_eq!(ratio(4000.0, 400.0), "10.0");
        assert_eq!(ratio(30.0, 300.0), "1/10.0");
        assert_eq!(ratio(7084.0, 7085.0), "1.0");
        assert_eq!(ratio(0.0, 1.0), NOTHING);
    }
}
