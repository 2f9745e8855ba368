//! The cluster that an instance belongs to, and what the instance remembers of it.

use serde::{Deserialize, Serialize};

use super::SettledRecord;

/// The cluster that an instance belongs to, and as what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The cluster's uid, made by its founder.
    pub cluster_uid: String,
    /// How the instance came to it.
    pub course: Course,
}

/// How an instance comes to its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Course {
    /// It makes the cluster.
    Found,
    /// It joins one that exists.
    Join,
}

/// What an instance remembers of its cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// The cluster that it belongs to.
    pub membership: Option<Membership>,
    /// The record of that cluster, once it is settled.
    pub settled: Option<SettledRecord>,
}
