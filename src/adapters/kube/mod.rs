//! The Kubernetes API through the `kube` crate.

mod apply;
mod certificates;
mod change;
mod connection;
mod rollout;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, api::DynamicObject};
use serde_json::Value;

use crate::{
    error::{Context, Error, Result},
    kubernetes::node,
    ports::{Cluster, Eviction, NodeCondition, ObjectRef, Part},
};

use apply::Kinds;
use connection::Connection;

/// The API server behind a fixed endpoint, with the credentials of a kubeconfig file.
///
/// Connects at the first request, since on a new node neither the file nor the server exists yet.
/// Reconnects, and reads the file again, if the server rejects the credentials or does not answer.
pub struct KubeCluster {
    connection: Connection,
}

impl KubeCluster {
    /// The first of these kubeconfig files that exists provides the credentials; `endpoint` is
    /// `host:port` and replaces the file's own server.
    ///
    /// The agent resolves a name itself, without libc: in a static binary getaddrinfo would load
    /// the system's libraries.
    pub fn new(kubeconfigs: Vec<PathBuf>, endpoint: impl Into<String>) -> Self {
        Self {
            connection: Connection::to(kubeconfigs, endpoint.into()),
        }
    }

    /// Uses this client, and never connects again.
    pub fn with_client(client: Client) -> Self {
        Self {
            connection: Connection::fixed(client),
        }
    }

    /// Sends one request, and drops the connection if its credentials or the connection itself
    /// failed.
    async fn ask<T>(
        &self,
        what: &str,
        request: impl AsyncFnOnce(Client) -> std::result::Result<T, kube::Error>,
    ) -> Result<T> {
        let client = self.connection.client().await?;
        match request(client).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                self.connection.doubt(&error).await;
                Err(failed(what, &error))
            }
        }
    }
}

fn get(path: &str) -> Result<http::Request<Vec<u8>>> {
    http::Request::get(path)
        .body(Vec::new())
        .attempting(|| format!("cannot request {path}"))
}

async fn is_ready(connection: &Connection) -> Result<bool> {
    let client = connection.client().await?;
    match client.request_text(get("/readyz")?).await {
        Ok(_) => Ok(true),
        Err(error) => {
            connection.doubt(&error).await;
            match error {
                kube::Error::Api(_) => Ok(false),
                other => Err(failed("GET /readyz", &other)),
            }
        }
    }
}

/// Converts an API error; if the object itself is refused, only a person can fix it.
fn failed(what: &str, error: &kube::Error) -> Error {
    match error {
        kube::Error::Api(status) => {
            let said = Error::failed(format!("{what}: {} ({})", status.message, status.code));
            if is_refusal(status) {
                said.for_a_person()
            } else {
                said
            }
        }
        other => Error::failed(what.to_owned()).because(other),
    }
}

/// Whether the API server will never accept this object.
fn is_refusal(status: &kube::core::Status) -> bool {
    // An unknown field in a server-side apply is answered with 500.
    matches!(status.code, 400 | 413 | 422)
        || status
            .message
            .starts_with("failed to create typed patch object")
}

#[async_trait]
impl Cluster for KubeCluster {
    async fn ready(&self) -> Result<bool> {
        is_ready(&self.connection).await
    }

    async fn ready_at(&self, server: SocketAddr) -> Result<bool> {
        is_ready(&self.connection.elsewhere(server)).await
    }

    async fn document(&self, path: &str) -> Result<String> {
        let request = get(path)?;
        self.ask(&format!("GET {path}"), async |client| {
            client.request_text(request).await
        })
        .await
    }

    async fn apply(&self, owner: &str, objects: &[Value], served_within: Duration) -> Result<()> {
        let client = self.connection.client().await?;
        apply::all(&client, &self.connection, owner, objects, served_within).await
    }

    async fn applied(&self, api_version: &str, kind: &str, namespace: &str) -> Result<Vec<Value>> {
        let what = format!("list {kind} in {namespace}");
        let found = self
            .ask(&what, async |client| {
                change::applied(&client, api_version, kind, namespace).await
            })
            .await?;
        found
            .into_iter()
            .map(|found| serde_json::to_value(found).attempting(|| what.clone()))
            .collect()
    }

