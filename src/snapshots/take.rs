//! Taking a backup: it counts only after it was written and read back.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use tracing::warn;

use super::{DATA, ENDINGS, MANIFEST, Manifest, Name, PKI, VERSION, WORK, pki, retired, whole};
use crate::{
    error::{Context, Error, Result},
    kubernetes::ca::own_ca_cert_hash,
    observe::record::{self, Recorded},
    ports::{Place, World},
};

/// The suffix of the copy that is read back.
const CHECK: &str = ".check";

/// A backup that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Its name in the archive, `UID/TIME`.
    pub name: Name,
    /// When it was taken.
    pub time: Timestamp,
    /// The size of etcd's snapshot.
    pub bytes: u64,
}

/// What a backup is taken of, and by whom.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The cluster's name.
    pub cluster: &'a str,
    /// The cluster's uid, from its founder's claim.
    pub cluster_uid: &'a str,
    /// The instance that takes it.
    pub instance: &'a str,
    /// The cluster's Kubernetes version, `kubernetes.version` of the settings.
    pub kubernetes: &'a str,
}

/// The newest complete backup of a cluster at a destination.
pub async fn newest(world: &World, place: &Place, cluster_uid: &str) -> Result<Option<Name>> {
    let files = world.archive.list(place, cluster_uid).await?;
    Ok(whole(cluster_uid, &files).pop())
}

/// Takes a backup, then removes the oldest beyond `keep`.
pub async fn take(
    world: &World,
    place: &Place,
    keep: usize,
    subject: Subject<'_>,
) -> Result<Taken> {
    let now = world.clock.now();
    let name = Name::new(subject.cluster_uid, now);
    let taken = put(world, place, &name, now, subject).await;
    for ending in ENDINGS.into_iter().chain([CHECK]) {
        // They hold the cluster's secrets: none stays behind, whatever the result.
        world.host.remove(&work(&name, ending)).await?;
    }
    let taken = taken.map_err(|error| error.during(format!("cannot take a backup to {place}")))?;
    let files = world.archive.list(place, &name.folder).await?;
    for file in retired(&name.folder, &files, keep) {
        let removed = world.archive.delete(place, &file).await;
        removed.map_err(|error| error.during(format!("cannot remove the old backup {file}")))?;
    }
    Ok(taken)
}

/// A separate file for each backup: the agent and a person may take one at the same time.
fn work(name: &Name, ending: &str) -> PathBuf {
    Path::new(WORK).join(format!("{}.{}{ending}", name.time, std::process::id()))
}

async fn put(
    world: &World,
    place: &Place,
    name: &Name,
    now: Timestamp,
    subject: Subject<'_>,
) -> Result<Taken> {
    let snapshot = world.etcd.snapshot(&work(name, DATA)).await?;
    let keys = pki::pack(&pki::read(world.host.as_ref()).await?)?;
    world.host.write(&work(name, PKI), &keys, 0o600).await?;
    let manifest = Manifest {
        version: VERSION,
        cluster: subject.cluster.to_owned(),
        cluster_uid: subject.cluster_uid.to_owned(),
        ca_hash: own_ca_cert_hash(world.host.as_ref()).await?,
        time: now,
        instance: subject.instance.to_owned(),
        kubernetes: subject.kubernetes.to_owned(),
        pki_sha256: digest(world, &work(name, PKI)).await?,
        record: recorded(world, subject.cluster_uid).await,
        snapshot,
    };
    let text = serde_json::to_vec_pretty(&manifest)
        .attempting(|| "cannot serialize the backup's manifest".to_owned())?;
    world
        .host
        .write(&work(name, MANIFEST), &text, 0o600)
        .await?;
    for ending in ENDINGS {
        let (file, ours, check) = (name.file(ending), work(name, ending), work(name, CHECK));
        world.archive.put(place, &file, &ours).await?;
        world.archive.get(place, &file, &check).await?;
        if digest(world, &check).await? != digest(world, &ours).await? {
            return Err(
                Error::failed(format!("{file} reads back with different content")).hint(
                    "another writer uses this destination, or its storage is damaged: check it before the next attempt",
                ),
            );
        }
    }
    Ok(Taken {
        name: name.clone(),
        time: now,
        bytes: manifest.snapshot.bytes,
    })
}

