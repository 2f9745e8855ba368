//! Virtual machines: QEMU with Debian's kernel, for what a container cannot show. They have cgroup
//! v2, kernel modules, udev, `AppArmor`, an `NVMe` disk, swap, EC2's DMI and an address by DHCP.

pub mod guest;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::components::VmImage;
use crate::layout::{Layout, namespace};
use crate::process::{self, run};
use crate::state::Machine;
use crate::{dhcp, network};

/// As an instance of the type c7i-flex.large has.
const MEMORY: &str = "4096";
const PROCESSORS: &str = "2";
/// Longest boot until the guest agent answers, without hardware virtualization.
pub const BOOT_DEADLINE: Duration = Duration::from_mins(5);
/// How long a kernel may take to start, to find out whether hardware virtualization works.
const TRIAL: Duration = Duration::from_secs(15);

const QEMU: &str = "qemu-system-x86_64";

/// The socket of the machine's guest agent.
pub fn socket(layout: &Layout, name: &str) -> PathBuf {
    layout.machine(name).join("guest.sock")
}

/// Writes a new machine's disks from the image and the files in its folder `up`.
pub fn write_disks(folder: &Path, image: &VmImage) -> Result<()> {
    let written = std::process::Command::new("sh")
        .args(["-c", include_str!("disk.sh")])
        .env("FOLDER", folder)
        .env("ROOTFS", &image.rootfs)
        .stdin(Stdio::null())
        .output()
        .context("cannot start sh to write a virtual machine's disks")?;
    anyhow::ensure!(
        written.status.success(),
        "cannot write the disks in {}: {}",
        folder.display(),
        String::from_utf8_lossy(&written.stderr)
    );
    Ok(())
}

/// Runs a machine until it powers off; reboots are QEMU's own.
pub async fn boot(layout: &Layout, machine: &Machine, image: &VmImage) -> Result<ExitStatus> {
    let folder = layout.machine(&machine.name);
    let with_kvm = works_with_kvm(layout, image)?;
    dhcp::lease(layout, machine)?;
    network::attach_tap(&machine.name)?;
    let status = process::server(&folder.join("console.log"))?
        .arg("nsenter")
        .arg(format!("--net=/run/netns/{}", namespace("vpc")))
        // Emulated processors take only what the containers leave.
        .args(["nice", "-n", if with_kvm { "5" } else { "19" }, QEMU])
        .args(arguments(machine, image, with_kvm))
        .current_dir(&folder)
        .status()
        .await
        .context("cannot start QEMU")?;
    network::detach_tap(&machine.name)?;
    Ok(status)
}

/// QEMU's arguments; files are in the machine's folder, the working directory.
fn arguments(machine: &Machine, image: &VmImage, with_kvm: bool) -> Vec<String> {
    let kernel = image.kernel.to_string_lossy();
    let (tap, mac) = (namespace(&machine.name), &machine.mac);
    let serial = machine.id.replace("i-", "vol");
    let uuid = uuid(&machine.id);
    let (accelerator, processor) = if with_kvm {
        ("kvm", "host")
    } else {
        ("tcg,thread=multi", "max")
    };
    let mut words: Vec<String> = [
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-m",
        MEMORY,
        "-smp",
        PROCESSORS,
        "-machine",
        "q35",
        "-accel",
        accelerator,
        "-cpu",
        processor,
        "-append",
        "root=/dev/nvme0n1 rw console=ttyS0",
        "-qmp",
        "unix:qmp.sock,server=on,wait=off",
        "-chardev",
        "socket,path=guest.sock,server=on,wait=off,id=guest",
        "-device",
        "virtio-serial",
        "-device",
        "virtserialport,chardev=guest,name=org.qemu.guest_agent.0",
        "-device",
        "virtio-rng-pci",
    ]
    .map(str::to_owned)
    .into();
    for (option, value) in [
        ("-kernel", kernel.into_owned()),
        // What an instance of the Nitro system shows.
        (
            "-smbios",
            format!(
                "type=1,manufacturer=Amazon EC2,product=c7i-flex.large,serial={uuid},uuid={uuid}"
            ),
        ),
        ("-smbios", "type=0,vendor=Amazon EC2".to_owned()),
        ("-drive", drive("disk")),
        ("-device", format!("nvme,drive=disk,serial={serial}0")),
        ("-drive", drive("swap")),
        ("-device", format!("nvme,drive=swap,serial={serial}1")),
        (
            "-netdev",
            format!("tap,id=vpc,ifname={tap},script=no,downscript=no"),
        ),
        (
            "-device",
            format!(
                "virtio-net-pci,netdev=vpc,mac={mac},host_mtu={}",
                network::MTU
            ),
        ),
    ] {
        words.extend([option.to_owned(), value]);
    }
    words
}

