//! Keeps serving until DNS no longer names this node.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Serialize;

use super::{LEAVING, get};
use crate::{
    error::Result,
    kubernetes::node::Node,
    ports::World,
    steps::{State, Step},
    wait::Notes,
};

/// Enough time has passed since the node was cordoned: the record set no longer names it, and
/// resolvers' caches have expired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WaitForDns {
    /// The node's name.
    pub node: String,
    /// How long after it was cordoned, in seconds.
    pub seconds: u64,
}

impl WaitForDns {
    /// The remaining time; `None` if the Node is gone or a person cordoned it.
    async fn left(&self, world: &World) -> Result<Option<Duration>> {
        let node = get(world, &self.node).await?;
        let since = node
            .as_ref()
            .and_then(|node| Node(node).annotation(LEAVING));
        let since: Option<Timestamp> = since.and_then(|since| since.parse().ok());
        Ok(since.and_then(|since| {
            let end = since + Duration::from_secs(self.seconds);
            let left = end.duration_since(world.clock.now());
            Duration::try_from(left).ok().filter(|left| !left.is_zero())
        }))
    }
}

#[async_trait]
impl Step for WaitForDns {
    async fn check(&self, world: &World) -> Result<State> {
        Ok(self.left(world).await?.map_or(State::AsWanted, |left| {
            State::Differs(format!(
                "DNS answers may name {} for {} s more",
                self.node,
                left.as_secs_f64().ceil()
            ))
        }))
    }

    async fn apply(&self, world: &World, notes: &Notes) -> Result<()> {
        if let Some(left) = self.left(world).await? {
            notes.waiting_for("DNS caches to drop this node's address");
            world.clock.sleep(left).await;
        }
        Ok(())
    }
}
