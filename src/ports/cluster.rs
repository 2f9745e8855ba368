//! The Kubernetes API.

use std::{net::SocketAddr, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// The Kubernetes API, once there is one.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// Whether the API server at the endpoint answers `/readyz`.
    async fn ready(&self) -> Result<bool>;
    /// The same for the API server at this address, whatever the endpoint is.
    async fn ready_at(&self, server: SocketAddr) -> Result<bool>;
    /// A document of the API server that is no object, such as `/openid/v1/jwks`.
    async fn document(&self, path: &str) -> Result<String>;
    /// Server-side apply of objects in dependency order: definitions first, waited for, then the
    /// rest. `owner` is recorded as a label, for pruning. `served_within` is how long each object
    /// may be refused for temporary reasons.
    async fn apply(
        &self,
        owner: &str,
        objects: &[serde_json::Value],
        served_within: Duration,
    ) -> Result<()>;
    /// All objects of the kind in the namespace that this agent applied, on any node.
    async fn applied(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
    ) -> Result<Vec<serde_json::Value>>;
    /// All objects of the kind, whoever created them; in one namespace, or in all.
    async fn list(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
    ) -> Result<Vec<serde_json::Value>>;
    /// Deletes an object as it was read, whoever created it; one that has another uid by now stays.
    /// Returns whether it did.
    async fn delete_seen(&self, object: &serde_json::Value) -> Result<bool>;
    /// Deletes an object, and in the background what it owns, if it carries this owner's label;
    /// returns whether it did.
    async fn delete(&self, owner: &str, object: &ObjectRef) -> Result<bool>;
    /// Writes an object if nobody has changed it since its `metadata.resourceVersion`, or creates
    /// it if it has none and does not exist; returns whether it did.
    async fn compare_and_set(&self, object: &serde_json::Value) -> Result<bool>;
    /// Merges a change into one part of a built-in object, by its kind's own rules (a list of
    /// conditions merges by their types).
    async fn patch(&self, object: &ObjectRef, part: Part, change: &serde_json::Value)
    -> Result<()>;
    /// The pods that are bound to a node: the only pods that a node may list itself.
    async fn pods_on(&self, node: &str) -> Result<Vec<serde_json::Value>>;
    /// Requests a pod's eviction; a disruption budget may hold the pod.
    async fn evict(&self, pod: &ObjectRef) -> Result<Eviction>;
    /// Which of these objects (Deployments, DaemonSets, StatefulSets, Jobs) have not rolled out
    /// yet, and why; empty when all have.
    async fn not_rolled_out(&self, objects: &[serde_json::Value]) -> Result<Vec<String>>;
    /// An object as the API server has it; `None` if it, or its kind, does not exist.
    async fn get(&self, object: &ObjectRef) -> Result<Option<serde_json::Value>>;
    /// The node's Ready condition; `None` if there is no such node.
    async fn node_ready(&self, name: &str) -> Result<Option<NodeCondition>>;
}

/// The label of every object that an agent applied: the add-on's name.
pub const OWNER_LABEL: &str = "k8s-bootstrap.io/owner";

/// Which part of an object is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All but its status.
    Whole,
    /// Its status alone.
    Status,
}

/// The result of an eviction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Eviction {
    /// The pod is terminating.
    Begun,
    /// There is no such pod.
    Gone,
    /// A disruption budget holds it for now; the API's message.
    Held(String),
}

/// Names one object of the Kubernetes API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// `apps/v1`.
    pub api_version: String,
    /// `DaemonSet`.
    pub kind: String,
    /// `None` for kinds without namespaces.
    pub namespace: Option<String>,
    /// `kube-proxy`.
    pub name: String,
}

impl ObjectRef {
    /// Refers to this object of a manifest.
    pub fn of(object: &serde_json::Value) -> Self {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            api_version: text(&object["apiVersion"]),
            kind: text(&object["kind"]),
            namespace: object["metadata"]["namespace"].as_str().map(str::to_owned),
            name: text(&object["metadata"]["name"]),
        }
    }

    /// An object that has nothing but its name.
    pub fn skeleton(&self) -> serde_json::Value {
        serde_json::json!({
            "apiVersion": self.api_version,
            "kind": self.kind,
            "metadata": {"name": self.name, "namespace": self.namespace},
        })
    }

    /// Whether both name the same object: versions of a group show the same objects, and an absent
    /// namespace means `default`.
    pub fn is_same(&self, other: &Self) -> bool {
        let key = |object: &Self| {
            let group = object
                .api_version
                .rsplit_once('/')
                .map(|(group, _)| group.to_owned());
            let namespace = object.namespace.clone().filter(|name| name != "default");
            (group, object.kind.clone(), namespace, object.name.clone())
        };
        key(self) == key(other)
    }
}

impl std::fmt::Display for ObjectRef {
    /// `DaemonSet kube-system/kube-proxy`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", self.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

/// A node's Ready condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCondition {
    /// Whether its status is `True`.
    pub ready: bool,
    /// The condition's message; empty before the kubelet's first report.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::ObjectRef;

    fn named(api_version: &str, kind: &str, namespace: Option<&str>) -> ObjectRef {
        ObjectRef {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: "x".to_owned(),
        }
    }

    #[test]
    fn another_version_or_the_default_namespace_is_the_same_object() {
        let one = named("apps/v1", "Deployment", None);
        assert!(one.is_same(&named("apps/v1beta1", "Deployment", Some("default"))));
        assert!(!one.is_same(&named("apps/v1", "Deployment", Some("x"))));
        assert!(!one.is_same(&named("apps/v1", "DaemonSet", None)));
        assert!(!one.is_same(&named("extensions/v1", "Deployment", None)));
        assert!(named("v1", "Pod", None).is_same(&named("v2", "Pod", None)));
        assert_eq!(ObjectRef::of(&one.skeleton()), one);
    }
}
