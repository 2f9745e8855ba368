//! The traits through which the agent meets the world.
//!
//! Everything outside `adapters` works against these, so that decisions, plans and
//! phases run in tests and simulations exactly as on an instance.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// The instance metadata service (IMDSv2).
#[async_trait]
pub trait Metadata: Send + Sync {
    /// The instance identity document and the few facts beside it.
    async fn facts(&self) -> Result<InstanceFacts>;
    /// This instance's tags. Refused with a remedy where the instance does not offer them.
    async fn tags(&self) -> Result<BTreeMap<String, String>>;
    /// The raw user-data, if there is any.
    async fn user_data(&self) -> Result<Option<Vec<u8>>>;
}

/// What the metadata service says of this instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceFacts {
    /// `i-0123456789abcdef0`.
    pub instance_id: String,
    /// `c7i-flex.large`.
    pub instance_type: String,
    /// `eu-central-1`.
    pub region: String,
    /// `eu-central-1a`.
    pub zone: String,
    /// The account's twelve digits.
    pub account: String,
    /// The primary private IPv4 address.
    pub private_ip: std::net::Ipv4Addr,
    /// The private DNS name, `ip-10-0-0-1.eu-central-1.compute.internal`.
    pub local_hostname: String,
}

/// The part of the EC2 API that the agent uses.
#[async_trait]
pub trait Ec2: Send + Sync {
    /// All instances tagged with this cluster, of every state that EC2 still lists.
    async fn instances(&self, cluster: &str) -> Result<Vec<Instance>>;
}

/// An instance as `DescribeInstances` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// `i-0123456789abcdef0`.
    pub id: String,
    /// Its life-cycle state.
    pub state: InstanceState,
    /// The role that its tag gives; none where the tag is missing or unknown.
    pub role: Option<Role>,
    /// The primary private IPv4 address; none once terminated.
    pub private_ip: Option<std::net::Ipv4Addr>,
    /// The private DNS name.
    pub private_dns_name: Option<String>,
    /// When it was launched.
    pub launched: Timestamp,
}

/// EC2's life-cycle states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    /// Being started.
    Pending,
    /// Running.
    Running,
    /// On its way to `terminated`.
    ShuttingDown,
    /// Gone for good.
    Terminated,
    /// On its way to `stopped`.
    Stopping,
    /// Stopped: it may come back with the same disk.
    Stopped,
}

impl InstanceState {
    /// Whether the instance can never come back.
    pub fn is_gone(self) -> bool {
        matches!(self, Self::ShuttingDown | Self::Terminated)
    }
}

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs etcd, the API server, the scheduler and the controllers.
    ControlPlane,
    /// Runs the workload.
    Worker,
}

impl Role {
    /// The role's name in tags and settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::Worker => "worker",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "control-plane" => Ok(Self::ControlPlane),
            "worker" => Ok(Self::Worker),
            other => Err(format!(
                "unknown role `{other}`, expected `control-plane` or `worker`"
            )),
        }
    }
}

/// A small store that all instances of a cluster share, with one atomic operation: `create`.
///
/// Keys are relative, such as `founder/1`; the adapter puts prefix and cluster before them.
#[async_trait]
pub trait Store: Send + Sync {
    /// Writes the key if it does not exist; otherwise changes nothing and tells so.
    ///
    /// An answer lost on the way leaves it open whether the write took effect:
    /// callers read back who holds the key instead of trusting an error.
    async fn create(&self, key: &str, value: &str) -> Result<Created>;
    /// The value of a key.
    async fn get(&self, key: &str) -> Result<Option<String>>;
    /// All keys under a prefix such as `founder/`, with their values, sorted by key.
    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, String>>;
    /// Writes a secret, over an older one too; stored encrypted where the store can.
    async fn put_secret(&self, key: &str, value: &secrecy::SecretString) -> Result<()>;
    /// Reads a secret.
    async fn get_secret(&self, key: &str) -> Result<Option<secrecy::SecretString>>;
    /// Removes a key; one that does not exist is no error.
    async fn delete(&self, key: &str) -> Result<()>;
}

/// What `Store::create` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The key is new and holds our value.
    Yes,
    /// The key was there before and is unchanged.
    AlreadyThere,
}

