//! Restores a cluster from a backup on one control plane: etcd as a single member, with the keys
//! that nodes and pods know. From there founding continues as on any founder.
//!
//! Nothing changes on this machine until the whole backup is here and verified, and its data are
//! prepared next to etcd's own. Then the journal records that a restore is in progress: until it
//! ends no agent starts anything here, and the same command resumes wherever it was interrupted.

use std::{path::Path, time::Duration};

use jiff::Timestamp;

use serde::Serialize;

use super::{
    Fetched, Manifest, Name, Purpose,
    etcdutl::{self, Etcdutl, run},
    fetch::{describe, fetch, newest_of},
    pki,
};
use crate::{
    config::Settings,
    error::{Error, Result},
    identity::Identity,
    journal::{Journal, Restoring},
    kubernetes::{ETCD_PORT, paths},
    observe::{
        self, Initialized, Membership, Observation, Origin, Settled,
        record::{self, Recorded},
    },
    plan::Phase,
    ports::{Etcd, InstanceState, Place, Role, World},
    runner::Runner,
    steps::Step,
    wait::{self, Backoff, Notes, Probe},
};

/// The container in which etcd's own tool restores the snapshot.
const CONTAINER: &str = "k8s-bootstrap-restore";

/// Where the new data are prepared, on their final file system.
const MADE: &str = "/var/lib/etcd/restored";

/// Static pods that must not run while etcd's data change.
const STOPPED: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

/// The command's options.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where the backup is.
    pub place: Place,
    /// Which backup; `None` means the cluster's latest.
    pub name: Option<Name>,
    /// Ignore control planes that are alive and an etcd that has a leader.
    pub force: bool,
    /// Write the store's record again from the backup if it is lost.
    pub rebuild_record: bool,
}

/// A restore that passed all checks, with its backup on this machine. Nothing has changed yet.
#[derive(Debug)]
pub struct Prepared {
    /// The backup to restore.
    pub fetched: Fetched,
    place: Place,
    cluster: Initialized,
    /// What the store lost of its record; `None` if nothing.
    lost: Option<Recorded>,
}

/// Checks whether this instance may restore the cluster, and fetches the backup.
pub async fn prepare(world: &World, me: &Identity, request: Request) -> Result<Prepared> {
    let journal = Journal::open(world.host.as_ref(), &me.instance_id).await?;
    let seen = observe::observe(world, me, journal.memory()).await?;
    let leading = leads(world.etcd.as_ref()).await;
    let lost = if request.rebuild_record && seen.record.cluster().is_none() {
        let name = request.name.as_ref().ok_or_else(|| {
            Error::usage("--rebuild-record needs a named backup")
                .hint("name the backup: --from URL-OF-ITS.json")
        })?;
        let manifest = describe(world, &request.place, name, Purpose::Restore).await?;
        may_rebuild(me, &seen, &manifest)?;
        Some(manifest.recorded())
    } else {
        None
    };
    let cluster = match &lost {
        Some(lost) => lost.initialized.clone(),
        None => recorded(&seen)?.clone(),
    };
    may_restore(me, &seen, &cluster, leading, request.force)?;
    let name = match request.name {
        Some(name) => name,
        None => newest_of(world, &request.place, &cluster.cluster_uid).await?,
    };
    let fetched = fetch(
        world,
        &request.place,
        name,
        Some(&cluster),
        Purpose::Restore,
    )
    .await?;
    Ok(Prepared {
        fetched,
        place: request.place,
        cluster,
        lost,
    })
}

/// If this machine's etcd does not answer, it has no leader.
async fn leads(etcd: &dyn Etcd) -> bool {
    etcd.leader().await.is_ok_and(|leader| leader.is_some())
}

/// Carries out the restore while no agent runs, since both write the same journal. `host` holds the
/// phases that prepare the machine; each part is announced before it begins.
pub async fn carry_out<A: Step + Serialize>(
    world: &World,
    settings: &Settings,
    me: &Identity,
    host: &[Phase<A>],
    prepared: &Prepared,
    tell: impl Fn(&str),
) -> Result<()> {
    if let Some(lost) = &prepared.lost {
        tell("rebuilding the store's record");
        record::rebuild(world.store.as_ref(), lost).await?;
    }
    // From now on nobody takes over from its founder, so what is restored stays.
    let settled = Settled {
        cluster_uid: prepared.cluster.cluster_uid.clone(),
        instance: me.instance_id.clone(),
        time: world.clock.now(),
    };
    record::settle(world.store.as_ref(), &settled).await?;
    tell("preparing the host");
    let journal = Journal::open(world.host.as_ref(), &me.instance_id).await?;
    let runner = Runner::new(world.clone(), journal);
    runner.run(host).await?;
    let Prepared { fetched, place, .. } = prepared;
    tell(&format!("restoring {}", fetched.name));
    restore_here(world, settings, me, &runner, place, fetched).await
}

/// The cluster in the store's record.
fn recorded(seen: &Observation) -> Result<&Initialized> {
    seen.record.cluster().ok_or_else(|| {
        Error::refused("the store records no cluster, so there is none to restore").hint(
            "if its record was lost, name the backup and add --rebuild-record: --from URL-OF-ITS.json; \
             a cluster that was never initialized is founded by `run`",
        )
    })
}

