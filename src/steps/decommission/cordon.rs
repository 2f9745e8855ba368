//! Cordons and uncordons this node.

use async_trait::async_trait;
use serde::Serialize;
use serde_json::json;

use super::{LEAVING, get};
use crate::{
    error::Result,
    kubernetes::node::{Node, reference},
    ports::{Part, World},
    steps::{State, Step},
    wait::Notes,
};

/// The node is cordoned; unless a person had cordoned it, an annotation says that it was the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cordon {
    /// The node's name.
    pub node: String,
}

#[async_trait]
impl Step for Cordon {
    async fn check(&self, world: &World) -> Result<State> {
        let node = get(world, &self.node).await?;
        Ok(match node {
            Some(node) if !Node(&node).is_cordoned() => {
                State::Differs(format!("{} is not cordoned", self.node))
            }
            _ => State::AsWanted,
        })
    }

    async fn apply(&self, world: &World, _notes: &Notes) -> Result<()> {
        let now = world.clock.now().to_string();
        let patch = json!({
            "metadata": {"annotations": {LEAVING: now}},
            "spec": {"unschedulable": true},
        });
        let node = reference(&self.node);
        world.cluster.patch(&node, Part::Whole, &patch).await
    }
}

/// The node is uncordoned after it came back, if the agent had cordoned it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Uncordon {
    /// The node's name.
    pub node: String,
}

#[async_trait]
impl Step for Uncordon {
    async fn check(&self, world: &World) -> Result<State> {
        let node = get(world, &self.node).await?;
        let since = node
            .as_ref()
            .and_then(|node| Node(node).annotation(LEAVING));
        Ok(since.map_or(State::AsWanted, |since| {
            State::Differs(format!(
                "{} has been cordoned by its agent since {since}",
                self.node
            ))
        }))
    }

    async fn apply(&self, world: &World, _notes: &Notes) -> Result<()> {
        let patch = json!({
            "metadata": {"annotations": {LEAVING: null}},
            "spec": {"unschedulable": null},
        });
        let node = reference(&self.node);
        world.cluster.patch(&node, Part::Whole, &patch).await
    }
}
