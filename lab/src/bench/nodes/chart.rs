//! The timelines of both sides: which step ran when, until the node was Ready.

use super::report::{Case, Contender, Report, Run, Series};
use crate::bench::drawing::{Drawing, Scale, WIDTH};
use crate::bench::figures::count;

/// Where the timelines begin; the names of the steps are to the left.
const ZERO: f64 = 230.0;
/// The width of the longest run.
const LONGEST: f64 = WIDTH - ZERO - 90.0;
/// The height of a step's bar, and from one to the next.
const BAR: f64 = 12.0;
const STEP: f64 = 17.0;
/// Shorter steps than this are not drawn, in seconds.
const UNSEEN: f64 = 0.1;

/// The chart of a series as SVG.
pub fn svg(report: &Report, case: Case) -> Option<String> {
    let series = report.series.iter().find(|series| series.case == case)?;
    let runs = [Contender::Agent, Contender::Script]
        .map(|of| median_run(series, of).map(|run| (of, run)))
        .into_iter()
        .collect::<Option<Vec<_>>>()?;
    let mut drawing = Drawing::default();
    let title = format!("From user-data to a Ready node: {}", case.words());
    drawing.text(24.0, 38.0, "head", &title);
    let about = format!(
        "the runs with the median duration of {} pairs on {} shared processors; steps under {UNSEEN} s are not drawn",
        series.pairs.len(),
        report.machine.processors
    );
    drawing.text(24.0, 60.0, "text", &about);
    let longest = runs.iter().map(|(_, run)| run.seconds).fold(0.0, f64::max);
    let scale = Scale::to(longest, LONGEST);
    let mut top = 92.0;
    for (index, (of, run)) in runs.into_iter().enumerate() {
        top = timeline(&mut drawing, &scale, of, run, index, top);
    }
    Some(drawing.page(top, &title))
}

/// The run whose duration is nearest to the median.
fn median_run(series: &Series, of: Contender) -> Option<&Run> {
    let median = series.seconds(of).median;
    let off = |run: &&Run| (run.seconds - median).abs();
    series.runs(of).min_by(|a, b| off(a).total_cmp(&off(b)))
}

/// Draws one run below `top` and returns where the next one may begin.
fn timeline(
    drawing: &mut Drawing,
    scale: &Scale,
    of: Contender,
    run: &Run,
    index: usize,
    top: f64,
) -> f64 {
    let name = format!("{}: Ready after {:.1} s", of.words(), run.seconds);
    drawing.text(24.0, top, "name", &name);
    let steps: Vec<_> = run
        .steps
        .iter()
        .filter(|step| step.begin < run.seconds && step.end - step.begin >= UNSEEN)
        .collect();
    let top = top + 12.0;
    let height = STEP * count(steps.len() as u64) + 6.0;
    let unit = "seconds since the start of the user-data's script";
    let bottom = scale.draw(drawing, ZERO, (top, height), unit);
    for (row, step) in steps.iter().enumerate() {
        let y = top + 5.0 + STEP * count(row as u64);
        drawing.text(ZERO - 10.0, y + BAR - 1.0, "text end", &step.name);
        let begin = step.begin.max(0.0);
        let length = scale.length(step.end.min(run.seconds) - begin);
        let seconds = step.end - step.begin;
        drawing.bar(
            (ZERO + scale.length(begin), y),
            (length, BAR),
            &format!("s{index}"),
            &format!("{}: {seconds:.2} s", step.name),
        );
    }
    let ready = ZERO + scale.length(run.seconds);
    drawing.line(ready, top, ready, bottom, "spread");
    drawing.line(ZERO, top, ZERO, bottom, "axis");
    bottom + 70.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::report::tests::of_workers;
    use super::super::report::{Pair, Step};
    use super::*;

    fn run(seconds: f64, name: &str) -> Run {
        let step = |name: &str, begin: f64, end: f64| Step {
            name: name.to_owned(),
            begin,
            end,
        };
        Run {
            seconds,
            steps: vec![step(name, 0.5, 2.0), step("blink", 2.0, 2.01)],
            used: None,
        }
    }

    #[test]
    fn the_chart_shows_the_median_runs_and_steps_that_can_be_seen() {
        let pair = |agent: f64, script: f64| Pair {
            agent: run(agent, &format!("agent-{agent}")),
            script: run(script, &format!("script-{script}")),
        };
        let report = of_workers(vec![pair(3.0, 9.0), pair(4.0, 7.0), pair(5.0, 8.0)]);
        let chart = svg(&report, Case::Worker).unwrap();
        for words in ["agent-4", "script-8", "k8s-bootstrap: Ready after 4.0 s"] {
            assert!(chart.contains(words), "{words} is not in {chart}");
        }
        for words in ["agent-3", "script-9", "blink"] {
            assert!(!chart.contains(words), "{words} is in {chart}");
        }
        assert_eq!(svg(&report, Case::FirstControlPlane), None);
    }
}
