//! etcd, as the control planes run it.

use std::{net::Ipv4Addr, path::Path};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// The etcd cluster, asked through the member on this control plane.
///
/// Changes need a majority of the voting members; without one they fail.
#[async_trait]
pub trait Etcd: Send + Sync {
    /// All members, learners included: as the majority has them. Where there is no majority,
    /// as this member knew them last; nothing can be changed then.
    async fn members(&self) -> Result<Vec<Member>>;
    /// The same as the member at this address has them: one that was removed ends, and then
    /// only the others know.
    async fn members_by(&self, other: Ipv4Addr) -> Result<Vec<Member>>;
    /// Whether this member answers and is in step with the others.
    async fn is_healthy(&self, member: &Member) -> bool;
    /// The member that leads; none while there is no leader.
    async fn leader(&self) -> Result<Option<u64>>;
    /// Takes a member out of the cluster; one that is not there is no error. etcd refuses
    /// where too few healthy voters would be left, and that is one.
    async fn remove(&self, id: u64) -> Result<()>;
    /// Gives a learner its vote; one that has it is no error. One that has not caught up yet
    /// is: time mends it.
    async fn promote(&self, id: u64) -> Result<()>;
    /// Makes another voting member the leader; nothing is done where it leads already.
    async fn transfer_leadership(&self, to: u64) -> Result<()>;
    /// Writes all data as of now to a file that only its owner can read: whole, verified by
    /// etcd's own digest and on disk, or not at all.
    async fn snapshot(&self, file: &Path) -> Result<Snapshot>;
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

impl Member {
    /// The id as etcdctl and etcd's log print it.
    pub fn hex(&self) -> String {
        format!("{:x}", self.id)
    }
}

/// A snapshot that was written to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The file's size.
    pub bytes: u64,
    /// sha256 of the whole file in hexadecimal digits.
    pub sha256: String,
}
