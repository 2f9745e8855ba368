//! What this instance does next, as a pure function of what it sees.
//!
//! [`decide`] judges one look. [`judge`] is what an agent follows: it also asks for
//! [`Agreement`] of several looks where a single incomplete answer could mislead.

mod agreement;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    identity::Identity,
    journal::{Course, Membership},
    observe::{Claim, Initialized, Observation},
    ports::{InstanceState, Role},
};

pub use agreement::Agreement;

/// EC2's answers are eventually consistent: an instance that claimed may be missing
/// from the list for a while. Only a claim older than this, of an instance that is
/// not listed at all, counts as one of an instance long terminated.
const SETTLED: Duration = Duration::from_mins(30);

/// A store's answers may lag behind its writes, so the last word of a founder that is gone
/// may not be seen yet. Whoever took over from it looks again for so long before it founds.
const LAST_WORD: Duration = Duration::from_mins(1);

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
    match (&seen.record.initialized, &seen.membership) {
        (Some(cluster), membership) => belong(me, seen, cluster, membership.as_ref()),
        (
            None,
            Some(Membership {
                cluster_uid,
                course: Course::Join,
            }),
        ) => refuse(
            format!(
                "this node joined cluster {cluster_uid}, but the store no longer records any cluster"
            ),
            "restore the parameters of the cluster, or replace this instance to start anew",
        ),
        (None, membership) => match me.role {
            Role::Worker => wait(match seen.record.claims.last() {
                Some(claim) => format!("{} is founding the cluster", claim.instance),
                None => "no control plane has claimed to found the cluster yet".to_owned(),
            }),
            Role::ControlPlane => found(me, seen, membership.as_ref()),
        },
    }
}

/// The cluster exists: this instance belongs to it, joins it, or is a stranger.
fn belong(
    me: &Identity,
    seen: &Observation,
    cluster: &Initialized,
    membership: Option<&Membership>,
) -> Decision {
    let join = Decision::Join {
        cluster_uid: cluster.cluster_uid.clone(),
        ca_hash: cluster.ca_hash.clone(),
    };
    match membership {
        Some(mine) if mine.cluster_uid != cluster.cluster_uid => refuse(
            format!(
                "this node belongs to cluster {}, the store records cluster {} founded by {}",
                mine.cluster_uid, cluster.cluster_uid, cluster.founder
            ),
            "replace this instance: what it holds is of another cluster",
        ),
        Some(Membership {
            course: Course::Found,
            cluster_uid,
        }) => Decision::Found {
            cluster_uid: cluster_uid.clone(),
        },
        None if me.role == Role::ControlPlane && !has_other_control_plane(me, seen) => refuse(
            format!(
                "no control plane of cluster {}, founded by {}, is left",
                cluster.cluster_uid, cluster.founder
            ),
            "restore a backup: `k8s-bootstrap etcd restore --from latest`; or remove the cluster's parameters from the store to found it anew",
        ),
        Some(Membership {
            course: Course::Join,
            ..
        })
        | None => join,
    }
}

/// No cluster yet: the holder of the last claim founds it.
fn found(me: &Identity, seen: &Observation, membership: Option<&Membership>) -> Decision {
    let Some(last) = seen.record.claims.last() else {
        if let Some(mine) = membership {
            return refuse(
                format!(
                    "this instance began to found cluster {}, but the store has no claim of it",
                    mine.cluster_uid
                ),
                "restore the cluster's parameters, or replace this instance",
            );
        }
        return Decision::Claim {
            number: 1,
            why: "nobody has claimed to found the cluster".to_owned(),
            by_absence: false,
        };
    };
    if last.instance == me.instance_id {
        return match membership {
            Some(mine) if mine.cluster_uid != last.cluster_uid => refuse(
                format!(
                    "this instance began to found cluster {}, its claim says {}",
                    mine.cluster_uid, last.cluster_uid
                ),
                "replace this instance",
            ),
            None if last.number > 1 && !is_older(last.time, seen.now, LAST_WORD) => wait(format!(
                "claim {} is ours; whether {} founded the cluster with its last breath shows within {} s",
                last.number,
                predecessor(last, seen),
                LAST_WORD.as_secs()
            )),
            _ => Decision::Found {
                cluster_uid: last.cluster_uid.clone(),
            },
        };
    }
    if membership.is_some() {
        return refuse(
            format!(
                "this instance began to found a cluster, but {} has since claimed to",
                last.instance
            ),
            "replace this instance: another one founds the cluster",
        );
    }
    let claim = |why, by_absence| Decision::Claim {
        number: last.number + 1,
        why,
        by_absence,
    };
    match holder(last, seen) {
        Holder::Gone(why) => claim(why, false),
        Holder::Forgotten(why) => claim(why, true),
        Holder::Alive(why) => wait(why),
    }
}

fn predecessor(claim: &Claim, seen: &Observation) -> String {
    let mut newest_first = seen.record.claims.iter().rev();
    newest_first
        .find(|other| other.number < claim.number)
        .map_or_else(|| "the one before".to_owned(), |c| c.instance.clone())
}

enum Holder {
    Gone(String),
    Forgotten(String),
    Alive(String),
}

fn holder(claim: &Claim, seen: &Observation) -> Holder {
    let id = &claim.instance;
    match seen.instances.iter().find(|i| &i.id == id).map(|i| i.state) {
        // Not `shutting-down`: a dying founder may still be writing.
        Some(InstanceState::Terminated) => {
            Holder::Gone(format!("{id}, which claimed before, is terminated"))
        }
        Some(InstanceState::Stopped | InstanceState::Stopping) => Holder::Alive(format!(
            "{id} claimed to found the cluster and is stopped: start or terminate it"
        )),
        Some(InstanceState::ShuttingDown) => {
            Holder::Alive(format!("{id}, which claimed before, is shutting down"))
        }
        Some(_) => Holder::Alive(format!("{id} is founding the cluster")),
        None if is_older(claim.time, seen.now, SETTLED) => {
            Holder::Forgotten(format!("EC2 has long forgotten {id}, which claimed before"))
        }
        None => Holder::Alive(format!("{id} claimed; EC2 does not list it yet")),
    }
}

fn is_older(time: Timestamp, now: Timestamp, age: Duration) -> bool {
    time + age < now
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
