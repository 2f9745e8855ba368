//! `artifacts` and `images`: what a configuration needs, for those who mirror it.

use std::collections::BTreeSet;
use std::path::Path;

use super::{
    configure::{Configuration, somewhere},
    print,
};
use crate::{
    adapters::wiring::Wiring,
    config::Settings,
    error::Result,
    ports::Role,
    steps::{
        addons::Addon,
        host::{Artifact, Images},
    },
};

/// Prints digest and URL of everything that nodes download besides images, as `sha256sum` does.
pub fn artifacts(config: Option<&Path>, arch: &str) -> Result<()> {
    let mut settings = Configuration::read(config)?.settings()?;
    // Mirrors keep the paths of the original.
    settings.downloads.mirrors.clear();
    let mut lines = BTreeSet::new();
    let (me, _) = somewhere(&settings, Role::ControlPlane, Some(arch))?;
    for artifact in Artifact::all(&settings, &me)? {
        lines.insert((artifact.download.url, artifact.download.sha256));
    }
    for addon in addons(&settings) {
        let sources = addon.sources.into_iter();
        let fetched = sources.filter(|source| !source.sha256.is_empty());
        lines.extend(fetched.map(|source| (source.url, source.sha256)));
    }
    let lines: String = lines
        .iter()
        .map(|(url, sha256)| format!("{sha256}  {url}\n"))
        .collect();
    print(&lines)
}

/// Prints every image, one on a line. Fetches the add-ons' manifests to see what they name.
pub async fn images(config: Option<&Path>) -> Result<()> {
    let mut settings = Configuration::read(config)?.settings()?;
    settings.images.preload = true;
    let mut images = BTreeSet::new();
    images.extend(Images::of_control_plane(&settings)?.images);
    for role in [Role::ControlPlane, Role::Worker] {
        let (me, _) = somewhere(&settings, role, None)?;
        images.extend(Images::wanted(&settings, &me)?.images);
    }
    let (me, _) = somewhere(&settings, Role::ControlPlane, None)?;
    let world = Wiring::new()?.world(&settings, &me)?;
    for addon in addons(&settings) {
        for manifest in addon.manifests(&world).await? {
            images.extend(manifest.images().into_iter().map(str::to_owned));
        }
    }
    print(&images.into_iter().collect::<Vec<_>>().join("\n"))
}

fn addons(settings: &Settings) -> Vec<Addon> {
    let network = Addon::of_the_founder(settings).into_iter().flatten();
    network.chain(Addon::of_the_leader(settings)).collect()
}
