//! `artifacts`, `images` and `bundle`: what a configuration needs, for those who mirror it.

use std::{collections::BTreeSet, path::Path};

use tracing::info;

use super::{
    configure::{Configuration, check, somewhere},
    print,
};
use crate::{
    adapters::{bundle::Maker, wiring::Wiring},
    config::{Settings, in_full},
    error::Result,
    ports::Role,
    steps::{
        addons::Addon,
        host::{Artifact, Images},
    },
};

/// Prints digest and URL of everything that nodes download besides images, as `sha256sum` does.
pub fn artifacts(config: Option<&Path>, arch: &str) -> Result<()> {
    let mut settings = without_bundle(config)?;
    // Mirrors keep the paths of the original.
    settings.downloads.mirrors.clear();
    let lines: String = files(&settings, arch)?
        .iter()
        .map(|(url, sha256)| format!("{sha256}  {url}\n"))
        .collect();
    print(&lines)
}

/// Prints every image, one on a line. Fetches the add-ons' manifests to see what they name.
pub async fn images(config: Option<&Path>) -> Result<()> {
    let settings = without_bundle(config)?;
    let images = image_names(&settings, &Wiring::new()?).await?;
    print(&images.into_iter().collect::<Vec<_>>().join("\n"))
}

/// Makes one archive of all that a configuration needs, and prints the setting that names it.
pub async fn bundle(config: Option<&Path>, arch: &str, output: &Path) -> Result<()> {
    let settings = without_bundle(config)?;
    check(settings.clone())?;
    let wiring = Wiring::new()?;
    let mut maker = Maker::new(&wiring.clients, &settings, arch, output)?;
    for (url, sha256) in files(&settings, arch)? {
        maker.file(&url, &sha256).await?;
    }
    for image in image_names(&settings, &wiring).await? {
        maker.image(&image).await?;
        info!("added the image {image}");
    }
    let sha256 = maker.finish()?;
    print(&format!(
        "# {} goes where nodes can download it; these settings name the place.\n\
         [bundle]\n\
         url = \"\"\n\
         sha256 = {{ {arch} = \"{sha256}\" }}",
        output.display()
    ))
}

/// The settings of a file, as if they named no bundle: it is made from what they name besides.
fn without_bundle(config: Option<&Path>) -> Result<Settings> {
    let mut settings = Configuration::read(config)?.settings()?;
    settings.bundle.url.clear();
    settings.bundle.sha256.clear();
    Ok(settings)
}

/// URL and sha256 of every program, archive and manifest.
fn files(settings: &Settings, arch: &str) -> Result<BTreeSet<(String, String)>> {
    let (me, _) = somewhere(settings, Role::ControlPlane, Some(arch))?;
    let artifacts = Artifact::all(settings, &me)?.into_iter();
    let mut files: BTreeSet<_> = artifacts
        .map(|artifact| (artifact.download.url, artifact.download.sha256))
        .collect();
    for addon in addons(settings) {
        let sources = addon.sources.into_iter();
        let fetched = sources.filter(|source| !source.sha256.is_empty());
        files.extend(fetched.map(|source| (source.url, source.sha256)));
    }
    Ok(files)
}

/// Every image that nodes of both roles and the add-ons run.
async fn image_names(settings: &Settings, wiring: &Wiring) -> Result<BTreeSet<String>> {
    let mut settings = settings.clone();
    settings.images.preload = true;
    let mut images = BTreeSet::new();
    images.extend(Images::of_control_plane(&settings)?.images);
    for role in [Role::ControlPlane, Role::Worker] {
        let (me, _) = somewhere(&settings, role, None)?;
        images.extend(Images::wanted(&settings, &me)?.images);
    }
    let (me, _) = somewhere(&settings, Role::ControlPlane, None)?;
    let world = wiring.world(&settings, &me)?;
    for addon in addons(&settings) {
        for manifest in addon.manifests(&world).await? {
            images.extend(manifest.images().iter().map(|image| in_full(image)));
        }
    }
    Ok(images)
}

fn addons(settings: &Settings) -> Vec<Addon> {
    let network = Addon::of_the_founder(settings).into_iter().flatten();
    network.chain(Addon::of_the_leader(settings)).collect()
}
