//! `reset`: removes this node from its cluster, and the cluster from this node.

use super::{print, require_root, who_am_i};
use crate::{
    adapters::wiring::Wiring,
    error::{Error, Result},
    journal::Journal,
    plan,
    plan::decommission::{Notice, Why},
    runner::Runner,
};

/// `reset`: the node leaves the cluster, which must succeed here; then everything is removed.
pub async fn reset(yes: bool) -> Result<()> {
    let wiring = Wiring::new()?;
    require_root(&wiring, "to reset a node").await?;
    if !yes {
        return Err(Error::usage(
            "reset removes this node from its cluster: its pods are evicted, and its Node, containers, certificates and, on a control plane, its copy of the cluster's data are removed",
        )
        .hint("to confirm: `k8s-bootstrap reset --yes`"));
    }
    let (settings, me, _) = who_am_i(&wiring).await?;
    let world = wiring.world(&settings, &me)?;
    let journal = Journal::open(world.host.as_ref(), &me.instance_id).await?;
    let joined = journal.membership.is_some();
    let runner = Runner::new(world.clone(), journal);
    if joined {
        let notice = Notice {
            why: Why::Reset,
            seconds: settings.leaving.deadline,
        };
        // One by one, stopping at the first failure: nothing is lost yet.
        for phase in plan::decommission(&notice, &settings, &me) {
            runner.run(&[phase]).await.map_err(|error| {
                error.hint("fix it and reset again; until then the node is cordoned, which `kubectl uncordon` undoes")
            })?;
        }
    }
    for phase in plan::removal::reset() {
        runner.run(&[phase]).await?;
    }
    Journal::forget(world.host.as_ref()).await?;
    print(&format!(
        "{} is no longer a node. Volumes of pods in directories of this machine and Calico's packet rules remain; a reboot removes the rules.",
        me.node_name
    ))
}
