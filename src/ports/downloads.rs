//! Downloads from elsewhere.

use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Downloads, each verified before anything uses it.
#[async_trait]
pub trait Downloads: Send + Sync {
    /// Streams, hashes and unpacks in one pass; resumes after an interruption; leaves nothing
    /// behind if the digest is wrong.
    async fn fetch(&self, download: &Download) -> Result<()>;
    /// A small text (a manifest), verified.
    async fn text(&self, url: &str, sha256: &str) -> Result<String>;
}

/// Whether this is a sha256 as `sha256sum` prints it, in either case.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// One thing to download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Download {
    /// The source, with mirrors already applied.
    pub url: String,
    /// The expected sha256, in hexadecimal digits.
    pub sha256: String,
    /// Where it is stored.
    pub target: Target,
}

/// How a download is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// One file with mode 0644.
    File(PathBuf),
    /// One file with mode 0755.
    Program(PathBuf),
    /// The regular files of a gzipped tar archive, by their base names, into a folder, mode 0755.
    Programs(PathBuf),
}
