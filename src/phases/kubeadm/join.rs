//! A node's way into an existing cluster.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::Value;

use super::{
    config,
    kubeconfig::{self, Credentials},
    paths,
    ticket::JoinTicket,
};
use crate::{
    config::Settings,
    error::{Error, Result},
    identity::Identity,
    phases::{Notes, State, Step},
    ports::{Command, Role, World},
    wait::{self, Patience, Probe},
};

/// `kubeadm join`, with a ticket taken from the cluster's store when it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Join {
    /// What the node is for.
    pub role: Role,
    /// The `JoinConfiguration` without its secrets.
    pub document: Value,
    /// How long to wait for a ticket, and then for kubeadm, in seconds.
    pub deadline: u64,
}

impl Join {
    /// For this node, with the role of its identity.
    pub fn new(settings: &Settings, identity: &Identity) -> Result<Self> {
        Ok(Self {
            role: identity.role,
            document: config::join_document(settings, identity)?,
            deadline: settings.deadlines.join,
        })
    }

    /// The document with the ticket's secrets, as kubeadm reads it.
    fn file(&self, ticket: &JoinTicket) -> Result<String> {
        let mut document = self.document.clone();
        let mut secrets = serde_json::json!({
            "discovery": {
                "tlsBootstrapToken": ticket.token.expose_secret(),
                "bootstrapToken": {
                    "token": ticket.token.expose_secret(),
                    "caCertHashes": [ticket.ca_cert_hash],
                },
            },
        });
        if self.role == Role::ControlPlane {
            let key = ticket.certificate_key.as_ref().ok_or_else(|| {
                Error::failed("the join ticket for a control plane has no certificate key")
            })?;
            secrets["controlPlane"]["certificateKey"] = key.expose_secret().into();
        }
        json_patch::merge(&mut document, &secrets);
        config::pretty(&document)
    }

    /// What is missing for this node to be a member; none when it is one.
    async fn missing(&self, world: &World) -> Result<Option<String>> {
        if let Some(missing) = kubelet_identity(world).await? {
            return Ok(Some(missing));
        }
        // A control plane's join has more to do once the kubelet has its certificate.
        if self.role == Role::ControlPlane && !world.host.exists(Path::new(paths::JOINED)).await? {
            return Ok(Some("kubeadm join has not come to its end".to_owned()));
        }
        Ok(None)
    }

    /// Clears what an interrupted join left: kubeadm refuses to begin over it.
    async fn clear_way(&self, world: &World) -> Result<()> {
        let mut traces = vec![paths::KUBELET_CONF, paths::BOOTSTRAP_KUBELET_CONF];
        match self.role {
            Role::Worker => traces.push(paths::CA),
            Role::ControlPlane => {
                traces.extend([paths::ADMIN_CONF, "/etc/kubernetes/manifests/etcd.yaml"]);
            }
        }
        let mut found = false;
        for trace in &traces {
            found |= world.host.exists(Path::new(trace)).await?;
        }
        if !found {
            return Ok(());
        }
        if self.role == Role::ControlPlane {
            // It also takes the half-joined etcd member out of the cluster.
            let reset = Command::new(
                "kubeadm",
                ["reset", "--force", "--cri-socket", paths::CRI_SOCKET],
            )
            .within(Duration::from_secs(self.deadline));
            world.commands.run(reset.clone()).await?.success(&reset)?;
        } else {
            let stop = Command::new("systemctl", ["stop", "kubelet.service"]);
            world.commands.run(stop.clone()).await?.success(&stop)?;
        }
        for trace in traces {
            world.host.remove(Path::new(trace)).await?;
        }
        Ok(())
    }

    async fn run(&self, world: &World, notes: &Notes) -> Result<()> {
        let deadline = Duration::from_secs(self.deadline);
        let key = JoinTicket::key(self.role);
        let ticket = wait::until(
            world.clock.as_ref(),
            notes,
            Patience::remote(deadline),
            "a join ticket from a control plane",
            || async {
                Ok(match JoinTicket::fetch(world, self.role).await? {
                    None => Probe::NotYet(format!("the store has no `{key}`")),
                    Some(ticket) if ticket.expires <= world.clock.now() => Probe::NotYet(format!(
                        "the one in the store expired at {}",
                        ticket.expires
                    )),
                    Some(ticket) => Probe::Done(ticket),
                })
            },
        )
        .await?;

        self.clear_way(world).await?;
        let file = Path::new(paths::JOIN_CONFIG);
        world
            .host
            .write(file, self.file(&ticket)?.as_bytes(), 0o600)
            .await?;
        notes.waiting_for("kubeadm join");
        let join =
            Command::new("kubeadm", ["join", "--config", paths::JOIN_CONFIG]).within(deadline);
        let ended = world.commands.run(join.clone()).await;
        // The token goes from the disk whatever became of the join.
        world.host.remove(file).await?;
        ended?.success(&join)?;
        if self.role == Role::ControlPlane {
            world
                .host
                .write(Path::new(paths::JOINED), b"", 0o600)
                .await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Step for Join {
    async fn check(&self, world: &World) -> Result<State> {
        if let Some(missing) = self.missing(world).await? {
            return Ok(State::Differs(missing));
        }
        for path in [paths::BOOTSTRAP_KUBELET_CONF, paths::JOIN_CONFIG] {
            if world.host.exists(Path::new(path)).await? {
                return Ok(State::Differs(format!("{path} still holds a join token")));
            }
        }
        Ok(State::AsWanted)
    }

    async fn apply(&self, world: &World, notes: &Notes) -> Result<()> {
        if let Some(missing) = self.missing(world).await? {
            // To join again is to reset first, and that takes a running etcd member out of the cluster.
            if self.role == Role::ControlPlane
                && world.host.exists(Path::new(paths::JOINED)).await?
            {
                return Err(Error::refused(format!(
                    "this control plane is a member of the cluster, but {missing}"
                ))
                .hint(
                    "restore the file, or terminate this instance and launch another control plane",
                ));
            }
            self.run(world, notes).await?;
        }
        // A worker is a member as soon as its kubelet has a certificate, even if kubeadm was killed before it cleaned up.
        for path in [paths::BOOTSTRAP_KUBELET_CONF, paths::JOIN_CONFIG] {
            world.host.remove(Path::new(path)).await?;
        }
        Ok(())
    }
}

/// What the kubelet lacks to speak for this node.
async fn kubelet_identity(world: &World) -> Result<Option<String>> {
    let Some(text) = world.host.read(Path::new(paths::KUBELET_CONF)).await? else {
        return Ok(Some(format!("{} does not exist", paths::KUBELET_CONF)));
    };
    let ca = world.host.read(Path::new(paths::CA)).await?;
    match kubeconfig::examine(&text, ca.as_deref()) {
        Ok(Credentials::File(certificate)) if !world.host.exists(&certificate).await? => {
            Ok(Some(format!("{} does not exist", certificate.display())))
        }
        Ok(_) => Ok(None),
        Err(why) => Ok(Some(format!("{} {why}", paths::KUBELET_CONF))),
    }
}

#[cfg(test)]
mod tests;
