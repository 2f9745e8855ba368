//! etcd, as the control planes run it.

use std::{collections::BTreeSet, net::Ipv4Addr, path::Path};

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
    /// What this member says of itself; an error if it does not answer.
    async fn status(&self, member: &Member) -> Result<MemberStatus>;
    /// Whether this member answers, follows the leader and keeps up, whatever alarms there are.
    async fn is_healthy(&self, member: &Member) -> bool {
        self.status(member).await.is_ok_and(|status| status.in_step)
    }
    /// The member that leads; none while there is no leader.
    async fn leader(&self) -> Result<Option<u64>>;
    /// Takes a member out of the cluster; one that is not there is no error. etcd refuses
    /// where too few healthy voters would be left, and that is one.
    async fn remove(&self, id: u64) -> Result<()>;
    /// Gives a learner its vote; one that has it is no error. One that has not caught up yet
    /// is one that passes by itself.
    async fn promote(&self, id: u64) -> Result<()>;
    /// Makes another voting member the leader; nothing is done where it leads already.
    async fn transfer_leadership(&self, to: u64) -> Result<()>;
    /// Drops what was overwritten or deleted before this revision; doing it again is no error.
    /// The space is used again by later writes, and the file stays as large as it is.
    async fn compact(&self, revision: u64) -> Result<()>;
    /// Makes a member's file as small as its data. Meanwhile that member serves nobody.
    async fn defragment(&self, member: &Member) -> Result<()>;
    /// Ends an alarm; one that was not raised is no error.
    async fn disarm(&self, alarm: RaisedAlarm) -> Result<()>;
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

/// What a member says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberStatus {
    /// The id that etcd gave to its cluster.
    pub cluster: u64,
    /// The member that leads as far as this one knows.
    pub leader: Option<u64>,
    /// It follows the same leader as the member on this machine and keeps up with the log: its
    /// vote counts.
    pub in_step: bool,
    /// The alarms of all members: each member knows all of them.
    pub alarms: BTreeSet<RaisedAlarm>,
    /// The revision of its newest key.
    pub revision: u64,
    /// The size of its database.
    pub database: Database,
}

impl MemberStatus {
    /// Whether the member has raised this alarm.
    pub fn is_alarmed(&self, member: u64, alarm: Alarm) -> bool {
        self.alarms.contains(&RaisedAlarm { member, alarm })
    }
}

/// What etcd cannot go on with before it is put right.
/// <https://etcd.io/docs/v3.6/op-guide/maintenance/#space-quota>
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Alarm {
    /// A member's file has reached its quota: etcd takes no writes but deletions.
    NoSpace,
    /// A member has other data than the others: etcd serves neither reads nor writes.
    Corrupt,
}

impl Alarm {
    /// etcd's own word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSpace => "NOSPACE",
            Self::Corrupt => "CORRUPT",
        }
    }
}

/// An alarm and the member that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RaisedAlarm {
    /// The member's id.
    pub member: u64,
    /// The alarm.
    pub alarm: Alarm,
}

/// The size of a member's database, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// The file.
    pub bytes: u64,
    /// What of it holds data.
    pub in_use: u64,
    /// What the file may grow to; 0 if the member does not say.
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
