//! `etcd restore`: restores the cluster from a backup.

use std::io::{IsTerminal, Write};

use super::{etcd::on_a_control_plane, print};
use crate::{
    error::{Context, Error, Result},
    plan,
    snapshots::{
        Fetched,
        fetch::source,
        restore::{Request, carry_out, prepare},
    },
};

/// `etcd restore`.
pub async fn restore(from: &str, yes: bool, force: bool, rebuild_record: bool) -> Result<()> {
    let (world, settings, me) = on_a_control_plane("to restore a cluster").await?;
    let (place, name) = source(from, &settings.snapshots.to)?;
    let request = Request {
        place,
        name,
        force,
        rebuild_record,
    };
    let prepared = prepare(&world, &me, request).await?;
    let fetched = &prepared.fetched;
    if !yes {
        confirm(&me.node_name, &me.cluster, fetched)?;
    }
    world
        .commands
        .systemctl(&["stop", "k8s-bootstrap.service"])
        .await?;
    let host = plan::host(&settings, &me)?;
    let tell = |what: &str| eprintln!("{what}");
    carry_out(&world, &settings, &me, &host, &prepared, tell).await?;
    world
        .commands
        .systemctl(&["start", "--no-block", "k8s-bootstrap.service"])
        .await?;
    print(&format!(
        "restored {} of {}; the agent now starts the control plane: `k8s-bootstrap status --watch`",
        fetched.name, fetched.manifest.time
    ))
}

fn confirm(node: &str, cluster: &str, fetched: &Fetched) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        return Err(
            Error::usage("cannot ask for confirmation: standard input is not a terminal")
                .hint("add --yes"),
        );
    }
    let manifest = &fetched.manifest;
    eprint!(
        "Cluster {cluster} (uid {}) is restored as it was at {}, with {node} as its only control plane.\n\
         What was written after that is lost. Type the cluster's name to continue: ",
        manifest.cluster_uid, manifest.time
    );
    std::io::stderr()
        .flush()
        .attempting(|| "cannot ask for confirmation".to_owned())?;
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .attempting(|| "cannot read the answer".to_owned())?;
    if answer.trim() == cluster {
        return Ok(());
    }
    Err(Error::refused("not confirmed: nothing was changed"))
}
