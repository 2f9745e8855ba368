//! A kubelet with an expired certificate cannot request another one by itself.
//!
//! A worker is admitted again as it was the first time, with the proof of its instance's identity.
//! On a control plane the cluster's CA is on disk and nothing else may work yet, so kubeadm signs a
//! certificate there. The node keeps its Node, its pods and its data.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use secrecy::ExposeSecret;
use serde::Serialize;

use super::{Join, config};
use crate::{
    certificates::{
        Certificate, Inventory, Why,
        due::{can_sign, why},
    },
    config::Settings,
    error::{Error, Result},
    identity::Identity,
    kubernetes::paths,
    ports::{Command, JoinTicket, Role, World},
    steps::{State, Step},
    wait::{self, Backoff, Notes, Probe},
};

/// Where kubeadm writes the control plane's kubelet.conf before it replaces the old one.
const STAGE: &str = "/etc/kubernetes/k8s-bootstrap/renewal/kubelet";

/// The kubelet's client certificate is not expired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KubeletCertificate {
    /// How a worker is admitted.
    pub join: Join,
}

impl KubeletCertificate {
    /// For this node.
    pub fn new(settings: &Settings, identity: &Identity, cluster_uid: &str) -> Result<Self> {
        Ok(Self {
            join: Join::new(settings, identity, cluster_uid)?,
        })
    }

    /// What is wrong with the certificate that the kubelet uses; `None` also if it has none yet,
    /// which is up to the join.
    async fn trouble(world: &World) -> Result<Option<String>> {
        let inventory = Inventory::read(world.host.as_ref()).await?;
        let embedded = inventory.get("kubelet.conf");
        let own = inventory.get("kubelet-client");
        let Some(used) = embedded.or(own) else {
            return Ok(None);
        };
        if is_over(used, world) {
            return Ok(Some(format!(
                "the kubelet's certificate expired at {}",
                used.not_after
            )));
        }
        Ok((embedded.is_some() && own.is_some()).then(|| {
            format!(
                "{} contains a certificate that is never rotated",
                paths::KUBELET_CONF
            )
        }))
    }

    /// The kubelet requests a certificate with the ticket's token and updates its kubeconfig
    /// itself.
    async fn be_let_in(&self, world: &World, notes: &Notes) -> Result<()> {
        let ticket = self.join.ticket(world, notes).await?;
        let bootstrap = self.bootstrap(&ticket)?;
        let path = Path::new(paths::BOOTSTRAP_KUBELET_CONF);
        world.host.write(path, bootstrap.as_bytes(), 0o600).await?;
        restart_kubelet(world).await?;
        let ended = self.wait(world, notes).await;
        // Remove the token from disk, whether this succeeded or not.
        world.host.remove(path).await?;
        ended
    }

