//! The founder: `kubeadm init`, one step per phase.

use std::{collections::BTreeMap, path::Path, time::Duration};

use async_trait::async_trait;
use serde::Serialize;

use super::{config, result::PhaseResult};
use crate::{
    config::Settings,
    error::{Error, Result},
    identity::Identity,
    kubernetes::{node::CONTROL_PLANE, paths},
    ports::{Command, MachineFacts, ObjectRef, Role, World},
    steps::{State, Step},
    wait::{self, Backoff, Notes, Probe},
};

/// The files that kubeadm reads on this node; they hold no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigFiles {
    /// Content by path; all with mode 0600.
    pub files: BTreeMap<&'static str, String>,
}

impl ConfigFiles {
    /// For the founder: kubeadm's documents and this node's kubelet patch.
    pub fn init(settings: &Settings, identity: &Identity, machine: &MachineFacts) -> Result<Self> {
        let mut step = Self::join(settings, identity, machine)?;
        step.files.insert(
            paths::INIT_CONFIG,
            config::init_file(settings, identity, machine)?,
        );
        Ok(step)
    }

    /// For every other node: only its kubelet patch; [`super::Join`] writes the rest.
    pub fn join(settings: &Settings, identity: &Identity, machine: &MachineFacts) -> Result<Self> {
        let patch = config::pretty(&config::kubelet_patch(settings, identity, machine)?)?;
        Ok(Self {
            files: BTreeMap::from([(paths::KUBELET_PATCH, patch)]),
        })
    }
}

#[async_trait]
impl Step for ConfigFiles {
    async fn check(&self, world: &World) -> Result<State> {
        for (path, wanted) in &self.files {
            match world.host.read(Path::new(path)).await? {
                Some(found) if found == wanted.as_bytes() => {}
                Some(_) => return Ok(State::Differs(format!("{path} has different content"))),
                None => return Ok(State::Differs(format!("{path} does not exist"))),
            }
        }
        Ok(State::AsWanted)
    }

    async fn apply(&self, world: &World, _: &Notes) -> Result<()> {
        for (path, wanted) in &self.files {
            world
                .host
                .write(Path::new(path), wanted.as_bytes(), 0o600)
                .await?;
        }
        Ok(())
    }
}

/// The phases of `kubeadm init` that the founder runs, in kubeadm's own order.
///
/// Left out: `wait-control-plane` (see [`super::ApiReady`]), `upload-certs` (its secret
/// lives two hours; made when a control plane asks for it) and `show-join-command`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InitPhase {
    /// kubeadm's own checks of the host; needs containerd, and pulls missing images.
    Preflight,
    /// Certificates and keys; needs nothing but the configuration.
    Certs,
    /// Kubeconfig files; needs the certificates.
    Kubeconfig,
    /// etcd's manifest.
    Etcd,
    /// The manifests of API server, controller manager and scheduler.
    ControlPlane,
    /// The kubelet's configuration, and its start; needs kubelet.conf and containerd.
    KubeletStart,
    /// `ConfigMaps` for joiners. Also binds the administrator to cluster-admin, as each phase with
    /// an API client does.
    UploadConfig,
    /// Label and taints of this node.
    MarkControlPlane,
    /// Rights of bootstrap tokens, and the cluster-info that joiners read.
    BootstrapToken,
    /// Lets kubelet.conf follow the rotating certificate.
    KubeletFinalize,
    /// CoreDNS and kube-proxy.
    Addons,
}

impl InitPhase {
    /// All of them, in order.
    pub const ALL: [Self; 11] = [
        Self::Preflight,
        Self::Certs,
        Self::Kubeconfig,
        Self::Etcd,
        Self::ControlPlane,
        Self::KubeletStart,
        Self::UploadConfig,
        Self::MarkControlPlane,
        Self::BootstrapToken,
        Self::KubeletFinalize,
        Self::Addons,
    ];

