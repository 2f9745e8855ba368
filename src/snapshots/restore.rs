//! A cluster brought back from a backup, on one control plane: etcd as a single member, with
//! the keys that nodes and pods know. From there the founding goes on as on any founder.
//!
//! Nothing is changed on this machine before the whole backup is here and verified, and
//! nothing counts before the journal says that this instance founds the cluster again.

use std::{path::Path, time::Duration};

use jiff::Timestamp;

use super::{DATA, MANIFEST, Manifest, Name, PKI, WORK, newest, pki};
use crate::{
    config::Settings,
    error::{Error, Result},
    identity::Identity,
    observe::{Initialized, Observation},
    phases::{
        Notes, Step,
        host::Images,
        kubeadm::{ca_cert_hash, paths},
    },
    ports::{Command, InstanceState, Place, Role, World},
    wait::{self, Patience, Probe},
};

/// containerd's client, which the host's preparation has put there.
const CTR: &str = "/usr/local/bin/ctr";

/// The container in which etcd's own tool restores its snapshot.
const CONTAINER: &str = "k8s-bootstrap-restore";

/// Where the new data are made, on the file system that they stay on.
const MADE: &str = "/var/lib/etcd/restored";

/// Added to etcd's revision, so that what clients saw after the snapshot is in the past for
/// every one of them. <https://etcd.io/docs/v3.6/op-guide/recovery/>
const BUMP: &str = "1000000000";

/// Static pods that must not run while etcd's data change.
const STOPPED: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

/// etcd's port for its clients.
const CLIENTS: u16 = 2379;

/// Where a person says that the backup is: `latest` of the place in the settings, the URL of
/// a place for its latest, or the URL of a backup's `.json`.
pub fn source(from: &str, to: &str) -> Result<(Place, Option<Name>)> {
    if from == "latest" {
        if to.is_empty() {
            return Err(Error::refused(
                "snapshots.to is empty: there is no place to look for the latest",
            )
            .hint("name it: --from s3://BUCKET/PREFIX"));
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
        Error::refused(format!("`{from}` names no backup"))
            .hint("a backup's name ends in UID/20261124T120000.000Z.json")
    })?;
    Ok((Place::parse(place)?, Some(name)))
}

/// Whether this instance may bring the cluster back, as a pure function of what is seen.
///
/// `leading` says that etcd on this very machine has a leader. With `force` living control
/// planes are no objection: whoever says so has made sure that they stay away.
pub fn may_restore<'a>(
    me: &Identity,
    seen: &'a Observation,
    leading: bool,
    force: bool,
) -> Result<&'a Initialized> {
    let cluster = seen.record.cluster().ok_or_else(|| {
        Error::refused("the store records no cluster, so there is none to bring back")
            .hint("restore the cluster's parameters first; a cluster that was never initialized is founded by `run`")
    })?;
    if let Some(mine) = &seen.membership
        && mine.cluster_uid != cluster.cluster_uid
    {
        return Err(Error::refused(format!(
            "this instance belongs to cluster {}, the store records {}",
            mine.cluster_uid, cluster.cluster_uid
        ))
        .hint("restore on a new instance"));
    }
    if force {
        return Ok(cluster);
    }
    let alive: Vec<&str> = seen
        .instances
        .iter()
        .filter(|i| i.id != me.instance_id && i.role == Some(Role::ControlPlane))
        .filter(|i| i.state != InstanceState::Terminated)
        .map(|i| i.id.as_str())
        .collect();
    if !alive.is_empty() {
        return Err(Error::refused(format!(
            "other control planes are not terminated: {}",
            alive.join(", ")
        ))
        .hint("two clusters would have the same name and keys: terminate them; --force restores all the same"));
    }
    if leading {
        return Err(
            Error::refused("etcd on this machine has a leader: the cluster works")
                .hint("--force throws its data away for the backup's"),
        );
    }
    Ok(cluster)
}

