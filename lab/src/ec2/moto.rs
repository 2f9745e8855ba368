//! moto: the AWS API as a separate program, on loopback inside the VPC's namespace. Its environment
//! also has the AWS CLI.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use tokio::process::Child;
use tokio::time::{Instant, sleep};

use crate::layout::Layout;
use crate::process::{self, run};

/// The pinned packages to install.
const REQUIREMENTS: &str = include_str!("../../requirements.txt");
/// The port on loopback.
const PORT: u16 = 5080;
/// Longest start: Python imports every service.
const START_DEADLINE: Duration = Duration::from_mins(1);

/// moto's URL inside the VPC's namespace.
pub fn base() -> String {
    format!("http://127.0.0.1:{PORT}")
}

/// Resolves symbolic links: the environment's programs contain its full path, and the cache may be
/// a link to one that several checkouts share.
fn environment(layout: &Layout) -> PathBuf {
    let cache = layout.cache();
    cache.canonicalize().unwrap_or(cache).join("moto")
}

/// The folder of the environment's programs: `moto_server`, `cfn-lint`, `aws`.
pub fn programs(layout: &Layout) -> PathBuf {
    environment(layout).join("bin")
}

/// Installs moto into a separate environment, once per set of pins.
pub fn install(layout: &Layout) -> Result<()> {
    fs::create_dir_all(layout.cache())?;
    let environment = environment(layout);
    let marker = environment.join("requirements.sha256");
    let inputs = format!("{REQUIREMENTS}{}", environment.display());
    let wanted = hex::encode(Sha256::digest(inputs));
    if fs::read_to_string(&marker).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    if environment.exists() {
        // Incomplete, with other pins, or moved: an environment contains its own path.
        fs::remove_dir_all(&environment)
            .with_context(|| format!("cannot remove {}", environment.display()))?;
    }
    let folder = environment.to_string_lossy().into_owned();
    run("python3", &["-m", "venv", &folder])
        .context("cannot create moto's Python environment: is python3-venv installed?")?;
    let list = tempfile::NamedTempFile::new()?;
    fs::write(list.path(), REQUIREMENTS)?;
    let pip = environment.join("bin/pip").to_string_lossy().into_owned();
    let list_path = list.path().to_string_lossy().into_owned();
    run(&pip, &["install", "--quiet", "--requirement", &list_path])
        .context("cannot install moto")?;
    fs::write(&marker, wanted).with_context(|| format!("cannot write {}", marker.display()))
}

/// Makes moto check signatures and permissions, or accept every call.
pub async fn enforce(client: &reqwest::Client, on: bool) -> Result<()> {
    // The number of calls that it accepts unchecked from now on.
    let unchecked = if on { "0" } else { "inf" };
    client
        .post(format!("{}/moto-api/reset-auth", base()))
        .header("content-type", "text/plain")
        .body(unchecked)
        .send()
        .await?
        .error_for_status()
        .context("moto does not switch its permission checks")?;
    Ok(())
}

/// Starts moto with permission checks, and waits until it answers.
pub async fn start(layout: &Layout) -> Result<Child> {
    let child = serve(layout, PORT, &layout.run().join("moto.log")).await?;
    enforce(&super::client::plain()?, true).await?;
    Ok(child)
}

/// Starts moto without permission checks on this port of loopback, and waits until it answers. It
/// dies with the thread that started it.
pub async fn serve(layout: &Layout, port: u16, log_path: &Path) -> Result<Child> {
    let program = programs(layout).join("moto_server");
    let mut child = process::server(log_path)?
        .arg(&program)
        .args(["-H", "127.0.0.1", "-p", &port.to_string()])
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let client = super::client::plain()?;
    let end = Instant::now() + START_DEADLINE;
    loop {
        if client
            .get(format!("http://127.0.0.1:{port}/moto-api/"))
            .send()
            .await
            .is_ok()
        {
            return Ok(child);
        }
        if let Some(status) = child.try_wait()? {
            bail!(
                "moto ended with {status} while it started: see {}",
                log_path.display()
            );
        }
        if Instant::now() > end {
            bail!(
                "moto did not answer within {} s: see {}",
                START_DEADLINE.as_secs(),
                log_path.display()
            );
        }
        sleep(Duration::from_millis(100)).await;
    }
}
