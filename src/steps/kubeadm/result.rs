//! What a kubeadm phase leaves behind, and how to check for it.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::{
    kubeconfig::{self, Credentials},
    pki,
};
use crate::{
    error::Result,
    kubernetes::{
        node::{self, Node},
        paths,
    },
    ports::{Command, Host, ObjectRef, World},
};

/// One thing that exists once a phase is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseResult {
    /// The preflight checks have passed, or later phases have already run.
    PreflightPassed,
    /// All certificates and keys, complete and signed by their CAs.
    Certificates,
    /// A kubeconfig in /etc/kubernetes, complete and with this cluster's CA.
    Kubeconfig(&'static str),
    /// A static pod's manifest.
    StaticPod(&'static str),
    /// The kubelet has its configuration and runs.
    KubeletRunning,
    /// An object of the API.
    Object(ObjectRef),
    /// A label of a node.
    NodeLabel {
        /// The node's name.
        node: String,
        /// The label's key.
        label: &'static str,
    },
    /// The kubelet's kubeconfig follows the certificate as it rotates.
    RotatingKubeletCertificate,
}

impl PhaseResult {
    /// What is missing, in words; `None` if the result exists.
    pub async fn missing(&self, world: &World) -> Result<Option<String>> {
        let host = world.host.as_ref();
        match self {
            Self::PreflightPassed => preflight(host).await,
            Self::Certificates => {
                let verdict = pki::examine(host).await?;
                Ok((!verdict.is_whole()).then(|| verdict.reason()))
            }
            Self::Kubeconfig(name) => kubeconfig(host, name).await,
            Self::StaticPod(name) => static_pod(host, name).await,
            Self::KubeletRunning => kubelet(world).await,
            // The result also counts as missing if the API does not answer or does not know the
            // administrator yet.
            Self::Object(object) => Ok(match world.cluster.get(object).await {
                Ok(Some(_)) => None,
                Ok(None) => Some(format!("{object} does not exist")),
                Err(error) => Some(format!("{object}: {}", error.one_line())),
            }),
            Self::NodeLabel { node, label } => Ok(node_label(world, node, label).await),
            Self::RotatingKubeletCertificate => {
                let Some(text) = host.read(Path::new(paths::KUBELET_CONF)).await? else {
                    return Ok(Some(format!("{} does not exist", paths::KUBELET_CONF)));
                };
                Ok(match kubeconfig::examine(&text, None) {
                    Ok(Credentials::File(_)) => None,
                    Ok(Credentials::Embedded) => Some(format!(
                        "{} contains a certificate that is never rotated",
                        paths::KUBELET_CONF
                    )),
                    Err(why) => Some(format!("{} {why}", paths::KUBELET_CONF)),
                })
            }
        }
    }

    /// Removes what an interrupted run left in kubeadm's way.
    pub async fn clear_way(&self, world: &World) -> Result<()> {
        match self {
            Self::Certificates => pki::cure(world.host.as_ref()).await,
            Self::Kubeconfig(name) => {
                let path = Path::new(paths::KUBERNETES).join(name);
                let broken = self.missing(world).await?.is_some();
                if broken {
                    world.host.remove(&path).await?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

async fn preflight(host: &dyn Host) -> Result<Option<String>> {
    // Once the kubelet or a static pod is configured, this node itself occupies the ports and
    // files.
    for evidence in [
        paths::PREFLIGHT_PASSED,
        paths::KUBELET_CONFIG,
        "/etc/kubernetes/manifests/etcd.yaml",
    ] {
        if host.exists(Path::new(evidence)).await? {
            return Ok(None);
        }
    }
    Ok(Some(
        "kubeadm's preflight checks have not passed".to_owned(),
    ))
}

async fn kubeconfig(host: &dyn Host, name: &str) -> Result<Option<String>> {
    let path = Path::new(paths::KUBERNETES).join(name);
    let Some(text) = host.read(&path).await? else {
        return Ok(Some(format!("{} does not exist", path.display())));
    };
    let ca = host.read(Path::new(paths::CA)).await?;
    Ok(kubeconfig::examine(&text, ca.as_deref())
        .err()
        .map(|why| format!("{} {why}", path.display())))
}

async fn static_pod(host: &dyn Host, name: &str) -> Result<Option<String>> {
    let path = Path::new(paths::MANIFESTS).join(format!("{name}.yaml"));
    let Some(content) = host.read(&path).await? else {
        return Ok(Some(format!("{} does not exist", path.display())));
    };
    let whole = yaml(&content).is_some_and(|pod| {
        pod["kind"] == "Pod"
            && pod["spec"]["containers"][0]["image"].is_string()
            // The last things that kubeadm writes into a manifest.
            && pod["spec"]["volumes"].is_array()
            && pod["status"].is_object()
    });
    Ok((!whole).then(|| format!("{} is not a complete pod manifest", path.display())))
}

async fn kubelet(world: &World) -> Result<Option<String>> {
    let Some(content) = world.host.read(Path::new(paths::KUBELET_CONFIG)).await? else {
        return Ok(Some(format!("{} does not exist", paths::KUBELET_CONFIG)));
    };
    if yaml(&content).is_none_or(|config| config["kind"] != "KubeletConfiguration") {
        return Ok(Some(format!("{} is incomplete", paths::KUBELET_CONFIG)));
    }
    if !world.host.exists(Path::new(paths::KUBELET_FLAGS)).await? {
        return Ok(Some(format!("{} does not exist", paths::KUBELET_FLAGS)));
    }
    let asked = Command::systemctl(["is-active", "kubelet.service"]);
    let state = world.commands.run(asked).await?;
    Ok((state.status != 0).then(|| format!("kubelet.service is {}", state.stdout.trim())))
}

async fn node_label(world: &World, node: &str, label: &str) -> Option<String> {
    let object = node::reference(node);
    match world.cluster.get(&object).await {
        Ok(Some(found)) if Node(&found).has_label(label) => None,
        Ok(Some(_)) => Some(format!("{object} has no label {label}")),
        Ok(None) => Some(format!("{object} does not exist")),
        Err(error) => Some(format!("{object}: {}", error.one_line())),
    }
}

fn yaml(content: &[u8]) -> Option<Value> {
    serde_saphyr::from_str(std::str::from_utf8(content).ok()?).ok()
}
