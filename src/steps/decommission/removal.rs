//! Removes what the agent and kubeadm made on this machine.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    error::Result,
    kubernetes::paths,
    ports::{Command, World},
    steps::{State, Step},
    wait::Notes,
};

/// One part of the removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "removal", rename_all = "kebab-case")]
pub enum Removal {
    /// `kubeadm reset`: containers, certificates, static pods, etcd's data.
    Kubeadm,
    /// Units that are stopped and not started at boot.
    Units {
        /// As systemd names them, such as `kubelet.service`.
        names: Vec<&'static str>,
    },
    /// Files and folders that no longer exist.
    Files {
        /// Absolute paths.
        paths: Vec<PathBuf>,
    },
    /// kube-proxy's packet rules. Another kube-proxy that finds them does not write its own, and
    /// then no Service answers on the node.
    Rules,
    /// Calico's tunnel.
    Tunnel,
}

/// Calico's tunnel, as the kernel lists it.
pub const TUNNEL: &str = "/sys/class/net/vxlan.calico";

impl Removal {
    /// These units are stopped.
    pub fn units(names: &[&'static str]) -> Self {
        Self::Units {
            names: names.to_vec(),
        }
    }

    /// These files and folders are gone.
    pub fn files(paths: &[&str]) -> Self {
        Self::Files {
            paths: paths.iter().map(PathBuf::from).collect(),
        }
    }

    /// What is still there, if anything.
    async fn left(&self, world: &World) -> Result<Option<String>> {
        match self {
            Self::Kubeadm => {
                for path in [paths::KUBELET_CONF, paths::MANIFESTS] {
                    let there = match world.host.list(path.as_ref()).await {
                        Ok(Some(entries)) => !entries.is_empty(),
                        _ => world.host.read(path.as_ref()).await?.is_some(),
                    };
                    if there {
                        return Ok(Some(path.to_owned()));
                    }
                }
                Ok(None)
            }
            Self::Units { names } => {
                for name in names {
                    let asked =
                        Command::systemctl(["show", "--property=ActiveState,UnitFileState", *name]);
                    let said = world.commands.succeed(asked).await?;
                    let runs = said.stdout.contains("ActiveState=active");
                    if runs || said.stdout.contains("UnitFileState=enabled") {
                        return Ok(Some((*name).to_owned()));
                    }
                }
                Ok(None)
            }
            Self::Files { paths } => {
                for path in paths {
                    if world.host.exists(path).await? {
                        return Ok(Some(path.display().to_string()));
                    }
                }
                Ok(None)
            }
            Self::Rules => {
                let asked = Command::new("nft", ["list", "tables"]);
                // Without nft, kube-proxy uses rules of a kind that it clears itself.
                let Ok(said) = world.commands.run(asked).await else {
                    return Ok(None);
                };
                let mut tables = said.stdout.lines();
                let ours = tables.find(|line| line.ends_with(" kube-proxy"));
                Ok(ours.map(str::to_owned))
            }
            Self::Tunnel => {
                let there = world.host.exists(TUNNEL.as_ref()).await?;
                Ok(there.then(|| "vxlan.calico".to_owned()))
            }
        }
    }

    fn command(&self) -> Command {
        match self {
            Self::Kubeadm => {
                Command::kubeadm_reset(paths::CRI_SOCKET).within(Duration::from_secs(290))
            }
            Self::Units { names } => {
                let args = ["disable", "--now"].iter().chain(names).copied();
                Command::systemctl(args).within(Duration::from_secs(190))
            }
            Self::Files { paths } => {
                let paths = paths.iter().map(|path| path.display().to_string());
                let options = ["-rf", "--"].map(str::to_owned);
                Command::new("rm", options.into_iter().chain(paths))
            }
            Self::Rules => {
                // Add first, so that the delete never fails.
                let both = ["ip", "ip6"].map(|family| {
                    format!("add table {family} kube-proxy; delete table {family} kube-proxy; ")
                });
                Command::new("nft", [both.concat()])
            }
            Self::Tunnel => Command::new("ip", ["link", "delete", "vxlan.calico"]),
        }
    }
}

#[async_trait]
impl Step for Removal {
    async fn check(&self, world: &World) -> Result<State> {
        let left = self.left(world).await?;
        Ok(left.map_or(State::AsWanted, |left| {
            State::Differs(format!("{left} still exists"))
        }))
    }

    async fn apply(&self, world: &World, _notes: &Notes) -> Result<()> {
        world.commands.succeed(self.command()).await?;
        Ok(())
    }
}
