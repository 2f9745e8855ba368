//! `etcd restore`: the cluster from a backup.

use std::io::{IsTerminal, Write};

use super::{etcd::on_a_control_plane, print};
use crate::{
    error::{Context, Error, Result},
    journal::Journal,
    observe::{self, Settled, record},
    plan as plans,
    ports::{Command, Etcd, World},
    runner::Runner,
    snapshots::{
        Fetched, Purpose,
        fetch::{describe, fetch, newest_of, source},
        restore::{bring_back, may_rebuild, may_restore, recorded},
    },
};

/// `etcd restore`.
pub async fn restore(from: &str, yes: bool, force: bool, rebuild_record: bool) -> Result<()> {
    let (world, settings, me) = on_a_control_plane("to restore a cluster").await?;
    let (place, name) = source(from, &settings.snapshots.to)?;
    let journal = Journal::open(world.host.as_ref(), &me.instance_id).await?;
    let seen = observe::observe(&world, &me, journal.memory()).await?;
    let leading = leads(world.etcd.as_ref()).await;
    let lost = if rebuild_record && seen.record.cluster().is_none() {
        let name = name.as_ref().ok_or_else(|| {
            Error::usage("which cluster's record was lost is not known")
                .hint("name the backup: --from URL-OF-ITS.json")
        })?;
        let manifest = describe(&world, &place, name, Purpose::Restore).await?;
        may_rebuild(&me, &seen, &manifest)?;
        Some(manifest.recorded())
    } else {
        None
    };
    let cluster = match &lost {
        Some(lost) => &lost.initialized,
        None => recorded(&seen)?,
    };
    may_restore(&me, &seen, cluster, leading, force)?;
    let name = match name {
        Some(name) => name,
        None => newest_of(&world, &place, &cluster.cluster_uid).await?,
    };
    let fetched = fetch(&world, &place, name, Some(cluster), Purpose::Restore).await?;
    if !yes {
        confirm(&me.node_name, &me.cluster, &fetched)?;
    }
    // The agent works on the same machine and keeps the same journal.
    systemctl(&world, &["stop", "k8s-bootstrap.service"]).await?;
    if let Some(lost) = &lost {
        record::rebuild(world.store.as_ref(), lost).await?;
        eprintln!("wrote the store's record again");
    }
    // From now on nobody takes over from its founder: what is put back stays.
    let settled = Settled {
        cluster_uid: cluster.cluster_uid.clone(),
        instance: me.instance_id.clone(),
        time: world.clock.now(),
    };
    record::settle(world.store.as_ref(), &settled).await?;
    eprintln!("preparing the host");
    let journal = Journal::open(world.host.as_ref(), &me.instance_id).await?;
    let runner = Runner::new(world.clone(), journal);
    runner.run(&plans::host(&settings, &me)?).await?;
    eprintln!("restoring {}", fetched.name);
    bring_back(&world, &settings, &me, &runner, &place, &fetched).await?;
    systemctl(&world, &["start", "--no-block", "k8s-bootstrap.service"]).await?;
    print(&format!(
        "restored {} of {}; the agent brings the control plane up: `k8s-bootstrap status --watch`",
        fetched.name, fetched.manifest.time
    ))
}

/// A machine whose etcd does not answer has none that leads.
async fn leads(etcd: &dyn Etcd) -> bool {
    etcd.leader().await.is_ok_and(|leader| leader.is_some())
}

fn confirm(node: &str, cluster: &str, fetched: &Fetched) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::usage("nobody can be asked here").hint("add --yes"));
    }
    let manifest = &fetched.manifest;
    eprint!(
        "Cluster {cluster} (uid {}) comes back as it was at {}, with {node} as its only control plane.\n\
         What was written after that is lost. Type the cluster's name to go on: ",
        manifest.cluster_uid, manifest.time
    );
    std::io::stderr()
        .flush()
        .attempting(|| "cannot ask".to_owned())?;
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .attempting(|| "cannot read the answer".to_owned())?;
    if answer.trim() == cluster {
        return Ok(());
    }
    Err(Error::refused("not confirmed: nothing was changed"))
}

async fn systemctl(world: &World, args: &[&str]) -> Result<()> {
    let command = Command::new("systemctl", args.iter().copied());
    let output = world.commands.run(command.clone()).await?;
    output.success(&command).map(drop)
}
