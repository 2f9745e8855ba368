//! The manifests that the agent downloads, and the images that manifests name.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::archive::digest_of;
use super::cache::Cache;
use super::command::{nice, output};
use super::families::{CALICO, KUBERNETES, LOCAL_PATH, METRICS_SERVER};
use super::golang::Family;
use super::official::Official;
use super::pins::{Addon, Manifest, ProvidedAddon};
use super::www::prepared;

/// An add-on with one manifest; one version of it can be built here.
pub struct Buildable {
    /// Its name in the agent's configuration.
    pub addon: &'static str,
    /// The source of its images and of the manifest itself.
    pub family: &'static Family,
    /// Its official URL, with `{version}`.
    url: &'static str,
    /// The Kustomization that renders it, in the family's folder; empty if the manifest itself is
    /// there.
    kustomization: &'static str,
}

/// The add-ons of every lab with manifests that the agent downloads.
pub const ADDONS: &[Buildable] = &[
    Buildable {
        addon: "calico",
        family: &CALICO,
        url: "https://raw.githubusercontent.com/projectcalico/calico/v{version}/manifests/\
              calico-vxlan.yaml",
        kustomization: "",
    },
    Buildable {
        addon: "storage",
        family: &LOCAL_PATH,
        url: "https://raw.githubusercontent.com/rancher/local-path-provisioner/v{version}/deploy/\
              local-path-storage.yaml",
        kustomization: "",
    },
    Buildable {
        addon: "metrics-server",
        family: &METRICS_SERVER,
        url: "https://github.com/kubernetes-sigs/metrics-server/releases/download/v{version}/\
              components.yaml",
        kustomization: "manifests/overlays/release",
    },
];

impl Buildable {
    /// The agent's default manifest, which is replaced.
    ///
    /// # Errors If the agent's defaults have no such add-on, or one with several sources.
    pub fn default<'a>(&self, addons: &'a BTreeMap<String, Addon>) -> Result<&'a Manifest> {
        let sources = addons.get(self.addon).map(|addon| addon.sources.as_slice());
        let Some([source]) = sources else {
            anyhow::bail!(
                "the agent's defaults have no add-on {} with exactly one source: {sources:?}",
                self.addon
            );
        };
        Ok(source)
    }

    /// Puts the manifest into the site's folder `www`. The manifest and its images must come from
    /// the same place: the version that can be built is not the default.
    ///
    /// # Errors If it can be neither downloaded nor built.
    pub fn provide(
        &self,
        cache: &Cache,
        default: &Manifest,
        official: &Official,
        www: &Path,
        log: &Path,
    ) -> Result<ProvidedAddon> {
        if official.answers(&default.url) {
            let file = prepared(www, &default.url)?;
            Official::fetch(&default.url, &default.sha256, &file, log)?;
            let images = images_in(&fs::read_to_string(&file)?);
            if images
                .iter()
                .all(|image| official.answers(&registry_of(image)))
            {
                let manifest = default.clone();
                return Ok(ProvidedAddon { manifest, images });
            }
        }
        let url = self.url.replace("{version}", self.family.version);
        let file = prepared(www, &url)?;
        let built = self.family.built(cache)?;
        if self.kustomization.is_empty() {
            let name = file
                .file_name()
                .context("a manifest's URL ends in a name")?;
            fs::copy(built.join(name), &file)?;
        } else {
            let mut render = nice(&KUBERNETES.built(cache)?.join("kubectl").to_string_lossy());
            render.arg("kustomize").arg(built.join(self.kustomization));
            fs::write(&file, output(&mut render)?)?;
        }
        let sha256 = digest_of(&file)?;
        if url == default.url {
            ensure!(
                sha256 == default.sha256,
                "the manifest that {} renders has the digest {sha256}, and the agent expects {} of {url}",
                self.family.name,
                default.sha256
            );
        }
        let images = images_in(&fs::read_to_string(&file)?);
        let manifest = Manifest { url, sha256 };
        Ok(ProvidedAddon { manifest, images })
    }
}

/// The images in the manifests of `folder`, the manifests that the agent contains.
///
/// # Errors If they cannot be read.
pub fn images_of_folder(folder: &Path) -> Result<Vec<String>> {
    let read = || -> std::io::Result<String> {
        let mut all = String::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "yaml") {
                all.push_str(&fs::read_to_string(path)?);
                all.push('\n');
            }
        }
        Ok(all)
    };
    let all = read().with_context(|| format!("read the manifests in {}", folder.display()))?;
    Ok(images_in(&all))
}

/// The URL at which an image's registry identifies itself.
pub fn registry_of(image: &str) -> String {
    let host = match image.split('/').next().unwrap_or(image) {
        "docker.io" => "registry-1.docker.io",
        host => host,
    };
    format!("https://{host}/v2/")
}

/// The name with registry and tag that a container runtime derives from `image`.
pub fn qualified(image: &str) -> String {
    let (host, rest) = image.split_once('/').unwrap_or(("", image));
    let image = if host.contains(['.', ':']) || host == "localhost" {
        image.to_owned()
    } else if host.is_empty() {
        format!("docker.io/library/{rest}")
    } else {
        format!("docker.io/{image}")
    };
    let name = image.rsplit('/').next().unwrap_or_default();
    if name.contains([':', '@']) {
        image
    } else {
        format!("{image}:latest")
    }
}

/// The images of a manifest's containers, with full names and each once.
fn images_in(manifest: &str) -> Vec<String> {
    let mut images: Vec<String> = manifest
        .lines()
        .filter_map(|line| {
            let line = line.trim().trim_start_matches("- ");
            let image = line.strip_prefix("image:")?.trim();
            Some(image.trim_matches(['"', '\'']))
        })
        // A value of the add-on's: the lab provides its own.
        .filter(|image| !image.is_empty() && !image.contains("{values."))
        .map(qualified)
        .collect();
    images.sort();
    images.dedup();
    images
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::pins::Defaults;
    use super::*;

    #[test]
    fn a_manifest_s_images_are_found_once_each_and_in_full() {
        let manifest = "      - image: quay.io/calico/cni:v3\n\
            \n        image: \"quay.io/calico/node:v3\"\n  image: quay.io/calico/cni:v3\n\
            \n  # image policy\n  imagePullPolicy: Always\n\
            \n  image: busybox\n  image: \"{values.image}\"\n  image: rancher/local-path-provisioner:v0\n";
        assert_eq!(
            images_in(manifest),
            [
                "docker.io/library/busybox:latest",
                "docker.io/rancher/local-path-provisioner:v0",
                "quay.io/calico/cni:v3",
                "quay.io/calico/node:v3",
            ]
        );
        assert_eq!(
            registry_of("docker.io/calico/node:v3"),
            "https://registry-1.docker.io/v2/"
        );
    }

    #[test]
    fn a_registry_s_port_is_no_tag() {
        assert_eq!(qualified("localhost:5000/a"), "localhost:5000/a:latest");
        assert_eq!(qualified("ghcr.io/a/b:1"), "ghcr.io/a/b:1");
    }

    #[test]
    fn what_can_be_built_replaces_a_default_of_the_same_file() {
        let defaults = Defaults::read().unwrap();
        for buildable in ADDONS {
            let default = buildable.default(&defaults.addons).unwrap();
            let name = |url: &str| url.rsplit('/').next().unwrap().to_owned();
            assert_eq!(name(&default.url), name(buildable.url));
            assert_eq!(default.sha256.len(), 64, "{}", default.url);
        }
    }
}