/// This machine: files, kernel, mounts.
///
/// Paths are absolute; the adapter may put a root before them, so that tests use
/// the real adapter on a folder of their own.
#[async_trait]
pub trait Host: Send + Sync {
    /// A file's content; none where it does not exist.
    async fn read(&self, path: &Path) -> Result<Option<Vec<u8>>>;
    /// Writes a file whole or not at all (temporary file, fsync, rename, fsync of the folder), making its folders.
    async fn write(&self, path: &Path, content: &[u8], mode: u32) -> Result<()>;
    /// Removes a file; one that does not exist is no error.
    async fn remove(&self, path: &Path) -> Result<()>;
    /// The paths in a folder, sorted; none where there is no such folder.
    async fn list(&self, folder: &Path) -> Result<Option<Vec<PathBuf>>>;
    /// Whether the path exists.
    async fn exists(&self, path: &Path) -> Result<bool>;
    /// Writes a value into a file of /proc or /sys, in place.
    async fn set_kernel_parameter(&self, path: &Path, value: &str) -> Result<()>;
    /// What kind of machine this is.
    async fn machine(&self) -> Result<MachineFacts>;
    /// Whether something listens on this TCP port of any local address.
    async fn port_in_use(&self, port: u16) -> Result<bool>;
    /// Turns off the swap device or file.
    async fn swap_off(&self, path: &Path) -> Result<()>;
    /// Makes the kernel's module available; a built-in one counts as available.
    async fn load_module(&self, name: &str) -> Result<()>;
    /// sha256 of a file in hexadecimal digits; none where it does not exist.
    async fn sha256(&self, path: &Path) -> Result<Option<String>>;
}

/// Facts of the machine that preparation and refusals depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineFacts {
    /// Processors online.
    pub cpus: usize,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// The architecture in Kubernetes' words: `amd64` or `arm64`.
    pub arch: String,
    /// 1 or 2.
    pub cgroup_version: u8,
    /// Bytes free under /var/lib.
    pub disk_free_bytes: u64,
    /// The effective user is root.
    pub root: bool,
    /// The kernel's release, `6.8.0-1030-aws`.
    pub kernel: String,
}

/// Programs run as children.
#[async_trait]
pub trait Commands: Send + Sync {
    /// Runs a program to its end. A non-zero status is not an error here: see [`Output::success`].
    /// A child that outlives the deadline is killed with its group, and that is an error.
    async fn run(&self, command: Command) -> Result<Output>;
}

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Absolute path or a name sought in PATH.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables added to the environment.
    pub env: Vec<(String, String)>,
    /// How long it may run.
    pub deadline: Duration,
}

impl Command {
    /// A command with the usual minute as its deadline.
    pub fn new<I, S>(program: impl Into<String>, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            deadline: Duration::from_mins(1),
        }
    }

    /// The same command with another deadline.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The command as a person would type it.
    pub fn line(&self) -> String {
        std::iter::once(&self.program)
            .chain(&self.args)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// What a finished child left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; 128 + n for one that signal n ended.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// The output of a child that succeeded; otherwise an error with the command and the end of what it said.
    pub fn success(self, command: &Command) -> Result<Self> {
        if self.status == 0 {
            return Ok(self);
        }
        let said = if self.stderr.trim().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        let lines: Vec<&str> = said.lines().filter(|l| !l.trim().is_empty()).collect();
        let tail = lines[lines.len().saturating_sub(8)..].join(" | ");
        Err(crate::error::Error::failed(format!(
            "`{}` ended with status {}: {tail}",
            command.line(),
            self.status
        )))
    }
}

/// Downloads that are verified before anything sees them.
#[async_trait]
pub trait Downloads: Send + Sync {
    /// Streams, hashes and unpacks in one pass; resumes after a break; leaves nothing on a wrong digest.
    async fn fetch(&self, download: &Download) -> Result<()>;
    /// A small text (a manifest), verified.
    async fn text(&self, url: &str, sha256: &str) -> Result<String>;
}

/// One thing to download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Download {
    /// Where from, mirrors already applied.
    pub url: String,
    /// What it must hash to, in hexadecimal digits.
    pub sha256: String,
    /// Where to.
    pub target: Target,
}

/// What becomes of a download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// One file with mode 0755.
    Program(PathBuf),
    /// The regular files of a gzipped tar archive, by their base names, into a folder, mode 0755.
    Programs(PathBuf),
}

