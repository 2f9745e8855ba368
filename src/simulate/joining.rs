//! How a simulated instance is admitted, and what kubeadm does on it.
//!
//! The join service's decision, its lock and the settled record are the real code, run by the
//! control plane that is asked; only the proof of identity is assumed valid. The step that joins is
//! the real code as well; the commands that it runs are simulated.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    absent::absent,
    acts, certificates,
    place::Place,
    scene::{ROLE, Scene, time},
    services::API,
};
use crate::{
    error::{Error, Result},
    join::{Case, NodeIs, Rules, before_the_third, judge, lock, node},
    kubernetes::node::reference,
    kubernetes::paths,
    ports::{
        Applicant, Caller, Cluster, Command, Commands, Host, JoinServices, JoinTicket, Output,
        Role, World,
    },
};

/// How long the client of the join service waits.
const ASKED: Duration = Duration::from_mins(1);

/// The static pod of etcd, next to that of the API server.
pub const MANIFEST: &str = "/etc/kubernetes/manifests/etcd.yaml";

/// All files that kubeadm leaves on a disk, in the order in which a reset removes them.
pub const FILES: [&str; 9] = [
    paths::ETCD_MEMBER,
    MANIFEST,
    paths::KUBELET_CLIENT,
    paths::BOOTSTRAP_KUBELET_CONF,
    paths::KUBELET_CONF,
    paths::ADMIN_CONF,
    paths::CA,
    paths::INIT_CONFIG,
    paths::JOINED,
];

/// The certificate of this cluster's CA as PEM; its key is derived from the uid.
pub fn ca(uid: &str) -> String {
    certificates::authority(&Sha256::digest(uid))
}

fn kubelet_conf(uid: &str) -> String {
    let file = json!({
        "clusters": [{"cluster": {"certificate-authority-data": BASE64_STANDARD.encode(ca(uid))}}],
        "users": [{"user": {"client-certificate": paths::KUBELET_CLIENT}}],
    });
    file.to_string()
}

#[async_trait]
impl JoinServices for Place {
    async fn ask(&self, server: SocketAddr, _: &str, applicant: &Applicant) -> Result<JoinTicket> {
        let asked = self.call(API, "ask to join", true, |scene| {
            let mine = scene.cluster_of(self.index);
            let asked = scene.machine_at(server, self.index)?;
            let machine = &scene.machines[asked];
            // A control plane of another cluster would not show the expected CA.
            let there = machine.process.is_at_work()
                && scene.cluster_of(asked) == mine
                && machine.disk.contains_key(Path::new(paths::CA));
            there.then_some(asked)
        });
        let Some(asked) = asked.await? else {
            return Err(Error::failed("no answer"));
        };
        let source = self.scene().machines[self.index].me.private_ip.into();
        let service = self.at(asked);
        let code = self.scene().code;
        let world = (code.service)(service.world());
        let answer = Box::pin(let_in(&world, &service, source, applicant));
        let late = Box::pin(self.sleep(ASKED));
        match futures::future::select(answer, late).await {
            futures::future::Either::Left((answer, _)) => answer,
            futures::future::Either::Right(_) => Err(Error::failed("no answer: timed out")),
        }
    }
}

/// What the join service of a control plane does once STS has identified the caller.
async fn let_in(
    world: &World,
    service: &Place,
    source: IpAddr,
    applicant: &Applicant,
) -> Result<JoinTicket> {
    let own = |session: &str| Caller {
        account: "111122223333".to_owned(),
        role: ROLE.to_owned(),
        session: session.to_owned(),
    };
    let me = service.me();
    let rules = Rules {
        cluster: me.cluster.clone(),
        own: own(&me.instance_id),
        worker_roles: Vec::new(),
        control_plane_roles: Vec::new(),
    };
    let instances = world.ec2.instances(&me.cluster).await?;
    let there = world.cluster.get(&reference(&applicant.node)).await?;
    let case = Case {
        applicant,
        source,
        caller: &own(&applicant.instance),
        instances: &instances,
        node: there.as_ref(),
    };
    let refused = |reason: String| Error::failed(format!("refused: {reason}"));
    let (instance, node_is) = judge(&rules, &case).map_err(|why| refused(why.reason))?;
    if (applicant.role == Role::ControlPlane || node_is == NodeIs::Stale)
        && let Some(why) = lock::predecessor(world, instance, node_is).await?
    {
        return Err(refused(why));
    }
    if applicant.role == Role::ControlPlane {
        if let Some(why) = lock::take(world, instance, &instances).await? {
            return Err(refused(why));
        }
        before_the_third(world, &me.instance_id, instance).await?;
    }
    let provider = format!("aws:///{}/{}", instance.zone, instance.id);
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node::name(instance)},
        "spec": {"providerID": provider},
    });
    node::put(world, &node, node_is).await?;
    let (uid, now) = {
        let scene = service.scene();
        (
            scene.cluster_of(service.index).to_owned(),
            scene.timeline.now(),
        )
    };
    Ok(JoinTicket {
        token: "abcdef.0123456789abcdef".to_owned().into(),
        ca: ca(&uid),
        certificate_key: Some("ab".repeat(32).into()),
        expires: time(now + Duration::from_mins(10), 0),
    })
}

