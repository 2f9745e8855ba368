//! The commands about CloudFormation stacks.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::MultiProgress;
use lab::layout::Layout;
use lab::stack;
use lab::state::Machine;
use lab::up::{self, Until};

use super::arguments::{StackCommand, Waiting};

/// Runs a command.
pub(super) async fn run(layout: &Layout, command: StackCommand) -> Result<()> {
    match command {
        StackCommand::Render { arguments } => {
            print!("{}", stack::render(layout, &arguments)?);
            Ok(())
        }
        StackCommand::Lint { file } => stack::lint(layout, &file),
        StackCommand::Create {
            name,
            file,
            waiting,
        } => create(layout, &name, &file, &waiting).await,
        StackCommand::Scale {
            group,
            count,
            waiting,
        } => {
            let machines = stack::scale(layout, &group, count).await?;
            wait(layout, &machines, &waiting)
        }
        StackCommand::Refresh { group, waiting } => {
            stack::refresh(layout, &group, deadline(&waiting)).await
        }
        StackCommand::Delete { name } => stack::delete(layout, &name).await,
    }
}

fn deadline(waiting: &Waiting) -> Duration {
    Duration::from_secs(waiting.deadline)
}

fn wait(layout: &Layout, machines: &[Machine], waiting: &Waiting) -> Result<()> {
    match waiting.until() {
        Until::Launched | Until::Booted => Ok(()),
        Until::Ready => up::wait_ready(layout, machines, deadline(waiting), &MultiProgress::new()),
    }
}

async fn create(layout: &Layout, name: &str, file: &Path, waiting: &Waiting) -> Result<()> {
    let machines = stack::create(layout, name, &read(file)?).await?;
    for machine in &machines {
        println!("{} {} launched", machine.name, machine.id);
    }
    wait(layout, &machines, waiting)
}

/// Creates the stack of a template; its name is that of the file.
pub(super) async fn create_from(layout: &Layout, file: &Path, waiting: &Waiting) -> Result<()> {
    let name = file.file_stem().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{} names no stack", file.display()))?;
    create(layout, name, file, waiting).await
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}
