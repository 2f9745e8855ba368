//! Makes a bundle: fetches everything into a folder, then writes the archive.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use http::HeaderValue;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{
    CONTAINERD_NAME, Descriptor, INDEX, Index, NAME,
    pull::{Manifest, Reference, Repository},
    sha256_of,
};
use crate::{
    adapters::{downloads::HttpDownloads, http::Clients},
    config::Settings,
    error::{Context, Error, Result},
    ports::{Download, Downloads, Target, is_sha256},
};

/// Collects files and images, then writes them as one archive.
pub struct Maker {
    clients: Clients,
    mirrors: BTreeMap<String, Vec<String>>,
    arch: String,
    parallel: usize,
    deadline: Duration,
    output: PathBuf,
    /// Next to the archive, which may be larger than `/tmp`; removed at the end.
    folder: TempDir,
    images: BTreeMap<String, Descriptor>,
}

/// What an image consists of.
#[derive(Deserialize)]
struct Image {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl Maker {
    /// For nodes of this architecture, with the mirrors and the deadline of the settings.
    pub fn new(clients: &Clients, settings: &Settings, arch: &str, output: &Path) -> Result<Self> {
        let output = std::path::absolute(output)
            .attempting(|| format!("cannot write {}", output.display()))?;
        let beside = output.parent().unwrap_or(Path::new("/"));
        let folder = tempfile::Builder::new()
            .prefix(".k8s-bootstrap-bundle-")
            .tempdir_in(beside)
            .attempting(|| format!("cannot write into {}", beside.display()))?;
        Ok(Self {
            clients: clients.behind(settings)?,
            mirrors: settings.images.mirrors.clone(),
            arch: arch.to_owned(),
            parallel: settings.downloads.parallel,
            deadline: Duration::from_secs(settings.deadlines.download),
            output,
            folder,
            images: BTreeMap::new(),
        })
    }

    /// Adds the file with this sha256.
    pub async fn file(&self, url: &str, sha256: &str) -> Result<()> {
        self.fetch(url, sha256, None).await
    }

    async fn fetch(&self, url: &str, sha256: &str, login: Option<HeaderValue>) -> Result<()> {
        let file = self.blob(sha256);
        if file.exists() {
            return Ok(());
        }
        let client = self.clients.authorized(login)?;
        let download = Download {
            url: url.to_owned(),
            sha256: sha256.to_owned(),
            target: Target::File(file),
        };
        let downloads = HttpDownloads::new(client, 1, self.deadline);
        downloads.fetch(&download).await
    }

