//! Container images with one layer, built from files on this machine without a container engine.
//! Format: OCI image specification 1.1, image-layout's blobs
//! <https://github.com/opencontainers/image-spec>.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tar::{Builder, EntryType, Header};

use super::archive::{self, Hashing};
use super::platform;

/// Media types of the three kinds of blob.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Not compressed: layers only travel within the machine, and gzip would cost more than it saves.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The search path of every image.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The content of an image at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A copy of a file of this machine, executable.
    Program(PathBuf),
    /// A small file, executable or not.
    Text(String, u32),
    /// An empty folder with its mode.
    Folder(u32),
    /// A symbolic link to a path in the image.
    Symlink(String),
    /// A second name of another path in the image.
    Hardlink(String),
}

/// An image to build: its reference and its content.
#[derive(Clone, Debug)]
pub struct Image {
    /// As in a pod's specification: `registry.k8s.io/pause:3.10.2`.
    pub reference: String,
    /// Nodes by path, without the leading slash. Parent folders are added.
    pub files: BTreeMap<String, Node>,
    /// The command, to which a pod's `args` are added.
    pub entrypoint: Vec<String>,
    /// The default `args`.
    pub command: Vec<String>,
    /// `UID:GID` to run as if a pod names none; root if empty.
    pub user: String,
    /// TCP ports that it listens on, for information only.
    pub ports: Vec<u16>,
}

impl Image {
    /// An empty image.
    pub fn scratch(reference: impl Into<String>) -> Self {
        Self {
            reference: reference.into(),
            files: BTreeMap::new(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            user: String::new(),
            ports: Vec::new(),
        }
    }

    /// An image with only a /tmp.
    pub fn new(reference: impl Into<String>) -> Self {
        Self::scratch(reference).with("tmp", Node::Folder(0o1777))
    }

    /// The image with `node` at `path`.
    #[must_use]
    pub fn with(mut self, path: &str, node: Node) -> Self {
        self.files
            .insert(path.trim_start_matches('/').to_owned(), node);
        self
    }

    /// The image with all of `files`.
    #[must_use]
    pub fn with_all(mut self, files: impl IntoIterator<Item = (String, Node)>) -> Self {
        self.files.extend(files);
        self
    }

    /// The image, run by `entrypoint`.
    #[must_use]
    pub fn run_by(mut self, entrypoint: &str) -> Self {
        self.entrypoint = vec![entrypoint.to_owned()];
        self
    }
}

/// A reference's parts: `registry.k8s.io/coredns/coredns:v1.14.2` has the registry
/// `registry.k8s.io`, the repository `coredns/coredns` and the tag `v1.14.2`.
///
/// # Errors
/// When the reference has no registry or no tag.
pub fn parse(reference: &str) -> Result<(&str, &str, &str)> {
    let parts = reference.split_once('/').and_then(|(registry, rest)| {
        let (repository, tag) = rest.rsplit_once(':')?;
        Some((registry, repository, tag))
    });
    match parts {
        Some(parts @ (registry, ..)) if registry.contains(['.', ':']) => Ok(parts),
        _ => bail!("{reference:?} is not REGISTRY/REPOSITORY:TAG"),
    }
}

/// A built image's blobs, each a file named by its digest, in one folder.
pub struct Blobs {
    /// The manifest, which names the others.
    pub manifest: Vec<u8>,
    /// Hexadecimal sha256 of configuration and layer.
    pub digests: Vec<String>,
}

/// Writes the image's configuration and layer into `folder`, named by digest.
///
/// # Errors If a file of the image cannot be read, or `folder` cannot be written.
pub fn build(image: &Image, folder: &Path) -> Result<Blobs> {
    let unnamed = folder.join(".layer");
    let (layer, length) = layer(&image.files, &unnamed)
        .with_context(|| format!("write the layer of {}", image.reference))?;
    std::fs::rename(&unnamed, folder.join(&layer))?;

    let mut run = json!({
        "Env": [PATH],
        "Entrypoint": image.entrypoint,
        "Cmd": image.command,
    });
    if !image.user.is_empty() {
        run["User"] = json!(image.user);
    }
    if !image.ports.is_empty() {
        let ports = image
            .ports
            .iter()
            .map(|port| (format!("{port}/tcp"), json!({})));
        run["ExposedPorts"] = ports.collect::<serde_json::Map<_, _>>().into();
    }
    // No creation date: the same content must have the same digest.
    let config = serde_json::to_vec(&json!({
        "architecture": platform::ARCH,
        "os": "linux",
        "config": run,
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
        "history": [{ "created_by": "k8s-bootstrap lab" }],
    }))?;
    let config_digest = blob(folder, &config)?;

    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": CONFIG,
            "digest": format!("sha256:{config_digest}"),
            "size": config.len(),
        },
        "layers": [{
            "mediaType": LAYER,
            "digest": format!("sha256:{layer}"),
            "size": length,
        }],
    }))?;
    Ok(Blobs {
        manifest,
        digests: vec![config_digest, layer],
    })
}