    fn bootstrap(&self, ticket: &JoinTicket) -> Result<String> {
        let cluster = &self.join.applicant.cluster;
        config::pretty(&serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": cluster, "cluster": {
                "server": format!("https://{}", self.join.endpoint),
                "certificate-authority-data": BASE64_STANDARD.encode(&ticket.ca),
            }}],
            "users": [{"name": "tls-bootstrap-token-user", "user": {
                "token": ticket.token.expose_secret(),
            }}],
            "contexts": [{"name": "join", "context": {
                "cluster": cluster, "user": "tls-bootstrap-token-user",
            }}],
            "current-context": "join",
        }))
    }

    /// Lets kubeadm sign a new kubelet.conf.
    async fn sign(world: &World) -> Result<()> {
        let host = world.host.as_ref();
        let inventory = Inventory::read(host).await?;
        if let Some(authority) = inventory.get("ca") {
            can_sign(authority, world.clock.now())?;
        }
        let staged = Path::new(STAGE).join("kubelet.conf");
        // kubeadm would reuse an existing one.
        host.remove(&staged).await?;
        kubeadm(
            world,
            &[
                "init",
                "phase",
                "kubeconfig",
                "kubelet",
                "--kubeconfig-dir",
                STAGE,
            ],
        )
        .await?;
        let signed = host
            .read(&staged)
            .await?
            .ok_or_else(|| Error::failed(format!("kubeadm wrote no {}", staged.display())))?;
        let path = Path::new(paths::KUBELET_CONF);
        host.write(path, &signed, 0o600).await?;
        host.remove(&staged).await
    }

    async fn wait(&self, world: &World, notes: &Notes) -> Result<()> {
        let backoff = Backoff::local(Duration::from_secs(self.join.deadline));
        let clock = world.clock.as_ref();
        let what = "the kubelet's new certificate";
        wait::until(clock, notes, backoff, what, || async {
            let inventory = Inventory::read(world.host.as_ref()).await?;
            let own = inventory.get("kubelet-client");
            Ok(if own.is_some_and(|own| !is_over(own, world)) {
                Probe::Done(())
            } else {
                Probe::NotYet(format!("{} is still the old one", paths::KUBELET_CLIENT))
            })
        })
        .await
        .map_err(|error| error.hint("look at `journalctl -u kubelet`"))
    }
}

#[async_trait]
impl Step for KubeletCertificate {
    async fn check(&self, world: &World) -> Result<State> {
        let trouble = Self::trouble(world).await?;
        Ok(trouble.map_or(State::AsWanted, State::Differs))
    }

    async fn apply(&self, world: &World, notes: &Notes) -> Result<()> {
        let inventory = Inventory::read(world.host.as_ref()).await?;
        let is_over = |name| inventory.get(name).is_some_and(|c| is_over(c, world));
        let own_is_over = is_over("kubelet-client");
        if self.join.applicant.role == Role::Worker {
            return self.be_let_in(world, notes).await;
        }
        let embedded = inventory.get("kubelet.conf").is_some();
        if is_over("kubelet.conf") || (own_is_over && !embedded) {
            Self::sign(world).await?;
        }
        if own_is_over {
            // At its start the kubelet adopts the certificate in its kubeconfig.
            restart_kubelet(world).await?;
            self.wait(world, notes).await?;
        }
        kubeadm(world, &["init", "phase", "kubelet-finalize", "all"]).await
    }
}

fn is_over(certificate: &Certificate, world: &World) -> bool {
    why(certificate, Duration::ZERO, world.clock.now()) == Some(Why::Over)
}

async fn kubeadm(world: &World, words: &[&str]) -> Result<()> {
    let words = words.iter().chain(&["--config", paths::INIT_CONFIG]);
    let command = Command::new("kubeadm", words.copied());
    world.commands.succeed(command).await.map(drop)
}

