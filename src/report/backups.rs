//! The state of backups, as reports show it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The state of backups, as the leader sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotReport {
    /// The destination's URL, from `snapshots.to`.
    pub to: String,
    /// When the last good backup was taken; `None` if none is known.
    pub last_good: Option<Timestamp>,
    /// The size of the last backup that this agent took, in bytes.
    pub bytes: u64,
    /// Failed attempts since this agent started.
    pub failures: u64,
    /// The last error; empty after a success.
    pub trouble: String,
}
