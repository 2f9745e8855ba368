//! `install`: called by user-data.

use std::path::Path;

use super::require_root;
use crate::{adapters::wiring::Wiring, error::Result};

/// The unit that `install` writes.
const UNIT: &str = include_str!("../../systemd/k8s-bootstrap.service");
const UNIT_FILE: &str = "/etc/systemd/system/k8s-bootstrap.service";

/// `install`: writes, enables and starts the unit.
pub async fn install() -> Result<()> {
    let wiring = Wiring::new()?;
    require_root(&wiring, "to install the service").await?;
    let unit = Path::new(UNIT_FILE);
    wiring.host.write(unit, UNIT.as_bytes(), 0o644).await?;
    // --no-block: user-data runs during the boot, and the unit starts only after it.
    for args in [
        &["daemon-reload"][..],
        &["enable", "k8s-bootstrap.service"],
        &["start", "--no-block", "k8s-bootstrap.service"],
    ] {
        wiring.commands.systemctl(args).await?;
    }
    println!("k8s-bootstrap.service is starting: watch it with `k8s-bootstrap status --watch`");
    Ok(())
}
