//! A machine's supervisor: a separate process that boots the machine, boots it again when it
//! reboots, and records when it has powered off.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use super::{cgroups, vm};
use crate::components::VmImage;
use crate::ec2::client::Aws;
use crate::layout::{Layout, namespace};
use crate::network;
use crate::process;
use crate::state::{Kind, Machine, Phase, State};

/// The lab's hidden subcommand, which identifies supervisors.
pub const SUBCOMMAND: &str = "supervise";
/// nspawn's exit status if the machine requested a reboot.
const REBOOT: i32 = 133;
/// Longest boot until systemd runs.
const BOOT_DEADLINE: Duration = Duration::from_secs(90);

/// Starts machines at the same time, each under its own supervisor, and waits until all have
/// booted.
pub fn start(layout: &Layout, names: &[&str], rootfs: &Path) -> Result<()> {
    let own = std::env::current_exe().context("cannot find the lab's own program")?;
    let mut started = Vec::new();
    for name in names {
        let log = layout.machine(name).join("supervisor.log");
        let arguments = [
            SUBCOMMAND.to_owned(),
            layout.dir().to_string_lossy().into_owned(),
            (*name).to_owned(),
            rootfs.to_string_lossy().into_owned(),
        ];
        let pid = process::start_detached(&own.to_string_lossy(), &arguments, &log)?;
        started.push((*name, pid.cast_signed(), log));
    }
    for (name, pid, log) in started {
        // A container's systemd runs at once; a virtual machine is waited for where its commands
        // are needed.
        let runs = || cgroups::init_process(name).is_some() || !vm::processes(name).is_empty();
        let begun = process::wait_until(BOOT_DEADLINE, || runs() || !process::is_alive(pid));
        if !begun || !runs() {
            let console = std::fs::read_to_string(layout.machine(name).join("console.log"))
                .unwrap_or_default();
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("machine {name} did not boot; its console shows:\n{console}\n{said}");
        }
    }
    Ok(())
}

/// Waits until commands in the machine can talk to its systemd.
pub fn wait_bus(layout: &Layout, machine: &Machine) -> Result<()> {
    let name = &machine.name;
    let has_bus = || match machine.kind {
        Kind::Container => cgroups::init_process(name).is_some_and(|pid| {
            Path::new(&format!("/proc/{pid}/root/run/dbus/system_bus_socket")).exists()
        }),
        Kind::Vm => vm::guest::is_up(&vm::socket(layout, name)),
    };
    let deadline = match machine.kind {
        Kind::Container => BOOT_DEADLINE,
        Kind::Vm => vm::BOOT_DEADLINE,
    };
    if !process::wait_until(deadline, has_bus) {
        bail!(
            "machine {name} has no message bus after {} s: `lab logs {name} --console` shows its boot",
            deadline.as_secs()
        );
    }
    Ok(())
}

/// The process id of a machine's supervisor, or of all supervisors of the lab for `None`.
pub fn find(layout: &Layout, name: Option<&str>) -> Vec<i32> {
    let dir = layout.dir().to_string_lossy().into_owned();
    let mut words = vec![SUBCOMMAND, dir.as_str()];
    words.extend(name);
    process::find_own(&words)
}

/// Runs a machine until it powers off. `rootfs` is what it boots: a container's root file system,
/// or the folder of a virtual machine's image.
pub async fn run(layout: &Layout, name: &str, rootfs: &Path) -> Result<()> {
    let machine = State::require(layout)?.find(name)?.clone();
    match machine.kind {
        Kind::Container => boot_container(layout, &machine, rootfs).await?,
        Kind::Vm => {
            let status = vm::boot(layout, &machine, &VmImage::at(rootfs)).await?;
            tracing::info!(machine = name, %status, "the machine ended");
        }
    }
    powered_off(layout, name).await
}

async fn boot_container(layout: &Layout, machine: &Machine, rootfs: &Path) -> Result<()> {
    let name = machine.name.as_str();
    let hostname = machine.hostname();
    loop {
        network::attach(&machine.name, machine.address, &machine.mac)?;
        let version = cgroups::CgroupVersion::here();
        let groups = version.create(name)?;
        let console = process::log_file(&layout.machine(name).join("console.log"))?;
        let status = Command::new("sh")
            .args(["-c", include_str!("boot.sh"), "boot"])
            .args(&groups)
            .env("NAME", namespace(name))
            .env("HOST", &hostname)
            .env("FOLDER", layout.machine(name))
            .env("ROOTFS", rootfs)
            .env("UNIFIED", version.unified())
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .status()
            .await
            .context("cannot start sh to boot the machine")?;
        cgroups::destroy(Some(name))?;
        tracing::info!(machine = name, %status, "the machine ended");
        if status.code() != Some(REBOOT) {
            return Ok(());
        }
    }
}

/// A machine that powers itself off is stopped, as EC2 does by default.
async fn powered_off(layout: &Layout, name: &str) -> Result<()> {
    let stopped = State::update(layout, |state| {
        let found = state
            .machines
            .iter_mut()
            .find(|m| m.name == name && m.phase == Phase::Running);
        Ok(found.map(|machine| {
            machine.phase = Phase::Stopped;
            machine.id.clone()
        }))
    })?;
    if let Some(id) = stopped {
        Aws::over_socket(layout)?
            .change_instance("StopInstances", &id)
            .await?;
    }
    Ok(())
}
