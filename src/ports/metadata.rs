//! What an instance learns about itself.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// The instance metadata service (IMDSv2).
#[async_trait]
pub trait Metadata: Send + Sync {
    /// The instance identity document and the few facts that it lacks.
    async fn facts(&self) -> Result<InstanceFacts>;
    /// This instance's tags, as far as the service knows them; `None` if it offers none.
    async fn tags(&self) -> Result<Option<BTreeMap<String, String>>>;
    /// The IPv4 networks of the VPC, in CIDR notation.
    async fn vpc_networks(&self) -> Result<Vec<String>>;
    /// The notices of what is about to happen to this instance.
    async fn notices(&self) -> Result<Notices>;
    /// The raw user-data, if there is any.
    async fn user_data(&self) -> Result<Option<Vec<u8>>>;
}

/// Notices of this instance's end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notices {
    /// Its Auto Scaling group wants it terminated.
    pub terminated_by_group: bool,
    /// The spot market reclaims it.
    pub interruption: Option<Interruption>,
    /// The spot market may reclaim it soon.
    pub rebalance: bool,
}

/// A spot interruption.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Interruption {
    /// `terminate`, `stop` or `hibernate`.
    pub action: String,
    /// When it happens.
    pub time: jiff::Timestamp,
}

/// What the metadata service reports about this instance.
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
    /// The host name, `ip-10-0-0-1.eu-central-1.compute.internal`. The domain comes from the VPC's
    /// DHCP options, so it need not be EC2's private DNS name.
    pub local_hostname: String,
}
