//! A machine's control groups, in every hierarchy of cgroup v1.
//!
//! Each machine gets `<hierarchy>/lab/<name>` as the root of its view, which keeps the machines'
//! systemds and kubelets out of each other's groups.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{kill_hard, wait_until};

const ROOT: &str = "/sys/fs/cgroup";
/// The group that holds all machines.
const GROUP: &str = "lab";
/// The hierarchies that a machine sees; `unified` is the empty v2 hierarchy next to them.
pub const HIERARCHIES: [&str; 10] = [
    "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd",
    "unified",
];
/// How long the kernel may take to release a group after its processes have exited.
const RELEASE: Duration = Duration::from_secs(10);

/// Creates a machine's groups; returns their folders.
pub fn create(name: &str) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for hierarchy in HIERARCHIES {
        let root = Path::new(ROOT).join(hierarchy);
        if !root.is_dir() {
            bail!(
                "{} is missing: the lab needs the cgroup v1 hierarchies {}",
                root.display(),
                HIERARCHIES.join(", ")
            );
        }
        let group = root.join(GROUP);
        let own = group.join(name);
        fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
        if hierarchy == "cpuset" {
            // A new cpuset is empty, and no process can enter an empty one.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let all = fs::read(root.join(file))?;
                fs::write(group.join(file), &all)?;
                fs::write(own.join(file), &all)?;
            }
        }
        folders.push(own);
    }
    Ok(folders)
}

/// The process id of the machine's systemd, if it runs.
pub fn init_process(name: &str) -> Option<i32> {
    let list = Path::new(ROOT)
        .join("systemd")
        .join(GROUP)
        .join(name)
        .join("payload/init.scope/cgroup.procs");
    let pids = fs::read_to_string(list).ok()?;
    pids.lines()
        .filter_map(|pid| pid.parse().ok())
        .find(|pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| {
                status
                    .lines()
                    .find_map(|line| line.strip_prefix("NSpid:"))
                    .is_some_and(|ids| {
                        ids.split_whitespace().count() > 1
                            && ids.split_whitespace().last() == Some("1")
                    })
            })
        })
}

/// Kills everything in a machine's groups, or in those of all machines for `None`, and removes
/// them.
pub fn destroy(name: Option<&str>) -> Result<()> {
    for hierarchy in HIERARCHIES {
        let mut group = Path::new(ROOT).join(hierarchy).join(GROUP);
        if let Some(name) = name {
            group.push(name);
        }
        if !group.is_dir() {
            continue;
        }
        let gone = wait_until(RELEASE, || {
            for pid in processes(&group) {
                let _ = kill_hard(pid);
            }
            remove_tree(&group);
            !group.exists()
        });
        if !gone {
            bail!(
                "{} cannot be removed: processes {:?} are still in it",
                group.display(),
                processes(&group)
            );
        }
    }
    Ok(())
}

/// Whether any machine's groups exist.
pub fn any() -> bool {
    HIERARCHIES
        .iter()
        .any(|hierarchy| Path::new(ROOT).join(hierarchy).join(GROUP).exists())
}

fn children(group: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(group) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            entry.file_type().ok()?.is_dir().then(|| entry.path())
        })
        .collect()
}

fn processes(group: &Path) -> Vec<i32> {
    let mut found: Vec<i32> = fs::read_to_string(group.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|pid| pid.parse().ok())
        .filter(|pid| *pid > 1)
        .collect();
    for child in children(group) {
        found.extend(processes(&child));
    }
    found
}

fn remove_tree(group: &Path) {
    for child in children(group) {
        remove_tree(&child);
    }
    let _ = fs::remove_dir(group);
}
