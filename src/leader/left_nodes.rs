//! Deletes the Nodes whose own agents have marked them as left: a worker may not delete its own.

use serde_json::Value;
use tracing::info;

use crate::{
    error::Result,
    kubernetes::node::Node,
    leader::{self, Leader},
    ports::World,
    steps::decommission::LEFT,
};

/// Whether the node's current instance has marked it as left. A mark with another instance's id is
/// from an earlier instance with the same name.
fn has_left(node: &Value) -> bool {
    let mark = Node(node).annotation(LEFT);
    mark.is_some() && Node(node).instance() == mark
}

/// One cycle, if this instance leads.
pub async fn cycle(world: &World, me: &str) -> Result<()> {
    let mut nodes = world.cluster.list("v1", "Node", None).await?;
    nodes.retain(has_left);
    if nodes.is_empty() {
        return Ok(());
    }
    // The Node links a member to its instance. If too few other members were healthy when it wanted
    // to leave, etcd still has the member, and the Node stays too. The Node is deleted after the
    // member, once EC2 reports the instance as terminated.
    let members = world.etcd.members().await?;
    nodes.retain(|node| !members.iter().any(|m| Node(node).name() == m.name));
    for node in nodes {
        if let Leader::Other(_) = leader::lead(world, me).await? {
            return Ok(());
        }
        let name = Node(&node).name();
        if world.cluster.delete_seen(&node).await? {
            info!("deleted Node {name}, whose instance has left the cluster");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;
    use crate::testing::FakeWorld;

    fn node(name: &str, instance: &str, left: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "uid": name, "annotations": {LEFT: left}},
            "spec": {"providerID": format!("aws:///eu-central-1a/{instance}")},
        })
    }

    #[tokio::test(start_paused = true)]
    async fn the_leader_deletes_only_nodes_that_have_left() {
        let fake = FakeWorld::new();
        for node in [
            node("stays", "i-1", ""),
            node("left", "i-2", "i-2"),
            node("left-and-still-votes", "i-4", "i-4"),
            node("has-the-name-of-a-left-node", "i-3", "i-0"),
        ] {
            fake.cluster.put(node);
        }
        fake.etcd.voter("left-and-still-votes", 11);
        leader::lead(&fake.ports(), "i-cp1").await.unwrap();
        cycle(&fake.ports(), "i-cp2").await.unwrap();
        assert_eq!(fake.cluster.objects().len(), 5, "only the leader deletes");
        cycle(&fake.ports(), "i-cp1").await.unwrap();
        let left: Vec<String> = fake.cluster.objects().into_keys().collect();
        assert_eq!(
            left,
            [
                "Lease kube-system/k8s-bootstrap-leader",
                "Node has-the-name-of-a-left-node",
                "Node left-and-still-votes",
                "Node stays"
            ]
        );
    }
}
