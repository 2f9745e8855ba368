//! This machine's files and kernel.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::commands::LocalCommands;
use crate::{
    error::{Context, Error, Result},
    ports::{Command, Commands, Host, MachineFacts},
};

/// The machine that this process runs on, or a folder in its place.
#[derive(Clone)]
pub struct LocalHost {
    root: PathBuf,
    /// For `modprobe` and `swapoff`, which have no safe system call here.
    commands: Option<Arc<dyn Commands>>,
}

impl LocalHost {
    /// This machine itself.
    pub fn new() -> Self {
        Self::at("/").with_commands(Arc::new(LocalCommands::new()))
    }

    /// A folder in place of `/`. It starts no programs unless `with_commands` provides them.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            commands: None,
        }
    }

    /// The same host with these programs.
    #[must_use]
    pub fn with_commands(mut self, commands: Arc<dyn Commands>) -> Self {
        self.commands = Some(commands);
        self
    }

    fn place(&self, path: &Path) -> Result<PathBuf> {
        place(&self.root, path)
    }

    async fn run(&self, command: Command) -> Result<()> {
        let Some(commands) = &self.commands else {
            return Err(Error::failed(format!(
                "cannot run `{}`: the host at {} has no programs",
                command.line(),
                self.root.display()
            )));
        };
        commands.succeed(command).await?;
        Ok(())
    }
}

impl Default for LocalHost {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Host for LocalHost {
    async fn read(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        match tokio::fs::read(self.place(path)?).await {
            Ok(content) => Ok(Some(content)),
            Err(cause) if is_absent(&cause) => Ok(None),
            Err(cause) => {
                Err(Error::failed(format!("cannot read {}", path.display())).because(&cause))
            }
        }
    }

    async fn write(&self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        let (target, content) = (self.place(path)?, content.to_vec());
        let outcome = blocking(move || write_whole(&target, &content, mode)).await;
        on_disk(outcome, path)
    }

    async fn remove(&self, path: &Path) -> Result<()> {
        match tokio::fs::remove_file(self.place(path)?).await {
            Err(cause) if !is_absent(&cause) => {
                Err(Error::failed(format!("cannot remove {}", path.display())).because(&cause))
            }
            _ => Ok(()),
        }
    }

    async fn list(&self, folder: &Path) -> Result<Option<Vec<PathBuf>>> {
        let place = self.place(folder)?;
        let names = blocking(move || {
            fs::read_dir(place)?
                .map(|entry| entry.map(|entry| entry.file_name()))
                .collect::<io::Result<Vec<_>>>()
        })
        .await;
        match names {
            Ok(mut names) => {
                names.sort();
                Ok(Some(names.iter().map(|name| folder.join(name)).collect()))
            }
            Err(cause) if is_absent(&cause) => Ok(None),
            Err(cause) => {
                Err(Error::failed(format!("cannot list {}", folder.display())).because(&cause))
            }
        }
    }

    async fn exists(&self, path: &Path) -> Result<bool> {
        match tokio::fs::try_exists(self.place(path)?).await {
            Err(cause) if is_absent(&cause) => Ok(false),
            found => found.attempting(|| format!("cannot check whether {} exists", path.display())),
        }
    }

    async fn set_kernel_parameter(&self, path: &Path, value: &str) -> Result<()> {
        let (target, value_sent) = (self.place(path)?, value.to_owned());
        blocking(move || {
            // Never created: a parameter that the kernel lacks is an error, not a new file.
            fs::OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(target)?
                .write_all(value_sent.as_bytes())
        })
        .await
        .attempting(|| format!("cannot set {} to {value}", path.display()))
    }

    async fn machine(&self) -> Result<MachineFacts> {
        let var_lib = self.place(Path::new("/var/lib"))?;
        let unified = self.place(Path::new("/sys/fs/cgroup/cgroup.controllers"))?;
        blocking(move || {
            let mut system = sysinfo::System::new().map_err(io::Error::other)?;
            system.refresh_memory();
            system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
            Ok(MachineFacts {
                cpus: system.cpus().len(),
                memory_bytes: system.total_memory(),
                arch: architecture(std::env::consts::ARCH).to_owned(),
                cgroup_version: if unified.exists() { 2 } else { 1 },
                disk_free_bytes: free_bytes(&var_lib)?,
                root: nix::unistd::geteuid().is_root(),
                kernel: sysinfo::System::kernel_version().unwrap_or_default(),
            })
        })
        .await
        .attempting(|| "cannot determine the properties of this machine".to_owned())
    }