/// Writes the image as an archive that `skopeo copy oci-archive:...` and `docker load` read.
///
/// # Errors If a file of the image cannot be read, or `output` cannot be written.
pub fn archive(image: &Image, output: &Path) -> Result<()> {
    let (_, _, tag) = parse(&image.reference)?;
    let folder = tempfile::tempdir()?;
    let blobs = build(image, folder.path())?;
    let manifest = blob(folder.path(), &blobs.manifest)?;
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": MANIFEST,
            "digest": format!("sha256:{manifest}"),
            "size": blobs.manifest.len(),
            "platform": { "architecture": platform::ARCH, "os": "linux" },
            "annotations": { "org.opencontainers.image.ref.name": tag },
        }],
    }))?;
    let write = || -> io::Result<()> {
        let mut tar = Builder::new(BufWriter::new(File::create(output)?));
        for (name, content) in [
            ("oci-layout", &br#"{"imageLayoutVersion":"1.0.0"}"#[..]),
            ("index.json", &index),
        ] {
            let length = content.len() as u64;
            append(&mut tar, name, EntryType::Regular, 0o644, length, content)?;
        }
        for digest in blobs.digests.iter().chain([&manifest]) {
            let file = File::open(folder.path().join(digest))?;
            let length = file.metadata()?.len();
            let name = format!("blobs/sha256/{digest}");
            append(&mut tar, &name, EntryType::Regular, 0o644, length, file)?;
        }
        tar.into_inner()?.flush()
    };
    write().with_context(|| format!("cannot write {}", output.display()))
}

/// Writes `content` into `folder` under its digest, and returns the digest.
///
/// # Errors
/// When `folder` cannot be written.
pub fn blob(folder: &Path, content: &[u8]) -> io::Result<String> {
    let mut hash = Hashing::new(io::sink());
    hash.write_all(content)?;
    let (digest, _) = hash.finish();
    std::fs::write(folder.join(&digest), content)?;
    Ok(digest)
}

fn layer(files: &BTreeMap<String, Node>, path: &Path) -> Result<(String, u64)> {
    let file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut tar = Builder::new(Hashing::new(file));
    let mut folders = BTreeMap::new();
    for (path, node) in files {
        for (end, _) in path.match_indices('/') {
            folders
                .entry(path.get(..end).unwrap_or_default())
                .or_insert(0o755);
        }
        if let Node::Folder(mode) = node {
            folders.insert(path, *mode);
        }
    }
    // Folders first, so that no entry comes before its folder.
    for (path, mode) in folders {
        append(
            &mut tar,
            &format!("{path}/"),
            EntryType::Directory,
            mode,
            0,
            io::empty(),
        )?;
    }
    for (path, node) in files {
        match node {
            Node::Program(source) => {
                let (data, length) = archive::open(source)?;
                append(&mut tar, path, EntryType::Regular, 0o755, length, data)?;
            }
            Node::Text(text, mode) => {
                let (data, length) = (text.as_bytes(), text.len() as u64);
                append(&mut tar, path, EntryType::Regular, *mode, length, data)?;
            }
            Node::Symlink(target) => {
                link(&mut tar, path, EntryType::Symlink, target)?;
            }
            // A link can only name what was unpacked before it.
            Node::Folder(_) | Node::Hardlink(_) => {}
        }
    }
    for (path, node) in files {
        if let Node::Hardlink(target) = node {
            link(&mut tar, path, EntryType::Link, target)?;
        }
    }
    let mut hashing = tar.into_inner()?;
    hashing.flush()?;
    Ok(hashing.finish())
}

