//! `etcd restore`: the cluster from a backup.

use std::io::{IsTerminal, Write};

use super::{etcd::on_a_control_plane, print};
use crate::{
    error::{Context, Error, Result},
    journal::{Course, Journal, Membership},
    observe::{self, Settled, record},
    plan as plans,
    ports::{Command, Etcd, World},
    runner::Runner,
    snapshots::restore::{Fetched, fetch, may_restore, put_back, source},
};

/// `etcd restore`.
pub async fn restore(from: &str, yes: bool, force: bool) -> Result<()> {
    let (world, settings, me) = on_a_control_plane("to restore a cluster").await?;
    let (place, name) = source(from, &settings.snapshots.to)?;
    let journal = Journal::open(world.host.as_ref(), &me.instance_id).await?;
    let seen = observe::observe(&world, &me, journal.memory()).await?;
    let leading = leads(world.etcd.as_ref()).await;
    let cluster = may_restore(&me, &seen, leading, force)?;
    let fetched = fetch(&world, &place, name, cluster).await?;
    if !yes {
        confirm(&me.node_name, &me.cluster, &fetched)?;
    }
    // The agent works on the same machine and keeps the same journal.
    systemctl(&world, &["stop", "k8s-bootstrap.service"]).await?;
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
    put_back(&world, &settings, &me, &fetched).await?;
    runner
        .commit_to(Membership {
            cluster_uid: cluster.cluster_uid.clone(),
            course: Course::Found,
        })
        .await?;
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
