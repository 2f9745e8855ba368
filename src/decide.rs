//! What this instance does next, as a pure function of what it sees.
//!
//! [`decide`] judges one observation. Agents follow [`judge`], which also requires the
//! [`Agreement`] of several observations if a single incomplete answer could mislead.

mod agreement;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    identity::Identity,
    observe::{Claim, Evidence, Initialized, Membership, Observation, Origin, record::is_settled},
    ports::{Instance, InstanceState, Role},
};

pub use agreement::Agreement;

/// EC2's answers are eventually consistent: an instance that claimed may be missing from the list
/// for a while. If the instance is not listed at all and its claim is older than this, it counts as
/// terminated long ago.
const FORGOTTEN: Duration = Duration::from_mins(30);

/// Control planes launched together start within minutes of each other. One that is older by this
/// much has had time to found a cluster, whatever the store says.
const ELDER: Duration = Duration::from_mins(15);

/// How an agent decides: [`judge`], possibly wrapped by an observer.
pub type Judge = Arc<dyn Fn(&Identity, &Observation, &mut Agreement) -> Decision + Send + Sync>;

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "decision", rename_all = "kebab-case")]
pub enum Decision {
    /// Try to become the founder by creating this claim, then observe again.
    Claim {
        /// 1 for the first claim, otherwise one more than the last one's.
        number: u32,
        /// Why it may be made.
        why: String,
        /// The evidence for that.
        grounds: Grounds,
    },
    /// Found the cluster.
    Found {
        /// The cluster's uid, fixed by the claim.
        cluster_uid: String,
    },
    /// Join the cluster.
    Join {
        /// The uid of the cluster that the store records.
        cluster_uid: String,
        /// The expected hash of the cluster CA's public key.
        ca_hash: String,
    },
    /// Remove the abandoned cluster from this node, and decide again.
    StartOver {
        /// Why that cluster has no future.
        why: String,
    },
    /// Observe again later.
    Wait {
        /// What this instance waits for.
        why: String,
    },
    /// Stop: a person must decide.
    Refuse {
        /// What is wrong.
        why: String,
        /// What can be done.
        remedy: String,
    },
}

/// What a claim rests on. It determines how long observations must agree before the claim is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grounds {
    /// A fact that cannot change back: nobody has claimed, or the holder is terminated.
    Fact,
    /// Something that may only seem so because an answer is incomplete: an instance is not listed,
    /// or shows no cluster.
    Absence,
    /// The holder was stopped before it recorded a cluster, and may come back.
    Stopped,
}

/// Decides; if one observation could be wrong, only once several agree.
pub fn judge(me: &Identity, seen: &Observation, agreement: &mut Agreement) -> Decision {
    agreement.weigh(decide(me, seen), seen.elapsed)
}

/// Decides from one observation.
pub fn decide(me: &Identity, seen: &Observation) -> Decision {
    let Some(listed) = seen.instances.iter().find(|i| i.id == me.instance_id) else {
        return wait(format!(
            "EC2 does not list this instance with the tag k8s-bootstrap:cluster={} yet",
            me.cluster
        ));
    };
    if listed.state.is_gone() {
        return wait("EC2 is terminating this instance");
    }
    if me.role == Role::ControlPlane && listed.role != Some(Role::ControlPlane) {
        return refuse(
            "this instance is a control plane by its settings but not by its tags: no other node would find it".to_owned(),
            "add the tag k8s-bootstrap:role=control-plane",
        );
    }
    match &seen.membership {
        None => arrive(me, seen),
        Some(Membership {
            cluster_uid,
            origin: Origin::Founded,
        }) => go_on_founding(me, seen, cluster_uid),
        Some(Membership {
            cluster_uid,
            origin: Origin::Joined,
        }) => go_on_joining(seen, cluster_uid),
    }
}