/// The certificate that this kubeadm command line signs, if any.
fn signs(line: &str) -> Option<&str> {
    let ways = [
        "certs renew ",
        "init phase certs ",
        "init phase kubeconfig ",
    ];
    let words = line.strip_prefix("kubeadm ")?;
    let rest = ways.iter().find_map(|way| words.strip_prefix(way))?;
    rest.split(' ').next()
}

#[async_trait]
impl Commands for Place {
    async fn run(&self, command: Command) -> Result<Output> {
        let line = command.line();
        let done = if line.starts_with("kubeadm join ") {
            self.kubeadm_join().await
        } else if line.starts_with("/usr/local/bin/kubeadm reset ") {
            self.kubeadm_reset().await
        } else if line == "systemctl stop kubelet.service" {
            self.scene().machines[self.index].kubelet = false;
            Ok(())
        } else if let Some(name) = signs(&line) {
            self.sign(name).await
        } else if let Some(done) = self.restoring(&line).await {
            done
        } else {
            return absent(&line);
        };
        let (status, stderr) = match done {
            Ok(()) => (0, String::new()),
            Err(error) => (1, error.one_line()),
        };
        Ok(Output {
            status,
            stdout: String::new(),
            stderr,
        })
    }
}

impl Place {
    async fn put(&self, path: &str, content: &str) -> Result<()> {
        Host::write(self, Path::new(path), content.as_bytes(), 0o600).await
    }

    async fn mark(&self, part: &str, edge: &str, uid: &str) -> Result<()> {
        let path = acts::trace("join", part, edge);
        Host::write(self, &path, uid.as_bytes(), 0o600).await
    }

    /// Waits for about `seconds`.
    pub async fn work(&self, seconds: u64) {
        let factor = 0.5 + self.scene().dice.fraction();
        self.sleep(Duration::from_secs(seconds).mul_f64(factor))
            .await;
        self.survive().await;
    }

    async fn kubeadm_join(&self) -> Result<()> {
        let (role, uid) = {
            let scene = self.scene();
            let role = scene.machines[self.index].me.role;
            (role, scene.cluster_of(self.index).to_owned())
        };
        let left = [
            paths::KUBELET_CONF,
            paths::BOOTSTRAP_KUBELET_CONF,
            MANIFEST,
            paths::ETCD_MEMBER,
        ];
        for path in left {
            if self.exists(Path::new(path)).await? {
                return Err(Error::failed(format!(
                    "[ERROR FileAvailable]: {path} exists"
                )));
            }
        }
        self.mark("kubelet", "begun", &uid).await?;
        self.put(paths::CA, &ca(&uid)).await?;
        if role == Role::ControlPlane {
            // It has the same format, and no certificate of its own.
            self.put(paths::ADMIN_CONF, &kubelet_conf(&uid)).await?;
        }
        self.put(paths::BOOTSTRAP_KUBELET_CONF, "").await?;
        self.work(3).await;
        if !self.ready().await? {
            return Err(Error::failed("connection refused by all control planes"));
        }
        self.put(paths::KUBELET_CLIENT, "").await?;
        self.put(paths::KUBELET_CONF, &kubelet_conf(&uid)).await?;
        self.mark("kubelet", "done", &uid).await?;
        if role == Role::ControlPlane {
            self.kubeadm_join_etcd(&uid).await?;
        }
        Ok(())
    }

    async fn kubeadm_join_etcd(&self, uid: &str) -> Result<()> {
        self.mark("etcd", "begun", uid).await?;
        let add = |scene: &mut Scene| scene.add_learner(self.index, uid);
        self.call(API, "add a member", true, add).await??;
        self.put(MANIFEST, "").await?;
        self.put(paths::ETCD_MEMBER, uid).await?;
        self.work(6).await;
        let promote = |scene: &mut Scene| {
            let id = scene.seat_of(self.index).map_or(0, |seat| seat.member.id);
            scene.promote_member(self.index, uid, id)
        };
        self.call(API, "promote a member", true, promote).await??;
        self.work(3).await;
        self.mark("etcd", "done", uid).await
    }

    /// Removes the member if etcd allows it, and then all of kubeadm's files.
    async fn kubeadm_reset(&self) -> Result<()> {
        if self.exists(Path::new(MANIFEST)).await? {
            let remove = |scene: &mut Scene| {
                let uid = scene.cluster_of(self.index).to_owned();
                let address = scene.machines[self.index].me.private_ip;
                let by = scene.server_for(self.index, &uid);
                let seats = scene.etcd.get(&uid).map_or(&[][..], |quorum| &quorum.seats);
                let seat = seats.iter().find(|seat| seat.member.address == address);
                match (by, seat.map(|seat| seat.member.id)) {
                    (Some(_), Some(id)) => scene.remove_member(self.index, &uid, id),
                    _ => Ok(()),
                }
            };
            // kubeadm treats an error here as a warning.
            let _ = self.call(API, "remove the member", true, remove).await;
        }
        self.work(5).await;
        self.take_off().await
    }

    /// Removes the files that kubeadm created.
    pub async fn take_off(&self) -> Result<()> {
        for path in FILES.map(Path::new) {
            Host::remove(self, path).await?;
        }
        for path in acts::of_joining() {
            Host::remove(self, &path).await?;
        }
        Ok(())
    }
}
