//! What must hold, checked against what is really so.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::scene::Machine;
use crate::{
    journal::{Course, Membership},
    observe::Claim,
    ports::{InstanceState, Role},
};

/// A law of founding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Law {
    /// A claim follows a terminated holder's, and no member of a cluster makes one.
    ClaimsInTurn,
    /// The holder of the last claim founds, alone, and nobody once another cluster exists.
    OneFounder,
    /// The store records one cluster, and all join that one.
    OneCluster,
    /// The membership is on the disk before anything is done for it.
    MembershipFirst,
    /// What the disk says of the membership never changes.
    MembershipKept,
    /// A node that ever joined never founds, nor does a worker.
    JoinersNeverFound,
    /// Each wait ends by itself.
    BoundedWaits,
    /// Whoever stops for a person has a reason.
    TrueRefusals,
    /// Once nothing goes wrong any more, every instance becomes a member.
    Convergence,
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClaimsInTurn => "claims are made in turn",
            Self::OneFounder => "there is one founder",
            Self::OneCluster => "there is one cluster",
            Self::MembershipFirst => "membership is written down first",
            Self::MembershipKept => "membership is kept",
            Self::JoinersNeverFound => "joiners never found",
            Self::BoundedWaits => "every wait has an end",
            Self::TrueRefusals => "refusals are true",
            Self::Convergence => "every instance becomes a member",
        })
    }
}

/// A law that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which.
    pub law: Law,
    /// What happened.
    pub what: String,
}

/// What is really so, which no instance sees whole.
#[derive(Default)]
pub struct Laws {
    /// The first law that did not hold.
    pub broken: Option<Violation>,
    /// Instances that began to found, by index, with their clusters.
    pub founders: BTreeMap<usize, String>,
    /// Instances that began to join.
    pub joiners: BTreeMap<usize, String>,
    /// What each disk says.
    pub memberships: BTreeMap<usize, Membership>,
    /// The claims in the store, with the indexes of their holders.
    pub claims: Vec<(usize, Claim)>,
    /// The cluster in the store.
    pub initialized: Option<String>,
    /// Control planes whose API serves, as long as they are not gone.
    pub serving: Vec<usize>,
    /// A person removed the record of a cluster that lives.
    pub wiped: bool,
}

impl Laws {
    /// A law did not hold.
    pub fn broke(&mut self, law: Law, what: impl Into<String>) {
        let what = what.into();
        self.broken.get_or_insert(Violation { law, what });
    }

    /// A claim was written.
    pub fn claimed(&mut self, by: usize, claim: Claim, machines: &[Machine]) {
        let me = &machines[by];
        let number = claim.number;
        if me.me.role == Role::Worker || self.joiners.contains_key(&by) {
            self.broke(Law::JoinersNeverFound, format!("{me} makes claim {number}"));
        }
        if self.memberships.contains_key(&by) {
            self.broke(
                Law::ClaimsInTurn,
                format!("{me} makes claim {number} and belongs to a cluster already"),
            );
        }
        match self.claims.last() {
            Some((holder, last)) => {
                let state = machines[*holder].state();
                if last.number + 1 != number || state != InstanceState::Terminated {
                    self.broke(
                        Law::ClaimsInTurn,
                        format!(
                            "{me} makes claim {number} while {}, the holder of claim {}, is {state:?}",
                            machines[*holder], last.number
                        ),
                    );
                }
            }
            None if number != 1 || self.wiped => self.broke(
                Law::ClaimsInTurn,
                format!("{me} makes claim {number} as the first one"),
            ),
            None => {}
        }
        self.claims.push((by, claim));
    }

    /// The store says from now on that this cluster exists.
    pub fn initialized(&mut self, by: usize, uid: &str, machines: &[Machine]) {
        let last = self.claims.last();
        if self.wiped || last.is_none_or(|(holder, last)| *holder != by || last.cluster_uid != uid)
        {
            self.broke(
                Law::OneCluster,
                format!(
                    "{} records cluster {uid} without the last claim",
                    machines[by]
                ),
            );
        }
        self.initialized = Some(uid.to_owned());
    }

    /// The journal was written.
    pub fn journaled(&mut self, by: usize, membership: Option<Membership>, machines: &[Machine]) {
        let before = self.memberships.get(&by);
        if let Some(before) = before
            && membership.as_ref() != Some(before)
        {
            let what = format!("{} wrote over {before:?} with {membership:?}", machines[by]);
            self.broke(Law::MembershipKept, what);
        }
        if let Some(membership) = membership {
            self.memberships.insert(by, membership);
        }
    }

    /// Something is done to found or to join.
    pub fn acts(&mut self, by: usize, course: Course, uid: &str, machines: &[Machine]) {
        let me = &machines[by];
        let membership = Membership {
            cluster_uid: uid.to_owned(),
            course,
        };
        if self.memberships.get(&by) != Some(&membership) {
            self.broke(
                Law::MembershipFirst,
                format!("{me} acts for {uid} ({course:?}), which its journal does not say"),
            );
        }
        match course {
            Course::Found => self.founds(by, uid, machines),
            Course::Join => {
                if self.initialized.as_deref() != Some(uid) {
                    self.broke(
                        Law::OneCluster,
                        format!("{me} joins {uid}, the cluster is {:?}", self.initialized),
                    );
                }
                if let Some(founded) = self.founders.get(&by) {
                    let what = format!("{me} joins {uid} and founded {founded}");
                    self.broke(Law::OneCluster, what);
                }
                self.joiners.insert(by, uid.to_owned());
            }
        }
    }

    fn founds(&mut self, by: usize, uid: &str, machines: &[Machine]) {
        let me = &machines[by];
        if me.me.role == Role::Worker || self.joiners.contains_key(&by) {
            self.broke(Law::JoinersNeverFound, format!("{me} founds {uid}"));
        }
        let last = self.claims.last();
        if last.is_none_or(|(holder, last)| *holder != by || last.cluster_uid != uid) {
            self.broke(
                Law::OneFounder,
                format!("{me} founds {uid} without the last claim"),
            );
        }
        if let Some(there) = self.initialized.clone().filter(|there| there != uid) {
            self.broke(
                Law::OneFounder,
                format!("{me} founds {uid} while {there} exists"),
            );
        }
        let rival = self.founders.iter().find(|(other, founded)| {
            **other != by
                && *founded != uid
                && machines[**other].state() != InstanceState::Terminated
        });
        if let Some((other, founded)) = rival {
            let what = format!(
                "{me} founds {uid} while {} founds {founded}",
                machines[*other]
            );
            self.broke(Law::OneFounder, what);
        }
        self.founders.insert(by, uid.to_owned());
    }

    /// An agent stopped for a person.
    pub fn refused(&mut self, by: usize, why: &str, machines: &[Machine]) {
        if !self.wiped && !self.is_lost(machines) {
            self.broke(Law::TrueRefusals, format!("{}: {why}", machines[by]));
        }
    }

    /// Whether every control plane that held the cluster's data is gone: a person must restore it.
    pub fn is_lost(&self, machines: &[Machine]) -> bool {
        self.initialized.is_some() && !self.is_served(machines)
    }

    /// Whether the cluster's API answers somewhere, or will when a stopped instance starts.
    fn is_served(&self, machines: &[Machine]) -> bool {
        self.serving
            .iter()
            .any(|index| !machines[*index].state().is_gone())
    }

    /// Whether the cluster's API answers now.
    pub fn answers(&self, machines: &[Machine]) -> bool {
        self.serving
            .iter()
            .any(|index| machines[*index].state() == InstanceState::Running)
    }
}
