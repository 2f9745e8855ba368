//! The cluster's name in DNS.

use std::{collections::BTreeSet, net::Ipv4Addr};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Hosted zones, in which the agent keeps one record set.
#[async_trait]
pub trait Dns: Send + Sync {
    /// The A records of a name in a zone; `None` if there are none. An error if they are not plain
    /// addresses, which a write would replace.
    async fn record(&self, zone: &str, name: &str) -> Result<Option<RecordSet>>;
    /// Writes the A records of a name, replacing the existing ones.
    async fn write(&self, zone: &str, name: &str, record: &RecordSet) -> Result<()>;
}

/// The A records of one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordSet {
    /// The addresses; never empty in a zone.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// How long resolvers may keep it, in seconds.
    pub ttl: u32,
}
