//! `simulate`: clusters on a virtual clock.

use std::{ops::Range, time::Duration};

use serde::Serialize;

use super::print;
use crate::{
    adapters::clock::SystemClock,
    error::{Context, Error, Result},
    ports::Clock,
    simulate::{Counts, Played, Simulation, Size},
};

/// How many lines of the trace to show for a broken law.
const LINES: usize = 40;

/// The result of many seeds.
#[derive(Debug, Serialize)]
struct Summary {
    #[serde(flatten)]
    size: Size,
    first_seed: u64,
    seeds: u64,
    #[serde(flatten)]
    counts: Counts,
    milliseconds: u128,
    milliseconds_a_seed: f64,
}

/// `simulate`: runs seeds until a law is broken.
pub fn simulate(size: Size, seeds: Range<u64>, trace: bool, as_json: bool) -> Result<()> {
    let simulation = Simulation::new(size)?;
    if trace {
        for seed in seeds {
            let played = simulation.play(seed, true);
            print(&played.trace.join("\n"))?;
            if played.violation.is_some() {
                return Err(failure(size, &played, 0));
            }
        }
        return Ok(());
    }
    let begun = SystemClock.elapsed();
    let first_seed = seeds.start;
    let (seeds, counts, broken) = simulation.play_all(seeds);
    if let Some(broken) = broken {
        return Err(failure(size, &broken, LINES));
    }
    let took = SystemClock.elapsed().saturating_sub(begun);
    let summary = Summary {
        size,
        first_seed,
        seeds,
        counts,
        milliseconds: took.as_millis(),
        milliseconds_a_seed: (took / u32::try_from(seeds).unwrap_or(u32::MAX).max(1)).as_secs_f64()
            * 1000.0,
    };
    if as_json {
        let text = serde_json::to_string_pretty(&summary)
            .attempting(|| "cannot serialize the summary".to_owned())?;
        return print(&text);
    }
    print(&text(&summary))
}

fn failure(size: Size, played: &Played, lines: usize) -> Error {
    Error::failed(played.report(lines).trim_end()).hint(format!(
        "k8s-bootstrap simulate --control-planes {} --workers {} --seed {} --trace \
         shows the whole trace",
        size.control_planes, size.workers, played.seed
    ))
}

fn text(summary: &Summary) -> String {
    let Summary {
        size,
        counts,
        seeds,
        first_seed,
        ..
    } = summary;
    let hours = Duration::from_secs(counts.virtual_seconds).as_secs_f64() / 3600.0;
    format!(
        "{seeds} seeds from {first_seed}, {} control planes and {} workers each: every law holds\n\
         {} instances, {} claims ({} takeovers), {} crashes, {} terminations, {} stops\n\
         {} nodes started over, {} agents refused, {} clusters lost their majority, {} were restored\n\
         {} dead members removed, {} lost keys written again, {} interventions by a person\n\
         {hours:.1} h of virtual time in {:.1} s, {:.2} ms a seed\n",
        size.control_planes,
        size.workers,
        counts.instances,
        counts.claims,
        counts.takeovers,
        counts.crashes,
        counts.terminations,
        counts.stops,
        counts.started_over,
        counts.refusals,
        counts.lost,
        counts.restored,
        counts.healed,
        counts.rewritten,
        counts.helped,
        Duration::from_millis(u64::try_from(summary.milliseconds).unwrap_or(u64::MAX))
            .as_secs_f64(),
        summary.milliseconds_a_seed,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::{Law, Violation};

    #[test]
    fn a_broken_law_is_shown_with_its_seed_the_end_of_the_trace_and_the_command_for_all() {
        let size = Size {
            control_planes: 3,
            workers: 0,
        };
        let played = Played {
            seed: 7,
            counts: Counts::default(),
            violation: Some(Violation {
                law: Law::OneFounder,
                what: "i-2 founds u-2 while i-1 founds u-1".to_owned(),
            }),
            trace: ["first", "second", "third"].map(str::to_owned).into(),
        };
        assert_eq!(
            failure(size, &played, 2).to_string(),
            "error: seed 7: it breaks the law `there is one founder`: i-2 founds u-2 while i-1 founds u-1\n\
             second\nthird\n  \
             hint: k8s-bootstrap simulate --control-planes 3 --workers 0 --seed 7 --trace shows the whole trace"
        );
    }
}
