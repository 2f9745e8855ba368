//! etcd, as the control planes run it.

use std::{collections::BTreeSet, net::Ipv4Addr, path::Path};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// The etcd cluster, reached through the member on this control plane.
///
/// Changes need a majority of the voting members; without one they fail.
#[async_trait]
pub trait Etcd: Send + Sync {
    /// All members including learners, as the majority has them. Without a majority: as this member
    /// last knew them, and then nothing can be changed.
    async fn members(&self) -> Result<Vec<Member>>;
    /// The same from the member at this address: a removed member stops, and then only the others
    /// know.
    async fn members_by(&self, other: Ipv4Addr) -> Result<Vec<Member>>;
    /// What this member reports about itself; an error if it does not answer.
    async fn status(&self, member: &Member) -> Result<MemberStatus>;
    /// Whether this member answers, follows the leader and keeps up, regardless of alarms.
    async fn is_healthy(&self, member: &Member) -> bool {
        self.status(member).await.is_ok_and(|status| status.in_step)
    }
    /// The member that leads; `None` while there is no leader.
    async fn leader(&self) -> Result<Option<u64>>;
    /// Removes a member from the cluster; one that does not exist is no error. It is an error if
    /// etcd refuses because too few healthy voters would remain.
    async fn remove(&self, id: u64) -> Result<()>;
    /// Gives a learner its vote; one that has it already is no error. If it has not caught up yet,
    /// the error is temporary.
    async fn promote(&self, id: u64) -> Result<()>;
    /// Makes another voting member the leader; does nothing if that one leads already.
    async fn transfer_leadership(&self, to: u64) -> Result<()>;
    /// Drops what was overwritten or deleted before this revision; repeating it is no error. Later
    /// writes reuse the space; the file keeps its size.
    async fn compact(&self, revision: u64) -> Result<()>;
    /// Shrinks a member's file to the size of its data. Meanwhile that member serves no requests.
    async fn defragment(&self, member: &Member) -> Result<()>;
    /// Disarms an alarm; one that is not raised is no error.
    async fn disarm(&self, alarm: RaisedAlarm) -> Result<()>;
    /// Writes all current data to a file that only its owner can read: complete, verified by etcd's
    /// own digest and on disk, or not at all.
    async fn snapshot(&self, file: &Path) -> Result<Snapshot>;
}

/// A member of the etcd cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Assigned by etcd; people read it in hexadecimal digits.
    pub id: u64,
    /// Its node's name; empty until a member that was added has started.
    pub name: String,
    /// The address for the other members: the node's private address.
    pub address: Ipv4Addr,
    /// Whether it receives the log but has no vote yet.
    pub learner: bool,
}

impl Member {
    /// The id as etcdctl and etcd's log print it.
    pub fn hex(&self) -> String {
        format!("{:x}", self.id)
    }
}

/// What a member reports about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberStatus {
    /// The cluster id that etcd assigned.
    pub cluster: u64,
    /// The id of the leader, as far as this member knows.
    pub leader: Option<u64>,
    /// Whether it follows the same leader as the member on this machine and keeps up with the log,
    /// so that its vote counts.
    pub in_step: bool,
    /// The alarms of all members; every member knows them.
    pub alarms: BTreeSet<RaisedAlarm>,
    /// The revision of its newest key.
    pub revision: u64,
    /// The size of its database.
    pub database: Database,
}

impl MemberStatus {
    /// Whether this alarm is raised for the member with this id.
    pub fn is_alarmed(&self, member: u64, alarm: Alarm) -> bool {
        self.alarms.contains(&RaisedAlarm { member, alarm })
    }
}

/// A condition that stops etcd until it is repaired.
/// <https://etcd.io/docs/v3.6/op-guide/maintenance/#space-quota>
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Alarm {
    /// A member's file has reached its quota: etcd accepts no writes but deletions.
    NoSpace,
    /// A member's data differ from the others': etcd serves neither reads nor writes.
    Corrupt,
}

impl Alarm {
    /// etcd's own name for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSpace => "NOSPACE",
            Self::Corrupt => "CORRUPT",
        }
    }
}

/// An alarm and the member that it concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RaisedAlarm {
    /// The id of the member that has it.
    pub member: u64,
    /// What is wrong with that member.
    pub alarm: Alarm,
}

/// The size of a member's database, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// The file's size.
    pub bytes: u64,
    /// The part of the file that holds data.
    pub in_use: u64,
    /// The file's maximum size; 0 if the member does not report it.
    pub quota: u64,
}

/// A snapshot that was written to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The file's size.
    pub bytes: u64,
    /// sha256 of the whole file in hexadecimal digits.
    pub sha256: String,
}
