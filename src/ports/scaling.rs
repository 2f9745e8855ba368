//! The Auto Scaling group of this instance, if it has one.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// The part of the Auto Scaling API that the agent uses.
#[async_trait]
pub trait Scaling: Send + Sync {
    /// The termination hooks that are holding this instance; empty if no group is waiting for it.
    async fn waiting_for(&self, instance: &str) -> Result<Vec<Hook>>;
    /// Completes a hook, so that its group continues; one that is completed already is no error.
    async fn complete(&self, hook: &Hook, instance: &str) -> Result<()>;
}

/// A life-cycle hook of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// The name of the Auto Scaling group.
    pub group: String,
    /// The hook's name, unique in its group.
    pub name: String,
    /// How long the group waits, in seconds.
    pub timeout: u64,
}