/// A backup that is on this machine, whole and of this cluster.
#[derive(Debug)]
pub struct Fetched {
    /// Its name.
    pub name: Name,
    /// What it is.
    pub manifest: Manifest,
    keys: pki::Files,
}

/// Fetches a backup and verifies all of it.
pub async fn fetch(
    world: &World,
    place: &Place,
    name: Option<Name>,
    cluster: &Initialized,
) -> Result<Fetched> {
    let name = match name {
        Some(name) => name,
        None => newest(world, place, &cluster.cluster_uid)
            .await?
            .ok_or_else(|| {
                Error::refused(format!(
                    "{place} has no whole backup of cluster {}",
                    cluster.cluster_uid
                ))
            })?,
    };
    let content = get(world, place, &name, MANIFEST).await?;
    let manifest = Manifest::read(&name.file(MANIFEST), &content)?;
    if manifest.cluster_uid != cluster.cluster_uid || manifest.ca_hash != cluster.ca_hash {
        return Err(Error::refused(format!(
            "the backup {name} is of cluster {} ({}), the store records {} ({})",
            manifest.cluster_uid, manifest.ca_hash, cluster.cluster_uid, cluster.ca_hash
        ))
        .hint("its nodes would not trust each other: take a backup of this cluster"));
    }
    let packed = get(world, place, &name, PKI).await?;
    verify(world, &name, PKI, &manifest.pki_sha256).await?;
    world.host.remove(&work(PKI)).await?;
    let keys = pki::unpack(&packed)?;
    let ca = keys.get("ca.crt").map(Vec::as_slice).unwrap_or_default();
    if ca_cert_hash(ca)? != cluster.ca_hash {
        return Err(Error::refused(format!(
            "the CA in the backup {name} is not the one that the cluster's nodes trust"
        )));
    }
    world
        .archive
        .get(place, &name.file(DATA), &work(DATA))
        .await?;
    verify(world, &name, DATA, &manifest.snapshot.sha256).await?;
    Ok(Fetched {
        name,
        manifest,
        keys,
    })
}

fn work(ending: &str) -> std::path::PathBuf {
    Path::new(WORK).join(format!("restoring{ending}"))
}

async fn get(world: &World, place: &Place, name: &Name, ending: &str) -> Result<Vec<u8>> {
    let path = work(ending);
    world.archive.get(place, &name.file(ending), &path).await?;
    let content = world.host.read(&path).await?;
    content.ok_or_else(|| Error::failed(format!("{} vanished", path.display())))
}

async fn verify(world: &World, name: &Name, ending: &str, wanted: &str) -> Result<()> {
    let found = world.host.sha256(&work(ending)).await?;
    if found.as_deref() == Some(wanted) {
        return Ok(());
    }
    world.host.remove(&work(ending)).await?;
    Err(Error::refused(format!(
        "{} is cut off or damaged: its sha256 is {}, {wanted} was written",
        name.file(ending),
        found.unwrap_or_default()
    ))
    .hint("nothing was changed; take another backup: --from URL-OF-ITS.json"))
}

/// Puts the backup's keys and data in place of what this machine has. The host is prepared.
pub async fn put_back(
    world: &World,
    settings: &Settings,
    me: &Identity,
    fetched: &Fetched,
) -> Result<()> {
    refuse_other_keys(world, &fetched.keys).await?;
    let image = etcd_image(world, settings).await?;
    make_data(world, me, &image).await?;
    stop(world).await?;
    for (name, content) in &fetched.keys {
        world
            .host
            .write(&pki::path(name), content, pki::mode(name))
            .await?;
    }
    if world.host.exists(Path::new(paths::ETCD_MEMBER)).await? {
        let aside = aside(world.clock.now());
        run(world, "mv", &[paths::ETCD_MEMBER, &aside]).await?;
    }
    let member = format!("{MADE}/member");
    run(world, "mv", &[&member, paths::ETCD_MEMBER]).await?;
    run(world, "rm", &["-rf", MADE]).await?;
    // kubeadm's look at the host would take etcd's data for a mistake.
    world
        .host
        .write(Path::new(paths::PREFLIGHT_PASSED), b"", 0o600)
        .await?;
    world.host.remove(&work(DATA)).await?;
    world.host.remove(&work(MANIFEST)).await
}