    /// The step's name in plans.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preflight => "kubeadm-preflight",
            Self::Certs => "kubeadm-certs",
            Self::Kubeconfig => "kubeadm-kubeconfig",
            Self::Etcd => "kubeadm-etcd",
            Self::ControlPlane => "kubeadm-control-plane",
            Self::KubeletStart => "kubeadm-kubelet-start",
            Self::UploadConfig => "kubeadm-upload-config",
            Self::MarkControlPlane => "kubeadm-mark-control-plane",
            Self::BootstrapToken => "kubeadm-bootstrap-token",
            Self::KubeletFinalize => "kubeadm-kubelet-finalize",
            Self::Addons => "kubeadm-addons",
        }
    }

    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Preflight => &["preflight"],
            Self::Certs => &["certs", "all"],
            Self::Kubeconfig => &["kubeconfig", "all"],
            Self::Etcd => &["etcd", "local"],
            Self::ControlPlane => &["control-plane", "all"],
            Self::KubeletStart => &["kubelet-start"],
            Self::UploadConfig => &["upload-config", "all"],
            Self::MarkControlPlane => &["mark-control-plane"],
            Self::BootstrapToken => &["bootstrap-token", "--skip-token-print"],
            Self::KubeletFinalize => &["kubelet-finalize", "all"],
            Self::Addons => &["addon", "all"],
        }
    }

    /// The last things that the phase writes: if they exist, so does everything before them.
    fn results(self, settings: &Settings, identity: &Identity) -> Vec<PhaseResult> {
        let object = |api_version: &str, kind: &str, namespace: &str, name: &str| {
            PhaseResult::Object(ObjectRef {
                api_version: api_version.to_owned(),
                kind: kind.to_owned(),
                namespace: Some(namespace.to_owned()),
                name: name.to_owned(),
            })
        };
        let binding = |namespace: &str, name: &str| {
            object(
                "rbac.authorization.k8s.io/v1",
                "RoleBinding",
                namespace,
                name,
            )
        };
        match self {
            Self::Preflight => vec![PhaseResult::PreflightPassed],
            Self::Certs => vec![PhaseResult::Certificates],
            Self::Kubeconfig => KUBECONFIGS.map(PhaseResult::Kubeconfig).to_vec(),
            Self::Etcd => vec![PhaseResult::StaticPod("etcd")],
            Self::ControlPlane => vec![
                PhaseResult::StaticPod("kube-apiserver"),
                PhaseResult::StaticPod("kube-controller-manager"),
                PhaseResult::StaticPod("kube-scheduler"),
            ],
            Self::KubeletStart => vec![PhaseResult::KubeletRunning],
            Self::UploadConfig => vec![binding("kube-system", "kubeadm:kubelet-config")],
            Self::MarkControlPlane => vec![PhaseResult::NodeLabel {
                node: identity.node_name.clone(),
                label: CONTROL_PLANE,
            }],
            Self::BootstrapToken => {
                vec![binding(
                    "kube-public",
                    "kubeadm:bootstrap-signer-clusterinfo",
                )]
            }
            Self::KubeletFinalize => vec![PhaseResult::RotatingKubeletCertificate],
            Self::Addons => {
                let wanted = |part: &str| {
                    settings
                        .kubeadm
                        .cluster
                        .get(part)
                        .and_then(|p| p.get("disabled"))
                        != Some(&serde_json::Value::Bool(true))
                };
                let mut results = Vec::new();
                if wanted("dns") {
                    results.push(object("v1", "Service", "kube-system", "kube-dns"));
                }
                if wanted("proxy") {
                    results.push(binding("kube-system", "kube-proxy"));
                }
                results
            }
        }
    }
}

const KUBECONFIGS: [&str; 5] = [
    "admin.conf",
    "super-admin.conf",
    "kubelet.conf",
    "controller-manager.conf",
    "scheduler.conf",
];

/// One phase of `kubeadm init`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KubeadmPhase {
    /// Which of kubeadm's phases.
    pub phase: InitPhase,
    /// kubeadm's arguments, from `init phase` on.
    pub args: Vec<String>,
    /// What exists when it is done.
    pub results: Vec<PhaseResult>,
    /// How long kubeadm may take, in seconds.
    pub deadline: u64,
}

impl KubeadmPhase {
    /// The phase for this node, which must be a control plane.
    pub fn new(phase: InitPhase, settings: &Settings, identity: &Identity) -> Result<Self> {
        if identity.role != Role::ControlPlane {
            return Err(Error::refused(format!(
                "{} cannot found a cluster: its role is {}",
                identity.instance_id, identity.role
            )));
        }
        let args = ["init", "phase"]
            .iter()
            .chain(phase.words())
            .chain(&["--config", paths::INIT_CONFIG])
            .map(|&word| word.to_owned())
            .collect();
        Ok(Self {
            phase,
            args,
            results: phase.results(settings, identity),
            deadline: match phase {
                // It may have to pull the images.
                InitPhase::Preflight => settings.deadlines.download,
                _ => settings.deadlines.api,
            },
        })
    }
}

#[async_trait]
impl Step for KubeadmPhase {
    async fn check(&self, world: &World) -> Result<State> {
        for result in &self.results {
            if let Some(missing) = result.missing(world).await? {
                return Ok(State::Differs(missing));
            }
        }
        Ok(State::AsWanted)
    }

    async fn apply(&self, world: &World, notes: &Notes) -> Result<()> {
        for result in &self.results {
            result.clear_way(world).await?;
        }
        let deadline = Duration::from_secs(self.deadline);
        if self.phase == InitPhase::KubeletFinalize {
            // Without this file kubeadm does nothing and reports no error.
            wait::until(
                world.clock.as_ref(),
                notes,
                Backoff::local(deadline),
                "the kubelet's client certificate",
                || async {
                    if world.host.exists(Path::new(paths::KUBELET_CLIENT)).await? {
                        Ok(Probe::Done(()))
                    } else {
                        Ok(Probe::NotYet(format!(
                            "{} does not exist",
                            paths::KUBELET_CLIENT
                        )))
                    }
                },
            )
            .await?;
        }
        notes.waiting_for(format!("kubeadm {}", self.phase.words().join(" ")));
        let command = Command::new("kubeadm", self.args.clone()).within(deadline);
        world.commands.succeed(command).await?;
        if self.phase == InitPhase::Preflight {
            world
                .host
                .write(Path::new(paths::PREFLIGHT_PASSED), b"", 0o600)
                .await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
