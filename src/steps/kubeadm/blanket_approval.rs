//! Removes a permission of kubeadm's that would bypass the join service.

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    error::Result,
    ports::{ObjectRef, World},
    steps::{State, Step},
    wait::Notes,
};

/// kubeadm's binding that lets any bootstrap token register as any node is gone.
///
/// The binding for rotation stays: it lets a kubelet renew the certificate of its own name only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlanketApproval {
    binding: ObjectRef,
}

impl BlanketApproval {
    /// The step that removes the binding.
    pub fn gone() -> Self {
        Self {
            binding: ObjectRef {
                api_version: "rbac.authorization.k8s.io/v1".to_owned(),
                kind: "ClusterRoleBinding".to_owned(),
                namespace: None,
                name: "kubeadm:node-autoapprove-bootstrap".to_owned(),
            },
        }
    }
}

#[async_trait]
impl Step for BlanketApproval {
    async fn check(&self, world: &World) -> Result<State> {
        Ok(match world.cluster.get(&self.binding).await? {
            Some(_) => State::Differs(format!("{} exists", self.binding)),
            None => State::AsWanted,
        })
    }

    async fn apply(&self, world: &World, _notes: &Notes) -> Result<()> {
        if let Some(binding) = world.cluster.get(&self.binding).await? {
            world.cluster.delete_seen(&binding).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::FakeWorld;

    #[tokio::test(start_paused = true)]
    async fn kubeadms_blanket_approval_is_removed_and_the_one_for_rotation_stays() {
        let fake = FakeWorld::new();
        for name in [
            "kubeadm:node-autoapprove-bootstrap",
            "kubeadm:node-autoapprove-certificate-rotation",
        ] {
            fake.cluster.put(json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": {"name": name},
            }));
        }
        fake.carry_out(&BlanketApproval::gone()).await;
        let left: Vec<String> = fake.cluster.objects().into_keys().collect();
        assert_eq!(
            left,
            ["ClusterRoleBinding kubeadm:node-autoapprove-certificate-rotation"]
        );
    }
}