/// This instance belongs to no cluster yet.
fn arrive(me: &Identity, seen: &Observation) -> Decision {
    let record = &seen.record;
    match (&record.settled, record.cluster(), record.claims.last()) {
        (Some(_), Some(cluster), _) => enter(me, seen, cluster),
        (Some(settled), None, _) => refuse(
            format!(
                "the store records that cluster {} is settled, but its `initialized` record is \
                 missing",
                settled.cluster_uid
            ),
            "restore the parameters of the cluster",
        ),
        (None, cluster, Some(last)) => arrive_early(me, seen, last, cluster),
        (None, _, None) if me.role == Role::Worker => {
            wait("no control plane has claimed to found the cluster yet")
        }
        (None, _, None) => first_claim(me, seen),
    }
}

/// Nothing is recorded: no cluster was founded yet, its record is lost, or this instance looks in
/// the wrong place. The control planes themselves show which of these it is.
fn first_claim(me: &Identity, seen: &Observation) -> Decision {
    if let Some(refusal) = shown_unrecorded(seen) {
        return refusal;
    }
    let launched = launch_of(me, seen);
    let is_elder = |other: &Instance| launched.is_some_and(|l| other.launched + ELDER <= l);
    if let Some(elder) = stopped_peers(me, seen).find(|other| is_elder(other)) {
        return wait(format!(
            "the store records no cluster, and the older control plane {} is stopped and may have one: start or terminate it",
            elder.id
        ));
    }
    let mut elders = peers(me, seen).filter(|other| is_elder(other));
    let (why, grounds) = match elders.next() {
        None => (
            "nobody has claimed to found the cluster".to_owned(),
            Grounds::Fact,
        ),
        Some(elder) => (
            format!(
                "nobody has claimed to found the cluster, and the older control plane {} shows no cluster",
                elder.id
            ),
            Grounds::Absence,
        ),
    };
    Decision::Claim {
        number: 1,
        why,
        grounds,
    }
}

/// The other control planes that are not gone.
fn peers<'a>(me: &'a Identity, seen: &'a Observation) -> impl Iterator<Item = &'a Instance> {
    seen.instances.iter().filter(|other| {
        other.role == Some(Role::ControlPlane)
            && other.id != me.instance_id
            && !other.state.is_gone()
    })
}

/// The peers that are stopped: they show nothing now, and come back with their disks.
fn stopped_peers<'a>(
    me: &'a Identity,
    seen: &'a Observation,
) -> impl Iterator<Item = &'a Instance> {
    use InstanceState::{Stopped, Stopping};
    peers(me, seen).filter(|other| matches!(other.state, Stopped | Stopping))
}

fn launch_of(me: &Identity, seen: &Observation) -> Option<Timestamp> {
    let own = seen.instances.iter().find(|i| i.id == me.instance_id);
    own.map(|own| own.launched)
}

/// Refuses to found while another control plane shows a cluster that the store does not record.
fn shown_unrecorded(seen: &Observation) -> Option<Decision> {
    let shown = &seen.evidence.control_planes;
    (!shown.is_empty()).then(|| {
        refuse(
            format!(
                "the store records no cluster, but the control plane {} has one",
                shown.join(", ")
            ),
            "start the agent there: it writes the record again; or correct [store] here, if the record is in another store; or terminate that instance to found a new cluster",
        )
    })
}

