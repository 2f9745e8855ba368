//! Certificate requests, as the Kubernetes API has them.

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde_json::Value;

use crate::error::Result;

/// The `CertificateSigningRequest`s of the cluster.
#[async_trait]
pub trait CertificateRequests: Send + Sync {
    /// Reports each undecided request: those that exist, then each new one. After an error the
    /// stream ends.
    async fn waiting(&self) -> Result<BoxStream<'static, Result<()>>>;
    /// The undecided requests for this signer.
    async fn undecided(&self, signer: &str) -> Result<Vec<Value>>;
    /// Writes a request's conditions, unless it has changed since it was read; returns whether it
    /// did.
    async fn decide(&self, request: &Value) -> Result<bool>;
}
