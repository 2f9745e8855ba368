//! The kubelet's unit, as kubeadm expects it: enabled, and started by kubeadm.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::Serialize;

use super::{files, units};
use crate::{
    config::Settings,
    error::Result,
    identity::Identity,
    kubernetes::{credential_provider, paths},
    ports::World,
    steps::{State, Step},
    wait::Notes,
};

const UNIT: &str = "kubelet.service";

/// An enabled kubelet.service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KubeletUnit {
    /// The unit and the files that its flags name, with their contents.
    pub files: Vec<(PathBuf, String)>,
}

impl KubeletUnit {
    /// The unit, the same on every node, and for which registries the agent has logins.
    pub fn wanted(settings: &Settings, _identity: &Identity) -> Result<Self> {
        Ok(Self {
            files: vec![
                (
                    paths::CREDENTIAL_PROVIDERS.into(),
                    credential_provider::config(settings.images.logins.keys()),
                ),
                (
                    Path::new("/etc/systemd/system").join(UNIT),
                    include_str!("../../../systemd/kubelet.service").to_owned(),
                ),
            ],
        })
    }
}

#[async_trait]
impl Step for KubeletUnit {
    async fn check(&self, world: &World) -> Result<State> {
        let state = files::check(world.host.as_ref(), &self.files).await?;
        if state != State::AsWanted {
            return Ok(state);
        }
        let unit = units::show(world.commands.as_ref(), UNIT).await?;
        Ok(unit.lacks(UNIT).map_or(State::AsWanted, State::Differs))
    }

    async fn apply(&self, world: &World, _notes: &Notes) -> Result<()> {
        files::write(world.host.as_ref(), &self.files).await?;
        let commands = world.commands.as_ref();
        let stale = units::show(commands, UNIT).await?.stale;
        units::enable(commands, UNIT).await?;
        if stale {
            // A running kubelet picks up the change; one that kubeadm has not started yet stays
            // off.
            commands.systemctl(&["try-restart", UNIT]).await?;
        }
        Ok(())
    }
}
