//! What runs inside the lab's machines: the root file system that they boot, the
//! releases that the agent downloads and the images that the cluster pulls.
//!
//! Each comes from where it is officially published as far as this machine reaches
//! that, and is built from Go modules and Debian packages otherwise. The results
//! are cached; when nothing changed, [`ensure`] only looks at their stamps.

mod archive;
mod archives;
mod cache;
mod command;
mod debian;
mod families;
mod flask;
mod golang;
mod image;
mod images;
mod ingress;
mod manifests;
mod official;
mod pins;
mod platform;
mod registry;
mod replaced;
mod site;
mod tools;
mod visits;
mod workload;

use std::path::PathBuf;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use indicatif::MultiProgress;

pub use images::BUSYBOX;

use crate::layout::Layout;

/// What the lab's machines are made of.
#[derive(Clone, Debug)]
pub struct Built {
    /// The machines' root file system: the lower folder of their overlays, read-only.
    pub rootfs: PathBuf,
    /// Files to serve in place of the release sites: a folder per host, and in it
    /// the site's own paths.
    pub www: PathBuf,
    /// Storage of a docker-registry (its `rootdirectory`). Repositories have the
    /// names that they have upstream, so one registry is a mirror for all.
    pub registry: PathBuf,
    /// TOML to lay over the agent's defaults: versions and digests of what `www` holds.
    pub pins: String,
    /// kubectl, to run on the host.
    pub kubectl: PathBuf,
    /// etcdctl, to run on the host.
    pub etcdctl: PathBuf,
}

/// All components, those that are missing or outdated made first: 20 to 40 minutes
/// from an empty cache, a second when all are there.
///
/// # Errors
/// When a tool is missing, or a component can neither be downloaded nor built; the
/// message ends with what the failed program said and names the log with the rest.
pub async fn ensure(layout: &Layout, progress: &MultiProgress) -> Result<Built> {
    let (layout, progress) = (layout.clone(), progress.clone());
    tokio::task::spawn_blocking(move || build(&layout, progress))
        .await
        .context("the thread that builds the components ended early")?
}

/// Adds the image of the application's Flask twin to the registry of a lab that is up;
/// only the bench wants it.
///
/// # Errors
/// When Python's packages cannot be had, or no lab was up in this folder before.
pub async fn ensure_flask(layout: &Layout, progress: &MultiProgress) -> Result<()> {
    let (layout, progress) = (layout.clone(), progress.clone());
    tokio::task::spawn_blocking(move || {
        let cache = cache::Cache::open(&layout.cache(), progress, tools::check)?;
        let debian = debian::built(&cache)?;
        let repository = layout.repository();
        let folder = flask::built(&cache, repository, &debian)?;
        let registry = layout.cache().join(images::COMPONENT);
        cache.added("flask-image", &registry, |work, _| {
            flask::store(&folder, repository, &debian, &registry, work)
        })
    })
    .await
    .context("the thread that builds the Flask twin ended early")?
}

fn build(layout: &Layout, progress: MultiProgress) -> Result<Built> {
    let defaults = pins::Defaults::read()?;
    let cache = cache::Cache::open(&layout.cache(), progress, tools::check)?;
    let official = official::Official::default();

    // Debian's part waits for the network and the disk, Go's for processors.
    let (debian, go) = thread::scope(|scope| {
        let debian = scope.spawn(|| debian::built(&cache));
        let go = site::built(&cache, &defaults, &official)
            .and_then(|site| Ok((site, families::ETCD.built(&cache)?)));
        (debian.join(), go)
    });
    let (site, etcd) = go?;
    let debian = debian.map_err(|_| anyhow!("the build of the root file system panicked"))??;
    let mut named = site.images;
    named.extend(manifests::images_of_folder(
        &layout.repository().join("manifests"),
    )?);
    let registry = images::built(&cache, &defaults.kubernetes, &named, &official, &debian)?;
    // Beside its own images the registry takes what changes more often than these.
    cache.added("visits", &registry, |work, log| {
        let binary = visits::binary(layout.repository(), log)?;
        visits::store(&binary, &registry, work)
    })?;
    let images = layout.images();
    cache.added("archives", &registry, |work, log| {
        let stored = archives::store(&images, &registry, work, log)?;
        if !stored.is_empty() {
            tracing::info!(images = stored.join(" "), "taken from {}", images.display());
        }
        Ok(())
    })?;
    let mut ingress = String::new();
    cache.added("ingress", &site.www, |_, log| {
        ingress = ingress::nginx(&defaults, &official, &images, &registry, &site.www, log)?;
        Ok(())
    })?;
    Ok(Built {
        rootfs: debian.machine,
        www: site.www,
        registry,
        pins: site.pins + &ingress,
        kubectl: site.kubectl,
        etcdctl: etcd.join("etcdctl"),
    })
}
