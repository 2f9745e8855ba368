//! What this instance does next, as a pure function of what it sees.
//!
//! [`decide`] judges one look. [`judge`] is what an agent follows: it also asks for
//! [`Agreement`] of several looks where a single incomplete answer could mislead.

mod agreement;

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use crate::{
    identity::Identity,
    journal::{Course, Membership},
    observe::{Claim, Initialized, Observation, record::is_settled},
    ports::{InstanceState, Role},
};

pub use agreement::Agreement;

/// EC2's answers are eventually consistent: an instance that claimed may be missing
/// from the list for a while. Only a claim older than this, of an instance that is
/// not listed at all, counts as one of an instance long terminated.
const FORGOTTEN: Duration = Duration::from_mins(30);

/// How an agent decides: [`judge`], unless somebody listens in.
pub type Judge = Arc<dyn Fn(&Identity, &Observation, &mut Agreement) -> Decision + Send + Sync>;

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "decision", rename_all = "kebab-case")]
pub enum Decision {
    /// Try to become the founder by creating this claim, then look again.
    Claim {
        /// The claim's number.
        number: u32,
        /// Why it may be made.
        why: String,
        /// Whether that rests on what EC2 does not list, which one incomplete answer can feign.
        by_absence: bool,
    },
    /// Found the cluster.
    Found {
        /// Its uid, fixed by the claim.
        cluster_uid: String,
    },
    /// Join the cluster.
    Join {
        /// Its uid.
        cluster_uid: String,
        /// What its CA must hash to.
        ca_hash: String,
    },
    /// Take from this node what it has of a cluster that was given up, and decide anew.
    StartOver {
        /// Why that cluster has no future.
        why: String,
    },
    /// Look again later.
    Wait {
        /// What for.
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

/// Decides, once several looks agree on what one of them may have got wrong.
pub fn judge(me: &Identity, seen: &Observation, agreement: &mut Agreement) -> Decision {
    agreement.weigh(decide(me, seen), seen.now)
}

/// Decides by one look.
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
            "this instance's settings make it a control plane, but its tags do not: no other node would find it".to_owned(),
            "add the tag k8s-bootstrap:role=control-plane",
        );
    }
    match &seen.membership {
        None => arrive(me, seen),
        Some(Membership {
            cluster_uid,
            course: Course::Found,
        }) => go_on_founding(me, seen, cluster_uid),
        Some(Membership {
            cluster_uid,
            course: Course::Join,
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
                "the store says that cluster {} is here to stay, but not how to know it",
                settled.cluster_uid
            ),
            "restore the parameters of the cluster",
        ),
        (None, cluster, Some(last)) => arrive_early(me, seen, last, cluster),
        (None, _, None) if me.role == Role::Worker => {
            wait("no control plane has claimed to found the cluster yet")
        }
        (None, _, None) => Decision::Claim {
            number: 1,
            why: "nobody has claimed to found the cluster".to_owned(),
            by_absence: false,
        },
    }
}

/// As long as a cluster has nothing to lose, it stands and falls with its founder.
fn arrive_early(
    me: &Identity,
    seen: &Observation,
    last: &Claim,
    cluster: Option<&Initialized>,
) -> Decision {
    if last.instance == me.instance_id {
        return match cluster {
            None => Decision::Found {
                cluster_uid: last.cluster_uid.clone(),
            },
            Some(cluster) => refuse(
                format!(
                    "this instance founded cluster {} and has lost what it had of it",
                    cluster.cluster_uid
                ),
                "terminate this instance: the cluster had nothing to lose, and another control plane founds it anew",
            ),
        };
    }
    let (why, by_absence) = match (holder(last, seen), cluster) {
        (Holder::Gone(why), _) => (why, false),
        (Holder::Forgotten(why), _) => (why, true),
        // Who joins now may have to start over soon.
        (Holder::Away(why), _) | (Holder::Alive(why), None) => return wait(why),
        (Holder::Alive(_), Some(cluster)) => return join(cluster),
    };
    if me.role == Role::Worker {
        return wait(format!(
            "{why}: a control plane has to found the cluster anew"
        ));
    }
    Decision::Claim {
        number: last.number + 1,
        why,
        by_absence,
    }
}

