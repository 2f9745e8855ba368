//! How fast instances become Ready nodes with this agent, and in turn with kubeadm in user-data
//! that a careful engineer would write.

pub mod chart;
pub mod report;
pub mod table;

mod cluster;
mod run;
mod script;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::MultiProgress;

use super::figures::Machine;
use crate::down;
use crate::layout::Layout;
use crate::lifecycle::Options;
use crate::up::{self, Until, finish, step};
use cluster::Cluster;
use report::{Case, Contender, Pair, Report, Run, Series};

/// How many pairs of runs.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Workers that join.
    pub workers: usize,
    /// First control planes.
    pub control_planes: usize,
}

/// Runs the bench on a lab of its own.
///
/// # Errors If a lab is up, or if a machine does not become a Ready node.
pub async fn run(layout: &Layout, wanted: Wanted) -> Result<Report> {
    if !down::servers(layout).is_empty() {
        bail!("a lab is up, and its machines would disturb the benchmark: stop it with `lab down`");
    }
    let empty = up::Wanted {
        control_planes: 0,
        workers: 0,
        until: Until::Booted,
        deadline: Duration::ZERO,
        options: Options::default(),
    };
    let report = match up::run(layout, &empty).await {
        Ok(()) => on_a_lab(layout, wanted).await,
        Err(error) => Err(error),
    };
    let ended = down::run(layout).context("the benchmark's lab cannot be stopped: try `lab down`");
    report.and_then(|report| ended.map(|_| report))
}

async fn on_a_lab(layout: &Layout, wanted: Wanted) -> Result<Report> {
    let progress = MultiProgress::new();
    let control_planes = found_in_turn(layout, wanted.control_planes, &progress).await?;
    let workers = join_in_turn(layout, wanted.workers, &progress).await?;
    Ok(Report {
        machine: Machine::here(),
        series: vec![
            Series {
                case: Case::Worker,
                pairs: workers,
            },
            Series {
                case: Case::FirstControlPlane,
                pairs: control_planes,
            },
        ],
    })
}

/// First control planes, each alone on the machine.
async fn found_in_turn(
    layout: &Layout,
    pairs: usize,
    progress: &MultiProgress,
) -> Result<Vec<Pair>> {
    let mut all = Vec::new();
    for number in 1..=pairs {
        let mut runs = Vec::new();
        for of in order(number) {
            let bar = step(progress, &words(Case::FirstControlPlane, number, pairs, of));
            let (cluster, run) = Cluster::found(layout, of, &format!("bench-{number}")).await?;
            cluster.end().await?;
            done(&bar, Case::FirstControlPlane, (number, pairs), of, &run);
            runs.push((of, run));
        }
        all.push(Pair::of(runs).context("a pair has only one run")?);
    }
    Ok(all)
}

/// Workers, which join the only control plane of their side; both clusters run all the time.
async fn join_in_turn(
    layout: &Layout,
    pairs: usize,
    progress: &MultiProgress,
) -> Result<Vec<Pair>> {
    let mut all = Vec::new();
    if pairs == 0 {
        return Ok(all);
    }
    let (agents, _) = Cluster::found(layout, Contender::Agent, "bench").await?;
    let (scripts, _) = Cluster::found(layout, Contender::Script, "").await?;
    for cluster in [&agents, &scripts] {
        cluster.settle()?;
    }
    for number in 1..=pairs {
        let mut runs = Vec::new();
        for of in order(number) {
            let bar = step(progress, &words(Case::Worker, number, pairs, of));
            let cluster = match of {
                Contender::Agent => &agents,
                Contender::Script => &scripts,
            };
            let (worker, run) = cluster.join().await?;
            cluster.remove(&worker).await?;
            done(&bar, Case::Worker, (number, pairs), of, &run);
            runs.push((of, run));
        }
        all.push(Pair::of(runs).context("a pair has only one run")?);
    }
    agents.end().await?;
    scripts.end().await?;
    Ok(all)
}

/// The second run finds the machine warmer, so the order alternates.
fn order(number: usize) -> [Contender; 2] {
    if number % 2 == 1 {
        [Contender::Agent, Contender::Script]
    } else {
        [Contender::Script, Contender::Agent]
    }
}

fn words(case: Case, number: usize, pairs: usize, of: Contender) -> String {
    format!("{} {number} of {pairs}: {}", case.words(), of.words())
}

fn done(
    bar: &indicatif::ProgressBar,
    case: Case,
    (number, pairs): (usize, usize),
    of: Contender,
    run: &Run,
) {
    let line = format!(
        "{}, Ready after {:.1} s;",
        words(case, number, pairs, of),
        run.seconds
    );
    finish(bar, &line);
}

/// Writes a report's data and its charts into `folder`.
///
/// # Errors If the folder cannot be written.
pub fn write(report: &Report, folder: &Path) -> Result<()> {
    let write = |name: &str, text: String| {
        let file = folder.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    write("nodes.json", serde_json::to_string_pretty(report)? + "\n")?;
    for (case, name) in [
        (Case::Worker, "worker.svg"),
        (Case::FirstControlPlane, "control-plane.svg"),
    ] {
        if let Some(chart) = chart::svg(report, case) {
            write(name, chart)?;
        }
    }
    Ok(())
}

/// Reads a report from its file.
///
/// # Errors If the file does not exist or is not a report.
pub fn read(file: &Path) -> Result<Report> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a report", file.display()))
}