/// What was there before stays, for a person to throw away.
fn aside(now: Timestamp) -> String {
    format!("{}/before-{}", paths::ETCD, now.strftime(super::TIME))
}

async fn refuse_other_keys(world: &World, keys: &pki::Files) -> Result<()> {
    for (name, wanted) in keys {
        let path = pki::path(name);
        let found = world.host.read(&path).await?;
        if found.is_some_and(|found| found != *wanted) {
            return Err(Error::refused(format!(
                "{} is another one than the backup's",
                path.display()
            ))
            .hint("this instance holds the keys of another cluster: restore on a new one"));
        }
    }
    Ok(())
}

/// etcd's image, on this machine.
async fn etcd_image(world: &World, settings: &Settings) -> Result<String> {
    let kubernetes = &settings.kubernetes;
    let image = format!(
        "{}/etcd:{}",
        kubernetes.image_repository, kubernetes.etcd_tag
    );
    let pulled = Images {
        images: vec![image.clone()],
        deadline: settings.deadlines.download,
    };
    pulled.apply(world, &Notes::unread()).await?;
    Ok(image)
}

/// A new member's data, beside those that etcd uses.
async fn make_data(world: &World, me: &Identity, image: &str) -> Result<()> {
    // A restore that was interrupted may have left its container and half of the data.
    for left in [&["tasks", "rm", "--force"][..], &["containers", "rm"]] {
        let remove = [&["--namespace", "k8s.io"], left, &[CONTAINER]].concat();
        let _ = world.commands.run(Command::new(CTR, remove)).await?;
    }
    run(world, "rm", &["-rf", MADE]).await?;
    run(world, "mkdir", &["-p", "-m", "700", paths::ETCD]).await?;
    let peer = format!("https://{}:2380", me.private_ip);
    let snapshot = work(DATA).display().to_string();
    let cluster = format!("{}={peer}", me.node_name);
    let from = format!("type=bind,src={WORK},dst={WORK},options=rbind:ro");
    let to = format!("type=bind,src={0},dst={0},options=rbind:rw", paths::ETCD);
    let restore = [
        "--namespace",
        "k8s.io",
        "run",
        "--rm",
        "--mount",
        &from,
        "--mount",
        &to,
        image,
        CONTAINER,
        "/usr/local/bin/etcdutl",
        "snapshot",
        "restore",
        &snapshot,
        "--data-dir",
        MADE,
        "--name",
        &me.node_name,
        "--initial-cluster",
        &cluster,
        "--initial-advertise-peer-urls",
        &peer,
        "--bump-revision",
        BUMP,
        "--mark-compacted",
    ];
    run(world, CTR, &restore).await
}

/// Ends this machine's control plane, if it has one: its kubelet stops what has no manifest.
async fn stop(world: &World) -> Result<()> {
    for name in STOPPED {
        let path = Path::new(paths::MANIFESTS).join(format!("{name}.yaml"));
        world.host.remove(&path).await?;
    }
    wait::until(
        world.clock.as_ref(),
        &Notes::unread(),
        Patience::local(Duration::from_mins(2)),
        "etcd on this machine to stop",
        || async {
            if world.host.port_in_use(CLIENTS).await? {
                return Ok(Probe::NotYet(format!(
                    "something listens on port {CLIENTS}"
                )));
            }
            Ok(Probe::Done(()))
        },
    )
    .await
}

async fn run(world: &World, program: &str, args: &[&str]) -> Result<()> {
    let command = Command::new(program, args.iter().copied()).within(Duration::from_mins(10));
    let output = world.commands.run(command.clone()).await?;
    output.success(&command).map(drop)
}

#[cfg(test)]
mod tests;