/// Until a cluster has something to lose, it depends on its founder.
fn arrive_early(
    me: &Identity,
    seen: &Observation,
    last: &Claim,
    cluster: Option<&Initialized>,
) -> Decision {
    if last.instance == me.instance_id {
        return match cluster {
            None => shown_despite_claim(seen, "this instance holds the claim to found the cluster")
                .unwrap_or_else(|| Decision::Found {
                    cluster_uid: last.cluster_uid.clone(),
                }),
            Some(cluster) => refuse(
                format!(
                    "this instance founded cluster {} and has lost its data",
                    cluster.cluster_uid
                ),
                "terminate this instance: the cluster was not settled, and another control plane founds a new one",
            ),
        };
    }
    let (why, grounds) = match (holder(last, seen), cluster) {
        (Holder::Gone(why), None) => (why, Grounds::Fact),
        // Others may have joined the recorded cluster, and one observation may not list them.
        (Holder::Gone(why), Some(_)) | (Holder::Forgotten(why), _) => (why, Grounds::Absence),
        (Holder::Stopped(why), None) => (why, Grounds::Stopped),
        // A cluster that exists comes back with its founder's disk.
        (Holder::Stopped(why), Some(_)) => {
            return wait(format!("{why}: start or terminate it"));
        }
        // A node that joins now may soon have to start over.
        (Holder::Away(why), _) | (Holder::Alive(why), None) => return wait(why),
        (Holder::Alive(_), Some(cluster)) => return join(cluster),
    };
    if me.role == Role::Worker {
        return wait(format!(
            "{why}: another control plane has to found the cluster"
        ));
    }
    if cluster.is_some()
        && let Some(stopped) = stopped_peers(me, seen).next()
    {
        return wait(format!(
            "{why}, but the control plane {} is stopped and may have joined its cluster: start or terminate it",
            stopped.id
        ));
    }
    shown_despite_claim(seen, &why).unwrap_or(Decision::Claim {
        number: last.number + 1,
        why,
        grounds,
    })
}

/// Waits while another control plane shows a cluster that is not the last claim's: that one starts
/// over, or keeps its data for a person to restore.
fn shown_despite_claim(seen: &Observation, why: &str) -> Option<Decision> {
    let shown = &seen.evidence.control_planes;
    (!shown.is_empty()).then(|| {
        wait(format!(
            "{why}, but the control plane {} still has a cluster: if it does not start over by itself, restore that cluster there or terminate it",
            shown.join(", ")
        ))
    })
}

/// The cluster exists: this instance joins it, if a control plane is left to admit it.
fn enter(me: &Identity, seen: &Observation, cluster: &Initialized) -> Decision {
    if me.role == Role::ControlPlane && peers(me, seen).next().is_none() {
        return refuse(
            format!(
                "no control plane of cluster {}, founded by {}, is left",
                cluster.cluster_uid, cluster.founder
            ),
            "restore a backup: `k8s-bootstrap etcd restore --from latest`; or remove the cluster's parameters from the store to found a new one",
        );
    }
    join(cluster)
}

/// This instance founds, or restored the cluster from a backup. It never starts over: it alone has
/// the cluster's data.
fn go_on_founding(me: &Identity, seen: &Observation, mine: &str) -> Decision {
    let record = &seen.record;
    if seen.settled.is_some() {
        return Decision::Found {
            cluster_uid: mine.to_owned(),
        };
    }
    let Some(last) = record.claims.last() else {
        return refuse(
            format!(
                "this instance began to found cluster {mine}, but the store has no claim for it"
            ),
            "restore the cluster's parameters, or replace this instance",
        );
    };
    let is_last = last.cluster_uid == mine;
    if is_last && (last.instance == me.instance_id || record.cluster().is_some()) {
        return Decision::Found {
            cluster_uid: mine.to_owned(),
        };
    }
    refuse(
        format!(
            "this instance began to found cluster {mine}, but {} made the last claim, for cluster {}",
            last.instance, last.cluster_uid
        ),
        "replace this instance: another one founds the cluster now",
    )
}

/// This instance joined, or began to.
fn go_on_joining(seen: &Observation, mine: &str) -> Decision {
    if let Some(settled) = &seen.settled {
        return join(&settled.recorded.initialized);
    }
    if let Some(why) = abandoned(seen, mine) {
        return start_over(seen, mine, why);
    }
    match seen.record.cluster() {
        Some(cluster) if cluster.cluster_uid == mine => join(cluster),
        Some(cluster) => refuse(
            format!(
                "this node belongs to cluster {mine}, but the store records cluster {}, \
                 founded by {}",
                cluster.cluster_uid, cluster.founder
            ),
            "replace this instance: its data belongs to another cluster",
        ),
        None => refuse(
            format!("this node joined cluster {mine}, but the store no longer records it"),
            "restore the parameters of the cluster, or replace this instance",
        ),
    }
}

