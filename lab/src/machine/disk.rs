//! A machine's disk: an overlay on the root file system, with what makes it this
//! machine: names, resolver, authorities.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::layout::Layout;
use crate::network::RESOLVER;
use crate::state::Machine;

/// Folders of the machine that hold container or database state: plain folders,
/// since an overlay cannot lie on an overlay.
pub const BOUND: [&str; 3] = ["containerd", "kubelet", "etcd"];

/// A unit that stops with children left is not noticed in a container on cgroup v1.
const SYSTEM_CONFIG: &str = "[Manager]\nDefaultTimeoutStopSec=10s\n";

/// Makes the disk of a new machine.
pub fn create(layout: &Layout, machine: &Machine, rootfs: &Path, user_data: &str) -> Result<()> {
    let folder = layout.machine(&machine.name);
    for part in ["up", "work", "root"].iter().chain(&BOUND) {
        let path = folder.join(part);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    fs::write(folder.join("user-data"), user_data)?;
    let authorities = fs::read_to_string(rootfs.join("etc/ssl/certs/ca-certificates.crt"))
        .context("the root file system has no /etc/ssl/certs/ca-certificates.crt")?;
    let own = fs::read_to_string(layout.run().join("ca.pem"))
        .context("the lab's authority is missing")?;
    let hosts = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";
    let names = format!(
        "nameserver {RESOLVER}\nsearch {}.compute.internal\n",
        crate::network::REGION
    );
    let up = folder.join("up");
    for (path, text) in [
        ("etc/hostname", format!("{}\n", machine.hostname()).as_str()),
        ("etc/hosts", hosts),
        ("etc/resolv.conf", names.as_str()),
        ("etc/machine-id", machine_id(&machine.id).as_str()),
        (
            "etc/ssl/certs/ca-certificates.crt",
            &format!("{authorities}\n{own}"),
        ),
        ("etc/systemd/system.conf.d/lab.conf", SYSTEM_CONFIG),
    ] {
        let path = up.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// An id of its own: left empty, systemd would take the one that dbus left in the
/// root file system, and all machines would be the same to their neighbours.
fn machine_id(instance: &str) -> String {
    let digest = format!("{:x}", Sha256::digest(instance));
    format!("{}\n", &digest[..32])
}

/// Removes the disk of a terminated machine; the console's record stays.
pub fn remove(layout: &Layout, name: &str) -> Result<()> {
    let folder = layout.machine(name);
    for part in ["up", "work", "root"].iter().chain(&BOUND) {
        let path = folder.join(part);
        if path.exists() {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}
