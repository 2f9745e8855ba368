//! Decisions as tables: what is seen, what follows.
#![allow(clippy::unwrap_used, clippy::panic)]

mod evidence;
mod founding;
mod joining;
mod starting_over;

use jiff::Timestamp;

use super::*;
use crate::{
    observe::{Record, Settled},
    ports::Instance,
    testing::{control_plane, running, worker},
};

const ME: &str = "i-0000000000000000a";
const OTHER: &str = "i-0000000000000000b";
const NOW: &str = "2026-11-23T12:00:00Z";

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

fn instance(id: &str, role: Role, state: InstanceState) -> Instance {
    Instance {
        state,
        role: Some(role),
        launched: at("2026-11-23T11:00:00Z"),
        ..running(&control_plane(id), 1)
    }
}

fn claim(number: u32, instance: &str) -> Claim {
    Claim {
        number,
        instance: instance.to_owned(),
        cluster_uid: format!("uid-{number}"),
        time: at("2026-11-23T11:59:00Z"),
    }
}

/// A world with two running control planes, this instance and OTHER.
fn world() -> Observation {
    Observation {
        now: at(NOW),
        elapsed: Duration::ZERO,
        instances: vec![
            instance(ME, Role::ControlPlane, InstanceState::Running),
            instance(OTHER, Role::ControlPlane, InstanceState::Running),
        ],
        record: Record::default(),
        membership: None,
        settled: None,
        evidence: Evidence::default(),
    }
}

impl Observation {
    fn claimed_by(mut self, instance: &str) -> Self {
        let number = u32::try_from(self.record.claims.len()).unwrap() + 1;
        self.record.claims.push(claim(number, instance));
        self
    }

    /// Records the last claim's cluster; without a claim, OTHER claims first.
    fn initialized(mut self) -> Self {
        if self.record.claims.is_empty() {
            self = self.claimed_by(OTHER);
        }
        let last = self.record.claims.last().unwrap();
        let initialized = Initialized {
            cluster_uid: last.cluster_uid.clone(),
            ca_hash: "sha256:aa".to_owned(),
            founder: last.instance.clone(),
            time: at(NOW),
        };
        self.record.initialized.insert(last.number, initialized);
        self
    }

    /// Same, and settled.
    fn settled(self) -> Self {
        let mut this = self.initialized();
        let last = this.record.claims.last().unwrap();
        this.record.settled = Some(Settled {
            cluster_uid: last.cluster_uid.clone(),
            instance: last.instance.clone(),
            time: at(NOW),
        });
        this
    }

    fn remembering(mut self, origin: Origin, uid: &str) -> Self {
        self.membership = Some(Membership {
            cluster_uid: uid.to_owned(),
            origin,
        });
        self
    }

    /// This instance remembers that cluster uid-1, founded by OTHER, is settled.
    fn remembering_settled(mut self, origin: Origin) -> Self {
        let whole = world().settled();
        self.settled = whole.record.settled_record("uid-1");
        self.remembering(origin, "uid-1")
    }

    /// OTHER shows the certificate of a cluster.
    fn where_other_shows_a_cluster(mut self) -> Self {
        self.evidence.control_planes = vec![OTHER.to_owned()];
        self
    }

    /// OTHER was launched an hour before this instance.
    fn where_other_is_older(mut self) -> Self {
        self.instances[1].launched = at("2026-11-23T10:00:00Z");
        self
    }

    fn where_other_is(mut self, state: InstanceState) -> Self {
        self.instances[1].state = state;
        self
    }

    fn without_other(mut self) -> Self {
        self.instances.truncate(1);
        self
    }
}

/// A decision in short: its kind and what matters about it.
fn verdict(decision: &Decision) -> String {
    match decision {
        Decision::Claim { number, .. } => format!("claim {number}"),
        Decision::Found { cluster_uid } => format!("found {cluster_uid}"),
        Decision::Join { cluster_uid, .. } => format!("join {cluster_uid}"),
        Decision::StartOver { .. } => "start over".to_owned(),
        Decision::Wait { .. } => "wait".to_owned(),
        Decision::Refuse { .. } => "refuse".to_owned(),
    }
}
