//! Where the lab stores its files: everything below one folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Prefix of every namespace and machine name of the lab, so that `down` recognizes them even if
/// its state is lost.
pub const PREFIX: &str = "lab-";

/// The lab's folder, `<repository>/.lab` unless `LAB_DIR` names another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    dir: PathBuf,
    repository: PathBuf,
}

impl Layout {
    /// Finds the folder from `LAB_DIR` or the repository that the lab was built in.
    pub fn find() -> Result<Self> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("the lab's package has no parent folder")?
            .to_path_buf();
        let dir =
            std::env::var_os("LAB_DIR").map_or_else(|| repository.join(".lab"), PathBuf::from);
        std::fs::create_dir_all(&dir)
            .with_context(|| format!("cannot create the lab's folder {}", dir.display()))?;
        let dir = dir
            .canonicalize()
            .with_context(|| format!("cannot resolve {}", dir.display()))?;
        Ok(Self { dir, repository })
    }

    /// A layout below `dir`, for tests.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        Self {
            repository: dir.clone(),
            dir,
        }
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The repository: units, templates and the agent's binary come from here.
    pub fn repository(&self) -> &Path {
        &self.repository
    }

    /// Files that `down` keeps: components, moto's Python environment.
    pub fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }

    /// The user's image archives, `*.tar`, for the lab's registry.
    pub fn images(&self) -> PathBuf {
        self.dir.join("images")
    }

    /// Files that `down` removes: sockets, logs, certificates.
    pub fn run(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The unix socket on which the lab's servers take calls from the lab's CLI.
    pub fn socket(&self) -> PathBuf {
        self.run().join("api.sock")
    }

    /// The state, JSON.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state.json")
    }

    /// The folder of all machines.
    pub fn machines(&self) -> PathBuf {
        self.dir.join("machines")
    }

    /// A machine's folder: disk, console, user-data.
    pub fn machine(&self, name: &str) -> PathBuf {
        self.machines().join(name)
    }

    /// One line per request to the forward proxy.
    pub fn proxy_log(&self) -> PathBuf {
        self.run().join("proxy.log")
    }

    /// One JSON line per request to the metadata service.
    pub fn imds_log(&self) -> PathBuf {
        self.run().join("imds.jsonl")
    }
}

/// The network namespace of a machine, or of the VPC for `vpc`.
pub fn namespace(name: &str) -> String {
    format!("{PREFIX}{name}")
}
