//! What a virtual machine boots: the containers' root file system with what a container lacks
//! (kernel modules, udev, DHCP, a stub resolver, `AppArmor`), and Debian's kernel for clouds.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::cache::{Cache, Stamp};
use super::command::{nice, run, within};
use super::debian::{self, Debian};

/// The packages of a cloud image that a container does without.
const PACKAGES: &str = "apparmor libpam-systemd qemu-guest-agent systemd-resolved udev";

/// Puts the kernel's modules into the root file system, and the kernel at /kernel. The package is
/// only unpacked: installed, it would build an initial RAM disk that nobody boots.
const KERNEL: &str = r#"
meta=linux-image-cloud-$(dpkg --print-architecture)
package=$(apt-cache depends "$meta" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
work=$(mktemp -d)
cd "$work"
apt-get download "$package"
dpkg-deb -x ./*.deb tree
cp -a tree/lib/modules/. /usr/lib/modules/
cp tree/boot/vmlinuz-* /kernel
# kubeadm reads it.
cp tree/boot/config-* /boot/
version=$(basename tree/lib/modules/*)
cd /
rm -r "$work"
depmod "$version"
"#;

/// Undoes what makes the root file system one of a container, and enables what an instance runs.
const ENABLE: &str = "systemctl enable systemd-networkd systemd-resolved apparmor";

/// Files of a virtual machine.
const FILES: &[(&str, &str)] = &[
    (
        "etc/cloud/cloud.cfg.d/99-lab.cfg",
        include_str!("../../components/vm/99-lab.cfg"),
    ),
    ("etc/fstab", include_str!("../../components/vm/fstab")),
    (
        "etc/systemd/network/80-ec2.network",
        include_str!("../../components/vm/80-ec2.network"),
    ),
];

/// Increased when `build` below changes its result for the same inputs.
const RECIPE: &str = "1";

/// What a virtual machine boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmImage {
    /// The root file system, as a folder.
    pub rootfs: PathBuf,
    /// The kernel. It needs no initial RAM disk: `ext4` and `NVMe` are built in.
    pub kernel: PathBuf,
}

impl VmImage {
    /// The image in the folder of its component.
    pub fn at(folder: &Path) -> Self {
        Self {
            rootfs: folder.join("root"),
            kernel: folder.join("kernel"),
        }
    }
}

/// The image's folder, see [`VmImage::at`]; built if needed: a minute.
///
/// # Errors If Debian's mirror does not answer, or for this architecture.
pub fn built(cache: &Cache, debian: &Debian) -> Result<PathBuf> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the lab has virtual machines for x86_64 only");
    }
    let mut inputs = vec![
        ("recipe", RECIPE.as_bytes()),
        ("packages", PACKAGES.as_bytes()),
        ("kernel", KERNEL.as_bytes()),
        ("enable", ENABLE.as_bytes()),
    ];
    inputs.extend(FILES.iter().map(|(path, text)| (*path, text.as_bytes())));
    let stamp = debian::programs_stamp();
    inputs.push(("debian", stamp.as_bytes()));
    cache.component("vm", &Stamp::of(inputs), |folder, log| {
        build(folder, &debian.machine, log)
    })
}

fn build(folder: &Path, machine: &Path, log: &Path) -> Result<()> {
    let root = folder.join("root");
    run(nice("cp").arg("--archive").arg(machine).arg(&root), log)?;
    debian::unsettle(&root)?;
    // For apt; the machine's own is systemd-resolved's.
    let resolver = root.join("etc/resolv.conf");
    fs::copy("/etc/resolv.conf", &resolver).context("cannot read this machine's resolv.conf")?;
    // The packages come last: with systemd-resolved installed, names resolve only once it runs.
    let install = format!(
        "apt-get update -q\n{KERNEL}\n\
         apt-get install -y -q --no-install-recommends {PACKAGES}\n{ENABLE}\n\
         apt-get clean; rm -rf /var/lib/apt/lists/*"
    );
    run(&mut within(&root, &install), log)?;
    fs::rename(root.join("kernel"), folder.join("kernel")).context("no kernel was unpacked")?;
    for (path, text) in FILES {
        let path = root.join(path);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if resolver.is_symlink() || resolver.exists() {
        fs::remove_file(&resolver)?;
    }
    std::os::unix::fs::symlink("/run/systemd/resolve/stub-resolv.conf", &resolver)?;
    Ok(())
}
