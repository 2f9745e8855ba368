//! A trial restore: a backup is fetched and restored into a folder of its own, and its data are
//! read there. Nothing else on the machine changes, and nothing is left behind.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    Name, Purpose,
    etcdutl::{self, Etcdutl, run},
    fetch::fetch,
};
use crate::{
    config::Settings,
    error::{Context, Error, Result},
    identity::Identity,
    ports::{Place, World},
};

/// Where the backup is restored.
const SCRATCH: &str = "/var/lib/k8s-bootstrap/verify";

/// The container in which etcd's own tool works.
const CONTAINER: &str = "k8s-bootstrap-verify";

/// The contents of a verified backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The backup's name in the archive, `UID/TIME`.
    pub backup: String,
    /// When it was taken.
    pub taken: jiff::Timestamp,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's uid, from its founder's claim.
    pub cluster_uid: String,
    /// The snapshot's revision: later writes are not in it.
    pub revision: u64,
    /// How many keys were read from the restored data.
    pub keys: u64,
    /// The `totalSize` that etcdutl reports for the restored data, in bytes.
    pub bytes: u64,
}

/// The output of `etcdutl snapshot status`.
#[derive(Debug, Deserialize)]
struct Said {
    revision: u64,
    #[serde(rename = "totalKey")]
    keys: u64,
    #[serde(rename = "totalSize")]
    bytes: u64,
}

/// Proves that a backup can be restored here.
pub async fn verify(
    world: &World,
    settings: &Settings,
    me: &Identity,
    place: &Place,
    name: Name,
) -> Result<Verified> {
    let outcome = restore_and_read(world, settings, me, place, name).await;
    // They hold the cluster's secrets: none stays behind, whatever the result.
    Purpose::Verify.forget(world).await?;
    run(world, "rm", &["-rf", SCRATCH]).await?;
    outcome
}

async fn restore_and_read(
    world: &World,
    settings: &Settings,
    me: &Identity,
    place: &Place,
    name: Name,
) -> Result<Verified> {
    let fetched = fetch(world, place, name, None, Purpose::Verify).await?;
    let image = etcdutl::image(world, settings).await?;
    run(world, "rm", &["-rf", SCRATCH]).await?;
    run(world, "mkdir", &["-p", "-m", "700", SCRATCH]).await?;
    let tool = Etcdutl {
        world,
        image: &image,
        container: CONTAINER,
        folder: SCRATCH,
    };
    tool.clear_way().await?;
    let snapshot = read(&tool, &Purpose::Verify.data()).await?;
    let data = format!("{SCRATCH}/data");
    tool.restore(me, Purpose::Verify, &data).await?;
    let restored = read(&tool, &Path::new(&data).join("member/snap/db")).await?;
    let name = &fetched.name;
    // The old cluster's members are no longer among the keys.
    if restored.keys == 0 || restored.revision < snapshot.revision {
        return Err(Error::refused(format!(
            "the backup {name} has {} keys at revision {}, but after a trial restore {} at {}",
            snapshot.keys, snapshot.revision, restored.keys, restored.revision
        ))
        .hint("take another backup now: k8s-bootstrap etcd snapshot"));
    }
    let manifest = fetched.manifest;
    Ok(Verified {
        backup: format!("{place}/{name}.json"),
        taken: manifest.time,
        cluster: manifest.cluster,
        cluster_uid: manifest.cluster_uid,
        revision: snapshot.revision,
        keys: restored.keys,
        bytes: restored.bytes,
    })
}

async fn read(tool: &Etcdutl<'_>, database: &Path) -> Result<Said> {
    let said = tool.status(database).await?;
    serde_json::from_str(&said)
        .attempting(|| format!("cannot read etcdutl's status of {}", database.display()))
}

#[cfg(test)]
mod tests;
