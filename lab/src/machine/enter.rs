//! Running commands inside a machine, and powering it off.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::{cgroups, supervisor, vm};
use crate::layout::Layout;
use crate::process;
use crate::state::{Kind, State};

/// How long a machine may take to power off before its power is cut: longer than the agent takes to
/// leave, which EC2 waits for too.
const POWER_OFF: Duration = Duration::from_secs(200);

fn command(name: &str, words: &[String]) -> Result<Command> {
    let pid = cgroups::init_process(name).ok_or_else(|| {
        anyhow!("machine {name} is not running: see `lab status`, `lab start {name}`")
    })?;
    let mut command = Command::new("nsenter");
    command
        .args([
            "-t",
            &pid.to_string(),
            "-m",
            "-u",
            "-i",
            "-p",
            "-n",
            "-C",
            "--",
        ])
        .args(words)
        .env_clear()
        .envs(ENVIRONMENT.iter().filter_map(|entry| entry.split_once('=')))
        .env(
            "TERM",
            std::env::var_os("TERM").unwrap_or_else(|| "dumb".into()),
        );
    Ok(command)
}

/// The environment of commands in machines.
const ENVIRONMENT: [&str; 3] = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
];

fn kind(layout: &Layout, name: &str) -> Result<Kind> {
    Ok(State::require(layout)?.find(name)?.kind)
}

/// Runs a command in a machine and collects what it prints.
pub fn output(layout: &Layout, name: &str, words: &[&str]) -> Result<Output> {
    match kind(layout, name)? {
        Kind::Container => {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            command(name, &words)?
                .output()
                .context("cannot start nsenter")
        }
        Kind::Vm => vm::guest::output(&vm::socket(layout, name), words, &ENVIRONMENT)
            .with_context(|| format!("machine {name} does not answer: see `lab status`")),
    }
}

/// Runs a command in a machine, and returns what it prints; it must succeed.
pub fn text(layout: &Layout, name: &str, words: &[&str]) -> Result<String> {
    let output = output(layout, name, words)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name}: {words:?}: {}", said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Replaces this process by a command in a machine, and never returns unless it fails. A virtual
/// machine's command has an empty standard input, and its output is printed when it has ended.
pub fn become_command(layout: &Layout, name: &str, words: &[String]) -> Result<()> {
    if kind(layout, name)? == Kind::Container {
        return Err(anyhow!(command(name, words)?.exec()).context("cannot start nsenter"));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = output(layout, name, &words)?;
    std::io::stdout().write_all(&output.stdout)?;
    std::io::stderr().write_all(&output.stderr)?;
    std::process::exit(output.status.code().unwrap_or(1))
}

/// Powers a machine off as EC2 does, with the power button; `hard` cuts the power.
pub fn power_off(layout: &Layout, name: &str, hard: bool) -> Result<()> {
    match kind(layout, name)? {
        Kind::Vm => vm::power_off(layout, name, hard)?,
        Kind::Container => match cgroups::init_process(name) {
            Some(pid) if hard => process::kill_hard(pid)?,
            // systemd's signal for poweroff.target, a real-time signal, which nix lacks.
            Some(pid) => drop(process::run("kill", &["-s", "RTMIN+4", &pid.to_string()])?),
            None => {}
        },
    }
    if !process::wait_until(POWER_OFF, || {
        supervisor::find(layout, Some(name)).is_empty()
    }) {
        for pid in supervisor::find(layout, Some(name)) {
            process::kill_hard(pid)?;
        }
        cgroups::destroy(Some(name))?;
    }
    Ok(())
}