/// The cluster in the store's record. An unavailable store does not prevent a backup.
async fn recorded(world: &World, cluster_uid: &str) -> Option<Recorded> {
    match record::read(world.store.as_ref()).await {
        Ok(record) => Recorded::of(&record, cluster_uid),
        Err(error) => {
            warn!(
                HINT = error.remedy(),
                "the backup lacks the store's record: {}",
                error.one_line()
            );
            None
        }
    }
}

async fn digest(world: &World, path: &Path) -> Result<String> {
    let found = world.host.sha256(path).await?;
    found.ok_or_else(|| Error::failed(format!("{} vanished", path.display())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;
    use crate::testing::{FakeWorld, Pki};

    const SUBJECT: Subject<'static> = Subject {
        cluster: "demo",
        cluster_uid: "uid",
        instance: "i-1",
        kubernetes: "1.36.3",
    };

    fn place() -> Place {
        Place::Folder("/backups".into())
    }

    fn founded() -> FakeWorld {
        let fake = FakeWorld::new().with_pki(&Pki::new());
        fake.etcd.voter("a", 10);
        fake
    }

    async fn stored(fake: &FakeWorld) -> Vec<String> {
        fake.ports().archive.list(&place(), "uid").await.unwrap()
    }

    async fn left(fake: &FakeWorld) -> Vec<PathBuf> {
        let left = fake.ports().host.list(Path::new(WORK)).await.unwrap();
        left.unwrap_or_default()
    }

    #[tokio::test(start_paused = true)]
    async fn a_backup_is_three_private_files_and_leaves_no_temporary_ones() {
        let fake = founded();
        let taken = take(&fake.ports(), &place(), 3, SUBJECT).await.unwrap();
        let files = stored(&fake).await;
        assert_eq!(files.len(), 3, "{files:?}");
        for file in &files {
            assert_eq!(fake.files.mode(format!("/backups/uid/{file}")), 0o600);
        }
        let text = fake.files.get(format!("/backups/{}.json", taken.name));
        let manifest = Manifest::read("x", text.unwrap().as_bytes()).unwrap();
        assert_eq!(
            (manifest.cluster.as_str(), manifest.snapshot.bytes),
            ("demo", taken.bytes)
        );
        assert!(left(&fake).await.is_empty());
        let newest = newest(&fake.ports(), &place(), "uid").await.unwrap();
        assert_eq!(newest, Some(taken.name));
    }

    #[tokio::test(start_paused = true)]
    async fn a_backup_contains_the_stores_record_of_the_cluster() {
        let fake = founded().recorded("uid", "i-0").await;
        let manifest = async |of: &FakeWorld| {
            let taken = take(&of.ports(), &place(), 3, SUBJECT).await.unwrap();
            let text = of.files.get(format!("/backups/{}.json", taken.name));
            Manifest::read("x", text.unwrap().as_bytes()).unwrap()
        };
        let recorded = manifest(&fake).await.record.unwrap();
        assert_eq!(
            (recorded.number, recorded.initialized.founder.as_str()),
            (1, "i-0")
        );
        assert_eq!(manifest(&founded()).await.record, None, "without a record");
    }

    #[tokio::test(start_paused = true)]
    async fn old_backups_are_removed_only_after_a_new_one_is_complete() {
        let fake = founded();
        let mut names = Vec::new();
        for _ in 0..3 {
            let taken = take(&fake.ports(), &place(), 2, SUBJECT).await.unwrap();
            names.push(taken.name);
            fake.ports().clock.sleep(Duration::from_hours(1)).await;
        }
        let files = stored(&fake).await;
        assert_eq!(whole("uid", &files), names[1..]);
        fake.files.delete("/etc/kubernetes/pki/sa.key");
        take(&fake.ports(), &place(), 1, SUBJECT).await.unwrap_err();
        assert_eq!(stored(&fake).await, files, "a failure removes nothing");
        assert!(left(&fake).await.is_empty(), "and leaves nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_backup_that_reads_back_differently_fails() {
        let fake = founded();
        // A file of that name exists already, with other content.
        let name = Name::new("uid", fake.ports().clock.now());
        fake.files.put(format!("/backups/{name}.db"), "other");
        let error = take(&fake.ports(), &place(), 2, SUBJECT).await.unwrap_err();
        assert!(error.one_line().contains("reads back"), "{error}");
        assert_eq!(newest(&fake.ports(), &place(), "uid").await.unwrap(), None);
        // Nor do its leftovers block the next attempt.
        fake.ports().clock.sleep(Duration::from_millis(20)).await;
        let taken = take(&fake.ports(), &place(), 2, SUBJECT).await.unwrap();
        assert_ne!(taken.name, name);
    }
}