fn header(kind: EntryType, mode: u32, length: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(length);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn append(
    tar: &mut Builder<impl io::Write>,
    path: &str,
    kind: EntryType,
    mode: u32,
    length: u64,
    data: impl Read,
) -> io::Result<()> {
    tar.append_data(&mut header(kind, mode, length), path, data)
}

fn link(
    tar: &mut Builder<impl io::Write>,
    path: &str,
    kind: EntryType,
    target: &str,
) -> io::Result<()> {
    tar.append_link(&mut header(kind, 0o777, 0), path, target)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::fs;

    use serde_json::Value;

    use super::*;

    fn example(program: &Path) -> Image {
        Image::new("registry.k8s.io/etcd:3.6.8-0")
            .with("/usr/local/bin/etcd", Node::Program(program.to_owned()))
            .with("bin/sh", Node::Symlink("busybox".into()))
            .with("aaa", Node::Hardlink("usr/local/bin/etcd".into()))
            .run_by("/usr/local/bin/etcd")
    }

    #[test]
    fn a_layer_has_its_folders_before_its_files_and_its_links_last() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("etcd");
        fs::write(&program, "binary").unwrap();
        let blobs = build(&example(&program), dir.path()).unwrap();

        let layer = File::open(dir.path().join(&blobs.digests[1])).unwrap();
        let mut archive = tar::Archive::new(layer);
        let entries: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                let path = entry.path().unwrap().display().to_string();
                let link = entry
                    .link_name()
                    .unwrap()
                    .map(|to| to.display().to_string());
                format!(
                    "{path} {:o} {}{}",
                    header.mode().unwrap(),
                    header.size().unwrap(),
                    link.map(|to| format!(" -> {to}")).unwrap_or_default()
                )
            })
            .collect();
        assert_eq!(
            entries,
            [
                "bin/ 755 0",
                "tmp/ 1777 0",
                "usr/ 755 0",
                "usr/local/ 755 0",
                "usr/local/bin/ 755 0",
                "bin/sh 777 0 -> busybox",
                "usr/local/bin/etcd 755 6",
                "aaa 777 0 -> usr/local/bin/etcd",
            ]
        );
    }

    #[test]
    fn manifest_and_configuration_name_each_blob_by_its_true_digest() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("etcd");
        fs::write(&program, "binary").unwrap();
        let blobs = build(&example(&program), dir.path()).unwrap();

        let manifest: Value = serde_json::from_slice(&blobs.manifest).unwrap();
        for described in [&manifest["config"], &manifest["layers"][0]] {
            let digest = described["digest"].as_str().unwrap();
            let file = dir.path().join(digest.strip_prefix("sha256:").unwrap());
            assert_eq!(
                format!("sha256:{}", archive::digest_of(&file).unwrap()),
                digest
            );
            assert_eq!(
                file.metadata().unwrap().len(),
                described["size"].as_u64().unwrap()
            );
        }
        let config = fs::read(dir.path().join(&blobs.digests[0])).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            manifest["layers"][0]["digest"]
        );
        assert_eq!(config["config"]["Entrypoint"][0], "/usr/local/bin/etcd");
    }

    #[test]
    fn the_same_files_give_the_same_image() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("etcd");
        fs::write(&program, "binary").unwrap();
        let image = example(&program);
        let first = build(&image, dir.path()).unwrap().manifest;
        fs::write(&program, "binary").unwrap();
        assert_eq!(build(&image, dir.path()).unwrap().manifest, first);
        fs::write(&program, "patched").unwrap();
        assert_ne!(build(&image, dir.path()).unwrap().manifest, first);
    }

    #[test]
    fn references_need_a_registry_and_a_tag() {
        assert_eq!(
            parse("docker.io/calico/node:v3.28.5").unwrap(),
            ("docker.io", "calico/node", "v3.28.5")
        );
        assert_eq!(
            parse("127.0.0.1:5000/a:1").unwrap(),
            ("127.0.0.1:5000", "a", "1")
        );
        parse("calico/node:v3.28.5").unwrap_err();
        parse("registry.k8s.io/pause").unwrap_err();
    }
}
