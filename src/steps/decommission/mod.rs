//! Decommissioning: what a node does before it leaves, and when it comes back.
//!
//! The Node's annotation [`LEAVING`] says that the agent cordoned it, and when; [`LEFT`] asks the
//! leader to delete it, which a worker may not do itself.

mod cordon;
mod etcd;
mod evict;
mod hooks;
mod mark_left;
mod removal;
mod unready;
mod wait_for_dns;

pub use cordon::{Cordon, Uncordon};
pub use etcd::LeaveEtcd;
pub use evict::Evict;
pub use hooks::CompleteHooks;
pub use mark_left::MarkLeft;
pub use removal::{Removal, TUNNEL};
pub use unready::Unready;
pub use wait_for_dns::WaitForDns;

use serde_json::Value;

use crate::{error::Result, kubernetes::node::reference, ports::World};

/// On a Node: when its agent cordoned it.
pub const LEAVING: &str = "k8s-bootstrap.io/leaving";

/// On a Node: the ID of its instance, which has left for good.
pub const LEFT: &str = "k8s-bootstrap.io/left";

async fn get(world: &World, node: &str) -> Result<Option<Value>> {
    world.cluster.get(&reference(node)).await
}

#[cfg(test)]
mod tests;