/// A disk that need not survive a crash of the host.
fn drive(name: &str) -> String {
    format!("file={name}.img,id={name},if=none,format=raw,cache=unsafe,discard=unmap")
}

/// A UUID that begins with `ec2`, as those of instances do.
fn uuid(instance: &str) -> String {
    let digits: String = instance.chars().filter(char::is_ascii_hexdigit).collect();
    let digits = format!("{digits:0>29}");
    let d = |from: usize, to: usize| digits.get(from..to).unwrap_or_default().to_owned();
    format!(
        "ec2{}-{}-{}-{}-{}",
        d(0, 5),
        d(5, 9),
        d(9, 13),
        d(13, 17),
        d(17, 29)
    )
}

/// Whether a kernel really boots with KVM here; tried once per lab. A kernel without a root
/// file system panics, and with `panic=-1` it then resets the machine, which ends QEMU.
fn works_with_kvm(layout: &Layout, image: &VmImage) -> Result<bool> {
    let file = layout.run().join("kvm-works");
    let known = fs::read_to_string(&file).unwrap_or_default();
    if !known.is_empty() {
        return Ok(known == "yes");
    }
    let works = Path::new("/dev/kvm").exists() && boots_with_kvm(image);
    fs::write(&file, if works { "yes" } else { "no" })?;
    Ok(works)
}

fn boots_with_kvm(image: &VmImage) -> bool {
    let seconds = TRIAL.as_secs().to_string();
    let options = [
        "-nodefaults",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-no-reboot",
        "-m",
        "512",
        "-accel",
        "kvm",
        "-cpu",
        "host",
        "-append",
        "panic=-1 console=ttyS0",
        "-kernel",
    ];
    let kernel = image.kernel.to_string_lossy();
    let words = [&["--signal=KILL", &seconds, QEMU], &options[..], &[&kernel]].concat();
    // A processor that faults resets the machine too, without any output of the kernel.
    run("timeout", &words).is_ok_and(|console| console.contains("Kernel panic"))
}

/// Presses the power button; `hard` pulls the plug.
pub fn power_off(layout: &Layout, name: &str, hard: bool) -> Result<()> {
    if hard {
        for pid in processes(name) {
            process::kill_hard(pid)?;
        }
        return Ok(());
    }
    let socket = layout.machine(name).join("qmp.sock");
    let Ok(mut stream) = UnixStream::connect(&socket) else {
        return Ok(());
    };
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    for command in ["qmp_capabilities", "system_powerdown"] {
        reader.read_line(&mut line)?;
        writeln!(stream, "{}", json!({"execute": command}))?;
    }
    reader.read_line(&mut line)?;
    Ok(())
}

/// The processes of QEMU that run this machine.
pub fn processes(name: &str) -> Vec<i32> {
    let tap = format!(
        "tap,id=vpc,ifname={},script=no,downscript=no",
        namespace(name)
    );
    process::find_own(&[&tap])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_shows_itself_as_an_instance() {
        let id = uuid("i-0123456789abcdef0");
        assert!(id.starts_with("ec2"), "{id}");
        assert_eq!(id.len(), 36);
        assert_ne!(id, uuid("i-0123456789abcdef1"));
    }
}