/// Why this cluster is abandoned, if it is: its founder is gone for good, and nobody had settled
/// it.
fn abandoned(seen: &Observation, cluster_uid: &str) -> Option<String> {
    let record = &seen.record;
    let claim = record.claim_for(cluster_uid)?;
    let is_over = record.claims.last() != Some(claim)
        || !is_settled(record, cluster_uid)
            && matches!(holder(claim, seen), Holder::Gone(_) | Holder::Forgotten(_));
    // The text does not depend on how this is known, so that observations agree.
    is_over.then(|| {
        format!(
            "cluster {cluster_uid} lost its founder {} before it was settled",
            claim.instance
        )
    })
}

/// Starts over, unless the cluster still exists: its API answers, or a voting member of etcd may
/// hold data that somebody wrote.
fn start_over(seen: &Observation, mine: &str, why: String) -> Decision {
    let record = &seen.record;
    let recorded = record.initialized.values().rev();
    let mut recorded = recorded.filter(|cluster| cluster.cluster_uid == mine);
    let Evidence { api, voter, .. } = seen.evidence;
    let successor = record.claims.last().filter(|last| last.cluster_uid != mine);
    match (recorded.next(), successor) {
        (Some(cluster), _) if api => join(cluster),
        (Some(cluster), None) if voter => join(cluster),
        (_, Some(successor)) if voter => refuse(
            format!(
                "this control plane has data of cluster {mine}, which lost its founder, and {} has founded cluster {} since",
                successor.instance, successor.cluster_uid
            ),
            "if that data is not needed, terminate this instance or run `k8s-bootstrap reset --yes` here",
        ),
        _ => Decision::StartOver { why },
    }
}

/// Whether the decision from this observation depends on there being no cluster: then the machines
/// themselves must be probed as well.
pub fn rests_on_absence(me: &Identity, seen: &Observation) -> bool {
    match decide(me, seen) {
        Decision::Claim { .. } | Decision::StartOver { .. } => true,
        Decision::Found { .. } => seen.membership.is_none(),
        _ => false,
    }
}

fn join(cluster: &Initialized) -> Decision {
    Decision::Join {
        cluster_uid: cluster.cluster_uid.clone(),
        ca_hash: cluster.ca_hash.clone(),
    }
}

/// What has become of the instance that claimed.
enum Holder {
    Gone(String),
    Forgotten(String),
    Stopped(String),
    Away(String),
    Alive(String),
}

fn holder(claim: &Claim, seen: &Observation) -> Holder {
    let id = &claim.instance;
    match seen.instances.iter().find(|i| &i.id == id).map(|i| i.state) {
        // Not `shutting-down`: a dying founder may still be writing.
        Some(InstanceState::Terminated) => Holder::Gone(format!(
            "{id}, which claimed to found the cluster, is terminated"
        )),
        Some(InstanceState::Stopped) => Holder::Stopped(format!(
            "{id}, which claimed to found the cluster, is stopped"
        )),
        Some(InstanceState::Stopping) => Holder::Away(format!(
            "{id}, which claimed to found the cluster, is stopping"
        )),
        Some(InstanceState::ShuttingDown) => Holder::Away(format!(
            "{id}, which claimed to found the cluster, is shutting down"
        )),
        Some(_) => Holder::Alive(format!("{id} is founding the cluster")),
        None if claim.time + FORGOTTEN < seen.now => Holder::Forgotten(format!(
            "EC2 no longer lists {id}, which claimed to found the cluster"
        )),
        None => Holder::Away(format!(
            "{id} claimed to found the cluster; EC2 does not list it yet"
        )),
    }
}

fn wait(why: impl Into<String>) -> Decision {
    Decision::Wait { why: why.into() }
}

fn refuse(why: impl Into<String>, remedy: &str) -> Decision {
    Decision::Refuse {
        why: why.into(),
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests;
