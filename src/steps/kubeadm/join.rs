//! Joins a node to an existing cluster.

mod ticket;

use std::{net::SocketAddr, path::Path, time::Duration};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::Value;
use tracing::warn;

use self::ticket::Kept;
pub use self::ticket::Ticket;
use super::{
    config,
    kubeconfig::{self, Credentials},
    pki,
};
use crate::{
    config::Settings,
    error::{Error, Result},
    identity::Identity,
    kubernetes::{API_PORT, lease::JOIN_LOCK, paths},
    observe::record,
    ports::{Applicant, Command, InstanceState, JoinTicket, Role, World},
    steps::{State, Step, decommission::LeaveEtcd},
    wait::{self, Backoff, Notes, Probe},
};

/// How long an etcd member and an API server may take to start, as after a reboot.
const MEMBER_STARTS: Duration = Duration::from_mins(2);

/// `kubeadm join`, with a ticket that it gets from a control plane's join service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Join {
    /// The uid of the only cluster that may be joined.
    pub cluster_uid: String,
    /// What this node says about itself when it asks for a ticket.
    pub applicant: Applicant,
    /// The port of the join services.
    pub port: u16,
    /// `host:port` of the API.
    pub endpoint: String,
    /// The `JoinConfiguration` without its secrets.
    pub document: Value,
    /// How long to wait for a ticket, and then for kubeadm, in seconds.
    pub deadline: u64,
    /// The ticket that [`Ticket`] has received.
    #[serde(skip)]
    kept: Kept,
}

impl Join {
    /// For this node, with its role.
    pub fn new(settings: &Settings, identity: &Identity, cluster_uid: &str) -> Result<Self> {
        Ok(Self {
            cluster_uid: cluster_uid.to_owned(),
            applicant: Applicant {
                cluster: identity.cluster.clone(),
                role: identity.role,
                node: identity.node_name.clone(),
                instance: identity.instance_id.clone(),
                labels: settings.node.labels.clone(),
                taints: settings.node.taints.clone(),
            },
            port: settings.join.port,
            endpoint: config::endpoint(settings).to_owned(),
            document: config::join_document(settings, identity)?,
            deadline: settings.deadlines.join,
            kept: Kept::default(),
        })
    }

    /// The document that kubeadm reads, with the ticket's secrets.
    fn file(&self, ticket: &JoinTicket) -> Result<String> {
        let mut document = self.document.clone();
        let mut secrets = serde_json::json!({
            "discovery": {"tlsBootstrapToken": ticket.token.expose_secret()},
        });
        if self.applicant.role == Role::ControlPlane {
            let key = ticket.certificate_key.as_ref().ok_or_else(|| {
                Error::failed("the join ticket for a control plane has no certificate key")
            })?;
            secrets["controlPlane"]["certificateKey"] = key.expose_secret().into();
        }
        json_patch::merge(&mut document, &secrets);
        config::pretty(&document)
    }

