//! Lets the Auto Scaling group continue.

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    error::Result,
    ports::World,
    steps::{State, Step},
    wait::Notes,
};

/// Every termination hook that waits for this instance is completed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CompleteHooks {
    /// The id of this instance.
    pub instance: String,
}

#[async_trait]
impl Step for CompleteHooks {
    async fn check(&self, world: &World) -> Result<State> {
        let hooks = world.scaling.waiting_for(&self.instance).await?;
        Ok(match hooks.first() {
            None => State::AsWanted,
            Some(hook) => State::Differs(format!(
                "the lifecycle hook {} of {} waits for {}",
                hook.name, hook.group, self.instance
            )),
        })
    }

    async fn apply(&self, world: &World, _notes: &Notes) -> Result<()> {
        for hook in world.scaling.waiting_for(&self.instance).await? {
            world.scaling.complete(&hook, &self.instance).await?;
        }
        Ok(())
    }
}
