//! The software of the lab's machines: the root file system that they boot, the releases that the
//! agent downloads and the images that the cluster pulls.
//!
//! Each comes from its official site if this machine can reach it, and is built from Go modules and
//! Debian packages otherwise. The results are cached; if nothing changed, [`ensure`] only checks
//! their stamps.

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
pub(crate) mod pins;
pub(crate) mod platform;
mod registry;
mod replaced;
mod site;
mod tools;
mod visits;
mod vm;
mod workload;
mod www;

use std::path::PathBuf;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use indicatif::MultiProgress;

pub use images::BUSYBOX;
pub use visits::{VISITS, archive as application_archive, binary as application};
pub use vm::VmImage;

use crate::layout::Layout;

/// The built components.
#[derive(Clone, Debug)]
pub struct Built {
    /// The machines' root file system: the lower folder of their overlays, read-only.
    pub rootfs: PathBuf,
    /// Files to serve instead of the release sites: a folder per host with the site's own paths.
    pub www: PathBuf,
    /// Storage of a docker-registry (its `rootdirectory`). Repositories have their upstream names,
    /// so one registry mirrors all.
    pub registry: PathBuf,
    /// TOML to merge into the agent's defaults: versions and digests of the files in `www`.
    pub pins: String,
    /// kubectl, to run on the host.
    pub kubectl: PathBuf,
    /// etcdctl, to run on the host.
    pub etcdctl: PathBuf,
}

/// All components; missing or outdated ones are built first: a quarter of an hour with an empty cache,
/// a second if nothing is missing.
///
/// # Errors If a tool is missing, or a component can be neither downloaded nor built; the message
/// ends with the failed program's last output and names the log with the rest.
pub async fn ensure(layout: &Layout, progress: &MultiProgress) -> Result<Built> {
    let (layout, progress) = (layout.clone(), progress.clone());
    tokio::task::spawn_blocking(move || build(&layout, progress))
        .await
        .context("the thread that builds the components ended early")?
}

/// Adds the image of the application's Flask twin to the registry of a running lab; only the bench
/// needs it.
///
/// # Errors If Python's packages cannot be downloaded, or no lab was up in this folder before.
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

/// The folder of what virtual machines boot, see [`VmImage::at`]; built when the first one is
/// launched.
///
/// # Errors If Debian's mirror does not answer.
pub async fn ensure_vm(layout: &Layout) -> Result<PathBuf> {
    let layout = layout.clone();
    tokio::task::spawn_blocking(move || {
        let cache = cache::Cache::open(&layout.cache(), MultiProgress::new(), tools::check)?;
        let debian = debian::built(&cache)?;
        vm::built(&cache, &debian)
    })
    .await
    .context("the thread that builds the virtual machines' image ended early")?
}

fn build(layout: &Layout, progress: MultiProgress) -> Result<Built> {
    let defaults = pins::Defaults::read()?;
    let cache = cache::Cache::open(&layout.cache(), progress, tools::check)?;
    let official = official::Official::default();

    // In parallel: Debian's part is bound by network and disk, Go's by processors.
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
    // Images that change more often are added to the registry separately.
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
