//! containerd: its configuration, registry mirrors and unit, and whether it answers.

mod config;
mod mirrors;

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use serde::Serialize;

use self::config::SOCKET;
use super::{files, units};
use crate::{
    config::Settings,
    error::{Error, Result},
    identity::Identity,
    ports::{Command, World},
    steps::{State, Step},
    wait::{Backoff, Notes, Probe, until},
};

/// Where containerd looks for registry mirrors.
pub(super) const CERTS: &str = "/etc/containerd/certs.d";
/// containerd's client, from the same archive.
pub(super) const CTR: &str = "/usr/local/bin/ctr";

const UNIT: &str = "containerd.service";
const UNIT_TEXT: &str = include_str!("../../../../systemd/containerd.service");

/// Exists from the first changed file until the restart. Under /run, since a boot is also a
/// restart.
const PENDING: &str = "/run/k8s-bootstrap/containerd.restart";

/// A running containerd with this configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Containerd {
    /// All files by path: unit, config.toml and hosts.toml of the mirrors.
    pub files: Vec<(std::path::PathBuf, String)>,
}

impl Containerd {
    /// containerd as configured by the settings.
    pub fn wanted(settings: &Settings, _identity: &Identity) -> Result<Self> {
        let Some(pin) = settings.pins.get("containerd") else {
            return Err(Error::refused("nothing is pinned as `containerd`")
                .hint("add [pins.containerd] with version, url and sha256"));
        };
        let mut files = vec![
            (
                Path::new("/etc/systemd/system").join(UNIT),
                unit(settings, &pin.version),
            ),
            (
                "/etc/containerd/config.toml".into(),
                config::document(settings)?,
            ),
        ];
        files.extend(mirrors::files(settings)?);
        Ok(Self { files })
    }
}

/// The unit; images are pulled through the proxy of the settings, if there is one.
fn unit(settings: &Settings, version: &str) -> String {
    let proxy = settings.proxy.variables(&settings.no_proxy());
    let lines = proxy
        .iter()
        .map(|(name, value)| format!("Environment=\"{name}={value}\"\n"));
    UNIT_TEXT
        .replace("{version}", version)
        .replace("{environment}", &lines.collect::<String>())
}

/// Why containerd does not answer its clients; `None` if it does.
async fn silent_because(world: &World) -> Result<Option<String>> {
    if !world.host.exists(Path::new(SOCKET)).await? {
        return Ok(Some(format!("{SOCKET} does not exist")));
    }
    let version =
        Command::new(CTR, ["--address", SOCKET, "version"]).within(Duration::from_secs(10));
    Ok(match world.commands.run(version.clone()).await {
        Ok(output) => output.success(&version).err(),
        Err(error) => Some(error),
    }
    .map(|error| error.one_line()))
}

#[async_trait]
impl Step for Containerd {
    async fn check(&self, world: &World) -> Result<State> {
        let files = files::check(world.host.as_ref(), &self.files).await?;
        if files != State::AsWanted {
            return Ok(files);
        }
        let unit = units::show(world.commands.as_ref(), UNIT).await?;
        let differs = if world.host.exists(Path::new(PENDING)).await? {
            Some("containerd runs with an older configuration".to_owned())
        } else if let Some(lack) = unit.lacks(UNIT) {
            Some(lack)
        } else if unit.active == "active" {
            silent_because(world).await?
        } else {
            Some(format!("{UNIT} is {}", unit.active))
        };
        Ok(differs.map_or(State::AsWanted, State::Differs))
    }

    async fn apply(&self, world: &World, notes: &Notes) -> Result<()> {
        let (host, commands) = (world.host.as_ref(), world.commands.as_ref());
        let pending = Path::new(PENDING);
        if files::check(host, &self.files).await? != State::AsWanted {
            host.write(pending, b"", 0o600).await?;
            files::write(host, &self.files).await?;
        }
        units::enable(commands, UNIT).await?;
        let advice = "read `journalctl -u containerd`; settings of [containerd.config] go into /etc/containerd/config.toml";
        let running = units::show(commands, UNIT).await?.active == "active";
        if !running || host.exists(pending).await? {
            notes.waiting_for("containerd to start");
            commands
                .systemctl(&["restart", UNIT])
                .await
                .map_err(|error| error.hint(advice))?;
            host.remove(pending).await?;
        }
        let backoff = Backoff::local(Duration::from_mins(1));
        until(
            world.clock.as_ref(),
            notes,
            backoff,
            "containerd to answer",
            async || {
                Ok(match silent_because(world).await? {
                    None => Probe::Done(()),
                    Some(reason) => Probe::NotYet(reason),
                })
            },
        )
        .await
        .map_err(|error| error.hint(advice))
    }
}
