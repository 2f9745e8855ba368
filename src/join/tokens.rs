//! Bootstrap tokens: each for one node name, valid for ten minutes, for one certificate.

use std::time::Duration;

use jiff::Timestamp;
use rand::RngExt;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::{
    error::Result,
    ports::{Instance, ObjectRef, World},
};

/// The owner under which tokens are applied.
const OWNER: &str = "join";

/// How long a token is valid.
pub const TTL: Duration = Duration::from_mins(10);

/// How long the API may refuse a token's Secret: right after `init` the permissions for it are
/// still being created.
const SERVED_WITHIN: Duration = Duration::from_secs(20);

/// Annotation: the node that the token is for.
const NODE: &str = "k8s-bootstrap.io/node";
/// Annotation: the instance that received the token.
const INSTANCE: &str = "k8s-bootstrap.io/instance";
/// Annotation: the certificate request that has used the token.
const USED_BY: &str = "k8s-bootstrap.io/used-by";

/// What the cluster knows of a token, except the token itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// The node that it is for; `None` for tokens that others made.
    pub node: Option<String>,
    /// When it expires; `None` if the Secret does not say.
    pub expires: Option<Timestamp>,
    /// The uid of the request that has used it.
    pub used_by: Option<String>,
}

impl Bound {
    /// Reads a token's Secret.
    pub fn of(secret: &Value) -> Self {
        let note = |key: &str| {
            let note = secret["metadata"]["annotations"][key].as_str();
            note.map(str::to_owned)
        };
        Self {
            node: note(NODE),
            expires: expiration(secret).and_then(|text| text.parse().ok()),
            used_by: note(USED_BY),
        }
    }
}

/// From `data` as the API server gives it, or from `stringData` as it was applied.
fn expiration(secret: &Value) -> Option<String> {
    use base64::{Engine, prelude::BASE64_STANDARD};
    if let Some(text) = secret["stringData"]["expiration"].as_str() {
        return Some(text.to_owned());
    }
    let bytes = BASE64_STANDARD
        .decode(secret["data"]["expiration"].as_str()?)
        .ok()?;
    String::from_utf8(bytes).ok()
}

/// Creates a token for the instance's node and removes earlier tokens of that node.
pub async fn mint(
    world: &World,
    instance: &Instance,
    node: &str,
) -> Result<(SecretString, Timestamp)> {
    revoke(world, node).await?;
    let expires = world.clock.now() + TTL;
    let (id, secret) = (random(6), random(16));
    let object = secret_object(&id, &secret, instance, node, expires);
    world.cluster.apply(OWNER, &[object], SERVED_WITHIN).await?;
    Ok((format!("{id}.{secret}").into(), expires))
}

/// Removes the node's tokens.
pub async fn revoke(world: &World, node: &str) -> Result<()> {
    let namespace = Some("kube-system");
    for secret in world.cluster.list("v1", "Secret", namespace).await? {
        if Bound::of(&secret).node.as_deref() == Some(node) {
            world.cluster.delete_seen(&secret).await?;
        }
    }
    Ok(())
}

/// The Secret of the token with this id.
pub fn reference(id: &str) -> ObjectRef {
    ObjectRef {
        api_version: "v1".to_owned(),
        kind: "Secret".to_owned(),
        namespace: Some("kube-system".to_owned()),
        name: format!("bootstrap-token-{id}"),
    }
}

/// The token's Secret, marked as used by this request: written before the request is approved.
pub fn used(mut secret: Value, request_uid: &str) -> Value {
    secret["metadata"]["annotations"][USED_BY] = request_uid.into();
    secret
}

fn secret_object(
    id: &str,
    secret: &str,
    instance: &Instance,
    node: &str,
    expires: Timestamp,
) -> Value {
    // Go's RFC 3339 parser accepts fractions; people do not need them.
    let expiration = expires.round(jiff::Unit::Second).unwrap_or(expires);
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": format!("bootstrap-token-{id}"),
            "namespace": "kube-system",
            "annotations": {NODE: node, INSTANCE: instance.id},
        },
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": id,
            "token-secret": secret,
            "description": format!("k8s-bootstrap: for one join of {node}"),
            "expiration": expiration.to_string(),
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
        },
    })
}

/// Random letters and digits as in bootstrap tokens, from the thread's cryptographic generator.
#[cfg_attr(
    not(test),
    expect(
        clippy::disallowed_methods,
        reason = "a value that a test or a simulation could repeat is no secret"
    )
)]
pub fn random(length: usize) -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    (0..length)
        .map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())]))
        .collect()
}
