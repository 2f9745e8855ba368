//! How backups fare, as reports show it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How backups fare, as the leader sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotReport {
    /// Where they go.
    pub to: String,
    /// When the last good one was taken.
    pub last_good: Option<Timestamp>,
    /// The size of the last one that this agent took, in bytes.
    pub bytes: u64,
    /// Attempts that failed since this agent started.
    pub failures: u64,
    /// What went wrong last; empty after a success.
    pub trouble: String,
}
