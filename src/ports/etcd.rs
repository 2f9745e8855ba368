//! etcd, as the control planes run it.

use std::net::Ipv4Addr;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// The etcd cluster, asked through the member on this control plane.
#[async_trait]
pub trait Etcd: Send + Sync {
    /// All members, learners included.
    async fn members(&self) -> Result<Vec<Member>>;
    /// Whether this member answers and is in step with the others.
    async fn is_healthy(&self, member: &Member) -> bool;
    /// Takes a member out of the cluster; one that is not there is no error.
    async fn remove(&self, id: u64) -> Result<()>;
}

/// A member of the etcd cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// etcd's number for it.
    pub id: u64,
    /// Its node's name; empty until a member that was added has started.
    pub name: String,
    /// Where it can be reached by the others: the node's private address.
    pub address: Ipv4Addr,
    /// It receives the log and has no vote yet.
    pub learner: bool,
}