    async fn port_in_use(&self, port: u16) -> Result<bool> {
        for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
            let Some(content) = self.read(Path::new(table)).await? else {
                continue; // a kernel without IPv6
            };
            if listens(&String::from_utf8_lossy(&content), port) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn swap_off(&self, path: &Path) -> Result<()> {
        self.run(Command::new("swapoff", [path.display().to_string()]))
            .await
            .map_err(|error| error.during(format!("cannot turn off the swap {}", path.display())))
    }

    async fn load_module(&self, name: &str) -> Result<()> {
        if self
            .exists(&Path::new("/sys/module").join(name.replace('-', "_")))
            .await?
        {
            return Ok(());
        }
        self.run(Command::new("modprobe", ["--", name]))
            .await
            .map_err(|error| error.during(format!("cannot load the kernel module {name}")))
    }

    async fn sha256(&self, path: &Path) -> Result<Option<String>> {
        let file = self.place(path)?;
        match blocking(move || sha256_of(&file)).await {
            Ok(digest) => Ok(Some(digest)),
            Err(cause) if is_absent(&cause) => Ok(None),
            Err(cause) => {
                Err(Error::failed(format!("cannot hash {}", path.display())).because(&cause))
            }
        }
    }
}

/// This absolute path below the root.
pub(super) fn place(root: &Path, path: &Path) -> Result<PathBuf> {
    let mut parts = path.components();
    if parts.next() != Some(Component::RootDir)
        || path.components().any(|c| c == Component::ParentDir)
    {
        return Err(Error::refused(format!(
            "`{}` is not an absolute path without `..`",
            path.display()
        )));
    }
    Ok(root.join(parts.as_path()))
}

/// Adds a hint to a disk error.
pub(super) fn on_disk<T>(outcome: io::Result<T>, path: &Path) -> Result<T> {
    outcome.map_err(|cause| {
        let error = Error::failed(format!("cannot write {}", path.display())).because(&cause);
        match cause.kind() {
            io::ErrorKind::StorageFull => {
                error.hint("the disk is full: free some space or give the instance a larger volume")
            }
            io::ErrorKind::ReadOnlyFilesystem => {
                error.hint("the file system is read-only: see `dmesg` for disk errors")
            }
            _ => error,
        }
    })
}

/// Bytes free for this process at the path, or at the nearest existing parent folder.
pub(super) fn free_bytes(path: &Path) -> io::Result<u64> {
    let existing = path
        .ancestors()
        .find(|folder| folder.exists())
        .unwrap_or(Path::new("/"));
    let stat = nix::sys::statvfs::statvfs(existing)?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

/// Creates a folder and its parents, readable by all regardless of the umask: programs and units
/// are looked up in them, and secrets have their own modes.
pub(super) fn make_folders(folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = folder.ancestors().take_while(|f| !f.exists()).collect();
    for folder in missing.into_iter().rev() {
        match fs::create_dir(folder) {
            Ok(()) => fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?,
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

/// Makes new names in a folder survive a power failure.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

/// The folder of a file.
pub(super) fn folder_of(target: &Path) -> &Path {
    target.parent().unwrap_or(Path::new("/"))
}

/// A file's content under a temporary name next to it, on disk already.
pub(super) fn written_next_to(
    target: &Path,
    content: &[u8],
    mode: u32,
) -> io::Result<NamedTempFile> {
    let folder = folder_of(target);
    make_folders(folder)?;
    let mut file = tempfile::Builder::new()
        .prefix(".k8s-bootstrap-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(folder)?;
    file.write_all(content)?;
    // Separate from creation, where the umask would remove bits.
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Writes a file so that at any time either the old or the new one exists.
pub(super) fn write_whole(target: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let file = written_next_to(target, content, mode)?;
    file.persist(target).map_err(|error| error.error)?;
    sync_folder(folder_of(target))
}

/// sha256 of a file in hexadecimal digits.
pub(super) fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Runs file I/O where it does not block the runtime.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|cause| Err(io::Error::other(cause)))
}

fn is_absent(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The architecture in Kubernetes' terms.
fn architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Whether a table of /proc/net has a listening socket on the port.
///
/// Columns: `sl  local_address rem_address   st ...`, numbers in hexadecimal digits, LISTEN is 0A.
fn listens(table: &str, port: u16) -> bool {
    table.lines().skip(1).any(|line| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let local = columns.next().and_then(|a| a.rsplit(':').next());
        let state = columns.nth(1);
        state == Some("0A") && local.and_then(|p| u16::from_str_radix(p, 16).ok()) == Some(port)
    })
}

#[cfg(test)]
mod tests;
