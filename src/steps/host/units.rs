//! systemd's view of a unit, and changes to it.

use crate::{error::Result, ports::Commands};

/// What systemd says about a unit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Unit {
    /// `active`, `inactive`, `failed`, `activating` ...
    pub active: String,
    /// Started at boot.
    pub enabled: bool,
    /// The file on disk has changed since systemd read it.
    pub stale: bool,
}

impl Unit {
    /// What is missing for a unit that is started at boot, if anything.
    pub fn lacks(&self, name: &str) -> Option<String> {
        if self.stale {
            return Some(format!("systemd has not read {name} since it changed"));
        }
        (!self.enabled).then(|| format!("{name} is not enabled"))
    }
}

/// Asks systemd about a unit; an unknown unit is inactive.
pub(super) async fn show(commands: &dyn Commands, unit: &str) -> Result<Unit> {
    let properties = "--property=ActiveState,UnitFileState,NeedDaemonReload";
    let output = commands.systemctl(&["show", properties, unit]).await?;
    let value = |key: &str| {
        output
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    Ok(Unit {
        active: value("ActiveState"),
        enabled: value("UnitFileState") == "enabled",
        stale: value("NeedDaemonReload") == "yes",
    })
}

/// Starts the unit at boot, and makes systemd read its files again. It does that only once, since
/// it takes systemd longer than everything else here; a plain `enable` would do it a second time.
pub(super) async fn enable(commands: &dyn Commands, unit: &str) -> Result<()> {
    commands.systemctl(&["enable", "--no-reload", unit]).await?;
    commands.systemctl(&["daemon-reload"]).await?;
    Ok(())
}
