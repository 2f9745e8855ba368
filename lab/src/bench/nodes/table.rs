//! The results of the bench of nodes as a table.

use std::fmt::Write as _;

use super::report::{Contender, Report, Series};

/// The table, with its explanation.
pub fn text(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "{} processors, {}\nSeconds from the start of the user-data's script to the Ready node:\n\n",
        machine.processors, machine.model
    );
    let [median, p90, least, most] = ["median", "p90", "least", "most"];
    let _ = writeln!(
        text,
        "{:<48}{median:>8}{p90:>8}{least:>8}{most:>8}   times as fast (95 %)",
        ""
    );
    for series in report
        .series
        .iter()
        .filter(|series| !series.pairs.is_empty())
    {
        for of in [Contender::Agent, Contender::Script] {
            let _ = writeln!(text, "{}", row(series, of));
        }
        if let Some(used) = series.used() {
            let _ = writeln!(
                text,
                "{:<32}the agent itself: {:.2} s of processor time, at most {:.0} MiB, {:.0} programs, \
                 {:.0} requests to AWS, {:.0} MiB downloaded",
                "",
                used.processor,
                used.memory_mib,
                used.programs,
                used.aws_requests,
                used.downloaded_mib
            );
        }
    }
    text
}

fn row(series: &Series, of: Contender) -> String {
    let spread = series.seconds(of);
    let (case, ratio) = match of {
        Contender::Agent => (
            format!("{}, {} pairs", series.case.words(), series.pairs.len()),
            ratio(series),
        ),
        Contender::Script => (String::new(), String::new()),
    };
    let row = format!(
        "{case:<32}{:<16}{:>8.1}{:>8.1}{:>8.1}{:>8.1}   {ratio}",
        of.words(),
        spread.median,
        series.p90(of),
        spread.least,
        spread.most,
    );
    row.trim_end().to_owned()
}

fn ratio(series: &Series) -> String {
    let (median, interval) = series.ratio();
    interval.map_or_else(
        || format!("{median:.2} (too few pairs)"),
        |(least, most)| format!("{median:.2} ({least:.2} to {most:.2})"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::of_workers;
    use super::super::report::{Pair, Run, Used};
    use super::*;

    #[test]
    fn the_table_has_medians_and_the_ratio_of_the_pairs() {
        let run = |seconds: f64| Run {
            seconds,
            ..Run::default()
        };
        let pairs = (0..6).map(|number| Pair {
            agent: Run {
                used: Some(Used {
                    processor: 1.5,
                    memory_mib: 30.0,
                    programs: 21.0,
                    aws_requests: 5.0,
                    downloaded_mib: 99.6,
                }),
                ..run(4.0)
            },
            script: run(8.0 + f64::from(number)),
        });
        let text = text(&of_workers(pairs.collect()));
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let has = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert!(lines.contains(&words), "{line} is not in\n{text}");
        };
        has("worker, 6 pairs k8s-bootstrap 4.0 4.0 4.0 4.0 2.62 (2.00 to 3.25)");
        has("plain kubeadm 10.5 13.0 8.0 13.0");
        has(
            "the agent itself: 1.50 s of processor time, at most 30 MiB, 21 programs, 5 requests to AWS, 100 MiB downloaded",
        );
    }
}
