//! Files that belong to the agent as a whole.

use std::path::{Path, PathBuf};

use crate::{error::Result, ports::Host, steps::State};

/// First line of every file that the agent owns, if its format allows comments.
pub(super) const HEADER: &str = "# Written by k8s-bootstrap; changes are overwritten.\n";

/// A file and its content.
pub(super) type File = (PathBuf, String);

/// A file as text; empty if it does not exist.
pub(super) async fn text(host: &dyn Host, path: &Path) -> Result<String> {
    let content = host.read(path).await?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&content).into_owned())
}

/// Whether all files have their content; else names the first that differs.
pub(super) async fn check(host: &dyn Host, files: &[File]) -> Result<State> {
    for (path, content) in files {
        match host.read(path).await? {
            None => return Ok(State::Differs(format!("{} is missing", path.display()))),
            Some(found) if found != content.as_bytes() => {
                return Ok(State::Differs(format!("{} differs", path.display())));
            }
            Some(_) => {}
        }
    }
    Ok(State::AsWanted)
}

/// Writes the files that differ.
pub(super) async fn write(host: &dyn Host, files: &[File]) -> Result<()> {
    for file @ (path, content) in files {
        if check(host, std::slice::from_ref(file)).await? != State::AsWanted {
            host.write(path, content.as_bytes(), 0o644).await?;
        }
    }
    Ok(())
}
