//! The documents that kubeadm reads, as far as the agent fills them in.
//!
//! Field names and meanings are those of `kubeadm.k8s.io/v1beta4`, `kubelet.config.k8s.io/v1beta1`
//! and `kubeproxy.config.k8s.io/v1alpha1`; everything else is left to kubeadm's defaults or the
//! user's overrides.

use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

use crate::identity::Taint;

/// The API version of kubeadm's own documents.
pub const KUBEADM_API: &str = "kubeadm.k8s.io/v1beta4";

/// An argument for a component: v1beta4 has lists, older versions had maps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Arg {
    /// Without leading dashes.
    pub name: String,
    /// Always a string.
    pub value: String,
}

impl Arg {
    /// `--name=value`.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            value: value.into(),
        }
    }
}

/// What all control planes share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct ClusterConfiguration {
    pub api_version: &'static str,
    pub kind: &'static str,
    pub cluster_name: String,
    pub kubernetes_version: String,
    pub control_plane_endpoint: String,
    pub image_repository: String,
    pub certificate_validity_period: String,
    #[serde(rename = "caCertificateValidityPeriod")]
    pub ca_certificate_validity_period: String,
    pub networking: Networking,
    pub api_server: ApiServer,
    pub controller_manager: Component,
    pub scheduler: Component,
    pub etcd: Etcd,
    pub dns: Image,
}

/// Addresses of services and pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Networking {
    pub service_subnet: String,
    pub pod_subnet: String,
    pub dns_domain: String,
}

/// The API server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct ApiServer {
    pub extra_args: Vec<Arg>,
    #[serde(rename = "certSANs")]
    pub cert_sans: Vec<String>,
}

/// The scheduler, the controller manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Component {
    pub extra_args: Vec<Arg>,
}

/// etcd on the API server's own machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Etcd {
    pub local: LocalEtcd,
}

/// The member that kubeadm runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct LocalEtcd {
    pub data_dir: &'static str,
    pub image_tag: String,
    pub extra_args: Vec<Arg>,
}

/// An image by its tag; the repository is the cluster's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Image {
    pub image_tag: String,
}

/// What only the founder needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct InitConfiguration {
    pub api_version: &'static str,
    pub kind: &'static str,
    pub node_registration: NodeRegistration,
    #[serde(rename = "localAPIEndpoint")]
    pub local_api_endpoint: ApiEndpoint,
    pub bootstrap_tokens: Vec<BootstrapTokenSpec>,
    pub patches: Patches,
    pub timeouts: Timeouts,
}

/// A token that `kubeadm init phase bootstrap-token` makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct BootstrapTokenSpec {
    pub description: &'static str,
    pub ttl: &'static str,
    pub usages: Vec<&'static str>,
    pub groups: Vec<&'static str>,
}

impl BootstrapTokenSpec {
    /// A token that grants nothing and expires at once.
    ///
    /// kubeadm requires one; the agents make the real tokens themselves when a node joins.
    pub fn unusable() -> Self {
        Self {
            description: "required by kubeadm; grants nothing",
            ttl: "1s",
            usages: vec!["authentication"],
            groups: vec!["system:bootstrappers:k8s-bootstrap:nobody"],
        }
    }
}

/// How the node registers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct NodeRegistration {
    pub name: String,
    pub cri_socket: &'static str,
    pub taints: Vec<Taint>,
    pub kubelet_extra_args: Vec<Arg>,
    pub image_pull_policy: &'static str,
    pub image_pull_serial: bool,
    pub ignore_preflight_errors: Vec<String>,
}

/// Where this control plane's own API server listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct ApiEndpoint {
    pub advertise_address: Ipv4Addr,
    pub bind_port: u16,
}

/// The folder with this node's changes to shared documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Patches {
    pub directory: &'static str,
}

/// kubeadm's own waits, as Go durations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Timeouts {
    pub control_plane_component_health_check: String,
    pub kubelet_health_check: String,
    #[serde(rename = "kubernetesAPICall")]
    pub kubernetes_api_call: String,
    #[serde(rename = "etcdAPICall")]
    pub etcd_api_call: String,
    pub tls_bootstrap: String,
    pub discovery: String,
}

/// What every other node needs; the secrets are filled in when the node joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct JoinConfiguration {
    pub api_version: &'static str,
    pub kind: &'static str,
    pub node_registration: NodeRegistration,
    pub discovery: Discovery,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<JoinControlPlane>,
    pub patches: Patches,
    pub timeouts: Timeouts,
}

/// How a joiner finds and trusts the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Discovery {
    pub file: DiscoveryFile,
    pub tls_bootstrap_token: String,
}

/// Discovery with a kubeconfig that contains the pinned CA: nothing has to be signed with the token
/// first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct DiscoveryFile {
    pub kube_config_path: &'static str,
}

/// A further control plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct JoinControlPlane {
    #[serde(rename = "localAPIEndpoint")]
    pub local_api_endpoint: ApiEndpoint,
    pub certificate_key: String,
}

/// What all kubelets share: it ends up in the cluster's `kubelet-config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct KubeletConfiguration {
    pub api_version: &'static str,
    pub kind: &'static str,
    pub cgroup_driver: &'static str,
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    pub max_pods: u32,
    pub protect_kernel_defaults: bool,
    pub rotate_certificates: bool,
    #[serde(rename = "serverTLSBootstrap")]
    pub server_tls_bootstrap: bool,
}

/// kube-proxy, on all nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct KubeProxyConfiguration {
    pub api_version: &'static str,
    pub kind: &'static str,
    pub mode: &'static str,
}
