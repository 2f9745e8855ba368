//! The machines' root file system, and programs from Debian for images.
//!
//! A machine contains what a stock cloud image contains and no more, so that the agent cannot
//! depend on a package that EC2's instances lack.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::cache::{Cache, Stamp};
use super::command::{nice, output, run, within};
use super::image::Node;
use super::platform;

const SUITE: &str = "bookworm";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The packages of a cloud image beyond Debian's minimal system.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,iptables,nftables,ethtool,kmod,\
    ca-certificates,curl,procps,netbase,python3-minimal,less";
/// Installed in a second step: its configuration fails within debootstrap.
const CLOUD_INIT: &str = "cloud-init";
/// Packages that images need and machines must not have.
const TOOLS: &str = "conntrack ipset busybox redis-server";

/// Units that make no sense in a container without a disk, a console, a package mirror or kernel
/// modules.
const MASKED: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "cloud-init-hotplugd.socket",
    "console-getty.service",
    "container-getty@.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "getty@.service",
    "kmod-static-nodes.service",
    "proc-sys-fs-binfmt_misc.automount",
    "serial-getty@.service",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-journald-audit.socket",
    "systemd-modules-load.service",
    "systemd-networkd-wait-online.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-resolved.service",
    "systemd-udev-trigger.service",
    "systemd-udevd.service",
];

/// Files that replace or complete those of Debian's packages on a lab machine.
const FILES: &[(&str, &str)] = &[
    ("etc/hostname", "localhost\n"),
    ("etc/hosts", "127.0.0.1 localhost\n"),
    ("etc/resolv.conf", ""),
    // Empty, not absent: then systemd creates an id, but does not treat this as the image's first
    // boot, which would reset which units are enabled.
    ("etc/machine-id", ""),
    // These two set kernel parameters, which belong to the host.
    ("etc/sysctl.d/50-pid-max.conf", ""),
    ("etc/sysctl.d/99-protect-links.conf", ""),
    (
        "etc/cloud/cloud.cfg.d/99-lab.cfg",
        include_str!("../../components/rootfs/99-lab.cfg"),
    ),
    (
        "etc/cloud/ds-identify.cfg",
        include_str!("../../components/rootfs/ds-identify.cfg"),
    ),
    (
        "etc/systemd/system/lab-cgroup.service",
        include_str!("../../components/rootfs/lab-cgroup.service"),
    ),
];

/// Symbolic links in a lab machine: (path, target).
const LINKS: &[(&str, &str)] = &[
    (
        "etc/systemd/system/default.target",
        "/lib/systemd/system/multi-user.target",
    ),
    (
        "etc/systemd/system/sysinit.target.wants/lab-cgroup.service",
        "/etc/systemd/system/lab-cgroup.service",
    ),
];

/// Of these, the ones that a virtual machine needs too.
const NEEDED: &[&str] = &[
    "etc/hostname",
    "etc/hosts",
    "etc/machine-id",
    "etc/systemd/system/default.target",
];

/// Increased when `build` below changes its result for the same inputs.
const RECIPE: &str = "1";

/// The two root folders made from Debian's packages.
pub struct Debian {
    /// What a machine boots.
    pub machine: PathBuf,
    /// Same, with the packages that only images need; programs are copied out of it.
    pub tools: PathBuf,
}

/// The stamp of the programs that images take from here.
pub fn programs_stamp() -> Stamp {
    Stamp::of([
        ("recipe", RECIPE.as_bytes()),
        ("suite", SUITE.as_bytes()),
        ("packages", PACKAGES.as_bytes()),
        ("cloud-init", CLOUD_INIT.as_bytes()),
        ("tools", TOOLS.as_bytes()),
    ])
}

/// The stamp of the folders.
fn stamp() -> Stamp {
    let programs = programs_stamp();
    let mut inputs = vec![("programs", programs.as_bytes())];
    inputs.extend(MASKED.iter().map(|unit| ("masked", unit.as_bytes())));
    for (path, content) in FILES.iter().chain(LINKS) {
        inputs.push((path, content.as_bytes()));
    }
    Stamp::of(inputs)
}

/// The folders, built if needed: about two minutes.
///
/// # Errors If Debian's mirror does not answer or a package's configuration fails.
pub fn built(cache: &Cache) -> Result<Debian> {
    let folder = cache.component("debian", &stamp(), build)?;
    Ok(Debian {
        machine: folder.join("machine"),
        tools: folder.join("tools"),
    })
}

fn build(folder: &Path, log: &Path) -> Result<()> {
    let machine = folder.join("machine");
    let tools = folder.join("tools");

    // In its own mount namespace: debootstrap mounts /proc inside, and if it were killed, the mount
    // would remain when the folder is removed.
    let mut debootstrap = nice("unshare");
    debootstrap
        .args(["--mount", "--propagation", "private", "debootstrap"])
        .args(["--variant=minbase", &format!("--keyring={KEYRING}")])
        .arg(format!("--include={PACKAGES}"))
        .arg(SUITE)
        .arg(&machine);
    run(&mut debootstrap, log)?;
    install(&machine, CLOUD_INIT, log)?;

    run(nice("cp").arg("--archive").arg(&machine).arg(&tools), log)?;
    install(&tools, TOOLS, log)?;

    for root in [&machine, &tools] {
        let clean = "apt-get clean; rm -rf /var/lib/apt/lists/* /var/log/*.log /var/log/apt";
        run(&mut within(root, clean), log)?;
    }
    settle(&machine)
}

fn install(root: &Path, packages: &str, log: &Path) -> Result<()> {
    let script = format!("apt-get install -y -q --no-install-recommends {packages}");
    run(&mut within(root, &script), log)
}

