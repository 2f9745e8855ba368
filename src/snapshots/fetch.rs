//! Fetching a backup: complete and verified on this machine, or not at all.

use std::path::{Path, PathBuf};

use super::{DATA, MANIFEST, Manifest, Name, PKI, WORK, newest, pki};
use crate::{
    error::{Error, Result},
    kubernetes::ca::ca_cert_hash,
    observe::Initialized,
    ports::{Place, World},
};

/// Parses where the backup is: `latest` for the latest at the configured destination, the URL of a
/// destination for its latest, or the URL of a backup's `.json`.
pub fn source(from: &str, to: &str) -> Result<(Place, Option<Name>)> {
    if from == "latest" {
        if to.is_empty() {
            return Err(
                Error::refused("snapshots.to is empty, so there is no latest backup")
                    .hint("name the destination: --from s3://BUCKET/PREFIX"),
            );
        }
        return Ok((Place::parse(to)?, None));
    }
    if !from.ends_with(MANIFEST) {
        return Ok((Place::parse(from)?, None));
    }
    let named = from.rsplit_once('/').and_then(|(rest, file)| {
        let (place, folder) = rest.rsplit_once('/')?;
        Some((place, Name::of(folder, file)?))
    });
    let (place, name) = named.ok_or_else(|| {
        Error::refused(format!("`{from}` is not the name of a backup"))
            .hint("a backup's name ends in UID/20261124T120000.000Z.json")
    })?;
    Ok((Place::parse(place)?, Some(name)))
}

/// The newest backup of this cluster; an error if there is none.
pub async fn newest_of(world: &World, place: &Place, cluster_uid: &str) -> Result<Name> {
    newest(world, place, cluster_uid).await?.ok_or_else(|| {
        Error::refused(format!(
            "{place} has no complete backup of cluster {cluster_uid}"
        ))
    })
}

/// What a backup is fetched for. The fetched files have the purpose in their names, so that the two
/// purposes never share files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To restore the cluster.
    Restore,
    /// For a trial restore.
    Verify,
}

impl Purpose {
    fn file(self, ending: &str) -> PathBuf {
        let name = match self {
            Self::Restore => "restoring",
            Self::Verify => "verifying",
        };
        Path::new(WORK).join(format!("{name}{ending}"))
    }

    /// Where etcd's data are.
    pub fn data(self) -> PathBuf {
        self.file(DATA)
    }

    /// Removes the files: they hold the cluster's secrets.
    pub async fn forget(self, world: &World) -> Result<()> {
        for ending in [DATA, PKI, MANIFEST] {
            world.host.remove(&self.file(ending)).await?;
        }
        Ok(())
    }
}

/// A complete backup on this machine.
#[derive(Debug)]
pub struct Fetched {
    /// Its name in the archive, `UID/TIME`.
    pub name: Name,
    /// What it contains, with the digests that its files were checked against.
    pub manifest: Manifest,
    pub(super) keys: pki::Files,
    pub(super) purpose: Purpose,
}

/// Fetches a backup's description.
pub async fn describe(
    world: &World,
    place: &Place,
    name: &Name,
    purpose: Purpose,
) -> Result<Manifest> {
    let content = get(world, place, name, purpose, MANIFEST).await?;
    Manifest::read(&name.file(MANIFEST), &content)
}

/// Fetches a backup and verifies all of it; a backup of another cluster than `wanted` is refused.
pub async fn fetch(
    world: &World,
    place: &Place,
    name: Name,
    wanted: Option<&Initialized>,
    purpose: Purpose,
) -> Result<Fetched> {
    let manifest = describe(world, place, &name, purpose).await?;
    if let Some(cluster) = wanted
        && (manifest.cluster_uid != cluster.cluster_uid || manifest.ca_hash != cluster.ca_hash)
    {
        return Err(Error::refused(format!(
            "the backup {name} is of cluster {} ({}), but the store records {} ({})",
            manifest.cluster_uid, manifest.ca_hash, cluster.cluster_uid, cluster.ca_hash
        ))
        .hint("its nodes would not trust each other: use a backup of this cluster"));
    }
    let packed = get(world, place, &name, purpose, PKI).await?;
    verify(world, &name, purpose, PKI, &manifest.pki_sha256).await?;
    world.host.remove(&purpose.file(PKI)).await?;
    let keys = pki::unpack(&packed)?;
    let ca = keys.get("ca.crt").map(Vec::as_slice).unwrap_or_default();
    if ca_cert_hash(ca)? != manifest.ca_hash {
        return Err(Error::refused(format!(
            "the CA in the backup {name} is not the one that the cluster's nodes trust"
        )));
    }
    world
        .archive
        .get(place, &name.file(DATA), &purpose.data())
        .await?;
    verify(world, &name, purpose, DATA, &manifest.snapshot.sha256).await?;
    Ok(Fetched {
        name,
        manifest,
        keys,
        purpose,
    })
}

async fn get(
    world: &World,
    place: &Place,
    name: &Name,
    purpose: Purpose,
    ending: &str,
) -> Result<Vec<u8>> {
    let path = purpose.file(ending);
    world.archive.get(place, &name.file(ending), &path).await?;
    let content = world.host.read(&path).await?;
    content.ok_or_else(|| Error::failed(format!("{} vanished", path.display())))
}

async fn verify(
    world: &World,
    name: &Name,
    purpose: Purpose,
    ending: &str,
    wanted: &str,
) -> Result<()> {
    let found = world.host.sha256(&purpose.file(ending)).await?;
    if found.as_deref() == Some(wanted) {
        return Ok(());
    }
    world.host.remove(&purpose.file(ending)).await?;
    Err(Error::refused(format!(
        "{} is truncated or damaged: its sha256 is {}, not {wanted}",
        name.file(ending),
        found.unwrap_or_default()
    ))
    .hint("nothing was changed; use another backup: --from URL-OF-ITS.json"))
}
