//! The image registry: Debian's docker-registry over a prepared folder.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use tokio::process::{Child, Command};

use crate::ec2::moto::log_file;
use crate::layout::Layout;
use crate::network::ARTIFACTS;

/// Port of the registry, at the artifact server's address.
pub const PORT: u16 = 5000;

/// Starts the registry over `storage`. It dies with the process that started it.
pub fn start(layout: &Layout, storage: &Path) -> Result<Child> {
    let config = serde_json::json!({
        "version": 0.1,
        "log": { "level": "warn" },
        "storage": {
            "filesystem": { "rootdirectory": storage },
            "maintenance": { "readonly": { "enabled": true } },
        },
        "http": { "addr": format!("{ARTIFACTS}:{PORT}"), "secret": "lab" },
    });
    // JSON is YAML, which the registry reads.
    let file = layout.run().join("registry.yml");
    fs::write(&file, config.to_string())
        .with_context(|| format!("cannot write {}", file.display()))?;
    let log = log_file(&layout.run().join("registry.log"))?;
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "docker-registry", "serve"])
        .arg(&file)
        .env("OTEL_TRACES_EXPORTER", "none")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start docker-registry: is the package docker-registry installed?")
}