    async fn list(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
    ) -> Result<Vec<Value>> {
        let what = format!("list {kind}");
        let found = self
            .ask(&what, async |client| {
                change::list(&client, api_version, kind, namespace).await
            })
            .await?;
        found
            .into_iter()
            .map(|found| {
                let mut object = serde_json::to_value(found).attempting(|| what.clone())?;
                // The API gives them only once for the whole list.
                object["apiVersion"] = api_version.into();
                object["kind"] = kind.into();
                Ok(object)
            })
            .collect()
    }

    async fn delete_seen(&self, object: &Value) -> Result<bool> {
        self.ask(&format!("delete {}", apply::name(object)), async |client| {
            change::delete_seen(&client, object).await
        })
        .await
    }

    async fn delete(&self, owner: &str, object: &ObjectRef) -> Result<bool> {
        self.ask(&format!("delete {object}"), async |client| {
            change::delete(&client, owner, object).await
        })
        .await
    }

    async fn compare_and_set(&self, object: &Value) -> Result<bool> {
        self.ask(&format!("write {}", apply::name(object)), async |client| {
            change::compare_and_set(&client, object).await
        })
        .await
    }

    async fn patch(&self, object: &ObjectRef, part: Part, change: &Value) -> Result<()> {
        self.ask(&format!("patch {object}"), async |client| {
            change::patch(&client, object, part, change).await
        })
        .await
    }

    async fn pods_on(&self, node: &str) -> Result<Vec<Value>> {
        let what = format!("list the pods on {node}");
        let found = self
            .ask(&what, async |client| change::pods_on(&client, node).await)
            .await?;
        found
            .into_iter()
            .map(|pod| serde_json::to_value(pod).attempting(|| what.clone()))
            .collect()
    }

    async fn evict(&self, pod: &ObjectRef) -> Result<Eviction> {
        self.ask(&format!("evict {pod}"), async |client| {
            change::evict(&client, pod).await
        })
        .await
    }

    async fn not_rolled_out(&self, objects: &[Value]) -> Result<Vec<String>> {
        let client = self.connection.client().await?;
        let mut kinds = Kinds::default();
        let mut missing = Vec::new();
        for object in objects {
            if !matches!(
                object["kind"].as_str(),
                Some("Deployment" | "DaemonSet" | "StatefulSet" | "Job")
            ) {
                continue;
            }
            let name = apply::name(object);
            let found = async {
                let Some(api) = kinds.api(&client, object).await? else {
                    return Ok(None);
                };
                api.get_opt(object["metadata"]["name"].as_str().unwrap_or_default())
                    .await
            }
            .await;
            match found {
                Ok(Some(found)) => {
                    let found = serde_json::to_value(found).map_err(|e| {
                        Error::failed(format!("cannot read {name} from the API")).because(&e)
                    })?;
                    missing.extend(rollout::missing(&found));
                }
                Ok(None) => missing.push(format!("{name} does not exist")),
                Err(error) => {
                    self.connection.doubt(&error).await;
                    return Err(failed(&format!("GET {name}"), &error));
                }
            }
        }
        Ok(missing)
    }

    async fn get(&self, object: &ObjectRef) -> Result<Option<Value>> {
        let skeleton = object.skeleton();
        let what = format!("GET {object}");
        let found: Option<DynamicObject> = self
            .ask(&what, async |client| {
                match Kinds::default().api(&client, &skeleton).await? {
                    Some(api) => api.get_opt(&object.name).await,
                    None => Ok(None),
                }
            })
            .await?;
        found
            .map(|found| serde_json::to_value(found).map_err(|e| Error::failed(what).because(&e)))
            .transpose()
    }

    async fn node_ready(&self, name: &str) -> Result<Option<NodeCondition>> {
        let what = format!("GET Node {name}");
        let found = self
            .ask(&what, async |client| {
                Api::<Node>::all(client).get_opt(name).await
            })
            .await?;
        let Some(found) = found else {
            return Ok(None);
        };
        let found = serde_json::to_value(found).attempting(|| what)?;
        let node = node::Node(&found);
        Ok(Some(NodeCondition {
            ready: node.is_ready(),
            message: node.ready_message().to_owned(),
        }))
    }
}

#[cfg(test)]
mod tests;
