//! Taking the lab down: from its state if there is one, otherwise by its names and its folder.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::layout::Layout;
use crate::machine::{cgroups, supervisor};
use crate::{network, process};

/// How long killed processes may take to exit.
const EXIT: Duration = Duration::from_secs(10);

/// What was found and removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Killed processes.
    pub processes: usize,
    /// Network namespaces.
    pub namespaces: usize,
}

/// Process ids of the lab's servers.
pub fn servers(layout: &Layout) -> Vec<i32> {
    process::find_own(&["serve", &layout.dir().to_string_lossy()])
}

/// Removes everything of the lab except its cache. Safe to repeat at any time.
pub fn run(layout: &Layout) -> Result<Removed> {
    let mut removed = Removed::default();
    let servers = servers(layout);
    // Namespaces and groups have the same names in every lab; those of a lab that runs in another
    // folder are not ours.
    let foreign = servers.is_empty() && crate::serve::check_alone(layout).is_err();
    // Supervisors first: otherwise they reboot the killed machines.
    let mut own = supervisor::find(layout, None);
    own.extend(servers);
    removed.processes += end(&own)?;
    if !foreign {
        cgroups::destroy(None)?;
        for namespace in network::namespaces() {
            removed.processes += end(&network::processes(&namespace))?;
            network::remove(&namespace)?;
            removed.namespaces += 1;
        }
    }
    unmount(layout.dir())?;
    for folder in [layout.machines(), layout.run()] {
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
    }
    for file in [layout.state(), layout.dir().join("state.lock")] {
        if file.exists() {
            fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
    }
    Ok(removed)
}

fn end(pids: &[i32]) -> Result<usize> {
    for pid in pids {
        process::kill_hard(*pid)?;
    }
    if !process::wait_until(EXIT, || !pids.iter().any(|pid| process::is_alive(*pid))) {
        bail!("the lab's processes {pids:?} do not end");
    }
    Ok(pids.len())
}

/// Unmounts what is mounted below a folder.
fn unmount(dir: &Path) -> Result<()> {
    let table =
        fs::read_to_string("/proc/self/mounts").context("cannot read the list of mounts")?;
    for point in mounts_below(&table, dir) {
        process::run("umount", &[point])?;
    }
    Ok(())
}

/// Mount points below a folder in a table as in `/proc/self/mounts`, the deepest first.
fn mounts_below<'a>(table: &'a str, dir: &Path) -> Vec<&'a str> {
    let mut points: Vec<&str> = table
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .filter(|point| Path::new(point).starts_with(dir))
        .collect();
    points.sort_unstable_by_key(|point| std::cmp::Reverse(point.len()));
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_below_the_folder_are_undone_and_the_deepest_first() {
        let table = "overlay /r/.lab/machines/w1/root overlay rw 0 0\n\
                     tmpfs /r/.lab/machines/w1/root/run tmpfs rw 0 0\n\
                     tmpfs /r/.laboratory tmpfs rw 0 0\n\
                     tmpfs / tmpfs rw 0 0\n";
        assert_eq!(
            mounts_below(table, Path::new("/r/.lab")),
            ["/r/.lab/machines/w1/root/run", "/r/.lab/machines/w1/root"]
        );
    }
}
