//! The bundle: one tar archive with everything that nodes otherwise download.
//!
//! It is an OCI image layout. Its index names the images by their references; programs, archives and
//! manifests are further blobs, named by their sha256 like all others. On a node the agent serves it
//! as a registry of its own, so containerd and downloads need nothing else to read it.
//! <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>

mod contents;
mod login;
mod make;
mod pull;
mod serve;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ports::is_sha256;

pub use make::Maker;
pub use serve::serve;

/// The media type of an index of images.
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The annotation with an image's reference.
const NAME: &str = "org.opencontainers.image.ref.name";

/// The same for `ctr images import`.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// A blob that another one, or the index, names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    /// `sha256:` and the digest.
    digest: String,
    size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
}

/// What an image of an index runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// An index of images: the layout's own, or an image's with one manifest for each platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u8,
    media_type: String,
    manifests: Vec<Descriptor>,
}

/// The digest's hexadecimal digits; `None` if it is not a sha256.
fn sha256_of(digest: &str) -> Option<&str> {
    digest.strip_prefix("sha256:").filter(|hex| is_sha256(hex))
}

#[cfg(test)]
mod tests;
