//! Marks the node not Ready before it goes down.

use async_trait::async_trait;
use serde::Serialize;
use serde_json::json;

use super::get;
use crate::{
    error::Result,
    kubernetes::node::{Node, reference},
    ports::{Part, World},
    steps::{State, Step},
    wait::Notes,
};

/// The node's Ready condition is `False`: its pods leave the endpoints of services at once, not 40
/// s after the kubelet's last report. The kubelet sets it again when it is back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unready {
    /// The node's name.
    pub node: String,
}

#[async_trait]
impl Step for Unready {
    async fn check(&self, world: &World) -> Result<State> {
        let node = get(world, &self.node).await?;
        Ok(if node.is_some_and(|node| Node(&node).is_ready()) {
            State::Differs(format!("{} is Ready", self.node))
        } else {
            State::AsWanted
        })
    }

    async fn apply(&self, world: &World, _notes: &Notes) -> Result<()> {
        let now = world.clock.now();
        let patch = json!({"status": {"conditions": [{
            "type": "Ready",
            "status": "False",
            "reason": "Leaving",
            "message": "the machine is shutting down",
            "lastTransitionTime": format!("{now:.0}"),
            "lastHeartbeatTime": format!("{now:.0}"),
        }]}});
        let node = reference(&self.node);
        world.cluster.patch(&node, Part::Status, &patch).await
    }
}