    /// Adds an image with everything that nodes of the architecture need of it.
    pub async fn image(&mut self, image: &str) -> Result<()> {
        let reference = Reference::parse(image)?;
        let mut failed: Option<Error> = None;
        for repository in Repository::of(&reference, &self.mirrors) {
            match self.pull(&repository, &reference.version).await {
                Ok(descriptor) => {
                    let name = named(&reference);
                    let annotations =
                        [NAME, CONTAINERD_NAME].map(|key| (key.to_owned(), name.clone()));
                    let descriptor = Descriptor {
                        annotations: annotations.into(),
                        ..descriptor
                    };
                    self.images.insert(name, descriptor);
                    return Ok(());
                }
                // The first place is the one that was meant.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let failed = failed.unwrap_or_else(|| Error::failed("no registry has it"));
        Err(failed.during(format!("cannot pull {image}")))
    }

    async fn pull(&self, repository: &Repository, version: &str) -> Result<Descriptor> {
        let clients = &self.clients;
        let found = repository.manifest(clients, version, self.deadline).await?;
        let descriptor = self.keep(&found)?;
        let mut manifest = found;
        if let Ok(index) = serde_json::from_slice::<Index>(&manifest.bytes) {
            let fits = |entry: &&Descriptor| {
                let platform = entry.platform.as_ref();
                platform.is_some_and(|p| p.os == "linux" && p.architecture == self.arch)
            };
            let Some(entry) = index.manifests.iter().find(fits) else {
                return Err(
                    Error::refused(format!("it has no image for linux/{}", self.arch))
                        .hint("choose another image, or build it for this architecture"),
                );
            };
            manifest = repository
                .manifest(clients, &entry.digest, self.deadline)
                .await?;
            self.keep(&manifest)?;
        }
        let image: Image = serde_json::from_slice(&manifest.bytes)
            .attempting(|| "cannot read its manifest".to_owned())?;
        let mut parts = Vec::new();
        for part in image.layers.iter().chain([&image.config]) {
            parts.push(self.part(repository, part));
        }
        let parts = stream::iter(parts).buffer_unordered(self.parallel);
        parts.try_collect::<()>().await?;
        Ok(descriptor)
    }

    /// A layer or the configuration of an image.
    async fn part(&self, repository: &Repository, part: &Descriptor) -> Result<()> {
        let Some(sha256) = sha256_of(&part.digest) else {
            return Err(Error::refused(format!(
                "its part {} has no sha256",
                part.digest
            )));
        };
        let url = repository.blob(sha256);
        let login = repository.login(&self.clients, &url).await?;
        self.fetch(&url, sha256, login).await
    }

    fn blob(&self, sha256: &str) -> PathBuf {
        self.folder.path().join(sha256.to_ascii_lowercase())
    }

    fn keep(&self, manifest: &Manifest) -> Result<Descriptor> {
        let file = self.blob(&manifest.sha256);
        fs::write(&file, &manifest.bytes)
            .attempting(|| format!("cannot write {}", file.display()))?;
        Ok(Descriptor {
            media_type: manifest.media_type.clone(),
            digest: format!("sha256:{}", manifest.sha256),
            size: manifest.bytes.len() as u64,
            annotations: BTreeMap::new(),
            platform: None,
        })
    }

    /// Writes the archive and returns its sha256. The same content always gives the same archive.
    pub fn finish(self) -> Result<String> {
        let attempt = || format!("cannot write {}", self.output.display());
        let index = Index {
            schema_version: 2,
            media_type: INDEX.to_owned(),
            manifests: self.images.values().cloned().collect(),
        };
        let index = serde_json::to_vec(&index).attempting(attempt)?;
        let part = self.folder.path().join("bundle.tar");
        let sha256 = write(&part, &index, self.folder.path()).attempting(attempt)?;
        fs::rename(&part, &self.output).attempting(attempt)?;
        Ok(sha256)
    }
}

/// The name under which a node asks for it.
fn named(reference: &Reference) -> String {
    let Reference {
        host,
        name,
        version,
    } = reference;
    let separator = if version.contains(':') { '@' } else { ':' };
    format!("{host}/{name}{separator}{version}")
}

/// Writes a layout with this index and the folder's blobs; returns the archive's sha256.
pub(super) fn write(output: &Path, index: &[u8], blobs: &Path) -> io::Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(blobs)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_sha256(&name) {
            names.push(name);
        }
    }
    names.sort();
    let hashing = Hashing {
        file: File::create_new(output)?,
        hash: Sha256::new(),
    };
    let mut archive = tar::Builder::new(hashing);
    let mut add = |path: &str, size: u64, content: &mut dyn io::Read| {
        // Without time and owner, so that the same content gives the same archive.
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(0);
        archive.append_data(&mut header, path, content)
    };
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    add("oci-layout", layout.len() as u64, &mut layout.as_slice())?;
    add("index.json", index.len() as u64, &mut &*index)?;
    for name in names {
        let mut blob = File::open(blobs.join(&name))?;
        let size = blob.metadata()?.len();
        add(&format!("blobs/sha256/{name}"), size, &mut blob)?;
    }
    let hashing = archive.into_inner()?;
    hashing.file.sync_all()?;
    Ok(hex::encode(hashing.hash.finalize()))
}

/// A file that is hashed while it is written.
struct Hashing {
    file: File,
    hash: Sha256,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
