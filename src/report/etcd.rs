//! The state of etcd, as reports show it.

use serde::{Deserialize, Serialize};

use crate::ports::{Alarm, Database};

/// The state of etcd, as this control plane sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdReport {
    /// The cluster id that etcd assigned, in hexadecimal digits.
    #[serde(default)]
    pub cluster: Option<String>,
    /// All members, those without a vote included.
    pub members: Vec<MemberReport>,
    /// Members that this agent has defragmented since it started.
    pub defragmentations: u64,
    /// Alarms that this agent has disarmed since it started.
    pub alarms_ended: u64,
    /// What is wrong with the data.
    pub troubles: Vec<String>,
}

/// One member in [`EtcdReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    /// Its node's name, or its address if it never started.
    pub name: String,
    /// Whether it answers and keeps up.
    pub state: MemberState,
    /// Whether it is etcd's leader.
    pub leader: bool,
    /// Whether it has no vote yet.
    pub learner: bool,
    /// The alarms that concern it.
    pub alarms: Vec<Alarm>,
    /// The size of its database; `None` if it does not answer.
    pub database: Option<Database>,
}

/// Whether a member answers and keeps up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberState {
    /// It follows the leader and keeps up with the log.
    Healthy,
    /// It answers, but follows another leader or none, or lags behind the log.
    Behind,
    /// It does not answer.
    Silent,
}

impl MemberState {
    /// The state's name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Behind => "behind",
            Self::Silent => "silent",
        }
    }
}
