//! A container's disk: an overlay on the root file system, with the machine's own names, resolver
//! and CAs; and the files that a virtual machine's disk gets besides its image.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::layout::Layout;
use crate::machine::cgroups::CgroupVersion;
use crate::network::RESOLVER;
use crate::state::{Kind, Machine};

/// Folders of the machine that hold container or database state: plain folders, because an overlay
/// cannot be on an overlay.
pub const BOUND: [&str; 3] = ["containerd", "kubelet", "etcd"];

/// In a container on cgroup v1, systemd does not notice when the last process of a stopping unit
/// exits.
const SYSTEM_CONFIG: &str = "[Manager]\nDefaultTimeoutStopSec=10s\n";

/// What /proc/swaps shows without swap, see boot.sh: a container must not turn off the swap of this
/// machine.
const NO_SWAP: &str = "Filename\tType\tSize\tUsed\tPriority\n";

/// The image's unit makes the controllers of cgroup v1 writable, which cgroup v2 does not have.
const UNIFIED: &str = "[Service]\nExecStart=\nExecStart=/bin/mount --make-rshared /\n";

/// Creates the disk of a new machine. A virtual machine gets its names and its resolver as an
/// instance does, from DHCP and from EC2's metadata.
pub fn create(layout: &Layout, machine: &Machine, rootfs: &Path, user_data: &str) -> Result<()> {
    let folder = layout.machine(&machine.name);
    for part in ["up", "work", "root"].iter().chain(&BOUND) {
        let path = folder.join(part);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    fs::write(folder.join("user-data"), user_data)?;
    let authorities = fs::read_to_string(rootfs.join("etc/ssl/certs/ca-certificates.crt"))
        .context("the root file system has no /etc/ssl/certs/ca-certificates.crt")?;
    let own = fs::read_to_string(layout.run().join("ca.pem"))
        .context("the lab's authority is missing")?;
    let authorities = format!("{authorities}\n{own}");
    let trusted = ("etc/ssl/certs/ca-certificates.crt", authorities.as_str());
    if machine.kind == Kind::Vm {
        return write(&folder.join("up"), &[trusted]);
    }
    let hosts = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";
    let names = format!(
        "nameserver {RESOLVER}\nsearch {}.compute.internal\n",
        crate::network::REGION
    );
    let hostname = format!("{}\n", machine.hostname());
    let id = machine_id(&machine.id);
    let of_cgroups = match CgroupVersion::here() {
        CgroupVersion::V1 => ("etc/systemd/system.conf.d/lab.conf", SYSTEM_CONFIG),
        CgroupVersion::V2 => (
            "etc/systemd/system/lab-cgroup.service.d/unified.conf",
            UNIFIED,
        ),
    };
    let files = [
        ("etc/hostname", hostname.as_str()),
        ("etc/hosts", hosts),
        ("etc/resolv.conf", &names),
        ("etc/machine-id", &id),
        trusted,
        ("etc/no-swap", NO_SWAP),
        of_cgroups,
    ];
    write(&folder.join("up"), &files)
}

fn write(up: &Path, files: &[(&str, &str)]) -> Result<()> {
    for (path, text) in files {
        let path = up.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A unique id: if it were empty, systemd would take the one that dbus left in the root file
/// system, and all machines would have the same id.
fn machine_id(instance: &str) -> String {
    let digest = hex::encode(Sha256::digest(instance));
    format!("{}\n", &digest[..32])
}

/// Removes the disk of a terminated machine, but keeps the console's log.
pub fn remove(layout: &Layout, name: &str) -> Result<()> {
    let folder = layout.machine(name);
    for part in ["up", "work", "root"].iter().chain(&BOUND) {
        let path = folder.join(part);
        if path.exists() {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    for image in ["disk.img", "swap.img"] {
        let path = folder.join(image);
        if path.exists() {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}