/// The Kubernetes API, once there is one.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// Whether the API server at the endpoint answers `/readyz`.
    async fn ready(&self) -> Result<bool>;
    /// Server-side apply of objects in dependency order: definitions first, waited for, then the rest.
    /// `owner` is recorded as a label, for pruning. `patience` is how long each object may be
    /// refused for reasons that pass.
    async fn apply(
        &self,
        owner: &str,
        objects: &[serde_json::Value],
        patience: Duration,
    ) -> Result<()>;
    /// All objects of the kind in the namespace that this agent applied, on any node.
    async fn applied(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
    ) -> Result<Vec<serde_json::Value>>;
    /// Deletes an object, and in the background what it owns, if it carries the label of this
    /// owner; tells whether it did.
    async fn delete(&self, owner: &str, object: &ObjectRef) -> Result<bool>;
    /// Writes an object that nobody has changed since its `metadata.resourceVersion`, or that
    /// does not exist where it has none; tells whether it did.
    async fn compare_and_set(&self, object: &serde_json::Value) -> Result<bool>;
    /// What of these objects (Deployments, DaemonSets, StatefulSets, Jobs) has not rolled out yet; empty when all have.
    async fn not_rolled_out(&self, objects: &[serde_json::Value]) -> Result<Vec<String>>;
    /// An object as the API server has it; none where it, or its kind, does not exist.
    async fn get(&self, object: &ObjectRef) -> Result<Option<serde_json::Value>>;
    /// The node's Ready condition; none when there is no such node.
    async fn node_ready(&self, name: &str) -> Result<Option<NodeCondition>>;
}

/// Names one object of the Kubernetes API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// `apps/v1`.
    pub api_version: String,
    /// `DaemonSet`.
    pub kind: String,
    /// None for kinds without namespaces.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// The name of an object of a manifest.
    pub fn of(object: &serde_json::Value) -> Self {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            api_version: text(&object["apiVersion"]),
            kind: text(&object["kind"]),
            namespace: object["metadata"]["namespace"].as_str().map(str::to_owned),
            name: text(&object["metadata"]["name"]),
        }
    }

    /// An object of which nothing is known but its name.
    pub fn skeleton(&self) -> serde_json::Value {
        serde_json::json!({
            "apiVersion": self.api_version,
            "kind": self.kind,
            "metadata": {"name": self.name, "namespace": self.namespace},
        })
    }

    /// Whether both name the same object: versions of a group show the same objects, and
    /// a namespace that is not said is `default`.
    pub fn is_same(&self, other: &Self) -> bool {
        let key = |object: &Self| {
            let group = object
                .api_version
                .rsplit_once('/')
                .map(|(group, _)| group.to_owned());
            let namespace = object.namespace.clone().filter(|name| name != "default");
            (group, object.kind.clone(), namespace, object.name.clone())
        };
        key(self) == key(other)
    }
}

impl std::fmt::Display for ObjectRef {
    /// `DaemonSet kube-system/kube-proxy`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", self.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

/// A node's Ready condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCondition {
    /// Whether its status is `True`.
    pub ready: bool,
    /// The kubelet's message.
    pub message: String,
}

/// Time, so that tests and simulations own it.
#[async_trait]
pub trait Clock: Send + Sync {
    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// Waits.
    async fn sleep(&self, duration: Duration);
    /// A uniform random number in 0..1, for jitter.
    fn jitter(&self) -> f64;
}

/// All ports together.
#[derive(Clone)]
pub struct World {
    /// The metadata service.
    pub metadata: Arc<dyn Metadata>,
    /// The EC2 API.
    pub ec2: Arc<dyn Ec2>,
    /// The cluster's shared store.
    pub store: Arc<dyn Store>,
    /// This machine.
    pub host: Arc<dyn Host>,
    /// Child processes.
    pub commands: Arc<dyn Commands>,
    /// Verified downloads.
    pub downloads: Arc<dyn Downloads>,
    /// The Kubernetes API.
    pub cluster: Arc<dyn Cluster>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

#[cfg(test)]
mod tests {
    use super::ObjectRef;

    fn named(api_version: &str, kind: &str, namespace: Option<&str>) -> ObjectRef {
        ObjectRef {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: "x".to_owned(),
        }
    }

    #[test]
    fn versions_and_the_default_namespace_do_not_make_another_object() {
        let one = named("apps/v1", "Deployment", None);
        assert!(one.is_same(&named("apps/v1beta1", "Deployment", Some("default"))));
        assert!(!one.is_same(&named("apps/v1", "Deployment", Some("x"))));
        assert!(!one.is_same(&named("apps/v1", "DaemonSet", None)));
        assert!(!one.is_same(&named("extensions/v1", "Deployment", None)));
        assert!(named("v1", "Pod", None).is_same(&named("v2", "Pod", None)));
        assert_eq!(ObjectRef::of(&one.skeleton()), one);
    }
}
