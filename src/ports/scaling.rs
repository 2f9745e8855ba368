//! The Auto Scaling group that this instance may be of.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// The part of the Auto Scaling API that the agent uses.
#[async_trait]
pub trait Scaling: Send + Sync {
    /// The termination hooks that hold this instance back from being terminated; none while
    /// no group waits for it.
    async fn waiting_for(&self, instance: &str) -> Result<Vec<Hook>>;
    /// Tells a hook's group to go on; one that has gone on already is no error.
    async fn complete(&self, hook: &Hook, instance: &str) -> Result<()>;
}

/// A life-cycle hook of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// The group's name.
    pub group: String,
    /// Its own name.
    pub name: String,
    /// How long the group waits, in seconds.
    pub timeout: u64,
}
