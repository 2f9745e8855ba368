//! Waits for this node to be Ready.

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    config::Settings,
    error::Result,
    identity::Identity,
    ports::{NodeCondition, World},
    steps::{State, Step},
    wait::{self, Backoff, Notes, Probe},
};

/// The Node's Ready condition is `True` in the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeReady {
    /// The node's name.
    pub node: String,
    /// How long to wait, in seconds.
    pub deadline: u64,
}

impl NodeReady {
    /// For this node; waits as long as for a roll-out, since the network's daemon must come up
    /// first.
    pub fn new(settings: &Settings, identity: &Identity) -> Self {
        Self {
            node: identity.node_name.clone(),
            deadline: settings.deadlines.rollout,
        }
    }

    /// Why the node is not Ready; `None` if it is.
    async fn missing(&self, world: &World) -> Result<Option<String>> {
        Ok(match world.cluster.node_ready(&self.node).await? {
            Some(NodeCondition { ready: true, .. }) => None,
            Some(NodeCondition { message, .. }) if message.is_empty() => {
                Some("its kubelet has not reported yet".to_owned())
            }
            Some(NodeCondition { message, .. }) => Some(message),
            None => Some("it is not registered".to_owned()),
        })
    }
}

#[async_trait]
impl Step for NodeReady {
    async fn check(&self, world: &World) -> Result<State> {
        // Without an answer from the API server the node does not count as Ready.
        Ok(match self.missing(world).await {
            Ok(None) => State::AsWanted,
            Ok(Some(reason)) => State::Differs(format!("node {}: {reason}", self.node)),
            Err(error) => State::Differs(format!("node {}: {}", self.node, error.one_line())),
        })
    }

    async fn apply(&self, world: &World, notes: &Notes) -> Result<()> {
        wait::until(
            world.clock.as_ref(),
            notes,
            Backoff::local(Duration::from_secs(self.deadline)),
            &format!("node {} to be Ready", self.node),
            || async {
                Ok(match self.missing(world).await? {
                    None => Probe::Done(()),
                    Some(reason) => Probe::NotYet(reason),
                })
            },
        )
        .await
        .map_err(|error| error.hint("look at `journalctl -u kubelet` on this node"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::{
        ports::Role,
        testing::{FakeWorld, identity, not_ready, ready, settings},
    };

    fn step() -> NodeReady {
        NodeReady::new(&settings(), &identity(Role::Worker))
    }

    #[tokio::test(start_paused = true)]
    async fn the_kubelets_message_is_the_reason_until_the_node_is_ready() {
        let fake = FakeWorld::new();
        fake.cluster.node_conditions([
            None,
            Some(not_ready("cni plugin not initialized")),
            Some(ready()),
        ]);
        let (notes, shown) = Notes::new();
        step().apply(&fake.ports(), &notes).await.unwrap();
        assert!(
            shown
                .borrow()
                .as_deref()
                .unwrap()
                .ends_with("to be Ready: cni plugin not initialized")
        );
        assert_eq!(step().check(&fake.ports()).await.unwrap(), State::AsWanted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_never_becomes_ready_is_an_error_with_its_last_reason() {
        let fake = FakeWorld::new();
        fake.cluster
            .node_conditions([Some(not_ready("container runtime is down"))]);
        let error = step()
            .apply(&fake.ports(), &Notes::unread())
            .await
            .unwrap_err();
        assert!(
            error.one_line().contains("container runtime is down"),
            "{error}"
        );
    }
}
