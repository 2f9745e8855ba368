//! NGINX instead of Traefik, if a person has put its image into the lab's folder: it can be neither
//! built from modules nor pulled without the internet.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::archive::digest_of;
use super::official::Official;
use super::pins::{Defaults, Manifest};
use super::www::prepared;

/// The controller's repository, as an archive in the registry's folder is named.
const ARCHIVE: &str = "docker.io_nginx_nginx-ingress_";

/// The agent's settings in that case.
const SETTINGS: &str = "
[addons.ingress-nginx]
enabled = true

[addons.ingress-traefik]
enabled = false
";

/// Provides the controller's manifests in the site's folder `www` and returns the settings that
/// choose it; empty if its image is not among the registry's archives.
///
/// The manifests come from their official URL, or from the folder `images` next to the image.
///
/// # Errors If the image is there and a manifest is not available.
pub fn nginx(
    defaults: &Defaults,
    official: &Official,
    images: &Path,
    registry: &Path,
    www: &Path,
    log: &Path,
) -> Result<String> {
    let archives = fs::read_dir(registry.join("archives"));
    let there = archives.into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with(ARCHIVE)
    });
    if !there {
        return Ok(String::new());
    }
    let addon = defaults.addons.get("ingress-nginx");
    let sources = addon
        .map(|addon| addon.sources.as_slice())
        .unwrap_or_default();
    for manifest in sources {
        provide(manifest, official, images, www, log)?;
    }
    Ok(SETTINGS.to_owned())
}

fn provide(
    manifest: &Manifest,
    official: &Official,
    images: &Path,
    www: &Path,
    log: &Path,
) -> Result<()> {
    let Manifest { url, sha256 } = manifest;
    let file = prepared(www, url)?;
    let good = |file: &Path| digest_of(file).is_ok_and(|found| found == *sha256);
    if good(&file) {
        return Ok(());
    }
    let name = file
        .file_name()
        .context("a manifest's URL ends in a name")?;
    let local = images.join(name);
    if good(&local) {
        fs::copy(&local, &file)?;
        return Ok(());
    }
    if official.answers(url) {
        return Official::fetch(url, sha256, &file, log);
    }
    anyhow::bail!(
        "the image of the NGINX ingress controller is in {}, but {url} does not answer: put the file {} \
         (sha256 {sha256}) next to it, or remove the image to use Traefik",
        images.display(),
        name.display()
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use sha2::{Digest as _, Sha256};

    use super::super::pins::Addon;
    use super::*;

    /// A URL that nothing listens on.
    const URL: &str = "http://127.0.0.1:1/deploy/crds.yaml";

    struct Stage {
        folder: tempfile::TempDir,
        defaults: Defaults,
    }

    impl Stage {
        fn new() -> Self {
            let mut defaults = Defaults::read().unwrap();
            let manifest = Manifest {
                url: URL.to_owned(),
                sha256: hex::encode(Sha256::digest("right")),
            };
            let addon = Addon {
                sources: vec![manifest],
                images: Vec::new(),
            };
            defaults.addons = BTreeMap::from([("ingress-nginx".to_owned(), addon)]);
            Self {
                folder: tempfile::tempdir().unwrap(),
                defaults,
            }
        }

        fn put(&self, path: &str, content: &str) {
            let path = self.folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        fn nginx(&self) -> Result<String> {
            let at = |name: &str| self.folder.path().join(name);
            let (images, registry, www) = (at("images"), at("registry"), at("www"));
            nginx(
                &self.defaults,
                &Official::default(),
                &images,
                &registry,
                &www,
                &at("log"),
            )
        }
    }

    #[test]
    fn without_its_image_there_are_no_settings_and_with_it_every_manifest_is_required() {
        let stage = Stage::new();
        assert_eq!(stage.nginx().unwrap(), "");
        stage.put("registry/archives/docker.io_nginx_nginx-ingress_5.5.4", "");
        stage.put("images/crds.yaml", "wrong");
        let error = format!("{:#}", stage.nginx().unwrap_err());
        assert!(
            error.contains("crds.yaml") && error.contains("Traefik"),
            "{error}"
        );
        stage.put("images/crds.yaml", "right");
        let settings: toml::Table = stage.nginx().unwrap().parse().unwrap();
        assert_eq!(
            settings["addons"]["ingress-nginx"]["enabled"].as_bool(),
            Some(true)
        );
        assert_eq!(
            settings["addons"]["ingress-traefik"]["enabled"].as_bool(),
            Some(false)
        );
        let served = stage.folder.path().join("www/127.0.0.1:1/deploy/crds.yaml");
        assert_eq!(fs::read_to_string(served).unwrap(), "right");
    }
}
