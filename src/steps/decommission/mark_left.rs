//! Marks the Node for deletion.

use async_trait::async_trait;
use serde::Serialize;
use serde_json::json;

use super::{LEFT, get};
use crate::{
    error::Result,
    kubernetes::node::{Node, reference},
    ports::{Part, World},
    steps::{State, Step},
    wait::Notes,
};

/// The Node is marked as left, for the leader to delete, or is gone already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MarkLeft {
    /// The node's name.
    pub node: String,
    /// The ID of its instance.
    pub instance: String,
}

#[async_trait]
impl Step for MarkLeft {
    async fn check(&self, world: &World) -> Result<State> {
        let node = get(world, &self.node).await?;
        let marked = |node| Node(node).annotation(LEFT) == Some(self.instance.as_str());
        Ok(if node.as_ref().is_none_or(marked) {
            State::AsWanted
        } else {
            State::Differs(format!("{} is not marked as left", self.node))
        })
    }

    async fn apply(&self, world: &World, _notes: &Notes) -> Result<()> {
        let patch = json!({"metadata": {"annotations": {LEFT: self.instance}}});
        let node = reference(&self.node);
        world.cluster.patch(&node, Part::Whole, &patch).await
    }
}
