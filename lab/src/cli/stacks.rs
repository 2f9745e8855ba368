//! The commands about CloudFormation stacks.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::MultiProgress;
use lab::layout::Layout;
use lab::stack;
use lab::up::{self, Until};

use super::arguments::{StackCommand, Waiting};

/// Runs a command.
pub(super) async fn run(layout: &Layout, command: StackCommand) -> Result<()> {
    let deadline = |waiting: &Waiting| Duration::from_secs(waiting.deadline);
    let wait = |machines: &[lab::state::Machine], waiting: &Waiting| match waiting.until() {
        Until::Booted => Ok(()),
        Until::Ready => up::wait_ready(layout, machines, deadline(waiting), &MultiProgress::new()),
    };
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
        } => {
            let machines = stack::create(layout, &name, &read(&file)?).await?;
            for machine in &machines {
                println!("{} {} launched", machine.name, machine.id);
            }
            wait(&machines, &waiting)
        }
        StackCommand::Scale {
            group,
            count,
            waiting,
        } => {
            let machines = stack::scale(layout, &group, count).await?;
            wait(&machines, &waiting)
        }
        StackCommand::Refresh { group, waiting } => {
            stack::refresh(layout, &group, deadline(&waiting)).await
        }
        StackCommand::Delete { name } => stack::delete(layout, &name).await,
    }
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}
