//! Running commands inside a machine, and powering it off.

use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::{cgroups, supervisor};
use crate::layout::Layout;
use crate::process;

/// How long a machine may take to power off before its power is cut: longer than the agent takes to
/// leave, which EC2 waits for too.
const POWER_OFF: Duration = Duration::from_secs(200);

fn command(name: &str, words: &[String]) -> Result<Command> {
    let pid = cgroups::init_process(name).ok_or_else(|| {
        anyhow!("machine {name} does not run: see `lab status`, `lab start {name}`")
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
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8")
        .env(
            "TERM",
            std::env::var_os("TERM").unwrap_or_else(|| "dumb".into()),
        );
    Ok(command)
}

/// Runs a command in a machine and collects what it prints.
pub fn output(name: &str, words: &[&str]) -> Result<Output> {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    command(name, &words)?
        .output()
        .context("cannot start nsenter")
}

/// Replaces this process by a command in a machine. Returns only on failure.
pub fn become_command(name: &str, words: &[String]) -> Result<()> {
    Err(anyhow!(command(name, words)?.exec()).context("cannot start nsenter"))
}

/// Powers a machine off as EC2 does, with the power button; `hard` cuts the power.
pub fn power_off(layout: &Layout, name: &str, hard: bool) -> Result<()> {
    if let Some(pid) = cgroups::init_process(name) {
        if hard {
            process::kill_hard(pid)?;
        } else {
            // systemd's signal for poweroff.target, a real-time signal, which nix lacks.
            process::run("kill", &["-s", "RTMIN+4", &pid.to_string()])?;
        }
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
