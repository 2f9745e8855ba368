//! The storage folder of a docker-registry, written without running one: blobs by digest, and small
//! files per repository that name them. Layout: <https://github.com/distribution/distribution>,
//! registry/storage/paths.go.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::image::{self, Blobs};

/// A storage folder, `rootdirectory` in a registry's configuration.
pub struct Storage {
    root: PathBuf,
}

impl Storage {
    /// The storage in the folder `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.join("docker/registry/v2"),
        }
    }

    /// Stores an image as `repository:tag`. Its blobs are moved out of `folder`.
    ///
    /// # Errors If the storage cannot be written.
    pub fn add(&self, repository: &str, tag: &str, blobs: &Blobs, folder: &Path) -> Result<()> {
        let add = || -> io::Result<()> {
            let manifest = image::blob(folder, &blobs.manifest)?;
            let repository = self.root.join("repositories").join(repository);
            for digest in &blobs.digests {
                self.keep(digest, &folder.join(digest))?;
                link(&repository.join("_layers/sha256").join(digest), digest)?;
            }
            self.keep(&manifest, &folder.join(&manifest))?;
            let manifests = repository.join("_manifests");
            link(
                &manifests.join("revisions/sha256").join(&manifest),
                &manifest,
            )?;
            let tag = manifests.join("tags").join(tag);
            link(&tag.join("index/sha256").join(&manifest), &manifest)?;
            link(&tag.join("current"), &manifest)
        };
        add().with_context(|| format!("store the image {repository}:{tag}"))
    }

    fn keep(&self, digest: &str, from: &Path) -> io::Result<()> {
        let start = digest.get(..2).unwrap_or(digest);
        let folder = self.root.join("blobs/sha256").join(start).join(digest);
        fs::create_dir_all(&folder)?;
        let data = folder.join("data");
        // Two images may share a blob, which was moved here with the first one.
        if data.exists() {
            return Ok(());
        }
        fs::rename(from, data)
    }
}

fn link(folder: &Path, digest: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("link"), format!("sha256:{digest}"))
}

/// The blobs of an image that skopeo copied to `dir:` at `folder`.
///
/// # Errors If it has no manifest with a configuration and layers.
pub fn copied(folder: &Path) -> Result<Blobs> {
    let manifest = fs::read(folder.join("manifest.json"))
        .with_context(|| format!("read the manifest in {}", folder.display()))?;
    let parsed: Value = serde_json::from_slice(&manifest)?;
    let layers = parsed.get("layers").and_then(Value::as_array);
    let digests = parsed
        .get("config")
        .into_iter()
        .chain(layers.into_iter().flatten())
        .map(|blob| {
            let digest = blob.get("digest").and_then(Value::as_str);
            let digest = digest.and_then(|digest| digest.strip_prefix("sha256:"));
            digest.map(str::to_owned)
        })
        .collect::<Option<Vec<_>>>()
        .filter(|digests| digests.len() > 1)
        .with_context(|| format!("{} is not the manifest of one image", folder.display()))?;
    Ok(Blobs { manifest, digests })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::image::{Image, Node, build};
    use super::*;

    #[test]
    fn a_tag_leads_to_its_manifest_and_this_to_its_blobs() {
        let dir = tempfile::tempdir().unwrap();
        let (root, work) = (dir.path().join("registry"), dir.path().join("work"));
        fs::create_dir(&work).unwrap();
        let image = Image::new("registry.k8s.io/pause:3.10.2")
            .with("pause", Node::Text("binary".into(), 0o755))
            .run_by("/pause");
        let blobs = build(&image, &work).unwrap();
        let storage = Storage::new(&root);
        storage.add("pause", "3.10.2", &blobs, &work).unwrap();

        let v2 = root.join("docker/registry/v2");
        let data = |link: &Path| {
            let digest = fs::read_to_string(link.join("link")).unwrap();
            let digest = digest.strip_prefix("sha256:").unwrap().to_owned();
            let start = &digest[..2];
            fs::read(
                v2.join("blobs/sha256")
                    .join(start)
                    .join(&digest)
                    .join("data"),
            )
            .unwrap()
        };
        let pause = v2.join("repositories/pause");
        let manifest = data(&pause.join("_manifests/tags/3.10.2/current"));
        assert_eq!(manifest, blobs.manifest);
        for digest in &blobs.digests {
            assert!(!data(&pause.join("_layers/sha256").join(digest)).is_empty());
        }
        assert_eq!(fs::read_dir(&work).unwrap().count(), 0);
    }

    #[test]
    fn images_that_share_a_layer_are_both_whole() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::new(&dir.path().join("registry"));
        for name in ["one", "two"] {
            let work = dir.path().join(name);
            fs::create_dir(&work).unwrap();
            let blobs = build(&Image::new("lab.local/x:1"), &work).unwrap();
            storage.add(name, "1", &blobs, &work).unwrap();
        }
    }

    #[test]
    fn an_index_of_many_platforms_is_no_image() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("manifest.json"), r#"{"manifests": []}"#).unwrap();
        assert!(copied(dir.path()).is_err());
    }
}
