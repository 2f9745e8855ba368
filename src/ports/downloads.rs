//! What is fetched from elsewhere.

use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Downloads that are verified before anything sees them.
#[async_trait]
pub trait Downloads: Send + Sync {
    /// Streams, hashes and unpacks in one pass; resumes after a break; leaves nothing on a wrong digest.
    async fn fetch(&self, download: &Download) -> Result<()>;
    /// A small text (a manifest), verified.
    async fn text(&self, url: &str, sha256: &str) -> Result<String>;
}

/// One thing to download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Download {
    /// Where from, mirrors already applied.
    pub url: String,
    /// What it must hash to, in hexadecimal digits.
    pub sha256: String,
    /// Where to.
    pub target: Target,
}

/// What becomes of a download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// One file with mode 0755.
    Program(PathBuf),
    /// The regular files of a gzipped tar archive, by their base names, into a folder, mode 0755.
    Programs(PathBuf),
}
