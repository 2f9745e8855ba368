//! The cluster that an instance belongs to, and what the instance remembers of it.

use serde::{Deserialize, Serialize};

use super::SettledRecord;

/// The cluster that an instance belongs to, and how it came to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The cluster's uid, made by its founder.
    pub cluster_uid: String,
    /// How the instance came to it.
    pub origin: Origin,
}

/// How an instance came to its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// It made the cluster.
    Founded,
    /// It joined one that existed.
    Joined,
}

/// What an instance remembers of its cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// The cluster that it belongs to.
    pub membership: Option<Membership>,
    /// The record of that cluster, once it is settled.
    pub settled: Option<SettledRecord>,
}
