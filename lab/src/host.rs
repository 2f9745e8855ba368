//! Whether this machine can run the lab.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use crate::machine::cgroups::CgroupVersion;

/// Programs that the lab runs, and the Debian package that each comes from.
const PROGRAMS: [(&str, &str); 13] = [
    ("ip", "iproute2"),
    ("kill", "procps"),
    ("mount", "mount"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("setsid", "util-linux"),
    ("unshare", "util-linux"),
    ("systemd-nspawn", "systemd-container"),
    ("docker-registry", "docker-registry"),
    ("dnsmasq", "dnsmasq-base"),
    ("tinyproxy", "tinyproxy-bin"),
    ("mkfs.ext4", "e2fsprogs"),
    ("python3", "python3-venv"),
];

/// Everything that is missing, each with its remedy; empty if the lab can run.
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("root, for namespaces, mounts and control groups: use sudo".to_owned());
    }
    let folders: Vec<_> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default();
    for (program, package) in PROGRAMS {
        if !folders.iter().any(|folder| folder.join(program).is_file()) {
            missing.push(format!("the program {program}: apt-get install {package}"));
        }
    }
    missing.extend(CgroupVersion::here().missing());
    for device in ["/dev/kmsg", "/dev/fuse"] {
        if !Path::new(device).exists() {
            missing.push(format!("the device {device}, which machines share"));
        }
    }
    let systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let loaded = systems.lines().any(|line| line.ends_with("\toverlay"));
    if !loaded && !is_module("overlay") {
        missing.push("the file system overlay: modprobe overlay".to_owned());
    }
    missing
}

/// Whether the kernel has this module to load, as it does by itself when it is needed.
fn is_module(name: &str) -> bool {
    let mut look = std::process::Command::new("modprobe");
    look.args(["--dry-run", "--quiet", name]);
    look.status().is_ok_and(|status| status.success())
}

/// Fails with a list of everything that is missing.
pub fn check() -> Result<()> {
    let missing = missing();
    if !missing.is_empty() {
        bail!(
            "this machine cannot run the lab; it lacks\n  - {}",
            missing.join("\n  - ")
        );
    }
    Ok(())
}
