//! The cluster's instances.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// The part of the EC2 API that the agent uses.
#[async_trait]
pub trait Ec2: Send + Sync {
    /// All instances tagged with this cluster, in every state that EC2 still lists.
    async fn instances(&self, cluster: &str) -> Result<Vec<Instance>>;
    /// Those of these instances that EC2 lists, whatever their tags.
    async fn by_ids(&self, ids: &[&str]) -> Result<Vec<Instance>>;
    /// Sets a tag of an instance, replacing one of that key.
    async fn tag(&self, instance: &str, key: &str, value: &str) -> Result<()>;
}

/// An instance as `DescribeInstances` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// `i-0123456789abcdef0`.
    pub id: String,
    /// Its life-cycle state.
    pub state: InstanceState,
    /// The role in its tag; `None` if the tag is missing or unknown.
    pub role: Option<Role>,
    /// The primary private IPv4 address; `None` once terminated.
    pub private_ip: Option<std::net::Ipv4Addr>,
    /// The public IPv4 address, if it has one.
    pub public_ip: Option<std::net::Ipv4Addr>,
    /// The private DNS name; `None` once terminated.
    pub private_dns_name: Option<String>,
    /// The name of its instance profile, without path.
    pub profile: Option<String>,
    /// When it was launched.
    pub launched: Timestamp,
    /// `eu-central-1a`.
    pub zone: String,
    /// `c7i-flex.large`.
    pub instance_type: String,
    /// Its tags; a terminated instance soon has none.
    pub tags: BTreeMap<String, String>,
}

/// EC2's life-cycle states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    /// Launched, not started yet.
    Pending,
    /// Started; its system may still be booting.
    Running,
    /// Becoming `terminated`.
    ShuttingDown,
    /// Deleted for good.
    Terminated,
    /// Becoming `stopped`.
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
