//! How a node proves its identity, and how it is admitted.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::Role;
use crate::error::Result;

/// The Security Token Service, which tells who signed a request.
#[async_trait]
pub trait Sts: Send + Sync {
    /// Signs a `GetCallerIdentity` that carries the nonce and the cluster, and does not send it.
    async fn prove(&self, nonce: &str, cluster: &str) -> Result<Proof>;
    /// Sends a signed `GetCallerIdentity` to this region's STS and nowhere else. The error is a
    /// refusal if STS rejects the signature, a failure if STS gives no verdict.
    async fn identify(&self, proof: &Proof) -> Result<Caller>;
}

/// The join services of the control planes.
#[async_trait]
pub trait JoinServices: Send + Sync {
    /// Asks the service at `server` to admit the applicant. The server must show a certificate that
    /// the CA with the hash `pin` has signed for API servers.
    async fn ask(&self, server: SocketAddr, pin: &str, applicant: &Applicant)
    -> Result<JoinTicket>;
}

/// Who wants to join, in its own words: [`crate::join`] decides what of it counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Applicant {
    /// The cluster that it wants to join.
    pub cluster: String,
    /// What the node is for.
    pub role: Role,
    /// The name that the node is to have.
    pub node: String,
    /// The id of its EC2 instance.
    pub instance: String,
    /// Labels that its settings ask for, as in `[node]`.
    pub labels: BTreeMap<String, String>,
    /// Taints that its settings ask for, as in `[node]`.
    pub taints: BTreeMap<String, String>,
}

/// The headers of a signed `GetCallerIdentity`; method, host, path and body are always the same.
///
/// Whoever has them can use them for some minutes, only to ask STS who signed them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Proof(pub Vec<(String, String)>);

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        write!(f, "Proof({})", names.join(", "))
    }
}

/// Who signed, as STS reports it: a session of a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The account's twelve digits.
    pub account: String,
    /// The name of the IAM role, without its path.
    pub role: String,
    /// The session's name; EC2 gives instances their own ids.
    pub session: String,
}

/// Admission to the cluster: for one node, for a few minutes, once.
#[derive(Debug, Clone)]
pub struct JoinTicket {
    /// A bootstrap token, `abcdef.0123456789abcdef`.
    pub token: SecretString,
    /// The cluster CA's certificate as PEM.
    pub ca: String,
    /// Decrypts the control plane's certificates in the cluster; only for control planes.
    pub certificate_key: Option<SecretString>,
    /// When the token expires.
    pub expires: Timestamp,
}
