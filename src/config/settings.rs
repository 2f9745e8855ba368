//! The settings as types. `defaults.toml` has their meanings, units and defaults.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{private_registry, registry_of};
use crate::{kubernetes::BUNDLE_SERVER, ports::Role};

/// Free-form settings that are merged into a document of another program.
pub type Overrides = Map<String, Value>;

/// Everything a user can set. Every field has a value, since `defaults.toml` is always the base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // each field is documented once, in defaults.toml
pub struct Settings {
    pub cluster: Cluster,
    pub node: Node,
    pub pods: Pods,
    pub store: Store,
    pub join: Join,
    pub kubernetes: Kubernetes,
    pub etcd: Etcd,
    pub kubeadm: Kubeadm,
    pub certificates: Certificates,
    pub service_accounts: ServiceAccounts,
    pub kubelet: Component,
    pub kube_proxy: Component,
    pub containerd: Component,
    pub images: Images,
    pub downloads: Downloads,
    pub bundle: Bundle,
    pub proxy: Proxy,
    pub pins: BTreeMap<String, Pin>,
    pub addons: BTreeMap<String, Addon>,
    pub dns: Dns,
    pub snapshots: Snapshots,
    pub leaving: Leaving,
    pub report: Report,
    pub deadlines: Deadlines,
}

/// `[cluster]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Cluster {
    pub name: String,
    pub pod_cidr: String,
    pub service_cidr: String,
    pub dns_domain: String,
    pub endpoint: String,
}

/// `[node]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Node {
    #[serde(with = "optional_role")]
    pub role: Option<Role>,
    pub labels: BTreeMap<String, String>,
    pub taints: BTreeMap<String, String>,
    pub allow_cgroup_v1: bool,
}

/// `[proxy]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, clippy::struct_field_names)] // NO_PROXY is what everybody calls it
pub struct Proxy {
    pub http: String,
    pub https: String,
    pub no_proxy: Vec<String>,
}

/// `[pods]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Pods {
    pub metadata: bool,
    pub host_network_metadata: bool,
    pub control_ports: bool,
}

/// `[store]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Store {
    pub kind: StoreKind,
    pub prefix: String,
    pub bucket: String,
    pub control_planes: usize,
    pub path: PathBuf,
}

/// Where the cluster's record is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreKind {
    /// AWS Systems Manager Parameter Store.
    Ssm,
    /// An S3 bucket.
    S3,
    /// A directory that all nodes share.
    Folder,
    /// None: the control planes' own tags.
    None,
}

/// `[join]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Join {
    pub port: u16,
    pub worker_roles: Vec<String>,
    pub control_plane_roles: Vec<String>,
}

/// `[kubernetes]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Kubernetes {
    pub version: String,
    pub image_repository: String,
    pub etcd_tag: String,
    pub coredns_tag: String,
    pub pause_tag: String,
}

impl Kubernetes {
    /// The sandbox image, the same for kubeadm, the kubelet and containerd.
    pub fn pause_image(&self) -> String {
        format!("{}/pause:{}", self.image_repository, self.pause_tag)
    }
}

/// `[etcd]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Etcd {
    pub quota_bytes: u64,
    pub check_corruption: bool,
}

/// `[kubeadm]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Kubeadm {
    pub cluster: Overrides,
    pub init: Overrides,
    pub join: Overrides,
    pub ignore_preflight_errors: Vec<String>,
}

/// `[certificates]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Certificates {
    pub lifetime: u64,
    pub ca_lifetime: u64,
    pub kubelet_lifetime: u64,
}

/// `[service_accounts]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ServiceAccounts {
    pub issuer: String,
    pub publish_to: String,
}

/// `[kubelet]`, `[kube_proxy]`, `[containerd]`: what is merged into their configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Component {
    pub config: Overrides,
}

/// `[images]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Images {
    pub preload: bool,
    pub mirrors: BTreeMap<String, Vec<String>>,
    pub logins: BTreeMap<String, String>,
}

/// Where the login of a registry is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginPlace<'a> {
    /// The name of a parameter in Parameter Store.
    Parameter(&'a str),
    /// A file on the node.
    File(&'a Path),
}

impl Images {
    /// Where the login of this registry is kept; `None` if the settings name none.
    pub fn login(&self, host: &str) -> Option<LoginPlace<'_>> {
        let place = self.logins.get(host)?;
        if let Some(name) = place.strip_prefix("ssm:") {
            return Some(LoginPlace::Parameter(name));
        }
        let path = place.strip_prefix("file://")?;
        Some(LoginPlace::File(Path::new(path)))
    }

    /// Whether this image is pulled with a login: by one of the settings, or as ECR's.
    pub fn needs_login(&self, image: &str) -> bool {
        private_registry(image).is_some() || self.logins.contains_key(registry_of(image))
    }
}