/// Prepares the fresh system `root` to boot as a lab machine.
fn settle(root: &Path) -> Result<()> {
    for (path, content) in FILES {
        let path = root.join(path);
        // The host's file may be a link out of the root, or have a different mode.
        if path.is_symlink() || path.exists() {
            fs::remove_file(&path)?;
        }
        fs::write(&path, content)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)))
            .with_context(|| format!("write {}", path.display()))?;
    }
    let masks = MASKED
        .iter()
        .map(|unit| (format!("etc/systemd/system/{unit}"), "/dev/null"));
    let links = LINKS
        .iter()
        .map(|(path, target)| ((*path).to_owned(), *target));
    for (path, target) in masks.chain(links) {
        let path = root.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        if path.is_symlink() || path.exists() {
            fs::remove_file(&path)?;
        }
        symlink(target, &path).with_context(|| format!("link {}", path.display()))?;
    }
    // With this folder the journal survives a reboot, as in a cloud image.
    fs::create_dir_all(root.join("var/log/journal"))?;
    Ok(())
}

/// Undoes in `root` what [`built`] did so that a container can boot it.
pub fn unsettle(root: &Path) -> Result<()> {
    let masks = MASKED
        .iter()
        .map(|unit| format!("etc/systemd/system/{unit}"));
    let own = FILES
        .iter()
        .map(|(path, _)| *path)
        .chain(LINKS.iter().map(|(path, _)| *path));
    let own = own.filter(|path| !NEEDED.contains(path)).map(str::to_owned);
    for path in masks.chain(own) {
        let path = root.join(path);
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// `programs` (paths in the root folder `root`) with their libraries, as files of an image with
/// Debian's merged /usr.
///
/// # Errors If one does not exist, or is not linked dynamically.
pub fn with_libraries(root: &Path, programs: &[String]) -> Result<BTreeMap<String, Node>> {
    let listed = output(&mut within(root, &format!("ldd {}", programs.join(" "))))?;
    let mut paths: Vec<&str> = programs.iter().map(String::as_str).collect();
    paths.extend(libraries(&listed));
    paths.sort_unstable();
    paths.dedup();
    // Resolved inside: an absolute link points into the root folder.
    let resolved = output(&mut within(root, &format!("realpath {}", paths.join(" "))))?;
    let mut files = BTreeMap::new();
    for (path, file) in paths.iter().zip(resolved.lines()) {
        let source = root.join(file.trim_start_matches('/'));
        files.insert(merged_usr(path), Node::Program(source));
    }
    for folder in ["bin", "lib", "lib64", "sbin"] {
        files.insert(folder.to_owned(), Node::Symlink(format!("usr/{folder}")));
    }
    Ok(files)
}

/// The extensions that iptables loads by name, which ldd does not list.
///
/// # Errors If their folder cannot be read.
pub fn iptables_extensions(root: &Path) -> Result<Vec<String>> {
    let folder = format!("usr/lib/{}/xtables", platform::LIBRARIES);
    let mut paths = fs::read_dir(root.join(&folder))
        .with_context(|| format!("list {folder}"))?
        .map(|entry| {
            Ok(format!(
                "/{folder}/{}",
                entry?.file_name().to_string_lossy()
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// The names of busybox's applets.
///
/// # Errors If it does not run.
pub fn busybox_applets(root: &Path) -> Result<Vec<String>> {
    let names = output(&mut within(root, "busybox --list"))?;
    Ok(names.lines().map(str::to_owned).collect())
}

/// The libraries' paths in ldd's output.
fn libraries(listed: &str) -> impl Iterator<Item = &str> {
    listed.lines().filter_map(|line| {
        let (line, _) = line.trim().split_once(" (0x")?;
        let path = line.rsplit(" => ").next()?;
        path.starts_with('/').then_some(path)
    })
}

/// The location of `path` if /bin, /lib, /lib64 and /sbin are links into /usr.
fn merged_usr(path: &str) -> String {
    let path = path.trim_start_matches('/');
    match path.split('/').next() {
        Some("bin" | "lib" | "lib64" | "sbin") => format!("usr/{path}"),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn libraries_are_found_by_path_and_by_name() {
        let listed = "/usr/sbin/nft:\n\
            \tlinux-vdso.so.1 (0x00007ffd)\n\
            \tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f01)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f02)\n\
            /usr/bin/x:\n\tstatically linked\n";
        let found: Vec<String> = libraries(listed).map(merged_usr).collect();
        assert_eq!(
            found,
            [
                "usr/lib/x86_64-linux-gnu/libmnl.so.0",
                "usr/lib64/ld-linux-x86-64.so.2"
            ]
        );
    }

    #[test]
    fn a_settled_system_masks_units_and_starts_with_our_files() {
        let dir = tempfile::tempdir().unwrap();
        for folder in [
            "etc/sysctl.d",
            "etc/cloud/cloud.cfg.d",
            "etc/systemd/system",
        ] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        // debootstrap leaves the host's file, which may be a link out of the root.
        symlink("/nowhere/else", dir.path().join("etc/resolv.conf")).unwrap();
        settle(dir.path()).unwrap();
        settle(dir.path()).unwrap();
        let read = |path: &str| fs::read_link(dir.path().join(path)).unwrap();
        assert_eq!(
            read("etc/systemd/system/systemd-udevd.service"),
            Path::new("/dev/null")
        );
        assert!(read("etc/systemd/system/sysinit.target.wants/lab-cgroup.service").is_absolute());
        assert!(!dir.path().join("etc/resolv.conf").is_symlink());
    }
}
