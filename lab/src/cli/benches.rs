//! The commands that measure.

use anyhow::{Result, bail};
use lab::bench::{app, nodes};
use lab::layout::Layout;

use super::arguments::{BenchOptions, Command, NodesOptions};

/// Shows an earlier run's results, if that is the command; needs no root.
pub(super) fn show_earlier(command: &Command) -> Result<bool> {
    match command {
        Command::BenchApp(options) => {
            let Some(file) = &options.from else {
                return Ok(false);
            };
            show_app(&app::read(file)?, options)?;
        }
        Command::BenchNodes(options) => {
            let Some(file) = &options.from else {
                return Ok(false);
            };
            show_nodes(&nodes::read(file)?, options)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

pub(super) async fn app(layout: &Layout, options: &BenchOptions) -> Result<()> {
    let wanted = app::Wanted {
        load: app::hey::Load {
            requests: options.requests,
            concurrency: options.concurrency,
            timeout_seconds: 20,
        },
        rounds: options.rounds.into(),
    };
    let report = app::run(layout, &wanted).await?;
    show_app(&report, options)?;
    match report.subjects.first() {
        Some(ours) if !ours.count.is_exact() => {
            bail!("{} did not count each answered request once", ours.name)
        }
        _ => Ok(()),
    }
}

fn show_app(report: &app::report::Report, options: &BenchOptions) -> Result<()> {
    if let Some(folder) = &options.results {
        app::write(report, folder)?;
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        print!("{}", app::table::text(report));
    }
    Ok(())
}

pub(super) async fn nodes(layout: &Layout, options: &NodesOptions) -> Result<()> {
    let wanted = nodes::Wanted {
        workers: options.workers,
        control_planes: options.control_planes,
    };
    let report = nodes::run(layout, wanted).await?;
    show_nodes(&report, options)
}

fn show_nodes(report: &nodes::report::Report, options: &NodesOptions) -> Result<()> {
    if let Some(folder) = &options.results {
        nodes::write(report, folder)?;
    }
    print!("{}", nodes::table::text(report));
    Ok(())
}
