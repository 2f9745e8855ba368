//! Files in a folder, such as a network file system or a second disk.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::{
    adapters::host,
    error::{Context, Result},
};

/// A folder by its real path.
pub struct Folder(pub PathBuf);

impl Folder {
    /// See [`crate::ports::Archive::put`].
    pub async fn put(&self, name: &str, file: &Path) -> Result<()> {
        let (from, to) = (file.to_owned(), self.0.join(name));
        let attempted = format!("cannot write {}", to.display());
        let work = move || match copied_beside(&from, &to)?.persist_noclobber(&to) {
            Ok(_) => host::sync_folder(host::folder_of(&to)),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error.error),
        };
        host::blocking(work).await.attempting(|| attempted)
    }

    /// See [`crate::ports::Archive::get`].
    pub async fn get(&self, name: &str, file: &Path) -> Result<()> {
        let (from, to) = (self.0.join(name), file.to_owned());
        let attempted = format!("cannot read {}", from.display());
        let work = move || {
            copied_beside(&from, &to)?
                .persist(&to)
                .map_err(|error| error.error)?;
            host::sync_folder(host::folder_of(&to))
        };
        host::blocking(work).await.attempting(|| attempted)
    }

    /// See [`crate::ports::Archive::list`].
    pub async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let path = self.0.join(folder);
        let attempted = format!("cannot list {}", path.display());
        let work = move || {
            let entries = match fs::read_dir(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries?,
            };
            let mut names = Vec::new();
            for entry in entries {
                let name = entry?.file_name().to_string_lossy().into_owned();
                // Skip files that are still being written.
                if !name.starts_with('.') {
                    names.push(name);
                }
            }
            names.sort();
            Ok(names)
        };
        host::blocking(work).await.attempting(|| attempted)
    }

    /// See [`crate::ports::Archive::delete`].
    pub async fn delete(&self, name: &str) -> Result<()> {
        let path = self.0.join(name);
        let attempted = format!("cannot remove {}", path.display());
        let work = move || match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        host::blocking(work).await.attempting(|| attempted)
    }
}

/// A copy for the owner alone, under a temporary name next to the target and already on disk.
fn copied_beside(from: &Path, target: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut source = fs::File::open(from)?;
    let folder = host::folder_of(target);
    host::make_folders(folder)?;
    let mut copy = tempfile::Builder::new()
        .prefix(".k8s-bootstrap-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(folder)?;
    io::copy(&mut source, &mut copy)?;
    copy.as_file().sync_all()?;
    Ok(copy)
}
