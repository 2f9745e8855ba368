//! Reads images from registries: the part of the OCI distribution API that pulls use.
//! <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pull>

use std::{collections::BTreeMap, time::Duration};

use http::{HeaderValue, header};
use sha2::{Digest, Sha256};

use super::{login::authorization, sha256_of};
use crate::{
    adapters::http::Clients,
    config::{has_api_version, registry_server},
    error::{Context, Error, Result},
};

/// Manifests and indexes are a few KiB; registries refuse those of more than 4 MiB.
const LARGEST_MANIFEST: usize = 4 << 20;

/// What manifests and indexes are called, by the OCI and by Docker.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// An image's reference in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    /// Its registry, such as `registry.k8s.io`.
    pub host: String,
    /// Its repository, such as `coredns/coredns`.
    pub name: String,
    /// A digest if it has one, else its tag.
    pub version: String,
}

impl Reference {
    /// Reads a reference that names its registry.
    pub fn parse(image: &str) -> Result<Self> {
        let wrong = || {
            Error::refused(format!(
                "`{image}` is not an image with its registry and tag"
            ))
            .hint("write it in full, such as docker.io/library/redis:8")
        };
        let (host, rest) = image.split_once('/').ok_or_else(wrong)?;
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) => (name, Some(tag)),
            None => (rest, None),
        };
        // containerd, too, ignores the tag of a reference that also has a digest.
        let version = digest.or(tag).ok_or_else(wrong)?;
        Ok(Self {
            host: host.to_owned(),
            name: name.to_owned(),
            version: version.to_owned(),
        })
    }
}

/// A repository at a registry or one of its mirrors.
#[derive(Debug, Clone)]
pub(super) struct Repository {
    /// Whose login counts: the host that is asked. A mirror never gets the login of the registry that
    /// it stands for.
    pub host: String,
    /// The URL of its API with the repository's name.
    base: String,
    /// Tells a mirror which registry it stands for.
    query: String,
}

/// A manifest or an index as the registry has it.
pub(super) struct Manifest {
    pub media_type: String,
    pub sha256: String,
    pub bytes: Vec<u8>,
}

impl Repository {
    /// Where to look for an image, in containerd's order: mirrors, then the registry itself.
    pub fn of(reference: &Reference, mirrors: &BTreeMap<String, Vec<String>>) -> Vec<Self> {
        let Reference { host, name, .. } = reference;
        let mirrors = mirrors.get(host).or_else(|| mirrors.get("*"));
        let mirrors = mirrors.into_iter().flatten().map(|mirror| {
            let mirror = mirror.trim_end_matches('/');
            let url = url::Url::parse(mirror).ok();
            let complete = url.as_ref().is_some_and(has_api_version);
            let version = if complete { "" } else { "/v2" };
            Self {
                host: url.map_or_else(String::new, |url| url.authority().to_owned()),
                base: format!("{mirror}{version}/{name}"),
                query: format!("?ns={host}"),
            }
        });
        let itself = Self {
            host: host.clone(),
            base: format!("https://{}/v2/{name}", registry_server(host)),
            query: String::new(),
        };
        mirrors.chain([itself]).collect()
    }

    /// The URL of a blob.
    pub fn blob(&self, sha256: &str) -> String {
        format!("{}/blobs/sha256:{sha256}{}", self.base, self.query)
    }

    /// The `Authorization` for this URL, if it needs one. Tokens last for minutes, so each large
    /// transfer asks for its own.
    pub async fn login(&self, clients: &Clients, url: &str) -> Result<Option<HeaderValue>> {
        authorization(&clients.downloads()?, &self.host, url).await
    }

    /// The manifest or index with this tag or digest.
    pub async fn manifest(
        &self,
        clients: &Clients,
        version: &str,
        within: Duration,
    ) -> Result<Manifest> {
        let url = format!("{}/manifests/{version}{}", self.base, self.query);
        let read = async {
            let login = self.login(clients, &url).await?;
            let request = clients.authorized(login)?.get(&url);
            let attempt = || format!("cannot read {url}");
            let answer = request
                .header(header::ACCEPT, MANIFESTS)
                .send()
                .await
                .attempting(attempt)?;
            if !answer.status().is_success() {
                return Err(
                    Error::doubtful(format!("{url} answered {}", answer.status()))
                        .hint("check the image's name, and [images.mirrors]"),
                );
            }
            let media_type = answer.headers().get(header::CONTENT_TYPE);
            let media_type = media_type.and_then(|value| value.to_str().ok());
            let media_type = media_type.unwrap_or_default().to_owned();
            let bytes = answer.bytes().await.attempting(attempt)?.to_vec();
            Ok((media_type, bytes))
        };
        let late = || {
            Error::failed(format!(
                "{url} did not answer within {} s",
                within.as_secs()
            ))
        };
        let read = tokio::time::timeout(within, read).await;
        let (media_type, bytes) = read.map_err(|_| late())??;
        let sha256 = hex::encode(Sha256::digest(&bytes));
        let expected = sha256_of(version).unwrap_or(&sha256);
        if bytes.len() > LARGEST_MANIFEST || expected != sha256 {
            return Err(Error::doubtful(format!(
                "{url} has the wrong sha256: expected {expected}, got {sha256} ({} bytes)",
                bytes.len()
            )));
        }
        Ok(Manifest {
            media_type,
            sha256,
            bytes,
        })
    }
}