/// Whether the store's record may be rebuilt from this backup, as a pure function of the
/// observation. Control planes that are alive are an objection that `force` does not override: they
/// may be about to write the record themselves.
fn may_rebuild(me: &Identity, seen: &Observation, manifest: &Manifest) -> Result<()> {
    if manifest.cluster != me.cluster {
        return Err(Error::refused(format!(
            "the backup is of the cluster {}, but this instance is tagged for {}",
            manifest.cluster, me.cluster
        ))
        .hint("restore on an instance with the cluster's tag"));
    }
    if !seen.record.is_only_of(&manifest.cluster_uid) {
        return Err(Error::refused(format!(
            "the store records another cluster than {}",
            manifest.cluster_uid
        ))
        .hint("its record was not lost: remove --rebuild-record, and restore a backup of that cluster"));
    }
    let alive = others_alive(me, seen);
    if alive.is_empty() {
        return Ok(());
    }
    Err(Error::refused(format!(
        "other control planes are not terminated: {}",
        alive.join(", ")
    ))
    .hint("they may have the record or be about to write one: terminate them"))
}

fn others_alive<'a>(me: &Identity, seen: &'a Observation) -> Vec<&'a str> {
    seen.instances
        .iter()
        .filter(|i| i.id != me.instance_id && i.role == Some(Role::ControlPlane))
        .filter(|i| i.state != InstanceState::Terminated)
        .map(|i| i.id.as_str())
        .collect()
}

/// Whether this instance may restore this cluster, as a pure function of the observation.
///
/// `leading` means that etcd on this very machine has a leader. With `force`, control planes that
/// are alive are no objection: the person who sets it has made sure that they stay away.
fn may_restore(
    me: &Identity,
    seen: &Observation,
    cluster: &Initialized,
    leading: bool,
    force: bool,
) -> Result<()> {
    if let Some(mine) = &seen.membership
        && mine.cluster_uid != cluster.cluster_uid
    {
        return Err(Error::refused(format!(
            "this instance belongs to cluster {}, but the store records {}",
            mine.cluster_uid, cluster.cluster_uid
        ))
        .hint("restore on a new instance"));
    }
    if force {
        return Ok(());
    }
    let alive = others_alive(me, seen);
    if !alive.is_empty() {
        return Err(Error::refused(format!(
            "other control planes are not terminated: {}",
            alive.join(", ")
        ))
        .hint("two clusters would have the same name and keys: terminate them; --force restores anyway"));
    }
    if leading {
        return Err(
            Error::refused("etcd on this machine has a leader: the cluster works")
                .hint("--force replaces its data with the backup's"),
        );
    }
    Ok(())
}

/// Restores the cluster on this machine, whose host is prepared: at its next start the agent founds
/// it again. It can be repeated after any interruption.
async fn restore_here(
    world: &World,
    settings: &Settings,
    me: &Identity,
    runner: &Runner,
    place: &Place,
    fetched: &Fetched,
) -> Result<()> {
    make_data(world, settings, me, fetched).await?;
    let begun = Restoring {
        backup: format!("{place}/{}.json", fetched.name),
        begun: world.clock.now(),
    };
    // Until the end, neither the agent nor a reboot starts anything on a half-restored machine.
    runner
        .change_journal(|journal| journal.restoring = Some(begun))
        .await?;
    put_back(world, fetched).await?;
    runner
        .change_journal(|journal| {
            journal.membership = Some(Membership {
                cluster_uid: fetched.manifest.cluster_uid.clone(),
                origin: Origin::Founded,
            });
            // For etcd these data belong to another cluster, whose id is known once etcd runs.
            journal.etcd_cluster = None;
            journal.restoring = None;
        })
        .await
}

/// Makes a new member's data from the backup, next to the data in use. Nothing else changes.
async fn make_data(
    world: &World,
    settings: &Settings,
    me: &Identity,
    fetched: &Fetched,
) -> Result<()> {
    refuse_other_keys(world, &fetched.keys).await?;
    let image = etcdutl::image(world, settings).await?;
    let tool = Etcdutl {
        world,
        image: &image,
        container: CONTAINER,
        folder: paths::ETCD,
    };
    // An interrupted attempt may have left its container and half of the data.
    tool.clear_way().await?;
    run(world, "rm", &["-rf", MADE]).await?;
    run(world, "mkdir", &["-p", "-m", "700", paths::ETCD]).await?;
    tool.restore(me, fetched.purpose, MADE).await
}

/// Replaces this machine's keys and data with those of the backup.
async fn put_back(world: &World, fetched: &Fetched) -> Result<()> {
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
    // kubeadm's preflight checks would take etcd's data for a mistake.
    world
        .host
        .write(Path::new(paths::PREFLIGHT_PASSED), b"", 0o600)
        .await?;
    Purpose::Restore.forget(world).await
}

/// The previous data stay here, for a person to delete.
fn aside(now: Timestamp) -> String {
    format!("{}/before-{}", paths::ETCD, now.strftime(super::TIME))
}

async fn refuse_other_keys(world: &World, keys: &pki::Files) -> Result<()> {
    for (name, wanted) in keys {
        let path = pki::path(name);
        let found = world.host.read(&path).await?;
        if found.is_some_and(|found| found != *wanted) {
            return Err(
                Error::refused(format!("{} differs from the backup's", path.display()))
                    .hint("this instance holds the keys of another cluster: restore on a new one"),
            );
        }
    }
    Ok(())
}

/// Stops this machine's control plane, if it has one: the kubelet stops pods without a manifest.
async fn stop(world: &World) -> Result<()> {
    for name in STOPPED {
        let path = Path::new(paths::MANIFESTS).join(format!("{name}.yaml"));
        world.host.remove(&path).await?;
    }
    wait::until(
        world.clock.as_ref(),
        &Notes::unread(),
        Backoff::local(Duration::from_mins(2)),
        "etcd on this machine to stop",
        || async {
            if world.host.port_in_use(ETCD_PORT).await? {
                return Ok(Probe::NotYet(format!(
                    "something listens on port {ETCD_PORT}"
                )));
            }
            Ok(Probe::Done(()))
        },
    )
    .await
}

#[cfg(test)]
mod tests;
