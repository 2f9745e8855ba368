//! Images that a person puts into the lab's folder as archives because they can be neither built
//! here nor pulled: from `docker save`, `podman save` or `ctr images export`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::cache::Stamp;
use super::command::{nice, run};
use super::image;
use super::manifests::qualified;
use super::registry::{Storage, copied};

/// Annotations that may name an image in an OCI layout's index, the fuller name first.
const NAMES: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

/// An image in an archive: skopeo's name for it, and its full name.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    source: String,
    reference: String,
}

/// Stores the images of `folder`'s archives in the registry's folder unless it already has them;
/// returns all images of the archives. Without a folder there are none.
///
/// # Errors If an archive cannot be read or names no image.
pub fn store(folder: &Path, registry: &Path, work: &Path, log: &Path) -> Result<Vec<String>> {
    let mut references = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(references);
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "tar") {
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        let found = images_of(&path).with_context(|| format!("read {}", path.display()))?;
        let about = path.metadata()?;
        for Found { source, reference } in found {
            // Removed with the registry's folder when that is rebuilt.
            let stamp = format!("{:?} {:?} {source}", about.modified()?, about.len());
            let stamp = Stamp::of([("archive", stamp.as_bytes())]);
            let name = reference.replace(['/', ':'], "_");
            let known = registry.join("archives").join(name);
            if fs::read(&known).is_ok_and(|known| known == stamp.as_bytes()) {
                references.push(reference);
                continue;
            }
            let blobs = work.join("blobs");
            let mut skopeo = nice("skopeo");
            skopeo
                .args(["copy", "--quiet", "--dest-compress", &source])
                .arg(format!("dir:{}", blobs.display()));
            run(&mut skopeo, log).with_context(|| format!("extract an image from {source}"))?;
            let (_, repository, tag) = image::parse(&reference)?;
            Storage::new(registry).add(repository, tag, &copied(&blobs)?, &blobs)?;
            fs::remove_dir_all(&blobs)?;
            fs::create_dir_all(registry.join("archives"))?;
            fs::write(known, stamp.as_bytes())?;
            references.push(reference);
        }
    }
    Ok(references)
}

fn images_of(path: &Path) -> Result<Vec<Found>> {
    let (mut docker, mut oci) = (None, None);
    for entry in tar::Archive::new(File::open(path)?).entries()? {
        let mut entry = entry?;
        let slot = match entry
            .path()?
            .to_str()
            .map(|path| path.trim_start_matches("./"))
        {
            Some("manifest.json") => &mut docker,
            Some("index.json") => &mut oci,
            _ => continue,
        };
        let mut text = String::new();
        entry.read_to_string(&mut text)?;
        *slot = Some(serde_json::from_str::<Value>(&text)?);
    }
    let file = path.display();
    let names: BTreeSet<(String, String)> = match (&docker, &oci) {
        // An archive in both formats has each image's full name here.
        (Some(manifest), _) => strings(manifest, "/RepoTags")
            .map(|name| (format!("docker-archive:{file}:{name}"), name))
            .collect(),
        (None, Some(index)) => index_names(index)
            .map(|(name, full)| (format!("oci-archive:{file}:{name}"), full))
            .collect(),
        (None, None) => bail!("it contains neither a manifest.json nor an index.json"),
    };
    if names.is_empty() {
        bail!("its image has no name: save it by name, not by id");
    }
    Ok(names
        .into_iter()
        .map(|(source, name)| Found {
            source,
            reference: qualified(&name),
        })
        .collect())
}

/// The strings in the list at `pointer` of each of `manifest`'s items.
fn strings<'a>(manifest: &'a Value, pointer: &'a str) -> impl Iterator<Item = String> + 'a {
    let items = manifest.as_array().into_iter().flatten();
    items
        .filter_map(move |item| item.pointer(pointer)?.as_array())
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
}

/// The images of an OCI layout's index: skopeo's name and the fullest name.
fn index_names(index: &Value) -> impl Iterator<Item = (String, String)> {
    let manifests = index.get("manifests").and_then(Value::as_array);
    manifests.into_iter().flatten().filter_map(|manifest| {
        let annotation = |key: &str| manifest.get("annotations")?.get(key)?.as_str();
        let [full, reference] = NAMES.map(annotation);
        let reference = reference?;
        Some((reference.to_owned(), full.unwrap_or(reference).to_owned()))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn archive(folder: &Path, files: &[(&str, &str)]) -> std::path::PathBuf {
        let path = folder.join("image.tar");
        let mut tar = tar::Builder::new(File::create(&path).unwrap());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, content.as_bytes())
                .unwrap();
        }
        tar.finish().unwrap();
        path
    }

    #[test]
    fn docker_s_archive_names_its_images_by_tags() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = r#"[{"Config": "c.json", "RepoTags": ["nginx/nginx-ingress:5.5.4"]}]"#;
        let path = archive(dir.path(), &[("manifest.json", manifest)]);
        let found = images_of(&path).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].reference, "docker.io/nginx/nginx-ingress:5.5.4");
        assert!(found[0].source.starts_with("docker-archive:/"));
        assert!(found[0].source.ends_with(".tar:nginx/nginx-ingress:5.5.4"));
    }

    #[test]
    fn an_oci_archive_names_its_images_by_annotations() {
        let dir = tempfile::tempdir().unwrap();
        let index = r#"{"manifests": [{"annotations": {
            "io.containerd.image.name": "ghcr.io/a/b:2",
            "org.opencontainers.image.ref.name": "2"}}]}"#;
        let path = archive(dir.path(), &[("oci-layout", "{}"), ("index.json", index)]);
        let found = images_of(&path).unwrap();
        assert_eq!(found[0].reference, "ghcr.io/a/b:2");
        assert!(found[0].source.ends_with(".tar:2"), "{found:?}");
    }

    #[test]
    fn an_image_without_a_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = archive(dir.path(), &[("manifest.json", r#"[{"RepoTags": null}]"#)]);
        let error = images_of(&path).unwrap_err().to_string();
        assert!(error.contains("by name"), "{error}");
    }

    #[test]
    fn without_a_folder_there_are_no_archives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let stored = store(&path.join("images"), path, path, &path.join("log"));
        assert!(stored.unwrap().is_empty());
    }
}
