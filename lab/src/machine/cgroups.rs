//! A machine's control groups: one in the unified hierarchy of cgroup v2, or one in every hierarchy
//! of cgroup v1.
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
/// The controllers of cgroup v2 that systemd and the kubelet of a machine use.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];
/// How long the kernel may take to release a group after its processes have exited.
const RELEASE: Duration = Duration::from_secs(10);

/// The version of control groups that this machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// Several hierarchies of controllers.
    V1,
    /// One hierarchy, as on every supported image.
    V2,
}

impl CgroupVersion {
    /// That of this machine.
    pub fn here() -> Self {
        if Path::new(ROOT).join("cgroup.controllers").exists() {
            Self::V2
        } else {
            Self::V1
        }
    }

    /// Whether the hierarchy is unified, as systemd writes it.
    pub fn unified(self) -> &'static str {
        match self {
            Self::V1 => "0",
            Self::V2 => "1",
        }
    }

    /// The folders of the hierarchies that a machine sees.
    fn hierarchies(self) -> Vec<PathBuf> {
        match self {
            // `unified` is the empty v2 hierarchy next to those of v1.
            Self::V1 => [
                "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids",
                "systemd", "unified",
            ]
            .map(|name| Path::new(ROOT).join(name))
            .into(),
            Self::V2 => vec![ROOT.into()],
        }
    }

    /// The folder of this controller's groups of machines.
    pub fn machines(self, controller: &str) -> PathBuf {
        match self {
            Self::V1 => Path::new(ROOT).join(controller).join(GROUP),
            Self::V2 => Path::new(ROOT).join(GROUP),
        }
    }

    /// What machines need and this machine lacks, each with its remedy.
    pub fn missing(self) -> Vec<String> {
        if self == Self::V2 {
            let there = fs::read_to_string(Path::new(ROOT).join("cgroup.controllers"));
            return controllers_missing(&there.unwrap_or_default());
        }
        let folders = self.hierarchies();
        let missing = folders.iter().filter(|folder| !folder.is_dir());
        missing
            .map(|folder| {
                format!(
                    "the control group hierarchy {}: boot with systemd.unified_cgroup_hierarchy=1, for cgroup v2",
                    folder.display()
                )
            })
            .collect()
    }

    /// Creates a machine's groups; returns their folders.
    pub fn create(self, name: &str) -> Result<Vec<PathBuf>> {
        let mut folders = Vec::new();
        for root in self.hierarchies() {
            let group = root.join(GROUP);
            let own = group.join(name);
            fs::create_dir_all(&own).with_context(|| format!("cannot create {}", own.display()))?;
            if self == Self::V2 {
                enable(&root)?;
                enable(&group)?;
            } else if root.ends_with("cpuset") {
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
}

/// Lets the groups in this one use the controllers.
fn enable(group: &Path) -> Result<()> {
    let file = group.join("cgroup.subtree_control");
    for controller in CONTROLLERS {
        fs::write(&file, format!("+{controller}"))
            .with_context(|| format!("cannot enable {controller} in {}", file.display()))?;
    }
    Ok(())
}

/// The controllers that machines need and that are not among these, each with its remedy.
fn controllers_missing(there: &str) -> Vec<String> {
    let there: Vec<&str> = there.split_whitespace().collect();
    CONTROLLERS
        .iter()
        .filter(|wanted| !there.contains(wanted))
        .map(|wanted| {
            format!("the controller {wanted} of cgroup v2: boot a kernel with it, without cgroup_disable={wanted}")
        })
        .collect()
}

/// The process id of the machine's systemd, if it runs.
pub fn init_process(name: &str) -> Option<i32> {
    let list = CgroupVersion::here()
        .machines("systemd")
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
    for hierarchy in CgroupVersion::here().hierarchies() {
        let mut group = hierarchy.join(GROUP);
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
    let mut hierarchies = CgroupVersion::here().hierarchies().into_iter();
    hierarchies.any(|hierarchy| hierarchy.join(GROUP).exists())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_one_group_with_cgroup_v2_and_one_a_hierarchy_with_v1() {
        assert_eq!(
            CgroupVersion::V2.machines("memory"),
            Path::new("/sys/fs/cgroup/lab")
        );
        assert_eq!(
            CgroupVersion::V1.machines("memory"),
            Path::new("/sys/fs/cgroup/memory/lab")
        );
        assert_eq!(CgroupVersion::V2.hierarchies().len(), 1);
    }

    #[test]
    fn a_missing_controller_is_named() {
        assert!(controllers_missing("cpuset cpu io memory hugetlb pids rdma misc\n").is_empty());
        let missing = controllers_missing("cpuset cpu io pids\n");
        assert_eq!(missing.len(), 1);
        assert!(missing[0].starts_with("the controller memory of cgroup v2: "));
    }
}
