//! What a joiner needs to get in: made by a control plane, left in the cluster's store.

use std::{path::Path, time::Duration};

use jiff::Timestamp;
use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::paths;
use crate::{
    error::{Context, Error, Result},
    ports::{Command, Host, Role, World},
};

/// How long a ticket is good; renew it after half of that.
pub const TICKET_TTL: Duration = Duration::from_hours(2);

/// The label under which the tokens' secrets are applied.
const OWNER: &str = "join-token";

/// How long a token's secret may be refused: right after `init` the rights for it are just being written.
const PATIENCE: Duration = Duration::from_mins(2);

/// A way into the cluster, for a while.
#[derive(Debug, Clone)]
pub struct JoinTicket {
    /// A bootstrap token, `abcdef.0123456789abcdef`.
    pub token: SecretString,
    /// `sha256:` and the hash of the cluster CA's public key.
    pub ca_cert_hash: String,
    /// What decrypts the control plane's certificates in the cluster; for control planes only.
    pub certificate_key: Option<SecretString>,
    /// From then on it opens nothing.
    pub expires: Timestamp,
}

/// The ticket as it lies in the store, which keeps it as a secret.
#[derive(Serialize, Deserialize)]
struct Stored {
    token: String,
    ca_cert_hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate_key: Option<String>,
    expires: Timestamp,
}

impl JoinTicket {
    /// Where the ticket for a role lies in the store.
    pub fn key(role: Role) -> String {
        format!("join/{role}")
    }

    /// Leaves the ticket in the store, over an older one.
    pub async fn publish(&self, world: &World, role: Role) -> Result<()> {
        let stored = Stored {
            token: self.token.expose_secret().to_owned(),
            ca_cert_hash: self.ca_cert_hash.clone(),
            certificate_key: self
                .certificate_key
                .as_ref()
                .map(|k| k.expose_secret().to_owned()),
            expires: self.expires,
        };
        let text =
            serde_json::to_string(&stored).requiring(|| "cannot print a join ticket".to_owned())?;
        world.store.put_secret(&Self::key(role), &text.into()).await
    }

    /// The ticket in the store, expired or not.
    pub async fn fetch(world: &World, role: Role) -> Result<Option<Self>> {
        let key = Self::key(role);
        let Some(text) = world.store.get_secret(&key).await? else {
            return Ok(None);
        };
        // serde_json's message would quote the secret's text.
        let stored: Stored = serde_json::from_str(text.expose_secret()).map_err(|error| {
            Error::failed(format!(
                "the store's `{key}` is no join ticket (line {}, column {})",
                error.line(),
                error.column()
            ))
        })?;
        Ok(Some(Self {
            token: stored.token.into(),
            ca_cert_hash: stored.ca_cert_hash,
            certificate_key: stored.certificate_key.map(Into::into),
            expires: stored.expires,
        }))
    }
}

/// Makes a new ticket on a control plane: a bootstrap token in the API, valid for `ttl`.
///
/// For control planes the certificates are put into the cluster as well, encrypted
/// with a new key; kubeadm lets them live two hours.
pub async fn mint(world: &World, role: Role, ttl: Duration) -> Result<JoinTicket> {
    let ca_cert_hash = own_ca_cert_hash(world.host.as_ref()).await?;
    let expires = world.clock.now() + ttl;
    let certificate_key = match role {
        Role::ControlPlane => Some(upload_certificates(world).await?),
        Role::Worker => None,
    };
    let (id, secret) = (random(6), random(16));
    world
        .cluster
        .apply(
            OWNER,
            &[token_secret(&id, &secret, role, expires)],
            PATIENCE,
        )
        .await
        .map_err(|error| error.during("cannot create a bootstrap token"))?;
    Ok(JoinTicket {
        token: format!("{id}.{secret}").into(),
        ca_cert_hash,
        certificate_key,
        expires,
    })
}

/// [`ca_cert_hash`] of the cluster that this node is in.
pub async fn own_ca_cert_hash(host: &dyn Host) -> Result<String> {
    let ca = host.read(Path::new(paths::CA)).await?.ok_or_else(|| {
        Error::failed(format!(
            "{} does not exist: this node has no cluster yet",
            paths::CA
        ))
    })?;
    ca_cert_hash(&ca)
}

/// `sha256:` and the digest of the certificate's `SubjectPublicKeyInfo`, as kubeadm's `caCertHashes` want it.
pub fn ca_cert_hash(pem: &[u8]) -> Result<String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem)
        .requiring(|| "the cluster CA's certificate is no PEM".to_owned())?;
    let certificate = pem
        .parse_x509()
        .requiring(|| "the cluster CA's certificate is no X.509".to_owned())?;
    let digest = Sha256::digest(certificate.public_key().raw);
    Ok(format!("sha256:{}", hex::encode(digest)))
}

/// The Secret that is a bootstrap token.
fn token_secret(id: &str, secret: &str, role: Role, expires: Timestamp) -> serde_json::Value {
    // Go's RFC 3339 parser takes fractions, people do not need them.
    let expiration = expires.round(jiff::Unit::Second).unwrap_or(expires);
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": id,
            "token-secret": secret,
            "description": format!("k8s-bootstrap: for a {role} to join"),
            "expiration": expiration.to_string(),
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
            "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
        },
    })
}

async fn upload_certificates(world: &World) -> Result<SecretString> {
    let upload = Command::new(
        "kubeadm",
        [
            "init",
            "phase",
            "upload-certs",
            "--upload-certs",
            "--config",
            paths::INIT_CONFIG,
        ],
    );
    let said = world.commands.run(upload.clone()).await?.success(&upload)?;
    // The key is the only line of that form that kubeadm prints.
    said.stdout
        .lines()
        .map(str::trim)
        .find(|line| line.len() == 64 && line.bytes().all(|b| b.is_ascii_hexdigit()))
        .map(SecretString::from)
        .ok_or_else(|| Error::failed(format!("`{}` printed no certificate key", upload.line())))
}

/// Letters and digits as bootstrap tokens have them, from the thread's cryptographic generator.
fn random(length: usize) -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    (0..length)
        .map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())]))
        .collect()
}

#[cfg(test)]
mod tests;