/// `[downloads]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Downloads {
    pub mirrors: BTreeMap<String, String>,
    pub parallel: usize,
}

impl Downloads {
    /// The URL with its longest mirrored prefix replaced.
    pub fn mirrored(&self, url: &str) -> String {
        self.mirrors
            .iter()
            .filter(|(from, _)| url.starts_with(from.as_str()))
            .max_by_key(|(from, _)| from.len())
            .map_or_else(
                || url.to_owned(),
                |(from, to)| format!("{to}{}", &url[from.len()..]),
            )
    }
}

/// `[bundle]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Bundle {
    pub url: String,
    pub sha256: BTreeMap<String, String>,
}

impl Bundle {
    /// Whether nodes take everything from a bundle.
    pub fn is_used(&self) -> bool {
        !self.url.is_empty()
    }
}

impl Settings {
    /// Where a node downloads the file with this URL and sha256: from its bundle, a mirror, or the
    /// URL itself.
    pub fn download_url(&self, url: &str, sha256: &str) -> String {
        if self.bundle.is_used() && !sha256.is_empty() {
            // In the bundle everything is a blob of the OCI distribution API.
            return format!(
                "http://{BUNDLE_SERVER}/v2/files/blobs/sha256:{}",
                sha256.to_ascii_lowercase()
            );
        }
        self.downloads.mirrored(url)
    }
}

/// `[pins.NAME]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Pin {
    pub version: String,
    pub url: String,
    pub sha256: BTreeMap<String, String>,
}

/// `[addons.NAME]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Addon {
    pub enabled: bool,
    #[serde(default = "after_the_network")]
    pub order: u32,
    pub sources: Vec<Source>,
    #[serde(default)]
    pub images: Vec<String>,
    #[serde(default)]
    pub image_overrides: BTreeMap<String, String>,
    #[serde(default)]
    pub values: Overrides,
    #[serde(default)]
    pub patches: Vec<Patch>,
}

fn after_the_network() -> u32 {
    100
}

impl Addon {
    /// Whether nodes need it to be Ready.
    pub fn is_network(&self) -> bool {
        self.order < 50
    }
}

/// Where manifests of an add-on come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// `https://...`, `http://...`, `embedded:NAME` or `file:///...`; empty if `inline` is set.
    #[serde(default)]
    pub url: String,
    /// The manifests themselves, as YAML; empty if `url` is set.
    #[serde(default)]
    pub inline: String,
    /// Expected digest of a fetched manifest; empty for other sources.
    #[serde(default)]
    pub sha256: String,
}

/// A change to the objects of an add-on, as data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Patch {
    #[serde(default)]
    pub kind: Option<String>,
    #[serde(default)]
    pub name: Option<String>,
    /// Merged into the object: RFC 7386, and lists of items with a `name` item by item.
    #[serde(default)]
    pub merge: Option<Value>,
    /// Operations on the object, as in RFC 6902.
    #[serde(default)]
    pub json: Option<Vec<Value>>,
}

/// `[dns]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Dns {
    pub enabled: bool,
    pub zone: String,
    pub name: String,
    pub ttl: u32,
    pub addresses: Addresses,
}

/// Which of a worker's addresses are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Addresses {
    /// Private addresses, within the VPC.
    Private,
    /// Public addresses, reachable from the internet.
    Public,
}

/// `[snapshots]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Snapshots {
    pub to: String,
    pub kms_key: String,
    pub every: u64,
    pub keep: usize,
}

/// `[leaving]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Leaving {
    pub deadline: u64,
}

/// `[report]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Report {
    pub listen: std::net::SocketAddr,
}

/// `[deadlines]`, in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Deadlines {
    pub download: u64,
    pub peers: u64,
    pub api: u64,
    pub join: u64,
    pub rollout: u64,
}

/// "" stands for "as the tag says", since TOML has no null.
mod optional_role {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::ports::Role;

    #[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref)] // serde's signature
    pub fn serialize<S: Serializer>(role: &Option<Role>, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(role.map_or("", Role::as_str))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Role>, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(D::Error::custom)
    }
}
