//! Where a download is stored before and after it is verified.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    adapters::host,
    error::{Error, Result},
    ports::{Download, Target},
    steps::host::Inventory,
};

/// Which download a part belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    url: String,
    sha256: String,
}

impl Journal {
    /// The journal of a download.
    pub fn of(download: &Download) -> Self {
        Self {
            url: download.url.clone(),
            sha256: download.sha256.clone(),
        }
    }
}

/// All paths of one download. Part and staging are in the target's folder, since a rename is atomic
/// only within one file system.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The target's folder.
    pub folder: PathBuf,
    /// A single file and its mode; `None` for an archive.
    pub file: Option<(PathBuf, u32)>,
    /// The bytes as received, not verified yet.
    pub part: PathBuf,
    /// Which download the part belongs to.
    pub journal: PathBuf,
    /// An archive's files before they are verified.
    pub staging: PathBuf,
    /// Which files came from an archive.
    pub inventory: PathBuf,
}

impl Place {
    /// The paths of a download below the root.
    pub fn of(root: &Path, download: &Download) -> Result<Self> {
        let single = |path: &Path, mode| {
            let file = host::place(root, path)?;
            let folder = file.parent().unwrap_or(root).to_owned();
            let stem = path.file_name().unwrap_or_default().to_string_lossy();
            Ok::<_, Error>((folder, Some((file, mode)), stem.into_owned()))
        };
        let (folder, file, stem) = match &download.target {
            Target::File(path) => single(path, 0o644)?,
            Target::Program(path) => single(path, 0o755)?,
            Target::Programs(folder) => (
                host::place(root, folder)?,
                None,
                last_segment(&download.url),
            ),
        };
        Ok(Self {
            part: folder.join(format!(".{stem}.part")),
            journal: folder.join(format!(".{stem}.part.json")),
            staging: folder.join(format!(".{stem}.staging")),
            inventory: host::place(root, &Inventory::path(&download.sha256))?,
            folder,
            file,
        })
    }

    /// How many bytes an earlier run left of this download.
    pub fn held(&self, wanted: &Journal) -> u64 {
        let journal = fs::read(&self.journal)
            .ok()
            .and_then(|text| serde_json::from_slice::<Journal>(&text).ok());
        if journal.as_ref() == Some(wanted) {
            fs::symlink_metadata(&self.part)
                .map_or(0, |meta| if meta.is_file() { meta.len() } else { 0 })
        } else {
            0
        }
    }

    /// Removes everything that is not verified.
    pub fn clear(&self) {
        // Nothing can be done about a failure, and the next attempt clears again.
        let _ = fs::remove_file(&self.part);
        let _ = fs::remove_file(&self.journal);
        self.clear_staging();
    }

    /// Removes unpacked files.
    pub fn clear_staging(&self) {
        let _ = fs::remove_dir_all(&self.staging);
    }

    /// An empty staging folder.
    pub fn make_staging(&self) -> io::Result<()> {
        self.clear_staging();
        fs::create_dir(&self.staging)
    }
}

fn last_segment(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    path.rsplit('/')
        .next()
        .unwrap_or_default()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-._".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect()
}
