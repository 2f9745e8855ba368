//! Evicts pods.

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;

use crate::{
    error::Result,
    ports::{Eviction, ObjectRef, World},
    steps::{State, Step},
    wait::{self, Backoff, Notes, Probe},
};

/// No pod that could run elsewhere is left on the node. Disruption budgets are respected while
/// there is time; pods that still run then end with the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Evict {
    /// The node's name.
    pub node: String,
    /// How long the eviction may take, in seconds.
    pub seconds: u64,
}

/// Whether a pod has to be evicted. Pods that belong to the node itself (a DaemonSet's, or a static
/// pod's mirror) and pods that have ended do not.
pub fn is_to_go(pod: &Value) -> bool {
    let owners = pod["metadata"]["ownerReferences"].as_array();
    let daemon = owners
        .into_iter()
        .flatten()
        .any(|owner| owner["kind"] == "DaemonSet" && owner["controller"] == true);
    let mirror = pod["metadata"]["annotations"].get("kubernetes.io/config.mirror");
    let ended = matches!(
        pod["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    );
    !daemon && mirror.is_none() && !ended
}

impl Evict {
    async fn pods(&self, world: &World) -> Result<Vec<Value>> {
        let mut pods = world.cluster.pods_on(&self.node).await?;
        pods.retain(is_to_go);
        Ok(pods)
    }

    /// Tries once to evict each pod that is still here; names those left and why.
    async fn try_once(&self, world: &World) -> Result<Probe<()>> {
        let mut left = Vec::new();
        for pod in self.pods(world).await? {
            let reference = ObjectRef::of(&pod);
            let name = format!(
                "{}/{}",
                reference.namespace.as_deref().unwrap_or_default(),
                reference.name
            );
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                left.push(format!("{name} is terminating"));
                continue;
            }
            match world.cluster.evict(&reference).await {
                Ok(Eviction::Begun) => left.push(format!("{name} is terminating")),
                Ok(Eviction::Gone) => {}
                Ok(Eviction::Held(why)) => left.push(format!("{name}: {why}")),
                // One pod that cannot be evicted must not block the others.
                Err(error) => left.push(error.one_line()),
            }
        }
        Ok(if left.is_empty() {
            Probe::Done(())
        } else {
            Probe::NotYet(left.join(", "))
        })
    }
}

#[async_trait]
impl Step for Evict {
    async fn check(&self, world: &World) -> Result<State> {
        let count = self.pods(world).await?.len();
        Ok(match count {
            0 => State::AsWanted,
            count => State::Differs(format!("{count} pods must be evicted from {}", self.node)),
        })
    }

    async fn apply(&self, world: &World, notes: &Notes) -> Result<()> {
        let backoff = Backoff::local(Duration::from_secs(self.seconds));
        let what = format!("the pods on {} to terminate", self.node);
        wait::until(world.clock.as_ref(), notes, backoff, &what, || {
            self.try_once(world)
        })
        .await
    }
}
