//! The image registry: Debian's docker-registry over a prepared folder.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::process::Child;

use crate::layout::Layout;
use crate::process;

/// Port of the registry, at the artifact server's addresses.
pub const PORT: u16 = 5000;

/// Port of the same registry for those who log in.
pub const PRIVATE_PORT: u16 = 5001;

/// The only login of [`PRIVATE_PORT`].
pub const LOGIN: &str = "lab:for-the-lab-only";

/// The same as `htpasswd -B` writes it.
const HTPASSWD: &str = "lab:$2y$04$7TMIpc9.Oqv5WnUjOr5/SOsw/DkjhANGu6N2zQ.8cR1v/dWkbFHOi\n";

/// Starts the registry over `storage`, for everybody and for those who log in. Both die with the
/// process that started them.
pub fn start(layout: &Layout, storage: &Path) -> Result<[Child; 2]> {
    let users = layout.run().join("registry.htpasswd");
    fs::write(&users, HTPASSWD).with_context(|| format!("cannot write {}", users.display()))?;
    let auth = serde_json::json!({ "htpasswd": { "realm": "lab", "path": users } });
    Ok([
        serve(layout, storage, PORT, None)?,
        serve(layout, storage, PRIVATE_PORT, Some(auth))?,
    ])
}

fn serve(layout: &Layout, storage: &Path, port: u16, auth: Option<Value>) -> Result<Child> {
    let mut config = serde_json::json!({
        "version": 0.1,
        "log": { "level": "warn" },
        "storage": {
            "filesystem": { "rootdirectory": storage },
            "maintenance": { "readonly": { "enabled": true } },
        },
        "http": { "addr": format!(":{port}"), "secret": "lab" },
    });
    if let Some(auth) = auth {
        config["auth"] = auth;
    }
    // JSON is YAML, which the registry reads.
    let file = layout.run().join(format!("registry-{port}.yml"));
    fs::write(&file, config.to_string())
        .with_context(|| format!("cannot write {}", file.display()))?;
    process::server(&layout.run().join(format!("registry-{port}.log")))?
        .args(["docker-registry", "serve"])
        .arg(&file)
        .env("OTEL_TRACES_EXPORTER", "none")
        .spawn()
        .context("cannot start docker-registry: is the package docker-registry installed?")
}
