//! Requests for certificates, as the Kubernetes API has them.

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde_json::Value;

use crate::error::Result;

/// The `CertificateSigningRequest`s of the cluster.
#[async_trait]
pub trait CertificateRequests: Send + Sync {
    /// Tells of each request that nobody has decided on yet: of those that are there, then of
    /// each that comes. An error is the last that it tells.
    async fn waiting(&self) -> Result<BoxStream<'static, Result<()>>>;
    /// Those for this signer that nobody has decided on yet.
    async fn undecided(&self, signer: &str) -> Result<Vec<Value>>;
    /// Writes a request's conditions, unless somebody has changed it since it was read; tells whether it did.
    async fn decide(&self, request: &Value) -> Result<bool>;
}
