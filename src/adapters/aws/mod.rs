//! The few AWS calls that the agent makes: signed with Signature Version 4, sent by reqwest.
//!
//! [`Aws`] owns what all calls share: endpoints, credentials, the clock's skew and
//! the retries of `retry`. [`autoscaling`], [`ec2`], [`ecr`], [`route53`], [`s3`], [`ssm`] and
//! [`sts`] own their protocols.

mod answer;
pub mod autoscaling;
mod call;
pub mod ec2;
pub mod ecr;
pub mod endpoint;
mod retry;
pub mod route53;
pub mod s3;
pub mod ssm;
pub mod sts;

use std::sync::Arc;

use async_trait::async_trait;

pub use call::Aws;

use super::imds::RoleCredentials;
use crate::error::Result;

/// Where credentials come from.
#[async_trait]
pub trait CredentialSource: Send + Sync {
    /// Credentials that are valid now.
    async fn current(&self) -> Result<Arc<RoleCredentials>>;
    /// Drops what is cached, since AWS called it expired.
    async fn forget(&self);
}

#[cfg(test)]
mod tests;