async fn restart_kubelet(world: &World) -> Result<()> {
    let restart = ["restart", "kubelet.service"];
    world.commands.systemctl(&restart).await.map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::{
        FakeWorld, Pki, control_plane, output, rotating_kubeconfig, settings, worker,
    };

    const OVER: (&str, &str) = ("2025-01-01T00:00:00Z", "2026-11-01T00:00:00Z");

    fn step(me: &Identity) -> KubeletCertificate {
        KubeletCertificate::new(&settings(), me, "uid").unwrap()
    }

    fn node(pki: &Pki) -> FakeWorld {
        let fake = FakeWorld::new();
        for (path, content) in pki.on_disk() {
            if path.starts_with("/var") || path == Path::new(paths::CA) {
                fake.files.put(path, content);
            }
        }
        let conf = rotating_kubeconfig(&pki.files["ca.crt"]);
        fake.files.put(paths::KUBELET_CONF, conf);
        fake
    }

    fn fresh() -> Vec<u8> {
        Pki::new().on_disk()[Path::new(paths::KUBELET_CLIENT)].clone()
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_whose_kubelet_has_no_certificate_yet_or_a_valid_one_is_left_alone() {
        let me = worker("i-1");
        FakeWorld::new().holds(&step(&me)).await;
        node(&Pki::new()).holds(&step(&me)).await;
        node(&Pki::new()).holds(&step(&control_plane("i-1"))).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_is_admitted_again_by_a_proof_of_its_identity() {
        let fake = node(&Pki::between(OVER.0, OVER.1)).with_a_way_in();
        fake.record("uid", "i-cp").await;
        let fresh = fresh();
        fake.on("systemctl restart kubelet.service", move |_, files| {
            let bootstrap = files.get(paths::BOOTSTRAP_KUBELET_CONF).unwrap();
            assert!(bootstrap.contains("\"token\": \"abcdef.0123456789abcdef\""));
            assert_eq!(files.mode(paths::BOOTSTRAP_KUBELET_CONF), 0o600);
            files.put(paths::KUBELET_CLIENT, &fresh);
            output(0, "", "")
        });
        let step = step(&worker("i-1"));
        assert_eq!(
            fake.differs(&step).await,
            "the kubelet's certificate expired at 2026-11-01T00:00:00Z"
        );
        fake.carry_out(&step).await;
        assert!(!fake.files.has(paths::BOOTSTRAP_KUBELET_CONF));
        assert_eq!(fake.commands.ran(), ["systemctl restart kubelet.service"]);
        assert_eq!(fake.join.asked().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_token_is_removed_even_if_the_kubelet_gets_no_certificate() {
        let fake = node(&Pki::between(OVER.0, OVER.1)).with_a_way_in();
        fake.record("uid", "i-cp").await;
        let error = fake.apply(&step(&worker("i-1"))).await.unwrap_err();
        assert!(
            error.one_line().contains("the kubelet's new certificate"),
            "{error}"
        );
        assert!(!fake.files.has(paths::BOOTSTRAP_KUBELET_CONF));
    }

    /// A control plane whose kubeadm signs and whose kubelet takes the certificate.
    fn control_plane_over() -> FakeWorld {
        let fake = node(&Pki::between(OVER.0, OVER.1));
        fake.on("kubeadm init phase kubeconfig kubelet", |command, files| {
            assert!(command.args.contains(&STAGE.to_owned()));
            let signed = Pki::new().on_disk()[Path::new(paths::ADMIN_CONF)].clone();
            files.put(format!("{STAGE}/kubelet.conf"), signed);
            output(0, "", "")
        });
        let fresh = fresh();
        fake.on("systemctl restart kubelet.service", move |_, files| {
            files.put(paths::KUBELET_CLIENT, &fresh);
            output(0, "", "")
        });
        fake.on("kubeadm init phase kubelet-finalize", |_, files| {
            let conf = rotating_kubeconfig(files.get(paths::CA).unwrap().as_bytes());
            files.put(paths::KUBELET_CONF, conf);
            output(0, "", "")
        });
        fake
    }

    #[tokio::test(start_paused = true)]
    async fn a_control_plane_signs_its_kubelets_certificate_without_a_join_service() {
        let fake = control_plane_over();
        fake.cluster.down(true);
        fake.carry_out(&step(&control_plane("i-1"))).await;
        assert!(fake.join.asked().is_empty());
        assert!(!fake.files.has(format!("{STAGE}/kubelet.conf")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_control_plane_killed_while_signing_continues() {
        for kubeadm_or_kubelet in [
            "kubeadm init phase kubeconfig kubelet",
            "systemctl restart",
            "kubeadm init phase kubelet-finalize",
        ] {
            let fake = control_plane_over();
            fake.commands.fail(kubeadm_or_kubelet, "killed");
            let step = step(&control_plane("i-1"));
            fake.apply(&step).await.unwrap_err();
            let again = control_plane_over();
            for path in [paths::KUBELET_CONF, paths::KUBELET_CLIENT] {
                again.files.put(path, fake.files.get(path).unwrap());
            }
            again.carry_out(&step).await;
        }
    }
}