/// The cluster exists: this instance joins it, if there is somebody to let it in.
fn enter(me: &Identity, seen: &Observation, cluster: &Initialized) -> Decision {
    if me.role == Role::ControlPlane && !has_other_control_plane(me, seen) {
        return refuse(
            format!(
                "no control plane of cluster {}, founded by {}, is left",
                cluster.cluster_uid, cluster.founder
            ),
            "restore a backup: `k8s-bootstrap etcd restore --from latest`; or remove the cluster's parameters from the store to found it anew",
        );
    }
    join(cluster)
}

/// This instance founds, or brought the cluster back from a backup. It never starts over: it
/// alone has what there is of its cluster.
fn go_on_founding(me: &Identity, seen: &Observation, mine: &str) -> Decision {
    let record = &seen.record;
    let Some(last) = record.claims.last() else {
        return refuse(
            format!(
                "this instance began to found cluster {mine}, but the store has no claim of it"
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
            "this instance began to found cluster {mine}, but the last claim is {}'s for cluster {}",
            last.instance, last.cluster_uid
        ),
        "replace this instance: another one founds the cluster",
    )
}

/// This instance joined, or began to.
fn go_on_joining(seen: &Observation, mine: &str) -> Decision {
    if let Some(why) = given_up(seen, mine) {
        return Decision::StartOver { why };
    }
    match seen.record.cluster() {
        Some(cluster) if cluster.cluster_uid == mine => join(cluster),
        Some(cluster) => refuse(
            format!(
                "this node belongs to cluster {mine}, the store records cluster {} founded by {}",
                cluster.cluster_uid, cluster.founder
            ),
            "replace this instance: what it holds is of another cluster",
        ),
        None => refuse(
            format!("this node joined cluster {mine}, but the store no longer records it"),
            "restore the parameters of the cluster, or replace this instance to start anew",
        ),
    }
}

/// Why this cluster has no future, if it has none: its founder is gone for good, and nobody
/// had said that it has something to lose.
fn given_up(seen: &Observation, cluster_uid: &str) -> Option<String> {
    let record = &seen.record;
    let claim = record.claim_for(cluster_uid)?;
    let is_over = record.claims.last() != Some(claim)
        || !is_settled(record, cluster_uid)
            && matches!(holder(claim, seen), Holder::Gone(_) | Holder::Forgotten(_));
    // The same words however it is known, so that looks agree.
    is_over.then(|| {
        format!(
            "cluster {cluster_uid} lost its founder {} before it had anything to lose",
            claim.instance
        )
    })
}

fn join(cluster: &Initialized) -> Decision {
    Decision::Join {
        cluster_uid: cluster.cluster_uid.clone(),
        ca_hash: cluster.ca_hash.clone(),
    }
}

/// What has become of the one who claimed.
enum Holder {
    Gone(String),
    Forgotten(String),
    Away(String),
    Alive(String),
}

fn holder(claim: &Claim, seen: &Observation) -> Holder {
    let id = &claim.instance;
    match seen.instances.iter().find(|i| &i.id == id).map(|i| i.state) {
        // Not `shutting-down`: a dying founder may still be writing.
        Some(InstanceState::Terminated) => {
            Holder::Gone(format!("{id}, which claimed before, is terminated"))
        }
        Some(InstanceState::Stopped | InstanceState::Stopping) => Holder::Away(format!(
            "{id} claimed to found the cluster and is stopped: start or terminate it"
        )),
        Some(InstanceState::ShuttingDown) => {
            Holder::Away(format!("{id}, which claimed before, is shutting down"))
        }
        Some(_) => Holder::Alive(format!("{id} is founding the cluster")),
        None if claim.time + FORGOTTEN < seen.now => {
            Holder::Forgotten(format!("EC2 has long forgotten {id}, which claimed before"))
        }
        None => Holder::Away(format!("{id} claimed; EC2 does not list it yet")),
    }
}

fn has_other_control_plane(me: &Identity, seen: &Observation) -> bool {
    seen.instances.iter().any(|instance| {
        instance.id != me.instance_id
            && instance.role == Some(Role::ControlPlane)
            && !instance.state.is_gone()
    })
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
