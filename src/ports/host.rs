//! The machine that the agent runs on.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// This machine: files, kernel, mounts.
///
/// Paths are absolute; the adapter may prepend a root, so that tests use the real adapter on a
/// folder of their own.
#[async_trait]
pub trait Host: Send + Sync {
    /// A file's content; `None` if it does not exist.
    async fn read(&self, path: &Path) -> Result<Option<Vec<u8>>>;
    /// Writes a file completely or not at all (temporary file, fsync, rename, fsync of the folder),
    /// creating its folders.
    async fn write(&self, path: &Path, content: &[u8], mode: u32) -> Result<()>;
    /// Removes a file; one that does not exist is no error.
    async fn remove(&self, path: &Path) -> Result<()>;
    /// The paths in a folder, sorted; `None` if there is no such folder.
    async fn list(&self, folder: &Path) -> Result<Option<Vec<PathBuf>>>;
    /// Whether the path exists.
    async fn exists(&self, path: &Path) -> Result<bool>;
    /// Writes a value into a file of /proc or /sys, in place.
    async fn set_kernel_parameter(&self, path: &Path, value: &str) -> Result<()>;
    /// Facts about this machine.
    async fn machine(&self) -> Result<MachineFacts>;
    /// Whether something listens on this TCP port on any local address.
    async fn port_in_use(&self, port: u16) -> Result<bool>;
    /// Turns off the swap device or file.
    async fn swap_off(&self, path: &Path) -> Result<()>;
    /// Makes a kernel module available; a built-in one counts as available.
    async fn load_module(&self, name: &str) -> Result<()>;
    /// sha256 of a file in hexadecimal digits; `None` if it does not exist.
    async fn sha256(&self, path: &Path) -> Result<Option<String>>;
}

/// Facts about the machine that preparation and preflight refusals depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineFacts {
    /// Processors online.
    pub cpus: usize,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// The architecture in Kubernetes' terms: `amd64` or `arm64`.
    pub arch: String,
    /// 1 or 2.
    pub cgroup_version: u8,
    /// Bytes free under /var/lib.
    pub disk_free_bytes: u64,
    /// Whether the effective user is root.
    pub root: bool,
    /// The kernel's release, such as `6.8.0-1030-aws`.
    pub kernel: String,
}
