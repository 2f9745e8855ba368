//! The load test: the application and its Flask twin on one cluster, under the same load in turn.

pub mod chart;
pub mod hey;
pub mod report;
mod stage;
pub mod table;
mod usage;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::MultiProgress;
use tokio::process::Command;
use tokio::time::timeout;

use crate::bench::figures::Machine;
use crate::layout::{Layout, namespace};
use crate::lifecycle::Options;
use crate::up::{self, Until, finish, step};
use crate::{components, down};
use hey::{Answers, Load};
use report::{Count, Report, Round, Subject};
use stage::{Contender, Stage};

/// How long one run of the load generator may take.
const LONGEST_RUN: Duration = Duration::from_mins(15);
/// How long a lab may take to come up after everything is built.
const LONGEST_START: Duration = Duration::from_mins(15);

/// The bench to run.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The load of each run.
    pub load: Load,
    /// Runs of each application.
    pub rounds: usize,
}

/// Runs the bench on the running lab, or on a temporary one.
///
/// # Errors If hey is missing, or if one of the two does not come up or does not answer.
pub async fn run(layout: &Layout, wanted: &Wanted) -> Result<Report> {
    wanted.load.check()?;
    check_tools()?;
    if !down::servers(layout).is_empty() {
        return on_a_lab(layout, wanted).await;
    }
    let lab = up::Wanted {
        control_planes: 1,
        workers: 2,
        until: Until::Ready,
        deadline: LONGEST_START,
        options: Options::default(),
    };
    let report = match up::run(layout, &lab).await {
        Ok(()) => on_a_lab(layout, wanted).await,
        Err(error) => Err(error),
    };
    let ended = down::run(layout).context("the benchmark's lab cannot be stopped: try `lab down`");
    report.and_then(|report| ended.map(|_| report))
}

fn check_tools() -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join("hey").is_file()) {
        return Ok(());
    }
    bail!("the load generator hey is not installed: run bench/packages.sh, or apt-get install hey")
}

async fn on_a_lab(layout: &Layout, wanted: &Wanted) -> Result<Report> {
    let progress = MultiProgress::new();
    let bar = step(&progress, "the Flask twin's image");
    components::ensure_flask(layout, &progress).await?;
    finish(&bar, "the Flask twin's image");
    let bar = step(&progress, "both applications");
    let stage = Stage::set(layout)?;
    finish(&bar, "both applications");
    let report = measure(&stage, wanted, &progress).await;
    let cleared = stage.clear();
    report.and_then(|report| cleared.map(|()| report))
}

async fn measure(stage: &Stage, wanted: &Wanted, progress: &MultiProgress) -> Result<Report> {
    let contenders = stage.contenders()?;
    stage.compare(&contenders)?;
    let mut subjects = Vec::new();
    for contender in &contenders {
        let before = stage.count(contender)?;
        subjects.push(Subject {
            name: contender.name.to_owned(),
            rounds: Vec::new(),
            count: Count {
                before,
                sent: 0,
                answered: 0,
                after: before,
            },
        });
    }
    for round in 0..wanted.rounds {
        // The second run finds the machine warmer, so the order alternates.
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let (Some(contender), Some(subject)) = (contenders.get(index), subjects.get_mut(index))
            else {
                continue;
            };
            let words = format!(
                "round {} of {}: {}",
                round + 1,
                wanted.rounds,
                contender.name
            );
            let bar = step(progress, &words);
            let measured = run_once(stage, contender, &wanted.load)
                .await
                .with_context(|| words.clone())?;
            finish(
                &bar,
                &format!("{words}, {:.0} requests/s", measured.answers.per_second),
            );
            let answers = &measured.answers;
            subject.count.sent += answers.requests();
            subject.count.answered += answers.requests() - answers.failed();
            subject.rounds.push(measured);
        }
    }
    for (contender, subject) in contenders.iter().zip(&mut subjects) {
        subject.count.after = stage.count(contender)?;
    }
    Ok(Report {
        machine: Machine::here(),
        load: wanted.load.clone(),
        each: stage.each().clone(),
        subjects,
    })
}

async fn run_once(stage: &Stage, contender: &Contender, load: &Load) -> Result<Round> {
    let before = contender.watched.clock()?;
    let summary = generate(&load.arguments(stage.address(), contender.host)).await?;
    let after = contender.watched.clock()?;
    Ok(Round {
        answers: Answers::parse(&summary)?,
        processors: before.until(&after),
        resident_bytes: contender.watched.resident()?,
    })
}

/// Runs hey in the VPC, outside the cluster, and returns its summary.
async fn generate(arguments: &[String]) -> Result<String> {
    let run = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", namespace("vpc")))
        .args(["--", "hey"])
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(LONGEST_RUN, run)
        .await
        .with_context(|| format!("hey did not end within {} s", LONGEST_RUN.as_secs()))?
        .context("cannot start hey in the VPC's namespace")?;
    if !output.status.success() {
        bail!(
            "hey ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The names of a report's files in the folder of results.
const DATA: &str = "app.json";
const CHART: &str = "app.svg";

/// Writes a report's data and chart into `folder`.
///
/// # Errors
/// When the folder cannot be written.
pub fn write(report: &Report, folder: &Path) -> Result<()> {
    let write = |name: &str, text: String| {
        let file = folder.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    write(DATA, serde_json::to_string_pretty(report)? + "\n")?;
    write(CHART, chart::svg(report))
}

/// Reads a report from its file.
///
/// # Errors If the file does not exist or is not a report.
pub fn read(file: &Path) -> Result<Report> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a report", file.display()))
}