    /// The kubeconfig from which kubeadm learns the cluster's address and CA; it holds no secret.
    fn discovery(&self, ticket: &JoinTicket) -> Result<String> {
        config::pretty(&serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": self.applicant.cluster, "cluster": {
                "server": format!("https://{}", self.endpoint),
                "certificate-authority-data": BASE64_STANDARD.encode(&ticket.ca),
            }}],
            // kubeadm requires a user in the context; this one has no credentials.
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "join", "context": {"cluster": self.applicant.cluster, "user": "nobody"}}],
            "current-context": "join",
        }))
    }

    /// A ticket for a node without an identity.
    async fn admission(&self, world: &World, notes: &Notes) -> Result<JoinTicket> {
        // While the kubelet still reports a Ready node, no control plane admits another one. A
        // control plane is cleared only once it holds the join lock.
        if self.applicant.role == Role::Worker {
            self.clear_way(world).await?;
        }
        self.ticket(world, notes).await
    }

    /// Asks the control planes' join services one after the other until one admits this node.
    pub(super) async fn ticket(&self, world: &World, notes: &Notes) -> Result<JoinTicket> {
        wait::until(
            world.clock.as_ref(),
            notes,
            Backoff::remote(Duration::from_secs(self.deadline)),
            "a control plane to admit this node",
            || async {
                let record = record::read(world.store.as_ref()).await?;
                let cluster = record.cluster();
                let Some(cluster) = cluster.filter(|there| there.cluster_uid == self.cluster_uid)
                else {
                    let uid = &self.cluster_uid;
                    return Ok(Probe::NotYet(match record.claims.last() {
                        Some(last) if last.cluster_uid != *uid => format!(
                            "cluster {uid} was abandoned: {} founds another",
                            last.instance
                        ),
                        _ => format!("the store records no cluster {uid}"),
                    }));
                };
                let mut reasons = Vec::new();
                for instance in world.ec2.instances(&self.applicant.cluster).await? {
                    let may = instance.role == Some(Role::ControlPlane)
                        && instance.state == InstanceState::Running
                        && instance.id != self.applicant.instance;
                    let Some(address) = instance.private_ip.filter(|_| may) else {
                        continue;
                    };
                    let server = SocketAddr::from((address, self.port));
                    let pin = &cluster.ca_hash;
                    match world.join.ask(server, pin, &self.applicant).await {
                        Ok(ticket) => return Ok(Probe::Done(ticket)),
                        Err(error) => reasons.push(error.one_line()),
                    }
                }
                if reasons.is_empty() {
                    reasons.push("EC2 lists no running control plane".to_owned());
                }
                Ok(Probe::NotYet(reasons.join("; ")))
            },
        )
        .await
        .map_err(|error| {
            error
                .hint("the control plane's journal has the reason too: journalctl -u k8s-bootstrap")
        })
    }

    /// What is missing for this node to be a member; `None` if it is one.
    async fn missing(&self, world: &World) -> Result<Option<String>> {
        if let Some(missing) = kubelet_identity(world).await? {
            return Ok(Some(missing));
        }
        // A control plane's join has more to do once the kubelet has its certificate.
        if self.applicant.role == Role::ControlPlane
            && !world.host.exists(Path::new(paths::JOINED)).await?
        {
            return Ok(Some("kubeadm join has not finished".to_owned()));
        }
        Ok(None)
    }

    /// The step with which this control plane leaves etcd.
    fn leave(&self) -> LeaveEtcd {
        let Applicant {
            cluster,
            instance,
            node,
            ..
        } = &self.applicant;
        LeaveEtcd::new(cluster, instance, node)
    }

    /// Whether an interrupted join made this control plane a member without recording it.
    ///
    /// `kubeadm reset` wipes etcd's data even if etcd does not remove the member. A node with data
    /// is therefore never reset before etcd has confirmed that the others can do without it.
    async fn has_joined(&self, world: &World, notes: &Notes) -> Result<bool> {
        if !world.host.exists(Path::new(paths::ETCD_MEMBER)).await? {
            return Ok(false);
        }
        let waited = wait::until(
            world.clock.as_ref(),
            notes,
            Backoff::local(MEMBER_STARTS),
            "the etcd member of an interrupted join",
            || self.vote(world),
        )
        .await;
        let unready = match waited {
            Ok(votes) => return Ok(votes),
            Err(unready) => unready,
        };
        // In this state its member does not help the others. If they can do without it, it joins
        // again.
        let left = self.leave().apply(world, notes).await;
        left.map(|()| false).map_err(|stays| {
            Error::failed(format!("{}; {}", unready.one_line(), stays.one_line()))
                .during("this node is not reset, since etcd may need its data")
                .hint(
                    "see `k8s-bootstrap etcd members`; start the control planes that are down, or terminate \
                     this instance and launch another",
                )
        })
    }

    /// Whether this node has a vote in etcd; a ready voter has joined.
    async fn vote(&self, world: &World) -> Result<Probe<bool>> {
        let Some(own) = self.leave().vote(world).await? else {
            return Ok(Probe::Done(false));
        };
        let who = format!("etcd member {}, a voter on this node", own.hex());
        if let Some(missing) = kubelet_identity(world).await? {
            return Ok(Probe::NotYet(format!("{who}, has no kubelet: {missing}")));
        }
        if !world.etcd.is_healthy(&own).await {
            return Ok(Probe::NotYet(format!("{who}, is not healthy")));
        }
        let server = SocketAddr::from((own.address, API_PORT));
        if !world.cluster.ready_at(server).await? {
            return Ok(Probe::NotYet(format!(
                "{who}, has no API server: {server} is not ready"
            )));
        }
        Ok(Probe::Done(true))
    }

    /// Removes what an interrupted join left; otherwise kubeadm refuses to start.
    async fn clear_way(&self, world: &World) -> Result<()> {
        let mut traces = vec![paths::KUBELET_CONF, paths::BOOTSTRAP_KUBELET_CONF];
        match self.applicant.role {
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
        if self.applicant.role == Role::ControlPlane {
            // It also removes a half-joined member, a learner, from etcd.
            let reset = Command::kubeadm_reset(paths::CRI_SOCKET)
                .within(Duration::from_secs(self.deadline));
            world.commands.succeed(reset).await?;
        } else {
            world
                .commands
                .systemctl(&["stop", "kubelet.service"])
                .await?;
        }
        for trace in traces {
            world.host.remove(Path::new(trace)).await?;
        }
        Ok(())
    }

    async fn run(&self, world: &World, notes: &Notes) -> Result<()> {
        let is_control_plane = self.applicant.role == Role::ControlPlane;
        if is_control_plane && self.has_joined(world, notes).await? {
            return self.joined(world).await;
        }
        let deadline = Duration::from_secs(self.deadline);
        let ticket = match self.kept.take(world.clock.elapsed()) {
            Some(ticket) => ticket,
            None => self.admission(world, notes).await?,
        };
        self.clear_way(world).await?;
        if is_control_plane {
            pki::remove_half_written(world.host.as_ref()).await?;
        }
        for (path, content) in [
            (paths::DISCOVERY_CONF, self.discovery(&ticket)?),
            (paths::JOIN_CONFIG, self.file(&ticket)?),
        ] {
            let path = Path::new(path);
            world.host.write(path, content.as_bytes(), 0o600).await?;
        }
        notes.waiting_for("kubeadm join");
        let join =
            Command::new("kubeadm", ["join", "--config", paths::JOIN_CONFIG]).within(deadline);
        let ended = world.commands.succeed(join).await;
        // Remove the token from disk, whether the join succeeded or not.
        world.host.remove(Path::new(paths::JOIN_CONFIG)).await?;
        world.host.remove(Path::new(paths::DISCOVERY_CONF)).await?;
        ended?;
        if is_control_plane {
            self.joined(world).await?;
        }
        Ok(())
    }

    /// Records that this control plane is a member, and lets the next one join.
    async fn joined(&self, world: &World) -> Result<()> {
        world
            .host
            .write(Path::new(paths::JOINED), b"", 0o600)
            .await?;
        // If this fails, the next one waits until the join lock expires. Retrying the join instead
        // would mean leaving first.
        if let Err(error) = JOIN_LOCK.release(world, &self.applicant.instance).await {
            warn!("cannot release the join lock: {}", error.one_line());
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
                return Ok(State::Differs(format!(
                    "{path} still contains a join token"
                )));
            }
        }
        Ok(State::AsWanted)
    }

    async fn apply(&self, world: &World, notes: &Notes) -> Result<()> {
        if let Some(missing) = self.missing(world).await? {
            // Joining again requires a reset, which removes a running etcd member from the cluster.
            if self.applicant.role == Role::ControlPlane
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
        // A worker is a member as soon as its kubelet has a certificate, even if kubeadm was killed
        // before it cleaned up.
        for path in [paths::BOOTSTRAP_KUBELET_CONF, paths::JOIN_CONFIG] {
            world.host.remove(Path::new(path)).await?;
        }
        Ok(())
    }
}

/// What the kubelet lacks to act as this node; `None` if nothing.
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
