//! Swap off, now and after every boot: the kubelet assumes that memory is not swapped.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::Serialize;

use super::files;
use crate::{
    config::Settings,
    error::Result,
    identity::Identity,
    ports::World,
    steps::{State, Step},
    wait::Notes,
};

const FSTAB: &str = "/etc/fstab";
const SWAPS: &str = "/proc/swaps";

/// Whether the node has swap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Swap {
    /// False if the kubelet is configured to accept swap (`failSwapOn: false`).
    pub off: bool,
}

impl Swap {
    /// Off, unless the kubelet's configuration says otherwise.
    pub fn wanted(settings: &Settings, _identity: &Identity) -> Result<Self> {
        let fails = settings.kubelet.config.get("failSwapOn");
        Ok(Self {
            off: fails.and_then(serde_json::Value::as_bool).unwrap_or(true),
        })
    }
}

/// The devices and files in use, as /proc/swaps lists them.
fn in_use(swaps: &str) -> Vec<PathBuf> {
    swaps
        .lines()
        .skip(1)
        .filter_map(|line| line.split_ascii_whitespace().next())
        .map(|path| PathBuf::from(unescaped(path)))
        .collect()
}

/// The kernel writes spaces, tabs, newlines and backslashes as `\` and three octal digits.
fn unescaped(path: &str) -> String {
    path.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

/// The table with its swap entries commented out and all else unchanged.
fn without_swap(fstab: &[u8]) -> Vec<u8> {
    let mut changed = Vec::with_capacity(fstab.len() + 1);
    for line in fstab.split_inclusive(|byte| *byte == b'\n') {
        if is_swap(line) {
            changed.push(b'#');
        }
        changed.extend_from_slice(line);
    }
    changed
}

fn is_swap(line: &[u8]) -> bool {
    let fields: Vec<&[u8]> = line
        .split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty())
        .collect();
    matches!(fields[..], [device, _, b"swap", ..] if !device.starts_with(b"#"))
}

#[async_trait]
impl Step for Swap {
    async fn check(&self, world: &World) -> Result<State> {
        if !self.off {
            return Ok(State::AsWanted);
        }
        let host = world.host.as_ref();
        let swaps = in_use(&files::text(host, Path::new(SWAPS)).await?);
        if let Some(swap) = swaps.first() {
            return Ok(State::Differs(format!("{} is in use", swap.display())));
        }
        match host.read(Path::new(FSTAB)).await? {
            Some(fstab) if without_swap(&fstab) != fstab => Ok(State::Differs(format!(
                "{FSTAB} turns swap on at the next boot"
            ))),
            _ => Ok(State::AsWanted),
        }
    }

    async fn apply(&self, world: &World, notes: &Notes) -> Result<()> {
        if !self.off {
            return Ok(());
        }
        let host = world.host.as_ref();
        if let Some(fstab) = host.read(Path::new(FSTAB)).await? {
            let changed = without_swap(&fstab);
            if changed != fstab {
                host.write(Path::new(FSTAB), &changed, 0o644).await?;
            }
        }
        for swap in in_use(&files::text(host, Path::new(SWAPS)).await?) {
            notes.waiting_for(format!("the swap {} to be emptied", swap.display()));
            host.swap_off(&swap).await.map_err(|error| {
                error.hint(
                    "run `swapoff -a`, or set kubelet.config.failSwapOn = false to keep the swap",
                )
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn only_swap_entries_are_commented_out_and_all_else_stays_byte_for_byte() {
        let fstab = b"LABEL=root / ext4 defaults 0 1\r\n\t/dev/xvdb  none\tswap sw 0 0\n#/old none swap sw 0 0\n\xff\xfe bytes\n/swap.img none swap sw";
        assert_eq!(
            without_swap(fstab),
            b"LABEL=root / ext4 defaults 0 1\r\n#\t/dev/xvdb  none\tswap sw 0 0\n#/old none swap sw 0 0\n\xff\xfe bytes\n#/swap.img none swap sw"
        );
        assert_eq!(without_swap(&without_swap(fstab)), without_swap(fstab));
        let no_swap = b"/dev/swap /swap ext4 swap 0 0\n";
        assert_eq!(without_swap(no_swap), no_swap);
    }

    #[test]
    fn the_kernels_swap_list_is_read_with_its_escapes() {
        let swaps = "Filename\t\t\t\tType\t\tSize\n/dev/nvme1n1p2                          partition\t2097148\t\t0\t\t-2\n/my\\040swap file 1 0 -3\n";
        assert_eq!(
            in_use(swaps),
            [PathBuf::from("/dev/nvme1n1p2"), PathBuf::from("/my swap")]
        );
    }
}
