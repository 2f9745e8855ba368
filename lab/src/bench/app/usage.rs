//! Who uses processors and memory: control groups of pods and machines, the load
//! generator as this process's child, and the system as a whole.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use super::report::Processors;
use crate::bench::figures::count;
use crate::machine::cgroups::CgroupVersion;

/// Ticks per second in /proc/stat, the same on every Linux in user space.
const TICKS: f64 = 100.0;

/// A pod's groups, and the pods of one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The machine that it runs in.
    pub machine: String,
    /// Its uid, which is a part of its control groups' names.
    pub uid: String,
}

/// Everything that is measured separately.
pub struct Watched {
    /// The subject's pods.
    pub pods: Vec<Pod>,
    /// The ingress controller's pods.
    pub ingress: Vec<Pod>,
    /// Redis's pod.
    pub redis: Vec<Pod>,
}

/// Seconds of processor time since each one started.
#[derive(Clone, Debug)]
pub struct Clock {
    used: Processors,
    idle: f64,
}

impl Watched {
    /// The processor time used so far.
    ///
    /// # Errors If a pod's group is gone, for example because the pod moved.
    pub fn clock(&self) -> Result<Clock> {
        let sum = |pods: &[Pod]| -> Result<f64> {
            pods.iter().map(|pod| seconds(&pod.group("cpuacct")?)).sum()
        };
        let machines = seconds(&CgroupVersion::here().machines("cpuacct"))?;
        let children = getrusage(UsageWho::RUSAGE_CHILDREN).context("ask for the time used")?;
        let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        let idle = idle(&stat).context("/proc/stat has no line for all processors")?;
        Ok(Clock {
            used: Processors {
                pods: sum(&self.pods)?,
                ingress: sum(&self.ingress)?,
                redis: sum(&self.redis)?,
                load: of(children.user_time()) + of(children.system_time()),
                // All machines; the other figures are parts of it.
                cluster: machines,
                idle: 0.0,
            },
            idle,
        })
    }

    /// Resident memory of the subject's pods, in bytes.
    ///
    /// # Errors
    /// When a pod's group is gone.
    pub fn resident(&self) -> Result<u64> {
        let each = self.pods.iter().map(|pod| {
            let file = pod.group("memory")?.join("memory.stat");
            let text =
                fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            resident(&text).with_context(|| format!("{} has no memory figure", file.display()))
        });
        each.sum()
    }
}

impl Clock {
    /// Processor time between two readings.
    pub fn until(&self, later: &Self) -> Processors {
        let (from, to) = (&self.used, &later.used);
        let mut used = Processors {
            pods: to.pods - from.pods,
            ingress: to.ingress - from.ingress,
            redis: to.redis - from.redis,
            load: to.load - from.load,
            cluster: to.cluster - from.cluster,
            idle: later.idle - self.idle,
        };
        used.cluster -= used.pods + used.ingress + used.redis;
        used
    }
}

impl Pod {
    /// Its group for a controller: kubelets nest them by quality of service.
    fn group(&self, controller: &str) -> Result<PathBuf> {
        let machine = CgroupVersion::here()
            .machines(controller)
            .join(&self.machine);
        find(&machine, &self.uid).with_context(|| {
            format!(
                "pod {} has no control group in machine {}: was it replaced?",
                self.uid, self.machine
            )
        })
    }
}

/// Whether a pod's group has this name: with the driver `cgroupfs` its uid follows `pod`, with
/// `systemd` it is a slice, named by its path and with underscores.
fn is_group_of(name: &str, uid: &str) -> bool {
    let slice = format!("-pod{}.slice", uid.replace('-', "_"));
    name == format!("pod{uid}") || name.ends_with(&slice)
}

fn find(group: &Path, uid: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(group).ok()?.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if is_group_of(&entry.file_name().to_string_lossy(), uid) {
            return Some(entry.path());
        }
        if let Some(found) = find(&entry.path(), uid) {
            return Some(found);
        }
    }
    None
}

fn seconds(group: &Path) -> Result<f64> {
    // cgroup v1 has a file of nanoseconds, cgroup v2 a line of microseconds.
    let (name, key, per_second) = match CgroupVersion::here() {
        CgroupVersion::V1 => ("cpuacct.usage", "", 1e9),
        CgroupVersion::V2 => ("cpu.stat", "usage_usec ", 1e6),
    };
    let file = group.join(name);
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let number =
        value(&text, key).with_context(|| format!("{} has no processor time", file.display()))?;
    Ok(count(number) / per_second)
}

/// The number after this key in a group's file.
fn value(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().parse().ok()
}

#[allow(clippy::cast_precision_loss, reason = "seconds of one process")]
fn of(time: TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}

/// Idle seconds of all processors, in proc(5)'s stat.
fn idle(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // user nice system idle iowait ...
    let idle = line.split_whitespace().skip(3).take(2);
    let ticks: f64 = idle.map_while(|number| number.parse::<f64>().ok()).sum();
    Some(ticks / TICKS)
}

/// Resident memory of a group and those below it: its own pages, and the mapped parts of programs
/// and libraries.
fn resident(stat: &str) -> Option<u64> {
    // By the names of cgroup v1, else of cgroup v2, whose figures always include the groups below.
    let sum = |own: &str, mapped: &str| Some(value(stat, own)? + value(stat, mapped)?);
    sum("total_rss ", "total_mapped_file ").or_else(|| sum("anon ", "file_mapped "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp)]
    use super::*;

    #[test]
    fn a_groups_memory_is_its_own_and_what_it_maps() {
        let stat = "cache 4096\nrss 1\nmapped_file 2\ntotal_cache 9\ntotal_rss 1000\n\
            total_rss_huge 0\ntotal_mapped_file 24\n";
        assert_eq!(resident(stat), Some(1024));
        assert_eq!(resident("anon 1000\nfile 9\nfile_mapped 24\n"), Some(1024));
        assert_eq!(resident("anon 1\n"), None);
    }

    #[test]
    fn a_pods_group_is_found_with_either_driver() {
        let uid = "0f8a-11";
        assert!(is_group_of("pod0f8a-11", uid));
        assert!(is_group_of("kubepods-besteffort-pod0f8a_11.slice", uid));
        assert!(!is_group_of("kubepods-besteffort.slice", uid));
    }

    #[test]
    fn a_processor_that_waits_for_a_disk_is_idle() {
        let stat = "cpu  100 20 80 500 50 5 45 7 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(idle(stat), Some(5.5));
        assert_eq!(idle("intr 1\n"), None);
    }

    #[test]
    fn the_rest_of_the_cluster_is_what_the_others_leave_of_it() {
        let clock = |seconds: f64| Clock {
            used: Processors {
                pods: seconds,
                ingress: 2.0 * seconds,
                redis: 0.5 * seconds,
                load: 3.0 * seconds,
                cluster: 4.0 * seconds,
                idle: 0.0,
            },
            idle: seconds,
        };
        let used = clock(1.0).until(&clock(3.0));
        assert_eq!((used.pods, used.ingress, used.redis), (2.0, 4.0, 1.0));
        assert_eq!((used.load, used.cluster, used.idle), (6.0, 1.0, 2.0));
    }

    #[test]
    fn a_pod_s_group_is_found_wherever_the_kubelet_nests_it() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("kubepods/burstable/pod12-34");
        fs::create_dir_all(group.join("abc")).unwrap();
        assert_eq!(find(dir.path(), "12-34"), Some(group));
        assert_eq!(find(dir.path(), "56"), None);
    }
}
